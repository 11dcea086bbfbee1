"""Runs the generated C on emulated processors: what it takes of flash and RAM, and how many instructions.

    python scripts/emulate_c.py artifacts/network_int8.c      # mnv1 export --format c --quantize int8 --name network
    python scripts/emulate_c.py artifacts/network_int8.c --layers Cortex-M55

Needs the packages that scripts/install_emulators names; scripts/measure.py makes the table of docs/formats/c.md of the
rows, and --write mnv1deploy/data/instructions.json, which `mnv1 export` and `choose` know, and with whose counts the
tests compare. Sizes are the linker map's. Cortex-M:
examples/cortex-m, whose clock ticks once in so many of the emulator's instructions. The others: programs for Linux;
their instructions are counted in its log of what it translates and runs.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mnv1deploy import datasets
from mnv1deploy.artifact import PROVENANCE, Provenance
from mnv1deploy.c import backends, generate
from mnv1deploy.c.frames import write as write_frames
from mnv1deploy.c.measured import TABLE
from mnv1deploy.c.plan import plan
from mnv1deploy.camera import Camera
from mnv1deploy.cost import cost
from mnv1deploy.network import MobileNetV1
from mnv1deploy.quantization import quantize
from mnv1deploy.spec import CIFAR, ModelSpec

ROOT = Path(__file__).parents[1]
BOARD = ROOT / "examples" / "cortex-m"
LAYERS = Path(__file__).with_name("emulate_layers.c")


@dataclass(frozen=True)
class CortexM:
    """A microcontroller's processor, on one of QEMU's boards.

    Attributes:
        settings: variables of the Makefile of examples/cortex-m.
        megahertz: of the board's clock; with -icount shift=0 the emulator runs 1,000 million instructions a second.
        backend: the instruction set that this processor runs the network on.
    """

    settings: tuple[str, ...]
    megahertz: int
    backend: str

    def instructions(self, ticks: int) -> int:
        """That the emulator runs in so many ticks of the board's clock."""
        return ticks * 1000 // self.megahertz


CORTEX_M = {
    "Cortex-M0": CortexM(("CPU=cortex-m0",), 25, "portable"),
    "Cortex-M3": CortexM(("CPU=cortex-m3",), 25, "portable"),
    "Cortex-M4": CortexM(("CPU=cortex-m4",), 25, "cortex_m_dsp"),
    "Cortex-M4, no FPU": CortexM(("CPU=cortex-m4", "FLOAT="), 25, "cortex_m_dsp"),
    "Cortex-M7": CortexM(("CPU=cortex-m7",), 25, "cortex_m_dsp"),
    "Cortex-M33": CortexM(("CPU=cortex-m33",), 20, "cortex_m_dsp"),
    "Cortex-M33, no FPU": CortexM(("CPU=cortex-m33", "FLOAT="), 20, "cortex_m_dsp"),
    "Cortex-M33, no DSP, no FPU": CortexM(("CPU=cortex-m33", "FLOAT=", "FEATURES=+nodsp+nofp"), 20, "portable"),
    "Cortex-M55": CortexM(("CPU=cortex-m55",), 32, "helium"),
    "Cortex-M55, no FPU": CortexM(("CPU=cortex-m55", "FLOAT="), 32, "cortex_m_dsp"),
}
"""Processors by name. A Cortex-M0's code runs on a Cortex-M3."""

ROWS = [
    (name, options)
    for name in CORTEX_M
    for options in (("-Os", "-O2", "-O3") if name in ("Cortex-M3", "Cortex-M4", "Cortex-M55") else ("-O2",))
]
"""Of the table: processors and the compiler's options."""

CROSS_COMPILER = "arm-none-eabi-gcc"


@dataclass(frozen=True)
class Linux:
    """A processor that runs Linux, or whose programs Linux's emulator runs.

    Attributes:
        compiler: of the network, with what it has to be told.
        linker: also the compiler of the rest.
        emulator: and the processor it is to be.
        backend: the instruction set that this processor runs the network on.
        sources: of the program around the network.
        bare: what both are told where there is no C library.
    """

    compiler: tuple[str, ...]
    linker: str
    emulator: tuple[str, ...]
    backend: str
    sources: tuple[Path, ...] = (Path(__file__).with_suffix(".c"),)
    bare: tuple[str, ...] = ()


