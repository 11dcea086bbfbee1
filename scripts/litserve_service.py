"""A service of LitServe for an ONNX file, as its documentation has one write it: a form's file in, label out.

    python scripts/litserve_service.py FILE.onnx PORT WORKERS

What scripts/load_serve.py compares mnv1 serve with; run by a Python that has litserve, onnxruntime and Pillow, and no
mnv1deploy. The picture's centred square is scaled as Pillow's users do; requests go by LitServe's fast queue.
"""

from __future__ import annotations

import json
import sys

import litserve
import numpy
import onnxruntime
from PIL import Image, ImageOps


class Service(litserve.LitAPI):
    """The network on one thread, in each worker."""

    def setup(self, device: str) -> None:
        """See LitAPI."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
        self.size = self.session.get_inputs()[0].shape[1]
        metadata = json.loads(self.session.get_modelmeta().custom_metadata_map["mnv1deploy"])
        self.labels = metadata["spec"]["classes"]

    def decode_request(self, request) -> numpy.ndarray:  # LitServe takes an annotation for a parameter
        """See LitAPI."""
        with Image.open(request["content"].file) as image:
            fitted = ImageOps.fit(image.convert("RGB"), (self.size, self.size), Image.Resampling.BILINEAR)
            return numpy.asarray(fitted)

    def predict(self, image: numpy.ndarray) -> str:
        """See LitAPI."""
        (logits,) = self.session.run(None, {"image": image[None]})
        return self.labels[int(logits[0].argmax())]

    def encode_response(self, label: str) -> dict[str, str]:
        """See LitAPI."""
        return {"label": label}


if __name__ == "__main__":
    server = litserve.LitServer(
        Service(), accelerator="cpu", workers_per_device=int(sys.argv[3]), fast_queue=True, timeout=30
    )
    server.run(host="127.0.0.1", port=int(sys.argv[2]), log_level="warning", generate_client_file=False)
