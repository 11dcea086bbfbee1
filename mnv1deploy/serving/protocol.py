"""The Open Inference Protocol, version 2, over HTTP: what is in its requests and answers. No network here.

The protocol: https://github.com/kserve/open-inference-protocol; its binary tensors are Triton's extension.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from mnv1deploy import schema
from mnv1deploy.errors import MnvError
from mnv1deploy.formats.base import Images, Logits, check_images
from mnv1deploy.serving.limits import RefusedError
from mnv1deploy.spec import ModelSpec

INPUT, OUTPUT = "image", "logits"

HEADER_LENGTH = "inference-header-content-length"
"""The header that says where a body's JSON ends and its tensors begin."""

EXTENSIONS = ("binary_tensor_data", "classification")


@dataclass(frozen=True)
class _Input:
    name: str
    shape: tuple[int, ...]
    datatype: str
    parameters: dict[str, Any] = field(default_factory=dict)
    data: Any = None


@dataclass(frozen=True)
class _Output:
    name: str
    parameters: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Body:
    inputs: tuple[_Input, ...]
    outputs: tuple[_Output, ...] = ()
    id: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class InferRequest:
    """What is asked for.

    Attributes:
        images: raw pixels, uint8 ``[N, H, W, C]``.
        id: to be told again in the answer; may be empty.
        binary: whether the answer's tensor is to be bytes.
        classes: for so many of the likeliest classes in place of logits (the classification extension); else 0.
    """

    images: Images
    id: str = ""
    binary: bool = False
    classes: int = 0

    @classmethod
    def read(cls, body: bytes, header_length: str | None, spec: ModelSpec) -> InferRequest:
        """What a request's body says; ``header_length`` is what its HEADER_LENGTH says, None without that.

        Raises:
            RefusedError: for anything but the contract (400).
        """
        try:
            length = len(body) if header_length is None else int(header_length)
            if not 0 <= length <= len(body):
                raise ValueError(f"its JSON has {length} bytes, and the body {len(body)}")
            found = schema.build(_Body, schema.loads(body[:length]), "the request")
            if [tensor.name for tensor in found.inputs] != [INPUT]:
                raise ValueError(f"its one input is called {INPUT!r}")
            outputs = found.outputs or (_Output(OUTPUT),)
            if [tensor.name for tensor in outputs] != [OUTPUT]:
                raise ValueError(f"its one output is called {OUTPUT!r}")
            parameters = outputs[0].parameters
            for name in (*found.inputs[0].parameters, *parameters):
                if name.startswith("shared_memory"):
                    raise ValueError("shared memory is not offered")
            binary = parameters.get("binary_data", found.parameters.get("binary_data_output", False))
            classes = parameters.get("classification", 0)
            if not isinstance(binary, bool) or type(classes) is not int or classes < 0:
                raise ValueError("binary_data is true or false, and classification a number")
            pixels = _pixels(found.inputs[0], body[length:])
            check_images(pixels, spec)
        except MnvError as error:
            raise RefusedError(400, error.message, error.hint) from error
        except ValueError as error:
            raise RefusedError(400, f"This is no request for inference: {MnvError.reason(error)}.") from error
        return cls(pixels, found.id, binary, classes)

    def answer(self, model: str, version: str, logits: Logits, labels: tuple[str, ...]) -> tuple[bytes, dict[str, str]]:
        """The body and the headers that answer it with these logits, float32 ``[N, classes]``."""
        output: dict[str, Any] = {"name": OUTPUT, "datatype": "FP32", "shape": list(logits.shape)}
        data: Any = logits
        if self.classes:
            order = np.argsort(-logits, axis=1, kind="stable")[:, : self.classes]
            data = [f"{row[i]}:{i}:{labels[i]}" for row, chosen in zip(logits, order, strict=True) for i in chosen]
            output |= {"datatype": "BYTES", "shape": [len(logits), len(data) // len(logits)]}
        tensor = b""
        if self.binary:
            tensor = _bytes(data) if self.classes else logits.astype("<f4").tobytes()
            output["parameters"] = {"binary_data_size": len(tensor)}
        else:
            output["data"] = data if self.classes else logits.ravel().tolist()
        answer = {"model_name": model, "model_version": version, **({"id": self.id} if self.id else {})}
        text = json.dumps({**answer, "outputs": [output]}, separators=(",", ":")).encode()
        if not self.binary:
            return text, {"content-type": "application/json"}
        return text + tensor, {"content-type": "application/octet-stream", HEADER_LENGTH: str(len(text))}


def _pixels(tensor: _Input, binary: bytes) -> Images:
    """Of any shape. Raises ValueError for what is no tensor of bytes."""
    if tensor.datatype != "UINT8":
        raise ValueError(f"{INPUT!r} is UINT8, raw pixels, not {tensor.datatype}")
    size = tensor.parameters.get("binary_data_size")
    if size is not None:
        if tensor.data is not None or size != len(binary):
            raise ValueError(f"{INPUT!r} has {size} bytes, and after the JSON there are {len(binary)}")
        found = np.frombuffer(binary, np.uint8)
    else:
        if binary:
            raise ValueError("there are bytes after its JSON that no input has")
        values = np.asarray(tensor.data)
        if values.dtype.kind not in "iu" or not values.size or values.min() < 0 or values.max() > 255:
            raise ValueError(f"the data of {INPUT!r} are whole numbers from 0 to 255")
        if values.ndim > 1 and values.shape != tensor.shape:
            raise ValueError(f"the data of {INPUT!r} are {list(values.shape)}, and its shape {list(tensor.shape)}")
        found = values.astype(np.uint8)
    if any(length < 0 for length in tensor.shape) or prod(tensor.shape) != found.size:
        raise ValueError(f"{INPUT!r} has {found.size} values, and its shape is {list(tensor.shape)}")
    return found.reshape(tensor.shape)


def _bytes(texts: list[str]) -> bytes:
    """Each with its length before it, four bytes, as the extension has tensors of BYTES."""
    encoded = [text.encode() for text in texts]
    return b"".join(len(text).to_bytes(4, "little") + text for text in encoded)


def server_metadata(version: str) -> dict[str, Any]:
    """The answer of ``/v2``."""
    return {"name": "mnv1deploy", "version": version, "extensions": list(EXTENSIONS)}


def model_metadata(name: str, version: str, platform: str, spec: ModelSpec) -> dict[str, Any]:
    """The answer of ``/v2/models/NAME``."""
    return {
        "name": name,
        "versions": [version],
        "platform": platform,
        "inputs": [{"name": INPUT, "datatype": "UINT8", "shape": [-1, *spec.pixels.shape]}],
        "outputs": [{"name": OUTPUT, "datatype": "FP32", "shape": [-1, len(spec.classes)]}],
    }
