"""The content of the page of a run: the result first, then plots, then how it was made."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from neuroevo import caveats, config
from neuroevo.errors import InputError, ignore, printable
from neuroevo.problems.metric import LOWER_IS_BETTER, as_reported
from neuroevo.report import archipelago, genealogy, overview, page, plots_of_runs, plots_of_searches, takeaway, testpage
from neuroevo.report.figures import Files, Plot, words
from neuroevo.report.plates import plot_grid
from neuroevo.report.plots_of_searches import Axis, Trials
from neuroevo.search import islands
from neuroevo.storage import checkpoint, files, records, rundir
from neuroevo.storage import lineage as lineages
from neuroevo.storage.files import Note

COST = ("generation", "forward_samples", "backward_samples", "seconds")
FITNESS = ("fitness_best", "fitness_mean", "fitness_std")
DEPTH, WIDEST = 8, 64  # generations of a genealogy, and individuals of one
MANY = 10  # keys in which a config differs: more aren't named
AXES, LARGEST = 64, 1e300  # of a search's plots: more take minutes to draw, and larger ones have no scale
PARTS = 8  # of those that a mean is of, whose ancestors are drawn


class Run(NamedTuple):
    """The content of a run's folder, as far as it goes."""

    folder: Path
    config: dict[str, Any]
    history: list[dict[str, Any]]
    result: dict[str, Any]  # {} where there is none yet

    @property
    def metric(self) -> str:
        """The metric that champions are named by."""
        return metric_name(self.config["validate"]["metric"])

    @property
    def champion(self) -> dict[str, Any]:
        """The champion as the result has it, {} while there is none."""
        champion: dict[str, Any] = self.result.get("champion", {})
        return champion

    @property
    def goes_on(self) -> bool:
        """Whether more generations are recorded than the result knows of."""
        known: int = self.result.get("generations", self.result.get("iterations", -1))
        return self.generation > known

    @property
    def generation(self) -> int:
        """The last generation that is recorded."""
        return int(self.history[-1]["generation"]) if self.history else 0

    @property
    def cost(self) -> dict[str, float]:
        """The cost of the run; only the result knows of validation and the backbone."""
        if self.result and not self.goes_on:
            cost: dict[str, float] = self.result["cost"]
            return cost
        return dict.fromkeys(plots_of_runs.COSTS.values(), 0) | {key: self.history[-1][key] for key in COST[1:]}


def metric_name(metric: Any) -> str:
    """Return the name of a metric as a config gives it."""
    return str(metric["name"] if isinstance(metric, dict) else metric)


def read(folder: Path, note: Note = ignore, compare: bool = False) -> Run:
    """Read what there is of a run; `note` is told what is damaged. To `compare` with the checkpoint takes longer.

    InputError where its config is damaged, and there is no checkpoint that has it, too.
    """
    saved = rundir.newest(folder, note) if compare else None
    history, result = rundir.read_history(folder, note, saved), rundir.read_result(folder, note)
    last = result.get("generations", 0) if result.get("status") == "finished" else 0
    if saved is None and len(history) < last:  # a run that goes on may lack its newest line
        saved = rundir.newest(folder, note)
        history = rundir.read_history(folder, note, saved)
    given = read_config(folder, saved, note) if history else {}
    if saved is not None and saved.step.stop is not None and not (folder / rundir.RESULT).exists():
        note(f"{folder / rundir.RESULT}: gone, or never written; it is made again by: neuroevo resume {folder}")
    return Run(folder, given, history, result)


def read_config(folder: Path, saved: checkpoint.Checkpoint | None, note: Note) -> dict[str, Any]:
    """Return a run's config as it is in its checkpoint, or where there is none in its folder."""
    file = folder / rundir.CONFIG
    wrong = "damaged"
    try:
        given = config.read(str(file))
        if saved is None and records.of_config(given):
            return given
    except InputError as error:
        given, wrong = {}, str(error)
    saved = saved or rundir.newest(folder)
    there = {} if saved is None else config.parse_sections(saved.config, str(saved.path))
    if saved is None or not records.of_config(there):
        raise InputError(wrong if str(file) in wrong else f"{file}: {wrong}")
    own = {key: value for key, value in given.items() if key not in config.APART}
    if differ := rundir.differences(there, own):
        some = f"{', '.join(differ)} differ from" if len(differ) < MANY else "damaged; the config is that of"
        note(f"{file}: {some} {saved.path.name}" + (", which counts" if len(differ) < MANY else ""))
    return dict(there)


