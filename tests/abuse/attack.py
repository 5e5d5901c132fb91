"""Sends the requests, with good traffic beside them, and notes what came back."""

from __future__ import annotations

import itertools
import socket
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import httpx

from tests.abuse.requests import Request, request

_ANSWER_SECONDS = 60.0
_HALF_A_REQUEST_SECONDS = 0.3
"""How long to wait for an answer to what is no whole request, and may get none."""

_ATTACKERS = 4


@dataclass
class Outcome:
    """What came back.

    Attributes:
        statuses: How often, by kind of request and status; 0: the connection was closed.
        harmful: Numbers of the requests that got a 5xx, or that got no answer and should have.
        good: How many good requests got the right answer meanwhile.
        wrong: What good requests got instead.
    """

    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)
    harmful: dict[int, str] = field(default_factory=dict)
    good: int = 0
    wrong: list[str] = field(default_factory=list)


def attack(
    url: str,
    numbers: Sequence[int],
    good: Sequence[tuple[bytes, dict[str, float]]],
    advance: Callable[[int], None] = lambda _: None,
) -> Outcome:
    """Send the requests of these numbers, and good ones all the time.

    Args:
        url: The service.
        numbers: Of which requests.
        good: Images, and for each the probabilities that it must get.
        advance: Is told how many were sent.
    """
    outcome = Outcome()
    ended = threading.Event()
    lock = threading.Lock()
    address = httpx.URL(url)
    sent = itertools.count(1)

    def one(number: int) -> None:
        wrong = request(number)
        status = _send(address.host, address.port or 80, wrong)
        with lock:
            outcome.statuses[wrong.kind, status] += 1
            if status >= 500 or (wrong.whole and not status):
                outcome.harmful[number] = f"{wrong.kind}: {status or 'no answer'}"
        advance(next(sent))

    beside = threading.Thread(target=_good_traffic, args=(url, good, outcome, ended))
    beside.start()
    try:
        with ThreadPoolExecutor(_ATTACKERS) as attackers:
            list(attackers.map(one, numbers))
    finally:
        ended.set()
        beside.join()
    return outcome


def _send(host: str, port: int, wrong: Request) -> int:
    """Send a request on a connection of its own; the status, or 0 if there was none."""
    answer = b""
    try:
        with socket.create_connection((host, port), timeout=_ANSWER_SECONDS) as connection:
            sender = threading.Thread(target=_push, args=(connection, wrong.data))
            sender.start()
            if not wrong.whole:
                connection.settimeout(_HALF_A_REQUEST_SECONDS)
            try:
                while b"\r\n" not in answer and (part := connection.recv(65536)):
                    answer += part
            finally:
                # The server may have answered before it had read everything.
                connection.shutdown(socket.SHUT_RDWR)
                sender.join()
    except OSError:
        pass
    words = answer.split(b" ", 2)
    return int(words[1]) if len(words) > 1 and words[1].isdigit() else 0


def _push(connection: socket.socket, data: bytes) -> None:
    try:
        connection.sendall(data)
    except OSError:
        return


def _good_traffic(
    url: str,
    good: Sequence[tuple[bytes, dict[str, float]]],
    outcome: Outcome,
    ended: threading.Event,
) -> None:
    with httpx.Client(base_url=url, timeout=_ANSWER_SECONDS, trust_env=False) as client:
        for data, expected in itertools.cycle(good):
            if ended.is_set():
                return
            try:
                response = client.post(f"/predict?top_k={len(expected)}", content=data)
            except httpx.HTTPError as error:
                outcome.wrong.append(repr(error))
                continue
            if response.status_code != 200:
                outcome.wrong.append(f"{response.status_code} {response.text}")
                continue
            found = {p["label"]: p["probability"] for p in response.json()["predictions"]}
            off = max(abs(found.get(name, 2.0) - p) for name, p in expected.items())
            if off < 1e-5:
                outcome.good += 1
            else:
                outcome.wrong.append(f"a probability is {off:.2g} off")
