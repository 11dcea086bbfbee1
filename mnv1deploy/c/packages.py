"""Writes what build systems want around an exported network, and the test that a port is right."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from string import Template

import numpy as np
from numpy.typing import NDArray

from mnv1deploy.c import PACKAGES
from mnv1deploy.quantization import Quantization, integers

FILES = {
    "selftest.h": "${name}_selftest.h",
    "selftest.c": "${name}_selftest.c",
    "CMakeLists.txt": "CMakeLists.txt",
    "idf_component.yml": "idf_component.yml",
    "library.properties": "library.properties",
    "library.json": "library.json",
    "sketch.ino": "examples/classify/classify.ino",
    "zephyr_module.yml": "zephyr/module.yml",
    "zephyr_CMakeLists.txt": "zephyr/CMakeLists.txt",
    "zephyr_Kconfig": "zephyr/Kconfig",
    "zephyr_sample_CMakeLists.txt": "zephyr/sample/CMakeLists.txt",
    "zephyr_prj.conf": "zephyr/sample/prj.conf",
    "zephyr_main.c": "zephyr/sample/main.c",
    "Cargo.toml": "Cargo.toml",
    "build.rs": "rust/build.rs",
    "lib.rs": "rust/lib.rs",
    "pack.pdsc": "mnv1deploy.${name}.pdsc",
}
"""Templates, and what the files made of them are called."""

LIBRARIES = ("library.properties", "library.json", "sketch.ino")
"""Those of Arduino and PlatformIO, which compile a source wherever they like: a file beside it is not found."""

LIBRARY_PARTS = {"library.h": "src/${part}.h", "library.c": "src/${part}.c"}
"""The same, of each header and its source: in one, static names of several would meet."""

README_LIBRARIES = (
    "\n| `library.properties`, `library.json`, `src/`, `examples/` | an Arduino and a PlatformIO library |"
)

PICTURES = 3
"""That the test of a port draws."""


def picture(number: int, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """What ``draw`` of packages/selftest.c draws: noise, then pixels that differ little from their neighbours."""
    state, colours = 1, shape[2]
    values = bytearray(math.prod(shape))
    for place in range(len(values)):
        state = (state * 1664525 + 1013904223) % 2**32
        value = state >> 24
        if number and place >= colours:
            value = (values[place - colours] + (value >> (3 + number))) % 256
        values[place] = value
    return np.frombuffer(values, np.uint8).reshape(shape)


def write(folder: Path, quantization: Quantization, values: Mapping[str, object], *, camera: bool, blob: bool) -> None:
    """Writes the files into the folder of an exported network.

    Args:
        folder: with the network's C.
        quantization: its integers, from which the logits of the test come.
        values: what the placeholders of the network's own templates stand for.
        camera: whether there is a ``<name>_camera.c``.
        blob: whether there is a ``<name>.bin``, for which there are no libraries.
    """
    spec, name = quantization.network.spec, str(values["name"])
    parts = [name, f"{name}_selftest", *([f"{name}_camera"] if camera else [])]
    logits = (integers.run(quantization, picture(number, spec.pixels.shape))[1] for number in range(PICTURES))
    kinds = [(f"{part}.h", "header") for part in parts] + [(f"{part}.c", "source") for part in parts]
    kinds += [(f"{name}.bin", "other")] if blob else []
    own = {
        "pictures": PICTURES,
        "expected": "\n".join(line for row in logits for line in _row(row)),
        "sources": " ".join(f'"{part}.c"' for part in parts),
        "headers": " ".join(f"{part}.h" for part in parts),
        "included": ",".join(f"{part}.h" for part in parts),
        "zephyr_sources": " ".join(f"../{part}.c" for part in parts),
        "rust_sources": ", ".join(f'"{part}.c"' for part in parts),
        "rust_names": "\n".join(f"    {_rust_string(text)}," for text in spec.classes),
        "crate": name.lower(),
        "rust_camera": "\npub mod camera;\n" if camera else "",
        "pdsc_files": "\n".join(f'        <file category="{kind}" name="{file}"/>' for file, kind in kinds),
    }
    values = {**values, **own}
    for template, target in FILES.items():
        if not (blob and template in LIBRARIES):
            write_file(folder, template, target, values)
    if not blob:
        for part in parts:
            for template, target in LIBRARY_PARTS.items():
                write_file(folder, template, target, {**values, "part": part})


def write_file(folder: Path, template: str, target: str, values: Mapping[str, object]) -> None:
    """Writes one file into a folder, of one of the templates."""
    path = folder / Template(target).substitute(values)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(Template((PACKAGES / template).read_text("utf-8")).substitute(values), "utf-8", newline="\n")


def _row(logits: NDArray[np.float32]) -> Iterator[str]:
    """Of the array of expected bits."""
    words = [f"0x{word:08x}u" for word in logits.view(np.uint32).tolist()]
    yield "    {"
    for start in range(0, len(words), 8):
        yield f"        {', '.join(words[start : start + 8])},"
    yield "    },"


def _rust_string(text: str) -> str:
    """A literal of Rust."""
    return '"' + "".join(c if c.isprintable() and c not in '"\\' else f"\\u{{{ord(c):x}}}" for c in text) + '"'
