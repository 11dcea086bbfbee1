"""What documentation and examples say is run, every Python block, every script; figures are what was measured."""

import re
import shutil
from pathlib import Path

import artifacts_picture
import definitions
import figures
import pytest
import torch
from commands import every_format, program

from mnv1deploy import checkpoint, formats
from mnv1deploy.importing import NORMALIZATIONS

ROOT = Path(__file__).parents[1]
PAGES = [*figures.PAGES, ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", ROOT / "CHANGELOG.md"]
SCRIPTS = sorted((ROOT / "examples").glob("*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_python_blocks_run(page: Path, tmp_path: Path) -> None:
    """In order, in one process, in a folder that has the example pictures and the shipped models."""
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    shutil.copy(ROOT / "examples" / "cat.png", tmp_path)
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    shutil.copytree(ROOT / "models", tmp_path / "models")
    file = tmp_path / "blocks.py"
    file.write_text("\n\n".join(blocks), "utf-8")
    done = program(file, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text("utf-8")):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", figures.PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_figures_are_the_measured_ones(page: Path) -> None:
    text = page.read_text("utf-8")
    assert figures.written(text, figures.measured()) == text, "python scripts/measure.py writes them"


def test_every_figure_stands_on_a_page() -> None:
    marked = set().union(*(figures.names(page.read_text("utf-8")) for page in figures.PAGES))
    assert marked == set(figures.FIGURES)


def test_pictures_show_the_measured_figures() -> None:
    pictures = artifacts_picture.pictures(figures.measured())
    assert len(pictures) == 2
    for path, drawn in pictures.items():
        assert Path(path).read_text("utf-8") == drawn, "python scripts/measure.py draws them"
        assert Path(path).name in (ROOT / "README.md").read_text("utf-8")


def test_a_dirty_figure_is_noticed() -> None:
    """A figure that somebody changes by hand is not what the measurements say."""
    page = ROOT / "models" / "README.md"
    text = page.read_text("utf-8")
    changed = text.replace("93.13 %", "93.23 %")
    assert changed != text
    assert figures.written(changed, figures.measured()) != changed


def test_the_workflow_installs_what_there_is() -> None:
    """Every format of an extra that it installs on other systems has wheels there (docs/platforms.md)."""
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text("utf-8")
    extras = set().union(*(found.split(",") for found in re.findall(r'"\.\[([\w,-]+)\]"', workflow)))
    entries = {name: formats.get(name) for name in formats.exportable()}
    there = [row for row in figures.measured()["platforms"][0]["results"] if row.get("format")]
    chosen = [
        row
        for row in there
        if row["system"] in ("macOS, Apple silicon", "Windows, x86-64") and entries[row["format"]].extra in extras
    ]
    assert {row["format"] for row in chosen} >= {"onnx", "torchscript"}
    assert all(row["runs"] for row in chosen)


@pytest.mark.slow
def test_examples_run(tmp_path: Path, class_folders: Path) -> None:
    for name, argument in (("predict.py", ROOT / "examples" / "cat.png"), ("train_own_folder.py", class_folders)):
        done = program(ROOT / "examples" / name, argument, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout


@pytest.mark.slow
def test_the_example_proves_every_format() -> None:
    lines = (every_format() / "printed").read_text("utf-8").splitlines()
    assert len(lines) == sum("int8" in formats.get(name).precisions for name in formats.exportable())
    assert all(line.endswith(": proved") or ": not run here, " in line for line in lines)


@pytest.mark.slow
def test_the_example_fine_tunes_what_was_trained_elsewhere(tmp_path: Path, class_folders: Path) -> None:
    """Its weights are kept but for the classifier, which is for other classes."""
    torch.manual_seed(0)
    theirs = definitions.TUTORIAL_NET.network(10).trained(NORMALIZATIONS["tutorial"], 32)
    torch.save(theirs.state(), tmp_path / "weights.pth")
    arguments = (tmp_path / "weights.pth", class_folders, "1")
    done = program(ROOT / "examples" / "fine_tune.py", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.findall(r"^(tuned|nothing): top-1 ", done.stdout, re.MULTILINE) == ["tuned", "nothing"]
    tuned, nothing = (
        checkpoint.load(tmp_path / "runs" / "fine_tune" / name / "checkpoint.safetensors")
        for name in ("tuned", "nothing")
    )
    assert tuned.spec == nothing.spec
    assert tuned.spec.classes == ("cat", "dog")
    assert tuned.spec.normalization == NORMALIZATIONS["tutorial"]
    weight = "block8.pointwise.conv.weight"
    began, near, far = (
        network.detach().flatten()
        for network in (
            theirs.layers[-1].convolution.weight,
            tuned.network.get_parameter(weight),
            nothing.network.get_parameter(weight),
        )
    )
    likeness = [float(torch.corrcoef(torch.stack([began, after]))[0, 1]) for after in (near, far)]
    assert likeness[0] > 0.9 > 0.1 > likeness[1]


def test_there_are_examples() -> None:
    assert {script.name for script in SCRIPTS} == {"predict.py", "export.py", "train_own_folder.py", "fine_tune.py"}
