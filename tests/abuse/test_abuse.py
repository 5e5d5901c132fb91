"""The short form of ``python -m tests.abuse``: other requests in each month, some always."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest

from tests.abuse.attack import attack
from tests.abuse.good import expected_answers
from tests.abuse.requests import request
from tests.service import bundle as bundles
from tests.service.server import running

_ALWAYS = 250
_THIS_MONTH = 150


@pytest.mark.slow
def test_wrong_requests_harm_nobody(tmp_path: Path) -> None:
    bundle = bundles.write(tmp_path / "insects")
    good = expected_answers(bundle)
    today = datetime.datetime.now(tz=datetime.UTC)
    first = 100_000 * (12 * today.year + today.month)
    numbers = [*range(_ALWAYS), *range(first, first + _THIS_MONTH)]
    with running(bundle.path) as server:
        workers = [child.pid for child in server.children()]
        outcome = attack(server.url, numbers, good)
        assert [child.pid for child in server.children()] == workers
    assert outcome.harmful == {}
    assert outcome.wrong == []
    assert outcome.good > 20
    assert "Traceback" not in "".join(server.log)
    statuses = {status for _, status in outcome.statuses}
    assert {200, 400, 404, 405, 413, 415, 422} <= statuses


def test_a_request_is_made_from_its_number_alone() -> None:
    assert request(17) == request(17)
    assert request(17) != request(18)