def run_page(folder: Path, pictures: Files | None, refresh: int | None = None, note: Note = ignore) -> str:
    """Return a run's page; its plots are written as `pictures` says, if that is given.

    InputError where no generation is recorded. With `refresh` the page loads itself again after so many seconds. What
    is damaged is left out; the page says so, and `note` is told.
    """
    bad: list[str] = []
    run = read(folder, bad.append, compare=refresh is None)
    if not run.history:
        raise InputError("; ".join([f"{folder}: no generation is recorded yet", *bad]))
    searched = read_trials(folder, bad.append)
    lineages.read(folder, bad.append)
    apart = rundir.read_islands(folder, bad.append)
    rundir.read_confusion(folder, bad.append)
    testpage.read(folder, bad.append)
    rundir.check_beside(folder, bad.append)
    for line in dict.fromkeys(bad):
        note(line)
    progress = [
        choice(run, bad.append) or anytime(run),
        plots_of_runs.fitness("fitness", run.history),
        plots_of_runs.costs("cost", {folder.name: run.cost}),
    ]
    of_search = [] if searched is None else plots_of_searches.trials(searched)
    classes = rundir.read_confusion(folder)
    body = (
        page.name_table(overview.rows(run.config, run.result, classes[0] if classes else ()))
        + page.section(
            "Result", warnings(run), page.name_table(short(run)), everything(run), *map(page.note, dict.fromkeys(bad))
        )
        + page.section("Data", *data_sources(run))
        + page.section("Progress", plot_grid([*progress, *over_generations(run)], pictures))
        + page.section(
            "Islands",
            plot_grid(archipelago.plots(apart), pictures),
            *archipelago.table(apart, run.config, run.champion.get("kind", "")),
        )
        + page.section("The champion on test", *testpage.on_test(folder, pictures))
        + page.section("Test samples", *testpage.samples(folder, run.config))
        + page.section(
            "What was taken away", *([] if run.goes_on else takeaway.table(run.result, run.champion, run.metric))
        )
        + page.section("Genealogy", *ancestry(run, pictures))
        + page.section("Pareto front", plot_grid(front(run), pictures))
        + page.section("Search of hyperparameters", plot_grid(of_search, pictures))
        + page.section("How it was made", *origin_of_run(run))
    )
    return page.document(f"neuroevo: {folder.resolve().name}", body, refresh)


def short(run: Run) -> list[tuple[str, str]]:
    """Return the rows of a run's result that a reader looks for first."""
    result, champion, cost, metric = run.result, run.champion, run.cost, run.metric
    tuning = result.get("tuning", result if "trials" in result else {})
    rows = []
    if tuning:
        spent = tuning["cost"]["forward_samples"] + 2 * tuning["cost"]["backward_samples"]
        state = f"{tuning['status']} ({words(tuning['stop_reason'])}): {tuning['trials']} trials "
        rows += [("search", f"{state}in {tuning['iterations']} iterations, {spent:,} samples")]
        settings = (tuning["best"] or {"settings": {}})["settings"]
        rows += [(f"best {key}", page.number(value)) for key, value in settings.items()]
    if result and (champion or not tuning):
        rows += [
            ("status", f"{result['status']} ({words(result['stop_reason'])}) after {result['generations']} generations")
        ]
    if run.goes_on:
        rows += [("now" if result else "status", f"not finished: generation {run.generation}")]
        best = [value for _, _, value in validations(run)]
        rows += [(f"best validation {words(metric)}", page.number(best[-1] if best else None))]
    if champion:
        about = champion.get("about") or caveats.of_kind(champion["kind"], champion["generation"], run.config)
        rows += [("champion", words(about))]
        folds, value = run.result.get("folds", {}), page.number(champion["validation"].get(metric))
        interval = folds.get("interval", {}).get(metric)
        rows += [("chosen by", caveats.of_folds(folds))] if folds else []
        rows += [(f"validation {words(metric)}", f"{value} (95 %: {page.number(interval)})" if interval else value)]
        rows += caveats.of_constraints("validation", champion.get("constraints", {}))
    if "test" in champion:
        test = champion["test"]
        interval = test["interval"].get(metric)
        rows += [(f"test {words(metric)}", f"{page.number(test.get(metric))} (95 %: {page.number(interval)})")]
        rows += caveats.of_constraints("test", test.get("constraints", {}))
        rows += beside(run)
        rows += [(f"test {run.result.get('data', {}).get('noun', 'images')}", page.number(test["images"]))]
    samples = int(cost["forward_samples"] + 2 * cost["backward_samples"])
    rows += [("samples", f"{samples:,} (forward + 2 x backward)"), ("seconds", f"{cost['seconds']:,.2f}")]
    return rows


