"""``mnv1``: arguments in, report out, no logic. Everything heavy is imported inside the command that needs it."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import typer
from typer.core import TyperCommand
from typer.models import CommandInfo

from mnv1deploy.errors import MnvError, flag
from mnv1deploy.packages import engine
from mnv1deploy.report import console
from mnv1deploy.training.ranges import RANGES

Parsed = TypeVar("Parsed")

app = typer.Typer(
    name="mnv1",
    help="Take a small convolutional network from PyTorch to every edge runtime, in int8, with every step proved.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)


class _Command(TyperCommand):
    """Says all of its first sentence in the list of commands."""

    def get_short_help_str(self, limit: int = sys.maxsize) -> str:
        """See TyperCommand."""
        return super().get_short_help_str(sys.maxsize)


def _parsed(parse: Callable[..., Parsed]) -> Callable[..., Parsed]:
    """A parser of options; what it refuses is wrong usage."""

    def parser(*texts: Any) -> Parsed:
        try:
            return parse(*texts)
        except MnvError as error:
            raise typer.BadParameter(str(error)) from error

    return parser


def _checkpoint(text: str) -> Path:
    from mnv1deploy import bundled

    return bundled.checkpoint(text)


def _artifact(text: str) -> Path:
    from mnv1deploy import bundled

    return bundled.artifact(text)


@_parsed
def _threads(text: str) -> int | None:
    from mnv1deploy import machine

    return machine.threads(text)


@_parsed
def _precision(text: str) -> Any:
    from mnv1deploy import formats

    return formats.precision(text)


@_parsed
def _camera(text: str) -> Any:
    from mnv1deploy.camera import Camera

    return Camera.parse(text)


@_parsed
def _size(text: str) -> int:
    from mnv1deploy import device

    return device.size(text)


@_parsed
def _clock(text: str) -> Any:
    from mnv1deploy.choosing import Clock

    return Clock.parse(text)


@_parsed
def _seconds(text: str) -> float:
    from mnv1deploy import choosing

    return choosing.seconds(text)


@_parsed
def _fraction(text: str) -> float:
    from mnv1deploy import choosing

    return choosing.fraction(text)


@_parsed
def _plot(text: str) -> Path:
    from mnv1deploy.report import plots

    plots.check(Path(text))
    return Path(text)


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
ThreadsOption = Annotated[
    int | None,
    typer.Option(parser=_threads, metavar="N", help="Default: auto, the engine's own choice.", show_default=False),
]
PlotOption = Annotated[
    Path | None,
    typer.Option(parser=_plot, metavar="FILE", help="Draw the result to this .png, .svg or .pdf.", show_default=False),
]
InputSizeOption = Annotated[int, typer.Option(min=8, help="Height and width of the pictures in pixels.")]
CheckpointOption = Annotated[
    Path | None,
    typer.Option(
        parser=_checkpoint,
        metavar="PATH",
        help="A file, or a bundled one by its width: w0.25, w0.5, w0.75 or w1, which is the default.",
        show_default=False,
    ),
]
ANY_ARTIFACT = "Any artifact or checkpoint, or a bundled one: w0.25, w0.5, w0.75 or w1, the default."
ArtifactArgument = Annotated[
    Path | None, typer.Argument(parser=_artifact, metavar="[PATH]", help=ANY_ARTIFACT, show_default=False)
]
CalibrationOption = Annotated[
    Path | None,
    typer.Option(
        help="Folder of pictures to calibrate int8 on. Default: the bundled ones, for CIFAR-10's classes.",
        show_default=False,
    ),
]
TtaOption = Annotated[
    Literal["none", "mirror", "crops"],
    typer.Option(
        help="Average logits over the picture and its mirror image (twice the time), or over both and their "
        "neighbours a pixel off, too (ten times)."
    ),
]
JpegOption = Annotated[
    Literal["whole", "scaled"] | None,
    typer.Option(
        help="How JPEGs are decoded: scaled, at 1/2, 1/4 or 1/8 of their size where they are large, takes less time "
        "and gives other pixels. Default: as the network's spec says, whole as a rule.",
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


@app.command(cls=_Command)
def predict(
    ctx: typer.Context,
    pictures: Annotated[
        list[str], typer.Argument(help="Pictures, folders, patterns like '*.jpg', or - for standard input.")
    ],
    model: Annotated[
        Path | None, typer.Option(parser=_artifact, metavar="PATH", help=ANY_ARTIFACT, show_default=False)
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="How many classes to name per picture.")] = 3,
    tta: TtaOption = "none",
    jpeg: JpegOption = None,
    provider: ProviderOption = "cpu",
    threads: ThreadsOption = None,
    json: JsonOption = False,
    json_lines: Annotated[bool, typer.Option("--json-lines", help="Print a JSON object per picture and line.")] = False,
    output: Annotated[
        Path | None, typer.Option(help="Where --json-lines writes. Default: standard output.", show_default=False)
    ] = None,
    csv: Annotated[
        Path | None,
        typer.Option(metavar="FILE|-", help="Write a CSV file, or CSV to standard output.", show_default=False),
    ] = None,
    parquet: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="Write a Parquet file; until all is answered, FILE.jsonl beside it.",
            show_default=False,
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a file that a run which was ended left; to the byte the same.")
    ] = False,
    sort: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Also put the pictures into DIR/<class>/; never over a file that is there."),
    ] = None,
    sort_by: Annotated[Literal["copy", "link", "move"], typer.Option(help="How; link makes symbolic links.")] = "copy",
    min_probability: Annotated[
        float, typer.Option(min=0, max=1, help="With --sort: what is less likely goes into DIR/unsure.")
    ] = 0.0,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="On the machines of a Ray cluster: its address, auto, or local for this machine. --parquet is then a "
            "folder; pictures and it may be addresses of s3, gs and what else Arrow and fsspec take.",
            show_default=False,
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Processes that decode and compute. Default: for 2,048 pictures or more on the CPU one per processor, "
            "else this one alone.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Say what is in pictures."""
    from mnv1deploy import bundled, decoding, formats, images, many
    from mnv1deploy.classifier import load
    from mnv1deploy.report import answers, rows

    forms = {"--json": json, "--json-lines": json_lines, "--csv": csv, "--parquet": parquet}
    if len(chosen := [name for name, given in forms.items() if given]) > 1:
        raise typer.BadParameter(f"{' and '.join(chosen)} are forms of the same answers; leave out all but one.")
    if not json_lines:
        _refuse(ctx, "without --json-lines", "output")
    if not sort:
        _refuse(ctx, "without --sort", "sort_by", "min_probability")
    if not output and not parquet and (not csv or str(csv) == rows.STANDARD_OUTPUT):
        _refuse(ctx, "without a file to go on with", "resume")
    if sort and images.STANDARD_INPUT in pictures:
        raise typer.BadParameter("A picture from standard input has no name to sort it under; leave out -.")
    if ray:
        if not parquet:
            raise typer.BadParameter("--ray writes Parquet; name a folder for it with --parquet.")
        _refuse(ctx, "with --ray", "resume", "sort", "workers", "provider")
        _predict_on_ray(ray, pictures, parquet, model, threads=threads or 1, tta=tta, jpeg=jpeg, top=top)
        return
    if parquet and decoding.is_address(parquet):
        raise typer.BadParameter("--parquet takes an address with --ray alone.")
    paths = images.find(pictures)
    model = model or bundled.INT8
    console.show_notes(formats.notes(model))
    opened = partial(load, model, provider=provider, tta=tta, jpeg=jpeg)
    classifier = opened(threads=threads)
    classes = classifier.spec.classes
    sorter = None
    if sort:
        from mnv1deploy.sorting import Sorter

        sorter = Sorter(sort, classes, sort_by, min_probability)
        paths = sorter.unsorted(paths)
    workers = workers or many.default_workers(paths, classifier.session.provider)
    with ExitStack() as stack:
        if parquet:
            log = stack.enter_context(rows.kept_as_parquet(Path(parquet), resume=resume))
        elif json_lines or csv:
            form = rows.JsonLines() if json_lines else rows.Csv(min(top, len(classes)))
            log = stack.enter_context(rows.kept(output or csv, form, resume=resume))
        elif json:
            log = rows.Shown(stack.enter_context(answers.json_document()))
        else:
            log = rows.Shown(answers.lines(paths, classes))
        work = log.left(paths)
        advance = stack.enter_context(console.progress("predicting", sum(map(len, work))))
        try:
            opened_again = partial(opened, threads=threads or 1)
            for batch in many.answer(classifier, work, top=top, workers=workers, open_again=opened_again):
                for (path, answer), there in zip(batch, log.add(batch), strict=True):
                    if not isinstance(answer, MnvError):
                        if sorter:
                            sorter.put(path, answer, again=there)
                    elif not there:
                        console.show_error(answer.message, answer.hint)
                advance(len(batch))
        except KeyboardInterrupt:
            hint = "Go on with the same command and --resume." if log.resumable else ""
            console.show_error("Interrupted; what is answered is kept.", hint)
            raise typer.Exit(130) from None
    if log.unreadable:
        raise typer.Exit(1)


