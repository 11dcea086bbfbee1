"""Checkpoints: round trips, the tutorial's state dicts, and files that must not be unpickled."""

import json
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torchvision
from tutorial import TutorialNet, trained_looking

from mnv1deploy import bundled, checkpoint
from mnv1deploy.artifact import Accuracy
from mnv1deploy.checkpoint import NORMALIZATIONS, TUTORIAL_NORMALIZATION, import_state_dict, load, save
from mnv1deploy.errors import MnvError
from mnv1deploy.network import MobileNetV1
from mnv1deploy.spec import CIFAR, CIFAR10_CLASSES, Normalization


def same(ours: MobileNetV1, theirs: TutorialNet) -> bool:
    """Whether one first, one middle and one last tensor are equal."""
    return (
        torch.equal(ours.get_parameter("stem.conv.bias"), theirs.conv1[0].bias)
        and torch.equal(ours.get_buffer("block5.pointwise.norm.running_var"), theirs.conv2_5[4].running_var)
        and torch.equal(ours.get_parameter("classifier.weight"), theirs.fc.weight)
    )


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


# The tutorial's ----------------------------------------------------------------------------------------------------


def variants(weights: dict[str, torch.Tensor]) -> dict[str, object]:
    return {
        "plain": weights,
        "state_dict": {"state_dict": weights, "epoch": 3},
        "net": {"net": weights, "acc": 88.0},
        "parallel": {f"module.{name}": tensor for name, tensor in weights.items()},
        "wrapped parallel": {"net": {f"module.{name}": tensor for name, tensor in weights.items()}},
        "old": {name: tensor for name, tensor in weights.items() if "num_batches" not in name},
    }


@pytest.mark.parametrize("variant", variants({}))
@pytest.mark.parametrize("suffix", [".pt", ".pth"])
def test_every_way_the_tutorials_save_it(variant: str, suffix: str, tmp_path: Path) -> None:
    theirs = trained_looking()
    path = tmp_path / f"weights{suffix}"
    torch.save(variants(theirs.state_dict())[variant], path)
    ours = import_state_dict(path)
    assert same(ours, theirs)
    assert ours.spec == CIFAR.replace(name="weights", normalization=TUTORIAL_NORMALIZATION)


def test_safetensors_half_precision_and_our_own_names(tmp_path: Path) -> None:
    theirs = trained_looking()
    safetensors.torch.save_file(theirs.state_dict(), tmp_path / "weights.safetensors")
    assert same(import_state_dict(tmp_path / "weights.safetensors"), theirs)
    torch.save(theirs.half().state_dict(), tmp_path / "half.pt")
    assert same(import_state_dict(tmp_path / "half.pt"), theirs.float())
    ours = load(bundled.CHECKPOINT).network
    torch.save(ours.state_dict(), tmp_path / "ours.pt")
    again = import_state_dict(tmp_path / "ours.pt", normalization=Normalization())
    assert torch.equal(again.classifier.weight, ours.classifier.weight)


def test_other_classes(tmp_path: Path) -> None:
    torch.save(trained_looking(3).state_dict(), tmp_path / "weights.pt")
    assert import_state_dict(tmp_path / "weights.pt").spec.classes == ("class 0", "class 1", "class 2")
    named = import_state_dict(tmp_path / "weights.pt", classes=("a", "b", "c"), input_size=64)
    assert named.spec.classes == ("a", "b", "c")
    assert named.spec.input_size == 64
    with pytest.raises(MnvError, match="has 3 classes, but 2 names"):
        import_state_dict(tmp_path / "weights.pt", classes=("a", "b"))


