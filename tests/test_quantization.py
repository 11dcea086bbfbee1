"""The integer grids: what the formulas promise, on real weights and real images."""

import os
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from conftest import differences, export, quantized
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from mnv1deploy import bundled, checkpoint, datasets, formats
from mnv1deploy.cost import BYTES_AT_ONCE, pictures_at_once
from mnv1deploy.errors import MnvError
from mnv1deploy.network import MobileNetV1
from mnv1deploy.quantization import (
    DEFAULT,
    INPUT,
    PAIR,
    Grid,
    Quantization,
    Scheme,
    fold_normalization,
    layer_output,
    parameters_of,
    quantize,
    ranges,
)
from mnv1deploy.quantization.quantizer import Calibration
from mnv1deploy.quantization.ranges import BINS, METHODS, SURVEYED, Observation, Survey, upper_bound
from mnv1deploy.quantization.rounding import moments, rounded
from mnv1deploy.spec import CIFAR, PAPER, Block, Normalization

PLAIN = Scheme("minmax", 0.0, compensation=False, bias_correction=False)

reals = st.floats(-1e4, 1e4)


@example(0.0, -3.364458051097171e-42, 0.0)
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


@given(st.integers(0, 255), st.floats(1e-3, 10))
def test_integers_of_a_grid_survive_their_reals(zero_point: int, scale: float) -> None:
    grid = Grid(scale, zero_point)
    integers = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(grid.integers(grid.reals(integers)), integers)
    assert grid.bound == pytest.approx(grid.reals(integers).max().item(), rel=1e-6)


# Ranges ------------------------------------------------------------------------------------------------------------

histograms = hnp.arrays(np.int64, BINS, elements=st.integers(0, 10**6))


@settings(deadline=None)
@given(histograms, st.floats(1e-3, 1e3), st.sampled_from(METHODS))
def test_every_method_clips_within_what_was_seen(histogram: NDArray[np.int64], high: float, method: str) -> None:
    seen = Observation(np.array([high / 2, high]), np.zeros(2), 0.9 * high, histogram)
    bound = upper_bound(seen, method)  # type: ignore[arg-type]
    assert 0 < bound <= high * 1.001
    if method == "minmax":
        assert bound == high


def test_methods_on_a_distribution_with_an_outlier() -> None:
    """Half-normal values up to 4 and one at 40: only minmax spends its grid on the outlier."""
    values = np.abs(np.random.default_rng(0).standard_normal(200_000)).clip(max=4)
    histogram = np.histogram(np.append(values, 40.0), BINS, (0, 40))[0]
    seen = Observation(np.array([40.0]), np.zeros(1), 4.2, histogram)
    bounds = {method: upper_bound(seen, method) for method in METHODS}
    assert bounds["minmax"] == 40
    assert bounds["moving-average"] == 4.2
    assert bounds["percentile"] == pytest.approx(4, abs=0.1)

    def squared_error(bound: float) -> float:
        grid = Grid.of_range(0, bound)
        pixels = torch.from_numpy(np.append(values, 40.0))
        return float((grid.reals(grid.integers(pixels)) - pixels).square().mean())

    assert squared_error(bounds["mse"]) == pytest.approx(min(map(squared_error, np.linspace(3, 40, 100))), rel=0.1)
    assert 3 < bounds["entropy"] < 10


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31), st.sampled_from([0.0, 0.5, 1.0]), st.floats(0, 3))
def test_a_survey_keeps_what_the_percentile_needs_or_says_that_it_did_not(
    seed: int, exponent: float, spread: float
) -> None:
    """Whatever the channels' scales, silent channels that wake up late and pictures brighter than all before them."""
    random = np.random.default_rng(seed)
    scales = np.exp(spread * random.standard_normal((30, 1, 5, 1, 1)) + 2 * random.standard_normal(5)[:, None, None])
    before = torch.from_numpy(random.standard_normal((30, 2, 5, 12, 12)) * scales)
    before[: random.integers(30), :, 0] = -1
    seen = Survey(60, 5, exponent, int(before.numel() * 1e-5) + 2)
    for batch in before.contiguous():
        batch = batch.contiguous(memory_format=torch.channels_last)
        seen.add(batch, batch.relu())
    found = seen.scaled()
    if found is None:
        return
    scaled = before.flatten(0, 1) * seen.gain.view(-1, 1, 1)
    channel_max = scaled.relu().amax((0, 2, 3)).numpy()
    histogram = ranges._histogram(scaled.relu(), float(channel_max.max())).numpy()
    np.testing.assert_allclose(found.channel_max, channel_max)
    np.testing.assert_allclose(found.channel_mean, scaled.mean((0, 2, 3)).numpy(), atol=1e-12 * channel_max.max())
    assert found.histogram.sum() == histogram.sum()
    whole = Observation(found.channel_max, found.channel_mean, 0.0, histogram)
    assert upper_bound(found, "percentile") == upper_bound(whole, "percentile")


