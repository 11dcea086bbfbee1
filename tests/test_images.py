"""Pictures of every kind, whole and broken, become uint8 [size, size, 3], or one clear sentence."""

import contextlib
import io
import itertools
import os
import shutil
import struct
import subprocess
import sys
import threading
import time
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from mnv1deploy import decoding, images, machine
from mnv1deploy.errors import MnvError
from mnv1deploy.images import find, read
from mnv1deploy.spec import Pixels, Preprocessing

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
        (header_only_png(10_000, 10_000), "too large a picture: it has 10,000 x 10,000 pixels"),
        (header_only_png(8193, 8192), "too large a picture: it has 8,193 x 8,192 pixels"),
        (header_only_png(1, 2**16 + 1), "too large a picture: it has 1 x 65,537 pixels"),
    ],
    ids=["empty", "text", "cut PNG", "cut JPEG", "cut GIF", "bomb", "over Pillow's limit", "over ours", "a thread"],
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
    (tmp_path / "link.png").symlink_to("gone.png")
    with pytest.raises(MnvError, match=r"is a link to gone\.png"):
        read(tmp_path / "link.png", Pixels(32))


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200), st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WebP", None]), st.data())
def test_any_bytes_decode_or_are_refused(noise: bytes, format: str | None, data: st.DataObject) -> None:
    """Real files with a stretch overwritten, and plain noise: nothing but MnvError ever comes out."""
    content = noise
    if format:
        content = encoded(PICTURE, format)
        start = data.draw(st.integers(0, len(content)))
        content = content[:start] + noise + content[start + len(noise) :]
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


# What a picture may be ---------------------------------------------------------------------------------------------


def test_a_picture_is_a_path_bytes_an_open_file_an_image_or_an_array(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    PICTURE.save(path)
    content = path.read_bytes()
    written = io.BytesIO()
    PICTURE.save(written, "PNG")  # and left at its end
    with path.open("rb") as file, path.open("rb", buffering=0) as raw:
        with os.scandir(tmp_path) as entries:
            next_entry = next(entries)
        sources = [path, str(path), next_entry, content, bytearray(content), memoryview(content), written, file, raw]
        for source in [*sources, PICTURE, gradient(), np.asfortranarray(gradient())]:
            np.testing.assert_array_equal(read(source, Pixels(32)), gradient())


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, "The NoneType cannot be read as a picture. A picture is a path"),
        (7, "The int cannot be read as a picture. A picture is a path"),
        ([gradient()], "The list cannot be read as a picture. .*predict_all takes several"),
        (iter([gradient()]), "predict_all takes several"),
        (io.StringIO("text"), "It is opened as text"),
        ("", "It is a folder"),
        ("a\0b", "null"),
        ("https://example.com/cat.png", "It is an address.* download it first"),
        (Path("https://example.com/cat.png"), "It is an address"),
        ("s3://bucket/cat.png", "It is an address"),
        ("file:///tmp/cat.png", "It is an address"),
        ("data:image/png;base64,iVBORw0KGgo=", "It is an address"),
    ],
)
def test_what_is_no_picture_is_refused_in_a_sentence(source: object, message: str) -> None:
    with pytest.raises(MnvError, match=message):
        read(source, Pixels(32))


def test_a_tensor_is_refused_with_how_to_make_it_an_array() -> None:
    torch = pytest.importorskip("torch")
    with pytest.raises(MnvError, match=r"The Tensor cannot be read as a picture\. .*permute\(1, 2, 0\)"):
        read(torch.zeros(3, 32, 32), Pixels(32))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<!DOCTYPE html><html>", "web page"),
        (b"\n<html>403", "web page"),
        (b'<?xml version="1.0"?><svg/>', "SVG"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        (b"%PDF-1.7", "PDF"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript"),
        (bytes.fromhex("00051607000200004d6163204f532058"), "macOS"),
        (b"\0\0\0\x18ftypisom", "video"),
        (b"PK\x03\x04", "zip"),
        (b"\x89HDF\r\n\x1a\n" + bytes(99), "no format that Pillow reads"),
        (b"", "empty"),
    ],
)
def test_what_is_called_a_picture_and_is_none_is_said(content: bytes, message: str) -> None:
    with pytest.raises(MnvError, match=message):
        read(content, Pixels(32))


