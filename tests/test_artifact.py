"""Manifests, provenance, and files that are written whole or not at all."""

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from mnv1deploy import bundled, datasets, files, formats
from mnv1deploy.artifact import Accuracy, Manifest, Proof, Provenance, hashes, manifest_path, read_checkpoint_metadata
from mnv1deploy.errors import MnvError
from mnv1deploy.packages import versions
from mnv1deploy.spec import CIFAR, Block, ModelSpec

OLDER = Path(__file__).parent / "older"

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
    with pytest.raises(MnvError, match=r"proves net\.onnx, which is not there"):
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


# What a manifest proves --------------------------------------------------------------------------------------------


def write_artifact(folder: Path, contents: dict[str, bytes], main: str) -> Path:
    """An artifact of several files with its manifest."""
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    provenance = Provenance("any", "fp32", CIFAR, "0" * 64, (), None, {})
    Manifest(provenance, hashes(folder), None).write(folder / main)
    return folder / main


PAIRS = {
    "net.onnx": ("new.onnx", {"net.onnx": "new.onnx"}),
    "net.v1.onnx": ("new.onnx", {"net.v1.onnx": "new.onnx"}),
    "net.xml": ("new.v2.xml", {"net.xml": "new.v2.xml", "net.bin": "new.v2.bin"}),
    "net.ncnn.param": ("new.ncnn.param", {"net.ncnn.param": "new.ncnn.param", "net.ncnn.bin": "new.ncnn.bin"}),
    "net.c": ("new.c", {"net.c/net.h": "new.c/net.h", "net.c/net.c": "new.c/net.c"}),
}


@pytest.mark.parametrize("main", PAIRS)
def test_an_artifact_may_be_renamed_together_with_its_manifest(tmp_path: Path, main: str) -> None:
    new, files = PAIRS[main]
    path = write_artifact(tmp_path, {name: name.encode() for name in files}, main)
    before = Manifest.read(path)
    assert before
    for old, today in {**{name.split("/")[0]: today.split("/")[0] for name, today in files.items()}}.items():
        (tmp_path / old).rename(tmp_path / today)
    manifest_path(path).rename(manifest_path(tmp_path / new))
    found = Manifest.read(tmp_path / new)
    assert found
    assert set(found.files) == set(files.values())
    assert found.bytes == before.bytes
    changed = tmp_path / sorted(files.values())[0]
    changed.write_bytes(b"x" * len(changed.read_bytes()))
    with pytest.raises(MnvError, match="is not the file that its manifest"):
        Manifest.read(tmp_path / new)


def test_a_part_that_was_not_renamed_along_is_named(tmp_path: Path) -> None:
    path = write_artifact(tmp_path, {"net.xml": b"graph", "net.bin": b"weights"}, "net.xml")
    path.rename(tmp_path / "new.xml")
    manifest_path(path).rename(tmp_path / "new.xml.json")
    with pytest.raises(MnvError, match=r"rename net\.bin to new\.bin"):
        Manifest.read(tmp_path / "new.xml")


