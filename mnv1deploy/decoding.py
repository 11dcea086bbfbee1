"""Encoded pictures of every format -> upright 8-bit Pillow images, within a bound of memory and time."""

from __future__ import annotations

import ctypes
import functools
import io
import math
import os
import re
import stat
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError, _imaging

from mnv1deploy.packages import install_hint, is_installed

STANDARD_INPUT = "-"

MAX_PIXELS = 2**26
"""Of a picture, whatever its format: 8192 x 8192. It is also how many pixels are decoded at once, over all threads."""

MAX_SIDE = 2**16
"""Pillow keeps a pointer per row, which for a picture one pixel wide is more than its pixels."""

MAX_SCANS = 100
"""Of a JPEG. Encoders write about 10; each is a pass over all pixels, and an empty one takes 42 bytes."""

MAX_SEGMENTS = 10_000
"""Of a JPEG, scans among them."""

MAX_BYTES = 8 * MAX_PIXELS
"""Of a file: the largest picture, uncompressed, of four colours with 16 bits each."""

HEIF_SUFFIXES = frozenset({".heic", ".heics", ".heif", ".heifs", ".hif"})
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")

ImageSource = str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes] | Image.Image | NDArray[Any]
"""A path (or ``-``), an encoded file's bytes, an open binary file, a Pillow image, or an array ``[H, W]``,
``[H, W, 1|3|4]`` of uint8."""

# Pillow knows these by their first bytes and cannot decode them, or has Ghostscript run them
_NOT_DECODED = frozenset({"BUFR", "GRIB", "HDF5", "WMF", "MPEG", "EPS"})

# bytes that a decoder keeps for a pixel, where they are about twice those of the others (8): measured peaks were
# 16 for WebP, 20 for JPEG 2000, 10 for AVIF, progressive JPEG and 16-bit PNG, 5 to 8 for the rest
_HEAVY = frozenset({"WEBP", "JPEG2000", "HEIF"})

_COMMON = ("PNG", "JPEG", "GIF", "BMP", "PPM")

_BAND = 2**20
"""Pixels that are converted at a time."""

_BITS_PER_SAMPLE, _ORIENTATION, _MAX_SAMPLE_VALUE = 258, 274, 281
"""Tags of TIFF 6.0, and so of EXIF."""

_MARKER = re.compile(rb"\xff[^\x00\xff]")  # as it starts with one byte, re looks for that 10 times as fast
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
_SEQUENTIAL = frozenset({0xC0, 0xC1, 0xC9})
"""Frames that are not progressive; the number of colours is the eighth byte behind the marker, of a scan the third."""
_LONE_MARKERS = frozenset({0x01, *range(0xD0, 0xD9)})
"""Of JPEG (ITU-T T.81, annex B); those alone have no length after them: TEM, restarts, the start of the image."""

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+:(/|[^,]*;base64,)", re.IGNORECASE)

# what a file that is no picture is taken for, by its first bytes
_OTHERS = (
    (b"version https://git-lfs", "It is a Git LFS pointer; fetch the file itself with: git lfs pull."),
    (b"\x00\x05\x16\x07", "It is what macOS writes beside a file to hold its attributes."),
    (b"%PDF", "It is a PDF; export its pages as pictures."),
    (b"%!PS", "It is PostScript, a program, which is not run here; export it as a picture."),
    (b"PK\x03\x04", "It is a zip archive; unpack it first."),
    (b"\x1f\x8b", "It is a gzip archive; unpack it first."),
)


Box = tuple[float, float, float, float]
"""Of an image the part that is the picture: left, top, right, bottom, in fractions of pixels.

It is all of it, but for a JPEG that is decoded at a part of its size which does not divide its sides: there the last
column and row reach beyond the picture.
"""


class _Budget:
    """Lets pictures in while those being decoded have no more than ``pixels`` together; a larger one goes alone."""

    def __init__(self, pixels: int) -> None:
        self._total = self._free = pixels
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, pixels: int) -> Iterator[None]:
        """Waits until so many are free."""
        pixels = min(pixels, self._total)
        with self._changed:
            self._changed.wait_for(lambda: pixels <= self._free)
            self._free -= pixels
        try:
            yield
        finally:
            with self._changed:
                self._free += pixels
                self._changed.notify_all()


