"""Which optimizer moves which parameters, and how far."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mnv1deploy.network import PixelNetwork
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
        self._convolutions = parts["convolutions"] if settings.muon else []
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
        self._main: torch.optim.Optimizer = (
            torch.optim.SGD(groups, momentum=momentum, nesterov=momentum > 0, fused=True)
            if settings.optimizer == "sgd"
            else torch.optim.AdamW(groups, fused=True, capturable=device.type == "cuda")
        )
        self._all: list[torch.optim.Optimizer] = [self._main]
        # Muon takes matrices; these share their memory with the convolutions' weights
        self._matrices = [_rows(weight.detach()).view(len(weight), -1) for weight in self._convolutions]
        self._muon_factor, self._muon_decay = settings.muon / rate, settings.muon_decay
        self._muon_rate = torch.tensor(settings.muon, device=device)
        # its rate is a number, not a tensor: at rate 1 it moves zeros, by what the weights are then moved by
        self._moves: list[Tensor] = [nn.Parameter(torch.zeros_like(matrix)) for matrix in self._matrices]
        self._all += [torch.optim.Muon([move], 1.0, weight_decay=0.0, momentum=0.9) for move in self._moves]
        # Muon's short kernels, one after the other, would take a GPU as long as half the network's
        self._streams: list[torch.cuda.Stream] = []
        if device.type == "cuda":
            self._streams = [torch.cuda.Stream(device) for _ in self._all]  # type: ignore[no-untyped-call]

    def set_rate(self, rate: float) -> None:
        """Every learning rate, in proportion, so that the main one is ``rate``."""
        for group in self._main.param_groups:
            group["lr"].fill_(rate * group["factor"])
        self._muon_rate.fill_(rate * self._muon_factor)

    def step(self, loss: Tensor, scaler: torch.amp.GradScaler) -> None:
        """Gradients of the loss, and one step along them."""
        self._network.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        for weight, move in zip(self._convolutions, self._moves, strict=True):
            assert weight.grad is not None
            move.grad = _rows(weight.grad).reshape(move.shape)
        if self._streams and not scaler.is_enabled():
            self._step_side_by_side()
        else:
            for optimizer in self._all:
                scaler.step(optimizer)
            scaler.update()
        if self._moves:
            self._move()

    def _step_side_by_side(self) -> None:
        """Every optimizer on a stream of its own."""
        here = torch.cuda.current_stream()
        for optimizer, stream in zip(self._all, self._streams, strict=True):
            stream.wait_stream(here)
            with torch.cuda.stream(stream):
                optimizer.step()
        for stream in self._streams:
            here.wait_stream(stream)

    @torch.no_grad()
    def _move(self) -> None:
        """Moves what Muon is for, with decoupled weight decay, and has the moves begin at zero again."""
        torch._foreach_mul_(self._matrices, 1 - self._muon_rate * self._muon_decay)
        torch._foreach_mul_(self._moves, self._muon_rate)
        torch._foreach_add_(self._matrices, self._moves)
        torch._foreach_zero_(self._moves)

    def state_dict(self) -> list[dict[str, Any]]:
        """For :meth:`load_state_dict`."""
        return [optimizer.state_dict() for optimizer in self._all]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """What :meth:`state_dict` gave; how far weights are moved is the settings' affair, not the states'.

        States of 0.1.0 have one Muon for all matrices.
        """
        if len(states) < len(self._all):
            main, muon = states
            apart = [{0: muon["state"][index]} if muon["state"] else {} for index in range(len(self._moves))]
            states = [main, *({"state": state, "param_groups": [{"params": [0]}]} for state in apart)]
        for optimizer, state in zip(self._all, states, strict=True):
            options = [{name: group[name] for name in group if name != "params"} for group in optimizer.param_groups]
            optimizer.load_state_dict(state)
            for group, kept in zip(optimizer.param_groups, options, strict=True):
                group.update(kept)


def _rows(weight: Tensor) -> Tensor:
    """``[O, I, H, W]`` -> ``[O, H, W, I]``, the order of the memory of channels_last."""
    return weight.permute(0, 2, 3, 1)


def _part(network: PixelNetwork, module: nn.Module, name: str) -> str:
    if name == "weight" and isinstance(module, nn.Linear):
        return "classifier"
    if name == "weight" and isinstance(module, nn.Conv2d) and module.groups == 1:
        return "convolutions"
    return "fast" if network.bias_rate != 1 and isinstance(module, nn.BatchNorm2d) else "others"
