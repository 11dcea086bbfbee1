"""The runs that docs/training.md and the model card speak of: what was trained, and what came of it.

    python scripts/training_runs.py shipped       # best, its teachers, robust and the narrower networks: on a GPU
    python scripts/training_runs.py tried         # what was tried on the way: a day on two cores

Every row is ``mnv1 train`` with options. Accuracies are fractions; the held-out ones choose, the test split is only
reported. Runs of ``shipped`` that were made elsewhere, in folders of their names in $MNV1_RUNS, are not made again.
scripts/measure.py keeps the rows, scripts/figures.py makes the tables of them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mnv1deploy import datasets, verification
from mnv1deploy.formats.torch_session import TorchSession
from mnv1deploy.training.setup import load_teacher

RUNS = Path(os.environ.get("MNV1_RUNS", "runs"))
"""Where runs that were made elsewhere are."""

LADDER = "--recipe best --epochs 200"
SHIPPED = {
    **{f"teacher-{seed}": f"--recipe teacher --seed {seed}" for seed in range(3)},
    **{f"best-{seed}": f"--recipe best --seed {seed}" for seed in range(3)},
    "robust": "--recipe robust --init runs/best-1/checkpoint.safetensors",
    **{f"w{width}": f"{LADDER} --width {width}" for width in (0.75, 0.5, 0.25)},
}
"""The logs in docs/training, and the options that made them."""

MUON = "--muon 0.05 --muon-decay 0.02"
BEFORE = "--recipe best --batch-size 128 --learning-rate 0.2 --muon 0.05 --ema 0.998 --views 24 --epochs 160"
"""What `best` was before there was a GPU to train on."""

ONE_TEACHER = f"{BEFORE} --teachers 1".replace("160", "8")
TRIED = {
    "one teacher's answers, SGD": [f"{ONE_TEACHER} --muon 0"],
    "**the same with Muon, 0.05 and a decay of 0.02**; twice, on two days": [ONE_TEACHER, ONE_TEACHER],
    "Muon, 0.05, with a quarter of the decay": [f"{ONE_TEACHER} --muon-decay 0.005"],
    "Muon, 0.05, the other weights at learning rates of 0.1 and 0.05": [
        f"{ONE_TEACHER} --learning-rate 0.1",
        f"{ONE_TEACHER} --learning-rate 0.05",
    ],
    "`quick` in ten epochs, seeds 0 and 1": ["--epochs 10", "--epochs 10 --seed 1"],
    "the same without cutout, seed 0": ["--epochs 10 --cutout 0"],
    "the same without label smoothing": ["--epochs 10 --label-smoothing 0"],
    "the same with a cosine schedule": ["--epochs 10 --schedule cosine"],
    "the same with AdamW, a decay of 0.05, learning rates of 0.002 and 0.006": [
        "--epochs 10 --optimizer adamw --weight-decay 0.05 --learning-rate 0.002",
        "--epochs 10 --optimizer adamw --weight-decay 0.05 --learning-rate 0.006",
    ],
    "the same with Muon, 0.05 and a decay of 0.02": [f"--epochs 10 {MUON}"],
    "`quick`: labels": ["--recipe quick"],
    "`quick` with Muon, 0.05 and a decay of 0.02": [f"--recipe quick {MUON}"],
    "`teacher` without Muon": ["--recipe teacher --epochs 10 --muon 0"],
    "**`teacher`**": ["--recipe teacher --epochs 10"],
    "one teacher's answers, SGD, to the end": [f"{BEFORE} --teachers 1 --muon 0"],
    "Muon, two teachers' answers to 24 views, batches of 128, seeds 0 to 2": [
        f"{BEFORE} --teachers 2 --seed {seed}" for seed in range(3)
    ],
    "**`best`**: Muon, three teachers' answers to 64 views, batches of 256, seeds 0 to 2": [
        f"--recipe best --seed {seed}" for seed in range(3)
    ],
}
"""Rows of the table, and the runs of each."""


def run(options: str, teachers: Path) -> dict[str, Any]:
    """One run; teachers are made once."""
    teacher = ["--teacher", str(teachers)] if "--recipe best" in options else []
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "mnv1deploy.cli", "train", *options.split(), *teacher, "--output", folder]
        subprocess.run([*command, "--json"], stdout=subprocess.DEVNULL, check=True)
        return result(options, Path(folder))


def result(options: str, folder: Path) -> dict[str, Any]:
    """Of a finished run: its options, epochs, training, held-out and test accuracy and minutes."""
    network = load_teacher(folder / "checkpoint.safetensors")
    test = datasets.load_test(None, network.spec.pixels)
    evaluation = verification.evaluate(TorchSession(network, network.spec, "cpu", None), test)
    epochs = [json.loads(line) for line in (folder / "log.jsonl").read_text("utf-8").splitlines()]
    return {
        "options": options,
        "epochs": len(epochs),
        "train": epochs[-1]["train_accuracy"],
        "holdout": max(epoch["holdout_accuracy"] for epoch in epochs),
        "test": evaluation.accuracy.top1,
        "minutes": sum(epoch["seconds"] for epoch in epochs) / 60,
    }


def rows(name: str) -> Iterator[dict[str, Any]]:
    """The runs of ``shipped``, a row for each log, or of ``tried``, a row for each thing that was."""
    with tempfile.TemporaryDirectory() as teachers:
        if name == "shipped":
            for log, options in SHIPPED.items():
                there = (RUNS / log / "checkpoint.safetensors").exists()
                found = result(options, RUNS / log) if there else run(options, Path(teachers))
                yield {"log": f"{log}.jsonl", **found}
        else:
            for what, runs in TRIED.items():
                yield {"what": what, "runs": [run(options, Path(teachers)) for options in runs]}


def main(names: list[str]) -> None:
    """Prints a line for each row."""
    for name in names:
        for row in rows(name):
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
