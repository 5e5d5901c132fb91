"""How packages are reached here: pip's configuration, as secrets of the build.

The builder's pip has none of this machine's files. It is told what they and the environment say of
the index, of proxies and of certificates; what names a file or folder of this machine is left out,
but for the certificates, which come along.
"""

from __future__ import annotations

import configparser
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tlserve.errors import UsageError

_OPTIONS = (
    "index-url",
    "extra-index-url",
    "find-links",
    "no-index",
    "trusted-host",
    "proxy",
    "timeout",
    "retries",
)
_LISTS = ("extra-index-url", "find-links")
_SECTIONS = ("global", "install")
_CERTIFICATES = "/run/secrets/ca.pem"


@dataclass(frozen=True)
class Index:
    """What the builder's pip is told.

    Attributes:
        options: Of pip, by their long names.
        certificates: Whom to trust (PEM); ``None``: whom pip trusts by itself.
    """

    options: Mapping[str, str]
    certificates: Path | None = None

    def secrets(self, folder: Path) -> list[tuple[str, Path]]:
        """Write the files that are mounted while packages are installed.

        Args:
            folder: For the configuration; nobody else may read it.

        Returns:
            The id and the file of each.
        """
        options = dict(self.options)
        found = []
        if self.certificates:
            options["cert"] = _CERTIFICATES
            found.append(("ca", self.certificates))
        if options:
            path = folder / "pip.conf"
            parser = configparser.RawConfigParser()
            parser["global"] = options
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                parser.write(file)
            found.append(("pip", path))
        return found


def from_file(path: Path) -> Index:
    """Read one pip configuration file, and nothing else.

    Raises:
        UsageError: There is no such file, or it is none.
    """
    if not path.is_file():
        raise UsageError(
            f"--pip-config {path}: there is no such file.",
            hint="Without the option, pip's own configuration on this machine is taken.",
        )
    return _index(_read(path))


def from_machine(environment: Mapping[str, str]) -> Index:
    """Read what pip would: its files, the more special one later, then ``PIP_…``.

    Raises:
        UsageError: One of the files is none.
    """
    options: dict[str, str] = {}
    for path in _files(environment):
        if path.is_file():
            options |= _read(path)
    for name in (*_OPTIONS, "cert"):
        value = environment.get("PIP_" + name.upper().replace("-", "_"))
        if value:
            options[name] = value
    return _index(options)


def _files(environment: Mapping[str, str]) -> list[Path]:
    special = environment.get("PIP_CONFIG_FILE")
    if special == os.devnull:
        return []
    home = Path(environment.get("HOME") or "/")
    user = Path(environment.get("XDG_CONFIG_HOME") or home / ".config")
    everybody = (environment.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(":")
    return [
        *(Path(folder) / "pip" / "pip.conf" for folder in everybody),
        Path("/etc/pip.conf"),
        home / ".pip" / "pip.conf",
        user / "pip" / "pip.conf",
        Path(sys.prefix) / "pip.conf",
        *([Path(special)] if special else []),
    ]


def _read(path: Path) -> dict[str, str]:
    parser = configparser.RawConfigParser()
    try:
        parser.read_string(path.read_text("utf-8"), str(path))
    except (OSError, UnicodeDecodeError, configparser.Error) as error:
        reason = " ".join(str(error).split())
        raise UsageError(
            f"{path} is not a configuration of pip that can be read: {reason}.",
            hint="Mend it, or name another with --pip-config FILE.",
        ) from error
    found: dict[str, str] = {}
    for section in _SECTIONS:
        if parser.has_section(section):
            found |= {name.replace("_", "-"): value for name, value in parser.items(section)}
    return found


def _index(options: Mapping[str, str]) -> Index:
    kept = {name: value for name in _OPTIONS if (value := options.get(name, "").strip())}
    for name in _LISTS:
        remote = [one for one in kept.get(name, "").split() if _is_remote(one)]
        kept.pop(name, None)
        if remote:
            kept[name] = "\n".join(remote)
    certificates = options.get("cert")
    return Index(kept, Path(certificates) if certificates else None)


def _is_remote(place: str) -> bool:
    return place.startswith(("http://", "https://"))
