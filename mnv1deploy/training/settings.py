"""How to train: every setting, the values it may have, and the recipes that name them all."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from mnv1deploy.errors import MnvError
from mnv1deploy.training import distributed
from mnv1deploy.training.ranges import RANGES

EPOCH_STEPS = 60
"""Steps that an epoch should have where there are few pictures: batches become smaller before epochs become short."""

LEAST_BATCH = 16
"""Smaller batches are not made for that; their statistics are too noisy for batch normalisation."""

LEAST_STEPS = 1000
"""Steps that a run should have: few pictures are passed over more often."""


ITSELF = "itself"
"""In place of the recipe of a teacher: the network as it is before the first epoch."""

_GONE = {"mixup": 0, "small": 0}
"""Settings of version 0.1.0 that are no more, and the value with which they did nothing."""

ALTERING = {"zoom": 0.0, "sharpness": 0.0, "noise": 0.0, "altered": 1.0}
"""The settings that alter pictures beyond crop, flip and cutout, and the value with which they leave them alone."""

_NEW = {"pictures": 0, **ALTERING, "start_share": 0.0}
"""Settings that came later, and the value with which they do nothing."""


@dataclass(frozen=True)
class Settings:
    """How to train; all of it is stored in the checkpoint. A recipe (``recipes/*.toml``) gives every one of them.

    Attributes:
        network: "mobilenetv1", or "teacher" (:class:`mnv1deploy.training.teacher.Teacher`).
        pictures: the number to train on that the other settings suit; see :meth:`recipe`. 0 if they follow none.
        epochs: passes over the training part.
        batch_size: pictures a step. What is left over in an epoch, other pictures every time, waits for another one.
        optimizer: "sgd" (Nesterov momentum) or "adamw".
        learning_rate: its peak.
        momentum: of SGD; AdamW uses its usual (0.9, 0.999).
        muon: peak learning rate of Muon (Jordan et al. 2024, arXiv 2502.16982), which then moves the weights of
            full and pointwise convolutions instead of ``optimizer``; 0 for none.
        muon_decay: its weight decay, a fraction of the learning rate.
        weight_decay: on the weights of full and pointwise convolutions and the classifier, on nothing else.
        schedule: "one-cycle" (arXiv 1708.07120: rises for ``warmup`` of the run, falls to zero along a straight
            line) or "cosine" (the same rise, falls along half a cosine, arXiv 1608.03983).
        warmup: fraction of the run in which the learning rate rises linearly from zero.
        label_smoothing: arXiv 1512.00567; not used with a teacher.
        ema: decay per step of the moving average of weights and statistics that is evaluated and kept; 0 for none.
        crop, flip, cutout, zoom, sharpness, noise, altered: of :class:`mnv1deploy.training.augmentation.View`.
        views: number of different views of the training part, seen in turn; 0 for a new one in every epoch.
        teacher: recipe of the networks whose answers are learned instead of the labels; "" for none. "itself" is the
            trained network that the run starts from: what it answers to pictures before they are altered is learned
            for the altered ones, so that it knows these as well and forgets little.
        teachers: how many of them, of seeds 0, 1, ..., whose logits are averaged; 0 for none, 1 for "itself".
        start_share: how much of the weights that a network which teaches itself started from is in the checkpoint, the
            rest being the average's (arXiv 2109.01903): most of what was learned is there before much is forgotten.
        temperature: that both networks' logits are divided by before the softmax.
        holdout: fraction of the training split kept aside to choose the best epoch by, the same pictures whatever
            the seed; 0 keeps the last epoch.
        seed: of the weights, the order and (without ``views``) the augmentation.

    Raises:
        MnvError: for a value that is not in :data:`RANGES`.
    """

    network: Literal["mobilenetv1", "teacher"]
    pictures: int
    epochs: int
    batch_size: int
    optimizer: Literal["sgd", "adamw"]
    learning_rate: float
    momentum: float
    muon: float
    muon_decay: float
    weight_decay: float
    schedule: Literal["one-cycle", "cosine"]
    warmup: float
    label_smoothing: float
    ema: float
    crop: int
    flip: bool
    cutout: int
    zoom: float
    sharpness: float
    noise: float
    altered: float
    views: int
    teacher: str
    teachers: int
    start_share: float
    temperature: float
    holdout: float
    seed: int

    def __post_init__(self) -> None:
        for name, allowed in RANGES.items():
            value = getattr(self, name)
            if not allowed.holds(value):
                raise MnvError(f"{name} cannot be {value}: it is {allowed.words}.")
        if (self.teachers > 0) != bool(self.teacher):
            raise MnvError(
                f"teachers cannot be {self.teachers} where the recipe of the teacher is {self.teacher or 'none'}.",
                "Use --recipe best, or a recipe of your own that names a teacher.",
            )
        if self.teacher == ITSELF and (self.teachers, self.network) != (1, "mobilenetv1"):
            raise MnvError("A mobilenetv1 that teaches itself is one teacher.", "Leave out --teachers.")
        if self.start_share and self.teacher != ITSELF:
            raise MnvError("start_share is for a network that teaches itself.", "Use --recipe robust.")

    @classmethod
    def recipe(cls, name: str | Path, **changes: Any) -> Settings:
        """The settings of a recipe, the package's own by name or any TOML file, with some of them changed.

        A change of ``pictures`` brings others with it, unless they are changed too or the recipe has ``pictures = 0``:
        fewer pictures make batches smaller, so that an epoch keeps :data:`EPOCH_STEPS`; the learning rate is in
        proportion to the batch (arXiv 1706.02677); the average reaches as many epochs back as before; and there are as
        many epochs as :data:`LEAST_STEPS` need.

        Raises:
            MnvError: if there is no such recipe, or it does not name every setting, or names an unknown one.
        """
        content = _current(_read_recipe(name), f"The recipe {name}")
        known = _read_recipe("quick")
        for problem, keys in (("lacks", set(known) - set(content)), ("has an unknown", set(content) - set(known))):
            if keys:
                raise MnvError(f"The recipe {name} {problem} {', '.join(sorted(keys))}.")
        for key, value in content.items():
            if type(value) is not type(known[key]) and (type(value), type(known[key])) != (int, float):
                raise MnvError(f"The recipe {name} has {key} = {value!r}, which is no {type(known[key]).__name__}.")
        tuned = cls(**content)
        if "pictures" not in changes:
            return replace(tuned, **changes)
        if not (tuned.pictures and changes["pictures"]):
            return replace(tuned, **{**changes, "pictures": 0})
        return replace(tuned, **{**tuned._following(**changes), **changes})

    def _following(self, *, pictures: int, batch_size: int | None = None, **_: Any) -> dict[str, Any]:
        """What a change of ``pictures``, and perhaps of the batch, brings with it."""
        size = batch_size or self.batch_size
        if batch_size is None and pictures < self.pictures:
            wanted = min(self.batch_size, max(LEAST_BATCH, pictures / EPOCH_STEPS))
            # whole batches that leave as few pictures over as they can, and that processes can share
            size = pictures // max(1, round(pictures / wanted))
            size = max(2, size - size % distributed.processes())
        steps, tuned_steps = max(1, pictures // size), max(1, self.pictures // self.batch_size)
        return {
            "batch_size": size,
            "learning_rate": self.learning_rate * size / self.batch_size,
            "epochs": max(self.epochs, math.ceil(min(LEAST_STEPS, self.epochs * tuned_steps) / steps)),
            "ema": max(0.0, 1 - (1 - self.ema) * (tuned_steps / steps)),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Settings:
        """The settings that ``asdict`` took apart, in this version or 0.1.0.

        Raises:
            MnvError: if they are of another version, or have a setting of 0.1.0 that is no more.
        """
        content = _current(data, "The run")
        if set(content) != {field.name for field in fields(cls)}:
            raise MnvError("The run was begun by another version of mnv1deploy.", "Finish it with that version.")
        return cls(**content)

    def learning_rate_at(self, progress: float) -> float:
        """The learning rate when ``progress`` (0 to 1) of the run is done."""
        if progress < self.warmup:
            return self.learning_rate * progress / self.warmup
        fall = (progress - self.warmup) / (1 - self.warmup)
        factor = 1 - fall if self.schedule == "one-cycle" else (1 + math.cos(math.pi * fall)) / 2
        return self.learning_rate * factor

    def of_teacher(self) -> Settings | None:
        """The settings of the first teacher, for as many pictures as these are for; None where none is to be trained.

        Raises:
            MnvError: if there is no such recipe, or it is not one of a teacher.
        """
        if self.teacher in ("", ITSELF):
            return None
        pictures = {"pictures": self.pictures} if self.pictures else {}
        found = Settings.recipe(self.teacher, holdout=self.holdout, seed=0, **pictures)
        if found.network != "teacher" or found.teachers:
            problem = "has a teacher of its own" if found.teachers else f"is one of a {found.network}"
            raise MnvError(
                f"The recipe {self.teacher} is no teacher's: it {problem}.", "Name one with network = teacher."
            )
        return found


def _current(content: Mapping[str, Any], owner: str) -> dict[str, Any]:
    """Settings as they are named now, from older ones. Raises MnvError if one that is no more was in use."""
    for name, nothing in _GONE.items():
        if content.get(name, nothing) != nothing:
            raise MnvError(
                f"{owner} uses {name} = {content[name]}, which mnv1deploy has no longer: it gained nothing.",
                f"Begin anew without {name}.",
            )
    return _NEW | {name: value for name, value in content.items() if name not in _GONE}


def _read_recipe(name: str | Path) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    source = resources.files("mnv1deploy.training") / "recipes" / f"{name}.toml"
    try:
        return tomllib.loads((Path(name) if Path(name).suffix == ".toml" else source).read_text("utf-8"))
    except OSError as error:
        raise MnvError(f"There is no recipe {name}.", f"There are {', '.join(recipes())}; or name a .toml.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise MnvError(f"The recipe {name} is not TOML: {error}.") from error


def recipes() -> list[str]:
    """Names of the package's recipes."""
    folder = resources.files("mnv1deploy.training") / "recipes"
    return sorted(Path(item.name).stem for item in folder.iterdir() if item.name.endswith(".toml"))
