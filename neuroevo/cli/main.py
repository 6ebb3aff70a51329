"""The command line. Nothing heavy is imported before a command needs it, so that --help is instant."""

import os
import sys
from collections.abc import Callable
from io import TextIOWrapper
from typing import Annotated, Any, NoReturn

import typer

from neuroevo import __version__
from neuroevo.errors import InputError, Interrupted, RunError, printable

app = typer.Typer(
    name="neuroevo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

USAGE: type[Exception] = typer.BadParameter.__bases__[0]  # click's, wherever typer has it from

ConfigFile = Annotated[
    str | None, typer.Argument(help="YAML file; without one, the built-in default", metavar="CONFIG.yaml")
]
Sets = Annotated[list[str] | None, typer.Option("--set", help="override a key: section.key=value", metavar="A.B=VALUE")]
Run = Annotated[str, typer.Argument(help="a run's folder", metavar="RUN_DIR")]
Resume = Annotated[
    bool, typer.Option("--resume", help="go on with what that folder holds of the same config, or begin it")
]
Member = Annotated[
    int | None, typer.Option(help="a member of the front, by its number in inspect, in place of the champion")
]


@app.command()
def run(
    config: ConfigFile = None,
    sets: Sets = None,
    out: Annotated[
        str | None, typer.Option(help="the run's folder; default runs/out/CONFIG-SEED", metavar="DIR")
    ] = None,
    resume: Resume = False,
) -> None:
    """Run one experiment, from data to a scored champion."""
    from neuroevo.config import load
    from neuroevo.experiments import experiment, terminal
    from neuroevo.experiments.signals import Signals

    with terminal.show() as observer:
        checked = load(config, sets or [], observer.note)
        stem = "default" if config is None else os.path.splitext(os.path.basename(config))[0]
        begin = experiment.begin_or_resume if resume else experiment.run
        folder = begin(checked, out, stem, observer, signals=Signals())
    summary(str(folder))


@app.command()
def tune(
    config: Annotated[str, typer.Argument(help="YAML file with a section tune", metavar="CONFIG.yaml")],
    sets: Sets = None,
    out: Annotated[
        str | None, typer.Option(help="the run's folder; default runs/out/CONFIG-SEED", metavar="DIR")
    ] = None,
    final: Annotated[bool, typer.Option(help="run the experiment with the best set afterwards")] = True,
    resume: Resume = False,
) -> None:
    """Search hyperparameters, then run the experiment with the best set of them."""
    from neuroevo.config import load
    from neuroevo.experiments import terminal
    from neuroevo.experiments.signals import Signals
    from neuroevo.tuning import tune as tune_

    with terminal.show() as observer:
        checked = load(config, [*(sets or []), *([] if final else ["tune.final=false"])], observer.note)
        stem = os.path.splitext(os.path.basename(config))[0]
        folder = (tune_.begin_or_resume if resume else tune_.run)(checked, out, stem, observer, Signals())
    summary(str(folder))


@app.command()
def bench(
    config: Annotated[str, typer.Argument(help="YAML file that all arms share", metavar="CONFIG.yaml")],
    *,
    arms: Annotated[str, typer.Option(help="names (neuroevo list arm) and YAML overlays", metavar="A,B.yaml,...")],
    seeds: Annotated[int, typer.Option(help="runs of each arm on each split")] = 5,
    splits: Annotated[int, typer.Option(help="splits of the data, for small data sets")] = 1,
    budget: Annotated[
        str | None, typer.Option(help="samples=N of each run, tuning included; default: the config's own", metavar="")
    ] = None,
    jobs: Annotated[str, typer.Option(help="runs at a time; ray:N[@ADDRESS], ray:auto: by Ray", metavar="N")] = "1",
    levels: Annotated[
        str | None, typer.Option(help="validation levels whose first reach is tabled", metavar="X,Y,...")
    ] = None,
    sets: Sets = None,
    out: Annotated[
        str | None, typer.Option(help="the benchmark's folder; default runs/out/CONFIG-bench", metavar="DIR")
    ] = None,
) -> None:
    """Compare arms at equal budget over seeds; the same command goes on where it stopped, or adds arms and seeds."""
    from neuroevo.bench import benchmark as bench_
    from neuroevo.cli import standings as standings_
    from neuroevo.experiments import terminal
    from neuroevo.experiments.signals import Signals

    how: dict[str, Any] = {"seeds": seeds, "splits": splits, "jobs": jobs, "budget": budget, "out": out}
    names, chosen = [name.strip() for name in arms.split(",")], standings_.read_levels(levels)
    with terminal.show() as observer:
        folder = bench_.run(config, names, observer, Signals(), levels=chosen, sets=sets or [], **how)
    standings(str(folder))


@app.command()
def resume(run_dir: Run, sets: Sets = None) -> None:
    """Go on from the newest good checkpoint; --set may change budget, checkpoint, data.root and data.file."""
    from pathlib import Path

    from neuroevo.bench import benchmark as bench_
    from neuroevo.experiments import terminal
    from neuroevo.experiments.signals import Signals
    from neuroevo.storage import rundir
    from neuroevo.tuning import tune as tune_

    benchmark = (Path(run_dir) / rundir.BENCH).exists()
    if benchmark and sets:
        raise InputError("--set: a benchmark goes on as it began; neuroevo bench adds arms, seeds and splits")
    with terminal.show() as observer:
        if benchmark:
            folder = bench_.resume(run_dir, observer, Signals())
        else:
            folder = tune_.resume(run_dir, sets or [], observer, Signals())
    (standings if benchmark else summary)(str(folder))


@app.command()
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
) -> None:
    """Score a champion on its test split, or on other labelled samples."""
    from neuroevo import caveats
    from neuroevo.cli import results
    from neuroevo.experiments import evaluation, terminal
    from neuroevo.experiments.signals import Signals

    with terminal.show() as observer:
        found = evaluation.evaluate(run_dir, data, observer, member, sets or [], signals=Signals())
    noun = found.pop("noun", "images")
    rows = results.scores(found) + caveats.of_constraints("", found.get("constraints", {}))
    table(f"{run_dir} on {data or 'its test split'} ({found['images']} {noun})", rows)


