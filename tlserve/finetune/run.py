"""One fine-tuning run: folder in, bundle out."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tlserve.bundle import Bundle
from tlserve.bundle.files import writing_to
from tlserve.bundle.manifest import Decoding, Preprocessing
from tlserve.bundle.staging import check_target
from tlserve.data.check import CheckedFolder, check_images, fingerprint
from tlserve.data.disk_cache import DiskCache
from tlserve.data.folder import Folder, scan
from tlserve.data.split import split
from tlserve.errors import UsageError
from tlserve.finetune.auto import decide
from tlserve.finetune.batch_size import out_of_memory, with_batch_size
from tlserve.finetune.beginning import Beginning, where
from tlserve.finetune.compiling import naming_compile_errors
from tlserve.finetune.config import FinetuneConfig, seconds_of
from tlserve.finetune.deterministic import deterministic
from tlserve.finetune.events import Events
from tlserve.finetune.features import FeatureCache
from tlserve.finetune.loop import train
from tlserve.finetune.ranks import ALONE, Ranks
from tlserve.finetune.rate_finder import with_rate
from tlserve.finetune.result import write_bundle
from tlserve.finetune.run_folder import RunFolder
from tlserve.finetune.session import Session, open_session
from tlserve.finetune.strategies import load_moving_state
from tlserve.finetune.sweep import with_sweep
from tlserve.finetune.trained import Trained
from tlserve.runtime.allocator import keep_freed_memory
from tlserve.runtime.processors import available_processors
from tlserve.runtime.torch_device import torch_device
from tlserve.zoo.architectures import build, check_architecture, check_input_size
from tlserve.zoo.presets import preset, with_image_size
from tlserve.zoo.weights import Pretrained, load_backbone, load_pretrained

_FEATURES, _IMAGES = ".features", ".images"


def finetune(config: FinetuneConfig, events: Events) -> Bundle:
    """Fine-tune a pretrained architecture on an image folder and write the bundle.

    Args:
        config: What to do.
        events: Told what happens.

    Returns:
        The bundle, in its place.

    Raises:
        KeyboardInterrupt: SIGINT or SIGTERM came; :func:`resume` goes on.
        UsageError, DataError, WeightsError, DeviceError, StorageError: What is wrong with the
            request, in the order in which it can be found out; the target is left as it was.
    """
    bundle = begin(config, events, ALONE)
    assert bundle is not None  # noqa: S101 - this is the main process
    return bundle


def begin(config: FinetuneConfig, events: Events, ranks: Ranks) -> Bundle | None:
    """Do what :func:`finetune` does, in company; ``None`` in all processes but the main one.

    Processes that torchrun has started again go on from the last state.
    """
    config = config.resolved()
    check_architecture(config.arch)
    if config.image_size is not None:
        check_input_size(config.arch, config.image_size)
    run = RunFolder(config.runs / config.name)
    with _held(run, ranks):
        go_on = False
        if ranks.main:
            check_target(config.output / config.name, overwrite=config.overwrite)
            go_on = ranks.restarted and run.is_unfinished()
            if run.has_states() and not (go_on or config.overwrite):
                raise UsageError(
                    f"The run in {run.path} is not finished.",
                    hint=f"Go on with --resume {run.path}, replace it with --overwrite, or choose "
                    "another --name.",
                )
        if ranks.broadcast(go_on):
            config = ranks.broadcast(run.settings() if ranks.main else config)
            return _run(config, run, events, ranks, anew=False)
        return _run(config, run, events, ranks, anew=True)


def resume(
    path: Path, changes: Mapping[str, Any], events: Events, ranks: Ranks = ALONE
) -> Bundle | None:
    """Go on with a run that was interrupted, and write its bundle.

    On the same machine, the result is that of a run that was not interrupted: on a CPU bit for bit.

    Args:
        path: The run's folder.
        changes: Settings of where and on what it goes on, by their names.
        events: Told what happens.
        ranks: The processes that go on; they need not be as many as before.

    Returns:
        The bundle; ``None`` in all processes but the main one.

    Raises:
        UsageError: There is no such run, it is finished, or its data are not what they were; and
            what :func:`finetune` raises.
    """
    run = RunFolder(path)
    config = run.settings()
    with _held(run, ranks):
        config = replace(config, **changes).resolved()
        if ranks.main:
            check_target(config.output / config.name, overwrite=config.overwrite)
        return _run(config, run, events, ranks, anew=False)


def _held(run: RunFolder, ranks: Ranks) -> AbstractContextManager[None]:
    return run.locked() if ranks.main else nullcontext()


def _run(
    config: FinetuneConfig, run: RunFolder, events: Events, ranks: Ranks, *, anew: bool
) -> Bundle | None:
    began = time.monotonic()
    target = config.output / config.name
    device = torch_device(config.device, ranks.local_rank)
    folder = scan(config.data)
    pretrained = load_pretrained(config.arch, config.weights)
    spec = _preprocessing(config, pretrained)
    # Before the work: a place that cannot be written to would be found out at its end.
    with writing_to(config.output):
        config.output.mkdir(parents=True, exist_ok=True)

    checked = _checked(folder, spec, config, events, ranks)
    parts = split(checked.folder, config.val_fraction, config.seed)
    together = f", in {ranks.count} processes" if ranks.count > 1 else ""
    events.message(
        f"{len(parts.train)} images train and {len(parts.val)} validate "
        f"{len(folder.classes)} classes, on {device.type}{together}."
    )
    if ranks.main:
        basis = {"data": fingerprint(checked.sha256), "weights": pretrained.sha256}
        if anew:
            run.begin(config, basis)
        else:
            run.check_basis(basis)

    if device.type == "cpu":
        keep_freed_memory()
    torch.manual_seed(config.seed)
    model = build(config.arch, len(folder.classes), image_size=spec.crop[0])
    load_backbone(model, config.arch, pretrained)
    if ranks.rank:
        # What each process drops and mixes is its own.
        torch.manual_seed(config.seed + ranks.rank)
    try:
        config = with_batch_size(model, config, parts, spec, device, events, ranks)
        if ranks.main:
            # Found anew it might be another, and the steps of a run that goes on would be others.
            run.settle({"batch_size": config.batch_size})

        def opened(ranks: Ranks) -> Session:
            return open_session(
                model,
                config,
                parts,
                checked.sha256,
                spec,
                device,
                run,
                events,
                pretrained=bool(pretrained.state),
                cache=FeatureCache(_disk_cache(config, _FEATURES, _IMAGES), config.cache),
                image_cache=_disk_cache(config, _IMAGES, _FEATURES),
                deadline=began + seconds_of(config.time_limit) if config.time_limit else None,
                ranks=ranks,
            )

        with naming_compile_errors(config.compile), deterministic(config.deterministic):
            beginning, trained = _train(opened, config, ranks)
    except torch.OutOfMemoryError as error:
        raise out_of_memory(config, spec) from error
    bundle = None
    if ranks.main:
        # What auto decides is recorded beside what it was asked.
        recorded = config if config.strategy == "auto" else beginning.config
        bundle = write_bundle(
            target, recorded, checked, parts, spec, pretrained, trained, beginning.selection
        )
        run.finish(bundle.path)
    ranks.wait()
    return bundle


def _checked(
    folder: Folder, spec: Preprocessing, config: FinetuneConfig, events: Events, ranks: Ranks
) -> CheckedFolder:
    events.begin("checking images", len(folder.train) + len(folder.val or ()))
    checked = check_images(
        folder,
        spec,
        strict=config.strict,
        workers=max(1, available_processors() // ranks.local_count),
        advance=events.advance,
    )
    events.end()
    events.problems(checked.problems)
    if folder.empty_validation:
        events.message(
            f"Not validated, for want of images in val/: {', '.join(folder.empty_validation)}."
        )
    return checked


def _train(
    opened: Callable[[Ranks], Session], config: FinetuneConfig, ranks: Ranks
) -> tuple[Beginning, Trained]:
    """Decide what is still open, or take it from the last state, and train."""
    session = opened(ranks)
    saved = ranks.broadcast(session.run.latest() if ranks.main else None)
    started = time.monotonic()
    if saved is not None:
        beginning = Beginning.from_state(saved, config)
        session.events.message(f"Resumed {where(saved)}.")
    elif config.strategy == "auto" or config.lr == "find" or config.sweep:
        beginning = _decide(session if ranks.count == 1 else opened(ALONE), config, ranks)
    else:
        beginning = Beginning(config)
    decided = time.monotonic() - started
    trained = train(session, beginning, saved)
    return beginning, replace(trained, seconds=trained.seconds + decided)


def _decide(session: Session, config: FinetuneConfig, ranks: Ranks) -> Beginning:
    """Let the main process measure, and give the others what it decides and the head it trains."""
    beginning = Beginning(config)
    if ranks.main and config.strategy == "auto":
        beginning = decide(session, config)
    elif ranks.main:
        beginning = Beginning(with_sweep(session, with_rate(session, config)))
    if ranks.count > 1:
        head = {name: session.model.get_parameter(name).detach().cpu() for name in session.head}
        load_moving_state(session.model, ranks.broadcast(head))
    return ranks.broadcast(beginning)


def _preprocessing(config: FinetuneConfig, pretrained: Pretrained) -> Preprocessing:
    decoding = Decoding(jpeg_draft=config.jpeg_draft)
    spec = preset(config.arch, pretrained.entry, decoding=decoding)
    return spec if config.image_size is None else with_image_size(spec, config.image_size)


def _disk_cache(config: FinetuneConfig, folder: str, beside: str) -> DiskCache:
    budget = round(config.cache_budget * 1e9)
    return DiskCache(config.runs / folder, budget, beside=[config.runs / beside])
