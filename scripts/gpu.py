"""One run on a machine with an NVIDIA GPU: benchmark, parity, tests, training and a profile of it, within a time limit.

    python scripts/gpu.py results                          # on the machine with the GPU
    python scripts/gpu.py results train                    # one step; what is done is not repeated
    python scripts/gpu.py results --dry-run                # every step on the CPU, small: that it works
    python scripts/gpu.py results --keep                   # back home: into docs/measurements.json

Steps run in the order of their worth, each in a process of its own with a time limit of its own. A step leaves
``STEP.json`` (what it measured, or why it did not) and ``STEP.log`` in the results; a second call goes on where the
first one stopped. CIFAR-10 is looked for where ``mnv1 train`` looks for it.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Where:
    """What the steps run on: the folder of results, and whether this is a dry run on the CPU."""

    results: Path
    dry: bool

    @property
    def artifacts(self) -> Path:
        """The folder that the first step exports to."""
        return self.results / "artifacts"

    @property
    def provider(self) -> str:
        """As ``mnv1 bench --provider`` takes it."""
        return "CPUExecutionProvider" if self.dry else "CUDAExecutionProvider"

    @property
    def device(self) -> str:
        """As ``mnv1 train --device`` takes it."""
        return "cpu" if self.dry else "cuda"

    @property
    def batch_sizes(self) -> str:
        """Of the benchmarks."""
        return "1,8" if self.dry else "1,64,1024,8192"

    def of(self, *suffixes: str) -> list[str]:
        """Artifacts whose names end so."""
        return [str(path) for path in sorted(self.artifacts.iterdir()) if path.name.endswith(suffixes)]


class StepFailedError(Exception):
    """A command of a step failed; its output is in the step's log."""


def mnv1(*arguments: str) -> Any:
    """What a command of mnv1 answers as JSON, or None for one that gives none."""
    command = [sys.executable, "-m", "mnv1deploy.cli", *arguments]
    print("$ mnv1", *arguments, flush=True)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise StepFailedError(f"mnv1 {' '.join(arguments)} exited with {done.returncode}")
    return json.loads(done.stdout) if "--json" in arguments else done.stdout


# ---- The steps


def machine(where: Where) -> Any:
    """The card, and the packages that could use it."""
    import torch

    card = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    smi = subprocess.run(["nvidia-smi"], capture_output=True, text=True, check=False).stdout if not where.dry else ""
    return {"card": card, "torch": torch.__version__, "nvidia_smi": smi, **mnv1("providers", "--json")}


def export(where: Where) -> Any:
    """Every artifact that a card can run, proved on it, and the int8 that it cannot."""
    there = ["--format", "onnx,torchscript,aoti", "--provider", where.provider]
    options = ["--output", str(where.artifacts), "--json"]
    made = [mnv1("export", *there, "--quantize", "none", *options)]
    if not where.dry:  # AOTInductor has fp16 for CUDA alone
        made.append(mnv1("export", *there, "--quantize", "fp16", *options))
    return [*made, mnv1("export", "--format", "onnx", "--quantize", "int8", *options)]


def onnx(where: Where) -> Any:
    """The promised command, with and without the copies to and from the card."""
    rows: dict[str, list[Any]] = {}
    for copies in ([], ["--include-copies"]):
        options = ["--provider", where.provider, "--batch-size", where.batch_sizes, "--duration", "0.4", "--json"]
        found = rows[" ".join(copies) or "resident"] = []
        for artifact in where.of(".onnx"):
            try:
                found.append(mnv1("bench", artifact, *options, *copies))
            except StepFailedError as error:
                found.append({"artifact": Path(artifact).name, "error": str(error)})
            print(found[-1], flush=True)
    return rows


def torch(where: Where) -> Any:
    """PyTorch in eager mode, compiled, TorchScript and AOTInductor."""
    contestants = [*where.of(".pt", ".pt2"), "pytorch", "pytorch-compiled"]
    options = ["--provider", where.provider, "--batch-size", where.batch_sizes, "--duration", "0.4", "--json"]
    return mnv1("bench", *contestants, *options)


