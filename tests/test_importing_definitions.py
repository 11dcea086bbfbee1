"""Public definitions in PyTorch, by their files' own names and forms: the spec is theirs, and so are the logits."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import definitions
import h5py
import numpy as np
import pytest
import safetensors.torch
import torch
from definitions import Definition, normalized, shown
from PIL import Image
from torch import Tensor

from mnv1deploy.errors import MnvError
from mnv1deploy.importing import (
    NORMALIZATIONS,
    Options,
    fingerprint,
    import_file,
    import_state_dict,
    labels,
    matching,
    readers,
)
from mnv1deploy.importing.found import Tensors
from mnv1deploy.network import MobileNetV1
from mnv1deploy.spec import Normalization, Pixels, Preprocessing

State = dict[str, Tensor]
BICUBIC, BILINEAR, PLAIN = Preprocessing("bicubic", 0.875), Preprocessing("bilinear", 0.875), Preprocessing()
IMAGENET, WITH_BACKGROUND = labels.imagenet(), labels.imagenet(background=True)


def write(state: State, path: Path) -> Path:
    """A file of the kind that its name says."""
    (safetensors.torch.save_file if path.suffix == ".safetensors" else torch.save)(state, path)
    return path


def differ(theirs: definitions.Network, ours: MobileNetV1, normalization: Normalization) -> float:
    """The largest difference of a logit, in standard deviations of theirs."""
    pictures = shown(ours.spec.input_size)
    with torch.inference_mode():
        expected = theirs.logits(normalized(pictures, normalization))
        return float((ours(torch.from_numpy(pictures)) - expected).abs().max() / expected.std())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "classes", "width", "normalization", "size", "preprocessing", "names"),
    [
        (definitions.KUANGLIU, 10, 0.25, "tutorial", 32, PLAIN, None),
        (definitions.WEIAICUNZAI, 100, 0.25, "cifar100", 32, PLAIN, labels.cifar100()),
        (definitions.MARVIS, 1000, 0.25, "imagenet", 224, BILINEAR, IMAGENET),
        (definitions.PYTORCHCV, 1000, 0.25, "imagenet", 224, BILINEAR, IMAGENET),
        (definitions.TIMM, 1000, 0.25, "half", 224, BICUBIC, IMAGENET),
        (definitions.TIMM, 1000, 1.25, "half", 224, Preprocessing("bicubic", 0.9), IMAGENET),
        (definitions.HUGGING_FACE, 1001, 0.25, "half", 224, BILINEAR, WITH_BACKGROUND),
        (definitions.HUGGING_FACE, 1001, 0.75, "half", 192, Preprocessing("bilinear", 192 / 224), WITH_BACKGROUND),
        (definitions.ZFTURBO, 1000, 0.25, "half", 224, BILINEAR, IMAGENET),
        (definitions.TUTORIAL_NET, 10, 0.5, "tutorial", 32, PLAIN, None),
        (definitions.MMCLS, 1000, 0.25, "imagenet", 224, BILINEAR, IMAGENET),
        (definitions.MMDNN, 1001, 0.25, "half", 224, BILINEAR, WITH_BACKGROUND),
    ],
    ids=[
        *("kuangliu", "weiaicunzai", "marvis", "pytorchcv", "timm", "timm-125", "hf", "hf-0.75", "zfturbo", "tutorial"),
        *("mmcls", "mmdnn"),
    ],
)
def test_a_public_definition_comes_in_as_its_source_has_it(
    source: Definition, classes: int, width: float, normalization: str, size: int, preprocessing: Preprocessing,
    names: tuple[str, ...] | None, tmp_path: Path,
) -> None:  # fmt: skip
    torch.manual_seed(0)
    theirs = source.network(classes, width).trained(NORMALIZATIONS[normalization], 32)
    ours = import_state_dict(write(theirs.state(), tmp_path / "weights.pth"))
    spec = ours.spec
    assert (spec.activation, spec.padding) == (
        "relu6" if source.relu6 else "relu",
        "same" if source.same else "symmetric",
    )
    assert (spec.stem.stride, *(block.stride for block in spec.blocks)) == (
        source.stem_stride,
        *(stride for _, stride in source.blocks),
    )
    assert (spec.normalization, spec.input_size) == (NORMALIZATIONS[normalization], size)
    assert spec.preprocessing == preprocessing
    assert names is None or spec.classes == names
    assert differ(theirs, ours, spec.normalization) < 1e-4
    assert torch.equal(ours.get_parameter("block3.pointwise.conv.weight"), theirs.layers[6].convolution.weight)


def wrapped(state: State) -> dict[str, Any]:
    """As training scripts and Lightning leave it: in parallel, in a module of theirs, with what they remember."""
    return {
        "epoch": 3,
        "pytorch-lightning_version": "2.1.0",
        "state_dict": {f"model.{name}": tensor for name, tensor in state.items()},
        "hyper_parameters": {"lr": 0.1, "width": 0.25, "path": Path("runs")},
        "callbacks": {"ModelCheckpoint{}": {"best_model_score": torch.tensor(0.7)}},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(8, 3, 3, 3)}}, "param_groups": []}],
        "loops": {"fit_loop": {"state_dict": {}}},
    }


def of_mxnet(state: State, separator: str) -> State:
    """A state dict with MXNet's names for what a batch normalisation holds."""
    norms = {name.removesuffix(".running_mean") for name in state if name.endswith(".running_mean")}
    found = {}
    for name, tensor in state.items():
        layer, _, leaf = name.rpartition(".")
        if leaf != "num_batches_tracked":
            leaf = {"weight": "gamma", "bias": "beta"}.get(leaf, leaf) if layer in norms else leaf
            found[f"{layer}{separator}{leaf}"] = tensor
    return found


