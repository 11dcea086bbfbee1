"""Data: the real CIFAR-10, what is bundled of it, and folders as users have them."""

import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mnv1deploy import cifar, datasets
from mnv1deploy.cifar import CIFAR10, CIFAR100, Cifar
from mnv1deploy.datasets import Dataset
from mnv1deploy.errors import MnvError
from mnv1deploy.report import tables
from mnv1deploy.spec import CIFAR10_CLASSES, Pixels
from mnv1deploy.verification import Evaluation

BUNDLED = Path(datasets.__file__).parent / "data"


@pytest.mark.slow
def test_cifar10_is_the_real_one(cifar10_train: Dataset, cifar10_test: Dataset) -> None:
    for dataset, count in ((cifar10_train, 50_000), (cifar10_test, 10_000)):
        assert dataset.images.shape == (count, 32, 32, 3)
        assert dataset.images.dtype == np.uint8
        assert dataset.classes == CIFAR10_CLASSES
        assert np.bincount(dataset.labels).tolist() == [count // 10] * 10


def test_calibration_images_are_training_images(cifar10_train: Dataset) -> None:
    indices = json.loads((BUNDLED / "calibration.json").read_text())["indices"]
    bundled = datasets.calibration()
    assert len(bundled) == len(set(indices)) == 512
    assert set(np.bincount(bundled.labels)) <= {51, 52}
    np.testing.assert_array_equal(bundled.images, cifar10_train.images[indices])
    np.testing.assert_array_equal(bundled.labels, cifar10_train.labels[indices])
    assert (BUNDLED / "calibration.webp").stat().st_size < 1_500_000


def test_the_sample_is_of_the_test_split_and_says_so(cifar10_test: Dataset) -> None:
    indices = json.loads((BUNDLED / "sample.json").read_text())["indices"]
    bundled = datasets.sample()
    assert len(set(indices)) == 1000
    assert np.bincount(bundled.labels).tolist() == [100] * 10
    np.testing.assert_array_equal(bundled.images, cifar10_test.images[indices])
    np.testing.assert_array_equal(bundled.labels, cifar10_test.labels[indices])
    assert "sample" in bundled.name


def test_bundled_images_need_no_torch() -> None:
    script = (
        "import sys\n"
        "from mnv1deploy import datasets\n"
        "assert len(datasets.calibration()) == 512 and len(datasets.sample()) == 1000\n"
        "assert 'torch' not in sys.modules and 'torchvision' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_where_cifar10_is_looked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MNV1_DATA", str(tmp_path / "variable"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert datasets.data_folder(tmp_path / "given") == tmp_path / "given"
    assert datasets.data_folder() == tmp_path / "variable"
    monkeypatch.delenv("MNV1_DATA")
    assert datasets.data_folder() == tmp_path / "cache" / "mnv1deploy"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert datasets.data_folder() == Path.home() / ".cache" / "mnv1deploy"


def test_cifar10_is_read_without_torch(cifar10: Path) -> None:
    """An install can be checked with an engine alone; nothing in the files is run."""
    script = (
        "import sys\n"
        "for name in ('torch', 'torchvision'): sys.modules[name] = None\n"
        "from mnv1deploy import datasets\n"
        "from mnv1deploy.spec import Pixels\n"
        "assert len(datasets.load_test(None, Pixels(32))) == 10_000\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.slow
def test_cifar10_is_found_by_the_folder_and_by_the_one_above(
    cifar10_folder: Path, cifar10_test: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outer = cifar10_folder
    inner = CIFAR10.folder_of(outer)
    renamed = tmp_path / "cifar"
    renamed.symlink_to(inner)
    for place in (outer, inner, renamed):
        assert datasets.load_test(place, Pixels(32)).name == "CIFAR-10 test split"
        monkeypatch.setenv("MNV1_DATA", str(place))
        np.testing.assert_array_equal(datasets.cifar10("test").labels, cifar10_test.labels)


def test_damaged_cifar10_is_refused(cifar10_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / datasets.CIFAR10_FOLDER
    shutil.copytree(CIFAR10.folder_of(cifar10_folder), folder, copy_function=shutil.copyfile)
    batch = folder / "test_batch"
    whole = batch.read_bytes()
    batch.write_bytes(whole[:-1])
    for place in (tmp_path, folder):
        with pytest.raises(MnvError, match="is damaged: test_batch"):
            datasets.load_test(place, Pixels(32))
    batch.write_bytes(whole)
    (folder / "data_batch_3").unlink()
    with pytest.raises(MnvError, match="is not whole: it lacks data_batch_3"):
        datasets.load_test(tmp_path, Pixels(32))


def pickled(content: object) -> bytes:
    return pickle.dumps(content, protocol=2)  # as the real files are


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[Cifar, Path]:
    """CIFAR-100 of six pictures, in the real one's form, and the folder that has its archive."""
    names = [f"class{number}" for number in range(100)]
    rng = np.random.default_rng(0)
    contents = {"meta": pickled({"fine_label_names": names, "coarse_label_names": ["all"]})}
    for split, count in (("train", 4), ("test", 2)):
        rows = rng.integers(0, 256, (count, 3072), np.uint8)
        labels = {"fine_labels": list(range(count)), "coarse_labels": [0] * count}
        contents[split] = pickled({"data": rows, "filenames": ["a.png"] * count, "batch_label": b"one", **labels})
    site = tmp_path / "site"
    folder = site / CIFAR100.folder
    folder.mkdir(parents=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    archive = site / CIFAR100.archive
    with tarfile.open(archive, "w:gz") as file:
        file.add(folder, CIFAR100.folder)
        file.add(folder / "meta", "../outside")  # is not unpacked

    def md5(content: bytes) -> str:
        return hashlib.md5(content).hexdigest()

    variant = replace(
        CIFAR100,
        archive_md5=md5(archive.read_bytes()),
        train=(("train", md5(contents["train"])),),
        test=(("test", md5(contents["test"])),),
        meta=("meta", md5(contents["meta"])),
    )
    monkeypatch.setattr(cifar, "VARIANTS", (cifar.CIFAR10, variant))
    return variant, site


def test_cifar100_is_read_with_its_hundred_classes(small: tuple[Cifar, Path]) -> None:
    variant, site = small
    for place in (site, site / variant.folder):
        train, test = datasets.load(place, Pixels(32))
        assert (train.name, test.name) == ("CIFAR-100 train split", "CIFAR-100 test split")
        assert len(train.classes) == 100
        assert train.images.shape == (4, 32, 32, 3)
        assert train.labels.tolist() == [0, 1, 2, 3]
    row = pickle.loads((site / variant.folder / "test").read_bytes())["data"][1]
    np.testing.assert_array_equal(test.images[1], row.reshape(3, 32, 32).transpose(1, 2, 0))


def test_a_file_that_would_run_something_is_refused(small: tuple[Cifar, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Even one with the right MD5."""
    variant, site = small

    class Harm:
        def __reduce__(self) -> object:
            return os.system, ("touch harmed",)

    for content in (pickled({"data": Harm()}), b"cbuiltins\neval\n(S'1'\ntR.", b"cnumpy.core.multiarray\nfromfile\n."):
        (site / variant.folder / "test").write_bytes(content)
        changed = replace(variant, test=(("test", hashlib.md5(content).hexdigest()),))
        monkeypatch.setattr(cifar, "VARIANTS", (changed,))
        with pytest.raises(MnvError, match="has no place among pictures"):
            datasets.load_test(site, Pixels(32))


@pytest.fixture
def server(small: tuple[Cifar, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A real server of the small archive; the paths that were asked for."""
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            asked.append(self.path)

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=small[1])) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        monkeypatch.setattr(cifar, "SITE", f"http://127.0.0.1:{http.server_port}/")
        yield asked
        http.shutdown()
        thread.join()


def test_a_download_is_whole_or_not_there(
    small: tuple[Cifar, Path], server: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    variant, site = small
    target = tmp_path / "new" / "data"
    assert variant.download(target) == target / variant.folder
    assert sorted(path.name for path in target.rglob("*")) == [variant.folder, "meta", "test", "train"]
    assert capsys.readouterr().err.endswith("100 %\n")
    assert len(server) == 1
    assert len(datasets.load(target, Pixels(32))[0]) == 4
    archive = site / variant.archive
    archive.write_bytes(archive.read_bytes()[:-9])
    with pytest.raises(MnvError, match="is damaged: its MD5 is"):
        variant.download(tmp_path / "other")
    archive.unlink()
    with pytest.raises(MnvError, match=r"cannot be fetched from .*404"):
        variant.download(tmp_path / "other")
    assert not list((tmp_path / "other").iterdir())


def test_an_archive_that_is_there_is_unpacked_without_a_network(
    small: tuple[Cifar, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variant, site = small
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(site / variant.archive, bare)
    monkeypatch.setattr(cifar, "SITE", "http://127.0.0.1:9/")
    with pytest.raises(MnvError, match="is not unpacked; unpack it with: tar"):
        datasets.load(bare, Pixels(32))
    assert variant.download(bare) == bare / variant.folder
    assert len(datasets.load(bare, Pixels(32))[1]) == 2


def test_without_a_network_the_download_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar, "SITE", "http://127.0.0.1:9/")
    monkeypatch.delenv("MNV1_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for load in (lambda: datasets.cifar10("test"), lambda: datasets.load(None, Pixels(32))):
        with pytest.raises(MnvError, match="CIFAR-10 cannot be fetched from") as error:
            load()
        assert "--data" in error.value.hint


# A folder that is named is never downloaded into -------------------------------------------------------------------


@pytest.fixture
def no_download(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(self: Cifar, folder: Path) -> Path:
        raise AssertionError(f"a download into {folder}")

    monkeypatch.setattr(Cifar, "download", download)


@pytest.mark.parametrize("load", [datasets.load, datasets.load_test, datasets.load_train, datasets.load_unseen])
def test_a_folder_that_is_no_data_set_is_refused_and_left_alone(
    load: Callable[..., object], no_download: None, tmp_path: Path
) -> None:
    fill(tmp_path / "pets" / "cat", 3)
    fill(tmp_path / "flat", 2)
    fill(tmp_path / "one" / "cat", 2)
    (tmp_path / "void").mkdir()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("a")
    (tmp_path / "pets.zip").write_bytes(b"PK\3\4")
    before = sorted(tmp_path.rglob("*"))
    for name, message in (
        ("pest", r"There is no folder .*pest; there is .*pets\."),
        ("nothing/at/all", "There is no folder"),
        ("flat", "flat is no data set: it has 2 pictures in no class folder"),
        ("one", r"one is no data set: it has 1 class folder \(cat\)"),
        ("void", "void is no data set: it is empty"),
        ("notes", r"notes is no data set: it has 1 other file \(a.txt\)"),
        ("pets.zip", "is a file, not a folder. Unpack it"),
    ):
        with pytest.raises(MnvError, match=message) as error:
            load(tmp_path / name, Pixels(32))
        assert name == "pets.zip" or "--download" in error.value.hint
    with pytest.raises(MnvError, match="is an address"):
        load("https://example.com/pets.zip", Pixels(32))
    assert sorted(tmp_path.rglob("*")) == before


def test_the_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_download: None) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    for name in ("cat", "dog"):
        fill(tmp_path / "pets" / name, 5)
    assert datasets.load("~/pets", Pixels(32))[0].classes == ("cat", "dog")


def test_a_variable_that_names_a_folder_without_cifar10_is_refused(no_download: None) -> None:
    with pytest.raises(MnvError, match=r"CIFAR-10 is not in .*, which MNV1_DATA names") as error:
        datasets.load(None, Pixels(32))
    assert "--download" in error.value.hint
    assert not list(datasets.data_folder().iterdir())


def test_cifar10_is_fetched_where_nothing_or_download_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cifar10_folder: Path
) -> None:
    inner = CIFAR10.folder_of(cifar10_folder)
    fetched: list[Path] = []

    def download(self: Cifar, folder: Path) -> Path:
        fetched.append(folder)
        folder.mkdir(parents=True)
        (folder / self.folder).symlink_to(inner)
        return folder / self.folder

    monkeypatch.setattr(Cifar, "download", download)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for _ in range(2):
        assert len(datasets.load_test(None, Pixels(32), download=tmp_path / "named")) == 10_000
    monkeypatch.delenv("MNV1_DATA")
    for _ in range(2):
        assert len(datasets.load_test(None, Pixels(32))) == 10_000
    assert fetched == [tmp_path / "named", tmp_path / "cache" / "mnv1deploy"]
    with pytest.raises(MnvError, match="--download a folder to fetch them into"):
        datasets.load_test(tmp_path, Pixels(32), download=tmp_path)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["cifar-10-batches-bin/test_batch.bin"], "is CIFAR-10's binary version; what is read is the Python version"),
        (["test_batch.bin", "data_batch_1.bin"], "is CIFAR-10's binary version"),
        (["cifar-10-batches-mat/test_batch.mat"], "is CIFAR-10's Matlab version"),
        (["cifar-100-binary/test.bin"], "is CIFAR-100's binary version"),
        (["cifar-10-python.tar.gz"], r"cifar-10-python\.tar\.gz is damaged: its MD5"),
        (["cifar-10-batches-py/data_batch_1"], "CIFAR-10 in .* is not whole: it lacks data_batch_2"),
        (["cifar-100-python/train"], "CIFAR-100 in .* is not whole: it lacks test, meta"),
        (["cifar-10-batches-py/data_batch_1", "cifar-100-python/train"], "has CIFAR-10 and CIFAR-100"),
    ],
)
def test_other_forms_of_cifar_are_called_by_name(
    files: list[str], message: str, tmp_path: Path, no_download: None
) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"\x80\3")
    with pytest.raises(MnvError, match=message):
        datasets.load(tmp_path, Pixels(32))


def test_a_folder_with_cifar10_and_classes_is_not_guessed(class_folders: Path, cifar10_folder: Path) -> None:
    """As an older release left a folder into which it had downloaded by mistake."""
    (class_folders / datasets.CIFAR10_FOLDER).symlink_to(CIFAR10.folder_of(cifar10_folder))
    with pytest.raises(MnvError, match="has CIFAR-10 and folders of pictures"):
        datasets.load_test(class_folders, Pixels(32))
    assert len(datasets.load_test(class_folders / datasets.CIFAR10_FOLDER, Pixels(32))) == 10_000


# Folders -----------------------------------------------------------------------------------------------------------


def fill(folder: Path, count: int, *, size: tuple[int, int] = (40, 40), suffix: str = ".png", seed: int = 0) -> None:
    folder.mkdir(parents=True)
    rng = np.random.default_rng([*folder.name.encode(), seed][: None if seed else -1])
    for number in range(count):
        pixels = rng.integers(0, 256, (*size, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}{suffix}")


@pytest.mark.parametrize("test_name", ["test", "val"])
def test_folders_with_train_and_test(test_name: str, tmp_path: Path) -> None:
    for part, count in (("train", 5), (test_name, 2)):
        fill(tmp_path / part / "dog", count)
        fill(tmp_path / part / "cat", count + 1, size=(50, 90), suffix=".jpg")
    fill(tmp_path / "train" / "emu", 1)
    (tmp_path / "train" / ".cache").mkdir()
    train, test = datasets.load(tmp_path, Pixels(32))
    assert train.classes == test.classes == ("cat", "dog", "emu")
    assert np.bincount(train.labels).tolist() == [6, 5, 1]
    assert np.bincount(test.labels).tolist() == [3, 2]
    assert train.images.shape == (12, 32, 32, 3)
    assert train.name != test.name


def test_one_level_is_split_by_seed(tmp_path: Path) -> None:
    for name in ("b", "a"):
        fill(tmp_path / name, 20)
    train, test = datasets.load(tmp_path, Pixels(32), seed=3)
    again = datasets.load(tmp_path, Pixels(32), seed=3)
    other = datasets.load(tmp_path, Pixels(32), seed=4)
    assert np.bincount(train.labels).tolist() == [16, 16]
    assert np.bincount(test.labels).tolist() == [4, 4]
    np.testing.assert_array_equal(train.images, again[0].images)
    assert not np.array_equal(test.images, other[1].images)
    together = {image.tobytes() for image in np.concatenate([train.images, test.images])}
    assert len(together) == 40


def test_class_folders_without_a_picture_are_all_named(tmp_path: Path) -> None:
    fill(tmp_path / "only", 3)
    fill(tmp_path / "other", 3)
    (tmp_path / "empty").mkdir()
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "._1.png").write_bytes(b"")
    with pytest.raises(MnvError, match="class folders without a picture: empty, hidden") as error:
        datasets.load(tmp_path, Pixels(32))
    assert "remove them" in error.value.hint


def test_a_class_with_one_picture_is_trained_and_not_tested(tmp_path: Path) -> None:
    fill(tmp_path / "many", 10)
    fill(tmp_path / "single", 1)
    train, test = datasets.load(tmp_path, Pixels(32))
    assert np.bincount(train.labels, minlength=2).tolist() == [8, 1]
    assert np.bincount(test.labels, minlength=2).tolist() == [2, 0]
    shutil.rmtree(tmp_path / "many")
    fill(tmp_path / "another", 1)
    with pytest.raises(MnvError, match="one picture of every class"):
        datasets.load(tmp_path, Pixels(32))


def test_unreadable_pictures_are_all_named_or_left_out_and_counted(tmp_path: Path) -> None:
    root = tmp_path / "pets"
    for name in ("cat", "dog"):
        fill(root / name, 10)
    bad = [root / "cat" / f"{number}.png" for number in range(5)]
    for path in bad:
        path.write_bytes(b"<html>")
    with pytest.raises(MnvError, match="5 pictures cannot be read") as error:
        datasets.load(root, Pixels(32))
    assert all(str(path) in error.value.message for path in bad)
    assert "--skip-unreadable" in error.value.hint
    train, test = datasets.load(root, Pixels(32), skip_unreadable=True)
    assert len(train) + len(test) == 15
    left_out = 0
    for part, whole in ((train, 16), (test, 4)):
        missing = whole - len(part)
        left_out += missing
        assert len(part.labels) == len(part.images)
        assert part.name.endswith(f", {missing} unreadable left out") or not missing
    assert left_out == 5
    assert len(datasets.load_train(root, Pixels(32), skip_unreadable=True)) == len(train)
    for path in (root / "dog").iterdir():
        path.write_bytes(b"")
    with pytest.raises(MnvError, match="no picture that can be read of: dog"):
        datasets.load_train(root, Pixels(32), skip_unreadable=True)


# Parts -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train", "test"),
        ("train", "val"),
        ("Train", "Test"),
        ("TRAIN", "VAL"),
        ("train", "valid"),
        ("train", "validation"),
        ("Training", "Validation"),
        ("train", "dev"),
        ("training", "testing"),
        ("training_set", "test_set"),
        ("training_set/training_set", "test_set/test_set"),
        ("trainingSet", "testSet"),
        ("trainset", "testset"),
        ("train images", "test images"),
        ("train/images", "test/images"),
        ("train", "eval"),
        ("seg_train/seg_train", "seg_test/seg_test"),
        ("train2017", "val2017"),
        ("Pets-train", "Pets-test"),
    ],
)
def test_the_usual_names_of_parts(train: str, test: str, tmp_path: Path) -> None:
    for part, count in ((train, 3), (test, 2)):
        for name in ("cat", "dog"):
            fill(tmp_path / part / name, count)
    for root in (tmp_path, tmp_path.parent / f"{tmp_path.name} wrapped"):
        if root != tmp_path:
            (root / "inner").mkdir(parents=True)
            for path in list(tmp_path.iterdir()):
                path.rename(root / "inner" / path.name)
        found = datasets.load(root, Pixels(32))
        for part, dataset, count in zip((train, test), found, (6, 4), strict=True):
            assert dataset.classes == ("cat", "dog")
            assert len(dataset) == count
            assert dataset.name.endswith(part)


def test_three_parts(tmp_path: Path) -> None:
    """The validation part is for choosing settings, and neither trained on nor tested with."""
    for part, count in (("train", 4), ("valid", 3), ("test", 2)):
        for name in ("cat", "dog"):
            fill(tmp_path / part / name, count, seed=count)
    train, test = datasets.load(tmp_path, Pixels(32))
    unseen = datasets.load_unseen(tmp_path, Pixels(32))
    assert (len(train), len(unseen), len(test)) == (8, 6, 4)
    assert [part.name.split()[-1] for part in (train, unseen, test)] == ["train", "valid", "test"]


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (["train/a", "train/b", "Training/a", "test/a"], "more than one of them may be the same part"),
        (["test/a", "test/b", "val/a"], "none of them is the training part"),
        (["train/a", "train/b", "test/a", "cat"], "beside them cat with pictures"),
        (["train/a", "train/b", "test"], "test has pictures but no class folders"),
        (["train", "test"], "have pictures but no class folders"),
        (["train/a", "train/b", "test/"], "test has no picture"),
        (["dog_train/a", "dog_train/b", "cat_test/a"], "more than one of them may be the same part"),
    ],
)
def test_what_looks_like_parts_and_is_not_clear_is_refused(folders: list[str], message: str, tmp_path: Path) -> None:
    for name in folders:
        (tmp_path / name).mkdir(parents=True) if name.endswith("/") else fill(tmp_path / name, 2)
    with pytest.raises(MnvError, match=message):
        datasets.load(tmp_path, Pixels(32))


def test_classes_may_be_called_like_parts(tmp_path: Path) -> None:
    for name in ("train", "bus", "test tube", "train station"):
        fill(tmp_path / name, 5)
    assert datasets.load(tmp_path, Pixels(32))[0].classes == ("bus", "test tube", "train", "train station")


def test_folders_beside_parts_that_have_no_pictures_are_not_looked_at(tmp_path: Path) -> None:
    for name in ("train/a", "train/b", "test/a"):
        fill(tmp_path / name, 2)
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "a.xml").write_text("<a/>")
    for name in ("train/a", "test/a", "cat"):
        (tmp_path / "__MACOSX" / name).mkdir(parents=True)
        (tmp_path / "__MACOSX" / name / "._0.png").write_bytes(b"")
    assert len(datasets.load(tmp_path, Pixels(32))[0]) == 4


