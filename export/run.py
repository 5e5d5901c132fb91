"""Exporting a bundle: write, prove, and only then keep."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from export.formats import FORMATS, FormatName, metadata
from export.parity import (
    BATCH_SIZES,
    Level,
    ValidationLogits,
    compare_bytes,
    compare_decisions,
    compare_description,
    compare_numbers,
    run_validation,
)
from tlserve.bundle import Bundle, StagedBundle, stage
from tlserve.bundle.files import sha256_of, writing_to
from tlserve.bundle.manifest import ParitySummary
from tlserve.data.folder import Sample
from tlserve.data.split import read_validation
from tlserve.errors import DataError, ExportError, ParityError, TlserveError
from tlserve.runtime.backend import Backend, load_backend

PARITY = "parity.json"

_EXAMPLE_BATCH = 2
_EXAMPLE_SEED = 7


@dataclass(frozen=True)
class Parity:
    """The outcome for one exported file.

    Attributes:
        format: What was exported.
        file: The file's name inside the bundle.
        sha256: Its hash.
        levels: What was compared.
        companions: The hashes of the files that are read along with it, by name.
    """

    format: FormatName
    file: str
    sha256: str
    levels: tuple[Level, ...]
    companions: dict[str, str]

    @property
    def passed(self) -> bool:
        """Whether no level failed."""
        return all(level.passed is not False for level in self.levels)


class Progress:
    """Told how far an export is; does nothing by itself."""

    def begin(self, task: str, total: int) -> None:
        """A task of ``total`` steps begins."""

    def advance(self, steps: int = 1) -> None:
        """So many steps are done."""

    def end(self) -> None:
        """The task is over."""

    def parity(self, results: Sequence[Parity]) -> None:
        """The comparisons are done, whatever their outcome."""


def export(
    path: Path,
    formats: Sequence[FormatName],
    *,
    data: Path | None = None,
    without_validation: bool = False,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    progress: Progress | None = None,
) -> Bundle:
    """Export a bundle's model and add the files to the bundle, if they pass the parity check.

    Args:
        path: The bundle.
        formats: Which files to write; existing ones of the same formats are replaced.
        data: The image folder, where it is no longer at the path that the bundle recorded.
        without_validation: Leave the decisions level out; the report says so.
        batch_sizes: The batches that the numbers level compares; the report names them.
        progress: Told what happens.

    Raises:
        BundleError: The bundle is not whole, or changed meanwhile.
        DataError: The validation images are not at hand, or not those of the training.
        ExportError: An exporter failed.
        ParityError: A file does not answer as the model does.

    Whatever is raised, the bundle is unchanged.
    """
    progress = progress or Progress()
    bundle = Bundle.read(path)
    bundle.verify()
    samples = [] if without_validation else _validation_samples(bundle, data)
    root = data or Path(bundle.manifest.provenance.dataset.path)
    with stage(path, base=bundle) as staged:
        reference = load_backend(bundle, "eager")
        progress.begin("exporting", len(formats))
        for name in formats:
            _write(staged, bundle, reference, name)
            progress.advance()
        progress.end()
        draft = staged.write_manifest(staged.manifest())
        candidates = {name: load_backend(draft, name) for name in formats}
        results = _compare(draft, reference, candidates, root, samples, batch_sizes, progress)
        progress.parity(results)
        failed = [r for r in results if not r.passed]
        if failed:
            raise ParityError(
                _describe(failed), hint="Nothing was written: the bundle is unchanged."
            )
        with writing_to(path):
            _record(staged, results)
        return staged.commit(staged.manifest())


def _write(staged: StagedBundle, bundle: Bundle, reference: Backend, name: FormatName) -> None:
    model: torch.nn.Module = reference.model  # type: ignore[attr-defined]
    height, width = bundle.manifest.preprocessing.crop
    generator = torch.Generator().manual_seed(_EXAMPLE_SEED)
    example = torch.randn(_EXAMPLE_BATCH, 3, height, width, generator=generator)
    target = staged.fresh(FORMATS[name].file)
    # Those of an earlier export would be left where this one needs none.
    for companion in FORMATS[name].companions:
        staged.drop(companion)
    try:
        with writing_to(staged.target):
            details = FORMATS[name].write(model, example, target, metadata(bundle))
            staged.add(FORMATS[name].file, name, precision="float32", details=details)
            for companion, kind in FORMATS[name].companions.items():
                if (staged.path / companion).exists():
                    staged.add(companion, kind, precision="float32")
    except TlserveError:
        raise
    except Exception as error:
        # torch's exporters raise whatever the model's operators lead them to.
        first = (str(error).strip().splitlines() or [""])[0]
        raise ExportError(
            f"The {name} exporter failed for {bundle.manifest.architecture}: "
            f"{type(error).__name__}: {first}",
            hint="Nothing was written: the bundle is unchanged.",
        ) from error


def _validation_samples(bundle: Bundle, data: Path | None) -> list[Sample]:
    root = data or Path(bundle.manifest.provenance.dataset.path)
    samples, hashes = read_validation(bundle.verified("split"))
    hint = (
        "Say where it is with --data DIR, or leave this level out with --without-validation "
        "(the report will say so)."
    )
    for sample in samples:
        path = root / sample.path
        if not path.is_file():
            raise DataError(f"The validation image {path} is not there.", hint=hint)
        if sha256_of(path) != hashes[sample.path]:
            raise DataError(
                f"The validation image {path} is not the one that the model was validated on.",
                hint=hint,
            )
    return samples


def _compare(
    draft: Bundle,
    reference: Backend,
    candidates: dict[FormatName, Backend],
    root: Path,
    samples: list[Sample],
    batch_sizes: Sequence[int],
    progress: Progress,
) -> list[Parity]:
    """Run the levels, the one that needs the whole validation set last and only if all passed."""
    quick = {
        name: _quick_levels(draft, reference, name, candidate, batch_sizes)
        for name, candidate in candidates.items()
    }
    decisions = {name: Level("decisions", None, remark="not run: no images") for name in candidates}
    if any(level.passed is False for levels in quick.values() for level in levels):
        decisions = {
            name: Level("decisions", None, remark="not run: another level failed")
            for name in candidates
        }
    elif samples:
        progress.begin("validation images", len(samples))
        backends: dict[str, Backend] = {"eager": reference}
        backends.update(candidates.items())
        validation = run_validation(draft, root, samples, backends, progress.advance)
        progress.end()
        _check_rebuilt(draft, validation["eager"])
        decisions = {
            name: compare_decisions(validation["eager"], validation[name].logits)
            for name in candidates
        }
    files = draft.manifest.files
    return [
        Parity(
            name,
            FORMATS[name].file,
            files[FORMATS[name].file].sha256,
            (*quick[name], decisions[name]),
            {c: files[c].sha256 for c in FORMATS[name].companions if c in files},
        )
        for name in candidates
    ]


def _quick_levels(
    draft: Bundle,
    reference: Backend,
    name: FormatName,
    candidate: Backend,
    batch_sizes: Sequence[int],
) -> list[Level]:
    described = FORMATS[name].read_metadata(draft.path / FORMATS[name].file)
    return [
        compare_description(metadata(draft), described),
        compare_numbers(draft, reference, candidate, batch_sizes),
        compare_bytes(draft, candidate),
    ]


def _check_rebuilt(bundle: Bundle, eager: ValidationLogits) -> None:
    """See that the rebuilt model validates as the trained one did.

    Raises:
        ParityError: It does not; one image may differ, for the order of additions in a batch.
    """
    expected = bundle.manifest.metrics.val_correct
    found = round(eager.accuracy * len(eager.labels))
    if abs(found - expected) > 1:
        raise ParityError(
            f"The model rebuilt from the bundle gets {found} of {len(eager.labels)} validation "
            f"images right; when it was trained it got {expected}.",
            hint="Are the torch and torchvision versions those in bundle.json?",
        )


def _record(staged: StagedBundle, results: list[Parity]) -> None:
    report = {
        "schema_version": 1,
        "versions": {"torch": torch.__version__},
        "results": [asdict(r) | {"passed": r.passed} for r in results],
    }
    for result in results:
        decisions = next(level for level in result.levels if level.name == "decisions")
        entry = staged.entry(result.file)
        staged.add(
            result.file,
            entry.kind,
            precision=entry.precision,
            details=entry.details,
            parity=ParitySummary(
                passed=result.passed,
                max_abs_diff=max(level.max_abs_diff for level in result.levels),
                tolerance=min(level.tolerance for level in result.levels if level.compared > 1),
                decisions_compared=decisions.compared,
                decisions_changed=len(decisions.flips),
            ),
        )
    earlier = _earlier_results(staged, {r.format for r in results})
    report["results"] = [*earlier, *report["results"]]  # type: ignore[misc]
    staged.fresh(PARITY).write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    staged.add(PARITY, "parity")


def _earlier_results(staged: StagedBundle, replaced: set[FormatName]) -> list[dict[str, object]]:
    """Keep what an earlier export recorded of formats that this one leaves alone."""
    path = staged.path / PARITY
    if not path.is_file():
        return []
    results: list[dict[str, object]] = json.loads(path.read_text("utf-8"))["results"]
    return [r for r in results if r["format"] not in replaced]


def _describe(failed: list[Parity]) -> str:
    return "\n".join(
        f"{result.file} fails the parity check at the level {level.name}: "
        f"max |Δlogit| {level.max_abs_diff:.3g}, allowed {level.tolerance:.3g}"
        f"{'; ' + level.remark if level.remark else ''}."
        for result in failed
        for level in result.levels
        if level.passed is False
    )
