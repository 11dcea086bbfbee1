"""The web format where it is meant to run: Chromium, Firefox, a worker, vite, tsc and node."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import browser as browsers
import numpy as np
import pytest
from conftest import ROOT, shared
from PIL import Image
from playwright.sync_api import expect
from test_c import write
from test_serve import serving
from test_web import OVER_THE_WIRE

from mnv1deploy import formats, images
from mnv1deploy.classifier import load
from mnv1deploy.confidence import probabilities
from mnv1deploy.quantization import Quantization
from mnv1deploy.spec import CIFAR

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not all(map(shutil.which, (browsers.CHROMIUM, "node", "npm"))),
        reason="no chromium, node and npm; scripts/install_browser brings them",
    ),
]

EXAMPLES = ROOT / "examples"
PHOTOGRAPHS = ("cat.png", "airplane.webp", "truck.jpg")
PACKAGES = {"axe-core": "4.14.1", "typescript": "5.9.3", "vite": "6.4.6"}
RUNTIMES = {"bun": "1.4.5", "deno": "2.9.6"}
DRIVER = {"puppeteer-core": "24.43.1"}

NO_ICON = '<link rel="icon" href="data:,">'

CONSUMER = """
import { decode, load, simd, type Answer, type Classifier } from "mobilenetv1-cifar10";

const network: Classifier = await load();
const colours: 1 | 3 = network.colours;
export const answer = async (file: File): Promise<Answer[]> => network.classify(await decode(file), 3);
export const many = (all: ImageData[]): string[] => network.classifyAll(all).map(([first]) => first!.label);
const logits: Float32Array = network.logits(new Uint8Array(network.size ** 2 * colours));
Object.assign(globalThis, { found: [...logits], simd, network });
"""

WORKER = """
import { load, decode } from "/net_int8.web/index.js";
onmessage = async ({ data }) => postMessage([...(await load()).logits(await decode(data))]);
"""


def y4m(picture: Path, path: Path) -> None:
    """One frame of video, for the camera that Chromium plays."""
    pixels = np.asarray(Image.open(picture).convert("YCbCr").resize((320, 240)))
    planes = [pixels[..., 0], pixels[::2, ::2, 1], pixels[::2, ::2, 2]]
    content = b"YUV4MPEG2 W320 H240 F10:1 Ip A1:1 C420jpeg\n"
    path.write_bytes(content + b"".join([b"FRAME\n", *(plane.tobytes() for plane in planes)]))


@pytest.fixture(scope="module")
def site(integers: Quantization) -> Path:
    """A static host's files: the exported folder, a bundled application, a worker, pictures."""
    return shared("the site of the browser's tests", lambda root: make_site(integers, root))


def make_site(integers: Quantization, root: Path) -> None:
    folder = write("web", integers, root, symbols=CIFAR.name)
    packages = browsers.npm(**PACKAGES)
    project = root / "project"
    project.mkdir()
    (project / "package.json").write_text('{"private": true, "type": "module"}')
    packed = run(["npm", "pack", "--silent", str(folder)], project)
    run(["npm", "install", "--silent", "--offline", "--no-audit", "--no-fund", f"./{packed.strip()}"], project)
    (project / "main.ts").write_text(CONSUMER)
    (project / "index.html").write_text(f'{NO_ICON}<script type="module" src="./main.ts"></script>')
    strict = ["--strict", "--noEmit", "--target", "es2022", "--module", "esnext", "--moduleResolution", "bundler"]
    libraries = ["--lib", "es2022,dom,dom.iterable", "--noUncheckedIndexedAccess", "main.ts"]
    run([str(packages / "node_modules" / ".bin" / "tsc"), *strict, *libraries], project)
    vite = ["build", "--target", "es2022", "--base", "./", "--logLevel", "warn"]
    run([str(packages / "node_modules" / ".bin" / "vite"), *vite], project)
    shutil.copytree(project / "dist", root / "dist")
    shutil.copy(packages / "node_modules" / "axe-core" / "axe.min.js", root)
    (root / "worker.js").write_text(WORKER)
    (root / "plain.html").write_text(f"<!doctype html><title>plain</title>{NO_ICON}")
    for name in PHOTOGRAPHS:
        shutil.copy(EXAMPLES / name, root)
    (root / "broken.png").write_bytes((EXAMPLES / "cat.png").read_bytes()[:100])
    (root / "notes.txt").write_text("no picture")
    y4m(EXAMPLES / "cat.png", root / "camera.y4m")


