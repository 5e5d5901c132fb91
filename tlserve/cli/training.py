"""What `tlserve finetune` does with its options: begins a run, or goes on with one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import typer

from tlserve.bundle import Bundle
from tlserve.cli.reporting import Report
from tlserve.errors import RunInterruptedError, StorageError, UsageError
from tlserve.finetune import run
from tlserve.finetune.config import FinetuneConfig
from tlserve.finetune.config_file import checked, read_settings
from tlserve.finetune.events import Events, Several
from tlserve.finetune.ranks import joined
from tlserve.finetune.run_folder import RunFolder

_NO_SETTINGS = frozenset({"config", "resume", "quiet", "as_json", "tensorboard"})
"""Options that say nothing of the run itself."""

_RESUMABLE = frozenset(
    {"data", "device", "workers", "cache_budget", "save_every", "time_limit", "overwrite"}
)
"""What may be said anew when a run goes on."""


def begin(
    context: typer.Context,
    report: Report,
    data: Path | None,
    config: Path | None,
    *,
    tensorboard: bool,
) -> None:
    """Begin a run with the settings of a file and, over them, the options that were given.

    Raises:
        UsageError: There are no images, or a setting is none.
    """
    if data is None:
        raise UsageError(
            "There are no images to train on: DATA is missing.",
            hint="tlserve finetune DATA, with one folder a class; or --resume runs/<name>.",
        )
    given = {name: value for name, value in _given(context).items() if name != "data"}
    settings = ({} if config is None else read_settings(config)) | given
    stem = data.resolve().name or "model"
    # An architecture of another library has a slash in its name.
    arch = settings.get("arch", FinetuneConfig.arch)
    settings.setdefault("name", f"{stem}-{arch}".replace("/", "-"))
    resolved = FinetuneConfig(data=data, **settings)
    folder = resolved.runs / resolved.name
    with joined(resolved.device) as ranks:
        _follow(
            lambda events: run.begin(resolved, events, ranks),
            folder,
            report if ranks.main else Report(),
            tensorboard=tensorboard and ranks.main,
        )


def resume(context: typer.Context, report: Report, folder: Path, *, tensorboard: bool) -> None:
    """Go on with the run of a folder.

    Raises:
        UsageError: An option would make it another run.
    """
    changes = _given(context)
    others = sorted(set(changes) - _RESUMABLE)
    if others:
        raise UsageError(
            f"--resume goes on with a run as it was begun, and --{others[0].replace('_', '-')} "
            "would change it.",
            hint="Leave it away, or begin another run with another --name.",
        )
    device = changes.get("device") or RunFolder(folder).settings().device
    with joined(device) as ranks:
        _follow(
            lambda events: run.resume(folder, changes, events, ranks),
            folder,
            report if ranks.main else Report(),
            tensorboard=tensorboard and ranks.main,
        )


def _given(context: typer.Context) -> dict[str, Any]:
    """Collect the settings that were given as options, checked."""
    given = {}
    for name, value in context.params.items():
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE" and name not in _NO_SETTINGS:
            given[name] = checked(name, value, f"--{name.replace('_', '-')} {value}")
    return given


def _follow(
    work: Callable[[Events], Bundle | None], folder: Path, report: Report, *, tensorboard: bool
) -> None:
    """Report a run while it goes on, and say how to go on with it should it end early."""
    events: Events = report
    with ExitStack() as stack:
        if tensorboard:
            from tlserve.finetune.tensorboard import TensorBoardLog

            log = stack.enter_context(closing(TensorBoardLog(folder / "tensorboard")))
            events = Several(report, log)
        try:
            bundle = work(events)
        except KeyboardInterrupt as interruption:
            raise RunInterruptedError(
                "Interrupted: nothing half-written was left behind.", hint=_how_to_go_on(folder)
            ) from interruption
        except StorageError as error:
            raise StorageError(
                error.message, hint=f"{error.hint} {_how_to_go_on(folder)}".strip()
            ) from error
        finally:
            report.end()
    if bundle is not None:
        report.bundle(bundle)


def _how_to_go_on(folder: Path) -> str:
    if not RunFolder(folder).has_states():
        return ""
    return f"Go on with tlserve finetune --resume {folder}"
