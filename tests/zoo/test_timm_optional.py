"""timm is imported for its own architectures only, and need not be installed."""

from __future__ import annotations

from pathlib import Path

from tests.folders import write_parts
from tests.interpreter import python, without

BLOCKER = without("timm")

FINETUNE = """
import sys
from pathlib import Path
from tlserve.finetune.config import FinetuneConfig
from tlserve.finetune.events import Events
from tlserve.finetune.run import finetune
from tlserve.runtime import Predictor

home = Path(sys.argv[1])
config = FinetuneConfig(
    data=home / "data", name="x", arch="mobilenet_v3_small", weights="none", epochs=1,
    batch_size=6, image_size=32, workers=0, output=home / "models", runs=home / "runs",
)
bundle = finetune(config, Events())
assert Predictor.load(bundle, "eager").predict(
    [(home / "data" / "val" / "red" / "100.png").read_bytes()]
)
print("answered")
"""


def test_torchvisions_architectures_do_not_import_timm(tmp_path: Path) -> None:
    write_parts(tmp_path / "data", train=3, val=2)
    program = FINETUNE + "print({'timm', 'huggingface_hub'} & sys.modules.keys())"
    assert python(program, str(tmp_path)) == "answered\nset()\n"


def test_torchvisions_architectures_work_without_timm(tmp_path: Path) -> None:
    write_parts(tmp_path / "data", train=3, val=2)
    assert python(BLOCKER + FINETUNE, str(tmp_path)) == "answered\n"


def test_without_timm_the_error_says_what_to_install() -> None:
    program = (
        BLOCKER
        + """
from tlserve.errors import MissingDependencyError
from tlserve.zoo.architectures import build, check_architecture
from tlserve.zoo.presets import preset
from tlserve.zoo.weights import load_pretrained

for use in (
    check_architecture,
    preset,
    lambda name: build(name, 3),
    lambda name: load_pretrained(name, "DEFAULT"),
):
    try:
        use("timm/resnet18")
    except MissingDependencyError as error:
        print(error)
"""
    )
    lines = python(program).splitlines()
    assert len(lines) == 8
    assert set(lines[::2]) == {
        "Architectures named timm/… need the library timm, but timm is not installed."
    }
    assert set(lines[1::2]) == {"Install the extra: pip install 'tlserve[train,timm]'"}


def test_the_blocker_blocks() -> None:
    program = BLOCKER + "try:\n    import timm\nexcept ModuleNotFoundError:\n    print('blocked')"
    assert python(program) == "blocked\n"
