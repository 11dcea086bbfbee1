"""Core ML (``.mlpackage``), for iPhones, iPads and Macs: written anywhere by coremltools, run by Apple's alone."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mnv1deploy.artifact import METADATA_KEY, Precision, Provenance
from mnv1deploy.errors import MnvError
from mnv1deploy.formats.base import Format, Session
from mnv1deploy.packages import engine, silenced
from mnv1deploy.spec import ModelSpec

if TYPE_CHECKING:
    from mnv1deploy.network import MobileNetV1
    from mnv1deploy.quantization import Quantization

_EXTRA = "coreml"
_DATE = "com.github.apple.coremltools.conversion_date"


class CoreMlFormat(Format):
    """``.mlpackage``, a folder: an ML program for iOS 17 and macOS 14 on, built layer by layer from the spec.

    Its input is an image, which in Core ML is uint8 pixels, RGB or grey, one at a time; its output the float32 logits.
    fp16 and int8 compute in half precision, which the Neural Engine needs; int8 has our integers, scales and zero
    points.
    """

    name = "coreml"
    suffix = ".mlpackage"
    precisions: tuple[Precision, ...] = ("fp32", "fp16", "int8")
    extra = _EXTRA
    runners: tuple[str, ...] = ()
    export_extra = _EXTRA
    writers: tuple[str, ...] = ("torch", "coremltools")
    elsewhere = "Core ML runs on macOS and iOS only"

    def export(
        self, network: MobileNetV1, path: Path, provenance: Provenance, quantization: Quantization | None
    ) -> None:
        """See Format.export."""
        with silenced():
            tools = engine("coremltools", _EXTRA)
            precision = tools.precision.FLOAT32 if provenance.precision == "fp32" else tools.precision.FLOAT16
            layouts = {1: tools.colorlayout.GRAYSCALE, 3: tools.colorlayout.RGB}
            layout = layouts[network.spec.colours]
            image = tools.ImageType("image", shape=_shape(network.spec), color_layout=layout)
            model = tools.convert(
                _program(network, quantization),
                convert_to="mlprogram",
                inputs=[image],
                compute_precision=precision,
                minimum_deployment_target=tools.target.iOS17,
                skip_model_load=True,
            )
            model.user_defined_metadata[METADATA_KEY] = provenance.to_json()
            model.save(str(path))
        _rewrite_deterministically(path, tools)

    def providers(self) -> tuple[str, ...]:
        """None: see ``elsewhere``."""
        return ()

    def provenance(self, path: Path) -> Provenance | None:
        """From the model's metadata, read by coremltools."""
        with silenced():
            tools = engine("coremltools", _EXTRA)
            try:
                spec = tools.utils.load_spec(str(path))
            except Exception as error:  # protobuf's, and whatever a missing file inside gives
                reason = MnvError.reason(error)
                raise MnvError(f"coremltools cannot read {path}: {reason}.", "Export it again.") from error
        text = spec.description.metadata.userDefined.get(METADATA_KEY)
        return Provenance.from_json(text) if text else None

    def open(self, path: Path, *, provider: str, threads: int | None) -> Session:
        """Refuses: see ``elsewhere``."""
        raise MnvError(f"{path} cannot be run here: {self.elsewhere}.", "docs/formats/coreml.md shows how, in Swift.")


def _program(network: MobileNetV1, quantization: Quantization | None) -> Any:
    """The network as Core ML's operators, from the image to the logits."""
    from coremltools.converters.mil import Builder

    from mnv1deploy.quantization import INPUT, parameters_of

    target = engine("coremltools", _EXTRA).target.iOS17
    spec = network.spec
    activations = {"relu": Builder.relu, "relu6": Builder.relu6}

    def on_grid(x: Any, name: str, label: str) -> Any:
        if quantization is None:
            return x
        grid = quantization.activations[name]
        parameters = {"scale": np.float32(grid.scale), "zero_point": np.uint8(grid.zero_point)}
        integers = Builder.quantize(input=x, output_dtype="uint8", **parameters)
        return Builder.dequantize(input=integers, name=f"{label}.quantized", **parameters)

    def weight_of(layer: str, weight: Any) -> Any:
        if quantization is None:
            return weight
        integers = quantization.weights[layer]
        return Builder.constexpr_affine_dequantize(
            quantized_data=integers.values, zero_point=np.int8(0), scale=integers.scales, axis=0
        )

    @Builder.program(input_specs=[Builder.TensorSpec(shape=_shape(spec))], opset_version=target)  # type: ignore[untyped-decorator]
    def program(image: Any) -> Any:
        x = Builder.sub(x=image, y=network.mean.numpy())
        x = on_grid(Builder.real_div(x=x, y=network.std.numpy()), INPUT, "normalized")
        for layer in spec.layers():
            if layer.kind == "pool":
                pooled = Builder.avg_pool(
                    x=x, kernel_sizes=[layer.kernel] * 2, strides=[layer.kernel] * 2, pad_type="valid"
                )
                x = Builder.reshape(
                    x=on_grid(pooled, layer.name, layer.name), shape=[1, layer.out_channels], name="pool"
                )
                continue
            parameters = [parameter.numpy() for parameter in parameters_of(network, layer)]
            weight, bias = weight_of(layer.name, parameters[0]), parameters[1]
            if layer.kind == "linear":
                return Builder.linear(x=x, weight=weight, bias=bias, name="logits")
            top, left, bottom, right = layer.padding
            convolved = Builder.conv(
                x=x,
                weight=weight,
                bias=bias,
                strides=[layer.stride] * 2,
                pad_type="custom",
                pad=[top, bottom, left, right],
                groups=layer.groups,
                name=f"{layer.name}.conv",
            )
            x = activations[layer.activation](x=convolved, name=layer.name)
            x = on_grid(x, layer.name, layer.name)
        raise AssertionError("a network ends in its classifier")

    return program


def _shape(spec: ModelSpec) -> tuple[int, int, int, int]:
    return 1, spec.colours, spec.input_size, spec.input_size


def _rewrite_deterministically(path: Path, tools: Any) -> None:
    """Names the package's items by what they are instead of by chance, orders the model's maps, and drops the date."""
    model = path / "Data" / "com.apple.CoreML" / "model.mlmodel"
    spec = tools.utils.load_spec(str(path))
    spec.description.metadata.userDefined.pop(_DATE, None)
    model.write_bytes(spec.SerializeToString(deterministic=True))
    model.chmod(0o644)  # coremltools makes it private
    manifest = json.loads((path / "Manifest.json").read_text("utf-8"))
    items = manifest["itemInfoEntries"]
    named = {key: str(uuid.uuid5(uuid.NAMESPACE_URL, entry["path"])) for key, entry in items.items()}
    manifest["itemInfoEntries"] = {named[key]: entry for key, entry in items.items()}
    manifest["rootModelIdentifier"] = named[manifest["rootModelIdentifier"]]
    (path / "Manifest.json").write_text(json.dumps(manifest, indent=4, sort_keys=True) + "\n", "utf-8")