def _predict_on_ray(
    address: str, pictures: list[str], folder: str, model: Path | None, *, threads: int, tta: Any, jpeg: Any, top: int
) -> None:
    from mnv1deploy import bundled, cluster, formats
    from mnv1deploy.classifier import load

    paths = cluster.find(pictures)
    model = (model or bundled.INT8).absolute()
    console.show_notes(formats.notes(model))
    opened = partial(load, model, threads=threads, tta=tta, jpeg=jpeg)
    opened()  # what is wrong with it is said before a cluster is asked
    try:
        with console.progress("predicting", len(paths)) as advance:
            unreadable = cluster.predict(
                paths, folder, opened, address=address, top=top, processors=threads, advance=advance
            )
    except KeyboardInterrupt:
        console.show_error("Interrupted.", f"Remove {folder}, which is not complete.")
        raise typer.Exit(130) from None
    console.show_line(f"{folder}  {len(paths):,} pictures, {unreadable:,} of them cannot be read")
    if unreadable:
        raise typer.Exit(1)


@app.command(cls=_Command)
def serve(
    ctx: typer.Context,
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]PATH",
            help="Any artifact or checkpoint; repeat it for several. Default: the bundled int8 ONNX.",
            show_default=False,
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 for every one of this machine.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 for any that is free.")] = 8000,
    jpeg: JpegOption = None,
    provider: ProviderOption = "cpu",
    threads: Annotated[
        str, typer.Option(metavar="N", help="Of one call of the network; auto leaves it to the engine.")
    ] = "1",
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, max=256, help="Threads that decode and compute. Default: one per processor.", show_default=False
        ),
    ] = None,
    batch: Annotated[
        int,
        typer.Option(
            min=1, max=1024, help="Compute so many pictures in one call, if they came while no worker was free."
        ),
    ] = 8,
    batch_wait: Annotated[
        float,
        typer.Option(min=0, max=100, help="Milliseconds that a picture waits for others, a worker being free."),
    ] = 0.0,
    queue: Annotated[
        int, typer.Option(min=1, max=100_000, help="Pictures that wait; to more the answer is 503, come later.")
    ] = 128,
    timeout: Annotated[float, typer.Option(min=0.1, max=3600, help="Seconds that a request may take.")] = 30.0,
    max_body: Annotated[float, typer.Option(min=0.001, max=512, help="MiB of a request.")] = 32.0,
    max_pixels: Annotated[float, typer.Option(min=0.001, max=67.1, help="Millions of pixels of a picture.")] = 33.5,
    log_requests: Annotated[bool, typer.Option(help="A line of JSON for every request, on standard error.")] = True,
) -> None:
    """Answer over HTTP: the Open Inference Protocol, pictures at /classify, a page, metrics."""
    if batch == 1:
        _refuse(ctx, "with --batch 1", "batch_wait")
    for package in ("starlette", "uvicorn", "httptools", "python_multipart", "prometheus_client"):
        engine(package, "serve")
    from mnv1deploy import bundled, formats
    from mnv1deploy.classifier import load
    from mnv1deploy.serving import http, logs
    from mnv1deploy.serving import model as models
    from mnv1deploy.serving.batching import Batching
    from mnv1deploy.serving.limits import Limits
    from mnv1deploy.serving.server import Server

    limits = Limits(int(max_body * 2**20), int(max_pixels * 1e6), timeout, queue)
    classifiers = {}
    for name, path in models.named(model or [str(bundled.INT8)]).items():
        console.show_notes(formats.notes(path))
        classifiers[name] = load(path, provider=provider, threads=_threads(threads), jpeg=jpeg)
    served = http.application(classifiers, limits=limits, workers=workers, batching=Batching(batch, batch_wait / 1000))
    server = Server(served, host=host, port=port, limits=limits)
    logs.to_standard_error(requests=log_requests)
    console.show_line(f"{server.address} serves {', '.join(classifiers)}; Ctrl-C stops it.")
    server.run()


