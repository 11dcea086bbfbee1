"""Manifests, provenance, and files that are written whole or not at all."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnv1deploy import bundled, files
from mnv1deploy.artifact import Accuracy, Manifest, Proof, Provenance, manifest_path
from mnv1deploy.errors import MnvError
from mnv1deploy.packages import versions
from mnv1deploy.spec import CIFAR

fractions = st.floats(0, 1)
accuracies = st.builds(Accuracy, fractions, st.integers(1, 10**6), st.text(max_size=20))
proofs = st.builds(
    Proof,
    st.text(max_size=20),
    st.integers(1, 9999),
    fractions,
    fractions,
    st.none() | accuracies,
    st.none() | accuracies,
)
provenances = st.builds(
    Provenance,
    st.text(max_size=9),
    st.sampled_from(["fp32", "fp16", "int8"]),
    st.just(CIFAR),
    st.text(max_size=64),
    st.lists(accuracies, max_size=2).map(tuple),
    st.none() | st.just({"quantizer": "mnv1deploy", "images": 512}),
    st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3),
)


@given(proofs)
def test_proof_survives_json(proof: Proof) -> None:
    assert Proof.from_dict(json.loads(json.dumps(asdict(proof)))) == proof


@given(provenances)
def test_provenance_survives_json(provenance: Provenance) -> None:
    assert Provenance.from_json(provenance.to_json()) == provenance


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"spec": 1}', "null"])
def test_other_json_is_refused(text: str) -> None:
    with pytest.raises(MnvError):
        Provenance.from_json(text)


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    """A file with its manifest."""
    path = tmp_path / "net.onnx"
    path.write_bytes(b"weights")
    facts = {path.name: {"bytes": 7, "sha256": hashlib.sha256(b"weights").hexdigest()}}
    provenance = Provenance("onnx", "fp32", CIFAR, "0" * 64, (), None, versions())
    Manifest(provenance, facts, Proof("images", 1, 0.0, 1.0)).write(path)
    return path


def test_manifest_is_read_back(artifact: Path) -> None:
    manifest = Manifest.read(artifact)
    assert manifest is not None
    assert manifest.provenance.spec == CIFAR
    assert manifest.proof == Proof("images", 1, 0.0, 1.0)
    assert manifest.bytes == 7
    assert manifest_path(artifact).name == "net.onnx.json"


def test_no_manifest_is_no_error(tmp_path: Path) -> None:
    assert Manifest.read(tmp_path / "net.onnx") is None


def test_a_changed_file_is_not_the_proved_one(artifact: Path) -> None:
    artifact.write_bytes(b"Weights")
    with pytest.raises(MnvError, match="is not the file that its manifest"):
        Manifest.read(artifact)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"provenance": {}, "files": {}, "proof": {}}'])
def test_a_damaged_manifest_is_refused(artifact: Path, text: str) -> None:
    manifest_path(artifact).write_text(text)
    with pytest.raises(MnvError):
        Manifest.read(artifact)


def test_a_manifest_whose_file_is_gone_is_refused(artifact: Path) -> None:
    artifact.unlink()
    with pytest.raises(MnvError, match="cannot be read"):
        Manifest.read(artifact)


@pytest.mark.parametrize("path", [bundled.INT8, bundled.FP32], ids=lambda path: path.name)
def test_the_shipped_artifacts_are_proved_and_from_the_shipped_checkpoint(path: Path) -> None:
    manifest = Manifest.read(path)
    assert manifest is not None
    assert manifest.provenance.checkpoint_sha256 == files.sha256(bundled.CHECKPOINT)
    proof = manifest.proof
    assert proof is not None
    assert proof.accuracy is not None
    assert proof.checkpoint_accuracy is not None
    assert proof.accuracy.images == 10_000
    assert proof.accuracy.top1 >= max(0.88, proof.checkpoint_accuracy.top1 - 0.003)
    assert proof.agreement >= 0.985


def test_atomic_leaves_nothing_after_a_failure(tmp_path: Path) -> None:
    target = tmp_path / "file.bin"
    target.write_text("old")

    def fail() -> None:
        with files.atomic(target) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_atomic_replaces_the_whole_file_and_makes_its_folder(tmp_path: Path) -> None:
    target = tmp_path / "new" / "file.bin"
    for text in ("first", "second"):
        with files.atomic(target) as temporary:
            assert temporary.suffix == target.suffix
            temporary.write_text(text)
        assert target.read_text() == text
    plain = tmp_path / "plain"
    plain.touch()
    assert target.stat().st_mode == plain.stat().st_mode


def test_staged_moves_everything_or_nothing(tmp_path: Path) -> None:
    target = tmp_path / "out"
    for text in ("first", "second"):
        with files.staged(target) as folder:
            (folder / "net").mkdir()
            (folder / "net" / text).write_text(text)
            (folder / "file").write_text(text)
        assert sorted(p.relative_to(target).as_posix() for p in target.rglob("*")) == ["file", "net", f"net/{text}"]
    with pytest.raises(KeyboardInterrupt), files.staged(target) as folder:
        (folder / "file").write_text("half")
        raise KeyboardInterrupt
    assert (target / "file").read_text() == "second"
    assert len(list(target.iterdir())) == 2
    with pytest.raises(MnvError, match="Cannot write"), files.staged(target / "file"):
        pass


def test_atomic_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MnvError, match="Cannot write"), files.atomic(tmp_path / "file" / "below"):
        pass


@given(st.binary(max_size=300))
def test_sha256(content: bytes) -> None:
    import tempfile

    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        assert files.sha256(file.name) == hashlib.sha256(content).hexdigest()
