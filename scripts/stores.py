"""``mnv1 predict --ray`` with pictures and answers at addresses: servers of S3's and Google's protocols, on loopback.

    python scripts/stores.py                    # a JSON object per store; servers from a temporary environment
    python scripts/stores.py --python PYTHON    # or from one that has moto[server] and gcp-storage-emulator

Every row of the answers is compared with that of ``mnv1 predict`` on this machine of the same files.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow.fs
from load_serve import HOST, ROOT, free_port, python_with, running, version
from PIL import Image

from mnv1deploy import cluster, datasets
from mnv1deploy.report import rows as answers

PACKAGES = ("moto[server]", "gcp-storage-emulator", "setuptools<81")  # the latter for the emulator's pkg_resources
PICTURES = 200
BUCKET = "pictures"
PREDICT = (sys.executable, "-m", "mnv1deploy.cli", "predict")


def pictures(folder: Path) -> None:
    """Small ones in two folders whose names are no plain words, one that cannot be read, and what is no picture."""
    for number, image in enumerate(datasets.calibration().images[:PICTURES]):
        below = folder / f"part {number % 2} #1%"
        below.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(below / f"{number:04}.png")
    (folder / "broken.png").write_bytes(b"no picture")
    (folder / "notes.txt").write_text("no picture either")


def predicted(given: str, *options: str) -> None:
    done = subprocess.run([*PREDICT, given, *options], capture_output=True, text=True, check=False)
    if done.returncode != 1 or "Traceback" in done.stderr:  # one picture cannot be read
        raise SystemExit(f"predict {given} ended with exit code {done.returncode}:\n{done.stdout}{done.stderr}")


def plain(row: Mapping[str, Any], start: str) -> dict[str, Any]:
    """A row by the path below ``start``; that a picture cannot be read is said in words that have its address."""
    return {**row, "path": row["path"].removeprefix(start), "error": bool(row.get("error"))}


def at(address: str, folder: Path, expected: list[dict[str, Any]]) -> int:
    """Uploads, predicts there, and compares; how many rows."""
    filesystem, root = pyarrow.fs.FileSystem.from_uri(address)
    pyarrow.fs.copy_files(str(folder), f"{root}/in", destination_filesystem=filesystem)
    predicted(f"{address}/in", "--ray", "local", "--parquet", f"{address}/out")
    with tempfile.TemporaryDirectory() as copied:
        pyarrow.fs.copy_files(f"{root}/out", copied, source_filesystem=filesystem)
        done, *files = sorted(Path(copied).iterdir())
        found = [plain(row, f"{address}/in") for file in files for row in answers.read_parquet(file)]
    if found != expected or done.name != cluster.DONE:
        raise SystemExit(f"{address}: {len(found)} rows are not those of this machine.")
    return len(found)


def rows(python: str | None = None) -> Iterator[dict[str, Any]]:
    """A row per store: what served it, and how many rows of the answers were those of this machine."""
    os.environ |= {"RAY_worker_niceness": "0", "PYTHONPATH": str(ROOT)}  # niced, they starve beside what computes
    with python_with(python, PACKAGES) as found, tempfile.TemporaryDirectory() as scratch:
        bin, folder = Path(found).parent, Path(scratch, "in")
        pictures(folder)
        predicted(str(folder), "--parquet", str(Path(scratch, "local.parquet")))
        expected = [plain(row, str(folder)) for row in answers.read_parquet(Path(scratch, "local.parquet"))]
        port = free_port()
        environment = {
            "AWS_ENDPOINT_URL": f"http://{HOST}:{port}",
            **{"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"},
        }
        with (
            running([str(bin / "moto_server"), "-H", HOST, "-p", str(port)], port),
            patch.dict(os.environ, environment),
        ):
            maker, _ = pyarrow.fs.FileSystem.from_uri("s3://?allow_bucket_creation=true")
            maker.create_dir(BUCKET)
            count = at(f"s3://{BUCKET}", folder, expected)
        yield {"store": "s3", "server": f"moto {version(found, 'moto')}", "rows": count}
        port = free_port()
        environment = {"CLOUD_STORAGE_EMULATOR_ENDPOINT": f"http://{HOST}:{port}"}
        options = (f"--host={HOST}", f"--port={port}", "--in-memory", f"--default-bucket={BUCKET}")
        with running([str(bin / "gcp-storage-emulator"), "start", *options], port), patch.dict(os.environ, environment):
            count = at(f"gs://anonymous@{BUCKET}", folder, expected)
        server = f"gcp-storage-emulator {version(found, 'gcp-storage-emulator')}"
        yield {"store": "gs", "server": server, "rows": count}


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--python", help="of an environment that has the servers")
    for row in rows(parser.parse_args().python):
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
