"""Distillation (arXiv 1503.02531): a larger network's answers are the targets of the small one.

Teacher and student see the very same augmented pictures, as arXiv 2106.05237 found best; only a network that teaches
itself answers them before they are altered in ways it does not know. The views are numbered, so that the teacher
answers each of them once, and its answers are kept on disk for every later epoch and run. Where pictures may be
mirrored, its answer is the mean over both ways round, and serves for both.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mnv1deploy.files import atomic
from mnv1deploy.network import PixelNetwork
from mnv1deploy.training import distributed, precision
from mnv1deploy.training.augmentation import View

BATCH = 500


class TeacherAnswers:
    """A teacher's logits for numbered views, computed when first asked for and then read from ``folder``.

    Only the first process reads and writes the folder.

    Args:
        teacher: in inference mode, on the device of the pictures.
        folder: a subfolder of it, named after ``key``, holds one file per view.
        key: what the logits depend on besides the view's number; other facts, other files.
        flip: whether to average over the pictures and their mirror images.
    """

    def __init__(self, teacher: PixelNetwork, folder: Path, key: dict[str, Any], *, flip: bool) -> None:
        self._teacher, self._flip = teacher, flip
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:12]
        self._folder = folder / f"logits-{digest}"

    def of(self, number: int, view: View, count: int, device: torch.device) -> Tensor:
        """Logits of all ``count`` pictures of a view, float32 ``[N, classes]`` (kept as float16).

        Each process has the teacher answer its share of them.
        """
        path = self._folder / f"{number:04}.npy"
        kept = distributed.from_first(lambda: np.load(path) if path.is_file() else None)
        if kept is None:
            kept = self._ask(view, count, device).half().cpu().numpy()
            if distributed.rank() == 0:
                with atomic(path) as temporary, temporary.open("wb") as file:
                    np.save(file, kept)
        return torch.from_numpy(kept).to(device).float()

    @torch.inference_mode()
    def _ask(self, view: View, count: int, device: torch.device) -> Tensor:
        processes, rank = distributed.processes(), distributed.rank()
        end = count * (rank + 1) // processes
        faster = precision.is_faster(device, dense=self._teacher.is_dense)
        logits = torch.zeros(count, len(self._teacher.spec.classes), device=device)
        for start in range(count * rank // processes, end, BATCH):
            chosen = torch.arange(start, min(start + BATCH, end), device=device)
            pixels = view(chosen)
            with torch.autocast(device.type, torch.bfloat16, enabled=faster):
                answer = self._teacher(pixels)
                if self._flip:
                    answer = (answer + self._teacher(pixels.flip(2))) / 2
            logits[chosen] = answer
        return distributed.total(logits)
