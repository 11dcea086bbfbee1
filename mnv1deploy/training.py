"""The trainer: a spec and a data set in, a folder with the best checkpoint, log and curves out.

The whole data set is in memory as uint8 and every batch is cropped, flipped and cut out by a few tensor operations;
epoch k's order and augmentation depend on (seed, k) alone, so a resumed run is the run that was interrupted.
"""

from __future__ import annotations

import copy
import json
import math
import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mnv1deploy import checkpoint
from mnv1deploy.artifact import Accuracy
from mnv1deploy.datasets import Dataset
from mnv1deploy.errors import MnvError
from mnv1deploy.files import atomic
from mnv1deploy.formats.torch_session import TorchSession
from mnv1deploy.network import MobileNetV1
from mnv1deploy.spec import CIFAR, CIFAR10_CLASSES, ModelSpec
from mnv1deploy.verification import Evaluation, evaluate

STATE_FILE = "state.pt"
CHECKPOINT_FILE = "checkpoint.safetensors"
LOG_FILE = "log.jsonl"


@dataclass(frozen=True)
class Settings:
    """How to train; all of it is stored in the checkpoint.

    Attributes:
        epochs: passes over the training part.
        batch_size: pictures a step.
        optimizer: "sgd" (Nesterov momentum) or "adamw".
        learning_rate: its peak.
        momentum: of SGD; AdamW uses its usual (0.9, 0.999).
        weight_decay: on the weights of full and pointwise convolutions and the classifier, on nothing else.
        schedule: "one-cycle" (arXiv 1708.07120: rises for ``warmup`` of the run, falls to zero along a straight
            line) or "cosine" (the same rise, falls along half a cosine, arXiv 1608.03983).
        warmup: fraction of the run in which the learning rate rises linearly from zero.
        label_smoothing: arXiv 1512.00567.
        ema: decay per step of the moving average of weights and statistics that is evaluated and kept; 0 for none.
        crop: pixels of padding of the random crop.
        flip: whether half the pictures are mirrored.
        cutout: side in pixels of the square blanked in every picture (arXiv 1708.04552); 0 for none.
        holdout: fraction of the training split kept aside to choose the best epoch by; 0 keeps the last epoch.
        seed: of the weights, the held-out part, the order and the augmentation.
    """

    epochs: int = 30
    batch_size: int = 128
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = 0.2
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: Literal["one-cycle", "cosine"] = "one-cycle"
    warmup: float = 0.25
    label_smoothing: float = 0.05
    ema: float = 0.998
    crop: int = 4
    flip: bool = True
    cutout: int = 8
    holdout: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        rules = {
            "epochs": self.epochs >= 1,
            "batch_size": self.batch_size >= 2,
            "optimizer": self.optimizer in ("sgd", "adamw"),
            "learning_rate": self.learning_rate > 0,
            "momentum": 0 <= self.momentum < 1,
            "weight_decay": self.weight_decay >= 0,
            "schedule": self.schedule in ("one-cycle", "cosine"),
            "warmup": 0 <= self.warmup < 1,
            "label_smoothing": 0 <= self.label_smoothing < 1,
            "ema": 0 <= self.ema < 1,
            "crop": self.crop >= 0,
            "cutout": self.cutout >= 0,
            "holdout": 0 <= self.holdout < 1,
        }
        for name, fine in rules.items():
            if not fine:
                raise MnvError(f"{name} cannot be {getattr(self, name)}.", "mnv1 train --help names the ranges.")

    def learning_rate_at(self, progress: float) -> float:
        """The learning rate when ``progress`` (0 to 1) of the run is done."""
        if progress < self.warmup:
            return self.learning_rate * progress / self.warmup
        fall = (progress - self.warmup) / (1 - self.warmup)
        factor = 1 - fall if self.schedule == "one-cycle" else (1 + math.cos(math.pi * fall)) / 2
        return self.learning_rate * factor


@dataclass(frozen=True)
class Step:
    """What a progress bar needs after every step; the tensors are on the device and cost a wait to read.

    Attributes:
        epoch: from 1. step, steps: done in this epoch, and in all of it.
        loss, accuracy: means over this epoch so far, scalars.
        images_per_second: of this epoch so far.
    """

    epoch: int
    step: int
    steps: int
    loss: Tensor
    accuracy: Tensor
    images_per_second: float


