"""Run by the base image's own Python while the image is built; see the Dockerfile.

Takes out what installs packages, for nobody is to install any, and compiles the standard library,
which Python's official images come without: on a read-only file system each start would do it anew.
"""

import compileall
import importlib.metadata
import importlib.util
import py_compile
import re
import shutil
import sys
import sysconfig
from pathlib import Path

_MODULES = ("_distutils_hack", "ensurepip", "pip", "pkg_resources", "setuptools", "wheel")
_SCRIPTS = re.compile(r"(easy_install|pip|wheel)[-0-9.]*$")
_DEBIAN_WHEELS = Path("/usr/share/python-wheels")
_NEVER_IMPORTED = re.compile(r"/(test|tests|idlelib|lib2to3|turtledemo|tkinter|site-packages)/")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _installers() -> list[Path]:
    found = [_DEBIAN_WHEELS]
    for name in _MODULES:
        spec = importlib.util.find_spec(name)
        if spec is not None:
            found += map(Path, spec.submodule_search_locations or ())
    for distribution in importlib.metadata.distributions():
        if distribution.name in _MODULES:
            # Where its metadata lie; there is no public name for that.
            found.append(Path(str(distribution._path)))  # type: ignore[attr-defined]
    for folder in {Path(sysconfig.get_path("scripts")), Path(sys.executable).parent}:
        found += [path for path in folder.iterdir() if _SCRIPTS.match(path.name)]
    return found


def main() -> None:
    """Change the image."""
    for path in _installers():
        _remove(path)
    compileall.compile_dir(
        sysconfig.get_path("stdlib"),
        quiet=2,
        rx=_NEVER_IMPORTED,
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )


if __name__ == "__main__":
    main()