def beside(run: Run) -> list[tuple[str, str]]:
    """Return rows on what the logistic regression beside a champion reaches; none where there is none."""
    found, metric = run.result.get("baseline", {}).get("logistic"), words(run.metric)
    if found is None:
        return []
    value, interval = found["test"].get(run.metric), found["test"]["interval"].get(run.metric)
    validation = page.number(found["validation"].get(run.metric))
    return [
        (f"logistic regression, validation {metric}", f"{validation} (C = {found['C']:g}, {found['seconds']:.1f} s)"),
        (f"logistic regression, test {metric}", f"{page.number(value)} (95 %: {page.number(interval)})"),
    ]


def warnings(run: Run) -> str:
    """Return the warnings that a reader of the result must know before its figures."""
    return page.warnings(run.result.get("warnings", []))


def data_sources(run: Run) -> list[str]:
    """Return the folders of each split's images, and the notes on them; [] where there are none."""
    about = run.result.get("data", {})
    rows = [
        (split, f"{about.get('images', {}).get(split, 0):,} {about.get('noun', 'images')}, {printable(folder)}")
        for split, folder in about.get("folders", {}).items()
    ]
    rows += [("note", printable(note)) for note in about.get("notes", [])]
    return [page.name_table(rows)] if rows else []


def everything(run: Run) -> str:
    """Return all figures of the result but versions, folded away."""
    rest = {key: value for key, value in run.result.items() if key not in ("versions", "data", "warnings")}
    return page.details("all figures", page.name_table(page.flat(rest))) if rest else ""


def validations(run: Run) -> list[tuple[float, float, float]]:
    """Return each validation of a run: samples until then, its value, and the best so far."""
    choose = min if run.metric in LOWER_IS_BETTER else max
    found: list[tuple[float, float, float]] = []
    for line in run.history:
        if line["validation"] is not None:
            value, samples = line["validation"], line["forward_samples"] + 2 * line["backward_samples"]
            found.append((samples, value, choose(value, found[-1][2]) if found else value))
    return found


def anytime(run: Run) -> Plot:
    """Draw a run's best validation so far."""
    return plots_of_runs.anytime("anytime", validations(run), run.metric)


def choice(run: Run, note: Note = ignore) -> Plot | None:
    """Draw the searches that chose a run's end, in place of validations that it has none of; None without them."""
    if not isinstance(run.config["validate"].get("refit"), dict):
        return None
    there = [path for path in (run.folder / rundir.FOLDS).glob("*") if path.name.isdecimal()]
    histories = [rundir.read_history(path, note) for path in sorted(there, key=lambda path: int(path.name))]
    if not histories:
        return None
    chosen = run.config["validate"]["refit"].get("generation")
    return plots_of_runs.folds("folds", histories, run.metric, chosen if records.count(chosen) else None)


def over_generations(run: Run) -> list[Plot]:
    """Draw diversity, invalid individuals, and what individuals have of their own; nothing that is always 0."""
    columns = dict.fromkeys(key for line in run.history for key in line)
    others = [key for key in columns if key not in (*COST, *FITNESS, "validation")]
    about = {
        "diversity": "The deviation of a gene over the population, the mean over genes.",
        "invalid": "Individuals with a NaN or infinite logit.",
        "feasible": "The share of individuals that keep to all constraints.",
        "violation": "By how much the least violated individual is beyond the bounds of constraints, in sum.",
    }
    median = "Each individual has its own: the median of the population."
    there = [key for key in others if any(line.get(key) for line in run.history)]
    return [plots_of_runs.column(key, run.history, key, about.get(key, median)) for key in there]


