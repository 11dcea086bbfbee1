"""Which format can be written and run on which system: whether its packages have wheels there.

    python scripts/platforms.py      # prints what scripts/measure.py keeps; docs/platforms.md has the table

uv is asked for each package, each system and each Python, and for all that the extras in TOGETHER bring; nothing is
downloaded but what describes the packages. It says what can be installed, not that it was run.
"""

from __future__ import annotations

import itertools
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import tomllib
from packaging.requirements import Requirement

from mnv1deploy import formats

ROOT = Path(__file__).parents[1]

SYSTEMS = {
    "Linux, x86-64": "x86_64-manylinux_2_35",
    "Linux, AArch64": "aarch64-manylinux_2_35",
    "macOS, Apple silicon": "aarch64-apple-darwin",
    "macOS, Intel": "x86_64-apple-darwin",
    "Windows, x86-64": "x86_64-pc-windows-msvc",
    "Windows, Arm": "aarch64-pc-windows-msvc",
}
"""What uv calls them. manylinux_2_35: glibc 2.35 or later, as in Ubuntu 22.04, Debian 12 and Raspberry Pi OS 12."""

MACOS = "14.0"
PYTHONS = ("3.10", "3.13")
TOGETHER = ("all", "dev")
"""Extras that README and Makefile install."""


Place = tuple[str, str]
"""A system and a Python."""


def installs(place: Place, requirement: str = "", extra: str = "") -> bool:
    """Whether a package has a wheel there, or all packages of an extra have, with whatever they need."""
    system, python = place
    command = ["uv", "pip", "compile", "--only-binary", ":all:", "--python-platform", SYSTEMS[system]]
    command += ["--python-version", python, *(["pyproject.toml", "--extra", extra] if extra else ["-", "--no-deps"])]
    environment = {**os.environ, "MACOSX_DEPLOYMENT_TARGET": MACOS}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, input=requirement, capture_output=True, text=True, check=False
    )
    if done.returncode and "No solution found" not in done.stderr:
        raise SystemExit(done.stderr)
    return done.returncode == 0


def requirements() -> dict[str, str]:
    """What pyproject.toml asks of each optional package, by its name in small letters, for all systems."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        extras = tomllib.load(file)["project"]["optional-dependencies"]
    asked = [Requirement(line) for lines in extras.values() for line in lines]
    return {one.name.lower(): f"{one.name}{one.specifier}" for one in asked}


def rows() -> list[dict[str, Any]]:
    """Whether each format, by system and Python, can be written and run, and whether extras of TOGETHER install."""
    entries = [formats.get(name) for name in formats.exportable()]
    asked = requirements()
    packages = sorted({package.lower() for entry in entries for package in (*entry.runners, *entry.writers)})
    places = list(itertools.product(SYSTEMS, PYTHONS))
    with ThreadPoolExecutor(8) as pool:  # which wait for the network
        cases = list(itertools.product(packages, places))
        there = dict(zip(cases, pool.map(lambda case: installs(case[1], asked[case[0]]), cases), strict=True))
        extras = list(itertools.product(TOGETHER, places))
        together = dict(zip(extras, pool.map(lambda case: installs(case[1], extra=case[0]), extras), strict=True))

    found: list[dict[str, Any]] = []
    for place in places:
        where = dict(zip(("system", "python"), place, strict=True))
        for entry in entries:
            runs = all(there[package.lower(), place] for package in entry.runners)
            writes = all(there[package.lower(), place] for package in entry.writers)
            runs = runs and (not entry.elsewhere or place[0].startswith("macOS"))
            found.append({"format": entry.name, **where, "writes": writes, "runs": runs})
        found += [{"extra": extra, **where, "installs": together[extra, place]} for extra in TOGETHER]
    return found


if __name__ == "__main__":
    for row in rows():
        print(row)
