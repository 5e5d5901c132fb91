"""Starting the load generator."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.load.plan import Plan
from benchmarks.load.tally import Report

_ROOT = Path(__file__).resolve().parent.parent.parent


def begin(plan: Plan) -> subprocess.Popen[str]:
    """Start a load; :func:`end` waits for what it finds."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.load"],
        cwd=_ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None  # noqa: S101 - asked for above
    with process.stdin as stdin:
        stdin.write(plan.to_json())
    return process


def end(process: subprocess.Popen[str]) -> Report:
    """Wait for the report of a load."""
    assert process.stdout is not None  # noqa: S101 - asked for above
    with process.stdout as stdout:
        text = stdout.read()
    if process.wait():
        sys.exit("The load generator failed; what it wrote is above.")
    return Report(**json.loads(text))


def drive(plan: Plan) -> Report:
    """Run a load from start to end."""
    return end(begin(plan))
