"""What mnv1 train makes of a few hundred and a few thousand pictures, beside the usual fine-tuning loop.

    git clone https://github.com/jaddoescad/ants_and_bees
    git clone https://github.com/JMadiedo/RecycleNet        # TrashNet is in data/dataset-resized
    python scripts/few_pictures.py ants_and_bees RecycleNet/data/dataset-resized two six

A folder is one as mnv1 train reads it. The last two are pictures of CIFAR-10's training split in folders of PNGs: two
classes and six of them. They are tested on those that the bundled checkpoint was not trained on; having learned the
others, it finds them easy, so runs from random weights stand beside. The usual loop is that of PyTorch's transfer
learning tutorial: SGD at 0.001 with a momentum of 0.9, a tenth of it after every seventh epoch, batches of 4, 25
epochs, crops of random size; it stops when it has had the processor time of ours. scripts/measure.py writes the table
of docs/training.md from the rows.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset
from torchvision.transforms import v2

from mnv1deploy import bundled, datasets
from mnv1deploy.datasets import Dataset
from mnv1deploy.training import start
from mnv1deploy.training.run import Run
from mnv1deploy.training.settings import Settings
from mnv1deploy.training.setup import Parts, network_for

FOLDERS = {"two": ((3, 5), 98), "six": ((0, 1, 2, 3, 4, 5), 337)}
"""Labels of CIFAR-10, and the pictures of each to train on: 196 and 2,022 of the 244 and 2,527 in the folder."""

WHAT = {
    "two": "cats and dogs of CIFAR-10",
    "six": "birds, cars, cats, deer, dogs and planes of CIFAR-10",
    "ants_and_bees": "photographs of ants and bees",
    "dataset-resized": "photographs of rubbish",
}
"""What tables call them, by the names of FOLDERS and of folders."""

STARTS: dict[str, dict[str, Any]] = {
    "random weights": {"init": "none"},
    "the bundled checkpoint": {"init": str(bundled.CHECKPOINT)},
    "random weights, 96 pixels, width 0.25": {"init": "none", "input_size": 96, "width": 0.25},
}
"""What a run begins with; pictures of CIFAR-10 are not enlarged."""


def write(folder: Path, labels: tuple[int, ...], count: int) -> Path:
    """A folder with ``train`` and ``test``, the latter of pictures held out from the bundled checkpoint."""
    whole = datasets.cifar10("train")
    known, unseen = whole.split(0.05, 0, ("", ""))
    for part, data, limit in (("train", known, count), ("test", unseen, 250)):
        for label in labels:
            target = folder / part / data.classes[label]
            target.mkdir(parents=True)
            for index in np.flatnonzero(data.labels == label)[:limit]:
                Image.fromarray(data.images[index]).save(target / f"{index}.png")
    return folder


def top1(network: torch.nn.Module, test: Dataset) -> float:
    """Accuracy as a fraction."""
    with torch.inference_mode():
        predicted = network.eval()(torch.from_numpy(test.images)).argmax(1).numpy()
    return float((predicted == test.labels).mean())


def ours(folder: Path, **options: Any) -> tuple[float, float, Run, Dataset]:
    """Accuracy and processor seconds of a run of mnv1 train, the run and its test part."""
    with tempfile.TemporaryDirectory() as output:
        run, test = start.begin(Path(output), folder, **options)
        began = time.process_time()
        run.fit()
        return run.measure(test).accuracy.top1, time.process_time() - began, run, test


def usual(run: Run, test: Dataset, seconds: float, init: str | None) -> float:
    """The tutorial's loop on the same pictures, those held out too, from the same weights, in the same time."""
    train, holdout = run.parts.train, run.parts.holdout
    both = Dataset(train.name, np.concatenate([train.images, holdout.images]),
                   np.concatenate([train.labels, holdout.labels]), train.classes)  # fmt: skip
    network = network_for(run.spec, replace(run.settings, seed=0), Parts(both, both, ""), init, torch.device("cpu"))
    pixels = torch.from_numpy(both.images).permute(0, 3, 1, 2)
    loader = DataLoader(TensorDataset(pixels, torch.from_numpy(both.labels)), 4, shuffle=True, drop_last=True)
    crop = v2.Compose([v2.RandomResizedCrop(run.spec.input_size, antialias=True), v2.RandomHorizontalFlip()])
    optimizer = torch.optim.SGD(network.parameters(), 0.001, momentum=0.9)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 7, 0.1)
    began = time.process_time()
    for _ in range(25):
        network.train()
        for images, labels in loader:
            images = torch.stack([crop(image) for image in images]).permute(0, 2, 3, 1)
            loss = cross_entropy(network(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if time.process_time() - began > seconds:
                return top1(network, test)
        schedule.step()
    return top1(network, test)


def before(name: str, count: int) -> dict[str, Any]:
    """The settings of 0.1.0, which did not follow the pictures; those of ``name`` for so many otherwise."""
    recipe = asdict(Settings.recipe(name))
    kept = {key: recipe[key] for key in ("batch_size", "learning_rate", "epochs", "ema")}
    return {**kept, "batch_size": min(kept["batch_size"], count)}


def rows(name: str) -> Iterator[dict[str, Any]]:
    """For the pictures of a name in FOLDERS, or of a folder, from each of STARTS.

    Accuracies are fractions, seconds those of one processor that a run of ours took.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = write(Path(temporary) / name, *FOLDERS[name]) if name in FOLDERS else Path(name)
        for start_name, options in STARTS.items():
            if name in FOLDERS and "input_size" in options:
                continue
            now, seconds, run, test = ours(folder, **options)
            yield {
                "pictures": len(run.parts.train) + len(run.parts.holdout),
                "test_pictures": len(test),
                "what": WHAT.get(Path(name).name, Path(name).name),
                "classes": len(test.classes),
                "start": start_name,
                "before": ours(folder, **options, changes=before("quick", len(run.parts.train)))[0],
                "now": now,
                "seconds": seconds,
                "loop": usual(run, test, seconds, None if options["init"] == "none" else options["init"]),
            }
    torch.set_num_threads(threads)


def main(names: list[str]) -> None:
    """Prints a line for each."""
    for name in names:
        for row in rows(name):
            print(row, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
