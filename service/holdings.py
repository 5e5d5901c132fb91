"""Something limited that many clients want: none of them can keep it from the others."""

from __future__ import annotations

from collections import Counter


class Holdings:
    """Counts what each client holds of it.

    One client alone may have all. When all is taken, another one gets some still, as long as it has
    less than an equal share: whoever takes all is the only one who is refused. All together never
    hold more than twice as much as one may, however many they are.

    Args:
        most: What one client may have alone.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.total = 0
        """What all clients hold."""
        self._of = Counter[str]()

    def of(self, client: str) -> int:
        """Tell what a client holds."""
        return self._of[client]

    def sharing(self, client: str) -> int:
        """Count the clients that hold something, and this one."""
        return len(self._of) + (client not in self._of)

    def room(self, client: str, more: int = 1) -> bool:
        """Tell whether a client may have so much more."""
        total = self.total + more
        if total <= self.most:
            return True
        share = (self._of[client] + more) * self.sharing(client) <= self.most
        return share and total <= 2 * self.most

    def add(self, client: str, more: int = 1) -> None:
        """Note that a client has so much more."""
        self.total += more
        self._of[client] += more

    def remove(self, client: str, less: int = 1) -> None:
        """Note that a client has given so much back."""
        self.total -= less
        self._of[client] -= less
        if not self._of[client]:
            del self._of[client]