@app.command()
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


@app.command("export")
def export_(
    run_dir: Run,
    out: Annotated[str, typer.Option(help="the file to write", metavar="FILE")],
    format: Annotated[str | None, typer.Option(help="safetensors, pt or onnx; default as FILE's name ends")] = None,
    member: Member = None,
) -> None:
    """Write the champion as a plain network."""
    from neuroevo.experiments import export
    from neuroevo.experiments.signals import Signals

    print(printable(str(export.export(run_dir, format, out, member, signals=Signals()))))


@app.command()
def report(
    folder: Annotated[str, typer.Argument(help="the folder of a run or of a bench", metavar="DIR")],
    watch: Annotated[bool, typer.Option("--watch", help="serve the page while the run goes on")] = False,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="of the served page; default any that is free")
    ] = None,
) -> None:
    """Write the page of a run or a bench, report.html, and its plots; with --watch, serve it to this machine."""
    if watch:
        from neuroevo.experiments import signals
        from neuroevo.report import watch as watch_

        with watch_.server(folder, port or 0) as serving:
            signals.restore_interrupt()
            print(f"http://{watch_.HOST}:{serving.server_port}/", flush=True)
            serving.serve_forever()
        return
    if port is not None:
        raise InputError("--port: only a page that is served has one; add --watch")
    from neuroevo.report import report as report_

    print(printable(str(report_.report(folder, lambda line: print(printable(line), file=sys.stderr)))))


@app.command()
def inspect(path: Annotated[str, typer.Argument(help="a run's folder, or a checkpoint", metavar="PATH")]) -> None:
    """Show what a run or a checkpoint holds."""
    from neuroevo.cli import inspection

    title, rows = inspection.describe(path)
    table(title, rows)


