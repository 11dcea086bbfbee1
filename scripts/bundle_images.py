"""Makes mnv1deploy/data: the bundled calibration images and the labelled sample, drawn from CIFAR-10 by seed.

    python scripts/bundle_images.py

Each is a lossless WebP contact sheet of 32x32 tiles (a person can look at it) and a JSON file with, per tile, the
label and the index in the split it came from.
"""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from mnv1deploy.datasets import Dataset, cifar10

FOLDER = Path(__file__).parent.parent / "mnv1deploy" / "data"
COLUMNS = 32


def balanced(dataset: Dataset, count: int) -> np.ndarray:
    """Indices of ``count`` pictures with the same number of every class, give or take one, in random order."""
    rng = np.random.default_rng(0)
    per_class = [rng.permutation(np.flatnonzero(dataset.labels == label)) for label in range(len(dataset.classes))]
    return rng.permutation(np.stack([members[: count // 10 + 1] for members in per_class], 1).ravel()[:count])


def write(dataset: Dataset, count: int, stem: str) -> None:
    chosen = balanced(dataset, count)
    rows = -(-count // COLUMNS)
    tiles = np.zeros((rows * COLUMNS, 32, 32, 3), np.uint8)
    tiles[:count] = dataset.images[chosen]
    sheet = tiles.reshape(rows, COLUMNS, 32, 32, 3).swapaxes(1, 2).reshape(rows * 32, COLUMNS * 32, 3)
    Image.fromarray(sheet).save(FOLDER / f"{stem}.webp", lossless=True, quality=100, method=6)
    labels = {"source": dataset.name, "labels": dataset.labels[chosen].tolist(), "indices": chosen.tolist()}
    (FOLDER / f"{stem}.json").write_text(json.dumps(labels) + "\n")
    print(f"{stem}: {count} images, {(FOLDER / f'{stem}.webp').stat().st_size:,} bytes")


if __name__ == "__main__":
    write(cifar10("train"), 512, "calibration")
    write(cifar10("test"), 1000, "sample")
