"""TensorFlow Lite Micro: the arena, and that the file is LiteRT's."""

from pathlib import Path

import numpy as np
import pytest
from commands import every_format, succeed
from conftest import differences, export, run_silently
from tflite_micro.python.tflite_micro import runtime

import mnv1deploy as mnv1
from mnv1deploy import bundled, checkpoint, datasets, formats
from mnv1deploy.errors import MnvError
from mnv1deploy.formats.litert import read_provenance
from mnv1deploy.formats.tflm import ARENA
from mnv1deploy.packages import silenced

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    network, images = checkpoint.load(bundled.CHECKPOINT).network, datasets.calibration().images
    return export(network, "tflm", "int8", tmp_path_factory.mktemp("tflm"), images)


def arena(path: Path) -> int:
    quantization = read_provenance(path).quantization
    assert quantization is not None
    return int(quantization[ARENA])


def test_the_arena_is_just_large_enough(file: Path) -> None:
    pixels = datasets.calibration().images[:1]
    interpreter = runtime.Interpreter.from_file(str(file), arena_size=arena(file))
    interpreter.set_input(pixels, 0)
    interpreter.invoke()
    np.testing.assert_array_equal(interpreter.get_output(0), formats.open_session(file)(pixels))
    with silenced(), pytest.raises(RuntimeError, match="allocate"):
        runtime.Interpreter.from_file(str(file), arena_size=arena(file) - 64)
    assert 2 * 32 * 32 * 32 < arena(file) < 128 * 1024


def test_it_computes_what_litert_computes(file: Path, tmp_path: Path) -> None:
    from ai_edge_litert.interpreter import Interpreter

    images = datasets.calibration().images[:40]
    interpreter = Interpreter(str(file))
    logits = np.concatenate([interpreter.get_signature_runner()(image=image[None])["logits"] for image in images])
    # where XNNPACK rescales sums in float, Micro does in fixed point: now and then one step of a grid apart
    assert differences(formats.open_session(file)(images), logits).max() < 0.108


def test_the_suffix_tells_the_two_apart(file: Path) -> None:
    assert formats.of_file(file).name == "tflm"


def test_other_precisions_are_refused_by_name(tmp_path: Path) -> None:
    for precision in ("fp32", "fp16"):
        with pytest.raises(MnvError, match=f"tflm cannot be exported in {precision}"):
            list(mnv1.export("tflm", precision, output=tmp_path))  # type: ignore[arg-type]


def test_the_user_sees_the_arena() -> None:
    (exported,) = (every_format() / "artifacts").glob("*.tflm.tflite")
    assert f"arena_bytes {arena(exported)}" in succeed("info", exported).replace("\n", " ")


def test_opening_needs_neither_torch_nor_litert(file: Path) -> None:
    script = (
        "import sys\n"
        "for name in ('torch', 'onnx', 'onnxruntime', 'ai_edge_litert'):\n"
        "    sys.modules[name] = None\n"
        "import numpy as np\n"
        "from mnv1deploy import formats\n"
        "assert formats.open_session(sys.argv[1])(np.zeros((2, 32, 32, 3), np.uint8)).shape == (2, 10)\n"
    )
    run_silently(script, file)
