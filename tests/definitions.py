"""Public definitions of MobileNetV1 in PyTorch, written anew: their names, forms and forward passes, any weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mnv1deploy import datasets, images
from mnv1deploy.importing import fingerprint
from mnv1deploy.spec import Normalization, Pixels

PAPER = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))
TUTORIAL = ((32, 1), (64, 2), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2))
STAGES = ((0, 0), (1, 0), (1, 1), (2, 0), (2, 1), *[(3, unit) for unit in range(6)], (4, 0), (4, 1))
"""Of each of the paper's blocks: its stage, and its place in that, counted from 0; a stage begins with a stride."""

BlockNames = Callable[[int], tuple[str, str, str, str]]
"""Of block n, from 0: depthwise convolution and its normalisation, pointwise one and its normalisation."""


@dataclass(frozen=True)
class Definition:
    """How a public source writes a MobileNetV1.

    Attributes:
        stem: names of its first convolution and of the normalisation after it.
        block: names of a block's parts.
        classifier: its name.
        blocks: channels and stride of each, at width 1.
        stem_stride: of the first convolution.
        relu6: whether its activations end at 6.
        same: whether strides of 2 are padded below and to the right only, as TensorFlow pads them.
        epsilon: of its batch normalisations.
        stem_bias, pointwise_bias: whether those convolutions have a bias before their batch normalisation.
        head: "linear" or "conv", a 1x1 convolution.
    """

    stem: tuple[str, str]
    block: BlockNames
    classifier: str
    blocks: tuple[tuple[int, int], ...] = PAPER
    stem_stride: int = 2
    relu6: bool = False
    same: bool = False
    epsilon: float = 1e-5
    stem_bias: bool = False
    pointwise_bias: bool = False
    head: str = "linear"

    def network(self, classes: int, width: float = 0.25) -> Network:
        """One with random weights."""
        channels = int(32 * width)
        layers = [Convolved(self, *self.stem, 3, channels, 3, self.stem_stride, 1, self.stem_bias)]
        for number, (rows, stride) in enumerate(self.blocks):
            depthwise, first, pointwise, second = self.block(number)
            layers.append(Convolved(self, depthwise, first, channels, channels, 3, stride, channels, False))
            outputs = int(rows * width)
            layers.append(Convolved(self, pointwise, second, channels, outputs, 1, 1, 1, self.pointwise_bias))
            channels = outputs
        head = nn.Linear(channels, classes) if self.head == "linear" else nn.Conv2d(channels, classes, 1)
        return Network(layers, self.classifier, head)


class Convolved(nn.Module):
    """A convolution, its batch normalisation and activation."""

    def __init__(
        self, source: Definition, name: str, norm: str, inputs: int, outputs: int, kernel: int, stride: int,
        groups: int, bias: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        self.names = (name, norm)
        self.relu6, self.pads = source.relu6, (1, 1, 1, 1)
        if source.same and stride == 2:
            self.pads = (0, 1, 0, 1)
        if kernel == 1:
            self.pads = (0, 0, 0, 0)
        self.convolution = nn.Conv2d(inputs, outputs, kernel, stride, 0, groups=groups, bias=bias)
        self.norm = nn.BatchNorm2d(outputs, eps=source.epsilon, momentum=None)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.convolution(F.pad(x, self.pads)))
        return x.clamp(0, 6) if self.relu6 else x.relu()

    def state(self) -> Iterator[tuple[str, Tensor]]:
        """Its tensors by their names in the source."""
        for name, module in zip(self.names, (self.convolution, self.norm), strict=True):
            for leaf, tensor in module.state_dict().items():
                yield f"{name}.{leaf}", tensor


