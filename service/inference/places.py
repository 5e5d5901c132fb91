"""Who may come in: a queue has an end, and no client may take all of it from the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from service.holdings import Holdings


class QueueFullError(Exception):
    """As many images are inside as may be, or one more would wait longer than it may.

    Args:
        rule: The rule and the value that broke it.
        wait: In how many seconds there may be room.
    """

    def __init__(self, rule: str, wait: float) -> None:
        super().__init__(rule)
        self.rule = rule
        self.wait = wait


class Places:
    """Admits images, and counts by client those that were taken in and not yet answered.

    A client that has less than its share is taken in where there is no room, as its turn comes
    before most of what waits (:class:`service.inference.turns.Turns`).

    Args:
        most: The most images inside, of one client; see :class:`service.holdings.Holdings`.
        max_wait: The most seconds that one may wait for its turn.
        depth: Gives how many images are to be computed still.
        seconds_each: Gives the seconds that each takes of late.
    """

    def __init__(
        self,
        most: int,
        max_wait: float,
        depth: Callable[[], int],
        seconds_each: Callable[[], float],
    ) -> None:
        self._held = Holdings(most)
        self._max_wait = max_wait
        self._depth = depth
        self._seconds_each = seconds_each

    @property
    def inside(self) -> int:
        """Images of all clients."""
        return self._held.total

    @property
    def free(self) -> bool:
        """Whether one more is taken in, whoever asks."""
        held = self._held
        return held.total < held.most and self._depth() * self._seconds_each() <= self._max_wait

    def refusal(self, client: str, images: int = 1) -> QueueFullError | None:
        """Say why there is no room for so many images more; ``None``: there is.

        Args:
            client: Who asks.
            images: How many at once.
        """
        own, sharing = self._held.of(client), self._held.sharing(client)
        # In each round all have one turn, and its own comes after those that it has inside.
        before = min(self._depth(), (own + 1) * sharing - 1)
        wait = before * self._seconds_each()
        if not self._held.room(client, images):
            whose = f", {own} of them for this client" if sharing > 1 else ""
            return QueueFullError(f"{self.inside} images wait already{whose}.", wait)
        if wait > self._max_wait:
            return QueueFullError(
                f"An image would wait {wait:.1f} s; {self._max_wait:g} s are allowed.", wait
            )
        return None

    @contextmanager
    def take(self, client: str, images: int = 1) -> Iterator[None]:
        """Take a request in, before its body is read: what waits to be decoded waits too.

        Args:
            client: Who asks.
            images: How many at once.

        Raises:
            QueueFullError: Too many images are inside already, or it would wait too long.
        """
        if full := self.refusal(client, images):
            raise full
        self._held.add(client, images)
        try:
            yield
        finally:
            self._held.remove(client, images)