def test_the_frame_that_an_open_image_stands_at() -> None:
    """A file's first frame, but of an image that somebody else is going through the one that is there."""
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
    with Image.open(io.BytesIO(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))) as animation:
        animation.seek(1)
        assert read(animation, Pixels(32))[16, 16].tolist() == [0, 0, 255]
        assert animation.tell() == 1


# Bounds ------------------------------------------------------------------------------------------------------------


def test_large_pictures_are_refused_without_a_python_warning(recwarn: pytest.WarningsRecorder) -> None:
    warnings.simplefilter("always")
    for size in ((10_000, 10_000), (9400, 9400), (20_000, 10_000)):
        with pytest.raises(MnvError, match="too large a picture"):
            read(header_only_png(*size), Pixels(32))
    with pytest.raises(MnvError, match="too large a picture"):
        read(np.broadcast_to(np.uint8(0), (9000, 9000, 3)), Pixels(32))
    assert not recwarn.list


def test_a_file_larger_than_any_picture_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(decoding.MAX_BYTES + 1)
    with pytest.raises(MnvError, match="too large a picture: the file has"):
        read(tmp_path / "huge.png", Pixels(32))


@pytest.mark.parametrize("kind", ["a PPM's comment", "PNG's empty chunks"])
def test_a_header_without_end_is_given_up(kind: str) -> None:
    """Pillow reads both piece by piece: 200 MB of them took minutes."""
    if kind == "a PPM's comment":
        content = b"P6 #" + bytes(2_000_000) + b"\n1 1 255\n123"
    else:
        chunk = b"\0\0\0\0teSt" + struct.pack(">I", zlib.crc32(b"teSt"))
        picture = header_only_png(1, 1)
        content = picture[:33] + chunk * 200_000 + picture[33:]
    with pytest.raises(MnvError, match="header is longer than any picture's"):
        read(content, Pixels(32))


@pytest.mark.parametrize("kind", ["scans", "filled scans", "segments"])
def test_a_jpeg_of_endless_scans_is_given_up(kind: str) -> None:
    """Each is a pass over all pixels: 100 KB were hours of work."""
    encoded = io.BytesIO()
    Image.new("L", (64, 64), 128).save(encoded, "JPEG", progressive=True)
    content, end = encoded.getvalue()[:-2], encoded.getvalue()[-2:]
    last = content[content.rindex(b"\xff\xda") :]
    more = {"scans": last, "filled scans": b"\xff\xff" + last, "segments": b"\xff\xfe\0\2"}[kind]
    few, many = (100, 10_000) if kind == "segments" else (3, 100)
    read(content + few * more + end, Pixels(32))
    read(content + end + many * last, Pixels(32))  # a phone's film behind the picture may look like scans
    with pytest.raises(MnvError, match="more scans or segments than any picture"):
        read(content + many * more + end, Pixels(32))


def test_a_smaller_limit_and_a_name_may_be_given(tmp_path: Path) -> None:
    with pytest.raises(MnvError, match=r"^cat\.png is too large a picture: it has 40 x 30 pixels; at most 1,199 "):
        read(np.zeros((30, 40, 3), np.uint8), Pixels(32), name="cat.png", most=1199)
    assert read(np.zeros((30, 40, 3), np.uint8), Pixels(32), name="cat.png", most=1200).shape == (32, 32, 3)


