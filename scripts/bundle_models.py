"""Makes models/*.onnx and their manifests again, from the checkpoints beside them, each with its temperature.

    python scripts/bundle_models.py

The temperature is fitted to the pictures that training held out; weights, settings and accuracies stay as they are.
CIFAR-10 has to be at hand, see mnv1deploy.datasets.data_folder.
"""

from __future__ import annotations

from pathlib import Path

from mnv1deploy import bundled, checkpoint, datasets, exporting, verification
from mnv1deploy.artifact import Precision
from mnv1deploy.confidence import fitted_temperature
from mnv1deploy.formats.torch_session import TorchSession

PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")


def fit(path: Path) -> float:
    """Writes a checkpoint again with the temperature of its answers to the held-out pictures, which it returns."""
    found = checkpoint.load(path)
    unseen = datasets.load_unseen(None, found.spec.pixels)
    logits = verification.logits(TorchSession(found.network, found.spec, "cpu", None), unseen.images)
    spec = found.spec.replace(temperature=fitted_temperature(logits, unseen.labels))
    checkpoint.save(path, found.network, spec=spec, training=found.training, accuracy=found.accuracy)
    return spec.temperature


def main() -> None:
    """All checkpoints in models/."""
    for path in sorted(bundled.FOLDER.glob("*.safetensors")):
        print(f"{path.name}: temperature {fit(path)}")
        for precision in PRECISIONS:
            for item in exporting.export("onnx", precision, checkpoint_path=path, output=bundled.FOLDER):
                if item.refusal:
                    raise SystemExit(str(item.refusal))
                print(f"{item.path.name}: {item.manifest.bytes:,} bytes")


if __name__ == "__main__":
    main()