@dataclass
class Network:
    """A network of a definition; takes normalised pictures, float32 ``[N, 3, H, W]``."""

    layers: list[Convolved]
    classifier: str
    head: nn.Module

    def logits(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        x = x.mean((2, 3), keepdim=isinstance(self.head, nn.Conv2d))
        return self.head(x).flatten(1)

    def state(self) -> dict[str, Tensor]:
        """Its state dict, in the order of its modules."""
        found = dict(row for layer in self.layers for row in layer.state())
        return found | {f"{self.classifier}.{leaf}": tensor for leaf, tensor in self.head.state_dict().items()}

    @torch.no_grad()
    def trained(self, normalization: Normalization, size: int) -> Network:
        """The same with the statistics of natural pictures, and with betas and gammas as training leaves them."""
        for layer in self.layers:
            nn.init.kaiming_normal_(layer.convolution.weight)
            layer.norm.weight.uniform_(0.7, 1.4)
            layer.norm.bias.normal_(0, 0.3)
        x = normalized(fingerprint.pictures(Pixels(size)), normalization)
        for layer in self.layers:
            layer.train()
            x = layer(x)
            layer.eval()
        return self


def normalized(pictures: np.ndarray, normalization: Normalization) -> Tensor:
    """What the network takes of uint8 pictures ``[N, H, W, 3]``."""
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (normalization.mean, normalization.std))
    return (torch.from_numpy(pictures).permute(0, 3, 1, 2).float() - mean) / std


def shown(size: int, count: int = 2) -> np.ndarray:
    """Some of the bundled pictures at a size, uint8 ``[N, size, size, 3]``."""
    return np.stack([images.read(picture, Pixels(size)) for picture in datasets.calibration().images[:count]])


def _staged(form: str, first: int = 0) -> BlockNames:
    parts = form.split()

    def names(number: int) -> tuple[str, str, str, str]:
        stage, unit = STAGES[number]
        one, two, three, four = (p.format(stage=stage + first, unit=unit + first) for p in parts)
        return one, two, three, four

    return names


def _numbered(form: str, first: int = 0) -> BlockNames:
    parts = form.split()

    def names(number: int) -> tuple[str, str, str, str]:
        one, two, three, four = (p.format(n=number + first) for p in parts)
        return one, two, three, four

    return names


def _weiaicunzai(number: int) -> tuple[str, str, str, str]:
    stage, unit = STAGES[number]
    prefix = f"conv{stage}.{unit}" if stage else "stem.1"
    return f"{prefix}.depthwise.0", f"{prefix}.depthwise.1", f"{prefix}.pointwise.0", f"{prefix}.pointwise.1"


def _hugging_face(number: int) -> tuple[str, str, str, str]:
    one, two = (f"mobilenet_v1.layer.{2 * number + part}" for part in (0, 1))
    return f"{one}.convolution", f"{one}.normalization", f"{two}.convolution", f"{two}.normalization"


def _zfturbo(number: int) -> tuple[str, str, str, str]:
    pad = PAPER[number][1] - 1
    one, two, three, four = (f"model.{number + 1}.{place + pad}" for place in (0, 1, 3, 4))
    return one, two, three, four


KUANGLIU = Definition(
    ("conv1", "bn1"), _numbered("layers.{n}.conv1 layers.{n}.bn1 layers.{n}.conv2 layers.{n}.bn2"), "linear",
    stem_stride=1,
)  # fmt: skip
WEIAICUNZAI = Definition(("stem.0.conv", "stem.0.bn"), _weiaicunzai, "fc", stem_stride=1, stem_bias=False,
                         pointwise_bias=True)  # fmt: skip
