"""Named arrays -> Found, by what shapes say: names group arrays, and their order is that of the layers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any

import numpy as np

from mnv1deploy.errors import MnvError
from mnv1deploy.importing.found import Array, Convolution, Found, Layout, Norm, Tensors, check_order, no_mobilenetv1
from mnv1deploy.spec import Normalization

LEAVES = {
    "weight": "weight",
    "kernel": "weight",
    "depthwise_kernel": "weight",
    "weights": "weight",
    "depthwise_weights": "weight",
    "bias": "bias",
    "biases": "bias",
    "gamma": "gamma",
    "scale": "gamma",
    "beta": "beta",
    "running_mean": "mean",
    "moving_mean": "mean",
    "running_var": "variance",
    "moving_variance": "variance",
    "moving_var": "variance",
    "num_batches_tracked": "count",
}
"""What the end of an array's name says it is, in PyTorch, Keras, TensorFlow-Slim and MXNet."""

_NAME = re.compile(rf"(?:(.*)[./])?({'|'.join(LEAVES)})(:0)?")
_MXNET_NAME = re.compile(r"(.*?)_(weight|bias|gamma|beta|(?:running|moving)_(?:mean|var)|num_batches_tracked)")
"""A layer's name and what of it an array is: ``a.b.weight`` or ``a/b/weights:0``, and ``a_b_running_mean``."""

_NUMBER = re.compile(r"\d+|(?<![a-zA-Z])[a-zA-Z](?![a-zA-Z])")
"""What layers alike are told apart by: a number, or a letter that stands alone."""

_HARMLESS = re.compile(
    r"(^|[._/])(total_ops|total_params|n_averaged|num_updates|decay|global_step|iterations)$"
    r"|^(criterion|loss\w*|metrics?|(train|val|test|valid)_\w+)[._/]"
)
"""What profilers, averages, loss functions and metrics leave beside a network's weights."""

_FAKE_QUANTIZED = re.compile(r"fake_quant|activation_post_process|weight_quant|act_quant|\.scale_act|FakeQuant")
_QUANTIZED = re.compile(r"_packed_params|\.zero_point$|qweight")


_DETECTOR = re.compile(
    r"(^|[._/])(classification_headers|regression_headers|extras|loc|conf|fpn|ssh\d?|rpn|roi_heads|\w*yolo\w*|anchors"
    r"|bbox\w*|ClassHead|BboxHead|LandmarkHead|(cls|class|box|reg|loc|conf)_heads?|predictor_heads?)[._/]",
    re.IGNORECASE,
)
"""Names of what a detector has beside its body."""


@dataclass
class _Group:
    """Arrays under one name: a layer."""

    name: str
    arrays: dict[str, Array]

    @property
    def is_norm(self) -> bool:
        return "mean" in self.arrays and "variance" in self.arrays

    @property
    def rank(self) -> int:
        return self.arrays["weight"].ndim if "weight" in self.arrays else 0


def match(path: Path, tensors: Tensors) -> Found:
    """The MobileNetV1 whose arrays these are.

    The order of the file is tried first, then the natural sort of the names (``layer10`` after ``layer9``), then any
    order of their parts in which channels fit.

    Raises:
        MnvError: if they are another network's, or an array is left over, with its name.
    """
    arrays, notes = _without_companions(path, _repaired(path, tensors.arrays))
    arrays, normalization = _without_normalization(arrays)
    groups = _grouped(arrays)
    is_sorted = _is_alphabetical(arrays)
    failures: list[tuple[int, MnvError]] = []
    for number, (ordered, is_chosen) in enumerate(_orders(groups, is_sorted)):
        try:
            found = _match(path, tensors, ordered)
        except MnvError as error:
            failures.append((_likelihood(path, tensors, ordered, number), error))
            continue
        if not is_chosen and (alike := _in_doubt(found[0], [group for group in ordered if group.is_norm])):
            raise _unordered(path, alike)
        return Found(
            tensors.source,
            *found,
            normalization=normalization,
            names=tuple(tensors.arrays),
            notes=(*tensors.notes, *notes),
        )
    if head := next((name for name in arrays if _DETECTOR.search(name)), None):
        raise no_mobilenetv1(path, f"{head} belongs to a detector", "Its body alone has no classifier to deploy.")
    likelihood, likeliest = max(failures, key=lambda row: row[0])
    is_in_order = likelihood == 1 + any(group.is_norm for group in groups)
    if not is_in_order and (alike := _shuffled(tensors, groups)):
        raise _unordered(path, alike)
    raise likeliest


