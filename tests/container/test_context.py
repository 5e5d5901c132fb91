"""The folder that an image is built from, as the command line writes it."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from tlserve.bundle import Bundle
from tlserve.container.context import lock

_START_SECONDS = 60


def containerize(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tlserve", "containerize", *map(str, arguments)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def context(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("containers") / "colours"
    done = containerize(exported, "--dockerfile-only", "--output", folder, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["context"] == str(folder)
    assert report["image"] is None
    return folder


def _instructions(dockerfile: Path, name: str) -> list[str]:
    text = dockerfile.read_text("utf-8").replace("\\\n", " ")
    return [line for line in text.splitlines() if line.split(" ")[0] == name]


def test_it_has_what_the_dockerfile_takes(context: Path) -> None:
    assert {path.name for path in context.iterdir()} == {
        *(".dockerignore", "Dockerfile", "bento", "requirements.txt"),
        *("sbom-requirements.txt", "slim.py"),
    }
    dockerfile = context / "Dockerfile"
    copied = [line.split()[1] for line in _instructions(dockerfile, "COPY") if "--from" not in line]
    assert copied == ["requirements.txt", "bento/src/", "sbom-requirements.txt"]
    assert all((context / name).exists() for name in [*copied, "slim.py"])
    assert "$$" not in dockerfile.read_text("utf-8")
    for name in ("requirements.txt", "bento/env/python/requirements.txt"):
        assert (context / name).read_text("utf-8") == lock("cpu")


def test_the_bento_is_of_the_format_that_needs_no_uv(context: Path) -> None:
    # With the other, BentoML installs uv into the environment that builds, without being asked.
    assert "\nspec: 1\n" in (context / "bento/bento.yaml").read_text("utf-8")


def test_the_image_is_the_last_stage_and_takes_the_model_from_the_verified_one(
    context: Path,
) -> None:
    dockerfile = context / "Dockerfile"
    stages = [line.rpartition(" AS ")[2] for line in _instructions(dockerfile, "FROM")]
    assert stages[-1] == "image"
    verified = dockerfile.read_text("utf-8").partition(" AS verified\n")[2].partition("\nFROM")[0]
    assert "-m tlserve verify /opt/bento/model" in verified
    image = dockerfile.read_text("utf-8").partition(" AS image\n")[2]
    assert re.findall(r"^COPY (.*)$", image, re.M) == [
        "--from=packages /opt/venv/ /opt/venv/",
        "--from=verified /opt/bento/ /opt/bento/",
    ]
    assert "\nUSER 10001:10001\n" in image
    assert image.rstrip().splitlines()[-1].startswith('ENTRYPOINT ["/opt/venv/bin/python"')


def test_everybody_may_read_it_and_nobody_else_write(exported: Path, tmp_path: Path) -> None:
    folder = tmp_path / "context"
    previous = os.umask(0o077)
    try:
        assert containerize(exported, "--dockerfile-only", "--output", folder).returncode == 0
    finally:
        os.umask(previous)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in [folder, *folder.rglob("*")]}
    assert modes <= {0o755, 0o644}


def test_an_earlier_one_is_replaced_and_nothing_else_is(exported: Path, tmp_path: Path) -> None:
    folder = tmp_path / "context"
    arguments = (exported, "--dockerfile-only", "--output", folder)
    assert containerize(*arguments).returncode == 0
    (folder / "left over").touch()
    assert containerize(*arguments, "--flavour", "gpu").returncode == 0
    assert not (folder / "left over").exists()
    assert 'tlserve.flavour="gpu"' in (folder / "Dockerfile").read_text("utf-8")
    shutil.rmtree(folder / "bento")
    refused = containerize(*arguments)
    assert refused.returncode == 1
    assert "is not a folder that `tlserve containerize` wrote" in " ".join(refused.stderr.split())
    assert [path.name for path in tmp_path.iterdir()] == ["context"]


@pytest.mark.parametrize("flavour", ["gpu", "torch"])
def test_flavours_for_gpus(exported: Path, tmp_path: Path, flavour: str) -> None:
    folder = tmp_path / "context"
    done = containerize(exported, "--dockerfile-only", "--output", folder, "--flavour", flavour)
    assert done.returncode == 0, done.stderr
    assert (folder / "requirements.txt").read_text("utf-8") == lock(flavour)
    (environment,) = _instructions(folder / "Dockerfile", "ENV")
    assert 'TLSERVE_DEVICE="cuda"' in environment
    assert 'NVIDIA_VISIBLE_DEVICES="all"' in environment
    inside = Bundle.read(folder / "bento/src/model").manifest.files
    models = {name for name in inside if name.startswith("model")}
    assert models == {{"gpu": "model.onnx", "torch": "model.torchscript.pt"}[flavour]}


def test_the_bento_is_one_that_bentoml_serves(context: Path, colours: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "bentoml", "serve", context / "bento", "--port", str(port)],
        env={**os.environ, "BENTOML_HOME": str(tmp_path), "BENTOML_DO_NOT_TRACK": "True"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            deadline = time.monotonic() + _START_SECONDS
            while True:
                try:
                    if client.get("/readyz").status_code == 200:
                        break
                except httpx.TransportError:
                    assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.1)
            image = (colours / "val/red/101.jpg").read_bytes()
            answer = client.post("/predict", files={"image": image}).json()
    finally:
        process.terminate()
        process.wait(60)
    assert answer["model"]["version"] == Bundle.read(context / "bento/src/model").manifest.version
    assert len(answer["predictions"]) == 3


def test_labels_and_the_date_are_what_was_asked_for(exported: Path, tmp_path: Path) -> None:
    folder = tmp_path / "context"
    digest = f"sha256:{'0' * 64}"
    done = containerize(
        *(exported, "--dockerfile-only", "--output", folder),
        *("--base", f"python:3.13-slim@{digest}", "--tag", "registry.example:5000/a/b:1"),
        *("--label", 'note=costs "5" $HOME \\'),
        SOURCE_DATE_EPOCH="1700000000",
    )
    assert done.returncode == 0, done.stderr
    assert f"docker build --tag registry.example:5000/a/b:1 {folder}" in done.stdout
    text = (folder / "Dockerfile").read_text("utf-8")
    assert f"\nARG BASE=python:3.13-slim@{digest}\n" in text
    (labels,) = _instructions(folder / "Dockerfile", "LABEL")
    for expected in (
        'org.opencontainers.image.created="2023-11-14T22:13:20Z"',
        'org.opencontainers.image.base.name="python:3.13-slim"',
        f'org.opencontainers.image.base.digest="{digest}"',
        r'note="costs \"5\" \$HOME \\"',
    ):
        assert expected in labels


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (["--flavour", "tpu"], {}, "Unknown flavour 'tpu'."),
        (["--backend", "eager"], {}, "flavour 'cpu' cannot run the backend 'eager'"),
        (["--tag", "Bees!"], {}, "--tag must be the name of an image"),
        (["--base", "python :3"], {}, "--base must be the name of an image"),
        (["--label", "novalue"], {}, "--label must be KEY=VALUE, not 'novalue'"),
        ([], {"SOURCE_DATE_EPOCH": "noon"}, "SOURCE_DATE_EPOCH must be seconds since 1970"),
        (["--pip-config", "absent.conf"], {}, "absent.conf: there is no such file"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_written(
    exported: Path,
    tmp_path: Path,
    arguments: list[str],
    environment: dict[str, str],
    message: str,
) -> None:
    folder = tmp_path / "context"
    done = containerize(
        exported, "--dockerfile-only", "--output", folder, *arguments, **environment
    )
    assert done.returncode == 2, done.stdout
    assert message in " ".join(done.stderr.split())
    assert not folder.exists()


def test_an_altered_bundle_is_refused(exported: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(exported, bundle)
    answers = bundle / "golden/answers.json"
    answers.write_text(answers.read_text("utf-8").replace("0.", "1.", 1), "utf-8")
    done = containerize(bundle, "--dockerfile-only", "--output", tmp_path / "context")
    assert done.returncode == 1
    assert "golden/answers.json" in done.stderr
    assert not (tmp_path / "context").exists()


def test_where_nothing_builds_images_it_says_so(exported: Path, tmp_path: Path) -> None:
    done = containerize(exported, "--output", tmp_path / "context", PATH=str(tmp_path))
    assert done.returncode == 1
    assert "docker or podman or buildah must be installed" in " ".join(done.stderr.split())
    assert "--dockerfile-only" in done.stderr
    assert not (tmp_path / "context").exists()
