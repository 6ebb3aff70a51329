"""What a page of a run shows of its islands: their progress side by side, and what each of them is."""

from collections.abc import Mapping, Sequence
from typing import Any

from neuroevo.report import page, plots_of_runs
from neuroevo.report.figures import Plot
from neuroevo.search.islands import TOPOLOGIES
from neuroevo.storage import records

Line = Mapping[str, Any]


def plots(lines: Sequence[Line]) -> list[Plot]:
    """Draw each island's best fitness and diversity over generations; [] where there are no islands."""
    if not lines:
        return []
    best = "The best of each island, on the batch that all islands have."
    apart = "The deviation of a gene over each island's population, the mean over genes."
    return [
        plots_of_runs.islands("islands_fitness", lines, "fitness_best", "Fitness of islands", best),
        plots_of_runs.islands("islands_diversity", lines, "diversity", "Diversity of islands", apart),
    ]


def table(lines: Sequence[Line], config: Mapping[str, Any], kind: str) -> list[str]:
    """Return a table of the islands after the last generation, with their settings; `kind` is the champion's."""
    given = config.get("islands")
    if not lines or not isinstance(given, Mapping):
        return []
    if not is_sound(given, len({line["island"] for line in lines})):
        return [page.note("What each island is isn't known: the config has other islands.")]
    last = max(line["generation"] for line in lines)
    settings = given["settings"] or [{}] * given["count"]
    named = given["topology"]
    sources = TOPOLOGIES[named](given["count"]) if isinstance(named, str) else named
    header = ["island", "receives from", "fitness best", "mean", "diversity", "invalid", "own settings"]
    rows: list[list[Any]] = []
    for line in lines:
        i = line["island"]
        if line["generation"] != last or i >= given["count"]:
            continue
        own = "; ".join(f"{key} {part(value)}" for key, value in settings[i].items())
        who = f"{i} (the champion's)" if kind.endswith(f" of island {i}") else i
        senders = ", ".join(map(str, sources[i])) if given["migrants"] else ""
        figures = [line[key] for key in ("fitness_best", "fitness_mean", "diversity", "invalid")]
        rows.append([who, senders, *figures, own])
    migrants, every = given["migrants"], given["every"]
    some = f"{migrants} of each go every {every} generations." if migrants else "Nobody goes."
    return [page.grid(header, rows, f"After generation {last}. {some}")]


def is_sound(given: Mapping[str, Any], most: int) -> bool:
    """Tell whether a config's islands have the form of a run's, and are at most so many."""
    count, settings, topology = given.get("count"), given.get("settings"), given.get("topology")
    named = isinstance(topology, str) and topology in TOPOLOGIES
    listed = isinstance(topology, list) and all(isinstance(each, list) for each in topology)
    return (
        isinstance(count, int)
        and 0 < count <= most
        and (not settings or (records.listing(settings, lambda own: isinstance(own, dict)) and len(settings) == count))
        and (named or (listed and len(topology) == count))  # type: ignore[arg-type]
        and all(records.count(given.get(key)) for key in ("migrants", "every"))
    )


def part(value: Any) -> str:
    """Return a setting as a reader wants it: of a part its name, and its options behind it."""
    if not isinstance(value, Mapping):
        return page.number(value)
    options = ", ".join(f"{key} {part(inner)}" for key, inner in value.items() if key != "name")
    name = str(value.get("name", ""))
    return f"{name} ({options})" if options else name
