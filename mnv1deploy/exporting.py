"""From a checkpoint to proved artifacts: fold, quantise, write, prove, and only then give the file its name."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mnv1deploy import checkpoint, datasets, formats, images, quantization, verification
from mnv1deploy.artifact import Manifest, Precision, Proof, Provenance, hashes
from mnv1deploy.bundled import CHECKPOINT
from mnv1deploy.errors import MnvError
from mnv1deploy.files import staged
from mnv1deploy.formats.base import Images, missing_to_export
from mnv1deploy.formats.torch_session import TorchSession
from mnv1deploy.machine import check_threads
from mnv1deploy.packages import install_hint, versions
from mnv1deploy.progress import OnProgress, untold
from mnv1deploy.quantization import Scheme
from mnv1deploy.spec import CIFAR10_CLASSES, ModelSpec


@dataclass(frozen=True)
class Exported:
    """One artifact: its path, manifest, and the sentences for what it failed (then nothing is at ``path``)."""

    path: Path
    manifest: Manifest
    failures: tuple[str, ...]

    @property
    def proof(self) -> Proof | None:
        """The manifest's."""
        return self.manifest.proof


def export(
    format: str | Sequence[str] = "onnx",
    precision: Precision = "fp32",
    *,
    checkpoint_path: str | Path = CHECKPOINT,
    output: str | Path = "artifacts",
    calibration: str | Path | None = None,
    data: str | Path | None = None,
    skip_unreadable: bool = False,
    scheme: Scheme = quantization.DEFAULT,
    name: str | None = None,
    threads: int | None = None,
    on_progress: OnProgress = untold,
    on_artifact: Callable[[Exported], None] = lambda exported: None,
) -> list[Exported]:
    """Exports a checkpoint to one or more formats and proves each artifact against it.

    Args:
        format: names from formats.exportable(), or "all" for those of them that know the precision and whose
            packages are installed; formats.absent() names the others.
        precision: "fp32", "fp16" or "int8".
        checkpoint_path: a checkpoint of mnv1deploy; the bundled one by default.
        output: folder for ``<name>_<precision><suffix>`` and its manifest.
        calibration: a folder of pictures to calibrate int8 on; the bundled ones by default. A network with other
            classes than CIFAR-10's needs it in every precision: its logits are compared on these pictures.
        data: labelled data to measure accuracy on, as for training; else CIFAR-10's test split where it is at hand,
            else the bundled sample, for a network with CIFAR-10's classes.
        skip_unreadable: leave out calibration pictures that cannot be read; their name says how many.
        scheme: how int8 is calibrated and rounded.
        name: what to call the network instead of the checkpoint's name; the C's files and symbols begin with it, too.
        threads: to compute with, torch's and the engines' in the proofs; None leaves them to each.
        on_progress: told of every step.
        on_artifact: called with each artifact as soon as it is proved.

    Raises:
        MnvError: for a format, precision, file or folder that is not there.
    """
    names = [format] if isinstance(format, str) else list(format)
    chosen = [formats.get(name) for name in (formats.present(precision) if names == ["all"] else names)]
    for entry in chosen:
        if precision not in entry.precisions:
            there = ", ".join(entry.precisions) or "nothing: it is what is exported"
            raise MnvError(f"{entry.name} cannot be exported in {precision}.", f"It can in {there}.")
        if lacking := missing_to_export(entry):
            raise MnvError(
                f"Exporting to {entry.name} needs {', '.join(lacking)}, not installed here.",
                install_hint(entry.export_extra),
            )
    check_threads(threads)
    on_progress("reading the checkpoint and the pictures", 0, 0)
    source = checkpoint.load(checkpoint_path)
    spec = source.network.spec = source.spec.replace(name=source.spec.name if name is None else name)
    pictures, pictures_name = calibration_images(spec, calibration, skip_unreadable=skip_unreadable)
    # whatever int8 is calibrated on, a network with CIFAR-10's classes is compared on the bundled images
    parity = calibration_images(spec, None) if spec.classes == CIFAR10_CLASSES else (pictures, pictures_name)
    session = TorchSession(source.network, spec, "cpu", threads)
    on_progress("running the checkpoint", 0, 0)
    reference = verification.Reference(session, *parity, _labelled(spec, data))
    folded = source.network.folded()
    if precision == "int8":
        on_progress("calibrating and quantising", 0, 0)
    integers = quantization.quantize(folded, pictures, pictures_name, scheme) if precision == "int8" else None
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
                manifest = Manifest(said or provenance, hashes(folder), None, entry.elsewhere)
                manifest.write(temporary)  # some formats know their spec from it alone
                failures: list[str] = []
                if not entry.elsewhere:
                    on_progress(f"proving {path.name}", number, len(chosen))
                    proof, failures = reference.prove(formats.open_session(temporary, threads=threads), precision)
                    manifest = replace(manifest, proof=proof)
                    manifest.write(temporary)
                result = Exported(path, manifest, tuple(failures))
                if failures:
                    raise _NotProvedError
        except _NotProvedError:
            pass
        done.append(result)
        on_artifact(result)
    return done


class _NotProvedError(Exception):
    """Leaves :func:`files.staged` without giving the files their names."""


def calibration_images(
    spec: ModelSpec, calibration: str | Path | None, *, skip_unreadable: bool = False
) -> tuple[Images, str]:
    """The pictures in a folder, by default the bundled ones, and their name. Raises MnvError if they do not fit."""
    if calibration is not None:
        return images.read_folder(calibration, spec.pixels, skip_unreadable=skip_unreadable)
    if spec.classes != CIFAR10_CLASSES:
        raise MnvError(
            "The bundled pictures are CIFAR-10's, and this network has other classes.",
            "Name a folder with a few hundred of its training pictures: --calibration FOLDER.",
        )
    bundled = datasets.resized(datasets.calibration(), spec.pixels)
    return bundled.images, bundled.name


def _labelled(spec: ModelSpec, data: str | Path | None) -> datasets.Dataset | None:
    if spec.classes == CIFAR10_CLASSES and (data is None or datasets.has_cifar10(data)):
        at_hand = datasets.has_cifar10(data)
        found = datasets.cifar10("test", data) if at_hand else datasets.sample()
        return datasets.resized(found, spec.pixels)
    return datasets.load(data, spec.pixels)[1] if data is not None else None
