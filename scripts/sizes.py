"""A larger and a smaller network of random weights: what their export takes, and the p50 of every engine.

    python scripts/sizes.py            # of NETWORKS, a row of JSON a line
    python scripts/sizes.py 64 0.25    # of pictures of so many pixels, at this width

Each is calibrated once, for all formats. C is written first: the processor time and the memory of its export are those
until then. scripts/measure.py keeps the rows for docs/benchmark.md.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mnv1deploy.artifact import Manifest
from mnv1deploy.benchmark import artifacts_in
from mnv1deploy.exporting import Exported, export, untrained_spec

NETWORKS = ((224, 1.0), (96, 0.25))
FORMATS = ("c", "onnx", "openvino", "litert", "executorch", "ncnn", "mnn")
EXPORT = "--export"


def exported(size: int, width: float, folder: Path) -> None:
    """Writes all formats, and prints as JSON what it took to write C: seconds of one processor, and MiB at most."""

    def tell(artifact: Exported) -> None:
        if artifact.format == "c":
            used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
            seconds = sum(row.ru_utime + row.ru_stime for row in used)
            facts = {"export_seconds": seconds, "export_mebibytes": max(row.ru_maxrss for row in used) / 1024}
            print(json.dumps(facts), flush=True)

    spec = untrained_spec("paper", width=width, input_size=size)
    export(FORMATS, "int8", untrained=spec, output=folder, threads=1, on_artifact=tell)


def rows(size: int, width: float) -> Iterator[dict[str, Any]]:
    """A row per engine on one thread, and one of C on two."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, EXPORT, str(size), str(width), folder]
        made = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout.splitlines()[0])
        made = {"size": size, "width": width, **made}
        artifacts = artifacts_in(folder)
        for threads, some in ((1, artifacts), (2, [path for path in artifacts if path.suffix == ".c"])):
            bench = [sys.executable, "-m", "mnv1deploy.cli", "bench", *map(str, some), "--threads", str(threads)]
            done = subprocess.run([*bench, "--json"], stdout=subprocess.PIPE, check=True)
            for row in json.loads(done.stdout)["results"]:
                manifest = Manifest.read(Path(folder) / row["artifact"])
                assert manifest
                facts = {"format": manifest.provenance.format, "bytes": manifest.bytes, "p50": 1000 * row["p50"]}
                yield {**made, **facts, "threads": threads}


if __name__ == "__main__":
    given = sys.argv[1:]
    if given[:1] == [EXPORT]:
        exported(int(given[1]), float(given[2]), Path(given[3]))
    else:
        for pixels, multiplier in [(int(given[0]), float(given[1]))] if given else NETWORKS:
            for result in rows(pixels, multiplier):
                print(json.dumps(result), flush=True)
