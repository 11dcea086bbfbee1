"""The generated C: the same integers as onnxruntime, on every instruction set, clean under every checker."""

import copy
import dataclasses
import itertools
import os
import platform
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from c_tracing import EMULATED_AMX, TracedC, TracedOnnx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from mnv1deploy import datasets, formats
from mnv1deploy.artifact import Provenance
from mnv1deploy.c import generate
from mnv1deploy.c.plan import pairs, plan
from mnv1deploy.errors import MnvError
from mnv1deploy.formats.c import BACKEND_VARIABLE, BACKENDS, CSession
from mnv1deploy.network import MobileNetV1
from mnv1deploy.quantization import Quantization, quantize
from mnv1deploy.spec import CIFAR, PAPER, Block, ModelSpec, Normalization

STRICT = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic"]


def write(name: str, quantization: Quantization, folder: Path) -> Path:
    """An artifact of these integers."""
    path = folder / f"net_int8{formats.get(name).suffix}"
    network = copy.deepcopy(quantization.network)
    provenance = Provenance(name, "int8", network.spec, "0" * 64, (), quantization.facts, {})
    formats.get(name).export(network, path, provenance, quantization)
    return path


def onnx_logits(path: Path, images: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(["logits"], {"image": part})[0] for part in np.array_split(images, 8)])


