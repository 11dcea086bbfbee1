"""The trainer: a spec and a data set in, a folder with the best checkpoint, log and curves out.

The whole data set is in memory as uint8 and every batch is cropped, flipped and cut out by a few tensor operations;
epoch k's order and augmentation depend on (seed, k) alone, so a resumed run is the run that was interrupted. Under
torchrun every process takes its share of every batch, and the first one writes the files.
"""

from __future__ import annotations

import copy
import ctypes
import hashlib
import json
import math
import platform
import re
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mnv1deploy import checkpoint, distributed
from mnv1deploy.artifact import Accuracy, read_checkpoint_metadata
from mnv1deploy.augmentation import View
from mnv1deploy.datasets import Dataset
from mnv1deploy.distillation import Targets, Teacher
from mnv1deploy.errors import MnvError
from mnv1deploy.files import atomic, sha256
from mnv1deploy.formats.torch_session import TorchSession
from mnv1deploy.network import MobileNetV1, PixelNetwork
from mnv1deploy.optimizers import Optimizers
from mnv1deploy.settings import Settings
from mnv1deploy.spec import CIFAR, CIFAR10_CLASSES, ModelSpec
from mnv1deploy.verification import Evaluation, evaluate

NETWORKS: dict[str, type[PixelNetwork]] = {"mobilenetv1": MobileNetV1, "teacher": Teacher}

STATE_FILE = "state.pt"
CHECKPOINT_FILE = "checkpoint.safetensors"
LOG_FILE = "log.jsonl"

# options of mallopt(3)
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