def test_class_names_are_the_same_however_unicode_composes_them(tmp_path: Path) -> None:
    composed, decomposed = "caf\N{LATIN SMALL LETTER E WITH ACUTE}", "cafe\N{COMBINING ACUTE ACCENT}"
    fill(tmp_path / "train" / composed, 3)
    fill(tmp_path / "train" / decomposed, 2)
    fill(tmp_path / "train" / "tea", 2)
    fill(tmp_path / "test" / decomposed, 2)
    train, test = datasets.load(tmp_path, Pixels(32))
    assert train.classes == test.classes == (composed, "tea")
    assert np.bincount(train.labels).tolist() == [5, 2]
    assert np.bincount(test.labels, minlength=2).tolist() == [2, 0]


def test_a_folder_whose_name_is_no_text_is_refused(tmp_path: Path) -> None:
    for name in ("dog", "line\nbreak"):
        fill(tmp_path / "a" / name, 2)
    os.makedirs(os.fsencode(tmp_path / "b") + b"/caf\xe9")
    fill(tmp_path / "b" / "dog", 2)
    for root in ("a", "b"):
        with pytest.raises(MnvError, match=r"is no text, and cannot name a class. Rename"):
            datasets.load(tmp_path / root, Pixels(32))


def test_a_test_class_that_is_not_trained(tmp_path: Path) -> None:
    for name in ("train/a", "train/b", "test/a", "test/c"):
        fill(tmp_path / name, 1)
    with pytest.raises(MnvError, match=r"has classes that .* has not: c"):
        datasets.load(tmp_path, Pixels(32))


