"""The files of Compose: by the specification's schema, and by what they promise."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.guard.keys import KeyRing
from service.settings import Settings
from tests.deploy.conftest import program

_FILES = ("compose.yaml", "compose.gpu.yaml")


@pytest.fixture
def services(compose: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((compose / "compose.yaml").read_text())["services"]
    return found


def _checked(path: Path) -> subprocess.CompletedProcess[str]:
    checker = Path(sys.executable).with_name("check-jsonschema")
    return subprocess.run(
        [checker, "--builtin-schema", "vendor.compose-spec", path],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("name", _FILES)
def test_it_follows_the_specification(name: str, compose: Path) -> None:
    checked = _checked(compose / name)
    assert checked.returncode == 0, checked.stdout


def test_the_schema_refuses_what_is_wrong(compose: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "compose.yaml"
    wrong.write_text((compose / "compose.yaml").read_text().replace("read_only:", "readonly:"))
    assert "readonly" in _checked(wrong).stdout


def test_docker_compose_reads_both(compose: Path) -> None:
    command = [program("docker"), "compose"]
    if subprocess.run([*command, "version"], capture_output=True, check=False).returncode:
        pytest.skip("needs Docker's compose plug-in")
    files = [part for name in _FILES for part in ("--file", compose / name)]

    def read(**environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *files, "config"],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    given = read(TLSERVE_IMAGE="tlserve-test")
    assert given.returncode == 0, given.stderr
    service = yaml.safe_load(given.stdout)["services"]["tlserve"]
    assert service["image"] == "tlserve-test"
    assert service["environment"]["TLSERVE_DEVICE"] == "cuda"
    missing = read(TLSERVE_IMAGE="")
    assert missing.returncode != 0
    assert "tlserve containerize" in missing.stderr


def test_every_container_is_locked_down(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        user, _, _ = service["user"].partition(":")
        assert int(user) > 0, name
        assert "mem_limit" in service, name
        assert {"cpus", "cpuset"} & set(service), name
        # podman would split a part at its blanks.
        assert not any(" " in part for part in service["healthcheck"]["test"]), name
        assert all(port.startswith("127.0.0.1:") for port in service["ports"]), name


def test_what_is_not_ours_is_pinned(services: dict[str, Any]) -> None:
    for name in services.keys() - {"tlserve"}:
        assert re.fullmatch(r"[\w/]+:v?\d+\.\d+\.\d+@sha256:[0-9a-f]{64}", services[name]["image"])


def test_the_service_knows_its_variables(services: dict[str, Any]) -> None:
    environment = services["tlserve"]["environment"]
    options = {"TLSERVE_HOST", "TLSERVE_HTTP_PORT"}
    settings = {f"TLSERVE_{name.upper()}" for name in Settings.model_fields}
    assert environment.keys() <= settings | options


def test_what_is_mounted_is_there(compose: Path, services: dict[str, Any]) -> None:
    bound = [
        volume.split(":")
        for service in services.values()
        for volume in service.get("volumes", ())
        if volume.startswith("./")
    ]
    assert bound
    for source, _, mode in bound:
        assert (compose / source).is_dir(), source
        assert mode == "ro"


def test_the_secrets_are_made_once_and_fit(compose: Path, tmp_path: Path) -> None:
    script = tmp_path / "make-secrets"
    script.write_bytes((compose / "make-secrets").read_bytes())
    script.chmod(0o755)
    tlserve = str(Path(sys.executable).with_name("tlserve"))

    def made() -> dict[str, bytes]:
        subprocess.run([script], env={"PATH": "/usr/bin:/bin", "TLSERVE": tlserve}, check=True)
        return {path.name: path.read_bytes() for path in (tmp_path / "secrets").iterdir()}

    first = made()
    secrets = yaml.safe_load((compose / "compose.yaml").read_text())["secrets"]
    assert {Path(secret["file"]).name for secret in secrets.values()} | {"client-key"} == set(first)
    assert made() == first, "what is there stays"
    ring = KeyRing(None, tmp_path / "secrets" / "api-keys")
    assert ring.name_of(first["metrics-key"]) == "prometheus"
    assert ring.name_of(first["client-key"]) == "client"
    assert len(first["grafana-password"]) >= 32
    assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == 0o700
    for path in (tmp_path / "secrets").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o644, path


def test_without_tlserve_no_secret_is_made(compose: Path, tmp_path: Path) -> None:
    script = tmp_path / "make-secrets"
    script.write_bytes((compose / "make-secrets").read_bytes())
    script.chmod(0o755)
    failed = subprocess.run(
        [script],
        env={"PATH": "/usr/bin:/bin", "TLSERVE": "no-such-program"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert failed.returncode != 0
    assert "no-such-program" in failed.stderr
    assert not list((tmp_path / "secrets").iterdir())