@pytest.mark.parametrize(
    "error",
    [
        NotImplementedError,
        KeyError,
        struct.error,
        IndexError,
        TypeError,
        ZeroDivisionError,
        RecursionError,
        UserWarning,
    ],
)
def test_whatever_a_plugin_raises_is_one_sentence(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def load(image: Image.Image) -> None:
        raise error("unusual")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    with pytest.raises(MnvError, match=r"cannot be read as a picture\. .*unusual"):
        read(encoded(PICTURE, "PNG"), Pixels(32))


def test_a_dds_of_an_unknown_pixel_format_is_one_sentence() -> None:
    content = bytearray(encoded(PICTURE, "DDS"))
    content[80:88] = struct.pack("<I4s", 4, b"WXYZ")
    with pytest.raises(MnvError, match="cannot be read as a picture"):
        read(content, Pixels(32))


def test_libtiff_says_nothing_on_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    content = bytearray(encoded(PICTURE, "TIFF", compression="tiff_lzw"))
    content[12:400] = bytes(388)
    with contextlib.suppress(MnvError):
        read(content, Pixels(32))
    assert capfd.readouterr().err == ""


def test_pixels_in_flight_are_bounded_over_all_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve pictures on many threads, three of which may be decoded at once; one larger than that goes alone."""
    monkeypatch.setattr(decoding, "_pixels_in_flight", decoding._Budget(3 * 64 * 64))
    lock, inside, most = threading.Lock(), [], []
    flat = decoding._eight_bit

    def slow(image: Image.Image, *rest: object) -> Image.Image:
        with lock:
            inside.append(image.width * image.height)
            most.append(list(inside))
        time.sleep(0.02)
        with lock:
            inside.remove(image.width * image.height)
        return flat(image, *rest)

    monkeypatch.setattr(decoding, "_eight_bit", slow)
    small, large = gradient(64, 64), gradient(128, 128)
    sources = [small, encoded(Image.fromarray(small), "PNG"), Image.fromarray(small)] * 4 + [encoded(PICTURE, "PNG")]
    found = images.read_all([*sources, encoded(Image.fromarray(large), "PNG"), *sources], Pixels(32))
    assert len(found) == 2 * len(sources) + 1
    assert max(map(len, most)) > 1
    assert all(sum(sizes) <= 3 * 64 * 64 or sizes == [128 * 128] for sizes in most)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="has no /proc")
@pytest.mark.parametrize("format", ["PNG", "WebP", "TIFF"])
def test_memory_is_bounded(format: str, tmp_path: Path) -> None:
    """Four RGBA pictures of 25 million pixels, which took 2 GiB or more together, and one of 67 million."""
    options = {"WebP": {"lossless": True, "method": 0, "quality": 0}, "PNG": {"compress_level": 1}}.get(format, {})
    for side in (5000, 8192):
        Image.new("RGBA", (side, side), (1, 2, 3, 128)).save(tmp_path / f"{side}", format, **options)
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from mnv1deploy import images\n"
        "from mnv1deploy.spec import Pixels\n"
        "images.read_all(sys.argv[1:], Pixels(32))\n"
        # of this program alone: what getrusage says begins with the memory of the process that started it
        "print(Path('/proc/self/status').read_text().partition('VmHWM:')[2].split()[0])\n"
    )
    files = [tmp_path / "5000"] * 4, [tmp_path / "8192"]
    for paths, limit in zip(files, (1.2, 1.3), strict=True):
        done = subprocess.run([sys.executable, "-c", script, *paths], capture_output=True, text=True, check=True)
        assert int(done.stdout) * 1024 < limit * 2**30


def test_no_more_threads_decode_than_the_process_may_keep_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """But for a few that wait for files, on a machine of any number of processors."""
    threads = set()

    def slowly(source: object, pixels: Pixels) -> np.ndarray:
        time.sleep(0.002)
        threads.add(threading.get_ident())
        return np.zeros(pixels.shape, np.uint8)

    monkeypatch.setattr(images, "attempt", slowly)
    monkeypatch.setattr(machine, "processors", lambda: 1)
    assert len(list(images.read_each([PICTURE] * 40, Pixels(32)))) == 40
    assert 1 < len(threads) <= 5


def test_a_child_process_reads_while_its_parent_was_decoding() -> None:
    """What the parent's threads had taken when it forked is nobody's in the child."""
    script = (
        "import os, sys, warnings\n"
        "from mnv1deploy import decoding, images\n"
        "from mnv1deploy.spec import Pixels\n"
        "warnings.simplefilter('ignore')\n"
        "with decoding._pixels_in_flight.taken(decoding.MAX_PIXELS), decoding._opening:\n"
        "    child = os.fork()\n"
        "    if not child:\n"
        "        images.read(sys.argv[1], Pixels(32))\n"
        "        os._exit(7)\n"
        "    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7\n"
    )
    subprocess.run([sys.executable, "-c", script, EXAMPLES / "cat.png"], check=True, timeout=60)


# Depths ------------------------------------------------------------------------------------------------------------

RAMP = np.tile(np.arange(0, 256, 8, dtype=np.uint32), (32, 1))


def png16(values: np.ndarray, used: int | None) -> bytes:
    """A PNG of 16 bits a sample, grey or RGB, with sBIT or without."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    colours = values.shape[2] if values.ndim == 3 else 1
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, 0 if colours == 1 else 2, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    bits = chunk(b"sBIT", bytes([used] * colours)) if used else b""
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + bits + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )


