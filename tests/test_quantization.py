"""The integer grids: what the formulas promise, on real weights and real images."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mnv1deploy import bundled, checkpoint, datasets
from mnv1deploy.network import MobileNetV1
from mnv1deploy.quantization import INPUT, Grid, Quantization, quantize
from mnv1deploy.spec import CIFAR, Normalization

reals = st.floats(-1e4, 1e4)


@given(reals, reals, st.floats(0, 1))
def test_a_grid_holds_zero_exactly_and_every_value_within_half_a_step(a: float, b: float, t: float) -> None:
    low, high = min(a, b, 0.0), max(a, b, 0.0)
    grid = Grid.of_range(low, high)
    assert 0 <= grid.zero_point <= 255
    value = low + t * (high - low)
    integer = np.clip(np.rint(value / grid.scale) + grid.zero_point, 0, 255)
    # the zero point is rounded too, so the ends may be another half step off
    assert abs(grid.scale * (integer - grid.zero_point) - value) <= grid.scale * 1.01


def test_relu_outputs_start_at_zero() -> None:
    assert Grid.of_range(0.0, 5.1) == Grid(float(np.float32(5.1 / 255)), 0)


@pytest.fixture(scope="module")
def folded() -> MobileNetV1:
    return checkpoint.load(bundled.CHECKPOINT).network.folded()


@pytest.fixture(scope="module")
def integers(folded: MobileNetV1) -> Quantization:
    pictures = datasets.calibration()
    return quantize(folded, pictures.images, pictures.name)


def test_raw_pixels_are_the_quantised_input(integers: Quantization) -> None:
    assert integers.activations[INPUT] == Grid(1 / 64, 128)


def test_every_layer_has_a_grid_and_the_logits_have_none(folded: MobileNetV1, integers: Quantization) -> None:
    assert set(integers.activations) == {INPUT, *folded.feature_layers, "pool"}
    assert set(integers.weights) == {*folded.feature_layers, "classifier"}
    assert integers.activations["pool"] == integers.activations["block8.pointwise"]
    assert integers.facts == {"method": "minmax", "images": 512, "calibration": datasets.calibration().name}


def test_ranges_are_those_of_the_network(folded: MobileNetV1, integers: Quantization) -> None:
    images = torch.from_numpy(datasets.calibration().images)
    with torch.inference_mode():
        largest = folded.stem(folded.normalize(images)).max().item()
    assert integers.activations["stem"].scale == pytest.approx(largest / 255, rel=1e-5)
    assert all(grid.zero_point == 0 for name, grid in integers.activations.items() if name != INPUT)


def test_weights_and_biases_are_the_nearest_integers(folded: MobileNetV1, integers: Quantization) -> None:
    previous = INPUT
    for layer in folded.spec.layers():
        if layer.kind != "pool":
            prefix = layer.name if layer.kind == "linear" else f"{layer.name}.conv"
            found = integers.weights[layer.name]
            weight = folded.get_parameter(f"{prefix}.weight").detach().numpy()
            bias = folded.get_parameter(f"{prefix}.bias").detach().numpy()
            column = found.scales.reshape(-1, *[1] * (weight.ndim - 1))
            assert found.values.dtype == np.int8
            assert np.abs(found.values * column - weight).max() <= column.max() * 0.501
            step = integers.activations[previous].scale * found.scales.astype(np.float64)
            assert (np.abs(found.bias * step - bias) <= step * 0.501).all()
        previous = layer.name


def test_a_dead_channel_keeps_its_bias() -> None:
    """Weights of nearly zero must not make the bias's scale so fine that it overflows 32 bits."""
    torch.manual_seed(0)
    network = MobileNetV1(CIFAR).eval().folded()
    with torch.no_grad():
        convolution = network.get_submodule("block2.pointwise.conv")
        convolution.weight[3] = 1e-30
        convolution.bias[3] = 2.5
        convolution.weight[4] = 0
        convolution.bias[4] = 0
    found = quantize(network, datasets.calibration().images[:64], "test")
    weights = found.weights["block2.pointwise"]
    step = found.activations["block2.depthwise"].scale * float(weights.scales[3])
    assert weights.bias[3] * step == pytest.approx(2.5, rel=1e-6)
    assert np.isfinite(weights.scales).all()
    assert (weights.scales > 0).all()


def test_other_normalisations_calibrate_the_input() -> None:
    torch.manual_seed(0)
    spec = CIFAR.replace(normalization=Normalization((125.3, 123.0, 113.9), (51.6, 50.8, 51.3)))
    found = quantize(MobileNetV1(spec).eval().folded(), datasets.calibration().images[:64], "test")
    grid = found.activations[INPUT]
    low = -grid.scale * grid.zero_point
    assert low == pytest.approx(-125.3 / 51.6, abs=grid.scale)
    assert low + 255 * grid.scale == pytest.approx((255 - 113.9) / 51.3, abs=2 * grid.scale)
