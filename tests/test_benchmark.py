"""The benchmark: real runs, their bookkeeping, and its refusals. No assertion is about how fast anything is."""

import math
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from mnv1deploy import benchmark, bundled, checkpoint, datasets, formats
from mnv1deploy.artifact import manifest_path
from mnv1deploy.benchmark import COMPILED, PYTORCH, bench
from mnv1deploy.errors import MnvError
from mnv1deploy.formats.base import CPU, CUDA
from mnv1deploy.formats.pytorch import PyTorchFormat
from mnv1deploy.network import MobileNetV1
from mnv1deploy.spec import CIFAR


@pytest.fixture(scope="module")
def run() -> tuple[list[benchmark.Result], int]:
    """One run of two artifacts and PyTorch, two thread counts, two batch sizes, and the slices it told of."""
    told = 0

    def on_slice() -> None:
        nonlocal told
        told += 1

    artifacts = [bundled.INT8, bundled.FP32, PYTORCH]
    results = bench(artifacts, batch_sizes=(1, 3), threads=(1, 2), duration=0.05, on_slice=on_slice)
    return results, told


@pytest.mark.slow
def test_every_contestant_at_every_setting(run: tuple[list[benchmark.Result], int]) -> None:
    results, told = run
    found = {(r.artifact, r.threads, r.batch_size) for r in results}
    names = (bundled.INT8.name, bundled.FP32.name, PYTORCH)
    assert found == {(name, threads, batch) for name in names for threads in (1, 2) for batch in (1, 3)}
    assert told == benchmark.slices(3, 2, 2)
    assert {r.provider for r in results} == {CPU}


@pytest.mark.slow
def test_statistics_are_consistent(run: tuple[list[benchmark.Result], int]) -> None:
    for r in run[0]:
        assert all(math.isfinite(v) for v in asdict(r).values() if isinstance(v, float))
        assert 0 < r.min <= r.p50 <= r.p90 <= r.p99
        assert r.min <= r.mean
        assert r.p50_lowest <= r.p50 <= r.p50_highest
        assert r.images_per_second == pytest.approx(1000 * r.batch_size / r.mean)
        assert r.calls >= benchmark.ROUNDS
        assert r.load > 0
        assert r.peak_memory is None or r.peak_memory > 10


@pytest.mark.slow
def test_ratios_are_to_the_fastest_of_the_same_setting(run: tuple[list[benchmark.Result], int]) -> None:
    for r in run[0]:
        rivals = [o for o in run[0] if (o.batch_size, o.threads) == (r.batch_size, r.threads)]
        assert r.ratio == pytest.approx(r.p50 / min(o.p50 for o in rivals))


@pytest.mark.slow
def test_the_torch_process_is_the_only_one_with_torch_in_it(run: tuple[list[benchmark.Result], int]) -> None:
    """Contestants have processes of their own: onnxruntime's is not as large as torch's."""
    memory = {r.artifact: r.peak_memory for r in run[0]}
    if memory[PYTORCH] is not None:
        assert memory[bundled.INT8.name] < memory[PYTORCH] / 2  # type: ignore[operator]


def test_an_artifact_that_is_not_there() -> None:
    with pytest.raises(MnvError, match="There is no file"):
        bench(["none.onnx"])


def test_a_provider_that_is_not_there_never_becomes_the_cpu() -> None:
    if CUDA in formats.get("onnx").providers():
        assert {r.provider for r in bench([bundled.INT8], provider="cuda", duration=0.05)} == {CUDA}
    else:
        with pytest.raises(MnvError, match=f"{CUDA} is not available.*{CPU}"):
            bench([bundled.INT8], provider="cuda")


def test_a_process_that_dies_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark.sys, "executable", "/bin/false")
    with pytest.raises(MnvError, match="died with exit code 1"):
        bench([bundled.INT8])


