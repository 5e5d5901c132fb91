"""The Dockerfile: ``files/Dockerfile`` with its gaps filled in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from string import Template

from tlserve.container.plan import PORT, USER, Plan

_ENVIRONMENT = {
    "PATH": "/opt/venv/bin:$PATH",
    "PYTHONPATH": "/opt/bento",
    # What lies where the process happens to be is not taken for a module.
    "PYTHONSAFEPATH": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONUNBUFFERED": "1",
    # A user without a name has no home; nothing needs one, but what asks is told.
    "HOME": "/tmp",  # noqa: S108
    "TLSERVE_HOST": "0.0.0.0",  # noqa: S104 - of the container, not of its host
    "TLSERVE_HTTP_PORT": str(PORT),
}
_CONTINUED = " \\\n    "


def read_file(name: str) -> str:
    """Read one of the files that become a part of the context."""
    return (files("tlserve.container") / "files" / name).read_text("utf-8")


def dockerfile(plan: Plan) -> str:
    """Write the Dockerfile of an image."""
    manifest, slim = plan.bundle.manifest, read_file("slim.py")
    template = Template(read_file("Dockerfile"))
    environment = _ENVIRONMENT | dict(plan.kind.environment) | dict(plan.choice.environment)
    return template.substitute(
        title=f"{manifest.name} {manifest.version}, flavour {plan.flavour}",
        tag=plan.tag,
        base=plan.base,
        environment=_lines("ENV", environment),
        labels=_lines("LABEL", plan.labels).replace("$", "\\$"),  # which would begin a variable
        remove=_removal(plan.kind.unused),
        slim_hash=hashlib.sha256(slim.encode()).hexdigest(),
        user=USER,
        port=PORT,
    )


def _removal(patterns: Sequence[str]) -> str:
    """Write the beginning of a command that takes files out; one that is not there fails it."""
    if not patterns:
        return ""
    places = (f"/opt/venv/lib/python3.*/site-packages/{pattern}" for pattern in patterns)
    return f"rm {_CONTINUED.join(places)} && {_CONTINUED.lstrip()}"


def _lines(instruction: str, pairs: Mapping[str, str]) -> str:
    written = (f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in pairs.items())
    return f"{instruction} " + _CONTINUED.join(written)
