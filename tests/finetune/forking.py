"""Starts `tlserve` many times without importing its libraries as often.

Reads a command's arguments a line, as JSON, and forks a process for each; writes its number, and
when it ends its exit status. The first argument is the file for what the command prints.
"""

from __future__ import annotations

import json
import os
import sys
import traceback


def main() -> None:
    import torch

    import tlserve.cli.reporting
    import tlserve.finetune.run
    from tlserve.cli.main import main as command

    assert tlserve.finetune.run
    assert tlserve.cli.reporting
    # Threads do not survive a fork, so there must be none.
    torch.set_num_threads(1)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            log, *arguments = json.loads(line)
            sys.argv = ["tlserve", *arguments]
            descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            for stream in (1, 2):
                os.dup2(descriptor, stream)
            status = 1
            try:
                command()
            except SystemExit as end:
                status = int(end.code or 0)
            except BaseException:  # noqa: BLE001 - a child never comes back into the loop
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                os._exit(status)
        _say(f"started {child}")
        _, ended = os.waitpid(child, 0)
        _say(f"ended {os.waitstatus_to_exitcode(ended)}")


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
