"""What a user must know of settings and results: what has no effect, what spoils a search, what flatters a figure.

Configs are taken here as records: plain mappings, defaults spelled out, as config.yaml has them.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from neuroevo.engine.genome import KEPT
from neuroevo.search import islands
from neuroevo.search.algorithms.ga import elite_mean_size

Record = Mapping[str, Any]

WARNING = "warning: "  # begins a line of the log that is one
LEAST_ELITES = 8  # one in so many at least goes on unchanged, where nothing else selects
NAMED = 5  # classes in a line


def idle(record: Record) -> dict[str, str]:
    """Return the keys that have no effect, whatever their value, in a config, each with what is missing."""
    found = {}
    algorithm, refine, tune = record["algorithm"], record["refine"], record.get("tune")
    mutation = algorithm.get("mutation")
    if not record["data"]["augment"]:
        found["features.views"] = "nothing is augmented; add data.augment"
    elif refine is None and record["fitness"]["split"] == "validation":
        found["data.augment"] = "no train image is looked at: fitness is on validation, and there are no gradient steps"
    if record["backbone"]["name"] == "none" != record["backbone"]["weights"]:
        found["backbone.weights"] = "there is no backbone"
    if not record["backbone"]["trainable"]:
        found["backbone.batchnorm"] = "all batch norms are frozen; add backbone.trainable"
        found["memory.plan"] = "heads are evaluated at once; it is for backbone.trainable"
    if refine is None:
        found["head.dropout"] = "it acts in gradient steps alone; add refine.steps"
    else:
        found |= _in_learning(algorithm, refine)
    if isinstance(mutation, Mapping):
        if mutation.get("schedule") == "constant":
            found["algorithm.mutation.final"] = "the schedule is constant"
        if mutation.get("self_adaptive") is False:
            found["algorithm.mutation.tau"] = "it is for self_adaptive: true"
        if mutation.get("rate") == 1:
            found["algorithm.mutation.per"] = "all is mutated; add a rate below 1"
    if algorithm.get("neighbourhood") == "global":
        found["algorithm.neighbours"] = "all are neighbours; add neighbourhood: ring"
    if record.get("islands") and not record["islands"]["migrants"]:
        for key in ("every", "topology"):
            found[f"islands.{key}"] = "nobody goes from one island to another; add islands.migrants"
    if "metrics" in record["fitness"]:
        found["algorithm.averaging"] = "with many objectives the candidates are the front"
    metrics = record["fitness"].get("metrics", [record["fitness"].get("metric")])
    if all(isinstance(metric, Mapping) and metric.get("of") == "network" for metric in metrics):
        for key in ("samples", "split", "balanced", "precision", "class_weights", "logit_adjustment"):
            found[f"fitness.{key}"] = "fitness is of a network as a whole, not of samples"
    if tune is not None:
        if not tune["trial"]["rungs"]:
            found["tune.trial.keep"] = "there are no rungs; add tune.trial.rungs"
        if record["budget"]["samples"] is None:
            found["tune.included"] = "the final run has no budget in samples; add budget.samples"
    return found


def _in_learning(algorithm: Record, refine: Record) -> dict[str, str]:
    """Return the keys of gradient steps that have no effect."""
    found = {}
    if refine["schedule"] == "constant":
        found["refine.final"] = "the schedule is constant"
    if refine.get("momentum") == 0:
        found["refine.nesterov"] = "there is no momentum"
        found["refine.optimizer_state"] = "the optimizer remembers nothing: there is no momentum"
    return found


def nobody_learns(record: Record, roles: Collection[int]) -> str | None:
    """Return why those that `refine.who` names are nobody after the first generation, or None.

    `roles` are those that the algorithm's individuals have from the second generation on.
    """
    who, name = record["refine"]["who"], record["algorithm"]["name"]
    if who == "elites" and KEPT not in roles:
        return "elites, and there are none: nobody learns; set it to all"
    if who == "children" and {*roles} == {KEPT}:
        return f"children, and a {name} population has none: nobody learns after the first generation; set it to all"
    return None


def drifts(record: Record) -> str | None:
    """Return what is wrong with a genetic algorithm in which next to nothing selects, or None."""
    algorithm = record["algorithm"]
    if algorithm["name"] != "ga" or algorithm["selection"]["name"] not in ("random", "all"):
        return None
    crossover = algorithm["crossover"]
    weighs = crossover["name"] == "weighted" and crossover["step"] > 0
    population, elites = algorithm["population"], algorithm["elites"]
    if weighs or ":" in crossover["name"] or elites >= population / LEAST_ELITES:
        return None
    who = "nothing selects" if not elites else f"only {elites} of {population} are selected, as elites"
    selection = algorithm["selection"]["name"]
    return (
        f"{selection}, and {crossover['name']} takes parents as they come: {who}; set it to tournament, or "
        f"algorithm.elites to {max(1, population // 4)}"
    )


def repeats(record: Record) -> str | None:
    """Return why all children of a genetic algorithm are the same before they learn, or None."""
    algorithm = record["algorithm"]
    if algorithm["name"] != "ga" or algorithm["selection"]["name"] != "all" or algorithm["parents"] is not None:
        return None
    crossover, mutation = algorithm["crossover"]["name"], algorithm["mutation"]
    still = mutation["name"] == "gaussian" and 0 in (mutation["sigma"], mutation["rate"])
    if crossover != "weighted" or not still:
        return None
    return "nothing is changed, and all children are the population's mean; algorithm.selection: random has others"


# Crossovers whose children have large pieces of a parent, or nearly all of it: what is new comes from mutation alone.
WEAK = ("none", "row", "layer", "k_point", "sbx")
FEW_GENES = 200  # in which mutation alone gets as far; docs/search.md has figures


def stalls(record: Record, genes: int) -> str | None:
    """Return why a crossover won't get far from an untrained head in so many genes without gradient steps, or None."""
    algorithm = record["algorithm"]
    if algorithm["name"] != "ga" or record["refine"] is not None or genes <= FEW_GENES:
        return None
    if record["genome"]["from"] or record["backbone"]["trainable"]:  # other starts, of which nothing is known
        return None
    name = algorithm["crossover"]["name"]
    if name not in WEAK or algorithm["mutation"]["name"] != "gaussian":
        return None
    return (
        f"{name}, which without gradient steps doesn't get far in {genes:,} genes (docs/search.md): add "
        "refine.steps, or set it to weighted or uniform"
    )


