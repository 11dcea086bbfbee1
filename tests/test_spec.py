"""The spec: plain data that cannot be wrong without saying so."""

import itertools
import json
import subprocess
import sys

import pytest
from drawn import specs
from hypothesis import given

from mnv1deploy.errors import MnvError
from mnv1deploy.spec import CIFAR, PAPER, PRESETS, Block, ModelSpec, Normalization


@pytest.mark.slow
@given(specs())
def test_json_both_ways(spec: ModelSpec) -> None:
    text = spec.to_json()
    assert ModelSpec.from_json(text) == spec
    assert ModelSpec.from_json(text.encode()).to_json() == text


@given(specs())
def test_layers_fit_together(spec: ModelSpec) -> None:
    layers = list(spec.layers())
    assert (layers[0].in_channels, layers[0].in_size) == (spec.colours, spec.input_size)
    for before, after in itertools.pairwise(layers):
        assert after.in_channels == before.out_channels
        assert after.in_size == before.out_size
    assert layers[-1].out_channels == len(spec.classes)
    assert all(layer.out_size == -(-layer.in_size // layer.stride) for layer in layers if layer.is_convolution)
    for layer in layers:
        if layer.is_convolution:  # the last window ends inside the padded input
            top, left, bottom, right = layer.padding
            assert (top, bottom) == (left, right)
            assert (layer.out_size - 1) * layer.stride + layer.kernel <= top + layer.in_size + bottom
    assert len({layer.name for layer in layers}) == len(layers)


def test_the_cifar_network() -> None:
    names = [layer.name for layer in CIFAR.layers()]
    assert names[:3] == ["stem", "block1.depthwise", "block1.pointwise"]
    assert names[-3:] == ["block8.pointwise", "pool", "classifier"]
    outputs = [(layer.out_channels, layer.stride) for layer in CIFAR.layers() if layer.kind == "pointwise"]
    assert [channels for channels, _ in outputs] == [32, 64, 64, 128, 128, 256, 256, 512]
    strides = [layer.stride for layer in CIFAR.layers() if layer.kind == "depthwise"]
    assert strides == [1, 2, 1, 2, 1, 2, 1, 2]
    assert [layer.name for layer in CIFAR.layers() if layer.bias] == ["stem", "classifier"]
    assert set(PRESETS.values()) == {CIFAR, PAPER}
    assert (len(PAPER.blocks), len(PAPER.classes)) == (13, 1000)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": ()}, "at least one class"),
        ({"classes": ("a", "")}, "every class a name"),
        ({"classes": ("a", "a")}, "same name"),
        ({"name": "a/b"}, "name becomes that of files"),
        ({"name": ""}, "name becomes that of files"),
        ({"activation": "none"}, "relu or relu6"),
        ({"padding": "valid"}, "symmetric or same"),
        ({"colours": 2}, "3 colours"),
        ({"colours": 1}, "as many means"),
        ({"stem": Block(0, 1)}, "at least one channel"),
        ({"blocks": (Block(8, 3),)}, "stride 1 or 2"),
        ({"input_size": 7}, "8 pixels or more, not 7"),
        ({"input_size": -32}, "8 pixels or more, not -32"),
    ],
)
def test_what_is_no_network_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(MnvError, match=message):
        CIFAR.replace(**changes)


@pytest.mark.parametrize("width", [0.0, float("nan"), 17.0, -1.0])
def test_a_width_multiplier_has_bounds(width: float) -> None:
    with pytest.raises(MnvError, match="width multiplier"):
        CIFAR.scaled(width)


def test_a_width_multiplier_keeps_eight_channels() -> None:
    assert {block.channels for block in CIFAR.scaled(0.01).blocks} == {8}
    assert [block.channels for block in CIFAR.scaled(0.5).blocks] == [16, 32, 32, 64, 64, 128, 128, 256]