def ancestry(run: Run, pictures: Files | None, prefix: str = "") -> list[str]:
    """Return the champion's genealogy, or why there is none; [] while there is no champion."""
    if not run.champion:
        return []
    kind, generation = run.champion["kind"], run.champion["generation"]
    lineage = lineages.read(run.folder)
    if generation == 0:
        return [page.note("No genealogy: the champion is what the run started from.")]
    if generation not in lineage:
        return [page.note("No genealogy: here individuals have no parents, or more than two.")]
    rows = genealogy.origin(lineage[generation], kind, run.config)
    if not rows:
        what = caveats.MADE_OF.get(islands.split(kind)[0])
        made_of = f"was made of the whole population: {what}" if what else "has no parents"
        return [page.note(f"No genealogy: the champion ({words(kind)}) {made_of}.")]
    tree = genealogy.ancestors(lineage, generation, rows[:PARTS], DEPTH, WIDEST)
    line = lineages.descent(lineage, generation, rows[0])
    drawn = [plots_of_runs.descent("descent", line, run.history)]
    if any(len(individuals) > 1 for individuals in tree):
        drawn.insert(0, plots_of_runs.genealogy("genealogy", tree, kind))
    return [plot_grid(drawn, pictures, prefix)]


def front(run: Run) -> list[Plot]:
    """Draw the newest front of a run of two objectives."""
    two = len(run.config["fitness"].get("metrics") or []) == 2
    saved = checkpoint.newest(run.folder / rundir.CHECKPOINTS, lambda line: None) if two else None
    if saved is None or saved.front is None:
        return []
    names = saved.objectives
    points = [[as_reported(*pair) for pair in zip(names, row, strict=True)] for row in saved.front.fitness.tolist()]
    return [plots_of_runs.front("front", names, points)]


def origin_of_run(run: Run) -> list[str]:
    """Return the commands that made a run, versions, and its config."""
    commands = rundir.commands(run.folder)
    versions = run.result.get("versions", {})
    return [
        page.text("\n".join(commands)) if commands else "",
        page.details("versions", page.name_table(page.flat(versions))) if versions else "",
        page.details("config", page.text(config.dump(run.config))),
    ]


def read_trials(folder: Path, note: Note = ignore) -> Trials | None:
    """Return the trials of a search of hyperparameters, or None where there was none, or they are damaged or gone."""
    path, searched = folder / rundir.TRIALS, folder / rundir.TUNE
    searched = searched if searched.is_dir() else folder
    count = rundir.read_result(searched).get("trials") or 0
    if not path.exists():
        if count:
            note(f"{path}: gone")
        return None
    try:
        found = _trials(path, read_config(searched, None, note))
        if len(found.validation) < count:
            raise ValueError("rows are gone")
        return found
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError, csv.Error):
        note(f"{path}: damaged, and left out")
        return None


def _trials(path: Path, given: dict[str, Any]) -> Trials:
    """Return the trials in a file, of a search with a config."""
    metric = metric_name(given["validate"]["metric"])
    rows = list(csv.DictReader(io.StringIO(files.content(path).decode(), newline="")))
    if not rows:
        raise ValueError("no trial")
    if [row.get("trial", str(i)) for i, row in enumerate(rows)] != [str(i) for i in range(len(rows))]:
        raise ValueError("a row twice, or none")
    axes = [axis for key, variable in given["tune"]["space"].items() for axis in _axes(key, variable, rows)]
    there = [axis for axis in axes if any(value == value for value in axis.values)]
    found, iterations = [float(row[metric]) for row in rows], [int(row["iteration"]) for row in rows]
    figures = [value for values in (found, *(axis.values for axis in there)) for value in values]
    if (
        len(there) > AXES
        or not all(map(records.count, iterations))
        or any(LARGEST < abs(v) < math.inf for v in figures)
    ):
        raise ValueError("more than can be drawn")
    return Trials(there, found, iterations, metric, metric in LOWER_IS_BETTER)


def _axes(key: str, variable: dict[str, Any], rows: Sequence[Mapping[str, str]]) -> list[Axis]:
    """Return a variable of a search as axes: of a list its length, and each item."""
    cells = [row[key] for row in rows]
    if variable["name"] == "list":
        lists = [json.loads(cell) if cell else [] for cell in cells]
        lengths = [len(items) if cell else math.nan for items, cell in zip(lists, cells, strict=True)]
        log = variable["item"].get("scale", "linear") != "linear"
        items = [
            Axis(f"{key}.{i}", [float(found[i]) if i < len(found) else math.nan for found in lists], log, [])
            for i in range(max(map(len, lists), default=0))
        ]
        return [Axis(key, lengths, False, []), *items]
    if variable["name"] in ("categorical", "boolean"):
        labels = sorted({cell for cell in cells if cell})
        return [Axis(key, [labels.index(cell) if cell else math.nan for cell in cells], False, labels)]
    values = [float(cell) if cell else math.nan for cell in cells]
    return [Axis(key, values, variable.get("scale", "linear") != "linear", [])]
