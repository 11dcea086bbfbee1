"""How the bundled network does on pictures that are not quite like those it was trained on.

    python scripts/robustness.py ARTIFACT BEFORE  # both on corrupted pictures; rules and averages with the first
    python scripts/robustness.py shares RUN       # what lies between the start and the end of a run of ``robust``
    python scripts/robustness.py judged CHECKPOINT ...  # which of them to ship, by held-out pictures

Where $MNV1_PHOTOGRAPHS is a folder of class folders of photographs (scripts/photographs.py makes one), these are tried,
too.

Corruptions: CIFAR-10's pictures made worse in the ways of CIFAR-10-C (Hendrycks and Dietterich, arXiv 1903.12261), two
strengths of each, with definitions of our own; their mean is the mean corruption accuracy. Rules: what a photograph is
made to 32 x 32 pixels by. They are tried on the pictures that training held out, each enlarged to 160 x 120 pixels, at
0.6 to 1.4 times its size and off the middle, its mirror images around it; and on real photographs where there are some.
Test-time augmentation: what averaging over several looks gives. The test split is only reported. scripts/measure.py
keeps the rows.
"""

from __future__ import annotations

import copy
import io
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from mnv1deploy import bundled, datasets, formats, images, verification
from mnv1deploy.averaging import Tta, averaged
from mnv1deploy.datasets import Dataset
from mnv1deploy.formats.base import Session
from mnv1deploy.spec import Pixels, Preprocessing

VARIABLE = "MNV1_PHOTOGRAPHS"

Pictures = NDArray[np.uint8]
Corrupt = Callable[[Pictures, float, np.random.Generator], Pictures]


# ---- Corruptions: uint8 [N, S, S, 3], a strength and a source of chance -> uint8 [N, S, S, 3]


def each(pictures: Pictures, change: Callable[[Image.Image], Image.Image]) -> Pictures:
    """Every picture changed by Pillow."""
    return np.stack([np.asarray(change(Image.fromarray(picture))) for picture in pictures])


def rounded(values: NDArray[Any]) -> Pictures:
    """uint8 of floats."""
    return np.clip(np.round(values), 0, 255).astype(np.uint8)


def surrounded(picture: Pictures) -> Image.Image:
    """A picture with its mirror images on all sides: three times as wide and high."""
    row = np.concatenate([picture[:, ::-1], picture, picture[:, ::-1]], 1)
    return Image.fromarray(np.concatenate([row[::-1], row, row[::-1]]))


def window(picture: Pictures, side: float, right: float, down: float, size: tuple[int, int]) -> Image.Image:
    """Of a picture in its surroundings a window ``side`` pixels high, off the middle, made ``size`` (width, height)."""
    middle, half = 1.5 * len(picture), side / 2
    x, y, across = middle + right, middle + down, half * size[0] / size[1]
    box = (x - across, y - half, x + across, y + half)
    return surrounded(picture).resize(size, Image.Resampling.BICUBIC, box=box)


def noise(pictures: Pictures, deviation: float, chance: np.random.Generator) -> Pictures:
    """Gaussian, of a standard deviation of 255."""
    return rounded(pictures + chance.normal(0, deviation, pictures.shape))


def impulses(pictures: Pictures, fraction: float, chance: np.random.Generator) -> Pictures:
    """So many pixels black or white."""
    hit = chance.random(pictures.shape[:3]) < fraction
    return np.where(hit[..., None], chance.choice(np.array([0, 255], np.uint8), (*hit.shape, 1)), pictures)


def blur(pictures: Pictures, radius: float, chance: np.random.Generator) -> Pictures:
    """Gaussian, of a standard deviation in pixels."""
    return each(pictures, lambda picture: picture.filter(ImageFilter.GaussianBlur(radius)))


def motion(pictures: Pictures, length: float, chance: np.random.Generator) -> Pictures:
    """The mean over so many pixels across."""
    reach = int(length) // 2
    padded = np.pad(pictures, ((0, 0), (0, 0), (reach, reach), (0, 0)), "reflect").astype(float)
    width = pictures.shape[2]
    return rounded(np.mean([padded[:, :, start : start + width] for start in range(int(length))], 0))


def pixels(pictures: Pictures, size: float, chance: np.random.Generator) -> Pictures:
    """Down to a size, and up again."""
    side = pictures.shape[1]
    small = (int(size), int(size))
    return each(pictures, lambda picture: picture.resize(small, Image.Resampling.BOX).resize((side, side)))


