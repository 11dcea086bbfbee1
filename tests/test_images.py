"""Pictures of every kind, whole and broken, become uint8 [size, size, 3], or one clear sentence."""

import io
import struct
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from mnv1deploy import images
from mnv1deploy.errors import MnvError
from mnv1deploy.images import find, read
from mnv1deploy.spec import Pixels

EXAMPLES = Path(__file__).parents[1] / "examples"


def gradient(height: int = 32, width: int = 32) -> np.ndarray:
    """A picture in which every pixel is different enough to be recognised: red by row, green by column."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows * 255 // height, columns * 255 // width, np.full_like(rows, 40)], -1).astype(np.uint8)


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


PICTURE = Image.fromarray(gradient())


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "PPM", "WebP"])
def test_lossless_formats_keep_every_pixel(format: str, tmp_path: Path) -> None:
    options = {"lossless": True} if format == "WebP" else {}
    path = tmp_path / f"picture.{format.lower()}"
    path.write_bytes(encoded(PICTURE, format, **options))
    np.testing.assert_array_equal(read(path, Pixels(32)), gradient())
    np.testing.assert_array_equal(read(path.read_bytes(), Pixels(32)), gradient())


def test_jpeg_is_close() -> None:
    found = read(encoded(PICTURE, "JPEG", quality=95, subsampling=0), Pixels(32))
    assert np.abs(found.astype(int) - gradient()).mean() < 4


def test_the_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
    for format in ("GIF", "WebP", "TIFF", "PNG"):
        options = {"lossless": True} if format == "WebP" else {}
        found = read(encoded(frames[0], format, save_all=True, append_images=frames[1:], **options), Pixels(32))
        assert found[16, 16].tolist() == [255, 0, 0]


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_16_bit_greyscale(format: str) -> None:
    values = np.linspace(0, 65535, 32 * 32).reshape(32, 32).astype(np.uint16)
    found = read(encoded(Image.fromarray(values), format), Pixels(32))
    assert found.min() == 0
    assert found.max() == 255
    np.testing.assert_allclose(found[..., 0], values / 257, atol=0.51)


def test_32_bit_integers_and_floats() -> None:
    integers = Image.fromarray(np.full((32, 32), 257 * 99, np.int32))
    assert (read(integers, Pixels(32)) == 99).all()
    assert (read(Image.fromarray(np.full((32, 32), 0.5, np.float32)), Pixels(32)) == 128).all()
    assert (read(Image.fromarray(np.full((32, 32), 200.2, np.float32)), Pixels(32)) == 200).all()
    assert (read(Image.fromarray(np.full((32, 32), np.nan, np.float32)), Pixels(32)) == 0).all()


def test_palette_grey_one_bit_and_cmyk() -> None:
    assert np.abs(read(PICTURE.quantize(256), Pixels(32)).astype(int) - gradient()).mean() < 12
    grey = read(Image.new("L", (32, 32), 77), Pixels(32))
    assert (grey == 77).all()
    assert (read(Image.new("1", (32, 32), 1), Pixels(32)) == 255).all()
    red = read(encoded(Image.new("CMYK", (32, 32), (0, 255, 255, 0)), "JPEG"), Pixels(32))
    assert red[16, 16, 0] > 240
    assert red[16, 16, 1:].max() < 15


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_shows_white(mode: str) -> None:
    image = Image.new("RGBA", (32, 32), (255, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 16, 32))
    found = read(encoded(image.convert(mode), "PNG"), Pixels(32))
    assert (found[:, :16] == 0).all()
    assert (found[:, 16:] == 255).all()
    half = read(Image.new("RGBA", (32, 32), (0, 0, 0, 128)), Pixels(32))
    assert abs(int(half[0, 0, 0]) - 127) <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation: int) -> None:
    """Each of the eight ways a camera may have been held gives the same upright picture."""
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = PICTURE.transpose(undo[orientation]) if orientation > 1 else PICTURE
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(read(encoded(stored, "PNG", exif=exif), Pixels(32)), gradient())


def test_resizing_is_antialiased() -> None:
    checkers = (np.indices((256, 256)).sum(0) % 2 * 255).astype(np.uint8)
    found = read(checkers, Pixels(32))
    assert np.abs(found.astype(int) - 127).max() <= 2


def test_the_longer_side_is_cropped_to_its_centre() -> None:
    wide = np.zeros((32, 96, 3), np.uint8)
    wide[:, 32:64] = gradient()
    np.testing.assert_array_equal(read(wide, Pixels(32)), gradient())
    np.testing.assert_array_equal(read(wide.swapaxes(0, 1).copy(), Pixels(32)), gradient().swapaxes(0, 1))
    assert read(EXAMPLES / "cat.png", Pixels(96)).shape == (96, 96, 3)


def test_arrays() -> None:
    pixels = gradient()
    np.testing.assert_array_equal(read(pixels, Pixels(32)), pixels)
    np.testing.assert_array_equal(read(pixels[..., 0], Pixels(32)), np.repeat(pixels[..., :1], 3, 2))
    np.testing.assert_array_equal(read(pixels[..., :1], Pixels(32)), np.repeat(pixels[..., :1], 3, 2))
    opaque = np.concatenate([pixels, np.full((32, 32, 1), 255, np.uint8)], 2)
    np.testing.assert_array_equal(read(opaque, Pixels(32)), pixels)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((32, 32, 3), np.float32),
        np.zeros((1, 32, 32, 3), np.uint8),
        np.zeros((32, 32, 2, 2), np.uint8),
        np.zeros((0, 32, 3), np.uint8),
        np.zeros((32, 32, 7), np.uint8),
        np.zeros(5, np.uint8),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_other_arrays_are_refused(array: np.ndarray) -> None:
    with pytest.raises(MnvError, match="The array cannot be read"):
        read(array, Pixels(32))


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(encoded(PICTURE, "PNG"))))
    np.testing.assert_array_equal(read("-", Pixels(32)), gradient())
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    with pytest.raises(MnvError, match="standard input cannot be read"):
        read("-", Pixels(32))


def header_only_png(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds nothing."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read as a picture"),
        (b"hello, I am text", "cannot be read as a picture"),
        (encoded(PICTURE, "PNG")[:80], "cannot be read as a picture"),
        (encoded(PICTURE, "JPEG")[:400], "cannot be read as a picture"),
        (encoded(PICTURE, "GIF")[:60], "cannot be read as a picture"),
        (header_only_png(100_000, 100_000), "too large a picture"),
        (header_only_png(10_000, 10_000), "too large a picture"),
    ],
    ids=["empty", "text", "cut PNG", "cut JPEG", "cut GIF", "bomb", "near bomb"],
)
def test_broken_files(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(content)
    with pytest.raises(MnvError, match=message) as error:
        read(path, Pixels(32))
    assert str(path) in error.value.message
    assert error.value.hint


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(MnvError, match="There is no file"):
        read(tmp_path / "none.png", Pixels(32))
    with pytest.raises(MnvError, match="It is a folder"):
        read(tmp_path, Pixels(32))


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200), st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WebP", None]), st.data())
def test_any_bytes_decode_or_are_refused(noise: bytes, format: str | None, data: st.DataObject) -> None:
    """Real files with a stretch overwritten, and plain noise: nothing but MnvError ever comes out."""
    content = noise
    if format:
        content = encoded(PICTURE, format)
        start = data.draw(st.integers(0, len(content)))
        content = content[:start] + noise + content[start + len(noise) :]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of damaged metadata
        try:
            found = read(content, Pixels(32))
        except MnvError:
            return
    assert found.shape == (32, 32, 3)
    assert found.dtype == np.uint8


@settings(deadline=None)
@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 70), st.integers(1, 70), st.sampled_from([1, 3, 4]))))
def test_any_array_becomes_the_size(array: np.ndarray) -> None:
    found = read(array, Pixels(32))
    assert found.shape == (32, 32, 3)
    assert found.dtype == np.uint8


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Pictures in folders, beside other files."""
    (tmp_path / "deep" / "er").mkdir(parents=True)
    for name in ("b.png", "a.PNG", "deep/c.png", "deep/er/d.png"):
        PICTURE.save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    return tmp_path


