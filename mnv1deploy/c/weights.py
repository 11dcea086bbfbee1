"""The weights of the generated C in a file of their own: a byte each, where text takes four."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from string import Template

import numpy as np
from numpy.typing import NDArray

from mnv1deploy.c import TEMPLATES

ALIGNMENT = 64
"""In bytes, of each layer's: as of arrays in the kernels."""


@dataclass(frozen=True)
class Blob:
    """All layers' weights, one after the other.

    Attributes:
        data: of the file.
        offsets: of each layer's in it.
    """

    data: bytes
    offsets: tuple[int, ...]

    @classmethod
    def of(cls, layers: Sequence[NDArray[np.int8]]) -> Blob:
        """Of the packed weights of each layer."""
        data, offsets = bytearray(), []
        for weights in layers:
            data += bytes(-len(data) % ALIGNMENT)
            offsets.append(len(data))
            data += weights.tobytes()
        return cls(bytes(data), tuple(offsets))

    def values(self, name: str) -> dict[str, object]:
        """What placeholders of templates that deal with it stand for, ``name`` being the network's."""
        own = {
            "name": name,
            "NAME": name.upper(),
            "blob_bytes": len(self.data),
            "blob_crc": zlib.crc32(self.data),
            "offsets": ", ".join(map(str, self.offsets)),
        }
        parts = {part: (TEMPLATES / file).read_text("utf-8") for part, file in PARTS.items()}
        return {
            **{part: Template(text).substitute(own) for part, text in parts.items()},
            "layer_const": "LAYER_CONST",
            "not_loaded": " || !LOADED",
            "README_weights": f"\n| `{name}.bin` | the weights, taken in by `{name}.c`, which says what else goes |",
        }


PARTS = {"weights_place": "weights.c", "load": "load.c", "load_header": "load.h"}
"""Templates of a network whose weights are in a file of their own."""

NO_BLOB: dict[str, object] = {
    **dict.fromkeys((*PARTS, "not_loaded", "README_weights"), ""),
    "layer_const": "const",
}
"""What those placeholders stand for where the weights are text."""
