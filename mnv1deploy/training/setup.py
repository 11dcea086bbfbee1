"""What a run is made of before its first step: device, pictures, spec and network."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mnv1deploy import checkpoint
from mnv1deploy import spec as specs
from mnv1deploy.artifact import network_kind, read_checkpoint_metadata
from mnv1deploy.datasets import Dataset
from mnv1deploy.errors import MnvError
from mnv1deploy.network import MobileNetV1, PixelNetwork
from mnv1deploy.spec import CIFAR, CIFAR10_CLASSES, PRESETS, ModelSpec, Normalization
from mnv1deploy.training import distributed
from mnv1deploy.training.settings import Settings
from mnv1deploy.training.teacher import Teacher

NETWORKS: dict[str, type[PixelNetwork]] = {"mobilenetv1": MobileNetV1, "teacher": Teacher}


@dataclass(frozen=True)
class Parts:
    """A training split in two: what is learned from, and what is held out to choose the best epoch by.

    Attributes:
        whole: name and number of the pictures of both.
    """

    train: Dataset
    holdout: Dataset
    whole: str

    @classmethod
    def of(cls, data: Dataset, holdout: float) -> Parts:
        """The parts of ``data``, the fraction ``holdout`` of every class held out, the same pictures always."""
        train, rest = data.split(holdout, 0, (f"{data.name}, training part", f"{data.name}, held-out part"))
        return cls(train, rest, f"{data.name}, {len(data)} images")


def check(spec: ModelSpec, parts: Parts, settings: Settings) -> None:
    """Whether the network, the pictures and the settings go together. Raises MnvError."""
    if parts.train.images.shape[1:] != spec.pixels.shape or parts.train.classes != spec.classes:
        raise MnvError("The data have other classes or another picture size than the network.")
    size, processes = settings.batch_size, distributed.processes()
    if len(parts.train) < size:
        raise MnvError(
            f"{len(parts.train)} pictures to train on are fewer than one batch of {size}.",
            "Use a smaller --batch-size.",
        )
    if size % processes or size // processes < 2:
        raise MnvError(
            f"{processes} processes cannot share a batch of {size}.",
            f"Use a --batch-size that is a multiple of {processes}, and {2 * processes} or more.",
        )


def base_spec(
    init: str | Path | None = None,
    *,
    preset: str | None = None,
    width: float | None = None,
    input_size: int | None = None,
    colours: int | None = None,
) -> ModelSpec:
    """The network to train but for its name and classes: a preset's, changed as asked for, or a checkpoint's own.

    Its temperature is 1: the run fits it anew.

    Args:
        init: checkpoint whose sizes, colours, normalisation and preprocessing are taken.
        preset: "cifar" (the default) or "paper".
        width: multiplier of the preset's channels.
        input_size: height and width of the pictures in pixels.
        colours: 3 or 1.

    Raises:
        MnvError: if there is no such preset or checkpoint, or the checkpoint contradicts what is asked for.
    """
    wanted = specs.preset(preset or "cifar").scaled(1.0 if width is None else width)
    if init is None:
        if colours not in (None, wanted.colours):
            normalization = Normalization.default(colours) if colours in (1, 3) else wanted.normalization
            wanted = wanted.replace(colours=colours, normalization=normalization)
        return wanted.replace(input_size=input_size) if input_size is not None else wanted
    spec = checkpoint.load(init).spec
    contradictions = {
        f"--preset {preset}": preset is not None and len(wanted.blocks) != len(spec.blocks),
        f"--width {width}": width is not None and (wanted.stem, wanted.blocks) != (spec.stem, spec.blocks),
        f"--input-size {input_size}": input_size not in (None, spec.input_size),
        f"--colours {colours}": colours not in (None, spec.colours),
    }
    if refused := [option for option, contradicts in contradictions.items() if contradicts]:
        kind = {1: "grey", 3: "RGB"}[spec.colours]
        raise MnvError(
            f"{init} is a network for {kind} pictures of {spec.input_size} pixels with {spec.stem.channels} to "
            f"{max(block.channels for block in (spec.stem, *spec.blocks))} channels, which contradicts "
            f"{' and '.join(refused)}.",
            f"Leave out {' and '.join(option.split()[0] for option in refused)}, or start from random weights "
            "(--init none).",
        )
    return spec.replace(temperature=1.0)


def spec_for(data: Dataset, base: ModelSpec = CIFAR) -> ModelSpec:
    """``base`` for a data set's classes, and named after it: ``mobilenetv1_pets_w0.25_96px_grey``.

    A width multiplier, sizes other than 32 pixels and grey are part of the name.
    """
    name = "cifar10" if data.classes == CIFAR10_CLASSES else re.sub(r"\W+", "_", data.name.split()[0]).lower()
    width = _width(base)
    parts = [
        f"mobilenetv1_{name}",
        *([f"w{width:g}"] if width not in (None, 1) else []),
        *([f"{base.input_size}px"] if base.input_size != CIFAR.input_size else []),
        *(["grey"] if base.colours == 1 else []),
    ]
    return base.replace(name="_".join(parts), classes=data.classes)


def _width(spec: ModelSpec) -> float | None:
    """The multiplier, of four decimals or fewer, that makes a preset the spec; None if there is none."""
    for preset in PRESETS.values():
        ratio = spec.blocks[-1].channels / preset.blocks[-1].channels if spec.blocks else 0
        for width in (round(ratio, digits) for digits in range(5)):
            if width > 0:
                scaled = preset.scaled(width)
                if (scaled.stem, scaled.blocks) == (spec.stem, spec.blocks):
                    return width
    return None


def network_for(
    spec: ModelSpec, settings: Settings, parts: Parts, init: str | Path | None, device: torch.device
) -> PixelNetwork:
    """The network to train, with random weights by the settings' seed or those of the checkpoint ``init``.

    Raises:
        MnvError: if ``init`` cannot be read or is another network's.
    """
    torch.manual_seed(settings.seed)
    network = NETWORKS[settings.network](spec)
    if init and settings.network != "mobilenetv1":
        raise MnvError(f"A run of a {settings.network} starts from random weights.", "Leave out --init.")
    if init:
        _start_from(network, checkpoint.load(init).network)
    network = network.to(device).to(memory_format=torch.channels_last)
    network.prepare(torch.from_numpy(parts.train.images))
    return network


def check_start(spec: ModelSpec, init: str | Path | None) -> None:
    """Whether a network starts from one that can teach it. Raises MnvError."""
    if init is None:
        raise MnvError("A network that teaches itself has to be a trained one.", "Name it with --init.")
    known = checkpoint.load(init).spec.classes
    if sorted(known) != sorted(spec.classes):
        raise MnvError(
            f"{init} has other classes than the data, so that it cannot teach them.",
            "Train it with another recipe first.",
        )


def load_teacher(path: Path) -> PixelNetwork:
    """The network of a checkpoint, whichever of NETWORKS it is, in inference mode. Raises MnvError."""
    return checkpoint.load_network(path, NETWORKS[network_kind(read_checkpoint_metadata(path))])


def _start_from(network: PixelNetwork, trained: MobileNetV1) -> None:
    """Copies the trained weights; the classifier's, row by row, only if the classes have the same names."""
    weights = trained.state_dict()
    classes, known = network.spec.classes, trained.spec.classes
    for name in ("classifier.weight", "classifier.bias"):
        if sorted(classes) == sorted(known):
            weights[name] = weights[name][[known.index(label) for label in classes]]
        else:
            weights[name] = network.state_dict()[name]
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise MnvError(
            f"The checkpoint to start from has other layers than the network: {MnvError.reason(error)}.",
            "Its sizes are taken where none are given.",
        ) from error


