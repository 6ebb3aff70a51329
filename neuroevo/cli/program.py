"""What commands share: the arguments that several take, and how they print what came out."""

from typing import Annotated

import typer

from neuroevo.errors import printable

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
