"""Measures what README and docs say, and writes it there.

    python scripts/measure.py artifacts latency backends   # measures, keeps the answers in docs/measurements.json
    python scripts/measure.py                  # measures nothing: writes the figures and pictures from that file again

``latency`` and ``throughput`` are of the files that ``artifacts`` left in artifacts/measured. The runs of one name are
kept by processor, and a newer one replaces the older. Timings need a machine that does nothing else; its load at the
start is kept with them. scripts/figures.py says what becomes of the answers.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import math
import os
import pty
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import artifacts_picture
import bench_web
import figures
import ladder as ladder_script
from figures import FILE, PAGES, ROOT, Run

from mnv1deploy import bundled
from mnv1deploy.artifact import Manifest
from mnv1deploy.benchmark import artifacts_in, processor
from mnv1deploy.datasets import DATA_VARIABLE
from mnv1deploy.files import atomic

ARTIFACTS = ROOT / "artifacts" / "measured"
NEIGHBOUR = ROOT.parent / "shared" / "cifar10"

MNV1 = (sys.executable, "-m", "mnv1deploy.cli")

COLUMNS = 100
"""What a page on GitHub shows of a line."""

Answer = tuple[list[Run], list[str]]
"""The results of a run, and the commands that made them."""


def mnv1(*arguments: str, **environment: str) -> Any:
    """What a command answers as JSON."""
    command = [*MNV1, *arguments, "--json"]
    everything = {**os.environ, **environment}
    done = subprocess.run(command, capture_output=True, cwd=ROOT, env=everything, text=True, check=False)
    if not done.stdout:
        raise SystemExit(f"mnv1 {' '.join(arguments)} failed:\n{done.stderr}")
    return json.loads(done.stdout)


def shown(arguments: str, folder: Path) -> str:
    """What a command shows a person in ``folder``, on a terminal of COLUMNS; its errors, where it has no answer."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": str(COLUMNS), "TERM": "xterm"}
    command = [*MNV1, *arguments.split()]
    with subprocess.Popen(command, stdout=theirs, stderr=subprocess.PIPE, cwd=folder, env=environment) as process:
        os.close(theirs)
        assert process.stderr
        answer = b""
        with contextlib.suppress(OSError):  # Linux says so that nobody has the other end open any more
            while read := os.read(ours, 4096):
                answer += read
        os.close(ours)
        errors = process.stderr.read()
    return re.sub(r"\x1b\[[\d;]*m", "", (answer or errors).decode()).replace("\r\n", "\n")


# ---- One function for each name


def artifacts() -> Answer:
    """Every format in every precision, proved on the 10,000 test images: bytes and proof."""
    shutil.rmtree(ARTIFACTS, ignore_errors=True)
    commands = []
    for precision in ("none", "fp16", "int8"):
        for item in mnv1("export", "--format", "all", "--quantize", precision, "--output", str(ARTIFACTS)):
            if item["failures"]:
                raise SystemExit(f"{item['path']}: {'; '.join(item['failures'])}")
        commands.append(f"mnv1 export --format all --quantize {precision}")
    results = []
    for path in artifacts_in(ARTIFACTS):
        manifest = Manifest.read(path)
        assert manifest
        facts = manifest.to_dict()
        made = {part: facts["provenance"][part] for part in ("format", "precision")}
        results.append({"artifact": path.name, **made, "bytes": manifest.bytes, "proof": facts["proof"]})
    return results, commands


def latency() -> Answer:
    """Of one picture on one thread, all artifacts taking turns in one run: p50 in microseconds."""
    bench = mnv1("bench", "--all", str(ARTIFACTS), "--threads", "1")
    results = [{"artifact": row["artifact"], "p50": 1000 * row["p50"]} for row in bench["results"]]
    return results, ["mnv1 bench --all --threads 1"]


