"""Outcomes as lines of JSON, and the part of a page that is written from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tlserve.bundle.files import replacing

Row = dict[str, Any]


def read_rows(path: Path) -> list[Row]:
    """Read all outcomes; none where there is no file yet."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def add_rows(path: Path, rows: list[Row]) -> None:
    """Append outcomes."""
    path.parent.mkdir(exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def replace_section(page: Path, name: str, text: str) -> None:
    """Replace what lies between the two marks ``<!-- NAME: begin -->`` and ``<!-- NAME: end -->``.

    Raises:
        ValueError: The page lacks a mark.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, found, rest = page.read_text("utf-8").partition(begin)
    _, found_end, after = rest.partition(end)
    if not (found and found_end):
        raise ValueError(f"{page} lacks {begin} or {end}")
    with replacing(page) as temporary:
        temporary.write_text(f"{before}{begin}\n{text}\n{end}{after}", "utf-8")
