"""What a bundle is run with: what is asked for, else what was chosen, else the defaults."""

from __future__ import annotations

import pytest

from tlserve.bundle import Bundle, stage
from tlserve.bundle.manifest import Serving
from tlserve.errors import UsageError
from tlserve.runtime.processors import available_processors
from tlserve.runtime.serving import Running, resolve


@pytest.fixture
def chosen(copy: Bundle) -> Bundle:
    serving = Serving(
        backend="onnx-int8", device="cpu", threads=1, max_batch=4, reason="the highest throughput"
    )
    with stage(copy.path, base=copy) as staged:
        return staged.commit(staged.manifest(serving=serving))


def test_nothing_chosen_and_nothing_asked_for(bundle: Bundle) -> None:
    assert resolve(bundle) == Running("onnx", "cpu", 1, 4)


def test_what_was_chosen_holds_unless_something_else_is_asked_for(chosen: Bundle) -> None:
    assert resolve(chosen) == Running("onnx-int8", "cpu", 1, 4)
    assert resolve(chosen, threads=2, max_batch=9) == Running("onnx-int8", "cpu", 2, 9)
    assert resolve(chosen, backend="eager") == Running("eager", "cpu", 1, 4)
    assert resolve(chosen, device="cuda") == Running("onnx", "cuda", 1, 32)


def test_batches_share_the_processors(bundle: Bundle) -> None:
    everywhere = available_processors()
    assert resolve(bundle).lanes == everywhere
    assert resolve(bundle, threads=everywhere).lanes == 1
    assert resolve(bundle, threads=everywhere + 1).lanes == 1
    assert resolve(bundle, device="cuda").lanes == 1


def test_more_threads_than_there_are_processors_are_not_chosen(chosen: Bundle) -> None:
    assert chosen.manifest.serving is not None
    many = chosen.manifest.serving.model_copy(update={"threads": 4096})
    with stage(chosen.path, base=chosen) as staged:
        other = staged.commit(staged.manifest(serving=many))
    assert resolve(other).threads == available_processors()


def test_an_unknown_backend(bundle: Bundle) -> None:
    with pytest.raises(UsageError, match="Unknown backend 'jax'"):
        resolve(bundle, "jax")