@app.command(cls=_Command)
def bench(
    ctx: typer.Context,
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
    scenario: Annotated[
        Literal["single-stream", "multi-stream", "server", "offline"] | None,
        typer.Option(help="Instead, MLPerf's LoadGen in this scenario, its logs and its verdict.", show_default=False),
    ] = None,
    accuracy: Annotated[
        bool, typer.Option("--accuracy", help="With --scenario: answers of every picture instead of times.")
    ] = False,
    min_duration: Annotated[
        float, typer.Option(min=0.1, help="With --scenario: seconds; below 600 it is no MLPerf result.")
    ] = 600.0,
    target_qps: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            help="With --scenario server: queries a second. Default: half of what one after the other allows.",
            show_default=False,
        ),
    ] = None,
    latency_bound: Annotated[
        float,
        typer.Option(min=0.001, help="With --scenario server: milliseconds for 99 % of the queries; MLPerf has 15."),
    ] = 15.0,
    logs: Annotated[Path, typer.Option(help="With --scenario: a folder for LoadGen's logs.")] = Path("loadgen"),
    json: JsonOption = False,
    plot: PlotOption = None,
) -> None:
    """Measure latency, throughput, load time and memory, side by side."""
    from mnv1deploy import benchmark, machine
    from mnv1deploy.report import as_json, plots, tables

    batch_sizes = _list(batch_size, machine.count)
    counts = _list(threads or "auto", machine.threads)
    if profile:
        _refuse(ctx, "with --profile", "all", "plot", "include_copies", "duration")
        if len(counts) > 1 or len(batch_sizes) > 1:
            raise typer.BadParameter("--profile takes one --batch-size and one --threads.")
    if scenario:
        _refuse(ctx, "with --scenario", "profile", "plot", "include_copies", "duration", "batch_size")
        if len(counts) > 1:
            raise typer.BadParameter("--scenario takes one --threads.")
        if scenario != "server" or accuracy:
            _refuse(ctx, "but for times of --scenario server", "target_qps", "latency_bound")
    else:
        _refuse(ctx, "without --scenario", "accuracy", "min_duration", "target_qps", "latency_bound", "logs")
    contestants = benchmark.contestants(artifacts or [], everything=all)
    notes = benchmark.notes(contestants)
    console.show_notes(notes)
    if scenario:
        from mnv1deploy import loadgen

        asked = loadgen.Settings(scenario, accuracy, min_duration, target_qps, latency_bound / 1000)
        with console.stages() as stage:
            found = loadgen.run(
                contestants,
                asked,
                provider=provider,
                threads=counts[0],
                logs=logs,
                on_artifact=lambda name: stage(f"LoadGen runs {name}", 0, 0),
            )
        if json:
            console.show_json(as_json.loadgen_as_dict(found, asked, notes))
        else:
            tables.show_loadgen(found, asked)
        return
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
            console.show_json(as_json.profiles_as_dict(profiles, notes, threads=counts[0]))
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
        settings = {"duration": duration, "include_copies": include_copies}
        console.show_json(as_json.bench_as_dict(results, refused, notes, **settings))
    else:
        tables.show_bench(results, refused)