MARVIS = Definition(("model.0.0", "model.0.1"), _numbered("model.{n}.0 model.{n}.1 model.{n}.3 model.{n}.4", 1), "fc")
PYTORCHCV = Definition(
    ("features.init_block.conv", "features.init_block.bn"),
    _staged(
        "features.stage{stage}.unit{unit}.dw_conv.conv features.stage{stage}.unit{unit}.dw_conv.bn "
        "features.stage{stage}.unit{unit}.pw_conv.conv features.stage{stage}.unit{unit}.pw_conv.bn",
        first=1,
    ),
    "output",
)
TIMM = Definition(
    ("conv_stem", "bn1"),
    _staged(" ".join(f"blocks.{{stage}}.{{unit}}.{part}" for part in ("conv_dw", "bn1", "conv_pw", "bn2"))),
    "classifier",
    relu6=True,
)
HUGGING_FACE = Definition(
    ("mobilenet_v1.conv_stem.convolution", "mobilenet_v1.conv_stem.normalization"), _hugging_face, "classifier",
    relu6=True, same=True, epsilon=1e-3,
)  # fmt: skip
ZFTURBO = Definition(("model.0.1", "model.0.2"), _zfturbo, "fc", relu6=True, same=True, epsilon=1e-3, head="conv")
TUTORIAL_NET = Definition(
    ("conv1.0", "conv1.1"), _numbered("conv2_{n}.0 conv2_{n}.1 conv2_{n}.3 conv2_{n}.4", 1), "fc", TUTORIAL, 1,
    stem_bias=True,
)  # fmt: skip
AMC = Definition(
    ("conv1.0", "conv1.1"), _numbered("features.{n}.0 features.{n}.1 features.{n}.3 features.{n}.4"), "classifier.0"
)
LIGHTNING = Definition(
    ("net.features.0.0", "net.features.0.1"),
    _numbered("net.features.{n}.0 net.features.{n}.1 net.features.{n}.3 net.features.{n}.4", 1), "net.classifier.1",
)  # fmt: skip
PADDLE = Definition(
    ("conv1.conv", "conv1.bn"),
    lambda n: (
        f"block_list.{n}.depthwise_conv.conv", f"block_list.{n}.depthwise_conv.bn",
        f"block_list.{n}.pointwise_conv.conv", f"block_list.{n}.pointwise_conv.bn",
    ),
    "fc",
)  # fmt: skip
MMCLS = Definition(
    ("backbone.model.0.0", "backbone.model.0.1"),
    _numbered(" ".join(f"backbone.model.{{n}}.{place}" for place in (0, 1, 3, 4)), 1), "head.fc",
)  # fmt: skip
CONV_MODULES = Definition(
    ("backbone.conv0.conv", "backbone.conv0.bn"),
    _numbered(
        "backbone.layer{n}.depthwise_conv.conv backbone.layer{n}.depthwise_conv.bn "
        "backbone.layer{n}.pointwise_conv.conv backbone.layer{n}.pointwise_conv.bn",
        1,
    ),
    "head.fc",
)
"""Of OpenMMLab's ConvModule, as their own backbones are written."""


def _mmdnn(number: int) -> tuple[str, str, str, str]:
    one, two = (f"MobilenetV1_MobilenetV1_Conv2d_{number + 1}_{kind}" for kind in ("depthwise", "pointwise"))
    norm = "BatchNorm_FusedBatchNorm"
    return f"{one}_depthwise", f"{one}_{norm}", f"{two}_Conv2D", f"{two}_{norm}"


MMDNN = Definition(
    ("MobilenetV1_MobilenetV1_Conv2d_0_Conv2D", "MobilenetV1_MobilenetV1_Conv2d_0_BatchNorm_FusedBatchNorm"), _mmdnn,
    "MobilenetV1_Logits_Conv2d_1c_1x1_Conv2D", relu6=True, same=True, epsilon=1e-3, head="conv",
)  # fmt: skip
"""TensorFlow-Slim's network as MMdnn writes it in PyTorch."""


def _gluon(form: str) -> BlockNames:
    """Gluon counts convolutions and normalisations through: the stem's, then two of each a block."""

    def names(number: int) -> tuple[str, str, str, str]:
        both = (form.format(n=n, at=3 * n, after=3 * n + 1) for n in (2 * number + 1, 2 * number + 2))
        one, two, three, four = " ".join(both).split()
        return one, two, three, four

    return names


GLUON = Definition(("features.0", "features.1"), _gluon("features.{at} features.{after}"), "output")
GLUON_SYMBOLS = Definition(
    ("mobilenet0_conv0", "mobilenet0_batchnorm0"), _gluon("mobilenet0_conv{n} mobilenet0_batchnorm{n}"),
    "mobilenet0_dense0",
)  # fmt: skip
