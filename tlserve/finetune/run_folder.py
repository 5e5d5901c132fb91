"""A run's folder: its settings, the best weights, the history, and states to go on from."""

from __future__ import annotations

import fcntl
import io
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from tlserve.bundle.files import flush_to_disk, replacing, writing_to
from tlserve.bundle.manifest import Scalar
from tlserve.errors import StorageError, UsageError
from tlserve.finetune.config import FinetuneConfig
from tlserve.finetune.config_file import checked

_FORMAT = 1
_SETTINGS = "run.json"
_TRAINING = "training.pt"
_KEPT_STATES = 2
_PLACES = ("data", "output", "runs")

State = dict[str, Any]
"""Tensors and plain values by names, nested."""


class RunFolder:
    """``runs/<name>/``. Each file in it is whole, whenever its process ends.

    Attributes:
        path: The folder.
        best: The weights of the best epoch so far.
        history: What each epoch did, CSV.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.best = path / "best.safetensors"
        self.history = path / "history.csv"
        self._states = path / "states"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for this process.

        Raises:
            UsageError: Another process holds it.
            StorageError: The folder cannot be made.
        """
        with writing_to(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            file = (self.path / ".lock").open("a+")
        with file:
            try:
                # A record lock: unlike others it is not handed down to loading processes, which
                # would hold it for a moment after their parent was killed.
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                file.seek(0)
                raise UsageError(
                    f"The run in {self.path} is alive: process {file.read().strip()} writes it.",
                    hint="Wait for it or end it; or begin another run with another --name.",
                ) from error
            file.truncate(0)
            file.write(f"{os.getpid()}\n")
            file.flush()
            yield

    @contextmanager
    def temporary(self) -> Iterator[None]:
        """Make the folder, and remove it and all that it holds.

        Raises:
            StorageError: The disk refused.
        """
        shutil.rmtree(self.path, ignore_errors=True)
        with writing_to(self.path):
            self.path.mkdir()
        try:
            yield
        finally:
            shutil.rmtree(self.path, ignore_errors=True)

    def begin(self, config: FinetuneConfig, basis: Mapping[str, str | None]) -> None:
        """Begin anew: forget what an earlier run left, and write down the settings.

        Args:
            config: The settings.
            basis: The hashes of what the run is based on.

        Raises:
            StorageError: The disk refused.
        """
        with writing_to(self.path):
            shutil.rmtree(self._states, ignore_errors=True)
            for file in (self.best, self.history):
                file.unlink(missing_ok=True)
        settings = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(config).items()}
        for name in _PLACES:
            settings[name] = str(Path(settings[name]).resolve())
        self._write(
            {"format": _FORMAT, "settings": settings, "basis": dict(basis), "finished": None}
        )

    def settle(self, found: Mapping[str, Scalar]) -> None:
        """Write down settings that were found, for the run to go on with.

        Raises:
            StorageError: The disk refused.
        """
        content = self._read()
        if content["settings"] | found != content["settings"]:
            self._write(content | {"settings": content["settings"] | found})

    def check_basis(self, basis: Mapping[str, str | None]) -> None:
        """See that a run goes on with what it began with.

        Raises:
            UsageError: It is not that.
        """
        before = self._read()["basis"]
        changed = [name for name, value in basis.items() if before.get(name) != value]
        if changed:
            raise UsageError(
                f"The {' and '.join(changed)} are no longer what the run in {self.path} began "
                "with, so it cannot go on.",
                hint="Put them back, or begin anew with --overwrite.",
            )

    def finish(self, bundle: Path) -> None:
        """Note where the bundle is, and drop the states."""
        self._write(self._read() | {"finished": str(bundle.resolve())})
        shutil.rmtree(self._states, ignore_errors=True)

    def settings(self) -> FinetuneConfig:
        """Read the settings of a run that is not finished.

        Raises:
            UsageError: There is none, or it is finished.
        """
        content = self._read()
        if content["finished"]:
            raise UsageError(
                f"The run in {self.path} is finished: its bundle is {content['finished']}.",
                hint="Begin another with other --epochs and another --name; "
                f"--weights {self.best} goes on from its weights.",
            )
        settings = {
            name: checked(name, value, f"{self.path / _SETTINGS}: {name} = {value!r}")
            for name, value in content["settings"].items()
        }
        # Where the folder is now, should it have been moved.
        place = self.path.resolve()
        return replace(FinetuneConfig(**settings), runs=place.parent, name=place.name)

    def is_unfinished(self) -> bool:
        """Tell whether a run was begun here that has no bundle yet."""
        return (self.path / _SETTINGS).is_file() and not self._read()["finished"]

    def has_states(self) -> bool:
        """Tell whether there is a state to go on from."""
        return bool(self._saved())

    def save(self, position: str, state: State) -> None:
        """Keep a state beside the last one, with the best weights that belong to it.

        Args:
            position: Its name; a later one sorts after it.
            state: What :meth:`latest` is to give.

        Raises:
            StorageError: The disk refused.
        """
        place = self._states / position
        if place.exists():
            return
        # Beside the states and not among them, so that what a killed process left is no state.
        temporary = self.path / f".{position}.tmp"
        with writing_to(self.path):
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
            self._states.mkdir(exist_ok=True)
            buffer = io.BytesIO()
            torch.save(state, buffer)
            (temporary / _TRAINING).write_bytes(buffer.getbuffer())
            flush_to_disk(temporary / _TRAINING)
            if self.best.exists():
                _link(self.best, temporary / self.best.name)
            flush_to_disk(temporary)
            temporary.rename(place)
            flush_to_disk(self._states)
            for old in self._saved()[:-_KEPT_STATES]:
                shutil.rmtree(old)

    def latest(self) -> State | None:
        """Load the last state, and bring back the best weights that belong to it.

        Raises:
            StorageError: States are there, and none can be read.
        """
        for leftover in self.path.glob(".*.tmp"):
            if leftover.is_dir():
                shutil.rmtree(leftover)
            else:
                leftover.unlink()
        reasons = []
        for place in reversed(self._saved()):
            try:
                state: State = torch.load(place / _TRAINING, "cpu", weights_only=True)
            # A damaged file makes torch raise whatever its damaged part stands for.
            except Exception as error:  # noqa: BLE001
                reasons.append(f"{place.name}: {' '.join(str(error).split())[:200]}")
                continue
            with writing_to(self.path):
                self.best.unlink(missing_ok=True)
                if (place / self.best.name).exists():
                    _link(place / self.best.name, self.best)
            return state
        if reasons:
            raise StorageError(
                f"No state in {self._states} can be read: {'; '.join(reasons)}.",
                hint="Begin anew with --overwrite.",
            )
        return None

    def _saved(self) -> list[Path]:
        return sorted(self._states.glob("[0-9]*"))

    def _read(self) -> dict[str, Any]:
        try:
            content = json.loads((self.path / _SETTINGS).read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise UsageError(
                f"{self.path} is no folder of a run: its {_SETTINGS} cannot be read.",
                hint="--resume takes runs/<name>.",
            ) from error
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise UsageError(
                f"{self.path / _SETTINGS} was written by another version of tlserve.",
                hint="Begin anew with --overwrite.",
            )
        return content

    def _write(self, content: dict[str, Any]) -> None:
        with replacing(self.path / _SETTINGS) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n", "utf-8")


def _link(source: Path, target: Path) -> None:
    """Give a file a second name; where the file system has no such thing, copy it."""
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)
        flush_to_disk(target)