BROTLI = """
import { readFileSync } from "node:fs";
import { brotliCompressSync } from "node:zlib";
const sizes = process.argv.slice(1).map((file) => brotliCompressSync(readFileSync(file)).length);
console.log(sizes.reduce((a, b) => a + b));
"""


def test_the_page_and_all_it_loads_is_290_kb_in_brotli(site: Path) -> None:
    command = ["node", "--input-type=module", "-e", BROTLI, *OVER_THE_WIRE]
    assert int(run(command, site / "net_int8.web")) <= 290_000


def run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "warn" not in (done.stdout + done.stderr).lower(), done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    with browsers.served(site) as found:
        yield found


@pytest.fixture(scope="module")
def browser(site: Path) -> Iterator["Browser"]:
    camera = f"--use-file-for-fake-video-capture={site / 'camera.y4m'}"
    with browsers.chromium("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream", camera) as found:
        yield found


@pytest.fixture
def page(browser: "Browser") -> Iterator["Page"]:
    """A page that may neither print nor raise anything."""
    found, said = browser.new_page(), []
    found.on("console", lambda message: said.append(message.text))
    found.on("pageerror", lambda error: said.append(str(error)))
    yield found
    found.close()
    assert said == []


def open_page(page: "Page", address: str) -> None:
    page.goto(f"{address}/net_int8.web/index.html")
    expect(page.locator("#status")).to_be_empty()


LOGITS = """async ([name, module]) => {
  const { decode, load } = await import("/net_int8.web/index.js");
  const network = await load(module && `/net_int8.web/${module}`);
  const picture = await decode(await (await fetch(`/${name}`)).blob());
  const logits = [...network.logits(picture)];
  const raw = [...network.logits(network.pixels(picture))];
  const [[first]] = network.classifyAll([picture], 1);
  return { logits, raw, label: first.label, probability: first.probability };
}"""


@pytest.mark.parametrize("module", [None, "mobilenetv1-plain.wasm"])
def test_the_photographs_have_pythons_logits(page: "Page", address: str, site: Path, module: str | None) -> None:
    page.goto(f"{address}/plain.html")
    check_logits({name: page.evaluate(LOGITS, [name, module]) for name in PHOTOGRAPHS}, site)


def check_logits(answers: dict[str, Any], site: Path) -> None:
    """That a browser says of the photographs what Python does."""
    session = formats.open_session(site / "net_int8.web")
    assert list(answers) == list(PHOTOGRAPHS)
    for name, found in answers.items():
        (expected,) = session(images.read(EXAMPLES / name, session.spec.pixels)[None])
        logits = np.array(found["logits"], np.float32)
        if name.endswith(".png"):
            np.testing.assert_array_equal(logits, expected)
        else:  # decoders differ
            np.testing.assert_allclose(logits, expected, atol=0.2)
        assert found["raw"] == found["logits"]
        assert found["label"] == name.partition(".")[0] == session.spec.classes[int(expected.argmax())]
        probability = probabilities(logits[None], session.spec.temperature).max()
        assert found["probability"] == pytest.approx(probability, abs=1e-6)


def test_a_worker_has_the_same_logits(page: "Page", address: str) -> None:
    page.goto(f"{address}/plain.html")
    found = page.evaluate("""async () => {
      const worker = new Worker("/worker.js", { type: "module" });
      const answer = new Promise((done) => (worker.onmessage = ({ data }) => done(data)));
      worker.postMessage(await (await fetch("/cat.png")).blob());
      return await answer;
    }""")
    assert found == page.evaluate(LOGITS, ["cat.png", None])["logits"]


def test_a_bundled_application_and_node_have_pythons_logits(page: "Page", address: str, site: Path) -> None:
    session = formats.open_session(site / "net_int8.web")
    (expected,) = session(np.zeros((1, *session.spec.pixels.shape), np.uint8)).tolist()
    page.goto(f"{address}/dist/index.html")
    page.wait_for_function("globalThis.found")
    assert page.evaluate("globalThis.simd") is True
    assert page.evaluate("globalThis.found") == expected
    script = """
      import { load } from "mobilenetv1-cifar10";
      const network = await load();
      const refused = [];
      for (const wrong of [new Uint8Array(5), {}, null, undefined, new Uint8Array(0)])
        try { network.logits(wrong); } catch (error) { refused.push(error.message); }
      const data = new Uint8Array(64 * 48 * 4).fill(255);
      console.log(JSON.stringify({
        two: [...network.logits(new Uint8Array(2 * 3072))],
        scaled: [...network.pixels({ data, width: 64, height: 48 })].every((value) => value === 255),
        labels: network.labels, refused,
      }));
    """
    found = json.loads(run(["node", "--input-type=module", "-e", script], site / "project"))
    assert found["two"] == expected * 2
    assert found["scaled"] is True
    assert found["labels"] == list(session.spec.classes)
    assert found["refused"] == [
        "Raw pixels are 32 x 32 x 3 bytes a picture; these are 5.",
        *["This is no picture, or one that has not arrived yet."] * 3,
        "Raw pixels are 32 x 32 x 3 bytes a picture; these are 0.",
    ]


