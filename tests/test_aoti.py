"""AOTInductor packages: what CPU they are for, and what a machine without a compiler is told."""

import json
import os
import platform
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import differences, export, export_anew

from mnv1deploy import bundled, checkpoint, datasets, formats
from mnv1deploy.errors import MnvError

pytestmark = pytest.mark.slow

PRECISIONS = formats.get("aoti").precisions

on_x86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="about x86")


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    network, images = checkpoint.load(bundled.CHECKPOINT).network, datasets.calibration().images
    folder = tmp_path_factory.mktemp("aoti")
    return {precision: export(network, "aoti", precision, folder, images) for precision in PRECISIONS}


@pytest.fixture(params=PRECISIONS)
def file(request: pytest.FixtureRequest, artifacts: dict[str, Path]) -> Path:
    return artifacts[request.param]


@on_x86
def test_it_is_for_any_x86_cpu_with_avx2(file: Path) -> None:
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        facts = json.loads(archive.read(next(n for n in names if n.endswith("wrapper_metadata.json"))))
    assert "AVX2" in facts["AOTI_CPU_ISA"]
    assert "AVX512" not in facts["AOTI_CPU_ISA"]
    assert not any(name.endswith(".cpp") for name in names)


def test_it_runs_where_there_is_only_torch(artifacts: dict[str, Path]) -> None:
    script = (
        "import sys, torch\n"
        "for file in sys.argv[1:]:\n"
        "    module = torch._inductor.aoti_load_package(file)\n"
        "    for count in (1, 40):\n"
        "        logits = module(torch.zeros(count, 32, 32, 3, dtype=torch.uint8))\n"
        "        assert logits.shape == (count, 10) and logits.dtype == torch.float32\n"
        "assert not {'mnv1deploy', 'onnx', 'torchvision'} & set(sys.modules)\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", script, *artifacts.values()]
    subprocess.run(command, check=True, capture_output=True)


def test_a_package_for_another_device_is_refused(file: Path, tmp_path: Path) -> None:
    other = tmp_path / file.name
    with zipfile.ZipFile(file) as source, zipfile.ZipFile(other, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name.endswith("wrapper_metadata.json"):
                facts = json.loads(content)
                assert facts["AOTI_DEVICE_KEY"] == "cpu"
                content = json.dumps({**facts, "AOTI_DEVICE_KEY": "cuda"}).encode()
            target.writestr(name, content)
    with pytest.raises(MnvError, match="CPUExecutionProvider is not available") as caught:
        formats.open_session(other)
    assert "compiled for cuda" in caught.value.hint


def test_a_machine_without_a_compiler_is_told_so(tmp_path: Path) -> None:
    from torch._inductor import config

    network = checkpoint.load(bundled.CHECKPOINT).network
    with config.patch({"cpp.cxx": ("no-such-compiler",)}), pytest.raises(MnvError, match=r"needs a C\+\+ compiler"):
        export_anew(network, "aoti", "fp32", tmp_path, datasets.calibration().images)
    assert list(tmp_path.iterdir()) == []


@on_x86
def test_int8_computes_in_integers(artifacts: dict[str, Path]) -> None:
    with zipfile.ZipFile(artifacts["int8"]) as archive:
        library = next(archive.read(name) for name in archive.namelist() if name.endswith(".so"))
    called = set(re.findall(rb"aoti_torch_cpu_\w*conv\w*", library))
    assert called and all(b"qconv" in name for name in called)


@on_x86
@pytest.mark.parametrize("limit", ["AVX2", *["AVX512_CORE"] * torch.cpu._is_avx512_supported()])
def test_int8_packed_for_this_cpu_answers_the_same_with_older_instructions(
    artifacts: dict[str, Path], tmp_path: Path, limit: str
) -> None:
    script = (
        "import sys, numpy as np\n"
        "from mnv1deploy import datasets, formats\n"
        "np.save(sys.argv[2], formats.open_session(sys.argv[1], threads=1)(datasets.calibration().images[:100]))\n"
    )
    path = tmp_path / "logits.npy"
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, artifacts["int8"], path],
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": limit},
        check=True,
        capture_output=True,
    )
    here = formats.open_session(artifacts["int8"], threads=1)(datasets.calibration().images[:100])
    assert differences(np.load(path), here).max() < 0.08  # a rounding may fall the other way
