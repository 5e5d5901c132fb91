"""How many images a step has: as many as the GPU's memory holds, and fewer where that ran out."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import nn

from tlserve.bundle.manifest import Preprocessing
from tlserve.data.split import Split
from tlserve.errors import TlserveError, UsageError
from tlserve.finetune.average import averaged
from tlserve.finetune.config import FinetuneConfig
from tlserve.finetune.evaluate import MEMORY_FORMAT, on_device
from tlserve.finetune.events import Events
from tlserve.finetune.objective import Objective
from tlserve.finetune.optimizer import make_optimizer
from tlserve.finetune.precision import MixedPrecision
from tlserve.finetune.ranks import ALONE, Ranks
from tlserve.finetune.strategies import freeze, make_plan, train_mode
from tlserve.zoo.architectures import auxiliary_weight, head_parameters
from tlserve.zoo.blocks import ordered_blocks

ON_CPU = 32
"""What ``auto`` stands for where there is no GPU."""

_LARGEST = 1024
_SMALLEST = 2
"""Batch normalisation cannot train on one image."""

_MARGIN = 8
"""An eighth more images must fit: memory is not used up to its last byte, nor by us alone."""

_EVALUATED, _MOST_EVALUATED = 4, 256


def evaluation_batch_size(batch_size: int, device: torch.device) -> int:
    """Give the images of a batch of which no gradient is wanted.

    Without activations to keep for a backward pass a GPU holds more of them, and needs more to be
    busy. A CPU is busy with few, and would only need more memory.
    """
    if device.type == "cpu":
        return batch_size
    return max(batch_size, min(_EVALUATED * batch_size, _MOST_EVALUATED))


def with_batch_size(
    model: nn.Module,
    config: FinetuneConfig,
    parts: Split,
    spec: Preprocessing,
    device: torch.device,
    events: Events,
    ranks: Ranks = ALONE,
) -> FinetuneConfig:
    """Replace the batch size ``auto`` by the one that is found, and say which.

    Args:
        model: The network; afterwards on the device, and otherwise as it was.
        config: The settings.
        parts: Which images train.
        spec: The preprocessing.
        device: Where to train.
        events: Told the number.
        ranks: The processes that share a batch, each with a device of its own.

    Raises:
        TlserveError: Not even the smallest fits.
        UsageError, DeviceError: The strategy or the precision do not fit network or device.
    """
    if config.batch_size != "auto":
        if config.batch_size < 2 * ranks.count:
            raise UsageError(
                f"--batch-size {config.batch_size} gives some of {ranks.count} processes fewer "
                "than 2 images.",
                hint=f"Use --batch-size {2 * ranks.count} or more: it is that of all together.",
            )
        return config
    if device.type == "cpu":
        events.message(f"--batch-size auto: {ON_CPU}, as a GPU's memory is not the limit.")
        return replace(config, batch_size=ON_CPU)
    model.to(device, memory_format=MEMORY_FORMAT)  # type: ignore[call-overload]
    most = max(_SMALLEST, min(_LARGEST, len(parts.train)))
    with unchanged(model, device):
        step = training_step(model, config, parts, spec, device)
        size = largest_batch_size(step, most)
    if size is None:
        raise TlserveError(
            f"--batch-size auto: the device runs out of memory with {_SMALLEST} images of "
            f"{spec.crop[1]} x {spec.crop[0]} pixels.",
            hint="Use a smaller --image-size, --precision bf16 or a smaller --arch.",
        )
    # What fits on the smallest device, on each.
    size = min(ranks.gather(size)) * ranks.count
    events.message(f"--batch-size auto: {size}.")
    return replace(config, batch_size=size)


def largest_batch_size(step: Callable[[int], None], most: int) -> int | None:
    """Find the largest power of two, from 2 to ``most``, that a step can be taken with.

    Args:
        step: Takes a step with so many images, or raises :class:`torch.OutOfMemoryError`.
        most: The images of a batch, the margin left out.

    Returns:
        ``None`` where not even 2 images fit.
    """
    found = None
    size = _SMALLEST
    while size <= most and _fits(step, size + max(1, size // _MARGIN)):
        found = size
        size *= 2
    return found


def _fits(step: Callable[[int], None], images: int) -> bool:
    fits = True
    try:
        step(images)
    except torch.OutOfMemoryError:
        fits = False
    # The error has let go of the step's tensors by now.
    gc.collect()
    torch.cuda.empty_cache()
    return fits


def training_step(
    model: nn.Module,
    config: FinetuneConfig,
    parts: Split,
    spec: Preprocessing,
    device: torch.device,
) -> Callable[[int], None]:
    """Give a function that takes a whole training step with so many images of random numbers.

    As many blocks are trained as ever are in the run, the optimiser has its state, the average is
    there, and an evaluation follows: nothing in the run needs more memory. The network is changed.
    """
    head = head_parameters(config.arch)
    blocks = ordered_blocks(model, head)
    # What auto will choose is not known; all blocks are the most.
    recipe = config if config.strategy != "auto" else replace(config, strategy="full").resolved()
    plan = make_plan(recipe, blocks, 1.0)
    freeze(model, blocks, plan.last)
    train_mode(model, blocks, plan.last)
    classes = model.get_parameter(head[-1]).shape[0]
    weight = auxiliary_weight(config.arch)
    objective = Objective(recipe, parts.train, classes, weight, device)
    precision = MixedPrecision(recipe.precision, device)
    optimizer = make_optimizer(model, recipe, plan, plan.last)
    mean = averaged(model, recipe.ema) if recipe.ema else None

    def step(count: int) -> None:
        optimizer.zero_grad(set_to_none=True)
        images = on_device(torch.randn(count, 3, *spec.crop), device)[0]
        labels = torch.randint(classes, (count,)).to(device)
        images, labels = objective.mixed(images, labels)
        with precision.autocast():
            outputs = model(images)
        objective(outputs, labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if mean is not None:
            mean.update_parameters(model)
        evaluated = torch.zeros(evaluation_batch_size(count, device), 3, *spec.crop)
        model.eval()
        with torch.inference_mode():
            model(*on_device(evaluated, device))
        train_mode(model, blocks, plan.last)

    return step


@contextmanager
def unchanged(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Let a network be trained, and make it what it was: values, modes, and the random numbers."""
    # In the computer's memory: the GPU's is what is measured.
    state = {k: v.detach().to("cpu", copy=True) for k, v in model.state_dict().items()}
    modes = {module: module.training for module in model.modules()}
    trained = {p: p.requires_grad for p in model.parameters()}
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        model.load_state_dict(state)
        for module, training in modes.items():
            module.training = training
        for parameter, requires_grad in trained.items():
            parameter.requires_grad_(requires_grad)
            parameter.grad = None


def out_of_memory(config: FinetuneConfig, spec: Preprocessing) -> TlserveError:
    """Make the error that says how to need less."""
    size = config.batch_size
    ways = ["a smaller --image-size", "--precision bf16", "a smaller --arch"]
    if isinstance(size, int) and size > 1:
        ways = [f"--batch-size {size // 2}", "--batch-size auto", *ways]
    return TlserveError(
        f"The device ran out of memory with batches of {size} images of {spec.crop[1]} x "
        f"{spec.crop[0]} pixels.",
        hint=f"Use {', '.join(ways[:-1])} or {ways[-1]}.",
    )
