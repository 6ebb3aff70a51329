"""What genes are, from Python: a space, and the networks that it is around."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor, nn

from neuroevo import config
from neuroevo.api.learners import about
from neuroevo.config.check import IN_SPACES, LEVEL_DEFAULTS, SPACE_SIGMA
from neuroevo.config.parts import Part
from neuroevo.engine.algorithm import Algorithm
from neuroevo.errors import InputError, the
from neuroevo.networks.spaces import SPACES, Origin, Space, full
from neuroevo.search.algorithms.ga import ga
from neuroevo.search.operators.mutation import gaussian
from neuroevo.search.operators.selection import truncation

Weights = Mapping[str, Tensor]
GENETIC = "ga"
SIGMA = 0.01  # deviation of the first population's weights


class Genes(NamedTuple):
    """What genes are, as it was asked for."""

    build: Callable[[Origin], Space] = full
    sources: tuple[Weights, ...] = ()  # weights by the module's own names

    @property
    def function(self) -> Callable[..., Any]:
        """The function of the space, without its options."""
        found = self.build
        while isinstance(found, partial):
            found = found.func
        return found

    @property
    def of_weights(self) -> bool:
        """Whether genes are weights, and not coordinates or levels."""
        return self.function is full

    @property
    def of_levels(self) -> bool:
        """Whether genes are levels."""
        return self.function is SPACES["levels"]

    @property
    def sigma(self) -> float:
        """The deviation of the first population, where none is given."""
        return SIGMA if self.of_weights or self.of_levels else SPACE_SIGMA


def make_genes(space: Any, sources: Any) -> Genes:
    """Return what genes are: a space by name, as a mapping, or a function of an `Origin`; InputError where it is none.

    `sources` are modules, or their weights by name.
    """
    if isinstance(sources, nn.Module | Mapping) or not isinstance(sources, Sequence):
        line = f"a list of modules, or of weights by name, expected, a {type(sources).__name__} given"
        raise InputError(line, option="sources")
    given = []
    for source in sources:
        weights = source.state_dict() if isinstance(source, nn.Module) else source
        if not isinstance(weights, Mapping) or not all(isinstance(w, Tensor) for w in weights.values()):
            raise InputError(f"a module, or its weights by name, expected, a {type(source).__name__} given", "sources")
        given.append(weights)
    if space is None or isinstance(space, str | Mapping):
        with about("space"):
            build = config.part("space", space or "full", "space").bound()
    elif callable(space):
        build = space
    else:
        raise InputError(f"a name, a mapping or a function expected, a {type(space).__name__} given", option="space")
    found = Genes(build, tuple(given))
    if given and (found.of_weights or found.of_levels):
        line = "networks to be around go with a space of coordinates, such as merge; start from another by its weights"
        raise InputError(line, option="sources")
    return found


def usual_algorithm(genes: Genes, *, data: bool, many: bool = False, learns: bool = False) -> str:
    """Return the name of the algorithm that searches where none is given.

    Coordinates, and what a function of one's own is asked of, are searched by a natural evolution strategy; what
    learns, many objectives and the weights of a classifier on data by a genetic algorithm.
    """
    return GENETIC if many or learns or genes.of_levels or (data and genes.of_weights) else IN_SPACES


def make_algorithm(
    given: Any, *, many: bool = False, cut: bool = False, genes: Genes | None = None, usual: str = GENETIC
) -> Algorithm[Any]:
    """Return an algorithm as it is given, by name or as a mapping, or the `usual` one as it suits the search.

    With `many` objectives half of each population are survivors, and where more than a head evolves, behind a `cut`,
    mutation is relative to the size of parameters.
    """
    genes = genes or Genes()
    relative = cut and genes.of_weights
    if isinstance(given, Algorithm):
        found = given
    elif given is None and genes.of_levels:
        found = config.part("algorithm", {"name": "ga", **LEVEL_DEFAULTS}, "algorithm").search()
    elif given is None and usual != GENETIC:
        found = config.part("algorithm", usual, "algorithm").search()
    elif given is None:
        own: dict[str, Any] = {"mutation": partial(gaussian, relative=True)} if relative else {}
        own |= {"elites": 128, "selection": partial(truncation, share=0.5)} if many else {}
        found = ga(**own)
    elif isinstance(given, str | Mapping):
        named = {"name": given} if isinstance(given, str) else dict(given)
        if genes.of_levels and named.get("name", "ga") == "ga":
            named = {"name": "ga", **LEVEL_DEFAULTS, **named}
        with about("algorithm"):
            part = config.part("algorithm", named, "algorithm")
        mutation = part.options.get("mutation")
        if genes.of_levels and isinstance(mutation, Part) and mutation.name == "gaussian":
            raise InputError(
                f"mutation gaussian, but levels of {the('space')} move in whole steps; use levels", option="algorithm"
            )
        if isinstance(mutation, Part) and mutation.options.get("relative", False) is None:
            mutation.options["relative"] = relative and not mutation.options.get("safe")
        found = part.search()
    else:
        raise InputError(f"ga(), a name or a mapping expected, a {type(given).__name__} given", option="algorithm")
    if many and not found.many:
        raise InputError("many objectives go with ga", option="algorithm")
    return found