def of_config(record: Record, genes: int) -> list[str]:
    """Return what a reader of a run's result must know of its config, and of how many genes it evolves."""
    found = []
    stall = stalls(record, genes)
    if stall is not None:
        found.append(f"algorithm.crossover: {stall}")
    drift = drifts(record)
    if drift is not None:
        learning = record["refine"] is not None
        found.append(f"algorithm.selection: {drift}" + ("; only learning makes individuals better" if learning else ""))
    same = repeats(record)
    if same is not None:
        found.append(f"algorithm.mutation: {same}")
    if batches_differ(record):
        found.append(
            "algorithm.name: nelder_mead compares scores of different generations, and each has another batch: "
            "fitness.samples all would give them one"
        )
    if record["fitness"]["split"] == "validation":
        found.append(
            "fitness.split: validation, on which the champion is chosen as well: its figures there flatter it, and "
            "only those on test don't"
        )
    return found


def batches_differ(record: Record) -> bool:
    """Tell whether an algorithm that compares scores of different generations has them of different samples."""
    fitness = record["fitness"]
    metric = fitness.get("metric")
    of_network = isinstance(metric, Mapping) and metric.get("of") == "network"  # which is asked for no batch
    compares = record.get("algorithm", {}).get("name") == "nelder_mead"
    return compares and fitness.get("samples") != "all" and not of_network


def of_splits(classes: Sequence[str], counts: Mapping[str, Sequence[int]], noun: str = "images") -> list[str]:
    """Return a line on each split in which some class has no image; `counts` {split: images of each class}."""
    found = []
    for split, of_class in counts.items():
        missing = [name for name, count in zip(classes, of_class, strict=True) if not count]
        if missing:
            found.append(
                f"{split} has no {noun[:-1]} of {few(missing)} ({len(missing)} of {len(classes)} classes): "
                "its figures say nothing of them"
            )
    return found


def few(names: Sequence[str]) -> str:
    """Return names in a line, the first of many."""
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def of_workers(differing: Collection[str], idle: bool) -> list[str]:
    """Return in what workers differed from the run's own process, and that they were idle, where that is so."""
    lines = []
    if idle:
        lines.append("remote.workers: idle, for a generation was a single slice; memory.individuals makes smaller ones")
    if differing:
        names = ", ".join(sorted(differing))
        lines.append(f"workers differed from the run's process in {names}: its numbers are nobody else's")
    return lines


