"""Public MobileNetV1s: what mnv1 import makes of them, against their own engines, and what int8 makes of that.

    python scripts/imports.py FOLDER      # of the files in FILES, which are not shipped; else $MNV1_WEIGHTS

Each is imported and compared with its own engine, LiteRT, onnxruntime or Keras, as in every import. Then it is exported
to C in int8 and timed. Int8 is calibrated and proved on mosaics of CIFAR-10's training images, as the pictures that
these networks were trained on are not to be had: that says whether integers follow the floats, not how accurate they
are. scripts/measure.py keeps the rows for docs/checkpoints.md.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mnv1deploy import datasets
from mnv1deploy.importing import import_file
from mnv1deploy.spec import Pixels

VARIABLE = "MNV1_WEIGHTS"

FILES = {
    "vww_96.h5": "MLPerf Tiny, Visual Wake Words",
    "vww_96_float.tflite": "the same, LiteRT",
    "vww_96_int8.tflite": "the same, LiteRT in int8",
    "keras_mobilenet_128_0_25.h5": "Keras Applications, 128 pixels, width 0.25",
    "keras_mobilenet_224_0_25.h5": "Keras Applications, 224 pixels, width 0.25",
    "slim_0.25_224_float.tflite": "TensorFlow-Slim, 224 pixels, width 0.25, LiteRT",
    "slim_0.25_128_quant.tflite": "TensorFlow-Slim, 128 pixels, width 0.25, LiteRT in uint8",
    "person_detect.tflite": "LiteRT for Microcontrollers, person detection, int8",
    "retinaface_0.25_leaky.tar": "RetinaFace's backbone",
    "not_a_mobilenetv1.pth": "another network",
    "person_detect_vela.tflite": "person detection, compiled by Vela",
}
"""File names, and what they are."""

PICTURES = 256
"""For calibration and its proof, half each."""


def mosaics(pixels: Pixels, folder: Path) -> None:
    """PNGs of CIFAR-10 training images side by side, from twice their size, as sharp as a photograph, to all of it."""
    whole = datasets.cifar10("train").images
    random = np.random.default_rng(0)
    for number in range(PICTURES):
        size = min(64 << number % 3, pixels.size)
        side = -(-pixels.size // size)
        rows = random.integers(0, len(whole), (side, side))
        larger = [[np.asarray(Image.fromarray(whole[i]).resize((size, size))) for i in row] for row in rows]
        mosaic = np.concatenate([np.concatenate(row, 1) for row in larger])[: pixels.size, : pixels.size]
        Image.fromarray(mosaic).save(folder / f"{number:03}.png")


def row(path: Path, folder: Path) -> dict[str, Any]:
    """What becomes of a file; what refuses it, if it is refused."""
    mnv1 = [sys.executable, "-m", "mnv1deploy.cli"]
    checkpoint = folder / "network.safetensors"
    done = subprocess.run(
        [*mnv1, "import", str(path), "--output", str(checkpoint), "--json"], capture_output=True, text=True, check=False
    )
    facts: dict[str, Any] = {"file": path.name, "what": FILES[path.name]}
    if done.returncode:
        said = [line.removeprefix("mnv1: ") for line in done.stderr.splitlines() if line.startswith("mnv1: ")]
        return {**facts, "refused": said[-1].removeprefix(f"{path} ")}
    found = import_file(path)
    spec = found.network.spec
    (folder / "pictures").mkdir()
    mosaics(spec.pixels, folder / "pictures")
    export = ["export", "--format", "c", "--quantize", "int8", "--calibration", str(folder / "pictures"), "--json"]
    exported = subprocess.run(
        [*mnv1, *export, "--checkpoint", str(checkpoint), "--output", str(folder)], stdout=subprocess.PIPE, check=False
    )
    (artifact,) = json.loads(exported.stdout)
    p50 = None
    if not artifact["failures"]:
        bench = [*mnv1, "bench", artifact["path"], "--threads", "1", "--json"]
        timed = subprocess.run(bench, stdout=subprocess.PIPE, check=True)
        p50 = 1000 * json.loads(timed.stdout)["results"][0]["p50"]
    return {
        **facts,
        "input": "x".join(map(str, spec.pixels.shape)),
        "classes": len(spec.classes),
        "normalization": next(fact.value for fact in found.facts if fact.what == "normalization"),
        "proof": asdict(found.proof) if found.proof else None,
        "int8": {key: artifact["proof"][key] for key in ("agreement", "noise")},
        "failures": artifact["failures"],
        "p50": p50,
    }


def rows(weights: Path) -> Iterator[dict[str, Any]]:
    """A row for each of FILES that is in a folder."""
    for name in FILES:
        if (weights / name).is_file():
            with tempfile.TemporaryDirectory() as folder:
                yield row(weights / name, Path(folder))


if __name__ == "__main__":
    for result in rows(Path(sys.argv[1] if sys.argv[1:] else os.environ[VARIABLE])):
        print(json.dumps(result), flush=True)
