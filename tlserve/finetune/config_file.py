"""Settings from a file, which say the same as the options of the command line."""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError

from tlserve.bundle.reading import MANIFEST
from tlserve.errors import UsageError
from tlserve.finetune.config import FinetuneConfig

_NOT_IN_A_FILE = frozenset({"data"})


def read_settings(path: Path) -> dict[str, Any]:
    """Read settings of :class:`~tlserve.finetune.config.FinetuneConfig`.

    Args:
        path: A ``.toml``, ``.yaml`` or ``.json`` file of settings, named as the options are, with
            ``-`` or ``_``; a bundle, or its ``bundle.json``: the settings that it was trained with.

    Raises:
        UsageError: The file cannot be read, or says something that no option does.
    """
    if path.is_dir() and (path / MANIFEST).is_file():
        path = path / MANIFEST
    content = _parse(path)
    if not isinstance(content, dict):
        raise UsageError(f"{path} holds a {type(content).__name__}, not settings by their names.")
    if path.name == MANIFEST and isinstance(content.get("training"), dict):
        content = content["training"]
    return dict(_setting(path, key, value) for key, value in content.items())


def _parse(path: Path) -> Any:
    parsers = {
        ".toml": tomllib.loads,
        ".yaml": yaml.safe_load,
        ".yml": yaml.safe_load,
        ".json": json.loads,
    }
    if path.suffix.lower() not in parsers:
        raise UsageError(
            f"{path} is no settings file by its name.",
            hint=f"--config takes a bundle, or a file that ends in {', '.join(parsers)}.",
        )
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UsageError(f"The settings file {path} cannot be read: {reason}.") from error
    try:
        return parsers[path.suffix.lower()](text)
    except (ValueError, yaml.YAMLError) as error:
        raise UsageError(
            f"{path} is not valid {path.suffix[1:].upper()}: {' '.join(str(error).split())}"
        ) from error


def _setting(path: Path, key: object, value: Any) -> tuple[str, Any]:
    name = str(key).replace("-", "_")
    known = [field.name for field in fields(FinetuneConfig) if field.name not in _NOT_IN_A_FILE]
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        raise UsageError(
            f"{path}: there is no setting {key!r}.",
            hint=f"Did you mean {near[0]}?" if near else f"Known: {', '.join(known)}.",
        )
    return name, checked(name, value, f"{path}: {key} = {value!r}")


def checked(name: str, value: Any, said: str) -> Any:
    """See that a value has the type of a setting.

    Args:
        name: The setting's.
        value: As it was written.
        said: How an error begins.

    Raises:
        UsageError: It has not; the rule is named.
    """
    hints: Mapping[str, Any] = get_type_hints(FinetuneConfig)
    try:
        return TypeAdapter(hints[name]).validate_python(value)
    except ValidationError as error:
        rules = dict.fromkeys(str(problem["msg"]) for problem in error.errors())
        raise UsageError(f"{said}: {'; or '.join(rules)}.") from error
