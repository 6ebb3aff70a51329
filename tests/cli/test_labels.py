"""The command predict: its table at any width, its file, and what it does about what can't be read."""

import csv
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Quiet
from PIL import Image

import neuroevo as ne
from neuroevo.cli import labels as labels_
from neuroevo.cli import main
from neuroevo.cli.columns import span
from neuroevo.config import load
from neuroevo.experiments import experiment
from neuroevo.storage import tables

SMALL = ["backbone.name=none", "backbone.weights=none", "algorithm.population=8", "algorithm.elites=2",
         "budget.generations=2", "memory.limit=1e9"]  # fmt: skip
CLASSES = ["=sum", "a dog", "cat"]
Finished = subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs of images and of rows, without their data, and with new images."""
    place, rng = tmp_path_factory.mktemp("there"), np.random.default_rng(0)
    for i in range(36):
        folder = place / "pets" / CLASSES[i % 3]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 120, (9, 9, 3)) + 60 * (i % 3)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
    x = rng.normal(size=(60, 4)).astype(np.float32)
    np.savez(place / "x.npz", x=x, y=np.where(x[:, 0] > 0, "-up", "down"))
    of_images = ["data.name=image_folder", f"data.root={place / 'pets'}", "data.image_size=8"]
    experiment.run(load(None, [*SMALL, *of_images]), str(place / "run"), "test", Quiet())
    of_rows = [f"data={{name: arrays, file: {place / 'x.npz'}}}"]
    experiment.run(load(None, [*SMALL, *of_rows]), str(place / "rows"), "test", Quiet())
    new = place / "new"
    (new / "inner").mkdir(parents=True)
    for i, path in enumerate(sorted((place / "pets").rglob("*.png"))[:20]):
        path.rename(new / ("inner" if i % 2 else ".") / f"a long name of a photo that was taken on a walk {i:02}.png")
    (place / "pets").rename(place / "gone")
    np.savez(place / "new.npz", x=x[:21])
    (place / "x.npz").unlink()
    return place


@pytest.fixture
def predict(there: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Finished]:
    """Call `neuroevo predict` beside the runs."""
    monkeypatch.chdir(there)
    monkeypatch.setattr(sys, "path", [*sys.path])

    def call(*args: str) -> Finished:
        monkeypatch.setattr(sys, "argv", ["neuroevo", "predict", *args])
        capfd.readouterr()
        with pytest.raises(SystemExit) as left:
            main.main()
        out, err = capfd.readouterr()
        return Finished(args, int(left.value.code or 0), out, err)

    return call


@pytest.mark.parametrize(("run", "path"), [("run", "new"), ("rows", "new.npz")])
def test_the_file_is_what_the_door_from_python_says_to_the_last_digit(
    there: Path, tmp_path: Path, predict: Callable[..., Finished], run: str, path: str
) -> None:
    out = tmp_path / "o.csv"
    found = predict(run, path, "--top", "2", "--out", str(out))
    assert (found.returncode, found.stderr) == (0, "")
    rows = [*csv.DictReader(out.read_text().splitlines())]
    assert found.stdout == f"{out}: {len(rows)} of {len(rows)} labelled\n"
    champion = ne.load(there / run)
    shares = champion.probabilities(path)
    assert [tables.restore(row["label"]) for row in rows] == champion.predict([path])
    assert [float(row["probability"]) for row in rows] == shares.amax(1).tolist()
    assert [float(row["probability_2"]) for row in rows] == shares.sort(1).values[:, -2].tolist()
    said = [*champion.predictions(path, top=2)]
    assert [(tables.restore(row["label_2"]), row["file"]) for row in rows] == [(p.classes[1], p.file) for p in said]
    assert ("row" in rows[0]) == (run == "rows")
    if run == "rows":
        assert [int(row["row"]) for row in rows] == [*range(21)] == [p.row for p in said]
        assert torch.equal(shares, champion.probabilities(np.load(there / path)["x"]))
    else:
        files = [row["file"] for row in rows]
        assert files == [*sorted(f for f in files if "inner" not in f), *sorted(f for f in files if "inner" in f)]
        assert shares.tolist() == champion.probabilities([Image.open(file) for file in files]).tolist()


def test_the_table_has_a_line_a_sample_in_columns(predict: Callable[..., Finished]) -> None:
    found = predict("run", "new", "--top", "3")
    assert (found.returncode, found.stderr) == (0, "")
    header, *lines = found.stdout.splitlines()
    assert header.split() == ["file", "label", "prob.", "2.", "prob.", "3.", "prob."]
    assert len(lines) == 20
    place = header.index("label")
    for line in lines:
        name, label = line[:place].strip(), line[place : header.index("prob.")].strip()
        assert Path(name).is_file()
        assert label in CLASSES
    assert [line.split("[")[1][0] for line in predict("rows", "new.npz").stdout.splitlines()[1:4]] == ["0", "1", "2"]


@pytest.mark.parametrize("room", [20, 30, 50, 80, 200, None])
@pytest.mark.parametrize("top", [1, 3])
def test_at_any_width_labels_and_probabilities_are_there(room: int | None, top: int) -> None:
    name, labels = "photos/of/a/long/walk/in/the/woods/cat-0001.png", ["tabby cat", "\u732b\u732b", "dog"][:top]
    shape = labels_.layout(span(name), max(map(span, labels)), top, room)
    lines = [*shape.header(top), *shape.rows(name, labels, ["0.5000"] * top)]
    assert all(room is None or span(line) <= room for line in lines)
    text = "\n".join(lines)
    assert text.count("0.5000") == top
    assert room == 20 or all(label in text for label in labels)
    assert (name in text) == (room is None or room >= 80)
    assert room == 20 or "1.png" in text


def test_a_broken_image_is_told_by_name_and_the_rest_is_done(
    tmp_path: Path, predict: Callable[..., Finished], there: Path
) -> None:
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    some = sorted((there / "new").rglob("*.png"))[:3]
    for i, path in enumerate(some):
        (mixed / f"{i}.png").write_bytes(path.read_bytes())
    (mixed / "1a\x1b[31m.png").write_bytes(b"no")
    (mixed / "9.png").symlink_to(tmp_path / "nowhere")
    out = tmp_path / "o.csv"
    found = predict("run", str(mixed), "--out", str(out))
    assert found.returncode == 1
    lines = found.stderr.splitlines()
    assert lines[0] == f"{mixed}/1a\\x1b[31m.png: broken image (in no format that is known, or damaged at its start)"
    assert lines[1].startswith(f"{mixed}/9.png: broken image (")
    assert lines[2:] == ["neuroevo: 2 of 5 can't be read, and have no label"]
    rows = [*csv.DictReader(out.read_text().splitlines())]
    assert [Path(row["file"]).name for row in rows] == ["0.png", "1.png", "2.png"]
    assert found.stdout == f"{out}: 3 of 5 labelled\n"
    assert predict("run", str(mixed / "9.png")).stdout == ""
    with pytest.raises(ne.InputError, match="broken image"):
        ne.load(there / "run").predict(mixed)


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["run", "new", "nowhere.png"], "PATH: nowhere.png is not there"),
        (["run", "new", "--top", "4"], "--top: 4 given; the run has 3 classes, 1 to 3 expected"),
        (["run", "new", "--top", "0"], "--top: 0 given"),
        (["run", "new.npz"], "PATH: new.npz: x is float32 [21, 4]; the run is of images, uint8"),
        (["rows", "new"], "PATH: new is no .npz file, and the run is of rows of numbers"),
        (["rows", "wide.npz"], "PATH: wide.npz: x is float64 [2, 9]; the run is of 4 numbers a sample"),
        (["rows", "no.npz"], "PATH: no.npz has no x; it has: y"),
        (["run", "empty"], "PATH: empty has no images in it"),
        (["run", "new", "--out", "mine.csv"], "--out: mine.csv is there; give another name"),
        (["run", "new", "--out", "new.txt"], "--out: new.txt doesn't end in .csv"),
        (["run", "new", "--out", "run/confusion.csv"], "--out: run/confusion.csv is the run's own"),
        (["nothing", "new"], "nothing: no run is there"),
        (["run"], "Missing argument 'PATH...'"),
    ],
)
def test_bad_usage_is_one_line_before_anything_is_done(
    predict: Callable[..., Finished], there: Path, args: list[str], line: str
) -> None:
    (there / "empty").mkdir(exist_ok=True)
    (there / "mine.csv").write_text("mine")
    np.savez(there / "wide.npz", x=np.zeros((2, 9)))
    np.savez(there / "no.npz", y=np.zeros(2))
    before = sorted(there.rglob("*"))
    found = predict(*args)
    assert (found.returncode, found.stdout, found.stderr.count("\n")) == (2, "", 1), found.stderr
    assert line in found.stderr
    assert sorted(there.rglob("*")) == before
    assert (there / "mine.csv").read_text() == "mine"


def test_of_a_run_from_python_a_line_says_that_its_module_is_needed(
    predict: Callable[..., Finished], there: Path, tmp_path: Path
) -> None:
    x = torch.randn(90, 4)
    ne.evolve(torch.nn.Linear(4, 2), (x, (x[:, 0] > 0).long()), budget=ne.Budget(generations=1), out=tmp_path / "p")
    found = predict(str(tmp_path / "p"), "new.npz")
    assert (found.returncode, found.stdout, found.stderr.count("\n")) == (2, "", 1), found.stderr
    assert f"{tmp_path / 'p'}: the module of a run from Python isn't in its folder; give it again" in found.stderr


def test_an_interruption_leaves_with_130_and_no_half_file(there: Path) -> None:
    command = [sys.executable, "-m", "neuroevo", "predict", "run", *["new"] * 5000, "--out", "long.csv"]
    running = subprocess.Popen(command, cwd=there, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE)
    try:
        assert running.stderr is not None
        assert b"labelled" in running.stderr.readline()  # it is at work
        running.send_signal(signal.SIGINT)
        assert running.wait(20) == 130
    finally:
        running.kill()
        running.communicate()
    assert not [path for path in there.iterdir() if path.name.startswith("long.csv")]