def parallel(network: PixelNetwork, device: torch.device, *, sync_batchnorm: bool) -> nn.Module:
    """What is called in training: the network, compiled on GPUs, and shared where there are several processes."""
    if sync_batchnorm and device.type == "cpu":
        raise MnvError("torch synchronises batch normalisation on GPUs only.", "Leave out --sync-batchnorm.")
    module: nn.Module = network
    if sync_batchnorm:
        module = nn.SyncBatchNorm.convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]
    if device.type == "cuda":
        module = torch.compile(module)  # type: ignore[assignment]
    return DistributedDataParallel(module) if distributed.processes() > 1 else module


def select_device(device: str) -> torch.device:
    """ "auto" is the GPU where there is one (each process's own); anything else is used or refused. Raises MnvError."""
    if device == "auto":
        return torch.device("cuda", distributed.local_rank()) if torch.cuda.is_available() else torch.device("cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise MnvError(f"There is no device called {device}.", "Use auto, cpu or cuda.") from error
    if chosen.type not in ("cpu", "cuda"):
        raise MnvError(f"Training on {device} is not supported.", "Use auto, cpu or cuda.")
    if chosen.type == "cuda" and (not torch.cuda.is_available() or (chosen.index or 0) >= torch.cuda.device_count()):
        count = torch.cuda.device_count()
        raise MnvError(
            f"torch {torch.__version__} sees {count} CUDA devices here, so not {device}.", "Use --device cpu."
        )
    return chosen