def test_a_manifest_does_not_prove_another_file(tmp_path: Path) -> None:
    """Copied beside another artifact it used to: what it lists was hashed, and not the file beside it."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    int8 = write_artifact(tmp_path / "a", {"net_int8.onnx": b"int8"}, "net_int8.onnx")
    fp32 = tmp_path / "a" / "x.onnx"
    fp32.write_bytes(b"fp32 weights")
    manifest_path(fp32).write_bytes(manifest_path(int8).read_bytes())
    with pytest.raises(MnvError, match=r"x\.onnx is not the file that its manifest x\.onnx\.json proves"):
        Manifest.read(fp32)
    bare = write_artifact(tmp_path / "b", {"net.bin": b"weights"}, "net.xml")
    bare.write_bytes(b"graph")
    with pytest.raises(MnvError, match=r"net\.xml"):
        Manifest.read(bare)


def edited(artifact: Path, **changes: object) -> None:
    data = json.loads(manifest_path(artifact).read_text())
    manifest_path(artifact).write_text(json.dumps({**data, **changes}))


@pytest.mark.parametrize(
    "files",
    [
        {},
        [],
        None,
        "net.onnx",
        {"net.onnx": []},
        {"net.onnx": {"sha256": "0"}},
        {"net.onnx": {"sha256": "0", "bytes": "7"}},
        {"net.onnx": {"sha256": "0", "bytes": True}},
        {"net.onnx": {"sha256": None, "bytes": 7}},
    ],
    ids=str,
)
def test_files_of_another_shape_are_refused(artifact: Path, files: object) -> None:
    edited(artifact, files=files)
    with pytest.raises(MnvError, match=r"The manifest .*net\.onnx\.json"):
        Manifest.read(artifact)


@pytest.mark.parametrize(
    "changes",
    [
        {"proof": "yes"},
        {"proof": True},
        {"proof": {"images": "i", "count": 1, "max_logit_difference": "0", "agreement": 1.0}},
        {"proof": {"images": "i", "count": 1.5, "max_logit_difference": 0, "agreement": 1.0}},
        {"provenance": None},
        {"provenance": []},
        {"not_run": 1},
        {"version": 99},
        {"version": "2"},
        {"version": True},
        {"another": 1},
    ],
    ids=str,
)
def test_a_manifest_of_another_shape_is_refused(artifact: Path, changes: dict[str, object]) -> None:
    edited(artifact, **changes)
    with pytest.raises(MnvError, match="cannot be read"):
        Manifest.read(artifact)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, '{"files": NaN}', "1" * 5000, "\udcff"])
def test_json_that_is_nested_too_deep_or_none_at_all_is_refused(artifact: Path, text: str) -> None:
    manifest_path(artifact).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(MnvError, match="cannot be read"):
        Manifest.read(artifact)
    with pytest.raises(MnvError):
        Provenance.from_json(text)


def test_a_manifest_of_two_gibibytes_is_not_read(artifact: Path) -> None:
    with manifest_path(artifact).open("wb") as file:
        file.truncate(2 << 30)
    with pytest.raises(MnvError, match="more than"):
        Manifest.read(artifact)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are none")
def test_neither_a_pipe_nor_a_device_is_waited_for(artifact: Path, tmp_path: Path) -> None:
    facts = {"bytes": 7, "sha256": "0" * 64}
    proved = json.loads(manifest_path(artifact).read_text())["files"]
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zeros").symlink_to("/dev/zero")
    for name in ("pipe", "zeros", "/dev/zero"):
        edited(artifact, files={**proved, name: facts})
        with pytest.raises(MnvError, match=r"The manifest .*net\.onnx\.json"):
            Manifest.read(artifact)
    manifest_path(artifact).unlink()
    os.mkfifo(manifest_path(artifact))
    with pytest.raises(MnvError, match="it is no file"):
        Manifest.read(artifact)
    os.mkfifo(tmp_path / "pipe.onnx")
    with pytest.raises(MnvError, match="no regular file"):
        formats.of_file(tmp_path / "pipe.onnx")


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "a/../../secret", "link", "folder/secret"])
def test_only_files_of_the_artifacts_own_folder_are_looked_at(tmp_path: Path, name: str) -> None:
    home = tmp_path / "home"
    path = write_artifact(home, {"net.onnx": b"weights"}, "net.onnx")
    (tmp_path / "secret").write_bytes(b"secret")
    (home / "link").symlink_to(tmp_path / "secret")
    (home / "folder").symlink_to(tmp_path)
    proved = json.loads(manifest_path(path).read_text())["files"]
    edited(path, files={**proved, name: {"bytes": 6, "sha256": hashlib.sha256(b"secret").hexdigest()}})
    with pytest.raises(MnvError, match="no file of its own folder"):
        Manifest.read(path)


def test_an_artifact_may_be_a_link(artifact: Path, tmp_path: Path) -> None:
    """As in the cache of a model hub."""
    (tmp_path / "snapshot").mkdir()
    for path in (artifact, manifest_path(artifact)):
        (tmp_path / "snapshot" / path.name).symlink_to(path)
    assert Manifest.read(tmp_path / "snapshot" / artifact.name)


def test_files_are_hashed_once(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[Path] = []
    monkeypatch.setattr("mnv1deploy.artifact.sha256", lambda path: hashed.append(path) or files.sha256(path))
    Manifest.read(artifact)
    assert hashed == [artifact]


# What an older release wrote -----------------------------------------------------------------------------------------


def test_what_0_1_0_wrote_is_read() -> None:
    """A checkpoint of random weights, its spec, its ONNX export with the manifest, and a C folder's provenance."""
    spec = ModelSpec.from_json((OLDER / "spec.json").read_text())
    assert spec == CIFAR.replace(name="net", blocks=(Block(32, 1), Block(64, 2), Block(64, 2))).scaled(0.25)
    assert [block.channels for block in spec.blocks] == [8, 16, 16]
    manifest = Manifest.read(OLDER / "net_fp32.onnx")
    assert manifest
    assert manifest.provenance.spec == spec
    assert manifest.provenance.versions["mnv1deploy"] == "0.1.0"
    assert manifest.proof
    assert manifest.proof.accuracy == Accuracy(0.1, 10_000, "CIFAR-10 test split")
    provenance = Provenance.from_json((OLDER / "provenance.json").read_text())
    assert (provenance.format, provenance.precision, provenance.spec) == ("c", "int8", spec)
    assert Accuracy(**read_checkpoint_metadata(OLDER / "net.safetensors")["accuracy"][0]).images == 10_000
    pictures = datasets.calibration().images[:8]
    logits = [formats.open_session(OLDER / name)(pictures) for name in ("net_fp32.onnx", "net.safetensors")]
    np.testing.assert_allclose(*logits, atol=1e-5)
    assert np.ptp(logits[0], 0).min() > 0, "not all alike"


