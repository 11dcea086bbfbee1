"""Any MobileNetV1 that people have on disk -> a checkpoint. What cannot be known is asked for, never guessed."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from mnv1deploy import checkpoint
from mnv1deploy.artifact import Accuracy
from mnv1deploy.errors import MnvError
from mnv1deploy.files import sha256
from mnv1deploy.importing import beside, build, checks, families, fingerprint, labels, matching, proof, readers
from mnv1deploy.importing.families import (
    NORMALIZATIONS,
    TUTORIAL_NORMALIZATION,
    Family,
    given_normalization,
    normalization,
)
from mnv1deploy.importing.found import Found, Tensors, no_mobilenetv1
from mnv1deploy.network import MobileNetV1
from mnv1deploy.spec import CIFAR10_CLASSES, Block, ModelSpec, Normalization, Preprocessing

__all__ = [
    "NORMALIZATIONS",
    "TUTORIAL_NORMALIZATION",
    "Fact",
    "Imported",
    "Options",
    "given_normalization",
    "import_file",
    "import_state_dict",
    "labels",
    "normalization",
    "output_path",
]


@dataclass(frozen=True)
class Options:
    """What a user knows of a file. None for what is to be read, looked up or asked for.

    Attributes:
        strides: of the stem and every block.
        normalization: of the pixels.
        activation: "relu" or "relu6".
        padding: "symmetric" or "same".
        epsilon: of its batch normalisations.
        classes: their names, in the order of its outputs.
        input_size: height and width of its pictures, in pixels.
        weights: which of several sets of weights, where the file has them.
        pictures: a folder of pictures of the kind it was trained on.
        drop_background: leave out TensorFlow's first of 1,001 classes.
        bgr: it was trained on pictures with blue first.
    """

    strides: tuple[int, ...] | None = None
    normalization: Normalization | None = None
    activation: str | None = None
    padding: str | None = None
    epsilon: float | None = None
    classes: tuple[str, ...] | None = None
    input_size: int | None = None
    weights: str | None = None
    pictures: Path | None = None
    drop_background: bool = False
    bgr: bool = False


@dataclass(frozen=True)
class Fact:
    """One thing that was decided, and on what grounds: "given", "read", or "looked up" with where."""

    what: str
    value: str
    how: str


@dataclass(frozen=True)
class Imported:
    """A network that came in, and how much of it is known.

    Attributes:
        network: in inference mode.
        facts: what was decided, in the order of the options.
        verdicts: what the statistics of its batch normalisations say.
        proof: how it compares with the file run by its own engine; None where there is none to run it.
        accuracy: on the bundled pictures, for CIFAR-10's classes.
        notes: what was absorbed or left out, one sentence each.
        doubts: sentences about what looks wrong, each with what to do about it.
        source: the file's name and SHA-256.
    """

    network: MobileNetV1
    facts: tuple[Fact, ...]
    verdicts: tuple[fingerprint.Verdict, ...]
    proof: proof.Comparison | None
    accuracy: Accuracy | None
    notes: tuple[str, ...]
    doubts: tuple[tuple[str, str], ...]
    source: dict[str, str] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Writes it as a checkpoint, with all that is known of it. Raises MnvError where that cannot be."""
        accuracy = (self.accuracy,) if self.accuracy else ()
        checkpoint.save(path, self.network, training=self.to_dict(), accuracy=accuracy)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the checkpoint's metadata."""
        return {
            "imported_from": self.source["file"],
            "sha256": self.source["sha256"],
            "facts": [asdict(fact) for fact in self.facts],
            "fingerprint": [asdict(verdict) for verdict in self.verdicts],
            "comparison": asdict(self.proof) if self.proof else None,
            "notes": list(self.notes),
        }


def import_state_dict(
    path: str | Path,
    *,
    normalization: Normalization | None = None,
    classes: tuple[str, ...] | None = None,
    input_size: int | None = None,
) -> MobileNetV1:
    """The network of a file, as :func:`import_file` reads it, with nothing said about it.

    Raises:
        MnvError: as there; the statistics of its batch normalisations are not looked at.
    """
    options = Options(normalization=normalization, classes=classes, input_size=input_size)
    return _build(Path(path), options).network


