"""Checkpoints: round trips, and files that are none."""

import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch

from mnv1deploy import bundled
from mnv1deploy.artifact import Accuracy
from mnv1deploy.checkpoint import load, save
from mnv1deploy.errors import MnvError
from mnv1deploy.network import MobileNetV1
from mnv1deploy.spec import CIFAR, Normalization

# Our own -----------------------------------------------------------------------------------------------------------


def test_round_trip(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = MobileNetV1(CIFAR.scaled(0.5).replace(input_size=48, normalization=Normalization((1.0, 2.0, 3.0))))
    accuracy = (Accuracy(0.5, 100, "a test"),)
    path = tmp_path / "net.safetensors"
    save(path, network, training={"epochs": 3}, accuracy=accuracy)
    found = load(path)
    assert found.spec == network.spec
    assert found.training == {"epochs": 3}
    assert found.accuracy == accuracy
    assert not found.network.training
    for name, tensor in network.state_dict().items():
        assert torch.equal(found.network.state_dict()[name], tensor)
    save(tmp_path / "again.safetensors", found.network, training={"epochs": 3}, accuracy=accuracy)
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def test_nothing_half_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MnvError, match="Cannot write"):
        save(tmp_path / "file" / "net.safetensors", MobileNetV1(CIFAR), training={})
    with pytest.raises(TypeError):
        save(tmp_path / "net.safetensors", MobileNetV1(CIFAR), training={"not JSON": object()})
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_a_checkpoint_knows_is_read_without_torch() -> None:
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from mnv1deploy.artifact import read_checkpoint_metadata\n"
        "facts = read_checkpoint_metadata(Path(sys.argv[1]))\n"
        "assert facts['spec']['input_size'] == 32 and facts['training'] and facts['accuracy']\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script, bundled.CHECKPOINT], check=True)


def test_files_that_are_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(MnvError, match="There is no checkpoint"):
        load(tmp_path / "none.safetensors")
    broken = tmp_path / "broken.safetensors"
    for content in (b"", b"text", bundled.CHECKPOINT.read_bytes()[:5000]):
        broken.write_bytes(content)
        with pytest.raises(MnvError, match="is no safetensors file, or is damaged"):
            load(broken)
    safetensors.torch.save_file({"x": torch.zeros(1)}, broken)
    with pytest.raises(MnvError, match="was not written by mnv1deploy") as error:
        load(broken)
    assert "mnv1 import" in error.value.hint


def test_weights_that_are_another_networks(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    save(path, MobileNetV1(CIFAR), training={})
    with safetensors.safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    tensors = safetensors.torch.load_file(path)
    del tensors["classifier.bias"]
    safetensors.torch.save_file(tensors, path, metadata)
    with pytest.raises(MnvError, match="not those of the network"):
        load(path)