def jpeg(pictures: Pictures, quality: float, chance: np.random.Generator) -> Pictures:
    """Of a quality by libjpeg's scale."""

    def change(picture: Image.Image) -> Image.Image:
        encoded = io.BytesIO()
        picture.save(encoded, "JPEG", quality=int(quality))
        return Image.open(encoded).convert("RGB")

    return each(pictures, change)


def contrast(pictures: Pictures, factor: float, chance: np.random.Generator) -> Pictures:
    """The difference from the picture's mean, scaled."""
    mean = pictures.mean((1, 2, 3), keepdims=True)
    return rounded(mean + factor * (pictures - mean))


def brightness(pictures: Pictures, change: float, chance: np.random.Generator) -> Pictures:
    """Lighter or darker, of 255."""
    return rounded(pictures + change * chance.choice([-1, 1], (len(pictures), 1, 1, 1)))


def sharpening(pictures: Pictures, percent: float, chance: np.random.Generator) -> Pictures:
    """An unsharp mask of a pixel's radius."""
    return each(pictures, lambda picture: picture.filter(ImageFilter.UnsharpMask(1, int(percent), 0)))


def scale(pictures: Pictures, factor: float, chance: np.random.Generator) -> Pictures:
    """Larger (the middle of it) or smaller (mirror images around it)."""
    size = pictures.shape[1]
    return np.stack([np.asarray(window(picture, size / factor, 0, 0, (size, size))) for picture in pictures])


def shift(pictures: Pictures, distance: float, chance: np.random.Generator) -> Pictures:
    """By so many pixels in any of eight directions."""
    size = pictures.shape[1]
    directions = np.array([(x, y) for x in (-1, 0, 1) for y in (-1, 0, 1) if x or y])
    steps = distance * chance.choice(directions, len(pictures))
    return np.stack(
        [np.asarray(window(picture, size, x, y, (size, size))) for picture, (x, y) in zip(pictures, steps, strict=True)]
    )


def rotation(pictures: Pictures, degrees: float, chance: np.random.Generator) -> Pictures:
    """Either way."""
    size = pictures.shape[1]
    angles = degrees * chance.choice([-1, 1], len(pictures))
    return np.stack(
        [
            np.asarray(surrounded(picture).rotate(angle, Image.Resampling.BICUBIC))[size : 2 * size, size : 2 * size]
            for picture, angle in zip(pictures, angles, strict=True)
        ]
    )


CORRUPTIONS: dict[str, tuple[Corrupt, tuple[float, float]]] = {
    "Gaussian noise, standard deviation of 255": (noise, (10, 25)),
    "black and white pixels, fraction": (impulses, (0.02, 0.06)),
    "Gaussian blur, pixels": (blur, (0.7, 1.1)),
    "motion blur, pixels": (motion, (3, 5)),
    "fewer pixels": (pixels, (22, 16)),
    "JPEG, quality": (jpeg, (50, 20)),
    "contrast, factor": (contrast, (0.6, 0.3)),
    "brightness, of 255": (brightness, (40, 80)),
    "sharpening, percent": (sharpening, (100, 200)),
    "smaller, factor": (scale, (0.8, 0.6)),
    "larger, factor": (scale, (1.25, 1.6)),
    "shift, pixels": (shift, (3, 6)),
    "rotation, degrees": (rotation, (10, 25)),
}
"""By name the function and a mild and a strong one."""


def corrupted(session: Session, data: Dataset, before: Session | None = None) -> Iterator[dict[str, Any]]:
    """A row per corruption: the accuracy at either strength, and of the pictures as they are; that ``before``, too."""
    sessions = {"accuracy": session} | ({"before": before} if before else {})

    def accuracies(*made: Pictures) -> dict[str, list[float]]:
        return {key: [accuracy(one, pictures, data.labels) for pictures in made] for key, one in sessions.items()}

    yield {"on": data.name, "corruption": "", **accuracies(data.images)}
    for name, (corrupt, strengths) in CORRUPTIONS.items():
        chance = np.random.default_rng(0)
        found = accuracies(*(corrupt(data.images, strength, chance) for strength in strengths))
        yield {"on": data.name, "corruption": name, "strengths": strengths, **found}


def accuracy(session: Session, pictures: Pictures, labels: NDArray[np.int64]) -> float:
    """Top-1, as a fraction."""
    return float((verification.logits(session, pictures).argmax(1) == labels).mean())