def _likelihood(path: Path, tensors: Tensors, groups: list[_Group], number: int) -> int:
    """How much is to be made of what an order of the parts fails by; ``number`` is its place among those tried.

    Most where convolutions, and their normalisations, follow each other as they should. An alphabetical order is none
    that anybody chose.
    """
    names = [group.name for group in groups]
    norms = [group for group in groups if group.is_norm]
    try:
        kernels = [group for group in groups if group.rank == 4 and not group.is_norm]
        convolutions = _interleaved([_convolution(group, tensors.layout) for group in kernels])
        check_order(path, convolutions)
    except MnvError:
        return -9 if names == sorted(names) else -number
    widths = [group.arrays["mean"].shape for group in norms]
    return 1 + (widths == [(convolution.out_channels,) for convolution in convolutions])


def _repaired(path: Path, arrays: dict[str, Array]) -> dict[str, Array]:
    """With every weight whole that pruning or a reparametrisation keeps in two parts."""
    found: dict[str, Array] = {}
    arrays = {_plain(path, name): array for name, array in arrays.items()}
    for name, array in arrays.items():
        if array.dtype.kind not in "fiu" or (array.dtype.kind != "f" and array.ndim > 1):
            raise MnvError(
                f"{name} in {path} has elements of {array.dtype}, and weights are floating point here.",
                "Save the network before it is quantised.",
            )
        if _FAKE_QUANTIZED.search(name):
            raise no_mobilenetv1(
                path,
                f"{name} belongs to quantization-aware training, whose forward pass rounds what these floats do not",
                "Export its integers, as .tflite or .onnx, and import those.",
            )
        if _QUANTIZED.search(name):
            raise no_mobilenetv1(path, f"{name} belongs to a quantised network, whose weights are packed integers")
        if name.endswith("_orig") and f"{name[:-5]}_u" in arrays:
            raise no_mobilenetv1(
                path,
                f"{name} is divided by its spectral norm before it is a weight",
                "Save it after torch.nn.utils.remove_spectral_norm(layer).",
            )
        if name.endswith("_orig") and f"{name[:-5]}_mask" in arrays:
            found[name[:-5]] = array * arrays[f"{name[:-5]}_mask"]
        elif name.endswith("_g") and f"{name[:-2]}_v" in arrays:
            direction = arrays[f"{name[:-2]}_v"]
            norm = np.sqrt((direction.astype(np.float64) ** 2).sum(tuple(range(1, direction.ndim)), keepdims=True))
            found[name[:-2]] = (direction * (array / norm)).astype(np.float32)
        elif not (
            (name.endswith("_mask") and f"{name[:-5]}_orig" in arrays)
            or (name.endswith("_v") and f"{name[:-2]}_g" in arrays)
        ):
            found[name] = array
    return found


def _plain(path: Path, name: str) -> str:
    """A name of torch.nn.utils.parametrizations.weight_norm as it was before there were parametrisations."""
    found = re.fullmatch(r"(?P<layer>.*\.)?parametrizations\.(?P<leaf>\w+)\.original(?P<part>[01]?)", name)
    if found is None:
        return name
    if not found["part"]:
        raise no_mobilenetv1(
            path,
            f"{name} is made a weight by a function that is not in the file",
            "Save it after torch.nn.utils.parametrize.remove_parametrizations(layer, 'weight').",
        )
    return f"{found['layer'] or ''}{found['leaf']}_{'gv'[int(found['part'])]}"


