"""The commands that search: run, tune, bench, resume. Nothing heavy is imported before one needs it."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from neuroevo.cli.program import ConfigFile, Resume, Run, Sets, standings, summary
from neuroevo.errors import InputError


def run(
    config: ConfigFile = None,
    sets: Sets = None,
    out: Annotated[
        str | None, typer.Option(help="the run's folder; default runs/out/CONFIG-SEED", metavar="DIR")
    ] = None,
    resume: Resume = False,
) -> None:
    """Run one experiment, from data to a scored champion."""
    from neuroevo.experiments import terminal

    with terminal.show() as observer:
        from neuroevo.config import load  # which takes seconds, while something is there to see
        from neuroevo.experiments import folds
        from neuroevo.experiments.signals import Signals

        checked = load(config, sets or [], observer.note)
        stem = "default" if config is None else os.path.splitext(os.path.basename(config))[0]
        begin = folds.begin_or_resume if resume else folds.run
        folder = begin(checked, out, stem, observer, signals=Signals(observer.note))
    summary(str(folder))


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
    from neuroevo.experiments import terminal

    with terminal.show() as observer:
        from neuroevo.config import load  # as in run
        from neuroevo.experiments.signals import Signals
        from neuroevo.tuning import tune as tune_

        checked = load(config, [*(sets or []), *([] if final else ["tune.final=false"])], observer.note)
        stem = os.path.splitext(os.path.basename(config))[0]
        folder = (tune_.begin_or_resume if resume else tune_.run)(checked, out, stem, observer, Signals(observer.note))
    summary(str(folder))


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
    from neuroevo.experiments import terminal

    how: dict[str, Any] = {"seeds": seeds, "splits": splits, "jobs": jobs, "budget": budget, "out": out}
    names = [name.strip() for name in arms.split(",")]
    with terminal.show() as observer:
        from neuroevo.bench import benchmark as bench_  # as in run
        from neuroevo.cli import standings as standings_
        from neuroevo.experiments.signals import Signals

        chosen = standings_.read_levels(levels)
        folder = bench_.run(config, names, observer, Signals(observer.note), levels=chosen, sets=sets or [], **how)
    standings(str(folder))


def resume(run_dir: Run, sets: Sets = None) -> None:
    """Go on from the newest good checkpoint; --set may change budget, checkpoint, data.root and data.file."""
    from neuroevo.experiments import terminal

    with terminal.show() as observer:
        from neuroevo.bench import benchmark as bench_  # as in run
        from neuroevo.experiments.signals import Signals
        from neuroevo.storage import rundir
        from neuroevo.tuning import tune as tune_

        benchmark = (Path(run_dir) / rundir.BENCH).exists()
        if benchmark and sets:
            raise InputError("--set: a benchmark goes on as it began; neuroevo bench adds arms, seeds and splits")
        if benchmark:
            folder = bench_.resume(run_dir, observer, Signals(observer.note))
        else:
            folder = tune_.resume(run_dir, sets or [], observer, Signals(observer.note))
    (standings if benchmark else summary)(str(folder))
