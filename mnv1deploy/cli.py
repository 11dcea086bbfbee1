"""``mnv1``: arguments in, report out, no logic. Everything heavy is imported inside the command that needs it."""

from __future__ import annotations

import os
import shlex
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from mnv1deploy.artifact import Precision
from mnv1deploy.errors import MnvError
from mnv1deploy.packages import engine
from mnv1deploy.report import console
from mnv1deploy.training.settings import RANGES

app = typer.Typer(
    name="mnv1",
    help="Take a small convolutional network from PyTorch to every edge runtime, in int8, with every step proved.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
ProviderOption = Annotated[
    str, typer.Option(help="Where to run: cpu, cuda, tensorrt, openvino or a provider's full name. Used or refused.")
]
DataOption = Annotated[
    Path | None,
    typer.Option(
        help="A folder of class folders (train/<class>/* and test/<class>/*, or <class>/* alone), or CIFAR-10's or "
        "CIFAR-100's. Default: CIFAR-10 from $MNV1_DATA or the cache folder, else downloaded.",
        show_default=False,
    ),
]
DownloadOption = Annotated[
    Path | None,
    typer.Option(help="In place of --data: a folder to fetch CIFAR-10 into, if it is not there.", show_default=False),
]
SkipOption = Annotated[
    bool, typer.Option("--skip-unreadable", help="Leave out pictures that cannot be read; how many is said.")
]
CheckpointOption = Annotated[Path | None, typer.Option(help="Default: the bundled one.", show_default=False)]
CalibrationOption = Annotated[
    Path | None,
    typer.Option(
        help="Folder of pictures to calibrate int8 on. Default: the bundled ones, for CIFAR-10's classes.",
        show_default=False,
    ),
]
RangesOption = Annotated[
    str | None,
    typer.Option(
        help="Calibration method of int8: minmax, moving-average, percentile, entropy or mse. Default: percentile.",
        show_default=False,
    ),
]


def _setting(name: str, help: str) -> Any:
    """The option of a training setting; its help ends with the values it may have."""
    return typer.Option(help=f"{help}: {RANGES[name].words}.", show_default=False)


def _version(wanted: bool) -> None:
    if wanted:
        from mnv1deploy.packages import versions

        console.show_line(f"mnv1 {versions()['mnv1deploy']}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error (anywhere on the line).")
    ] = False,
) -> None:
    """Takes what stands before the command."""


