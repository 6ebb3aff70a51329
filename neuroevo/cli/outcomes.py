"""The commands that come after a search: what is made of a run. Nothing heavy is imported before one needs it."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from neuroevo.cli.program import Member, Run, Sets, table
from neuroevo.errors import InputError, printable


def evaluate(
    run_dir: Run,
    data: Annotated[
        str | None, typer.Option(help="class folders, or an .npz file, to score on instead", metavar="ROOT")
    ] = None,
    member: Member = None,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", help="data.root, data.file, data.broken or data.max_pixels", metavar="A.B=VALUE"),
    ] = None,
    predictions: Annotated[
        str | None, typer.Option(help="a file to write with each sample's prediction", metavar="FILE.csv")
    ] = None,
) -> None:
    """Score a champion on its test split, or on other labelled samples, as a whole and class by class."""
    from neuroevo import caveats
    from neuroevo.cli import columns, results
    from neuroevo.experiments import evaluation, terminal
    from neuroevo.experiments.signals import Signals

    path = None if predictions is None else results.writable(predictions, run_dir, "--predictions")
    with terminal.show() as observer:
        found = evaluation.evaluate(run_dir, data, observer, member, sets or [], signals=Signals())
    scores, called = found.tested.scores, results.titles(Path(run_dir))
    rows = results.scores(scores, called) + caveats.of_constraints("", scores.get("constraints", {}))
    table(f"{run_dir} on {data or 'its test split'} ({scores['images']} {found.noun})", rows)
    lines = [*results.of_classes(found, columns.room())]
    for line in lines if path is None else [*lines, results.write_predictions(found, path)]:
        print(printable(line))


def predict(
    run_dir: Run,
    paths: Annotated[list[str], typer.Argument(help="images, folders of images, .npz files of x", metavar="PATH...")],
    *,
    top: Annotated[int, typer.Option(help="so many labels, the likeliest first", metavar="K")] = 1,
    out: Annotated[str | None, typer.Option(help="the file to write, in place of a table", metavar="FILE.csv")] = None,
) -> None:
    """Label images, or rows of numbers, by a run's champion."""
    from neuroevo.cli import columns, labels
    from neuroevo.experiments import terminal
    from neuroevo.experiments.signals import Signals

    stdout, room = sys.stdout, columns.room()  # which a bar takes for itself
    bar = out is not None or not stdout.isatty()
    with terminal.show(bar=bar) as observer:
        found = labels.predict(
            run_dir,
            paths,
            top=top,
            out=out,
            observer=observer,
            progress=observer.predictions if bar else None,
            room=room,
            say=lambda line: print(printable(line), file=stdout),
            signals=Signals(),
        )
    for line in found.summary():
        print(printable(line))
    found.check()


def decide(
    place: Annotated[str, typer.Argument(help="a run's folder, or an .npz file of logits and y", metavar="RUN_OR_NPZ")],
    *,
    metric: Annotated[str, typer.Option(help="a name, or {name: ..., option: ...}", metavar="METRIC")],
    subject_to: Annotated[list[str] | None, typer.Option(help="such as 'recall per class >= 0.8'; any number")] = None,
    folds: Annotated[int, typer.Option(help="parts of the samples, each left out once")] = 5,
    seed: Annotated[int, typer.Option(help="of folds and search")] = 0,
    out: Annotated[str | None, typer.Option(help="the file to write, .json", metavar="FILE.json")] = None,
    sets: Sets = None,
) -> None:
    """Tune how classes are decided by logits for a metric, under bounds; do nothing where that is as good."""
    from neuroevo.cli import decisions
    from neuroevo.experiments import decide as decide_
    from neuroevo.experiments import terminal
    from neuroevo.experiments.signals import Signals

    how: dict[str, Any] = {"folds": folds, "seed": seed, "out": out, "sets": sets or []}
    with terminal.show() as observer:
        found = decide_.decide(place, metric, subject_to or [], observer, **how, signals=Signals())
    for line in decisions.lines(place, found):
        print(printable(line))


def export(
    run_dir: Run,
    *,
    out: Annotated[str, typer.Option(help="the file to write", metavar="FILE")],
    format: Annotated[str | None, typer.Option(help="safetensors, pt or onnx; default as FILE's name ends")] = None,
    select: Annotated[
        str,
        typer.Option(
            help="champion; top_mean[:K], the mean of the best; soup; ensemble[:K]; member:I of a front", metavar="WHAT"
        ),
    ] = "champion",
    temperature: Annotated[
        bool, typer.Option("--temperature", help="divide logits by a temperature fitted on validation")
    ] = False,
    with_transform: Annotated[
        bool, typer.Option("--with-transform", help="a graph (onnx) takes pixels in [0, 1]")
    ] = False,
) -> None:
    """Write the champion, or another network of the final population, as a plain network."""
    from neuroevo.cli import results
    from neuroevo.experiments import export as export_
    from neuroevo.experiments import terminal
    from neuroevo.experiments.signals import Signals

    how: dict[str, Any] = {"temperature": temperature, "with_transform": with_transform}
    with terminal.show() as observer:
        found = export_.export(run_dir, format, out, select, observer, **how, signals=Signals())
    rows = [] if found.compared is None else results.comparison(*found.compared)
    table(found.line, rows)


def report(
    folders: Annotated[list[str], typer.Argument(help="a run or a bench; several runs side by side", metavar="DIR...")],
    watch: Annotated[bool, typer.Option("--watch", help="serve the page while the run goes on")] = False,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="of the served page; default any that is free")
    ] = None,
    out: Annotated[str | None, typer.Option(help="the folder for the page of several runs", metavar="DIR")] = None,
    formats: Annotated[str | None, typer.Option(help="of plots; default png,svg,pdf", metavar="A,B,...")] = None,
) -> None:
    """Write the page of a run or a bench, report.html, and its plots; with --watch, serve it to this machine."""
    from neuroevo.cli import pages

    if watch:
        pages.refuse_written(folders, out, formats)
        from neuroevo.experiments import signals
        from neuroevo.report import watch as watch_

        with watch_.server(folders[0], port or 0) as serving:
            signals.restore_interrupt()
            print(f"http://{watch_.HOST}:{serving.server_port}/", flush=True)
            serving.serve_forever()
        return
    if port is not None:
        raise InputError("--port: only a page that is served has one; add --watch")
    path = pages.write(folders, out, formats, lambda line: print(printable(line), file=sys.stderr))
    print(printable(str(path)))


def log(
    run_dir: Run,
    to: Annotated[str, typer.Option(help="names (neuroevo list tracker), or {name: ..., option: ...}", metavar="A,B")],
) -> None:
    """Tell trackers of a run that there is: its history, result and plots."""
    from neuroevo.experiments import terminal, tracking

    with terminal.show() as observer:
        tracking.log_run(run_dir, to, observer)


def inspect(path: Annotated[str, typer.Argument(help="a run's folder, or a checkpoint", metavar="PATH")]) -> None:
    """Show what a run or a checkpoint holds."""
    from neuroevo.cli import inspection

    title, rows = inspection.describe(path)
    table(title, rows)
