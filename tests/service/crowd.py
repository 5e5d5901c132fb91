"""A service all of whose places are taken."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from tests.service import bundle as bundles
from tests.service.raw import connected, head, statuses
from tests.service.server import Server

IMAGE = bundles.image(0)
PREDICT = head("POST", "/predict", Content_Length=len(IMAGE)) + IMAGE
FEW = ("--max-queue", "1", "--max-batch", "1")
"""Options of a service with few places."""


@contextmanager
def full(server: Server, key: str = "") -> Iterator[None]:
    """Take all places by requests whose bodies do not come."""
    while counted(server, "tlserve_requests_inside", key):
        time.sleep(0.05)
    with ExitStack() as stack:
        while True:
            connection = stack.enter_context(connected(server))
            connection.sendall(head("POST", "/predict", Content_Length=len(IMAGE), X_API_Key=key))
            connection.settimeout(1)
            try:
                refused = connection.recv(65536)
            except TimeoutError:
                continue
            assert statuses(refused) == [503]
            break
        yield


def counted(server: Server, name: str, key: str = "") -> float:
    """Read a number from the service's metrics."""
    with server.client() as client:
        text = client.get("/metrics", headers={"X-API-Key": key}).raise_for_status().text
    found = re.search(rf"(?m)^{re.escape(name)} (\S+)$", text)
    return float(found[1]) if found else 0.0