@dataclass(frozen=True)
class Step:
    """What a progress bar needs after every step; the tensors are on the device and cost a wait to read.

    Attributes:
        epoch: from 1. step, steps: done in this epoch, and in all of it; 0 before teachers answer, if there are any.
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
        init: checkpoint whose weights to start from; the classifier's only if it has as many classes.
        resume: go on from the state in ``folder`` instead of starting.
        sync_batchnorm: under torchrun on GPUs, normalise over the whole batch and not each process's share.

    Raises:
        MnvError: for a device that is not there, data whose classes or size are not the spec's, a folder that has
            a run already (unless ``resume``), or has none or another one (if ``resume``), or a batch that the
            processes cannot share.
    """

    def __init__(
        self,
        spec: ModelSpec,
        data: Dataset,
        settings: Settings,
        folder: str | Path,
        *,
        device: str = "auto",
        init: str | Path | None = None,
        resume: bool = False,
        sync_batchnorm: bool = False,
    ) -> None:
        if data.images.shape[1:3] != (spec.input_size, spec.input_size) or data.classes != spec.classes:
            raise MnvError("The data have other classes or another picture size than the network.")
        self.spec, self.settings, self.folder = spec, settings, Path(folder)
        self._data = data
        self._data_name = f"{data.name}, {len(data)} images"
        self.device = select_device(device)
        self.train_part, self.holdout_part = data.split(
            settings.holdout, 0, (f"{data.name}, training part", f"{data.name}, held-out part")
        )
        if len(self.train_part) < settings.batch_size:
            raise MnvError(
                f"{len(self.train_part)} pictures to train on are fewer than one batch of {settings.batch_size}.",
                "Use a smaller --batch-size.",
            )
        if settings.batch_size % distributed.processes():
            raise MnvError(f"{distributed.processes()} processes cannot share a batch of {settings.batch_size}.")
        if sync_batchnorm and self.device.type == "cpu":
            raise MnvError("torch synchronises batch normalisation on GPUs only.", "Leave out --sync-batchnorm.")
        torch.manual_seed(settings.seed)
        self.network = NETWORKS[settings.network](spec).to(self.device).to(memory_format=torch.channels_last)
        if init:
            _start_from(self.network, checkpoint.load(init).network)
        if isinstance(self.network, Teacher):
            self.network.whiten(torch.from_numpy(self.train_part.images[:5000]).to(self.device))
        # on CPUs dense convolutions are faster in bfloat16, depthwise ones slower
        self._mixed = self.device.type == "cuda" or isinstance(self.network, Teacher)
        self.average = copy.deepcopy(self.network).eval()
        self._averaged = _pairs(self.average, self.network)
        self.optimizers = Optimizers(self.network, settings)
        # float16 needs its losses scaled; the scaler does nothing where it is not enabled
        self.autocast_dtype = (
            torch.bfloat16 if self.device.type == "cpu" or torch.cuda.is_bf16_supported() else torch.float16
        )
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.autocast_dtype == torch.float16)
        self._parallel: nn.Module = self.network
        if sync_batchnorm:
            self._parallel = nn.SyncBatchNorm.convert_sync_batchnorm(self._parallel)  # type: ignore[no-untyped-call]
        if self.device.type == "cuda":
            self._parallel = torch.compile(self._parallel)  # type: ignore[assignment]
        if distributed.processes() > 1:
            self._parallel = DistributedDataParallel(self._parallel)
        self.targets: list[Targets] = []
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
        *,
        teachers: Sequence[str | Path] = (),
    ) -> Path:
        """Trains to the end; returns the path of the best checkpoint, which has no test accuracy yet.

        Args:
            on_step, on_epoch: told of every step and every finished epoch.
            teachers: those of :meth:`teachers`, trained.

        Raises:
            MnvError: if the loss is no longer a number, or a teacher is missing or of other classes.
        """
        if self.done:
            return self.checkpoint
        self._begin()
        if self.device.type == "cpu":
            _keep_freed_memory()
        self.targets = self._targets(teachers)
        images = torch.from_numpy(self.train_part.images).to(self.device)
        labels = torch.from_numpy(self.train_part.labels).to(self.device)
        for number in range(len(self.log) + 1, self.settings.epochs + 1):
            epoch = self._epoch(number, images, labels, on_step)
            self.log.append(epoch)
            if distributed.rank() == 0:
                self._keep(epoch)
            on_epoch(epoch)
            distributed.wait()
        return self.checkpoint

    def teachers(self, folder: str | Path | None = None) -> list[Run]:
        """The runs of the teachers that the settings name, begun, half done or done.

        The first is in ``folder``, by default a subfolder of this run, and the others in ``folder-1`` and so on. They
        hold out the same pictures as this run, which so stay unseen by all.
        """
        self._begin()
        folder = Path(folder or self.folder / "teacher")
        runs = []
        for number in range(self.settings.teachers):
            recipe = Settings.recipe(self.settings.teacher, seed=number, holdout=self.settings.holdout)
            settings = replace(recipe, batch_size=min(recipe.batch_size, len(self.train_part)))
            own = folder.with_name(f"{folder.name}-{number}") if number else folder
            resume = (own / STATE_FILE).exists()
            runs.append(Run(self.spec, self._data, settings, own, device=str(self.device), resume=resume))
        return runs

    @property
    def done(self) -> bool:
        """Whether the last epoch is."""
        return len(self.log) >= self.settings.epochs

    @property
    def checkpoint(self) -> Path:
        """Where the best checkpoint is."""
        return self.folder / CHECKPOINT_FILE

    def measure(self, test: Dataset) -> Evaluation:
        """Evaluates the best checkpoint on the test split, once, and writes the accuracy into it."""
        facts = read_checkpoint_metadata(self.checkpoint)
        network = checkpoint.load_network(self.checkpoint, NETWORKS[self.settings.network])
        evaluation = evaluate(TorchSession(network, self.spec, "cpu", None), test)
        kept = tuple(Accuracy(**row) for row in facts["accuracy"] if row["on"] != test.name)
        checkpoint.save(self.checkpoint, network, training=facts["training"], accuracy=(evaluation.accuracy, *kept))
        return evaluation

    def _epoch(self, number: int, images: Tensor, labels: Tensor, on_step: Callable[[Step], None]) -> Epoch:
        self.network.train()
        size, share = self.settings.batch_size, distributed.processes()
        steps = len(labels) // size
        loss_sum = torch.zeros((), device=self.device)
        correct = torch.zeros((), device=self.device)
        start = time.perf_counter()
        rate = 0.0
        on_step(Step(number, 0, steps, loss_sum, correct, 0.0))
        view, soft = self._view(number, images)
        order = torch.randperm(len(labels), generator=self._generator(number)).to(self.device)
        order = order[: steps * size].view(steps, share, size // share)[:, distributed.rank()]
        for step, chosen in enumerate(order, 1):
            pixels, targets = view(chosen), labels[chosen]
            if number <= self.settings.small * self.settings.epochs:
                pixels = reduced(pixels)
            rate = self.settings.learning_rate_at(((number - 1) * steps + step) / (self.settings.epochs * steps))
            self.optimizers.set_rate(rate)
            with self._autocast():
                logits = self._parallel(pixels)
            if soft is None:
                loss = F.cross_entropy(logits, targets, label_smoothing=self.settings.label_smoothing)
            else:
                heat = self.settings.temperature  # squared, so that gradients keep their size (arXiv 1503.02531)
                loss = heat**2 * F.cross_entropy(logits / heat, (soft[chosen] / heat).softmax(1))
            self.optimizers.step(loss, self.scaler)
            self._update_average((number - 1) * steps + step)
            loss_sum += loss.detach()
            correct += (logits.detach().argmax(1) == targets).double().mean()
            speed = step * size / (time.perf_counter() - start)
            on_step(Step(number, step, steps, loss_sum / step, correct / step, speed))
        loss_mean, accuracy = distributed.mean(torch.stack([loss_sum, correct]) / steps).tolist()
        if not math.isfinite(loss_mean):
            raise MnvError(f"The loss is no longer a number in epoch {number}.", "Use a lower --learning-rate.")
        seconds = time.perf_counter() - start
        holdout = self._accuracy(self.holdout_part) if len(self.holdout_part) else None
        return Epoch(number, rate, loss_mean, accuracy, holdout, steps * size / seconds, seconds)

    def _generator(self, epoch: int) -> torch.Generator:
        return torch.Generator().manual_seed(self.settings.seed * 1_000_003 + epoch)

    def _view(self, epoch: int, images: Tensor) -> tuple[View, Tensor | None]:
        """The view of the epoch, and the mean of the teachers' logits for it where there are teachers."""
        number = (epoch - 1) % self.settings.views if self.settings.views else epoch - 1
        # the teacher says the same of a view and its mirror image, so these follow one another
        pair, mirror = divmod(number, 2) if self.targets and self.settings.flip else (number, 0)
        seed = pair + 1 if self.settings.views else self._generator(pair + 1).initial_seed()
        fill = self.spec.normalization.mean
        view = View(images, seed, fill=fill, mirror=bool(mirror), **self._augmentation)
        if not self.targets:
            return view, None
        answers = [targets.of(pair + 1, view, len(images), self.device) for targets in self.targets]
        return view, torch.stack(answers).mean(0)

    @property
    def _augmentation(self) -> dict[str, Any]:
        return {name: getattr(self.settings, name) for name in ("crop", "flip", "cutout", "mixup")}

    def _targets(self, teachers: Sequence[str | Path]) -> list[Targets]:
        if len(teachers) != self.settings.teachers:
            raise MnvError(
                f"The settings name {self.settings.teachers} for the number of teachers; given are {len(teachers)}.",
                "Run.teachers makes them.",
            )
        if not teachers:
            return []
        key = {
            **self._augmentation,
            "data": hashlib.sha256(self.train_part.images.tobytes()).hexdigest(),
            "seed": None if self.settings.views else self.settings.seed,
        }
        targets = []
        for teacher in teachers:
            network = checkpoint.load_network(teacher, Teacher).to(self.device).to(memory_format=torch.channels_last)
            if network.spec.classes != self.spec.classes:
                raise MnvError(f"The teacher {teacher} has other classes than the data.")
            own_key = {**key, "teacher": sha256(teacher)}
            targets.append(Targets(network, Path(teacher).parent, own_key, flip=self.settings.flip))
        return targets

    @torch.no_grad()
    def _update_average(self, count: int) -> None:
        """The ``count``-th step of the moving average, with the bias correction of arXiv 1412.6980."""
        weight = (1 - self.settings.ema) / (1 - self.settings.ema**count)
        torch._foreach_lerp_(*self._averaged, weight)

    def _autocast(self) -> AbstractContextManager[object]:
        return torch.autocast(self.device.type, self.autocast_dtype, enabled=self._mixed)

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
        self._save()

    def _begin(self) -> None:
        """Writes the state before the first epoch too, so that a run can be resumed wherever it stops."""
        distributed.wait()
        if not self.log and distributed.rank() == 0:
            self._save()

    def _save(self) -> None:
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
        return {"network": self.network, "average": self.average, "optimizers": self.optimizers, "scaler": self.scaler}

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


Watch = Callable[[Run, str], AbstractContextManager[tuple[Callable[[Step], None], Callable[[Epoch], None]]]]
"""Given a run and what it is for, a context that tells what to call after every step and every epoch."""


def complete(
    run: Run,
    *,
    teacher: str | Path | None = None,
    watch: Watch = lambda run, purpose: nullcontext((lambda step: None, lambda epoch: None)),
    purpose: str = "",
) -> Path:
    """Trains a run to its end, and before it its teachers, where they are not done.

    Args:
        run: the one to train.
        teacher: folder of its first teacher's run; see :meth:`Run.teachers`.
        watch: entered for each run in turn.
        purpose: what ``watch`` is told of this one; of the others, "teacher 1" and so on.

    Returns:
        Its best checkpoint.

    Raises:
        MnvError: see :meth:`Run.fit`.
    """
    if run.done:
        return run.checkpoint
    teachers = [
        complete(other, watch=watch, purpose=f"teacher {number}")
        for number, other in enumerate(run.teachers(teacher), 1)
    ]
    with watch(run, purpose) as (on_step, on_epoch):
        return run.fit(on_step, on_epoch, teachers=teachers)


def _keep_freed_memory() -> None:
    """Has glibc keep the large tensors that every step frees, instead of having them zeroed again page by page."""
    if platform.libc_ver()[0] == "glibc":
        for option, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 2**29)):
            ctypes.CDLL(None).mallopt(option, value)


