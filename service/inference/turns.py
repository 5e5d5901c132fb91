"""A queue that several clients share: whoever has much in it does not keep the others waiting."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Generic, TypeVar

Waiting = TypeVar("Waiting")


class Turns(Generic[Waiting]):
    """Each client's own come out in their order; of the clients, one after the other has its turn.

    Fair queueing as Nagle proposed it for packets (RFC 970, 1985), with one image for a packet.
    """

    def __init__(self) -> None:
        # The first is the client whose turn it is.
        self._queues: OrderedDict[str, deque[Waiting]] = OrderedDict()
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def append(self, client: str, waiting: Waiting) -> None:
        """Put it behind what the client has in the queue."""
        queue = self._queues.get(client)
        if queue is None:
            queue = self._queues[client] = deque()
        queue.append(waiting)
        self._length += 1

    @property
    def first(self) -> Waiting:
        """What :meth:`popleft` would give.

        Raises:
            IndexError: There is nothing.
        """
        for queue in self._queues.values():
            return queue[0]
        raise IndexError("nothing waits")

    def popleft(self) -> Waiting:
        """Take the next one out.

        Raises:
            IndexError: There is nothing.
        """
        for client, queue in self._queues.items():
            found = queue.popleft()
            self._length -= 1
            if not queue:
                del self._queues[client]
            elif len(self._queues) > 1:
                self._queues.move_to_end(client)
            return found
        raise IndexError("nothing waits")
