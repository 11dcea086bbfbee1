"""Probabilities: what temperature does to them, how it is found, and how far off they are."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mnv1deploy import bundled, checkpoint, datasets, formats, verification
from mnv1deploy.artifact import read_checkpoint_metadata
from mnv1deploy.confidence import PRIOR, calibration_error, fitted_temperature, probabilities
from mnv1deploy.errors import MnvError
from mnv1deploy.spec import CIFAR, ModelSpec
from mnv1deploy.training.run import Run
from mnv1deploy.training.settings import Settings
from mnv1deploy.training.setup import base_spec


def drawn(temperature: float, count: int = 20_000, classes: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Logits of a network that is ``temperature`` times too sure of itself, and labels as likely as it should say."""
    rng = np.random.default_rng(0)
    honest = rng.normal(0, 2, (count, classes))
    odds = probabilities(honest).cumsum(1)
    labels = (rng.random((count, 1)) > odds).sum(1).clip(0, classes - 1)
    return temperature * honest, labels


@pytest.mark.parametrize("temperature", [0.3, 1.0, 1.8, 7.0])
def test_the_temperature_by_which_a_network_is_too_sure_is_found(temperature: float) -> None:
    logits, labels = drawn(temperature)
    found = fitted_temperature(logits, labels)
    assert found == pytest.approx(temperature, rel=0.04)
    assert calibration_error(probabilities(logits, found), labels) < 0.01
    if temperature != 1:
        assert calibration_error(probabilities(logits), labels) > 0.05


def test_no_other_temperature_makes_the_labels_likelier() -> None:
    logits, labels = drawn(1.8, count=50 * PRIOR)
    likelihood = {
        at: np.log(probabilities(logits, at)[np.arange(len(labels)), labels]).mean() for at in np.arange(1, 3, 0.01)
    }
    assert fitted_temperature(logits, labels) == pytest.approx(max(likelihood, key=lambda at: likelihood[at]), abs=0.05)


def test_few_pictures_that_are_all_right_make_no_oracle() -> None:
    """Without more, the likeliest temperature would be zero."""
    logits = np.array([[1.0, 0.0], [0.0, 1.0]])
    found = fitted_temperature(logits, np.array([0, 1]))
    assert 0.8 < found < 1
    assert 1 < fitted_temperature(logits, np.array([1, 1])) < 1.2
    assert fitted_temperature(np.empty((0, 2)), np.empty(0, np.int64)) == 1
    assert fitted_temperature(np.ones((5, 1)), np.zeros(5, np.int64)) == 1


def test_probabilities_of_any_logits_sum_to_one() -> None:
    logits = np.array([[1e4, -1e4, 0], [5, 5, 5]], np.float32)
    for temperature in (0.05, 1, 20):
        found = probabilities(logits, temperature)
        np.testing.assert_allclose(found.sum(1), 1)
        np.testing.assert_allclose(found[1], 1 / 3)
        assert found[0].argmax() == 0


def test_the_calibration_error_by_hand() -> None:
    """Two bins: three answers of 0.9, two of them right, and one of 0.6 that is right."""
    shares = np.array([[0.9, 0.1], [0.9, 0.1], [0.1, 0.9], [0.6, 0.4]])
    labels = np.array([0, 0, 0, 0])
    assert calibration_error(shares, labels) == pytest.approx(abs(3 * 0.9 - 2) / 4 + abs(0.6 - 1) / 4)
    assert calibration_error(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([0, 1])) == 0


@pytest.mark.parametrize("temperature", [0, -1.0, float("nan"), float("inf"), "1", None])
def test_a_temperature_that_is_none_is_refused(temperature: object) -> None:
    text = json.dumps({**CIFAR.to_dict(), "temperature": temperature})
    with pytest.raises(MnvError):
        ModelSpec.from_json(text)


def test_a_spec_of_version_2_has_temperature_1() -> None:
    old = {**CIFAR.to_dict(), "version": 2}
    del old["temperature"]
    assert ModelSpec.from_dict(old) == CIFAR
    assert CIFAR.temperature == 1


@pytest.mark.slow
def test_what_is_bundled_has_the_temperature_of_its_held_out_pictures(cifar10_folder: Path) -> None:
    """In the checkpoint and in both artifacts."""
    spec = ModelSpec.from_dict(read_checkpoint_metadata(bundled.CHECKPOINT)["spec"])
    for artifact in (bundled.INT8, bundled.FP32):
        assert formats.open_session(artifact).spec.temperature == spec.temperature
    unseen = datasets.load_unseen(cifar10_folder, spec.pixels)
    found = verification.evaluate(formats.open_session(bundled.FP32), unseen)
    assert found.temperature == spec.temperature
    assert fitted_temperature(found.logits, unseen.labels) == pytest.approx(spec.temperature, abs=2e-4)
    assert found.calibration_error() < found.calibration_error(1.0)


@pytest.mark.slow
def test_a_run_fits_a_temperature_to_its_held_out_pictures(tmp_path: Path) -> None:
    settings = Settings.recipe("quick", epochs=2, batch_size=64, holdout=0.2, ema=0.9)
    run = Run(CIFAR.scaled(0.25), datasets.calibration(), settings, tmp_path)
    run.fit()
    network = checkpoint.load(run.checkpoint).network
    with torch.inference_mode():
        logits = network(torch.from_numpy(run.parts.holdout.images)).numpy()
    assert network.spec.temperature == fitted_temperature(logits, run.parts.holdout.labels) != 1
    evaluation = run.measure(datasets.sample())
    assert evaluation.temperature == checkpoint.load(run.checkpoint).spec.temperature == network.spec.temperature


def test_a_run_that_holds_nothing_out_has_temperature_1(tmp_path: Path) -> None:
    settings = Settings.recipe("quick", epochs=1, batch_size=64, holdout=0.0)
    run = Run(CIFAR.scaled(0.25), datasets.calibration(), settings, tmp_path)
    assert checkpoint.load(run.fit()).spec.temperature == 1


def test_a_run_does_not_start_from_the_temperature_of_another() -> None:
    assert checkpoint.load(bundled.CHECKPOINT).spec.temperature != 1
    assert base_spec(bundled.CHECKPOINT).temperature == 1