@pytest.mark.slow
def test_load_takes_either(cifar10: Path, cifar10_test: Dataset, class_folders: Path) -> None:
    train, test = datasets.load(class_folders, Pixels(48))
    assert train.classes == ("cat", "dog")
    assert train.images.shape[1:] == (48, 48, 3)
    np.testing.assert_array_equal(datasets.load_test(class_folders, Pixels(48)).images, test.images)
    np.testing.assert_array_equal(datasets.load_test(None, Pixels(32)).images, cifar10_test.images)
    np.testing.assert_array_equal(datasets.load_test(cifar10, Pixels(32)).labels, cifar10_test.labels)


def test_the_parts_alone_are_those_of_load_and_the_other_part_is_not_read(class_folders: Path) -> None:
    """Calibration takes the training part, the proof the test part: no picture is in both."""
    train, test = datasets.load(class_folders, Pixels(32))
    together = {picture.tobytes() for picture in np.concatenate([train.images, test.images])}
    assert len(together) == len(train) + len(test) == 80
    for part, alone in ((train, datasets.load_train), (test, datasets.load_test)):
        found = alone(class_folders, Pixels(32))
        np.testing.assert_array_equal(found.images, part.images)
        np.testing.assert_array_equal(found.labels, part.labels)
        assert found.name == part.name
    for name, alone, other in (
        ("test", datasets.load_train, datasets.load_test),
        ("train", datasets.load_test, datasets.load_train),
    ):
        root = class_folders.parent / f"broken {name}"
        for part in ("train", "test"):
            shutil.copytree(class_folders, root / part)
        (root / name / "cat" / "broken.png").write_bytes(b"no")
        assert len(alone(root, Pixels(32))) == 80
        with pytest.raises(MnvError, match=r"broken\.png cannot be read"):
            other(root, Pixels(32))


