"""What cross-layer equalization is worth to networks with ReLU and with ReLU6, by its strength.

    python scripts/equalization.py FOLDER      # of public networks, which are not shipped; else $MNV1_WEIGHTS

Calibrated on half of the mosaics of :func:`imports.mosaics`, and compared with the float network on the other half.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from imports import FILES, VARIABLE, mosaics

from mnv1deploy import bundled, checkpoint, images
from mnv1deploy.datasets import Dataset
from mnv1deploy.formats.torch_session import TorchSession
from mnv1deploy.importing import import_file
from mnv1deploy.network import MobileNetV1
from mnv1deploy.quantization import DEFAULT, sensitivity

STRENGTHS = (0.0, 0.5, 1.0)


def networks(weights: Path) -> Iterator[tuple[str, MobileNetV1]]:
    """The bundled one, and public ones that a folder has."""
    yield "the bundled network", checkpoint.load(bundled.CHECKPOINT).network
    for name in ("vww_96.h5", "keras_mobilenet_128_0_25.h5"):
        if (weights / name).is_file():
            yield FILES[name], import_file(weights / name).network


def rows(weights: Path) -> Iterator[dict[str, Any]]:
    """A row for each network and strength."""
    for name, network in networks(weights):
        spec = network.spec
        with tempfile.TemporaryDirectory() as folder:
            mosaics(spec.pixels, Path(folder))
            pictures, _ = images.read_folder(folder, spec.pixels)
        seen, unseen = np.split(pictures, 2)
        answers = TorchSession(network, spec, "cpu", None)(unseen).argmax(1)
        data = Dataset("mosaics", unseen, answers.astype(np.int64), spec.classes)
        schemes = [replace(DEFAULT, equalization=strength) for strength in STRENGTHS]
        for trial in sensitivity.compare(network.folded(), seen, data, schemes):
            facts = {"network": name, "activation": spec.activation, "equalization": trial.scheme.equalization}
            yield {**facts, **asdict(trial.deviation)}


if __name__ == "__main__":
    for result in rows(Path(sys.argv[1] if sys.argv[1:] else os.environ[VARIABLE])):
        print(json.dumps(result), flush=True)
