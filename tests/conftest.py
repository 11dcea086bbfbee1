"""What all tests share: the real CIFAR-10, the bundled checkpoint, and no skips where CI is set."""

import copy
import gc
import hashlib
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from mnv1deploy import bundled, checkpoint, datasets, formats, machine, quantization, verification
from mnv1deploy.artifact import Manifest, Precision, Provenance, hashes
from mnv1deploy.files import staged
from mnv1deploy.formats.base import Session
from mnv1deploy.formats.shared import SharedSession
from mnv1deploy.formats.torch_session import TorchSession
from mnv1deploy.network import MobileNetV1
from mnv1deploy.quantization import DEFAULT, Quantization, Scheme, quantize

ROOT = Path(__file__).parent.parent

DATA = "MNV1_TEST_DATA"
"""The variable that tells the processes of a test run where CIFAR-10 is."""

SHARED = "MNV1_TEST_SHARED"
"""The variable that names the folder which the processes of a test run share."""


def pytest_configure(config: pytest.Config) -> None:
    """The first process makes the folder, and its workers inherit the variables.

    Tests run as on a machine that has no CIFAR-10, but for those that ask for it: 10,000 pictures take their time.
    """
    machine.keep_freed_memory()
    if not hasattr(config, "workerinput"):
        folder = tempfile.mkdtemp(prefix="mnv1-tests-")
        os.environ[SHARED] = folder
        os.environ[DATA] = os.environ.get(datasets.DATA_VARIABLE, str(ROOT.parent / "shared" / "cifar10"))
        os.environ[datasets.DATA_VARIABLE] = f"{folder}/nothing"
        Path(folder, "nothing").mkdir()
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--gpu`` runs the tests that need an NVIDIA GPU, and they alone."""
    parser.addoption("--gpu", action="store_true", help="run the tests that need an NVIDIA GPU, and no others")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests for a GPU are no part of a run without one."""
    wanted = bool(config.getoption("--gpu"))
    chosen = [item for item in items if (item.get_closest_marker("gpu") is not None) == wanted]
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = chosen


def pytest_collection_finish() -> None:
    """What is imported by now stays, and is not gone through again at every collection of garbage."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    """Engines count what they left behind at the end."""
    gc.unfreeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Where CI is set, a skipped test is a failed one."""
    report = yield
    if report.skipped and os.environ.get("CI") == "true" and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def cifar10_folder() -> Path:
    """Where the real CIFAR-10 is."""
    if not datasets.has_cifar10(os.environ[DATA]):
        pytest.skip(f"CIFAR-10 is not in {os.environ[DATA]}; set {datasets.DATA_VARIABLE}")
    return Path(os.environ[DATA])


@pytest.fixture(scope="session")
def cifar10_test(cifar10_folder: Path) -> datasets.Dataset:
    """The 10,000 real test images."""
    return datasets.cifar10("test", cifar10_folder)


@pytest.fixture(scope="session")
def cifar10_train(cifar10_folder: Path) -> datasets.Dataset:
    """The 50,000 real training images."""
    return datasets.cifar10("train", cifar10_folder)


