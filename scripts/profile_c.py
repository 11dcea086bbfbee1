"""Per layer of the generated C with AVX-512 VNNI: the time it takes and the least that its multiplications take.

    python scripts/profile_c.py artifacts/mobilenetv1_cifar10_int8.c

On one core, the best of 2,000 runs, caches warm. The bound is vpdpbusd and the multiplication of each requantization at
the rate measured here for vpdpbusd alone: both need the same units. Prints the table of docs/formats/c.md.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from mnv1deploy.formats.c import FLAGS, compiler


def main(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        program = Path(temporary) / "profile"
        flags = [flag for flag in FLAGS if flag not in ("-fPIC", "-shared")]
        source = Path(__file__).with_suffix(".c")
        subprocess.run([str(compiler()), *flags, f"-I{folder}", source, "-o", program], check=True)
        lines = subprocess.run([program], check=True, capture_output=True, text=True).stdout.splitlines()
    rows = [(name, float(time), float(count)) for name, time, count in (line.split(",") for line in lines)]
    (_, peak, _), (_, whole, _), *layers = rows
    print(f"vpdpbusd: {peak / 1000:.2f} G/s, {peak * 64 / 1000:.0f} G multiply-adds/s\n")
    print("| layer | us | bound, us | reached |\n|---|---:|---:|---:|")
    for name, time, count in layers:
        bound = count / peak
        print(f"| {name} | {time:.2f} | {bound:.2f} | {f'{bound / time:.0%}' if bound else ''} |")
    bound = sum(count for _, _, count in layers) / peak
    print(f"| the whole network | {whole:.2f} | {bound:.2f} | {bound / whole:.0%} |")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
