"""The web format: the WebAssembly that browsers get has the bits of every other format, and makes Python's pictures."""

import itertools
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_c import GREY, SAME, onnx_logits, random_integers, write

from mnv1deploy import datasets, formats, images
from mnv1deploy.errors import MnvError
from mnv1deploy.formats.base import CUDA
from mnv1deploy.formats.web import MODULES, WebFormat, WebSession
from mnv1deploy.quantization import INPUT, Quantization
from mnv1deploy.quantization import integers as integer_arithmetic
from mnv1deploy.spec import CIFAR, Block, Filter, ModelSpec, Pixels, Preprocessing

OVER_THE_WIRE = ("index.html", "page.css", "page.js", "index.js", "mobilenetv1.wasm")


@pytest.fixture(scope="module")
def folder(integers: Quantization, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled network for the web."""
    return write("web", integers, tmp_path_factory.mktemp("web"))


def session_of(folder: Path, module: str = "mobilenetv1.wasm") -> WebSession:
    """In wasmtime."""
    return WebSession(folder, WebFormat().provenance(folder), module)


@pytest.mark.slow
def test_both_modules_give_onnxruntimes_logits(folder: Path, integers: Quantization, tmp_path: Path) -> None:
    pictures = datasets.calibration().images[:64]
    expected = onnx_logits(write("onnx", integers, tmp_path), pictures)
    for module in MODULES:
        np.testing.assert_array_equal(session_of(folder, module)(pictures), expected, module)


SPECS = {
    "grey, odd size, SAME": GREY.replace(
        input_size=33, padding="same", stem=Block(5, 2), blocks=(Block(70, 1),), temperature=1.37
    ),
    "96 x 96": CIFAR.scaled(0.25).replace(input_size=96),
    "ReLU6, odd channels": SAME.replace(input_size=17, blocks=(Block(33, 2), Block(9, 1), Block(130, 2))),
    "no block, 1,000 classes": CIFAR.replace(
        input_size=8, blocks=(), classes=tuple(f"class {number}, 狗" for number in range(1000))
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_any_network_has_the_integers_of_the_reference(spec: ModelSpec, tmp_path: Path) -> None:
    quantization, pictures = random_integers(spec, 1)
    folder = write("web", quantization, tmp_path)
    expected = np.stack([integer_arithmetic.run(quantization, picture)[1] for picture in pictures])
    for module in MODULES:
        np.testing.assert_array_equal(session_of(folder, module)(pictures).reshape(expected.shape), expected, module)


@pytest.mark.slow
def test_what_scales_beyond_22_bits_saturates(tmp_path: Path) -> None:
    quantization, pictures = random_integers(CIFAR.replace(input_size=8, blocks=()), 1)
    fine = {name: replace(grid, scale=grid.scale / 2**13) for name, grid in quantization.activations.items()}
    quantization = replace(quantization, activations=fine | {INPUT: quantization.activations[INPUT]})
    assert "#define SCALED_FIT_22_BITS 0" in (write("c", quantization, tmp_path) / "network.c").read_text()
    expected = np.stack([integer_arithmetic.run(quantization, picture)[1] for picture in pictures])
    found = session_of(write("web", quantization, tmp_path))(pictures)
    np.testing.assert_array_equal(found.reshape(expected.shape), expected)


def with_filter(filter: Filter, crop: float, size: int, colours: int, folder: Path) -> Path:
    """A small network that takes pictures so."""
    spec = CIFAR.replace(input_size=size, blocks=(), preprocessing=Preprocessing(filter, crop))
    if colours == 1:
        spec = GREY.replace(input_size=size, blocks=(), preprocessing=Preprocessing(filter, crop))
    return write("web", random_integers(spec, 1)[0], folder)


CROPS: tuple[tuple[Filter, float, int, int], ...] = (
    ("nearest", 1.0, 32, 3),
    ("box", 0.9, 20, 3),
    ("bilinear", 0.875, 33, 1),
    ("hamming", 1.0, 28, 3),
    ("bicubic", 1.0, 32, 3),
    ("lanczos", 0.7, 24, 1),
)


@pytest.mark.slow
@pytest.mark.parametrize(("filter", "crop", "size", "colours"), CROPS, ids=[crop[0] for crop in CROPS])
def test_pictures_of_any_size_become_pythons(
    filter: Filter, crop: float, size: int, colours: int, tmp_path: Path
) -> None:
    session = session_of(with_filter(filter, crop, size, colours, tmp_path))
    rng = np.random.default_rng(0)
    wanted = Pixels(size, colours, Preprocessing(filter, crop))
    for width, height in [(size, size), (1, 1), (5, 300), (640, 481), (97, 13), (31, 32), (333, 777)]:
        pixels = rng.integers(0, 256, (height, width, 4), np.uint8)
        np.testing.assert_array_equal(
            session.fitted(pixels), images.read(Image.fromarray(pixels), wanted), f"{width} x {height}"
        )


def test_transparency_is_laid_over_white_as_in_python(folder: Path) -> None:
    session = session_of(folder)
    values, opacities = np.meshgrid(np.arange(256), np.arange(256))
    every = np.stack([values, values[:, ::-1], values, opacities], -1).astype(np.uint8)
    for rows, columns in itertools.product(range(0, 256, 32), repeat=2):
        part = np.ascontiguousarray(every[rows : rows + 32, columns : columns + 32])
        np.testing.assert_array_equal(session.fitted(part), images.read(Image.fromarray(part), session.spec.pixels))


def test_a_picture_larger_than_memory_is_refused(folder: Path) -> None:
    session = session_of(folder)
    for size in [(60_000, 60_000), (0, 5), (-1, 5), (2**31 - 1, 2**31 - 1)]:
        assert session.call("picture_address", *size) == 0


@pytest.mark.slow
def test_exporting_twice_gives_the_same_bytes(folder: Path, integers: Quantization, tmp_path: Path) -> None:
    again = write("web", integers, tmp_path)
    assert {path.name: path.read_bytes() for path in again.iterdir()} == {
        path.name: path.read_bytes() for path in folder.iterdir()
    }


def test_a_browser_loads_a_third_of_a_megabyte(folder: Path) -> None:
    files = [(folder / name).read_bytes() for name in OVER_THE_WIRE]
    assert sum(map(len, files)) <= 340_000


def test_the_modules_import_nothing(folder: Path) -> None:
    import wasmtime

    for module in MODULES:
        assert not wasmtime.Module(wasmtime.Engine(), (folder / module).read_bytes()).imports


@pytest.mark.slow
def test_a_module_of_another_network_is_refused(folder: Path, tmp_path: Path) -> None:
    other = write("web", random_integers(CIFAR.replace(blocks=(), classes=("a", "b")), 1)[0], tmp_path)
    shutil.copy(other / "mobilenetv1.wasm", shutil.copytree(folder, tmp_path / "net.web") / "mobilenetv1.wasm")
    with pytest.raises(MnvError, match="holds another network than its provenance"):
        formats.open_session(tmp_path / "net.web")
    text = (folder / "provenance.json").read_text("utf-8")
    shutil.copy(folder / "mobilenetv1.wasm", tmp_path / "net.web")
    (tmp_path / "net.web" / "provenance.json").write_text(text.replace('"temperature":', '"temperature":2'), "utf-8")
    with pytest.raises(MnvError, match="temperature differ"):
        formats.open_session(tmp_path / "net.web")
    (tmp_path / "net.web" / "mobilenetv1.wasm").unlink()
    with pytest.raises(MnvError, match="is not complete"):
        formats.open_session(tmp_path / "net.web")
    (tmp_path / "net.web" / "provenance.json").unlink()
    with pytest.raises(MnvError, match="no folder for the web that mnv1deploy wrote"):
        formats.open_session(tmp_path / "net.web")


def test_what_is_missing_is_one_sentence(
    folder: Path, integers: Quantization, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(MnvError, match=f"{CUDA} is not available for web"):
        formats.get("web").open(folder, provider=CUDA, threads=None)
    for package in ("ziglang", "wasmtime"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MnvError, match="This needs ziglang"):
        write("web", integers, tmp_path)
    assert formats.get("web").providers() == ()
    with pytest.raises(MnvError, match=r"This needs wasmtime.*pip install 'mnv1deploy\[web\]'"):
        formats.get("web").open(folder, provider="CPUExecutionProvider", threads=None)
