"""The generated C on Windows: MinGW, clang-cl, and what cl, which cannot be had here, would read; run in Wine."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import shared
from test_c import SMALL, STRICT, random_integers, write

from mnv1deploy import formats
from mnv1deploy.c.backends import NAMES

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("compiled_once")]

WINE = "/usr/lib/wine/wine64"

HEADERS = """
#include <stddef.h>
void *memcpy(void *, const void *, size_t);
void *memset(void *, int, size_t);
int memcmp(const void *, const void *, size_t);
"""
"""Microsoft's string.h, as far as it is used: the other headers are the compiler's own."""

ANSWERING = """
#include "network.h"
#include <stddef.h>

int _fltused; /* what Microsoft's C library has for objects of its compilers */

__declspec(dllimport) void *GetStdHandle(int);
__declspec(dllimport) int ReadFile(void *, void *, unsigned, unsigned *, void *);
__declspec(dllimport) int WriteFile(void *, const void *, unsigned, unsigned *, void *);
__declspec(dllimport) void ExitProcess(unsigned);

void *memcpy(void *to, const void *from, size_t count)
{
    size_t i;
    for (i = 0; i < count; i++)
        ((char *)to)[i] = ((const char *)from)[i];
    return to;
}

void *memset(void *to, int value, size_t count)
{
    size_t i;
    for (i = 0; i < count; i++)
        ((char *)to)[i] = (char)value;
    return to;
}

static uint8_t image[NETWORK_IMAGE_BYTES], scratch[NETWORK_SCRATCH];
static float logits[NETWORK_CLASSES];

void start(void)
{
    void *output = GetStdHandle(-11);
    unsigned count;
    int backend;
    if (!ReadFile(GetStdHandle(-10), image, sizeof image, &count, NULL) || count != sizeof image)
        ExitProcess(1);
    for (backend = 0; backend < NETWORK_BACKENDS; backend++)
        if (network_run_on(backend, image, logits, scratch) == 0) {
            WriteFile(output, &backend, sizeof backend, &count, NULL);
            WriteFile(output, logits, sizeof logits, &count, NULL);
        }
    ExitProcess(0);
}
"""
"""A program without a C library, which zig would first build: the picture in, every set's number and logits out."""


def need(*programs: str) -> None:
    if missing := [program for program in programs if not shutil.which(program)]:
        pytest.skip(f"not installed: {', '.join(missing)}; scripts/install_emulators brings them")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that compiles quickly."""
    return write("c", random_integers(SMALL, 1)[0], tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def headers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stands in for the folder of Microsoft's SDK."""
    folder = tmp_path_factory.mktemp("headers")
    (folder / "string.h").write_text(HEADERS)
    return folder


@pytest.fixture(scope="module")
def zig() -> dict[str, str]:
    """The environment of zig's compiler, which keeps what it makes."""
    pytest.importorskip("ziglang")
    return {**os.environ, "ZIG_GLOBAL_CACHE_DIR": str(shared("zig", lambda folder: None))}


def silently(command: list[str | Path], folder: Path, environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), command


@pytest.mark.parametrize("target", ["x86_64", "aarch64", "x86"])
def test_mingw_compiles_it_without_a_warning(small: Path, zig: dict[str, str], target: str) -> None:
    command = [sys.executable, "-m", "ziglang", "cc", "-target", f"{target}-windows-gnu", *STRICT, "-std=c99"]
    silently([*command, "-c", "network.c", "-o", f"{target}.o"], small, zig)


def clang_cl(target: str, headers: Path) -> list[str | Path]:
    """Its command for an object; the C library it takes for a freestanding one, and without checks of the stack."""
    driver = ["clang-16", "--driver-mode=cl", f"--target={target}-pc-windows-msvc", "/c", "/O2", "/W4", "/WX"]
    return [*driver, "/Zl", "/GS-", "/clang:-ffreestanding", "/imsvc", headers]


@pytest.mark.parametrize("target", ["x86_64", "aarch64", "i686 /arch:SSE2"])
@pytest.mark.parametrize("source", ["network.c", "network_selftest.c"])
def test_clang_cl_compiles_it_without_a_warning(
    small: Path, headers: Path, target: str, source: str, tmp_path: Path
) -> None:
    need("clang-16")
    processor, *options = target.split()
    silently([*clang_cl(processor, headers), *options, f"/Fo{tmp_path / 'object'}", source], small)


@pytest.mark.parametrize("version", ["19.20", "19.40"])
def test_what_cl_reads_has_none_of_gnus_extensions(small: Path, headers: Path, version: str) -> None:
    """What the preprocessor leaves to Microsoft's compiler, whose syntax clang checks: cl allows every intrinsic."""
    need("clang-16")
    sets = ("avx2", "xsave", "avx512f", "avx512bw", "avx512vl", "avx512vnni", "avxvnni")
    command = ["clang-16", "--target=x86_64-pc-windows-msvc", f"-fms-compatibility-version={version}", "-U__clang__"]
    command += [*STRICT, "-Wno-builtin-macro-redefined", "-Wno-language-extension-token", "-std=c11", "-ffreestanding"]
    command += ["-isystem", str(headers), *(f"-m{name}" for name in sets)]
    silently([*command, "-fsyntax-only", "network.c"], small)
    read = subprocess.run([*command, "-E", "network.c"], cwd=small, capture_output=True, text=True, check=True).stdout
    parts = re.split(r'^# \d+ "(.*?)".*$', read, flags=re.MULTILINE)  # names of files, and what is from there
    ours = "".join(part for name, part in zip(parts[1::2], parts[2::2], strict=True) if name == "network.c")
    assert not re.findall(r"__attribute__|__asm__|__atomic_\w+|__builtin_(?!ia32_)\w+|#pragma|_Pragma", ours)
    assert "avx512_vnni_kernels" in ours


@pytest.mark.parametrize("compiler", ["MinGW", "clang-cl"])
def test_windows_has_the_same_bits(
    small: Path, headers: Path, zig: dict[str, str], compiler: str, tmp_path: Path
) -> None:
    """A program of MinGW's that links the network of either compiler, in Wine."""
    need("clang-16", WINE)
    image = random_integers(SMALL, 1)[1][:1]
    (tmp_path / "main.c").write_text(ANSWERING)
    mingw = [sys.executable, "-m", "ziglang", "cc", "-target", "x86_64-windows-gnu", "-O1", f"-I{small}"]
    if compiler == "clang-cl":
        silently([*clang_cl("x86_64", headers), "/Fonetwork.obj", small / "network.c"], tmp_path)
    else:
        silently([*mingw, "-c", small / "network.c", "-o", "network.obj"], tmp_path, zig)
    alone = ["-fno-builtin", "-nostdlib", "-e", "start", "main.c", "network.obj", "-lkernel32", "-o", "main.exe"]
    silently([*mingw, *alone], tmp_path, zig)
    environment = {**os.environ, "WINEPREFIX": str(tmp_path / "wine"), "WINEDEBUG": "-all"}
    run = subprocess.run([WINE, "main.exe"], cwd=tmp_path, env=environment, input=image.tobytes(), capture_output=True)
    assert run.returncode == 0
    answers = np.frombuffer(run.stdout, [("backend", np.int32), ("logits", np.float32, len(SMALL.classes))])
    session = formats.open_session(small, threads=1)
    for backend, logits in answers:
        np.testing.assert_array_equal(logits, session(image)[0], NAMES[backend])
    assert len(answers) == len(session.engine.backends)
