"""The generated C: the same integers as onnxruntime, on every instruction set, clean under every checker."""

import copy
import ctypes
import dataclasses
import itertools
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from string import Template

import drawn
import numpy as np
import onnxruntime as ort
import pytest
import torch
from c_tracing import COMPILER, TracedC, TracedOnnx, emulated
from conftest import shared
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from mnv1deploy import datasets, exporting, formats
from mnv1deploy.artifact import Provenance
from mnv1deploy.c import TEMPLATES, backends, generate
from mnv1deploy.c.names import identifier
from mnv1deploy.c.plan import Footprint, Plan, footprint, fused, inputs, padded, plan, plans
from mnv1deploy.device import Device
from mnv1deploy.errors import MnvError
from mnv1deploy.formats.c import BACKEND_VARIABLE, CSession
from mnv1deploy.formats.shared import SharedSession
from mnv1deploy.network import MobileNetV1
from mnv1deploy.quantization import Quantization, quantize
from mnv1deploy.quantization import integers as integer_arithmetic
from mnv1deploy.spec import CIFAR, PAPER, Block, ModelSpec, Normalization

pytestmark = pytest.mark.usefixtures("compiled_once")

STRICT = ["-Wall", "-Wextra", "-Werror", "-pedantic"]


def write(name: str, quantization: Quantization, folder: Path, symbols: str = "network") -> Path:
    """An artifact of these integers, of a network of that name."""
    path = folder / f"net_int8{formats.get(name).suffix}"
    network = copy.deepcopy(quantization.network)
    network.spec = network.spec.replace(name=symbols)
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


def opened(folder: Path, threads: int | None = None) -> CSession:
    """The engine's own session."""
    session = formats.open_session(folder, threads=threads)
    assert isinstance(session, SharedSession)
    assert isinstance(session.engine, CSession)
    return session.engine


def open_on(folder: Path, backend: str, threads: int | None = 1) -> CSession:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(BACKEND_VARIABLE, backend)
        session = opened(folder, threads)
    assert session.backend == backend
    return session


@pytest.mark.slow
def test_every_layer_equals_onnxruntimes_bit_for_bit(folder: Path, onnx_path: Path, tmp_path: Path) -> None:
    ours, theirs = TracedC(folder, tmp_path / "traced.so"), TracedOnnx(onnx_path, tmp_path / "optimized.onnx")
    if platform.machine() == "x86_64":  # whatever the processor: what it lacks is emulated
        assert ours.backends == [b.name for b in backends.BACKENDS if b.machine in ("", "x86_64")]
    for image in datasets.calibration().images[:8]:
        expected, expected_logits = theirs.run(image)
        for backend in ours.backends:
            layers, logits = ours.run(image, backend)
            assert set(layers) == {layer.name for layer in CIFAR.layers()} - {"classifier"}
            for name, values in layers.items():
                np.testing.assert_array_equal(values, expected[name], f"{name}, {backend}")
            np.testing.assert_array_equal(logits, expected_logits)


@pytest.mark.slow
def test_the_reference_in_numpy_equals_onnxruntime(integers: Quantization, onnx_path: Path, tmp_path: Path) -> None:
    theirs = TracedOnnx(onnx_path, tmp_path / "optimized.onnx")
    for image in datasets.calibration().images[8:12]:
        (layers, logits), (expected, expected_logits) = integer_arithmetic.run(integers, image), theirs.run(image)
        for name, values in layers.items():
            np.testing.assert_array_equal(values, expected[name], name)
        np.testing.assert_array_equal(logits, expected_logits)


@pytest.mark.slow
def test_all_test_images_give_the_same_logits_as_onnxruntime(
    folder: Path, onnx_path: Path, cifar10_test: datasets.Dataset
) -> None:
    images = cifar10_test.images
    expected = onnx_logits(onnx_path, images)
    best = opened(folder)
    np.testing.assert_array_equal(best(images), expected)
    for backend in best.backends[:-1]:
        count = 1_000 if backend == "portable" else len(images)  # it takes a minute for all of them
        np.testing.assert_array_equal(open_on(folder, backend, None)(images[:count]), expected[:count])


GREY = CIFAR.replace(name="grey", colours=1, normalization=Normalization.default(1))
SAME = CIFAR.replace(padding="same", activation="relu6", stem=Block(20, 2))


