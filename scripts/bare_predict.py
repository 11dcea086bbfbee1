"""What a script without mnv1deploy takes for a picture: numpy, Pillow and onnxruntime, and nothing that refuses.

python scripts/bare_predict.py PICTURE
"""

import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

MODEL = Path(__file__).parents[1] / "models" / "mobilenetv1_cifar10_int8.onnx"
NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def main(path: str) -> None:
    """Prints the label and its probability."""
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB").resize((32, 32), Image.Resampling.BICUBIC))
    session = onnxruntime.InferenceSession(MODEL, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"image": pixels[None]})[0]
    powers = np.exp(logits - logits.max())
    print(f"{path}  {NAMES[powers.argmax()]}  {powers.max() / powers.sum():.2%}")


if __name__ == "__main__":
    main(sys.argv[1])