def _pairs(average: nn.Module, network: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """The tensors of the moving average, and those they are averages of."""
    pairs = zip(average.state_dict().values(), network.state_dict().values(), strict=True)
    first, second = zip(*((mean, value) for mean, value in pairs if mean.is_floating_point()), strict=True)
    return list(first), list(second)


def spec_for(data: Dataset, width: float = 1.0, init: str | Path | None = None) -> ModelSpec:
    """The CIFAR network, or that of the checkpoint ``init``, for a data set's classes and picture size, named so.

    Raises:
        MnvError: if ``init`` cannot be read.
    """
    base = checkpoint.load(init).spec if init else CIFAR.scaled(width)
    name = "cifar10" if data.classes == CIFAR10_CLASSES else re.sub(r"\W+", "_", data.name.split()[0]).lower()
    size = data.images.shape[1]
    suffix = ("" if width == 1 else f"_w{width:g}") + ("" if size == CIFAR.input_size else f"_{size}px")
    return base.replace(name=f"mobilenetv1_{name}{suffix}", classes=data.classes, input_size=size)


def _start_from(network: PixelNetwork, trained: MobileNetV1) -> None:
    """Copies the trained weights; a classifier for another number of classes stays as it was initialised."""
    weights = trained.state_dict()
    if len(trained.spec.classes) != len(network.spec.classes):
        weights = {name: tensor for name, tensor in weights.items() if not name.startswith("classifier.")}
    missing, unexpected = network.load_state_dict(weights, strict=False)
    assert not unexpected and all(name.startswith("classifier.") for name in missing)


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
    """ "auto" is the GPU where there is one (each process's own); anything else is used or refused. Raises MnvError."""
    if device == "auto":
        return torch.device("cuda", distributed.local_rank()) if torch.cuda.is_available() else torch.device("cpu")
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


def reduced(pixels: Tensor) -> Tensor:
    """Pictures at 3/4 of their side, antialiased: uint8 ``[B, S, S, 3]`` -> float32 ``[B, 3S/4, 3S/4, 3]``."""
    side = pixels.shape[1] * 3 // 4
    planes = pixels.permute(0, 3, 1, 2).float()
    return F.interpolate(planes, (side, side), mode="bilinear", antialias=True).permute(0, 2, 3, 1)
