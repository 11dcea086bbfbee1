"""Every format in every precision: the contract, parity, determinism, and what is inside the files."""

import copy
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from artifact_hashes import NOT_REPRODUCIBLE, OWN_CODE, TABLE
from conftest import differences, export, export_anew

from mnv1deploy import bundled, checkpoint, datasets, exporting, formats, importing, verification
from mnv1deploy.artifact import Manifest, Precision, Provenance
from mnv1deploy.errors import MnvError
from mnv1deploy.formats.base import CPU, CUDA, OPENVINO, Session
from mnv1deploy.formats.onnx import OnnxSession
from mnv1deploy.formats.onnx_graph import build
from mnv1deploy.formats.onnx_layers import OPSET, model_of
from mnv1deploy.network import MobileNetV1
from mnv1deploy.packages import versions
from mnv1deploy.quantization import quantize
from mnv1deploy.spec import CIFAR, Block, Normalization, Pixels

pytestmark = pytest.mark.slow

CASES = [(name, precision) for name in formats.exportable() for precision in formats.get(name).precisions]
RUN_HERE = [(name, precision) for name, precision in CASES if not formats.get(name).elsewhere]
TUTORIAL = importing.TUTORIAL_NORMALIZATION


def files_of(path: Path) -> dict[str, dict[str, Any]]:
    """An artifact's files with their sizes and hashes."""
    manifest = Manifest.read(path)
    assert manifest is not None
    return manifest.files


@pytest.fixture(scope="module")
def network() -> MobileNetV1:
    return checkpoint.load(bundled.CHECKPOINT).network


class Artifacts(dict[tuple[str, str], Path]):
    """Of the bundled network, by format and precision; each is exported when it is first asked for."""

    def __init__(self, network: MobileNetV1, folder: Path) -> None:
        super().__init__()
        self._network, self._folder = network, folder

    def __missing__(self, case: tuple[str, Precision]) -> Path:
        self[case] = export(self._network, *case, self._folder, datasets.calibration().images)
        return self[case]


@pytest.fixture(scope="module")
def artifacts(network: MobileNetV1, tmp_path_factory: pytest.TempPathFactory) -> Artifacts:
    return Artifacts(network, tmp_path_factory.mktemp("artifacts"))


@pytest.fixture(scope="module")
def expected(network: MobileNetV1) -> np.ndarray:
    with torch.inference_mode():
        return network(torch.from_numpy(datasets.calibration().images)).numpy()


@pytest.fixture(scope="module", params=RUN_HERE, ids="-".join)
def session(request: pytest.FixtureRequest, artifacts: Artifacts) -> Session:
    """Opened once for all tests; pytest sorts them by it."""
    return formats.open_session(artifacts[request.param], threads=1)


def test_parity_with_the_checkpoint(session: Session, expected: np.ndarray, request: pytest.FixtureRequest) -> None:
    precision: Precision = request.node.callspec.params["session"][1]
    logits = verification.logits(session, datasets.calibration().images)
    limits = verification.LIMITS[precision]
    assert np.abs(logits - expected).max() <= limits.max_logit_difference
    assert differences(logits, expected).max() < 0.3
    assert (logits.argmax(1) == expected.argmax(1)).mean() >= limits.agreement


def test_the_contract(session: Session) -> None:
    images = datasets.calibration().images
    for count in (1, 2, 7):
        logits = session(images[:count])
        assert logits.shape == (count, 10)
        assert logits.dtype == np.float32
    np.testing.assert_allclose(session(images[:7])[3], session(images[3:4])[0], atol=2e-3)
    assert session.spec.replace(temperature=1.0) == CIFAR
    assert session.provider == CPU


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((1, 32, 32, 3), np.float32),
        np.zeros((1, 3, 32, 32), np.uint8),
        np.zeros((32, 32, 3), np.uint8),
        np.zeros((1, 64, 64, 3), np.uint8),
        np.zeros((0, 32, 32, 3), np.uint8),
    ],
    ids=["float", "NCHW", "one picture", "size", "none"],
)
def test_other_input_is_refused_with_the_contract(session: Session, images: np.ndarray) -> None:
    with pytest.raises(MnvError, match=r"uint8 \[N, 32, 32, 3\]"):
        session(images)


