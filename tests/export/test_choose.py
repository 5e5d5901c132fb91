"""What `--auto` picks from measurements."""

from __future__ import annotations

import pytest

from export.choose import choose, thread_counts
from tlserve.errors import ExportError
from tlserve.runtime.measure import Measurement
from tlserve.runtime.processors import available_processors


def measured(
    backend: str, speed: float, *, threads: int = 2, batch: int = 1, p99: float = 10.0
) -> Measurement:
    return Measurement(backend, "cpu", threads, batch, speed, p99 / 2, p99, 100)


def test_the_fastest_is_picked_and_the_reason_says_so() -> None:
    found = [
        measured("eager", 40),
        measured("onnx", 100, batch=16, p99=160),
        measured("onnx-int8", 200, batch=4),
    ]
    picked = choose(found, None)
    assert (picked.backend, picked.threads, picked.max_batch) == ("onnx-int8", 2, 4)
    assert picked.reason == (
        "onnx-int8 on cpu, 2 threads, batches of 4: 200 images/s, p99 10.0 ms, 5.0 times the best "
        "of eager; the highest throughput"
    )


def test_what_is_about_as_fast_and_simpler_is_preferred() -> None:
    found = [
        measured("onnx-int8", 100, batch=32),
        measured("onnx-fp16", 99, batch=1),
        measured("onnx", 96, batch=16),
        measured("onnx", 95.5, batch=4),
        measured("onnx", 95.2, batch=4, threads=1),
        measured("torchscript", 89, batch=1),
    ]
    picked = choose(found, None)
    assert (picked.backend, picked.max_batch, picked.threads) == ("onnx", 4, 1)
    assert "within 10 % of the highest throughput (100), and simpler" in picked.reason


def test_a_limit_of_latency_is_held() -> None:
    found = [measured("onnx", 100, batch=16, p99=160), measured("onnx", 80, p99=19)]
    picked = choose(found, 20)
    assert picked.max_batch == 1
    assert picked.reason.endswith("the highest throughput within --p99-ms 20")
    with pytest.raises(ExportError, match=r"within --p99-ms 5: the fastest, onnx .* 19\.0 ms"):
        choose(found, 5)


def test_thread_counts_end_at_the_processors() -> None:
    counts = thread_counts()
    assert counts[0] == 1
    assert counts[-1] == available_processors()
    assert counts == sorted(set(counts))
