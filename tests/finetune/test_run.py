"""Fine-tuning as a whole, on real files."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.folders import write_flat
from tlserve.bundle import Bundle
from tlserve.bundle.files import sha256_of
from tlserve.bundle.manifest import Epoch
from tlserve.data.loading import ImageDataset, ViewBatches, loader
from tlserve.data.split import read_part
from tlserve.errors import DataError, StorageError, TlserveError, UsageError, WeightsError
from tlserve.finetune.checkpoint import save_weights
from tlserve.finetune.config import FinetuneConfig
from tlserve.finetune.evaluate import evaluate
from tlserve.finetune.events import Events
from tlserve.finetune.run import finetune
from tlserve.runtime.eager import TorchBackend, rebuild
from tlserve.runtime.golden import check_golden
from tlserve.zoo.architectures import build, head_parameters


class Recorder(Events):
    """Keeps what a run tells."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.best: list[int] = []
        self.epochs = 0

    def message(self, text: str) -> None:
        self.messages.append(text)

    def epoch(self, epoch: Epoch, epochs: int, *, best: bool) -> None:
        self.epochs += 1
        if best:
            self.best.append(epoch.epoch)


@pytest.fixture
def config(colours: Path, tmp_path: Path) -> FinetuneConfig:
    """A run of seconds."""
    return FinetuneConfig(
        data=colours,
        name="try",
        arch="resnet18",
        weights="none",
        strategy="full",
        lr=1e-3,
        epochs=2,
        batch_size=8,
        image_size=32,
        workers=0,
        output=tmp_path / "models",
        runs=tmp_path / "runs",
    )


def test_the_bundle_holds_the_best_epoch_and_its_numbers(
    config: FinetuneConfig, colours: Path
) -> None:
    events = Recorder()
    bundle = finetune(replace(config, epochs=6, lr=0.01, patience=9), events)
    manifest = bundle.manifest
    bundle.verify()
    assert manifest.metrics.best_epoch == events.best[-1]
    assert len(manifest.metrics.history) == events.epochs == 6
    weights = bundle.verified("weights")
    assert sha256_of(weights) == sha256_of(config.runs / "try" / "best.safetensors")

    # What the manifest says of the model is what the model does.
    samples, _ = read_part(bundle.verified("split"), "val")
    dataset = ImageDataset(colours, samples, manifest.preprocessing)
    batches = loader(dataset, ViewBatches(len(samples), 8, seed=0, shuffle=False), 0)
    result = evaluate(rebuild(bundle), batches, torch.device("cpu"), Events())
    assert (result.correct, result.images) == (manifest.metrics.val_correct, 12)
    assert result.loss == pytest.approx(manifest.metrics.val_loss, rel=1e-4)

    history = (config.runs / "try" / "history.csv").read_text()
    rows = list(csv.DictReader(history.splitlines()))
    assert [int(r["epoch"]) for r in rows] == [1, 2, 3, 4, 5, 6]
    best_by_history = max(rows, key=lambda r: (float(r["val_accuracy"]), -float(r["val_loss"])))
    assert int(best_by_history["epoch"]) == manifest.metrics.best_epoch


def test_the_checkpoint_is_a_copy(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 2)
    save_weights(model, tmp_path / "best.safetensors")
    before = load_file(tmp_path / "best.safetensors")["weight"].clone()
    with torch.no_grad():
        model.weight += 1
    assert torch.equal(load_file(tmp_path / "best.safetensors")["weight"], before)


def test_the_weights_load_into_torchvision_without_us(trained: Path) -> None:
    from torchvision.models import resnet18

    model = resnet18(num_classes=3)
    model.load_state_dict(load_file(trained / "weights.safetensors"), strict=True)


def test_the_golden_images_are_of_every_kind_and_their_answers_repeat(trained: Path) -> None:
    bundle = Bundle.read(trained)
    names = {Path(n).stem for n in bundle.names("golden-image")}
    assert names >= {"exif-rotated", "grey", "translucent", "cmyk", "palette", "very-wide"}
    assert names >= {"very-tall", "large", "grey-16-bit", "plain"}
    check_golden(bundle, TorchBackend(rebuild(bundle), torch.device("cpu"), 2))


def test_the_same_seed_gives_the_same_model(config: FinetuneConfig) -> None:
    first = finetune(config, Events())
    second = finetune(replace(config, name="again", workers=2), Events())
    other = finetune(replace(config, name="other", seed=1), Events())
    assert first.manifest.version == second.manifest.version
    assert first.manifest.version != other.manifest.version