def test_runner_runs_the_same_inference(session: Session) -> None:
    images = datasets.calibration().images[:3]
    for include_copies in (False, True):
        result = session.runner(images, include_copies=include_copies)()
        logits = result[0] if isinstance(result, list) else result
        np.testing.assert_array_equal(logits, session(images))


def test_the_bundled_checkpoints_artifacts_keep_their_bytes(
    network: MobileNetV1, artifacts: Artifacts, tmp_path: Path
) -> None:
    """A change that is meant is written down by scripts/artifact_hashes.py.

    Where the table says nothing of a format, or was written with packages of other versions, a second export is
    compared with the first; but not AOTInductor's, whose bytes are the same only in the same cache.
    """
    table = json.loads(TABLE.read_text("utf-8"))
    compared = []
    for name in formats.exportable():
        row = table.get(name)
        known = row is not None and row["written_by"].items() <= versions(*row["written_by"]).items()
        compared += [name] * known
        for precision in formats.get(name).precisions:
            found = {file: facts["sha256"] for file, facts in files_of(artifacts[name, precision]).items()}
            if known:
                assert found.items() <= row["sha256"].items(), f"run scripts/artifact_hashes.py {name} if it is meant"
            elif name not in NOT_REPRODUCIBLE:
                again = export_anew(network, name, precision, tmp_path / name, datasets.calibration().images)
                assert files_of(again) == files_of(artifacts[name, precision])
    assert set(OWN_CODE) <= set(compared)
    assert not set(NOT_REPRODUCIBLE) & set(table)


def test_the_shipped_files_are_what_export_writes(artifacts: dict[tuple[str, str], Path]) -> None:
    """But for what they say of how they were made and how accurate they are."""
    shipped: dict[Precision, Path] = {"int8": bundled.INT8, "fp32": bundled.FP32}
    for precision, path in shipped.items():
        ours, exported = onnx.load(path), onnx.load(artifacts["onnx", precision])
        assert (ours.ir_version, ours.opset_import) == (exported.ir_version, exported.opset_import)
        assert ours.graph == exported.graph


def test_another_process_gives_the_same_bytes(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mnv1deploy.cli", "export", "--json", "--output", str(tmp_path / "a")]
    done = subprocess.run([*command, "--format", "onnx,torchscript"], capture_output=True)
    assert done.returncode == 0, done.stderr
    theirs = [item["files"] for item in json.loads(done.stdout)]
    assert [item.manifest.files for item in exporting.export(["onnx", "torchscript"], output=tmp_path / "b")] == theirs


@pytest.mark.parametrize(("name", "precision"), CASES)
def test_no_file_names_the_machine_that_wrote_it(artifacts: Artifacts, name: str, precision: str) -> None:
    path = artifacts[name, precision]
    contents = [(path.parent / name).read_bytes() for name in files_of(path)]
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            contents += [archive.read(member) for member in archive.namelist()]
    here = [str(Path(__file__).parents[1]), str(Path(torch.__file__).parents[1]), "site-packages", str(Path.home())]
    for content in contents:
        for place in here:
            assert place.encode() not in content


# ONNX ------------------------------------------------------------------------------------------------------------


def onnx_model(artifacts: Artifacts, precision: str) -> onnx.ModelProto:
    return onnx.load(artifacts["onnx", precision])


@pytest.mark.parametrize("precision", formats.get("onnx").precisions)
def test_onnx_interface_and_metadata(artifacts: Artifacts, precision: str) -> None:
    model = onnx_model(artifacts, precision)
    onnx.checker.check_model(model, full_check=True)
    (image,), (logits,) = model.graph.input, model.graph.output
    assert (image.name, logits.name) == ("image", "logits")
    assert image.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert logits.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert [d.dim_param or d.dim_value for d in image.type.tensor_type.shape.dim] == ["batch", 32, 32, 3]
    assert [entry.key for entry in model.metadata_props] == ["mnv1deploy", "ort_config"]
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
    assert all(node.domain == "" for node in model.graph.node), "standard operators only"
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}
    layers = {layer.name for layer in CIFAR.layers()}
    assert layers <= {node.name for node in model.graph.node}


