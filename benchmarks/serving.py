"""Serving over HTTP against other servers, and against the same work without HTTP.

    python -m benchmarks.serving --peers-python PATH [--arch NAME …] [--rounds 5] [--seconds 5]

benchmarks/peers/requirements.txt says how to make the Python of the peers. Before the rounds, short
trials find the fastest settings of each peer and of the work without HTTP. Then each server is
started a few times by itself, for its start and its memory; then all are started, and are stopped
(SIGSTOP) while another is measured. For each number of clients all are measured one after the
other, the work without HTTP among them, forwards in one round and backwards in the next: the speed
of a machine changes, so what is compared must lie close together. Results are added to
benchmarks/results/serving.jsonl, and docs/benchmarks.md is written from the last of each
architecture.
"""

from __future__ import annotations

import argparse
import compileall
import contextlib
import itertools
import os
import platform
import shlex
import subprocess
import tempfile
from collections import defaultdict
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.load.run import drive
from benchmarks.options import add_serving_options
from benchmarks.records import Row, add_rows, read_rows, replace_section
from benchmarks.servers import Others, Server, end_in_order, running
from benchmarks.serving_bundles import ARCHITECTURES, ROOT, Questions, questions
from benchmarks.serving_ceiling import ask
from benchmarks.serving_generator import most
from benchmarks.serving_page import tables
from benchmarks.serving_subjects import Subject, Variant, subjects
from benchmarks.serving_trial import best_ceilings, check, fastest
from tlserve.bundle import Bundle
from tlserve.runtime.backend import BACKENDS

RESULTS = ROOT / "benchmarks" / "results" / "serving.jsonl"
PAGE = ROOT / "docs" / "benchmarks.md"
_LIBRARIES = (
    "bentoml",
    "onnxruntime-gpu",
    "onnxruntime",
    "openvino",
    "torch",
    "torchvision",
    "pillow",
    "numpy",
)
_PEERS = ("fastapi", "litserve", "uvicorn", "starlette")
_LOAD_CLIENTS = 32

Chosen = list[tuple[Subject, Variant]]
Turn = TypeVar("Turn")