@pytest.mark.parametrize("runtime", [["bun", "run"], ["deno", "run", "--allow-read"]], ids=lambda words: words[0])
def test_other_runtimes_have_pythons_logits(runtime: list[str], site: Path, tmp_path: Path) -> None:
    session = formats.open_session(site / "net_int8.web")
    pixels = np.arange(3 * 32 * 32, dtype=np.uint8).reshape(1, 32, 32, 3)
    (tmp_path / "main.mjs").write_text(f"""
      import {{ load, simd }} from "{(site / "net_int8.web" / "index.js").as_uri()}";
      const network = await load();
      console.log(JSON.stringify([simd, ...network.logits(Uint8Array.from({{ length: 3072 }}, (_, i) => i))]));
    """)
    program = browsers.npm(**RUNTIMES) / "node_modules" / ".bin" / runtime[0]
    found = json.loads(run([str(program), *runtime[1:], "main.mjs"], tmp_path))
    assert found == [True, *session(pixels)[0].tolist()]


IN_FIREFOX = """
import puppeteer from "puppeteer-core";
const [executablePath, address, logits, pictures, files] = process.argv.slice(1);
const camera = { "media.navigator.streams.fake": true, "media.navigator.permission.disabled": true };
const browser = await puppeteer.launch({ browser: "firefox", executablePath, extraPrefsFirefox: camera });
try {
  const page = await browser.newPage();
  const said = [];
  page.on("console", (message) => said.push(message.text()));
  page.on("pageerror", (error) => said.push(error.message));
  await page.goto(`${address}/net_int8.web/index.html`);
  await page.waitForFunction("document.querySelector('#status').textContent === ''");
  const found = {};
  for (const name of JSON.parse(pictures))
    found[name] = await page.evaluate(`(${logits})(${JSON.stringify([name, null])})`);
  await (await page.$("#files")).uploadFile(...JSON.parse(files));
  await page.waitForFunction("document.querySelector('#status').className === 'wrong'");
  const text = (selector) => page.$eval(selector, (element) => element.innerText);
  const [label, status] = [await text("#label"), await text("#status")];
  await page.click("#camera");
  await page.waitForFunction("document.querySelector('#name').textContent === 'The camera'");
  console.log(JSON.stringify({ found, label, status, said }));
} finally {
  await browser.close();
}
"""


@pytest.mark.skipif(not browsers.firefox(), reason="no Firefox; scripts/install_browser brings it")
def test_firefox_has_pythons_logits_and_shows_the_page(address: str, site: Path) -> None:
    files = [str(site / name) for name in ("cat.png", "notes.txt", "broken.png")]
    words = [str(browsers.firefox()), address, LOGITS, json.dumps(PHOTOGRAPHS), json.dumps(files)]
    command = ["node", "--input-type=module", "-e", IN_FIREFOX, *words]
    answer = json.loads(run(command, browsers.npm(**DRIVER)))
    check_logits(answer["found"], site)
    assert answer["label"].startswith("cat, ")
    # unlike Chromium it decodes what there is of a picture that is cut short
    assert answer["status"] == "2 of 3 pictures.\nnotes.txt cannot be decoded as a picture here."
    assert answer["said"] == []