class _PillowWarnings:
    """Keeps to itself what Pillow warns of (damaged metadata, size), while any thread is inside.

    :class:`warnings.catch_warnings` in every thread would not do: the filters are the process's, and threads that
    leave in another order than they came would restore each other's.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._filters = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._filters = warnings.catch_warnings()
                self._filters.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._filters.__exit__(None, None, None)


_pixels_in_flight = _Budget(MAX_PIXELS)
_opening = threading.Lock()
_pillow_warnings = _PillowWarnings()


def _after_fork() -> None:
    """A child has none of the threads that would give back what they took."""
    global _pixels_in_flight, _opening, _pillow_warnings
    _pixels_in_flight, _opening, _pillow_warnings = _Budget(MAX_PIXELS), threading.Lock(), _PillowWarnings()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class TooLargeError(Exception):
    """A picture or file beyond the limits; the message says by how much."""


@contextmanager
def decoded(
    source: ImageSource, mode: str, most: int = MAX_PIXELS, *, least_side: float = math.inf
) -> Iterator[tuple[Image.Image, Box]]:
    """A source as an upright image of ``mode``, "RGB" or "L", of a file with several frames the first; and its box.

    The memory that it takes counts as taken until the context is left.

    Args:
        source: the picture.
        mode: what it becomes.
        most: how many pixels it may have.
        least_side: a JPEG is decoded at the least of 1, 1/2, 1/4 and 1/8 of its size at which it has so many pixels
            on its shorter side.

    Raises:
        TooLargeError: for a picture of more than ``most`` pixels or beyond MAX_SIDE, or a file beyond MAX_BYTES.
        Exception: whatever Pillow's plugins may raise for damaged files.
    """
    with _pillow_warnings:
        if isinstance(source, Image.Image):
            _check_size(source.size, most)
            with _pixels_in_flight.taken(source.width * source.height):
                yield _all_of(_eight_bit(source, mode, _Depth()))
        elif isinstance(source, np.ndarray):
            image = _from_array(source)
            _check_size(image.size, most)
            with _pixels_in_flight.taken(image.width * image.height):
                yield _all_of(_eight_bit(image, mode, _Depth()))
        else:
            with _stream(source) as file, _open(file, most, least_side) as (image, beyond):
                upright = _eight_bit(image, mode, _Depth.of(image, file))
                yield upright, _box(upright, _orientation(image), *beyond)


@functools.cache
def suffixes() -> frozenset[str]:
    """Of the files that are pictures: those of Pillow's plugins that can decode, and HEIC's."""
    formats = _formats()
    known = {suffix for suffix, format in Image.registered_extensions().items() if format in formats}
    return frozenset(known) | HEIF_SUFFIXES


def is_address(path: str) -> bool:
    """Whether it is a URL."""
    return bool(_ADDRESS.match(path))


def what_it_is(head: bytes) -> str:
    """A sentence on a file that is no picture, from its first bytes."""
    if not head:
        return "It is empty."
    if head[4:8] == b"ftyp":
        if head[8:12] in HEIF_BRANDS:
            return f"It is HEIC, which needs pillow-heif. {install_hint('heic')}"
        if head[8:12] in (b"avif", b"avis"):
            return "It is AVIF, which needs Pillow 11.3 or newer."
        return "It is a video; export its frames as pictures."
    for start, sentence in _OTHERS:
        if head.startswith(start):
            return sentence
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return "It is a web page; the download went wrong."
    if text.startswith((b"<svg", b"<?xml")):
        return "It is a drawing (SVG) or other XML; export it as a picture."
    return "It is in no format that Pillow reads, or it is cut off."


# From a source to an opened image ----------------------------------------------------------------------------------


class _File(io.BufferedReader):
    """An encoded file whose reading ends: pieces so small that no picture needs so many are refused.

    Pillow parses headers in Python, so that a comment of 200 MB that is read byte by byte, or as many empty chunks,
    would take minutes.
    """

    reads_left = 2**18

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads_left -= 1
        if self.reads_left < 0:
            raise ValueError("Its header is longer than any picture's")
        return super().read(size)

    @property
    def head(self) -> bytes:
        """The first bytes."""
        self.seek(0)
        return self.peek(64)[:64]


def _stream(source: Any) -> _File:
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _in_memory(bytes(source))
    if callable(getattr(source, "read", None)):
        with suppress(AttributeError, OSError, ValueError):
            source.seek(0)  # as Pillow does, so that what was just written to a BytesIO is found
        content = source.read(MAX_BYTES + 1)
        if not isinstance(content, (bytes, bytearray, memoryview)):
            raise TypeError('It is opened as text; open it with mode "rb"')
        return _in_memory(bytes(content))
    if isinstance(source, str) and source == STANDARD_INPUT:
        return _in_memory(sys.stdin.buffer.read(MAX_BYTES + 1))
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(_not_a_picture(source))
    path = Path(source)
    try:
        raw = io.FileIO(path)
    except OSError as error:
        if is_address(str(source)) and not path.exists():
            raise ValueError("It is an address, not a file; download it first, and name the file") from error
        if path.is_dir():
            raise IsADirectoryError("It is a folder") from error
        raise
    facts = os.fstat(raw.fileno())
    if not stat.S_ISREG(facts.st_mode):  # a pipe, which cannot be read twice
        with raw:
            return _in_memory(io.BufferedReader(raw).read(MAX_BYTES + 1))
    if facts.st_size > MAX_BYTES:
        raw.close()
        raise TooLargeError(f"the file has {facts.st_size:,} bytes; at most {MAX_BYTES:,} are read")
    file = _File(raw, 2**16)
    file.peek(1)  # here, where threads wait for the disk together
    return file


def _in_memory(content: bytes) -> _File:
    if len(content) > MAX_BYTES:
        raise TooLargeError(f"it has more than {MAX_BYTES:,} bytes")
    return _File(io.BytesIO(content))


def _not_a_picture(source: object) -> str:
    if type(source).__module__.partition(".")[0] == "torch":
        return (
            "Of a torch tensor with raw pixels 0..255 give the array: tensor.to(torch.uint8).numpy(), [H, W, C], for "
            "which [C, H, W] takes permute(1, 2, 0) first"
        )
    if isinstance(source, (list, tuple, set, Iterator)):
        return "One picture is expected here; Classifier.predict_all takes several"
    return "A picture is a path, an encoded file's bytes, an open binary file, a Pillow image or a uint8 array"


@contextmanager
def _open(file: _File, most: int, least_side: float) -> Iterator[tuple[Image.Image, tuple[float, float]]]:
    """The decoded image, and how far its right and its lower edge reach beyond the picture's.

    One thread at a time opens and waits to be let in: some plugins read all when they open.
    """
    with ExitStack() as stack:
        with _opening:
            image = _identified(file)
            _check_size(image.size, most)
            pixels = image.width * image.height
            stack.enter_context(_pixels_in_flight.taken(pixels * (2 if image.format in _HEAVY else 1)))
        place, beyond = file.tell(), (0.0, 0.0)
        if image.format in ("JPEG", "MPO"):
            _check_scans(file)
            beyond = _scale(image, least_side)
        # the slowest decoders, which are written in Python, read a few times for every pixel
        file.reads_left += 8 * pixels + file.seek(0, io.SEEK_END) // 256
        file.seek(place)
        image.load()
        _check_size(image.size, most)
        yield image, beyond


def _identified(file: _File) -> Image.Image:
    head = file.head
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        _silence_libtiff()
    if head[4:8] == b"ftyp" and head[8:12] in HEIF_BRANDS:
        _register_heif()
    try:
        return Image.open(file, formats=_COMMON)  # whose plugins are quick to import
    except UnidentifiedImageError:
        with suppress(UnidentifiedImageError):
            return Image.open(file, formats=sorted(_formats()))
    raise ValueError(what_it_is(head))


def _formats() -> set[str]:
    Image.init()
    stubs = {f for f, (plugin, _) in Image.OPEN.items() if _is_stub(plugin)}
    return set(Image.OPEN) - _NOT_DECODED - stubs


def _is_stub(plugin: object) -> bool:
    return isinstance(plugin, type) and issubclass(plugin, ImageFile.StubImageFile)


@functools.cache
def _register_heif() -> None:
    if is_installed("pillow_heif"):
        import pillow_heif

        pillow_heif.register_heif_opener()


@functools.cache
def _silence_libtiff() -> None:
    """libtiff writes its warnings to standard error itself; this is its own way to stop it."""
    with suppress(AttributeError, OSError):  # on Windows it is inside Pillow and cannot be reached
        libtiff = ctypes.CDLL(_imaging.__file__)
        libtiff.TIFFSetWarningHandler(None)
        libtiff.TIFFSetErrorHandler(None)


def _scale(image: Image.Image, least_side: float) -> tuple[float, float]:
    """Has a JPEG decoded at a part of its size, if it then has as many pixels; how far it reaches beyond the picture.

    libjpeg then leaves out the higher of each 8 x 8 frequencies, and keeps 4 x 4, 2 x 2 or 1.
    """
    for part in (8, 4, 2):
        if min(image.size) >= part * least_side:
            width, height = image.width / part, image.height / part
            image.draft(None, (int(width), int(height)))
            return image.width - width, image.height - height
    return 0.0, 0.0


def _check_scans(file: _File) -> None:
    """Raises ValueError for a JPEG of too many scans, for which Pillow has no limit: 100 KB may be hours of work."""
    file.seek(0)
    content = file.read()
    place = scans = segments = 0
    colours = b""
    while found := _MARKER.search(content, place):
        place = found.end()
        marker = found[0][-1]
        if marker == _END_OF_IMAGE:  # what stands behind it, a phone's film perhaps, is not looked at
            return
        if marker in _SEQUENTIAL:
            colours = content[place + 7 : place + 8]
        elif marker == _START_OF_SCAN and colours and content[place + 2 : place + 3] == colours:
            return  # a scan of all colours, after which libjpeg reads no other of such a file
        if marker not in _LONE_MARKERS:
            scans, segments = scans + (marker == _START_OF_SCAN), segments + 1
            place += int.from_bytes(content[place : place + 2], "big")
        if scans > MAX_SCANS or segments > MAX_SEGMENTS:
            raise ValueError("It has more scans or segments than any picture")


def _check_size(size: tuple[int, int], most: int) -> None:
    width, height = size
    if 0 in size:
        raise ValueError("It has no pixels")
    if width * height > most or max(size) > MAX_SIDE:
        raise TooLargeError(
            f"it has {width:,} x {height:,} pixels; at most {most:,} are read, and {MAX_SIDE:,} on a side"
        )


def _from_array(array: NDArray[Any]) -> Image.Image:
    channels = array.shape[2:] or (1,)
    if array.dtype != np.uint8 or channels not in ((1,), (3,), (4,)) or 0 in array.shape[:2] or array.ndim < 2:
        raise ValueError(
            f"An array must be uint8 [H, W] or [H, W, 1, 3 or 4] with raw pixels 0..255; this one is "
            f"{array.dtype} {list(array.shape)}"
        )
    return Image.fromarray(array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array)


# From a decoded image to an upright 8-bit one ----------------------------------------------------------------------


def _eight_bit(image: Image.Image, mode: str, depth: _Depth) -> Image.Image:
    """Converted in bands, so that no more than the decoded image and the result are in memory."""
    image.load()
    if _orientation(image) != 1:
        image = ImageOps.exif_transpose(image)
    white = _white(image, depth)
    if image.mode == mode and not image.has_transparency_data:
        return image
    if image.width * image.height <= _BAND:
        return _flat(image, white).convert(mode)
    result = Image.new(mode, image.size)
    for top, band in _bands(image):
        result.paste(_flat(band, white).convert(mode), (0, top))
    return result


def _all_of(image: Image.Image) -> tuple[Image.Image, Box]:
    return image, (0, 0, *image.size)


def _orientation(image: Image.Image) -> int:
    return image.getexif().get(_ORIENTATION, 1)  # type: ignore[no-any-return]


def _box(upright: Image.Image, orientation: int, across: float, down: float) -> Box:
    """Of an upright image that as stored, in this orientation, reaches beyond the picture on the right and below."""
    if orientation in (5, 6, 7, 8):
        across, down = down, across
    left = across if orientation in (2, 3, 6, 7) else 0.0
    top = down if orientation in (3, 4, 7, 8) else 0.0
    return left, top, upright.width - across + left, upright.height - down + top


def _bands(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    rows = max(_BAND // image.width, 1)
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _flat(band: Image.Image, white: float) -> Image.Image:
    """8-bit RGB, transparency laid over white."""
    if band.mode in ("I", "F") or band.mode.startswith("I;16"):
        values = np.nan_to_num(np.asarray(band)) if band.mode == "F" else np.asarray(band).astype(np.int64)
        scaled = values * (255 / white) if band.mode == "F" else (values * 510 + white) // (2 * white)
        band = Image.fromarray((scaled.round() if band.mode == "F" else scaled).clip(0, 255).astype(np.uint8))
    if band.has_transparency_data:
        band = band.convert("RGBA")
        band = Image.alpha_composite(Image.new("RGBA", band.size, "white"), band)
    return band.convert("RGB")


def _white(image: Image.Image, depth: _Depth) -> int:
    """The value that is white: of 16 bits what the file says, else 65535; of floats 1 or 255."""
    if image.mode == "F":
        return 1 if all(np.all(np.nan_to_num(np.asarray(band)) <= 1) for _, band in _bands(image)) else 255
    if image.mode == "I" or image.mode.startswith("I;16"):
        largest = max(_largest(band) for _, band in _bands(image))
        if depth.used and largest < 1 << depth.used:
            return (1 << depth.used) - 1
        _refuse_few_bits(largest, depth)
        return 2**16 - 1
    if depth.bits == 16:  # of several colours, of which Pillow keeps the upper 8 bits
        colours = [c for c in image.getbands() if c != "A"]
        _refuse_few_bits(2**8 * max(_largest(image.getchannel(c)) for c in colours), depth)
    return 2**8 - 1


def _largest(band: Image.Image) -> int:
    values: NDArray[Any] = np.asarray(band)
    return int(values.max())


def _refuse_few_bits(largest: int, depth: _Depth) -> None:
    """Values of 12 bits or fewer in a file of 16 would be nearly black."""
    if 0 < largest < 2**12:
        raise ValueError(
            "Its samples have 16 bits, of which only the lower 12 or fewer are used"
            + (" (as it says, but of colours Pillow keeps the upper 8)" if depth.used else ", and it does not say so")
            + ": it would be nearly black; scale it to 0..65535"
            + ("" if depth.used else " or write its depth into it (PNG's sBIT, TIFF's MaxSampleValue)")
        )


@dataclass(frozen=True)
class _Depth:
    """Bits of a sample in a file, and how many of them it says that it uses, if it says so."""

    bits: int = 8
    used: int | None = None

    @classmethod
    def of(cls, image: Image.Image, file: _File) -> _Depth:
        """From PNG's IHDR and sBIT, and TIFF's BitsPerSample and MaxSampleValue."""
        if image.format == "PNG":
            file.seek(0)
            header = file.read(2**16)
            found = header.find(b"sBIT", 0, header.find(b"IDAT"))
            used = max(header[found + 4 :][: header[found - 1]], default=None) if found > 0 else None
            return cls(header[24], used)
        if image.format == "TIFF":
            tags: Any = getattr(image, "tag_v2", {})
            bits = max(_integers(tags.get(_BITS_PER_SAMPLE, 8)))
            used = max(_integers(tags.get(_MAX_SAMPLE_VALUE, 2**bits - 1))).bit_length()
            return cls(bits, used if used < 16 else None)
        return cls()


def _integers(value: Any) -> tuple[int, ...]:
    return tuple(map(int, value)) if isinstance(value, tuple) else (int(value),)
