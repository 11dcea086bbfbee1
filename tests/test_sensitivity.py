"""What quantize-report measures: layer by layer and scheme by scheme, on real images."""

import json
from pathlib import Path

import pytest
from commands import mnv1, program
from conftest import write_class_folders
from PIL import Image

from mnv1deploy import datasets
from mnv1deploy.network import MobileNetV1
from mnv1deploy.quantization import DEFAULT, Quantization, sensitivity
from mnv1deploy.spec import Pixels

pytestmark = pytest.mark.slow


def test_every_layer_is_measured(integers: Quantization) -> None:
    told = []
    pictures = datasets.sample().subset(range(200), "200 images")
    found = sensitivity.measure(integers, pictures, lambda: told.append(1))
    names = [layer.name for layer in integers.network.spec.layers() if layer.kind != "pool"]
    assert [row.name for row in found.layers] == names
    assert len(told) == len(names)
    assert (found.images, found.dataset) == (200, "200 images")
    assert 0.85 < found.accuracy < 0.97
    for row in found.layers:
        assert 20 < row.weight_sqnr < 60
        assert 10 < row.output_sqnr < 60
        assert row.alone.divergence < found.together.divergence
        assert row.alone.agreement >= 0.99
        assert (row.activation_bound is None) == (row.clipped is None) == (row.name == "classifier")
    assert found.together.agreement >= 0.98
    assert found.layers[-1].output_sqnr < found.layers[0].output_sqnr, "noise adds up from layer to layer"


def test_a_layer_of_few_bits_is_found(integers: Quantization) -> None:
    """Rounding one layer's weights to five values makes that layer, and no other, the expensive one."""
    spoiled = integers.network.get_parameter("block3.pointwise.conv.weight").detach()
    kept = spoiled.clone()
    step = spoiled.abs().max() / 2
    spoiled.copy_((spoiled / step).round() * step)
    try:
        found = sensitivity.measure(integers, datasets.sample().subset(range(100), "100 images"))
    finally:
        spoiled.copy_(kept)
    rows = {row.name: row for row in found.layers}
    worst = max(rows, key=lambda name: rows[name].alone.divergence)
    assert worst == "block3.pointwise"
    assert min(rows, key=lambda name: rows[name].weight_sqnr) == worst


def test_the_default_scheme_is_the_one_that_loses_least(folded: MobileNetV1, cifar10: Path) -> None:
    """On pictures held out from training; within what chance allows of the best ranges, and far from plain rounding."""
    unseen = datasets.load_unseen(None, Pixels(32))
    assert (len(unseen), unseen.name) == (2500, "held-out part of CIFAR-10 train split")
    schemes = sensitivity.schemes(DEFAULT)
    pictures = unseen.subset(range(1000), "1,000 of them")  # the costs of two schemes are of the same pictures
    trials = list(sensitivity.compare(folded, datasets.calibration().images, pictures, schemes))
    cost = {trial.scheme: trial.deviation.divergence for trial in trials}
    assert cost[DEFAULT] <= 1.1 * min(cost.values())
    assert cost[DEFAULT] < 0.7 * cost[schemes[0]]


def test_the_command_reports_layers(tmp_path: Path) -> None:
    data = write_class_folders(tmp_path / "data", tuple(range(10)))
    done = mnv1("quantize-report", "--data", data, "--json", "--plot", tmp_path / "layers.png")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["quantization"]["ranges"] == DEFAULT.ranges
    assert found["dataset"].startswith("held-out part of ")
    for row in found["layers"]:
        assert len(row["weight_scales"]) in (10, 32, 64, 128, 256, 512)
        assert row["activation"] is None or row["activation"]["scale"] > 0
    with Image.open(tmp_path / "layers.png") as plot:
        assert plot.width > 1000


def test_the_command_in_words(tmp_path: Path) -> None:
    done = mnv1("quantize-report", "--ranges", "mse", "--data", write_class_folders(tmp_path, tuple(range(10))))
    assert done.returncode == 0, done.stderr
    assert "Ranges by mse" in done.stdout
    assert "block8.pointwise" in done.stdout
    for arguments, message in ((("--ranges", "median"), "no calibration method"),):
        refused = mnv1("quantize-report", *arguments)
        assert refused.returncode == 1
        assert message in refused.stderr


TWO_SCHEMES = """
import sys
from mnv1deploy import cli
from mnv1deploy.quantization import sensitivity
every = sensitivity.schemes
sensitivity.schemes = lambda base: every(base)[:2]
sys.argv[0] = "mnv1"
cli.main()
"""


def test_the_command_compares_schemes(tmp_path: Path) -> None:
    """The first two of them, which are compared in full above."""
    outputs = []
    data = ["--data", write_class_folders(tmp_path / "data", tuple(range(10)))]
    (tmp_path / "two.py").write_text(TWO_SCHEMES)
    for arguments in (["--json"], data):
        done = program(tmp_path / "two.py", "quantize-report", "--compare", *arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        outputs.append(done.stdout)
    found = json.loads(outputs[0])
    assert found["dataset"] == datasets.sample().name
    trials = found["trials"]
    assert [trial["scheme"]["ranges"] for trial in trials] == [
        scheme.ranges for scheme in sensitivity.schemes(DEFAULT)[:2]
    ]
    assert len({scheme.ranges for scheme in sensitivity.schemes(DEFAULT)}) == 5
    assert all(trial["scheme"]["ranges"] in outputs[1] for trial in trials)
