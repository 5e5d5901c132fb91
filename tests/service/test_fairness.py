"""One client takes all there is: the others are answered all the same."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from service.guard import keys
from tests.service.crowd import FEW, IMAGE, PREDICT, full
from tests.service.raw import answer, connected, head, statuses
from tests.service.server import Server, running
from tlserve.bundle import Bundle

FLOOD, FLOOD_LINE = keys.make("flood")
QUIET, QUIET_LINE = keys.make("quiet")


@dataclass
class Service:
    """One whose clients are told apart by something.

    Attributes:
        server: The process.
        flood: The key of the client that takes all.
        quiet: That of the other.
        source: The other's address.
    """

    server: Server
    flood: str = ""
    quiet: str = ""
    source: str = ""

    def ask(self, request: bytes) -> tuple[int, dict[str, object]]:
        """Ask as the other client, whose key is put into the request."""
        keyed = request.replace(b"Host: here", f"Host: here\r\nX-API-Key: {self.quiet}".encode(), 1)
        with connected(self.server, self.source) as connection:
            connection.sendall(keyed)
            found = answer(connection)
        (status,) = statuses(found)
        return status, json.loads(found.partition(b"\r\n\r\n")[2])


@pytest.fixture(scope="module", params=["key", "address", "address, without a door"])
def service(request: pytest.FixtureRequest, bundle: Bundle) -> Iterator[Service]:
    if request.param == "key":
        environment = {"TLSERVE_API_KEYS": f"{FLOOD_LINE},{QUIET_LINE}"}
        with running(bundle.path, *FEW, environment=environment) as server:
            yield Service(server, FLOOD, QUIET)
    else:
        inner = ("--access-log",) if "without" in request.param else ()
        with running(bundle.path, *FEW, *inner) as server:
            yield Service(server, source="127.0.0.2")


def test_who_holds_all_places_is_the_only_one_to_be_refused(service: Service) -> None:
    v2 = json.dumps({"inputs": []}).encode()
    with full(service.server, service.flood):
        for _ in range(20):
            status, found = service.ask(PREDICT)
            assert status == 200, found
        # Asked wrongly, the other is told what is wrong, and not that there is no room.
        status, problem = service.ask(head("POST", "/classify", Content_Length=1) + b"x")
        assert status == 415, problem
        status, problem = service.ask(
            head("POST", "/v2/models/other/infer", Content_Length=len(v2)) + v2
        )
        assert status == 404, problem


def test_who_takes_more_than_a_share_is_refused_too(service: Service) -> None:
    begun = head("POST", "/predict", Content_Length=len(IMAGE), X_API_Key=service.quiet)
    with full(service.server, service.flood), ExitStack() as stack:
        for _ in range(10):
            stack.enter_context(connected(service.server, service.source)).sendall(begun)
        while (asked := service.ask(PREDICT))[0] == 200:
            time.sleep(0.05)
        assert asked[0] == 503
        assert "of them for this client" in str(asked[1]["detail"])


def test_a_flood_of_images_keeps_nobody_waiting(service: Service) -> None:
    seen, ended = Counter[int](), threading.Event()
    keyed = head("POST", "/predict", Content_Length=len(IMAGE), X_API_Key=service.flood) + IMAGE

    def flood() -> None:
        with connected(service.server) as connection:
            while not ended.is_set():
                connection.sendall(keyed)
                seen.update(statuses(answer(connection)))

    threads = [threading.Thread(target=flood) for _ in range(16)]
    for thread in threads:
        thread.start()
    try:
        answers = Counter(service.ask(PREDICT)[0] for _ in range(50))
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert answers == {200: 50}
    assert set(seen) == {200, 503}
