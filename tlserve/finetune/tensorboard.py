"""A run as a TensorBoard log. Nothing else imports tensorboardX, and this only where it is used.

Its ``SummaryWriter`` writes in a thread, whose ``flush`` does not wait for what is queued and whose
errors nobody hears of. Here the events are written at once, and what the disk refuses is raised.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from tlserve.bundle.files import writing_to
from tlserve.bundle.manifest import Epoch, Scalar
from tlserve.errors import MissingDependencyError
from tlserve.finetune.events import Events

try:
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event, SessionLog
    from tensorboardX.proto.summary_pb2 import Summary
    from tensorboardX.summary import scalar, text
except ModuleNotFoundError as error:
    raise MissingDependencyError(
        f"A TensorBoard log needs the library tensorboardX, but {error.name} is not installed.",
        hint="Install the extra: pip install 'tlserve[train]'; or pass --no-tensorboard.",
    ) from error

_EVENT_FILES = "events.out.tfevents.*"


class TensorBoardLog(Events):
    """Writes the settings of a run as text, and the numbers of each epoch as scalars.

    The step is the number of the epoch. Each epoch is on the disk when it is over. A run that
    begins with epoch 1 replaces the log of the one before it; one that goes on with a later epoch
    continues it, and TensorBoard hides what was logged of that epoch and later ones before.
    """

    def __init__(self, folder: Path) -> None:
        """Prepare a log; nothing is written before the first epoch.

        Args:
            folder: For the event files; it need not exist.
        """
        self._folder = folder
        self._settings: Mapping[str, Scalar] = {}
        self._writer: EventsWriter | None = None

    def settings(self, settings: Mapping[str, Scalar]) -> None:
        """Keep them until the log is begun."""
        self._settings = settings

    def begin_epoch(self, number: int, epochs: int, images: int) -> None:
        """Begin the log with the first epoch.

        Raises:
            StorageError: The disk refused.
        """
        if self._writer is not None:
            return
        with writing_to(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            if number == 1:
                for file in self._folder.glob(_EVENT_FILES):
                    file.unlink()
            # The library takes what stands before a colon for a protocol, unless a slash does.
            prefix = self._folder.absolute() / "events"
            # The file's name has the second and the host in it, which alone may be taken.
            self._writer = EventsWriter(str(prefix), f".{number}")
        if number > 1:
            self._write(number, session_log=SessionLog(status=SessionLog.START))
        self._write(number, summary=text("settings", _table(self._settings)))

    def epoch(self, epoch: Epoch, epochs: int, *, best: bool) -> None:
        """Write an epoch's numbers.

        Raises:
            StorageError: The disk refused.
        """
        numbers = {
            "train/loss": epoch.train_loss,
            "val/loss": epoch.val_loss,
            "val/accuracy": epoch.val_accuracy,
            "lr": epoch.lr,
            "images_per_second": epoch.images_per_second,
        }
        for tag, number in numbers.items():
            if number is not None:
                self._write(epoch.epoch, summary=scalar(tag, number))
        if self._writer is not None:
            with writing_to(self._folder):
                self._writer.flush()

    def close(self) -> None:
        """Close the log.

        Raises:
            StorageError: The disk refused.
        """
        if self._writer is not None:
            with writing_to(self._folder):
                self._writer.close()
            self._writer = None

    def _write(
        self, step: int, *, summary: Summary | None = None, session_log: SessionLog | None = None
    ) -> None:
        if self._writer is None:
            return
        event = Event(wall_time=time.time(), step=step, summary=summary, session_log=session_log)
        with writing_to(self._folder):
            self._writer.write_event(event)


def _table(settings: Mapping[str, Scalar]) -> str:
    """Write settings as a table in Markdown, which is what TensorBoard shows."""
    rows = [f"| {name} | {value} |" for name, value in settings.items()]
    return "\n".join(["| setting | value |", "|---|---|", *rows])
