"""Fuzz one reader of text, guided by what of it is run (atheris, from the extra `fuzz`): a part of `bench/fuzz.py`.

usage: python bench/guided.py config|setting|lines|tables [options of libFuzzer] [CORPUS]
"""

import contextlib
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["neuroevo.config", "neuroevo.storage", "neuroevo.experiments.decide", "yaml"]):
    from neuroevo import config
    from neuroevo.errors import InputError, ignore
    from neuroevo.experiments import decide
    from neuroevo.report import report
    from neuroevo.storage import predictions, rundir, tables
    from neuroevo.storage.files import loads, read_lines
    from neuroevo.storage.records import of_history, of_island, of_lineage, of_result

FOLDER = Path(tempfile.mkdtemp())


def read_config(data: bytes) -> None:
    """Read bytes as a config."""
    (FOLDER / "c.yaml").write_bytes(data)
    config.check(config.raw(str(FOLDER / "c.yaml")))


def read_setting(data: bytes) -> None:
    """Read a text as what an option of the command line takes."""
    text = data.decode(errors="surrogateescape")
    readers: list[Callable[[str], object]] = [
        lambda text: config.check(config.raw(None, [text])),
        decide.read_constraint,
        lambda text: decide.read_metric(text, "--metric"),
        lambda text: config.read_trackers(config.parse(f"[{text}]", "--to"), "--to"),
        report.formats_of,
    ]
    readers[data[0] % len(readers) if data else 0](text[1:])


def read_text(data: bytes) -> None:
    """Read bytes as the lines that a run leaves."""
    (FOLDER / "x.jsonl").write_bytes(data)
    for right in (of_history, of_island, of_lineage):
        read_lines(FOLDER / "x.jsonl", ignore, right)
    try:
        found = loads(data)
    except ValueError:
        return
    if isinstance(found, dict):
        of_result(found)


def read_tables(data: bytes) -> None:
    """Read bytes as the tables that a run leaves."""
    for name in (rundir.CONFUSION, rundir.PREDICTIONS):
        (FOLDER / name).write_bytes(data)
    rundir.read_confusion(FOLDER)
    predictions.read(FOLDER)
    name = data.decode(errors="surrogateescape")
    assert tables.restore(tables.escape(name)) == name


TARGETS = {"config": read_config, "setting": read_setting, "lines": read_text, "tables": read_tables}
SEEDS = {
    "config": [
        b"data: {name: digits}\nbudget: {generations: 3}\nalgorithm: {name: ga, population: 8}\n",
        b"a: &x [1]\nb: *x",
    ],
    "setting": [
        b"\0budget.generations=3",
        b"\1recall per class >= 0.8",
        b"\2{name: recall, of: 1}",
        b"\3csv, {name: wandb}",
    ],
    "lines": [b'{"generation": 1, "parents": [[-1, 2]], "fitness": [1.5]}\n', b'{"status": "x", "champion": {}}'],
    "tables": [
        b"a,b\n1,2\n3,4\n",
        b",".join(name.encode() for name in predictions.HEADER) + b"\ntest,0,f,a,b,0.5,0.5,\n",
    ],
}


def main() -> None:
    """Fuzz until libFuzzer's options say that it is enough."""
    name = sys.argv.pop(1)
    corpus = Path(sys.argv[-1])
    if corpus.is_dir():
        for i, content in enumerate(SEEDS[name]):
            (corpus / f"seed{i}").write_bytes(content)

    def once(data: bytes) -> None:
        with contextlib.suppress(InputError):
            TARGETS[name](data)

    atheris.Setup(sys.argv, once)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