def tensorrt(where: Where) -> Any:
    """onnxruntime's TensorRT provider, where it is there."""
    provider = where.provider if where.dry else "TensorrtExecutionProvider"
    return mnv1("bench", *where.of(".onnx"), "--provider", provider, "--batch-size", where.batch_sizes, "--json")


def parity(where: Where) -> Any:
    """Every artifact on the card against the checkpoint on the CPU, by the limits of its proof."""
    import numpy as np

    from mnv1deploy import bundled, datasets, formats, verification
    from mnv1deploy.artifact import Manifest
    from mnv1deploy.errors import MnvError

    pictures = datasets.calibration().images
    expected = verification.logits(formats.open_session(bundled.CHECKPOINT), pictures)
    rows = {}
    for path in map(Path, where.of(".onnx", ".pt", ".pt2")):
        try:
            session = formats.open_session(path, provider=where.provider)
        except MnvError as error:
            rows[path.name] = {"refused": str(error)}
            continue
        found = verification.logits(session, pictures)
        manifest = Manifest.read(path)
        assert manifest
        limits = verification.LIMITS[manifest.provenance.precision]
        difference = float(np.abs(found - expected).max())
        agreement = float((found.argmax(1) == expected.argmax(1)).mean())
        rows[path.name] = {
            "provider": session.provider,
            "max_logit_difference": difference,
            "agreement": agreement,
            "within_limits": difference <= limits.max_logit_difference and agreement >= limits.agreement,
        }
    return rows


def tests(where: Where) -> Any:
    """The tests that need a GPU."""
    command = [sys.executable, "-m", "pytest", "-q", "--gpu", "tests/test_gpu.py"]
    if where.dry:
        command.append("--collect-only")
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    print(done.stdout)
    return {"exit_code": done.returncode, "last_line": done.stdout.strip().splitlines()[-1]}


def _trained(where: Where, recipe: str) -> Any:
    """A whole run of a recipe, or the rest of one that was stopped: its log, and what its checkpoint says."""
    began = time.perf_counter()
    folder = where.results / recipe
    small = ["--epochs", "1", "--width", "0.25"]
    _train(where, folder, small if where.dry else ["--recipe", recipe])
    log = _log(folder)
    facts = mnv1("info", f"{folder}/checkpoint.safetensors", "--json")
    return {"seconds": time.perf_counter() - began, "log": log, "accuracy": facts["accuracy"]}


def _train(where: Where, folder: Path, options: Sequence[str]) -> None:
    """A whole run of ``mnv1 train`` in this folder, or the rest of one that was begun there."""
    more = ["--resume"] if (folder / "state.pt").exists() else options
    mnv1("train", "--output", str(folder), "--device", where.device, *more)


def _log(folder: Path) -> list[dict[str, Any]]:
    """What a run says of each epoch."""
    return [json.loads(line) for line in (folder / "log.jsonl").read_text("utf-8").splitlines()]


def train(where: Where) -> Any:
    """The quick recipe: images per second, seconds per epoch, accuracy."""
    return _trained(where, "quick")


def best(where: Where) -> Any:
    """The recipe of the shipped checkpoint, its teachers included."""
    return _trained(where, "best")


def speed(where: Where) -> Any:
    """Images per second of training with the optimizer and batch of ``best``, from labels; the first epochs compile."""
    options = ["--batch-size", "256", "--muon", "0.071", "--muon-decay", "0.02"]
    folder = where.results / "speed"
    small = ["--epochs", "1", "--width", "0.25"]
    _train(where, folder, [*options, *(small if where.dry else ["--epochs", "8"])])
    log = _log(folder)
    return {"images_per_second": max(epoch["images_per_second"] for epoch in log), "log": log}


def torchrun(where: Where) -> Any:
    """One process under torchrun: nccl on a card, gloo without."""
    folder = where.results / "torchrun"
    options = ["--epochs", "2", "--width", "0.25", "--output", str(folder), "--device", where.device]
    if where.dry:
        options[1] = "1"
    launch = ["-m", "torch.distributed.run", "--nproc-per-node", "1", "--standalone", "-m", "mnv1deploy.cli", "train"]
    done = subprocess.run([sys.executable, *launch, *options], check=False)
    return {"exit_code": done.returncode}


