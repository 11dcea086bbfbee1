"""What is inside an ExecuTorch program, and how its session behaves."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import differences, export, run_silently

from mnv1deploy import bundled, checkpoint, datasets, formats, verification
from mnv1deploy.formats.executorch import MAX_BATCH
from mnv1deploy.quantization import Quantization
from mnv1deploy.spec import CIFAR

pytestmark = pytest.mark.slow

PRECISIONS = formats.get("executorch").precisions


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    network, images = checkpoint.load(bundled.CHECKPOINT).network, datasets.calibration().images
    folder = tmp_path_factory.mktemp("executorch")
    return {precision: export(network, "executorch", precision, folder, images) for precision in PRECISIONS}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_one_delegate_has_the_network(files: dict[str, Path], precision: str) -> None:
    from executorch.exir._serialize._program import deserialize_pte_binary

    program = deserialize_pte_binary(files[precision].read_bytes()).program
    plan = next(plan for plan in program.execution_plan if plan.name == "forward")
    assert [delegate.id for delegate in plan.delegates] == ["XnnpackBackend"]
    names = {operator.name for operator in plan.operators}
    assert names <= {"dim_order_ops::_to_dim_order_copy", "aten::view_copy", "aten::sym_size"}


def test_int8_computes_what_the_integers_say(files: dict[str, Path], integers: Quantization) -> None:
    images = datasets.calibration().images
    with torch.inference_mode():
        expected = integers.simulated()(torch.from_numpy(images)).numpy()
    logits = verification.logits(formats.open_session(files["int8"]), images)
    assert differences(logits, expected).max() < 0.054
    assert (logits.argmax(1) == expected.argmax(1)).mean() >= 0.998


def test_int8_has_int8_weights(files: dict[str, Path]) -> None:
    assert files["int8"].stat().st_size < 0.35 * files["fp32"].stat().st_size


def test_any_number_of_pictures(files: dict[str, Path]) -> None:
    session, images = formats.open_session(files["fp32"], threads=1), datasets.calibration().images[:40]
    whole = session(images)
    for count in (1, MAX_BATCH - 1, MAX_BATCH, MAX_BATCH + 1, 1, 40):
        np.testing.assert_allclose(session(images[:count]), whole[:count], atol=1e-5)


def test_the_file_says_what_it_is(files: dict[str, Path]) -> None:
    provenance = formats.get("executorch").provenance(files["int8"])
    assert provenance is not None
    spec = provenance.spec.replace(temperature=1.0)
    assert (provenance.format, provenance.precision, spec) == ("executorch", "int8", CIFAR)


def test_opening_is_silent_and_sets_the_threads(files: dict[str, Path]) -> None:
    script = (
        "import sys, numpy as np\n"
        "from mnv1deploy import formats\n"
        "session = formats.open_session(sys.argv[1], threads=1)\n"
        "assert session(np.zeros((5, 32, 32, 3), np.uint8)).shape == (5, 10)\n"
        "from executorch.extension.pybindings import portable_lib\n"
        "assert portable_lib._threadpool_get_thread_count() == 1\n"
        "assert not {'onnx', 'onnxruntime', 'mnv1deploy.network'} & set(sys.modules)\n"
    )
    run_silently(script, files["int8"])
