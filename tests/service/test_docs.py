"""docs/http.md says what the service does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from service.faces import problems
from service.faces.openapi import PATHS


@pytest.fixture
def page(repository: Path) -> str:
    return (repository / "docs" / "http.md").read_text("utf-8")


def test_the_table_of_errors_is_complete(page: str) -> None:
    rows = [f"| {kind.status} | `{kind.name}` | {kind.title} |" for kind in problems.KINDS]
    table = "\n".join(["| status | kind | what it is |", "|---|---|---|", *rows])
    begin, end = "<!-- problems: begin -->\n", "\n<!-- problems: end -->"
    assert page.partition(begin)[2].partition(end)[0] == table


def test_it_names_every_path(page: str) -> None:
    named = set(re.findall(r"(/[a-z0-9/{}._]+)`", page.partition("## One image")[0]))
    versions = {path for path in PATHS if "{version}" in path}
    assert set(PATHS) - versions <= named
    assert named <= set(PATHS) | {"/versions/{version}"}
