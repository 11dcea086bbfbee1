"""What is known of public MobileNetV1s that their weights do not say: a row each."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from mnv1deploy.errors import MnvError
from mnv1deploy.importing import labels
from mnv1deploy.importing.found import Found
from mnv1deploy.spec import CIFAR10_CLASSES, Activation, Normalization, PaddingRule, Preprocessing

NORMALIZATIONS = {
    "tutorial": Normalization.from_unit((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "default": Normalization(),
    "imagenet": Normalization.from_unit((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": Normalization.from_unit((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "unit": Normalization.from_unit((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "cifar10": Normalization.from_unit((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": Normalization.from_unit((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "raw": Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
"""Those in common use, by the name ``mnv1 import --normalization`` takes."""

OF_SMALL_PICTURES = ("tutorial", "default", "cifar10", "cifar100")
"""Those of CIFAR's pictures, which a network of ImageNet's classes was not trained on."""

OF_IMAGENET = (labels.imagenet(), labels.imagenet(background=True))
"""Class names of networks that were trained on ImageNet."""

TUTORIAL_NORMALIZATION = NORMALIZATIONS["tutorial"]
"""What most CIFAR-10 tutorials feed their network."""

_PAPER = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))
_TUTORIAL = ((32, 1), (64, 2), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2))

_TIMM = r"blocks\.\d+\.\d+\.conv_dw\."
_HUGGING_FACE = r"(conv_stem|layer\.\d+)\.convolution\."
"""What names of tensors are known by in sources with several rows."""

_PLAIN = Preprocessing()
_TENSORFLOW = Preprocessing("bilinear", 0.875)


@dataclass(frozen=True)
class Family:
    """A public source of MobileNetV1s. None stands for what the source does not fix.

    Attributes:
        name: what it is called in messages and docs.
        source: where it is published.
        blocks: channels and stride of each block at width 1; the stem has 32 channels.
        stem_stride: of the first convolution.
        names: a regular expression found in one of its tensors' or layers' names; "" for any name.
        classes: how many it tells apart, of those it is known by; empty for any number.
        widths: the multipliers it is known by; empty for any.
        colours: of its pictures.
        activation, padding, epsilon, normalization, input_size, preprocessing: as in its code.
        class_names: of its classes, where it has one set of them.
        refused: why it is not imported; "" if it is.
    """

    name: str
    source: str
    blocks: tuple[tuple[int, int], ...]
    stem_stride: int | None
    names: str = ""
    classes: tuple[int, ...] = ()
    widths: tuple[float, ...] = ()
    colours: int = 3
    activation: Activation | None = "relu"
    padding: PaddingRule | None = "symmetric"
    epsilon: float | None = 1e-5
    normalization: str | None = None
    input_size: int | None = None
    preprocessing: Preprocessing = _PLAIN
    class_names: tuple[str, ...] | None = None
    refused: str = ""

    def fits(self, found: Found) -> bool:
        """Whether a file's structure and names are this family's."""
        channels = found.channels
        base = (32, *(row for row, _ in self.blocks))
        named = any(re.search(self.names, name) for name in found.names)
        return (
            named
            and len(channels) == len(base)
            and found.colours == self.colours
            and (not self.classes or len(found.classifier_weight) in self.classes)
            and (not self.widths or channels[-1] in [int(width * base[-1]) for width in self.widths])
            and (len(self.classes) != 1 or found.input_size in (None, self.input_size))
            and _same_shape(channels, base)
            and self._has_strides(found)
        )

    def _has_strides(self, found: Found) -> bool:
        """Whether a graph's strides are this family's, and its size where nothing else is known of the family."""
        if not found.is_graph or self.strides is None:
            return True
        read = tuple(c.stride for c in (found.convolutions[0], *found.convolutions[1::2]))
        bare = not self.names and self.normalization is not None
        return read == self.strides and not (bare and found.input_size not in (None, self.input_size))

    @property
    def strides(self) -> tuple[int, ...] | None:
        """Of the stem and the blocks."""
        return None if self.stem_stride is None else (self.stem_stride, *(stride for _, stride in self.blocks))


def _same_shape(channels: tuple[int, ...], base: tuple[int, ...]) -> bool:
    """Whether channels are those of a table at some width: rounded to a multiple of 8, at least 8, or pruned evenly."""
    width = channels[-1] / base[-1]
    return all(abs(have - row * width) <= max(8, 0.1 * row * width) for have, row in zip(channels, base, strict=True))


FAMILIES = (
    Family(
        "mnv1deploy",
        "checkpoints of this project as a bare state dict",
        _TUTORIAL,
        1,
        names=r"block1\.depthwise\.conv\.",
        normalization="default",
        input_size=32,
        class_names=CIFAR10_CLASSES,
    ),
    Family(
        "RetinaFace's backbone",
        "biubug6/Pytorch_Retinaface",
        _PAPER,
        2,
        names=r"stage1\.0\.0\.weight",
        refused="its activations are LeakyReLU (0.1), which ReLU is not",
    ),
    Family(
        "the CIFAR-10 tutorial",
        "many copies of one lesson: conv1, conv2_1 ... fc; conv_1, conv_dw2 ... conv_dw9",
        _TUTORIAL,
        1,
        normalization="tutorial",
        input_size=32,
        class_names=CIFAR10_CLASSES,
    ),
    Family(
        "kuangliu/pytorch-cifar",
        "github.com/kuangliu/pytorch-cifar",
        _PAPER,
        1,
        names=r"layers\.\d+\.conv2\.",
        normalization="tutorial",
        input_size=32,
        class_names=CIFAR10_CLASSES,
    ),
    Family(
        "weiaicunzai/pytorch-cifar100",
        "github.com/weiaicunzai/pytorch-cifar100",
        _PAPER,
        1,
        names=r"conv1\.0\.depthwise\.0\.|stem\.1\.depthwise\.0\.",
        normalization="cifar100",
        input_size=32,
        class_names=labels.cifar100(),
    ),
    Family(
        "timm's mobilenetv1_125",
        "github.com/huggingface/pytorch-image-models",
        _PAPER,
        2,
        names=_TIMM,
        widths=(1.25,),
        activation="relu6",
        normalization="half",
        input_size=224,
        preprocessing=Preprocessing("bicubic", 0.9),
        class_names=labels.imagenet(),
    ),
    Family(
        "timm's mobilenetv1",
        "github.com/huggingface/pytorch-image-models",
        _PAPER,
        2,
        names=_TIMM,
        activation="relu6",
        normalization="half",
        input_size=224,
        preprocessing=Preprocessing("bicubic", 0.875),
        class_names=labels.imagenet(),
    ),
    Family(
        "Hugging Face's google/mobilenet_v1_0.75_192",
        "huggingface.co/google",
        _PAPER,
        2,
        names=_HUGGING_FACE,
        widths=(0.75,),
        activation="relu6",
        padding="same",
        epsilon=1e-3,
        normalization="half",
        input_size=192,
        preprocessing=Preprocessing("bilinear", 192 / 224),
        class_names=labels.imagenet(background=True),
    ),
    Family(
        "Hugging Face's google/mobilenet_v1",
        "huggingface.co/google",
        _PAPER,
        2,
        names=_HUGGING_FACE,
        activation="relu6",
        padding="same",
        epsilon=1e-3,
        normalization="half",
        input_size=224,
        preprocessing=_TENSORFLOW,
        class_names=labels.imagenet(background=True),
    ),
    Family(
        "ZFTurbo/MobileNet-v1-Pytorch",
        "github.com/ZFTurbo/MobileNet-v1-Pytorch",
        _PAPER,
        2,
        names=r"model\.0\.2\.running_mean",
        activation="relu6",
        padding="same",
        epsilon=1e-3,
        normalization="half",
        input_size=224,
        preprocessing=_TENSORFLOW,
        class_names=labels.imagenet(),
    ),
    Family(
        "marvis/pytorch-mobilenet",
        "github.com/marvis/pytorch-mobilenet; mmcls has it as a backbone",
        _PAPER,
        2,
        names=r"model\.\d+\.\d\.",
        classes=(1000,),
        normalization="imagenet",
        input_size=224,
        preprocessing=Preprocessing("bilinear", 0.875),
        class_names=labels.imagenet(),
    ),
    Family(
        "osmr/pytorchcv",
        "github.com/osmr/pytorchcv",
        _PAPER,
        2,
        names=r"stage\d+\.unit\d+\.dw_conv\.",
        classes=(1000,),
        normalization="imagenet",
        input_size=224,
        preprocessing=Preprocessing("bilinear", 0.875),
        class_names=labels.imagenet(),
    ),
    Family(
        "GluonCV and MXNet's Gluon",
        "github.com/dmlc/gluon-cv",
        _PAPER,
        2,
        names=r"mobilenet\d+_conv\d+_|features\.\d+\.gamma",
        classes=(1000,),
        normalization="imagenet",
        input_size=224,
        preprocessing=Preprocessing("bilinear", 0.875),
        class_names=labels.imagenet(),
    ),
    Family(
        "Keras Applications",
        "github.com/keras-team/keras; ST's model zoo starts from it",
        _PAPER,
        2,
        names=r"conv_dw_\d+|conv_pw_\d+",
        activation="relu6",
        padding="same",
        epsilon=1e-3,
        normalization="half",
        input_size=224,
        preprocessing=_TENSORFLOW,
        class_names=labels.imagenet(),
    ),
    Family(
        "TensorFlow-Slim",
        "github.com/tensorflow/models, the .tflite files hosted for it, and what tf2onnx and MMdnn make of it",
        _PAPER,
        2,
        names=r"MobilenetV1[/_]",
        activation="relu6",
        padding="same",
        epsilon=1e-3,
        normalization="half",
        input_size=224,
        preprocessing=_TENSORFLOW,
        class_names=labels.imagenet(background=True),
    ),
    Family(
        "TensorFlow Lite Micro's person detection",
        "github.com/tensorflow/tflite-micro",
        _PAPER,
        2,
        names=r"MobilenetV1/",
        classes=(2,),
        colours=1,
        activation="relu6",
        padding="same",
        epsilon=1e-3,
        normalization="half",
        input_size=96,
        preprocessing=Preprocessing("bilinear", 1.0),
        class_names=("no person", "person"),
    ),
    Family(
        "MLPerf Tiny's Visual Wake Words",
        "github.com/mlcommons/tiny",
        _PAPER,
        2,
        names=r"conv2d|batch_normalization|model/activation/Relu",
        classes=(2,),
        padding="same",
        epsilon=1e-3,
        normalization="unit",
        input_size=96,
        preprocessing=Preprocessing("bilinear", 1.0),
        class_names=("non_person", "person"),
    ),
    Family(
        "the paper's table",
        "arXiv 1704.04861",
        _PAPER,
        2,
        classes=(1000, 1001),
        activation=None,
        padding=None,
        epsilon=None,
        input_size=224,
        preprocessing=_TENSORFLOW,
    ),
)
"""The first that fits is taken: rows that go by names stand before those that any names fit."""


def usual_strides(count: int) -> tuple[int, ...]:
    """Those of a stem and ``count - 1`` blocks as the paper has them, or where it has none as many, every other."""
    paper = (2, *(stride for _, stride in _PAPER))
    return paper if count == len(paper) else (2, *(1 + block % 2 for block in range(count - 1)))


def recognised(found: Found) -> Family | None:
    """The family a file is of. Raises MnvError for one that is known and is not imported."""
    family = next((family for family in FAMILIES if family.fits(found)), None)
    if family is not None and family.refused:
        raise MnvError(f"This is {family.name} ({family.source}): {family.refused}.")
    return family


def normalization(
    name: str, mean: tuple[float, ...] | None = None, std: tuple[float, ...] | None = None, *, colours: int = 3
) -> Normalization:
    """The normalisation of that name, or that of a mean and std, for so many colours.

    Mean and std are for pixels in 0..1, or for 0..255 where every std is above 1 (no deviation of pixels in 0..1 is)
    and no mean is in doubt.

    Raises:
        MnvError: for a name there is not, or numbers that are neither.
    """
    if mean and std:
        chosen = _given(mean, std)
    elif name not in NORMALIZATIONS:
        raise MnvError(
            f"There is no normalisation called {name}.",
            f"There are {', '.join(NORMALIZATIONS)}; or give --mean and --std.",
        )
    else:
        chosen = NORMALIZATIONS[name]
    return for_colours(chosen, colours)


def given_normalization(name: str | None, mean: str | None, std: str | None) -> Normalization | None:
    """The normalisation that was typed, by name or as a mean and a std ("R,G,B" or one number); None if none was.

    Raises:
        MnvError: as :func:`normalization`; for a mean without a std, either with a name, and what are no numbers.
    """
    if (mean is None) != (std is None):
        raise MnvError("--mean and --std go together.")
    if mean is not None and std is not None:
        if name is not None:
            raise MnvError("--normalization would change nothing with --mean and --std; leave it out.")
        return normalization("", _numbers(mean, "--mean"), _numbers(std, "--std"))
    return None if name is None else normalization(name)


def _numbers(text: str, option: str) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.strip("()[] ").replace(",", " ").split())
    except ValueError:
        values = ()
    if len(values) not in (1, 3):
        raise MnvError(f"{option} takes three numbers with commas between them, or one, not {text!r}.")
    return values


def _given(mean: tuple[float, ...], std: tuple[float, ...]) -> Normalization:
    in_pixels = [max(values) > 1 for values in (mean, std)]
    if min(std) <= 0:
        raise MnvError(f"A std is above zero, not {min(std):g}.", "Were --mean and --std swapped?")
    if max(mean) > 255 or max(std) > 255 or min(mean) < -1:
        raise MnvError(f"No pixels have a mean of {mean} and a std of {std}: they are 0..1, or 0..255.")
    if in_pixels == [True, True]:
        return Normalization(mean, std)
    if in_pixels == [True, False] or (in_pixels == [False, True] and max(mean) > 0):
        raise MnvError(
            "One of --mean and --std is for pixels in 0..1 and the other for 0..255.",
            "Give both in the same unit.",
        )
    return Normalization.from_unit(mean, std) if max(std) <= 1 else Normalization(mean, std)


def for_colours(chosen: Normalization, colours: int) -> Normalization:
    """The same for grey pictures (the colours' mean), or for as many colours where one number is given for all."""
    if len(chosen.mean) == colours:
        return chosen
    if colours == 1:
        return Normalization((sum(chosen.mean) / 3,), (sum(chosen.std) / 3,))
    return Normalization(chosen.mean * colours, chosen.std * colours)


def are_the_same(one: Normalization, other: Normalization) -> bool:
    """But for the rounding of float32."""
    pairs = zip((*one.mean, *one.std), (*other.mean, *other.std), strict=True)
    return all(math.isclose(first, second, rel_tol=1e-5, abs_tol=1e-3) for first, second in pairs)


def name_of(chosen: Normalization) -> str:
    """The name a normalisation goes by, or its numbers."""
    for name, candidate in NORMALIZATIONS.items():
        if are_the_same(for_colours(candidate, len(chosen.mean)), chosen):
            return name
    numbers = [", ".join(f"{value:.4g}" for value in values) for values in (chosen.mean, chosen.std)]
    return f"mean {numbers[0]}, std {numbers[1]} of 255"
