"""Docker, podman and buildah: the same Dockerfile, three command lines."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tlserve.errors import ExportError, MissingDependencyError, UsageError

_STEP = re.compile(r"^(?:STEP \d+/\d+: |\[\d+/\d+\] STEP \d+/\d+: |#\d+ (?=\[))(.*)")
"""The line that begins a step: as buildah and podman write it, and as BuildKit does."""

_FAILED = re.compile(
    r'(?:failed to solve: process "|executor failed running \[)(.*)(?:" did not complete|\]: exit)'
)
"""BuildKit runs steps side by side: the last that began need not be the one that failed."""

_VERIFY = "-m tlserve verify"
_LAST_LINES = 12


@dataclass(frozen=True)
class Builder:
    """A program that builds images.

    Attributes:
        name: Its command.
        build: What its build needs to be told.
        inspect: The command that describes an image as JSON.
        runs: Whether it runs images, too.
    """

    name: str
    build: tuple[str, ...]
    inspect: tuple[str, ...]
    runs: bool = True


# OCI's own format of images has no health check. With layers, what one target has built is there
# for the next.
_CONTAINERS = ("build", "--format", "docker", "--layers")

BUILDERS: dict[str, Builder] = {
    "docker": Builder("docker", ("build", "--progress", "plain"), ("image", "inspect")),
    "podman": Builder("podman", _CONTAINERS, ("image", "inspect")),
    "buildah": Builder("buildah", _CONTAINERS, ("inspect", "--type", "image"), runs=False),
}


def find_builder(name: str | None = None) -> Builder:
    """Give the builder of a name, or the first that is installed.

    Raises:
        UsageError: There is none of that name.
        MissingDependencyError: It is not installed, or none is.
    """
    if name is not None and name not in BUILDERS:
        raise UsageError(f"Unknown builder {name!r}.", hint=f"Known: {', '.join(BUILDERS)}.")
    wanted = [BUILDERS[name]] if name is not None else list(BUILDERS.values())
    for builder in wanted:
        if shutil.which(builder.name):
            return builder
    names = " or ".join(builder.name for builder in wanted)
    raise MissingDependencyError(
        f"To build an image, {names} must be installed, and is not.",
        hint="Install one, or write the folder with --dockerfile-only and build it elsewhere.",
    )


def build_command(
    builder: Builder,
    context: Path,
    *,
    secrets: Sequence[tuple[str, Path]] = (),
    epoch: str | None = None,
    target: str = "image",
    tag: str | None = None,
    id_file: Path | None = None,
    output: Path | None = None,
) -> list[str]:
    """Write the command that builds one target of a context.

    Args:
        builder: The program.
        context: The folder.
        secrets: Id and file of each.
        epoch: The date of all that is new, in seconds since 1970.
        target: The stage.
        tag: The name of the image.
        id_file: Where its id is written.
        output: A folder for the files of the stage, instead of an image.
    """
    command = [builder.name, *builder.build, "--target", target]
    for name, path in secrets:
        command += ["--secret", f"id={name},src={path}"]
    if epoch:
        docker = builder.name == "docker"
        command += (
            ["--build-arg", f"SOURCE_DATE_EPOCH={epoch}"] if docker else ["--timestamp", epoch]
        )
    if tag:
        command += ["--tag", tag]
    if id_file:
        command += ["--iidfile", str(id_file)]
    if output:
        command += ["--output", f"type=local,dest={output}"]
    return [*command, str(context)]


def run_build(
    command: Sequence[str], tell: Callable[[str], None], environment: Mapping[str, str]
) -> None:
    """Run a builder; each line that it writes is told at once.

    Raises:
        ExportError: It failed; the message has the step and its last words.
    """
    lines: deque[str] = deque(maxlen=_LAST_LINES)
    step = ""
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**environment, "DOCKER_BUILDKIT": "1"},
    ) as process:
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        try:
            for line in process.stdout:
                text = line.rstrip()
                tell(text)
                lines.append(text)
                if found := _STEP.match(text) or _FAILED.search(text):
                    step = found.group(1)
        except BaseException:
            process.terminate()
            raise
    if process.returncode:
        raise _failed(command[0], process.returncode, step, lines)


def _failed(program: str, status: int, step: str, lines: Sequence[str]) -> ExportError:
    where = f" in the step `{step}`" if step else ""
    said = "\n".join(line for line in lines if line)
    if _VERIFY in step:
        return ExportError(
            "No image was built: in it the model does not answer as it did when it was trained.\n"
            + said,
            hint="Run `tlserve verify` on the bundle. If it passes here, the libraries of the "
            "image differ: export the model again with those of this version of tlserve.",
        )
    return ExportError(f"{program} ended with status {status}{where}:\n{said}")


def inspect(builder: Builder, image: str, environment: Mapping[str, str]) -> dict[str, Any]:
    """Give what the builder says of an image.

    Raises:
        ExportError: It has no such image.
    """
    command = [builder.name, *builder.inspect, image]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**environment})
    if done.returncode:
        raise ExportError(f"{builder.name} does not know the image {image}: {done.stderr.strip()}.")
    answer = json.loads(done.stdout)
    # Two of them are ready to describe several.
    found: dict[str, Any] = answer[0] if isinstance(answer, list) else answer
    return found
