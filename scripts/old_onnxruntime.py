"""Whether versions of onnxruntime that are still in use, on a Jetson or a Raspberry Pi, run the files in models/.

    python scripts/old_onnxruntime.py      # installs each into a temporary environment (Python 3.11, uv)

For each version and file: the largest difference of its logits on the example pictures to those of the newest version,
or what it says instead. scripts/measure.py keeps the rows, docs/formats/onnx.md has the table.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mnv1deploy import bundled, images
from mnv1deploy.spec import CIFAR

ROOT = Path(__file__).parents[1]
VERSIONS = ("1.15.1", "1.16.3", "1.17.3", "1.18.1", "1.20.1", "1.23.2")

PROGRAM = """
import json, sys
import numpy, onnxruntime
answers = []
for path in sys.argv[2:]:
    try:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        answers.append(session.run(None, {"image": numpy.load(sys.argv[1])})[0].tolist())
    except Exception as error:
        answers.append(str(error))
print(json.dumps([onnxruntime.__version__, answers]))
"""
"""Runs with that version alone, where there is no mnv1deploy."""


def logits(pictures: Path, *, version: str = "") -> tuple[str, list[Any]]:
    """The version that ran, and for each file in models/ its logits or what was wrong."""
    packages = [f"onnxruntime=={version}", "numpy<2"] if version else []
    isolated = ["uv", "run", "--no-project", "--isolated", "--python", "3.11"]
    command = [*isolated, *(f"--with={package}" for package in packages), "python"] if version else [sys.executable]
    files = [str(path) for path in (bundled.INT8, bundled.FP32)]
    done = subprocess.run([*command, "-c", PROGRAM, str(pictures), *files], capture_output=True, text=True, check=True)
    name, answers = json.loads(done.stdout)
    return name, answers


def rows() -> Iterator[dict[str, Any]]:
    """A row per version: the largest difference of int8 and of fp32 to the version installed here, or the error."""
    examples = sorted(path for path in (ROOT / "examples").iterdir() if path.suffix in (".png", ".jpg", ".webp"))
    with tempfile.TemporaryDirectory() as folder:
        pictures = Path(folder) / "pictures.npy"
        np.save(pictures, np.stack([images.read(path, CIFAR.pixels) for path in examples]))
        _, newest = logits(pictures)
        for version in VERSIONS:
            name, answers = logits(pictures, version=version)
            row: dict[str, Any] = {"onnxruntime": name, "pictures": len(examples)}
            for precision, answer, expected in zip(("int8", "fp32"), answers, newest, strict=True):
                row[precision] = (
                    answer if isinstance(answer, str) else float(np.abs(np.subtract(answer, expected)).max())
                )
            yield row


if __name__ == "__main__":
    for row in rows():
        print(row, flush=True)
