"""Per layer of the generated C, on x86: the time it takes and the least its arithmetic takes.

    python scripts/profile_c.py artifacts/network_int8.c      # mnv1 export --format c --quantize int8 --name network

On one core, the best of 5,000 runs, caches warm, for every instruction set but SSE that the processor has. The bound is
the products, and the multiplication and the rounding of every sum, at the rate measured here for those instructions
alone: they need the same units. With AMX, tiles work beside those, and the bound of a 1x1 convolution is the longer of
the two. scripts/measure.py keeps the rows for docs/formats/c.md.
"""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mnv1deploy.formats.c import FLAGS, compiler


def rows(folder: Path) -> Iterator[dict[str, Any]]:
    """Microseconds of every layer and the bound of them, by instruction set, the whole network last.

    A row of ``peak`` has an instruction set's products alone, in billions of multiply-adds a second.
    """
    with tempfile.TemporaryDirectory() as temporary:
        program = Path(temporary) / "profile"
        command = compiler()
        assert command, "there is no C compiler"
        flags = [flag for flag in FLAGS if flag not in ("-fPIC", "-shared")]
        source = Path(__file__).with_suffix(".c")
        subprocess.run([*command, *flags, f"-I{folder}", source, "-o", program], check=True)
        lines = subprocess.run([program], check=True, capture_output=True, text=True).stdout.splitlines()
    for backend, layer, time, bound in (line.split(",") for line in lines):
        if layer == "peak":
            yield {"backend": backend, "layer": layer, "multiply_adds": float(bound) / float(time) / 1000}
        else:
            yield {"backend": backend, "layer": layer, "microseconds": float(time), "bound": float(bound)}


def main(folder: Path) -> None:
    """Prints a line for each."""
    for row in rows(folder):
        if row["layer"] == "peak":
            print(f"\n{row['backend']}: {row['multiply_adds']:,.0f} G multiply-adds/s at most")
            continue
        reached = f"{row['bound'] / row['microseconds']:4.0%}" if row["bound"] else ""
        print(f"{row['layer']:<20} {row['microseconds']:8.2f} us   bound {row['bound']:8.2f} us   {reached}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
