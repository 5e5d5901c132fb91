"""What the builder's pip is told of this machine's configuration, and what not."""

from __future__ import annotations

import configparser
import stat
from pathlib import Path

import pytest

from tlserve.container.index import Index, from_file, from_machine
from tlserve.errors import UsageError

URL = "https://user:word@packages.example/simple"


def _home(folder: Path, text: str) -> dict[str, str]:
    place = folder / ".config" / "pip" / "pip.conf"
    place.parent.mkdir(parents=True)
    place.write_text(text, "utf-8")
    return {"HOME": str(folder), "XDG_CONFIG_DIRS": str(folder / "none")}


def test_files_and_variables_are_read_in_pip_s_order(tmp_path: Path) -> None:
    machine = _home(tmp_path, f"[global]\nindex-url = {URL}\ntimeout = 7\n[install]\nretries=2\n")
    index = from_machine({**machine, "PIP_TIMEOUT": "30"})
    assert index.options["index-url"] == URL
    assert index.options["timeout"] == "30"
    assert index.options["retries"] == "2"


def test_a_configuration_that_is_named_comes_later(tmp_path: Path) -> None:
    machine = _home(tmp_path, f"[global]\nindex-url = {URL}\n")
    special = tmp_path / "special.conf"
    special.write_text("[global]\nindex_url = https://other.example/simple\n")
    index = from_machine({**machine, "PIP_CONFIG_FILE": str(special)})
    assert index.options["index-url"] == "https://other.example/simple"
    assert from_machine({**machine, "PIP_CONFIG_FILE": "/dev/null"}) == Index({})


def test_this_machine_s_folders_are_left_out_but_for_certificates(tmp_path: Path) -> None:
    file = tmp_path / "pip.conf"
    file.write_text(
        "[global]\nfind-links = /opt/wheels\n  https://a.example/wheels\n"
        "extra-index-url = file:///opt/simple https://b.example/simple\n"
        "cert = /etc/ssl/ca.pem\ncache-dir = /var/cache/pip\nuser = true\n"
    )
    index = from_file(file)
    assert index.options == {
        "find-links": "https://a.example/wheels",
        "extra-index-url": "https://b.example/simple",
    }
    assert index.certificates == Path("/etc/ssl/ca.pem")


def test_the_secrets_are_for_nobody_else(tmp_path: Path) -> None:
    authority = tmp_path / "authority.pem"
    authority.write_text("certificate")
    secrets = dict(Index({"index-url": URL}, authority).secrets(tmp_path))
    assert secrets["ca"] == authority
    written = secrets["pip"]
    assert stat.S_IMODE(written.stat().st_mode) == 0o600
    parser = configparser.RawConfigParser()
    parser.read(written)
    assert dict(parser["global"]) == {"index-url": URL, "cert": "/run/secrets/ca.pem"}


def test_nothing_to_say_is_no_secret(tmp_path: Path) -> None:
    assert Index({}).secrets(tmp_path) == []
    assert [*tmp_path.iterdir()] == []


def test_what_is_no_configuration_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no such file"):
        from_file(tmp_path / "absent.conf")
    broken = tmp_path / "broken.conf"
    broken.write_text("index-url = x\n")
    with pytest.raises(UsageError, match=r"broken\.conf is not a configuration of pip"):
        from_file(broken)
