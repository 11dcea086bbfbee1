"""Triton: a model repository around the ONNX file, for NVIDIA's inference server, which was not run here.

The configuration is ModelConfig of Triton's model_config.proto as text
(https://github.com/triton-inference-server/common/blob/main/protobuf/model_config.proto).
"""

from __future__ import annotations

from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from mnv1deploy.artifact import Provenance
from mnv1deploy.c.names import identifier
from mnv1deploy.errors import MnvError
from mnv1deploy.formats.onnx import OnnxFormat, OnnxSession

if TYPE_CHECKING:
    from mnv1deploy.network import MobileNetV1
    from mnv1deploy.quantization import Quantization

MAX_BATCH = 64
"""Pictures in one run; Triton adds the first dimension itself."""

DELAY = 1000
"""Microseconds that a request may wait for others."""

CONFIG = Template("""\
name: "$name"
backend: "onnxruntime"
max_batch_size: $max_batch
input [
  {
    name: "image"
    data_type: TYPE_UINT8
    dims: [ $shape ]
  }
]
output [
  {
    name: "logits"
    data_type: TYPE_FP32
    dims: [ $classes ]
    label_filename: "labels.txt"
  }
]
dynamic_batching {
  max_queue_delay_microseconds: $delay
}
""")


class TritonFormat(OnnxFormat):
    """A folder that is a model repository: ``NAME/config.pbtxt``, ``NAME/labels.txt`` and ``NAME/1/model.onnx``.

    The ONNX file has the bytes of the format onnx but for what it says of its own format, and is what is run here.
    """

    name = "triton"
    suffix = ".triton"

    def export(
        self, network: MobileNetV1, path: Path, provenance: Provenance, quantization: Quantization | None
    ) -> None:
        """See Format.export. Writes a folder."""
        spec = provenance.spec
        name = identifier(spec.name)
        model = path / name
        (model / "1").mkdir(parents=True)
        super().export(network, model / "1" / "model.onnx", provenance, quantization)
        text = CONFIG.substitute(
            name=name,
            max_batch=MAX_BATCH,
            shape=", ".join(map(str, spec.pixels.shape)),
            classes=len(spec.classes),
            delay=DELAY,
        )
        (model / "config.pbtxt").write_text(text, "utf-8", newline="\n")
        # a line is a label, whatever a name has inside
        labels = "".join(f"{' '.join(label.split()) or '?'}\n" for label in spec.classes)
        (model / "labels.txt").write_text(labels, "utf-8", newline="\n")

    def provenance(self, path: Path) -> Provenance | None:
        """Read from the ONNX file's metadata."""
        return super().provenance(model_in(path))

    def open(self, path: Path, *, provider: str, threads: int | None) -> OnnxSession:
        """See Format.open. Runs the ONNX file inside, by onnxruntime and not by Triton."""
        return super().open(model_in(path), provider=provider, threads=threads)


def model_in(path: Path) -> Path:
    """The ONNX file in a repository of one model. Raises MnvError for any other folder."""
    found = sorted(path.glob("*/1/model.onnx"))
    if len(found) != 1:
        raise MnvError(
            f"{path} is no model repository that mnv1deploy wrote: it has {len(found)} files */1/model.onnx.",
            "Export the checkpoint again.",
        )
    return found[0]