def stride(text: str) -> int:
    """A stride, 1 or 2, from what was typed. Raises MnvError for anything else."""
    if text not in ("1", "2"):
        raise MnvError(f"A stride is 1 or 2, not {text!r}.")
    return int(text)


def output_path(file: Path, output: Path | None, *, force: bool) -> Path:
    """Where the checkpoint of a file goes. Raises MnvError where it must not."""
    target = output or file.with_suffix(".safetensors")
    if output is None and target == file:
        target = file.with_name(f"{file.stem}.imported.safetensors")
    if target.suffix != ".safetensors":
        raise MnvError(
            f"A checkpoint is a safetensors file, and {target} would not be found to be one.",
            f"Name it {target.with_suffix('.safetensors').name}.",
        )
    if target.is_dir():
        raise MnvError(f"{target} is a folder.", "Name a file with --output.")
    if target.exists() and (not force or (file.exists() and target.samefile(file))):
        raise MnvError(f"{target} exists already.", "Name another file with --output, or write over it with --force.")
    return target


def import_file(
    path: str | Path, options: Options | None = None, stage: Callable[[str], None] = lambda text: None
) -> Imported:
    """Brings in a MobileNetV1 that was trained elsewhere.

    Args:
        path: the file.
        options: what is known of it.
        stage: is told what is being done, for files that take long.

    Raises:
        MnvError: if the file cannot be read, holds another network, or does not say something that nothing else says
            either; and where the statistics of its batch normalisations contradict what was looked up.
    """
    path, options = Path(path), options or Options()
    stage("reading")
    built = _build(path, options, may_wait=True)
    found, network, facts = built.found, built.network, built.facts
    shown = fingerprint.pictures(network.spec.pixels, options.pictures)
    said: list[fingerprint.Verdict] = []
    doubts: list[tuple[str, str]] = []
    notes = list(found.notes)
    judged = _judged(found, facts, options)
    if not found.has_statistics:
        notes.append("Its batch normalisations are folded: there are no statistics to check the choices by.")
    elif fingerprint.is_untrained(found):
        doubts.append(("Its batch normalisations have the statistics they start with: it looks untrained.", ""))
    elif judged:
        stage("comparing the statistics of its batch normalisations")
        for option in judged:
            verdict = fingerprint.judge(option, found, network.spec, shown)
            said.append(verdict)
            place = next((i for i, f in enumerate(facts) if f.what == verdict.option), -1)
            if place >= 0 and facts[place].how == _WAITING:
                value = _decided(path, verdict, network.spec)
                facts[place] = Fact(verdict.option, value, "told by the statistics of its batch normalisations")
                chosen: Any = value
                if verdict.option == "normalization":
                    chosen = families.for_colours(NORMALIZATIONS[value], network.spec.colours)
                network = _changed(network, **{verdict.option: chosen})
                continue
            given = next((f.how == "given" for f in facts if f.what == verdict.option), False)
            if given and verdict.contradicts:
                doubts.append(
                    (
                        f"The statistics of its batch normalisations contradict its {verdict.option}: {verdict}.",
                        f"Was it trained with --{verdict.option} {verdict.best}?",
                    )
                )
            elif error := fingerprint.refusal(verdict):
                raise MnvError(f"{path}: {error.message}", error.hint)
            elif verdict.contradicts:
                how = next(f.how for f in facts if f.what == verdict.option)
                raise MnvError(
                    f"{path}: its {verdict.option} is {verdict.chosen} ({how}), which the statistics of its batch "
                    f"normalisations contradict: {verdict}.",
                    f"Give --{verdict.option} {verdict.best}; or --{verdict.option} {verdict.chosen}, if you are sure.",
                )
    if unlike := [verdict.option for verdict in said if verdict.fits_none]:
        doubts.append(
            (
                f"The statistics of its batch normalisations fit no {' and no '.join(unlike)} that is known: it may be "
                "another kind of network, or trained on another kind of pictures.",
                "Give some of the pictures that it was trained on with --pictures, and compare its answers with those "
                "of the network where it was trained."
                if options.pictures is None
                else "Compare its answers with those of the network where it was trained.",
            )
        )
    stage("trying labelled pictures")
    accuracy = None
    if labelled := checks.labelled(network):
        trials = checks.try_normalizations(network, labelled)
        doubts += checks.doubts(network, labelled, trials)
        accuracy = trials[checks.AS_GIVEN].accuracy
    elif not said and not found.has_statistics and not found.is_graph:
        doubts.append(("Nothing could be checked: it has no statistics, no graph and no known classes.", ""))
    stage("comparing with the file's own engine")
    comparison = None
    try:
        comparison = proof.compare(path, found, network, shown, drop=options.drop_background)
    except proof.NotRun as reason:
        notes.append(f"It was not compared with the file run by its own engine: {reason}.")
    return Imported(
        network,
        tuple(facts),
        tuple(said),
        comparison,
        accuracy,
        tuple(notes),
        tuple(doubts),
        {"file": path.name, "sha256": sha256(path)},
    )


