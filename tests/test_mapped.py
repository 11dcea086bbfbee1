"""Data sets that are too large for memory: in files, decoded once, with the same pictures and the same training."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import write_class_folders

from mnv1deploy import datasets, mapped
from mnv1deploy.errors import MnvError
from mnv1deploy.images import UnreadableError
from mnv1deploy.spec import CIFAR, Pixels
from mnv1deploy.training.run import Run
from mnv1deploy.training.settings import Settings
from mnv1deploy.training.setup import spec_for

PIXELS = Pixels(32)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, and no more than one picture held in memory."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(mapped, "MOST_IN_MEMORY", 32 * 32 * 3)
    return tmp_path / "cache" / "mnv1deploy"


@pytest.mark.slow
def test_training_is_the_same_to_the_byte(class_folders: Path, tmp_path: Path, cache: Path) -> None:
    in_files = datasets.load(class_folders, PIXELS)[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mapped, "MOST_IN_MEMORY", 2**30)
        in_memory = datasets.load(class_folders, PIXELS)[0]
    assert isinstance(in_files.images, np.memmap)
    assert not isinstance(in_memory.images, np.memmap)
    settings = replace(Settings.recipe("quick", epochs=2, batch_size=16, ema=0.9), holdout=0.2)
    found = []
    for name, data in (("files", in_files), ("memory", in_memory)):
        run = Run(spec_for(data, CIFAR.scaled(0.25)), data, settings, tmp_path / name)
        assert isinstance(run.parts.train.images, np.memmap) == (name == "files")
        run.fit()
        found.append(run.checkpoint.read_bytes())
    assert found[0] == found[1]


def test_pictures_are_decoded_once_and_again_when_a_file_changes(
    class_folders: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = datasets.load_train(class_folders, PIXELS).images
    assert len(list(cache.glob("pictures/*.npy"))) == 1
    decoded = []
    real = mapped.images.read_all
    monkeypatch.setattr(mapped.images, "read_all", lambda *a, **k: decoded.append(1) or real(*a, **k))
    np.testing.assert_array_equal(datasets.load_train(class_folders, PIXELS).images, first)
    assert not decoded
    some = next(class_folders.glob("cat/*.png"))
    os.utime(some, ns=(1, 1))
    np.testing.assert_array_equal(datasets.load_train(class_folders, PIXELS).images, first)
    assert decoded == [1]


def test_unreadable_pictures_are_named_or_left_out_every_time(class_folders: Path, cache: Path) -> None:
    (class_folders / "cat" / "broken.png").write_bytes(b"no picture")
    (class_folders / "dog" / "gone.png").symlink_to("nowhere.png")
    for _ in range(2):
        with pytest.raises(UnreadableError, match="broken"):
            datasets.load(class_folders, PIXELS)
    names = [datasets.load_train(class_folders, PIXELS, skip_unreadable=True).name for _ in range(2)]
    assert names[0] == names[1]
    counts = [len(part) for part in datasets.load(class_folders, PIXELS, skip_unreadable=True)]
    with pytest.raises(UnreadableError, match="broken"):
        datasets.load(class_folders, PIXELS)
    assert sum(counts) == 80
    assert not list(cache.glob("pictures/.*")), "nothing half-written is left"


def test_a_disk_that_is_too_small_is_one_sentence(cache: Path) -> None:
    with pytest.raises(MnvError, match=r"1,000,000,000 decoded pictures take 3,072,000,000,000,000 bytes, and .* left"):
        mapped.room((10**9, 1000, 1024, 3))


LARGE = """
import re, resource, sys, threading
from pathlib import Path
from mnv1deploy import datasets, mapped
from mnv1deploy.spec import Pixels
mapped.MOST_IN_MEMORY = 2**20
threading.stack_size(2**19)  # stacks count, and there are as many as processors
used = 1024 * int(re.search(r"VmData:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
resource.setrlimit(resource.RLIMIT_DATA, (used + 2**27, used + 2**27))
train, _ = datasets.load(sys.argv[1], Pixels(512), seed=0)
parts = train.split(0.2, 0, ("train", "held out"))
assert sum(len(part) for part in parts) == len(train)
print(train.images.nbytes)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the limit of memory is Linux's")
def test_a_data_set_may_be_larger_than_the_memory_that_is_given(tmp_path: Path, cache: Path) -> None:
    """Twice as large as what the process may take besides what it has at its start."""
    folder = write_class_folders(tmp_path / "pets", tuple(range(10)))
    done = subprocess.run([sys.executable, "-c", LARGE, folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 1.8 * 2**27
