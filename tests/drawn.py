"""What tests make up: specs that hypothesis draws, everything a MobileNetV1 may be; frames of cameras."""

from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from mnv1deploy.camera import Camera
from mnv1deploy.spec import Block, ModelSpec, Normalization, Preprocessing


def encoded(path: Path, camera: Camera) -> np.ndarray:
    """A picture, pulled to the camera's size, as the bytes of its frame."""
    image = Image.open(path).convert("RGB").resize((camera.width, camera.height))
    kind, swapped, rgb = camera.pixels.kind, camera.pixels.swapped, np.asarray(image)
    if kind == "grey":
        return np.asarray(image.convert("L")).ravel()
    if kind == "rgb888":
        return np.ascontiguousarray(rgb[..., ::-1] if swapped else rgb).ravel()
    if kind == "rgb565":
        red, green, blue = np.moveaxis(rgb.astype(np.uint16), 2, 0)
        words = red >> 3 << 11 | green >> 2 << 5 | blue >> 3
        return words.astype(">u2" if swapped else "<u2").reshape(-1).view(np.uint8)
    ycbcr = np.asarray(image.convert("YCbCr"))
    luma, differences = ycbcr[..., 0], ycbcr[:, ::2, 1:]
    if kind == "yuv422":
        pairs = np.stack([luma.reshape(*differences.shape), differences][:: -1 if swapped else 1], -1)
        return pairs.ravel()
    return np.concatenate([luma.ravel(), differences[::2, :, :: -1 if swapped else 1].ravel()])


WHITES = (0.0, 255.0)


def normalizations(colours: int) -> st.SearchStrategy[Normalization]:
    """The default, those that one grid holds, and any other."""
    means = st.tuples(*[st.floats(*WHITES, width=32)] * colours)
    stds = st.tuples(*[st.floats(1, 255, width=32)] * colours)
    return st.one_of(
        st.just(Normalization.default(colours)),
        st.sampled_from([(0.0, 255.0), (127.5, 127.5), (118.0, 60.0)]).map(
            lambda both: Normalization((both[0],) * colours, (both[1],) * colours)
        ),
        st.builds(Normalization, means, stds),
    )


@st.composite
def specs(
    draw: st.DrawFn,
    *,
    sizes: tuple[int, int] = (8, 72),
    channels: tuple[int, int] = (1, 72),
    blocks: tuple[int, int] = (0, 4),
    classes: tuple[int, int] = (1, 20),
) -> ModelSpec:
    """Any spec: grey or RGB, both activations and padding rules, odd sizes, exact channels, any normalisation.

    The pairs are the smallest and the largest of each.
    """
    colours = draw(st.sampled_from([3, 1]))
    rows = st.builds(Block, st.integers(*channels), st.sampled_from([1, 2]))
    return ModelSpec(
        name="drawn",
        classes=tuple(f"c{i}" for i in range(draw(st.integers(*classes)))),
        input_size=draw(st.integers(*sizes)),
        stem=draw(rows),
        blocks=tuple(draw(st.lists(rows, min_size=blocks[0], max_size=blocks[1]))),
        colours=colours,
        activation=draw(st.sampled_from(["relu", "relu6"])),
        padding=draw(st.sampled_from(["symmetric", "same"])),
        stem_bias=draw(st.booleans()),
        normalization=draw(normalizations(colours)),
        preprocessing=draw(st.sampled_from([Preprocessing(), Preprocessing("bilinear", 0.875)])),
        temperature=draw(st.one_of(st.just(1.0), st.floats(0.05, 20))),
    )
