"""Every format writes every network: colours, activations, paddings, sizes, channels and normalisations."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import export, quantized
from drawn import specs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mnv1deploy import datasets, formats, importing
from mnv1deploy.artifact import Precision
from mnv1deploy.network import MobileNetV1
from mnv1deploy.spec import CIFAR, Block, ModelSpec, Normalization

RUN_HERE = [
    (name, precision)
    for name in formats.exportable()
    for precision in formats.get(name).precisions
    if not formats.get(name).elsewhere
]
COMPILED = ("aoti", "executorch")
"""Formats that take a minute to write."""

LIMITS = {"fp32": 1e-4, "fp16": 0.02, "int8": 0.1}
"""How far a logit may be off, of the largest one: float from the network, int8 from what its integers say."""

SYMMETRIC = ("ncnn", "tensorrt")
"""Formats whose activations keep half of our grids' values in int8."""

SPECS = {
    "grey, SAME, relu6, odd, stem of stride 2, pruned": CIFAR.replace(
        input_size=33,
        colours=1,
        padding="same",
        activation="relu6",
        normalization=Normalization((127.5,), (127.5,)),
        stem=Block(7, 2),
        blocks=(Block(13, 1), Block(24, 2)),
    ),
    "SAME that is uneven, relu6, the tutorial's pixels": CIFAR.replace(
        padding="same",
        activation="relu6",
        normalization=importing.TUTORIAL_NORMALIZATION,
        stem=Block(8, 2),
        blocks=(Block(13, 2), Block(16, 2)),
    ),
    "symmetric, pruned, the tutorial's pixels": CIFAR.replace(
        normalization=importing.TUTORIAL_NORMALIZATION, stem=Block(7, 1), blocks=(Block(13, 2), Block(9, 1))
    ),
    "no blocks, 9 pixels, black is zero": CIFAR.replace(
        input_size=9, stem=Block(5, 2), blocks=(), normalization=Normalization((0.0,) * 3, (255.0,) * 3)
    ),
    "8 pixels down to one, a channel, pixels as they are": CIFAR.replace(
        input_size=8,
        colours=1,
        padding="same",
        stem=Block(1, 2),
        blocks=(Block(3, 2), Block(2, 2), Block(4, 2)),
        normalization=Normalization((0.0,), (1.0,)),
    ),
    "120 pixels": CIFAR.replace(
        input_size=120,
        padding="same",
        activation="relu6",
        stem=Block(8, 2),
        blocks=(Block(16, 1), Block(24, 2), Block(32, 2), Block(32, 2)),
        normalization=Normalization((127.5,) * 3, (127.5,) * 3),
    ),
}


def trained_looking(spec: ModelSpec, seed: int) -> tuple[MobileNetV1, np.ndarray]:
    """A network whose batch normalisations have seen pictures, and those."""
    torch.manual_seed(seed)
    network = MobileNetV1(spec)
    images = datasets.resized(datasets.calibration(), spec.pixels).images[:40]
    with torch.no_grad():
        for _ in range(3):
            network(torch.from_numpy(images))
    return network.eval(), images


@cache
def of_kind(kind: str) -> tuple[MobileNetV1, np.ndarray]:
    """The network of SPECS, and pictures; not to be changed."""
    return trained_looking(SPECS[kind], 0)


def answers(network: MobileNetV1, images: np.ndarray, precision: Precision) -> tuple[np.ndarray, np.ndarray]:
    """Its logits, and those to expect of an artifact."""
    with torch.inference_mode():
        logits = network(torch.from_numpy(images)).numpy()
        if precision != "int8":
            return logits, logits
        return logits, quantized(network.folded(), images).simulated()(torch.from_numpy(images)).numpy()


@cache
def answers_of_kind(kind: str, precision: Precision) -> tuple[np.ndarray, np.ndarray]:
    return answers(*of_kind(kind), precision)


def check(
    network: MobileNetV1,
    images: np.ndarray,
    wanted: tuple[np.ndarray, np.ndarray],
    name: str,
    precision: Precision,
    folder: Path,
) -> None:
    """Exports the network and compares its logits."""
    logits, expected = wanted
    found = formats.open_session(export(network, name, precision, folder, images), threads=1)(images)
    limit = LIMITS[precision] * (3 if precision == "int8" and name in SYMMETRIC else 1)
    assert np.abs(found - expected).max() <= limit * np.abs(logits).max()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "name", "precision"),
    [
        (kind, *case)
        for case in RUN_HERE
        if case[0] not in COMPILED
        for kind in (list(SPECS)[:2] if case[1] == "fp16" else SPECS)  # it differs from fp32 in the numbers alone
    ],
    ids=str,
)
def test_a_network_of_another_kind(
    kind: str, name: str, precision: Precision, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if name == "c" and kind != next(iter(SPECS)):
        request.getfixturevalue("unoptimised")
    check(*of_kind(kind), answers_of_kind(kind, precision), name, precision, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "name", "precision"),
    [(next(iter(SPECS)), *case) for case in RUN_HERE if case[0] in COMPILED and case[1] == "int8"],
    ids=str,
)
def test_a_network_of_another_kind_compiled(kind: str, name: str, precision: Precision, tmp_path: Path) -> None:
    """One kind in integers: the bundled network is written in floats elsewhere."""
    check(*of_kind(kind), answers_of_kind(kind, precision), name, precision, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "precision"),
    # what precisions differ in is no layer's
    [(kind, p) for p in formats.get("coreml").precisions for kind in (SPECS if p == "fp32" else list(SPECS)[:2])],
)
def test_core_ml_says_what_the_layers_say(kind: str, precision: Precision, tmp_path: Path) -> None:
    """It cannot be run here: what its convolutions and its image say is compared."""
    from test_coreml import model_of

    spec, (network, images) = SPECS[kind], of_kind(kind)
    model = model_of(export(network, "coreml", precision, tmp_path, images))
    image = model.description.input[0].type.imageType
    assert image.ColorSpace.Name(image.colorSpace) == {1: "GRAYSCALE", 3: "RGB"}[spec.colours]
    assert (image.width, image.height) == (spec.input_size, spec.input_size)
    (block,) = model.mlProgram.functions["main"].block_specializations.values()
    constants = {
        operation.outputs[0].name: operation.attributes["val"].immediateValue.tensor
        for operation in block.operations
        if operation.type == "const" and "val" in operation.attributes
    }
    convolutions = [operation for operation in block.operations if operation.type == "conv"]
    layers = [layer for layer in spec.layers() if layer.is_convolution]
    for operation, layer in zip(convolutions, layers, strict=True):
        said = {key: constants.get(operation.inputs[key].arguments[0].name) for key in ("pad", "strides", "groups")}
        top, left, bottom, right = layer.padding
        assert list(said["pad"].ints.values) == [top, bottom, left, right]
        assert list(said["strides"].ints.values) == [layer.stride] * 2
        assert list(said["groups"].ints.values) == [layer.groups]
    clipped = "relu6" if spec.activation == "relu6" and precision != "int8" else "relu"
    assert sum(operation.type == clipped for operation in block.operations) == len(layers)


@pytest.mark.slow
@pytest.mark.usefixtures("unoptimised")
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    spec=specs(),
    case=st.sampled_from([case for case in RUN_HERE if case[0] not in COMPILED]),
    seed=st.integers(0, 99),
)
def test_any_network(spec: ModelSpec, case: tuple[str, Precision], seed: int, tmp_path: Path) -> None:
    network, images = trained_looking(spec, seed)
    check(network, images, answers(network, images, case[1]), *case, tmp_path)
