"""The page that tells, for each architecture, how its exports compare with the trained model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tlserve.bundle.files import replacing
from tlserve.runtime.golden import TOLERANCES
from tlserve.zoo.architectures import count_parameters, head_parameters, skeleton
from tlserve.zoo.presets import preset

Row = dict[str, Any]

_COLUMNS = {
    "architecture": "---",
    "head": "---",
    "weights' input (px)": "--:",
    "parameters": "--:",
    "TorchScript by": "---",
    "ONNX opset": "---",
    "TorchScript: max &#124;Δlogit&#124; / R": "--:",
    "ONNX: max &#124;Δlogit&#124; / R": "--:",
    "compared at (px)": "--:",
    "result": "---",
}
"""Each column with its alignment."""

_PAGE = """\
# Architectures

Every classifier of torchvision, taken the whole way: {passed} of {count} pass. A network with
random weights, scaled so that it behaves like a trained one, is fine-tuned for one step (with a new
head of three classes), written as a bundle, exported to TorchScript and ONNX, and answers one image
through each backend. This shows that the files compute what the network computes; how well a
network classifies is another matter. Made by `python benchmarks/zoo_parity.py` on a CPU, with
{versions}. The raw outcomes are in [`zoo_parity.jsonl`](../benchmarks/results/zoo_parity.jsonl).

- *head*: the modules that fine-tuning replaces, because their shape depends on the number of
  classes.
- *weights' input*: the side of the square image that the default weights were evaluated on.
  *compared at*: the side in this run; smaller where two CPU cores would take too long.
- *parameters*: with 1000 classes, auxiliary heads included.
- *max |Δlogit| / R*: the largest difference between a logit from the exported file and the same
  logit of the fine-tuned model, as a share of R, the largest minus the smallest logit. Compared are
  batches of {batches} images, the golden images one by one, and the validation images. Allowed:
  {tolerance:.0e}.
- *pass*: every level of the parity check, and then the same class from eager, TorchScript and ONNX
  for an image given as a PNG file, the probabilities within {probability:.0e} (the largest
  difference is {worst:.1e}).
- The outputs do differ between inputs: from one golden image to another, a logit of each network
  moves by at least {spread:.0%} of R.

{table}
"""


def write_page(path: Path, rows: Sequence[Row]) -> None:
    """Write the page.

    Args:
        path: The Markdown file.
        rows: The outcomes, in the order of the table.
    """
    # Here, so that a table can be made of outcomes of another machine in a second.
    from benchmarks.whole_way import BATCH_SIZES, PROBABILITY_TOLERANCE

    passed = [row for row in rows if row["result"] == "pass"]
    versions = {", ".join(f"{k} {v}" for k, v in r["versions"].items()) for r in passed}
    lines = [list(_COLUMNS), list(_COLUMNS.values()), *(_cells(row) for row in rows)]
    page = _PAGE.format(
        passed=len(passed),
        count=len(rows),
        versions="; or ".join(sorted(versions)),
        batches=", ".join(map(str, BATCH_SIZES)),
        tolerance=TOLERANCES["float32"],
        probability=PROBABILITY_TOLERANCE,
        worst=max((row["probability_difference"] for row in passed), default=0.0),
        spread=min((row["spread"] for row in passed), default=0.0),
        table="\n".join(f"| {' | '.join(line)} |" for line in lines),
    )
    with replacing(path) as temporary:
        temporary.write_text(page, "utf-8")


def _cells(row: Row) -> list[str]:
    name = row["architecture"]
    head = dict.fromkeys(p.rpartition(".")[0] for p in head_parameters(name))
    parameters, _ = count_parameters(skeleton(name, 1000))
    exports = _exports(row["torchscript"], row["onnx"]) if row["result"] == "pass" else [""] * 4
    return [
        f"`{name}`",
        ", ".join(f"`{module}`" for module in head),
        str(preset(name).crop[0]),
        f"{parameters / 1e6:.1f} M",
        *exports,
        str(row["size"]),
        row["result"].replace("\n", " ").replace("|", "&#124;"),
    ]


def _exports(torchscript: Row, onnx: Row) -> list[str]:
    method, reason = torchscript["details"]["method"], torchscript["details"]["reason"]
    opset = str(onnx["details"]["opset"])
    return [
        method if method == "trace" else f"{method}: {reason}",
        f"{opset}, external data" if onnx["external_data"] else opset,
        f"{torchscript['difference']:.1e}",
        f"{onnx['difference']:.1e}",
    ]
