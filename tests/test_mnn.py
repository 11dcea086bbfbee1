"""MNN: running its files with nothing else there, and what is refused."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import differences, export, export_anew

from mnv1deploy import bundled, checkpoint, datasets, formats
from mnv1deploy.artifact import Manifest, Precision, hashes, manifest_path
from mnv1deploy.errors import MnvError
from mnv1deploy.formats.base import CUDA
from mnv1deploy.formats.mnn import _CONVERT
from mnv1deploy.quantization import Quantization, parameters_of
from mnv1deploy.spec import CIFAR

pytestmark = pytest.mark.slow

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    network = checkpoint.load(bundled.CHECKPOINT).network
    folder, images = tmp_path_factory.mktemp("mnn"), datasets.calibration().images
    return {precision: export(network, "mnn", precision, folder, images) for precision in PRECISIONS}


def test_fp16_halves_the_file(artifacts: dict[str, Path]) -> None:
    assert artifacts["fp16"].stat().st_size < 0.52 * artifacts["fp32"].stat().st_size


def test_int8_has_the_grids_of_every_other_format(
    artifacts: dict[str, Path], integers: Quantization, tmp_path: Path
) -> None:
    """Read back by MNN's own converter: scale and zero point of every tensor, the weights' scales and the bias."""
    dump = tmp_path / "net.json"
    arguments = ["-f", "MNN", "--modelFile", str(artifacts["int8"]), "--JsonFile", str(dump)]
    subprocess.run([sys.executable, "-c", _CONVERT, *arguments], capture_output=True, check=True)
    content = json.loads(dump.read_text())
    network = checkpoint.load(bundled.CHECKPOINT).network.folded()
    grids = {content["tensorName"][row["index"]]: row["quantInfo"] for row in content["extraTensorDescribe"]}
    for name in network.feature_layers:
        grid = integers.activations[name]
        assert grids[name]["zero"] == grid.zero_point - 128
        assert grids[name]["scale"] == pytest.approx(grid.scale, rel=1e-4, abs=1e-6)
        (layer,) = [row["main"] for row in content["oplists"] if row["name"] == f"{name}.conv"]
        scales = integers.weights[name].scales
        np.testing.assert_allclose(layer["quanParameter"]["alpha"], scales, rtol=1e-4, atol=1e-6)
        _, bias = parameters_of(integers.network, next(x for x in network.spec.layers() if x.name == name))
        np.testing.assert_allclose(layer["bias"], bias.numpy(), rtol=1e-4, atol=1e-6)


def test_int8_gives_the_logits_of_the_onnx_artifact(artifacts: dict[str, Path], tmp_path: Path) -> None:
    """All but pooling and classifier, which stay float, are the same integers."""
    images = datasets.calibration().images
    network = checkpoint.load(bundled.CHECKPOINT).network
    expected = formats.open_session(export(network, "onnx", "int8", tmp_path, images))(images)
    found = formats.open_session(artifacts["int8"])(images)
    assert differences(found, expected).max() < 0.1
    assert artifacts["int8"].stat().st_size < 0.3 * artifacts["fp32"].stat().st_size


def test_the_converters_failure_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What MNN cannot read ends the converter's process, not ours."""
    monkeypatch.setattr("mnv1deploy.formats.mnn._CONVERT", "import os; os.abort()")
    with pytest.raises(MnvError, match="MNN's converter failed"):
        export_anew(checkpoint.load(bundled.CHECKPOINT).network, "mnn", "fp32", tmp_path, datasets.calibration().images)


def test_a_damaged_file_is_refused_with_and_without_its_manifest(artifacts: dict[str, Path], tmp_path: Path) -> None:
    content, path = artifacts["fp32"].read_bytes(), tmp_path / "net.mnn"
    path.write_bytes(content)
    with pytest.raises(MnvError, match="Copy the manifest along"):
        formats.open_session(path)
    for damaged in (content[: len(content) // 2], b"", b"nonsense" * 100):
        path.write_bytes(damaged)
        source = Manifest.read(artifacts["fp32"])
        assert source is not None
        Manifest(source.provenance, hashes(tmp_path), None).write(path)
        with pytest.raises(MnvError, match=r"MNN cannot load .*net\.mnn"):
            formats.open_session(path)
        manifest_path(path).unlink()


def test_other_providers_are_refused(artifacts: dict[str, Path]) -> None:
    with pytest.raises(MnvError, match=f"{CUDA} is not available for mnn"):
        formats.open_session(artifacts["fp32"], provider=CUDA)


def test_running_needs_no_torch_and_no_onnx_and_prints_nothing_of_its_own(artifacts: dict[str, Path]) -> None:
    script = (
        "import sys\n"
        "for module in ('torch', 'onnx', 'onnxruntime'): sys.modules[module] = None\n"
        "import json\n"
        "from mnv1deploy import classifier, datasets\n"
        "network = classifier.load(sys.argv[1], threads=1)\n"
        "print(json.dumps(network.predict(datasets.calibration().images[0]).label))\n"
    )
    done = subprocess.run([sys.executable, "-c", script, artifacts["fp32"]], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) in CIFAR.classes


def test_without_the_engine_one_sentence_names_the_extra(
    artifacts: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "MNN", None)
    assert formats.get("mnn").providers() == ()
    with pytest.raises(MnvError, match=r"needs MNN.*pip install 'mnv1deploy\[mnn\]'"):
        formats.open_session(artifacts["fp32"])