def test_a_survey_says_that_it_forgot_too_much() -> None:
    """Channel 0 has many values like its largest, and channel 1 one; then channel 0 gets a far larger one."""
    seen = Survey(3, 2, 1.0, 3)
    for largest, single in ((1.0, 1.0), (1.0, 0.5), (50.0, 0.5)):
        batch = torch.full((1, 2, 9, 9), 0.5, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
        batch[:, 0], batch[:, 1, 0, 0], batch[:, 0, 0, 0] = 1.0, single, largest
        seen.add(batch, batch)
        assert (seen.scaled() is None) == (largest == 50)


def test_a_survey_does_not_keep_all_values_of_a_layer_that_is_at_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "KEPT", 100)
    seen = Survey(3, 2, 1.0, 3)
    for _ in range(3):
        batch = torch.full((1, 2, 9, 9), 6, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
        seen.add(batch, batch)
        assert sum(len(values) for values, _ in seen._parts) == 0
    assert seen.scaled() is None


@pytest.mark.parametrize("activation", ["relu", "relu6"])
def test_a_survey_finds_what_a_second_look_at_the_equalised_network_finds(
    folded: MobileNetV1, activation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it forgot too much, the second look is what is used."""
    spec = folded.spec.replace(activation=activation)
    network = MobileNetV1(spec).folded()
    network.load_state_dict(folded.state_dict())
    images = datasets.calibration().images[:16]
    one = Calibration.of(network, images, 0.5, SURVEYED)
    two = Calibration.of(network, images, 0.5, METHODS)
    monkeypatch.setattr(ranges, "MARGIN", 50.0)
    fallen_back = Calibration.of(network, images, 0.5, SURVEYED)
    for name in network.feature_layers:
        once, twice = one.seen[name], two.seen[name]
        np.testing.assert_array_equal(twice.histogram, fallen_back.seen[name].histogram)
        np.testing.assert_allclose(once.channel_max, twice.channel_max, rtol=1e-12)
        np.testing.assert_allclose(once.channel_mean, twice.channel_mean, atol=1e-12 * twice.max)
        for method in SURVEYED:
            assert upper_bound(once, method) == pytest.approx(upper_bound(twice, method), rel=1e-12)
    assert (one.seen["stem"].histogram != two.seen["stem"].histogram).any()


def test_unknown_methods_are_refused_by_name() -> None:
    with pytest.raises(MnvError, match="no calibration method median") as refusal:
        Scheme.named("median")
    assert "minmax, moving-average, percentile, entropy, mse" in refusal.value.hint
    assert Scheme.named(None) == DEFAULT
    assert Scheme.named("mse") == replace(DEFAULT, ranges="mse")


# The bundled network -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plain(folded: MobileNetV1) -> Quantization:
    return quantized(folded, datasets.calibration().images, PLAIN)


def test_raw_pixels_are_the_quantised_input(integers: Quantization) -> None:
    assert integers.activations[INPUT] == Grid(1 / 64, 128)


def test_every_layer_has_a_grid_and_the_logits_have_none(folded: MobileNetV1, integers: Quantization) -> None:
    assert set(integers.activations) == {INPUT, *folded.feature_layers, "pool"}
    assert set(integers.weights) == {*folded.feature_layers, "classifier"}
    assert integers.activations["pool"] == integers.activations["block8.pointwise"]
    assert all(grid.zero_point == 0 for name, grid in integers.activations.items() if name != INPUT)
    assert integers.facts["calibration"] == "test"
    assert (integers.facts["quantizer"], integers.facts["images"]) == ("mnv1deploy", 512)


@pytest.mark.slow
def test_minmax_ranges_are_those_of_the_network(folded: MobileNetV1, plain: Quantization) -> None:
    images = torch.from_numpy(datasets.calibration().images)
    with torch.inference_mode():
        largest = folded.stem(folded.normalize(images)).max().item()
    assert plain.activations["stem"].scale == pytest.approx(largest / 255, rel=1e-5)


@pytest.mark.slow
def test_plain_rounding_is_to_the_nearest_integers(folded: MobileNetV1, plain: Quantization) -> None:
    step = plain.activations[INPUT].scale
    for layer in folded.spec.layers():
        if layer.kind != "pool":
            weight, bias = (part.numpy() for part in parameters_of(folded, layer))
            found = plain.weights[layer.name]
            column = found.scales.reshape(-1, *[1] * (weight.ndim - 1))
            steps = step * found.scales.astype(np.float64)
            assert found.values.dtype == np.int8
            assert np.abs(found.values * column - weight).max() <= column.max() * 0.501
            assert (np.abs(found.bias * steps - bias) <= steps * 0.501).all()
        step = plain.activations[layer.name].scale if layer.name in plain.activations else step


@pytest.mark.parametrize("which", ["plain", "integers"])
def test_the_network_is_the_integers_times_their_scales(which: str, request: pytest.FixtureRequest) -> None:
    found: Quantization = request.getfixturevalue(which)
    step = found.activations[INPUT].scale
    for layer in found.network.spec.layers():
        if layer.kind != "pool":
            weight, bias = (part.numpy() for part in parameters_of(found.network, layer))
            weights = found.weights[layer.name]
            column = weights.scales.reshape(-1, *[1] * (weight.ndim - 1))
            np.testing.assert_array_equal(weight, weights.values * column)
            np.testing.assert_allclose(bias, weights.bias * (step * weights.scales.astype(np.float64)), rtol=1e-6)
        step = found.activations[layer.name].scale if layer.name in found.activations else step


@pytest.mark.parametrize("which", ["plain", "integers"])
def test_neighbouring_weights_cannot_overflow_16_bits(which: str, request: pytest.FixtureRequest) -> None:
    found: Quantization = request.getfixturevalue(which)
    for layer in found.network.spec.layers():
        if layer.kind != "pool":
            size = np.abs(found.weights[layer.name].values.reshape(layer.out_channels, -1).astype(int))
            if layer.kind == "conv":
                assert size.max() <= PAIR // 2
            assert np.add.reduceat(size, np.arange(0, size.shape[1], 2), 1).max() <= PAIR


def test_the_bundled_integers_are_what_calibration_gives_here(tmp_path: Path) -> None:
    """Whatever processor they were made on."""
    network = checkpoint.load(bundled.CHECKPOINT).network
    found = export(network, "onnx", "int8", tmp_path, datasets.calibration().images)
    ours, theirs = (
        {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}
        for path in (found, bundled.INT8)
    )
    assert ours.keys() == theirs.keys()
    for name, values in ours.items():
        np.testing.assert_array_equal(values, theirs[name], name)


@pytest.mark.slow
def test_no_instruction_set_changes_an_integer(folded: MobileNetV1, tmp_path: Path) -> None:
    integers = quantized(folded, datasets.calibration().images[:64])
    code = """
import sys
import numpy as np
from mnv1deploy import bundled, checkpoint, datasets
from mnv1deploy.quantization import quantize
pictures = datasets.calibration()
found = quantize(checkpoint.load(bundled.CHECKPOINT).network.folded(), pictures.images[:64], pictures.name)
np.savez(sys.argv[1], **{name: weights.values for name, weights in found.weights.items()})
print(found.activations)
"""
    oldest = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "OPENBLAS_CORETYPE": "Nehalem"}
    environment = {**os.environ, **oldest, "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"}
    arguments = [sys.executable, "-c", code, tmp_path / "weights.npz"]
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(integers.activations)
    with np.load(tmp_path / "weights.npz") as weights:
        for name, found in integers.weights.items():
            np.testing.assert_array_equal(weights[name], found.values, name)


@pytest.mark.slow
def test_memory_grows_with_the_pictures_by_a_byte_a_value() -> None:
    code = """
import resource
import numpy as np, torch
from mnv1deploy.network import MobileNetV1
from mnv1deploy.quantization import quantize
from mnv1deploy.spec import PAPER
torch.set_num_threads(1)
network = MobileNetV1(PAPER.scaled(0.25).replace(input_size=96)).eval().folded()
images = np.random.default_rng(0).integers(0, 256, (256, 96, 96, 3), np.uint8)
for count in (64, 256):
    quantize(network, images[:count], "noise")
    print(1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    few, many = map(int, done.stdout.split())
    layers = PAPER.scaled(0.25).replace(input_size=96).layers()
    largest = max(layer.out_channels * layer.out_size**2 for layer in layers)
    assert many - few < (256 - 64) * 4 * largest  # in float64, as it is computed, one layer alone takes 8


@pytest.mark.slow
def test_equalization_leaves_the_logits_and_narrows_the_ranges(folded: MobileNetV1, integers: Quantization) -> None:
    images = datasets.calibration().images
    some = torch.from_numpy(images[:100])
    with torch.inference_mode():
        np.testing.assert_allclose(integers.equalized(some), folded(some), atol=1e-3)
    before, after = (ranges.channel_maxima(network, images) for network in (folded, integers.equalized))
    for layer, reader in pairwise(folded.spec.layers()):
        if layer.kind not in ("pool", "linear"):
            alive = before[layer.name] > 1e-3  # a channel that never answers has no range to narrow
            spread = [np.log(maxima[layer.name][alive]).std() for maxima in (before, after)]
            assert spread[1] <= spread[0] * 1.01, layer.name
            if reader.kind == "depthwise":
                assert spread[1] < 0.3, layer.name


@pytest.mark.slow
def test_corrected_biases_give_every_channel_its_mean(folded: MobileNetV1) -> None:
    pictures = datasets.calibration().images[:128]
    found = quantize(folded, pictures, "test", replace(PLAIN, bias_correction=True))
    wanted = ranges.observe(folded, pictures)
    stem = next(iter(folded.spec.layers()))
    weight, bias = parameters_of(found.network, stem)
    with torch.inference_mode():
        output = layer_output(stem, folded.normalize(torch.from_numpy(pictures)), weight, bias)
    step = found.activations[INPUT].scale * found.weights["stem"].scales
    assert (np.abs(output.double().mean((0, 2, 3)).numpy() - wanted["stem"].channel_mean) <= step).all()


@given(st.integers(0, 2**31), st.integers(2, 24))
def test_compensated_rounding_makes_the_smaller_error(seed: int, size: int) -> None:
    """Of the outputs, over correlated inputs; that of a single channel may be larger."""
    random = np.random.default_rng(seed)
    layer = next(layer for layer in CIFAR.layers() if layer.kind == "pointwise")
    inputs = random.standard_normal((4 * size, size)) @ random.standard_normal((size, size)) + 1
    moments = (inputs.T @ inputs / len(inputs))[None]
    weight = random.standard_normal((64, size))
    scales = (np.abs(weight).max(1) / 60).astype(np.float32)
    errors = []
    for given_moments in (None, moments):
        values = rounded(layer, weight, scales, given_moments)
        assert np.array_equal(values, np.rint(values))
        loss = values * scales[:, None] - weight
        errors.append(np.einsum("oi,ij,oj->", loss, moments[0], loss))
    assert errors[1] <= errors[0] * 1.05


@pytest.mark.parametrize("padding", ["symmetric", "same"])
@pytest.mark.parametrize("kind", ["conv", "depthwise", "pointwise", "linear"])
@pytest.mark.parametrize("stride", [1, 2])
def test_moments_are_those_of_every_window(kind: str, stride: int, padding: str) -> None:
    """To the last digit, though pixels that lie alike are multiplied once for several windows."""
    spec = CIFAR.replace(input_size=30, padding=padding, stem=Block(20, stride), blocks=(Block(9, stride),))
    layer = next(layer for layer in spec.layers() if layer.kind == kind)
    shape = (layer.in_channels,) if kind == "linear" else (layer.in_channels, layer.in_size, layer.in_size)
    rng = np.random.default_rng(1)
    inputs = [torch.from_numpy(rng.integers(0, 256, (count, *shape), np.uint8)) for count in (3, 1)]
    found = moments(layer, inputs, Grid(0.5, 7))
    x = torch.cat(inputs).double() - 7
    if kind != "linear":
        top, left, bottom, right = layer.padding
        around = torch.nn.functional.pad(x, (left, right, top, bottom))
        x = torch.nn.functional.unfold(around, layer.kernel, stride=layer.stride)
        x = x.view(4, layer.groups, -1, x.shape[2]).permute(1, 0, 3, 2).flatten(1, 2)
    x = x.view(layer.groups, -1, x.shape[-1])
    np.testing.assert_array_equal(found.mean, x.mean(1).numpy())
    np.testing.assert_array_equal(found.second, (x.transpose(1, 2) @ x / x.shape[1]).numpy())


@pytest.mark.parametrize("kind", ["depthwise", "pointwise"])
@pytest.mark.parametrize("stride", [1, 2])
def test_quick_convolutions_in_float64_are_torchs(kind: str, stride: int) -> None:
    spec = CIFAR.replace(input_size=19, padding="same", stem=Block(20, 2), blocks=(Block(9, stride),))
    layer = next(layer for layer in spec.layers() if layer.kind == kind)
    torch.manual_seed(0)
    convolution = torch.nn.Conv2d(
        layer.in_channels, layer.out_channels, layer.kernel, layer.stride, groups=layer.groups
    ).double()
    x = torch.randn(2, layer.in_channels, layer.in_size, layer.in_size, dtype=torch.float64)
    top, left, bottom, right = layer.padding
    with torch.inference_mode():
        expected = convolution(torch.nn.functional.pad(x, (left, right, top, bottom)))
        found = layer_output(layer, x, convolution.weight, convolution.bias)
    torch.testing.assert_close(found, expected)


def test_a_large_network_is_run_a_few_pictures_at_a_time() -> None:
    """Whatever the batch, no layer's output takes more than BYTES_AT_ONCE, unless one picture does."""
    for spec in (CIFAR, PAPER, PAPER.replace(input_size=96).scaled(0.25), PAPER.replace(input_size=1024)):
        largest = max(layer.out_channels * layer.out_size**2 for layer in spec.layers())
        at_once = pictures_at_once(spec, 250, 8)
        assert at_once == 1 or 8 * at_once * largest <= BYTES_AT_ONCE
        assert 8 * (at_once + 1) * largest > BYTES_AT_ONCE or at_once == 250


@given(st.lists(st.floats(0, 1e3), min_size=1, max_size=100))
def test_moving_averages_are_of_the_same_batches_whatever_runs_at_once(maxima: list[float]) -> None:
    average = max(maxima[:32])
    for start in range(32, len(maxima), 32):
        average = 0.9 * average + 0.1 * max(maxima[start : start + 32])
    assert ranges._moving_average(maxima) == pytest.approx(average)


@pytest.mark.slow
def test_what_is_simulated_is_what_the_artifact_does(
    folded: MobileNetV1, integers: Quantization, tmp_path: Path
) -> None:
    images = datasets.sample().images
    network = checkpoint.load(bundled.CHECKPOINT).network
    session = formats.open_session(export(network, "onnx", "int8", tmp_path, datasets.calibration().images))
    with torch.inference_mode():
        simulated = integers.simulated()(torch.from_numpy(images)).numpy()
    logits = session(images)
    # a value on the edge of two integers may fall either way
    assert (simulated.argmax(1) == logits.argmax(1)).mean() >= 0.998
    assert differences(logits, simulated).mean() < 0.005


def test_simulating_no_layer_is_the_float_network(folded: MobileNetV1, integers: Quantization) -> None:
    images = torch.from_numpy(datasets.sample().images[:50])
    with torch.inference_mode():
        np.testing.assert_array_equal(integers.simulated(())(images), integers.equalized(images))


# Networks that are harder ------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("scheme", [PLAIN, DEFAULT], ids=["plain", "default"])
def test_a_dead_channel_keeps_its_bias(scheme: Scheme) -> None:
    """Weights of nearly zero must not make the bias's scale so fine that it overflows 32 bits."""
    torch.manual_seed(0)
    network = MobileNetV1(CIFAR).eval().folded()
    with torch.no_grad():
        convolution = network.get_submodule("block2.pointwise.conv")
        convolution.weight[3] = 1e-30
        convolution.bias[3] = 2.5
        convolution.weight[4] = 0
        convolution.bias[4] = 0
    found = quantize(network, datasets.calibration().images[:64], "test", replace(scheme, equalization=0.0))
    weights = found.weights["block2.pointwise"]
    step = found.activations["block2.depthwise"].scale * float(weights.scales[3])
    assert weights.bias[3] * step == pytest.approx(2.5, rel=1e-5)
    assert np.isfinite(weights.scales).all()
    assert (weights.scales > 0).all()
    whole = quantize(network, datasets.calibration().images[:64], "test", scheme)
    assert all(np.isfinite(part.scales).all() and (part.scales > 0).all() for part in whole.weights.values())


# Normalisations ----------------------------------------------------------------------------------------------------


def _stem_outputs(normalization: Normalization) -> tuple[MobileNetV1, torch.Tensor, torch.Tensor]:
    """A network whose normalisation was folded, and its stem's outputs before and after, ``[N, C, H, W]``."""
    torch.manual_seed(0)
    network = MobileNetV1(CIFAR.replace(normalization=normalization)).eval().folded().double()
    images = torch.from_numpy(datasets.calibration().images[:64])
    with torch.inference_mode():
        before = network.stem(network.normalize(images))
        fold_normalization(network)
        return network, before, network.stem(network.normalize(images))


def test_a_folded_normalisation_changes_only_the_border() -> None:
    """Padding is pixel z where it was pixel m, so outputs that read padding may differ, and no others."""
    tutorial = Normalization((125.3, 123.0, 113.9), (51.6, 50.8, 51.3))
    network, before, after = _stem_outputs(tutorial)
    inside = (slice(None), slice(None), slice(1, -1), slice(1, -1))
    torch.testing.assert_close(after[inside], before[inside], rtol=1e-6, atol=1e-6)
    assert (after - before).abs().max() > 1e-3
    assert network.spec.normalization.is_grid
    assert network.spec.normalization.quantization[1] == tutorial.quantization[1] == 121


@pytest.mark.parametrize("stds", [(64.0, 64.0, 64.0), (51.6, 50.8, 70.3)])
def test_a_folded_normalisation_changes_nothing_where_the_means_are_one_pixel(stds: tuple[float, ...]) -> None:
    network, before, after = _stem_outputs(Normalization((118.0,) * 3, stds))
    torch.testing.assert_close(after, before, rtol=1e-6, atol=1e-6)
    assert network.spec.normalization.is_grid


def test_raw_pixels_are_the_quantised_input_under_any_normalisation() -> None:
    torch.manual_seed(0)
    spec = CIFAR.replace(normalization=Normalization((125.3, 123.0, 113.9), (51.6, 50.8, 51.3)))
    found = quantize(MobileNetV1(spec).eval().folded(), datasets.calibration().images[:64], "test")
    scale, zero_point = spec.normalization.quantization
    assert found.activations[INPUT] == Grid(scale, zero_point)
    assert found.network.spec.normalization.quantization == (pytest.approx(scale), zero_point)
    assert found.network.spec.activation == "relu"
