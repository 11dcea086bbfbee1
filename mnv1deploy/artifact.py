"""What an export leaves behind: the artifact's files and, beside them, one manifest that proves them.

The manifest of ``net.onnx`` is ``net.onnx.json``. A checkpoint carries the same knowledge in its own metadata.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, TypedDict

from mnv1deploy import schema
from mnv1deploy.errors import MnvError
from mnv1deploy.files import atomic, sha256
from mnv1deploy.spec import ModelSpec

Precision = Literal["fp32", "fp16", "int8"]

VERSION = 2
"""Of the JSON that manifests and provenances are written as. Version 1 (mnv1deploy 0.1) did not say so."""

METADATA_KEY = "mnv1deploy"
"""Under which spec and provenance stand in a checkpoint's or an ONNX file's own metadata, as JSON."""

PROVENANCE = "provenance.json"
"""Where it stands in an artifact that is a folder and has no place for it in its files."""


@dataclass(frozen=True)
class Accuracy:
    """A measured top-1 accuracy, as a fraction, and the number and name of the images it was measured on."""

    top1: float
    images: int
    on: str

    def __str__(self) -> str:
        return f"{self.top1:.2%} on {self.on} ({self.images:,} images)"


@dataclass(frozen=True)
class Proof:
    """How an artifact compares with the checkpoint it came from.

    Attributes:
        images: the pictures both were run on, none of which int8 was calibrated on.
        count: how many.
        max_logit_difference: largest absolute difference of any logit, on those and on ``others``.
        agreement: fraction of them that both give the same top-1 class; None where it would say nothing, the
            checkpoint giving nearly all of them one class.
        accuracy, checkpoint_accuracy: of both on the same labelled pictures; None where there are none at hand.
        noise: root mean square of the logits' difference over that of the logits, each picture's mean left out of both.
        others: more pictures, whatever the network was made for, on which logits alone were compared.

    What came after version 0.1 is None or "" in older manifests.
    """

    images: str
    count: int
    max_logit_difference: float
    agreement: float | None
    accuracy: Accuracy | None = None
    checkpoint_accuracy: Accuracy | None = None
    noise: float | None = None
    others: str = ""

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Proof:
        """The proof that ``asdict`` took apart. Raises ValueError for anything else."""
        return cls(**schema.members(cls, data))


@dataclass(frozen=True)
class Provenance:
    """Where an artifact comes from; embedded in it where the format has room for metadata.

    Attributes:
        format, precision: how it was exported.
        spec: of the network.
        checkpoint_sha256: of the checkpoint's file.
        checkpoint_accuracy: what was measured when it was trained.
        quantization: for int8: calibration images, their number, the method and who wrote the integers.
        versions: of the packages that wrote it.
    """

    format: str
    precision: Precision
    spec: ModelSpec
    checkpoint_sha256: str
    checkpoint_accuracy: tuple[Accuracy, ...]
    quantization: dict[str, Any] | None
    versions: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, with the version of its form."""
        return {"version": VERSION, **asdict(self), "spec": self.spec.to_dict()}

    def to_json(self) -> str:
        """One line, the same for the same provenance."""
        return json.dumps(self.to_dict(), separators=(",", ":"), sort_keys=True)

    def write(self, folder: Path) -> None:
        """Into an artifact that is a folder: its file PROVENANCE."""
        (folder / PROVENANCE).write_text(self.to_json() + "\n", "utf-8", newline="\n")

    @classmethod
    def from_json(cls, text: str | bytes) -> Provenance:
        """What :meth:`to_json` wrote. Raises MnvError for anything else."""
        try:
            return cls.from_dict(schema.loads(text))
        except ValueError as error:
            raise MnvError(f"This is not the provenance of an artifact: {error}.") from error

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Provenance:
        """The provenance that :meth:`to_dict` took apart. Raises MnvError for anything else."""
        try:
            return cls(**schema.members(cls, schema.versioned(data, VERSION)))
        except ValueError as error:
            raise MnvError(f"This is not the provenance of an artifact: {error}.") from error