@pytest.fixture
def cifar10(cifar10_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine that has CIFAR-10, in this folder."""
    monkeypatch.setenv(datasets.DATA_VARIABLE, str(cifar10_folder))
    return cifar10_folder


@pytest.fixture(scope="session")
def folded() -> MobileNetV1:
    """The bundled network with its batch normalisations folded; not to be changed."""
    return checkpoint.load(bundled.CHECKPOINT).network.folded()


@pytest.fixture(scope="session")
def integers(folded: MobileNetV1) -> Quantization:
    """It quantised as an export does it; not to be changed."""
    return quantized(folded, datasets.calibration().images)


def shared(key: str, make: Callable[[Path], object]) -> Path:
    """A folder of this whole test run's, all its processes', filled by whichever comes first; not to be changed."""
    folder = Path(os.environ[SHARED]) / hashlib.sha256(key.encode()).hexdigest()
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
                made = Path(temporary) / "made"
                made.mkdir()
                make(made)
                made.rename(folder)
    return folder


def _fingerprint(network: MobileNetV1, *more: object) -> str:
    weights = b"".join(tensor.numpy().tobytes() for tensor in network.state_dict().values())
    parts = [hashlib.sha256(part.tobytes()).hexdigest() if isinstance(part, np.ndarray) else str(part) for part in more]
    return "|".join([network.spec.to_json(), hashlib.sha256(weights).hexdigest(), *parts])


@cache
def _read_quantization(file: Path) -> Quantization:
    found: Quantization = pickle.loads(file.read_bytes())
    return found


def quantized(network: MobileNetV1, images: np.ndarray, scheme: Scheme = DEFAULT) -> Quantization:
    """quantize of a folded network, once for the same weights, pictures and scheme; not to be changed."""

    def make(folder: Path) -> None:
        (folder / "quantization").write_bytes(pickle.dumps(quantize(network, images, "test", scheme)))

    return _read_quantization(shared(_fingerprint(network, "quantized", images, scheme), make) / "quantization")


@pytest.fixture(scope="module")
def compiled_once() -> Iterator[None]:
    """Generated C is compiled once in a run, and never found compiled by an earlier one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", f"{os.environ[SHARED]}/cache")
        yield


@pytest.fixture
def unoptimised(monkeypatch: pytest.MonkeyPatch) -> None:
    """Generated C is compiled without optimising, which changes no bit and takes a third of the time."""
    from mnv1deploy.formats import c

    monkeypatch.setattr(c, "FLAGS", tuple("-O0" if flag == "-O3" else flag for flag in c.FLAGS))


def quantize_once(network: MobileNetV1, images: np.ndarray, source: str, scheme: Scheme = DEFAULT) -> Quantization:
    """Has the arguments of quantize and its result, from :func:`quantized`."""
    found = copy.deepcopy(quantized(network, images, scheme))
    return replace(found, facts={**found.facts, "calibration": source})


COMPILED = ("aoti", "coreml", "executorch")
"""Formats that take up to half a minute to write."""

find_format = formats.get


def format_that_writes_once(name: str) -> formats.Format:
    """Has the argument of formats.get and its result; one of COMPILED is written once for the same network.

    What such a file says of its checkpoint, pictures and packages is what :func:`export_anew` says.
    """
    entry = find_format(name)
    if name not in COMPILED:
        return entry

    def write(network: MobileNetV1, path: Path, provenance: Provenance, quantization: Quantization | None) -> None:
        if name == "executorch":
            look_for_no_patterns()
        said = unsaid(provenance)
        key = _fingerprint(network, "written", said.to_json(), quantization and quantization.activations)
        anew, file = type(entry).export, f"network{entry.suffix}"
        made = shared(key, lambda folder: anew(entry, network, folder / file, said, quantization)) / file
        (shutil.copytree if made.is_dir() else shutil.copy)(made, path)

    entry.export = write  # type: ignore[method-assign]
    return entry


@cache
def look_for_no_patterns() -> None:
    """ExecuTorch takes 9 s of every process to make the graphs it then looks for, which no MobileNetV1 has.

    They are of resizing and attention. That the bytes are the same without is held by the table of hashes.
    """
    from executorch.backends.xnnpack.partition.graphs import bilinear_2d, sdpa

    bilinear_2d.get_graphs_dict = dict
    sdpa.get_graphs = list


def unsaid(provenance: Provenance) -> Provenance:
    """Without what is not the network's: of which checkpoint, pictures and packages it is."""
    facts = provenance.quantization and {**provenance.quantization, "calibration": "test"}
    return replace(provenance, checkpoint_sha256="0" * 64, checkpoint_accuracy=(), quantization=facts, versions={})


compute_logits = verification.logits


def logits_once(
    session: Session, images: np.ndarray, on_batch: Callable[[int], None] = lambda count: None
) -> np.ndarray:
    """Has the arguments of verification.logits and its result, computed once for what takes long.

    That are Micro's kernels, 10 ms a picture, and checkpoints, with which every export is compared.
    """
    if isinstance(session, SharedSession) and session.path.name.endswith(find_format("tflm").suffix):
        key = hashlib.sha256(session.path.read_bytes()).hexdigest()
    elif isinstance(session, TorchSession) and isinstance(session._module, MobileNetV1) and session._device == "cpu":
        key = _fingerprint(session._module)
    else:
        return compute_logits(session, images, on_batch)

    def make(folder: Path) -> None:
        np.save(folder / "logits.npy", compute_logits(session, images))

    pictures = hashlib.sha256(images.tobytes()).hexdigest()
    found: np.ndarray = np.load(shared("|".join(["logits", key, pictures]), make) / "logits.npy")
    on_batch(len(images))
    return found


def share_exports(patch: pytest.MonkeyPatch) -> None:
    """What this process exports, and proves, takes what the processes of a test run share."""
    patch.setattr(quantization, "quantize", quantize_once)
    patch.setattr(formats, "get", format_that_writes_once)
    patch.setattr(verification, "logits", logits_once)


@pytest.fixture(autouse=True, scope="session")
def exports_share() -> Iterator[None]:
    """What is exported in these processes."""
    with pytest.MonkeyPatch.context() as patch:
        share_exports(patch)
        yield


def export_anew(
    network: MobileNetV1,
    name: str,
    precision: Precision,
    folder: Path,
    images: np.ndarray,
    scheme: Scheme = DEFAULT,
    find: Callable[[str], formats.Format] = find_format,
) -> Path:
    """Folds, quantises and exports a network, with a manifest but without the proof."""
    entry = find(name)
    folded = network.folded()
    integers = copy.deepcopy(quantized(folded, images, scheme)) if precision == "int8" else None
    provenance = Provenance(name, precision, network.spec, "0" * 64, (), integers.facts if integers else None, {})
    path = folder / f"net_{precision}{entry.suffix}"
    with staged(folder) as temporary:
        entry.export(
            integers.network if integers else copy.deepcopy(folded), temporary / path.name, provenance, integers
        )
        Manifest(provenance, hashes(temporary), None).write(temporary / path.name)
    return path


def export(
    network: MobileNetV1, name: str, precision: Precision, folder: Path, images: np.ndarray, scheme: Scheme = DEFAULT
) -> Path:
    """As export_anew, once for the same weights, pictures and scheme: ``folder`` gets a copy of its own."""
    key = _fingerprint(network, name, precision, *([images, scheme] if precision == "int8" else []))
    find = format_that_writes_once
    made = shared(key, lambda place: export_anew(network, name, precision, place, images, scheme, find))
    shutil.copytree(made, folder, dirs_exist_ok=True)
    return folder / f"net_{precision}{formats.get(name).suffix}"


def differences(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Of logits, in standard deviations of the expected ones: how large logits are differs between checkpoints."""
    return np.abs(found - expected) / expected.std()


def label_without(modules: tuple[str, ...], artifact: Path) -> str:
    """The label of the first calibration picture, predicted in a process that cannot import these modules."""
    script = (
        "import sys\n"
        f"for module in {modules!r}: sys.modules[module] = None\n"
        "from mnv1deploy import classifier, datasets\n"
        "print(classifier.load(sys.argv[1]).predict(datasets.calibration().images[0]).label)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, artifact], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def run_silently(script: str, artifact: Path) -> None:
    """Runs Python code, the artifact its argument, in a process of its own, which succeeds without a warning."""
    done = subprocess.run([sys.executable, "-c", script, artifact], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def write_class_folders(root: Path, labels: tuple[int, ...]) -> Path:
    """Real pictures as a user has them: 40 of each of these CIFAR-10 classes, ``<class>/<n>.png``."""
    from PIL import Image

    pictures = datasets.calibration()
    for label in labels:
        name = pictures.classes[label]
        (root / name).mkdir(parents=True)
        for number, index in enumerate(np.flatnonzero(pictures.labels == label)[:40]):
            Image.fromarray(pictures.images[index]).save(root / name / f"{number}.png")
    return root


@pytest.fixture
def class_folders(tmp_path: Path) -> Path:
    """A folder called pets with cats and dogs."""
    return write_class_folders(tmp_path / "pets", (3, 5))