ARM = "aarch64-linux-gnu-gcc"
RISC_V = "riscv64-linux-gnu-gcc"
RISC_V_32 = "riscv64-unknown-elf-gcc"
CLANG_RISC_V = (
    "clang-16",
    "--target=riscv64-linux-gnu",
    "-march=rv64gcv",
    "-isystem",
    "/usr/riscv64-linux-gnu/include",
)

LINUX = {
    "AArch64": Linux((ARM,), ARM, ("qemu-aarch64", "-cpu", "cortex-a53"), "neon"),
    "AArch64, dot products": Linux((ARM,), ARM, ("qemu-aarch64", "-cpu", "cortex-a76"), "neon_dotprod"),
    "AArch64, i8mm": Linux((ARM,), ARM, ("qemu-aarch64", "-cpu", "max"), "neon_i8mm"),
    "RISC-V 64": Linux((RISC_V,), RISC_V, ("qemu-riscv64",), "portable"),
    **{
        f"RISC-V 64, V {bits}": Linux(
            CLANG_RISC_V, RISC_V, ("qemu-riscv64", "-cpu", f"rv64,v=true,vlen={bits},vext_spec=v1.0"), "rvv"
        )
        for bits in (128, 256)
    },
    "RISC-V 32, no FPU": Linux(
        (RISC_V_32,),
        RISC_V_32,
        ("qemu-riscv32", "-cpu", "sifive-e31"),
        "portable",
        (BOARD / "main.c", BOARD / "answers.c", Path(__file__).with_name("emulate_rv32.c")),
        ("-march=rv32imc", "-mabi=ilp32", "-isystem", "/usr/include/newlib", f"-I{BOARD}"),
    ),
}
"""Processors by name. One program is for all of AArch64, which chooses when it runs. That of the ESP32-C3, which has no
floating-point unit, is linked with gcc's own library alone, and has the declarations of Arm's C library."""

STRICT = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic")


@dataclass(frozen=True)
class Run:
    """What a program gave, and what it took.

    Attributes:
        labels: class names, one per picture.
        logits: float32 ``[pictures, classes]``.
        code, constants: bytes of the network alone: instructions; weights and tables.
        flash, ram: bytes of the whole program, with its stack; 0 on Linux.
        stack: bytes of it in use at most; 0 on Linux.
        instructions: of the last picture; 0 on Linux, see count_instructions.
        backend: the instruction set in use.
    """

    labels: list[str]
    logits: NDArray[np.float32]
    code: int
    constants: int
    flash: int = 0
    ram: int = 0
    stack: int = 0
    instructions: int = 0
    backend: str = ""


def lacking(name: str) -> list[str]:
    """The programs that are not installed and without which this target cannot be run."""
    needed = (
        ("make", CROSS_COMPILER, "qemu-system-arm")
        if name in CORTEX_M
        else (LINUX[name].compiler[0], LINUX[name].linker, LINUX[name].emulator[0])
    )
    return [program for program in needed if not shutil.which(program)]


def run_cortex_m(network: Path, images: NDArray[np.uint8], name: str, folder: Path, *settings: str) -> Run:
    """Copies examples/cortex-m into ``folder`` and runs it; ``settings`` are variables of its Makefile.

    With PROGRAM=camera ``images`` are frames, and instructions those of making a picture of the last one.
    """
    *lines, last = _on_board(network, images, name, folder, *settings)
    ticks, stack, backend = map(int, re.findall(r"\d+", last))
    text = (folder / "build" / "firmware.map").read_text().partition("Linker script and memory map")[2]
    whole = {section: int(size, 16) for section, size in re.findall(r"^(\.\w+)\s+0x\w+\s+(0x\w+)", text, re.MULTILINE)}
    return Run(
        *_read(lines),
        *_sizes(text),
        flash=whole[".text"] + whole[".data"],
        ram=whole[".stack"] + whole[".data"] + whole[".bss"],
        stack=stack,
        instructions=CORTEX_M[name].instructions(ticks),
        backend=backends.NAMES[backend],
    )


