"""The way of groups of trials from one rung to the next, as work that workers of a cluster can do."""

from contextlib import suppress
from typing import NamedTuple

from neuroevo.config import Config
from neuroevo.engine.execution import Execution
from neuroevo.errors import Interrupted
from neuroevo.experiments import compose
from neuroevo.experiments.signals import Signals
from neuroevo.experiments.sources import Sources
from neuroevo.tuning.lockstep import Group, Reached


class Leg(NamedTuple):
    """A group where it is, without the parts that it is built of again."""

    source: int  # the place of what it learns from
    configs: list[Config]
    brought: dict[str, list[float]]
    execution: Execution  # in force
    reached: Reached


def leg_of(group: Group, source: int) -> Leg:
    """Return a group as it can be sent; `source` is the place of what it learns from."""
    return Leg(source, group.configs, group.brought, group.run.supervised.executions.now, group.reached)


def go(sources: tuple[Sources, ...], way: tuple[int, int], leg: Leg) -> tuple[Execution, Reached]:
    """Take a group on to a generation, the first of `way`, of so many; return the execution then in force, and how far.

    A signal ends it after the last generation that it finished. To be called as a process's own program.
    """
    run = compose.assemble(leg.configs[0], sources[leg.source])
    run.supervised.executions.now = leg.execution
    group = Group(run, leg.configs, leg.brought, leg.reached)
    with suppress(Interrupted), Signals() as signals, signals.prompt():
        group.advance(*way)
    return run.supervised.executions.now, group.reached
