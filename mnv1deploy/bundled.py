"""Where the shipped checkpoint and artifacts are: in the installed package, or in ``models/`` of a source tree."""

from pathlib import Path

_PACKAGE = Path(__file__).parent
FOLDER = _PACKAGE / "models" if (_PACKAGE / "models").is_dir() else _PACKAGE.parent / "models"

CHECKPOINT = FOLDER / "mobilenetv1_cifar10.safetensors"
INT8 = FOLDER / "mobilenetv1_cifar10_int8.onnx"
FP32 = FOLDER / "mobilenetv1_cifar10_fp32.onnx"
