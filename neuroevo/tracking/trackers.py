"""Trackers, each a function that begins a run of its library's, or goes on with it.

They are called in a process of their own (`child`), so that nothing of them is in a run's, and import their library
there. What they are told is plain: lines of a history, and figures of a result.
"""

import csv as csv_
import importlib.util
import json
import os
import re
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from neuroevo.errors import InputError, cell, printable
from neuroevo.reading import regular

Line = Mapping[str, float | None]  # of a history, by column; None is no finite number
OWN = ".neuroevo"  # ends the names of the event files that are ours
PNG = b"\x89PNG\r\n\x1a\n"  # begins such a file
LARGEST = 32 << 20  # bytes of a plot


class Run(NamedTuple):
    """What a tracker knows of a run when it begins, or goes on."""

    name: str
    folder: str  # absolute
    config: dict[str, Any]
    began: float  # seconds since 1970, to which a line's own are added
    id: str | None = None  # that the tracker gave the run earlier
    done: int = 0  # the last generation that it was told of then


class Tracker(NamedTuple):
    """A run in a tracker. It is told the history from generation 1 on, but for what it has, then perhaps a result."""

    id: str  # by which it is found when the run goes on
    place: str  # where a person looks at it
    line: Callable[[Line], None]  # is told of a generation
    result: Callable[[Mapping[str, Any], Sequence[str]], None]  # is told figures, and files of plots
    close: Callable[[bool], None]  # ends it; whether the run came to its end
    done: int = 0  # the last generation that it has already


def numbers(line: Mapping[str, Any]) -> dict[str, float]:
    """Return what of a line is a number."""
    return {k: v for k, v in line.items() if isinstance(v, int | float) and not isinstance(v, bool)}


def flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield a config's values as texts, each by its dotted key; lists are values."""
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value)


def csv(run: Run) -> Tracker:
    """Write the history as a table, history.csv in the run's folder, for spreadsheets."""
    path, lines, columns = Path(run.folder, "history.csv"), [], dict[str, None]()
    path.unlink(missing_ok=True)  # it is told all of the history again

    def line(record: Line) -> None:
        new = record.keys() - columns.keys()
        lines.append(record)
        columns.update(dict.fromkeys(record))
        with open(path, "w" if new else "a", newline="", encoding="utf-8") as file:
            table = csv_.DictWriter(file, list(columns), lineterminator="\n")
            if new:
                table.writerow({column: cell(printable(column)) for column in columns})
            table.writerows(lines if new else [record])

    return Tracker(path.name, str(path), line, lambda figures, plots: None, lambda finished: None)


def tensorboard(run: Run, *, dir: str | None = None) -> Tracker:
    """Write an event file of TensorBoard, in the run's folder, or in one of its name in `dir`."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    place = choose_place(run, dir)
    folder, last = Path(run.folder, place), 0
    if folder.is_symlink():
        raise InputError(f"{folder}: is a link, which no events are written through")
    for old in folder.glob(f"events.out.tfevents.*{OWN}"):  # it is told all of the history again
        old.unlink()
    writer = EventFileWriter(str(folder), flush_secs=5, filename_suffix=OWN)

    def add(values: list[Any], step: int, seconds: float) -> None:
        writer.add_event(Event(wall_time=run.began + seconds, step=step, summary=Summary(value=values)))

    def line(record: Line) -> None:
        nonlocal last
        found = numbers(record)
        last = int(found.pop("generation"))
        add([Summary.Value(tag=key, simple_value=value) for key, value in found.items()], last, found["seconds"])

    def result(figures: Mapping[str, Any], plots: Sequence[str]) -> None:
        values = [Summary.Value(tag=key, simple_value=value) for key, value in numbers(figures).items()]
        values += [text("config", run.config), text("result", figures)]
        for path in plots:
            content = picture(path)
            width, height = struct.unpack(">II", content[16:24])  # of a PNG file's head
            image = Summary.Image(width=width, height=height, colorspace=4, encoded_image_string=content)
            values.append(Summary.Value(tag=f"plots/{Path(path).stem}", image=image))
        add(values, last, figures["result/seconds"])

    def text(tag: str, content: Mapping[str, Any]) -> Any:
        rows = "\n".join(f"| {key} | {value} |" for key, value in flatten(content))
        tensor = TensorProto(dtype="DT_STRING", string_val=[f"| key | value |\n|---|---|\n{rows}".encode()])
        about = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
        return Summary.Value(tag=f"{tag}/text_summary", metadata=about, tensor=tensor)

    return Tracker(place, str(folder), line, result, lambda finished: writer.close())


def choose_place(run: Run, dir: str | None) -> str:
    """Return where a run's events are, from its folder on: where they were, if that is one where they can be."""
    if dir is None:
        return "tensorboard"
    whole, known = Path(dir).absolute(), Path(run.id or "")
    return str(known if known.parent == whole and known.name not in ("", "..") else free(whole / run.name))


def picture(path: str | Path) -> bytes:
    """Return the bytes of a PNG file; OSError for anything else, such as a link, of whose end nobody asked to tell."""
    with regular(path, links=False) as file:
        content = file.read(LARGEST + 1)
    if not content.startswith(PNG) or not len(PNG) + 16 <= len(content) <= LARGEST:
        raise OSError(0, "no PNG file, or a large one")
    return content


