"""Data: the real CIFAR-10, what is bundled of it, and folders as users have them."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mnv1deploy import datasets
from mnv1deploy.datasets import Dataset
from mnv1deploy.errors import MnvError
from mnv1deploy.spec import CIFAR10_CLASSES, Pixels

BUNDLED = Path(datasets.__file__).parent / "data"


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


def test_without_a_network_the_download_is_one_sentence(offline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*args: object, **kwargs: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", no_network)
    with pytest.raises(MnvError, match="CIFAR-10 is not in") as error:
        datasets.cifar10("test")
    assert "MNV1_DATA" in error.value.hint


def test_damaged_cifar10_is_refused(cifar10_test: Dataset, tmp_path: Path) -> None:
    folder = tmp_path / datasets.CIFAR10_FOLDER
    shutil.copytree(datasets.data_folder() / datasets.CIFAR10_FOLDER, folder, copy_function=shutil.copyfile)
    batch = folder / "test_batch"
    batch.write_bytes(batch.read_bytes()[:-1])
    with pytest.raises(MnvError, match="is damaged"):
        datasets.cifar10("test", tmp_path)


# Folders -----------------------------------------------------------------------------------------------------------


def fill(folder: Path, count: int, *, size: tuple[int, int] = (40, 40), suffix: str = ".png") -> None:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(list(folder.name.encode()))
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
    train, test = datasets.image_folder(tmp_path, Pixels(32))
    assert train.classes == test.classes == ("cat", "dog", "emu")
    assert np.bincount(train.labels).tolist() == [6, 5, 1]
    assert np.bincount(test.labels).tolist() == [3, 2]
    assert train.images.shape == (12, 32, 32, 3)
    assert train.name != test.name


def test_one_level_is_split_by_seed(tmp_path: Path) -> None:
    for name in ("b", "a"):
        fill(tmp_path / name, 20)
    train, test = datasets.image_folder(tmp_path, Pixels(32), seed=3)
    again = datasets.image_folder(tmp_path, Pixels(32), seed=3)
    other = datasets.image_folder(tmp_path, Pixels(32), seed=4)
    assert np.bincount(train.labels).tolist() == [16, 16]
    assert np.bincount(test.labels).tolist() == [4, 4]
    np.testing.assert_array_equal(train.images, again[0].images)
    assert not np.array_equal(test.images, other[1].images)
    together = {image.tobytes() for image in np.concatenate([train.images, test.images])}
    assert len(together) == 40


def test_folders_that_are_no_data(tmp_path: Path) -> None:
    with pytest.raises(MnvError, match="There is no folder"):
        datasets.image_folder(tmp_path / "none", Pixels(32))
    fill(tmp_path / "only", 3)
    with pytest.raises(MnvError, match="has 1 class folders"):
        datasets.image_folder(tmp_path, Pixels(32))
    (tmp_path / "empty").mkdir()
    with pytest.raises(MnvError, match=r"no picture in the folder .*empty"):
        datasets.image_folder(tmp_path, Pixels(32))
    (tmp_path / "empty" / "broken.png").write_bytes(b"no")
    with pytest.raises(MnvError, match=r"broken\.png cannot be read"):
        datasets.image_folder(tmp_path, Pixels(32))


def test_a_test_class_that_is_not_trained(tmp_path: Path) -> None:
    for name in ("train/a", "train/b", "test/a", "test/c"):
        fill(tmp_path / name, 1)
    with pytest.raises(MnvError, match=r"has classes that .* has not: c"):
        datasets.image_folder(tmp_path, Pixels(32))


def test_load_takes_either(cifar10_test: Dataset, class_folders: Path) -> None:
    train, test = datasets.load(class_folders, Pixels(48))
    assert train.classes == ("cat", "dog")
    assert train.images.shape[1:] == (48, 48, 3)
    np.testing.assert_array_equal(datasets.load_test(class_folders, Pixels(48)).images, test.images)
    np.testing.assert_array_equal(datasets.load_test(None, Pixels(32)).images, cifar10_test.images)
    np.testing.assert_array_equal(datasets.load_test(datasets.data_folder(), Pixels(32)).labels, cifar10_test.labels)


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


def test_settings_are_never_chosen_by_a_test_part(class_folders: Path, cifar10_train: Dataset) -> None:
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
