"""What every command found, as plain data for JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnv1deploy import benchmark, choosing, formats
from mnv1deploy.artifact import File, Manifest, hashes, read_checkpoint_metadata, require_mobilenetv1
from mnv1deploy.c.counting import instructions
from mnv1deploy.c.fitting import fitting_plan, needs
from mnv1deploy.c.plan import footprint
from mnv1deploy.errors import MnvError
from mnv1deploy.files import sha256
from mnv1deploy.formats.c import scratch
from mnv1deploy.packages import is_installed, versions
from mnv1deploy.spec import ModelSpec

if TYPE_CHECKING:
    from mnv1deploy.benchmark import Profile, Result
    from mnv1deploy.choosing import Choice, Wanted
    from mnv1deploy.datasets import Dataset
    from mnv1deploy.exporting import Exported
    from mnv1deploy.loadgen import Result as LoadgenResult
    from mnv1deploy.loadgen import Settings as LoadgenSettings
    from mnv1deploy.quantization import Quantization
    from mnv1deploy.quantization.sensitivity import Sensitivity, Trial
    from mnv1deploy.verification import Evaluation


def exported_as_dicts(exported: Sequence[Exported], latency: dict[Path, float]) -> list[dict[str, Any]]:
    """For JSON: per artifact its path (None if it failed), its failures, its latency if measured, and its manifest.

    Of C, what it takes of flash and RAM, too (see :class:`mnv1deploy.c.plan.Footprint`), and what whole programs do.
    """
    return [
        {
            "path": None if item.failures else str(item.path),
            "failures": list(item.failures),
            "p50": latency.get(item.path),
            **(_memory(item) if item.format == "c" else {}),
            **item.manifest.to_dict(),
        }
        for item in exported
    ]


def _memory(item: Exported) -> dict[str, Any]:
    """Of C, by processor and compiler, and whether that fits the device that it was written for."""
    buffers = fitting_plan(item.spec, item.device)
    programs = [
        {
            **row.to_dict(),
            "instructions": asdict(counted) if (counted := instructions(item.spec, row.build)) else None,
            "fits": row.fit(item.device),
        }
        for row in needs(item.spec, buffers)
    ]
    return {**asdict(footprint(item.spec, buffers.scratch)), "programs": programs}


def bench_as_dict(
    results: Sequence[Result], refused: dict[str, MnvError], notes: Sequence[str], **settings: Any
) -> dict[str, Any]:
    """What :func:`show_bench` shows, with the machine and settings that made it."""
    return {
        "machine": benchmark.machine(),
        "settings": {**settings, "rounds": benchmark.ROUNDS},
        "results": [asdict(result) for result in results],
        "not_measured": {name: str(error) for name, error in refused.items()},
        "notes": list(notes),
    }


def loadgen_as_dict(
    results: Sequence[LoadgenResult], settings: LoadgenSettings, notes: Sequence[str]
) -> dict[str, Any]:
    """What :func:`show_loadgen` shows, with the machine and settings that made it."""
    return {
        "machine": benchmark.machine(),
        "settings": {**asdict(settings), "keeps_the_rules": settings.keeps_the_rules},
        "loadgen": versions("mlcommons-loadgen").get("mlcommons-loadgen"),
        "results": [asdict(result) for result in results],
        "notes": list(notes),
    }


def profiles_as_dict(profiles: Sequence[Profile], notes: Sequence[str], *, threads: int | None) -> dict[str, Any]:
    """What :func:`show_profiles` shows, with the machine and settings that made it."""
    return {
        "machine": benchmark.machine(),
        "settings": {"threads": threads, "calls": benchmark.PROFILED_CALLS},
        "profiles": [asdict(profile) for profile in profiles],
        "notes": list(notes),
    }


def evaluation_as_dict(evaluation: Evaluation) -> dict[str, Any]:
    """For JSON: top-1, per-class accuracy, and the confusion matrix with a row per true class.

    Of its probabilities the temperature, and their expected calibration error with it and without.
    """
    classes = evaluation.dataset.classes
    per_class = dict(zip(classes, evaluation.class_accuracy.tolist(), strict=True))
    return {
        **asdict(evaluation.accuracy),
        "temperature": evaluation.temperature,
        "calibration_error": evaluation.calibration_error(),
        "uncalibrated_error": evaluation.calibration_error(1.0),
        "classes": per_class,
        "confusion": evaluation.confusion.tolist(),
    }


def quantization_as_dict(found: Sensitivity, quantization: Quantization) -> dict[str, Any]:
    """What :func:`show_quantization` shows, with every scale and zero point."""
    content = asdict(found)
    for row in content["layers"]:
        grid = quantization.activations.get(row["name"])
        row["activation"] = None if grid is None else asdict(grid)
        row["weight_scales"] = [float(scale) for scale in quantization.weights[row["name"]].scales]
    return {**content, "quantization": quantization.facts}


def trials_as_dicts(trials: Sequence[Trial], data: Dataset) -> dict[str, Any]:
    """What :func:`show_trials` shows."""
    return {"dataset": data.name, "images": len(data), "trials": [asdict(trial) for trial in trials]}


def info_as_dict(path: Path) -> dict[str, Any]:
    """What a file says of itself and its manifest proves: spec, provenance, proof, and notes of what to beware of.

    Of C, what it takes of flash and RAM, too; see :class:`mnv1deploy.c.plan.Footprint`.

    Raises:
        MnvError: if it is of no known format, or says nothing.
    """
    format_ = formats.of_file(path)
    manifest = Manifest.read(path)
    facts: dict[str, Any] = {"path": str(path), "format": format_.name, "notes": formats.notes(path)}
    if manifest:
        facts |= {"bytes": manifest.bytes, "files": manifest.files}
    else:
        files: dict[str, File] = (
            {f"{path.name}/{name}": file for name, file in hashes(path).items()}
            if path.is_dir()
            else {path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)}}
        )
        facts |= {"bytes": sum(file["bytes"] for file in files.values()), "files": files}
    if format_.name == "pytorch":
        return facts | read_checkpoint_metadata(path)
    provenance = manifest.provenance if manifest else format_.provenance(path)
    if provenance is None:
        raise MnvError(f"{path} says nothing of where it comes from.", "It was not written by mnv1deploy.")
    if format_.name == "c":
        facts |= asdict(footprint(provenance.spec, scratch(path)))
    proof = asdict(manifest.proof) if manifest and manifest.proof else None
    return facts | provenance.to_dict() | {"proof": proof, "not_run": manifest.not_run if manifest else ""}


def spec_of(path: Path) -> ModelSpec:
    """The spec in any artifact or checkpoint. Raises MnvError."""
    facts = info_as_dict(path)
    if "training" in facts:
        require_mobilenetv1(facts, path)
    return ModelSpec.from_dict(facts["spec"])


def choices_as_dict(wanted: Wanted, choices: Sequence[Choice]) -> dict[str, Any]:
    """What :func:`show_choices` shows; ``command`` exports the first, if it fits."""
    core = wanted.core
    return {
        "wanted": asdict(wanted),
        "processor": wanted.processor or None,
        "cycles": asdict(core) if core else None,
        "choices": [choice.to_dict() for choice in choices],
        "command": choosing.command(wanted, choices[0]) if choices[0].fits else None,
    }


def providers_as_dict() -> dict[str, Any]:
    """What this machine can run artifacts on, by format, and by provider the package that brings what it cannot."""
    available = {name: list(formats.get(name).providers()) for name in formats.NAMES}
    return {
        "machine": benchmark.machine(),
        "available": available,
        "not_available": formats.missing_providers(available["onnx"]),
    }


def formats_as_dicts() -> list[dict[str, Any]]:
    """The formats that can be exported to, with the version of every package, None for one that is not installed."""

    def found(packages: Sequence[str]) -> dict[str, str | None]:
        there = versions(*packages)
        return {name: there.get(name, "") if is_installed(name) else None for name in packages}

    return [
        {
            "format": entry.name,
            "suffix": entry.suffix,
            "precisions": list(entry.precisions),
            "quantizer": entry.quantizer,
            "extra": entry.extra,
            "runners": found(entry.runners),
            "export_extra": entry.export_extra,
            "writers": found(entry.writers),
            "elsewhere": entry.elsewhere,
        }
        for entry in map(formats.get, formats.exportable())
    ]
