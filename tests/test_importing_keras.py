"""Networks that Keras itself saved, in each of its forms, and TensorFlow.js's: their answers are Keras's own."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mnv1deploy.errors import MnvError
from mnv1deploy.importing import NORMALIZATIONS, Options, import_file
from mnv1deploy.importing.proof import Comparison

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")]

CLASSES = ("ant", "bee", "wasp")
HALF = NORMALIZATIONS["half"]
IMAGES = np.random.default_rng(1).integers(0, 256, (8, 32, 32, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def keras() -> Any:
    """Keras, which computes with torch here; both are imported once."""
    os.environ["KERAS_BACKEND"] = "torch"
    return pytest.importorskip("keras")


def network(keras: Any, *, rescaled: bool | str = False, head: str = "dense", activation: str = "relu6") -> Any:
    """A MobileNetV1 with random weights; its strides of 2 are padded as Keras Applications pad them."""
    layers = keras.layers
    image = x = keras.Input((32, 32, 3))

    def normalized(x: Any) -> Any:
        x = layers.BatchNormalization()(x)
        return (
            layers.LeakyReLU()(x) if activation == "leaky" else layers.ReLU(6.0 if activation == "relu6" else None)(x)
        )

    if rescaled == "operators":
        x = x / 127.5 - 1
    elif rescaled:
        x = layers.Rescaling(1 / 127.5, offset=-1)(x)
    x = normalized(layers.Conv2D(4, 3, 2, padding="same", use_bias=False)(x))
    for channels, stride in ((8, 1), (16, 2), (16, 1)):
        before = x
        if stride == 2:
            x = layers.ZeroPadding2D(((0, 1), (0, 1)))(x)
        padding = "valid" if stride == 2 else "same"
        x = normalized(layers.DepthwiseConv2D(3, stride, padding=padding, use_bias=False)(x))
        x = normalized(layers.Conv2D(channels, 1, padding="same", use_bias=False)(x))
        if activation == "residual" and stride == 1 and before.shape == x.shape:
            x = layers.Add()([x, before])
    if head == "dense":
        x = layers.Dense(3, activation="softmax")(layers.Dropout(0.1)(layers.GlobalAveragePooling2D()(x)))
    else:
        x = layers.Dropout(0.1)(layers.GlobalAveragePooling2D(keepdims=True)(x))
        x = layers.Activation("softmax")(layers.Reshape((3,))(layers.Conv2D(3, 1, padding="same")(x)))
    made = keras.Model(image, x)
    random = np.random.default_rng(0)
    made.set_weights(
        [
            random.uniform(0.5, 1.5, weight.shape) if weight.ndim == 1 else random.normal(0, 0.4, weight.shape)
            for weight in made.get_weights()
        ]
    )
    return made


def write_tfjs(model: Any, folder: Path, kind: str) -> Path:
    """As TensorFlow.js's converter lays a layers model out: shards are cut anywhere, and weights may be quantised.

    Format: https://github.com/tensorflow/tfjs/blob/master/tfjs-core/src/io/types.ts (WeightsManifestEntry).
    """
    content, entries = b"", []
    for layer in model.layers:
        for weight in layer.weights:
            values = np.asarray(weight.numpy(), np.float32)
            entry: dict[str, Any] = {"name": f"{layer.name}/{weight.name}", "shape": values.shape, "dtype": "float32"}
            if kind in ("uint8", "uint16"):
                low, steps = float(values.min()), np.iinfo(kind).max
                scale = (float(values.max()) - low) / steps or 1.0
                entry["quantization"] = {"dtype": kind, "scale": scale, "min": low, "original_dtype": "float32"}
                content += np.rint((values - low) / scale).astype(kind).tobytes()
            elif kind == "float16":
                entry["quantization"] = {"dtype": kind, "original_dtype": "float32"}
                content += values.astype(kind).tobytes()
            else:
                content += values.tobytes()
            entries.append(entry)
    middle = len(content) // 2 + 1
    names = ["group1-shard1of2.bin", "group1-shard2of2.bin"]
    for name, part in zip(names, (content[:middle], content[middle:]), strict=True):
        (folder / name).write_bytes(part)
    described = {"keras_version": "3", "backend": "torch", "model_config": json.loads(model.to_json())}
    manifest = [{"paths": names, "weights": entries}]
    text = {"format": "layers-model", "modelTopology": described, "weightsManifest": manifest}
    (folder / "model.json").write_text(json.dumps(text))
    return folder / "model.json"


def compared(path: Path, **options: Any) -> Comparison | None:
    return import_file(path, Options(classes=CLASSES, **options)).proof


def probabilities(path: Path, **options: Any) -> NDArray[np.float32]:
    found = import_file(path, Options(classes=CLASSES, **options)).network
    with torch.inference_mode():
        return found(torch.from_numpy(IMAGES)).softmax(1).numpy()


def saved(suffix: str) -> Callable[[Any, Path], Path]:
    def write(model: Any, folder: Path) -> Path:
        path = folder / f"network{suffix}"
        (model.save_weights if suffix == ".weights.h5" else model.save)(path)
        return path

    return write


@pytest.mark.parametrize("head", ["dense", "convolution"])
@pytest.mark.parametrize("suffix", [".keras", ".h5", ".weights.h5"])
def test_it_answers_as_keras_does(keras: Any, suffix: str, head: str, tmp_path: Path) -> None:
    model = network(keras, head=head)
    expected = model.predict(IMAGES / np.float32(127.5) - 1, verbose=0)
    options: dict[str, Any] = {"normalization": HALF}
    if suffix == ".weights.h5":  # weights alone do not say it
        options |= {"strides": (2, 1, 2, 1), "activation": "relu6", "input_size": 32}
    np.testing.assert_allclose(probabilities(saved(suffix)(model, tmp_path), **options), expected, atol=1e-6)


def test_a_rescaling_layer_is_its_normalisation(keras: Any, tmp_path: Path) -> None:
    model = network(keras, rescaled=True, activation="relu")
    path = saved(".keras")(model, tmp_path)
    np.testing.assert_allclose(probabilities(path), model.predict(IMAGES.astype(np.float32), verbose=0), atol=1e-6)
    with pytest.raises(MnvError, match="normalises its pixels itself"):
        probabilities(path, normalization=NORMALIZATIONS["imagenet"])


def test_operators_on_pixels_are_its_normalisation(keras: Any, tmp_path: Path) -> None:
    """What Keras Applications' preprocess_input leaves in a network, as Keras 3 and Keras 2 write it."""
    model = network(keras, rescaled="operators")
    expected = model.predict(IMAGES.astype(np.float32), verbose=0)
    path = saved(".keras")(model, tmp_path)
    np.testing.assert_allclose(probabilities(path), expected, atol=1e-6)
    path = saved(".h5")(model, tmp_path)
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        layers = config["config"]["layers"]
        for before, layer, value in zip(layers, layers[1:3], (127.5, 1.0), strict=False):
            function = {"TrueDivide": "math.truediv", "Subtract": "math.subtract"}[layer["class_name"]]
            layer["class_name"] = "TFOpLambda"
            layer["config"]["function"] = function
            layer["inbound_nodes"] = [[before["config"]["name"], 0, 0, {"y": value, "name": None}]]
        file.attrs["model_config"] = json.dumps(config)
    np.testing.assert_allclose(probabilities(path), expected, atol=1e-6)