def test_a_flat_folder_is_split_and_the_split_recorded(
    config: FinetuneConfig, tmp_path: Path
) -> None:
    data = write_flat(tmp_path / "flat", 10)
    bundle = finetune(replace(config, data=data, epochs=1, val_fraction=0.3), Events())
    content = json.loads(bundle.verified("split").read_text())
    assert (len(content["train"]), len(content["val"])) == (21, 9)
    assert bundle.manifest.provenance.dataset.train_images == 21


def test_training_stops_early(config: FinetuneConfig) -> None:
    events = Recorder()
    finetune(replace(config, epochs=30, patience=1, lr=1e-9), events)
    assert events.epochs < 30
    assert any("stopped early" in message for message in events.messages)


def test_pretrained_weights_of_a_file_are_what_a_frozen_backbone_keeps(
    config: FinetuneConfig, tmp_path: Path
) -> None:
    torch.manual_seed(5)
    state = build("resnet18", 1000).state_dict()
    save_file(state, tmp_path / "backbone.safetensors")
    bundle = finetune(
        replace(
            config,
            weights=str(tmp_path / "backbone.safetensors"),
            strategy="feature-extraction",
            epochs=1,
        ),
        Events(),
    )
    kept = load_file(bundle.verified("weights"))
    head = head_parameters("resnet18")
    assert all(torch.equal(kept[k], state[k]) for k in kept if k not in head)
    assert kept["fc.weight"].shape == (3, 512)
    assert bundle.manifest.provenance.pretrained_sha256 == sha256_of(
        tmp_path / "backbone.safetensors"
    )


def test_an_existing_bundle_is_refused_before_any_work(
    config: FinetuneConfig,
) -> None:
    first = finetune(config, Events())
    with pytest.raises(StorageError, match="exists already"):
        finetune(replace(config, data=Path("nowhere")), Events())
    second = finetune(replace(config, seed=3, overwrite=True), Events())
    assert Bundle.read(first.path).manifest.version == second.manifest.version


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"arch": "resnet19"}, UsageError, "Unknown architecture 'resnet19'"),
        ({"name": "../x"}, UsageError, "cannot name a bundle"),
        ({"epochs": 0}, UsageError, "--epochs 0"),
        ({"lr": -1.0}, UsageError, "--lr -1.0"),
        ({"val_fraction": 1.0}, UsageError, "--val-fraction 1.0"),
        ({"image_size": 3}, UsageError, "--image-size 3"),
        ({"data": Path("nowhere")}, DataError, "There is no folder nowhere"),
        ({"weights": "IMAGENET1K_V9"}, UsageError, "no weights named 'IMAGENET1K_V9'"),
        ({"weights": "no/such/file.pth"}, UsageError, "does not exist"),
        ({"weights": "tests/cli"}, UsageError, "tests/cli is a folder, not a file of weights"),
        ({"data": Path(__file__)}, DataError, "is a file, not a folder"),
        ({"output": Path(__file__) / "models"}, StorageError, "Cannot write to .*models"),
        ({"runs": Path(__file__)}, StorageError, "Cannot write to .*try"),
        ({"lr": 1e30}, TlserveError, "Training diverged in epoch"),
    ],
)
def test_bad_settings_are_refused_and_leave_nothing(
    config: FinetuneConfig, change: dict[str, object], error: type[TlserveError], message: str
) -> None:
    with pytest.raises(error, match=message):
        finetune(replace(config, **change), Events())  # type: ignore[arg-type]
    assert not config.output.exists() or not list(config.output.iterdir())


def test_weights_of_another_architecture_name_the_keys(
    config: FinetuneConfig, tmp_path: Path
) -> None:
    torch.save(build("mobilenet_v3_small", 10).state_dict(), tmp_path / "other.pth")
    with pytest.raises(WeightsError, match=r"do not fit resnet18: .*missing: conv1\.weight"):
        finetune(replace(config, weights=str(tmp_path / "other.pth")), Events())


def test_strict_refuses_a_stray_file(config: FinetuneConfig, tmp_path: Path) -> None:
    data = write_flat(tmp_path / "flat", 4)
    (data / "red" / "notes.txt").write_text("x")
    bundle = finetune(replace(config, data=data, epochs=1), Events())
    assert bundle.manifest.provenance.dataset.skipped == ("red/notes.txt",)
    with pytest.raises(DataError, match=r"red/notes\.txt"):
        finetune(replace(config, data=data, name="strict", strict=True), Events())