def throughput() -> Answer:
    """Images per second of int8 in batches of 1,024 on two threads."""
    suffixes = (".onnx", ".c", ".xml", ".tflite", ".pte")
    chosen = [str(ARTIFACTS / f"mobilenetv1_cifar10_int8{suffix}") for suffix in suffixes]
    bench = mnv1("bench", *chosen, "--threads", "2", "--batch-size", "1024")
    rows = [{"artifact": row["artifact"], "images_per_second": row["images_per_second"]} for row in bench["results"]]
    return rows, ["mnv1 bench --threads 2 --batch-size 1024"]


LOADGEN_SECONDS = 30
"""Of each of 16 runs; MLPerf's rule is 600, which $MNV1_LOADGEN_SECONDS can say."""


def loadgen() -> Answer:
    """MLPerf's scenarios by LoadGen: int8 on one thread in four engines, of ``artifacts``. A quarter of an hour."""
    seconds = os.environ.get("MNV1_LOADGEN_SECONDS", str(LOADGEN_SECONDS))
    suffixes = (".c", ".onnx", ".xml", ".tflite")
    chosen = [str(ARTIFACTS / f"mobilenetv1_cifar10_int8{suffix}") for suffix in suffixes]
    results, commands = [], []
    for scenario in ("single-stream", "multi-stream", "server", "offline"):
        command = ("bench", "--scenario", scenario, "--threads", "1", "--min-duration", seconds)
        with tempfile.TemporaryDirectory() as folder:
            answer = mnv1(*command, "--logs", folder, *chosen)
            exact = mnv1(*command, "--logs", folder, "--accuracy", *chosen)
        for row, right in zip(answer["results"], exact["results"], strict=True):
            kept = {key: row[key] for key in ("artifact", "valid", "unmet", "metric", "value")}
            rules = answer["settings"]["keeps_the_rules"]
            results.append({"scenario": scenario, **kept, "top1": right["top1"], "rules": rules, "seconds": seconds})
        commands.append(f"mnv1 {' '.join(command)}")
    return results, commands


def tiny() -> Answer:
    """MLPerf Tiny's 200 pictures; $MNV1_TINY is the file of its reference."""
    import mlperf_tiny

    return list(mlperf_tiny.rows(Path(os.environ["MNV1_TINY"]))), ["python scripts/mlperf_tiny.py $MNV1_TINY"]


def ladder() -> Answer:
    """The bundled checkpoints by width; $MNV1_TINY is the file of MLPerf Tiny's reference."""
    return list(ladder_script.rows(Path(os.environ["MNV1_TINY"]))), ["python scripts/ladder.py $MNV1_TINY"]


def sizes() -> Answer:
    """A larger and a smaller network: what their export takes, and the p50 of every engine."""
    import sizes as script

    return [row for network in script.NETWORKS for row in script.rows(*network)], ["python scripts/sizes.py"]


def used(*command: str) -> tuple[float, float]:
    """The processor time in seconds and the peak memory in MiB of a program and of those that it started."""
    code = (
        "import resource, subprocess, sys\n"
        "status = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL)\n"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "print(used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)\n"
        "sys.exit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *command], stdout=subprocess.PIPE, cwd=ROOT, text=True, check=True
    )
    seconds, mebibytes = map(float, done.stdout.split())
    return seconds, mebibytes


def startup() -> Answer:
    """One picture, from the start of the process to its end: the least processor time of ten turns, in seconds."""
    picture = str(ROOT / "examples" / "cat.png")
    programs = {
        f"mnv1 predict {Path(picture).name}": (*MNV1, "predict", picture),
        "python scripts/bare_predict.py examples/cat.png": (sys.executable, "scripts/bare_predict.py", picture),
    }
    turns = [{name: used(*command)[0] for name, command in programs.items()} for _ in range(10)]
    return [{"program": name, "seconds": min(turn[name] for turn in turns)} for name in programs], list(programs)