@app.command()
def validate(
    config: ConfigFile = None,
    *,
    sets: Sets = None,
    arms: Annotated[str | None, typer.Option(help="estimate a bench of these", metavar="A,B.yaml,...")] = None,
    seeds: Annotated[int | None, typer.Option(help="of the bench, as in neuroevo bench")] = None,
    splits: Annotated[int | None, typer.Option(help="of the bench, as in neuroevo bench")] = None,
    budget: Annotated[str | None, typer.Option(help="of the bench, as in neuroevo bench", metavar="")] = None,
) -> None:
    """Check a config without running it, and measure what the run, the search or the bench will take."""
    from neuroevo import devices
    from neuroevo.cli import inspection
    from neuroevo.config import check, load, raw
    from neuroevo.experiments import blame

    def note(line: str) -> None:
        print(printable(line), file=sys.stderr)

    begun, comparison = devices.began(), None
    if arms is None:
        checked = load(config, sets or [], note)
    else:
        base = raw(config, sets or [], note)
        checked = check(base)
        comparison = inspection.comparison(base, [name.strip() for name in arms.split(",")], seeds, splits, budget)
    for name, value in (("--seeds", seeds), ("--splits", splits), ("--budget", budget)):
        if arms is None and value is not None:
            raise InputError(f"{name}: only a bench has these; name its arms with --arms")
    with blame.on_users(checked):
        rows = inspection.estimate(checked, comparison, begun)
    print(checked.to_yaml(), end="")
    table("estimates", rows)


@app.command("list")
def list_(
    key: Annotated[
        str | None, typer.Argument(help="a section, a key, a kind of part, or a part, such as validate or algorithm.ga")
    ] = None,
) -> None:
    """List what a config can have: keys with defaults and meanings, and the names of parts with their options."""
    from neuroevo.cli import listing

    for title, rows in listing.describe(key):
        print("\n".join(map(printable, listing.lines(title, rows))))


@app.command()
def init(
    recipe: Annotated[str, typer.Argument(help="one of neuroevo list recipe", metavar="[RECIPE]")] = "default",
    out: Annotated[str | None, typer.Option(help="the file to write; default: print it", metavar="FILE.yaml")] = None,
) -> None:
    """Write a config to begin with, in which a comment says what each key means."""
    from neuroevo.cli import listing

    print(listing.begin(recipe, out), end="")


@app.command()
def doctor() -> None:
    """Show what this machine can do."""
    from neuroevo.cli import inspection

    table("this machine", inspection.machine())


@app.callback(invoke_without_command=True)
def version(show: Annotated[bool, typer.Option("--version", help="print the version")] = False) -> None:
    """Fine-tune pretrained networks by evolving their weights."""
    if show:
        print(__version__)


def table(title: str, rows: list[tuple[str, str]]) -> None:
    """Print a title and two columns, plain enough for a pipe."""
    rows = [(printable(name), printable(value)) for name, value in rows]
    width = max((len(name) for name, _ in rows), default=0)
    print(printable(title))
    for name, value in rows:
        print(f"  {name:<{width}}  {value}")


def summary(folder: str) -> None:
    """Print a run's result."""
    from neuroevo.cli import results

    for title, rows in results.describe(folder):
        table(title, rows)


def standings(folder: str) -> None:
    """Print what the arms of a benchmark came to."""
    from neuroevo.cli import standings as standings_

    table(*standings_.describe(folder))


def fail(line: str, status: int) -> NoReturn:
    """Print an error in one line and leave."""
    print(f"neuroevo: {printable(' '.join(line.split()))}", file=sys.stderr)
    sys.exit(status)


def main() -> NoReturn:
    """Run the command line and leave with its exit status."""
    if os.getcwd() not in sys.path:  # the console script doesn't look for a user's modules here by itself
        sys.path.insert(0, os.getcwd())
    for stream in (sys.stdout, sys.stderr):  # of any encoding: what it lacks is escaped, and never ends a command
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    command: Callable[..., Any] = app
    try:
        sys.exit(command(standalone_mode=False) or 0)
    except typer.Exit as error:
        sys.exit(error.exit_code)
    except USAGE as error:
        fail(error.format_message(), 2)  # type: ignore[attr-defined]
    except InputError as error:
        fail(str(error), 2)
    except Interrupted as error:
        sys.exit(error.status)
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(130)
    except (RunError, OSError) as error:
        fail(str(error), 1)
