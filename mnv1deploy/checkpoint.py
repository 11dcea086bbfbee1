"""Checkpoints: safetensors with the whole spec, the training settings and the measured accuracy in the metadata.

What was trained elsewhere comes in through :mod:`mnv1deploy.importing`. Nothing here unpickles objects.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import safetensors.torch
import torch
from torch import Tensor

from mnv1deploy import files
from mnv1deploy.artifact import METADATA_KEY, Accuracy, read_checkpoint_metadata, require_mobilenetv1
from mnv1deploy.errors import MnvError
from mnv1deploy.network import MobileNetV1, PixelNetwork
from mnv1deploy.packages import versions
from mnv1deploy.spec import ModelSpec

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
    path: str | Path,
    network: PixelNetwork,
    *,
    training: dict[str, Any],
    accuracy: tuple[Accuracy, ...] = (),
    spec: ModelSpec | None = None,
) -> None:
    """Writes a checkpoint; the same network and facts give the same bytes.

    Args:
        path: the file.
        network: what its tensors are taken from.
        training, accuracy: see :class:`Checkpoint`.
        spec: where it says more than the network's own, which a temperature was fitted for since.

    Raises:
        MnvError: if nothing can be written there.
    """
    facts = {
        "spec": (spec or network.spec).to_dict(),
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