def of_champion(record: Record, generation: int, finite: bool, looks: int) -> list[str]:
    """Return what must be known of a champion of some generation; `looks` are the validations that there were.

    `finite` tells whether its validation is a finite number.
    """
    metric = record["validate"]["metric"]
    name = metric if isinstance(metric, str) else metric["name"]
    if not finite:
        return [f"no candidate had a finite {name} in validation: the champion is the start, and means nothing"]
    if generation or not looks:
        return []
    often = f"{looks} validations" if looks > 1 else "the one validation"
    return [f"the champion is {start(record)}: in {often} no candidate had a better {name}"]


def of_predictions(classes: Sequence[str], predicted: Sequence[int], noun: str = "images") -> list[str]:
    """Return a line where a champion predicts one class for all test images; `predicted` are images by class."""
    there = [name for name, count in zip(classes, predicted, strict=True) if count]
    return [f"the champion predicts {there[0]} for each of the test {noun}"] if len(there) == 1 else []


def end_of_range(key: str, value: Any, low: Any, high: Any) -> str:
    """Return the line on a tuned value that lies at an end of its range."""
    return (
        f"tune.space.{key}: the best value found, {value}, is at the end of its range [{low}, {high}]; look beyond it"
    )


def of_kind(kind: str, generation: int, record: Record, member: int | None = None, newest: int | None = None) -> str:
    """Return what a champion is, in words; `member` is its number in the front of generation `newest`, if it is there.

    `record` is the config, as far as it is known.
    """
    algorithm = record.get("algorithm", {})
    if kind == "start" and not generation:
        return start(record)
    if kind.startswith("front-"):
        now = f"no longer in that of generation {newest}" if member is None else f"now --member {member}"
        return f"a member of the front of generation {generation}" + ("" if newest is None else f", {now}")
    own, island = islands.split(kind)
    size, what, elites = algorithm.get("population"), MADE_OF.get(own), elites_of(record, island)
    if own == "elite_mean" and isinstance(size, int):
        what = f"the mean of the best {elite_mean_size(size, elites)} of {size} individuals"
    return f"{kind.replace('individual_', 'individual ')} of generation {generation}" + (f": {what}" if what else "")


def elites_of(record: Record, island: int | None) -> int:
    """Return how many elites a genetic algorithm has, or that on one of its islands."""
    found: int = record.get("algorithm", {}).get("elites") or 0
    settings = (record.get("islands") or {}).get("settings") or []
    if island is not None and island < len(settings):
        found = settings[island].get("algorithm.elites", found)
    return found


MADE_OF = {  # kinds of candidates that are no individuals
    "elite_mean": "the mean of the best quarter of the individuals",
    "center": "the middle of the search's distribution",
    "personal_mean": "the mean of the particles' personal bests",
    "soup": "the mean of the networks of genome.from",
    "greedy_soup": "the mean of those networks of genome.from that make it no worse on validation",
    "regmean": "the networks of genome.from merged layer by layer, by least squares on their inputs",
    "bias_correction": "the start, on a backbone whose biases make up for what rounding did to its means",
}


def start(record: Record) -> str:
    """Return what a run begins with, in words."""
    if record.get("genome", {}).get("from"):
        return "the start, as genome.from gives it"
    if record.get("head", {}).get("init") == "network":
        return "the start, the network as it came"
    return "the untrained start"


def of_constraints(split: str, found: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return rows on how a champion keeps to constraints on a split: whether to all, and by how much to each."""
    if not found:
        return []
    met = sum(bool(each["feasible"]) for each in found.values())
    split = f"{split} " if split else ""
    rows = [(f"{split}feasible", "yes" if met == len(found) else f"no: {met} of {len(found)} constraints met")]
    return rows + [(f"{split}{name}", _compliance(each)) for name, each in found.items()]


def _compliance(found: Mapping[str, Any]) -> str:
    """Return how a constraint is kept to, in words."""
    values, worst = found.get("values"), found.get("worst")
    value = found.get("value") if values is None else values[worst]
    said = "not known" if value is None else f"{value:.4f}"
    said = said if worst is None else f"{worst} {said}"
    if found["slack"] is None:
        return f"{'met' if found['feasible'] else 'violated'}: nothing to judge it by"
    if found["feasible"]:
        return f"met by {found['slack']:.4f} ({'worst ' if worst else ''}{said})"
    several = values is not None and found["violation"] is not None and found["violation"] > -found["slack"]
    in_sum = f", {found['violation']:.4f} in sum" if several else ""
    return f"violated by {-found['slack']:.4f}{in_sum} ({'worst ' if worst else ''}{said})"


def together(*lines: Iterable[str]) -> list[str]:
    """Return lines in their order, each once."""
    return list(dict.fromkeys(line for some in lines for line in some))