@app.command()
def predict(
    pictures: Annotated[
        list[str], typer.Argument(help="Pictures, folders, patterns like '*.jpg', or - for standard input.")
    ],
    model: Annotated[
        Path | None, typer.Option(help="Any artifact or checkpoint. Default: the bundled int8 ONNX.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="How many classes to name per picture.")] = 3,
    provider: ProviderOption = "cpu",
    threads: Annotated[int | None, typer.Option(min=1, help="Default: the engine's own choice.")] = None,
    json: JsonOption = False,
) -> None:
    """Say what is in pictures."""
    from mnv1deploy import bundled, images
    from mnv1deploy.classifier import Prediction, load
    from mnv1deploy.report import as_json, tables

    paths = images.find(pictures)
    classifier = load(model or bundled.INT8, provider=provider, threads=threads)
    predictions: list[tuple[str, Prediction]] = []
    errors: list[MnvError] = []
    with console.progress("predicting", len(paths)) as advance:
        for path, answer in classifier.predict_all(paths, top=top):
            if isinstance(answer, MnvError):
                errors.append(answer)
            else:
                predictions.append((str(path), answer))
            advance(1)
    if json:
        console.show_json(as_json.predictions_as_dicts(predictions))
    elif predictions:
        tables.show_predictions(predictions)
    for error in errors:
        console.show_error(error.message, error.hint)
    if errors:
        raise typer.Exit(1)


@app.command()
def bench(
    artifacts: Annotated[
        list[str] | None,
        typer.Argument(
            help="Artifacts, checkpoints, or pytorch and pytorch-compiled for the bundled checkpoint in eager mode "
            "and under torch.compile. Default: the bundled int8 and fp32 ONNX. With --all: folders.",
            show_default=False,
        ),
    ] = None,
    provider: ProviderOption = "cpu",
    batch_size: Annotated[str, typer.Option(metavar="N,N,...", help="Images per call.")] = "1",
    threads: Annotated[
        str | None, typer.Option(metavar="N,N,...", help="Default: each engine's own choice.", show_default=False)
    ] = None,
    duration: Annotated[
        float, typer.Option(min=0.01, help="Seconds of timed calls per contestant and batch size.")
    ] = 2.0,
    include_copies: Annotated[
        bool, typer.Option("--include-copies", help="On a GPU, time the copies to and from it too.")
    ] = False,
    all: Annotated[
        bool,
        typer.Option(
            "--all", help="Every artifact in the folders (default: artifacts), and pytorch and pytorch-compiled."
        ),
    ] = False,
    profile: Annotated[
        bool, typer.Option("--profile", help="Instead, the time per operator, where the engine tells it.")
    ] = False,
    json: JsonOption = False,
    plot: Annotated[Path | None, typer.Option(help="Draw the result to this PNG or SVG.")] = None,
) -> None:
    """Measure latency, throughput, load time and memory, side by side."""
    from mnv1deploy import benchmark, bundled
    from mnv1deploy.report import plots, tables

    batch_sizes = _numbers(batch_size, "--batch-size")
    counts: list[int | None] = [*_numbers(threads, "--threads")] if threads else [None]
    if profile and (all or plot or include_copies or len(counts) > 1 or len(batch_sizes) > 1):
        raise typer.BadParameter(
            "--profile takes artifacts, one --batch-size and one --threads; not --all, --plot or --include-copies."
        )
    contestants = [*(artifacts or [str(bundled.INT8), str(bundled.FP32)])]
    if all:
        found = [str(path) for folder in artifacts or ["artifacts"] for path in benchmark.find(folder)]
        contestants = [*found, *benchmark.REFERENCES]
    if profile:
        with console.progress("profiling", len(contestants)) as advance:
            profiles = benchmark.profile(
                contestants,
                provider=provider,
                batch_size=batch_sizes[0],
                threads=counts[0],
                on_artifact=lambda: advance(1),
            )
        if json:
            console.show_json(
                {
                    "machine": benchmark.machine(),
                    "settings": {"threads": counts[0], "calls": benchmark.PROFILED_CALLS},
                    "profiles": benchmark.as_dicts(profiles),
                }
            )
        else:
            tables.show_profiles(profiles)
        return
    refused: dict[str, MnvError] = {}
    total = benchmark.slices(len(contestants), len(counts), len(batch_sizes))
    with console.progress("measuring", total) as advance:
        results = benchmark.bench(
            contestants,
            provider=provider,
            batch_sizes=batch_sizes,
            threads=counts,
            duration=duration,
            include_copies=include_copies,
            on_slice=lambda: advance(1),
            on_refusal=refused.__setitem__ if all else benchmark.raise_refusal,
        )
    if not results:
        raise next(iter(refused.values()))
    if plot:
        plots.plot_bench(results, plot)
    if json:
        console.show_json(
            {
                "machine": benchmark.machine(),
                "settings": {"duration": duration, "include_copies": include_copies, "rounds": benchmark.ROUNDS},
                "results": benchmark.as_dicts(results),
                "not_measured": {name: str(error) for name, error in refused.items()},
            }
        )
    else:
        tables.show_bench(results, refused)


@app.command()
def export(
    format: Annotated[
        list[str] | None,
        typer.Option(
            help="A format, several with commas or by repeating, or all; mnv1 formats lists them. Default: onnx.",
            show_default=False,
        ),
    ] = None,
    quantize: Annotated[Literal["none", "fp16", "int8"], typer.Option(help="none is fp32.")] = "none",
    output: Annotated[Path, typer.Option(help="Folder for the artifacts and their manifests.")] = Path("artifacts"),
    name: Annotated[
        str | None,
        typer.Option(
            help="Call the network this instead of the checkpoint's name: files, and the C's symbols, begin with it.",
            show_default=False,
        ),
    ] = None,
    checkpoint: CheckpointOption = None,
    calibration: CalibrationOption = None,
    ranges: RangesOption = None,
    data: DataOption = None,
    json: JsonOption = False,
) -> None:
    """Write a checkpoint in edge formats and prove each file against it."""
    engine("torch", "export")
    from mnv1deploy import benchmark, bundled, exporting, formats, quantization
    from mnv1deploy.report import as_json, tables

    precision: Precision = "fp32" if quantize == "none" else quantize
    names = [name.strip() for group in (format or ["onnx"]) for name in group.split(",")]
    everything = names == ["all"]
    with console.progress("exporting and proving", len(formats.present(precision) if everything else names)) as advance:
        done = exporting.export(
            names,
            precision,
            checkpoint_path=checkpoint or bundled.CHECKPOINT,
            output=output,
            calibration=calibration,
            data=data,
            scheme=quantization.Scheme.named(ranges),
            name=name,
            on_artifact=lambda item: advance(1),
        )
    runnable = [item.path for item in done if item.proof and not item.failures]
    latency: dict[Path, float] = {}
    if len(runnable) > 1:
        results = benchmark.bench(runnable, threads=[1], duration=0.5)
        latency = {path: result.p50 for path, result in zip(runnable, results, strict=True)}
    if json:
        console.show_json(as_json.exported_as_dicts(done, latency))
    else:
        tables.show_exported(done, latency, formats.absent() if everything else {})
    for item in done:
        if item.failures:
            console.show_error(
                f"{item.path.name} is not proved and was not kept: {'; '.join(item.failures)}.",
                "Calibrate on pictures like those it was trained on (--calibration), or use --quantize fp16.",
            )
    if any(item.failures for item in done):
        raise typer.Exit(1)


@app.command()
def quantize_report(
    checkpoint: CheckpointOption = None,
    calibration: CalibrationOption = None,
    ranges: RangesOption = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Instead of the layers, compare calibration methods and rounding.")
    ] = False,
    data: DataOption = None,
    json: JsonOption = False,
    plot: Annotated[Path | None, typer.Option(help="Draw the layers to this PNG or SVG.")] = None,
) -> None:
    """Show what int8 costs: ranges, noise and loss of accuracy, layer by layer, on pictures not trained on."""
    engine("torch", "export")
    from mnv1deploy import bundled, datasets, exporting, quantization
    from mnv1deploy import checkpoint as checkpoints
    from mnv1deploy.quantization import sensitivity
    from mnv1deploy.report import as_json, plots, tables

    if compare and plot:
        raise MnvError("--plot draws the layers, and --compare leaves them out.", "Leave out one of the two.")
    network = checkpoints.load(checkpoint or bundled.CHECKPOINT).network
    pictures, name = exporting.calibration_images(network.spec, calibration)
    unseen = datasets.load_unseen(data, network.spec.pixels)
    scheme = quantization.Scheme.named(ranges)
    if compare:
        schemes = sensitivity.schemes(scheme)
        trials = []
        with console.progress("quantizing", len(schemes)) as advance:
            for trial in sensitivity.compare(network.folded(), pictures, unseen, schemes):
                trials.append(trial)
                advance(1)
        if json:
            console.show_json(as_json.trials_as_dicts(trials, unseen))
        else:
            tables.show_trials(trials, unseen)
        return
    integers = quantization.quantize(network.folded(), pictures, name, scheme)
    with console.progress("quantizing one layer at a time", len(integers.weights)) as advance:
        found = sensitivity.measure(integers, unseen, lambda: advance(1))
    if plot:
        plots.plot_quantization(found, plot)
    if json:
        console.show_json(as_json.quantization_as_dict(found, integers))
    else:
        tables.show_quantization(found, integers)


@app.command()
def evaluate(
    model: Annotated[
        Path | None,
        typer.Argument(help="Any artifact or checkpoint. Default: the bundled int8 ONNX.", show_default=False),
    ] = None,
    data: DataOption = None,
    download: DownloadOption = None,
    skip_unreadable: SkipOption = False,
    provider: ProviderOption = "cpu",
    threads: Annotated[
        int | None, typer.Option(min=1, help="Default: the engine's own choice.", show_default=False)
    ] = None,
    json: JsonOption = False,
    plot: Annotated[Path | None, typer.Option(help="Draw the confusion matrix to this PNG or SVG.")] = None,
) -> None:
    """Measure top-1, per-class accuracy and the confusion matrix on the test part of the data."""
    from mnv1deploy import bundled, datasets, formats, verification
    from mnv1deploy.report import as_json, plots, tables

    session = formats.open_session(model or bundled.INT8, provider=provider, threads=threads)
    dataset = datasets.load_test(data, session.spec.pixels, skip_unreadable=skip_unreadable, download=download)
    with console.progress("evaluating", len(dataset)) as advance:
        evaluation = verification.evaluate(session, dataset, advance)
    if plot:
        plots.plot_confusion(evaluation, plot)
    if json:
        console.show_json(as_json.evaluation_as_dict(evaluation))
    else:
        tables.show_evaluation(evaluation)


@app.command()
def train(
    ctx: typer.Context,
    data: DataOption = None,
    download: DownloadOption = None,
    skip_unreadable: SkipOption = False,
    output: Annotated[Path, typer.Option(help="Folder for checkpoint, log, curves and state.")] = Path("runs/cifar10"),
    recipe: Annotated[
        str, typer.Option(help="quick, best, or a .toml file; the options below change single settings of it.")
    ] = "quick",
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --output, with its settings.")
    ] = False,
    init: Annotated[
        str | None,
        typer.Option(
            help="A checkpoint to start from, whose sizes are taken, and whose classifier if the classes have the same "
            "names; or none. Default: none, and for fewer than 10,000 pictures the bundled one, if it has the sizes.",
            show_default=False,
        ),
    ] = None,
    teacher: Annotated[
        Path | None,
        typer.Option(help="Folder of the teacher's run, if the recipe has one; made if need be. Default: in --output."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write a TensorBoard log to --output too.")
    ] = False,
    sync_batchnorm: Annotated[
        bool, typer.Option("--sync-batchnorm", help="Under torchrun on GPUs: normalise over all processes.")
    ] = False,
    json: JsonOption = False,
    threads: Annotated[int | None, typer.Option(min=1, help="Of each process. Default: one per core.")] = None,
    preset: Annotated[
        str | None, typer.Option(help="The network: cifar (default), or paper, the 224x224 one of arXiv 1704.04861.")
    ] = None,
    width: Annotated[float | None, typer.Option(help="Width multiplier. Default: 1.")] = None,
    input_size: Annotated[
        int | None, typer.Option(help="Height and width of the pictures in pixels, 8 or more. Default: the preset's.")
    ] = None,
    colours: Annotated[int | None, typer.Option(help="3 (RGB, default) or 1 (grey).")] = None,
    epochs: Annotated[int | None, _setting("epochs", "Passes over the training part")] = None,
    batch_size: Annotated[int | None, _setting("batch_size", "Pictures per step, over all processes")] = None,
    optimizer: Annotated[str | None, _setting("optimizer", "Nesterov momentum or AdamW")] = None,
    learning_rate: Annotated[float | None, _setting("learning_rate", "Its peak; about 0.002 suits adamw")] = None,
    momentum: Annotated[float | None, _setting("momentum", "Of SGD")] = None,
    muon: Annotated[
        float | None, _setting("muon", "Peak learning rate of Muon for full and pointwise convolutions, 0 for none")
    ] = None,
    muon_decay: Annotated[float | None, _setting("muon_decay", "Its weight decay")] = None,
    weight_decay: Annotated[
        float | None, _setting("weight_decay", "On full and pointwise convolutions and the classifier only")
    ] = None,
    schedule: Annotated[str | None, _setting("schedule", "Of the learning rate")] = None,
    warmup: Annotated[float | None, _setting("warmup", "Fraction of the run in which the learning rate rises")] = None,
    label_smoothing: Annotated[float | None, _setting("label_smoothing", "0 for none")] = None,
    ema: Annotated[
        float | None, _setting("ema", "Decay per step of the moving average of the weights, 0 for none")
    ] = None,
    crop: Annotated[int | None, _setting("crop", "Padding of the random crop in pixels, 0 for none")] = None,
    flip: Annotated[bool | None, typer.Option(help="Mirror half the pictures.")] = None,
    cutout: Annotated[int | None, _setting("cutout", "Side of the blanked square in pixels, 0 for none")] = None,
    views: Annotated[
        int | None, _setting("views", "Different views of the pictures, in turn, 0 for a new one every epoch")
    ] = None,
    teachers: Annotated[
        int | None, _setting("teachers", "How many of them, of different seeds; their answers are averaged")
    ] = None,
    temperature: Annotated[float | None, _setting("temperature", "Of the teachers' and the network's answers")] = None,
    holdout: Annotated[
        float | None, _setting("holdout", "Part of the training split to choose the best epoch by")
    ] = None,
    seed: Annotated[int | None, _setting("seed", "Of weights, order and augmentation")] = None,
) -> None:
    """Train a network on CIFAR-10 or on your own folder of pictures."""
    from dataclasses import fields

    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads that spin take the cores from those that work
    torch = engine("torch", "train")
    from mnv1deploy.report import as_json, plots, tables
    from mnv1deploy.training import distributed, start
    from mnv1deploy.training.run import complete
    from mnv1deploy.training.settings import Settings

    if tensorboard:
        engine("tensorboard", "tensorboard")
    if threads:
        torch.set_num_threads(threads)
    names = {field.name for field in fields(Settings)} & set(ctx.params) - {"teacher"}
    network = {"init", "preset", "width", "input_size", "colours"}
    given = [name for name in ctx.params if str(ctx.get_parameter_source(name)).endswith("COMMANDLINE")]
    of_data: dict[str, Any] = {"skip_unreadable": skip_unreadable, "download": download}
    of_run: dict[str, Any] = {"device": device, "sync_batchnorm": sync_batchnorm, "teacher": teacher}
    with distributed.joined():
        if resume:
            if fixed := [_flag(name) for name in given if name in {*names, *network, "recipe"}]:
                raise MnvError(f"A run is resumed with the settings it was begun with; leave out {', '.join(fixed)}.")
            run, test_split = start.resume(output, data, **of_data, **of_run)
        else:
            changes = {name: ctx.params[name] for name in names if ctx.params[name] is not None}
            chosen: dict[str, Any] = {name: ctx.params[name] for name in network}
            run, test_split = start.begin(output, data, recipe=recipe, changes=changes, **of_data, **chosen, **of_run)
        try:
            complete(run, watch=partial(console.training_progress, tensorboard=tensorboard))
        except KeyboardInterrupt:
            again = shlex.join(["mnv1", "train", "--resume", "--output", str(output), *_same_again(ctx, given)])
            console.show_error(f"Interrupted; {len(run.log)} epochs are kept.", f"Go on with: {again}")
            raise typer.Exit(130) from None
        if distributed.rank():
            return
    evaluation = run.measure(test_split)
    plots.plot_curves(run.log, output / "curves.png")
    plots.plot_confusion(evaluation, output / "confusion.png")
    if json:
        console.show_json({"checkpoint": str(run.checkpoint), **as_json.evaluation_as_dict(evaluation)})
    else:
        tables.show_evaluation(evaluation)
        console.show_line(f"{run.checkpoint}  log, curves and confusion matrix beside it")


@app.command(name="import")
def import_(
    file: Annotated[
        Path, typer.Argument(help="A state dict (.pt, .pth or .safetensors) of the tutorial network or ours.")
    ],
    output: Annotated[Path | None, typer.Option(help="Default: FILE with .safetensors.", show_default=False)] = None,
    normalization: Annotated[
        str,
        typer.Option(
            help="What it was trained with: tutorial, default, imagenet, half or unit; see docs/checkpoints.md."
        ),
    ] = "tutorial",
    mean: Annotated[
        str | None, typer.Option(metavar="R,G,B", help="Its mean, for pixels in 0..1.", show_default=False)
    ] = None,
    std: Annotated[
        str | None, typer.Option(metavar="R,G,B", help="Its std, for pixels in 0..1.", show_default=False)
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,NAME,...", help="In the order of its outputs. Default: CIFAR-10's.", show_default=False
        ),
    ] = None,
    input_size: Annotated[int, typer.Option(help="Height and width of the pictures it was trained on.")] = 32,
    json: JsonOption = False,
) -> None:
    """Bring in weights that were trained elsewhere."""
    engine("torch", "train")
    from mnv1deploy import checkpoint
    from mnv1deploy.report import as_json

    if (mean is None) != (std is None):
        raise typer.BadParameter("--mean and --std go together.")
    chosen = checkpoint.normalization(normalization, _floats(mean, "--mean"), _floats(std, "--std"))
    target = output or file.with_suffix(".safetensors")
    if target.exists():
        raise MnvError(f"{target} exists already.", "Name another file with --output.")
    names = tuple(name.strip() for name in classes.split(",")) if classes else None
    network = checkpoint.import_state_dict(file, normalization=chosen, classes=names, input_size=input_size)
    fits = checkpoint.try_normalizations(network)
    accuracy = fits.pop("as given", None)
    training = {"imported_from": file.name}
    checkpoint.save(target, network, training=training, accuracy=(accuracy,) if accuracy else ())
    if json:
        console.show_json(as_json.info_as_dict(target))
    else:
        console.show_line(f"{target}" + (f"  top-1 {accuracy}" if accuracy else ""))
    better = {name: fit for name, fit in fits.items() if accuracy and fit.top1 > accuracy.top1 + 0.02}
    if better:
        best = max(fit.top1 for fit in better.values())
        likely = " or ".join(name for name, fit in better.items() if fit.top1 > best - 0.01)
        console.show_error(
            f"With --normalization {likely} it has a top-1 of about {best:.0%} on the same images.",
            "Was it trained with another normalisation than you gave?",
        )


