"""What an export leaves behind: the artifact's files and, beside them, one manifest that proves them.

The manifest of ``net.onnx`` is ``net.onnx.json``. A checkpoint carries the same knowledge in its own metadata.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from mnv1deploy.errors import MnvError
from mnv1deploy.files import atomic, sha256
from mnv1deploy.spec import ModelSpec

Precision = Literal["fp32", "fp16", "int8"]

METADATA_KEY = "mnv1deploy"
"""Under which spec and provenance stand in a checkpoint's or an ONNX file's own metadata, as JSON."""


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
        images: the pictures both were run on.
        count: how many.
        max_logit_difference: largest absolute difference of any logit.
        agreement: fraction of the pictures that both give the same top-1 class.
        accuracy, checkpoint_accuracy: of both on the same labelled pictures; None where there are none at hand.
    """

    images: str
    count: int
    max_logit_difference: float
    agreement: float
    accuracy: Accuracy | None = None
    checkpoint_accuracy: Accuracy | None = None

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Proof:
        """The proof that ``asdict`` took apart."""
        measured = {k: Accuracy(**v) for k, v in data.items() if k.endswith("accuracy") and v}
        return cls(**{**data, **measured})


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
        """Plain data for JSON."""
        return {**asdict(self), "spec": self.spec.to_dict()}

    def to_json(self) -> str:
        """One line, the same for the same provenance."""
        return json.dumps(self.to_dict(), separators=(",", ":"), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Provenance:
        """What :meth:`to_json` wrote. Raises MnvError for anything else."""
        try:
            return cls.from_dict(json.loads(text))
        except ValueError as error:
            raise MnvError(f"This is not the provenance of an artifact: {error}.") from error

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Provenance:
        """The provenance that :meth:`to_dict` took apart. Raises MnvError for anything else."""
        try:
            spec = ModelSpec.from_dict(data["spec"])
            accuracy = tuple(Accuracy(**row) for row in data["checkpoint_accuracy"])
            return cls(**{**data, "spec": spec, "checkpoint_accuracy": accuracy})
        except (TypeError, KeyError) as error:
            raise MnvError(f"This is not the provenance of an artifact: {error}.") from error


@dataclass(frozen=True)
class Manifest:
    """What an export leaves beside an artifact.

    Attributes:
        provenance: where it comes from.
        files: path relative to the manifest's folder -> {"bytes", "sha256"}.
        proof: None where the artifact was not run, and ``not_run`` says why.
        not_run: "" where it was.
    """

    provenance: Provenance
    files: dict[str, dict[str, Any]]
    proof: Proof | None
    not_run: str = ""

    @property
    def bytes(self) -> int:
        """Of all its files."""
        return sum(facts["bytes"] for facts in self.files.values())

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {**asdict(self), "provenance": self.provenance.to_dict()}

    def write(self, artifact: Path) -> None:
        """Writes the manifest of ``artifact`` beside it."""
        with atomic(manifest_path(artifact)) as path:
            path.write_text(json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n", "utf-8")

    @classmethod
    def read(cls, artifact: Path) -> Manifest | None:
        """The manifest beside ``artifact``; None if there is none.

        Raises:
            MnvError: if it cannot be read, or a file is no longer the one it proves.
        """
        path = manifest_path(artifact)
        if not path.is_file():
            return None
        try:
            data = json.loads(path.read_text("utf-8"))
            proof = Proof.from_dict(data["proof"]) if data["proof"] else None
            manifest = cls(Provenance.from_dict(data["provenance"]), data["files"], proof, data.get("not_run", ""))
            for name, facts in manifest.files.items():
                if sha256(path.parent / name) != facts["sha256"]:
                    raise MnvError(
                        f"{path.parent / name} is not the file that its manifest {path.name} proves.",
                        "Export it again; or remove the manifest if you changed the file yourself.",
                    )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise MnvError(f"The manifest {path} cannot be read: {error}.", "Export the artifact again.") from error
        return manifest


def hashes(folder: Path) -> dict[str, dict[str, Any]]:
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
    """Of an artifact whose format has no room for it. Raises MnvError if the manifest is missing or not its own."""
    manifest = Manifest.read(path)
    if manifest is None:
        raise MnvError(
            f"{path} has no manifest {manifest_path(path).name} beside it, and cannot itself say what it is.",
            "Copy the manifest along with the artifact.",
        )
    return manifest.provenance


def read_checkpoint_metadata(path: Path) -> dict[str, Any]:
    """What a checkpoint knows of itself (spec, training, accuracy, versions), read without torch.

    Raises:
        MnvError: if it is not there or is no checkpoint of mnv1deploy.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise MnvError(f"There is no checkpoint {path}.")
    try:
        with safe_open(path, framework="numpy") as file:
            facts: dict[str, Any] = json.loads((file.metadata() or {})[METADATA_KEY])
    except (SafetensorError, OSError) as error:
        raise MnvError(
            f"{path} is no safetensors file, or is damaged: {error}.",
            f"If it has weights from elsewhere, bring them in with: mnv1 import {path}",
        ) from error
    except (KeyError, ValueError) as error:
        raise MnvError(f"{path} was not written by mnv1deploy.", f"Bring it in with: mnv1 import {path}") from error
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
