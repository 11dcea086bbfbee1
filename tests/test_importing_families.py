"""Public sources in their own naming, with synthetic weights, in the order of their modules and sorted by name."""

from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from mnv1deploy.importing import NORMALIZATIONS, import_state_dict

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


@pytest.mark.parametrize(
    ("weights", "classes", "padding", "activation", "stem_stride", "normalization"),
    [
        (kuangliu, 10, "symmetric", "relu", 1, "tutorial"),
        (timm, 1000, "symmetric", "relu6", 2, "half"),
        (hugging_face, 1001, "same", "relu6", 2, "half"),
        (weiaicunzai, 100, "symmetric", "relu", 1, "cifar100"),
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