@pytest.mark.parametrize("precision", formats.get("onnx").precisions)
def test_onnx_says_no_later_version_than_old_onnxruntimes_know(artifacts: Artifacts, precision: str) -> None:
    """onnxruntime 1.14 to 1.17 refuse IR version 10, which torch.onnx writes."""
    model = onnx_model(artifacts, precision)
    assert model.ir_version == 8
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", OPSET)]


@pytest.mark.parametrize("trained", [True, False])
def test_onnx_is_what_torch_and_onnxsim_make_of_the_network(trained: bool) -> None:
    """The same operators in the same order with the same attributes and weights, written by two others."""
    import onnxsim

    grey = CIFAR.replace(
        colours=1,
        input_size=25,
        activation="relu6",
        padding="same",
        blocks=(Block(8, 2), Block(12, 1)),
        normalization=Normalization((0.5,), (0.25,)),
    )
    network = (checkpoint.load(bundled.CHECKPOINT).network if trained else MobileNetV1(grey)).eval().folded()
    program = torch.onnx.export(
        network,
        (torch.zeros(2, *network.spec.pixels.shape, dtype=torch.uint8),),
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        opset_version=OPSET,
        verbose=False,
    )
    assert program
    theirs, _ = onnxsim.simplify(program.model_proto)
    ours = model_of(network, half=False)

    def written(model: onnx.ModelProto) -> list[tuple[str, dict[str, Any], list[bytes]]]:
        weights = {tensor.name: onnx.numpy_helper.to_array(tensor).tobytes() for tensor in model.graph.initializer}
        return [
            (
                node.op_type,
                {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute},
                [weights[name] for name in node.input if name in weights],
            )
            for node in model.graph.node
        ]

    assert written(ours) == written(theirs)


def test_onnx_int8_has_no_float_island(artifacts: Artifacts) -> None:
    """Raw pixels go to the stem through Transpose and DequantizeLinear(1/64, 128), and every weight is int8."""
    model = onnx_model(artifacts, "int8")
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("Conv") == 17
    assert not {"Cast", "Sub", "Div", "Relu"} & set(kinds)
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    producers = {name: node for node in model.graph.node for name in node.output}
    stem = next(node for node in model.graph.node if node.name == "stem")
    pixels = producers[stem.input[0]]
    assert pixels.op_type == "DequantizeLinear"
    assert constants[pixels.input[1]] == np.float32(1 / 64)
    assert constants[pixels.input[2]] == 128
    assert producers[pixels.input[0]].op_type == "Transpose"
    assert producers[pixels.input[0]].input[0] == "image"
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm"):
            weight = producers[node.input[1]]
            assert constants[weight.input[0]].dtype == np.int8
            assert constants[weight.input[1]].shape == (constants[weight.input[0]].shape[0],), "per channel"
    big_floats = [c for c in constants.values() if c.dtype == np.float32 and c.size > 512]
    assert not big_floats


def test_onnxruntime_fuses_every_layer_to_integers(artifacts: Artifacts, tmp_path: Path) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(str(artifacts["onnx", "int8"]), options, providers=[CPU])
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert kinds.count("QLinearConv") == 17
    assert kinds.count("Transpose") == 1, "after the pooling: pixels in, channels last to the end"
    assert not {"Conv", "Gemm", "QuantizeLinear", "DequantizeLinear"} & set(kinds)