def _without_companions(path: Path, arrays: dict[str, Array]) -> tuple[dict[str, Array], list[str]]:
    """Without what is no part of a network: what else training keeps beside it."""
    left = [name for name in arrays if _HARMLESS.search(name)]
    notes = []
    if left:
        notes.append(f"Left out, as no part of the network: {_listed(left)}.")
    return {name: array for name, array in arrays.items() if name not in left}, notes


def _without_normalization(arrays: dict[str, Array]) -> tuple[dict[str, Array], Normalization | None]:
    """Without a mean and a std of pixels, which some networks keep as buffers: 3 values or 1, for pixels in 0..1."""
    buffers: dict[str, str] = {}
    for name, array in arrays.items():
        last = re.split(r"[._/]", name)[-1]
        if last in ("mean", "std") and array.size in (1, 3) and array.ndim in (1, 3, 4):
            buffers[last] = name
    if len(buffers) != 2:
        return arrays, None
    mean, std = (arrays[buffers[key]].reshape(-1).astype(np.float64) for key in ("mean", "std"))
    scale = 1 if std.max() > 2 else 255
    rest = {name: array for name, array in arrays.items() if name not in buffers.values()}
    return rest, Normalization(tuple((scale * mean).tolist()), tuple((scale * std).tolist()))


def _grouped(arrays: dict[str, Array]) -> list[_Group]:
    groups: dict[str, _Group] = {}
    for name, array in arrays.items():
        parts = _NAME.fullmatch(name) or _MXNET_NAME.fullmatch(name)
        parent, leaf = (parts[1] or "", LEAVES[parts[2]]) if parts else (name, "?")
        groups.setdefault(parent, _Group(parent, {})).arrays[leaf] = array
    for group in groups.values():
        if group.is_norm and "weight" in group.arrays:  # PyTorch calls a normalisation's parameters as it does others'
            group.arrays["gamma"] = group.arrays.pop("weight")
        if group.is_norm and "bias" in group.arrays:
            group.arrays["beta"] = group.arrays.pop("bias")
    return list(groups.values())


def _natural(name: str) -> list[tuple[int, int | str]]:
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", name) if part]


def _is_alphabetical(arrays: dict[str, Array]) -> bool:
    """Whether a file has its names sorted, as safetensors has; counts stand before floats there."""
    names = [name for name, array in arrays.items() if array.dtype.kind == "f"]
    return names == sorted(names)


def _orders(groups: list[_Group], is_sorted: bool) -> Iterator[tuple[list[_Group], bool]]:
    """Orders to try, the likeliest first, each with whether it is one that who wrote the file chose."""
    natural = sorted(groups, key=lambda group: _natural(group.name))
    if not is_sorted:
        yield groups, True
    yield natural, False
    if is_sorted:
        yield groups, False
    else:
        yield from ((chained, _is_moved(groups, chained)) for chained in [_chained(groups)] if chained)
    yield from ((chained, False) for chained in [_chained(natural)] if chained)


def _is_moved(groups: list[_Group], chained: list[_Group]) -> bool:
    """Whether an order is that of the file, but for a first part that the file has elsewhere."""
    names = [group.name for group in groups]
    places = [names.index(group.name) for group in chained]
    return sum(before > after for before, after in pairwise(places)) == 1


def _chained(groups: list[_Group]) -> list[_Group] | None:
    """The first order of a network's parts in which every part takes the channels that the part before gives.

    Parts are what the names differ in first: ``stem``, ``conv1``, ``conv2`` of ``stem.0.conv``, ``conv1.0.bn``.
    """
    split = [_parts(group.name) for group in groups]
    depth = 0
    while all(len(parts) > depth for parts in split) and len({parts[depth] for parts in split}) == 1:
        depth += 1
    parts: dict[str, list[_Group]] = {}
    for group, names in zip(groups, split, strict=True):
        parts.setdefault(names[depth] if len(names) > depth else "", []).append(group)
    convolutions = {
        name: shapes
        for name, members in parts.items()
        if (shapes := [g.arrays["weight"].shape for g in members if g.rank == 4 and not g.is_norm])
    }
    order = _chain(convolutions)
    if order is None:
        return None
    rest = [name for name in parts if name not in convolutions]
    by_part = {name: parts[name] for name in [*order, *rest]}
    norms = [name for name in rest if any(g.is_norm for g in parts[name])]
    if norms:
        return _norms_beside(by_part, order, norms)
    return [group for name in by_part for group in by_part[name]]


