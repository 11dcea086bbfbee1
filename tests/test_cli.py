"""The ``mnv1`` command as a person or a script meets it, in processes of its own."""

import itertools
import json
import os
import pty
import shutil
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from commands import every_format, mnv1, succeed
from conftest import export, write_class_folders
from PIL import Image

import mnv1deploy
from mnv1deploy import bundled, checkpoint, datasets, formats
from mnv1deploy.artifact import Manifest, manifest_path
from mnv1deploy.formats.base import CUDA
from mnv1deploy.spec import CIFAR

EXAMPLES = Path(__file__).parents[1] / "examples"
CAT = EXAMPLES / "cat.png"


def width(path: Path) -> int:
    """Of a picture, in pixels."""
    with Image.open(path) as image:
        return image.width


# predict -----------------------------------------------------------------------------------------------------------


def test_predict_a_picture() -> None:
    assert succeed("predict", "cat.png", cwd=EXAMPLES).split()[:2] == ["cat.png", "cat"]


def test_predict_json() -> None:
    (answer,) = json.loads(succeed("predict", CAT, "--json", "--top", 2))
    assert answer["path"] == str(CAT)
    assert answer["label"] == "cat" == answer["top"][0]["label"]
    assert answer["probability"] == answer["top"][0]["probability"]
    assert len(answer["top"]) == 2


def test_predict_standard_input() -> None:
    (answer,) = json.loads(succeed("predict", "-", "--json", stdin=CAT.read_bytes()))
    assert (answer["path"], answer["label"]) == ("-", "cat")


@pytest.mark.slow
def test_predict_folders_and_patterns(class_folders: Path) -> None:
    found = json.loads(succeed("predict", class_folders, class_folders / "cat" / "1*.png", "--json"))
    assert len(found) == 80
    expected = mnv1deploy.load(bundled.CHECKPOINT)
    same = sum(expected.predict(answer["path"]).label == answer["label"] for answer in found)
    assert same >= 0.97 * 80
    right = sum(Path(answer["path"]).parent.name == answer["label"] for answer in found)
    assert right >= 0.7 * 80


