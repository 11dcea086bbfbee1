"""Web: a folder that is an npm package and a page at once, around the generated C as WebAssembly.

Compiled by zig's clang, which the ziglang package brings for every system; run from Python in wasmtime.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import numpy as np

from mnv1deploy.artifact import PROVENANCE, Precision, Provenance
from mnv1deploy.c import CAMERA
from mnv1deploy.c.names import identifier
from mnv1deploy.errors import MnvError
from mnv1deploy.formats.base import CPU, CpuSession, Format, Images, Logits, provenance_in, refuse_provider
from mnv1deploy.packages import engine, install_hint, versions
from mnv1deploy.web import PACKAGE, C

if TYPE_CHECKING:
    from mnv1deploy.network import MobileNetV1
    from mnv1deploy.quantization import Quantization

FLAGS = ("-target", "wasm32-freestanding", "-std=c99", "-O3", "-nostdlib", "-fno-vectorize", "-fno-slp-vectorize")
LINKED = ("-Wl,--no-entry", "-Wl,--strip-all", "-Wl,-z,stack-size=65536")

MODULES = {"mobilenetv1.wasm": ("-msimd128", "-mbulk-memory"), "mobilenetv1-plain.wasm": ()}
"""The two modules and their compiler's options; the second is for engines without SIMD, which refuse the first."""

COMPILER_SECONDS = 600

TEMPLATES = (".json", ".md", ".html")
"""Suffixes of the package's files that are filled in; the others are the same for every network."""

PRELOAD = '\n    <link rel="preload" href="mobilenetv1.wasm" as="fetch" crossorigin />'
"""Of the page: the network is asked for at once, and not when the scripts that load it have come."""


class WebFormat(Format):
    """A folder: two WebAssembly modules, an ES module with its types, ``package.json``, and a page."""

    name = "web"
    suffix = ".web"
    precisions: tuple[Precision, ...] = ("int8",)
    extra = "web"
    runners: tuple[str, ...] = ("wasmtime",)
    export_extra = "web-export"
    writers: tuple[str, ...] = ("torch", "ziglang")
    decodes_whole = "browsers decode no JPEG at a part of its size"

    def export(
        self, network: MobileNetV1, path: Path, provenance: Provenance, quantization: Quantization | None
    ) -> None:
        """See Format.export. Writes a folder. Raises MnvError if the compiler fails."""
        from mnv1deploy.c import generate

        assert quantization, "WebAssembly is int8 only"
        spec = provenance.spec
        name = identifier(spec.name)
        with tempfile.TemporaryDirectory(prefix="mnv1-web-") as temporary:
            source = Path(temporary, "network")
            generate.write(source, quantization, provenance)
            values = {
                "name": name,
                "NAME": name.upper(),
                "crop": repr(spec.preprocessing.crop),
                "filter": spec.preprocessing.resize.upper(),
                "resize": (CAMERA / "resize.c").read_text("utf-8"),
            }
            module = Path(temporary, "module.c")
            module.write_text(Template((C / "module.c").read_text("utf-8")).substitute(values), "utf-8")
            built = {file: _compiled(source / f"{name}.c", module, options) for file, options in MODULES.items()}
        path.mkdir(parents=True, exist_ok=True)
        for file, content in built.items():
            (path / file).write_bytes(content)
        _write_package(path, spec.name, provenance)

    def providers(self) -> tuple[str, ...]:
        """The CPU; empty if wasmtime is missing."""
        try:
            engine("wasmtime", self.extra)
        except MnvError:
            return ()
        return (CPU,)

    def provenance(self, path: Path) -> Provenance:
        """Read from the folder. Raises MnvError if it is not one that :meth:`export` wrote."""
        return provenance_in(path, "for the web")

    def open(self, path: Path, *, provider: str, threads: int | None) -> WebSession:
        """See Format.open."""
        engine("wasmtime", self.extra)
        if provider != CPU:
            raise refuse_provider(provider, self.providers(), self.name)
        return WebSession(path, self.provenance(path))