def _chain(parts: dict[str, list[tuple[int, ...]]]) -> list[str] | None:
    """The first order of parts, by their convolutions' shapes, in which channels fit; a stem is the first of them."""
    hopeless: set[tuple[int, frozenset[tuple[Any, int]]]] = set()
    """Channels and shapes of the parts that were left, where no order was found: equal parts are tried once."""

    def follow(done: list[str], channels: int) -> list[str] | None:
        left = {name: tuple(shapes) for name, shapes in parts.items() if name not in done}
        if not left:
            return done
        state = channels, frozenset(Counter(left.values()).items())
        if state in hopeless:
            return None
        tried = set()
        for name, shapes in left.items():
            first = shapes[0]
            takes = first[0] if first[1] == 1 and first[2:] == (3, 3) else first[1]
            if takes == channels and shapes not in tried and (found := follow([*done, name], shapes[-1][0])):
                return found
            tried.add(shapes)
        hopeless.add(state)
        return None

    for name, shapes in parts.items():
        if shapes[0][1] == 3 or (shapes[0][1] == 1 and len(shapes) == 1):
            order = follow([name], shapes[-1][0])
            if order:
                return order
    return None


def _in_doubt(convolutions: Sequence[Convolution], norms: list[_Group]) -> list[str]:
    """Names of layers alike that could change places: whose shapes are the same, and whose names are not numbered.

    Blocks are compared whole where both of their convolutions have a name of their own in common.
    """
    blocks = list(zip(convolutions[1::2], convolutions[2::2], strict=True))
    own = [_in_common(first.name, second.name) for first, second in blocks]
    are_whole = len(set(own)) == len(own)
    if are_whole:
        units = [(name, (a.weight.shape, b.weight.shape)) for name, (a, b) in zip(own, blocks, strict=True)]
    else:
        units = [(c.name, (c.weight.shape, c.weight.shape)) for c in convolutions]
    loose = []  # normalisations whose names are not those of their convolution or block
    for convolution, norm in zip(convolutions, norms, strict=False):
        shared = _in_common(convolution.name, norm.name)
        if not shared or sum(_in_common(c.name, shared) == shared for c in convolutions) > 2:
            loose.append(norm)
    for rows in (units, [(norm.name, norm.arrays["mean"].shape) for norm in loose]):
        by_shape: dict[Any, list[str]] = {}
        for name, shape in rows:
            by_shape.setdefault(shape, []).append(name)
        for names in by_shape.values():
            pattern = _NUMBER.sub("#", names[0])
            numbered = [name for name, _ in rows if _NUMBER.sub("#", name) == pattern]
            if len(names) > 1 and not (set(names) <= set(numbered) and numbered == sorted(numbered, key=_natural)):
                return names
    return []


def _in_common(one: str, other: str) -> str:
    """The words that two names begin with, with dots between them."""
    pairs = takewhile(lambda pair: pair[0] == pair[1], zip(_parts(one), _parts(other), strict=False))
    return ".".join(word for word, _ in pairs)


def _shuffled(tensors: Tensors, groups: list[_Group]) -> list[str]:
    """Names of layers alike, if the layers are a MobileNetV1's in an order that nothing tells; else none."""
    kernels = [_convolution(group, tensors.layout) for group in groups if group.rank == 4 and not group.is_norm]
    norms = [group for group in groups if group.is_norm]
    linears = [group for group in groups if group.rank == 2 and not group.is_norm]
    small = [c for c in kernels if c.kernel == (3, 3)]
    pointwise = {c.name: c for c in kernels if c.kernel == (1, 1)}
    if len(small) + len(pointwise) < len(kernels):
        return []
    for stem in [c for c in small if c.weight.shape[1] == 3] or small:
        order = _chain({c.name: [c.weight.shape] for c in (stem, *pointwise.values())}) or []
        depthwise = Counter(c.out_channels for c in small if c is not stem and c.depthwise)
        blocks = [pointwise[name] for name in (order[1:] if linears else order[1:-1])]
        channels = depthwise + Counter(c.out_channels for c in (stem, *blocks))
        if (
            blocks
            and depthwise == Counter(c.in_channels for c in blocks)
            and depthwise.total() == len(small) - 1
            and (not norms or channels == Counter(len(norm.arrays["mean"]) for norm in norms))
        ):
            rows = [(c.name, c.weight.shape) for c in kernels]
            rows += [(norm.name, norm.arrays["mean"].shape) for norm in norms]
            commonest = Counter(shape for _, shape in rows).most_common(1)[0][0]
            return [name for name, shape in rows if shape == commonest]
    return []