@pytest.mark.slow
@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
@example(spec=GREY.replace(input_size=9, stem=Block(3, 2), padding="same"), seed=1)
@example(spec=SAME.replace(input_size=8, blocks=()), seed=2)
@example(spec=SAME.replace(input_size=33, blocks=(Block(70, 2), Block(17, 2))), seed=3)
@given(spec=drawn.specs(), seed=st.integers(0, 2**32 - 1))
def test_any_network_has_the_integers_of_the_reference(
    spec: ModelSpec, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    check_integers(random_integers(spec, seed), tmp_path_factory.mktemp("random"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "spec",
    [
        GREY.replace(input_size=21, blocks=(Block(40, 2),)),
        GREY.replace(input_size=28, padding="same", stem=Block(5, 2), blocks=(Block(70, 1), Block(9, 2))),
        SAME.replace(input_size=24, blocks=(Block(33, 2), Block(64, 1), Block(130, 2))),
        SAME.replace(input_size=17, blocks=(Block(48, 2), Block(1, 1))),
        CIFAR.replace(input_size=8, blocks=()),
    ],
    ids=["grey, odd size", "grey, SAME", "SAME, ReLU6", "SAME, odd sizes", "no block"],
)
def test_other_kinds_of_network_have_the_integers_of_the_reference(spec: ModelSpec, tmp_path: Path) -> None:
    check_integers(random_integers(spec, 1), tmp_path)


def random_integers(spec: ModelSpec, seed: int) -> tuple[Quantization, np.ndarray]:
    """Of a network of random weights, and pictures."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    network = MobileNetV1(spec).eval()
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.3)
    images = rng.integers(0, 256, (6, *spec.pixels.shape), np.uint8)
    return quantize(network.folded(), images[:4], "random"), images[3:]


def check_integers(network: tuple[Quantization, np.ndarray], folder: Path) -> None:
    quantization, images = network
    traced = TracedC(write("c", quantization, folder), folder / "traced.so")
    for image in images:
        expected, expected_logits = integer_arithmetic.run(quantization, image)
        for backend in traced.backends:
            layers, logits = traced.run(image, backend)
            assert layers.keys() == expected.keys()
            for name, values in layers.items():
                np.testing.assert_array_equal(values, expected[name], f"{name}, {backend}")
            np.testing.assert_array_equal(logits, expected_logits, backend)


def check_against_onnxruntime(network: tuple[Quantization, np.ndarray], folder: Path) -> None:
    quantization, images = network
    check_integers(network, folder)
    theirs = TracedOnnx(write("onnx", quantization, folder), folder / "optimized.onnx")
    for image in images:
        np.testing.assert_array_equal(integer_arithmetic.run(quantization, image)[1], theirs.run(image)[1])


@pytest.mark.slow
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
    check_against_onnxruntime(random_integers(spec, 1), tmp_path)


@pytest.mark.slow
def test_sums_that_no_float_holds_exactly_equal_onnxruntimes(tmp_path: Path) -> None:
    """Weights that are all as large as they may be, without a bias, on white pictures: sums beyond 2^23."""
    network = MobileNetV1(CIFAR.replace(stem=Block(640, 2), blocks=(Block(40, 2),))).eval()
    for name, parameter in network.named_parameters():
        torch.nn.init.constant_(parameter, 0.0 if name.endswith("bias") else 0.01)
    images = np.full((4, 32, 32, 3), 255, np.uint8)
    images[3] = np.random.default_rng(0).integers(0, 256, images[3].shape, np.uint8)
    check_against_onnxruntime((quantize(network.folded(), images, "random"), images[2:]), tmp_path)
    assert "#define SUMS_FIT_23_BITS 0" in (tmp_path / "net_int8.c" / "network.c").read_text()


@pytest.mark.slow
def test_the_papers_network_equals_onnxruntime(tmp_path: Path) -> None:
    """Its 13 blocks of up to 1,024 channels; one picture of 32 pixels instead of 224, since much is emulated."""
    integers, images = random_integers(PAPER.replace(input_size=32), 1)
    check_against_onnxruntime((integers, images[:1]), tmp_path)


@pytest.mark.slow
def test_sessions_share_a_batch_among_threads(folder: Path) -> None:
    images = datasets.calibration().images[:13]
    for backend in open_on(folder, "portable").backends:
        alone = open_on(folder, backend)
        expected = np.concatenate([alone(image[None]) for image in images])
        for threads in (1, 2, 5, 20):
            np.testing.assert_array_equal(open_on(folder, backend, threads)(images), expected)
        # not contiguous: every other row of pictures twice as high
        np.testing.assert_array_equal(alone(np.repeat(images, 2, axis=1)[:, ::2]), expected)


@pytest.mark.slow
@pytest.mark.usefixtures("unoptimised")
@pytest.mark.parametrize("spec", [SAME.replace(input_size=33, blocks=(Block(70, 2), Block(17, 1))), GREY])
def test_threads_share_the_rows_of_a_large_picture(
    spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    integers, images = random_integers(spec, 3)
    folder = write("c", integers, tmp_path)
    image = images[:1]
    alone = opened(folder, 1)
    assert not alone._parallel_scratch
    assert not opened(folder, 2)._parallel_scratch  # it is too small for that
    monkeypatch.setattr("mnv1deploy.formats.c.LEAST_TO_SHARE", 0)
    expected = alone(image)
    for backend in alone.backends:
        for threads in (2, 5):
            session = open_on(folder, backend, threads)
            assert session._parallel_scratch
            np.testing.assert_array_equal(session(image), expected)
            np.testing.assert_array_equal(session.runner(image, include_copies=False)(), expected)
    answers: list[np.ndarray] = []
    callers = [threading.Thread(target=lambda: answers.append(session(image))) for _ in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(answers) == len(callers)
    assert all(np.array_equal(answer, expected) for answer in answers)


@pytest.mark.slow
def test_the_documented_parallel_for_gives_the_same_logits(folder: Path, tmp_path: Path) -> None:
    page = (Path(__file__).parents[1] / "docs" / "formats" / "c.md").read_text("utf-8")
    example = page.partition("## One picture on several threads")[2].partition("```c")[2].partition("```")[0]
    (tmp_path / "example.c").write_text(
        example.replace("MOBILENETV1_CIFAR10", "NETWORK").replace("mobilenetv1_cifar10", "network")
    )
    flags = [*STRICT, "-std=c99", "-O1", "-fopenmp", "-fPIC", "-shared", f"-I{folder}"]
    library = tmp_path / "example.so"
    subprocess.run(["gcc", *flags, tmp_path / "example.c", folder / "network.c", "-o", library], check=True)
    image, logits = datasets.calibration().images[:1], np.zeros((1, 10), np.float32)
    ctypes.CDLL(str(library)).classify(*(ctypes.c_void_p(array.ctypes.data) for array in (image, logits)))
    np.testing.assert_array_equal(logits, opened(folder, 1)(image))


def test_threads_of_a_picture_do_not_race(small: Path, tmp_path: Path) -> None:
    source = Template((TEMPLATES / "session.c").read_text()).substitute(name="network", NAME="NETWORK")
    main = """
int main(void)
{
    static uint8_t image[NETWORK_IMAGE_BYTES], scratch[NETWORK_PARALLEL_SCRATCH(4)];
    float logits[NETWORK_CLASSES], expected[NETWORK_CLASSES];
    int i, c, differ = session_run(0, image, 1, expected);
    for (i = 0; i < 20; i++) {
        differ |= session_run_parallel(0, image, logits, scratch, 4);
        for (c = 0; c < NETWORK_CLASSES; c++)
            differ |= logits[c] != expected[c];
    }
    return differ;
}
"""
    (tmp_path / "main.c").write_text(source + main)
    flags = ["-std=c99", "-O1", "-g", "-fsanitize=thread", "-pthread", "-DNETWORK_NO_SIMD", f"-I{small}"]
    subprocess.run(["gcc", *flags, tmp_path / "main.c", small / "network.c", "-o", tmp_path / "main"], check=True)
    done = subprocess.run([tmp_path / "main"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
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


SMALL = CIFAR.replace(input_size=16, stem=Block(20, 2), blocks=(Block(36, 2),))
GREY_SMALL = GREY.replace(input_size=18, blocks=(Block(70, 2), Block(33, 1)))
SAME_SMALL = SAME.replace(input_size=18, blocks=(Block(100, 2), Block(33, 2)))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that compiles quickly."""
    return write("c", random_integers(SMALL, 1)[0], tmp_path_factory.mktemp("small"))


def compile_silently(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), shlex.join(command)


@pytest.mark.parametrize(
    "options",
    [
        ["-std=c99", "-O0"],
        ["-std=c99", "-Os", "-DNETWORK_NO_SIMD"],
        pytest.param(["-std=c99", "-O2", "-DNETWORK_TRACE"], marks=pytest.mark.slow),
        pytest.param(["-std=c11", "-O3"], marks=pytest.mark.slow),
        ["-std=gnu11", "-fsyntax-only"],  # what else a standard says than another is seen without optimising
        ["-std=gnu17", "-fsyntax-only"],
    ],
    ids=" ".join,
)
def test_it_compiles_without_a_warning(small: Path, compiler: str, options: list[str]) -> None:
    compile_silently([compiler, *STRICT, *options, "-c", "-o", os.devnull, "network.c"], small)


@pytest.mark.parametrize("standard", [pytest.param("c++11", marks=pytest.mark.slow), "c++17", "gnu++20"])
def test_it_is_cpp_as_well(small: Path, compiler: str, standard: str) -> None:
    program = {"gcc": "g++", "clang": "clang++"}[compiler]
    # gcc's own headers of AVX-512 read what is not initialised, and clang dislikes C++ in .c files
    known = {"gcc": "-Wno-maybe-uninitialized", "clang": "-Wno-deprecated"}[compiler]
    options = ["-Wall", "-Wextra", "-Werror", "-pedantic", known, f"-std={standard}", "-x", "c++"]
    how_far = "-O1" if standard == "c++11" else "-fsyntax-only"  # what else a standard says is seen without optimising
    compile_silently([program, *options, how_far, "-c", "-o", os.devnull, "network.c"], small)


@pytest.fixture(scope="module")
def binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network of ``small`` with its weights in a file of their own."""
    integers, _ = random_integers(SMALL, 1)
    folder = tmp_path_factory.mktemp("binary") / "net_int8.c"
    provenance = Provenance("c", "int8", SMALL.replace(name="network"), "0" * 64, (), integers.facts, {})
    generate.write(folder, integers, provenance, Device(weights="binary"))
    return folder


@pytest.mark.slow
@pytest.mark.usefixtures("unoptimised")
def test_weights_in_a_file_give_the_same_bits_and_take_a_byte_each(small: Path, binary: Path) -> None:
    _, images = random_integers(SMALL, 1)
    np.testing.assert_array_equal(opened(binary, 1)(images), opened(small, 1)(images))
    weights = sum(
        padded(layer.out_channels) * (4 * layer.kernel if layer.kind == "depthwise" else -(-inputs(layer) // 4) * 4)
        for layer in SMALL.layers()
        if layer.kind != "pool"
    )
    assert weights <= (binary / "network.bin").stat().st_size <= weights + 64 * len(list(SMALL.layers()))
    assert 'name="network.bin"' in next(binary.glob("*.pdsc")).read_text()
    assert not (binary / "library.json").exists(), "Arduino and PlatformIO would not find the file"
    assert "weights[" not in (binary / "network.c").read_text().partition("/* stem */")[2]
    # a library is that of its weights, too
    with pytest.MonkeyPatch.context() as patch:
        blob = (binary / "network.bin").read_bytes()
        patch.setattr("mnv1deploy.formats.c.FLAGS", QUICK)
        before = opened(binary, 1)(images)
        (binary / "network.bin").write_bytes(bytes(len(blob)))
        assert not np.array_equal(opened(binary, 1)(images), before)
        (binary / "network.bin").write_bytes(blob)


LOADING = """
#include "network.h"
#include <stdio.h>
#include <string.h>

static uint8_t image[NETWORK_IMAGE_BYTES], scratch[NETWORK_SCRATCH];

int main(void)
{
    float logits[NETWORK_CLASSES];
    int i;
#ifdef NETWORK_WEIGHTS_LOADED
    static uint8_t blob[1 << 20] __attribute__((aligned(64)));
    FILE *file = fopen("network.bin", "rb");
    if (!file || fread(blob, 1, sizeof blob, file) == 0 || network_run(image, logits, scratch) != -1)
        return 2;
    fclose(file);
    blob[7] ^= 1;
    if (network_load(blob) != -1 || network_run(image, logits, scratch) != -1)
        return 3;
    blob[7] ^= 1;
    memmove(blob + 1, blob, sizeof blob - 1);
    if (network_load(blob + 1) != -1)
        return 4;
    memmove(blob, blob + 1, sizeof blob - 1);
    if (network_load(blob) != 0)
        return 5;
#endif
    memset(image, 77, sizeof image);
    if (network_run(image, logits, scratch))
        return 1;
    for (i = 0; i < NETWORK_CLASSES; i++)
        printf("%.9g\\n", (double)logits[i]);
    return 0;
}
"""


@pytest.mark.slow
@pytest.mark.usefixtures("unoptimised")
@pytest.mark.parametrize(
    ("compiler", "language", "way"),
    [
        *((compiler, language, "taken in") for compiler in ("gcc", "clang") for language in ("c", "c++")),
        # plain C, that no compiler has words of its own for
        *(row for way in ("linked", "loaded", "embedded") for row in (("gcc", "c", way), ("clang", "c++", way))),
    ],
    indirect=["compiler"],
)
def test_weights_in_a_file_are_taken_in_or_linked_or_loaded(
    binary: Path, compiler: str, language: str, way: str, tmp_path: Path
) -> None:
    shutil.copytree(binary, tmp_path, dirs_exist_ok=True)
    (tmp_path / "main.c").write_text(LOADING)
    program, standard = (
        (compiler, "c99") if language == "c" else ({"gcc": "g++", "clang": "clang++"}[compiler], "c++11")
    )
    options = ["-Wno-deprecated"] if program == "clang++" else []
    sources = ["main.c", "network.c"]
    if way == "embedded":
        # what a compiler of C23 makes of it, which those of 2022 do not know
        source = (tmp_path / "network.c").read_text()
        before, condition, rest = source.partition("#if !defined(NETWORK_WEIGHTS_LINKED) && defined(__STDC_VERSION__)")
        data = ",".join(map(str, (tmp_path / "network.bin").read_bytes()))
        embedded = rest.partition("defined(__has_embed)")[2].replace("#embed NETWORK_WEIGHTS_FILE", data)
        assert condition and data in embedded
        (tmp_path / "network.c").write_text(f"{before}#if 1{embedded}")
        (tmp_path / "network.bin").unlink()
    elif way == "linked":
        data = "const unsigned char network_weights[] = {" + ",".join(map(str, (tmp_path / "network.bin").read_bytes()))
        (tmp_path / "data.c").write_text(f"{data}}};\n")
        subprocess.run(["gcc", "-c", "data.c"], cwd=tmp_path, check=True)
        options.append("-DNETWORK_WEIGHTS_LINKED")
    elif way == "loaded":
        options.append("-DNETWORK_WEIGHTS_LOADED")
    objects = ["-x", "none", "data.o"] if way == "linked" else []
    command = [program, f"-std={standard}", "-O0", *options, "-x", language, *sources, *objects, "-o", "main"]
    compile_silently(command, tmp_path)
    done = subprocess.run([tmp_path / "main"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0
    image = np.full((1, *SMALL.pixels.shape), 77, np.uint8)
    np.testing.assert_array_equal(np.loadtxt(done.stdout.splitlines(), dtype=np.float32), opened(binary, 1)(image)[0])


@pytest.mark.slow
@pytest.mark.usefixtures("unoptimised")
def test_weights_in_a_file_are_embedded_by_a_compiler_of_c23(binary: Path, tmp_path: Path) -> None:
    pytest.importorskip("ziglang")  # whose clang is new enough
    shutil.copytree(binary, tmp_path, dirs_exist_ok=True)
    (tmp_path / "main.c").write_text(LOADING)
    command = [sys.executable, "-m", "ziglang", "cc", "-std=c23", "-O1", "-fno-sanitize=all", "-DNETWORK_NO_SIMD"]
    environment = {**os.environ, "ZIG_GLOBAL_CACHE_DIR": str(tmp_path / "zig")}
    subprocess.run([*command, "-c", "network.c"], cwd=tmp_path, env=environment, check=True, capture_output=True)
    symbols = subprocess.run(["nm", "network.o"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert " r network_weights" in symbols  # an array of the file; what the assembler takes in is R
    subprocess.run(["gcc", "main.c", "network.o", "-o", "main"], cwd=tmp_path, check=True)
    done = subprocess.run([tmp_path / "main"], cwd=tmp_path, capture_output=True, text=True)
    image = np.full((1, *SMALL.pixels.shape), 77, np.uint8)
    np.testing.assert_array_equal(np.loadtxt(done.stdout.splitlines(), dtype=np.float32), opened(binary, 1)(image)[0])


@pytest.mark.slow
@pytest.mark.parametrize("language", ["c", "c++"])
def test_two_networks_link_into_one_program(
    small: Path, language: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    integers, images = random_integers(SMALL, 2)
    other = write("c", integers, tmp_path, "other net")
    (tmp_path / "main.c").write_text(
        """
#include "network.h"
#include "other_net.h"
#include <stdio.h>
#include <string.h>

static uint8_t image[NETWORK_IMAGE_BYTES], scratch[NETWORK_SCRATCH], other_scratch[OTHER_NET_SCRATCH];

int main(void)
{
    float logits[NETWORK_CLASSES], others[OTHER_NET_CLASSES];
    int i;
    memset(image, 77, sizeof image);
    if (network_run(image, logits, scratch) || other_net_run(image, others, other_scratch))
        return 1;
    for (i = 0; i < NETWORK_CLASSES; i++)
        printf("%.9g %.9g\\n", (double)logits[i], (double)others[i]);
    return 0;
}
"""
    )
    program, standard = ("gcc", "-std=c99") if language == "c" else ("g++", "-std=c++11")
    sources = [tmp_path / "main.c", small / "network.c", other / "other_net.c"]
    command = [program, standard, "-O0", "-x", language, f"-I{small}", f"-I{other}", *sources, "-o", "main"]
    subprocess.run(command, cwd=tmp_path, check=True)
    printed = subprocess.run([tmp_path / "main"], capture_output=True, text=True, check=True).stdout
    image = np.full_like(images[:1], 77)
    monkeypatch.setattr("mnv1deploy.formats.c.FLAGS", QUICK)
    expected = np.stack([formats.open_session(folder)(image)[0] for folder in (small, other)], 1)
    np.testing.assert_array_equal(np.loadtxt(printed.splitlines(), dtype=np.float32), expected)


@pytest.mark.slow
def test_the_example_prints_the_same_logits_under_sanitizers(folder: Path, compiler: str, tmp_path: Path) -> None:
    image = datasets.calibration().images[7]
    Image.fromarray(image).save(tmp_path / "picture.ppm")
    flags = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    command = [compiler, "-std=c99", *STRICT, *flags, "-o", tmp_path / "example", "example.c", "network.c"]
    subprocess.run(command, cwd=folder, check=True)
    done = subprocess.run([tmp_path / "example", tmp_path / "picture.ppm"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    *lines, answer = done.stdout.splitlines()
    logits = formats.open_session(folder)(image[None])[0]
    expected = [f"{name} {logit:.6f}" for name, logit in zip(CIFAR.classes, logits, strict=True)]
    assert lines == expected
    assert answer == f"this is: {CIFAR.classes[logits.argmax()]}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("compiler", "spec"),
    [(COMPILER, SMALL), (COMPILER, GREY_SMALL), ("gcc", SAME_SMALL)],
    ids=["RGB", "grey", "SAME, gcc"],
    indirect=["compiler"],
)
def test_every_instruction_set_is_clean_under_sanitizers_with_exact_buffers(
    compiler: str, spec: ModelSpec, tmp_path: Path
) -> None:
    folder = write("c", random_integers(spec, 1)[0], tmp_path)
    flags = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", f"-I{folder}", *emulated()]
    command = [
        compiler,
        "-std=c99",
        *STRICT,
        *flags,
        "-o",
        tmp_path / "main",
        Path(__file__).with_name("backends.c"),
        folder / "network.c",
        "-lm",
    ]
    subprocess.run(command, check=True)
    done = subprocess.run([tmp_path / "main"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_make_builds_the_example_and_it_runs(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    subprocess.run(["make"], cwd=tmp_path, check=True, capture_output=True)
    done = subprocess.run([tmp_path / "example"], capture_output=True, text=True)
    assert done.returncode == 0
    assert [line.split()[0] for line in done.stdout.splitlines()[:-1]] == list(CIFAR.classes)
    refused = subprocess.run([tmp_path / "example", "Makefile"], cwd=tmp_path, capture_output=True, text=True)
    assert refused.returncode == 1
    assert "no binary PPM (P6) of 32 x 32 pixels" in refused.stderr


def test_the_same_export_gives_the_same_bytes_and_names_no_machine(
    integers: Quantization, folder: Path, tmp_path: Path
) -> None:
    again = write("c", integers, tmp_path)
    names = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert {Path(name) for name in ("example.c", "network.c", "network.h", "provenance.json")} <= set(names)
    for name in names:
        content = (folder / name).read_bytes()
        assert content == (again / name).read_bytes()
        for place in (Path.home(), Path(torch.__file__).parents[1], tmp_path.parent):
            assert str(place).encode() not in content


@pytest.mark.slow
def test_it_fits_a_small_microcontroller(folder: Path, tmp_path: Path) -> None:
    scratch = plan(CIFAR).scratch
    assert scratch <= 48 * 1024
    assert f"#define NETWORK_SCRATCH {scratch} " in (folder / "network.h").read_text()
    flags = ["-std=c99", *STRICT, "-Os", "-DNETWORK_NO_SIMD", "-c", "-o", tmp_path / "net.o"]
    subprocess.run(["cc", *flags, "network.c"], cwd=folder, check=True)
    sizes = subprocess.run(["size", tmp_path / "net.o"], capture_output=True, text=True, check=True).stdout
    text, data, bss = map(int, sizes.splitlines()[1].split()[:3])
    assert text + data <= 330 * 1024
    assert bss == 0
    symbols = subprocess.run(["nm", tmp_path / "net.o"], capture_output=True, text=True, check=True).stdout
    assert not re.search(r" [bBC] ", symbols), "nothing is written outside the scratch"
    assert set(re.findall(r"U (\w+)", symbols)) <= {"memcpy", "_GLOBAL_OFFSET_TABLE_"}


@pytest.mark.parametrize("spec", [CIFAR, GREY, SAME, CIFAR.replace(blocks=())], ids=["", "grey", "SAME", "no block"])
def test_flash_and_ram_are_told_from_the_spec(spec: ModelSpec, tmp_path: Path) -> None:
    """By export and info, instead of the bytes of the source."""
    folder = write("c", random_integers(spec, 1)[0], tmp_path)
    arrays = re.findall(
        r"^static const ALIGNED (int8_t|int32_t|float) \w+\[(\d+)\]", (folder / "network.c").read_text(), re.M
    )
    stored = sum(int(count) * (1 if kind == "int8_t" else 4) for kind, count in arrays)
    assert footprint(spec) == Footprint(stored, plan(spec).scratch)
    assert f"Weights: {stored} bytes" in (folder / "README.md").read_text()


@pytest.mark.slow
@settings(deadline=None)
@given(spec=drawn.specs(sizes=(8, 250)))
def test_no_fusion_writes_over_what_is_still_to_be_read(spec: ModelSpec) -> None:
    """Plays the plans with a tag in every byte."""
    for buffers in plans(spec):
        check_plan(spec, buffers)


def check_plan(spec: ModelSpec, buffers: Plan) -> None:
    memory = np.full(buffers.scratch, -1, np.int64)
    for number, (fusion, (_, depthwise, layer)) in enumerate(zip(buffers.fusions, fused(spec), strict=True)):
        output_row = fusion.output_bytes // layer.out_size
        for start in range(0, layer.out_size, fusion.rows):
            rows = min(fusion.rows, layer.out_size - start)
            if depthwise:
                input_row, top = fusion.input_bytes // depthwise.in_size, depthwise.padding[0]
                first = max(0, start * depthwise.stride - top)
                last = min(depthwise.in_size, (start + rows - 1) * depthwise.stride - top + depthwise.kernel)
                read = memory[fusion.input + first * input_row : fusion.input + last * input_row]
                assert (read == number - 1).all(), fusion
            memory[buffers.rows_at : buffers.rows_at + fusion.rows_bytes] = -1
            memory[fusion.output + start * output_row : fusion.output + (start + rows) * output_row] = number
    last_fusion = buffers.fusions[-1]
    written = memory[last_fusion.output : last_fusion.output + last_fusion.output_bytes]
    assert (written == len(buffers.fusions) - 1).all()


@pytest.mark.parametrize("kind", ["conv", "depthwise", "pointwise"])
def test_weights_whose_products_could_overflow_16_bits_are_refused(kind: str, tmp_path: Path) -> None:
    """AVX2 and Helium add two neighbours' products in 16 bits; quantize() gives no such weights."""
    quantization, _ = random_integers(SMALL, 1)
    name = next(layer.name for layer in SMALL.layers() if layer.kind == kind)
    weights = quantization.weights[name]
    values = weights.values.copy()
    values[0] = 127
    changed = {**quantization.weights, name: dataclasses.replace(weights, values=values)}
    with pytest.raises(MnvError, match=f"Neighbouring weights of {re.escape(name)} could overflow"):
        write("c", dataclasses.replace(quantization, weights=changed), tmp_path)


@pytest.mark.slow
@pytest.mark.usefixtures("unoptimised")
def test_names_of_any_characters_stay_names(integers: Quantization, tmp_path: Path) -> None:
    classes = ('"', "\\", "??/", "naïve", "*/ int x;", "a\nb", "%s", "$size", "7")
    network = copy.deepcopy(integers.network)
    network.spec = CIFAR.replace(classes=(*classes, "猫"))
    path = write("c", dataclasses.replace(integers, network=network), tmp_path, "* evil $title ${x}")
    subprocess.run(["gcc", "-std=c99", *STRICT, "-o", "example", "example.c", "evil_title_x.c"], cwd=path, check=True)
    done = subprocess.run([path / "example"], capture_output=True, check=True)
    for name in network.spec.classes:
        assert f"{name} ".encode() in done.stdout
    session = formats.open_session(path)
    assert session.spec.classes == network.spec.classes


@pytest.mark.slow
def test_an_export_is_called_what_name_says(tmp_path: Path) -> None:
    (exported,) = exporting.export("onnx", "fp32", output=tmp_path, name="pets")
    assert exported.path == tmp_path / "pets_fp32.onnx"
    assert formats.open_session(exported.path).spec.replace(temperature=1.0) == CIFAR.replace(name="pets")
    with pytest.raises(MnvError, match="becomes that of files"):
        next(exporting.export("onnx", "fp32", output=tmp_path, name="a/b"))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mobilenetv1_cifar10", "mobilenetv1_cifar10"),
        ("96x96 pets-v2", "network_96x96_pets_v2"),
        ("猫", "network"),
        ("math", "math_network"),
        ("Example", "Example_network"),
        ("features", "features_network"),  # which C's own headers include
        ("test", "test_network"),  # CMake's
        ("match", "match_network"),  # a keyword of Rust
        ("core", "core_network"),
        ("__x__", "x"),
    ],
)
def test_a_networks_name_becomes_an_identifier(name: str, expected: str) -> None:
    assert identifier(name) == expected