@pytest.mark.parametrize(
    ("stride", "size", "padding"),
    [(1, 32, "symmetric"), (2, 32, "symmetric"), (2, 34, "symmetric"), (2, 32, "same"), (1, 33, "same")],
    ids=str,
)
def test_pairing_the_stems_pixels_changes_no_integer(stride: int, size: int, padding: str, tmp_path: Path) -> None:
    """34 pixels make 17, which are left alone, as 33 are."""
    torch.manual_seed(1)
    spec = CIFAR.replace(input_size=size, stem=Block(8, stride), blocks=(Block(16, 1),), padding=padding)
    images = datasets.resized(datasets.calibration(), Pixels(size)).images[:40]
    integers = quantize(MobileNetV1(spec).eval().folded(), images, "test")
    provenance = Provenance("onnx", "int8", spec, "0" * 64, (), integers.facts, {})
    logits = []
    for two_pixels in (False, True):
        path = tmp_path / f"{two_pixels}.onnx"
        model = build(copy.deepcopy(integers.network), provenance, integers, two_pixels=two_pixels)
        onnx.save(model, path)
        logits.append(formats.open_session(path)(images))
        parted = [node.name for node in model.graph.node if node.name == "stem.parted"]
        assert bool(parted) == (two_pixels and size == 32)
    np.testing.assert_array_equal(*logits)
    assert np.ptp(logits[0], 0).min() > 0, "not all alike"


def test_the_session_options_in_the_file_are_used(artifacts: Artifacts, tmp_path: Path) -> None:
    """Without optimizations, which only the file asks for, nothing is fused."""
    model = onnx.load(artifacts["onnx", "int8"])
    entry = model.metadata_props[1]
    images = datasets.calibration().images[:1]
    kinds = {operator.kind for operator in OnnxSession(artifacts["onnx", "int8"], CPU, 1).profile(images, 2)}
    assert "DequantizeLinear" not in kinds
    entry.value = entry.value.replace('"graph_optimization_level": 99', '"graph_optimization_level": 0')
    onnx.save(model, tmp_path / "plain.onnx")
    kinds = {operator.kind for operator in OnnxSession(tmp_path / "plain.onnx", CPU, 1).profile(images, 2)}
    assert "DequantizeLinear" in kinds
    entry.value = entry.value.replace('"graph_optimization_level": 0', '"graph_optimization_level": -1')
    onnx.save(model, tmp_path / "unknown.onnx")
    with pytest.raises(MnvError, match="onnxruntime cannot run"):
        OnnxSession(tmp_path / "unknown.onnx", CPU, 1)
    for nonsense in ("[1]", "}", '{"session_options": {"execution_mode": "fast"}}'):
        entry.value = nonsense
        onnx.save(model, tmp_path / "nonsense.onnx")
        with pytest.raises(MnvError, match="session options in the file"):
            OnnxSession(tmp_path / "nonsense.onnx", CPU, 1)


