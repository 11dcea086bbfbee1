"""A service of BentoML for an ONNX file, as its documentation has one write it: a form's file in, label out.

    python scripts/bentoml_service.py FILE.onnx PORT WORKERS

What scripts/load_serve.py compares mnv1 serve with; run by a Python that has bentoml, onnxruntime and Pillow, and no
mnv1deploy. The picture's centred square is scaled as Pillow's users do.
"""

import json
import os
import sys

import bentoml
import numpy
import onnxruntime
from PIL import Image, ImageOps

MODEL, WORKERS = "BENTOML_SERVICE_MODEL", "BENTOML_SERVICE_WORKERS"
"""Variables of the environment: BentoML's workers import this file anew."""


@bentoml.service(
    workers=int(os.environ.get(WORKERS, "1")), traffic={"timeout": 30}, logging={"access": {"enabled": False}}
)
class Service:
    """The network on one thread, in each worker."""

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(os.environ[MODEL], options, providers=["CPUExecutionProvider"])
        self.size = self.session.get_inputs()[0].shape[1]
        metadata = json.loads(self.session.get_modelmeta().custom_metadata_map["mnv1deploy"])
        self.labels = metadata["spec"]["classes"]

    @bentoml.api
    def predict(self, content: Image.Image) -> dict[str, str]:
        """The likeliest class."""
        image = ImageOps.fit(content.convert("RGB"), (self.size, self.size), Image.Resampling.BILINEAR)
        (logits,) = self.session.run(None, {"image": numpy.asarray(image)[None]})
        return {"label": self.labels[int(logits[0].argmax())]}


if __name__ == "__main__":
    os.environ |= {MODEL: sys.argv[1], WORKERS: sys.argv[3], "BENTOML_DO_NOT_TRACK": "true"}
    folder, file = os.path.split(os.path.abspath(__file__))
    command = [sys.executable, "-m", "bentoml", "serve", f"{file.removesuffix('.py')}:Service", "--working-dir", folder]
    os.execv(sys.executable, [*command, "--host", "127.0.0.1", "--port", sys.argv[2]])  # noqa: S606
