"""A model repository: what Triton's own proto reads in its configuration is what the ONNX file inside has."""

import copy
from pathlib import Path

import numpy as np
import pytest
from conftest import export, quantized

from mnv1deploy import bundled, checkpoint, datasets, formats
from mnv1deploy.artifact import Provenance
from mnv1deploy.errors import MnvError
from mnv1deploy.formats.triton import MAX_BATCH, model_in
from mnv1deploy.network import MobileNetV1
from mnv1deploy.spec import CIFAR, Block, Normalization

CLASSES = ("a cat", "two\nlines", "naïve", "\x1d")
GREY = CIFAR.replace(
    name="odd name*",
    classes=CLASSES,
    input_size=9,
    colours=1,
    normalization=Normalization.default(1),
    blocks=(Block(8, 2),),
)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled network's, in int8."""
    trained = checkpoint.load(bundled.CHECKPOINT).network
    return export(trained, "triton", "int8", tmp_path_factory.mktemp("triton"), datasets.calibration().images)


def config_of(folder: Path):  # type: ignore[no-untyped-def]
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    return text_format.Parse((folder / "config.pbtxt").read_text("utf-8"), model_config_pb2.ModelConfig())


def check(folder: Path) -> None:
    """The configuration against the file, by onnxruntime."""
    import onnxruntime as ort
    from tritonclient.grpc.model_config_pb2 import TYPE_FP32, TYPE_UINT8

    config, session = config_of(folder), ort.InferenceSession(folder / "1" / "model.onnx")
    (image,), (logits,) = session.get_inputs(), session.get_outputs()
    assert config.name == folder.name
    assert config.backend == "onnxruntime"
    assert [(one.name, one.data_type, list(one.dims)) for one in config.input] == [
        (image.name, TYPE_UINT8, image.shape[1:])
    ]
    assert image.type == "tensor(uint8)"
    assert [(one.name, one.data_type, list(one.dims)) for one in config.output] == [
        (logits.name, TYPE_FP32, logits.shape[1:])
    ]
    assert config.max_batch_size == MAX_BATCH
    assert isinstance(image.shape[0], str), "the first dimension is free"
    assert config.HasField("dynamic_batching")
    assert 0 < config.dynamic_batching.max_queue_delay_microseconds <= 1000
    labels = (folder / config.output[0].label_filename).read_text("utf-8").splitlines()
    assert len(labels) == logits.shape[1]
    assert all(labels)


def test_tritons_own_proto_reads_the_configuration_and_it_is_the_files(repository: Path) -> None:
    folder = repository / "mobilenetv1_cifar10"
    check(folder)
    assert (folder / "labels.txt").read_text().split() == list(CIFAR.classes)
    assert {path.relative_to(repository).as_posix() for path in repository.rglob("*") if path.is_file()} == {
        f"mobilenetv1_cifar10/{name}" for name in ("config.pbtxt", "labels.txt", "1/model.onnx")
    }


def test_any_network_becomes_a_repository_whatever_its_names(tmp_path: Path) -> None:
    images = datasets.resized(datasets.calibration(), GREY.pixels).images[:16]
    integers = copy.deepcopy(quantized(MobileNetV1(GREY).eval().folded(), images))
    provenance = Provenance("triton", "int8", GREY, "0" * 64, (), integers.facts, {})
    formats.get("triton").export(integers.network, tmp_path / "net.triton", provenance, integers)
    (folder,) = (tmp_path / "net.triton").iterdir()
    assert folder.name == "odd_name"
    check(folder)


def test_its_logits_are_those_of_onnx(repository: Path, tmp_path: Path) -> None:
    trained = checkpoint.load(bundled.CHECKPOINT).network
    images = datasets.calibration().images
    onnx = export(trained, "onnx", "int8", tmp_path, images)
    found, expected = (formats.open_session(path)(images[:64]) for path in (repository, onnx))
    np.testing.assert_array_equal(found, expected)


def test_what_is_no_repository_is_refused(tmp_path: Path) -> None:
    empty = tmp_path / "empty.triton"
    empty.mkdir()
    with pytest.raises(MnvError, match="no model repository that mnv1deploy wrote"):
        model_in(empty)
    with pytest.raises(MnvError, match="no model repository"):
        formats.open_session(empty)
    for name in "ab":
        (empty / name / "1").mkdir(parents=True)
        (empty / name / "1" / "model.onnx").write_bytes(b"")
    with pytest.raises(MnvError, match="it has 2 files"):
        formats.open_session(empty)