def test_find(tree: Path) -> None:
    names = [str(tree / name) for name in ("a.PNG", "b.png", "deep/c.png", "deep/er/d.png")]
    assert find([tree]) == names
    assert find([f"{tree}/*.png"]) == [names[1]]
    assert find([f"{tree}/**/*.png"]) == [names[1], *names[2:]]
    assert find([tree / "deep", tree]) == [*names[2:], *names[:2]]
    assert find([names[0], names[0], "-"]) == [names[0], "-"]
    assert find([tree / "notes.txt", "gone.png"]) == [str(tree / "notes.txt"), "gone.png"]


def test_a_file_may_have_pattern_characters_in_its_name(tmp_path: Path) -> None:
    path = tmp_path / "cat [1].png"
    PICTURE.save(path)
    assert find([path]) == [str(path)]


def test_nothing_found(tmp_path: Path) -> None:
    with pytest.raises(MnvError, match="no picture in the folder"):
        find([tmp_path])
    with pytest.raises(MnvError, match="No file matches"):
        find([f"{tmp_path}/*.png"])


def test_sheets_hold_their_tiles_row_by_row() -> None:
    tiles = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), np.uint8)
    sheet = np.concatenate([np.concatenate(tiles[:3], 1), np.concatenate(tiles[3:], 1)])
    np.testing.assert_array_equal(images.read_sheet(encoded(Image.fromarray(sheet), "PNG"), 32), tiles)