# Every artifact there is -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_artifacts_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    assert benchmark.names(["a/net.onnx", "b/net.onnx", "c.onnx"]) == ["a/net.onnx", "b/net.onnx", "c.onnx"]
    assert benchmark.names(["x/a/net.onnx", "y/a/net.onnx"]) == ["x/a/net.onnx", "y/a/net.onnx"]
    assert benchmark.names(["x/a/net.onnx", "y/b/net.onnx"]) == ["a/net.onnx", "b/net.onnx"]
    assert benchmark.names([PYTORCH, "net.onnx", "./net.onnx", "a/../net.onnx"]) == [
        PYTORCH,
        "net.onnx",
        "net.onnx (2)",
        "net.onnx (3)",
    ]
    paths = [tmp_path / folder / "net.onnx" for folder in ("a", "b")]
    for path in paths:
        path.parent.mkdir()
        shutil.copy(bundled.INT8, path)
    assert [result.artifact for result in bench(paths, duration=0.05)] == ["a/net.onnx", "b/net.onnx"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The bundled int8 artifact with its manifest, and others that are not what a manifest stands for."""
    for path in (bundled.INT8, manifest_path(bundled.INT8)):
        shutil.copy(path, tmp_path)
    shutil.copy(bundled.FP32, tmp_path / "loose.onnx")
    (tmp_path / "gone.onnx.json").write_text("{}")
    (tmp_path / "notes.json").write_text("{}")
    return tmp_path


def test_find_goes_by_the_manifests(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    assert benchmark.artifacts_in(folder) == [folder / bundled.INT8.name]
    for empty in (tmp_path_factory.mktemp("empty"), folder / "none"):
        with pytest.raises(MnvError, match="no artifacts with their manifests"):
            benchmark.artifacts_in(empty)


@pytest.mark.slow
def test_what_cannot_be_measured_is_named_and_the_rest_measured(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A damaged file, one of no known format, and one whose engine cannot be imported."""
    (folder / "damaged.onnx").write_bytes(bundled.INT8.read_bytes()[:5000])
    (folder / "net.caffemodel").touch()
    hidden = folder / "hidden"
    hidden.mkdir()
    (hidden / "torch.py").write_text("raise ImportError('there is none')")
    monkeypatch.setenv("PYTHONPATH", str(hidden))
    refused: dict[str, MnvError] = {}
    results = bench(
        [folder / bundled.INT8.name, folder / "damaged.onnx", folder / "net.caffemodel", PYTORCH],
        duration=0.05,
        on_refusal=refused.__setitem__,
    )
    assert [r.artifact for r in results] == [bundled.INT8.name]
    assert results[0].ratio == 1
    assert list(refused) == ["damaged.onnx", "net.caffemodel", PYTORCH]
    for error, reason in zip(refused.values(), ("onnxruntime cannot run", "no known format", "torch"), strict=True):
        assert reason in error.message


def in_workers(monkeypatch: pytest.MonkeyPatch, folder: Path, code: str) -> None:
    """Has every process that is started from now on run ``code`` first."""
    (folder / "sitecustomize.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(folder))


@pytest.mark.slow
def test_an_engine_that_fails_at_one_batch_size_is_in_the_race_at_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "from mnv1deploy.formats.onnx import OnnxSession\n"
        "runner = OnnxSession.runner\n"
        "def picky(self, images, **options):\n"
        "    if len(images) == 2:\n"
        "        raise RuntimeError('one or three\\nand more that nobody reads')\n"
        "    return runner(self, images, **options)\n"
        "OnnxSession.runner = picky\n"
    )
    in_workers(monkeypatch, tmp_path, code)
    refused: dict[str, MnvError] = {}
    results = bench([bundled.INT8], batch_sizes=(2, 3), duration=0.05, on_refusal=refused.__setitem__)
    assert [r.batch_size for r in results] == [3]
    assert refused[bundled.INT8.name].message == "The engine failed: RuntimeError: one or three."
    with pytest.raises(MnvError, match="one or three"):
        bench([bundled.INT8], batch_sizes=(2,))


@pytest.mark.slow
def test_the_compiled_reference(tmp_path: Path) -> None:
    (result,) = bench([COMPILED], threads=(1,), duration=0.05)
    assert (result.artifact, result.provider) == (COMPILED, CPU)
    # torch takes a second for every layer
    path = tmp_path / "small.safetensors"
    checkpoint.save(path, MobileNetV1(CIFAR.replace(blocks=CIFAR.blocks[:1])).eval(), training={})
    images = datasets.calibration().images[:1]
    compiled = PyTorchFormat().open_compiled(path, provider=CPU, threads=1)
    np.testing.assert_allclose(compiled(images), formats.open_session(path)(images), atol=1e-4)


# The time per operator ---------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("artifact", [bundled.INT8, bundled.FP32, PYTORCH], ids=str)
def test_a_profile_has_every_layer(artifact: str | Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "PROFILED_CALLS", 20)
    (profile,) = benchmark.profile([artifact], threads=1, batch_size=2)
    assert (profile.provider, profile.batch_size) == (CPU, 2)
    names = [operator.name for operator in profile.operators]
    layers = [layer.name for layer in CIFAR.layers()]
    assert [name for name in names if name in layers] == layers
    assert all(0 < operator.mean < 1000 for operator in profile.operators)
    assert sum("conv" in operator.kind.lower() for operator in profile.operators) == 17


def test_an_engine_without_a_profiler_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_workers(monkeypatch, tmp_path, "from mnv1deploy.formats.onnx import OnnxSession\ndel OnnxSession.profile\n")
    with pytest.raises(MnvError, match=r"\.onnx cannot be profiled"):
        benchmark.profile([bundled.INT8])
