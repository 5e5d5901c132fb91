"""The two ways to send: as fast as answers come, or at times of one's own."""

from __future__ import annotations

import random
import selectors
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator

from benchmarks.load.connection import Asked, BrokenError, Connection
from benchmarks.load.plan import Plan
from benchmarks.load.tally import Report, Tally

_LOOK = 0.25
"""Seconds at most between two looks at the clock where nothing happens."""

_STEP = 0.02

_PATIENCE = 0.2
"""Seconds before a client comes back whose connection failed: else it would do nothing else."""


class _Loop(ABC):
    """What both ways share."""

    def __init__(self, plan: Plan, requests: list[bytes]) -> None:
        self.plan = plan
        self.requests = requests
        self.tally = Tally(plan)
        self.selector = selectors.DefaultSelector()
        self.busy: set[Connection] = set()
        self._random = random.Random(plan.seed)  # noqa: S311
        self._images = self._shuffled()

    @abstractmethod
    def run(self) -> Report:
        """Send, count, and wait for what was sent."""

    @abstractmethod
    def released(self, connection: Connection | None, *, failed: bool = False) -> None:
        """Go on: a request has ended, well or not, and its connection is free, or lost."""

    def next_image(self) -> int:
        return next(self._images)

    def connect(self) -> Connection:
        return Connection(("127.0.0.1", self.plan.port), self.selector, self.plan.source)

    def ask(self, connection: Connection, asked: Asked) -> None:
        self.busy.add(connection)
        connection.ask(self.requests[asked.image], asked)

    def turn(self, until: float) -> None:
        """Wait for connections, at most until then, and serve them."""
        wait = max(0.0, min(until - time.perf_counter(), _LOOK))
        for key, events in self.selector.select(wait):
            connection: Connection = key.data
            try:
                if events & selectors.EVENT_WRITE:
                    connection.write()
                answer = connection.read() if events & selectors.EVENT_READ else None
            except BrokenError as error:
                self._broken(connection, str(error))
                continue
            asked = connection.asked
            if answer is not None and asked is not None:
                self.tally.answered(asked.image, *answer, asked.due, time.perf_counter())
                connection.asked = None
            # An answer can come before the whole request has left, for example a refusal.
            if connection in self.busy and connection.asked is None:
                if not connection.keep:
                    self._lose(connection)
                    self.released(None)
                elif connection.sent:
                    self.busy.discard(connection)
                    self.released(connection)

    def give_up_old(self) -> None:
        """Fail what has waited for too long."""
        latest = time.perf_counter() - self.plan.timeout
        for connection in [c for c in self.busy if c.asked and c.asked.due < latest]:
            self.tally.failed("timeout")
            self._lose(connection)
            self.released(None, failed=True)

    def _broken(self, connection: Connection, reason: str) -> None:
        asked, idle = connection.asked, connection not in self.busy
        again = asked is not None and not connection.fresh and reason != "no HTTP/1.1"
        self._lose(connection)
        if idle:
            return
        if asked is not None and again:
            # The server closed an idle connection just when it was used: clients ask once more.
            self.ask(self.connect(), asked)
            return
        if asked is not None:
            self.tally.failed(reason)
        self.released(None, failed=asked is not None)

    def _lose(self, connection: Connection) -> None:
        self.busy.discard(connection)
        connection.asked = None
        connection.close()

    def _shuffled(self) -> Iterator[int]:
        order = list(range(len(self.requests)))
        while True:
            self._random.shuffle(order)
            yield from order