@app.command(cls=_Command)
def export(
    ctx: typer.Context,
    format: Annotated[
        list[str] | None,
        typer.Option(
            help="A format, several with commas or by repeating, or all; mnv1 formats lists them. Default: onnx.",
            show_default=False,
        ),
    ] = None,
    quantize: Annotated[
        str, typer.Option(parser=_precision, metavar="PRECISION", help="int8, fp16, or none, which is fp32.")
    ] = "none",
    output: Annotated[Path, typer.Option(help="Folder for the artifacts and their manifests.")] = Path("artifacts"),
    name: Annotated[
        str | None,
        typer.Option(
            help="Call the network this instead of the checkpoint's name: files, and the C's symbols, begin with it.",
            show_default=False,
        ),
    ] = None,
    jpeg: JpegOption = None,
    checkpoint: CheckpointOption = None,
    calibration: CalibrationOption = None,
    skip_unreadable: SkipOption = False,
    ranges: RangesOption = None,
    data: DataOption = None,
    untrained: Annotated[
        str | None,
        typer.Option(
            metavar="cifar|paper|SPEC.json",
            help="Instead of a checkpoint, a network with random weights, to try on a device. Not proved.",
            show_default=False,
        ),
    ] = None,
    width: Annotated[float, typer.Option(help="With --untrained: width multiplier.")] = 1.0,
    input_size: Annotated[
        int | None, typer.Option(help="With --untrained: height and width in pixels.", show_default=False)
    ] = None,
    colours: Annotated[int | None, typer.Option(help="With --untrained: 3 or 1.", show_default=False)] = None,
    classes: Annotated[int | None, typer.Option(help="With --untrained: how many.", show_default=False)] = None,
    camera: Annotated[
        Any,
        typer.Option(
            parser=_camera,
            metavar="WIDTHxHEIGHT:FORMAT",
            help="With --format c: also write what makes the network's picture of such frames. FORMAT: grey, rgb888, "
            "bgr888, rgb565, rgb565be, yuyv, uyvy, nv12 or nv21, the last four also with -limited; then perhaps "
            ":WIDTHxHEIGHT+LEFT+TOP, the part of the frame that is the picture.",
            show_default=False,
        ),
    ] = None,
    weights: Annotated[
        Literal["text", "binary"],
        typer.Option(help="With --format c: in its source, or in a file beside it, a quarter of the size."),
    ] = "text",
    ram: Annotated[
        int | None,
        typer.Option(
            parser=_size,
            metavar="SIZE",
            help="With --format c: plan for so much RAM, say 48K (K is 1,024 bytes), or refuse and say what it takes.",
            show_default=False,
        ),
    ] = None,
    flash: Annotated[
        int | None,
        typer.Option(parser=_size, metavar="SIZE", help="With --format c: the same of flash.", show_default=False),
    ] = None,
    provider: Annotated[
        str,
        typer.Option(
            "--provider",
            "--device",
            help="Where each artifact is proved, and what --format aoti compiles for: cpu, cuda, ... Used or refused.",
        ),
    ] = "cpu",
    threads: ThreadsOption = None,
    json: JsonOption = False,
) -> None:
    """Write a checkpoint in edge formats and prove each file against it."""
    from mnv1deploy import formats, machine

    precision = formats.precision(quantize)
    if precision != "int8":
        _refuse(ctx, "where nothing is quantised to int8", "ranges")
    if untrained:
        _refuse(ctx, "with --untrained", "checkpoint", "calibration", "skip_unreadable", "data")
    else:
        _refuse(ctx, "without --untrained", "width", "input_size", "colours", "classes")
    names = _list(",".join(format or ["onnx"]), formats.named)
    with machine.patient_threads():
        engine("torch", "export")
    from mnv1deploy import bundled, exporting, quantization
    from mnv1deploy.device import Device
    from mnv1deploy.report import as_json, tables

    random = None
    if untrained:
        random = exporting.untrained_spec(
            untrained, width=width, input_size=input_size, colours=colours, classes=classes
        )
    with console.stages() as on_progress:
        done = exporting.export(
            names,
            precision,
            checkpoint_path=checkpoint or bundled.CHECKPOINT,
            untrained=random,
            output=output,
            calibration=calibration,
            skip_unreadable=skip_unreadable,
            data=data,
            scheme=quantization.Scheme.named(ranges),
            name=name,
            jpeg=jpeg,
            threads=threads,
            device=Device(camera, weights, ram, flash),
            provider=provider,
            on_progress=on_progress,
        )
        latency = exporting.latencies(done, on_progress, provider)
    if json:
        console.show_json(as_json.exported_as_dicts(done, latency))
    else:
        tables.show_exported(done, latency, formats.absent() if names == ["all"] else {})
    refusals = [item.refusal for item in done if item.refusal]
    for refusal in refusals:
        console.show_error(refusal.message, refusal.hint)
    if refusals:
        raise typer.Exit(1)


