"""Measures the web format against other runtimes of the web, in headless Chromium and in node, on one thread.

    python scripts/measure.py web     # writes docs/measurements.json and the figures of README and docs/formats/web.md

It takes four minutes. Of each engine: the first answer in a browser that has nothing of it (fetching from this machine,
compiling, one picture), what it fetched for that, and a picture's latency, all engines in turns in one page.
scripts/web_engines.js says how each is run; npm brings them, in the versions named here.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from browser import chromium, npm, served  # noqa: E402

from mnv1deploy import exporting  # noqa: E402
from mnv1deploy.artifact import Precision  # noqa: E402
from mnv1deploy.spec import CIFAR, ModelSpec  # noqa: E402

PACKAGES = {
    "onnxruntime-web": "1.30.0",
    "@litertjs/core": "2.5.3",
    "@tensorflow/tfjs": "4.22.0",
    "@tensorflow/tfjs-backend-wasm": "4.22.0",
}
SMALL = CIFAR.scaled(0.25).replace(name="small", input_size=96)
NETWORKS: dict[str, ModelSpec | None] = {"the bundled network": None, "96 x 96, width 0.25": SMALL}
FILES: tuple[tuple[str, Precision, str], ...] = (
    ("web", "int8", "int8.web"),
    ("onnx", "int8", "int8.onnx"),
    ("onnx", "fp32", "fp32.onnx"),
    ("litert", "int8", "int8.tflite"),
)
LOADS, ROUNDS = 3, 60

PAGE = """<!doctype html><title>engines</title><link rel="icon" href="data:,">
<script type="importmap">{"imports": {"@litertjs/core": "/node_modules/@litertjs/core/dist/index.js",
"@litertjs/wasm-utils": "/node_modules/@litertjs/wasm-utils/dist/index.js"}}</script>"""

FETCHED = """() => performance.getEntriesByType("resource")
  .filter(({ name }) => !name.endsWith("engines.js")).reduce((sum, entry) => sum + entry.decodedBodySize, 0)"""


def _export(spec: ModelSpec | None, folder: Path) -> dict[str, Any]:
    """What the engines are given of a network, whose files are written into ``folder``."""
    found = CIFAR if spec is None else spec
    for format, precision, name in FILES:
        with tempfile.TemporaryDirectory() as temporary:
            (exported,) = exporting.export(format, precision, untrained=spec, output=temporary)
            shutil.move(exported.path, folder / name)
    _fix_batch(folder / "int8.tflite")
    layers = [
        {"kind": layer.kind, "kernel": layer.kernel, "stride": layer.stride, "outputs": layer.out_channels}
        for layer in found.layers()
    ]
    return {"folder": folder.name, "shape": found.pixels.shape, "layers": layers}


def _fix_batch(path: Path) -> None:
    """LiteRT.js takes no tensor for an input whose batch the file leaves open."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(path.read_bytes()))
    for tensor in model.subgraphs[0].tensors:
        tensor.shapeSignature = None
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))


def _in_node(root: Path, network: dict[str, Any]) -> dict[str, list[float]]:
    script = f"""
      import {{ latencies }} from "./scripts/engines.js";
      console.log(JSON.stringify(await latencies({json.dumps(network)}, {ROUNDS})));
    """
    command = ["node", "--input-type=module", "-e", script]
    return json.loads(subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout)


def measure(on_progress: Callable[[str], None] = print) -> tuple[list[dict[str, Any]], list[str]]:
    """A row per network, place and engine: milliseconds of a picture and of the first answer, bytes fetched."""
    rows = []
    node = subprocess.run(["node", "--version"], check=True, capture_output=True, text=True).stdout.strip()
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        (root / "node_modules").symlink_to(npm(**PACKAGES) / "node_modules")
        (root / "page.html").write_text(PAGE, "utf-8")
        (root / "scripts").mkdir()
        shutil.copy(ROOT / "scripts" / "web_engines.js", root / "scripts" / "engines.js")
        with served(root) as address:
            for number, (title, spec) in enumerate(NETWORKS.items()):
                on_progress(f"exporting {title}")
                (root / f"network{number}").mkdir()
                network = _export(spec, root / f"network{number}")
                with chromium() as browser:

                    def call(text: str, browser: Any = browser) -> tuple[Any, int]:
                        """What a page of its own answers, nothing being cached, and the bytes that it fetched."""
                        context = browser.new_context()
                        page = context.new_page()
                        page.goto(f"{address}/page.html")
                        page.evaluate("() => performance.setResourceTimingBufferSize(1000)")
                        script = f'const m = await import("/scripts/engines.js"); {text}'
                        answer = page.evaluate(f"async () => {{ {script} }}")
                        fetched = page.evaluate(FETCHED)
                        context.close()
                        return answer, fetched

                    on_progress(f"{title} in Chromium {browser.version}")
                    found, _ = call(f"return m.latencies({json.dumps(network)}, {ROUNDS});")
                    expected = None
                    for engine, times in found.items():
                        text = f"return m.first({json.dumps(engine)}, {json.dumps(network)});"
                        loads = [call(text) for _ in range(LOADS)]
                        logits = loads[0][0]["logits"]
                        expected = expected or logits
                        rows.append(
                            {
                                "network": title,
                                "place": f"Chromium {browser.version.partition('.')[0]}",
                                "engine": engine,
                                "p50": median(times),
                                "first": median(answer["milliseconds"] for answer, _ in loads),
                                "fetched": loads[0][1],
                                "same_bits": logits == expected,
                            }
                        )
                on_progress(f"{title} in node {node}")
                for engine, times in _in_node(root, network).items():
                    rows.append({"network": title, "place": f"node {node[1:]}", "engine": engine, "p50": median(times)})
    packages = ", ".join(f"{name} {version}" for name, version in PACKAGES.items())
    return rows, [f"Chromium and node, one thread, in turns: {packages}"]


if __name__ == "__main__":
    for row in measure()[0]:
        print(json.dumps(row))
