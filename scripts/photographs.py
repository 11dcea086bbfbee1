"""Folders of photographs of CIFAR-10's classes, for scripts/robustness.py, from pictures of ImageNet's.

    git clone https://github.com/EliSchwartz/imagenet-sample-images
    python scripts/photographs.py imagenet-sample-images photographs

That repository has a photograph for each of ImageNet's 1,000 classes, named by their WordNet number; in that order they
have the usual numbers of classes. Of deer there is none. Links are made, nothing is copied.
"""

from __future__ import annotations

import sys
from pathlib import Path

CLASSES: dict[str, tuple[range, ...]] = {
    "airplane": (range(404, 405), range(895, 896)),
    "automobile": tuple(range(n, n + 1) for n in (436, 468, 511, 609, 627, 656, 661, 751, 817)),
    "bird": (range(7, 25), range(80, 101), range(127, 147)),
    "cat": (range(281, 286),),
    "dog": (range(151, 269),),
    "frog": (range(30, 33),),
    "horse": (range(339, 340),),
    "ship": tuple(range(n, n + 1) for n in (403, 472, 484, 510, 554, 576, 625, 628, 724, 780, 814, 871, 914)),
    "truck": tuple(range(n, n + 1) for n in (555, 569, 675, 717, 864, 867)),
}
"""The numbers of ImageNet's classes that are one of CIFAR-10's."""


def main(source: Path, output: Path) -> None:
    """Links the photographs into a folder for each class."""
    found = sorted(source.glob("n*.JPEG"))
    if len(found) != 1000:
        raise SystemExit(f"{source} has {len(found)} photographs, and not one of each of ImageNet's 1,000 classes.")
    for name, numbers in CLASSES.items():
        folder = output / name
        folder.mkdir(parents=True, exist_ok=True)
        for picture in (found[number].resolve() for some in numbers for number in some):
            (folder / picture.name).symlink_to(picture)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