STEPS: dict[str, tuple[int, Callable[[Where], Any]]] = {
    "machine": (60, machine),
    "export": (300, export),
    "onnx": (150, onnx),
    "torch": (150, torch),
    "parity": (60, parity),
    "tests": (120, tests),
    "speed": (60, speed),
    "train": (120, train),
    "tensorrt": (120, tensorrt),
    "torchrun": (60, torchrun),
    "best": (400, best),
}
"""In the order of their worth, each with its limit in seconds."""


def keep(where: Where) -> None:
    """Puts what the benchmarks found, and the proofs, into docs/measurements.json, from where pages are written."""
    import measure

    found = {name: json.loads((where.results / f"{name}.json").read_text("utf-8")) for name in KEPT}
    onnx, copied = found["onnx"]["resident"], found["onnx"]["--include-copies"]
    measure.keep(
        "gpu",
        {
            "date": time.strftime("%Y-%m-%d", time.gmtime((where.results / "machine.json").stat().st_mtime)),
            "card": found["machine"]["card"],
            "machine": found["machine"]["machine"],
            "commands": ["scripts/gpu.py"],
            "results": [row for run in (*onnx, found["torch"]) for row in run.get("results", [])],
            "copied": [row for run in copied for row in run.get("results", [])],
            "parity": found["parity"],
            "training": found["speed"]["images_per_second"],
        },
    )


KEPT = ("machine", "onnx", "torch", "parity", "speed")
"""The steps whose answers are figures of a page."""


def run_all(where: Where, names: list[str], seconds: float) -> bool:
    """Runs what is not done yet, while there is time; whether all of it was."""
    end = time.monotonic() + seconds
    good = True
    for name in names:
        answer = where.results / f"{name}.json"
        if answer.exists() and "error" not in json.loads(answer.read_text("utf-8")):
            print(f"{name}: done before", flush=True)
            continue
        left = end - time.monotonic()
        if left < 10:
            print(f"{name}: no time is left", flush=True)
            return False
        command = [sys.executable, __file__, str(where.results), "--inside", name]
        command += ["--dry-run"] if where.dry else []
        began = time.monotonic()
        with (where.results / f"{name}.log").open("w") as log:
            limit = min(left, STEPS[name][0] * (10 if where.dry else 1))
            with subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True) as process:
                try:
                    error = f"exited with {process.returncode}" if process.wait(limit) else ""
                except subprocess.TimeoutExpired:
                    error = f"is not done in {limit:.0f} s"
                    os.killpg(process.pid, signal.SIGKILL)  # what it has started, too
        if error:
            good = False
            answer.write_text(json.dumps({"error": error}) + "\n", "utf-8")
            print(f"{name}: {error}", flush=True)
            continue
        print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)
    return good


def main() -> None:
    """Runs the steps, or as their own process one of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="folder for artifacts, JSON and logs")
    parser.add_argument("steps", nargs="*", choices=[*STEPS, []], help="default: all that are not done")
    parser.add_argument("--seconds", type=float, default=540, help="for all of them together (default: %(default)s)")
    parser.add_argument("--dry-run", action="store_true", help="on the CPU, small")
    parser.add_argument("--keep", action="store_true", help="keep what the results have for the pages, run nothing")
    parser.add_argument("--inside", choices=list(STEPS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.results.mkdir(parents=True, exist_ok=True)
    where = Where(options.results, options.dry_run)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    if options.keep:
        keep(where)
        return
    if options.inside:
        answer = STEPS[options.inside][1](where)
        (where.results / f"{options.inside}.json").write_text(json.dumps(answer, indent=1) + "\n", "utf-8")
        return
    seconds = options.seconds * (10 if options.dry_run else 1)
    sys.exit(0 if run_all(where, options.steps or list(STEPS), seconds) else 1)


if __name__ == "__main__":
    main()
