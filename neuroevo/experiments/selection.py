"""What of a run is taken away: its champion, or another network or several of its newest final population."""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from neuroevo.engine.genome import BRED, NEW
from neuroevo.engine.loop import Champion, Step
from neuroevo.engine.observer import Observer
from neuroevo.engine.scores import ranks
from neuroevo.errors import InputError
from neuroevo.experiments import reopen
from neuroevo.experiments.compose import Run
from neuroevo.experiments.interruption import Interruption
from neuroevo.networks import merging
from neuroevo.problems import mixtures
from neuroevo.storage import lineage as lineages
from neuroevo.storage.checkpoint import Checkpoint

OPTION = "--select"
FORMS = "champion, top_mean, top_mean:K, soup, ensemble, ensemble:K, member:I"
SIZE = 8  # of an ensemble, at most
MOST = 64  # individuals of a population that are considered, the best by fitness
ROW_OF_BEST = ("best", "elite_mean")  # kinds of champions that are made of their generation's best


class Selection(NamedTuple):
    """What is asked for."""

    kind: str  # champion, top_mean, soup, ensemble or member
    number: int | None = None  # of networks, at most; of a member

    def __str__(self) -> str:
        """Return it as it is asked for."""
        return self.kind if self.number is None else f"{self.kind}:{self.number}"

    @property
    def validates(self) -> bool:
        """Whether validation data choose it."""
        return self.kind in ("soup", "ensemble")

    @property
    def compares(self) -> bool:
        """Whether it is scored beside the champion; a front has its scores, and evaluate scores a member."""
        return self.kind not in ("champion", "member")

    def take(self) -> reopen.Take | None:
        """Return what takes its genome from a checkpoint, where that is enough."""
        if self.kind == "member":
            assert self.number is not None
            return reopen.member_of(self.number, f"{OPTION} member")
        return top_mean(self.number) if self.kind == "top_mean" else None


class Choice(NamedTuple):
    """What is taken away."""

    genomes: tuple[Tensor, ...]  # one [g], or several whose logits are averaged
    about: str  # in words
    looks: int = 0  # candidates that were validated for it


def read(text: str) -> Selection:
    """Return what a text asks for; InputError where it is none of FORMS."""
    kind, colon, given = text.partition(":")
    numbered = {"top_mean": 1, "ensemble": 2, "member": None}
    if kind in ("champion", "soup", "top_mean", "ensemble") and not colon:
        return Selection(kind)
    if kind in numbered and colon and given.removeprefix("-").isdecimal():
        least = numbered[kind]
        if least is not None and int(given) < least:
            raise InputError(f"{OPTION} {text}: {least} or more expected")
        return Selection(kind, int(given))
    raise InputError(f"{OPTION}: {text!r} is none of {FORMS}")


