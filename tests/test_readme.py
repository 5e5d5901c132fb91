"""The README's code does what it says."""

from __future__ import annotations

import contextlib
import io
import re
import shutil
from pathlib import Path

import pytest

from tests.service.server import running


def test_the_python_block_gets_an_answer(
    repository: Path, exported: Path, colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readme = (repository / "README.md").read_text("utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    shutil.copy(colours / "val" / "red" / "101.jpg", tmp_path / "bee.jpg")
    monkeypatch.chdir(tmp_path)
    output = io.StringIO()
    with running(exported) as server, contextlib.redirect_stdout(output):
        code = block.replace("http://127.0.0.1:3000", server.url)
        assert code != block
        exec(compile(code, "README.md", "exec"), {})  # noqa: S102
    label, probability = output.getvalue().split()
    assert label in ("blue", "green", "red")
    assert 0 < float(probability) <= 1