def backends() -> Answer:
    """The C on every instruction set that this processor has: the least p50 of three runs by turns, in microseconds."""
    from mnv1deploy.formats.base import CPU
    from mnv1deploy.formats.c import BACKEND_VARIABLE, CFormat

    artifact = ARTIFACTS / "mobilenetv1_cifar10_int8.c"
    p50: dict[str, float] = {}
    for name in 3 * CFormat().open(artifact, provider=CPU, threads=1).backends:
        bench = mnv1("bench", str(artifact), "--threads", "1", "--duration", "0.5", **{BACKEND_VARIABLE: name})
        p50[name] = min(1000 * bench["results"][0]["p50"], p50.get(name, math.inf))
    return [{"backend": name, "p50": least} for name, least in p50.items()], [
        f"{BACKEND_VARIABLE}={name} mnv1 bench artifacts/{artifact.name} --threads 1" for name in p50
    ]


@contextlib.contextmanager
def exported_c() -> Iterator[Path]:
    """The bundled network's C, in a folder that goes afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        mnv1("export", "--format", "c", "--quantize", "int8", "--name", "network", "--output", folder)
        yield Path(folder) / "network_int8.c"


def profile() -> Answer:
    """What every layer of the C takes on this processor, and the least that it could, in microseconds."""
    import profile_c

    with exported_c() as network:
        results = list(profile_c.rows(network))
    return results, ["python scripts/profile_c.py artifacts/network_int8.c"]


def emulation() -> Answer:
    """What the C takes on processors that are emulated."""
    import emulate_c

    with exported_c() as network:
        results = list(emulate_c.rows(network))
    return results, ["python scripts/emulate_c.py artifacts/network_int8.c"]


def layers() -> Answer:
    """What every layer of the C takes of a kind of microcontroller each."""
    import emulate_c

    with exported_c() as network:
        kinds = emulate_c.PLANNED
        results = [row for name in kinds for row in emulate_c.layer_rows(network, name)]
    return results, [f"python scripts/emulate_c.py artifacts/network_int8.c --layers {name}" for name in kinds]


def plans() -> Answer:
    """What the C takes of RAM and instructions with each of its plans."""
    import emulate_c

    from mnv1deploy.c.fitting import needs
    from mnv1deploy.c.plan import plans as all_plans
    from mnv1deploy.spec import CIFAR

    results, commands = [], []
    for buffers in all_plans(CIFAR):
        ram = min(row.ram for row in needs(CIFAR, buffers))
        command = f"export --format c --quantize int8 --name network --ram {ram}"
        with tempfile.TemporaryDirectory() as folder:
            mnv1(*command.split(), "--output", folder)
            results += emulate_c.plan_rows(Path(folder) / "network_int8.c", buffers.scratch)
        commands.append(f"mnv1 {command}")
    return results, commands


def cameras() -> Answer:
    """What it takes of a Cortex-M4 to make the network's picture of a camera's frame."""
    import emulate_c

    with exported_c() as network:
        results = list(emulate_c.camera_rows(network))
    return results, ["python scripts/emulate_c.py artifacts/network_int8.c"]


def schemes() -> Answer:
    """What each step of quantization gives, on the training images that training held out."""
    from dataclasses import asdict

    from mnv1deploy.quantization import DEFAULT

    results = [
        {**row["scheme"], **row["deviation"], "default": row["scheme"] == asdict(DEFAULT)}
        for row in mnv1("quantize-report", "--compare")["trials"]
    ]
    return results, ["mnv1 quantize-report --compare"]


def evidence() -> Answer:
    """What int8 is worth by the pictures that it was calibrated on, good ones and useless ones."""
    import calibrations

    return calibrations.rows(), ["python scripts/calibrations.py"]


def few_pictures() -> Answer:
    """What training makes of few pictures, half an hour: CIFAR-10's, and those of the folders in $MNV1_FOLDERS."""
    import few_pictures as script

    names = [*filter(None, os.environ.get("MNV1_FOLDERS", "").split(os.pathsep)), "two"]
    shown = " ".join(Path(name).name for name in names)
    return [row for name in names for row in script.rows(name)], [f"python scripts/few_pictures.py {shown}"]


def trained() -> Answer:
    """The runs whose logs are in models/."""
    import training_runs as script

    return list(script.rows("shipped")), ["python scripts/training_runs.py shipped"]