def _on_board(network: Path, images: NDArray[np.uint8], name: str, folder: Path, *settings: str) -> list[str]:
    """The lines that the program writes."""
    shutil.copytree(BOARD, folder, ignore=shutil.ignore_patterns("build"))
    shutil.copy(LAYERS, folder)
    (folder / ("frames.raw" if "PROGRAM=camera" in settings else "pictures.rgb")).write_bytes(images.tobytes())
    make = ["make", "--silent", f"NETWORK={network.resolve()}", "BUILD=build", *CORTEX_M[name].settings, *settings]
    subprocess.run([*make, "firmware"], cwd=folder, check=True)
    done = subprocess.run([*make, "run"], cwd=folder, check=True, capture_output=True, text=True, timeout=300)
    return done.stdout.splitlines()


def build_linux(network: Path, name: str, folder: Path, *flags: str) -> Path:
    """Compiles a network with a program around it; returns the program, whose linker map is beside it."""
    program, objects = folder / "program", []
    target = LINUX[name]
    for source in (*target.sources, network / "network.c"):
        objects.append(folder / f"{source.stem}.o")
        command = [
            *target.compiler,
            *target.bare,
            *STRICT,
            "-O2",
            *flags,
            f"-I{network}",
            "-c",
            source,
            "-o",
            objects[-1],
        ]
        subprocess.run(command, check=True)
    libraries = ["-nostdlib", "-lgcc", "-Wl,--no-warn-rwx-segments"] if target.bare else []
    link = [target.linker, *target.bare, *flags, "-static", f"-Wl,-Map={program}.map", *objects, *libraries]
    link += ["-o", program]
    subprocess.run(link, check=True)
    return program


def run_linux(program: Path, images: NDArray[np.uint8], name: str) -> Run:
    """Runs what build_linux built."""
    pictures = program.with_name("pictures.rgb")
    pictures.write_bytes(images.tobytes())
    command = [*LINUX[name].emulator, program, pictures]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300, cwd=program.parent)
    lines = done.stdout.splitlines()
    if LINUX[name].bare:  # it says so last, as on a Cortex-M
        lines.insert(0, lines.pop().split()[-1])
    number, *lines = lines
    text = program.with_name("program.map").read_text().partition("Linker script and memory map")[2]
    return Run(*_read(lines), *_sizes(text), backend=backends.NAMES[int(number)])


def count_instructions(program: Path, image: NDArray[np.uint8], name: str) -> int:
    """What one more picture takes, reading it and writing its line included: some ten thousand."""
    file = program.with_name("pictures.rgb")
    file.write_bytes(image.tobytes() * 2)
    # every block of instructions is logged once when it is translated, and every time when it runs
    command = [*LINUX[name].emulator, "-d", "in_asm,exec,nochain", str(program), str(file)]
    output, errors = subprocess.DEVNULL, subprocess.PIPE
    lengths: dict[int, int] = {}
    traced: dict[bytes, int] = {}  # instructions by line, of which there are millions, and a few thousand different
    total, start, entry, before = 0, None, None, 0
    with subprocess.Popen(command, stdout=output, stderr=errors, cwd=file.parent) as process:
        assert process.stderr
        for line in process.stderr:
            if line in traced:
                total += traced[line]
            elif line.startswith(b"Trace"):  # Trace 0: host address [../address/..] function
                address = int(line.split(b"/", 2)[1], 16)
                if entry is None and line.endswith(b" network_run\n"):
                    entry, before = address, total
                elif address == entry:  # of the next picture
                    process.kill()
                    return total - before
                total += lengths[address]
                if address != entry:
                    traced[line] = lengths[address]
            elif line.startswith(b"IN:"):
                start = None
                traced.clear()  # an address may be translated again, to another length
            elif line.startswith(b"0x"):  # 0xaddress:  code  instruction
                if start is None:
                    start = int(line.partition(b":")[0], 16)
                    lengths[start] = 0
                lengths[start] += 1
    raise AssertionError(f"{program} does not call network_run for both pictures")


