"""Islands from Python: `islands(count=4)` is how several populations search apart, checked as a config's section is."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from neuroevo import config
from neuroevo.api.learners import about
from neuroevo.config.islands import ALGORITHM, check_topology, sources
from neuroevo.config.schema import Islands
from neuroevo.config.section import section
from neuroevo.engine.algorithm import Algorithm
from neuroevo.errors import InputError
from neuroevo.search.islands import Migration
from neuroevo.search.islands import islands as join_all

GIVEN = (str, Mapping, type(None))  # how an algorithm may be given that islands have of their own


def islands(
    *,
    count: int,
    every: int = 10,
    migrants: int = 1,
    topology: Literal["ring", "full"] | Sequence[Sequence[int]] = "ring",
    settings: Sequence[Mapping[str, Any]] = (),
) -> Islands:
    """Return `count` islands: populations of the algorithm's size that draw apart and see the same batches.

    At the end of each `every`-th generation the best `migrants` of each island take the places of the worst of those
    that receive from it: in a `ring` the next one, in `full` all others, or for each island a list of those, from 0,
    from which it receives. `settings` are an island's own options of an algorithm that is given by name:
    `[{"algorithm.mutation.sigma": 0.3}, {}]`.
    """
    named = topology if isinstance(topology, str) else [list(own) for own in topology]
    given = {"count": count, "every": every, "migrants": migrants, "topology": named, "settings": list(settings)}
    with about():
        found = section(Islands, given, "")
        if isinstance(found.topology, list):
            check_topology(found.topology, found.count)
        if found.settings and len(found.settings) != count:
            raise InputError(f"{len(found.settings)} given for {count} islands", option="settings")
        for i, own in enumerate(found.settings):
            wrong = [key for key in own if not key.startswith(ALGORITHM)]
            wrong += [key for key in own if key in (ALGORITHM + "name", ALGORITHM + "population")]
            if wrong:
                line = f"{i}: {wrong[0]} given; options of the algorithm expected, such as algorithm.mutation.sigma"
                raise InputError(line, option="settings")
    return found


def join(of: Any, given: Any, make: Callable[[Any], Algorithm[Any]], usual: str) -> Algorithm[Any]:
    """Return the algorithm that `make` makes of what is given, the `usual` one of nothing, on islands `of` any."""
    if of is None:
        return make(given)
    if not isinstance(of, Islands):
        raise InputError(f"islands(count=4) or another expected, a {type(of).__name__} given", option="islands")
    if of.settings and not isinstance(given, GIVEN):
        raise InputError("islands with settings of their own go with an algorithm by name", option="islands")
    named: Any = given
    if of.settings and not isinstance(given, Mapping):
        named = {"name": given or usual}
    every = [
        make(config.apply({"algorithm": named}, _pairs(own), lambda line: None)["algorithm"] if own else named)
        for own in of.settings or [{}] * of.count
    ]
    with about("islands"):
        return join_all(every, Migration(of.every, of.migrants, sources(of)))


def _pairs(own: Mapping[str, Any]) -> list[tuple[list[str], Any]]:
    return [(key.split("."), value) for key, value in own.items()]