def top_mean(number: int | None) -> reopen.Take:
    """Return what takes the mean of the best `number` of a checkpoint's population, by fitness; of the best quarter."""

    def take(saved: Checkpoint) -> Champion:
        step = saved.step
        if saved.front is not None:
            raise InputError(
                f"{OPTION} top_mean: of several objectives none says who is best; take a member of the front"
            )
        if saved.layout.tops:
            raise InputError(f"{OPTION} top_mean: genes are whole levels, whose mean is none")
        rows = best_first(step, "top_mean")
        count = number or max(1, len(step.population.genomes) // 4)
        if count > len(rows):
            if number is not None:
                raise InputError(f"{OPTION} top_mean:{number}: the population has {len(rows)} valid individuals")
            count = len(rows)
        mean = step.population.genomes[rows[:count]].mean(0)
        return Champion(mean, f"the mean of the best {count}", step.generation, {})

    return take


def best_first(step: Step, what: str) -> list[int]:
    """Return the rows of a population's valid individuals, the best by fitness first; InputError without any."""
    if step.generation == 0:
        raise InputError(f"{OPTION} {what}: the run has no generation yet")
    order = ranks(step.scores.keys.cpu()).argsort(descending=True, stable=True).tolist()
    invalid = step.scores.invalid.tolist()
    rows = [row for row in order if not invalid[row]]
    if not rows:
        raise InputError(f"{OPTION} {what}: no individual of generation {step.generation} is valid")
    return rows


def choose(
    asked: Selection, run: Run, step: Step, folder: Path, observer: Observer, *, signals: Interruption
) -> Choice:
    """Return what is asked for of a run that is open with its data, by validation where that decides."""
    genomes = step.population.genomes.to(step.champion.genome.device)  # a checkpoint is read on the host
    step = replace(step, population=step.population._replace(genomes=genomes))
    with signals:
        if asked.kind == "soup":
            return soup(run, step, folder, observer, signals)
        if asked.kind == "ensemble":
            return ensemble(run, step, asked.number or SIZE, observer, signals)
    champion = step.champion
    return Choice((champion.genome,), describe(champion.kind, champion.generation))


def describe(kind: str, generation: int) -> str:
    """Return what one genome is, in words."""
    return f"{kind.replace('_', ' ')}, of generation {generation}"


def distinct(genomes: list[Tensor]) -> list[Tensor]:
    """Return genomes, each once."""
    return list({genome.cpu().numpy().tobytes(): genome for genome in reversed(genomes)}.values())[::-1]


def ensemble(run: Run, step: Step, most: int, observer: Observer, signals: Interruption) -> Choice:
    """Return an ensemble of `most` at most, of the champion and the best individuals of the population."""
    of, population = run.supervised, step.population.genomes
    rows = of.splits["validation"]
    # Each keeps its logits, and means are as large; more than the limit of memory holds aren't considered.
    room = of.executions.now.limit // (3 * 4 * len(run.network.classes) * max(1, len(rows)))
    best = best_first(step, "ensemble")[: max(1, min(MOST, room))]
    genomes = distinct([step.champion.genome, *(population[row] for row in best)])
    judge = mixtures.Judge(of, rows)
    found: list[Tensor] = []
    for genome in genomes:
        signals.check()
        logits, targets = judge.logits(genome)
        found.append(logits)
        observer.candidates(len(found), len(genomes))
    finite = [i for i, logits in enumerate(found) if bool(logits.isfinite().all())]
    if not finite:
        raise InputError(f"{OPTION} ensemble: no candidate has finite logits on validation")
    chosen = [finite[i] for i in mixtures.choose(judge, [found[i] for i in finite], targets, most)]
    members = tuple(genomes[i] for i in chosen)
    about = f"the mean of the logits of {len(members)} of {len(genomes)} candidates"
    if len(members) == 1:
        about = f"the best on validation of {len(genomes)} candidates, with which no second one helps"
    return Choice(members, f"{about}, of generation {step.generation}", len(genomes))


def soup(run: Run, step: Step, folder: Path, observer: Observer, signals: Interruption) -> Choice:
    """Return a greedy soup of the descendants of one ancestor: each is in where validation gets no worse by it."""
    of = run.supervised
    if run.network.layout.tops:
        raise InputError(f"{OPTION} soup: genes are whole levels, whose mean is none")
    rows, words = family(run, step, folder)
    genomes = [step.population.genomes[row] for row in best_first(step, "soup") if row in rows]
    genomes = distinct([*([step.champion.genome] if words.champion else []), *genomes[:MOST]])
    if len(genomes) < 2:
        raise InputError(
            f"{OPTION} soup: the champion's ancestor has no other descendant in generation {step.generation}"
        )
    looks = 0

    def score(state: dict[str, Tensor]) -> tuple[float, ...]:
        nonlocal looks
        signals.check()
        (found,), _ = of.validate(state["genome"][None])
        looks += 1
        observer.candidates(looks, 2 * len(genomes) - 1)
        return of.merit(found)

    states = [{"genome": genome} for genome in genomes]
    chosen = merging.choose_greedily(states, score)
    mean = merging.mix([states[i] for i in chosen])["genome"]
    about = f"the mean of {len(chosen)} of {len(genomes)} descendants of one ancestor ({words.how})"
    if len(chosen) == 1:
        about = f"the best on validation of {len(genomes)} descendants of one ancestor ({words.how}); no other helps"
    return Choice((mean,), f"{about}, of generation {step.generation}", looks)


class Family(NamedTuple):
    """How it is known who descends from whom."""

    how: str
    champion: bool  # whether the champion is of the family as well


def family(run: Run, step: Step, folder: Path) -> tuple[set[int], Family]:
    """Return the rows of a population that descend from the ancestor of the champion's line, and how that is known.

    Where the lineage doesn't say of whom the champion was made, the ancestor is that of the fittest individual.
    InputError where there is no lineage to tell by.
    """
    population, g = step.population, step.generation
    best = best_first(step, "soup")
    same = [row for row in best if torch.equal(population.genomes[row], step.champion.genome)]
    roles, parents = population.roles.cpu(), population.parents.cpu()
    made = roles == BRED
    if g > 1 and bool(made.any()) and bool((parents[made] < 0).all()):
        # All of an island's individuals before are parents of each child, which so descends from each of them.
        each = len(roles) // run.algorithm.islands
        island = best[0] // each
        rows = {row for row in range(island * each, (island + 1) * each) if roles[row] != NEW}
        of_last = run.algorithm.islands == 1 and step.champion.kind in ROW_OF_BEST and step.champion.generation > 1
        return rows, Family("everybody is a parent of each child", bool(rows.intersection(same)) or of_last)
    lines = lineages.read(folder)
    if g not in lines or not any(parent >= 0 for row in lines[g].parents for parent in row):
        raise InputError(
            f"{OPTION} soup: there is no lineage to tell by who descends from whom: individuals of "
            f"algorithm {run.config.algorithm.name} have no parents, or more than two"
        )
    known = step.champion.kind in ROW_OF_BEST and step.champion.generation in lines
    if same or not known:
        start = lineages.founder(lines, g, (same or best)[0])
    else:
        start = lineages.founder(lines, step.champion.generation, lines[step.champion.generation].order()[0])
    rows = set(lineages.descendants(lines, start, g))
    return rows, Family(f"individual {start.row} of generation {start.generation}", bool(same) or known)
