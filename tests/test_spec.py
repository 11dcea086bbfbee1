"""The spec: plain data that cannot be wrong without saying so."""

import itertools
import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnv1deploy.errors import MnvError
from mnv1deploy.spec import CIFAR, PAPER, PRESETS, Block, ModelSpec, Normalization

blocks = st.builds(Block, st.integers(1, 600), st.sampled_from([1, 2]))
triples = st.tuples(*[st.floats(0.1, 255)] * 3)
specs = st.builds(
    lambda rows, scale, **rest: ModelSpec(blocks=tuple(rows), input_size=32 * scale, **rest),
    rows=st.lists(blocks, min_size=0, max_size=4),
    scale=st.integers(1, 8),
    name=st.text(min_size=1, max_size=10),
    classes=st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=12, unique=True).map(tuple),
    stem=blocks,
    width=st.floats(0.01, 16),
    stem_bias=st.booleans(),
    normalization=st.builds(Normalization, triples, triples),
)


@given(specs)
def test_json_both_ways(spec: ModelSpec) -> None:
    text = spec.to_json()
    assert ModelSpec.from_json(text) == spec
    assert ModelSpec.from_json(text.encode()).to_json() == text


@given(specs)
def test_layers_fit_together(spec: ModelSpec) -> None:
    layers = list(spec.layers())
    assert (layers[0].in_channels, layers[0].in_size) == (3, spec.input_size)
    for before, after in itertools.pairwise(layers):
        assert after.in_channels == before.out_channels
        assert after.in_size == before.out_size
    assert layers[-1].out_channels == len(spec.classes)
    assert layers[-2].in_size == spec.input_size // spec.total_stride
    assert len({layer.name for layer in layers}) == len(layers)


def test_the_cifar_network() -> None:
    names = [layer.name for layer in CIFAR.layers()]
    assert names[:3] == ["stem", "block1.depthwise", "block1.pointwise"]
    assert names[-3:] == ["block8.pointwise", "pool", "classifier"]
    outputs = [(layer.out_channels, layer.stride) for layer in CIFAR.layers() if layer.kind == "pointwise"]
    assert [channels for channels, _ in outputs] == [32, 64, 64, 128, 128, 256, 256, 512]
    strides = [layer.stride for layer in CIFAR.layers() if layer.kind == "depthwise"]
    assert strides == [1, 2, 1, 2, 1, 2, 1, 2]
    assert CIFAR.total_stride == 16
    assert [layer.name for layer in CIFAR.layers() if layer.bias] == ["stem", "classifier"]
    assert set(PRESETS.values()) == {CIFAR, PAPER}
    assert (PAPER.total_stride, len(PAPER.blocks), len(PAPER.classes)) == (32, 13, 1000)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": ()}, "at least one class"),
        ({"classes": ("a", "")}, "every class a name"),
        ({"classes": ("a", "a")}, "same name"),
        ({"width": 0.0}, "width multiplier"),
        ({"width": float("nan")}, "width multiplier"),
        ({"width": 17.0}, "width multiplier"),
        ({"stem": Block(0, 1)}, "at least one channel"),
        ({"blocks": (Block(8, 3),)}, "stride 1 or 2"),
        ({"input_size": 40}, "multiple of 16, from 32 up, not 40"),
        ({"input_size": 16}, "from 32 up"),
        ({"input_size": -32}, "from 32 up"),
    ],
)
def test_what_is_no_network_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(MnvError, match=message):
        CIFAR.replace(**changes)


def test_the_nearest_size_is_named() -> None:
    with pytest.raises(MnvError, match=r"48 is the nearest\."):
        CIFAR.replace(input_size=50)
    with pytest.raises(MnvError, match=r"32 is the nearest\."):
        CIFAR.replace(input_size=1)


@pytest.mark.parametrize("mean", [(1.0, 2.0), (1.0, 2.0, float("inf"))])
def test_a_mean_is_three_numbers(mean: tuple[float, ...]) -> None:
    with pytest.raises(MnvError, match="three finite numbers"):
        Normalization(mean=mean)  # type: ignore[arg-type]


def test_a_std_is_positive() -> None:
    with pytest.raises(MnvError, match="must be positive"):
        Normalization(std=(1.0, 0.0, 1.0))
    with pytest.raises(MnvError, match="three numbers"):
        Normalization.from_unit((0.5,), (0.5,))  # type: ignore[arg-type]


def test_when_raw_pixels_are_the_quantised_input() -> None:
    assert Normalization().quantization == (1 / 64, 128)
    assert Normalization((0.0,) * 3, (255.0,) * 3).quantization == (1 / 255, 0)
    assert Normalization((127.5,) * 3, (127.5,) * 3).quantization is None
    assert Normalization((128.0, 128.0, 127.0)).quantization is None
    assert Normalization((300.0,) * 3).quantization is None
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
        damaged(width="wide"),
        damaged(input_size=None),
    ],
)
def test_damaged_json_is_refused(text: str) -> None:
    with pytest.raises(MnvError):
        ModelSpec.from_json(text)


@pytest.mark.parametrize("module", ["mnv1deploy", "mnv1deploy.spec", "mnv1deploy.cli", "mnv1deploy.benchmark"])
def test_the_ground_floor_imports_nothing_heavy(module: str) -> None:
    script = (
        f"import sys, {module}\n"
        "heavy = {'torch', 'torchvision', 'onnx', 'onnxruntime', 'onnxsim', 'matplotlib', 'rich.progress'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