class ClosedLoop(_Loop):
    """So many clients, each of which sends the next image as soon as it has its answer."""

    def run(self) -> Report:
        """See :meth:`_Loop.run`."""
        plan = self.plan
        self._sending = True
        self._returns: deque[float] = deque()
        for _ in range(plan.clients):
            self._next(self.connect())
        self._until(time.perf_counter() + plan.warm_up)
        started, cpu = time.perf_counter(), time.process_time()
        self.tally.counting = True
        if plan.requests:
            while self.tally.ended < plan.requests:
                self._until(time.perf_counter() + _LOOK, plan.requests)
        else:
            self.tally.window = (started, started + plan.seconds)
            self._until(started + plan.seconds)
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
        self.tally.counting = False
        # The load stays the same until all that was under way at the end is answered.
        while any(c.asked and c.asked.due < started + seconds for c in self.busy):
            self._until(time.perf_counter() + _STEP)
        # The server is left without work: what comes next begins with none.
        self._sending = False
        last = time.perf_counter() + plan.timeout
        while self.busy and time.perf_counter() < last:
            self.turn(last)
        return self.tally.report(seconds if plan.requests else plan.seconds, cpu)

    def released(self, connection: Connection | None, *, failed: bool = False) -> None:
        """See :meth:`_Loop.released`."""
        if not self._sending:
            return
        if failed:
            self._returns.append(time.perf_counter() + _PATIENCE)
        else:
            self._next(connection or self.connect())

    def _next(self, connection: Connection) -> None:
        if self.tally.counting:
            self.tally.asked += 1
        self.ask(connection, Asked(self.next_image(), time.perf_counter()))

    def _until(self, end: float, requests: int = 0) -> None:
        look = 0.0
        while (now := time.perf_counter()) < end:
            if requests and self.tally.ended >= requests:
                return
            while self._returns and self._returns[0] <= now:
                self._returns.popleft()
                self._next(self.connect())
            if now > look:
                look = now + 1
                self.give_up_old()
            self.turn(end)


class OpenLoop(_Loop):
    """Requests at random times, whether or not the earlier ones have been answered.

    A latency begins when its request was due, not when it was sent: a server that is late makes
    the requests behind it late, too, which a closed loop does not show.
    """

    def run(self) -> Report:
        """See :meth:`_Loop.run`."""
        plan = self.plan
        self._open = 0
        self._idle: list[Connection] = []
        self._waiting: deque[Asked] = deque()
        due = time.perf_counter()
        measured_from, end = due + plan.warm_up, due + plan.warm_up + plan.seconds
        cpu, look, started = 0.0, 0.0, False
        while due < end:
            now = time.perf_counter()
            if not started and now >= measured_from:
                started, cpu, self.tally.counting = True, time.process_time(), True
            while due <= now and due < end:
                if started:
                    self.tally.asked += 1
                self._waiting.append(Asked(self.next_image(), due))
                due += self._random.expovariate(plan.rate)
            self._send()
            if now > look:
                look = now + 1
                self.give_up_old()
            self.turn(min(due, end))
        cpu, until = time.process_time() - cpu, time.perf_counter()
        last = time.perf_counter() + plan.timeout
        while (self.busy or self._waiting) and time.perf_counter() < last:
            self._send()
            self.turn(last)
        if left := len(self.busy) + len(self._waiting):
            self.tally.errors["unanswered"] = left
        return self.tally.report(plan.seconds, cpu, until=until)

    def released(self, connection: Connection | None, *, failed: bool = False) -> None:  # noqa: ARG002
        """See :meth:`_Loop.released`."""
        if connection is not None:
            self._idle.append(connection)

    def _send(self) -> None:
        while self._waiting:
            while self._idle and self._idle[-1].sock.fileno() < 0:
                self._idle.pop()
            if self._idle:
                connection = self._idle.pop()
            elif len(self.busy) < self.plan.connections:
                connection = self.connect()
            else:
                return
            asked = self._waiting.popleft()
            if self.tally.counting:
                self.tally.late_ms.append((time.perf_counter() - asked.due) * 1000)
            self.ask(connection, asked)


def run(plan: Plan, requests: list[bytes]) -> Report:
    """Carry out a plan."""
    loop = OpenLoop(plan, requests) if plan.rate else ClosedLoop(plan, requests)
    return loop.run()
