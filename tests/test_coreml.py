"""Core ML: what can be checked of its packages where they cannot be run."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import export

from mnv1deploy import bundled, checkpoint, datasets, exporting, formats
from mnv1deploy.artifact import Precision
from mnv1deploy.errors import MnvError
from mnv1deploy.quantization import Quantization
from mnv1deploy.spec import CIFAR

pytestmark = pytest.mark.slow

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    network = checkpoint.load(bundled.CHECKPOINT).network
    folder, images = tmp_path_factory.mktemp("coreml"), datasets.calibration().images
    return {precision: export(network, "coreml", precision, folder, images) for precision in PRECISIONS}


def model_of(path: Path) -> Any:
    from coremltools.proto import Model_pb2

    model = Model_pb2.Model()
    model.ParseFromString((path / "Data" / "com.apple.CoreML" / "model.mlmodel").read_bytes())
    return model


def operators(path: Path) -> Counter[str]:
    (block,) = model_of(path).mlProgram.functions["main"].block_specializations.values()
    return Counter(operation.type for operation in block.operations)


def weights_of(path: Path) -> bytes:
    return (path / "Data" / "com.apple.CoreML" / "weights" / "weight.bin").read_bytes()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_an_image_goes_in_and_float_logits_come_out(artifacts: dict[str, Path], precision: str) -> None:
    description = model_of(artifacts[precision]).description
    (image,), (logits,) = description.input, description.output
    assert (image.name, logits.name) == ("image", "logits")
    assert (image.type.imageType.width, image.type.imageType.height) == (32, 32)
    assert image.type.imageType.ColorSpace.Name(image.type.imageType.colorSpace) == "RGB"
    kind = logits.type.multiArrayType
    assert list(kind.shape) == [1, 10]
    assert kind.ArrayDataType.Name(kind.dataType) == "FLOAT32"


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_day_of_the_export_is_not_in_it(artifacts: dict[str, Path], precision: str) -> None:
    """coremltools writes it, and the same export would have other bytes tomorrow."""
    described = dict(model_of(artifacts[precision]).description.metadata.userDefined)
    assert "mnv1deploy" in described
    assert not re.search(r"\d{4}-\d\d-\d\d", json.dumps(described))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_layer_is_one_operator(artifacts: dict[str, Path], precision: str) -> None:
    found = operators(artifacts[precision])
    expected = {"conv": 17, "relu": 17, "avg_pool": 1, "linear": 1}
    assert {kind: found[kind] for kind in expected} == expected
    assert found["quantize"] == found["dequantize"] == (19 if precision == "int8" else 0)
    assert found["constexpr_affine_dequantize"] == (18 if precision == "int8" else 0)


def test_int8_has_our_integers(artifacts: dict[str, Path], integers: Quantization) -> None:
    content = weights_of(artifacts["int8"])
    for weights in integers.weights.values():
        assert weights.values.tobytes() in content


def test_fp32_has_the_folded_weights(artifacts: dict[str, Path]) -> None:
    content = weights_of(artifacts["fp32"])
    for parameter in checkpoint.load(bundled.CHECKPOINT).network.folded().parameters():
        assert parameter.detach().numpy().astype(np.float32).tobytes() in content


def test_sizes_follow_the_precision(artifacts: dict[str, Path]) -> None:
    size = {precision: len(weights_of(path)) for precision, path in artifacts.items()}
    assert size["fp16"] < 0.52 * size["fp32"]
    assert size["int8"] < 0.28 * size["fp32"]


def test_the_package_says_where_it_comes_from(artifacts: dict[str, Path], tmp_path: Path) -> None:
    provenance = formats.get("coreml").provenance(artifacts["int8"])
    assert provenance is not None
    assert (provenance.spec.replace(temperature=1.0), provenance.precision) == (CIFAR, "int8")
    (tmp_path / "net.mlpackage").mkdir()
    with pytest.raises(MnvError, match="coremltools cannot read"):
        formats.get("coreml").provenance(tmp_path / "net.mlpackage")


def test_it_is_written_here_and_not_run(tmp_path: Path) -> None:
    (exported,) = exporting.export("coreml", "fp32", output=tmp_path)
    assert exported.failures == ()
    assert exported.proof is None
    assert exported.manifest.not_run == "Core ML runs on macOS and iOS only"
    assert json.loads((tmp_path / f"{exported.path.name}.json").read_text())["not_run"]
    with pytest.raises(MnvError, match="Core ML runs on macOS and iOS only"):
        formats.open_session(exported.path)
    assert formats.get("coreml").providers() == ()
