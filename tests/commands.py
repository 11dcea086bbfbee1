"""``mnv1``, and programs that import it, as a person or a script meets them: each in a process of its own.

The processes are forks of one that has imported what takes long, torch among it, for the commands that need it, and
whose exports take what the tests of a run share: integers, and what takes long to write.
"""

import atexit
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import conftest
from load_serve import free_port

SERVER = """
import importlib, json, os, runpy, sys, warnings
sys.path.append(sys.argv[1])
for name in sys.argv[2:]:
    importlib.import_module(name)
if "conftest" in sys.modules:
    import pytest
    sys.modules["conftest"].share_exports(pytest.MonkeyPatch())
from mnv1deploy import cli, machine
machine.keep_freed_memory()
for line in sys.stdin:
    told = json.loads(line)
    children = []
    for environment in told["environments"]:
        children.append(os.fork())
        if children[-1]:
            continue
        os.chdir(told["folder"])
        os.environ.clear()
        os.environ.update(environment)
        for stream in range(3):
            how = os.O_WRONLY | os.O_CREAT | os.O_APPEND if stream else os.O_RDONLY
            os.dup2(os.open(f"{told['streams']}/{stream}", how), stream)
        sys.argv = told["arguments"]
        with os.fdopen(0) as sys.stdin:
            if sys.argv[0] == "mnv1":
                cli.main()
            else:  # engines that it imports may warn
                warnings.simplefilter("ignore")
                runpy.run_path(sys.argv[0], run_name="__main__")
        sys.exit()
    statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    print(next(filter(None, statuses), 0), flush=True)
"""

TORCH = ("conftest", "mnv1deploy.exporting")
"""Modules that bring torch, and what tests share."""

HEAVY = frozenset({"evaluate", "export", "import", "quantize-report", "train"})
"""Commands that import torch."""


class _Server:
    """A process that runs commands in forks of itself, one after another."""

    def __init__(self, *modules: str) -> None:
        command = [sys.executable, "-W", "error", "-c", SERVER, str(Path(__file__).parent), *modules]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._lock = threading.Lock()
        atexit.register(self._end)

    def _end(self) -> None:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()

    def run(
        self, arguments: list[str], stdin: bytes, folder: Path | None, environments: Sequence[dict[str, str]] = ({},)
    ) -> subprocess.CompletedProcess[str]:
        """Exit status and output of one process, or of one for each of what is added to the environment."""
        assert self._process.stdin and self._process.stdout
        with tempfile.TemporaryDirectory() as streams:
            Path(streams, "0").write_bytes(stdin)
            told = {
                "arguments": arguments,
                "folder": str(folder or Path.cwd()),
                "environments": [{**os.environ, **added} for added in environments],
                "streams": streams,
            }
            with self._lock:
                print(json.dumps(told), file=self._process.stdin, flush=True)
                status = int(self._process.stdout.readline())
            output, errors = (Path(streams, stream).read_text("utf-8") for stream in ("1", "2"))
        return subprocess.CompletedProcess(arguments, status, output, errors)


@cache
def _server(*modules: str) -> _Server:
    return _Server(*modules)


def mnv1(
    *arguments: object, stdin: bytes = b"", cwd: Path | None = None, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs the command; a traceback on either stream fails the test. With ``env`` it is a process from its start."""
    words = list(map(str, arguments))
    if env is not None:
        command = [sys.executable, "-W", "error", "-m", "mnv1deploy.cli", *words]
        done = subprocess.run(command, input=stdin, capture_output=True, cwd=cwd, env=env)
        result = subprocess.CompletedProcess(words, done.returncode, done.stdout.decode(), done.stderr.decode())
    else:
        modules = TORCH if HEAVY & set(words[:1]) else ("mnv1deploy.cli",)
        result = _server(*modules).run(["mnv1", *words], stdin, cwd)
    assert "Traceback" not in result.stdout + result.stderr, result.stderr
    return result


def program(file: Path, *arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Runs a Python program that imports torch in the end."""
    return _server(*TORCH).run([str(file), *map(str, arguments)], b"", cwd)


def together(file: Path, *arguments: object, processes: int) -> None:
    """Runs a Python program in processes that find each other, as torchrun tells them to; it must succeed."""
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(processes)}
    each = [{**meeting, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]
    done = _server(*TORCH).run([str(file), *map(str, arguments)], b"", None, each if processes > 1 else ({},))
    assert done.returncode == 0, done.stderr


def succeed(*arguments: object, stdin: bytes = b"", cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    """Standard output of a command that must succeed, and be silent on standard error."""
    done = mnv1(*arguments, stdin=stdin, cwd=cwd, env=env)
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stderr.splitlines() if not line.endswith(" ...")] == []  # what takes long says so
    return done.stdout


def every_format() -> Path:
    """A folder in which examples/export.py was run, once for all tests: ``artifacts``, and ``printed``."""

    def make(folder: Path) -> None:
        done = program(conftest.ROOT / "examples" / "export.py", cwd=folder)
        assert done.returncode == 0, done.stderr
        (folder / "printed").write_text(done.stdout, "utf-8")

    return conftest.shared("examples/export.py", make)