def tried() -> Answer:
    """What was tried on the way to them."""
    import training_runs as script

    return list(script.rows("tried")), ["python scripts/training_runs.py tried"]


def classes() -> Answer:
    """How much of every class of the test split the bundled checkpoint gets right, as fractions."""
    evaluation = mnv1("evaluate", str(bundled.CHECKPOINT))
    return [evaluation["classes"]], ["mnv1 evaluate models/mobilenetv1_cifar10.safetensors"]


def confidence() -> Answer:
    """How far the bundled checkpoint's probabilities are off, on the pictures held out and on the test split."""
    from mnv1deploy import datasets, formats, verification

    session = formats.open_session(bundled.CHECKPOINT)
    results = []
    for pictures in (datasets.load_unseen(None, session.spec.pixels), datasets.load_test(None, session.spec.pixels)):
        found = verification.evaluate(session, pictures)
        results.append(
            {
                "images": len(pictures),
                "on": pictures.name,
                "temperature": found.temperature,
                "before": found.calibration_error(1.0),
                "after": found.calibration_error(),
            }
        )
    return results, ["mnv1 evaluate models/mobilenetv1_cifar10.safetensors"]


def robustness() -> Answer:
    """The bundled int8 on corrupted pictures, and what rules and averages are worth on photographs."""
    import robustness as script
    import training_runs

    start, folder = training_runs.RUNS / "robust" / "start" / "checkpoint.safetensors", os.environ.get(script.VARIABLE)
    files = f"models/{bundled.INT8.name} runs/robust/start/{start.name}"
    return list(script.rows(bundled.INT8, start, folder)), [f"python scripts/robustness.py {files}"]


def shares() -> Answer:
    """What lies between the bundled checkpoint's start and the end of its run."""
    import robustness as script
    import training_runs

    found = list(script.shares(training_runs.RUNS / "robust", os.environ.get(script.VARIABLE)))
    return found, ["python scripts/robustness.py shares runs/robust"]


def imports() -> Answer:
    """Public networks, which are not shipped."""
    import imports as script

    return list(script.rows(weights())), [f"python scripts/imports.py ${script.VARIABLE}"]


def fine_tuning() -> Answer:
    """What a public network's weights are worth on a few hundred pictures of something else."""
    import fine_tuning as script

    return list(script.rows(weights())), [f"python scripts/fine_tuning.py ${script.VARIABLE}"]


def equalization() -> Answer:
    """What equalization is worth to networks with ReLU and with ReLU6."""
    import equalization as script

    return list(script.rows(weights())), [f"python scripts/equalization.py ${script.VARIABLE}"]


def weights() -> Path:
    """Public networks: in $MNV1_WEIGHTS, or where the tests find them."""
    import imports as script

    return Path(os.environ.get(script.VARIABLE) or ROOT.parent / "shared" / "weights")


def old_onnxruntime() -> Answer:
    """Which versions of onnxruntime run the files in models/, and with which logits."""
    import old_onnxruntime as script

    return list(script.rows()), ["python scripts/old_onnxruntime.py"]


def platforms() -> Answer:
    """Which format can be written and run on which system."""
    import platforms as script

    return script.rows(), ["python scripts/platforms.py"]


def commands() -> Answer:
    """What README's commands print, in an empty folder with a picture."""
    promised = {
        "export": "export --format onnx --quantize int8",
        "bench": "bench",
        "refusal": "bench --provider CUDAExecutionProvider",
        "predict": "predict cat.png",
    }
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(ROOT / "examples" / "cat.png", folder)
        results = [
            {"name": name, "command": f"mnv1 {arguments}", "output": shown(arguments, Path(folder))}
            for name, arguments in promised.items()
        ]
    return results, [row["command"] for row in results]


def web() -> Answer:
    """The web format and other runtimes of the web, in a browser and in node."""
    return bench_web.measure()


