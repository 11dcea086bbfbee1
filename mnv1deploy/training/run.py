"""One training run in one folder.

The whole data set is in memory, or mapped into it, as uint8, and every batch is cropped, flipped and cut out by a few
tensor operations; epoch k's order and augmentation depend on (seed, k) alone, so a resumed run is the run that was
interrupted. Under torchrun every process takes its share of every batch, and the first one reads and writes the files.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from mnv1deploy import checkpoint, machine
from mnv1deploy.artifact import Accuracy, read_checkpoint_metadata
from mnv1deploy.confidence import fitted_temperature
from mnv1deploy.datasets import Dataset
from mnv1deploy.errors import MnvError
from mnv1deploy.files import atomic, sha256
from mnv1deploy.formats.torch_session import TorchSession
from mnv1deploy.network import PixelNetwork
from mnv1deploy.spec import ModelSpec
from mnv1deploy.training import distributed, precision, setup
from mnv1deploy.training import state as states
from mnv1deploy.training.augmentation import View
from mnv1deploy.training.average import Average, between
from mnv1deploy.training.distillation import TeacherAnswers
from mnv1deploy.training.graph import Recorded
from mnv1deploy.training.optimizers import Optimizers
from mnv1deploy.training.progress import Epoch, Progress
from mnv1deploy.training.settings import ALTERING, ITSELF, Settings
from mnv1deploy.training.state import State
from mnv1deploy.verification import Evaluation, evaluate

CHECKPOINT_FILE = "checkpoint.safetensors"
LOG_FILE = "log.jsonl"

DRAWN = 2**26
"""Bytes of pictures that are drawn at once on a GPU."""


class Run:
    """One training run in one folder.

    Args:
        spec: of the network to train.
        data: the training split, of which a part is held out as the settings say, or both parts.
        settings: how to train.
        folder: where checkpoint, state and log go; made if it is not there.
        device: "auto", "cpu", "cuda" or "cuda:1".
        init: checkpoint whose weights to start from; the classifier's only if its classes have the same names.
        resume: go on from the state in ``folder`` instead of starting.
        sync_batchnorm: under torchrun on GPUs, normalise over the whole batch and not each process's share.
        teacher: folder of the first teacher's run; by default a subfolder of this run.
        source: the folder that ``data`` was read from, kept for whoever resumes the run.

    Attributes:
        parts: what is trained on and what is held out.
        network, average: what learns, and its moving average.
        log: the epochs that are done.
        best_accuracy: held-out accuracy of the checkpoint; -1 before there is one.

    Raises:
        MnvError: for a device that is not there, data whose classes or size are not the spec's, a recipe of teachers
            that is none, a folder that has a run already (unless ``resume``), or has none or another one (if
            ``resume``), or a batch that the processes cannot share. Nothing is written then.
    """

    def __init__(
        self,
        spec: ModelSpec,
        data: Dataset | setup.Parts,
        settings: Settings,
        folder: str | Path,
        *,
        device: str = "auto",
        init: str | Path | None = None,
        resume: bool = False,
        sync_batchnorm: bool = False,
        teacher: str | Path | None = None,
        source: str | Path | None = None,
    ) -> None:
        self.spec, self.settings, self.folder = spec, settings, Path(folder)
        self.device = setup.select_device(device)
        self.parts = data if isinstance(data, setup.Parts) else setup.Parts.of(data, settings.holdout)
        setup.check(spec, self.parts, settings)
        self._teacher_settings = settings.of_teacher()
        if teacher and not self._teacher_settings:
            raise MnvError("These settings have no teacher to train.", "Leave out --teacher, or use --recipe best.")
        if settings.teacher == ITSELF and not resume:
            setup.check_start(spec, init)
        self.network = setup.network_for(spec, settings, self.parts, init, self.device)
        self.average = Average(self.network, settings.ema)
        self.optimizers = Optimizers(self.network, settings)
        self._parallel = setup.parallel(self.network, self.device, sync_batchnorm=sync_batchnorm)
        half = precision.half(self.device)
        mixed = precision.is_faster(self.device, dense=self.network.is_dense)
        self._autocast = torch.autocast(self.device.type, half, enabled=mixed)
        # float16 needs its losses scaled; the scaler does nothing where it is not enabled
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=half == torch.float16)
        # processes that share a batch wait for one another, and scaled losses for the GPU; neither can be recorded
        alone = distributed.processes() == 1 and not self.scaler.is_enabled()
        self._step = Recorded(self._learn) if self.device.type == "cuda" and alone else self._learn
        self.source, self.init = str(source or ""), Path(init).name if init else ""
        self.teacher = str(teacher or "")
        self.log: list[Epoch] = []
        self.best_accuracy = -1.0
        self._origin: PixelNetwork | None = None  # what the network was at the start, if a share of it is kept
        if resume:
            self._load(distributed.from_first(lambda: State.read(self.folder)))
        elif distributed.from_first(lambda: begun(self.folder)):
            raise MnvError(f"{self.folder} has a run already.", "Go on with --resume, or name another folder.")

    def fit(
        self,
        on_step: Callable[[Progress], None] = lambda progress: None,
        on_epoch: Callable[[Epoch], None] = lambda epoch: None,
        *,
        teachers: Sequence[str | Path] = (),
    ) -> Path:
        """Trains to the end; returns the path of the best checkpoint, which has no test accuracy yet.

        Args:
            on_step, on_epoch: told of every step and every finished epoch.
            teachers: the checkpoints of those of :meth:`teachers`, trained.

        Raises:
            MnvError: if the loss is no longer a number, or a teacher is missing or of other classes.
        """
        if self.done:
            return self.checkpoint
        self._begin()
        if self.device.type == "cpu":
            machine.keep_freed_memory()
        answers = self._answers(teachers)
        if self.settings.start_share:
            self._origin = distributed.from_first(lambda: setup.load_teacher(self._start)).to(self.device)
        images = torch.from_numpy(self.parts.train.images)
        if not isinstance(self.parts.train.images, np.memmap):
            images = images.to(self.device)
        labels = torch.from_numpy(self.parts.train.labels).to(self.device)
        for number in range(len(self.log) + 1, self.settings.epochs + 1):
            epoch, logits = self._epoch(number, images, labels, answers, on_step)
            self.log.append(epoch)
            if distributed.rank() == 0:
                self._keep(epoch, logits)
            on_epoch(epoch)
            distributed.wait()
        return self.checkpoint

    def _epoch(
        self,
        number: int,
        images: Tensor,
        labels: Tensor,
        answers: Sequence[TeacherAnswers],
        on_step: Callable[[Progress], None],
    ) -> tuple[Epoch, NDArray[np.float32]]:
        """Trains one, and has the result answer the held-out pictures: its log, and the logits ``[N, classes]``."""
        self.network.train()
        size, steps = self.settings.batch_size, self.steps
        loss_sum = torch.zeros((), device=self.device)
        correct = torch.zeros((), device=self.device)
        start = time.perf_counter()
        rate = 0.0
        on_step(Progress(number, 0, steps, loss_sum, correct, 0.0))
        view, soft = self._view(number, images, answers)
        for step, batch in enumerate(self._batches(number, view, labels, soft), 1):
            done = (number - 1) * steps + step
            rate = self.settings.learning_rate_at(done / (self.settings.epochs * steps))
            self.optimizers.set_rate(rate)
            loss, right = self._step(*batch)
            self.average.update(done)
            loss_sum += loss
            correct += right
            speed = step * size / (time.perf_counter() - start)
            on_step(Progress(number, step, steps, loss_sum / step, correct / step, speed))
        loss_mean, accuracy = distributed.mean(torch.stack([loss_sum, correct]) / steps).tolist()
        if not math.isfinite(loss_mean):
            raise MnvError(f"The loss is no longer a number in epoch {number}.", "Use a lower --learning-rate.")
        seconds = time.perf_counter() - start
        logits = self._held_out_logits(self._result())
        held_out = float((logits.argmax(1) == self.parts.holdout.labels).mean()) if len(logits) else None
        return Epoch(number, rate, loss_mean, accuracy, held_out, steps * size / seconds, seconds), logits

    def _learn(self, pixels: Tensor, labels: Tensor, soft: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One step of the optimizers: the loss of a batch before it, and the fraction that was right, scalars."""
        with self._autocast:
            logits = self._parallel(pixels)
        loss = self._loss(logits, labels, soft)
        self.optimizers.step(loss, self.scaler)
        return loss.detach(), (logits.detach().argmax(1) == labels).float().mean()

    def _loss(self, logits: Tensor, labels: Tensor, soft: Tensor | None) -> Tensor:
        if soft is None:
            return F.cross_entropy(logits, labels, label_smoothing=self.settings.label_smoothing)
        heat = self.settings.temperature  # squared, so that gradients keep their size (arXiv 1503.02531)
        return heat**2 * F.cross_entropy(logits / heat, (soft / heat).softmax(1))

    def _batches(self, epoch: int, view: View, labels: Tensor, soft: Tensor | None) -> Iterator[tuple[Tensor, ...]]:
        """This process's share of every batch of the epoch: what :meth:`_learn` takes."""
        size, share = self.settings.batch_size, distributed.processes()
        order = torch.randperm(len(labels), generator=self._generator(epoch)).to(self.device)
        order = order[: self.steps * size].view(self.steps, share, size // share)[:, distributed.rank()]
        targets = [labels] if soft is None else [labels, soft]
        together = 1
        if self.device.type == "cuda":  # which draws many batches in the time of one
            together = max(1, DRAWN // (order.shape[1] * math.prod(self.spec.pixels.shape)))
        for start in range(0, len(order), together):
            chosen = order[start : start + together]
            pixels = view(chosen.flatten())
            shape = (*chosen.shape, *pixels.shape[1:])
            yield from zip(pixels.view(shape), *(target[chosen] for target in targets), strict=True)

    def _generator(self, epoch: int) -> torch.Generator:
        return torch.Generator().manual_seed(self.settings.seed * 1_000_003 + epoch)

    def _view(self, epoch: int, images: Tensor, answers: Sequence[TeacherAnswers]) -> tuple[View, Tensor | None]:
        """The view of the epoch, and the mean of the teachers' logits for it where there are teachers."""
        number = (epoch - 1) % self.settings.views if self.settings.views else epoch - 1
        # the teacher says the same of a view and its mirror image, so these follow one another
        original, mirror = divmod(number, 2) if answers and self.settings.flip else (number, 0)
        seed = original + 1 if self.settings.views else self._generator(original + 1).initial_seed()
        fill = self.spec.normalization.mean
        view = View(images, seed, fill=fill, mirror=bool(mirror), **self._unaltered, **self._altering)
        if not answers:
            return view, None
        answered = View(images, seed, fill=fill, **self._answered)
        logits = [teacher.of(original + 1, answered, len(images), self.device) for teacher in answers]
        return view, torch.stack(logits).mean(0)

    @property
    def _answered(self) -> dict[str, Any]:
        """The settings of the :class:`View` that teachers see."""
        return self._unaltered if self.settings.teacher == ITSELF else self._unaltered | self._altering

    @property
    def _unaltered(self) -> dict[str, Any]:
        return {name: getattr(self.settings, name) for name in ("crop", "flip", "cutout")}

    @property
    def _altering(self) -> dict[str, Any]:
        """Those that are in use, so that the keys of other answers stay as they are."""
        altering = {name: getattr(self.settings, name) for name in ALTERING}
        return {name: value for name, value in altering.items() if value != ALTERING[name]}

    @torch.inference_mode()
    def _held_out_logits(self, network: PixelNetwork) -> NDArray[np.float32]:
        """Of what is held out, float32 ``[N, classes]``."""
        images = self.parts.holdout.images
        logits = [torch.empty(0, len(self.spec.classes))]
        for start in range(0, len(images), 1000):
            pixels = torch.from_numpy(images[start : start + 1000]).to(self.device)
            logits.append(network(pixels).cpu())
        return torch.cat(logits).numpy()

    # Teachers ------------------------------------------------------------------------------------------------------

    def teachers(self) -> Iterator[Run]:
        """The runs of the teachers that the settings name, begun, half done or done; one at a time, to save memory.

        The first is in the folder ``teacher``, and the others in ``teacher-1`` and so on. They hold out the same
        pictures as this run, which so stay unseen by all.
        """
        self._begin()
        if not self._teacher_settings:
            return
        folder = Path(self.teacher or self.folder / "teacher")
        for number in range(self.settings.teachers):
            size = min(self._teacher_settings.batch_size, len(self.parts.train))
            settings = replace(self._teacher_settings, seed=number, batch_size=size)
            own = folder.with_name(f"{folder.name}-{number}") if number else folder
            resume = distributed.from_first(lambda own=own: (own / states.FILE).exists())  # type: ignore[misc]
            yield Run(self.spec, self.parts, settings, own, device=str(self.device), resume=resume)

    def _answers(self, teachers: Sequence[str | Path]) -> list[TeacherAnswers]:
        if self.settings.teacher == ITSELF:
            teachers = [self._start, *teachers]
        if len(teachers) != self.settings.teachers:
            raise MnvError(
                f"The settings name {self.settings.teachers} for the number of teachers; given are {len(teachers)}.",
                "Run.teachers makes them.",
            )
        if not teachers:
            return []
        key = {
            **self._answered,
            "data": hashlib.sha256(self.parts.train.images.reshape(-1).data).hexdigest(),
            "seed": None if self.settings.views else self.settings.seed,
        }
        answers = []
        for path in map(Path, teachers):
            network, digest = distributed.from_first(
                lambda path=path: (setup.load_teacher(path), sha256(path))  # type: ignore[misc]
            )
            if network.spec.classes != self.spec.classes:
                raise MnvError(f"The teacher {path} has other classes than the data.")
            network = network.to(self.device).to(memory_format=torch.channels_last)
            own_key = {**key, "teacher": digest}
            answers.append(TeacherAnswers(network, path.parent, own_key, flip=self.settings.flip))
        return answers

    def _result(self) -> PixelNetwork:
        """What is evaluated and kept: the average, or what lies between it and the network of the start."""
        if self._origin is None:
            return self.average.network
        return between(self.average.network, self._origin, self.settings.start_share)

    # Files ---------------------------------------------------------------------------------------------------------

    @property
    def steps(self) -> int:
        """Of an epoch."""
        return len(self.parts.train) // self.settings.batch_size

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
        network = checkpoint.load_network(self.checkpoint, type(self.network))
        evaluation = evaluate(TorchSession(network, network.spec, "cpu", None), test)
        kept = tuple(Accuracy(**row) for row in facts["accuracy"] if row["on"] != test.name)
        checkpoint.save(self.checkpoint, network, training=facts["training"], accuracy=(evaluation.accuracy, *kept))
        return evaluation

    @property
    def _start(self) -> Path:
        """Where the network is kept as it was at the start, if it teaches itself."""
        return self.folder / "start" / CHECKPOINT_FILE

    def _keep(self, epoch: Epoch, logits: NDArray[np.float32]) -> None:
        """Writes the checkpoint if no epoch was better, then the log, then the state a resumed run needs.

        The checkpoint's temperature is fitted to ``logits``, the answers to the held-out pictures.
        """
        held_out = epoch.holdout_accuracy
        if held_out is None or held_out >= self.best_accuracy:
            self.best_accuracy = -1.0 if held_out is None else held_out
            part = self.parts.holdout
            accuracy = () if held_out is None else (Accuracy(held_out, len(part), part.name),)
            started = {"init": self.init} if self.init else {}
            training = {
                **asdict(self.settings), **started, "data": self.parts.train.name, "best_epoch": epoch.epoch,
            }  # fmt: skip
            temperature = fitted_temperature(logits, part.labels)
            spec = self.spec.replace(temperature=temperature)
            checkpoint.save(self.checkpoint, self._result(), spec=spec, training=training, accuracy=accuracy)
        with atomic(self.folder / LOG_FILE) as path:
            path.write_text("".join(json.dumps(asdict(row)) + "\n" for row in self.log))
        self._state().write(self.folder)

    def _begin(self) -> None:
        """Writes the state before the first epoch too, so that a run can be resumed wherever it stops."""
        distributed.wait()
        if not self.log and distributed.rank() == 0:
            if self.settings.teacher == ITSELF:
                checkpoint.save(self._start, self.network, training={**asdict(self.settings), "init": self.init})
            self._state().write(self.folder)

    def _learners(self) -> dict[str, Any]:
        """What has a state dict, by its name in the state."""
        return {
            "network": self.network,
            "average": self.average.network,
            "optimizers": self.optimizers,
            "scaler": self.scaler,
        }

    def _state(self) -> State:
        return State(
            self.spec,
            self.settings,
            tuple(self.log),
            self.best_accuracy,
            self.parts.whole,
            self.source,
            self.teacher,
            self.init,
            {name: part.state_dict() for name, part in self._learners().items()},
        )

    def _load(self, state: State) -> None:
        if state.spec != self.spec or replace(state.settings, pictures=0) != replace(self.settings, pictures=0):
            raise MnvError(f"The run in {self.folder} has another network or other settings than asked for now.")
        if state.data != self.parts.whole:
            raise MnvError(
                f"The run in {self.folder} was begun on {state.data}, not on {self.parts.whole}.",
                "Name the same --data.",
            )
        for name, part in self._learners().items():
            part.load_state_dict(state.tensors[name])
        self.settings, self.log, self.best_accuracy = state.settings, list(state.log), state.best_accuracy
        self.source, self.teacher, self.init = self.source or state.source, self.teacher or state.teacher, state.init


def begun(folder: Path) -> bool:
    """Whether there is a run in ``folder`` that has something to lose: an epoch, or a state that is not understood."""
    if not (folder / states.FILE).exists():
        return False
    try:
        return bool(State.read(folder).log)
    except MnvError:
        return True


Watch = Callable[[Run, str], AbstractContextManager[tuple[Callable[[Progress], None], Callable[[Epoch], None]]]]
"""Given a run and what it is for, a context that tells what to call after every step and every epoch."""


def complete(
    run: Run,
    *,
    watch: Watch = lambda run, purpose: nullcontext((lambda progress: None, lambda epoch: None)),
    purpose: str = "",
) -> Path:
    """Trains a run to its end, and before it its teachers, where they are not done.

    Args:
        run: the one to train.
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
        complete(other, watch=watch, purpose=f"teacher {number}") for number, other in enumerate(run.teachers(), 1)
    ]
    with watch(run, purpose) as (on_step, on_epoch):
        return run.fit(on_step, on_epoch, teachers=teachers)
