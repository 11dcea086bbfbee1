"""AOTInductor packages: what CPU they are for, and what a machine without a compiler is told."""

import json
import platform
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import export

import mnv1deploy as mnv1
from mnv1deploy import bundled, checkpoint, datasets, formats
from mnv1deploy.errors import MnvError


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    network, images = checkpoint.load(bundled.CHECKPOINT).network, datasets.calibration().images
    return export(network, "aoti", "fp32", tmp_path_factory.mktemp("aoti"), images)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="about x86")
def test_it_is_for_any_x86_cpu_with_avx2(file: Path) -> None:
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        facts = json.loads(archive.read(next(n for n in names if n.endswith("wrapper_metadata.json"))))
    assert "AVX2" in facts["AOTI_CPU_ISA"]
    assert "AVX512" not in facts["AOTI_CPU_ISA"]
    assert not any(name.endswith(".cpp") for name in names)


def test_it_runs_where_there_is_only_torch(file: Path) -> None:
    script = (
        "import sys, torch\n"
        "module = torch._inductor.aoti_load_package(sys.argv[1])\n"
        "for count in (1, 40):\n"
        "    logits = module(torch.zeros(count, 32, 32, 3, dtype=torch.uint8))\n"
        "    assert logits.shape == (count, 10) and logits.dtype == torch.float32\n"
        "assert not {'mnv1deploy', 'onnx', 'torchvision'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", script, file], check=True, capture_output=True)


def test_a_machine_without_a_compiler_is_told_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from torch._inductor import config

    monkeypatch.setattr(config.cpp, "cxx", ("no-such-compiler",))
    network = checkpoint.load(bundled.CHECKPOINT).network
    with pytest.raises(MnvError, match=r"needs a C\+\+ compiler"):
        export(network, "aoti", "fp32", tmp_path, datasets.calibration().images)
    assert list(tmp_path.iterdir()) == []


def test_int8_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(MnvError, match="aoti cannot be exported in int8"):
        list(mnv1.export("aoti", "int8", output=tmp_path))


def test_a_package_of_somebody_else_is_refused(tmp_path: Path, file: Path) -> None:
    path = tmp_path / "other.pt2"
    with zipfile.ZipFile(file) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            target.writestr(name, b"{}" if name.endswith("metadata.json") else source.read(name))
    with pytest.raises(MnvError, match="carries no spec"):
        formats.open_session(path)


def test_pictures_are_independent(file: Path) -> None:
    session, images = formats.open_session(file, threads=1), datasets.calibration().images[:40]
    whole = session(images)
    for count in (1, 15, 16, 17):
        np.testing.assert_allclose(session(images[:count]), whole[:count], atol=1e-5)
