"""Starts `tlserve` many times without importing its libraries as often.

Reads a command a line, as JSON, and forks a process for each; writes its number, and when it ends
its exit status. The process has the arguments, environment, working directory and files for its
output that the command says.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

LIBRARIES = (
    *("torch", "torchvision", "onnx"),
    *("export.run", "tlserve.cli.reporting", "tlserve.finetune.run", "tlserve.runtime.onnx"),
)


def main() -> None:
    for name in LIBRARIES:
        importlib.import_module(name)
    import torch

    from tlserve.cli.main import main as command

    torch.set_num_threads(1)
    threads = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    assert len(threads) == 1, f"threads do not survive a fork: {threads}"
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                become(json.loads(line))
                command()
            except SystemExit as end:
                status = int(end.code or 0)
            except BaseException:  # noqa: BLE001 - a child never comes back into the loop
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        say(f"started {child}")
        _, ended = os.waitpid(child, 0)
        say(f"ended {os.waitstatus_to_exitcode(ended)}")


def become(asked: dict[str, Any]) -> None:
    os.environ.clear()
    os.environ.update(asked["environment"])
    os.chdir(asked["folder"])
    sys.argv = ["tlserve", *asked["arguments"]]
    for stream, path in ((1, asked["output"]), (2, asked["errors"])):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(descriptor, stream)
        os.close(descriptor)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