class WebSession(CpuSession):
    """The module that a browser gets, in wasmtime: on one thread, a picture at a time, as there.

    Attributes:
        provenance: read from the folder.
    """

    def __init__(self, path: Path, provenance: Provenance, module: str = "mobilenetv1.wasm") -> None:
        wasmtime: Any = engine("wasmtime", "web")
        self.provenance = provenance
        try:
            code = (path / module).read_bytes()
        except OSError as error:
            raise MnvError(f"{path} is not complete: {error}.", "Export the checkpoint again.") from error
        settings = wasmtime.Config()
        settings.parallel_compilation = False  # whose threads a forked child waits for
        self._store = wasmtime.Store(wasmtime.Engine(settings))
        instance = wasmtime.Instance(self._store, wasmtime.Module(self._store.engine, code), [])
        self._exports = instance.exports(self._store)
        self._memory = self._exports["memory"]
        self._run = self._exports["run"]
        self._image, self._logits = self.call("image_address"), self.call("logits_address")
        self._check(path)

    def call(self, name: str, *arguments: int) -> Any:
        """One of the module's functions (web/c/module.c)."""
        return self._exports[name](self._store, *arguments)

    def fitted(self, pixels: Images) -> Images:
        """The network's picture of one of any size, RGBA ``[H, W, 4]``, as the module makes it: ``[H, W, C]``."""
        height, width, _ = pixels.shape
        self._memory.write(self._store, pixels.tobytes(), self.call("picture_address", width, height))
        self.call("read_picture", width, height)
        shape = self.spec.pixels.shape
        found = self._memory.read(self._store, self._image, self._image + int(np.prod(shape)))
        return np.frombuffer(found, np.uint8).reshape(shape)

    def _infer(self, images: Images) -> Logits:
        logits = np.empty((len(images), len(self.spec.classes)), np.float32)
        for image, row in zip(images, logits, strict=True):
            self._memory.write(self._store, image.tobytes(), self._image)
            self._run(self._store)
            row[:] = np.frombuffer(self._memory.read(self._store, self._logits, self._logits + row.nbytes), np.float32)
        return logits

    def _check(self, path: Path) -> None:
        """Raises MnvError unless the code is of the network that the provenance describes."""
        spec = self.spec
        found = tuple(self.call(name) for name in ("image_size", "image_colours", "class_count", "temperature"))
        agree = found == (spec.input_size, spec.colours, len(spec.classes), spec.temperature)
        if not agree or [self._class_name(number) for number in range(len(spec.classes))] != list(spec.classes):
            raise MnvError(
                f"{path} holds another network than its {PROVENANCE} says: size, colours, classes, names "
                "or temperature differ.",
                "Export the checkpoint again.",
            )

    def _class_name(self, number: int) -> str:
        start = end = self.call("class_name", number)
        while self._memory.read(self._store, end, end + 1) != b"\0":
            end += 1
        return bytes(self._memory.read(self._store, start, end)).decode()


def _compiled(network: Path, module: Path, options: tuple[str, ...]) -> bytes:
    """The WebAssembly of a network and what is around it."""
    engine("ziglang", "web-export")
    built = module.with_suffix(".wasm")
    cache = str(module.parent / "zig")
    includes = (f"-I{network.parent}", f"-I{C}")
    command = [sys.executable, "-m", "ziglang", "cc", *FLAGS, *options, *includes, str(network), str(module)]
    done = subprocess.run(
        [*command, *LINKED, "-o", str(built)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=COMPILER_SECONDS,
        env={**os.environ, "ZIG_GLOBAL_CACHE_DIR": cache, "ZIG_LOCAL_CACHE_DIR": cache},
    )
    if done.returncode:
        reason = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr.strip())
        raise MnvError(f"zig cannot compile the network: {reason}", install_hint("web-export"))
    return built.read_bytes()


def _write_package(path: Path, name: str, provenance: Provenance) -> None:
    """Everything in the folder but the modules."""
    spec = provenance.spec
    package = re.sub("[^a-z0-9]+", "-", identifier(name).lower()).strip("-")
    title, count = re.sub("[^A-Za-z0-9_. -]", "_", name), f"{(path / 'mobilenetv1.wasm').stat().st_size:,}"
    values = {
        "title": title,
        "about": f"{title}: {len(spec.classes)} classes, {count} bytes. Pictures stay on this device.",
        "package": package,
        "version": versions()["mnv1deploy"],
        "size": spec.input_size,
        "colours": "RGB" if spec.colours == 3 else "grey",
        "classes": len(spec.classes),
        "checkpoint": provenance.checkpoint_sha256,
        "bytes": count,
        "preload": PRELOAD,
    }
    for file in sorted(PACKAGE.iterdir()):
        text = file.read_text("utf-8")
        if file.suffix in TEMPLATES:
            text = Template(text).substitute(values)
        (path / file.name).write_text(text, "utf-8", newline="\n")
    provenance.write(path)
