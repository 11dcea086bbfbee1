"""MLPerf Tiny's image classification: its 200 pictures, on our network and on its reference.

    python scripts/mlperf_tiny.py pretrainedResnet_quant.tflite

The file is mlcommons/tiny's, benchmark/training/image_classification/trained_models. Which of CIFAR-10's test pictures
are taken is drawn as get_perf_samples_idxs.py there draws them: 20 of each class. Its rules ask for 85 % of them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnv1deploy import bundled, datasets, formats

SEED = 8108
EACH = 20
REQUIRED = 0.85
"""benchmark/MLPerfTiny_Rules.adoc there."""


def chosen(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Indices of the 200 pictures, int64 ``[200]``, of the labels of CIFAR-10's test split."""
    rng = np.random.default_rng(SEED)
    drawn = [rng.choice(np.flatnonzero(labels == label), size=EACH, replace=False) for label in range(10)]
    indices = np.concatenate(drawn)
    rng.shuffle(indices)
    return indices


def reference(path: Path) -> Callable[[NDArray[np.uint8]], NDArray[Any]]:
    """The reference, which takes pixels as int8, one picture at a time."""
    from ai_edge_litert.interpreter import Interpreter

    engine = Interpreter(str(path), num_threads=1)
    engine.allocate_tensors()
    (source,), (target,) = engine.get_input_details(), engine.get_output_details()
    scale, zero_point = source["quantization"]

    def answers(images: NDArray[np.uint8]) -> NDArray[Any]:
        found = []
        for image in images:
            integers = np.clip(np.round(image / scale) + zero_point, -128, 127).astype(np.int8)
            engine.set_tensor(source["index"], integers[None])
            engine.invoke()
            found.append(engine.get_tensor(target["index"])[0].copy())
        return np.array(found)

    return answers


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """Ours, then the reference: bytes of the file, and top-1 on the 200 pictures and on all of the test split."""
    data = datasets.cifar10("test")
    few = chosen(data.labels)
    networks = (
        ("MobileNetV1, int8 ONNX", bundled.INT8, formats.open_session(bundled.INT8, threads=1)),
        ("MLPerf Tiny's ResNet-8, int8 TFLite", path, reference(path)),
    )
    for name, file, answer in networks:
        right = np.concatenate([answer(part) for part in np.array_split(data.images, 40)]).argmax(1) == data.labels
        figures = {"few": float(right[few].mean()), "all": float(right.mean())}
        yield {"network": name, "bytes": file.stat().st_size, **figures, "required": REQUIRED}


if __name__ == "__main__":
    for row in rows(Path(sys.argv[1])):
        print(row)