@pytest.mark.parametrize(
    ("source", "separator"), [(definitions.GLUON, "."), (definitions.GLUON_SYMBOLS, "_")], ids=["blocks", "symbols"]
)
@pytest.mark.parametrize("order", [list, sorted])
def test_gluons_network_comes_in_by_both_of_its_namings(
    source: Definition, separator: str, order: Callable[[Any], list[Any]], tmp_path: Path
) -> None:
    """Names whose parts are joined by underscores were all left over."""
    torch.manual_seed(0)
    theirs = source.network(1000).trained(NORMALIZATIONS["imagenet"], 32)
    state = dict(order(of_mxnet(theirs.state(), separator).items()))
    ours = import_state_dict(write(state, tmp_path / "mobilenet0.25.pth"))
    spec = ours.spec
    assert (spec.activation, spec.padding, spec.input_size) == ("relu", "symmetric", 224)
    assert (spec.normalization, spec.preprocessing) == (NORMALIZATIONS["imagenet"], BILINEAR)
    assert spec.classes == IMAGENET
    assert differ(theirs, ours, spec.normalization) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "normalization"),
    [
        (definitions.AMC, "imagenet"),
        (definitions.PADDLE, "half"),
        (definitions.LIGHTNING, "unit"),
        (definitions.CONV_MODULES, "imagenet"),
    ],
)
def test_a_definition_that_is_in_no_table_is_told_by_its_statistics(
    source: Definition, normalization: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    theirs = source.network(1000).trained(NORMALIZATIONS[normalization], 64)
    torch.save(wrapped(theirs.state()), tmp_path / "epoch=3.ckpt")
    with pytest.raises(MnvError, match=r"does not say its activation.*cannot tell relu from relu6"):
        import_file(tmp_path / "epoch=3.ckpt", Options(input_size=64))
    found = import_file(tmp_path / "epoch=3.ckpt", Options(input_size=64, activation="relu"))
    how = {fact.what: fact.how for fact in found.facts}
    assert how["normalization"] == "told by the statistics of its batch normalisations"
    assert how["strides"] == "looked up: the paper's table"
    assert differ(theirs, found.network, NORMALIZATIONS[normalization]) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("function", "message"),
    [
        (torch.nn.functional.silu, "network with SiLU, not relu"),
        (torch.nn.functional.gelu, "network with GELU, not relu"),
        (torch.cos, None),
    ],
)
def test_activations_of_other_networks_show_in_the_statistics(
    function: Callable[[Tensor], Tensor], message: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def forward(layer: definitions.Convolved, x: Tensor) -> Tensor:
        return function(layer.norm(layer.convolution(torch.nn.functional.pad(x, layer.pads))))

    monkeypatch.setattr(definitions.Convolved, "forward", forward)
    torch.manual_seed(0)
    theirs = definitions.MARVIS.network(1000, 0.25).trained(NORMALIZATIONS["imagenet"], 32)
    path = write(theirs.state(), tmp_path / "network.pth")
    if message is None:
        assert "fit no" in import_file(path, Options(input_size=32)).doubts[0][0]
    else:
        with pytest.raises(MnvError, match=message):
            import_file(path, Options(input_size=32))


@pytest.mark.slow
def test_each_choice_is_judged_under_those_before_it(tmp_path: Path) -> None:
    """The activation was judged under the commonest normalisation, before the right one was found."""
    torch.manual_seed(0)
    theirs = definitions.PADDLE.network(1000).trained(NORMALIZATIONS["unit"], 64)
    path = write(theirs.state(), tmp_path / "weights.pth")
    found = import_file(path, Options(input_size=64, activation="relu"))
    assert {verdict.option for verdict in found.verdicts} >= {"normalization", "activation", "padding"}
    for verdict in found.verdicts[1:]:
        assert verdict.distances[verdict.chosen] < 0.01, verdict


@pytest.mark.slow
def test_pictures_tell_the_strides(tmp_path: Path) -> None:
    """Wrong ones are contradicted where --pictures are of the kind it was trained on."""
    torch.manual_seed(0)
    theirs = replace(definitions.MARVIS, blocks=definitions.TUTORIAL).network(3, 0.5)
    theirs.trained(NORMALIZATIONS["imagenet"], 64)
    path = write(theirs.state(), tmp_path / "weights.pth")
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, picture in enumerate(fingerprint.pictures(Pixels(64))):
        Image.fromarray(picture).save(folder / f"{number}.png")
    right, wrong = (2, 1, 2, 1, 2, 1, 2, 1, 2), (1, 1, 2, 1, 2, 1, 2, 1, 2)
    known = Options(
        strides=right, normalization=NORMALIZATIONS["imagenet"], activation="relu", input_size=64, pictures=folder
    )
    found = import_file(path, known)
    verdict = next(verdict for verdict in found.verdicts if verdict.option == "strides")
    assert verdict.best == ",".join(map(str, right)) and found.doubts == ()
    doubtful = import_file(path, replace(known, strides=wrong))
    ((sentence, hint),) = (row for row in doubtful.doubts if "strides" in row[0])
    assert "contradict its strides" in sentence and f"--strides {verdict.best}" in hint
    without = import_file(path, replace(known, strides=wrong, pictures=None))
    assert all(verdict.option != "strides" for verdict in without.verdicts)


def test_of_other_classes_the_strides_are_asked_with_the_papers_for_an_example(tmp_path: Path) -> None:
    theirs = definitions.MARVIS.network(7)
    path = write(theirs.state(), tmp_path / "weights.pth")
    with pytest.raises(MnvError, match="does not say its strides") as error:
        import_state_dict(path)
    assert "--strides 2,1,2,1,2,1,2,1,1,1,1,1,2,1" in error.value.hint


def write_keras(network: definitions.Network, path: Path, *, top: bool = True) -> Path:
    """Weights alone, as Keras Applications publishes them: a group for every layer, those without weights too."""
    layers: list[tuple[str, dict[str, Tensor]]] = [("input_1", {})]
    for number, layer in enumerate(network.layers):
        name = "conv1" if number == 0 else f"conv_{'dw' if number % 2 else 'pw'}_{(number + 1) // 2}"
        kernel = layer.convolution.weight
        held = (
            {"depthwise_kernel": kernel.permute(2, 3, 0, 1)} if number % 2 else {"kernel": kernel.permute(2, 3, 1, 0)}
        )
        norm = layer.norm
        moments = {"moving_mean": norm.running_mean, "moving_variance": norm.running_var}
        layers += [
            (name, held),
            (f"{name}_bn", {"gamma": norm.weight, "beta": norm.bias, **moments}),
            (f"{name}_relu", {}),
        ]
    if top:
        kernel, bias = network.head.weight.permute(2, 3, 1, 0), network.head.bias
        layers += [("reshape_1", {}), ("conv_preds", {"kernel": kernel, "bias": bias})]
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [name.encode() for name, _ in layers]
        file.attrs["backend"], file.attrs["keras_version"] = b"tensorflow", b"2.0.4"
        for name, held in layers:
            group = file.create_group(name)
            group.attrs["weight_names"] = np.array([f"{name}/{leaf}:0".encode() for leaf in held], "S")
            for leaf, tensor in held.items():
                group[f"{name}/{leaf}:0"] = tensor.detach().numpy()
    return path


@pytest.mark.parametrize(
    ("name", "width", "classes", "size"),
    [
        ("mobilenet_2_5_128_tf.h5", 0.25, 1000, 128),
        ("mobilenet_5_0_224_tf.h5", 0.5, 1000, 224),
        ("my.h5", 0.25, 5, 224),
    ],
)
def test_keras_applications_weights_alone(name: str, width: float, classes: int, size: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = definitions.ZFTURBO.network(classes, width).trained(NORMALIZATIONS["half"], 32)
    ours = import_state_dict(write_keras(theirs, tmp_path / name))
    spec = ours.spec
    assert (spec.input_size, spec.activation, spec.padding) == (size, "relu6", "same")
    assert (spec.normalization, spec.preprocessing) == (NORMALIZATIONS["half"], BILINEAR)
    assert spec.classes == (IMAGENET if classes == 1000 else tuple(f"class {i}" for i in range(classes)))
    assert differ(theirs, ours, spec.normalization) < 1e-4


def test_a_body_without_its_classifier_is_refused_at_once(tmp_path: Path) -> None:
    """Every order of its parts used to be tried, of which there are too many."""
    path = write_keras(definitions.ZFTURBO.network(10), tmp_path / "mobilenet_2_5_224_tf_no_top.h5", top=False)
    with pytest.raises(MnvError, match="no classifier") as error:
        import_state_dict(path)
    assert "no_top" in error.value.hint


# What lies beside the weights ---------------------------------------------------------------------------------------

TRANSFORMERS = {
    "architectures": ["MobileNetV1ForImageClassification"], "depth_multiplier": 0.25, "hidden_act": "relu6",
    "id2label": {"2": "wasp", "0": "ant", "1": "bee"}, "image_size": 160, "layer_norm_eps": 0.01,
    "model_type": "mobilenet_v1", "tf_padding": False,
}  # fmt: skip
PROCESSOR = {
    "crop_size": {"height": 160, "width": 160}, "do_center_crop": True, "do_normalize": True, "do_rescale": True,
    "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.25, 0.5], "resample": 3, "rescale_factor": 0.00392156862745098,
    "size": {"shortest_edge": 200},
}  # fmt: skip


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_hugging_face_says_beside_the_weights_what_they_are(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = replace(definitions.HUGGING_FACE, same=False, epsilon=0.01)
    theirs = source.network(3).trained(NORMALIZATIONS["half"], 32)
    path = write(theirs.state(), tmp_path / name)
    (tmp_path / "config.json").write_text(json.dumps(TRANSFORMERS))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    ours = import_state_dict(path)
    spec = ours.spec
    assert (spec.classes, spec.input_size, spec.padding) == (("ant", "bee", "wasp"), 160, "symmetric")
    assert spec.normalization.mean == pytest.approx((102, 127.5, 153))
    assert spec.normalization.std == pytest.approx((51, 63.75, 127.5))
    assert spec.preprocessing == Preprocessing("bicubic", 0.8)
    assert differ(theirs, ours, spec.normalization) < 1e-4


def test_timm_says_beside_the_weights_what_they_are(tmp_path: Path) -> None:
    given = {
        "input_size": [3, 128, 128], "interpolation": "bilinear", "crop_pct": 0.95, "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
    }  # fmt: skip
    content = {"architecture": "mobilenetv1_100", "num_classes": 2, "pretrained_cfg": given, "label_names": ["a", "b"]}
    path = write(definitions.TIMM.network(2).state(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(content))
    spec = import_state_dict(path).spec
    assert (spec.classes, spec.input_size, spec.activation) == (("a", "b"), 128, "relu6")
    assert spec.normalization == NORMALIZATIONS["imagenet"]
    assert spec.preprocessing == Preprocessing("bilinear", 0.95)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"model_type": "mobilenet_v2"}', "network of the kind mobilenet_v2"),
        ('{"model_type": "mobilenet_v1", "hidden_act": "hard_swish"}', "activations are hard_swish"),
        ('{"architecture": "mobilenetv3_small_100", "pretrained_cfg": {}}', "timm's mobilenetv3_small_100"),
        ('{"architecture": "mobilenetv1_100", "pretrained_cfg": {"input_size": 3}}', "is not understood"),
        ("{", "cannot be read"),
    ],
)
def test_what_lies_beside_the_weights_and_does_not_fit_them_is_refused(
    content: str, message: str, tmp_path: Path
) -> None:
    path = write(definitions.HUGGING_FACE.network(3).state(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(MnvError, match=message):
        import_state_dict(path)


# Orders that nothing tells ------------------------------------------------------------------------------------------

COUNTED = (
    *("one", "two", "three", "four", "five", "six", "seven"),
    *("eight", "nine", "ten", "eleven", "twelve", "thirteen"),
)


def in_words(number: int) -> tuple[str, str, str, str]:
    name = f"block_{COUNTED[number]}"
    return f"{name}.dw", f"{name}.dw_bn", f"{name}.pw", f"{name}.pw_bn"


def order_of(rows: list[tuple[str, Tensor]], path: Path) -> list[str]:
    """Names of the convolutions of a file that has these, in the order in which they come in."""
    write(dict(rows), path)
    tensors = readers.read(path)
    assert isinstance(tensors, Tensors)
    return [convolution.name for convolution in matching.match(path, tensors).convolutions]


@pytest.mark.slow
@pytest.mark.parametrize(("blocks", "is_unique"), [(definitions.PAPER, False), (definitions.TUTORIAL, True)])
def test_layers_alike_are_put_in_no_order_that_is_only_a_guess(
    blocks: tuple[tuple[int, int], ...], is_unique: bool, tmp_path: Path
) -> None:
    """Of the tutorial's blocks no two are alike, of the paper's five are; on their own, many layers are."""
    source = Definition(("stem.conv", "stem.bn"), in_words, "fc", blocks)
    rows = list(source.network(10).state().items())
    expected = ["stem.conv", *(name for n in range(len(blocks)) for name in in_words(n)[::2])]
    assert order_of(rows, tmp_path / "in_order.pth") == expected
    stem = [row for row in rows if row[0].startswith("stem")]
    assert order_of([*rows[len(stem) :], *stem], tmp_path / "stem_last.pth") == expected
    if is_unique:
        assert order_of(rows, tmp_path / "sorted.safetensors") == expected
    else:
        with pytest.raises(MnvError, match="neither its order nor their names say") as found:
            order_of(rows, tmp_path / "sorted.safetensors")
        assert "block_eight, block_eleven, block_nine, block_seven and 1 more" in found.value.message
    layers = {name.rpartition(".")[0] for name, _ in rows}
    names = dict(zip(sorted(layers), np.random.default_rng(0).permutation(len(layers)).tolist(), strict=True))
    mixed = [(f"{names[name.rpartition('.')[0]]}.{name.rpartition('.')[2]}", tensor) for name, tensor in rows]
    with pytest.raises(MnvError, match="neither its order nor their names say"):
        order_of(sorted(mixed), tmp_path / "mixed.pth")


# What is refused ----------------------------------------------------------------------------------------------------


def detector(prefix: str, heads: tuple[str, ...]) -> Callable[[], State]:
    def made() -> State:
        state = definitions.MARVIS.network(10).state()
        body = {name.replace("model.", prefix, 1): t for name, t in state.items() if not name.startswith("fc.")}
        return body | {f"{head}.weight": torch.zeros(16, 256, 3, 3) for head in heads}

    return made


@pytest.mark.parametrize("source", [definitions.HUGGING_FACE, definitions.TIMM, definitions.MARVIS])
def test_a_body_in_alphabetical_order_is_called_one(source: Definition, tmp_path: Path) -> None:
    """The first order that failed gave the reason, and alphabetical ones look like a MobileNetV2."""
    body = [row for row in source.network(10).state().items() if not row[0].startswith(f"{source.classifier}.")]
    with pytest.raises(MnvError, match="no classifier"):
        import_state_dict(write(dict(sorted(body)), tmp_path / "weights.pth"))


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (detector("base_net.", ("extras.0.0", "classification_headers.0", "regression_headers.0")), "detector"),
        (detector("body.", ("fpn.output1.0", "ssh1.conv3X3.0", "ClassHead.0.conv1x1")), "detector"),
        (detector("backbone.", ("neck.conv1", "yolo_head.0")), "detector"),
        (detector("model.", ()), "no classifier"),
    ],
    ids=["ssd", "retinaface", "yolo", "body"],
)
def test_a_detector_is_called_one(state: Callable[[], State], message: str, tmp_path: Path) -> None:
    with pytest.raises(MnvError, match=message):
        import_state_dict(write(state(), tmp_path / "weights.pth"))


@pytest.mark.slow
def test_one_output_becomes_two_classes_that_answer_alike(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = definitions.HUGGING_FACE.network(1).trained(NORMALIZATIONS["half"], 32)
    path = write(theirs.state(), tmp_path / "weights.pth")
    found = import_file(path, Options(classes=("cat", "dog"), input_size=32))
    assert any("second of two classes" in note for note in found.notes)
    pictures = shown(32)
    with torch.inference_mode():
        chance = found.network(torch.from_numpy(pictures)).softmax(1)[:, 1]
        expected = theirs.logits(normalized(pictures, NORMALIZATIONS["half"])).sigmoid()[:, 0]
    torch.testing.assert_close(chance, expected, atol=1e-5, rtol=1e-5)