_WAITING = "waits for the statistics"
"""Of a fact that nothing says yet, with the commonest value meanwhile."""


def _decided(path: Path, verdict: fingerprint.Verdict, spec: ModelSpec) -> str:
    """The value that the statistics leave no doubt of. Raises MnvError where they do."""
    if error := fingerprint.refusal(verdict):
        raise MnvError(f"{path}: {error.message}", error.hint)
    values = [name for name in verdict.distances if name not in fingerprint.other_activations()]
    if verdict.option == "normalization" and spec.classes in families.OF_IMAGENET:
        values = [name for name in values if name not in families.OF_SMALL_PICTURES]
    clear = fingerprint.Verdict(
        verdict.option, values[0], values[0], {name: verdict.distances[name] for name in values}
    )
    if clear.is_sure:
        return values[0]
    raise MnvError(
        f"{path} does not say its {verdict.option}, and the statistics of its batch normalisations leave it open: "
        f"{clear}.",
        f"Give --{verdict.option}, such as --{verdict.option} {values[0]}",
    )


def _changed(network: MobileNetV1, **changes: Any) -> MobileNetV1:
    """The same weights under another spec."""
    other = MobileNetV1(network.spec.replace(**changes)).eval()
    other.load_state_dict(network.state_dict())
    return other


def _judged(found: Found, facts: list[Fact], options: Options) -> list[str]:
    """The options that the file does not say, and on which the statistics are asked."""
    read = {fact.what for fact in facts if fact.how == "read"}
    names = ("normalization",) if found.is_graph else fingerprint.OPTIONS
    return [name for name in names if name not in read and (name != "strides" or options.pictures is not None)]


@dataclass(frozen=True)
class _Built:
    found: Found
    network: MobileNetV1
    facts: list[Fact]


def _build(path: Path, options: Options, *, may_wait: bool = False) -> _Built:
    source = readers.read(path, options.weights)
    found = matching.match(path, source) if isinstance(source, Tensors) else source
    if options.bgr:
        found = _red_first(found)
    if len(found.classifier_weight) == 1:
        found = _of_two_classes(found)
    family = families.recognised(found)
    resolved = _Resolved(path, found, family, options, may_wait and _has_something_to_say(found))
    spec = resolved.spec()
    if options.drop_background:
        if len(found.classifier_weight) != len(labels.imagenet()) + 1:
            raise MnvError(f"{path} has {len(found.classifier_weight)} classes, without TensorFlow's background.")
        found = replace(
            found, classifier_weight=found.classifier_weight[1:], classifier_bias=found.classifier_bias[1:]
        ).noted("The background, its first class, is left out.")
    elif spec.classes[0] == "background":
        found = found.noted("Its first class is TensorFlow's background, and kept; --drop-background leaves it out.")
    return _Built(found, build.build(found, spec, resolved.epsilon()), resolved.facts)


def _has_something_to_say(found: Found) -> bool:
    return found.has_statistics and not fingerprint.is_untrained(found)


def _red_first(found: Found) -> Found:
    """The same network for RGB pictures, whose file is for BGR ones."""
    stem = found.convolutions[0]
    flipped = replace(stem, weight=stem.weight[:, ::-1].copy())
    return replace(found, convolutions=(flipped, *found.convolutions[1:])).noted(
        "Its colours are turned from BGR to RGB."
    )


