"""Per layer of the generated C, with AVX-512 VNNI and with AMX: the time it takes and the least its arithmetic takes.

    python scripts/profile_c.py artifacts/network_int8.c      # mnv1 export --format c --quantize int8 --name network

On one core, the best of 5,000 runs, caches warm. The bound is vpdpbusd, and the multiplication and the rounding of
every sum, at the rate measured here for vpdpbusd alone: they need the same units. With AMX, tiles work beside those,
and the bound of a 1x1 convolution is the longer of the two. Prints the tables of docs/formats/c.md.
"""

import itertools
import subprocess
import sys
import tempfile
from pathlib import Path

from mnv1deploy.formats.c import FLAGS, compiler


def main(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        program = Path(temporary) / "profile"
        command = compiler()
        assert command, "there is no C compiler"
        flags = [flag for flag in FLAGS if flag not in ("-fPIC", "-shared")]
        source = Path(__file__).with_suffix(".c")
        subprocess.run([*command, *flags, f"-I{folder}", source, "-o", program], check=True)
        lines = subprocess.run([program], check=True, capture_output=True, text=True).stdout.splitlines()
    rows = [
        (kernels, layer, float(time), float(bound)) for kernels, layer, time, bound in (x.split(",") for x in lines)
    ]
    for kernels, group in itertools.groupby(rows, lambda row: row[0]):
        layers = list(group)
        if layers[0][1] == "peak":
            products = 64 if kernels == "vpdpbusd" else 16 * 16 * 64
            print(f"{kernels}: {products / layers[0][2] / 1000:,.0f} G multiply-adds/s")
            continue
        print(f"\n| {kernels} | us | bound, us | reached |\n|---|---:|---:|---:|")
        (_, _, network, _), *layers = layers
        for _, layer, time, bound in layers:
            print(f"| {layer} | {time:.2f} | {bound:.2f} | {f'{bound / time:.0%}' if bound else ''} |")
        total = sum(bound for *_, bound in layers)
        print(f"| the whole network | {network:.2f} | {total:.2f} | {total / network:.0%} |")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
