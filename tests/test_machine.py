"""What a process may use of its machine."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from mnv1deploy import machine
from mnv1deploy.errors import MnvError
from mnv1deploy.machine import _quota, check_threads, processors


def group(root: Path, path: str, limit: str) -> None:
    """A control group of version 2."""
    (root / path).mkdir(parents=True, exist_ok=True)
    (root / path / "cpu.max").write_text(f"{limit}\n")


def test_affinity_is_heeded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_quota", lambda: float("inf"))
    monkeypatch.setattr(os, "process_cpu_count", lambda: 8, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 3, 5}, raising=False)
    assert processors() == 3
    monkeypatch.setattr(os, "process_cpu_count", lambda: None, raising=False)
    assert processors() == 1


@pytest.mark.parametrize(("quota", "expected"), [(0.5, 1), (1.0, 1), (1.5, 2), (3.2, 4), (64.0, 4)])
def test_a_quota_is_rounded_up(monkeypatch: pytest.MonkeyPatch, quota: float, expected: int) -> None:
    monkeypatch.setattr(machine, "_quota", lambda: quota)
    monkeypatch.setattr(os, "process_cpu_count", lambda: 4, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3}, raising=False)
    assert processors() == expected


def test_the_tightest_control_group_counts(tmp_path: Path) -> None:
    group(tmp_path, ".", "max 100000")
    group(tmp_path, "a", "150000 100000")
    group(tmp_path, "a/b", "max 100000")
    membership = tmp_path / "membership"
    membership.write_text("0::/a/b\n")
    assert _quota(tmp_path, membership) == 1.5
    group(tmp_path, "a/b", "20000 100000")
    assert _quota(tmp_path, membership) == 0.2
    membership.write_text("0::/elsewhere\n")
    assert _quota(tmp_path, membership) == float("inf")
    assert _quota(tmp_path, tmp_path / "none") == float("inf")


def test_control_groups_of_version_1(tmp_path: Path) -> None:
    (tmp_path / "cpu" / "a").mkdir(parents=True)
    membership = tmp_path / "membership"
    membership.write_text("3:memory:/a\n2:cpu,cpuacct:/a\n")
    for quota, expected in (("-1", float("inf")), ("250000", 2.5)):
        (tmp_path / "cpu" / "a" / "cpu.cfs_quota_us").write_text(quota)
        (tmp_path / "cpu" / "a" / "cpu.cfs_period_us").write_text("100000")
        assert _quota(tmp_path, membership) == expected


def test_numbers_of_threads() -> None:
    assert machine.threads("auto") is machine.threads("AUTO") is None
    assert machine.threads("2") == 2
    check_threads(None)
    check_threads(1)
    for text in ("0", "-1", "two", "", "1.5", "²"):
        with pytest.raises(MnvError, match="no whole number"):
            machine.threads(text)
    for number in (0, -3, 1000):
        with pytest.raises(MnvError, match="threads"):
            check_threads(number)


def test_patient_threads_leave_the_environment_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KMP_BLOCKTIME", raising=False)
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    with machine.patient_threads():
        assert os.environ["KMP_BLOCKTIME"] == "0"
        assert os.environ["OMP_WAIT_POLICY"] == "active"
    assert "KMP_BLOCKTIME" not in os.environ
    assert os.environ["OMP_WAIT_POLICY"] == "active"


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="about glibc")
def test_memory_freed_in_one_step_serves_the_next() -> None:
    """In a process of its own: what is asked of the allocator stays so. The first few may each need new memory."""
    script = (
        "import resource, torch\n"
        "from mnv1deploy import machine\n"
        "def faults():\n"
        "    for _ in range(20): torch.ones(8 << 20)\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    for _ in range(5): torch.ones(8 << 20)\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before\n"
        "given_back = faults()\n"
        "machine.keep_freed_memory()\n"
        "kept = faults()\n"
        "assert kept < given_back / 10, (kept, given_back)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
