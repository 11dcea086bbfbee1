"""Pictures of a camera's frames: the generated C, bit for bit what Python and Pillow make of the same pixels."""

import ctypes
import subprocess
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
from drawn import encoded
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from mnv1deploy import decoding, images
from mnv1deploy.c import CAMERA, frames
from mnv1deploy.c.resampling import WEIGHT_BITS, windows
from mnv1deploy.camera import FORMATS, Camera
from mnv1deploy.errors import MnvError
from mnv1deploy.spec import CIFAR, Normalization, Pixels, Preprocessing

EXAMPLES = Path(__file__).parents[1] / "examples"

FILTERS = ["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]

NETWORK_H = """
#include <stdint.h>
#define NETWORK_SIZE {size}
#define NETWORK_COLOURS {colours}
#define NETWORK_IMAGE_BYTES (NETWORK_SIZE * NETWORK_SIZE * NETWORK_COLOURS)
"""
"""What the generated files need of a network's header."""

STRICT = ["-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror", "-Wconversion", "-Wno-sign-conversion"]


def compiled(camera: Camera, pixels: Pixels, folder: Path, *flags: str) -> ctypes.CDLL:
    """The generated C of one camera, without a network."""
    spec = CIFAR.replace(
        name="network",
        input_size=pixels.size,
        colours=pixels.colours,
        normalization=Normalization.default(pixels.colours),
        preprocessing=pixels.preprocessing,
    )
    frames.write(folder, camera, spec, "a network", 10**9)
    (folder / "network.h").write_text(NETWORK_H.format(size=pixels.size, colours=pixels.colours))
    library = folder / f"{uuid4()}.so"  # a library is not loaded twice under one name
    command = ["cc", *STRICT, "-O1", "-fPIC", "-shared", *flags, folder / "network_camera.c", "-o", library]
    subprocess.run(command, check=True)
    return ctypes.CDLL(str(library))


def run(library: ctypes.CDLL, camera: Camera, pixels: Pixels, frame: np.ndarray) -> np.ndarray:
    """The picture that it makes, having written nothing beside it and the scratch."""
    scratch_bytes = frames.scratch_bytes(frames.reduction(camera, pixels), pixels.size)
    image = np.full(np.prod(pixels.shape) + 32, 0xA5, np.uint8)
    scratch = np.full(scratch_bytes + 33, 0xA5, np.uint8)
    pointers = [array[offset:].ctypes.data for array, offset in ((image, 16), (scratch, 17))]
    library.network_read_frame(
        ctypes.c_void_p(frame.ctypes.data), camera.stride, *(ctypes.c_void_p(p) for p in pointers)
    )
    for array, start in ((image, 16), (scratch, 17)):
        assert (array[:start] == 0xA5).all()
        assert (array[-16:] == 0xA5).all()
    return image[16:-16].reshape(pixels.shape)


def check(camera: Camera, pixels: Pixels, folder: Path, *flags: str) -> None:
    """Of noise, of the least and the most, and of a photograph, the C makes what Python makes of those pixels."""
    library = compiled(camera, pixels, folder, *flags)
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, camera.frame_bytes, np.uint8)
    extremes = random.integers(0, 2, camera.frame_bytes, np.uint8) * np.uint8(255)
    for frame in (noise, extremes, encoded(EXAMPLES / "truck.jpg", camera)):
        expected = images.read(camera.decode(frame, pixels.colours), pixels)
        np.testing.assert_array_equal(run(library, camera, pixels, frame), expected)


@pytest.mark.slow
@pytest.mark.parametrize("colours", [3, 1])
@pytest.mark.parametrize("format", FORMATS)
def test_every_pixel_format_has_the_bits_of_python(format: str, colours: int, tmp_path: Path) -> None:
    check(Camera(64, 48, format, (3, 5, 41, 31)), Pixels(24, colours, Preprocessing("bilinear", 0.875)), tmp_path)


@pytest.mark.parametrize("format", ["rgb565", "yuyv", "nv12-limited", "grey"])
def test_a_camera_of_the_usual_size(format: str, tmp_path: Path) -> None:
    check(Camera(320, 240, format), Pixels(32), tmp_path, "-O2", "-fsanitize=undefined")