def _read(lines: list[str]) -> tuple[list[str], NDArray[np.float32]]:
    """Labels and logits of the lines that both programs write."""
    rows = [re.fullmatch(r"(.*?)((?: [0-9a-f]{8})+)", line) for line in lines]
    labels, words = zip(*(row.groups() for row in rows if row), strict=True)
    bits = np.array([[int(word, 16) for word in row.split()] for row in words], np.uint32)
    return list(labels), bits.view(np.float32)


def _sizes(text: str) -> tuple[int, int]:
    """Code and constants of network.o in a linker map."""
    parts = re.findall(r"^ (\.\S+)\s+0x\w+\s+(0x\w+) .*network\.o$", text, re.MULTILINE)
    sizes = [
        sum(int(size, 16) for section, size in parts if section.startswith(starts))
        for starts in ((".text",), (".rodata", ".srodata", ".data.rel.ro"))
    ]
    return sizes[0], sizes[1]


def compiler_version(name: str) -> str:
    """Of the compiler of this processor's networks, on which counts depend; of no other part of the machine."""
    compiler = LINUX[name].compiler[0] if name in LINUX else CROSS_COMPILER
    done = subprocess.run([compiler, "-dumpversion"], check=True, capture_output=True, text=True)
    return f"{compiler} {done.stdout.strip()}"


def pictures() -> NDArray[np.uint8]:
    """What is run; instructions are those of the last one."""
    return datasets.calibration().images[:8]


def rows(network: Path) -> Iterator[dict[str, Any]]:
    """What it takes on every processor, with every set of options: bytes and instructions; 0 where nothing is told."""
    images = pictures()
    with tempfile.TemporaryDirectory() as temporary:
        for name, options in ROWS:
            run = run_cortex_m(network, images, name, Path(temporary) / name / options, f"OPTIMIZE={options}")
            yield _row(name, options, run, run.instructions)
        for name in LINUX:
            program = build_linux(network, name, Path(tempfile.mkdtemp(dir=temporary)))
            run = run_linux(program, images, name)
            yield _row(name, "-O2", run, count_instructions(program, images[-1], name))


def spec_of(network: Path) -> ModelSpec:
    """Of an exported folder."""
    return Provenance.from_json((network / PROVENANCE).read_text("utf-8")).spec


def layer_rows(network: Path, name: str) -> Iterator[dict[str, Any]]:
    """What every layer takes of a Cortex-M; that of a depthwise one is in the pointwise one's where they are one."""
    ticks: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as temporary:
        settings = ("PROGRAM=emulate_layers", "OPTIMIZE=-O2 -DNETWORK_TRACE")
        for line in _on_board(network, pictures()[-1:], name, Path(temporary) / "board", *settings):
            layer, count = line.split()
            ticks[layer] = ticks.get(layer, 0) + int(count)
    multiply_adds = 0
    for row in cost(spec_of(network)).layers:
        multiply_adds += row.multiply_adds
        if row.name in ticks:
            instructions = CORTEX_M[name].instructions(ticks[row.name])
            yield {"processor": name, "layer": row.name, "multiply_adds": multiply_adds, "instructions": instructions}
            multiply_adds = 0


WIDTHS = (0.25, 0.5, 0.75)
"""Of the bundled network, whose counts are kept besides. Instructions hardly depend on weights: these are random."""

KINDS = ("Cortex-M0", "Cortex-M3", "Cortex-M4", "Cortex-M4, no FPU", "Cortex-M55")
"""A processor of each kind of kernels; of the others counts follow from these."""


def narrow(width: float, folder: Path) -> Path:
    """Exports the bundled network's spec at another width, with random weights."""
    spec = CIFAR.scaled(width).replace(name="network")
    torch.manual_seed(0)
    integers = quantize(MobileNetV1(spec).eval().folded(), pictures(), "")
    generate.write(folder, integers, Provenance("c", "int8", spec, "0" * 64, (), integers.facts, {}))
    return folder


