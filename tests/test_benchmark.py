"""The benchmark: real runs, their bookkeeping, and its refusals. No assertion is about how fast anything is."""

import math
from dataclasses import asdict

import pytest

from mnv1deploy import benchmark, bundled
from mnv1deploy.benchmark import PYTORCH, bench
from mnv1deploy.errors import MnvError
from mnv1deploy.formats.base import CPU, CUDA


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


def test_every_contestant_at_every_setting(run: tuple[list[benchmark.Result], int]) -> None:
    results, told = run
    found = {(r.artifact, r.threads, r.batch_size) for r in results}
    names = (bundled.INT8.name, bundled.FP32.name, PYTORCH)
    assert found == {(name, threads, batch) for name in names for threads in (1, 2) for batch in (1, 3)}
    assert told == benchmark.slices(3, 2, 2)
    assert {r.provider for r in results} == {CPU}


def test_statistics_are_consistent(run: tuple[list[benchmark.Result], int]) -> None:
    for r in run[0]:
        assert all(math.isfinite(v) for v in asdict(r).values() if isinstance(v, float))
        assert 0 < r.min <= r.p50 <= r.p90 <= r.p99
        assert r.min <= r.mean
        assert r.p50_lowest <= r.p50 <= r.p50_highest
        assert r.images_per_second == pytest.approx(1000 * r.batch_size / r.mean)
        assert r.calls >= 3 * benchmark.ROUNDS
        assert r.load > 0
        assert r.peak_memory is None or r.peak_memory > 10


def test_ratios_are_to_the_fastest_of_the_same_setting(run: tuple[list[benchmark.Result], int]) -> None:
    for r in run[0]:
        rivals = [o for o in run[0] if (o.batch_size, o.threads) == (r.batch_size, r.threads)]
        assert r.ratio == pytest.approx(r.p50 / min(o.p50 for o in rivals))


def test_the_torch_process_is_the_only_one_with_torch_in_it(run: tuple[list[benchmark.Result], int]) -> None:
    """Contestants have processes of their own: onnxruntime's is not as large as torch's."""
    memory = {r.artifact: r.peak_memory for r in run[0]}
    if memory[PYTORCH] is not None:
        assert memory[bundled.INT8.name] < memory[PYTORCH] / 2  # type: ignore[operator]


def test_an_artifact_that_is_not_there() -> None:
    with pytest.raises(MnvError, match="There is no file"):
        bench(["none.onnx"])


def test_a_provider_that_is_not_there_never_becomes_the_cpu() -> None:
    from mnv1deploy import formats

    if CUDA in formats.get("onnx").providers():
        assert {r.provider for r in bench([bundled.INT8], provider="cuda", duration=0.05)} == {CUDA}
    else:
        with pytest.raises(MnvError, match=f"{CUDA} is not available.*{CPU}"):
            bench([bundled.INT8], provider="cuda")


def test_a_process_that_dies_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark.sys, "executable", "/bin/false")
    with pytest.raises(MnvError, match="died with exit code 1"):
        bench([bundled.INT8])