@dataclass(frozen=True)
class Epoch:
    """One line of the log. Accuracies are fractions; ``holdout_accuracy`` is of the averaged weights."""

    epoch: int
    learning_rate: float
    train_loss: float
    train_accuracy: float
    holdout_accuracy: float | None
    images_per_second: float
    seconds: float


class Run:
    """One training run in one folder.

    Args:
        spec: of the network to train.
        data: the training split; a part of it is held out as the settings say.
        settings: how to train.
        folder: where checkpoint, state and log go; made if it is not there.
        device: "auto", "cpu", "cuda" or "cuda:1".
        resume: go on from the state in ``folder`` instead of starting.

    Raises:
        MnvError: for a device that is not there, data whose classes or size are not the spec's, a folder that has
            a run already (unless ``resume``), or has none or another one (if ``resume``).
    """

    def __init__(
        self,
        spec: ModelSpec,
        data: Dataset,
        settings: Settings,
        folder: str | Path,
        *,
        device: str = "auto",
        resume: bool = False,
    ) -> None:
        if data.images.shape[1:3] != (spec.input_size, spec.input_size) or data.classes != spec.classes:
            raise MnvError("The data have other classes or another picture size than the network.")
        self.spec, self.settings, self.folder = spec, settings, Path(folder)
        self._data_name = f"{data.name}, {len(data)} images"
        self.device = select_device(device)
        self.train_part, self.holdout_part = data.split(
            settings.holdout, settings.seed, (f"{data.name}, training part", f"{data.name}, held-out part")
        )
        if len(self.train_part) < settings.batch_size:
            raise MnvError(
                f"{len(self.train_part)} pictures to train on are fewer than one batch of {settings.batch_size}.",
                "Use a smaller --batch-size.",
            )
        torch.manual_seed(settings.seed)
        self.network = MobileNetV1(spec).to(self.device).to(memory_format=torch.channels_last)
        self.average = copy.deepcopy(self.network).eval()
        self.optimizer = _optimizer(self.network, settings)
        # float16 needs its losses scaled; the scaler does nothing where it is not enabled
        self.autocast_dtype = (
            torch.bfloat16 if self.device.type == "cpu" or torch.cuda.is_bf16_supported() else torch.float16
        )
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.autocast_dtype == torch.float16)
        self.log: list[Epoch] = []
        self.best_accuracy = -1.0
        if resume:
            self._load_state()
        elif (self.folder / STATE_FILE).exists():
            raise MnvError(f"{self.folder} has a run already.", "Go on with --resume, or name another folder.")

    def fit(
        self,
        on_step: Callable[[Step], None] = lambda step: None,
        on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    ) -> Path:
        """Trains to the end; returns the path of the best checkpoint, which has no test accuracy yet."""
        images = torch.from_numpy(self.train_part.images).to(self.device)
        labels = torch.from_numpy(self.train_part.labels).to(self.device)
        for number in range(len(self.log) + 1, self.settings.epochs + 1):
            epoch = self._epoch(number, images, labels, on_step)
            self.log.append(epoch)
            self._keep(epoch)
            on_epoch(epoch)
        return self.checkpoint

    @property
    def checkpoint(self) -> Path:
        """Where the best checkpoint is."""
        return self.folder / CHECKPOINT_FILE

    def measure(self, test: Dataset) -> Evaluation:
        """Evaluates the best checkpoint on the test split, once, and writes the accuracy into it."""
        best = checkpoint.load(self.checkpoint)
        evaluation = evaluate(TorchSession(best.network, self.spec, "cpu", None), test)
        kept = tuple(row for row in best.accuracy if row.on != test.name)
        checkpoint.save(self.checkpoint, best.network, training=best.training, accuracy=(evaluation.accuracy, *kept))
        return evaluation

    def _epoch(self, number: int, images: Tensor, labels: Tensor, on_step: Callable[[Step], None]) -> Epoch:
        self.network.train()
        size = self.settings.batch_size
        steps = len(labels) // size
        loss_sum = torch.zeros((), device=self.device)
        correct = torch.zeros((), device=self.device)
        start = time.perf_counter()
        rate = 0.0
        batches = augmented_batches(images, labels, self.settings, number, fill=self.spec.normalization.mean)
        for step, (pixels, targets) in enumerate(batches, 1):
            rate = self.settings.learning_rate_at(((number - 1) * steps + step) / (self.settings.epochs * steps))
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            with self._autocast():
                logits = self.network(pixels)
            loss = F.cross_entropy(logits, targets, label_smoothing=self.settings.label_smoothing)
            self.optimizer.zero_grad(set_to_none=True)
            self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self._update_average((number - 1) * steps + step)
            loss_sum += loss.detach()
            correct += (logits.detach().argmax(1) == targets).sum()
            speed = step * size / (time.perf_counter() - start)
            on_step(Step(number, step, steps, loss_sum / step, correct / (step * size), speed))
        loss_mean = loss_sum.item() / steps
        if not math.isfinite(loss_mean):
            raise MnvError(f"The loss is no longer a number in epoch {number}.", "Use a lower --learning-rate.")
        seconds = time.perf_counter() - start
        holdout = self._accuracy(self.holdout_part) if len(self.holdout_part) else None
        return Epoch(number, rate, loss_mean, correct.item() / (steps * size), holdout, steps * size / seconds, seconds)

    @torch.no_grad()
    def _update_average(self, count: int) -> None:
        """The ``count``-th step of the moving average, with the bias correction of arXiv 1412.6980."""
        weight = (1 - self.settings.ema) / (1 - self.settings.ema**count)
        for mean, value in zip(self.average.state_dict().values(), self.network.state_dict().values(), strict=True):
            if mean.is_floating_point():
                mean.lerp_(value, weight)
            else:
                mean.copy_(value)

    def _autocast(self) -> AbstractContextManager[object]:
        return torch.autocast(self.device.type, self.autocast_dtype, enabled=self.device.type == "cuda")

    @torch.inference_mode()
    def _accuracy(self, part: Dataset) -> float:
        correct = 0
        for start in range(0, len(part), 1000):
            pixels = torch.from_numpy(part.images[start : start + 1000]).to(self.device)
            predicted = self.average(pixels).argmax(1).cpu()
            correct += int((predicted == torch.from_numpy(part.labels[start : start + 1000])).sum())
        return correct / len(part)

    def _keep(self, epoch: Epoch) -> None:
        """Writes the checkpoint if this is the best epoch, then the log, then the state a resumed run needs."""
        if epoch.holdout_accuracy is None or epoch.holdout_accuracy > self.best_accuracy:
            self.best_accuracy = -1.0 if epoch.holdout_accuracy is None else epoch.holdout_accuracy
            accuracy: tuple[Accuracy, ...] = ()
            if epoch.holdout_accuracy is not None:
                accuracy = (Accuracy(epoch.holdout_accuracy, len(self.holdout_part), self.holdout_part.name),)
            training = {**asdict(self.settings), "data": self.train_part.name, "best_epoch": epoch.epoch}
            checkpoint.save(self.checkpoint, self.average, training=training, accuracy=accuracy)
        with atomic(self.folder / LOG_FILE) as path:
            path.write_text("".join(json.dumps(asdict(row)) + "\n" for row in self.log))
        state = {
            "spec": self.spec.to_json(),
            "settings": asdict(self.settings),
            "log": [asdict(row) for row in self.log],
            "best_accuracy": self.best_accuracy,
            "data": self._data_name,
            **{name: part.state_dict() for name, part in self._parts().items()},
        }
        with atomic(self.folder / STATE_FILE) as path:
            torch.save(state, path)

    def _parts(self) -> dict[str, Any]:
        return {"network": self.network, "average": self.average, "optimizer": self.optimizer, "scaler": self.scaler}

    def _load_state(self) -> None:
        state = _read_state(self.folder)
        if state["spec"] != self.spec.to_json() or state["settings"] != asdict(self.settings):
            raise MnvError(f"The run in {self.folder} has another network or other settings than asked for now.")
        if state["data"] != self._data_name:
            raise MnvError(
                f"The run in {self.folder} was begun on {state['data']}, not on {self._data_name}.",
                "Name the same --data.",
            )
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self.log = [Epoch(**row) for row in state["log"]]
        self.best_accuracy = state["best_accuracy"]


