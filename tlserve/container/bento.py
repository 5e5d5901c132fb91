"""The Bento, built by BentoML itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tlserve.errors import ExportError

_LOCK = "requirements.txt"
_LAST_LINES = 15


def build_bento(
    source: Path, lock: str, name: str, version: str, description: str, target: Path
) -> None:
    """Build a Bento from a folder of sources.

    Args:
        source: All that goes into it; ``bento_service.py`` has the service.
        lock: Its packages, pinned by their hashes.
        name: Of the Bento.
        version: Of the Bento.
        description: Of what it serves, for its README.
        target: Where it is put.

    Raises:
        ExportError: BentoML failed; the message has its last words.
    """
    (source / _LOCK).write_text(lock, "utf-8")
    options = {
        "service": "bento_service:TlserveService",
        "name": name,
        "description": description,
        "include": ["*"],
        "exclude": ["__pycache__/"],
        # A lock of its own making would name the index of this machine.
        "python": {"requirements_txt": _LOCK, "lock_packages": False, "pack_git_packages": False},
    }
    with tempfile.TemporaryDirectory(prefix="tlserve-bento-") as home:
        bentofile = Path(home) / "bentofile.yaml"
        # JSON is YAML, too.
        bentofile.write_text(json.dumps(options), "utf-8")
        arguments = ["build", "--version", version, "--bentofile", str(bentofile), str(source)]
        done = subprocess.run(
            [sys.executable, "-P", "-m", "bentoml", *arguments],
            cwd=source,
            env={
                **os.environ,
                "BENTOML_HOME": home,
                "BENTOML_DO_NOT_TRACK": "True",
                # The later format of Bentos wants uv even where nothing is locked, and would
                # install it into whatever environment this is.
                "BENTOML_ENABLE_FEATURES": "no_image",
                # The service is the one that goes in, not one that lies elsewhere.
                "PYTHONPATH": str(source),
                "PYTHONDONTWRITEBYTECODE": "1",
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        built = Path(home) / "bentos" / name.lower() / version
        if done.returncode or not built.is_dir():
            said = (done.stdout + done.stderr).strip().splitlines()[-_LAST_LINES:]
            raise ExportError(
                "BentoML could not build the Bento; it says:\n" + "\n".join(said),
                hint="The service needs what `tlserve serve` needs: see that this starts.",
            )
        # BentoML adds itself without a hash: with what it wrote, no installer would check any.
        (built / "env" / "python" / "requirements.txt").write_text(lock, "utf-8")
        built.rename(target)