def _unordered(path: Path, alike: list[str]) -> MnvError:
    return MnvError(
        f"{path} has the layers of a MobileNetV1, but neither its order nor their names say which follows which: "
        f"{_listed(alike)} have the same shapes.",
        "Save them in the order of the layers, as torch.save(net.state_dict(), 'weights.pt') does, or number them.",
    )


def _norms_beside(by_part: dict[str, list[_Group]], order: list[str], norms: list[str]) -> list[_Group]:
    """With parts that are normalisations alone (``bn1`` of ``conv_stem``) after the first part that has none."""
    bare = [
        name for name in order if any(g.rank == 4 for g in by_part[name]) and not any(g.is_norm for g in by_part[name])
    ]
    placed: list[_Group] = []
    waiting = list(norms)
    for name in order:
        placed += by_part[name]
        if name in bare and waiting:
            placed += by_part[waiting.pop(0)]
    for name in [*waiting, *(n for n in by_part if n not in order and n not in norms)]:
        placed += by_part[name]
    return placed


def _parts(name: str) -> list[str]:
    return re.split(r"[./]", name)


def _match(path: Path, tensors: Tensors, groups: list[_Group]) -> tuple[tuple[Convolution, ...], Array, Array]:
    kernels = [group for group in groups if group.rank == 4 and not group.is_norm]
    norms = [group for group in groups if group.is_norm]
    linears = [group for group in groups if group.rank == 2 and not group.is_norm]
    other = [group for group in groups if group not in (*kernels, *norms, *linears)]
    if not kernels:
        raise no_mobilenetv1(path, f"it has no convolution; it has {_listed(list(tensors.arrays))}")
    if other:
        raise _unknown(path, other)
    convolutions = _interleaved([_convolution(group, tensors.layout) for group in kernels])
    head: Convolution | None = None
    if not linears and len(convolutions) > 2 and not convolutions[-1].depthwise and not convolutions[-2].depthwise:
        head = convolutions.pop()
    if len(linears) > 1:
        raise no_mobilenetv1(
            path,
            f"it has {len(linears)} linear layers, {_listed([g.name for g in linears])}, where there is one classifier",
        )
    if linears and len(convolutions) > 2 and not convolutions[-1].depthwise and not convolutions[-2].depthwise:
        check_order(path, convolutions[:-1])
        raise _head(path, convolutions[-1])
    check_order(path, convolutions)
    if norms and len(norms) != len(convolutions):
        raise no_mobilenetv1(path, f"it has {len(convolutions)} convolutions and {len(norms)} batch normalisations")
    joined = zip(convolutions, norms, strict=True) if norms else ((c, None) for c in convolutions)
    normed = tuple(_with_norm(path, convolution, norm) for convolution, norm in joined)
    if head is not None:
        weight, bias = head.weight[:, :, 0, 0], head.bias
        name = head.name
    elif linears:
        weight, bias = linears[0].arrays["weight"], linears[0].arrays.get("bias")
        name = linears[0].name
    else:
        raise no_mobilenetv1(
            path,
            "it has no classifier: no linear layer, and no 1x1 convolution at its end",
            "It is a body for other networks to begin with (no_top, to Keras). Use the whole network's file.",
        )
    channels = convolutions[-1].out_channels
    if (weight.shape[1] != channels == weight.shape[0]) or (tensors.layout == "keras" and head is None):
        weight = weight.T
    if weight.shape[1] != channels:
        raise no_mobilenetv1(
            path,
            f"{name} takes {weight.shape[1]} values, and the last convolution gives {channels} channels",
        )
    bias = np.zeros(len(weight), np.float32) if bias is None else bias
    if bias.shape != (len(weight),):
        raise no_mobilenetv1(path, f"{name} has {len(bias)} biases for {len(weight)} classes")
    return normed, np.ascontiguousarray(weight, np.float32), bias.astype(np.float32)


