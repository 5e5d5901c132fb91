"""Who is told what happens in a run."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from tlserve.bundle.manifest import Epoch
from tlserve.finetune.events import Events, Several

EPOCH = Epoch(epoch=1, train_loss=1, val_loss=1, val_accuracy=1, lr=1, seconds=1)
CALLS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "message": (("text",), {}),
    "problems": (([],), {}),
    "settings": (({"lr": 0.1},), {}),
    "begin": (("task", 3), {}),
    "begin_epoch": ((1, 2, 3), {}),
    "advance": ((2,), {}),
    "training_loss": ((0.5,), {}),
    "end": ((), {}),
    "epoch": ((EPOCH, 2), {"best": True}),
}


def test_these_are_all_events() -> None:
    names = {n for n, _ in inspect.getmembers(Events, inspect.isfunction) if n[0] != "_"}
    assert names == set(CALLS)


@pytest.mark.parametrize("name", CALLS)
def test_several_are_told_each_event_with_all_it_says(name: str) -> None:
    heard: list[tuple[str, Any]] = []

    class Listener(Events):
        def __init__(self, own: str) -> None:
            self.own = own

        def __getattribute__(self, attribute: str) -> Any:
            if attribute != name:
                return super().__getattribute__(attribute)
            return lambda *given, **named: heard.append((self.own, (given, named)))

    arguments, named = CALLS[name]
    getattr(Several(Listener("first"), Listener("second")), name)(*arguments, **named)
    assert heard == [("first", CALLS[name]), ("second", CALLS[name])]


def test_an_epoch_begins_as_any_task_does() -> None:
    begun: list[tuple[str, int]] = []

    class Listener(Events):
        def begin(self, task: str, total: int) -> None:
            begun.append((task, total))

    Listener().begin_epoch(2, 20, 244)
    assert begun == [("epoch 2/20", 244)]
