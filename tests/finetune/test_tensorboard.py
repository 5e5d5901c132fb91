"""The TensorBoard log: what is written, when, and what happens to one that is there."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from tests.event_files import event_files, events, scalars, texts
from tests.folders import write_parts
from tests.interpreter import python, without
from tests.zoo.test_timm_optional import FINETUNE
from tlserve.bundle.manifest import Epoch
from tlserve.errors import StorageError
from tlserve.finetune.config import FinetuneConfig
from tlserve.finetune.run import finetune
from tlserve.finetune.tensorboard import TensorBoardLog

COLUMNS = {
    "train/loss": "train_loss",
    "val/loss": "val_loss",
    "val/accuracy": "val_accuracy",
    "lr": "lr",
    "images_per_second": "images_per_second",
}


def _log(folder: Path, first: int, last: int, *, loss: float = 1.0) -> None:
    """Log some epochs as a run does."""
    log = TensorBoardLog(folder)
    log.settings({"lr": 0.1})
    for number in range(first, last + 1):
        log.begin_epoch(number, 9, 24)
        log.epoch(_epoch(number, loss), 9, best=False)
    log.close()


def _epoch(number: int, loss: float = 1.0) -> Epoch:
    return Epoch(epoch=number, train_loss=loss, val_loss=1, val_accuracy=0.5, lr=0.1, seconds=1)


def test_the_log_says_what_the_history_says(colours: Path, tmp_path: Path) -> None:
    config = FinetuneConfig(
        data=colours,
        name="logged",
        weights="none",
        strategy="full",
        epochs=3,
        batch_size=8,
        image_size=32,
        workers=0,
        output=tmp_path / "models",
        runs=tmp_path / "runs",
    )
    log = TensorBoardLog(tmp_path / "log")
    finetune(config, log)
    log.close()
    with (config.runs / "logged" / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    (path,) = event_files(tmp_path / "log")
    logged = scalars(path)
    assert set(logged) == set(COLUMNS)
    for tag, column in COLUMNS.items():
        # TensorBoard's scalars are float32.
        history = {int(row["epoch"]): float(row[column]) for row in rows}
        assert logged[tag] == pytest.approx(history, rel=1e-6)
        assert list(logged[tag]) == [1, 2, 3]
    assert len(set(logged["train/loss"].values())) == 3
    table = texts(path)["settings/text_summary"]
    assert table.startswith("| setting | value |\n|---|---|\n")
    # What was left to the strategy is there as what it was.
    assert "\n| optimizer | adamw |" in table
    assert "\n| lr | 0.0001 |" in table


def test_each_epoch_is_on_the_disk_when_it_is_over(tmp_path: Path) -> None:
    log = TensorBoardLog(tmp_path)
    for number in (1, 2):
        log.begin_epoch(number, 2, 24)
        log.epoch(_epoch(number), 2, best=True)
        (path,) = event_files(tmp_path)
        assert set(scalars(path)["val/accuracy"]) == set(range(1, number + 1))
        # A speed that was not measured is not logged as a number.
        assert "images_per_second" not in scalars(path)
    log.close()


def test_a_run_that_goes_on_continues_the_log(tmp_path: Path) -> None:
    _log(tmp_path, 1, 3)
    _log(tmp_path, 3, 4, loss=2.0)
    first, second = event_files(tmp_path)
    assert scalars(first)["train/loss"] == {1: 1.0, 2: 1.0, 3: 1.0}
    assert scalars(second)["train/loss"] == {3: 2.0, 4: 2.0}
    # TensorBoard drops the steps from 3 on that were logged before this.
    starts = [e.step for e in events(second) if e.session_log.status == e.session_log.START]
    assert starts == [3]


def test_a_run_from_the_beginning_replaces_the_log_and_nothing_else(tmp_path: Path) -> None:
    _log(tmp_path, 1, 3)
    _log(tmp_path, 3, 4)
    (tmp_path / "notes.txt").write_text("mine")
    _log(tmp_path, 1, 1, loss=5.0)
    (path,) = event_files(tmp_path)
    assert scalars(path)["train/loss"] == {1: 5.0}
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_place_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("a file")
    with pytest.raises(StorageError, match=r"Cannot write to .*log"):
        TensorBoardLog(tmp_path / "log").begin_epoch(1, 2, 24)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_full_disk_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tensorboardX.record_writer

    with Path("/dev/full").open("wb", buffering=0) as full:
        monkeypatch.setattr(tensorboardX.record_writer, "open_file", lambda _: full)
        with pytest.raises(StorageError, match="No space left on device"):
            TensorBoardLog(tmp_path).begin_epoch(1, 2, 24)


def test_without_the_library_the_error_says_what_to_do() -> None:
    program = (
        without("tensorboardX")
        + """
from tlserve.errors import MissingDependencyError
try:
    import tlserve.finetune.tensorboard
except MissingDependencyError as error:
    print(error)
"""
    )
    assert python(program) == (
        "A TensorBoard log needs the library tensorboardX, but tensorboardX is not installed.\n"
        "Install the extra: pip install 'tlserve[train]'; or pass --no-tensorboard.\n"
    )


def test_a_run_without_a_log_does_not_import_the_library(tmp_path: Path) -> None:
    write_parts(tmp_path / "data", train=3, val=2)
    program = FINETUNE + "print('tensorboardX' in sys.modules)"
    assert python(program, str(tmp_path)) == "answered\nFalse\n"
