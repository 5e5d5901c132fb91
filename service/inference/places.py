"""Who may come in: a queue has an end, and no client may take all of it from the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager


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
    """Counts the images that were taken in and not yet answered, by client.

    While there is room, whoever comes is taken in. When there is none, a client that has less than
    an equal share is taken in all the same, as its turn comes before most of what waits
    (:class:`service.inference.turns.Turns`): one that keeps the queue full is the only one that
    hears of it. There are never more than twice as many inside as one client may have.

    Args:
        most: The most images inside, as long as there is one client.
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
        self._most = most
        self._max_wait = max_wait
        self._depth = depth
        self._seconds_each = seconds_each
        self._of = Counter[str]()
        self.inside = 0
        """Images of all clients."""

    @property
    def free(self) -> bool:
        """Whether one more is taken in, whoever asks."""
        return self.inside < self._most and self._depth() * self._seconds_each() <= self._max_wait

    def refusal(self, client: str, images: int = 1) -> QueueFullError | None:
        """Say why there is no room for so many images more; ``None``: there is.

        Args:
            client: Who asks.
            images: How many at once.
        """
        own, sharing = self._of[client], len(self._of) + (client not in self._of)
        # In each round all have one turn, and its own comes after those that it has inside.
        before = min(self._depth(), (own + 1) * sharing - 1)
        wait = before * self._seconds_each()
        inside, most = self.inside + images, self._most
        if inside > 2 * most or (inside > most and (own + images) * sharing > most):
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
        self.inside += images
        self._of[client] += images
        try:
            yield
        finally:
            self.inside -= images
            self._of[client] -= images
            if not self._of[client]:
                del self._of[client]
