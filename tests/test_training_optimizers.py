"""Which optimizer moves which weights, and the average of them."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mnv1deploy.datasets import calibration
from mnv1deploy.network import MobileNetV1, PixelNetwork
from mnv1deploy.spec import CIFAR
from mnv1deploy.training.average import Average
from mnv1deploy.training.muon import Muon, orthogonalized
from mnv1deploy.training.optimizers import Optimizers
from mnv1deploy.training.settings import Settings
from mnv1deploy.training.teacher import Teacher

SMALL = CIFAR.scaled(0.25)


def groups_of(network: PixelNetwork, settings: Settings) -> dict[int, dict[str, Any]]:
    """By the address of a parameter: its optimizer, its weight decay and its rate where the main one is 1."""
    optimizers = Optimizers(network, settings)
    optimizers.set_rate(1.0)
    found = {}
    for optimizer in optimizers._all:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                found[parameter.data_ptr()] = {"optimizer": type(optimizer).__name__, **group}
    assert {parameter.data_ptr() for parameter in network.parameters() if parameter.requires_grad} <= set(found)
    return found


def dense_weights(network: nn.Module) -> set[int]:
    modules = [m for m in network.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    return {m.weight.data_ptr() for m in modules if isinstance(m, nn.Linear) or m.groups == 1}


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("muon", [0.0, 0.03])
def test_weight_decay_is_on_dense_weights_alone(optimizer: str, muon: float) -> None:
    network = MobileNetV1(SMALL).to(memory_format=torch.channels_last)
    settings = Settings.recipe("quick", optimizer=optimizer, muon=muon, muon_decay=0.01)
    dense = dense_weights(network)
    convolutions = dense - {network.classifier.weight.data_ptr()}
    for pointer, group in groups_of(network, settings).items():
        if muon and pointer in convolutions:
            assert (group["optimizer"], group["weight_decay"]) == ("Muon", 0.01)
            assert group["lr"] == pytest.approx(muon / settings.learning_rate)
        else:
            assert group["optimizer"] == {"sgd": "SGD", "adamw": "AdamW"}[optimizer]
            assert group["weight_decay"] == (settings.weight_decay if pointer in dense else 0)
            assert group["lr"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", [MobileNetV1, Teacher])
def test_muon_moves_the_weights_of_the_network_itself(kind: type[PixelNetwork]) -> None:
    network = kind(SMALL).to(memory_format=torch.channels_last)
    learning = {name: weight for name, weight in network.named_parameters() if weight.requires_grad}
    before = {name: weight.clone() for name, weight in learning.items()}
    optimizers = Optimizers(network, Settings.recipe("quick", muon=0.03, momentum=0.0))
    optimizers.set_rate(0.2)
    pixels, labels = (torch.from_numpy(part[:32]) for part in (calibration().images, calibration().labels))
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    optimizers.step(nn.functional.cross_entropy(network(pixels), labels), scaler)
    for name, weight in learning.items():
        change = (weight - before[name]).detach()
        assert change.any(), name
        if weight.ndim == 4 and "depthwise" not in name:
            # an orthogonalised step: all its singular values are about the learning rate
            values = torch.linalg.svdvals(change.flatten(1)) / 0.03
            assert 0.3 < values.median() < 2, name


@pytest.mark.parametrize("shape", [(64, 32), (32, 64), (48, 48), (10, 27)])
def test_muon_is_torchs_but_for_its_precision(shape: tuple[int, int]) -> None:
    draw = torch.Generator().manual_seed(0)
    start, *gradients = (torch.randn(shape, generator=draw) for _ in range(4))
    mine, theirs = start.clone(), start.clone().requires_grad_()
    ours = Muon([mine], torch.tensor(0.05), 0.1)
    reference = torch.optim.Muon([theirs], 0.05, weight_decay=0.1, momentum=0.9)
    for gradient in gradients:
        mine.grad, theirs.grad = gradient.clone(), gradient.clone()
        ours.step()
        reference.step()
    assert (mine - start).norm() > 0.1
    assert (mine - theirs).norm() < 0.02 * (mine - start).norm()  # bfloat16's


def test_orthogonalized_is_u_times_v() -> None:
    matrix = torch.randn(40, 90, generator=torch.Generator().manual_seed(0))
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    found = u.T @ orthogonalized(matrix) @ v.T
    values = found.diagonal()
    assert values.min() > 0.6
    assert values.max() < 1.3
    assert (found - values.diag()).abs().max() < 1e-3


def test_the_teachers_biases_learn_faster() -> None:
    network = Teacher(CIFAR).to(memory_format=torch.channels_last)
    settings = Settings.recipe("teacher")
    fast = {m.bias.data_ptr() for m in network.modules() if isinstance(m, nn.BatchNorm2d)}
    for pointer, group in groups_of(network, settings).items():
        usual = settings.muon / settings.learning_rate if group["optimizer"] == "Muon" else 1
        assert group["lr"] == (Teacher.bias_rate if pointer in fast else usual)
        if pointer in fast:
            assert group["lr"] * group["weight_decay"] == pytest.approx(settings.weight_decay)


def test_the_average_is_the_bias_corrected_one() -> None:
    """Against the sum over all steps: weights (1 - d) d^(n - k) for step k, divided by 1 - d^n."""
    decay, steps = 0.8, 7
    network = MobileNetV1(SMALL)
    average = Average(network, decay)
    history = []
    for step in range(1, steps + 1):
        with torch.no_grad():
            network.classifier.weight.normal_()
            network.stem.norm.running_mean.normal_()
        history.append((network.classifier.weight.detach().clone(), network.stem.norm.running_mean.clone()))
        average.update(step)
    factors = [(1 - decay) * decay ** (steps - k) / (1 - decay**steps) for k in range(1, steps + 1)]
    assert sum(factors) == pytest.approx(1)
    for found, part in ((average.network.classifier.weight.detach(), 0), (average.network.stem.norm.running_mean, 1)):
        expected = sum(factor * values[part] for factor, values in zip(factors, history, strict=True))
        np.testing.assert_allclose(found, expected, atol=1e-5)
