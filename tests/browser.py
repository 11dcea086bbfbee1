"""A real browser, a server for it and packages from npm, for the tests of the web format and its benchmark."""

import functools
import hashlib
import http.server
import json
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

if TYPE_CHECKING:
    from playwright.sync_api import Browser

CHROMIUM = "chromium"


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Files, as any static host gives them; ``asked`` has the paths."""

    asked: list[str] = []  # noqa: RUF012

    def log_message(self, format: str, *arguments: object) -> None:
        self.asked.append(self.path)


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address at which a folder's files are had."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def chromium(*arguments: str) -> Iterator["Browser"]:
    """The system's, without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # root, as in a container, has no sandbox
        browser = playwright.chromium.launch(executable_path=shutil.which(CHROMIUM), args=["--no-sandbox", *arguments])
        yield browser
        browser.close()


def firefox() -> str | None:
    """The system's, by Debian's name or its own; None if there is none."""
    return shutil.which("firefox-esr") or shutil.which("firefox")


def npm(**packages: str) -> Path:
    """A folder with these packages of exactly these versions in its node_modules, installed once on a machine."""
    wanted = json.dumps({"private": True, "type": "module", "dependencies": packages}, sort_keys=True)
    folder = Path(tempfile.gettempdir(), f"mnv1-npm-{os.getuid()}-{hashlib.sha256(wanted.encode()).hexdigest()[:16]}")
    with FileLock(f"{folder}.lock"):
        if not (folder / "node_modules").exists():
            with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
                Path(temporary, "package.json").write_text(wanted)
                command = ["npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--loglevel=error"]
                subprocess.run(command, cwd=temporary, check=True, capture_output=True)
                shutil.copytree(temporary, folder, symlinks=True, dirs_exist_ok=True)
    return folder
