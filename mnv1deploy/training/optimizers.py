"""Which optimizer moves which parameters, and how far."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mnv1deploy.network import PixelNetwork
from mnv1deploy.training.muon import Muon
from mnv1deploy.training.settings import Settings


class Optimizers:
    """SGD or AdamW, and Muon for the weights of full and pointwise convolutions where the settings ask for it.

    Weight decay is on the weights of full and pointwise convolutions and the classifier alone.

    Args:
        network: in channels_last memory format, for Muon.
        settings: which optimizer, how far and with what decay.

    Raises:
        RuntimeError: by torch, if Muon is asked for and a weight is in another memory format.
    """

    def __init__(self, network: PixelNetwork, settings: Settings) -> None:
        self._network = network
        parts: dict[str, list[Tensor]] = {"convolutions": [], "classifier": [], "others": [], "fast": []}
        for module in network.modules():
            for name, parameter in module.named_parameters(recurse=False):
                if parameter.requires_grad:
                    parts[_part(network, module, name)].append(parameter)
        convolutions = parts["convolutions"] if settings.muon else []
        decayed = parts["classifier"] + ([] if settings.muon else parts["convolutions"])
        decay, factor = settings.weight_decay, network.bias_rate
        groups: list[dict[str, Any]] = [
            {"params": decayed, "weight_decay": decay, "factor": 1.0},
            {"params": parts["others"], "weight_decay": 0.0, "factor": 1.0},
            {"params": parts["fast"], "weight_decay": decay / factor, "factor": factor},
        ]
        rate, momentum = settings.learning_rate, settings.momentum
        device = network.mean.device
        # rates are tensors, so that a recorded step reads those of the day
        groups = [{**group, "lr": torch.tensor(rate, device=device)} for group in groups if group["params"]]
        main: torch.optim.Optimizer = (
            torch.optim.SGD(groups, momentum=momentum, nesterov=momentum > 0, fused=True)
            if settings.optimizer == "sgd"
            else torch.optim.AdamW(groups, fused=True, capturable=device.type == "cuda")
        )
        self._all = [main]
        # Muon takes matrices; these share their memory with the convolutions' weights
        self._matrices = [(weight, _matrix(weight)) for weight in convolutions]
        if self._matrices:
            muon_rate = torch.tensor(settings.muon, device=device)
            muon = Muon([matrix for _, matrix in self._matrices], muon_rate, settings.muon_decay)
            muon.param_groups[0]["factor"] = settings.muon / rate
            self._all.append(muon)

    def set_rate(self, rate: float) -> None:
        """Every learning rate, in proportion, so that the main one is ``rate``."""
        for optimizer in self._all:
            for group in optimizer.param_groups:
                group["lr"].fill_(rate * group["factor"])

    def step(self, loss: Tensor, scaler: torch.amp.GradScaler) -> None:
        """Gradients of the loss, and one step along them."""
        self._network.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        for weight, matrix in self._matrices:
            assert weight.grad is not None
            matrix.grad = _rows(weight.grad).reshape(matrix.shape)
        for optimizer in self._all:
            scaler.step(optimizer)
        scaler.update()

    def state_dict(self) -> list[dict[str, Any]]:
        """For :meth:`load_state_dict`."""
        return [optimizer.state_dict() for optimizer in self._all]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """What :meth:`state_dict` gave; how far weights are moved is the settings' affair, not the states'."""
        for optimizer, state in zip(self._all, states, strict=True):
            options = [{name: group[name] for name in group if name != "params"} for group in optimizer.param_groups]
            optimizer.load_state_dict(state)
            for group, kept in zip(optimizer.param_groups, options, strict=True):
                group.update(kept)


def _rows(weight: Tensor) -> Tensor:
    """``[O, I, H, W]`` -> ``[O, H, W, I]``, the order of the memory of channels_last."""
    return weight.permute(0, 2, 3, 1)


def _matrix(weight: Tensor) -> Tensor:
    return nn.Parameter(_rows(weight.detach()).view(len(weight), -1), requires_grad=False)


def _part(network: PixelNetwork, module: nn.Module, name: str) -> str:
    if name == "weight" and isinstance(module, nn.Linear):
        return "classifier"
    if name == "weight" and isinstance(module, nn.Conv2d) and module.groups == 1:
        return "convolutions"
    return "fast" if network.bias_rate != 1 and isinstance(module, nn.BatchNorm2d) else "others"