def tiff16(values: np.ndarray, tags: dict[int, int]) -> bytes:
    return encoded(Image.fromarray(values.astype(np.uint16)), "TIFF", tiffinfo=tags)


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_fewer_bits_in_16_are_scaled_by_what_the_file_says(bits: int) -> None:
    white = 2**bits - 1
    low = RAMP * white // 255
    for content in (png16(low, bits), tiff16(low, {281: white}), tiff16(low, {281: int(low.max())})):
        np.testing.assert_allclose(read(content, Pixels(32))[..., 0], RAMP, atol=1)
    # as PNG's specification wants it: sBIT tells what the samples were before they were scaled to all 16 bits
    np.testing.assert_allclose(read(png16(RAMP * 257, bits), Pixels(32))[..., 0], RAMP, atol=1)


@pytest.mark.parametrize("content", [png16(RAMP * 16, None), tiff16(RAMP * 16, {}), png16(RAMP * 4, None)])
def test_fewer_bits_in_16_are_refused_where_the_file_does_not_say_so(content: bytes) -> None:
    with pytest.raises(MnvError, match=r"only the lower 12 or fewer are used.*PNG's sBIT"):
        read(content, Pixels(32))


def test_fewer_bits_of_colours_are_refused() -> None:
    """Pillow keeps the upper eight of their bits."""
    colour = np.stack([RAMP] * 3, -1)
    np.testing.assert_allclose(read(png16(colour * 257, None), Pixels(32)), colour, atol=1)
    np.testing.assert_allclose(read(png16(colour * 257, 12), Pixels(32)), colour, atol=1)
    for used in (12, None):
        with pytest.raises(MnvError, match="only the lower 12 or fewer are used"):
            read(png16(colour * 16, used), Pixels(32))


def test_black_is_black_in_16_bits() -> None:
    assert not read(png16(RAMP * 0, None), Pixels(32)).any()


# Folders -----------------------------------------------------------------------------------------------------------


