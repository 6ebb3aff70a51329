"""The command line. Nothing heavy is imported before a command needs it, so that --help is instant."""

import os
import sys
from collections.abc import Callable
from io import TextIOWrapper
from typing import Annotated, Any, NoReturn

import typer

from neuroevo import __version__
from neuroevo.cli import outcomes, searches
from neuroevo.cli.program import ConfigFile, Sets, table
from neuroevo.errors import InputError, Interrupted, RunError, printable

app = typer.Typer(
    name="neuroevo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

USAGE: type[Exception] = typer.BadParameter.__bases__[0]  # click's, wherever typer has it from


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


def list_(
    key: Annotated[
        str | None, typer.Argument(help="a section, a key, a kind of part, or a part, such as validate or algorithm.ga")
    ] = None,
) -> None:
    """List what a config can have: keys with defaults and meanings, and the names of parts with their options."""
    from neuroevo.cli import listing

    for title, rows in listing.describe(key):
        print("\n".join(map(printable, listing.lines(title, rows))))


def init(
    recipe: Annotated[str, typer.Argument(help="one of neuroevo list recipe", metavar="[RECIPE]")] = "default",
    out: Annotated[str | None, typer.Option(help="the file to write; default: print it", metavar="FILE.yaml")] = None,
) -> None:
    """Write a config to begin with, in which a comment says what each key means."""
    from neuroevo.cli import listing

    print(listing.begin(recipe, out), end="")


def doctor() -> None:
    """Show what this machine can do."""
    from neuroevo.cli import inspection

    table("this machine", inspection.machine())


COMMANDS: dict[str, Callable[..., None]] = {  # in the order of --help
    "run": searches.run,
    "tune": searches.tune,
    "bench": searches.bench,
    "resume": searches.resume,
    "evaluate": outcomes.evaluate,
    "predict": outcomes.predict,
    "decide": outcomes.decide,
    "export": outcomes.export,
    "report": outcomes.report,
    "log": outcomes.log,
    "inspect": outcomes.inspect,
    "validate": validate,
    "list": list_,
    "init": init,
    "doctor": doctor,
}
for _name, _command in COMMANDS.items():
    app.command(_name)(_command)


@app.callback(invoke_without_command=True)
def version(show: Annotated[bool, typer.Option("--version", help="print the version")] = False) -> None:
    """Fine-tune pretrained networks by evolving their weights."""
    if show:
        print(__version__)


def fail(line: str, status: int) -> NoReturn:
    """Print an error in one line and leave."""
    print(f"neuroevo: {printable(' '.join(line.split()))}", file=sys.stderr)
    sys.exit(status)


def main() -> NoReturn:
    """Run the command line and leave with its exit status."""
    here = os.getcwd()
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if here not in given:  # a user's modules are found here, but take no library's place, as `python -m` would have it
        sys.path[:] = [*(path for path in sys.path if path not in ("", here)), here]
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
