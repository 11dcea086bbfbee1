"""From a checkpoint to proved artifacts: fold, quantise, write, prove, and only then give the file its name."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from mnv1deploy import benchmark, checkpoint, evidence, formats, quantization, verification
from mnv1deploy.artifact import Manifest, Precision, Proof, Provenance, hashes
from mnv1deploy.bundled import CHECKPOINT
from mnv1deploy.c.fitting import fitting_plan
from mnv1deploy.device import ANY_DEVICE, Device
from mnv1deploy.errors import MnvError
from mnv1deploy.files import staged
from mnv1deploy.formats.base import CPU, ForDevice, ForProvider, missing_to_export, refuse_provider, resolve_provider
from mnv1deploy.formats.torch_session import TorchSession
from mnv1deploy.machine import check_threads
from mnv1deploy.network import MobileNetV1
from mnv1deploy.packages import install_hint, versions
from mnv1deploy.progress import OnProgress, untold
from mnv1deploy.quantization import Scheme
from mnv1deploy.spec import PRESETS, Jpeg, ModelSpec, Normalization

UNTRAINED = "its weights are random: it shows size and speed, and its answers mean nothing"
"""Why the artifacts of an untrained network are not proved."""


@dataclass(frozen=True)
class Exported:
    """One artifact: its path, manifest, and the sentences for what it failed (then nothing is at ``path``).

    ``device`` is what it was written for, if its format asks.
    """

    path: Path
    manifest: Manifest
    failures: tuple[str, ...]
    device: Device = ANY_DEVICE

    @property
    def refusal(self) -> MnvError | None:
        """Why it was not kept; None if it was."""
        if not self.failures:
            return None
        return MnvError(
            f"{self.path.name} is not proved and was not kept: {'; '.join(self.failures)}.",
            "Calibrate on pictures like those it was trained on (--calibration), or use --quantize fp16.",
        )

    @property
    def format(self) -> str:
        """Its name."""
        return self.manifest.provenance.format

    @property
    def spec(self) -> ModelSpec:
        """Of the network."""
        return self.manifest.provenance.spec

    @property
    def proof(self) -> Proof | None:
        """The manifest's."""
        return self.manifest.proof


def export(
    format: str | Sequence[str] = "onnx",
    precision: Precision = "fp32",
    *,
    checkpoint_path: str | Path = CHECKPOINT,
    untrained: ModelSpec | None = None,
    output: str | Path = "artifacts",
    calibration: str | Path | None = None,
    data: str | Path | None = None,
    skip_unreadable: bool = False,
    scheme: Scheme = quantization.DEFAULT,
    name: str | None = None,
    jpeg: Jpeg | None = None,
    threads: int | None = None,
    device: Device = ANY_DEVICE,
    provider: str = CPU,
    on_progress: OnProgress = untold,
    on_artifact: Callable[[Exported], None] = lambda exported: None,
) -> list[Exported]:
    """Exports a checkpoint to one or more formats and proves each artifact against it.

    Args:
        format: names from formats.exportable(), or "all" for those of them that know the precision and the provider
            and whose packages are installed, and can do what ``jpeg`` asks; formats.absent() names the others.
        precision: "fp32", "fp16" or "int8".
        checkpoint_path: a checkpoint of mnv1deploy; the bundled one by default.
        untrained: instead of a checkpoint, a network to try on a device before it is trained: its weights are random
            and its artifacts proved against nothing, as their names and manifests say.
        output: folder for ``<name>_<precision><suffix>`` and its manifest.
        calibration: a folder of pictures to calibrate int8 on; by default those of the training part of ``data``, else
            the bundled ones. A network with other classes than CIFAR-10's needs one of the two for int8. What is in
            the test part of ``data`` is not calibrated on; without ``data`` a fifth is held out for the proof.
        data: labelled data whose test part the artifacts are proved on, as for training; else CIFAR-10's test split
            where it is at hand, else the bundled sample, for a network with CIFAR-10's classes.
        skip_unreadable: leave out calibration pictures that cannot be read; their name says how many.
        scheme: how int8 is calibrated and rounded.
        name: what to call the network instead of the checkpoint's name; the C's files and symbols begin with it, too.
        jpeg: how JPEGs are decoded, for calibration and by what reads the artifacts' spec, "whole" or "scaled"; None
            for what the checkpoint's says. A format that decodes pictures itself can do it in one way alone.
        threads: to compute with, torch's and the engines' in the proofs; None leaves them to each.
        device: what the C is for: with a camera it brings what makes the network's picture of a frame; with sizes of
            its memories it is planned to fit them.
        provider: where the artifacts are proved, and what AOTInductor compiles for.
        on_progress: told of every step.
        on_artifact: called with each artifact as soon as it is proved.

    Raises:
        MnvError: for a format, precision, file or folder that is not there, for pictures that are too few or too much
            alike to calibrate on, and for a device that the network does not fit.
    """
    names = [format] if isinstance(format, str) else list(format)
    chosen = [formats.get(name) for name in (formats.present(precision) if names == ["all"] else names)]
    provider = resolve_provider(provider)
    if provider != CPU:
        if names == ["all"]:
            chosen = [entry for entry in chosen if provider in entry.providers()]
            if not chosen:
                raise refuse_provider(provider, (CPU,), "any format")
        for entry in chosen:
            if provider not in entry.providers():
                raise refuse_provider(provider, entry.providers(), entry.name)
        chosen = [entry.for_provider(provider) if isinstance(entry, ForProvider) else entry for entry in chosen]
    for entry in chosen:
        if precision not in entry.precisions:
            there = ", ".join(entry.precisions) or "nothing: it is what is exported"
            raise MnvError(f"{entry.name} cannot be exported in {precision}.", f"It can in {there}.")
        if lacking := missing_to_export(entry):
            raise MnvError(
                f"Exporting to {entry.name} needs {', '.join(lacking)}, not installed here.",
                install_hint(entry.export_extra),
            )
    if device != ANY_DEVICE:
        if not any(isinstance(entry, ForDevice) for entry in chosen):
            raise MnvError(f"Only C is written for a device, not {', '.join(names)}.", "Add --format c.")
        chosen = [entry.for_device(device) if isinstance(entry, ForDevice) else entry for entry in chosen]
    _check_folder(Path(output))
    check_threads(threads)
    on_progress("reading the checkpoint and the pictures", 0, 0)
    source = _random(untrained) if untrained else checkpoint.load(checkpoint_path)
    named = source.spec.replace(name=source.spec.name if name is None else name)
    spec = source.network.spec = named.with_jpeg(jpeg)
    if spec.preprocessing.jpeg == "scaled":
        if names == ["all"]:
            chosen = [entry for entry in chosen if not entry.decodes_whole]
        for entry in chosen:
            if entry.decodes_whole:
                raise MnvError(
                    f"{entry.name} cannot be exported with --jpeg scaled: {entry.decodes_whole}.",
                    "Export it with --jpeg whole.",
                )
    if device.is_bounded:
        fitting_plan(spec, device)  # refuses before anything is computed
    prover = None
    if untrained:
        seen = evidence.bundled(spec) if precision == "int8" else None
    else:
        pictures = evidence.gather(spec, precision, calibration, data, skip_unreadable=skip_unreadable)
        on_progress("running the checkpoint", 0, 0)
        prover = verification.Prover(TorchSession(source.network, spec, "cpu", threads), pictures)
        seen = pictures.calibration
    folded = source.network.folded()
    if seen:
        on_progress("calibrating and quantising", 0, 0)
    integers = quantization.quantize(folded, seen.images, seen.name, scheme) if seen else None
    done = []
    for number, entry in enumerate(chosen):
        on_progress(f"exporting to {entry.name}", number, len(chosen))
        path = Path(output) / f"{spec.name}_{precision}{entry.suffix}"
        provenance = Provenance(
            entry.name,
            precision,
            spec,
            source.sha256,
            source.accuracy,
            {**integers.facts, "quantizer": entry.quantizer} if integers else None,
            versions(*entry.writers),
        )
        try:
            with staged(output) as folder:
                temporary = folder / path.name
                entry.export(copy.deepcopy(integers.network if integers else folded), temporary, provenance, integers)
                said = None if entry.elsewhere else entry.provenance(temporary)
                manifest = Manifest(
                    said or provenance, hashes(folder), None, UNTRAINED if untrained else entry.elsewhere
                )
                manifest.write(temporary)  # some formats know their spec from it alone
                failures: list[str] = []
                if prover and not entry.elsewhere:
                    on_progress(f"proving {path.name}", number, len(chosen))
                    proof, failures = prover.prove(
                        formats.open_session(temporary, provider=provider, threads=threads), precision
                    )
                    manifest = replace(manifest, proof=proof)
                    manifest.write(temporary)
                result = Exported(path, manifest, tuple(failures), device)
                if failures:
                    raise _NotProvedError
        except _NotProvedError:
            pass
        done.append(result)
        on_artifact(result)
    return done