def test_the_page_answers_and_says_what_it_cannot_decode(page: "Page", address: str, site: Path) -> None:
    open_page(page, address)
    files = [*PHOTOGRAPHS, "notes.txt", "broken.png"]
    page.set_input_files("#files", [site / name for name in files])
    expect(page.locator("#status")).to_contain_text("broken.png")
    assert page.inner_text("#status").splitlines() == [
        "3 of 5 pictures.",
        "notes.txt cannot be decoded as a picture here.",
        "broken.png cannot be decoded as a picture here.",
    ]
    assert page.inner_text("#label").startswith("cat, ")
    assert page.locator("#bars li").count() == 5
    assert "ms for the network" in page.inner_text("#time")
    assert page.evaluate("[seen.width, seen.height]") == [32, 32]
    assert page.get_attribute("#label", "aria-live") == "polite"
    page.locator("#list button").nth(2).focus()
    page.keyboard.press("Enter")
    expect(page.locator("#label")).to_contain_text("truck, ")
    assert page.inner_text("#name") == "truck.jpg"
    for scheme in ("light", "dark"):
        for width in (1100, 390):
            page.emulate_media(color_scheme=scheme)
            page.set_viewport_size({"width": width, "height": 800})
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (scheme, width)
            page.evaluate((site / "axe.min.js").read_text("utf-8"))
            assert page.evaluate("axe.run().then((found) => found.violations)") == [], (scheme, width)


def test_pictures_are_dropped_and_pasted(page: "Page", address: str) -> None:
    open_page(page, address)
    for kind, holder in (("drop", "DragEvent"), ("paste", "ClipboardEvent")):
        page.evaluate(
            """async ([kind, holder, name]) => {
              const data = new DataTransfer();
              data.items.add(new File([await (await fetch(`/${name}`)).blob()], name));
              const options = { bubbles: true, cancelable: true, dataTransfer: data, clipboardData: data };
              document.body.dispatchEvent(new globalThis[holder](kind, options));
            }""",
            [kind, holder, "cat.png" if kind == "drop" else "truck.jpg"],
        )
        expect(page.locator("#label")).to_contain_text("cat, " if kind == "drop" else "truck, ")


def test_the_camera_is_classified(page: "Page", address: str) -> None:
    open_page(page, address)
    page.click("#camera")
    expect(page.locator("#label")).to_contain_text("cat, ")
    assert page.inner_text("#camera") == "Stop the camera"
    page.click("#camera")
    assert page.inner_text("#camera") == "Start the camera"
    assert page.evaluate("video.srcObject") is None


def test_a_page_opened_as_a_file_says_what_to_do(browser: "Browser", site: Path) -> None:
    page = browser.new_page()
    page.goto((site / "net_int8.web" / "index.html").as_uri())
    page.wait_for_selector("text=python -m http.server")
    page.close()


def test_the_page_of_a_server_sends_it_files(browser: "Browser", site: Path) -> None:
    """The answers are those of predict, to the file and not to what a browser makes of it."""
    classifier = load()
    with serving({"net": classifier}) as address:
        page = browser.new_page()
        page.goto(f"http://{address}")
        expect(page.locator("#status")).to_be_empty()
        page.set_input_files("#files", [site / name for name in (*PHOTOGRAPHS, "broken.png")])
        expect(page.locator("#status")).to_contain_text("broken.png cannot be decoded")
        found = page.locator("#list button strong").all_inner_texts()
        expected = [classifier.predict(site / name) for name in PHOTOGRAPHS]
        assert [text.replace("\u00a0", " ") for text in found] == [
            f"{answer.label}, {100 * answer.probability:.1f} %" for answer in expected
        ]
        assert page.locator("#seen").is_hidden()
        assert re.fullmatch(r"\d+\.\d ms until the server's answer", page.inner_text("#time"))
        page.click("#camera")
        expect(page.locator("#name")).to_have_text("The camera")
        expect(page.locator("#label")).to_contain_text("cat, ")
        page.close()


def test_a_server_of_a_web_folder_has_its_page(browser: "Browser", site: Path) -> None:
    with serving({"int8": load(), "web": load(site / "net_int8.web")}) as address:
        page, asked = browser.new_page(), []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"http://{address}")
        expect(page.locator("#status")).to_be_empty()
        page.set_input_files("#files", site / "cat.png")
        expect(page.locator("#label")).to_contain_text("cat, ")
        assert "stay on this device" in page.inner_text("header")
        assert not any("classify" in url for url in asked)
        page.close()


def test_nothing_but_its_own_files_is_asked_for(browser: "Browser", address: str) -> None:
    page, asked = browser.new_page(), []
    page.on("request", lambda request: asked.append(request.url.removeprefix(f"{address}/net_int8.web/")))
    open_page(page, address)
    page.close()
    own = ["index.html", "index.js", "mobilenetv1.wasm", "page.css", "page.js"]
    assert sorted(url for url in asked if url != "data:,") == own  # the empty icon