def test_unreadable_pictures_are_reported_and_the_others_done(tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff no")
    done = mnv1("predict", broken, CAT, tmp_path / "gone.png", "--json")
    assert done.returncode == 1
    assert [answer["label"] for answer in json.loads(done.stdout)] == ["cat"]
    assert str(broken) in done.stderr
    assert str(tmp_path / "gone.png") in done.stderr


def test_nothing_to_predict(tmp_path: Path) -> None:
    assert mnv1("predict").returncode == 2
    assert mnv1("predict", tmp_path).returncode == 1
    assert mnv1("predict", f"{tmp_path}/*.png").returncode == 1


@pytest.mark.slow
@pytest.mark.parametrize("model", [bundled.FP32, bundled.CHECKPOINT], ids=lambda path: path.suffix)
def test_predict_with_any_model(model: Path) -> None:
    assert succeed("predict", CAT, "--model", model, "--threads", 1).split()[1] == "cat"


@pytest.mark.slow
def test_predict_and_bench_need_no_torch(tmp_path: Path) -> None:
    """A torch that fails to import stands in the way of whoever tries."""
    (tmp_path / "torch.py").write_text("raise ImportError('torch was imported')")
    for arguments in (["predict", CAT], ["bench", "--duration", "0.02"], ["info"], ["cost"], ["--help"]):
        command = [sys.executable, "-m", "mnv1deploy.cli", *map(str, arguments)]
        done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True)
        assert done.returncode == 0, done.stderr
    refused = subprocess.run(
        [sys.executable, "-m", "mnv1deploy.cli", "export"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert refused.returncode == 1
    assert "pip install 'mnv1deploy[export]'" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.slow
def test_the_cpu_waits_for_no_plugin_of_onnxruntime(tmp_path: Path) -> None:
    """One that was never asked for took a third of the time that predict takes."""
    (tmp_path / "onnxruntime_ep_trap.py").write_text("raise ImportError('the plugin was loaded')")
    trap = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    assert succeed("predict", CAT, env=trap).split()[1] == "cat"
    assert "onnxruntime_ep_trap" in mnv1("predict", CAT, "--provider", "cuda", env=trap).stderr


# bench -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_bench_table() -> None:
    table = succeed(
        "bench", "--duration", "0.02", "--threads", "1,2", "--batch-size", "1,4", "--provider", "CPUExecutionProvider"
    )
    assert table.count(bundled.INT8.name) == 6
    for word in ("CPUExecutionProvider", "p50", "p99", "images/s", "peak memory", "onnxruntime"):
        assert word in table


@pytest.mark.slow
def test_bench_json_and_plot(tmp_path: Path) -> None:
    plot = tmp_path / "bench.png"
    found = json.loads(succeed("bench", bundled.INT8, "pytorch", "--duration", "0.02", "--json", "--plot", plot))
    assert {row["artifact"] for row in found["results"]} == {bundled.INT8.name, "pytorch"}
    assert found["machine"]["cpu"]
    assert found["machine"]["versions"]["onnxruntime"]
    assert found["settings"]["duration"] == 0.02
    assert width(plot) > 500


@pytest.mark.slow
def test_bench_all(tmp_path: Path) -> None:
    """What cannot be measured is named below the table, and is an error only where it was asked for by name."""
    folder = tmp_path / "artifacts"
    folder.mkdir()
    for path in (bundled.INT8, manifest_path(bundled.INT8)):
        shutil.copy(path, folder)
    (folder / "net.onnx").write_bytes(b"no network")
    (folder / "net.onnx.json").write_text("{}")
    (tmp_path / "torch.py").write_text("raise ImportError('there is none')")
    without_torch = {**os.environ, "PYTHONPATH": str(tmp_path)}
    options = ["--duration", "0.02", "--plot", str(tmp_path / "bench.svg")]
    table = succeed("bench", "--all", *options, cwd=tmp_path, env=without_torch)
    assert table.count(bundled.INT8.name) == 2
    for name in ("net.onnx", "pytorch", "pytorch-compiled"):
        assert f"\n{name} was not measured: " in table
    assert "pip install 'mnv1deploy[train]'" in table
    found = json.loads(succeed("bench", "--all", folder, *options, "--json", env=without_torch))
    assert [row["artifact"] for row in found["results"]] == [bundled.INT8.name]
    assert list(found["not_measured"]) == ["net.onnx", "pytorch", "pytorch-compiled"]
    assert mnv1("bench", folder / bundled.INT8.name, folder / "net.onnx", *options).returncode == 1
    assert "no artifacts" in mnv1("bench", "--all", tmp_path).stderr
    (folder / bundled.INT8.name).unlink()
    assert mnv1("bench", "--all", folder, *options, env=without_torch).returncode == 1


@pytest.mark.slow
def test_bench_profile() -> None:
    alone = succeed("bench", "--profile", "--threads", 1, bundled.INT8)
    for word in ("stem", "QLinearConv", "block8.pointwise", "share", "%", "onnxruntime"):
        assert word in alone
    beside = succeed("bench", "--profile")
    assert beside.count("block4.depthwise") == 1
    assert bundled.FP32.name in beside
    found = json.loads(succeed("bench", "--profile", "--batch-size", 4, "--json"))
    assert [profile["artifact"] for profile in found["profiles"]] == [bundled.INT8.name, bundled.FP32.name]
    assert {"name", "kind", "mean"} == set(found["profiles"][0]["operators"][0])
    assert found["settings"]["calls"] > 0


def test_bench_refuses_a_gpu_that_is_not_there() -> None:
    if CUDA in formats.get("onnx").providers():
        assert CUDA in succeed("bench", "--provider", CUDA, "--duration", "0.02")
        return
    done = mnv1("bench", "--provider", "CUDAExecutionProvider")
    assert done.returncode == 1
    assert done.stdout == ""
    assert (
        "CUDAExecutionProvider is not available for onnx on this machine; available: CPUExecutionProvider"
        in done.stderr
    )
    assert "onnxruntime-gpu" in done.stderr


WRONG = [
    ["bench", "--batch-size", "0"],
    ["bench", "--threads", "two"],
    ["bench", "--duration", "-1"],
    ["bench", "--profile", "--all"],
    ["bench", "--profile", "--threads", "1,2"],
    ["export", "--quantize", "int4"],
    ["cost", "--preset", "resnet"],
    ["no-such-command"],
    ["import", "x.pt", "--mean", "0.5,0.5,0.5"],
    ["import", "x.pt", "--mean", "a,b,c", "--std", "1,1,1"],
    ["import", "x.pt", "--mean", "0,0,0", "--std", "1,1,1", "--normalization", "unit"],
    ["import", "x.pt", "--input-size", "-32"],
    ["cost", "--model", "x.onnx", "--width", "0.5"],
    ["cost", "--model", "x.onnx", "--preset", "paper"],
    ["cost", "--memory", "--precision", "fp32"],
    ["cost", "--precision", "banana"],
    ["cost", "--input-size", "0"],
    ["bench", "--profile", "--duration", "3"],
    ["export", "--ranges", "mse"],
    ["export", "--quantize", "fp16", "--ranges", "mse"],
    ["export", "--format", "caffe"],
    ["quantize-report", "--compare", "--plot", "x.png"],
    ["predict", "x.png", "--json", "--json-lines"],
    ["predict", "x.png", "--csv", "a", "--parquet", "b"],
    ["predict", "x.png", "--parquet", "s3://bucket/b"],
    ["predict", "x.png", "--output", "x.jsonl"],
    ["predict", "x.png", "--resume"],
    ["predict", "x.png", "--csv", "-", "--resume"],
    ["predict", "x.png", "--min-probability", "0.5"],
    ["predict", "x.png", "--sort-by", "move"],
    ["predict", "x.png", "--sort", "d", "--sort-by", "steal"],
    ["predict", "-", "--sort", "d"],
    ["predict", "x.png", "--workers", "0"],
    ["predict", "x.png", "--threads", "1000"],
    ["predict", "x.png", "--threads", "many"],
    ["train", "--input-size", "4"],
]


@pytest.mark.slow
def test_wrong_usage_exits_2(tmp_path: Path) -> None:
    assert [(wrong, mnv1(*wrong).returncode) for wrong in WRONG] == [(wrong, 2) for wrong in WRONG]


# export, evaluate, info, cost, providers ---------------------------------------------------------------------------


@pytest.mark.slow
def test_export_int8_table_and_files(tmp_path: Path) -> None:
    table = succeed("export", "--format", "onnx", "--quantize", "int8", cwd=tmp_path)
    assert "proved" in table
    assert "sample" in table
    assert sorted(path.name for path in (tmp_path / "artifacts").iterdir()) == [
        "mobilenetv1_cifar10_int8.onnx",
        "mobilenetv1_cifar10_int8.onnx.json",
    ]


@pytest.mark.slow
def test_several_artifacts_are_proved_and_compared_in_speed(tmp_path: Path) -> None:
    table = succeed("export", "--format", "onnx", "--format", "litert", cwd=tmp_path)
    assert "p50 of one picture on one thread" in table
    found = json.loads(succeed("export", "--format", "onnx,torchscript", "--output", tmp_path / "out", "--json"))
    assert [item["provenance"]["format"] for item in found] == ["onnx", "torchscript"]
    for item in found:
        assert item["failures"] == []
        assert Path(item["path"]).is_file()
        assert item["proof"]["agreement"] == 1.0
        assert 0.01 < item["p50"] < 100


@pytest.mark.slow
def test_export_all_writes_every_format_there_is(tmp_path: Path) -> None:
    """In fp16, for which nothing is compiled; examples/export.py, which test_docs.py runs, proves all in int8."""
    data = write_class_folders(tmp_path / "pictures", tuple(range(10)))  # TorchScript takes 20 ms for each
    table = succeed("export", "--format", "all", "--quantize", "fp16", "--data", data, cwd=tmp_path)
    for name in formats.exportable():
        entry = formats.get(name)
        path = tmp_path / "artifacts" / f"{CIFAR.name}_fp16{entry.suffix}"
        if "fp16" not in entry.precisions:
            assert not path.exists()
        elif name in formats.absent():
            assert f"{name} was left out; it comes with: pip install 'mnv1deploy[{entry.export_extra}]'" in table
        else:
            manifest = Manifest.read(path)
            assert manifest
            assert (f"{path.name} was not run here: " in table) == bool(entry.elsewhere) == (manifest.proof is None)
            if manifest.proof:
                assert manifest.proof.max_logit_difference <= 0.1
                assert manifest.proof.accuracy
                assert manifest.proof.accuracy.on.startswith("pictures test")
                assert mnv1deploy.load(path).spec.replace(temperature=1.0) == CIFAR


@pytest.mark.slow
def test_info_names_every_file_of_every_format() -> None:
    artifacts = every_format() / "artifacts"
    written = [path for name in formats.exportable() for path in artifacts.glob(f"*_int8{formats.get(name).suffix}")]
    assert len(written) > 10
    for path in written:
        manifest = Manifest.read(path)
        assert manifest
        assert mnv1("info", path).stdout.count("sha256") == len(manifest.files)


@pytest.mark.slow
def test_formats_are_listed_with_what_they_need(tmp_path: Path) -> None:
    table = succeed("formats")
    rows = {row["format"]: row for row in json.loads(succeed("formats", "--json"))}
    assert list(rows) == formats.exportable()
    for name, row in rows.items():
        assert name in table
        assert row["precisions"] == list(formats.get(name).precisions)
    assert rows["onnx"]["runners"]["onnxruntime"][0].isdigit()
    assert rows["onnx"]["quantizer"] == "mnv1deploy"
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as u, sys\n"
        "find = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name == 'onnx' else find(name, *rest)\n"
    )
    command = [sys.executable, "-m", "mnv1deploy.cli", "formats"]
    without = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=True
    )
    assert "pip install 'mnv1deploy[export]'" in without.stdout


