"""One fine-tuning run: folder in, bundle out."""

from __future__ import annotations

import datetime
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tlserve.bundle import Bundle, stage
from tlserve.bundle.files import writing_to
from tlserve.bundle.manifest import (
    Dataset,
    Decoding,
    Head,
    Metrics,
    Preprocessing,
    Provenance,
    Selection,
)
from tlserve.bundle.reading import WEIGHTS
from tlserve.bundle.staging import check_target
from tlserve.data.check import CheckedFolder, check_images, fingerprint
from tlserve.data.disk_cache import DiskCache
from tlserve.data.folder import scan
from tlserve.data.split import Split, split, write_split
from tlserve.errors import UsageError
from tlserve.finetune.allocator import keep_freed_memory
from tlserve.finetune.auto import decide
from tlserve.finetune.batch_size import out_of_memory, with_batch_size
from tlserve.finetune.beginning import Beginning
from tlserve.finetune.compiling import naming_compile_errors
from tlserve.finetune.config import FinetuneConfig, seconds_of
from tlserve.finetune.events import Events
from tlserve.finetune.features import FeatureCache
from tlserve.finetune.golden import write_golden
from tlserve.finetune.loop import Trained, train, where
from tlserve.finetune.rate_finder import with_rate
from tlserve.finetune.run_folder import RunFolder
from tlserve.finetune.session import Session, open_session
from tlserve.finetune.sweep import with_sweep
from tlserve.finetune.versions import versions
from tlserve.runtime.backend import available_processors
from tlserve.runtime.eager import TorchBackend, rebuild
from tlserve.runtime.torch_device import torch_device
from tlserve.zoo.architectures import (
    build,
    check_architecture,
    check_input_size,
    head_parameters,
)
from tlserve.zoo.presets import preset, with_image_size
from tlserve.zoo.weights import Pretrained, load_backbone, load_pretrained

_SPLIT = "split.json"
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
    config = config.resolved()
    check_architecture(config.arch)
    if config.image_size is not None:
        check_input_size(config.arch, config.image_size)
    run = RunFolder(config.runs / config.name)
    check_target(config.output / config.name, overwrite=config.overwrite)
    with run.locked():
        if run.has_states() and not config.overwrite:
            raise UsageError(
                f"The run in {run.path} is not finished.",
                hint=f"Go on with --resume {run.path}, replace it with --overwrite, or choose "
                "another --name.",
            )
        return _run(config, run, events, anew=True)


def resume(path: Path, changes: Mapping[str, Any], events: Events) -> Bundle:
    """Go on with a run that was interrupted, and write its bundle.

    On the same machine, the result is that of a run that was not interrupted: on a CPU bit for bit.

    Args:
        path: The run's folder.
        changes: Settings of where and on what it goes on, by their names.
        events: Told what happens.

    Raises:
        UsageError: There is no such run, it is finished, or its data are not what they were; and
            what :func:`finetune` raises.
    """
    run = RunFolder(path)
    config = run.settings()
    with run.locked():
        config = replace(config, **changes).resolved()
        check_target(config.output / config.name, overwrite=config.overwrite)
        return _run(config, run, events, anew=False)


def _run(config: FinetuneConfig, run: RunFolder, events: Events, *, anew: bool) -> Bundle:
    began = time.monotonic()
    target = config.output / config.name
    device = torch_device(config.device)
    folder = scan(config.data)
    pretrained = load_pretrained(config.arch, config.weights)
    spec = _preprocessing(config, pretrained)
    # Before the work: a place that cannot be written to would be found out at its end.
    with writing_to(config.output):
        config.output.mkdir(parents=True, exist_ok=True)

    processors = available_processors()
    events.begin("checking images", len(folder.train) + len(folder.val or ()))
    checked = check_images(
        folder, spec, strict=config.strict, workers=processors, advance=events.advance
    )
    events.end()
    events.problems(checked.problems)
    if folder.empty_validation:
        events.message(
            f"Not validated, for want of images in val/: {', '.join(folder.empty_validation)}."
        )
    parts = split(checked.folder, config.val_fraction, config.seed)
    events.message(
        f"{len(parts.train)} images train and {len(parts.val)} validate "
        f"{len(folder.classes)} classes, on {device.type}."
    )
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
    try:
        config = with_batch_size(model, config, parts, spec, device, events)
        # Found anew it might be another, and the steps of a run that goes on would be others.
        run.settle({"batch_size": config.batch_size})
        session = open_session(
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
        )
        with naming_compile_errors(config.compile):
            beginning, trained = _train(session, config)
    except torch.OutOfMemoryError as error:
        raise out_of_memory(config, spec) from error
    # What auto decides is recorded beside what it was asked.
    recorded = config if config.strategy == "auto" else beginning.config
    bundle = _write_bundle(
        target, recorded, checked, parts, spec, pretrained, trained, beginning.selection
    )
    run.finish(bundle.path)
    return bundle


