"""Which pictures int8 is calibrated on, and which an artifact is proved on: never the same ones."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mnv1deploy import datasets, images
from mnv1deploy.artifact import Precision
from mnv1deploy.errors import MnvError
from mnv1deploy.formats.base import Images
from mnv1deploy.spec import ModelSpec, cifar10_order

HELD_OUT = 5
"""One picture in so many of a calibration folder is kept from calibration where nothing else is there to prove on."""

FEWEST = 16
"""Different pictures that calibration needs (docs/quantization.md has what fewer of them cost)."""

MOST = 512
"""Pictures that calibration takes of a training part; more of them change the ranges no further."""

BUNDLED = 128
"""Bundled pictures that logits are compared on beside others."""

FLAT = 4.0
"""A picture is of one colour if the pixels of each of its colours have a smaller standard deviation, of 255."""

NOISE = 0.3
"""A picture whose neighbouring pixels are correlated less is noise; photographs and drawings have 0.7 and more."""

NEAR_COPY = 3.0
"""Pictures whose 8x8 thumbnails differ less, as a root mean square of 255, are copies of each other."""


@dataclass(frozen=True)
class Pictures:
    """Pictures without labels.

    Attributes:
        name: what to call them in a report.
        images: uint8 ``[N, H, W, C]``.
    """

    name: str
    images: Images

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class Evidence:
    """The pictures of one export. None of ``calibration`` is in the others.

    Attributes:
        calibration: what int8 is calibrated on; None for other precisions.
        unseen: what logits and top-1 classes are compared on: the labelled pictures where there are any.
        bundled: photographs that logits are compared on besides, whatever the network was made for; None where they
            are calibrated on or are the unseen ones.
        synthetic: pictures that no camera takes, on which logits are compared, too.
        labelled: what accuracies are compared on; None where there are none at hand.
    """

    calibration: Pictures | None
    unseen: Pictures
    bundled: Pictures | None
    synthetic: Pictures
    labelled: datasets.Dataset | None


def gather(
    spec: ModelSpec,
    precision: Precision,
    calibration: str | Path | None,
    data: str | Path | None,
    *,
    skip_unreadable: bool = False,
) -> Evidence:
    """The pictures to export a network with.

    The unseen ones are the labelled ones (the test part of ``data``; CIFAR-10's test split or the bundled sample for
    a network with its classes); without those, for int8 the fifth of the calibration folder with the smallest
    SHA-256 of their pixels, and for other precisions the whole folder; without a folder the bundled pictures.

    Raises:
        MnvError: for pictures that are not there, are too few or too much alike to calibrate on, or have other
            classes than the network.
    """
    labelled = _labelled(spec, data)
    pool: Pictures | None = None
    if precision == "int8":
        pool = calibration_pictures(spec, calibration, data, labelled, skip_unreadable=skip_unreadable)
    elif calibration is not None:  # with labelled pictures it only has to be there
        pool = _folder(spec, calibration, skip_unreadable)
    shipped = bundled(spec)
    if labelled is not None:
        unseen = Pictures(labelled.name, labelled.images)
    elif pool is None:
        unseen = shipped
    elif precision == "int8":
        pool, unseen = _parts(pool)
    else:
        unseen = pool
    chosen = pool if precision == "int8" else None
    if chosen is not None:
        check_varied(chosen)
    besides = None
    if shipped.name not in (unseen.name, chosen and chosen.name):
        some = shipped.images[:: len(shipped) // BUNDLED]
        besides = Pictures(f"{len(some)} bundled pictures", some)
    return Evidence(chosen, unseen, besides, _synthetic(spec), labelled)


def calibration_pictures(
    spec: ModelSpec,
    calibration: str | Path | None,
    data: str | Path | None,
    kept: datasets.Dataset | None,
    *,
    skip_unreadable: bool = False,
) -> Pictures:
    """What int8 is calibrated on: a folder's pictures, else those of the training part of ``data``, else the bundled.

    Args:
        spec: of the network.
        calibration: a folder of pictures, in any order and however deep.
        data: labelled data, of whose training part MOST are taken, those with the smallest SHA-256.
        kept: pictures that calibration must not see, wherever they are found.
        skip_unreadable: leave out files in the folder that cannot be read; the name says how many.

    Raises:
        MnvError: for a folder that is not there, or a network with other classes than CIFAR-10's and no pictures.
    """
    of_cifar10 = cifar10_order(spec.classes) is not None
    own_data = data is not None and not (of_cifar10 and datasets.has_cifar10(data))
    if calibration is not None:
        found = _folder(spec, calibration, skip_unreadable)
    elif own_data:
        train = datasets.load_train(data, spec.pixels)
        found = Pictures(train.name, train.images)
    elif of_cifar10:
        return bundled(spec)
    else:
        raise MnvError(
            "The bundled pictures are CIFAR-10's, and this network has other classes.",
            "Name the data it was trained on (--data FOLDER), or a folder with a few hundred of its training pictures "
            "(--calibration FOLDER).",
        )
    if kept is None and calibration is not None:
        return found
    forbidden = set() if kept is None else set(_digests(kept.images))
    order = _in_order_of_content(found.images)
    digests = _digests(found.images)
    seen = [i for i in order if digests[i] not in forbidden][: None if calibration is not None else MOST]
    if not seen:
        raise MnvError(
            f"All pictures of {found.name} are among those it is to be proved on.",
            "Calibrate on training pictures: leave out --calibration, and those of --data are taken.",
        )
    name = found.name if len(seen) == len(found) else f"{len(seen):,} of {found.name}"
    return Pictures(name, found.images[seen])


def check_varied(pictures: Pictures) -> None:
    """Raises MnvError unless FEWEST of the pictures show something and are no copies of each other."""
    flat, noise = _is_flat(pictures.images), _is_noise(pictures.images)
    different = _different(pictures.images[~flat & ~noise])
    if different >= FEWEST:
        return
    wrong = [
        f"{count} {what}"
        for count, what in (
            (int(flat.sum()), "of one colour"),
            (int((noise & ~flat).sum()), "noise"),
            (int((~flat & ~noise).sum()) - different, "copies of others, or nearly so"),
        )
        if count
    ]
    raise MnvError(
        f"{pictures.name}: {different} different pictures are too few to calibrate int8 on"
        + (f" ({', '.join(wrong)})." if wrong else "."),
        f"It needs {FEWEST} or more that differ, better a few hundred, like those the network will see: photographs of "
        "all classes, in all light.",
    )


def _folder(spec: ModelSpec, folder: str | Path, skip_unreadable: bool) -> Pictures:
    found, name = images.read_folder(folder, spec.pixels, skip_unreadable=skip_unreadable)
    return Pictures(name, found)


def bundled(spec: ModelSpec) -> Pictures:
    """The bundled training pictures of CIFAR-10, as the network takes them."""
    found = datasets.resized(datasets.calibration(), spec.pixels)
    return Pictures(found.name, found.images)


def _labelled(spec: ModelSpec, data: str | Path | None) -> datasets.Dataset | None:
    if cifar10_order(spec.classes) is not None and (data is None or datasets.has_cifar10(data)):
        at_hand = datasets.has_cifar10(data)
        found = datasets.cifar10("test", data) if at_hand else datasets.sample()
        found = datasets.resized(found, spec.pixels)
    elif data is not None:
        found = datasets.load_test(data, spec.pixels)
    else:
        return None
    return found.labelled_for(spec.classes)


def _digests(images: Images) -> list[bytes]:
    return [hashlib.sha256(image.tobytes()).digest() for image in images]


def _in_order_of_content(images: Images) -> list[int]:
    """Indices of the different pictures by their SHA-256, the same whatever the files are called."""
    first = {digest: index for index, digest in reversed(list(enumerate(_digests(images))))}
    return [first[digest] for digest in sorted(first)]


def _parts(pictures: Pictures) -> tuple[Pictures, Pictures]:
    """What to calibrate on and what to hold out, which have no picture in common."""
    order = _in_order_of_content(pictures.images)
    count = -(-len(order) // HELD_OUT) if len(order) > 1 else 0
    held_out, rest = order[:count], order[count:]
    return (
        Pictures(f"{len(rest):,} of {pictures.name}", pictures.images[rest]),
        Pictures(f"{len(held_out):,} held-out pictures of {pictures.name}", pictures.images[held_out]),
    )


def _synthetic(spec: ModelSpec) -> Pictures:
    """Ramps, a chessboard, one colour and noise: what reaches corners that photographs do not. Always the same."""
    size, _, colours = spec.pixels.shape
    y, x = np.mgrid[:size, :size] / max(size - 1, 1)
    shapes = [x, y, 1 - x, (x + y) / 2, ((4 * x).astype(int) + (4 * y).astype(int)) % 2]
    tints = np.array([[1, 1, 1], [1, 0.5, 0], [0, 0.5, 1]])[:, :colours]
    drawn = [shape[..., None] * tint * 255 for shape in shapes for tint in tints]
    plain = [np.full(spec.pixels.shape, value) for value in (0, 85, 128, 170, 255)]
    noise = np.random.default_rng(0).integers(0, 256, (8, *spec.pixels.shape))
    found = np.concatenate([np.array(drawn), np.array(plain), noise]).astype(np.uint8)
    return Pictures(f"{len(found)} synthetic pictures", found)


def _is_flat(images: Images) -> NDArray[np.bool_]:
    flat: NDArray[np.bool_] = np.array([image.std((0, 1)).max() < FLAT for image in images], bool)
    return flat


def _is_noise(images: Images) -> NDArray[np.bool_]:
    return np.array([_neighbours_correlation(image) < NOISE for image in images], bool)


def _neighbours_correlation(image: Images) -> float:
    """Of pixels with those to their right, around each colour's mean; 1 for a picture of one colour."""
    values = image.astype(np.float64) - image.mean((0, 1))
    energy = float(np.square(values).mean())
    return float((values[:, 1:] * values[:, :-1]).mean()) / energy if energy else 1.0


def _different(images: Images) -> int:
    """How many pictures, up to FEWEST, are no near-copies of each other, counted one after the other."""
    edges = np.linspace(0, images.shape[1], 9).astype(int)[:-1]
    leaders: list[NDArray[np.float64]] = []
    for image in images:
        sums = np.add.reduceat(np.add.reduceat(image.astype(np.float64), edges, 0), edges, 1)
        areas = np.diff([*edges, images.shape[1]])
        thumbnail = sums / (areas[:, None] * areas)[..., None]
        if all(np.sqrt(np.square(thumbnail - leader).mean()) >= NEAR_COPY for leader in leaders):
            leaders.append(thumbnail)
        if len(leaders) == FEWEST:
            break
    return len(leaders)
