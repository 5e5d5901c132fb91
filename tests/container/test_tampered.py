"""What is not what was tested does not become an image."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.container.conftest import Built, Workshop
from tlserve.bundle import Bundle

pytestmark = [pytest.mark.container, pytest.mark.timeout(1800)]


def test_one_changed_byte_of_the_model_stops_the_build(
    workshop: Workshop, built: Built, tmp_path: Path
) -> None:
    context = tmp_path / "context"
    shutil.copytree(built.context, context)
    model = context / "bento/src/model/model.onnx"
    data = bytearray(model.read_bytes())
    data[len(data) // 2] ^= 1
    model.write_bytes(data)
    failed = _build_by_hand(workshop, context, "tampered:model")
    assert failed.returncode != 0
    assert "model.onnx of the bundle" in " ".join(failed.stderr.split())
    assert "is not the one that was written" in " ".join(failed.stderr.split())
    assert not _is_there(workshop, "tampered:model")


def test_other_answers_stop_the_build_whatever_the_hashes_say(
    workshop: Workshop, exported: Path, tmp_path: Path
) -> None:
    bundle = tmp_path / "colours"
    shutil.copytree(exported, bundle)
    logits = bundle / "golden/logits.npy"
    np.save(logits, np.load(logits) + np.float32(0.5))
    manifest = json.loads((bundle / "bundle.json").read_text("utf-8"))
    entry = manifest["files"]["golden/logits.npy"]
    entry["sha256"] = hashlib.sha256(logits.read_bytes()).hexdigest()
    (bundle / "bundle.json").write_text(json.dumps(manifest), "utf-8")
    Bundle.read(bundle).verify()  # as far as hashes go, it is whole
    done = workshop.containerize(bundle, tmp_path / "context", "--tag", "tampered:answers")
    assert done.returncode == 1
    assert "No image was built: in it the model does not answer as it did" in done.stderr
    assert "Traceback" not in done.stderr
    assert not _is_there(workshop, "tampered:answers")


def test_another_package_than_the_locked_one_stops_the_build(
    workshop: Workshop, built: Built, tmp_path: Path
) -> None:
    context = tmp_path / "context"
    shutil.copytree(built.context, context)
    lock = (context / "requirements.txt").read_text("utf-8")
    begin = lock.index("\nidna==")
    end = lock.index("\n\n" if "\n\n" in lock[begin:] else "\nj", begin)
    changed = re.sub("sha256:[0-9a-f]{64}", f"sha256:{'0' * 64}", lock[begin:end])
    (context / "requirements.txt").write_text(lock[:begin] + changed + lock[end:], "utf-8")
    failed = _build_by_hand(workshop, context, "tampered:package")
    assert failed.returncode != 0
    assert "THESE PACKAGES DO NOT MATCH THE HASHES" in failed.stderr
    assert not _is_there(workshop, "tampered:package")


def _build_by_hand(workshop: Workshop, context: Path, tag: str) -> subprocess.CompletedProcess[str]:
    """Build a context by the command of the documents."""
    secret = f"id=pip,src={workshop.pip_config}"
    command = ["buildah", "build", "--format", "docker", "--layers", "--secret", secret]
    return subprocess.run(
        [*command, "--timestamp", workshop.environment["SOURCE_DATE_EPOCH"], "--tag", tag, context],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **workshop.environment},
        capture_output=True,
        text=True,
        check=False,
    )


def _is_there(workshop: Workshop, tag: str) -> bool:
    listed = json.loads(workshop.buildah("images", "--json"))
    return any(name.endswith(tag) for image in listed for name in image["names"] or ())
