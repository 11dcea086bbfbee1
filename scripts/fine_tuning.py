"""What a public network's weights are worth on a few hundred pictures of something else, beside training from nothing.

    python scripts/fine_tuning.py FOLDER      # of public networks, which are not shipped; else $MNV1_WEIGHTS

examples/fine_tune.py does it, with cats and dogs of CIFAR-10's training split in a folder of PNGs; they are tested on
others of that split. scripts/measure.py keeps the rows for docs/checkpoints.md.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import few_pictures
import torch
from figures import ROOT
from imports import FILES, VARIABLE

from mnv1deploy.artifact import read_checkpoint_metadata

NAMES = ("vww_96.h5", "keras_mobilenet_128_0_25.h5")
"""Of FILES: a network that tells whether there is a person, and one of ImageNet's 1,000 classes."""

LABELS, EACH = (3, 5), 200
"""CIFAR-10's cats and dogs, and how many of each to train on."""


def rows(weights: Path) -> Iterator[dict[str, Any]]:
    """A row for each of NAMES that is in a folder: top-1 as fractions, seconds of one processor for both runs."""
    compare = runpy.run_path(str(ROOT / "examples" / "fine_tune.py"))["compare"]
    torch.set_num_threads(1)
    for name in NAMES:
        if (weights / name).is_file():
            with tempfile.TemporaryDirectory() as temporary:
                folder = few_pictures.write(Path(temporary) / "pets", LABELS, EACH)
                began = time.process_time()
                runs = compare(weights / name, folder, Path(temporary) / "runs")
                seconds = time.process_time() - began
                top1 = {
                    kind: read_checkpoint_metadata(run.checkpoint)["accuracy"][0]["top1"] for kind, run in runs.items()
                }
                spec = runs["tuned"].spec
                facts = {"file": name, "what": FILES[name], "size": spec.input_size, "pictures": len(LABELS) * EACH}
                yield {**facts, "epochs": runs["tuned"].settings.epochs, **top1, "seconds": seconds}


if __name__ == "__main__":
    for result in rows(Path(sys.argv[1] if sys.argv[1:] else os.environ[VARIABLE])):
        print(json.dumps(result), flush=True)