def widths() -> dict[str, dict[str, int]]:
    """Instructions by processor and width."""
    found: dict[str, dict[str, int]] = {name: {} for name in KINDS}
    with tempfile.TemporaryDirectory() as temporary:
        for width in WIDTHS:
            network = narrow(width, Path(temporary) / str(width))
            for name in KINDS:
                run = run_cortex_m(network, pictures()[-1:], name, Path(temporary) / f"{name} {width}", "OPTIMIZE=-O2")
                found[name][str(width)] = run.instructions
                print(name, width, found[name][str(width)], flush=True)
    return found


PLANNED = ("Cortex-M3", "Cortex-M4", "Cortex-M55")
"""Processors on which the plans are compared."""


def plan_rows(network: Path, scratch: int) -> Iterator[dict[str, Any]]:
    """What a network takes that was exported with a plan of so much scratch."""
    with tempfile.TemporaryDirectory() as temporary:
        for name in PLANNED:
            run = run_cortex_m(network, pictures()[-1:], name, Path(temporary) / name)
            yield {"scratch": scratch, "processor": name, "ram": run.ram, "instructions": run.instructions}


CAMERAS = [f"320x240:{format}" for format in ("grey", "rgb888", "rgb565", "yuyv", "nv12")]
"""Whose frames the Cortex-M4 is given."""


def run_camera(network: Path, frames: NDArray[np.uint8], camera: Camera, folder: Path) -> Run:
    """Of a network and the frames of a camera, uint8 ``[N, bytes]``, which it need not have been exported for."""
    spec = spec_of(network)
    shutil.copytree(network, folder / "network")
    write_frames(folder / "network", camera, spec, "a network", plan(spec).scratch)
    settings = ("PROGRAM=camera", f"RAM={64 + camera.frame_bytes // 1024}K")
    return run_cortex_m(folder / "network", frames, "Cortex-M4", folder / "board", *settings)


def camera_rows(network: Path) -> Iterator[dict[str, Any]]:
    """What making the network's picture takes of a Cortex-M4, by camera."""
    with tempfile.TemporaryDirectory() as temporary:
        for text in CAMERAS:
            camera = Camera.parse(text)
            # no instruction depends on a pixel but in clipping
            frame = np.random.default_rng(0).integers(0, 256, (1, camera.frame_bytes), np.uint8)
            run = run_camera(network, frame, camera, Path(temporary) / text.replace(":", "-"))
            yield {"camera": text, "instructions": run.instructions}


def _row(name: str, options: str, run: Run, instructions: int) -> dict[str, Any]:
    sizes = {part: getattr(run, part) for part in ("code", "constants", "flash", "ram", "stack")}
    return {"processor": name, "options": options, "kernels": run.backend, **sizes, "instructions": instructions}


def committed(name: str, options: str = "-O2") -> dict[str, Any]:
    """The compiler and the count of instructions in the committed table."""
    found: dict[str, Any] = json.loads(TABLE.read_text("utf-8"))[name][options]
    return found


def main() -> None:
    """Prints a line for each."""
    parser = argparse.ArgumentParser(description="Flash, RAM and instructions of the generated C, emulated.")
    parser.add_argument("network", type=Path, help="a folder of C, exported with --name network")
    parser.add_argument(
        "--write", action="store_true", help="the counts and sizes to mnv1deploy/data/instructions.json"
    )
    parser.add_argument("--layers", choices=CORTEX_M, help="only what every layer takes, on one processor")
    arguments = parser.parse_args()
    if arguments.layers:
        for row in layer_rows(arguments.network, arguments.layers):
            print(row, flush=True)
        return
    counts: dict[str, dict[str, Any]] = {}
    for row in rows(arguments.network):
        print(row, flush=True)
        name = row["processor"]
        facts = {part: value for part, value in row.items() if part not in ("processor", "options") and value}
        counts.setdefault(name, {})[row["options"]] = {"compiler": compiler_version(name), **facts}
    facts = {"compiler": compiler_version("Cortex-M4")}
    for row in camera_rows(arguments.network):
        print(row, flush=True)
        counts.setdefault("Cortex-M4, camera", {})[row["camera"]] = {**facts, "instructions": row["instructions"]}
    for name, by_width in widths().items():
        counts[name]["-O2"]["widths"] = by_width
    if arguments.write:
        TABLE.write_text(json.dumps(counts, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