@app.command()
def info(
    file: Annotated[
        Path | None,
        typer.Argument(help="Any artifact or checkpoint. Default: the bundled int8 ONNX.", show_default=False),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Print a file's spec, provenance and proof."""
    from mnv1deploy import bundled
    from mnv1deploy.report import as_json, tables

    facts = as_json.info_as_dict(file or bundled.INT8)
    if json:
        console.show_json(facts)
    else:
        tables.show_info(facts)


@app.command()
def cost(
    preset: Annotated[str, typer.Option(help="cifar, or paper: the 224x224 network of arXiv 1704.04861.")] = "cifar",
    width: Annotated[float, typer.Option(help="Width multiplier.")] = 1.0,
    input_size: Annotated[int | None, typer.Option(help="Default: the preset's.", show_default=False)] = None,
    model: Annotated[
        Path | None, typer.Option(help="Of this artifact or checkpoint instead of a preset.", show_default=False)
    ] = None,
    precision: Annotated[str, typer.Option(help="Of the activations: fp32, fp16 or int8.")] = "fp32",
    memory: Annotated[
        bool, typer.Option("--memory", help="Instead, where the generated C keeps its activations.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Count multiply-adds, parameters and activation memory, per layer."""
    from mnv1deploy import cost as model_of_cost
    from mnv1deploy.c.plan import plan
    from mnv1deploy.report import as_json, tables
    from mnv1deploy.spec import PRESETS

    if model:
        spec = as_json.spec_of(model)
    elif preset in PRESETS:
        spec = PRESETS[preset].scaled(width)
    else:
        raise typer.BadParameter(f"there is no preset {preset}; there are {', '.join(PRESETS)}.")
    if input_size:
        spec = spec.replace(input_size=input_size)
    result = plan(spec) if memory else model_of_cost.cost(spec, precision)
    if json:
        console.show_json(result.to_dict())
    elif isinstance(result, model_of_cost.Cost):
        tables.show_cost(result)
    else:
        tables.show_plan(result)


@app.command(name="formats")
def formats_(json: JsonOption = False) -> None:
    """List the formats, and what writes and runs each on this machine."""
    from mnv1deploy.report import as_json, tables

    rows = as_json.formats_as_dicts()
    if json:
        console.show_json(rows)
    else:
        tables.show_formats(rows)


@app.command()
def providers(json: JsonOption = False) -> None:
    """List what this machine can run artifacts on."""
    from mnv1deploy import benchmark, formats
    from mnv1deploy.report import tables

    found = {name: list(formats.get(name).providers()) for name in formats.NAMES}
    missing = formats.missing_providers(found["onnx"])
    if json:
        console.show_json({"machine": benchmark.machine(), "available": found, "not_available": missing})
    else:
        tables.show_providers(found, missing)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _same_again(ctx: typer.Context, given: list[str]) -> list[str]:
    """Of the options that were given those that a resumed run needs again; the others are in its state."""
    words: list[str] = []
    for name in given:
        if name in ("device", "threads"):
            words += [_flag(name), str(ctx.params[name])]
        elif name in ("tensorboard", "sync_batchnorm", "json", "skip_unreadable"):
            words.append(_flag(name))
    return words


def _numbers(text: str, flag: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() and int(part) > 0 for part in parts):
        raise typer.BadParameter(f"{flag} takes whole numbers from 1 up, with commas between them, not {text!r}.")
    return [int(part) for part in parts]


def _floats(text: str | None, flag: str) -> tuple[float, float, float] | None:
    if text is None:
        return None
    try:
        red, green, blue = (float(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"{flag} takes three numbers with commas between them, not {text!r}.") from None
    return red, green, blue


def main() -> None:
    """The ``mnv1`` command: what a user can cause ends in one sentence and exit code 1, wrong usage in 2."""
    debug = "--debug" in sys.argv[1:]
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    warnings.filterwarnings("ignore", module=r"PIL\.")  # damaged metadata in pictures that are read all the same
    try:
        try:
            app(arguments, prog_name="mnv1")
        finally:
            sys.stdout.flush()  # here, where a closed pipe is caught, not when the interpreter ends
    except MnvError as error:
        if debug:
            raise
        console.show_error(error.message, error.hint)
        sys.exit(1)
    except BrokenPipeError:
        # whoever read our output (head, a pager) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        if debug:
            raise
        console.show_error(
            f"This is a bug in mnv1deploy: {type(error).__name__}: {error}",
            "Run it again with --debug and report that.",
        )
        sys.exit(1)


if __name__ == "__main__":
    main()
