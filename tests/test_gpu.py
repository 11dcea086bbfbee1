"""On an NVIDIA GPU: the same answers, the provider that was asked for, one sentence when memory ends, and training.

Run by ``pytest --gpu`` alone, with onnxruntime-gpu and a torch with CUDA.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mnv1deploy import bundled, datasets, exporting, formats, verification
from mnv1deploy.artifact import Precision
from mnv1deploy.errors import MnvError
from mnv1deploy.formats.base import CUDA, Session
from mnv1deploy.spec import CIFAR
from mnv1deploy.training.graph import Recorded
from mnv1deploy.training.progress import Epoch
from mnv1deploy.training.run import Run
from mnv1deploy.training.settings import Settings

pytestmark = pytest.mark.gpu

CASES: list[tuple[str, Precision]] = [
    (name, precision) for name in ("onnx", "torchscript", "aoti") for precision in ("fp32", "fp16")
]


@pytest.fixture(scope="module")
def expected() -> np.ndarray:
    return verification.logits(formats.open_session(bundled.CHECKPOINT), datasets.calibration().images)


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Session, Precision, Path]:
    name, precision = request.param
    output = tmp_path_factory.mktemp("gpu")
    (exported,) = exporting.export(name, precision, output=output, provider="cuda")
    assert not exported.failures
    return formats.open_session(exported.path, provider="cuda"), precision, exported.path


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


def test_int8_is_refused_in_one_sentence() -> None:
    with pytest.raises(MnvError, match=r"CUDA provider does not have all operators.*\.$") as caught:
        formats.open_session(bundled.INT8, provider="cuda")
    assert "fp16" in caught.value.hint


def test_a_package_for_the_card_is_not_run_on_the_cpu(opened: tuple[Session, Precision, Path]) -> None:
    if opened[2].suffix == ".pt2":
        with pytest.raises(MnvError, match="not available") as caught:
            formats.open_session(opened[2], provider="cpu")
        assert "compiled for cuda" in caught.value.hint


class _StoppedError(Exception):
    pass


def test_a_run_is_resumed_on_the_card(tmp_path: Path) -> None:
    """With the steps recorded, and the curve of a run that was not stopped, but for the order of sums."""
    settings = Settings.recipe("quick", epochs=3, batch_size=64, holdout=0.2, muon=0.05, muon_decay=0.02)
    spec = CIFAR.scaled(0.25)

    def stop(epoch: Epoch) -> None:
        if epoch.epoch == 2:
            raise _StoppedError

    whole = Run(spec, datasets.calibration(), settings, tmp_path / "whole", device="cuda")
    whole.fit()
    assert isinstance(whole._step, Recorded)
    with pytest.raises(_StoppedError):
        Run(spec, datasets.calibration(), settings, tmp_path / "parts", device="cuda").fit(on_epoch=stop)
    resumed = Run(spec, datasets.calibration(), settings, tmp_path / "parts", device="cuda", resume=True)
    resumed.fit()
    losses = [[row.train_loss for row in run.log] for run in (whole, resumed)]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)
    assert losses[0][-1] < losses[0][0]


def test_one_process_of_torchrun_trains_by_nccl(class_folders: Path, tmp_path: Path) -> None:
    options = ["--epochs", "1", "--width", "0.25", "--device", "cuda", "--data", class_folders, "--output", tmp_path]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1"]
    command += ["-m", "mnv1deploy.cli", "train", *map(str, options)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "checkpoint.safetensors").is_file()
