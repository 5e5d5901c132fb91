"""The servers that are compared, and the settings of each that are tried."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.load.plan import Plan
from benchmarks.serving_bundles import Questions

EXACT, NEAR = 1e-3, 1e-2
"""So far a probability may be from that of the model in this process: the same code; another's."""


@dataclass(frozen=True)
class Variant:
    """One way to start a server.

    Attributes:
        label: What is special about it.
        command: The program and its arguments; ``{port}`` stands for the port.
        environment: What is set for it.
    """

    label: str
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Subject:
    """A server that is compared.

    Attributes:
        name: In the results.
        title: In the tables.
        path: Where images are posted.
        field: The field of a form that holds the image; ``None``: it is the whole body.
        form: Of the answers.
        tolerance: So far a probability may be from the right one.
        variants: Ways to start it; the fastest in a trial is compared.
        eager: Whether it runs torch in eager mode.
    """

    name: str
    title: str
    path: str
    field: str | None
    form: str
    tolerance: float
    variants: list[Variant]
    eager: bool = False

    def plan(self, port: int, questions: Questions, **load: float) -> Plan:
        """Say how it is to be loaded."""
        whole = {k: int(v) if k in ("clients", "requests") else v for k, v in load.items()}
        return Plan(
            port=port,
            path=self.path,
            field=self.field,
            form=self.form,
            files=[str(file) for file in questions.files],
            expected=questions.answers,
            tolerance=self.tolerance,
            **whole,  # type: ignore[arg-type]
        )


def tlserve(bundle: Path, *settings: Sequence[str]) -> Subject:
    """Give the project's own service, with each of these arguments of `tlserve serve`."""
    command = [*(sys.executable, "-m", "tlserve", "serve", str(bundle)), "--port", "{port}"]
    variants = [
        Variant(" ".join(arguments) or "defaults", [*command, *arguments]) for arguments in settings
    ]
    return Subject("tlserve", "`tlserve serve`", "/predict", None, "ranked", EXACT, variants)


def subjects(bundle: Path, peers_python: Path, serve_args: Sequence[str] = ()) -> list[Subject]:
    """Give all that are compared."""
    return [
        tlserve(bundle, serve_args, [*serve_args, "--max-batch=1"]),
        Subject(
            *("bare", "HTTP and nothing else", "/predict", None, "flat", NEAR),
            [_peer(f"{n} threads", peers_python, "bare", bundle, f"--threads={n}") for n in (2, 3)],
        ),
        Subject(
            *("fastapi-onnx", "FastAPI, ONNX Runtime", "/predict", None, "flat", NEAR),
            [
                _peer(f"{n} intra-op", peers_python, "fastapi_onnx", bundle, f"--threads={n}")
                for n in (1, 2)
            ],
        ),
        Subject(
            *("litserve-onnx", "LitServe, ONNX Runtime", "/predict", "request", "flat", NEAR),
            [
                _peer(
                    f"{workers} × {threads} intra-op, batches of {most}, {wait * 1000:g} ms",
                    *(peers_python, "litserve_onnx", bundle),
                    *(f"--workers={workers}", f"--threads={threads}"),
                    *(f"--max-batch={most}", f"--batch-timeout={wait}"),
                )
                for workers, threads, most, wait in (
                    (2, 1, 4, 0.002),
                    (2, 1, 1, 0.0),
                    (1, 2, 8, 0.005),
                    (1, 2, 16, 0.02),
                )
            ],
        ),
        Subject(
            *("fastapi-torch", "FastAPI, torch eager", "/predict", None, "flat", NEAR),
            [
                _peer(_threads(n), peers_python, "fastapi_torch", bundle, omp_threads=n)
                for n in (1, 2)
            ],
            eager=True,
        ),
        Subject(
            *("litserve-torch", "LitServe, torch eager", "/predict", "request", "flat", NEAR),
            [
                _peer(
                    f"{workers} × {_threads(threads)}, batches of {most}, {wait * 1000:g} ms",
                    *(peers_python, "litserve_torch", bundle, f"--workers={workers}"),
                    *(f"--max-batch={most}", f"--batch-timeout={wait}"),
                    omp_threads=threads,
                )
                for workers, threads, most, wait in (
                    (2, 1, 4, 0.002),
                    (1, 2, 8, 0.005),
                    (1, 1, 8, 0.005),
                )
            ],
            eager=True,
        ),
        Subject(
            *("bentoml-torch", "BentoML's tutorial, torch eager", "/classify", "images"),
            *("listed", NEAR),
            [_bentoml(bundle, threads) for threads in (2, 1)],
            eager=True,
        ),
    ]


def _peer(
    label: str,
    python: Path,
    module: str,
    bundle: Path,
    *options: str,
    omp_threads: int | None = None,
) -> Variant:
    command = [str(python), "-m", f"benchmarks.peers.{module}", str(bundle), "--port", "{port}"]
    return Variant(label, [*command, *options], _environment(omp_threads))


def _bentoml(bundle: Path, threads: int) -> Variant:
    # With the project's own Python, which has BentoML; not through its script, whose first line
    # may name another.
    service = "benchmarks.peers.bentoml_torch:Classifier"
    command = [sys.executable, "-m", "bentoml", "serve", service, "--port", "{port}"]
    environment = _environment(threads) | {"BUNDLE": str(bundle), "BENTOML_DO_NOT_TRACK": "True"}
    return Variant(_threads(threads), command, environment)


def _environment(omp_threads: int | None) -> dict[str, str]:
    found = {"ORT_DISABLE_TELEMETRY": "1"}
    return found if omp_threads is None else found | {"OMP_NUM_THREADS": str(omp_threads)}


def _threads(number: int) -> str:
    return f"OMP_NUM_THREADS={number}"
