"""State dicts that come in: every wrapping, naming and order, and files that must not be unpickled."""

import argparse
import json
import pickle
import re
import subprocess
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from commands import mnv1
from tutorial import TutorialNet, trained_looking

from mnv1deploy import bundled, datasets, importing
from mnv1deploy.checkpoint import load
from mnv1deploy.errors import MnvError
from mnv1deploy.importing import (
    NORMALIZATIONS,
    TUTORIAL_NORMALIZATION,
    Options,
    checks,
    import_file,
    import_state_dict,
    labels,
    pytorch,
)
from mnv1deploy.network import MobileNetV1
from mnv1deploy.spec import CIFAR, CIFAR10_CLASSES, Normalization


def same(ours: MobileNetV1, theirs: TutorialNet) -> bool:
    """Whether one first, one middle and one last tensor are equal."""
    return (
        torch.equal(ours.get_parameter("stem.conv.bias"), theirs.conv1[0].bias)
        and torch.equal(ours.get_buffer("block5.pointwise.norm.running_var"), theirs.conv2_5[4].running_var)
        and torch.equal(ours.get_parameter("classifier.weight"), theirs.fc.weight)
    )


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


def test_what_lies_beside_the_weights_is_left_out_and_said(tmp_path: Path) -> None:
    theirs = trained_looking()
    path = tmp_path / "weights.pth"
    beside = {
        "best": np.float64(92.4),
        "history": np.array([1.0, 2.0]),
        "args": argparse.Namespace(lr=0.1),
        "folder": Path("runs"),
        "optimizer": {"state": {0: {"momentum_buffer": torch.zeros(32, 3, 3, 3)}}, "param_groups": []},
    }
    torch.save({"run": {"net": theirs.state_dict()}, **beside}, path)
    for legacy in (False, True):
        if legacy:
            torch.save({"net": theirs.state_dict(), **beside}, path, _use_new_zipfile_serialization=False)
        tensors = pytorch.read(path)
        assert "argparse.Namespace" in " ".join(tensors.notes)
        assert same(import_state_dict(path), theirs)


@pytest.mark.parametrize(
    "prefix", ["_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model.", "net.", "backbone."]
)
def test_prefixes_do_not_matter(prefix: str, tmp_path: Path) -> None:
    theirs = trained_looking()
    torch.save({prefix + name: tensor for name, tensor in theirs.state_dict().items()}, tmp_path / "weights.ckpt")
    assert same(import_state_dict(tmp_path / "weights.ckpt"), theirs)


def test_buffers_of_profilers_averages_and_losses_are_no_part_of_the_network(tmp_path: Path) -> None:
    theirs = trained_looking()
    weights = {"n_averaged": torch.tensor(5), "criterion.weight": torch.ones(10), **theirs.state_dict()}
    weights |= {"conv1.0.total_ops": torch.zeros(1), "total_params": torch.zeros(1)}
    torch.save(weights, tmp_path / "weights.pt")
    assert same(import_state_dict(tmp_path / "weights.pt"), theirs)


def test_pruned_weights_are_multiplied_by_their_masks(tmp_path: Path) -> None:
    theirs = trained_looking()
    mask = (torch.rand_like(theirs.fc.weight) > 0.5).float()
    weights = {**theirs.state_dict(), "fc.weight_orig": theirs.fc.weight.data, "fc.weight_mask": mask}
    del weights["fc.weight"]
    torch.save(weights, tmp_path / "weights.pt")
    assert torch.equal(import_state_dict(tmp_path / "weights.pt").classifier.weight, theirs.fc.weight * mask)