def _of_two_classes(found: Found) -> Found:
    """The same answers of a network with one output, which is positive for the second of two classes."""
    weight, bias = found.classifier_weight, found.classifier_bias
    return replace(
        found,
        classifier_weight=np.concatenate([np.zeros_like(weight), weight]),
        classifier_bias=np.concatenate([np.zeros_like(bias), bias]),
    ).noted("Its one output is taken for the second of two classes, above zero; the first class's became 0.")


class _Resolved:
    """What is given, read or looked up, each with a fact; what is none of these is asked for."""

    def __init__(self, path: Path, found: Found, family: Family | None, options: Options, may_wait: bool) -> None:
        self._may_wait = may_wait
        self._path, self._found, self._family, self._options = path, found, family, options
        self._beside = beside.read(path)
        self.facts: list[Fact] = []
        if family is not None:
            self.facts.append(Fact("family", family.name, "recognised by its structure and names"))

    def _choose(self, what: str, given: Any, read: Any, known: Any, written: Any = str) -> Any:
        """The first that there is. ``known`` is the family's."""
        rows = [
            (given, "given"),
            (read, "read"),
            (self._beside.facts.get(what), "read in the config.json beside it"),
            (known, f"looked up: {self._family.name}" if self._family else ""),
        ]
        for value, how in rows:
            if value is not None:
                self.facts.append(Fact(what, written(value), how))
                return value
        return None

    def _wait(self, what: str, value: Any, example: str) -> Any:
        """The value until the statistics of batch normalisations say more. Raises MnvError if there are none."""
        if not self._may_wait:
            raise self._ask(what, example)
        self.facts.append(Fact(what, str(value), _WAITING))
        return value

    def _ask(self, what: str, example: str) -> MnvError:
        return MnvError(
            f"{self._path} does not say its {what.replace('-', ' ')}, and is no public network whose is known.",
            f"Give --{what}, such as --{what} {example}",
        )

    def epsilon(self) -> float:
        """Of its batch normalisations."""
        norm = self._found.convolutions[0].norm
        if norm is None:
            return build.EPSILON
        read = norm.epsilon
        known = self._family.epsilon if self._family else None
        value = self._choose("epsilon", self._options.epsilon, read, known, "{:g}".format)
        if value is None:
            value = 1e-3 if self._found.source.startswith("Keras") else build.EPSILON
            self.facts.append(Fact("epsilon", f"{value:g}", f"as in any {self._found.source}"))
        return float(value)

    def spec(self) -> ModelSpec:
        """The network's spec. Raises MnvError for what has to be asked."""
        found, family, options = self._found, self._family, self._options
        read = tuple(c.stride for c in (found.convolutions[0], *found.convolutions[1::2])) if found.is_graph else None
        if read and any(c.stride != 1 for c in found.convolutions[2::2]):
            raise MnvError(f"{self._path} is not a MobileNetV1: a pointwise convolution has a stride.")
        strides = self._choose(
            "strides", options.strides, read, family.strides if family else None, lambda s: ",".join(map(str, s))
        )
        channels = found.channels
        if strides is None:
            raise self._ask("strides", ",".join(map(str, families.usual_strides(len(channels)))))
        if len(strides) != len(channels):
            raise MnvError(
                f"{self._path} has a stem and {len(channels) - 1} blocks, and {len(strides)} strides were given.",
                "Give one for the stem and one for each block.",
            )
        size = self._choose("input-size", options.input_size, found.input_size, self._size())
        if size is None:
            raise self._ask("input-size", "224")
        activation = self._activation()
        colours = found.colours
        known = family.normalization if family else None
        own, other = found.normalization, options.normalization
        if found.takes and own and other and not families.are_the_same(families.for_colours(other, colours), own):
            raise MnvError(
                f"{self._path} normalises its pixels itself ({families.name_of(own)}).",
                "Leave --normalization, --mean and --std out.",
            )
        chosen = self._choose(
            "normalization",
            options.normalization,
            found.normalization,
            None if known is None else families.for_colours(NORMALIZATIONS[known], colours),
            families.name_of,
        )
        if chosen is None:
            self._wait("normalization", "imagenet", f"imagenet (there are {', '.join(NORMALIZATIONS)})")
            chosen = NORMALIZATIONS["imagenet"]
        spec = ModelSpec(
            name=re.sub(r"[/\\]", "_", self._path.stem) or "imported",
            classes=self._classes(),
            input_size=size,
            stem=Block(channels[0], strides[0]),
            blocks=tuple(Block(c, s) for c, s in zip(channels[1:], strides[1:], strict=True)),
            colours=colours,
            activation=activation,
            stem_bias=found.convolutions[0].bias is not None and found.has_statistics and not found.is_graph,
            normalization=families.for_colours(chosen, colours),
            preprocessing=self._beside.preprocessing or (family.preprocessing if family else Preprocessing()),
        )
        rule = build.padding_rule(self._path, found, spec)
        default = None
        if family is None or family.padding is None:
            default = "same" if found.source.startswith("Keras") else "symmetric"
        padding = self._choose("padding", options.padding, rule, family.padding if family else None)
        if padding is None:
            padding = default
            self.facts.append(Fact("padding", str(padding), f"as in any {found.source}"))
        spec = spec.replace(padding=padding)
        pool = next(layer for layer in spec.layers() if layer.kind == "pool")
        if found.pool not in (None, pool.in_size):
            raise no_mobilenetv1(
                self._path,
                f"it averages over {found.pool}x{found.pool} of the {pool.in_size}x{pool.in_size} places that its last "
                "block gives, and not over all",
            )
        return spec

    def _size(self) -> int | None:
        """Of the pictures, where the file's name has it, else the family's."""
        named = re.search(r"(?<![\d.])(96|128|160|192|224|256)(?!\d)", self._path.name)
        if named and self._family and self._family.input_size in (192, 224):
            return int(named[1])
        return self._family.input_size if self._family else None

    def _activation(self) -> Any:
        found, family = self._found, self._family
        read = None
        if found.is_graph:
            kinds = list(dict.fromkeys(c.activation for c in found.convolutions))
            other = [k for k in kinds if k not in ("relu", "relu6")]
            if other or len(kinds) > 1:
                names = {"none": "no activation"}
                listed = " and ".join(names.get(str(k), str(k)) for k in kinds)
                raise MnvError(
                    f"{self._path} is not a MobileNetV1: its convolutions are followed by {listed}, and those "
                    "of a MobileNetV1 all by ReLU, or all by ReLU6."
                )
            read = kinds[0]
        chosen = self._choose("activation", self._options.activation, read, family.activation if family else None)
        if chosen is None:
            chosen = self._wait("activation", "relu", "relu (or relu6)")
        return chosen

    def _classes(self) -> tuple[str, ...]:
        found, family, given = self._found, self._family, self._options.classes
        count = len(found.classifier_weight) - self._options.drop_background
        if given is not None and len(given) != count:
            raise MnvError(f"{self._path} has {count} classes, but {len(given)} names were given.")
        read = found.classes
        if read is None:
            read = self._beside.classes
        if read is not None and len(read) == count + self._options.drop_background:
            read = _unique(read[self._options.drop_background :])
        else:
            read = None
        imagenet = {len(labels.imagenet()) + more: labels.imagenet(background=bool(more)) for more in (0, 1)}
        options = [family.class_names if family else None, imagenet.get(count)]
        known = next((names for names in options if names is not None and len(names) == count), None)
        if known is None and count == len(CIFAR10_CLASSES) and family is None:
            known = CIFAR10_CLASSES
        chosen = self._choose("classes", given, read, known, _shortened)
        if chosen is None:
            chosen = tuple(f"class {i}" for i in range(count))
            self.facts.append(Fact("classes", _shortened(chosen), "not known: name them with --classes"))
        return tuple(chosen)


def _unique(names: tuple[str, ...]) -> tuple[str, ...]:
    """With a number after a name that stands a second time: ImageNet has two cranes."""
    seen: dict[str, int] = {}
    found = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        found.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return tuple(found)


def _shortened(names: tuple[str, ...]) -> str:
    return ", ".join(names) if len(names) <= 10 else f"{len(names):,}: {', '.join(names[:3])}, ..."
