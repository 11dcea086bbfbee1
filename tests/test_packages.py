"""What is installed, and silence around packages that talk."""

import logging
import os
import subprocess
import sys
import threading
import warnings

import pytest

from mnv1deploy.errors import MnvError
from mnv1deploy.packages import engine, is_installed, missing, silenced, versions


def test_what_is_not_installed_is_named_with_the_extra_that_brings_it() -> None:
    with pytest.raises(MnvError, match=r"needs no_such_engine.*pip install 'mnv1deploy\[cpu\]'"):
        engine("no_such_engine.part", "cpu")
    assert engine("json", "cpu").loads("1") == 1
    assert missing(("numpy", "no-such-package")) == ["no-such-package"]
    assert is_installed("ai-edge-litert") == is_installed("ai_edge_litert")


def test_versions_names_what_is_installed() -> None:
    assert set(versions("numpy", "no-such-package")) == {"mnv1deploy", "numpy"}


TALK = """
import ctypes, logging, os, sys, warnings
from mnv1deploy.packages import silenced
def talk():
    print("python"); print("python", file=sys.stderr)
    ctypes.CDLL(None).puts(b"native, buffered")
    os.write(1, b"native"); os.write(2, b"native")
    warnings.warn("a warning"); logging.warning("a log's warning")
print("before")
ctypes.CDLL(None).puts(b"before, native")
with silenced():
    talk()
    with silenced():
        talk()
    talk()
    logging.error("an error")
print("after")
"""


def test_nothing_that_is_silenced_reaches_the_terminal() -> None:
    done = subprocess.run([sys.executable, "-c", TALK], capture_output=True, text=True, check=True)
    assert sorted(done.stdout.splitlines()) == ["after", "before", "before, native"]
    assert done.stderr == ""


@pytest.mark.skipif(os.name == "nt", reason="a shell's way to close them")
@pytest.mark.parametrize("closed", ["1>&-", "2>&-", "1>&- 2>&-", "0<&- 1>&- 2>&-"])
def test_silence_where_there_is_no_standard_output(closed: str) -> None:
    script = "from mnv1deploy.packages import silenced\nwith silenced(): print('nobody hears')"
    assert subprocess.run(["sh", "-c", f'"$0" -c "$1" {closed}', sys.executable, script]).returncode == 0


def test_silence_leaves_logging_and_warnings_as_they_were() -> None:
    """onnx's export used to switch on again what the caller's ``logging.disable`` had switched off."""
    for level in (logging.NOTSET, logging.ERROR):
        logging.disable(level)
        try:
            with silenced(prints=False):
                assert logging.root.manager.disable == max(level, logging.WARNING)
                warnings.warn("not an error here", stacklevel=1)
            assert logging.root.manager.disable == level
        finally:
            logging.disable(logging.NOTSET)
    with pytest.raises(UserWarning):
        warnings.warn("an error again", stacklevel=1)


def test_threads_that_are_silenced_at_the_same_time_leave_the_terminal_as_it_was() -> None:
    before = [os.fstat(stream).st_ino for stream in (1, 2)]

    def often() -> None:
        for _ in range(200):
            with silenced():
                pass

    threads = [threading.Thread(target=often) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [os.fstat(stream).st_ino for stream in (1, 2)] == before