@pytest.mark.parametrize(("head", "rescaled"), [("dense", True), ("convolution", False)])
def test_the_import_is_proved_by_keras_itself(keras: Any, head: str, rescaled: bool, tmp_path: Path) -> None:
    path = saved(".keras")(network(keras, head=head, rescaled=rescaled), tmp_path)
    found = compared(path, normalization=None if rescaled else HALF)
    assert found is not None and found.engine == "keras"
    assert found.largest < 1e-4 and found.agreement == 1


def test_keras_imports_no_module_that_a_file_names(keras: Any, tmp_path: Path) -> None:
    """Keras would import the module of an object to find its class: that is code of whoever sent the file."""
    path = saved(".h5")(network(keras), tmp_path)
    (tmp_path / "planted.py").write_text("open('exploded', 'w').close()")
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        config["config"]["layers"][1]["config"]["kernel_initializer"] = {
            "module": "planted", "class_name": "Zeros", "config": {}, "registered_name": None
        }  # fmt: skip
        file.attrs["model_config"] = json.dumps(config)
    imported = import_file(path, Options(classes=CLASSES, normalization=HALF))
    assert imported.proof is None
    assert any("modules outside Keras" in note for note in imported.notes)


@pytest.mark.parametrize(
    ("kind", "tolerance"), [("float32", 1e-6), ("float16", 0.01), ("uint16", 1e-3), ("uint8", 0.2)]
)
def test_tensorflow_js(keras: Any, kind: str, tolerance: float, tmp_path: Path) -> None:
    model = network(keras)
    expected = model.predict(IMAGES / np.float32(127.5) - 1, verbose=0)
    path = write_tfjs(model, tmp_path, kind)
    np.testing.assert_allclose(probabilities(path, normalization=HALF), expected, atol=tolerance)


@pytest.mark.parametrize("fault", ["cut", "missing", "elsewhere", "graph"])
def test_tensorflow_js_that_is_not_whole(keras: Any, fault: str, tmp_path: Path) -> None:
    path = write_tfjs(network(keras), tmp_path, "float32")
    shard = tmp_path / "group1-shard2of2.bin"
    content = json.loads(path.read_text())
    message = {"cut": "cannot be read", "missing": "no group1-shard2of2.bin", "elsewhere": "not beside it"}
    if fault == "cut":
        shard.write_bytes(shard.read_bytes()[:-100])
    elif fault == "missing":
        shard.unlink()
    elif fault == "elsewhere":
        content["weightsManifest"][0]["paths"][1] = "../../etc/hostname"
    else:
        content["modelTopology"] = {"node": []}
    path.write_text(json.dumps(content))
    with pytest.raises(MnvError, match=message.get(fault, "a graph model")):
        import_file(path, Options(classes=CLASSES, normalization=HALF))


@pytest.mark.parametrize(("activation", "message"), [("leaky", "LeakyReLU"), ("residual", "residual|Add|branch")])
def test_another_network_is_refused(keras: Any, activation: str, message: str, tmp_path: Path) -> None:
    path = saved(".keras")(network(keras, activation=activation), tmp_path)
    with pytest.raises(MnvError, match=message):
        import_file(path, Options(classes=CLASSES, normalization=HALF))