class File(TypedDict):
    """What a manifest says of a file: its size, and its hash in hexadecimal."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What an export leaves beside an artifact.

    Attributes:
        provenance: where it comes from.
        files: by path relative to the manifest's folder, as the export named them.
        proof: None where the artifact was not run, and ``not_run`` says why.
        not_run: "" where it was.
    """

    provenance: Provenance
    files: dict[str, File]
    proof: Proof | None
    not_run: str = ""

    @property
    def bytes(self) -> int:
        """Of all its files."""
        return sum(file["bytes"] for file in self.files.values())

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, with the version of its form."""
        return {"version": VERSION, **asdict(self), "provenance": self.provenance.to_dict()}

    def write(self, artifact: Path) -> None:
        """Writes the manifest of ``artifact`` beside it."""
        with atomic(manifest_path(artifact)) as path:
            path.write_text(json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n", "utf-8")

    @classmethod
    def load(cls, artifact: Path) -> Manifest | None:
        """What stands in the manifest beside ``artifact``, whose files are not looked at; None if there is none.

        Raises:
            MnvError: if it cannot be read.
        """
        path = manifest_path(artifact)
        if not path.exists():
            return None
        try:
            return cls(**schema.members(cls, schema.versioned(schema.load(path), VERSION)))
        except (OSError, ValueError, MnvError) as error:
            reason = error.message.rstrip(".") if isinstance(error, MnvError) else MnvError.reason(error)
            raise MnvError(f"The manifest {path} cannot be read: {reason}.", "Export the artifact again.") from error

    @classmethod
    def read(cls, artifact: Path) -> Manifest | None:
        """The manifest beside ``artifact``, its files being those it proves, hashed once; None if there is none.

        An artifact may have been renamed together with its manifest. Then so must have been the files that belong
        to it: ``new.bin`` with ``new.xml`` and ``new.xml.json``.

        Raises:
            MnvError: if it cannot be read, or a file is not the one it proves.
        """
        manifest = cls.load(artifact)
        return manifest._checked(artifact) if manifest else None

    def _checked(self, artifact: Path) -> Manifest:
        """Itself, its files by their names of today. Raises MnvError unless they are there and unchanged."""
        found = {}
        for old, file in self.files.items():
            name = self._name_today(old, artifact)
            path = artifact.parent / name
            if not _is_below(path, artifact):
                raise _unproved(artifact, f"names {old!r}, which is no file of its own folder")
            if not path.is_file():
                renamed = f"; rename {old} to {name}" if name != old and (artifact.parent / old).exists() else ""
                raise _unproved(artifact, f"proves {name}, which is not there{renamed}")
            if path.stat().st_size != file["bytes"] or sha256(path) != file["sha256"]:
                raise MnvError(
                    f"{path} is not the file that its manifest {manifest_path(artifact).name} proves.",
                    "Export it again; or remove the manifest if you changed the file yourself.",
                )
            found[name] = file
        if artifact.name not in {name.partition("/")[0] for name in found}:
            raise _unproved(artifact, f"does not prove {artifact.name}")
        return replace(self, files=found)

    def _name_today(self, old: str, artifact: Path) -> str:
        """What a file is called now that was ``old`` when the artifact was exported."""
        first, slash, rest = old.partition("/")
        names = dict.fromkeys(name.partition("/")[0] for name in self.files)
        if artifact.name in names:
            return old
        mains = [name for name in names if Path(name).suffix == artifact.suffix]
        if len(mains) != 1:
            raise _unproved(artifact, f"is that of {', '.join(names) or 'nothing'}")
        # net.ncnn.param and new.ncnn.param: what both end in, from a dot on, is no part of the names
        was, now = mains[0], artifact.name
        common = next(i for i in range(len(was)) if was[i] == "." and now.endswith(was[i:]))
        stem, today = was[:common], now[: len(now) - len(was) + common]
        return (today + first[common:] if first.startswith(f"{stem}.") else first) + slash + rest


def _unproved(artifact: Path, what: str) -> MnvError:
    return MnvError(
        f"The manifest {manifest_path(artifact)} {what}.",
        "Keep an artifact's files and its manifest together, under the names they were exported with; or export again.",
    )


def _is_below(path: Path, artifact: Path) -> bool:
    """Whether a path stays in the artifact's folder, links followed; the artifact itself may be a link."""
    if path == artifact:
        return True
    parent = artifact.parent.resolve()
    return ".." not in path.parts[len(artifact.parent.parts) :] and path.resolve().is_relative_to(parent)


def hashes(folder: Path) -> dict[str, File]:
    """All files below a folder, as a manifest's ``files``."""
    return {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def manifest_path(artifact: Path) -> Path:
    """Where the manifest of an artifact is."""
    return artifact.with_name(artifact.name + ".json")


def provenance_beside(path: Path) -> Provenance:
    """Of an artifact whose format has no room for it. Raises MnvError if the manifest is missing or cannot be read.

    Whether the manifest proves the file is for :meth:`Manifest.read` to say, once for every opening.
    """
    manifest = Manifest.load(path)
    if manifest is None:
        raise MnvError(
            f"{path} has no manifest {manifest_path(path).name} beside it, and cannot itself say what it is.",
            "Copy the manifest along with the artifact.",
        )
    return manifest.provenance


@dataclass(frozen=True)
class Trained:
    """What a checkpoint knows of itself.

    Attributes:
        spec: of the network.
        training: the settings it was trained with, or how it was imported.
        accuracy: measured when it was trained or imported.
        versions: of the packages that wrote it.
    """

    spec: ModelSpec
    training: dict[str, Any]
    accuracy: tuple[Accuracy, ...]
    versions: dict[str, str]


def read_checkpoint_metadata(path: Path) -> dict[str, Any]:
    """What a checkpoint knows of itself, the fields of :class:`Trained` as plain data, read without torch.

    Raises:
        MnvError: if it is not there or is no checkpoint of mnv1deploy.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise MnvError(f"There is no checkpoint {path}.")
    try:
        with safe_open(path, framework="numpy") as file:
            facts: dict[str, Any] = schema.loads((file.metadata() or {})[METADATA_KEY])
        schema.members(Trained, {field.name: facts[field.name] for field in fields(Trained)})
    except (SafetensorError, OSError) as error:
        raise MnvError(
            f"{path} is no safetensors file, or is damaged: {error}.",
            f"If it has weights from elsewhere, bring them in with: mnv1 import {path}",
        ) from error
    except KeyError as error:
        raise MnvError(f"{path} was not written by mnv1deploy.", f"Bring it in with: mnv1 import {path}") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise MnvError(f"What {path} says of itself cannot be read: {MnvError.reason(error)}.") from error
    return facts


def network_kind(facts: Mapping[str, Any]) -> str:
    """The kind of network that a checkpoint's metadata is of: "mobilenetv1", or "teacher" of another one."""
    kind: str = facts["training"].get("network", "mobilenetv1")
    return kind


def require_mobilenetv1(facts: Mapping[str, Any], path: Path) -> None:
    """Raises MnvError if a checkpoint's metadata is that of another kind of network."""
    if (kind := network_kind(facts)) != "mobilenetv1":
        raise MnvError(
            f"{path} holds a {kind}, not the MobileNetV1 it teaches.",
            "Its answers are what mnv1 train --recipe best learns from; nothing else is made of it.",
        )