def free(path: Path) -> Path:
    """Return a path that nothing is at: the one given, or it with a number."""
    found, k = path, 1
    while os.path.lexists(found):
        k += 1
        found = path.with_name(f"{path.name}-{k}")
    return found


def wandb(run: Run, *, project: str = "neuroevo", entity: str | None = None) -> Tracker:
    """Tell Weights & Biases, its files in the run's folder; online or not as WANDB_MODE says."""
    import wandb as library

    known = library.init(
        project=project,
        entity=entity,
        id=run.id,
        name=run.name,
        resume="allow" if run.id else None,
        dir=run.folder,
        config=run.config,
        allow_val_change=True,
        settings=library.Settings(console="off", x_disable_stats=True),
    )
    offline = known.settings.mode == "offline"
    done = run.done if offline else known.step - 1  # the server knows what it has, but for generation 0

    def line(record: Line) -> None:
        known.log(numbers(record), step=int(record["generation"] or 0))

    def result(figures: Mapping[str, Any], plots: Sequence[str]) -> None:
        known.summary.update(dict(figures))
        known.summary.update({f"plots/{Path(path).stem}": library.Image(path) for path in plots})

    def close(finished: bool) -> None:
        known.finish(exit_code=0 if finished else 1)

    return Tracker(known.id, known.url or str(Path(known.dir).parent), line, result, close, max(0, done))


def mlflow(run: Run, *, uri: str | None = None, experiment: str = "neuroevo") -> Tracker:
    """Tell MLflow, in the store that `uri` names, by default that of MLFLOW_TRACKING_URI."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param

    client = MlflowClient(tracking_uri=uri)
    if run.id is None:
        found = client.get_experiment_by_name(experiment)
        where = client.create_experiment(experiment) if found is None else found.experiment_id
        known = client.create_run(where, start_time=int(run.began * 1000), run_name=run.name)
        params = [Param(re.sub(r"[^\w./: -]", "_", key), text[:6000]) for key, text in flatten(run.config)]
        for first in range(0, len(params), 100):  # as many as a server takes at once
            client.log_batch(known.info.run_id, params=params[first : first + 100])
    else:
        known = client.get_run(run.id)
        client.update_run(run.id, status="RUNNING")
    key, has = known.info.run_id, dict(known.data.metrics)

    def log(values: Mapping[str, float], step: int, seconds: float) -> None:
        at = int((run.began + seconds) * 1000)
        client.log_batch(key, metrics=[Metric(name, float(value), at, step) for name, value in values.items()])

    def line(record: Line) -> None:
        found = numbers(record)
        log(found, int(found["generation"]), found["seconds"])

    def result(figures: Mapping[str, Any], plots: Sequence[str]) -> None:
        found = numbers(figures)
        changed = {name: value for name, value in found.items() if has.get(name) != value}
        if changed:
            log(changed, int(found["result/generations"]), found["result/seconds"])
        for name in figures.keys() - found.keys():
            client.set_tag(key, name, str(figures[name]))
        for path in plots:
            client.log_artifact(key, path, "plots")

    def close(finished: bool) -> None:
        client.set_terminated(key, "FINISHED" if finished else "KILLED")

    place = f"{client.tracking_uri}, experiment {experiment}, run {key}"
    return Tracker(key, place, line, result, close, int(has.get("generation", 0)))


TRACKERS: dict[str, Callable[..., Tracker]] = {
    "csv": csv,
    "tensorboard": tensorboard,
    "wandb": wandb,
    "mlflow": mlflow,
}
LIBRARIES = ("tensorboard", "wandb", "mlflow")  # that trackers of these names import


def check_installed(name: str) -> None:
    """See that a tracker's library is there, without importing it; InputError if not."""
    if name in LIBRARIES:
        found = importlib.util.find_spec(name)
        if found is None or found.origin is None:  # a folder of that name, such as W&B makes, is no library
            raise InputError(f"{name} isn't installed: pip install 'neuroevo[tracking]'", option="tracking")


def figures_of(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures of a run's result, under the names that trackers have them by: `result/test_accuracy`."""
    champion, cost = result.get("champion", {}), result.get("cost", {})
    found: dict[str, Any] = {key: result[key] for key in ("status", "stop_reason", "generations") if key in result}
    found |= {"champion": champion.get("kind"), "champion_generation": champion.get("generation")}
    for split in ("validation", "test"):
        scores = champion.get(split) or {}
        found |= {f"{split}_{name}": value for name, value in numbers(scores).items()}
        for name, (low, high) in scores.get("interval", {}).items():
            found |= {f"{split}_{name}_low": low, f"{split}_{name}_high": high}
    return {f"result/{key}": value for key, value in {**found, **cost}.items() if value is not None}


def find(name: str) -> Callable[..., Tracker]:
    """Return a tracker's function: of the table, or a user's own, `module:function`."""
    if name in TRACKERS:
        return TRACKERS[name]
    module, _, attribute = name.partition(":")
    function: Callable[..., Tracker] = getattr(importlib.import_module(module), attribute)
    return function