@pytest.mark.slow
def test_an_export_that_fails_its_proof_exits_1(tmp_path: Path, class_folders: Path) -> None:
    """Calibrated on pictures that are far darker than those it is proved on, int8 clips what is bright."""
    dark = tmp_path / "dark"
    dark.mkdir()
    for number, picture in enumerate(datasets.calibration().images[:40]):
        Image.fromarray(picture // 6).save(dark / f"{number}.png")
    output = tmp_path / "out"
    done = mnv1("export", "--quantize", "int8", "--calibration", dark, "--output", output)
    assert done.returncode == 1
    assert "failed" in done.stdout
    assert "is not proved and was not kept" in done.stderr
    assert list(output.iterdir()) == []


@pytest.mark.slow
def test_a_board_may_be_tried_before_training(tmp_path: Path) -> None:
    options = ("--width", 0.25, "--input-size", 16, "--colours", 1, "--classes", 2, "--threads", 1)
    done = mnv1("export", "--untrained", "cifar", "--quantize", "int8", "--format", "c", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (artifact,) = (tmp_path / "artifacts").glob("*_untrained_int8.c")
    assert "weights are random" in done.stdout + done.stderr
    assert "flash" in mnv1("info", artifact).stdout


@pytest.mark.slow
def test_export_refusals(tmp_path: Path) -> None:
    refused = {
        "There is no checkpoint": ["--checkpoint", tmp_path / "none.safetensors"],
        "There is no folder": ["--calibration", tmp_path / "none"],
        "Cannot write": ["--output", CAT / "below"],
    }
    for message, arguments in refused.items():
        done = mnv1("export", *arguments)
        assert done.returncode == 1
        assert message in done.stderr


@pytest.mark.slow
def test_evaluate(cifar10: Path, tmp_path: Path) -> None:
    plot = tmp_path / "confusion.png"
    found = json.loads(succeed("evaluate", "--json", "--plot", plot))
    assert found["images"] == 10_000
    assert found["on"] == "CIFAR-10 test split"
    assert found["top1"] >= 0.88
    assert set(found["classes"]) == set(datasets.sample().classes)
    assert sum(map(sum, found["confusion"])) == 10_000
    assert 0 < found["calibration_error"] < found["uncalibrated_error"] < 0.03
    assert width(plot) > 500


@pytest.mark.slow
def test_evaluate_own_folder(tmp_path: Path) -> None:
    pictures = datasets.sample()
    for number in range(200):
        folder = tmp_path / "val" / pictures.classes[pictures.labels[number]]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pictures.images[number]).save(folder / f"{number}.png")
    (tmp_path / "train").mkdir()
    for folder in (tmp_path / "val").iterdir():
        (tmp_path / "train" / folder.name).mkdir()
        next(folder.iterdir()).rename(tmp_path / "train" / folder.name / "0.png")
    table = succeed("evaluate", "--data", tmp_path)
    assert "automobile" in table
    assert "(190 images)" in table
    assert f"at temperature {mnv1deploy.load().spec.temperature:g}" in " ".join(table.split())


@pytest.mark.slow
def test_how_jpegs_are_decoded_may_be_said_for_a_run(tmp_path: Path) -> None:
    for part, label in itertools.product(("train", "val"), datasets.sample().classes):
        folder = tmp_path / part / label
        folder.mkdir(parents=True)
        Image.open(EXAMPLES / "truck.jpg").resize((640, 480)).save(folder / f"{part}-{label}.jpg", quality=90)
    picture = tmp_path / "val" / "truck" / "val-truck.jpg"
    for run in (("predict", picture), ("evaluate", "--data", tmp_path)):
        as_ever = succeed(*run, "--json")
        assert succeed(*run, "--json", "--jpeg", "whole") == as_ever
        assert succeed(*run, "--json", "--jpeg", "scaled") != as_ever
    expected = mnv1deploy.load(jpeg="scaled").predict(picture, top=1).probability
    assert json.loads(succeed("predict", picture, "--json", "--jpeg", "scaled"))[0]["probability"] == expected


@pytest.mark.slow
def test_info_of_everything_shipped() -> None:
    for path in (bundled.INT8, bundled.FP32, bundled.CHECKPOINT):
        facts = json.loads(succeed("info", path, "--json"))
        assert facts["spec"]["input_size"] == 32
        assert "uint8 [N, 32, 32, 3]" in succeed("info", path)
    assert json.loads(succeed("info", "--json"))["proof"]["agreement"] >= 0.985
    checkpoint = json.loads(succeed("info", bundled.CHECKPOINT, "--json"))
    assert checkpoint["accuracy"][0]["on"] == "CIFAR-10 test split"
    assert checkpoint["training"]["epochs"] > 0


def test_info_of_other_files(tmp_path: Path) -> None:
    assert "no known format" in mnv1("info", CAT).stderr
    copy = tmp_path / "copy.onnx"
    copy.write_bytes(bundled.INT8.read_bytes())
    assert "there is no manifest" in mnv1("info", copy).stdout
    (tmp_path / "copy.onnx.json").write_bytes(bundled.INT8.with_name(bundled.INT8.name + ".json").read_bytes())
    copy.write_bytes(copy.read_bytes() + b"\0")
    done = mnv1("info", copy)
    assert done.returncode == 1


@pytest.mark.slow
def test_cost() -> None:
    table = succeed("cost")
    assert "7,872,512" in table
    assert "280,650" in table
    paper = json.loads(succeed("cost", "--preset", "paper", "--json"))
    assert round(paper["multiply_adds"] / 1e6) == 569
    assert json.loads(succeed("cost", "--model", bundled.INT8, "--json"))["parameters"] == 280_650
    assert mnv1("cost", "--input-size", 7).returncode == 2
    assert "45,064 bytes of scratch" in succeed("cost", "--memory")
    assert json.loads(succeed("cost", "--memory", "--json"))["scratch"] == 45_064


@pytest.mark.parametrize("provider", ["CPU", "cpu:0", "cpuexecutionprovider"])
def test_providers_are_understood_in_any_spelling(provider: str) -> None:
    assert succeed("predict", CAT, "--provider", provider, "--threads", "auto").split()[1] == "cat"


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("cuda:0", "CUDAExecutionProvider"),
        ("GPU:0", "CUDAExecutionProvider"),
        ("CUDA", "CUDAExecutionProvider"),
        ("dml", "DmlExecutionProvider"),
        ("CoreML", "CoreMLExecutionProvider"),
        ("qnnexecutionprovider", "QNNExecutionProvider"),
    ],
)
def test_a_provider_that_is_not_there_has_a_hint_in_any_spelling(spelling: str, name: str) -> None:
    if name in formats.get("onnx").providers():
        pytest.skip(f"{name} is there")
    done = mnv1("predict", CAT, "--provider", spelling)
    assert done.returncode == 1
    assert f"{name} is not available for onnx" in done.stderr
    assert "It comes with onnxruntime" in done.stderr