def _unknown(path: Path, groups: list[_Group]) -> MnvError:
    for group in groups:
        if set(group.arrays) == {"weight"} and group.rank == 1:
            return no_mobilenetv1(path, f"{group.name} is what PReLU learns, and its activations are ReLU or ReLU6")
        if group.rank == 1:
            return no_mobilenetv1(
                path, f"{group.name} normalises without the statistics of what it was trained on (track_running_stats)"
            )
    return no_mobilenetv1(
        path, f"{_listed([g.name for g in groups])} {'is' if len(groups) == 1 else 'are'} no part of one"
    )


def _head(path: Path, last: Convolution) -> MnvError:
    return no_mobilenetv1(
        path,
        f"after the last block {last.name} makes {last.out_channels} channels of {last.in_channels}: an extra head, as "
        "timm's mobilenetv1_100h has, for which there is no place here",
    )


def _convolution(group: _Group, layout: Layout | None) -> Convolution:
    """In PyTorch's layout: output channels, input channels, height, width."""
    weight = group.arrays["weight"]
    if layout is None:
        layout = (
            "keras" if weight.shape[:2] in ((3, 3), (1, 1)) and weight.shape[2:] not in ((3, 3), (1, 1)) else "torch"
        )
    depthwise = weight.shape[1] == 1 and weight.shape[2:] == (3, 3)
    if layout == "keras":
        depthwise = weight.shape[3] == 1 and weight.shape[:2] == (3, 3)
        weight = weight.transpose((2, 3, 0, 1) if depthwise else (3, 2, 0, 1))
        depthwise = depthwise or weight.shape[1:] == (1, 3, 3)
    return Convolution(group.name, np.ascontiguousarray(weight, np.float32), depthwise, bias=group.arrays.get("bias"))


def _interleaved(convolutions: list[Convolution]) -> list[Convolution]:
    """With the stem first, where the file has all depthwise convolutions before or after the others."""
    stem = next((c for c in convolutions if c.weight.shape[1] == 3 and c.kernel == (3, 3)), None)
    if stem is not None and convolutions[0] is not stem:
        convolutions = [stem, *(c for c in convolutions if c is not stem)]
    kinds = [c.depthwise for c in convolutions[1:]]
    if not stem or kinds.count(True) < 2 or kinds not in (sorted(kinds), sorted(kinds, reverse=True)):
        return convolutions
    depthwise = [c for c in convolutions[1:] if c.depthwise]
    others = [c for c in convolutions[1:] if not c.depthwise]
    mixed = [c for block in zip(depthwise, others, strict=False) for c in block]
    return [stem, *mixed, *others[len(depthwise) :], *depthwise[len(others) :]]


def _with_norm(path: Path, convolution: Convolution, group: _Group | None) -> Convolution:
    if group is None:
        return convolution
    arrays = {leaf: array.astype(np.float32) for leaf, array in group.arrays.items() if leaf != "count"}
    for leaf, array in arrays.items():
        if array.shape != (convolution.out_channels,):
            raise no_mobilenetv1(
                path,
                f"{group.name} normalises {array.shape[0] if array.ndim else 1} channels ({leaf}), and "
                f"{convolution.name} before it gives {convolution.out_channels}",
            )
    norm = Norm(arrays["mean"], arrays["variance"], arrays.get("gamma"), arrays.get("beta"))
    return Convolution(convolution.name, convolution.weight, convolution.depthwise, convolution.bias, norm)


def _listed(names: Iterable[str], limit: int = 4) -> str:
    names = list(names)
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
