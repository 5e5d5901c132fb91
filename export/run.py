"""Exporting a bundle: write, prove, and only then keep."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from export.choose import report
from export.demands import Demands
from export.description import description
from export.formats import FORMATS, FormatName
from export.images import calibration_images, root_of, validation_samples
from export.outcome import Level, Parity
from export.parity import compare_decisions, compare_file
from export.progress import Progress
from export.record import record
from export.source import Source
from export.trial import measured_images, try_out
from export.validation import ValidationLogits, run_validation
from tlserve.bundle import Bundle, StagedBundle, stage
from tlserve.bundle.files import writing_to
from tlserve.bundle.manifest import Serving
from tlserve.data.folder import Sample
from tlserve.errors import (
    ExportError,
    MissingDependencyError,
    ParityError,
    ProcessorError,
    TlserveError,
)
from tlserve.runtime.backend import BACKENDS, Backend, load_backend
from tlserve.runtime.eager import TorchBackend
from tlserve.runtime.golden import golden_tensors

MEASUREMENTS = "measurements.json"

_EXAMPLE_BATCH = 2
_EXAMPLE_SEED = 7


def export(
    path: Path,
    formats: Sequence[FormatName],
    demands: Demands | None = None,
    *,
    progress: Progress | None = None,
) -> Bundle:
    """Export a bundle's model and add the files to the bundle, if they pass the parity check.

    Args:
        path: The bundle.
        formats: Which files to write; existing ones of the same formats are replaced.
        demands: What they must hold to.
        progress: Told what happens.

    Raises:
        BundleError: The bundle is not whole, or changed meanwhile.
        DataError: The images of the training are not at hand, or not the same.
        DeviceError: The device cannot be used.
        ExportError: An exporter failed, or nothing is fast enough.
        ParityError: A file does not answer as the model does.

    Whatever is raised, the bundle is unchanged.
    """
    demands, progress = demands or Demands(), progress or Progress()
    bundle = Bundle.read(path)
    bundle.verify()
    samples = [] if demands.without_validation else validation_samples(bundle, demands.data)
    with stage(path, base=bundle) as staged, TemporaryDirectory(prefix="tlserve-") as scratch:
        work = _Export(bundle, staged, samples, demands, progress, Path(scratch))
        results = work.files(formats)
        progress.parity(results)
        failed = [r for r in results if not r.passed]
        if failed and not demands.choose:
            raise ParityError(
                "\n".join(r.failure for r in failed),
                hint="Nothing was written: the bundle is unchanged.",
            )
        for result in failed:
            work.drop(result)
        passed = [r for r in results if r.passed]
        serving = work.choose(passed, failed) if demands.choose else bundle.manifest.serving
        with writing_to(path):
            record(staged, passed, demands.max_accuracy_drop, torch.__version__)
        return staged.commit(staged.manifest(serving=serving))


class _Export:
    """One export in progress."""

    def __init__(
        self,
        bundle: Bundle,
        staged: StagedBundle,
        samples: Sequence[Sample],
        demands: Demands,
        progress: Progress,
        scratch: Path,
    ) -> None:
        self._bundle = bundle
        self._staged = staged
        self._samples = samples
        self._demands = demands
        self._progress = progress
        self._root = root_of(bundle, demands.data)
        self._reference = load_backend(bundle, "eager")
        self._validation: ValidationLogits | None = None
        self._unavailable: dict[str, str] = {}
        assert isinstance(self._reference, TorchBackend)  # noqa: S101 - what eager is
        height, width = bundle.manifest.preprocessing.crop
        generator = torch.Generator().manual_seed(_EXAMPLE_SEED)
        self._source = Source(
            self._reference.model,
            torch.randn(_EXAMPLE_BATCH, 3, height, width, generator=generator),
            description(bundle),
            golden_tensors(bundle),
            scratch,
            lambda: calibration_images(bundle, demands.data, demands.calibration_images),
        )

    def files(self, formats: Sequence[FormatName]) -> list[Parity]:
        """Write files and compare them; what fails is tried again if it can be done with more care.

        Where there is a choice, those that cannot be written here are left as they are.

        Raises:
            ExportError: An exporter failed, and there is no choice of others.
        """
        results: dict[FormatName, Parity] = {}
        pending = list(formats)
        attempt = 0
        while pending:
            results |= self._attempt(pending, attempt)
            attempt += 1
            pending = [
                name
                for name in pending
                if name in results
                and attempt < FORMATS[name].attempts
                and _too_inaccurate(results[name])
            ]
            for name in pending:
                reason = results[name].failure.splitlines()[0]
                self._progress.message(f"{reason} Once more, with more layers in float.")
        return [results[name] for name in formats if name in results]

    def _attempt(self, formats: Sequence[FormatName], attempt: int) -> dict[FormatName, Parity]:
        results: dict[FormatName, Parity] = {}
        written = []
        self._progress.begin("exporting", len(formats))
        for name in formats:
            try:
                FORMATS[name].check()
                self._write(name, attempt)
                written.append(name)
            except (MissingDependencyError, ProcessorError) as error:
                if not self._demands.choose:
                    raise
                self._unavailable[name] = f"{error.message} {error.hint}"
            except ExportError as error:
                if not self._demands.choose:
                    raise
                level = Level("written", False, remark=error.message.removesuffix("."))
                results[name] = Parity(name, FORMATS[name].file, "", (level,), {})
                # So is the file of an earlier export, which the bundle still lists.
                self.drop(results[name])
            self._progress.advance()
        self._progress.end()
        draft = self._staged.write_manifest(self._staged.manifest())
        return results | self._compare(draft, written)

    def _write(self, name: FormatName, attempt: int) -> None:
        staged, made = self._staged, FORMATS[name]
        target = staged.fresh(made.file)
        # Those of an earlier export would be left where this one needs none.
        for companion in made.companions:
            staged.drop(companion)
        precision = BACKENDS[name].precision
        try:
            with writing_to(staged.target):
                details = made.write(self._source, target, attempt)
                staged.add(made.file, BACKENDS[name].kind, precision=precision, details=details)
                for companion, kind in made.companions.items():
                    if (staged.path / companion).exists():
                        staged.add(companion, kind, precision=precision)
        except TlserveError:
            raise
        except Exception as error:
            # torch's exporters raise whatever the model's operators lead them to.
            first = (str(error).strip().splitlines() or [""])[0]
            raise ExportError(
                f"The {name} exporter failed for {self._bundle.manifest.architecture}: "
                f"{type(error).__name__}: {first}",
                hint="Nothing was written: the bundle is unchanged.",
            ) from error

    def _compare(self, draft: Bundle, formats: Sequence[FormatName]) -> dict[FormatName, Parity]:
        """Run the levels; the one that needs the whole validation set last, if the others pass."""
        device = self._demands.device
        candidates = {name: load_backend(draft, name, device) for name in formats}
        levels = {
            name: compare_file(
                draft,
                self._reference,
                candidate,
                partial(load_backend, draft, name, device),
                self._demands.batch_sizes,
            )
            for name, candidate in candidates.items()
        }
        sound = {n: c for n, c in candidates.items() if _sound(levels[n])}
        decisions = self._decisions(draft, sound)
        not_run = Level("decisions", None, remark="not run: no images")
        if self._samples:
            not_run = Level("decisions", None, remark="not run: another level failed")
        files = draft.manifest.files
        return {
            name: Parity(
                name,
                FORMATS[name].file,
                files[FORMATS[name].file].sha256,
                (*levels[name], decisions.get(name, not_run)),
                {c: files[c].sha256 for c in FORMATS[name].companions if c in files},
            )
            for name in formats
        }

    def _decisions(
        self, draft: Bundle, candidates: dict[FormatName, Backend]
    ) -> dict[FormatName, Level]:
        if not self._samples or not candidates:
            return {}
        backends: dict[str, Backend] = dict(candidates.items())
        if self._validation is None:
            backends["eager"] = self._reference
        self._progress.begin("validation images", len(self._samples))
        found = run_validation(draft, self._root, self._samples, backends, self._progress.advance)
        self._progress.end()
        if self._validation is None:
            self._validation = found["eager"]
            _check_rebuilt(draft, self._validation)
        return {
            name: compare_decisions(
                self._validation,
                found[name].logits,
                candidate.precision,
                self._demands.max_accuracy_drop,
            )
            for name, candidate in candidates.items()
        }

    def drop(self, result: Parity) -> None:
        """Leave a file out that failed."""
        made = next(made for made in FORMATS.values() if made.file == result.file)
        for name in (made.file, *made.companions):
            self._staged.drop(name)

    def choose(self, passed: Sequence[Parity], failed: Sequence[Parity]) -> Serving:
        """Measure what passed, record what was found, and choose."""
        draft = self._staged.write_manifest(self._staged.manifest())
        accuracy = self._validation.accuracy if self._validation else None
        some = measured_images(draft, self._root, self._samples)
        trial = try_out(draft, passed, accuracy, some, self._demands, self._progress)
        refused = {result.format: result.failure for result in failed} | self._unavailable
        with writing_to(self._staged.target):
            target = self._staged.fresh(MEASUREMENTS)
            target.write_text(report(trial.found, trial.candidates, refused), "utf-8")
            self._staged.add(MEASUREMENTS, "measurements")
        self._progress.chosen(trial.found, trial.candidates, refused, trial.serving)
        return trial.serving


def _sound(levels: Sequence[Level]) -> bool:
    return all(level.passed is not False for level in levels)


def _too_inaccurate(result: Parity) -> bool:
    """Tell whether more care may help: the file is what it should be, but not close enough."""
    failed = {level.name for level in result.levels if level.passed is False}
    return bool(failed) and failed <= {"numbers", "bytes", "decisions"}


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
