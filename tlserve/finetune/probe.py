"""A linear probe: the head alone, trained to its optimum on features that are computed once.

Alain and Bengio 2016 (https://arxiv.org/abs/1610.01644) name it; that fine-tuning had better begin
from its result is Kumar et al. 2022 (https://arxiv.org/abs/2202.10054).
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from tlserve.data.loading import Batch
from tlserve.errors import UsageError
from tlserve.finetune.evaluate import MEMORY_FORMAT, Evaluation, measure
from tlserve.finetune.events import Events
from tlserve.finetune.session import Session

_STRENGTHS = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 1e-3, 1e-4)
"""L2 penalties that are tried, from the strongest on; times the features' mean square."""

_NO_BETTER = 3
"""After so many weaker penalties without a better result, the rest are left out."""

_ITERATIONS = 100


@dataclass(frozen=True)
class Probe:
    """What a linear probe showed.

    Attributes:
        result: What the network with the probe's head does on the validation images.
        seconds: How long it took, the features included.
        seconds_per_image: How long a forward pass takes, the loading of the image included.
    """

    result: Evaluation
    seconds: float
    seconds_per_image: float


def linear_probe(session: Session) -> Probe:
    """Train the head on the features of the images as they are, and leave the best in the network.

    Multinomial logistic regression by L-BFGS, the strength of its penalty chosen on the validation
    images. The features of all images are held in memory.

    Raises:
        UsageError: Something other than the head comes after the features.
    """
    started = time.monotonic()
    tail = _Tail(session.model, session.head)
    events = session.events
    session.model.eval()
    # Loaders of its own: those that training uses begin once it is known what is kept for them.
    val = session.in_order("val", 0)
    images = len(session.plain.dataset) + len(val.dataset)  # type: ignore[arg-type]
    events.begin("features", images)
    features, labels = _features(session.model, tail, session.plain, session.device, events)
    val_features, val_labels = _features(session.model, tail, val, session.device, events)
    events.end()
    per_image = (time.monotonic() - started) / images

    best: tuple[Evaluation, dict[str, Any]] | None = None
    since = 0
    scale = float(features.square().mean())
    for strength in _STRENGTHS:
        _fit(tail, features, labels, strength * scale)
        with torch.inference_mode():
            result = measure(tail(val_features).cpu(), val_labels.cpu())
        if result.better_than(best[0] if best else None):
            best, since = (result, copy.deepcopy(tail.head.state_dict())), 0
        elif (since := since + 1) == _NO_BETTER:
            break
    assert best is not None  # noqa: S101 - there is at least one strength
    tail.head.load_state_dict(best[1])
    return Probe(best[0], time.monotonic() - started, per_image)


class _Tail:
    """The head, and what comes after it in its container; the features are the head's input."""

    def __init__(self, model: nn.Module, head: tuple[str, ...]) -> None:
        path = head[-1].rpartition(".")[0]
        container, _, name = path.rpartition(".")
        self.head = model.get_submodule(path)
        parent = model.get_submodule(container)
        siblings = list(parent.named_children()) if isinstance(parent, nn.Sequential) else []
        position = next((i for i, (n, _) in enumerate(siblings) if n == name), len(siblings))
        self._after = [module for _, module in siblings[position + 1 :]]

    def __call__(self, features: Tensor) -> Tensor:
        logits: Tensor = self.head(features)
        for module in self._after:
            logits = module(logits)
        return logits.flatten(1)

    @contextmanager
    def captured(self) -> Iterator[list[Tensor]]:
        """Keep what the head is given."""
        inputs: list[Tensor] = []
        handle = self.head.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
        try:
            yield inputs
        finally:
            handle.remove()


def _features(
    model: nn.Module,
    tail: _Tail,
    batches: DataLoader[Batch],
    device: torch.device,
    events: Events,
) -> tuple[Tensor, Tensor]:
    labels: list[Tensor] = []
    first: Tensor | None = None
    # Not inference_mode: its tensors cannot take part in the training of the head.
    with torch.no_grad(), tail.captured() as inputs:
        for images, label in batches:
            logits = model(images.to(device, non_blocking=True, memory_format=MEMORY_FORMAT))
            first = logits if first is None else first
            labels.append(label)
            events.advance(len(label))
    with torch.no_grad():
        if first is None or not torch.allclose(tail(inputs[0]), first, rtol=1e-3, atol=1e-4):
            raise UsageError(
                "--strategy auto cannot probe this network: more than its head comes after the "
                "features.",
                hint="Choose a strategy, for example --strategy discriminative.",
            )
    return torch.cat(inputs), torch.cat(labels).to(device)


def _fit(tail: _Tail, features: Tensor, labels: Tensor, penalty: float) -> None:
    parameters = list(tail.head.parameters())
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimizer = torch.optim.LBFGS(
        parameters, max_iter=_ITERATIONS, history_size=20, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        squares = sum(p.square().sum() for p in parameters if p.dim() > 1)
        loss = functional.cross_entropy(tail(features), labels) + penalty * squares
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
