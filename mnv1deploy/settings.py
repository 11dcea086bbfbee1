"""How to train: every setting, and the recipes that name them all."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from mnv1deploy.errors import MnvError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True)
class Settings:
    """How to train; all of it is stored in the checkpoint. A recipe (``recipes/*.toml``) gives every one of them.

    Attributes:
        network: "mobilenetv1", or "teacher" (:class:`mnv1deploy.distillation.Teacher`).
        epochs: passes over the training part.
        batch_size: pictures a step.
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
        crop, flip, cutout, mixup: of :class:`mnv1deploy.augmentation.View`.
        views: number of different views of the training part, seen in turn; 0 for a new one in every epoch.
        small: fraction of the run, from its start, in which pictures are reduced to 3/4 of their side.
        teacher: recipe of the networks whose answers are learned instead of the labels; "" for none.
        teachers: how many of them, of seeds 0, 1, ..., whose logits are averaged; 0 for none.
        temperature: that both networks' logits are divided by before the softmax.
        holdout: fraction of the training split kept aside to choose the best epoch by, the same pictures whatever
            the seed; 0 keeps the last epoch.
        seed: of the weights, the order and (without ``views``) the augmentation.
    """

    network: Literal["mobilenetv1", "teacher"]
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
    mixup: float
    views: int
    small: float
    teacher: str
    teachers: int
    temperature: float
    holdout: float
    seed: int

    def __post_init__(self) -> None:
        rules = {
            "network": self.network in ("mobilenetv1", "teacher"),
            "epochs": self.epochs >= 1,
            "batch_size": self.batch_size >= 2,
            "optimizer": self.optimizer in ("sgd", "adamw"),
            "learning_rate": self.learning_rate > 0,
            "momentum": 0 <= self.momentum < 1,
            "muon": self.muon >= 0,
            "muon_decay": self.muon_decay >= 0,
            "weight_decay": self.weight_decay >= 0,
            "schedule": self.schedule in ("one-cycle", "cosine"),
            "warmup": 0 <= self.warmup < 1,
            "label_smoothing": 0 <= self.label_smoothing < 1,
            "ema": 0 <= self.ema < 1,
            "crop": self.crop >= 0,
            "cutout": self.cutout >= 0,
            "mixup": self.mixup >= 0,
            "views": self.views >= 0,
            "small": 0 <= self.small <= 1,
            "teachers": self.teachers >= 0 and (self.teachers > 0) == bool(self.teacher),
            "temperature": self.temperature > 0,
            "holdout": 0 <= self.holdout < 1,
        }
        for name, fine in rules.items():
            if not fine:
                raise MnvError(f"{name} cannot be {getattr(self, name)}.", "mnv1 train --help names the ranges.")
        if self.mixup and not self.teacher:
            raise MnvError("mixup needs a teacher, which says what a mixed picture shows.", "Use --recipe best.")

    @classmethod
    def recipe(cls, name: str | Path, **changes: Any) -> Settings:
        """The settings of a recipe, the package's own by name or any TOML file, with some of them changed.

        Raises:
            MnvError: if there is no such recipe, or it does not name every setting, or names an unknown one.
        """
        content = _read_recipe(name)
        known = _read_recipe("quick")
        for problem, keys in (("lacks", set(known) - set(content)), ("has an unknown", set(content) - set(known))):
            if keys:
                raise MnvError(f"The recipe {name} {problem} {', '.join(sorted(keys))}.")
        for key, value in content.items():
            if type(value) is not type(known[key]) and (type(value), type(known[key])) != (int, float):
                raise MnvError(f"The recipe {name} has {key} = {value!r}, which is no {type(known[key]).__name__}.")
        return cls(**{**content, **changes})

    def learning_rate_at(self, progress: float) -> float:
        """The learning rate when ``progress`` (0 to 1) of the run is done."""
        if progress < self.warmup:
            return self.learning_rate * progress / self.warmup
        fall = (progress - self.warmup) / (1 - self.warmup)
        factor = 1 - fall if self.schedule == "one-cycle" else (1 + math.cos(math.pi * fall)) / 2
        return self.learning_rate * factor


def _read_recipe(name: str | Path) -> dict[str, Any]:
    source = resources.files("mnv1deploy") / "recipes" / f"{name}.toml"
    try:
        return tomllib.loads((Path(name) if Path(name).suffix == ".toml" else source).read_text("utf-8"))
    except OSError as error:
        raise MnvError(f"There is no recipe {name}.", f"There are {', '.join(recipes())}; or name a .toml.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise MnvError(f"The recipe {name} is not TOML: {error}.") from error


def recipes() -> list[str]:
    """Names of the package's recipes."""
    folder = resources.files("mnv1deploy") / "recipes"
    return sorted(Path(item.name).stem for item in folder.iterdir() if item.name.endswith(".toml"))
