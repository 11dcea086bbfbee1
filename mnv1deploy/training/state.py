"""The file that a run goes on from: what it was begun with, and all it has come to."""

from __future__ import annotations

import pickle
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from mnv1deploy.errors import MnvError
from mnv1deploy.files import atomic
from mnv1deploy.spec import ModelSpec
from mnv1deploy.training.progress import Epoch
from mnv1deploy.training.settings import Settings

FILE = "state.pt"

VERSION = 2
"""Of the file's form. 1, which has no number, is that of mnv1deploy 0.1.0."""


@dataclass(frozen=True)
class State:
    """A run, as it is between two epochs.

    Attributes:
        spec, settings: of the run.
        log: the epochs that are done.
        best_accuracy: held-out accuracy of the checkpoint; -1 before there is one.
        data: name and number of the pictures.
        source: the folder they were read from, "" for those that need none or where it is not known.
        teacher: folder of the first teacher's run, "" for the usual one.
        init: the checkpoint it started from, "" for random weights.
        tensors: state dicts by part: network, average, optimizers, scaler.
    """

    spec: ModelSpec
    settings: Settings
    log: tuple[Epoch, ...]
    best_accuracy: float
    data: str
    source: str
    teacher: str
    init: str
    tensors: dict[str, Any]

    def write(self, folder: Path) -> None:
        """Writes the state of the run in ``folder``, whole or not at all."""
        content = {
            **{name: value for name, value in vars(self).items() if name != "tensors"},
            "version": VERSION,
            "spec": self.spec.to_dict(),
            "settings": asdict(self.settings),
            "log": [asdict(epoch) for epoch in self.log],
            **self.tensors,
        }
        with atomic(folder / FILE) as path:
            torch.save(content, path)

    @classmethod
    def read(cls, folder: Path) -> State:
        """The state of the run in ``folder``, as this version or 0.1.0 wrote it.

        Raises:
            MnvError: if there is none, or it is damaged or of a version that is not known here.
        """
        path = folder / FILE
        if not path.is_file():
            raise MnvError(f"There is no run to resume in {folder}.", "Begin one: leave out --resume.")
        try:
            content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            version = content.pop("version", 1)
        except (RuntimeError, ValueError, OSError, EOFError, KeyError, AttributeError, TypeError) as error:
            raise _damaged(path, error) from error
        except (pickle.UnpicklingError, zipfile.BadZipFile) as error:
            raise _damaged(path, error) from error
        if version not in (1, VERSION):
            raise MnvError(
                f"The run in {folder} is of version {version}; this mnv1deploy knows versions 1 to {VERSION}.",
                "Finish it with the version that began it.",
            )
        try:
            spec = content["spec"]
            return cls(
                ModelSpec.from_json(spec) if version == 1 else ModelSpec.from_dict(spec),
                Settings.from_dict(content["settings"]),
                tuple(Epoch(**row) for row in content["log"]),
                content["best_accuracy"],
                content["data"],
                content.get("source", ""),
                content.get("teacher", ""),
                content.get("init", ""),
                {name: content[name] for name in ("network", "average", "optimizers", "scaler")},
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> MnvError:
    return MnvError(
        f"{path} is no state of a run, or is damaged: {MnvError.reason(error)}.", "Begin anew in another folder."
    )
