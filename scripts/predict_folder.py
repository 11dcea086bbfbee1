"""Times ``mnv1 predict`` on a folder of photographs against a plain loop of Pillow and onnxruntime.

    python scripts/predict_folder.py                # 100,000 pictures, made in the temporary folder if not there yet
    python scripts/predict_folder.py --pictures 2000 --rounds 1

The pictures are JPEGs of 500x375, like ImageNet's: random parts of the photographs in examples/, mirrored or not, with
the noise of a camera. The same number makes the same pictures. Every contestant is a process of its own, and takes its
turn.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

ROOT = Path(__file__).parents[1]
SIZE = (500, 375)
SOURCES = ("truck.jpg", "airplane.webp", "cat.png")
_NOT_THE_USERS = ("OMP_NUM_THREADS", "PYTHONDONTWRITEBYTECODE")
NOISE = 8.0
"""Standard deviation, in levels of 0..255: JPEGs of quality 90 then have 60 KB."""

PLAIN = """
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
import numpy as np, onnxruntime
from PIL import Image, ImageOps

def read(path):
    with Image.open(path) as image:
        return np.asarray(ImageOps.fit(image.convert("RGB"), (32, 32), Image.Resampling.BICUBIC))

folder, model, batch = sys.argv[1], sys.argv[2], int(sys.argv[3])
session = onnxruntime.InferenceSession(model)
with ThreadPoolExecutor() as pool:
    pictures = pool.map(read, sorted(Path(folder).glob("*.jpg")))
    while read_ones := list(islice(pictures, batch)):
        for label in session.run(None, {"image": np.stack(read_ones)})[0].argmax(1):
            print(label)
"""

DECODE = """
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from PIL import Image

def decode(path):
    with Image.open(path) as image:
        image.load()

if __name__ == "__main__":
    with ProcessPoolExecutor() as pool:
        for _ in pool.map(decode, sorted(Path(sys.argv[1]).glob("*.jpg")), chunksize=32):
            pass
"""
"""The least that any loop over these pictures does."""


def picture(number: int) -> Image.Image:
    """One of the pictures."""
    rng = np.random.default_rng(number)
    with Image.open(ROOT / "examples" / SOURCES[number % len(SOURCES)]) as opened:
        photograph = opened.convert("RGB")
    unit = min(photograph.width / 4, photograph.height / 3) * rng.uniform(0.7, 1)
    left, top = rng.uniform(0, photograph.width - 4 * unit), rng.uniform(0, photograph.height - 3 * unit)
    part = photograph.resize(SIZE, Image.Resampling.BICUBIC, box=(left, top, left + 4 * unit, top + 3 * unit))
    if rng.random() < 0.5:
        part = ImageOps.mirror(part)
    noisy = np.asarray(part) + rng.normal(0, NOISE, (*SIZE[::-1], 3))
    return Image.fromarray(noisy.round().clip(0, 255).astype(np.uint8))


def make(task: tuple[Path, int]) -> None:
    """Writes one that is not there."""
    folder, number = task
    path = folder / f"{number:06}.jpg"
    if not path.exists():
        picture(number).save(path, quality=90)


def pictures(count: int) -> Path:
    """A folder of so many."""
    folder = Path(tempfile.gettempdir()) / f"mnv1-pictures-{count}"
    folder.mkdir(exist_ok=True)
    with ProcessPoolExecutor() as pool:
        for _ in pool.map(make, ((folder, number) for number in range(count)), chunksize=64):
            pass
    return folder


def contestants(folder: Path, scratch: Path) -> Iterator[tuple[str, list[str]]]:
    """Names and commands."""
    model = str(ROOT / "models" / "mobilenetv1_cifar10_int8.onnx")
    programs = {"plain": PLAIN, "decode": DECODE}
    for name, program in programs.items():
        (scratch / f"{name}.py").write_text(program)
    mnv1 = [sys.executable, "-m", "mnv1deploy.cli", "predict", str(folder), "--model", model]
    yield "decoding alone, a process per processor", [sys.executable, str(scratch / "decode.py"), str(folder)]
    for batch, how in (("1", "one by one"), ("32", "in batches of 32")):
        yield f"a plain loop, {how}", [sys.executable, str(scratch / "plain.py"), str(folder), model, batch]
    yield "mnv1 predict, in one process", [*mnv1, "--csv", "-", "--workers", "1"]
    yield "mnv1 predict", [*mnv1, "--csv", "-"]
    yield "mnv1 predict --jpeg scaled", [*mnv1, "--csv", "-", "--jpeg", "scaled"]


def timed(command: list[str]) -> tuple[float, float]:
    """Seconds by the clock, and processor seconds of the command and its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    # as where it is installed: with all threads, and not compiling every module of ours again
    environment = {key: value for key, value in os.environ.items() if key not in _NOT_THE_USERS}
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**environment, "PYTHONPATH": str(ROOT)})
    seconds = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def rows(count: int = 100_000, rounds: int = 3) -> list[dict[str, Any]]:
    """Of every contestant the best of all rounds: pictures per second, and processor time per picture."""
    folder = pictures(count)
    size = sum(path.stat().st_size for path in folder.iterdir()) / count
    best: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for _ in range(rounds):
            for name, command in contestants(folder, Path(scratch)):
                seconds, used = timed(command)
                row = {
                    "contestant": name,
                    "pictures": count,
                    "bytes": round(size),
                    "images_per_second": count / seconds,
                    "milliseconds": 1000 * used / count,
                }
                if name not in best or row["images_per_second"] > best[name]["images_per_second"]:
                    best[name] = row
    return list(best.values())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    print(json.dumps(rows(chosen.pictures, chosen.rounds), indent=1))