def serve() -> Answer:
    """What mnv1 serve bears, beside decoding alone and other servers, which $MNV1_SERVICES, a Python, may have.

    Five minutes; $MNV1_SERVE_SECONDS is what the longest part takes, 60 by default.
    """
    import load_serve as script

    seconds = os.environ.get("MNV1_SERVE_SECONDS", "60")
    found = list(script.rows(float(seconds), python=os.environ.get("MNV1_SERVICES")))
    return found, [f"python scripts/load_serve.py --seconds {seconds}"]


def many() -> Answer:
    """A folder of 100,000 photographs ($MNV1_PICTURES says another number), beside a plain loop.

    An hour and a quarter on two processors, and before that some minutes to make the pictures; a tenth for 10,000.
    """
    import predict_folder as script

    count = int(os.environ.get("MNV1_PICTURES", "100000"))
    return script.rows(count), [f"python scripts/predict_folder.py --pictures {count}"]


def jpegs() -> Answer:
    """What --jpeg scaled changes, on 1,000 photographs and as many test pictures."""
    import jpegs as script

    return list(script.rows()), ["python scripts/jpegs.py"]


def memory() -> Answer:
    """What up to 200,000 pictures take of memory, on one machine and by Ray."""
    import scale as script

    return list(script.memory()), ["python scripts/scale.py memory"]


def nodes() -> Answer:
    """JPEGs by Ray on one and two nodes of one processor each; $MNV1_PICTURES says how many, 12,000 by default."""
    import scale as script

    count = int(os.environ.get("MNV1_PICTURES", script.NODES_PICTURES))
    return list(script.nodes(count)), [f"python scripts/scale.py nodes --pictures {count}"]


def stores() -> Answer:
    """Pictures and answers in object stores; $MNV1_STORES is a Python that has their servers, if not a new one."""
    import stores as script

    return list(script.rows(os.environ.get("MNV1_STORES"))), ["python scripts/stores.py"]


MEASUREMENTS: dict[str, Callable[[], Answer]] = {
    measure.__name__: measure
    for measure in (
        *(startup, loadgen, tiny, ladder),
        *(artifacts, latency, throughput, sizes, backends, profile, emulation, layers, plans, cameras),
        *(schemes, evidence, few_pictures, trained, tried, classes, confidence, robustness, shares),
        *(imports, fine_tuning, equalization, old_onnxruntime, platforms, commands),
        *(web, serve, many, jpegs, memory, nodes, stores),
    )
}


def measure(name: str) -> Run:
    """The answer, with what it was made on."""
    load = os.getloadavg()[0]
    results, made_by = MEASUREMENTS[name]()
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "commit": commit.stdout.strip(),
        "machine": mnv1("providers")["machine"],
        "load": round(load, 2),
        "commands": made_by,
        "results": results,
    }


def keep(name: str, run: Run) -> None:
    """Puts a run in place of an older one on the same processor, before those on others."""
    runs = figures.measured()  # as they are now: others may have been measured meanwhile
    here = processor(run["machine"])
    runs[name] = [run, *(other for other in runs.get(name, []) if processor(other["machine"]) != here)]
    with atomic(FILE) as path:
        path.write_text(json.dumps({"version": 1, "runs": runs}, indent=1) + "\n", "utf-8")


def main(names: list[str]) -> None:
    """Measures, then writes."""
    unknown = sorted(set(names) - set(MEASUREMENTS))
    if unknown:
        raise SystemExit(f"{', '.join(unknown)}: there are {', '.join(MEASUREMENTS)}.")
    if NEIGHBOUR.exists():
        os.environ.setdefault(DATA_VARIABLE, str(NEIGHBOUR))
    for name in names:
        keep(name, measure(name))
    runs = figures.measured()
    for page in PAGES:
        try:
            page.write_text(figures.written(page.read_text("utf-8"), runs), "utf-8")
        except KeyError as missing:
            print(f"{page.relative_to(ROOT)} waits for {missing}, which has not been measured.")
    for path, drawn in (artifacts_picture.pictures(runs) | ladder_script.pictures(runs)).items():
        Path(path).write_text(drawn, "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