def _train(session: Session, config: FinetuneConfig) -> tuple[Beginning, Trained]:
    """Decide what is still open, or take it from the last state, and train."""
    saved = session.run.latest()
    started = time.monotonic()
    if saved is None:
        beginning = _decide(session, config)
    else:
        beginning = Beginning.from_state(saved, config)
        session.events.message(f"Resumed {where(saved)}.")
    decided = time.monotonic() - started
    trained = train(session, beginning, saved)
    return beginning, replace(trained, seconds=trained.seconds + decided)


def _decide(session: Session, config: FinetuneConfig) -> Beginning:
    if config.strategy == "auto":
        return decide(session, config)
    return Beginning(with_sweep(session, with_rate(session, config)))


def _preprocessing(config: FinetuneConfig, pretrained: Pretrained) -> Preprocessing:
    decoding = Decoding(jpeg_draft=config.jpeg_draft)
    spec = preset(config.arch, pretrained.entry, decoding=decoding)
    return spec if config.image_size is None else with_image_size(spec, config.image_size)


def _disk_cache(config: FinetuneConfig, folder: str, beside: str) -> DiskCache:
    budget = round(config.cache_budget * 1e9)
    return DiskCache(config.runs / folder, budget, beside=[config.runs / beside])


def _write_bundle(
    target: Path,
    config: FinetuneConfig,
    checked: CheckedFolder,
    parts: Split,
    spec: Preprocessing,
    pretrained: Pretrained,
    trained: Trained,
    selection: Selection | None,
) -> Bundle:
    classes = checked.folder.classes
    fields = {
        "name": config.name,
        "architecture": config.arch,
        "classes": classes,
        "preprocessing": spec,
        "head": Head(parameters=head_parameters(config.arch), num_classes=len(classes)),
        "training": config.record(),
        "selection": selection,
        "metrics": Metrics(
            val_accuracy=trained.best.accuracy,
            val_loss=trained.best.loss,
            val_correct=trained.best.correct,
            val_images=trained.best.images,
            best_epoch=trained.best_epoch,
            history=trained.history,
            seconds=round(trained.seconds, 3),
            trainable_parameters=trained.trainable,
            optimizer_bytes=trained.optimizer_bytes,
        ),
        "provenance": Provenance(
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            seed=config.seed,
            dataset=Dataset(
                path=str(config.data.resolve()),
                fingerprint=fingerprint(checked.sha256),
                train_images=len(parts.train),
                val_images=len(parts.val),
                skipped=tuple(problem.path for problem in checked.problems),
            ),
            pretrained=pretrained.source,
            pretrained_sha256=pretrained.sha256,
            versions=versions(),
        ),
    }
    with stage(target, overwrite=config.overwrite) as staged:
        with writing_to(target):
            staged.fresh(WEIGHTS).write_bytes(trained.checkpoint.read_bytes())
            staged.add(WEIGHTS, "weights", precision="float32")
            write_split(staged.fresh(_SPLIT), parts, checked.sha256)
            staged.add(_SPLIT, "split")
            # Recorded is the model that the bundle gives back, not the one in memory.
            best = rebuild(staged.write_manifest(staged.manifest(**fields)))
            # As many threads as training had: the number is the process's, and another one would
            # change the sums of whatever is trained next.
            backend = TorchBackend(best, torch.device("cpu"), torch.get_num_threads())
            write_golden(staged, config.data, parts.val, spec, backend)
        return staged.commit(staged.manifest(**fields))
