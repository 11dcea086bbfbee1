"""Writes tests/artifacts.json: what the bundled checkpoint's artifacts hash to, and the packages that wrote them.

PYTHONPATH=tests python scripts/artifact_hashes.py [FORMAT ...]
"""

import json
import os
import sys
import tempfile
from pathlib import Path

import conftest

from mnv1deploy import bundled, checkpoint, datasets, formats
from mnv1deploy.artifact import Manifest
from mnv1deploy.packages import versions

TABLE = Path(__file__).parents[1] / "tests" / "artifacts.json"

OWN_CODE = ("c", "litert", "tflm")
"""Formats that no converter writes: their bytes are the same with any version of what is installed."""

NOT_REPRODUCIBLE = {"aoti": "its machine code is what the C++ compiler of the exporting machine makes of it"}
"""Formats without a hash, and why."""


def main(names: list[str]) -> None:
    table = json.loads(TABLE.read_text("utf-8")) if TABLE.exists() else {}
    network, images = checkpoint.load(bundled.CHECKPOINT).network, datasets.calibration().images
    for name in names or [name for name in formats.exportable() if name not in NOT_REPRODUCIBLE]:
        entry = formats.get(name)
        files = {}
        for precision in entry.precisions:
            with tempfile.TemporaryDirectory() as folder:
                path = conftest.export_anew(network, name, precision, Path(folder), images)
                manifest = Manifest.read(path)
                assert manifest is not None
                files |= {file: facts["sha256"] for file, facts in manifest.files.items()}
        table[name] = {"written_by": {} if name in OWN_CODE else without_us(versions(*entry.writers)), "sha256": files}
        print(f"{name}: {len(files)} files")
    TABLE.write_text(json.dumps(table, indent=1, sort_keys=True) + "\n", "utf-8")


def without_us(found: dict[str, str]) -> dict[str, str]:
    """The packages that write a format, but for this one, whose version is in no artifact here."""
    return {package: version for package, version in found.items() if package != "mnv1deploy"}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.environ[conftest.SHARED] = folder
        main(sys.argv[1:])
