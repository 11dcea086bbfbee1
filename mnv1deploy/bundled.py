"""Where the shipped checkpoints and artifacts are: in the installed package, or in ``models/`` of a source tree."""

from pathlib import Path

_PACKAGE = Path(__file__).parent
FOLDER = _PACKAGE / "models" if (_PACKAGE / "models").is_dir() else _PACKAGE.parent / "models"

CHECKPOINT = FOLDER / "mobilenetv1_cifar10.safetensors"
INT8 = FOLDER / "mobilenetv1_cifar10_int8.onnx"
FP32 = FOLDER / "mobilenetv1_cifar10_fp32.onnx"

CHECKPOINTS = {
    **{f"w{width}": FOLDER / f"mobilenetv1_cifar10_w{width}.safetensors" for width in (0.25, 0.5, 0.75)},
    "w1": CHECKPOINT,
}
"""By the width multiplier of their networks."""


def checkpoint(text: str) -> Path:
    """The checkpoint of :data:`CHECKPOINTS` that is called so, or a path, which a file of such a name is as well."""
    path = Path(text)
    return path if path.exists() else CHECKPOINTS.get(text, path)


def artifact(text: str) -> Path:
    """The int8 ONNX of such a checkpoint, or a path."""
    found = checkpoint(text)
    return found.with_name(f"{found.stem}_int8.onnx") if text in CHECKPOINTS and found == CHECKPOINTS[text] else found