@pytest.mark.slow
def test_settings_are_never_chosen_by_a_test_part(class_folders: Path, cifar10: Path, cifar10_train: Dataset) -> None:
    unseen = datasets.load_unseen(class_folders, Pixels(32))
    test = {picture.tobytes() for picture in datasets.load_test(class_folders, Pixels(32)).images}
    train = {picture.tobytes() for picture in datasets.load_train(class_folders, Pixels(32)).images}
    chosen = {picture.tobytes() for picture in unseen.images}
    assert chosen <= train
    assert not chosen & test
    assert set(unseen.labels.tolist()) == {0, 1}
    held_out = cifar10_train.split(0.05, 0, ("", ""))[1]
    np.testing.assert_array_equal(datasets.load_unseen(None, Pixels(32)).images, held_out.images)


def test_resizing_a_data_set() -> None:
    sample = datasets.sample().subset(np.arange(5), "five")
    assert datasets.resized(sample, Pixels(32)) is sample
    larger = datasets.resized(sample, Pixels(64))
    assert larger.images.shape == (5, 64, 64, 3)
    assert (larger.labels == sample.labels).all()
    back = datasets.resized(larger, Pixels(32))
    assert np.abs(back.images.astype(int) - sample.images).mean() < 6


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.floats(0, 0.9), st.integers(0, 99))
def test_splitting(labels: list[int], fraction: float, seed: int) -> None:
    count = len(labels)
    pictures = np.arange(count, dtype=np.uint8)[:, None, None, None].repeat(3, 3)
    whole = Dataset("all", pictures, np.array(labels), ("a", "b", "c", "d"))
    first, second = whole.split(fraction, seed, ("first", "second"))
    numbers = [part.images[:, 0, 0, 0].tolist() for part in (first, second)]
    assert sorted(numbers[0] + numbers[1]) == list(range(count))
    for label in range(4):
        members = labels.count(label)
        taken = int((second.labels == label).sum())
        assert taken <= max(members - 1, 0)
        assert abs(taken - fraction * members) <= 1
        assert (taken > 0) == (fraction > 0 and members > 1)
    assert (first.name, second.name) == ("first", "second")


def test_a_class_without_a_test_picture_has_no_accuracy(capsys: pytest.CaptureFixture[str]) -> None:
    pictures = np.zeros((2, 32, 32, 3), np.uint8)
    seen = Dataset("two", pictures, np.array([0, 0]), ("cat", "dog"))
    tables.show_evaluation(Evaluation(seen, np.eye(2, dtype=np.float32)[[0, 0]]))
    shown = capsys.readouterr().out
    assert "nan" not in shown
    assert [line.split()[:2] for line in shown.splitlines() if "dog" in line][-1] == ["dog", "-"]
