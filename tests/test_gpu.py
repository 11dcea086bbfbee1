"""On an NVIDIA GPU: the same answers, the provider that was asked for, and one sentence when memory ends.

Run by ``pytest --gpu`` alone, with onnxruntime-gpu and a torch with CUDA.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import export

from mnv1deploy import bundled, checkpoint, datasets, formats, verification
from mnv1deploy.artifact import Precision
from mnv1deploy.errors import MnvError
from mnv1deploy.formats.base import CUDA, Session

pytestmark = pytest.mark.gpu

CASES = [("onnx", "fp32"), ("onnx", "fp16"), ("onnx", "int8"), ("torchscript", "fp32"), ("torchscript", "fp16")]


@pytest.fixture(scope="module")
def expected() -> np.ndarray:
    return verification.logits(formats.open_session(bundled.CHECKPOINT), datasets.calibration().images)


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Session, Precision, Path]:
    name, precision = request.param
    network = checkpoint.load(bundled.CHECKPOINT).network
    path = export(network, name, precision, tmp_path_factory.mktemp("gpu"), datasets.calibration().images)
    return formats.open_session(path, provider="cuda"), precision, path


def test_parity_on_the_card(opened: tuple[Session, Precision, Path], expected: np.ndarray) -> None:
    session, precision, _ = opened
    found = verification.logits(session, datasets.calibration().images)
    limits = verification.LIMITS[precision]
    assert np.abs(found - expected).max() <= limits.max_logit_difference
    assert (found.argmax(1) == expected.argmax(1)).mean() >= limits.agreement


def test_the_provider_is_the_one_that_was_asked_for(opened: tuple[Session, Precision, Path]) -> None:
    assert opened[0].provider == CUDA


@pytest.mark.parametrize("include_copies", [False, True])
def test_a_timed_call_computes(opened: tuple[Session, Precision, Path], include_copies: bool) -> None:
    """With its input and output bound on the card, too."""
    images = datasets.calibration().images[:64]
    run = opened[0].runner(images, include_copies=include_copies)
    for _ in range(3):
        run()
    assert opened[0](images).shape == (64, 10)


def test_the_end_of_the_memory_is_one_sentence(opened: tuple[Session, Precision, Path]) -> None:
    images = np.broadcast_to(datasets.calibration().images[:1], (2_000_000, 32, 32, 3))
    with pytest.raises(MnvError) as caught:
        opened[0](np.ascontiguousarray(images))
    assert len(caught.value.message.splitlines()) == 1


def test_a_second_process_shares_the_card(opened: tuple[Session, Precision, Path], expected: np.ndarray) -> None:
    script = (
        "import sys, numpy as np\n"
        "from mnv1deploy import datasets, formats\n"
        "session = formats.open_session(sys.argv[1], provider='cuda')\n"
        "print(session(datasets.calibration().images).argmax(1).tolist())\n"
    )
    command = [sys.executable, "-c", script, str(opened[2])]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    mine = opened[0](datasets.calibration().images).argmax(1).tolist()
    assert done.stdout.strip().splitlines()[-1] == str(mine)