def test_without_a_compiler_it_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr("mnv1deploy.formats.c.is_installed", lambda _: False)
    assert formats.get("c").providers() == ()
    with pytest.raises(MnvError, match="C compiler") as error:
        formats.open_session(folder)
    assert "gcc or clang" in error.value.hint
    assert "mnv1deploy[c]" in error.value.hint


@pytest.mark.slow
def test_where_there_is_no_compiler_pythons_ziglang_is_one(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ziglang")
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
    expected = {name: open_on(small, name)(images) for name in opened(small).backends}
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("ZIG_GLOBAL_CACHE_DIR", str(shared("zig", lambda _: None)))
    assert formats.get("c").providers()
    for name, logits in expected.items():
        np.testing.assert_array_equal(open_on(small, name)(images), logits, name)
    assert len(list((tmp_path / "mnv1deploy" / "c").glob("*.so"))) == 1


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
    for name in ("provenance.json", "network.h"):
        (broken / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(MnvError, match="not complete"):
        formats.open_session(broken)
    (broken / "network.c").write_text("int network_run(")
    with pytest.raises(MnvError, match="cannot compile"):
        formats.open_session(broken)


QUICK = ("-std=c99", "-O0", "-DNETWORK_NO_SIMD", "-fPIC", "-shared")


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of compiled libraries, which is not there yet; compiling takes little."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("mnv1deploy.formats.c.FLAGS", QUICK)
    return tmp_path / "cache" / "mnv1deploy" / "c"


def test_it_is_compiled_once(small: Path, own_cache: Path) -> None:
    formats.open_session(small)
    (library,) = own_cache.iterdir()
    before = library.stat().st_mtime_ns
    formats.open_session(small)
    assert library.stat().st_mtime_ns == before


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "a folder"])
def test_a_damaged_library_is_compiled_anew(small: Path, own_cache: Path, damage: str) -> None:
    image = np.zeros((1, 16, 16, 3), np.uint8)
    script = f"import sys, numpy; from mnv1deploy import formats; formats.get('c'); formats.c.FLAGS = {QUICK}; "
    script += "images = numpy.zeros((1, 16, 16, 3), numpy.uint8); "
    script += "print(formats.open_session(sys.argv[1])(images).tobytes().hex())"

    def run() -> str:  # in a process of its own: this one may still have the library mapped
        return subprocess.run([sys.executable, "-c", script, small], capture_output=True, text=True, check=True).stdout

    expected = formats.open_session(small)(image).tobytes().hex()
    (library,) = own_cache.iterdir()
    content = bytearray(library.read_bytes())
    library.unlink()
    if damage == "a folder":
        library.mkdir()
    else:
        content[len(content) // 2] ^= 1
        library.write_bytes({"cut": content[:-100], "flipped": content, "empty": b""}[damage])
    assert run().strip() == expected
    assert run().strip() == expected


@pytest.mark.skipif(os.name != "posix", reason="has no such permissions")
def test_the_folder_of_libraries_is_the_users_alone(small: Path, own_cache: Path) -> None:
    mask = os.umask(0)
    try:
        formats.open_session(small)
    finally:
        os.umask(mask)
    for folder in (own_cache, own_cache.parent, own_cache.parent.parent):
        assert folder.stat().st_mode & 0o777 == 0o700
    for folder in (own_cache, own_cache.parent):
        folder.chmod(0o770)
        with pytest.raises(MnvError, match="you alone may write to") as error:
            formats.open_session(small)
        assert "XDG_CACHE_HOME" in error.value.hint
        folder.chmod(0o755)
        formats.open_session(small)
    shutil.move(own_cache, own_cache.with_name("elsewhere"))
    own_cache.symlink_to(own_cache.with_name("elsewhere"))
    with pytest.raises(MnvError, match="you alone may write to"):
        formats.open_session(small)


def test_a_cache_that_cannot_be_written_is_named(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(MnvError, match="cannot be written") as error:
        formats.open_session(small)
    assert "XDG_CACHE_HOME" in error.value.hint


@pytest.mark.parametrize("classes", [1, 3, 11])
def test_a_provenance_of_another_network_is_refused(small: Path, own_cache: Path, tmp_path: Path, classes: int) -> None:
    """By its classes the buffer of the logits is made."""
    other = shutil.copytree(small, tmp_path / "other.c")
    text = (other / "provenance.json").read_text()
    for spec in (
        SMALL.replace(classes=tuple(map(str, range(classes)))),
        SMALL.replace(classes=tuple(reversed(SMALL.classes))),
        SMALL.replace(input_size=8),
        SMALL.replace(colours=1, normalization=Normalization.default(1)),
    ):
        facts = json.loads(text)
        facts["spec"] = spec.replace(name="network").to_dict()
        (other / "provenance.json").write_text(json.dumps(facts))
        with pytest.raises(MnvError, match=r"another network than its provenance\.json says"):
            formats.open_session(other)


@pytest.mark.parametrize(
    ("cc", "works"), [("gcc -m64", True), ("env gcc", True), ("'gcc'", True), ("nothing", False), ("gcc '", False)]
)
def test_cc_is_read_as_a_shell_does(
    small: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch, cc: str, works: bool
) -> None:
    monkeypatch.setenv("CC", cc)
    assert bool(formats.get("c").providers()) == works
    if works:
        formats.open_session(small)
    else:
        with pytest.raises(MnvError, match="takes a C compiler") as error:
            formats.open_session(small)
        assert cc in error.value.hint


@pytest.mark.slow
def test_a_source_that_grows_without_end_is_stopped(
    small: Path, own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every macro is twice the one before: 2^40 additions in a kilobyte."""
    monkeypatch.setattr("mnv1deploy.formats.c.COMPILER_MEGABYTES", (300, 0))
    bomb = shutil.copytree(small, tmp_path / "bomb.c")
    macros = [f"#define M{n + 1} M{n} + M{n}" for n in range(40)]
    (bomb / "network.c").write_text("\n".join(["#define M0 1", *macros, "int x = M40;"]))
    with pytest.raises(MnvError, match="cannot compile"):
        formats.open_session(bomb)
    assert not list(own_cache.iterdir())


def test_opening_it_imports_no_torch(folder: Path) -> None:
    code = (
        "import sys; from mnv1deploy import formats; formats.open_session(sys.argv[1]); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr
