"""Public sources in their own naming, with synthetic weights, in the order of their modules and sorted by name."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from mnv1deploy.errors import MnvError
from mnv1deploy.importing import NORMALIZATIONS, TUTORIAL_NORMALIZATION, import_state_dict

STEM = 4
ROWS = [8, 16, 16, 32, 32, 64, 64, 64, 64, 64, 64, 128, 128]
STAGES = [0, 1, 1, 2, 2, 3, 3, 3, 3, 3, 3, 4, 4]
Weights = dict[str, Tensor]


def norm(name: str, channels: int) -> Weights:
    return {
        f"{name}.weight": torch.rand(channels),
        f"{name}.bias": torch.randn(channels),
        f"{name}.running_mean": torch.randn(channels),
        f"{name}.running_var": torch.rand(channels) + 0.5,
    }


def linear(name: str, classes: int) -> Weights:
    return {f"{name}.weight": torch.randn(classes, ROWS[-1]), f"{name}.bias": torch.randn(classes)}


def block(names: tuple[str, str, str, str], inputs: int, outputs: int) -> Weights:
    depthwise, first, pointwise, second = names
    return {
        f"{depthwise}.weight": torch.randn(inputs, 1, 3, 3),
        **norm(first, inputs),
        f"{pointwise}.weight": torch.randn(outputs, inputs, 1, 1),
        **norm(second, outputs),
    }


def chain(names: Callable[[int], tuple[str, str, str, str]]) -> Weights:
    found: Weights = {}
    for number, (inputs, outputs) in enumerate(zip([STEM, *ROWS], ROWS, strict=False)):
        found |= block(names(number), inputs, outputs)
    return found


def kuangliu() -> Weights:
    def names(n: int) -> tuple[str, str, str, str]:
        return f"layers.{n}.conv1", f"layers.{n}.bn1", f"layers.{n}.conv2", f"layers.{n}.bn2"

    stem = {"conv1.weight": torch.randn(STEM, 3, 3, 3), **norm("bn1", STEM)}
    return {**stem, **chain(names), **linear("linear", 10)}


def timm() -> Weights:
    def names(n: int) -> tuple[str, str, str, str]:
        prefix = f"blocks.{STAGES[n]}.{STAGES[:n].count(STAGES[n])}"
        return f"{prefix}.conv_dw", f"{prefix}.bn1", f"{prefix}.conv_pw", f"{prefix}.bn2"

    stem = {"conv_stem.weight": torch.randn(STEM, 3, 3, 3), **norm("bn1", STEM)}
    return {**stem, **chain(names), **linear("classifier", 1000)}


def hugging_face() -> Weights:
    def names(n: int) -> tuple[str, str, str, str]:
        first, second = f"mobilenet_v1.layer.{2 * n}", f"mobilenet_v1.layer.{2 * n + 1}"
        return f"{first}.convolution", f"{first}.normalization", f"{second}.convolution", f"{second}.normalization"

    stem = {"mobilenet_v1.conv_stem.convolution.weight": torch.randn(STEM, 3, 3, 3)}
    return {**stem, **norm("mobilenet_v1.conv_stem.normalization", STEM), **chain(names), **linear("classifier", 1001)}


def weiaicunzai() -> Weights:
    def names(n: int) -> tuple[str, str, str, str]:
        stage = "stem" if STAGES[n] == 0 else f"conv{STAGES[n]}"
        prefix = f"{stage}.{1 if n == 0 else STAGES[:n].count(STAGES[n])}"
        return f"{prefix}.depthwise.0", f"{prefix}.depthwise.1", f"{prefix}.pointwise.0", f"{prefix}.pointwise.1"

    stem = {"stem.0.conv.weight": torch.randn(STEM, 3, 3, 3), **norm("stem.0.bn", STEM)}
    return {**stem, **chain(names), **linear("fc", 100)}


def numbered(offset: int) -> Weights:
    """Blocks whose modules stand in a list: marvis's, or ZFTurbo's, with a module that pads before strides of 2."""
    pads = [offset * (rows == 2) for rows in (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)]

    def names(n: int) -> tuple[str, str, str, str]:
        first, second, third, fourth = (f"model.{n + 1}.{pads[n] + place}" for place in (0, 1, 3, 4))
        return first, second, third, fourth

    stem = {f"model.0.{offset}.weight": torch.randn(STEM, 3, 3, 3), **norm(f"model.0.{offset + 1}", STEM)}
    return {**stem, **chain(names), **linear("fc", 1000)}


def marvis() -> Weights:
    return numbered(0)


def zfturbo() -> Weights:
    return numbered(1)


@pytest.mark.parametrize(
    ("weights", "classes", "padding", "activation", "stem_stride", "normalization"),
    [
        (kuangliu, 10, "symmetric", "relu", 1, "tutorial"),
        (timm, 1000, "symmetric", "relu6", 2, "half"),
        (hugging_face, 1001, "same", "relu6", 2, "half"),
        (weiaicunzai, 100, "symmetric", "relu", 1, "cifar100"),
        (marvis, 1000, "symmetric", "relu", 2, "imagenet"),
        (zfturbo, 1000, "same", "relu6", 2, "half"),
    ],
)
def test_public_sources_come_in_in_either_order(
    weights: Callable[[], Weights],
    classes: int,
    padding: str,
    activation: str,
    stem_stride: int,
    normalization: str,
    tmp_path: Path,
) -> None:
    torch.manual_seed(0)
    tensors = weights()
    torch.save(tensors, tmp_path / "weights.pth")
    safetensors.torch.save_file(tensors, tmp_path / "weights.safetensors")
    ours, again = (import_state_dict(tmp_path / f"weights.{suffix}") for suffix in ("pth", "safetensors"))
    spec = ours.spec
    assert (len(spec.classes), spec.padding, spec.activation, spec.stem.stride) == (
        classes,
        padding,
        activation,
        stem_stride,
    )
    assert spec.normalization == NORMALIZATIONS[normalization]
    assert spec == again.spec
    for name, tensor in ours.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


@pytest.mark.parametrize(
    ("stem", "blocks", "first", "head"),
    [
        ("conv1", "conv2_{}", 1, "fc"),
        ("conv_1", "conv_dw{}", 2, "fc"),
        ("features.0", "features.{}", 1, "classifier"),
        ("stem", "stages.{}", 0, "head.1"),
        ("first", "deep.block{}", 1, "out"),
    ],
)
@pytest.mark.parametrize("is_sorted", [False, True])
def test_the_tutorial_under_any_names(
    stem: str, blocks: str, first: int, head: str, is_sorted: bool, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    channels = [4, 4, 8, 8, 16, 16, 32, 32, 64]
    weights = {f"{stem}.0.weight": torch.randn(4, 3, 3, 3), f"{stem}.0.bias": torch.randn(4), **norm(f"{stem}.1", 4)}
    for number, (inputs, outputs) in enumerate(pairwise(channels), first):
        name = blocks.format(number)
        weights |= block((f"{name}.0", f"{name}.1", f"{name}.3", f"{name}.4"), inputs, outputs)
    weights |= {f"{head}.weight": torch.randn(10, 64), f"{head}.bias": torch.randn(10)}
    torch.save(dict(sorted(weights.items())) if is_sorted else weights, tmp_path / "weights.pth")
    network = import_state_dict(tmp_path / "weights.pth")
    spec = network.spec
    assert (spec.normalization, spec.padding, spec.activation) == (TUTORIAL_NORMALIZATION, "symmetric", "relu")
    assert [row.stride for row in (spec.stem, *spec.blocks)] == [1, 1, 2, 1, 2, 1, 2, 1, 2]
    for number in (1, 5, 8):
        theirs = weights[f"{blocks.format(number - 1 + first)}.3.weight"]
        assert torch.equal(network.get_parameter(f"block{number}.pointwise.conv.weight"), theirs)


@pytest.mark.parametrize("is_sorted", [False, True])
def test_an_extra_head_is_refused_by_its_name(is_sorted: bool, tmp_path: Path) -> None:
    weights = {name: tensor for name, tensor in timm().items() if not name.startswith("classifier")}
    weights |= {"conv_head.weight": torch.randn(160, ROWS[-1], 1, 1), **norm("norm_head", 160)}
    weights |= {"classifier.weight": torch.randn(1000, 160), "classifier.bias": torch.randn(1000)}
    torch.save(dict(sorted(weights.items())) if is_sorted else weights, tmp_path / "weights.pth")
    with pytest.raises(MnvError, match=r"an extra head, as timm's mobilenetv1_100h has"):
        import_state_dict(tmp_path / "weights.pth")
