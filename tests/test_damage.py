"""Files that are damaged: a bit turned over anywhere in any format's artifact."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from commands import program
from conftest import export

from mnv1deploy import bundled, checkpoint, datasets, formats
from mnv1deploy.artifact import manifest_path
from mnv1deploy.errors import MnvError

FORMATS = [name for name in formats.exportable() if not formats.get(name).elsewhere]

FLIPS = 8

TRIES = """
import json, sys
import numpy as np
from mnv1deploy import formats
from mnv1deploy.errors import MnvError
images = np.zeros((2, 32, 32, 3), np.uint8)
for path in sys.argv[1:]:
    try:
        answer = list(formats.open_session(path, threads=1)(images).shape)
    except MnvError as error:
        answer = error.message
    except Exception as error:
        answer = {"wrong": f"{type(error).__name__}: {error}"}
    print("answer", json.dumps([path, answer]), flush=True)
"""


def artifact(name: str, folder: Path) -> Path:
    network, images = checkpoint.load(bundled.CHECKPOINT).network, datasets.calibration().images
    precision = "int8" if "int8" in formats.get(name).precisions else "fp32"
    return export(network, name, precision, folder, images)


def flipped(path: Path, folder: Path, seed: int) -> Path:
    """A copy of an artifact with one bit turned over: anywhere, or where a file's structure is, at either end."""
    draw = np.random.default_rng(seed)
    shutil.copytree(path.parent, folder)
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file != manifest_path(folder / path.name))
    file = files[draw.integers(len(files))]
    content = bytearray(file.read_bytes())
    near = int(draw.integers(min(4096, len(content))))
    place = (int(draw.integers(len(content))), near, len(content) - 1 - near)[seed % 3]
    content[place] ^= 1 << int(draw.integers(8))
    file.write_bytes(content)
    return folder / path.name


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_any_bit_turned_over_is_found_by_the_manifest(name: str, tmp_path: Path) -> None:
    path = artifact(name, tmp_path / "whole")
    for seed in range(FLIPS):
        with pytest.raises(MnvError, match="is not the file that its manifest"):
            formats.open_session(flipped(path, tmp_path / str(seed), seed))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in FORMATS if name not in ("c", "aoti")])
def test_without_a_manifest_a_bit_turned_over_is_refused_or_answered(name: str, tmp_path: Path) -> None:
    """Some raised whatever came, and LiteRT died, or took all memory. C and AOTInductor are code, and left out."""
    path = artifact(name, tmp_path / "whole")
    manifest_path(path).unlink()
    damaged = [flipped(path, tmp_path / str(seed), seed) for seed in range(FLIPS)]
    (tmp_path / "tries.py").write_text(TRIES)
    done = program(tmp_path / "tries.py", *damaged, cwd=tmp_path)
    answers = [json.loads(line[7:]) for line in done.stdout.splitlines() if line.startswith("answer ")]
    assert [path for path, _ in answers] == list(map(str, damaged)), done.stderr[-2000:]
    assert done.returncode == 0, done.stderr[-2000:]
    for _, answer in answers:
        assert isinstance(answer, str) or answer == [2, 10]