def test_padding_is_tensorflows_where_it_is_said_so() -> None:
    same = CIFAR.replace(padding="same", input_size=30)
    found = [(layer.in_size, layer.stride, layer.padding) for layer in same.layers() if layer.kind == "depthwise"]
    even, odd = (0, 0, 1, 1), (1, 1, 1, 1)
    assert found[:4] == [(30, 1, odd), (30, 2, even), (15, 1, odd), (15, 2, odd)]
    assert {layer.padding for layer in CIFAR.layers() if layer.kernel == 3} == {odd}


@pytest.mark.parametrize("mean", [(1.0, 2.0), (1.0, 2.0, float("inf"))])
def test_a_mean_is_three_numbers(mean: tuple[float, ...]) -> None:
    with pytest.raises(MnvError, match="three finite numbers"):
        Normalization(mean=mean)  # type: ignore[arg-type]


def test_a_std_is_positive() -> None:
    with pytest.raises(MnvError, match="must be positive"):
        Normalization(std=(1.0, 0.0, 1.0))
    with pytest.raises(MnvError, match="as many means as stds"):
        Normalization.from_unit((0.5,), (0.5, 0.5, 0.5))


def test_when_raw_pixels_are_the_quantised_input() -> None:
    assert Normalization().quantization == (1 / 64, 128)
    assert Normalization((0.0,) * 3, (255.0,) * 3).quantization == (1 / 255, 0)
    assert Normalization((127.5,) * 3, (127.5,) * 3).quantization == (1 / 127.5, 128)
    assert Normalization((120.0, 121.0, 125.0), (50.0, 60.0, 70.0)).quantization == (1 / 60, 122)
    assert Normalization((300.0,), (64.0,)).quantization == (1 / 64, 255)
    assert Normalization.from_unit((0.4, 0.4, 0.4), (0.2, 0.2, 0.2)).mean == pytest.approx((102, 102, 102))


def damaged(**changes: object) -> str:
    return json.dumps({**json.loads(CIFAR.to_json()), **changes})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "3",
        "null",
        "{}",
        "{",
        damaged(stem=3),
        damaged(blocks=[{"channels": 8}]),
        damaged(normalization={"mean": 1}),
        damaged(surprise=1),
        damaged(colours="many"),
        damaged(preprocessing={"resize": "best", "crop": 1.0}),
        damaged(version="2"),
        damaged(version=True),
        damaged(input_size=None),
    ],
)
def test_damaged_json_is_refused(text: str) -> None:
    with pytest.raises(MnvError):
        ModelSpec.from_json(text)


def test_what_version_1_wrote_is_read() -> None:
    old = json.loads(CIFAR.to_json())
    for new in ("version", "colours", "activation", "padding", "preprocessing", "temperature"):
        del old[new]
    assert ModelSpec.from_dict({**old, "width": 1.0}) == CIFAR
    assert ModelSpec.from_dict({**old, "width": 0.25}) == CIFAR.scaled(0.25)


def test_a_later_version_is_refused_by_name() -> None:
    with pytest.raises(MnvError, match="of version 5; this mnv1deploy knows versions 1 to 4"):
        ModelSpec.from_json(damaged(version=5))


def test_how_jpegs_are_decoded_is_written_where_it_is_not_whole() -> None:
    scaled = CIFAR.with_jpeg("scaled")
    assert scaled.preprocessing.jpeg == "scaled"
    assert CIFAR.with_jpeg(None) == CIFAR == scaled.with_jpeg("whole")
    written = scaled.to_dict()
    assert (written["version"], written["preprocessing"].pop("jpeg")) == (4, "scaled")
    assert {**written, "version": 3} == CIFAR.to_dict()
    assert ModelSpec.from_json(scaled.to_json()) == scaled
    with pytest.raises(MnvError, match="JPEGs are decoded whole or scaled, not half"):
        CIFAR.with_jpeg("half")  # type: ignore[arg-type]


@pytest.mark.parametrize("module", ["mnv1deploy", "mnv1deploy.spec", "mnv1deploy.cli", "mnv1deploy.benchmark"])
def test_the_ground_floor_imports_nothing_heavy(module: str) -> None:
    script = (
        f"import sys, {module}\n"
        "heavy = {'torch', 'torchvision', 'onnx', 'onnxruntime', 'matplotlib', 'rich.progress'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