RESIZER = """
#include <stdint.h>
#include "resize.c"

typedef struct {
    const uint8_t *pixels;
    int stride, next;
} Rows;

static const uint8_t *read_row(void *source, int y)
{
    Rows *rows = (Rows *)source;
    if (y < rows->next) /* asked for twice */
        return 0;
    rows->next = y + 1;
    return rows->pixels + y * rows->stride;
}

void run(const Resize *r, const uint8_t *pixels, int stride, uint8_t *rows, uint8_t *out)
{
    Rows source = {pixels, stride, 0};
    resize(r, read_row, &source, rows, out);
}
"""
"""resize.c as a program uses it that learns the size of a picture when it comes."""


class Tables(ctypes.Structure):
    """Resize of resize.c."""

    _fields_ = (
        *((name, ctypes.c_int) for name in ("size", "colours", "held")),
        *((name, ctypes.c_void_p) for name in ("across", "down", "weights")),
    )


@pytest.fixture(scope="module")
def resizer(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    folder = tmp_path_factory.mktemp("resizer")
    (folder / "resizer.c").write_text(RESIZER)
    flags = [*STRICT, "-O2", "-fPIC", "-shared", "-fsanitize=undefined", "-fno-sanitize-recover", f"-I{CAMERA}"]
    subprocess.run(["cc", *flags, folder / "resizer.c", "-o", folder / "resizer.so"], check=True)
    return ctypes.CDLL(str(folder / "resizer.so"))


@pytest.mark.slow
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@example(sizes=(20, 20, 20), filter="lanczos", crop=0.5, colours=3)
@example(sizes=(1, 1, 8), filter="bicubic", crop=1.0, colours=3)
@example(sizes=(12, 300, 8), filter="nearest", crop=1.0, colours=1)
@example(sizes=(2, 10, 8), filter="bilinear", crop=1.0, colours=3)
@given(
    sizes=st.tuples(st.integers(1, 400), st.integers(1, 400), st.integers(8, 100)),
    filter=st.sampled_from(FILTERS),
    crop=st.one_of(st.just(1.0), st.floats(0.05, 1)),
    colours=st.sampled_from([1, 3]),
)
def test_tables_computed_at_run_time_resize_any_picture(
    sizes: tuple[int, int, int], filter: str, crop: float, colours: int, resizer: ctypes.CDLL
) -> None:
    width, height, size = sizes
    pixels = Pixels(size, colours, Preprocessing(filter, crop))  # type: ignore[arg-type]
    found = frames.reduction(Camera(width, height, "grey" if colours == 1 else "rgb888"), pixels)
    weights = np.array([weight for window in (*found.across, *found.down) for weight in window.weights], np.int32)
    tables, end = [], 0
    for axis in (found.across, found.down):
        ends = end + np.cumsum([len(window.weights) for window in axis])
        starts = [end, *ends[:-1]]
        end = int(ends[-1])
        rows = [(window.first, len(window.weights), start) for window, start in zip(axis, starts, strict=True)]
        tables.append(np.array(rows, np.intc))
    picture = np.random.default_rng(width + height).integers(0, 256, (height, width, colours), np.uint8)
    part = picture[found.top :, found.left :]
    kept, out = np.empty(found.held * size * colours, np.uint8), np.empty(pixels.shape, np.uint8)
    sizes_of = Tables(size, colours, found.held, *(array.ctypes.data for array in (*tables, weights)))
    pointers = [ctypes.c_void_p(array.ctypes.data) for array in (part, kept, out)]
    resizer.run(ctypes.byref(sizes_of), pointers[0], picture.strides[0], *pointers[1:])
    np.testing.assert_array_equal(out, images.read(picture, pixels))


@pytest.mark.slow
@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    sizes=st.tuples(st.integers(1, 99), st.integers(1, 99), st.integers(8, 50)),
    format=st.sampled_from(list(FORMATS)),
    colours=st.sampled_from([1, 3]),
    part=st.one_of(st.none(), st.tuples(*[st.floats(0, 1)] * 4)),
)
def test_any_frame_and_part_of_it(
    sizes: tuple[int, int, int],
    format: str,
    colours: int,
    part: tuple[float, ...] | None,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    width, height = (side * (2 if FORMATS[format].kind in ("yuv422", "yuv420") else 1) for side in sizes[:2])
    region = None
    if part:
        left, top = int(part[0] * (width - 1)), int(part[1] * (height - 1))
        region = (left, top, 1 + int(part[2] * (width - left - 1)), 1 + int(part[3] * (height - top - 1)))
    camera = Camera(width, height, format, region)
    check(camera, Pixels(sizes[2], colours), tmp_path_factory.mktemp("camera"))


@pytest.mark.parametrize("name", ["cat.png", "airplane.webp", "truck.jpg"])
def test_a_real_picture_as_a_frame(name: str, tmp_path: Path) -> None:
    """The file and the camera's frame of the same pixels are the same to the network."""
    path = EXAMPLES / name
    with decoding.decoded(path, "RGB") as (picture, _):
        frame = np.ascontiguousarray(np.asarray(picture)[..., ::-1])
    camera, pixels = Camera(*picture.size, "bgr888"), Pixels(32)
    library = compiled(camera, pixels, tmp_path)
    np.testing.assert_array_equal(run(library, camera, pixels, frame.ravel()), images.read(path, pixels))


def test_a_frame_may_have_longer_rows(tmp_path: Path) -> None:
    """As a camera's memory has that begins rows at multiples of 64 bytes."""
    camera, pixels = Camera(50, 40, "nv12"), Pixels(16)
    library = compiled(camera, pixels, tmp_path)
    frame = np.random.default_rng(0).integers(0, 256, (60, 50), np.uint8)
    wide = np.zeros((60, 64), np.uint8)
    wide[:, :50] = frame
    image, scratch = np.empty(pixels.shape, np.uint8), np.empty(10_000, np.uint8)
    pointers = [ctypes.c_void_p(array.ctypes.data) for array in (wide, image, scratch)]
    library.network_read_frame(pointers[0], 64, *pointers[1:])
    np.testing.assert_array_equal(image, images.read(camera.decode(frame), pixels))


@settings(max_examples=100, deadline=None)
@given(
    size=st.tuples(st.integers(1, 3000), st.integers(1, 3000)),
    crop=st.one_of(st.just(1.0), st.floats(0.01, 1), st.sampled_from([0.875, 0.95])),
)
def test_the_square_is_pillows(size: tuple[int, int], crop: float) -> None:
    class Recorder:
        """What ImageOps.fit asks an image for."""

        def __init__(self) -> None:
            self.size = size

        def resize(self, _size: object, _method: object, box: tuple[float, ...]) -> tuple[float, ...]:
            return box

    assert images.square(*size, crop) == ImageOps.fit(Recorder(), (8, 8), bleed=(1 - crop) / 2)  # type: ignore[arg-type]


@pytest.mark.parametrize("filter", FILTERS)
def test_weights_are_pillows_for_large_pictures(filter: str) -> None:
    """One row of a large picture, resized with the tables in Python."""
    random = np.random.default_rng(1)
    for source, size, start, end in (
        (4000, 224, 0, 4000),
        (4032, 32, 504.0, 3528.0),
        (97, 96, 0.1, 96.9),
        (5, 64, 0, 5),
    ):
        row = random.integers(0, 256, (1, source), np.uint8)
        box = (start, 0, end, 1)
        expected = np.asarray(Image.fromarray(row).resize((size, 1), Image.Resampling[filter.upper()], box=box))[0]
        sums = [
            int(row[0, window.first : window.end].astype(np.int64) @ np.array(window.weights)) + 2 ** (WEIGHT_BITS - 1)
            for window in windows(source, size, start, end, filter)  # type: ignore[arg-type]
        ]
        np.testing.assert_array_equal((np.array(sums) >> WEIGHT_BITS).clip(0, 255), expected)


def test_a_camera_is_read_as_it_is_written() -> None:
    for text in ("320x240:rgb565", "640x480:nv12-limited:200x100+7+8"):
        assert str(Camera.parse(text)) == text
    assert Camera.parse("160x120:GREY") == Camera(160, 120, "grey")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("320x240", "does not say what a camera's frames are"),
        ("320x240:jpeg", "There is no pixel format jpeg"),
        ("0x240:grey", "1 to 65,536 pixels on a side"),
        ("321x240:yuyv", "an even width, not 321x240"),
        ("320x241:nv12", "an even width and height"),
        ("320x240:grey:240x240+81+0", "not inside 320x240"),
        ("320x240:grey:0x240+0+0", "not inside 320x240"),
        ("320x240:grey:-1x240+0+0", "does not say"),
        ("٣20x240:grey", "does not say"),
    ],
)
def test_what_is_no_camera_is_refused(text: str, said: str) -> None:
    with pytest.raises(MnvError) as error:
        Camera.parse(text)
    assert said in str(error.value)


def test_a_frame_of_another_size_is_refused() -> None:
    with pytest.raises(MnvError, match="A frame of 4x4:nv12 has 24 bytes, not 16"):
        Camera(4, 4, "nv12").decode(bytes(16))