def latencies(exported: Sequence[Exported], on_progress: OnProgress = untold, provider: str = CPU) -> dict[Path, float]:
    """The p50 of one picture on one thread in milliseconds, by artifact, of several that can be run here; else empty.

    Raises:
        MnvError: as :func:`mnv1deploy.benchmark.bench` does.
    """
    kept = [item.path for item in exported if not item.failures and not formats.get(item.format).elsewhere]
    return benchmark.latencies(kept, on_progress=on_progress, provider=provider) if len(kept) > 1 else {}


class _NotProvedError(Exception):
    """Leaves :func:`files.staged` without giving the files their names."""


def untrained_spec(
    source: str,
    *,
    width: float = 1.0,
    input_size: int | None = None,
    colours: int | None = None,
    classes: int | None = None,
) -> ModelSpec:
    """A preset, or the spec in a JSON file, with what is given changed; new classes are called 0, 1, and so on.

    Raises:
        MnvError: for a name that is neither, and for a spec that is no network.
    """
    if source in PRESETS:
        spec = PRESETS[source]
    elif Path(source).is_file():
        spec = ModelSpec.from_json(Path(source).read_bytes())
    else:
        raise MnvError(f"There is no preset and no file {source}.", f"Presets are {', '.join(PRESETS)}.")
    changes: dict[str, object] = {}
    if input_size is not None:
        changes["input_size"] = input_size
    if classes is not None:
        changes["classes"] = tuple(map(str, range(classes)))
    if colours is not None and colours != spec.colours:
        changes |= {"colours": colours, "normalization": Normalization.default(colours)}
    return spec.scaled(width).replace(**changes) if width != 1.0 else spec.replace(**changes)


def _random(spec: ModelSpec) -> checkpoint.Checkpoint:
    """A network of that spec whose random weights are the same every time, under a name that says what it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = MobileNetV1(spec.replace(name=f"{spec.name}_untrained")).eval()
    return checkpoint.Checkpoint(network, {}, (), "")


def _check_folder(output: Path) -> None:
    """Raises MnvError for the name of a file, which would become a folder of that name."""
    suffixes = {entry.suffix for entry in map(formats.get, formats.NAMES)}
    if not output.is_dir() and any(output.name.endswith(suffix) for suffix in suffixes):
        raise MnvError(
            f"{output.name} is the name of an artifact, and an export writes to a folder.",
            "Name a folder; the file in it is named after the network and its precision.",
        )