@app.command(cls=_Command)
def quantize_report(
    ctx: typer.Context,
    checkpoint: CheckpointOption = None,
    calibration: CalibrationOption = None,
    ranges: RangesOption = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Instead of the layers, compare calibration methods and rounding.")
    ] = False,
    data: DataOption = None,
    json: JsonOption = False,
    plot: PlotOption = None,
) -> None:
    """Show what int8 costs: ranges, noise and loss of accuracy, layer by layer, on pictures not trained on."""
    from mnv1deploy import machine

    if compare:
        _refuse(ctx, "with --compare, which leaves the layers out", "plot")
    with machine.patient_threads():
        engine("torch", "export")
    from mnv1deploy import bundled, datasets, evidence, quantization
    from mnv1deploy import checkpoint as checkpoints
    from mnv1deploy.quantization import sensitivity
    from mnv1deploy.report import as_json, plots, tables

    network = checkpoints.load(checkpoint or bundled.CHECKPOINT).network
    unseen = datasets.load_unseen(data, network.spec.pixels)
    pictures = evidence.calibration_pictures(network.spec, calibration, data, unseen)
    evidence.check_varied(pictures)
    scheme = quantization.Scheme.named(ranges)
    if compare:
        schemes = sensitivity.schemes(scheme)
        trials = []
        with console.progress("quantizing", len(schemes)) as advance:
            for trial in sensitivity.compare(network.folded(), pictures.images, unseen, schemes):
                trials.append(trial)
                advance(1)
        if json:
            console.show_json(as_json.trials_as_dicts(trials, unseen))
        else:
            tables.show_trials(trials, unseen)
        return
    integers = quantization.quantize(network.folded(), pictures.images, pictures.name, scheme)
    with console.progress("quantizing one layer at a time", len(integers.weights)) as advance:
        found = sensitivity.measure(integers, unseen, lambda: advance(1))
    if plot:
        plots.plot_quantization(found, plot)
    if json:
        console.show_json(as_json.quantization_as_dict(found, integers))
    else:
        tables.show_quantization(found, integers)


@app.command(cls=_Command)
def evaluate(
    model: ArtifactArgument = None,
    data: DataOption = None,
    download: DownloadOption = None,
    skip_unreadable: SkipOption = False,
    tta: TtaOption = "none",
    jpeg: JpegOption = None,
    provider: ProviderOption = "cpu",
    threads: ThreadsOption = None,
    json: JsonOption = False,
    plot: PlotOption = None,
) -> None:
    """Measure top-1, per-class accuracy and the confusion matrix on the test part of the data."""
    from mnv1deploy import bundled, datasets, formats, verification
    from mnv1deploy.averaging import averaged
    from mnv1deploy.report import as_json, plots, tables

    model = model or bundled.INT8
    console.show_notes(formats.notes(model))
    session = formats.open_session(model, provider=provider, threads=threads)
    pixels = session.spec.with_jpeg(jpeg).pixels
    with console.stages() as stage:
        stage("reading the pictures", 0, 0)
        dataset = datasets.load_test(data, pixels, skip_unreadable=skip_unreadable, download=download)
    with console.progress("evaluating", len(dataset)) as advance:
        evaluation = verification.evaluate(averaged(session, tta), dataset, advance)
    if plot:
        plots.plot_confusion(evaluation, plot)
    if json:
        console.show_json({**as_json.evaluation_as_dict(evaluation), "tta": tta, "notes": session.notes})
    else:
        tables.show_evaluation(evaluation)


