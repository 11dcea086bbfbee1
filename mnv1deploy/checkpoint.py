"""Checkpoints: safetensors with the whole spec, the training settings and the measured accuracy in the metadata.

State dicts of the well-known CIFAR-10 tutorial network are recognised and renamed. Nothing here unpickles objects.
"""

from __future__ import annotations

import json
import pickle
import re
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from mnv1deploy import datasets, files
from mnv1deploy.artifact import METADATA_KEY, Accuracy, read_checkpoint_metadata, require_mobilenetv1
from mnv1deploy.errors import MnvError
from mnv1deploy.network import MobileNetV1, PixelNetwork
from mnv1deploy.packages import versions
from mnv1deploy.spec import CIFAR, CIFAR10_CLASSES, Block, ModelSpec, Normalization

TUTORIAL_NORMALIZATION = Normalization.from_unit((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
"""What most CIFAR-10 tutorials feed their network."""

NORMALIZATIONS = {
    "tutorial": TUTORIAL_NORMALIZATION,
    "default": Normalization(),
    "imagenet": Normalization.from_unit((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": Normalization.from_unit((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "unit": Normalization.from_unit((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
"""Those in common use, by the name ``mnv1 import --normalization`` takes."""


Network = TypeVar("Network", bound=PixelNetwork)


@dataclass(frozen=True)
class Checkpoint:
    """A trained network and what is known of it.

    Attributes:
        network: in inference mode, on the CPU, float32.
        training: the settings it was trained with, or how it was imported.
        accuracy: measured when it was trained or imported.
        sha256: of its file.
    """

    network: MobileNetV1
    training: dict[str, Any]
    accuracy: tuple[Accuracy, ...]
    sha256: str

    @property
    def spec(self) -> ModelSpec:
        """The network's spec."""
        return self.network.spec


def save(
    path: str | Path, network: PixelNetwork, *, training: dict[str, Any], accuracy: tuple[Accuracy, ...] = ()
) -> None:
    """Writes a checkpoint; the same network and facts give the same bytes.

    Raises:
        MnvError: if nothing can be written there.
    """
    facts = {
        "spec": network.spec.to_dict(),
        "training": training,
        "accuracy": [asdict(row) for row in accuracy],
        "versions": versions("torch"),
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    with files.atomic(path) as temporary:
        safetensors.torch.save_file(tensors, temporary, {METADATA_KEY: json.dumps(facts, sort_keys=True)})


def load(path: str | Path) -> Checkpoint:
    """Reads a checkpoint that :func:`save` wrote.

    Raises:
        MnvError: if it is not there, is damaged or is no checkpoint of mnv1deploy.
    """
    facts = read_checkpoint_metadata(Path(path))
    require_mobilenetv1(facts, Path(path))
    network = load_network(path, MobileNetV1)
    accuracy = tuple(Accuracy(**row) for row in facts["accuracy"])
    return Checkpoint(network, facts["training"], accuracy, files.sha256(path))


def load_network(path: str | Path, kind: type[Network]) -> Network:
    """The network of a checkpoint that may hold another kind than MobileNetV1, in inference mode. Raises MnvError."""
    facts = read_checkpoint_metadata(Path(path))
    network = kind(ModelSpec.from_dict(facts["spec"]))
    _load_tensors(network, safetensors.torch.load_file(path), Path(path))
    return network.eval()


def _load_tensors(network: PixelNetwork, tensors: dict[str, Tensor], path: Path) -> None:
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise MnvError(
            f"The weights in {path} are not those of the network: {str(error).splitlines()[-1].strip()}"
        ) from error
    if not all(torch.isfinite(tensor).all() for tensor in tensors.values()):
        raise MnvError(f"{path} has weights that are not finite numbers.", "The training diverged; use an earlier one.")


def import_state_dict(
    path: str | Path,
    *,
    normalization: Normalization = TUTORIAL_NORMALIZATION,
    classes: tuple[str, ...] | None = None,
    input_size: int = 32,
) -> MobileNetV1:
    """The network of a ``.pt``/``.pth`` state dict, in our names or the tutorial's, or of a bare safetensors file.

    Unwraps ``{"state_dict": ...}``, ``{"net": ...}`` and their like and DataParallel's ``module.`` prefix. The
    channels and the number of classes are read off the weights.

    Args:
        normalization: what the network was trained with; the file does not say.
        classes: names of the classes; CIFAR-10's by default where there are ten.
        input_size: of the pictures it was trained on.

    Raises:
        MnvError: if the file would need unpickling arbitrary objects, is damaged, or is another network's.
    """
    path = Path(path)
    tensors = {_our_name(name): tensor.float() for name, tensor in _read_tensors(path).items()}
    try:
        blocks = []
        for number in range(1, sum(name.endswith(".pointwise.conv.weight") for name in tensors) + 1):
            blocks.append(tensors[f"block{number}.pointwise.conv.weight"].shape[0])
        stem, count = tensors["stem.conv.weight"].shape[0], tensors["classifier.weight"].shape[0]
    except (KeyError, IndexError) as error:
        raise MnvError(
            f"{path} is not the state dict of a MobileNetV1 in a known naming: it has no {error}.",
            f"It has {', '.join(list(_read_tensors(path))[:4])}, ...; the tutorial's names are conv1.0.weight, "
            "conv2_1.0.weight, ..., fc.weight.",
        ) from error
    if len(blocks) != len(CIFAR.blocks):
        raise MnvError(f"{path} has {len(blocks)} depthwise-separable blocks, the CIFAR network {len(CIFAR.blocks)}.")
    if classes is None:
        classes = CIFAR10_CLASSES if count == len(CIFAR10_CLASSES) else tuple(f"class {i}" for i in range(count))
    if len(classes) != count:
        raise MnvError(f"{path} has {count} classes, but {len(classes)} names were given.")
    spec = CIFAR.replace(
        name=path.stem,
        classes=classes,
        input_size=input_size,
        stem=Block(stem, CIFAR.stem.stride),
        stem_bias="stem.conv.bias" in tensors,
        blocks=tuple(Block(out, row.stride) for out, row in zip(blocks, CIFAR.blocks, strict=True)),
        normalization=normalization,
    )
    network = MobileNetV1(spec)
    for name, tensor in network.state_dict().items():
        if name.endswith("num_batches_tracked"):
            tensors.setdefault(name, tensor)  # old files lack it, and nothing here uses it
    _load_tensors(
        network,
        {k: v.to(network.state_dict()[k].dtype) if k in network.state_dict() else v for k, v in tensors.items()},
        path,
    )
    return network.eval()


def _read_tensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise MnvError(f"There is no file {path}.")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols, before it refuses
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise MnvError(
            f"{path} holds more than tensors (a pickled module?), and reading it could run any code.",
            "Save the weights alone, where the network is defined: torch.save(net.state_dict(), 'weights.pt').",
        ) from error
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, SafetensorError) as error:
        raise MnvError(f"{path} cannot be read as a PyTorch file: {MnvError.reason(error)}.") from error
    for wrapper in ("state_dict", "net", "model", "model_state_dict"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()) or not content:
        raise MnvError(f"{path} holds no state dict.", "Save one: torch.save(net.state_dict(), 'weights.pt').")
    return {str(name).removeprefix("module."): tensor for name, tensor in content.items()}


_TUTORIAL_PARTS = {"0": "depthwise.conv", "1": "depthwise.norm", "3": "pointwise.conv", "4": "pointwise.norm"}


def _our_name(name: str) -> str:
    """The tutorial network's name of a tensor in ours; any other name unchanged."""
    if match := re.fullmatch(r"conv1\.([01])\.(\w+)", name):
        return f"stem.{'conv' if match[1] == '0' else 'norm'}.{match[2]}"
    if match := re.fullmatch(r"conv2_(\d+)\.([0134])\.(\w+)", name):
        return f"block{match[1]}.{_TUTORIAL_PARTS[match[2]]}.{match[3]}"
    if match := re.fullmatch(r"fc\.(\w+)", name):
        return f"classifier.{match[1]}"
    return name


def normalization(
    name: str, mean: tuple[float, float, float] | None, std: tuple[float, float, float] | None
) -> Normalization:
    """The normalisation of that name, or that of a mean and std for pixels in 0..1. Raises MnvError."""
    if mean and std:
        return Normalization.from_unit(mean, std)
    if name not in NORMALIZATIONS:
        raise MnvError(
            f"There is no normalisation called {name}.",
            f"There are {', '.join(NORMALIZATIONS)}; or give --mean and --std.",
        )
    return NORMALIZATIONS[name]


def try_normalizations(network: MobileNetV1) -> dict[str, Accuracy]:
    """Accuracy on the bundled training images under every normalisation in common use, and "as given".

    A wrong normalisation costs accuracy without any error, and this is how it shows. Empty for a network that has
    not CIFAR-10's classes.
    """
    if network.spec.classes != CIFAR10_CLASSES:
        return {}
    pictures = datasets.resized(datasets.calibration(), network.spec.pixels)
    images, labels = torch.from_numpy(pictures.images), torch.from_numpy(pictures.labels)
    results = {}
    for name, candidate in {"as given": network.spec.normalization, **NORMALIZATIONS}.items():
        other = MobileNetV1(network.spec.replace(normalization=candidate)).eval()
        other.load_state_dict(network.state_dict())
        with torch.inference_mode():
            top1 = (other(images).argmax(1) == labels).double().mean().item()
        results[name] = Accuracy(top1, len(pictures), pictures.name)
    return results
