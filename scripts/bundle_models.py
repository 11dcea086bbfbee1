"""Makes the checkpoints in models/ fit to be shipped, and their ONNX files and manifests again.

    python scripts/bundle_models.py

A checkpoint gets the temperature of its answers to the pictures that training held out, and its accuracies are measured
again; weights and settings stay as they are, but that those of the narrower networks are rounded to MANTISSA bits, for
the size of the wheel. CIFAR-10 has to be at hand, see mnv1deploy.datasets.data_folder.
"""

from __future__ import annotations

from pathlib import Path

import torch

from mnv1deploy import bundled, checkpoint, datasets, exporting, verification
from mnv1deploy.confidence import fitted_temperature
from mnv1deploy.formats.torch_session import TorchSession
from mnv1deploy.training.setup import Parts

MANTISSA = 12
"""Of float32's 24 bits, the first one included: what is left of 280 KB are 200 when compressed."""


def rounded(values: torch.Tensor) -> torch.Tensor:
    """float32 with MANTISSA bits that say something."""
    mantissa, exponent = torch.frexp(values)
    return torch.ldexp((mantissa * 2**MANTISSA).round() / 2**MANTISSA, exponent)


def prepare(path: Path) -> None:
    """Writes a checkpoint again as it is shipped."""
    found = checkpoint.load(path)
    network = found.network
    if path != bundled.CHECKPOINT:
        network.load_state_dict(
            {
                name: rounded(value) if value.is_floating_point() else value
                for name, value in network.state_dict().items()
            }
        )
    train, test = datasets.load(None, found.spec.pixels)
    unseen = Parts.of(train, found.training["holdout"]).holdout
    session = TorchSession(network, found.spec, "cpu", None)
    spec = found.spec.replace(
        temperature=fitted_temperature(verification.logits(session, unseen.images), unseen.labels)
    )
    accuracy = tuple(verification.evaluate(session, pictures).accuracy for pictures in (test, unseen))
    checkpoint.save(path, network, spec=spec, training=found.training, accuracy=accuracy)
    print(f"{path.name}: temperature {spec.temperature}, {', '.join(map(str, accuracy))}")


def main() -> None:
    """All checkpoints in models/: int8 of each, and of the bundled one fp32, too."""
    for path in sorted(bundled.FOLDER.glob("*.safetensors")):
        prepare(path)
        for precision in ("fp32", "int8") if path == bundled.CHECKPOINT else ("int8",):
            for item in exporting.export("onnx", precision, checkpoint_path=path, output=bundled.FOLDER):
                if item.refusal:
                    raise SystemExit(str(item.refusal))
                print(f"{item.path.name}: {item.manifest.bytes:,} bytes, {item.proof}")


if __name__ == "__main__":
    main()
