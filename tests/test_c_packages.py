"""The exported folder in the build systems that take it, as far as they, or stand-ins for their SDKs, are here."""

import json
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import export_anew

from mnv1deploy import datasets, formats, images
from mnv1deploy.c.packages import PICTURES, picture
from mnv1deploy.camera import Camera
from mnv1deploy.device import Device
from mnv1deploy.formats.base import ForDevice, Format
from mnv1deploy.network import MobileNetV1
from mnv1deploy.spec import CIFAR, Block

SMALL = CIFAR.replace(
    name="network", input_size=16, stem=Block(20, 2), blocks=(Block(36, 2),), classes=("plain", 'a "ü" \\', "third")
)

CAMERA = Camera(40, 30, "grey")
"""Of frames without colours, which the network is to see as RGB."""

CRATES = Path("/usr/share/cargo/registry")
"""Where Debian's librust-cc-dev puts the crate that compiles C."""

MAIN = """
#include "network_selftest.h"
static uint8_t image[NETWORK_IMAGE_BYTES], scratch[NETWORK_SCRATCH];
static float logits[NETWORK_CLASSES];
int main(void) { return CALL; }
"""


def run(*command: object, cwd: Path | None = None) -> str:
    done = subprocess.run([*map(str, command)], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def need(program: str) -> None:
    if not shutil.which(program):
        pytest.skip(f"not installed: {program}; scripts/install_emulators brings it")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network, and what reads a camera's frames."""
    torch.manual_seed(0)
    pictures = datasets.resized(datasets.calibration(), SMALL.pixels).images[:16]
    place = tmp_path_factory.mktemp("packages")
    return export_anew(MobileNetV1(SMALL).eval(), "c", "int8", place, pictures, find=with_camera)


def with_camera(name: str) -> Format:
    entry = formats.get(name)
    assert isinstance(entry, ForDevice)
    return entry.for_device(Device(camera=CAMERA))


@pytest.mark.slow
def test_the_test_of_a_port_notices_a_changed_weight(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "main.c").write_text(MAIN.replace("CALL", "network_selftest(image, logits, scratch)"))
    source = (folder / "network.c").read_text()
    start = source.index("{\n", source.index("int8_t stem_weights[")) + 2
    digit = next(place for place in range(start, len(source)) if source[place].isdigit())
    changed = source[:digit] + ("1" if source[digit] != "1" else "2") + source[digit + 1 :]
    for text, right in ((source, True), (changed, False)):
        (tmp_path / "network.c").write_text(text)
        sources = [tmp_path / "main.c", tmp_path / "network.c", folder / "network_selftest.c"]
        strict = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic"]
        run("cc", *strict, f"-I{folder}", *sources, "-o", tmp_path / "main")
        assert (subprocess.run([tmp_path / "main"]).returncode == 0) is right


def test_the_pictures_of_the_test_are_drawn_alike_in_c_and_in_python(folder: Path) -> None:
    """So the logits that it expects are those of every engine."""
    pictures = np.stack([picture(number, SMALL.pixels.shape) for number in range(PICTURES)])
    logits = formats.open_session(folder)(pictures)
    text = (folder / "network_selftest.c").read_text().partition("expected[")[2].partition("};")[0]
    words = [int(word.strip(" \n{}u"), 16) for word in text.partition("= {")[2].split(",") if "0x" in word]
    assert words == logits.view(np.uint32).ravel().tolist()


@pytest.mark.slow
def test_cmake_builds_installs_and_finds_it(folder: Path, tmp_path: Path) -> None:
    """And what does not call the test of the port has none of it."""
    need("cmake")
    run("cmake", "-S", folder, "-B", tmp_path / "build", f"-DCMAKE_INSTALL_PREFIX={tmp_path / 'installed'}")
    run("cmake", "--build", tmp_path / "build")
    run("cmake", "--install", tmp_path / "build")
    user = tmp_path / "user"
    user.mkdir()
    for name, call in (
        ("tested", "network_selftest(image, logits, scratch)"),
        ("plain", "network_run(image, logits, scratch)"),
    ):
        (user / f"{name}.c").write_text(MAIN.replace("CALL", call))
    (user / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.16)\nproject(user C)\nfind_package(network 1.0 REQUIRED)\n"
        "foreach(program tested plain)\n  add_executable(${program} ${program}.c)\n"
        "  target_link_libraries(${program} network::network)\nendforeach()\n"
    )
    run("cmake", "-S", user, "-B", user / "build", f"-DCMAKE_PREFIX_PATH={tmp_path / 'installed'}")
    run("cmake", "--build", user / "build")
    run(user / "build" / "tested")
    assert "network_selftest" in run("nm", user / "build" / "tested")
    assert "network_selftest" not in run("nm", user / "build" / "plain")


SDKS = {
    "ESP-IDF": """
set(ESP_PLATFORM 1)
set(COMPONENT_LIB component)
function(idf_component_register)
  cmake_parse_arguments(GIVEN "" "" "SRCS;INCLUDE_DIRS" ${ARGN})
  list(TRANSFORM GIVEN_SRCS PREPEND "${CMAKE_CURRENT_LIST_DIR}/")
  add_library(component STATIC ${GIVEN_SRCS})
  target_include_directories(component PUBLIC ${CMAKE_CURRENT_LIST_DIR})
endfunction()
add_subdirectory(FOLDER component)
""",
    "Zephyr": """
set(CONFIG_MNV1_NETWORK y)
function(zephyr_include_directories)
  include_directories(${ARGN})
  set(INCLUDED "${CMAKE_CURRENT_LIST_DIR}/${ARGN}" PARENT_SCOPE)
endfunction()
macro(zephyr_library)
  add_library(component STATIC)
  target_include_directories(component PUBLIC ${CMAKE_CURRENT_LIST_DIR}/..)
endmacro()
function(zephyr_library_sources)
  list(TRANSFORM ARGN PREPEND "${CMAKE_CURRENT_LIST_DIR}/")
  target_sources(component PRIVATE ${ARGN})
endfunction()
function(zephyr_library_compile_options)
  target_compile_options(component PRIVATE ${ARGN})
endfunction()
add_subdirectory(FOLDER/zephyr component)
""",
}
"""What stands in for each SDK: functions of its names that build a library with what they are given."""