@pytest.mark.parametrize("version", [3, 0, "1", None, 1.5])
def test_a_newer_form_is_refused_by_its_version(version: object) -> None:
    text = Provenance("onnx", "fp32", CIFAR, "0" * 64, (), None, {}).to_json()
    with pytest.raises(MnvError, match=f"of version {version}"):
        Provenance.from_dict({**json.loads(text), "version": version})


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({}, "was not written by mnv1deploy"),
        ({"spec": {}, "training": {}, "accuracy": [], "versions": {}}, "spec"),
        ({"spec": CIFAR.to_dict(), "training": [], "accuracy": [], "versions": {}}, "training is no object"),
        ({"spec": CIFAR.to_dict(), "training": {}, "accuracy": {}, "versions": {}}, "accuracy is no list"),
        ({"spec": CIFAR.to_dict(), "training": {}, "accuracy": [{}], "versions": {}}, "has no top1"),
        ([], "says of itself"),
    ],
    ids=str,
)
def test_a_checkpoint_whose_facts_have_another_shape_is_refused(tmp_path: Path, facts: object, message: str) -> None:
    path = tmp_path / "net.safetensors"
    safetensors.numpy.save_file({"w": np.zeros(1)}, path, {"mnv1deploy": json.dumps(facts)})
    with pytest.raises(MnvError, match=message):
        read_checkpoint_metadata(path)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), st.lists, max_leaves=5))
def test_no_value_of_another_type_gets_through(value: object) -> None:
    """Each field of a manifest in turn."""
    provenance = Provenance("onnx", "fp32", CIFAR, "0" * 64, (Accuracy(0.5, 10, "x"),), None, {"a": "1"}).to_dict()
    for name, given_ in provenance.items():
        if type(value) is not type(given_) and not (name == "quantization" and value is None):
            if name == "checkpoint_accuracy" and value == []:
                continue
            with pytest.raises(MnvError):
                Provenance.from_dict({**provenance, name: value})
