"""The cost model against the paper, the textbook, and PyTorch's own counters."""

import subprocess
import sys

import figures
import pytest
import torch
from drawn import specs
from hypothesis import given, settings
from torch.utils.flop_counter import FlopCounterMode

from mnv1deploy.cost import BYTES, cost, separable_cost
from mnv1deploy.errors import MnvError
from mnv1deploy.network import MobileNetV1
from mnv1deploy.spec import CIFAR, PAPER, ModelSpec


def test_the_cifar_network() -> None:
    found = cost(CIFAR)
    assert found.parameters == 280_650
    assert found.multiply_adds == 7_872_512


@pytest.mark.parametrize(("width", "resolution", "millions", "parameters"), figures.PRINTED)
def test_tables_6_and_7_of_the_paper(width: float, resolution: int, millions: int, parameters: float) -> None:
    found = cost(PAPER.scaled(width).replace(input_size=resolution))
    # the paper rounds 568.7 up to 569 and cuts 290.7 down to 290
    assert abs(found.multiply_adds / 1e6 - millions) < 0.7
    assert round(found.parameters / 1e6, 1) == parameters


def test_the_textbook_case() -> None:
    assert separable_cost(10, 3, 3, 10) == (27_000, 2_700, 3_000)


def test_the_first_convolution_alone_is_more_than_5_69_million() -> None:
    """Why the 5.69 million of many tutorials cannot be right for 224x224."""
    assert cost(PAPER).layers[0].multiply_adds == 112 * 112 * 32 * 27 == 10_838_016


def test_the_ratio_is_that_of_the_formula() -> None:
    for spec in (CIFAR, PAPER):
        for layer in cost(spec).layers:
            if layer.kind == "pointwise":
                assert layer.ratio == pytest.approx(1 / layer.output[0] + 1 / 9)
            else:
                assert layer.ratio is layer.standard_multiply_adds is None


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(specs())
def test_any_network_costs_what_pytorch_counts(spec: ModelSpec) -> None:
    check_against_pytorch(spec)


@pytest.mark.parametrize("spec", [CIFAR, PAPER, PAPER.scaled(0.5).replace(input_size=160)], ids=lambda s: s.name)
def test_the_presets_cost_what_pytorch_counts(spec: ModelSpec) -> None:
    check_against_pytorch(spec)


def check_against_pytorch(spec: ModelSpec) -> None:
    """Parameters, multiply-adds and live memory of the real network, without computing anything."""
    with torch.device("meta"):
        network = MobileNetV1(spec).eval()
        picture = torch.zeros(1, *spec.pixels.shape, dtype=torch.uint8)
    held: list[int] = []
    size = {torch.uint8: 1, torch.float32: 4}

    def hook(module: torch.nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        # the first convolution's input is the uint8 picture, normalised on the fly
        before = inputs[0].numel() * (1 if not held else size[inputs[0].dtype])
        held.append(before + output.numel() * size[output.dtype])

    for layer in spec.layers():
        network.get_submodule(layer.name).register_forward_hook(hook)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(picture)
    found = cost(spec)
    assert found.parameters == sum(p.numel() for p in network.parameters())
    assert 2 * found.multiply_adds == counter.get_total_flops()
    assert [row.live_bytes for row in found.layers] == held
    assert found.peak_bytes == max(held)


def test_precision_sets_the_size_of_activations() -> None:
    sizes = {precision: cost(CIFAR, precision) for precision in BYTES}
    for precision, found in sizes.items():
        assert found.layers[0].activation_bytes == 32 * 32 * 32 * BYTES[precision]
        assert found.layers[-1].activation_bytes == 40
        assert found.multiply_adds == sizes["fp32"].multiply_adds
    with pytest.raises(MnvError, match="no precision int4"):
        cost(CIFAR, "int4")


def test_counting_needs_no_torch() -> None:
    script = (
        "import sys\n"
        "from mnv1deploy.cost import cost\n"
        "from mnv1deploy.spec import PAPER\n"
        "assert cost(PAPER).multiply_adds == 568_740_352\n"
        "assert not {'torch', 'onnx', 'onnxruntime'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