@pytest.mark.slow
@pytest.mark.parametrize("sdk", SDKS)
def test_another_sdks_cmake_gets_what_it_needs(folder: Path, sdk: str, tmp_path: Path) -> None:
    need("cmake")
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.16)\nproject(stand_in C)\n"
        + SDKS[sdk].replace("FOLDER", str(folder))
        + f"add_executable(main {folder}/zephyr/sample/main.c)\ntarget_link_libraries(main component)\n"
    )
    run("cmake", "-S", tmp_path, "-B", tmp_path / "build")
    run("cmake", "--build", tmp_path / "build")
    assert run(tmp_path / "build" / "main") == "the answers are right, to the last bit\n"


ARDUINO = """
#include <stdint.h>
#include <stdio.h>
#include <string.h>
struct { void begin(long) {} operator bool() { return true; } void print(const char *t) { puts(t); }
         void println(const char *t) { puts(t); } void println(unsigned long) {} } Serial;
static unsigned long millis() { return 0; }
static void delay(int) {}
#include "classify.ino"
#include <network_camera.h>
static uint8_t frame[NETWORK_FRAME_BYTES];
int main()
{
    setup();
    loop();
    network_read_frame(frame, NETWORK_FRAME_STRIDE, image, scratch);
}
"""


@pytest.mark.slow
def test_the_arduino_library_and_its_sketch_compile_for_size(folder: Path, tmp_path: Path) -> None:
    """With a stand-in for its core."""
    (tmp_path / "main.cpp").write_text(ARDUINO)
    sources = sorted((folder / "src").glob("*.c"))
    assert len(sources) == 3
    run("cc", "-Os", "-Wall", "-Wextra", "-Werror", "-I", folder / "src", "-c", *sources, cwd=tmp_path)
    includes = ["-I", folder / "src", "-I", folder / "examples" / "classify"]
    run("g++", "-Os", *includes, tmp_path / "main.cpp", *tmp_path.glob("*.o"), "-o", tmp_path / "main")
    assert run(tmp_path / "main").startswith("the answers are right, to the last bit\n")
    facts = dict(line.split("=", 1) for line in (folder / "library.properties").read_text().splitlines())
    assert all((folder / "src" / header).is_file() for header in facts["includes"].split(","))
    assert {
        "name",
        "version",
        "author",
        "maintainer",
        "sentence",
        "paragraph",
        "category",
        "url",
        "architectures",
    } <= set(facts)
    assert json.loads((folder / "library.json").read_text())["name"] == "network"


@pytest.mark.slow
@pytest.mark.parametrize("processor", ["cortex-m4 -mfloat-abi=hard", "cortex-m55 -mfloat-abi=hard", "cortex-m0"])
def test_the_arduino_library_compiles_for_microcontrollers(folder: Path, processor: str, tmp_path: Path) -> None:
    """Whose instruction sets' intrinsics the pragma must not keep from being inlined."""
    need("arm-none-eabi-gcc")
    sources = sorted((folder / "src").glob("*.c"))
    run(*f"arm-none-eabi-gcc -Os -mthumb -mcpu={processor} -Wall -Werror -c".split(), *sources, cwd=tmp_path)


FRAMES = """
#[test]
fn a_frame_becomes_the_picture_that_python_makes_of_it() {
    let (mut image, mut scratch) = ([0; network::IMAGE_BYTES], [0; network::SCRATCH]);
    network::camera::read_frame(include_bytes!("../frame.bin"), &mut image, &mut scratch);
    assert_eq!(&image, include_bytes!("../image.bin"));
}
"""


@pytest.mark.slow
def test_the_rust_crate_passes_its_own_test(folder: Path, tmp_path: Path) -> None:
    need("cargo")
    if not CRATES.exists():
        pytest.skip("not installed: the crate cc; scripts/install_emulators brings it")
    copy = shutil.copytree(folder, tmp_path / "crate")
    (copy / ".cargo").mkdir()
    (copy / ".cargo" / "config.toml").write_text(
        f'[source.crates-io]\nreplace-with = "debian"\n[source.debian]\ndirectory = "{CRATES}"\n'
    )
    frame = np.random.default_rng(0).integers(0, 256, CAMERA.frame_bytes, np.uint8)
    (copy / "frame.bin").write_bytes(frame.tobytes())
    (copy / "image.bin").write_bytes(images.read(CAMERA.decode(frame), SMALL.pixels).tobytes())
    (copy / "tests").mkdir()
    (copy / "tests" / "frames.rs").write_text(FRAMES)
    assert run("cargo", "test", "--offline", cwd=copy).count("1 passed") == 2


@pytest.mark.slow
def test_the_pack_follows_its_schema_and_names_files_that_are_there(folder: Path) -> None:
    import xmlschema

    description = folder / "mnv1deploy.network.pdsc"
    # Open-CMSIS-Pack-Spec's schema/PACK.xsd, under Apache License 2.0, as it says itself
    xmlschema.XMLSchema(Path(__file__).with_name("fixtures") / "PACK.xsd").validate(description)
    pack = ElementTree.parse(description).getroot()
    files = [entry.attrib["name"] for entry in pack.iter("file")]
    assert len(files) == 6
    assert all((folder / file).is_file() for file in files)