@pytest.fixture(scope="module")
def folder(integers: Quantization, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled network in C."""
    return write("c", integers, tmp_path_factory.mktemp("c"))


@pytest.fixture(scope="module")
def onnx_path(integers: Quantization, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same integers in ONNX."""
    return write("onnx", integers, tmp_path_factory.mktemp("onnx"))


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def open_on(folder: Path, backend: str, threads: int | None = 1) -> CSession:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(BACKEND_VARIABLE, backend)
        session = formats.open_session(folder, threads=threads)
    assert isinstance(session, CSession)
    assert session.backend == backend
    return session


def test_every_layer_equals_onnxruntimes_bit_for_bit(folder: Path, onnx_path: Path, tmp_path: Path) -> None:
    ours, theirs = TracedC(folder, tmp_path / "traced.so"), TracedOnnx(onnx_path, tmp_path / "optimized.onnx")
    if platform.machine() == "x86_64":
        assert BACKENDS[ours.best] == "amx_int8"
    for image in datasets.calibration().images[:8]:
        expected, expected_logits = theirs.run(image)
        for backend in range(ours.best + 1):
            layers, logits = ours.run(image, backend)
            assert set(layers) == {layer.name for layer in CIFAR.layers()} - {"classifier"}
            for name, values in layers.items():
                np.testing.assert_array_equal(values, expected[name], f"{name}, {BACKENDS[backend]}")
            np.testing.assert_array_equal(logits, expected_logits)


@pytest.mark.slow
def test_all_test_images_give_the_same_logits_as_onnxruntime(
    folder: Path, onnx_path: Path, cifar10_test: datasets.Dataset
) -> None:
    images = cifar10_test.images
    expected = onnx_logits(onnx_path, images)
    best = formats.open_session(folder)
    assert isinstance(best, CSession)
    np.testing.assert_array_equal(best(images), expected)
    for backend in best.backends[:-1]:
        count = 1_000 if backend == "portable" else len(images)  # it takes a minute for all of them
        np.testing.assert_array_equal(open_on(folder, backend, None)(images[:count]), expected[:count])


blocks = st.builds(Block, st.integers(1, 70), st.sampled_from([1, 2]))


@st.composite
def specs(draw: st.DrawFn) -> ModelSpec:
    stem = draw(blocks)
    rest = tuple(draw(st.lists(blocks, min_size=1, max_size=4)))
    stride = int(np.prod([block.stride for block in (stem, *rest)]))
    size = draw(st.integers(-(-32 // stride), 48 // stride)) * stride
    pixels = st.sampled_from([Normalization(), PAPER.normalization, Normalization((120.0,) * 3, (60.0,) * 3)])
    classes = tuple(map(str, range(draw(st.integers(1, 40)))))
    return ModelSpec("random", classes, size, stem, rest, normalization=draw(pixels | normalizations))


normalizations = st.builds(
    Normalization,
    st.tuples(*[st.floats(0, 255, width=32)] * 3),
    st.tuples(*[st.floats(1, 255, width=32)] * 3),
)


@pytest.mark.slow
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(spec=specs(), seed=st.integers(0, 2**32 - 1))
def test_any_network_equals_onnxruntime(spec: ModelSpec, seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    check_against_onnxruntime(spec, seed, tmp_path_factory.mktemp("random"))


def check_against_onnxruntime(spec: ModelSpec, seed: int, folder: Path) -> None:
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    network = MobileNetV1(spec).eval()
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.3)
    check_network(network, rng.integers(0, 256, (6, spec.input_size, spec.input_size, 3), np.uint8), folder)


def check_network(network: MobileNetV1, images: np.ndarray, folder: Path) -> None:
    quantization = quantize(network.folded(), images[:4], "random")
    traced = TracedC(write("c", quantization, folder), folder / "traced.so")
    reference = TracedOnnx(write("onnx", quantization, folder), folder / "optimized.onnx")
    for image in images[3:]:
        expected, expected_logits = reference.run(image)
        for backend in range(traced.best + 1):
            layers, logits = traced.run(image, backend)
            for name, values in layers.items():
                if name in expected:  # onnxsim drops the pooling of a single pixel
                    np.testing.assert_array_equal(values, expected[name], f"{name}, {BACKENDS[backend]}")
            np.testing.assert_array_equal(logits, expected_logits, BACKENDS[backend])


@pytest.mark.parametrize(
    "spec",
    [
        CIFAR.scaled(0.25),
        CIFAR.scaled(0.6).replace(normalization=Normalization((125.3, 123.0, 113.9), (63.0, 62.1, 66.7))),
        CIFAR.replace(input_size=64, stem=Block(20, 2)),
    ],
    ids=["quarter", "odd widths", "stem stride 2"],
)
def test_other_networks_equal_onnxruntime(spec: ModelSpec, tmp_path: Path) -> None:
    check_against_onnxruntime(spec, 1, tmp_path)


def test_sums_that_no_float_holds_exactly_equal_onnxruntimes(tmp_path: Path) -> None:
    """Weights that are all as large as they may be, without a bias, on white pictures: sums beyond 2^23."""
    network = MobileNetV1(CIFAR.replace(stem=Block(640, 2), blocks=(Block(40, 2),))).eval()
    for name, parameter in network.named_parameters():
        torch.nn.init.constant_(parameter, 0.0 if name.endswith("bias") else 0.01)
    images = np.full((4, 32, 32, 3), 255, np.uint8)
    images[3] = np.random.default_rng(0).integers(0, 256, images[3].shape, np.uint8)
    check_network(network, images, tmp_path)
    assert "#define SUMS_FIT_23_BITS 0" in (tmp_path / "net_int8.c" / "mobilenetv1.c").read_text()


@pytest.mark.slow
def test_the_papers_network_equals_onnxruntime(tmp_path: Path) -> None:
    check_against_onnxruntime(PAPER, 1, tmp_path)


def test_sessions_share_a_batch_among_threads(folder: Path) -> None:
    images = datasets.calibration().images[:13]
    for backend in open_on(folder, "portable").backends:
        alone = open_on(folder, backend)
        expected = np.concatenate([alone(image[None]) for image in images])
        for threads in (1, 2, 5, 20):
            np.testing.assert_array_equal(open_on(folder, backend, threads)(images), expected)
        # not contiguous: every other row of pictures twice as high
        np.testing.assert_array_equal(alone(np.repeat(images, 2, axis=1)[:, ::2]), expected)


def test_calls_may_run_at_the_same_time(folder: Path) -> None:
    session = formats.open_session(folder, threads=1)
    images = datasets.calibration().images[:64]
    expected = [session(image[None]) for image in images]
    failures = []

    def work(start: int) -> None:
        for index in itertools.chain(range(start, 64), range(start)):
            if not np.array_equal(session(images[index : index + 1]), expected[index]):
                failures.append(index)

    threads = [threading.Thread(target=work, args=(16 * number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


@pytest.fixture(params=["gcc", "clang"])
def compiler(request: pytest.FixtureRequest) -> str:
    """Each compiler that there is; clang is one that a machine may lack."""
    name: str = request.param
    if not shutil.which(name):
        pytest.skip(f"not installed: {name}; scripts/install_emulators brings it")
    return name


@pytest.mark.parametrize("options", [["-O0"], ["-Os", "-DMOBILENETV1_NO_SIMD"], ["-O2", "-DMOBILENETV1_TRACE"]])
def test_it_compiles_without_a_warning(folder: Path, compiler: str, options: list[str]) -> None:
    command = [compiler, *STRICT, *options, "-c", "-o", os.devnull, "mobilenetv1.c"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_example_prints_the_same_logits_under_sanitizers(folder: Path, compiler: str, tmp_path: Path) -> None:
    image = datasets.calibration().images[7]
    Image.fromarray(image).save(tmp_path / "picture.ppm")
    flags = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    command = [compiler, *STRICT, *flags, "-o", tmp_path / "example", "example.c", "mobilenetv1.c"]
    subprocess.run(command, cwd=folder, check=True)
    done = subprocess.run([tmp_path / "example", tmp_path / "picture.ppm"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    *lines, answer = done.stdout.splitlines()
    logits = formats.open_session(folder)(image[None])[0]
    expected = [f"{name} {logit:.6f}" for name, logit in zip(CIFAR.classes, logits, strict=True)]
    assert lines == expected
    assert answer == f"this is: {CIFAR.classes[logits.argmax()]}"


@pytest.mark.parametrize("emulated", [[], EMULATED_AMX], ids=["", "amx emulated"])
def test_every_instruction_set_is_clean_under_sanitizers_with_exact_buffers(
    folder: Path, compiler: str, emulated: list[str], tmp_path: Path
) -> None:
    flags = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", f"-I{folder}", *emulated]
    command = [
        compiler,
        *STRICT,
        *flags,
        "-o",
        tmp_path / "main",
        Path(__file__).with_name("backends.c"),
        folder / "mobilenetv1.c",
    ]
    subprocess.run(command, check=True)
    done = subprocess.run([tmp_path / "main"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_make_builds_the_example_and_it_runs(folder: Path, tmp_path: Path) -> None:
    for name in generate.FILES:
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    subprocess.run(["make"], cwd=tmp_path, check=True, capture_output=True)
    done = subprocess.run([tmp_path / "example"], capture_output=True, text=True)
    assert done.returncode == 0
    assert [line.split()[0] for line in done.stdout.splitlines()[:-1]] == list(CIFAR.classes)
    refused = subprocess.run([tmp_path / "example", "Makefile"], cwd=tmp_path, capture_output=True, text=True)
    assert refused.returncode == 1
    assert "no binary PPM of 32 x 32 pixels" in refused.stderr


def test_the_same_export_gives_the_same_bytes_and_names_no_machine(
    integers: Quantization, folder: Path, tmp_path: Path
) -> None:
    again = write("c", integers, tmp_path)
    names = sorted(path.name for path in folder.iterdir())
    assert names == sorted([*generate.FILES, "provenance.json"])
    for name in names:
        content = (folder / name).read_bytes()
        assert content == (again / name).read_bytes()
        for place in (Path.home(), Path(torch.__file__).parents[1], tmp_path.parent):
            assert str(place).encode() not in content


def test_it_fits_a_small_microcontroller(folder: Path, tmp_path: Path) -> None:
    scratch = plan(CIFAR).scratch
    assert scratch <= 48 * 1024
    assert f"#define MOBILENETV1_SCRATCH {scratch} " in (folder / "mobilenetv1.h").read_text()
    flags = [*STRICT, "-Os", "-DMOBILENETV1_NO_SIMD", "-c", "-o", tmp_path / "net.o"]
    subprocess.run(["cc", *flags, "mobilenetv1.c"], cwd=folder, check=True)
    sizes = subprocess.run(["size", tmp_path / "net.o"], capture_output=True, text=True, check=True).stdout
    text, data, bss = map(int, sizes.splitlines()[1].split()[:3])
    assert text + data <= 330 * 1024
    assert bss == 0
    symbols = subprocess.run(["nm", tmp_path / "net.o"], capture_output=True, text=True, check=True).stdout
    assert not re.search(r" [bBC] ", symbols), "nothing is written outside the scratch"
    assert set(re.findall(r"U (\w+)", symbols)) <= {"memcpy", "_GLOBAL_OFFSET_TABLE_"}


@settings(deadline=None)
@given(spec=specs())
def test_no_step_writes_over_what_is_still_to_be_read(spec: ModelSpec) -> None:
    """Plays the plan with a tag in every byte."""
    buffers = plan(spec)
    memory = np.full(buffers.scratch, -1, np.int64)
    for number, (step, (_, depthwise, layer)) in enumerate(zip(buffers.steps, pairs(spec), strict=True)):
        output_row = step.output_bytes // layer.out_size
        for start in range(0, layer.out_size, step.rows):
            rows = min(step.rows, layer.out_size - start)
            if depthwise:
                input_row = step.input_bytes // depthwise.in_size
                first = max(0, start * depthwise.stride - 1)
                last = min(depthwise.in_size, (start + rows - 1) * depthwise.stride + 2)
                read = memory[step.input + first * input_row : step.input + last * input_row]
                assert (read == number - 1).all(), step
            memory[buffers.rows_at : buffers.rows_at + step.rows_bytes] = -1
            memory[step.output + start * output_row : step.output + (start + rows) * output_row] = number
    last_step = buffers.steps[-1]
    assert (memory[last_step.output : last_step.output + last_step.output_bytes] == len(buffers.steps) - 1).all()


def test_names_of_any_characters_stay_names(integers: Quantization, tmp_path: Path) -> None:
    classes = ('"', "\\", "??/", "naïve", "*/ int x;", "a\nb", "%s", "$size", "7")
    network = copy.deepcopy(integers.network)
    network.spec = CIFAR.replace(name="*/ evil\n $title", classes=(*classes, "猫"))
    path = write("c", dataclasses.replace(integers, network=network), tmp_path)
    subprocess.run(["gcc", *STRICT, "-o", "example", "example.c", "mobilenetv1.c"], cwd=path, check=True)
    done = subprocess.run([path / "example"], capture_output=True, check=True)
    for name in network.spec.classes:
        assert f"{name} ".encode() in done.stdout


def test_without_a_compiler_it_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    assert formats.get("c").providers() == ()
    with pytest.raises(MnvError, match="C compiler") as error:
        formats.open_session(folder)
    assert "gcc or clang" in error.value.hint


def test_what_cannot_be_opened_is_refused(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MnvError, match="CUDAExecutionProvider is not available for c"):
        formats.open_session(folder, provider="cuda")
    with monkeypatch.context() as patch, pytest.raises(MnvError, match="no instruction set sse"):
        patch.setenv(BACKEND_VARIABLE, "sse")
        formats.open_session(folder)
    broken = tmp_path / "broken.c"
    broken.mkdir()
    with pytest.raises(MnvError, match=r"no readable provenance\.json"):
        formats.open_session(broken)
    for name in ("provenance.json", "mobilenetv1.h"):
        (broken / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(MnvError, match="not complete"):
        formats.open_session(broken)
    (broken / "mobilenetv1.c").write_text("int mobilenetv1_run(")
    with pytest.raises(MnvError, match="cannot compile"):
        formats.open_session(broken)


def test_it_is_compiled_once(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    formats.open_session(folder)
    (library,) = (tmp_path / "mnv1deploy" / "c").iterdir()
    before = library.stat().st_mtime_ns
    formats.open_session(folder)
    assert library.stat().st_mtime_ns == before


def test_opening_it_imports_no_torch(folder: Path) -> None:
    code = (
        "import sys; from mnv1deploy import formats; formats.open_session(sys.argv[1]); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr
