"""The network: its size, its contract, its equality with the tutorial's, and its fold."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from tutorial import trained_looking

from mnv1deploy import bundled, checkpoint, datasets, importing
from mnv1deploy.network import MobileNetV1, mobilenetv1_small
from mnv1deploy.spec import CIFAR, PAPER, Block, ModelSpec, Normalization, Pixels


def real_images(size: int = 32, count: int = 64) -> torch.Tensor:
    pictures = datasets.calibration()
    first = pictures.subset(np.arange(count), pictures.name)
    return torch.from_numpy(datasets.resized(first, Pixels(size)).images)


def test_the_default_network_has_280_650_parameters() -> None:
    network = mobilenetv1_small()
    assert sum(p.numel() for p in network.parameters() if p.requires_grad) == 280_650
    assert network.spec == CIFAR


def test_submodules_have_the_names_of_the_layers() -> None:
    for spec in (CIFAR, PAPER):
        network = MobileNetV1(spec)
        names = {name for name, _ in network.named_modules()}
        assert {layer.name for layer in spec.layers()} <= names
        for layer in spec.layers():
            if layer.kind in ("conv", "depthwise", "pointwise"):
                convolution = network.get_submodule(f"{layer.name}.conv")
                assert isinstance(convolution, nn.Conv2d)
                assert convolution.stride == (layer.stride, layer.stride)
                assert (convolution.bias is not None) == layer.bias


@pytest.mark.parametrize(
    "spec",
    [
        CIFAR,
        CIFAR.scaled(0.25),
        CIFAR.scaled(1.7).replace(input_size=48),
        CIFAR.replace(input_size=96, classes=("one",)),
        CIFAR.replace(classes=tuple(map(str, range(100)))),
        PAPER.replace(input_size=128),
        PAPER.scaled(0.5),
    ],
    ids=lambda s: f"{s.name}-{s.stem.channels}-{s.input_size}-{len(s.classes)}",
)
def test_the_contract(spec: ModelSpec) -> None:
    network = MobileNetV1(spec).eval()
    with torch.inference_mode():
        logits = network(real_images(spec.input_size, 2))
    assert logits.shape == (2, len(spec.classes))
    assert logits.dtype == torch.float32
    assert torch.isfinite(logits).all()


def test_normalising_is_exact_and_keeps_the_pixels_layout() -> None:
    images = real_images()
    found = mobilenetv1_small().normalize(images)
    expected = (images.numpy().astype(np.float64).transpose(0, 3, 1, 2) - 128) / 64
    np.testing.assert_array_equal(found.numpy(), expected)
    assert found.is_contiguous(memory_format=torch.channels_last)
    other = MobileNetV1(CIFAR.replace(normalization=Normalization((10.0, 20.0, 30.0), (1.0, 2.0, 3.0))))
    assert other.normalize(images)[0, 1, 4, 5] == (images[0, 4, 5, 1] - 20.0) / 2


def test_logits_are_those_of_the_tutorial_network(tmp_path: Path) -> None:
    theirs = trained_looking()
    torch.save(theirs.state_dict(), tmp_path / "weights.pt")
    ours = importing.import_state_dict(tmp_path / "weights.pt")
    images = real_images(count=256)
    mean, std = torch.tensor([0.4914, 0.4822, 0.4465]), torch.tensor([0.2023, 0.1994, 0.2010])
    with torch.inference_mode():
        expected = theirs(((images / 255 - mean) / std).permute(0, 3, 1, 2))
        found = ours(images)
    assert expected.std(0).max() > 0.1, "the network must tell pictures apart"
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_answer_does_not_depend_on_the_batch() -> None:
    network = checkpoint.load(bundled.CHECKPOINT).network
    images = real_images(count=20)
    with torch.inference_mode():
        together = network(images)
        alone = torch.cat([network(image[None]) for image in images])
    np.testing.assert_allclose(together, alone, atol=1e-4)


def check_fold(network: MobileNetV1, images: torch.Tensor) -> None:
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    folded = network.folded()
    with torch.inference_mode():
        expected, found = network.eval()(images), folded(images)
    np.testing.assert_allclose(found, expected, atol=2e-5 * max(1.0, expected.abs().max().item()))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert all(isinstance(folded.get_submodule(f"{name}.conv"), nn.Conv2d) for name in folded.feature_layers)
    assert {p.dtype for p in folded.parameters()} == {torch.float32}
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_folding_the_shipped_network() -> None:
    check_fold(checkpoint.load(bundled.CHECKPOINT).network, real_images())


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.builds(Block, st.integers(1, 30), st.sampled_from([1, 2])), min_size=1, max_size=3),
    st.booleans(),
    st.integers(0, 2**16),
)
def test_folding_any_network(rows: list[Block], bias: bool, seed: int) -> None:
    torch.manual_seed(seed)
    network = MobileNetV1(CIFAR.replace(blocks=tuple(rows), stem_bias=bias))
    images = real_images(count=8)
    with torch.no_grad():
        for _ in range(3):
            network(images)
    check_fold(network.eval(), images)
