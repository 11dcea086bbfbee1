"""What decoding JPEGs at a part of their size (``--jpeg scaled``) changes: pixels, answers and accuracy.

    python scripts/jpegs.py [--pictures 1000]       # a JSON object per kind of pictures and rule

Photographs are those of scripts/predict_folder.py, 500x375 with the noise of a camera; CIFAR-10's test pictures are
enlarged as scripts/robustness.py does it, to as many pixels, and written as JPEGs of the same quality. Rules: how many
times the network's height and width the part must have; mnv1deploy's own is spec.SCALED_SIDES.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray
from predict_folder import SIZE, pictures
from robustness import enlarged

from mnv1deploy import bundled, datasets, formats, images, spec, verification
from mnv1deploy.decoding import ImageSource

RULES = (2, spec.SCALED_SIDES)
QUALITY = 90


def encoded(photographs: Sequence[Any]) -> list[bytes]:
    """Each as a JPEG."""
    found = []
    for photograph in photographs:
        file = io.BytesIO()
        photograph.save(file, "JPEG", quality=QUALITY)
        found.append(file.getvalue())
    return found


def compared(
    name: str, files: Sequence[ImageSource], labels: NDArray[np.int64] | None = None
) -> Iterator[dict[str, Any]]:
    """A row per rule: what is equal to the answers of JPEGs decoded whole, and how far the rest is off."""
    session = formats.open_session(bundled.INT8)
    whole = images.read_all(files, session.spec.pixels)
    expected = verification.logits(session, whole)
    for rule in RULES:
        with mock.patch.object(spec, "SCALED_SIDES", rule):
            scaled = images.read_all(files, session.spec.with_jpeg("scaled").pixels)
        found = verification.logits(session, scaled)
        off = np.abs(scaled.astype(int) - whole)
        row = {
            "on": name,
            "pictures": len(files),
            "rule": rule,
            "equal_values": float((off == 0).mean()),
            "largest_difference": int(off.max()),
            "equal_classes": float((found.argmax(1) == expected.argmax(1)).mean()),
            "largest_logit_difference": float(np.abs(found - expected).max()),
        }
        if labels is not None:
            row["accuracy"] = float((found.argmax(1) == labels).mean())
            row["accuracy_whole"] = float((expected.argmax(1) == labels).mean())
        yield row


def rows(count: int = 1000) -> Iterator[dict[str, Any]]:
    """Of both kinds."""
    yield from compared("photographs", sorted(map(str, pictures(count).iterdir())))
    test = datasets.load_test(None, formats.open_session(bundled.INT8).spec.pixels)
    part = datasets.Dataset(test.name, test.images[:count], test.labels[:count], test.classes)
    photographs = enlarged(part, SIZE)
    yield from compared("CIFAR-10 test pictures, enlarged", encoded(photographs.pictures), photographs.labels)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pictures", type=int, default=1000)
    for row in rows(parser.parse_args().pictures):
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