# ---- Rules: a photograph, and the network's size -> the looks at it whose logits are averaged

Rule = Callable[[Image.Image, int], Sequence[Pictures]]


def cut(filter: Any, crop: float) -> Rule:
    """The product's own rule."""
    return lambda photo, size: [images.read(photo, Pixels(size, 3, Preprocessing(filter, crop)))]


def squeezed(photo: Image.Image, size: int) -> Sequence[Pictures]:
    """All of it, its sides made equal."""
    return [np.asarray(photo.resize((size, size), Image.Resampling.BICUBIC))]


def padded(photo: Image.Image, size: int) -> Sequence[Pictures]:
    """All of it, with its mean colour around."""
    canvas = Image.new("RGB", (max(photo.size),) * 2, tuple(np.asarray(photo).mean((0, 1)).astype(int).tolist()))
    canvas.paste(photo, tuple((whole - part) // 2 for whole, part in zip(canvas.size, photo.size, strict=True)))
    return [np.asarray(canvas.resize((size, size), Image.Resampling.BICUBIC))]


def filtered(filter: ImageFilter.Filter) -> Rule:
    """Blurred or sharpened after resizing."""

    def rule(photo: Image.Image, size: int) -> Sequence[Pictures]:
        (picture,) = cut("bicubic", 1.0)(photo, size)
        return [np.asarray(Image.fromarray(picture).filter(filter))]

    return rule


def five(larger: int) -> Rule:
    """Four corners and the middle of the square made so many pixels larger, as is usual for ImageNet."""

    def rule(photo: Image.Image, size: int) -> Sequence[Pictures]:
        (whole,) = cut("bicubic", 1.0)(photo, size + larger)
        corners = [(0, 0), (0, larger), (larger, 0), (larger, larger), (larger // 2, larger // 2)]
        return [whole[top : top + size, left : left + size] for top, left in corners]

    return rule


def with_mirror(rule: Rule) -> Rule:
    """The same, and the mirror images."""

    def both(photo: Image.Image, size: int) -> Sequence[Pictures]:
        looks = rule(photo, size)
        return [*looks, *(look[:, ::-1] for look in looks)]

    return both


RULES: dict[str, Rule] = {
    **{f"{filter}, crop {crop:g}": cut(filter, crop) for filter, crop in (("bicubic", 1.0), ("bicubic", 0.9))},
    **{f"bicubic, crop {crop:g}": cut("bicubic", crop) for crop in (0.875, 0.75)},
    **{f"{filter}, crop 1": cut(filter, 1.0) for filter in ("bilinear", "box", "hamming", "lanczos")},
    "bilinear, crop 0.9": cut("bilinear", 0.9),
    "all of it squeezed": squeezed,
    "all of it, padded": padded,
    "bicubic, crop 1, blurred by 0.5 pixels": filtered(ImageFilter.GaussianBlur(0.5)),
    "bicubic, crop 1, sharpened by 60 percent": filtered(ImageFilter.UnsharpMask(1, 60, 0)),
    "bicubic, crop 1, with the mirror image": with_mirror(cut("bicubic", 1.0)),
    "five crops of 36 pixels": five(4),
    "five crops of 36 pixels, with the mirror images": with_mirror(five(4)),
}
"""By name; the first is what is shipped."""


@dataclass(frozen=True)
class Photographs:
    """Larger pictures: what to call them, and their labels, int64 ``[N]``."""

    name: str
    pictures: list[Image.Image]
    labels: NDArray[np.int64]

    def reduced(self, pixels: Pixels, classes: tuple[str, ...]) -> Dataset:
        """As the network takes them, by the product's own rule."""
        return Dataset(self.name, np.stack([images.read(one, pixels) for one in self.pictures]), self.labels, classes)


def enlarged(data: Dataset, pixels: tuple[int, int] = (160, 120)) -> Photographs:
    """Pictures as photographs of so many pixels, 0.6 to 1.4 times their size, up to 15 percent off the middle."""
    chance, size = np.random.default_rng(0), data.images.shape[1]
    found = []
    for picture in data.images:
        side = size / np.exp(chance.uniform(np.log(0.6), np.log(1.4)))
        right, down = side * chance.uniform(-0.15, 0.15, 2)
        found.append(window(picture, side, right, down, pixels))
    return Photographs("held-out pictures, enlarged", found, data.labels)


def photographs(folder: Path, classes: Sequence[str]) -> Photographs:
    """Those in folders named after classes."""
    named = [(label, folder / name) for label, name in enumerate(classes) if (folder / name).is_dir()]
    paths = [(path, label) for label, inside in named for path in images.pictures_in(inside)]
    pictures = [Image.open(path).convert("RGB") for path, _ in paths]
    return Photographs(f"photographs of {len(named)} classes", pictures, np.array([label for _, label in paths]))


def ruled(session: Session, photos: Photographs) -> Iterator[dict[str, Any]]:
    """A row per rule."""
    for rule, make in RULES.items():
        looks = [make(photo, session.spec.input_size) for photo in photos.pictures]
        answers = [verification.logits(session, np.stack(pictures)) for pictures in zip(*looks, strict=True)]
        right = np.mean(answers, 0).argmax(1) == photos.labels
        yield {"on": photos.name, "pictures": len(right), "rule": rule, "accuracy": float(right.mean())}


# ---- Test-time augmentation


def looked_at(session: Session, data: Dataset) -> Iterator[dict[str, Any]]:
    """A row for each way to average."""
    for tta in get_args(Tta):
        found = accuracy(averaged(session, tta), data.images, data.labels)
        yield {"on": data.name, "pictures": len(data), "tta": tta, "accuracy": found}


def rows(artifact: Path, before: Path, folder: str | None = None) -> Iterator[dict[str, Any]]:
    """All three, on the held-out part and, where nothing is chosen, on the test split; corruptions ``before``, too."""
    session, former = formats.open_session(artifact), formats.open_session(before)
    pixels, classes = session.spec.pixels, session.spec.classes
    held_out = datasets.load_unseen(None, pixels)
    for photos in [enlarged(held_out), *([photographs(Path(folder), classes)] if folder else [])]:
        yield from looked_at(session, photos.reduced(pixels, classes))
        yield from ruled(session, photos)
    for data in (held_out, datasets.load_test(None, pixels)):
        yield from looked_at(session, data)
        yield from corrupted(session, data, former)


# ---- Training

SHARES = (1.0, 0.8, 0.6, 0.5, 0.4, 0.2, 0.0)
"""Of the weights that a run of ``robust`` started from."""


def shares(run: Path, folder: str | None = None) -> Iterator[dict[str, Any]]:
    """A row for each of SHARES: held-out accuracies, and that on photographs."""
    from mnv1deploy import checkpoint
    from mnv1deploy.training.average import between
    from mnv1deploy.training.state import State

    start = checkpoint.load(run / "start" / "checkpoint.safetensors").network
    end = copy.deepcopy(start)
    end.load_state_dict(State.read(run).tensors["average"])
    held_out = datasets.load_unseen(None, start.spec.pixels)
    with tempfile.TemporaryDirectory() as output:
        for share in SHARES:
            path = Path(output, f"{share}.safetensors")
            checkpoint.save(path, between(end, start, share), training={})
            yield {"start_share": share, **judged(path, held_out, folder)}


def judged(checkpoint: Path, held_out: Dataset, folder: str | None) -> dict[str, float | None]:
    """Accuracy on the held-out pictures, half of them enlarged, a fifth of them corrupted, and on photographs."""
    session = formats.open_session(checkpoint)
    pixels, classes = session.spec.pixels, session.spec.classes
    half = enlarged(held_out.subset(np.arange(len(held_out) // 2), "half")).reduced(pixels, classes)
    _, *worse = corrupted(session, held_out.subset(np.arange(0, len(held_out), 5), "fifth"))
    photos = photographs(Path(folder), classes).reduced(pixels, classes) if folder else None
    return {
        "held_out": accuracy(session, held_out.images, held_out.labels),
        "enlarged": accuracy(session, half.images, half.labels),
        "corruptions": float(np.mean([row["accuracy"] for row in worse])),
        "photographs": accuracy(session, photos.images, photos.labels) if photos else None,
    }


def main(names: list[str]) -> None:
    """Prints a line for each row."""
    folder = os.environ.get(VARIABLE)
    if names[0] == "judged":
        held_out = datasets.load_unseen(None, formats.open_session(bundled.CHECKPOINT).spec.pixels)
        found = ({"checkpoint": name, **judged(Path(name), held_out, folder)} for name in names[1:])
    elif names[0] == "shares":
        found = shares(Path(names[1]), folder)
    else:
        found = rows(Path(names[0]), Path(names[1]), folder)
    for row in found:
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