@pytest.mark.parametrize("names", [("model", "model_ema"), ("state_dict", "state_dict_ema"), ("net", "ema_net")])
def test_of_two_sets_of_weights_it_is_asked_which(names: tuple[str, str], tmp_path: Path) -> None:
    theirs, other = trained_looking(), TutorialNet().state_dict()
    path = tmp_path / "weights.pt"
    torch.save({names[0]: other, names[1]: theirs.state_dict()}, path)
    with pytest.raises(MnvError, match="holds 2 sets of weights") as error:
        import_state_dict(path)
    assert f"--weights {names[1]}" in error.value.hint
    tensors = pytorch.read(path, names[1])
    assert np.array_equal(tensors.arrays["fc.weight"], theirs.fc.weight.detach().numpy())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<!DOCTYPE html><html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "is a Git LFS pointer"),
        (b"", "is empty"),
        (b"\x1f\x8b\x08\x00", "is a compressed archive"),
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".onnx", ".tflite", ".h5"])
def test_what_is_saved_under_a_networks_name_and_is_none(
    content: bytes, message: str, suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(MnvError, match=message):
        import_state_dict(path)


def test_a_torchscript_archive_is_called_one(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(torch.nn.Conv2d(3, 8, 3)), tmp_path / "net.pt")
    with pytest.raises(MnvError, match="is a TorchScript archive"):
        import_state_dict(tmp_path / "net.pt")


@pytest.mark.slow
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


def every_container(weights: dict[str, torch.Tensor]) -> dict[str, object]:
    adam = {"state": {0: {"exp_avg": torch.zeros(32, 3, 3, 3)}}, "param_groups": []}
    return {
        "a list": [weights, 3],
        "beside an optimizer without a name": (weights, adam),
        "names and tensors": list(weights.items()),
        "a number for a name": {0: weights},
        "bytes for a name": {b"net": weights},
        "the same twice": {"model": weights, "state_dict": dict(weights)},
        "at depth": {"a": [{"b": {"c": weights}}]},
    }


@pytest.mark.parametrize("container", every_container({}))
def test_weights_in_any_container(container: str, tmp_path: Path) -> None:
    theirs = trained_looking()
    torch.save(every_container(theirs.state_dict())[container], tmp_path / "weights.pt")
    assert same(import_state_dict(tmp_path / "weights.pt"), theirs)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_of_two_networks_in_one_state_dict_it_is_asked_which(prefix: str, tmp_path: Path) -> None:
    theirs, other = trained_looking(), TutorialNet().state_dict()
    both = {f"{prefix}student.{name}": tensor for name, tensor in other.items()}
    both |= {f"{prefix}teacher.{name}": tensor for name, tensor in theirs.state_dict().items()}
    torch.save({"state_dict": both}, tmp_path / "weights.pt")
    with pytest.raises(MnvError, match="holds 2 sets of weights"):
        import_state_dict(tmp_path / "weights.pt")
    tensors = pytorch.read(tmp_path / "weights.pt", f"state_dict.{prefix}teacher")
    assert np.array_equal(tensors.arrays["fc.weight"], theirs.fc.weight.detach().numpy())


@pytest.mark.parametrize(("own", "name"), [("", "the rest"), ("model.", "model"), ("module.net.", "module.net")])
def test_an_average_may_have_another_prefix_than_the_weights(own: str, name: str, tmp_path: Path) -> None:
    theirs = trained_looking()
    both = {f"{own}{name}": tensor for name, tensor in theirs.state_dict().items()}
    both |= {f"ema_model.module.{name}": tensor for name, tensor in TutorialNet().state_dict().items()}
    torch.save(both, tmp_path / "weights.pt")
    with pytest.raises(MnvError, match=f"2 sets of weights: {name}, ema_model.module"):
        import_state_dict(tmp_path / "weights.pt")
    tensors = pytorch.read(tmp_path / "weights.pt", name)
    assert np.array_equal(tensors.arrays["fc.weight"], theirs.fc.weight.detach().numpy())


def test_weights_in_several_files_come_in_by_what_lists_them(tmp_path: Path) -> None:
    theirs = trained_looking()
    weights = list(theirs.state_dict().items())
    files = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    rows = dict(zip(files, (dict(weights[::2]), dict(weights[1::2])), strict=True))
    for file, part in rows.items():
        safetensors.torch.save_file(part, tmp_path / file)
    listed = {name: file for file, part in rows.items() for name in part}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": listed}))
    assert same(import_state_dict(index), theirs)
    with pytest.raises(MnvError, match="one of 2 parts") as found:
        import_state_dict(tmp_path / files[0])
    assert index.name in found.value.hint
    with pytest.raises(MnvError, match="is a folder") as found:
        import_state_dict(tmp_path)
    assert index.name in found.value.hint
    index.write_text(json.dumps({"weight_map": {**listed, "other.weight": files[0]}}))
    with pytest.raises(MnvError, match=r"other\.weight.*is in none"):
        import_state_dict(index)
    (tmp_path / files[1]).unlink()
    with pytest.raises(MnvError, match="is not beside it"):
        import_state_dict(index)
    index.write_text("[]")
    with pytest.raises(MnvError, match="is no list"):
        import_state_dict(index)


def test_names_without_dots(tmp_path: Path) -> None:
    theirs = trained_looking()
    weights = {name.replace(".", "_"): tensor for name, tensor in theirs.state_dict().items()}
    assert any(name.endswith("_num_batches_tracked") for name in weights)
    torch.save(weights, tmp_path / "weights.pt")
    assert same(import_state_dict(tmp_path / "weights.pt"), theirs)


def test_parametrised_weight_normalisation_is_multiplied_out(tmp_path: Path) -> None:
    theirs = trained_looking()
    torch.nn.utils.parametrizations.weight_norm(theirs.fc, dim=0)
    torch.save(theirs.state_dict(), tmp_path / "weights.pt")
    ours = import_state_dict(tmp_path / "weights.pt")
    torch.testing.assert_close(ours.classifier.weight.data, theirs.fc.weight.data)


def test_parametrisations_that_are_not_in_the_file_are_refused(tmp_path: Path) -> None:
    theirs = trained_looking()
    torch.nn.utils.parametrize.register_parametrization(theirs.fc, "weight", torch.nn.Identity())
    torch.save(theirs.state_dict(), tmp_path / "weights.pt")
    with pytest.raises(MnvError, match="a function that is not in the file"):
        import_state_dict(tmp_path / "weights.pt")
    weights = trained_looking().state_dict()
    weights["fc.weight_orig"], weights["fc.weight_u"] = weights.pop("fc.weight"), torch.ones(10)
    torch.save(weights, tmp_path / "weights.pt")
    with pytest.raises(MnvError, match="spectral norm"):
        import_state_dict(tmp_path / "weights.pt")


def test_files_of_other_libraries_are_called_by_name(tmp_path: Path) -> None:
    arrays = {name: tensor.numpy() for name, tensor in trained_looking().state_dict().items()}
    np.savez(tmp_path / "weights.npz", **arrays)
    np.save(tmp_path / "weights.npy", arrays["fc.weight"])
    program = torch.export.export(torch.nn.Linear(2, 2), (torch.ones(1, 2),))
    torch.export.save(program, tmp_path / "net.pt2")
    torch.save({n: torch.empty(a.shape, device="meta") for n, a in arrays.items()}, tmp_path / "meta.pt")
    messages = {"weights.npz": "npz", "weights.npy": "npy", "net.pt2": "torch.export", "meta.pt": "device meta"}
    for name, message in messages.items():
        with pytest.raises(MnvError, match=message):
            import_state_dict(tmp_path / name)


@cache
def tutorial_weights() -> dict[str, torch.Tensor]:
    return trained_looking().state_dict()


def changed(**changes: torch.Tensor | None) -> dict[str, torch.Tensor]:
    weights = {**tutorial_weights(), **{name.replace("__", "."): t for name, t in changes.items()}}
    return {name: tensor for name, tensor in weights.items() if tensor is not None}


def of_torchvision(name: str) -> dict[str, torch.Tensor]:
    from torchvision import models

    weights: dict[str, torch.Tensor] = models.get_model(name).state_dict()
    return weights


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds no state dict"),
        ({}, "holds no state dict"),
        ({"net": {}}, "holds no state dict"),
        ({"epoch": 3}, "holds no state dict"),
        (torch.zeros(3), "holds no state dict"),
        ({"x": torch.zeros(1)}, "holds no state dict"),
        (lambda: of_torchvision("resnet18"), "conv1, has the shape 64x3x7x7"),
        (lambda: of_torchvision("mobilenet_v2"), "MobileNetV2"),
        (lambda: changed(fc__weight=None), "fc is no part of one|normalises without the statistics"),
        (lambda: changed(fc__weight=torch.zeros(10, 500)), "fc takes 500 values"),
        (lambda: changed(conv2_4__2__weight=torch.zeros(1)), "conv2_4.2 is what PReLU learns"),
        (lambda: changed(fc2__weight=torch.zeros(3, 512)), "has 2 linear layers"),
        (lambda: changed(fc__weight_fake_quant__scale=torch.ones(1)), "quantization-aware training"),
        (lambda: changed(conv2_4__1__weight=torch.full((64,), torch.nan)), "not finite numbers"),
        (lambda: {name: t for name, t in changed().items() if "conv2_8" not in name}, "takes 512 values"),
        (lambda: changed(conv2_4__0__weight=torch.zeros(128, 1, 3, 3)), "2 filters for every channel"),
        (lambda: changed(extra__weight=torch.zeros(3)), "extra is what PReLU learns"),
        (lambda: changed(extra__table=torch.zeros(3, 4)), "extra.table is no part of one"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_contents_are_refused(content: object, message: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save(content() if callable(content) else content, path)
    with pytest.raises(MnvError, match=message):
        import_state_dict(path)


@pytest.mark.parametrize(
    "turned",
    [
        lambda tensor: tensor.to(torch.int8),
        lambda tensor: tensor.to_sparse(),
        lambda tensor: tensor.to(torch.complex64),
        lambda tensor: torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8),
    ],
    ids=["int8", "sparse", "complex", "quantized"],
)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")  # torch's, of quantised tensors
def test_tensors_of_other_kinds_are_refused(turned: Callable[[torch.Tensor], torch.Tensor], tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save(changed(fc__weight=turned(tutorial_weights()["fc.weight"])), path)
    with pytest.raises(MnvError):
        import_state_dict(path)


def test_broken_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save(trained_looking().state_dict(), path)
    whole = path.read_bytes()
    for content in (b"", b"hello", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(MnvError):
            import_state_dict(path)
    with pytest.raises(MnvError, match="is a folder"):
        import_state_dict(tmp_path)
    with pytest.raises(MnvError, match="There is no file"):
        import_state_dict(tmp_path / "none.pt")


# The normalisation -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_wrong_normalisation_shows() -> None:
    network = load(bundled.CHECKPOINT).network
    pictures = datasets.calibration()
    trials = checks.try_normalizations(network, pictures)
    assert set(trials) == {"as given", *NORMALIZATIONS}
    top1 = {name: trial.accuracy.top1 for name, trial in trials.items()}
    assert top1["as given"] == top1["default"] > 0.85
    assert top1["default"] > max(top1["half"], top1["unit"])
    assert top1["half"] == (trials["half"].answers == pictures.labels).mean()
    assert checks.labelled(MobileNetV1(CIFAR.replace(classes=("a", "b")))) is None


def test_normalisations_by_name_or_numbers() -> None:
    assert importing.normalization("default", None, None) == Normalization()
    found = importing.normalization("tutorial", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    assert found == Normalization((127.5,) * 3, (63.75,) * 3)
    found = importing.normalization("", (125, 123, 114), (63, 62, 67))
    assert found == Normalization((125, 123, 114), (63, 62, 67))
    for mean, std in (((0.5,) * 3, (63,) * 3), ((125,) * 3, (0.2,) * 3), ((300,) * 3, (63,) * 3)):
        with pytest.raises(MnvError):
            importing.normalization("", mean, std)
    with pytest.raises(MnvError, match="no normalisation called none"):
        importing.normalization("none", None, None)


# The command -------------------------------------------------------------------------------------------------------


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return mnv1("import", *arguments)


@pytest.mark.slow
def test_import_warns_of_a_wrong_normalisation(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(load(bundled.CHECKPOINT).network.state_dict(), path)
    done = run(path, "--normalization", "unit")
    assert done.returncode == 0
    assert re.search(r"With --normalization (\S+ or )*default( or \S+)* it has a top-1 of about 9\d%", done.stderr)
    output = tmp_path / "weights.safetensors"
    assert load(output).spec.normalization == NORMALIZATIONS["unit"]
    fine = run(path, "--output", tmp_path / "fine.safetensors", "--normalization", "default", "--json")
    assert "With --normalization" not in fine.stderr
    facts = json.loads(fine.stdout)
    assert facts["accuracy"][0]["top1"] > 0.85
    assert tuple(facts["spec"]["classes"]) == CIFAR10_CLASSES
    assert facts["training"]["imported_from"] == "weights.pth"
    told = mnv1("info", output).stdout
    assert "imported from weights.pth" in told
    assert re.search(r"^ +normalization unit: given$", told, re.MULTILINE)
    assert re.search(r"^ +fingerprint, normalization: \w+ 0\.\d+, ", told, re.MULTILINE)


@pytest.mark.slow
def test_a_checkpoint_has_its_own_suffix(tmp_path: Path) -> None:
    torch.save(tutorial_weights(), tmp_path / "weights.pth")
    done = run(tmp_path / "weights.pth", "--output", tmp_path / "net.pth")
    assert done.returncode == 1 and "Name it net.safetensors." in done.stderr
    assert not (tmp_path / "net.pth").exists()


def test_import_of_a_pickled_module_says_how_to_save_it(tmp_path: Path) -> None:
    torch.save(trained_looking(), tmp_path / "module.pt")
    done = run(tmp_path / "module.pt")
    assert done.returncode == 1
    assert "torch.save(net.state_dict(), 'weights.pt')" in done.stderr
    assert not (tmp_path / "module.safetensors").exists()


# What the weights of CIFAR-10's classes give away ------------------------------------------------------------------


def doubts(network: MobileNetV1) -> list[tuple[str, str]]:
    whole = checks.labelled(network)
    assert whole is not None
    pictures = replace(whole, images=whole.images[::4], labels=whole.labels[::4])
    return checks.doubts(network, pictures, checks.try_normalizations(network, pictures))


@pytest.mark.slow
def test_weights_for_blue_first_are_noticed_and_turned(tmp_path: Path) -> None:
    network = load(bundled.CHECKPOINT).network
    weight = network.get_parameter("stem.conv.weight").detach().clone()
    with torch.no_grad():
        network.get_parameter("stem.conv.weight").copy_(weight.flip(1))
    ((sentence, hint),) = doubts(network)
    assert "blue first" in sentence and "--bgr" in hint
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    turned = import_file(tmp_path / "weights.pth", Options(normalization=NORMALIZATIONS["default"], bgr=True))
    assert turned.doubts == ()
    assert torch.equal(turned.network.get_parameter("stem.conv.weight"), weight)


@pytest.mark.slow
def test_outputs_in_another_order_are_noticed_and_named() -> None:
    network = load(bundled.CHECKPOINT).network
    order = [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]
    with torch.no_grad():
        for parameter in network.classifier.parameters():
            parameter.copy_(parameter[order].clone())
    ((sentence, hint),) = doubts(network)
    assert "another order" in sentence
    names = tuple(hint.removeprefix("Give --classes ").split(","))
    assert names == tuple(CIFAR10_CLASSES[i] for i in order)
    network.spec = network.spec.replace(classes=names)
    assert doubts(network) == []


@pytest.mark.slow
def test_weights_that_were_not_trained_are_noticed() -> None:
    torch.manual_seed(0)
    ((sentence, hint),) = doubts(MobileNetV1(CIFAR).eval())
    assert "guessing has 10 %" in sentence and "trained" in hint


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("labels.txt", "ant\nbee\nwasp\n"),
        ("labels.json", '["ant", "bee", "wasp"]'),
        ("class_to_idx.json", '{"wasp": 2, "ant": 0, "bee": 1}'),
        ("idx_to_class.json", '{"1": "bee", "0": "ant", "2": "wasp"}'),
    ],
)
def test_class_names_come_from_a_file_or_a_line(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    assert labels.parse(str(tmp_path / name)) == ("ant", "bee", "wasp")
    assert labels.parse("ant, bee,wasp") == ("ant", "bee", "wasp")
    assert labels.parse('"ant, red",bee') == ("ant, red", "bee")
    for wrong in (str(tmp_path / "none.txt"), "ant,,bee", "ant,ant", "@none"):
        with pytest.raises(MnvError):
            labels.parse(wrong)
