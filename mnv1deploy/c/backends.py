"""The instruction sets that the generated C has kernels for: one table, from which everything that lists them comes.

A back end ``name`` is the file ``kernels/name.c``, which defines the macro ``NAME_KERNELS`` where it is compiled in and
ends with ``has_name()``, whether the processor can run it, and ``name_kernels``, a row of type Kernels. From the table
come the header's enum and the dispatch, :data:`mnv1deploy.formats.c.BACKENDS`, the tests and the table in the docs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Backend:
    """One instruction set.

    Attributes:
        name: as in MNV1_C_BACKEND and, in capitals, in the header's enum.
        processors: who has it.
        compiled: with what compilers and options it is compiled in.
        machine: of ``platform.machine()``, whose processors may have it; "" for all of them.
    """

    name: str
    processors: str
    compiled: str
    machine: str = ""

    @property
    def macro(self) -> str:
        """Defined where its kernels are compiled in."""
        return f"{self.name.upper()}_KERNELS"


BACKENDS = (
    Backend("portable", "all", "always, but where WebAssembly has SIMD"),
    Backend("avx2", "x86-64 since 2013", "gcc, clang, clang-cl, MSVC; chosen when it runs", "x86_64"),
    Backend(
        "avx_vnni",
        "Intel Core since the 12th generation, AMD since Zen 5",
        "gcc 11, clang 12, clang-cl, MSVC 2022; chosen when it runs",
        "x86_64",
    ),
    Backend(
        "avx512_vnni", "Intel since 2019, AMD since Zen 4", "gcc, clang, clang-cl, MSVC; chosen when it runs", "x86_64"
    ),
    Backend("amx_int8", "Intel Xeon since 2023", "gcc 11, clang 12, on Linux; chosen when it runs", "x86_64"),
    Backend("neon", "64-bit Arm: Raspberry Pi 3 and 4", "gcc, clang, clang-cl", "aarch64"),
    Backend(
        "neon_dotprod",
        "64-bit Arm since Cortex-A55 and A76: Raspberry Pi 5, Apple silicon",
        "gcc 10, clang 16; chosen when it runs on Linux, macOS, Windows; elsewhere with `-march=armv8.2-a+dotprod`",
        "aarch64",
    ),
    Backend(
        "neon_i8mm",
        "64-bit Arm since Cortex-A510 and A710, Apple M2, Neoverse V1",
        "the same, with `-march=armv8.6-a`",
        "aarch64",
    ),
    Backend(
        "rvv", "RISC-V with V 1.0, registers of 128 bits or more", "clang 16, gcc 14, with `-march=rv64gcv`", "riscv64"
    ),
    Backend(
        "cortex_m_dsp", "Cortex-M4, M7, M33, with or without a floating-point unit", "gcc, clang, from `-O1` on", "arm"
    ),
    Backend("helium", "Cortex-M55, M85", "the same, with `-mfloat-abi=hard` or `softfp`", "arm"),
    Backend("wasm_simd128", "browsers since 2021 (Safari 2023), node 16", "clang, with `-msimd128`", "wasm32"),
)
"""A later one is taken where the processor has it: among those of one machine the order is that of speed."""

NAMES = tuple(backend.name for backend in BACKENDS)


def table() -> str:
    """Of the docs, in Markdown."""
    rows = (f"| `{backend.name}` | {backend.processors} | {backend.compiled} |" for backend in BACKENDS)
    return "\n".join(["| instruction set | processors | compiled in |", "| --- | --- | --- |", *rows])


def enum(prefix: str) -> str:
    """Lines of the header's enum: ``prefix`` in capitals and the names."""
    return "\n".join(f"    {prefix.upper()}_{name.upper()}," for name in NAMES)


def dispatch() -> str:
    """Lines of the array of kernels, by the enum's numbers."""
    return "\n".join(_dispatch())


def _dispatch() -> Iterator[str]:
    for backend in BACKENDS:
        yield from (f"#ifdef {backend.macro}", f"    &{backend.name}_kernels,", "#else", "    NULL,", "#endif")