def test_hidden_files_and_folders_are_no_pictures(tmp_path: Path) -> None:
    """What a Mac, Windows and a NAS leave among pictures."""
    for name in ("cat/1.png", "cat/._1.png", "__MACOSX/cat/._1.png", "cat/@eaDir/1.png/thumb.jpg", ".cache/2.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        PICTURE.save(tmp_path / name)
    for name in ("cat/Thumbs.db", "cat/desktop.ini", "cat/.DS_Store"):
        (tmp_path / name).write_bytes(b"\xd0\xcf")
    assert find([tmp_path]) == [str(tmp_path / "cat" / "1.png")]
    assert find([f"{tmp_path}/**/*.png"]) == [str(tmp_path / "cat" / "1.png")]
    assert find([f"{tmp_path}/*"]) == [str(tmp_path / "cat" / "1.png")]
    assert find([tmp_path / "cat" / "._1.png"]) == [str(tmp_path / "cat" / "._1.png")]  # as it was asked for


def test_a_folder_has_what_pillow_reads(tmp_path: Path) -> None:
    """Its registry says what; formats that it knows and cannot decode are no pictures, nor programs that it runs."""
    pictures = sorted(f"a{suffix}" for suffix in (".JPG", ".avif", ".jp2", ".tga", ".qoi", ".heic", ".apng"))
    for name in [*pictures, "a.h5", "a.mpg", "a.eps", "a.ps", "a.pdf", "a.wmf", "a.grib", "a.txt", "a"]:
        (tmp_path / name).write_bytes(b"")
    assert find([tmp_path]) == [str(tmp_path / name) for name in pictures]


def test_heic_is_read_where_its_plugin_is_and_the_plugin_named_where_not(tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif")
    path = tmp_path / "a.heic"
    heif.from_pillow(PICTURE.resize((64, 64))).save(path, quality=95)
    assert np.abs(read(path, Pixels(64)).astype(int) - np.asarray(PICTURE.resize((64, 64)))).mean() < 5
    script = (
        "import sys\n"
        "sys.modules['pillow_heif'] = None\n"
        "from mnv1deploy import images\n"
        "from mnv1deploy.errors import MnvError\n"
        "from mnv1deploy.spec import Pixels\n"
        "try: images.read(sys.argv[1], Pixels(32))\n"
        "except MnvError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True)
    assert "It is HEIC" in done.stdout
    assert "pip install 'mnv1deploy[heic]'" in done.stdout


def test_links_to_folders_are_followed_once_and_without_loops(tmp_path: Path) -> None:
    store, pets = tmp_path / "store", tmp_path / "pets"
    for name in ("store/one", "store/two", "pets/cat", "pets/dog"):
        (tmp_path / name).mkdir(parents=True)
        PICTURE.save(tmp_path / name / "own.png")
    (pets / "cat" / "batch1").symlink_to(store / "one")
    (pets / "cat" / "batch2").symlink_to("../../store/two")
    (pets / "cat" / "batch3").symlink_to("../../store/two")
    (pets / "dog" / "up").symlink_to("..")
    (pets / "dog" / "self").symlink_to("self")
    (pets / "dog" / "here").symlink_to(".")
    (store / "one" / "back").symlink_to(pets / "cat")
    cats = [str(pets / "cat" / name) for name in ("batch1/own.png", "batch2/own.png", "own.png")]
    assert find([pets / "cat"]) == cats
    assert find([pets / "dog"]) == [str(pets / "dog" / "own.png")]
    assert find([pets]) == [*cats, str(pets / "dog" / "own.png")]
    (tmp_path / "linked").symlink_to(pets)
    assert len(find([tmp_path / "linked"])) == 4


def test_a_link_to_nowhere_is_reported(tmp_path: Path) -> None:
    (tmp_path / "zz.png").symlink_to("gone.png")
    assert find([tmp_path]) == [str(tmp_path / "zz.png")]


def test_a_folder_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(folder: object) -> list[str]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "listdir", refuse)
    with pytest.raises(MnvError, match="cannot be listed: Permission denied"):
        find([tmp_path])


@pytest.mark.parametrize("folder", ["[2024] Images", "data (v1)", "what?", "a*b", "50% off", "[!x]"])
def test_a_pattern_in_a_folder_whose_name_has_pattern_characters(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / folder).mkdir()
    PICTURE.save(tmp_path / folder / "a.png")
    monkeypatch.chdir(tmp_path)
    for root in ("", f"{tmp_path}/"):
        assert find([f"{root}{folder}/*.png"]) == [f"{root}{folder}/a.png"]
        assert find([f"{root}{folder}"]) == [f"{root}{folder}/a.png"]
        assert find([f"{root}**/*.png"]) == [f"{root}{folder}/a.png"]


def test_the_home_folder_is_found_where_no_shell_expanded_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    PICTURE.save(tmp_path / "a.png")
    assert find(["~/a.png", "~/*.png"]) == [str(tmp_path / "a.png")]


def test_an_address_is_no_pattern() -> None:
    assert find(["https://example.com/cat.png?size=[32]"]) == ["https://example.com/cat.png?size=[32]"]


# Many --------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_all_unreadable_pictures_are_named_at_once(tmp_path: Path) -> None:
    sources = [str(tmp_path / f"{number}.png") for number in range(200)]
    for number, path in enumerate(sources):
        shutil.copy(EXAMPLES / "cat.png", path) if number % 50 else Path(path).write_bytes(b"no")
    with pytest.raises(MnvError, match="4 pictures cannot be read") as error:
        images.read_all(sources, Pixels(32))
    for number in (0, 50, 100, 150):
        assert f"{sources[number]} cannot be read" in error.value.message
    assert "--skip-unreadable" in error.value.hint
    left_out: dict[int, MnvError] = {}
    found = images.read_all(sources, Pixels(32), on_unreadable=left_out.__setitem__)
    assert sorted(left_out) == [0, 50, 100, 150]
    assert len(found) == 196
    with pytest.raises(MnvError, match=r"0\.png cannot be read"):
        images.read_all(sources[:1], Pixels(32), on_unreadable=left_out.__setitem__)


def test_a_folder_to_calibrate_on_says_how_many_were_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "pets"
    (folder / "deep").mkdir(parents=True)
    PICTURE.save(folder / "deep" / "a.png")
    for name in ("b.jpg", "c.jpg"):
        (folder / name).write_text("<html>")
    with pytest.raises(MnvError, match="2 pictures cannot be read"):
        images.read_folder(folder, Pixels(32))
    found, name = images.read_folder(folder, Pixels(32), skip_unreadable=True)
    assert (found.shape, name) == ((1, 32, 32, 3), "1 pictures in pets, 2 unreadable left out")
    with pytest.raises(MnvError, match="There is no folder"):
        images.read_folder(tmp_path / "none", Pixels(32))


def test_pictures_come_in_order_and_are_not_read_ahead_without_end() -> None:
    taken = itertools.count()
    arrays = (np.full((32, 32, 3), number, np.uint8) for number in iter(lambda: next(taken), 10_000))
    answers = images.read_each(arrays, Pixels(32))
    for number in range(100):
        assert (next(answers) == number).all()
    assert next(taken) < 300
    answers.close()


# Preprocessing -----------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(np.uint8, st.tuples(st.integers(1, 90), st.integers(1, 90), st.just(3))),
    st.integers(8, 40),
    st.sampled_from(["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]),
    st.sampled_from([1.0, 0.875, 0.5]),
)
def test_preprocessing_is_pillows_resize_of_the_centred_square(
    array: np.ndarray, size: int, name: str, crop: float
) -> None:
    image = Image.fromarray(array)
    side = crop * min(image.size)
    left, top = ((length - side) / 2 for length in image.size)
    box = (left, top, left + side, top + side)
    expected = np.asarray(image.resize((size, size), Image.Resampling[name.upper()], box))
    found = read(array, Pixels(size, preprocessing=Preprocessing(name, crop)))
    if image.size == (size, size):
        expected = array
    # where the square's edge is no whole number it may be rounded another way
    differ = np.abs(found.astype(int) - expected) > 1
    assert differ.mean() < 0.01 or differ.sum() <= 3 or name in ("nearest", "box")
    if crop == 1 and name == "bicubic" and image.size != (size, size):
        # across first, as every Pillow has it that makes but one pass in a call
        narrow = image.resize((size, image.height), Image.Resampling.BICUBIC, (left, 0, left + side, image.height))
        fitted = narrow.resize((size, size), Image.Resampling.BICUBIC, (0, top, size, top + side))
        np.testing.assert_array_equal(found, np.asarray(fitted))
    grey = read(array, Pixels(size, 1, Preprocessing(name, crop)))
    assert grey.shape == (size, size, 1)


SCALED = Preprocessing(jpeg="scaled")


@settings(max_examples=40, deadline=None)
@given(
    hnp.arrays(np.uint8, (5, 5, 3)),
    st.tuples(st.integers(64, 300), st.integers(64, 300)),
    st.integers(1, 8),
    st.sampled_from([1.0, 0.8]),
    st.booleans(),
)
def test_a_scaled_jpeg_is_nearly_the_whole_one(
    array: np.ndarray, size: tuple[int, int], orientation: int, crop: float, progressive: bool
) -> None:
    """Of a picture without fine detail, whatever its sides leave when they are divided, and however it is stored."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = Image.fromarray(array).resize(size, Image.Resampling.BICUBIC)
    content = encoded(picture, "JPEG", quality=95, exif=exif, progressive=progressive)
    for colours in (3, 1):
        whole = read(content, Pixels(8, colours, Preprocessing(crop=crop)))
        scaled = read(content, Pixels(8, colours, Preprocessing(crop=crop, jpeg="scaled")))
        assert np.abs(whole.astype(int) - scaled).max() <= 3


def test_a_jpeg_is_scaled_where_it_is_large_and_a_file() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (259, 387, 3), np.uint8)
    content = encoded(Image.fromarray(noise), "JPEG")
    for size, scaled_size in ((8, (49, 33)), (9, (97, 65)), (32, (194, 130)), (33, (387, 259))):
        least_side = Pixels(size, preprocessing=SCALED).least_side
        with decoding.decoded(content, "RGB", least_side=least_side) as (image, box):
            assert image.size == scaled_size
            assert box[:2] == (0, 0)
            assert box[2] / 387 == box[3] / 259
        equal = np.array_equal(read(content, Pixels(size)), read(content, Pixels(size, preprocessing=SCALED)))
        assert equal == (image.size == (387, 259))
    for source in (Image.open(io.BytesIO(content)), encoded(Image.fromarray(noise), "PNG"), noise):
        np.testing.assert_array_equal(read(source, Pixels(8)), read(source, Pixels(8, preprocessing=SCALED)))
    several = encoded(Image.fromarray(noise), "MPO", save_all=True, append_images=[Image.fromarray(noise[::-1])])
    np.testing.assert_array_equal(
        read(several, Pixels(8, preprocessing=SCALED)), read(content, Pixels(8, preprocessing=SCALED))
    )


def test_a_sequential_jpeg_has_one_scan_of_all_colours() -> None:
    """They are not counted, because libjpeg, and so Pillow, ends at a second one."""
    for mode in ("RGB", "L"):
        content = encoded(Image.new(mode, (64, 64)), "JPEG")
        scan = content[content.rindex(b"\xff\xda") : -2]
        with pytest.raises(MnvError, match="broken data stream"):
            read(content[:-2] + 200 * scan + content[-2:], Pixels(32))