def test_another_device_is_refused_by_name() -> None:
    done = mnv1("predict", CAT, "--provider", "cuda:1")
    assert done.returncode == 1
    assert "CUDA_VISIBLE_DEVICES=1" in done.stderr


@pytest.mark.slow
def test_weights_from_elsewhere_are_to_be_imported(tmp_path: Path) -> None:
    commands: list[list[object]] = []
    for path in (tmp_path / name for name in ("w.pth", "w.pth.tar", "w.ckpt", "w.bin")):
        path.write_bytes(b"weights")
        commands += [["predict", CAT, "--model", path], ["info", path], ["bench", path]]
        commands += [["export", "--checkpoint", path], ["quantize-report", "--checkpoint", path]]
    for command in commands:
        done = mnv1(*command)
        assert done.returncode == 1, command
        assert any(f"mnv1 import {part}" in done.stderr for part in command[1:])


@pytest.mark.slow
def test_a_wrong_option_is_named_not_the_picture() -> None:
    done = mnv1("import", "x.pt", "--input-size", "-32")
    assert "--input-size" in done.stderr


@pytest.mark.slow
def test_an_import_is_repeated_with_force(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    weights = tmp_path / "weights.pth"
    torch.save(checkpoint.load(bundled.CHECKPOINT).network.state_dict(), weights)
    arguments = ["import", weights, "--output", path, "--normalization"]
    before = bundled.CHECKPOINT.read_bytes()
    path.write_bytes(before)
    refused = mnv1(*arguments, "unit")
    assert refused.returncode == 1
    assert "exists already" in refused.stderr
    assert "--force" in refused.stderr
    assert path.read_bytes() == before
    assert mnv1(*arguments, "unit", "--force").returncode == 0
    assert path.read_bytes() != before


@pytest.mark.slow
def test_providers() -> None:
    assert "CPUExecutionProvider" in succeed("providers")
    found = json.loads(succeed("providers", "--json"))
    assert found["available"]["onnx"][0] == "CPUExecutionProvider"
    assert not set(found["available"]["onnx"]) & set(found["not_available"])


# What is to be known before a file is opened ----------------------------------------------------------------------


@pytest.mark.slow
def test_a_missing_manifest_is_said_once_on_standard_error(tmp_path: Path) -> None:
    copied = tmp_path / "net.onnx"
    copied.write_bytes(bundled.INT8.read_bytes())
    data = write_class_folders(tmp_path / "data", tuple(range(10)))
    sentence = f"mnv1: {copied} has no manifest net.onnx.json beside it, so it is not proved.\n"
    commands: list[list[object]] = [
        ["predict", CAT, "--model", copied],
        ["evaluate", copied, "--data", data],
        ["bench", copied, copied, "--duration", "0.02"],
        ["bench", copied, "--profile"],
        ["info", copied],
    ]
    commands += [[*command, "--json"] for command in commands]
    for command in commands:
        done = mnv1(*command)
        assert (done.returncode, done.stderr) == (0, sentence)
        if "--json" in done.args and "predict" not in done.args:
            assert json.loads(done.stdout)["notes"] == [sentence.removeprefix("mnv1: ").rstrip()]


@pytest.mark.slow
def test_artifacts_that_are_code_are_called_so(tmp_path: Path) -> None:
    """Opening somebody's C, .pt or .pt2 executes what is in it."""
    network, images = checkpoint.load(bundled.CHECKPOINT).network, datasets.calibration().images
    path = export(network, "c", "int8", tmp_path, images)
    for arguments in (["info", path], ["predict", CAT, "--model", path]):
        done = mnv1(*arguments)
        assert done.returncode == 0
        assert (
            done.stderr == f"mnv1: {path} is code that runs as you when it is opened: open none whose origin you "
            "do not trust.\n"
        )
    shutil.rmtree(path)
    stranger = tmp_path / "net.pt"
    stranger.write_bytes(b"no TorchScript at all")
    done = mnv1("predict", CAT, "--model", stranger)
    assert done.returncode == 1
    assert done.stderr.index("is code that runs as you") < done.stderr.index("cannot")  # before it is opened


# The rest ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_help_and_version(tmp_path: Path) -> None:
    commands = ["train", "import", "export", "predict", "bench", "evaluate", "info", "cost", "providers", "formats"]
    commands += ["serve", "doctor", "choose"]
    wanted = [[*command, flag] for command in ([], *([name] for name in commands)) for flag in ("-h", "--help")]
    short_and_long = [succeed(*words) for words in wanted]
    assert short_and_long[::2] == short_and_long[1::2]
    assert len(set(short_and_long)) == len(wanted) / 2
    text = short_and_long[0]
    assert all(command in text for command in commands)
    assert succeed("--version").startswith("mnv1 ")
    assert "..." not in text.replace("[ARGS]...", "")


def test_debug_shows_the_traceback_anywhere_on_the_line() -> None:
    for arguments in (["--debug", "predict", "none.png", "--model", "none.onnx"], ["info", "none.onnx", "--debug"]):
        command = [sys.executable, "-m", "mnv1deploy.cli", *arguments]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 1
        assert "Traceback" in done.stderr


@pytest.mark.parametrize("reader", ["head -n 1", "head -n 0"])
def test_a_closed_pipe_is_no_error(class_folders: Path, reader: str) -> None:
    """Whether the pipe closes while answers are printed, or before the first of them."""
    command = f"{sys.executable} -m mnv1deploy.cli predict {class_folders} | {reader}"
    done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True)
    assert done.stdout.count("\n") == int(reader[-1])
    assert done.stderr == ""


def test_a_terminal_gets_a_progress_bar(class_folders: Path) -> None:
    """On a real pseudo-terminal: the bar is drawn on standard error, the answers on standard output."""
    main, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "mnv1deploy.cli", "predict", str(class_folders)],
        stdout=subprocess.PIPE,
        stderr=terminal,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
    )
    os.close(terminal)
    seen: list[bytes] = []

    def watch() -> None:  # a terminal that nobody reads is full at some time, and its writer waits
        with suppress(OSError):  # Linux's way to say that nobody writes any more
            while read := os.read(main, 4096):
                seen.append(read)

    watcher = threading.Thread(target=watch)
    watcher.start()
    lines = process.communicate()[0].decode().splitlines()
    watcher.join()
    os.close(main)
    text = b"".join(seen)
    assert process.returncode == 0
    assert len(lines) == 80
    assert b"predicting" in text
    assert b"80/80" in text
