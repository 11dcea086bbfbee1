"""mnv1deploy: a small convolutional network from PyTorch to every edge runtime, in int8, with every step proved.

    import mnv1deploy as mnv1

    mnv1.load().predict("cat.png").label

Importing it imports neither torch nor an engine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mnv1deploy.classifier import Classifier, Prediction, load
from mnv1deploy.errors import MnvError
from mnv1deploy.spec import Block, ModelSpec, Normalization

if TYPE_CHECKING:
    from mnv1deploy.exporting import Exported, export
    from mnv1deploy.network import MobileNetV1, mobilenetv1_small

__all__ = [
    "Block",
    "Classifier",
    "Exported",
    "MnvError",
    "MobileNetV1",
    "ModelSpec",
    "Normalization",
    "Prediction",
    "export",
    "load",
    "mobilenetv1_small",
]

_NEED_TORCH = {
    "Exported": "exporting",
    "export": "exporting",
    "MobileNetV1": "network",
    "mobilenetv1_small": "network",
}


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    if name not in _NEED_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"mnv1deploy.{_NEED_TORCH[name]}"), name)