class Bomb:
    """Unpickling it would write a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, (f"open({str(self.target)!r}, 'w').close()",)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    exploded = tmp_path / "exploded"
    files = {name: tmp_path / f"{name}.pt" for name in ("module", "bomb", "raw")}
    torch.save(trained_looking(), files["module"])
    torch.save({"net": Bomb(exploded)}, files["bomb"])
    files["raw"].write_bytes(pickle.dumps(Bomb(exploded)))
    for path in files.values():
        with pytest.raises(MnvError, match="holds more than tensors") as error:
            import_state_dict(path)
        assert "torch.save(net.state_dict()" in error.value.hint
    assert not exploded.exists()


def changed(**changes: torch.Tensor | None) -> dict[str, torch.Tensor]:
    weights = {**trained_looking().state_dict(), **{name.replace("__", "."): t for name, t in changes.items()}}
    return {name: tensor for name, tensor in weights.items() if tensor is not None}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds no state dict"),
        ({}, "holds no state dict"),
        ({"net": {}}, "holds no state dict"),
        ({"epoch": 3}, "holds no state dict"),
        (torch.zeros(3), "holds no state dict"),
        ({"x": torch.zeros(1)}, "not the state dict of a MobileNetV1"),
        (torchvision.models.resnet18().state_dict(), "not the state dict of a MobileNetV1"),
        (changed(fc__weight=None), "not the state dict of a MobileNetV1"),
        (changed(fc__bias=None), "not those of the network"),
        (changed(fc__weight=torch.zeros(10, 500)), "not those of the network"),
        (changed(conv2_4__1__weight=torch.full((64,), torch.nan)), "not finite numbers"),
        ({name: t for name, t in changed().items() if "conv2_8" not in name}, "has 7 depthwise-separable blocks"),
        (changed(extra__weight=torch.zeros(3)), "not those of the network"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_contents_are_refused(content: object, message: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save(content, path)
    with pytest.raises(MnvError, match=message):
        import_state_dict(path)


def test_broken_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save(trained_looking().state_dict(), path)
    whole = path.read_bytes()
    for content in (b"", b"hello", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(MnvError):
            import_state_dict(path)
    for missing in (tmp_path, tmp_path / "none.pt"):
        with pytest.raises(MnvError, match="There is no file"):
            import_state_dict(missing)


# The normalisation -------------------------------------------------------------------------------------------------


def test_a_wrong_normalisation_shows() -> None:
    network = load(bundled.CHECKPOINT).network
    fits = checkpoint.try_normalizations(network)
    assert set(fits) == {"as given", *NORMALIZATIONS}
    assert fits["as given"] == fits["default"]
    assert fits["default"].top1 > 0.85
    assert fits["default"].top1 > max(fits[name].top1 for name in ("half", "unit"))
    other = MobileNetV1(CIFAR.replace(classes=("a", "b")))
    assert checkpoint.try_normalizations(other) == {}


def test_normalisations_by_name_or_numbers() -> None:
    assert checkpoint.normalization("default", None, None) == Normalization()
    found = checkpoint.normalization("tutorial", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    assert found == Normalization((127.5,) * 3, (63.75,) * 3)
    with pytest.raises(MnvError, match="no normalisation called none"):
        checkpoint.normalization("none", None, None)


# The command -------------------------------------------------------------------------------------------------------


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mnv1deploy.cli", "import", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "Traceback" not in done.stdout + done.stderr
    return done


def test_import_warns_of_a_wrong_normalisation_and_does_not_overwrite(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(load(bundled.CHECKPOINT).network.state_dict(), path)
    done = run(path, "--normalization", "unit")
    assert done.returncode == 0
    assert re.search(r"With --normalization (\S+ or )*default( or \S+)* it has a top-1 of about 9\d%", done.stderr)
    output = tmp_path / "weights.safetensors"
    assert load(output).spec.normalization == NORMALIZATIONS["unit"]
    again = run(path)
    assert again.returncode == 1
    assert "exists already" in again.stderr
    fine = run(path, "--output", tmp_path / "fine.safetensors", "--normalization", "default", "--json")
    assert fine.stderr == ""
    facts = json.loads(fine.stdout)
    assert facts["accuracy"][0]["top1"] > 0.85
    assert tuple(facts["spec"]["classes"]) == CIFAR10_CLASSES
    assert facts["training"] == {"imported_from": "weights.pth"}


def test_import_of_a_pickled_module_says_how_to_save_it(tmp_path: Path) -> None:
    torch.save(trained_looking(), tmp_path / "module.pt")
    done = run(tmp_path / "module.pt")
    assert done.returncode == 1
    assert "torch.save(net.state_dict(), 'weights.pt')" in done.stderr
    assert not (tmp_path / "module.safetensors").exists()