def spec_for(data: Dataset, width: float = 1.0) -> ModelSpec:
    """The CIFAR network for a data set's classes and picture size, named after both."""
    name = "cifar10" if data.classes == CIFAR10_CLASSES else re.sub(r"\W+", "_", data.name.split()[0]).lower()
    size = data.images.shape[1]
    suffix = ("" if width == 1 else f"_w{width:g}") + ("" if size == CIFAR.input_size else f"_{size}px")
    return CIFAR.replace(name=f"mobilenetv1_{name}{suffix}", classes=data.classes, width=width, input_size=size)


def read_settings(folder: str | Path) -> tuple[ModelSpec, Settings]:
    """Spec and settings of the run in ``folder``. Raises MnvError if there is none."""
    state = _read_state(folder)
    return ModelSpec.from_json(state["spec"]), Settings(**state["settings"])


def _read_state(folder: str | Path) -> dict[str, Any]:
    path = Path(folder) / STATE_FILE
    if not path.is_file():
        raise MnvError(f"There is no run to resume in {folder}.", "It would have been written after the first epoch.")
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    known = {field.name for field in fields(Settings)}
    if set(state["settings"]) != known:
        raise MnvError(f"The run in {folder} was begun by another version of mnv1deploy.")
    return state


def select_device(device: str) -> torch.device:
    """ "auto" is the GPU where there is one; anything else is used or refused. Raises MnvError."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise MnvError(f"There is no device called {device}.", "Use auto, cpu or cuda.") from error
    if chosen.type not in ("cpu", "cuda"):
        raise MnvError(f"Training on {device} is not supported.", "Use auto, cpu or cuda.")
    if chosen.type == "cuda" and (not torch.cuda.is_available() or (chosen.index or 0) >= torch.cuda.device_count()):
        count = torch.cuda.device_count()
        raise MnvError(
            f"torch {torch.__version__} sees {count} CUDA devices here, so not {device}.", "Use --device cpu."
        )
    return chosen


def augmented_batches(
    images: Tensor, labels: Tensor, settings: Settings, epoch: int, *, fill: tuple[float, float, float]
) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch in random order: batches of uint8 ``[B, H, W, 3]`` and int64 ``[B]``; the last short one is dropped.

    Crop and flip are one gather from the padded data set; padding and cutout have the normalisation's mean, which
    the network sees as zero.
    """
    size, side = settings.batch_size, images.shape[1]
    generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + epoch)

    def random(high: int, *shape: int) -> Tensor:
        return torch.randint(high, shape, generator=generator).to(images.device, non_blocking=True)

    colour = torch.tensor(fill, device=images.device).round().clamp(0, 255).to(torch.uint8)
    padded = colour.expand(len(images), side + 2 * settings.crop, side + 2 * settings.crop, 3).clone()
    padded[:, settings.crop : settings.crop + side, settings.crop : settings.crop + side] = images
    order = torch.randperm(len(labels), generator=generator).to(images.device)
    pixel = torch.arange(side, device=images.device)
    for start in range(0, len(labels) - size + 1, size):
        chosen = order[start : start + size]
        rows = random(2 * settings.crop + 1, size, 1) + pixel
        columns = random(2 * settings.crop + 1, size, 1) + pixel
        if settings.flip:
            columns = torch.where(random(2, size, 1).bool(), columns.flip(1), columns)
        batch = padded[chosen[:, None, None], rows[:, :, None], columns[:, None, :]]
        if settings.cutout:
            half = settings.cutout / 2
            near_row = (pixel + 0.5 - random(side + 1, size, 1)).abs() < half
            near_column = (pixel + 0.5 - random(side + 1, size, 1)).abs() < half
            batch = torch.where((near_row[:, :, None] & near_column[:, None, :])[..., None], colour, batch)
        yield batch, labels[chosen]


def _optimizer(network: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    decayed: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for module in network.modules():
        dense = isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)
        for name, parameter in module.named_parameters(recurse=False):
            (decayed if dense and name == "weight" else others).append(parameter)
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
    if settings.optimizer == "sgd":
        nesterov = settings.momentum > 0
        return torch.optim.SGD(groups, settings.learning_rate, momentum=settings.momentum, nesterov=nesterov)
    return torch.optim.AdamW(groups, settings.learning_rate)