def test_onnx_runs_without_mnv1deploy_and_without_torch(artifacts: Artifacts) -> None:
    script = (
        "import sys, numpy as np, onnxruntime as ort\n"
        "session = ort.InferenceSession(sys.argv[1], providers=['CPUExecutionProvider'])\n"
        "logits, = session.run(None, {'image': np.zeros((5, 32, 32, 3), np.uint8)})\n"
        "assert logits.shape == (5, 10)\n"
        "assert 'torch' not in sys.modules and 'mnv1deploy' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script, artifacts["onnx", "int8"]], check=True)


def test_other_normalisations(network: MobileNetV1, tmp_path: Path) -> None:
    """The same weights see other inputs; the artifacts must follow the checkpoint all the same.

    Those that every other one is made from, or whose integers are their own; test_any_spec.py has all formats.
    """
    other = MobileNetV1(CIFAR.replace(normalization=importing.TUTORIAL_NORMALIZATION)).eval()
    other.load_state_dict(network.state_dict())
    images = datasets.calibration().images
    seen = images[:200]
    with torch.inference_mode():
        expected = other(torch.from_numpy(seen)).numpy()
    for name, precision in (case for case in RUN_HERE if case[0] in ("onnx", "torchscript", "c")):
        logits = formats.open_session(export(other, name, precision, tmp_path, images))(seen)
        if precision == "fp32":
            np.testing.assert_allclose(logits, expected, atol=1e-4)
        assert (logits.argmax(1) == expected.argmax(1)).mean() > {"fp32": 0.999, "fp16": 0.99, "int8": 0.95}[precision]


# TorchScript -----------------------------------------------------------------------------------------------------


def test_torchscript_runs_where_there_is_only_torch(artifacts: Artifacts) -> None:
    script = (
        "import sys, torch\n"
        "for file in sys.argv[1:]:\n"
        "    logits = torch.jit.load(file)(torch.zeros(5, 32, 32, 3, dtype=torch.uint8))\n"
        "    assert logits.shape == (5, 10) and logits.dtype == torch.float32\n"
        "assert not {'mnv1deploy', 'onnx', 'torchvision'} & set(sys.modules)\n"
    )
    files = [artifacts["torchscript", precision] for precision in formats.get("torchscript").precisions]
    subprocess.run([sys.executable, "-W", "ignore", "-c", script, *files], check=True)


def test_torchscript_keeps_float32_as_it_is_on_gpus(artifacts: Artifacts) -> None:
    """Whether a traced convolution may round to TF32 is a constant in the file: True unless told otherwise."""
    with pytest.warns(FutureWarning, match="deprecated"):
        module = torch.jit.load(artifacts["torchscript", "fp32"])
    convolutions = module.graph.findAllNodes("aten::_convolution")
    assert len(convolutions) == 17
    assert not any(list(node.inputs())[-1].toIValue() for node in convolutions)


def test_torchscript_int8_has_int8_weights(artifacts: Artifacts) -> None:
    sizes = {p: artifacts["torchscript", p].stat().st_size for p in ("fp32", "fp16", "int8")}
    assert sizes["int8"] < 0.35 * sizes["fp32"]
    assert sizes["fp16"] < 0.55 * sizes["fp32"]


def test_a_state_dict_is_no_torchscript_artifact(tmp_path: Path, network: MobileNetV1) -> None:
    path = tmp_path / "weights.pt"
    torch.save(network.state_dict(), path)
    with pytest.raises(MnvError, match="mnv1 import"):
        formats.open_session(path)


# Providers and files ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pytorch", *dict(RUN_HERE)])
def test_a_provider_is_used_or_refused(name: str, artifacts: Artifacts) -> None:
    path = bundled.CHECKPOINT if name == "pytorch" else artifacts[name, formats.get(name).precisions[0]]
    available = formats.get(name).providers()
    assert available[0] == CPU
    for provider in (CPU, CUDA, OPENVINO, "NoSuchProvider"):
        if provider in available:
            session = formats.open_session(path, provider=provider)
            assert session.provider == provider
            if provider != CPU:
                images = datasets.sample().images[:50]
                cpu = formats.open_session(path)(images)
                assert (session(images).argmax(1) == cpu.argmax(1)).mean() >= 0.98
        else:
            with pytest.raises(MnvError, match=f"{provider} is not available.*{CPU}"):
                formats.open_session(path, provider=provider)


def test_refusing_a_provider_names_the_package_that_brings_it() -> None:
    for provider, package in formats.missing_providers(formats.get("onnx").providers()).items():
        with pytest.raises(MnvError) as refusal:
            formats.open_session(bundled.INT8, provider=provider)
        assert package in refusal.value.hint or "finds no device" in refusal.value.hint


def test_provider_aliases() -> None:
    assert formats.open_session(bundled.INT8, provider="cpu").provider == CPU
    with pytest.raises(MnvError, match="CUDAExecutionProvider is not available"):
        formats.open_session(bundled.INT8, provider="CUDA") if CUDA not in formats.get("onnx").providers() else (
            formats.open_session(bundled.INT8, provider="no-such")
        )


def test_a_provider_that_onnxruntime_cannot_start_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxruntime itself would fall back to the CPU with no more than a warning."""
    import onnxruntime

    from mnv1deploy.formats import onnx as module

    class Fallen:
        def __init__(self, *args: object, **kwargs: object) -> None:
            pass

        def get_providers(self) -> list[str]:
            return [CPU]

    monkeypatch.setattr(module, "_built_in", lambda: [CUDA, CPU])
    monkeypatch.setattr(onnxruntime, "InferenceSession", Fallen)
    with pytest.raises(MnvError, match=f"could not start {CUDA}"):
        formats.open_session(bundled.INT8, provider=CUDA)


def test_files_that_are_no_artifacts(tmp_path: Path) -> None:
    with pytest.raises(MnvError, match="There is no file"):
        formats.open_session(tmp_path / "none.onnx")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(MnvError, match="of no known format"):
        formats.open_session(tmp_path / "notes.txt")
    with pytest.raises(MnvError, match="is a folder, and no artifact"):
        formats.open_session(tmp_path)
    for suffix in (formats.get(name).suffix for name in formats.NAMES):
        for content in (b"", b"nonsense" * 100):
            path = tmp_path / f"broken{suffix}"
            path.write_bytes(content)
            with pytest.raises(MnvError, match=re.escape(str(path))):
                formats.open_session(path)


def test_an_onnx_model_of_somebody_else_is_refused(tmp_path: Path) -> None:
    model = onnx.load(bundled.FP32)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(MnvError, match="carries no spec"):
        formats.open_session(tmp_path / "other.onnx")


def test_a_truncated_artifact_is_refused(tmp_path: Path, artifacts: Artifacts) -> None:
    for case in RUN_HERE:
        path = artifacts[case]
        files = files_of(path)
        for name in files:
            copied = tmp_path / name
            copied.parent.mkdir(parents=True, exist_ok=True)
            copied.write_bytes((path.parent / name).read_bytes())
        largest = tmp_path / max(files, key=lambda name: files[name]["bytes"])
        largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
        with pytest.raises(MnvError):
            formats.open_session(tmp_path / path.name)


def test_the_checkpoint_is_not_exported_to() -> None:
    assert "pytorch" not in formats.exportable()
    with pytest.raises(MnvError, match="no format called"):
        formats.get("caffe")


# What people call them ---------------------------------------------------------------------------------------------


def test_the_registry_knows_every_suffix() -> None:
    """Without loading a module, so that finding a file's format loads one."""
    assert {name: suffix for name, (_, suffix) in formats._FORMATS.items()} == {
        name: formats.get(name).suffix for name in formats.NAMES
    }


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        *((name.upper(), name) for name in formats.exportable()),
        *((formats.get(name).suffix, name) for name in formats.exportable()),
        *(
            ("tflite", "litert"),
            ("TF-Lite", "litert"),
            ("pt", "torchscript"),
            ("pte", "executorch"),
            ("trt", "tensorrt"),
        ),
        *(("mlpackage", "coreml"), ("xml", "openvino"), ("pt2", "aoti"), ("Core-ML", "coreml"), ("all", "all")),
    ],
)
def test_a_format_is_understood_by_name_and_by_suffix(spelling: str, name: str) -> None:
    assert formats.named(spelling) == name


def test_a_format_or_precision_that_is_none_is_refused_with_those_there_are() -> None:
    with pytest.raises(MnvError, match=r"no format called caffe\. There are onnx"):
        formats.named("caffe")
    with pytest.raises(MnvError, match="no precision called int4"):
        formats.precision("int4")
    assert [formats.precision(text) for text in ("none", "FP32", "float16", "Int8")] == ["fp32", "fp32", "fp16", "int8"]