def main() -> None:
    options = _parse()
    end_in_order()
    # As an installation does: otherwise, the first start of each server would compile it.
    for package in ("tlserve", "service", "export", "benchmarks"):
        compileall.compile_dir(ROOT / package, quiet=1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.bundles or Path(temporary)
        for arch in options.arch:
            asked = questions(arch, options.data, options.weights, folder, options.backend)
            add_rows(RESULTS, [_measured(arch, asked, options)])
            replace_section(PAGE, "serving", tables(read_rows(RESULTS)))
    print(tables(read_rows(RESULTS)))


def _measured(arch: str, asked: Questions, options: argparse.Namespace) -> Row:
    arguments = [f"--backend={options.backend}"] if options.backend != "onnx" else []
    arguments += shlex.split(options.serve_args)
    known = subjects(asked.bundle, options.peers_python, arguments)
    wanted = [s for s in known if options.only is None or s.name in options.only]
    generator = most(asked.files, options.clients, options.seconds)
    settings, tried = best_ceilings(asked.bundle, options.data, options.trial_seconds)
    chosen, trials = [], {"ceiling": tried}
    for subject in wanted:
        variant, trials[subject.name] = fastest(subject, asked, options.trial_seconds)
        chosen.append((subject, variant))
    starts = _starts(chosen, asked, options)
    return {
        "arch": arch if options.backend == "onnx" else f"{arch}, {options.backend}",
        "machine": f"{platform.machine()}, {os.cpu_count()} CPU cores",
        "versions": _versions(options.peers_python),
        "images": len(asked.files),
        "image_bytes": sum(file.stat().st_size for file in asked.files) // len(asked.files),
        "rounds": options.rounds,
        "seconds": options.seconds,
        "clients": options.clients,
        "generator": generator,
        "trials": trials,
        "settings": {s.name: v.label for s, v in chosen} | {"ceiling": settings},
        "titles": {s.name: s.title for s in wanted},
        "eager": [s.name for s in wanted if s.eager],
        "starts": starts,
        "measured": _rounds(chosen, asked, settings, options),
    }


def _starts(chosen: Chosen, asked: Questions, options: argparse.Namespace) -> dict[str, list[Row]]:
    """Start each server by itself, and look at its memory after a load."""
    found = defaultdict(list)
    for number in range(options.starts):
        for subject, variant in _rotated(chosen, number):
            probe = subject.plan(0, asked)
            with running(variant.command, variant.environment, probe) as server:
                plan = subject.plan(
                    server.port, asked, clients=_LOAD_CLIENTS, seconds=options.seconds
                )
                check(drive(plan), subject.name)
                start = {"ready_seconds": server.ready_seconds} | asdict(server.memory())
            found[subject.name].append(start)
            print(f"start {number}  {subject.name}: {start}", flush=True)
    return dict(found)


def _rounds(
    chosen: Chosen, asked: Questions, settings: list[str], options: argparse.Namespace
) -> dict[str, Any]:
    """Measure all in turn, with all servers running."""
    file = _own_file(asked.bundle, options.backend)
    names = ["ceiling", *(["own"] if file else []), *(subject.name for subject, _ in chosen)]
    found: dict[str, Any] = {name: {str(n): [] for n in options.clients} for name in names}
    found |= {"alone": [], "others": []}
    with contextlib.ExitStack() as stack:
        turns: list[tuple[Subject, Server] | None] = [None]
        for subject, variant in chosen:
            probe = subject.plan(0, asked)
            server = stack.enter_context(running(variant.command, variant.environment, probe))
            server.pause()
            turns.append((subject, server))
        for number, clients in itertools.product(range(options.rounds), options.clients):
            for turn in reversed(turns) if number % 2 else turns:
                if turn is None:
                    _ceiling(found, clients, asked, settings, options)
                    if file:
                        rates = _without_http(asked, settings, options, "--file", file)
                        found["own"][str(clients)].append(rates)
                else:
                    subject, server = turn
                    measured = found[subject.name][str(clients)]
                    measured.append(_serving(clients, subject, server, asked, options.seconds))
    return found


def _ceiling(
    found: dict[str, Any],
    clients: int,
    asked: Questions,
    settings: list[str],
    options: argparse.Namespace,
) -> None:
    others = Others()
    found["ceiling"][str(clients)].append(_without_http(asked, settings, options))
    if clients == options.clients[0]:
        alone = ask(asked.bundle, options.data, f"--seconds={options.seconds}", "--alone")
        found["alone"].append(alone)
        print(f"alone, ms by threads: {alone}", flush=True)
    found["others"].append(others.cores())


def _without_http(
    asked: Questions, settings: list[str], options: argparse.Namespace, *more: str
) -> dict[str, float]:
    seconds = f"--seconds={options.seconds}"
    rates = ask(asked.bundle, options.data, seconds, "--settings", *settings, *more)
    print(" ".join(("ceiling", *more)), rates, flush=True)
    return rates


def _own_file(bundle: Path, backend: str) -> str | None:
    """Name the file that tlserve runs without torch, where it is another than all others run."""
    if backend == "onnx" or BACKENDS[backend].library.extra == "train":
        return None
    (file,) = Bundle.read(bundle).names(BACKENDS[backend].kind)
    return file


def _serving(
    clients: int, subject: Subject, server: Server, asked: Questions, seconds: float
) -> Row:
    server.resume()
    others = Others(server)
    report = drive(subject.plan(server.port, asked, clients=clients, seconds=seconds))
    cores = others.cores()
    server.pause()
    print(
        f"{subject.name}, {clients} clients: {report.per_second:.1f}/s, {report.latency}, "
        f"wrong {report.wrong}, errors {report.errors}, refused {report.refused['count']}, "
        f"others {cores} cores",
        flush=True,
    )
    return asdict(report) | {"others": cores}


def _rotated(turns: list[Turn], number: int) -> list[Turn]:
    first = number % len(turns)
    return turns[first:] + turns[:first]


def _versions(peers_python: Path) -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        with contextlib.suppress(ModuleNotFoundError):
            found[name] = version(name)
    program = (
        "import sys; from importlib.metadata import version; print(*map(version, sys.argv[1:]))"
    )
    command = [str(peers_python), "-c", program, *_PEERS]
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    return found | {
        f"{name} of the peers": number for name, number in zip(_PEERS, output.split(), strict=True)
    }


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    known = [subject.name for subject in subjects(Path(), Path())]
    parser.add_argument("--peers-python", type=Path, required=True, help="the peers' Python")
    parser.add_argument("--arch", nargs="+", choices=ARCHITECTURES, default=ARCHITECTURES)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--trial-seconds", type=float, default=3.0, help="0: none")
    parser.add_argument("--starts", type=int, default=3, help="how often each is started")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--only", nargs="+", metavar="SERVER", choices=known, help=", ".join(known))
    parser.add_argument(
        "--backend", default="onnx", choices=BACKENDS, help="of tlserve; the rest stays float32"
    )
    add_serving_options(parser)
    options = parser.parse_args()
    if options.backend != "onnx" and options.only != ["tlserve"]:
        parser.error(f"--backend {options.backend} is for tlserve alone: add --only tlserve")
    return options


if __name__ == "__main__":
    main()
