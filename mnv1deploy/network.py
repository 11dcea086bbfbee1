"""MobileNetV1 in PyTorch, built layer by layer from its ModelSpec."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from mnv1deploy.spec import CIFAR, Layer, ModelSpec


def _convolution(layer: Layer) -> nn.Sequential:
    around, padding = split_padding(layer)
    parts: dict[str, nn.Module] = {"pad": nn.ZeroPad2d(around)} if around else {}
    parts["conv"] = nn.Conv2d(
        layer.in_channels,
        layer.out_channels,
        layer.kernel,
        layer.stride,
        padding=padding,
        groups=layer.groups,
        bias=layer.bias,
    )
    parts["norm"] = nn.BatchNorm2d(layer.out_channels)
    parts["act"] = activation(layer)
    return nn.Sequential(OrderedDict(parts))


def split_padding(layer: Layer) -> tuple[tuple[int, int, int, int] | None, int]:
    """A layer's padding for torch, whose convolutions have one number for every side.

    Returns what has to be put around the input before (left, right, top, bottom), if anything, and that number.
    """
    top, left, bottom, right = layer.padding
    return (None, top) if layer.pads_evenly else ((left, right, top, bottom), 0)


def activation(layer: Layer, *, inplace: bool = True) -> nn.Module:
    """The module of a layer's activation."""
    kinds = {"relu": nn.ReLU(inplace=inplace), "relu6": nn.ReLU6(inplace=inplace), "none": nn.Identity()}
    return kinds[layer.activation]


class PixelNetwork(nn.Module):
    """A network that knows its spec and takes raw pixels: uint8 ``[N, H, W, C]`` -> float32 ``[N, classes]``.

    Attributes:
        bias_rate: how many times the learning rate the biases of its batch normalisations have in training.
        is_dense: whether its convolutions are full ones; depthwise ones gain nothing from bfloat16 on CPUs.
    """

    bias_rate: ClassVar[float] = 1.0
    is_dense: ClassVar[bool] = False

    mean: Tensor
    std: Tensor

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        for name in ("mean", "std"):
            values = torch.tensor(getattr(spec.normalization, name)).view(1, -1, 1, 1)
            self.register_buffer(name, values, persistent=False)

    def prepare(self, images: Tensor) -> None:
        """Sets, before training, what is computed from its pictures and not learned: here nothing.

        Args:
            images: uint8 ``[N, H, W, C]``, on any device.
        """

    def normalize(self, images: Tensor) -> Tensor:
        """uint8 ``[N, H, W, C]`` -> the first convolution's input, ``[N, C, H, W]`` in the weights' dtype.

        The result is in channels_last memory format, being a view of the pixels' own layout; in float64, for which
        PyTorch has no convolutions of that format and is 2.4 times as slow with it, contiguous.
        """
        x = (images.permute(0, 3, 1, 2).to(self.mean.dtype) - self.mean) / self.std
        return x.contiguous() if x.dtype == torch.float64 else x


class MobileNetV1(PixelNetwork):
    """The network of a spec, with the project's one contract: raw pixels in, logits out.

    Its submodules have the names of ``spec.layers()``: ``stem``, ``block1.depthwise``, ..., ``classifier``.
    Every convolution is a Sequential of ``conv``, ``norm`` and ``act``, with a ``pad`` before them where the padding is
    not the same on every side; :meth:`folded` has no ``norm``.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        for layer in spec.layers():
            if layer.kind == "pool":
                self.pool = nn.AvgPool2d(layer.kernel)
            elif layer.kind == "linear":
                self.classifier = nn.Linear(layer.in_channels, layer.out_channels)
            else:
                parent, _, child = layer.name.rpartition(".")
                if parent and not hasattr(self, parent):
                    self.add_module(parent, nn.Sequential())
                self.get_submodule(parent).add_module(child or layer.name, _convolution(layer))
        self._initialize()

    def _initialize(self) -> None:
        """He initialisation by fan-out (arXiv 1502.01852); the classifier starts near zero."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    @property
    def feature_layers(self) -> list[str]:
        """Names of the convolutions, in order."""
        return [layer.name for layer in self.spec.layers() if layer.is_convolution]

    def forward(self, images: Tensor) -> Tensor:
        """Raw pixels, uint8 ``[N, H, W, C]`` -> logits, float32 ``[N, classes]``."""
        x = self.normalize(images)
        for name in self.feature_layers:
            x = self.get_submodule(name)(x)
        logits: Tensor = self.classifier(self.pool(x).flatten(1))
        return logits.float()

    def folded(self) -> MobileNetV1:
        """A copy for inference whose batch normalisations are folded into the convolutions before them.

        The fold is computed in float64 and rounded once.
        """
        network = copy.deepcopy(self).double().eval()
        for layer in network.spec.layers():
            if not layer.is_convolution:
                continue
            parts = dict(network.get_submodule(layer.name).named_children())
            conv, norm = parts["conv"], parts.pop("norm")
            assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
            parts |= {"conv": fuse_conv_bn_eval(conv, norm), "act": activation(layer, inplace=False)}
            parent, _, child = layer.name.rpartition(".")
            network.get_submodule(parent).add_module(child, nn.Sequential(OrderedDict(parts)))
        return network.to(self.mean.dtype)


def mobilenetv1_small() -> MobileNetV1:
    """The CIFAR network, freshly initialised: 280,650 trainable parameters, uint8 ``[N, 32, 32, 3]`` in."""
    return MobileNetV1(CIFAR)
