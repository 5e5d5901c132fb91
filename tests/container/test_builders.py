"""Command lines, and what is said where a build fails."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from tlserve.container.builders import BUILDERS, build_command, find_builder, run_build
from tlserve.errors import ExportError, MissingDependencyError, UsageError


def _program(folder: Path, name: str, script: str) -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_docker() -> None:
    command = build_command(
        BUILDERS["docker"],
        Path("context"),
        secrets=[("pip", Path("pip.conf"))],
        epoch="1700000000",
        tag="bees:1",
        id_file=Path("id"),
    )
    assert " ".join(command) == (
        "docker build --progress plain --target image --secret id=pip,src=pip.conf "
        "--build-arg SOURCE_DATE_EPOCH=1700000000 --tag bees:1 --iidfile id context"
    )


@pytest.mark.parametrize("name", ["podman", "buildah"])
def test_podman_and_buildah(name: str) -> None:
    command = build_command(
        BUILDERS[name], Path("context"), epoch="1700000000", target="sbom", output=Path("out")
    )
    assert " ".join(command) == (
        f"{name} build --format docker --layers --target sbom --timestamp 1700000000 "
        "--output type=local,dest=out context"
    )


def test_the_first_that_is_installed_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        MissingDependencyError, match="docker or podman or buildah must be"
    ) as error:
        find_builder()
    assert "--dockerfile-only" in error.value.hint
    _program(tmp_path, "buildah", "true")
    assert find_builder().name == "buildah"
    _program(tmp_path, "podman", "true")
    assert find_builder().name == "podman"
    assert find_builder("buildah").name == "buildah"
    with pytest.raises(MissingDependencyError, match="docker must be installed"):
        find_builder("docker")
    with pytest.raises(UsageError, match="Unknown builder 'kaniko'"):
        find_builder("kaniko")


@pytest.mark.parametrize(
    "line",
    [
        "[1/5] STEP 3/4: RUN python3 -m pip install",
        "STEP 3/4: RUN python3 -m pip install",
        "#9 [packages 3/4] RUN python3 -m pip install",
    ],
)
def test_a_failure_names_the_step_and_the_last_words(tmp_path: Path, line: str) -> None:
    script = f"echo '{line}'; echo 'no such package' >&2; exit 3"
    told: list[str] = []
    with pytest.raises(ExportError) as error:
        run_build([str(_program(tmp_path, "builder", script))], told.append, os.environ)
    assert told == [line, "no such package"]
    assert "ended with status 3 in the step `" in error.value.message
    assert "RUN python3 -m pip install`" in error.value.message
    assert "no such package" in error.value.message


@pytest.mark.parametrize(
    "verdict",
    [
        'ERROR: failed to solve: process "/bin/sh -c pip install" did not complete successfully',
        "executor failed running [/bin/sh -c pip install]: exit code: 1",
    ],
)
def test_of_steps_side_by_side_the_one_that_failed_is_named(tmp_path: Path, verdict: str) -> None:
    lines = ("#9 [packages 3/4] RUN pip install", "#10 [image 2/4] RUN python3 slim.py", verdict)
    script = "; ".join(f"echo '{line}'" for line in lines) + "; exit 1"
    with pytest.raises(ExportError, match="in the step `/bin/sh -c pip install`"):
        run_build([str(_program(tmp_path, "builder", script))], lambda _: None, os.environ)


def test_a_model_that_answers_otherwise_is_said_as_that(tmp_path: Path) -> None:
    script = "echo 'STEP 3/4: RUN python -m tlserve verify /opt/bento/model'; echo off; exit 1"
    with pytest.raises(ExportError, match="does not answer as it did when it was trained"):
        run_build([str(_program(tmp_path, "builder", script))], lambda _: None, os.environ)


def test_lines_are_told_while_it_runs(tmp_path: Path) -> None:
    # The program waits for what is only written when its first line has been told.
    seen = tmp_path / "seen"
    script = f"echo first; while [ ! -e {seen} ]; do sleep 0.05; done; echo second"
    told: list[str] = []

    def tell(line: str) -> None:
        told.append(line)
        seen.touch()

    run_build([str(_program(tmp_path, "builder", script))], tell, os.environ)
    assert told == ["first", "second"]
