"""Several workers behind one port."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import httpx
import pytest

from service.observe.snapshots import Snapshots
from service.shares import Share, gpus, shares
from tests.service import bundle as bundles
from tests.service.server import failing, running
from tlserve.bundle import Bundle

IMAGE = bundles.image(0)


def test_processors_are_divided_and_each_worker_has_a_gpu() -> None:
    four = frozenset({0, 1, 2, 3})
    assert shares(None, "cpu", {}, four) == [Share()]
    assert shares(2, "cpu", {}, four) == [
        Share(frozenset({0, 1}), workers=2),
        Share(frozenset({2, 3}), workers=2),
    ]
    assert shares(3, "cpu", {}, frozenset({5})) == [Share(workers=3)] * 3
    two_gpus = {"CUDA_VISIBLE_DEVICES": "3, GPU-abc"}
    assert shares(None, "cuda", two_gpus, four) == [
        Share(frozenset({0, 1}), "3", 2),
        Share(frozenset({2, 3}), "GPU-abc", 2),
    ]
    assert [share.gpu for share in shares(4, "cuda", two_gpus, four)] == ["3", "GPU-abc"] * 2
    assert shares(None, "cuda", two_gpus, four)[1].environment() == {
        "CUDA_VISIBLE_DEVICES": "GPU-abc",
        "TLSERVE_QUOTA_SHARES": "2",
    }
    assert shares(None, "cuda", {"CUDA_VISIBLE_DEVICES": "1"}, four) == [Share()]


def test_gpus_are_those_that_may_be_seen(tmp_path: Path) -> None:
    assert gpus({}, tmp_path / "absent") == []
    (tmp_path / "0000:01:00.0").mkdir()
    (tmp_path / "0000:02:00.0").mkdir()
    assert gpus({}, tmp_path) == ["0", "1"]
    assert gpus({"CUDA_VISIBLE_DEVICES": ""}, tmp_path) == []


def test_two_workers_answer_and_their_metrics_are_one_page(bundle: Bundle) -> None:
    with running(bundle.path, "--workers", "2") as server:
        assert "2 workers" in server.ready_line
        assert len(server.children()) == 2
        answered = 24
        for _ in range(answered):
            # A new connection each: the kernel chooses a worker for it.
            assert httpx.post(f"{server.url}/predict", content=IMAGE).status_code == 200
        wanted = {"0", "1"}
        for _ in range(50):
            text = httpx.get(f"{server.url}/metrics").text
            counts = dict(re.findall(r'^tlserve_batch_size_sum{worker="(\d)"} (\S+)$', text, re.M))
            if set(counts) == wanted and sum(map(float, counts.values())) == answered:
                break
        assert set(counts) == wanted
        assert sum(map(float, counts.values())) == answered
        assert min(map(float, counts.values())) > 0, "each has answered some"
        assert text.count("# TYPE tlserve_batch_size histogram") == 1
        assert server.end() == 0


def test_one_of_two_workers_is_killed_and_comes_back(bundle: Bundle) -> None:
    with running(bundle.path, "--workers", "2") as server:
        first, second = server.children()
        os.kill(first.pid, signal.SIGKILL)
        # Connections to the one that is gone wait for the one that comes.
        for _ in range(12):
            assert httpx.post(f"{server.url}/predict", content=IMAGE, timeout=60).status_code == 200
        now = {child.pid for child in server.children()}
        assert second.pid in now
        assert len(now) == 2
        assert first.pid not in now
        assert server.end() == 0
    assert "was ended by SIGKILL; starting it again" in "".join(server.log)


def test_a_port_in_use_is_noticed_though_it_could_be_shared(bundle: Bundle) -> None:
    with running(bundle.path, "--workers", "2") as server:
        port = server.url.rpartition(":")[2]
        ended = failing(bundle.path, "--workers", "2", "--port", port)
    assert ended.returncode == 1
    assert f"Port {port} is in use" in ended.stderr


def test_the_newest_of_this_worker_and_the_last_of_the_others(tmp_path: Path) -> None:
    first, second = Snapshots(tmp_path, "0"), Snapshots(tmp_path, "1")
    text = '# HELP a_total Of a.\n# TYPE a_total counter\na_total{{b="c"}} {}\n'
    first.write(text.format(1.0).encode())
    second.write(text.format(2.0).encode())
    merged = second.merged(text.format(5.0).encode()).decode()
    assert 'a_total{b="c",worker="0"} 1.0' in merged
    assert 'a_total{b="c",worker="1"} 5.0' in merged
    assert "2.0" not in merged
    assert merged.count("# TYPE") == 1


def test_one_worker_shares_nothing() -> None:
    assert Snapshots.of({}) is None


@pytest.mark.parametrize("workers", ["0", "-1"])
def test_there_is_at_least_one(bundle: Bundle, workers: str) -> None:
    ended = failing(bundle.path, "--workers", workers)
    assert ended.returncode == 2
    assert "workers must be at least 1" in ended.stderr