@app.command(cls=_Command)
def train(
    ctx: typer.Context,
    data: DataOption = None,
    download: DownloadOption = None,
    skip_unreadable: SkipOption = False,
    output: Annotated[Path, typer.Option(help="Folder for checkpoint, log, curves and state.")] = Path("runs/cifar10"),
    recipe: Annotated[
        str, typer.Option(help="quick, best, robust, or a .toml file; the options below change single settings of it.")
    ] = "quick",
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --output, with its settings.")
    ] = False,
    init: Annotated[
        str | None,
        typer.Option(
            help="A checkpoint to start from, or a bundled one (w0.25, ...), whose sizes are taken, and whose "
            "classifier if the classes have the same names; or none. Default: none, and for fewer than 10,000 pictures "
            "a bundled one that has the sizes.",
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
    threads: ThreadsOption = None,
    preset: Annotated[
        str | None, typer.Option(help="The network: cifar (default), or paper, the 224x224 one of arXiv 1704.04861.")
    ] = None,
    width: Annotated[float | None, typer.Option(help="Width multiplier. Default: 1.")] = None,
    input_size: Annotated[
        int | None, typer.Option(min=8, help="Height and width of the pictures in pixels. Default: the preset's.")
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
    zoom: Annotated[
        float | None, _setting("zoom", "Scale pictures by up to 1 + this, up and down, 0 for not at all")
    ] = None,
    sharpness: Annotated[
        float | None, _setting("sharpness", "Blur and sharpen pictures: 1 goes from blurred to twice as sharp")
    ] = None,
    noise: Annotated[float | None, _setting("noise", "Largest standard deviation of noise, of 255")] = None,
    altered: Annotated[
        float | None, _setting("altered", "Fraction of the pictures that zoom, sharpness and noise are for")
    ] = None,
    views: Annotated[
        int | None, _setting("views", "Different views of the pictures, in turn, 0 for a new one every epoch")
    ] = None,
    teachers: Annotated[
        int | None, _setting("teachers", "How many of them, of different seeds; their answers are averaged")
    ] = None,
    start_share: Annotated[
        float | None, _setting("start_share", "Of the weights it started from, in a network that teaches itself")
    ] = None,
    temperature: Annotated[float | None, _setting("temperature", "Of the teachers' and the network's answers")] = None,
    holdout: Annotated[
        float | None, _setting("holdout", "Part of the training split to choose the best epoch by")
    ] = None,
    seed: Annotated[int | None, _setting("seed", "Of weights, order and augmentation")] = None,
) -> None:
    """Train a network on CIFAR-10 or on your own folder of pictures."""
    from mnv1deploy import machine

    with machine.patient_threads():
        torch = engine("torch", "train")
    from mnv1deploy.report import as_json, plots, tables
    from mnv1deploy.report import epochs as shown_epochs
    from mnv1deploy.training import distributed, start
    from mnv1deploy.training.run import complete

    if tensorboard:
        engine("tensorboard", "tensorboard")
    if threads:
        torch.set_num_threads(threads)
    asked = {name: ctx.params[name] for name in _given(ctx)}
    with distributed.joined():
        is_first = not distributed.rank()
        with console.stages() as stage:
            if is_first:
                stage("reading the pictures", 0, 0)
            run, test_split = start.ready(output, data, asked, resume=resume)
        if is_first:
            console.show_note(f"trains on {run.parts.train.name}; tested at the end on {test_split.name}")
        try:
            complete(run, watch=partial(shown_epochs.training_progress, tensorboard=tensorboard))
        except KeyboardInterrupt:
            again = start.command_to_resume(output, asked)
            console.show_error(f"Interrupted; {len(run.log)} epochs are kept.", f"Go on with: {again}")
            raise typer.Exit(130) from None
        if not is_first:
            return
    evaluation = run.measure(test_split)
    plots.plot_curves(run.log, output / "curves.png")
    plots.plot_confusion(evaluation, output / "confusion.png")
    if json:
        console.show_json({"checkpoint": str(run.checkpoint), **as_json.evaluation_as_dict(evaluation)})
    else:
        tables.show_evaluation(evaluation)
        console.show_line(f"{run.checkpoint}  log, curves and confusion matrix beside it")


@app.command(name="import", cls=_Command)
def import_(
    ctx: typer.Context,
    file: Annotated[
        Path,
        typer.Argument(
            help="Any MobileNetV1: .pt, .pth, .tar, .ckpt, .bin, .safetensors, .h5, .keras, .tflite, .onnx or "
            "TensorFlow.js's model.json."
        ),
    ],
    output: Annotated[
        Path | None, typer.Option(help="Of .safetensors. Default: FILE with that suffix.", show_default=False)
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over an output that exists.")] = False,
    strides: Annotated[
        str | None,
        typer.Option(metavar="S,S,...", help="Of the first convolution and every block.", show_default=False),
    ] = None,
    normalization: Annotated[
        str | None,
        typer.Option(
            help="What it was trained with: tutorial, default, imagenet, half, unit, cifar10, cifar100 or raw; see "
            "docs/checkpoints.md.",
            show_default=False,
        ),
    ] = None,
    mean: Annotated[
        str | None, typer.Option(metavar="R,G,B", help="Its mean, for pixels in 0..1 or 0..255.", show_default=False)
    ] = None,
    std: Annotated[
        str | None, typer.Option(metavar="R,G,B", help="Its std, in the same unit.", show_default=False)
    ] = None,
    activation: Annotated[
        Literal["relu", "relu6"] | None, typer.Option(help="After every convolution.", show_default=False)
    ] = None,
    padding: Annotated[
        Literal["symmetric", "same"] | None,
        typer.Option(help="symmetric as in PyTorch, or same as in TensorFlow.", show_default=False),
    ] = None,
    epsilon: Annotated[
        float | None, typer.Option(min=0, help="Of its batch normalisations.", show_default=False)
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|NAME,NAME,...",
            help="In the order of its outputs: a file (a name a line, or JSON) or names.",
            show_default=False,
        ),
    ] = None,
    input_size: Annotated[
        int | None,
        typer.Option(min=8, help="Height and width of the pictures it was trained on.", show_default=False),
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="Which of several sets of weights in the file.", show_default=False)
    ] = None,
    pictures: Annotated[
        Path | None,
        typer.Option(help="Folder of pictures like those it was trained on, to check it by.", show_default=False),
    ] = None,
    drop_background: Annotated[
        bool, typer.Option("--drop-background", help="Leave out TensorFlow's first of 1,001 classes.")
    ] = False,
    bgr: Annotated[bool, typer.Option("--bgr", help="It was trained on pictures with blue first.")] = False,
    json: JsonOption = False,
) -> None:
    """Bring in a MobileNetV1 that was trained elsewhere."""
    from mnv1deploy import machine

    with machine.patient_threads():
        engine("torch", "train")
    machine.keep_freed_memory()
    from mnv1deploy import importing
    from mnv1deploy.report import as_json, tables

    target = importing.output_path(file, output, force=force)
    options = importing.Options(
        strides=tuple(_list(strides, importing.stride)) if strides else None,
        normalization=_parsed(importing.given_normalization)(normalization, mean, std),
        activation=activation,
        padding=padding,
        epsilon=epsilon,
        classes=importing.labels.parse(classes) if classes else None,
        input_size=input_size,
        weights=weights,
        pictures=pictures,
        drop_background=drop_background,
        bgr=bgr,
    )
    with console.stages() as stage:
        imported = importing.import_file(file, options, lambda what: stage(what, 0, 0))
    imported.save(target)
    if json:
        console.show_json(as_json.info_as_dict(target))
    else:
        tables.show_imported(target, imported)
    for message, hint in imported.doubts:
        console.show_error(message, hint)


@app.command(cls=_Command)
def info(
    file: ArtifactArgument = None,
    json: JsonOption = False,
) -> None:
    """Print a file's spec, provenance and proof."""
    from mnv1deploy import bundled
    from mnv1deploy.report import as_json, tables

    facts = as_json.info_as_dict(file or bundled.INT8)
    console.show_notes(facts["notes"])
    if json:
        console.show_json(facts)
    else:
        tables.show_info(facts)


@app.command(cls=_Command)
def cost(
    ctx: typer.Context,
    preset: Annotated[str, typer.Option(help="cifar, or paper: the 224x224 network of arXiv 1704.04861.")] = "cifar",
    width: Annotated[float, typer.Option(help="Width multiplier.")] = 1.0,
    input_size: Annotated[
        int | None, typer.Option(min=8, help="Default: the preset's or the model's.", show_default=False)
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="Of this artifact or checkpoint instead of a preset.", show_default=False)
    ] = None,
    precision: Annotated[
        str, typer.Option(parser=_precision, metavar="PRECISION", help="Of the activations: fp32, fp16 or int8.")
    ] = "fp32",
    memory: Annotated[
        bool, typer.Option("--memory", help="Instead, where the generated C keeps its activations.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Count multiply-adds, parameters and activation memory, per layer."""
    from mnv1deploy import cost as model_of_cost
    from mnv1deploy import formats
    from mnv1deploy import spec as specs
    from mnv1deploy.c.plan import plan
    from mnv1deploy.report import as_json, tables

    if memory:
        _refuse(ctx, "with --memory, which is of int8", "precision")
    if model:
        _refuse(ctx, "with --model, which has its own", "preset", "width")
        spec = as_json.spec_of(model)
    else:
        spec = _parsed(specs.preset)(preset).scaled(width)
    if input_size:
        spec = spec.replace(input_size=input_size)
    result = plan(spec) if memory else model_of_cost.cost(spec, formats.precision(precision))
    if json:
        console.show_json(result.to_dict())
    elif isinstance(result, model_of_cost.Cost):
        tables.show_cost(result)
    else:
        tables.show_plan(result)


@app.command(name="formats", cls=_Command)
def formats_(json: JsonOption = False) -> None:
    """List the formats, and what writes and runs each on this machine."""
    from mnv1deploy.report import as_json, tables

    rows = as_json.formats_as_dicts()
    if json:
        console.show_json(rows)
    else:
        tables.show_formats(rows)


@app.command(cls=_Command)
def providers(json: JsonOption = False) -> None:
    """List what this machine can run artifacts on."""
    from mnv1deploy.report import as_json, tables

    facts = as_json.providers_as_dict()
    if json:
        console.show_json(facts)
    else:
        tables.show_providers(facts["available"], facts["not_available"])


@app.command(cls=_Command)
def choose(
    target: Annotated[
        str, typer.Option(help="microcontroller, esp32, raspberry-pi, phone, web or server.")
    ] = "microcontroller",
    flash: Annotated[
        int | None,
        typer.Option(
            parser=_size, metavar="SIZE", help="Of a whole program: 320K; K is 1,024 bytes.", show_default=False
        ),
    ] = None,
    ram: Annotated[
        int | None, typer.Option(parser=_size, metavar="SIZE", help="The same of RAM.", show_default=False)
    ] = None,
    latency: Annotated[
        float | None,
        typer.Option(
            parser=_seconds, metavar="TIME", help="With --on and its clock: of a picture, 5ms.", show_default=False
        ),
    ] = None,
    on: Annotated[
        Any,
        typer.Option(
            parser=_clock,
            metavar="PROCESSOR[@MHz]",
            help="cortex-m4@80MHz, say. Default: one of the target's kind.",
            show_default=False,
        ),
    ] = None,
    cycles_per_instruction: Annotated[
        float | None,
        typer.Option(min=0.05, max=100, help="In place of what is published of the processor.", show_default=False),
    ] = None,
    top1: Annotated[
        float | None, typer.Option(parser=_fraction, metavar="PERCENT", help="Least accuracy: 90%.", show_default=False)
    ] = None,
    checkpoint: Annotated[
        list[Path] | None,
        typer.Option(help="Yours, beside those that are shipped; may be repeated.", show_default=False),
    ] = None,
    json: JsonOption = False,
    plot: PlotOption = None,
) -> None:
    """Choose a network for a device by flash, RAM, latency and accuracy, and say how to export it."""
    from mnv1deploy import choosing
    from mnv1deploy.report import as_json, plots, tables

    wanted = choosing.Wanted(target, flash, ram, latency, on, cycles_per_instruction, top1)
    choices = choosing.choose(wanted, choosing.candidates(checkpoint or []))
    if plot:
        plots.plot_choices(choices, plot)
    if json:
        console.show_json(as_json.choices_as_dict(wanted, choices))
    else:
        tables.show_choices(wanted, choices)
    if not choices[0].fits:
        raise choosing.nothing_fits(choices)


@app.command(cls=_Command)
def doctor(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FORMAT]...", help="Formats to try. Default: all.", show_default=False),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Try every engine on this machine and say what is installed and what works, for a bug report."""
    from mnv1deploy import doctor as doctors
    from mnv1deploy import formats
    from mnv1deploy.report import tables

    named = dict.fromkeys(_parsed(formats.named)(name) for name in names or ["all"])
    chosen = list(formats.NAMES if "all" in named else named)
    with console.stages() as stage:
        stage("trying engines", 0, len(chosen))
        done: list[str] = []

        def told(name: str) -> None:
            done.append(name)
            stage("trying engines", len(done), len(chosen))

        report = doctors.examine(chosen, told)
    if json:
        console.show_json(report.to_dict())
    else:
        tables.show_doctor(report)
    if not report.is_well:
        raise typer.Exit(1)


def _list(text: str, parse: Callable[[str], Any]) -> list[Any]:
    """What stands between commas, each parsed; what is refused is wrong usage."""
    return [_parsed(parse)(part.strip()) for part in text.split(",")]


def _given(ctx: typer.Context) -> list[str]:
    """Names of the options that stand on the command line."""
    return [name for name in ctx.params if str(ctx.get_parameter_source(name)).endswith("COMMANDLINE")]


def _refuse(ctx: typer.Context, why: str, *names: str) -> None:
    """Refuses options that were given and would change nothing."""
    given = [name for name in _given(ctx) if name in names]
    if given:
        flags = " and ".join(map(flag, given))
        raise typer.BadParameter(f"{flags} would change nothing {why}; leave it out.")


def main() -> None:
    """The ``mnv1`` command: what a user can cause ends in one sentence and exit code 1, wrong usage in 2."""
    debug = "--debug" in sys.argv[1:]
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    warnings.filterwarnings("ignore", module=r"PIL\.")  # damaged metadata in pictures that are read all the same
    console.prepare()
    commands = app.registered_commands
    _leave_out_other_commands(arguments)
    try:
        try:
            app(arguments, prog_name="mnv1")
        finally:
            app.registered_commands = commands
            console.write("")  # what others wrote is flushed here, where a full disk is still an error
    except MnvError as error:
        if debug:
            raise
        if str(error):
            console.show_error(error.message, error.hint)
        sys.exit(1)
    except Exception as error:
        if debug:
            raise
        console.show_error(
            f"This is a bug in mnv1deploy: {type(error).__name__}: {error}",
            "Run it again with --debug and report that.",
        )
        sys.exit(1)


def _leave_out_other_commands(arguments: list[str]) -> None:
    """Commands that are not meant are not built: each takes milliseconds of a start that takes few."""
    wanted = [command for command in app.registered_commands if _name(command) == next(iter(arguments), "")]
    if wanted:
        app.registered_commands = wanted


def _name(command: CommandInfo) -> str:
    return command.name or getattr(command.callback, "__name__", "").replace("_", "-")


if __name__ == "__main__":
    main()
