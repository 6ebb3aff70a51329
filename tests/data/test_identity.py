import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from conftest import TINY, Quiet, make_folder, scores_of, seal

from neuroevo import config
from neuroevo.bench import benchmark
from neuroevo.config import load
from neuroevo.data import identity
from neuroevo.data.arrays import Groups, Vectors
from neuroevo.data.datasets import Dataset
from neuroevo.data.identity import Identity
from neuroevo.errors import InputError
from neuroevo.experiments import build, experiment
from neuroevo.experiments.signals import Signals
from neuroevo.storage import generations
from neuroevo.tuning import tune

PARTS = {"train": {"cat": 12, "dog": 12}, "test": {"cat": 4, "dog": 4}}
FOLDER = [*TINY, "data.name=image_folder", "data.validation=0.25", "fitness.samples=8"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a data set, `pets`, and a run on it, `r`."""
    top = tmp_path_factory.mktemp("identity")
    make_folder(top / "pets", PARTS)
    experiment.run(load(None, [*FOLDER, f"data.root={top / 'pets'}"]), str(top / "r"), "test", Quiet())
    return top


@pytest.fixture
def there(finished: Path, tmp_path: Path) -> Path:
    """A copy of both; the run's config and checkpoints name the copy's data set."""
    shutil.copytree(finished, tmp_path / "w")
    text = (tmp_path / "w" / "r" / "config.yaml").read_text()
    text = text.replace(str(finished), str(tmp_path / "w"))
    (tmp_path / "w" / "r" / "config.yaml").write_text(text)
    for path in generations.paths(tmp_path / "w" / "r" / "checkpoints"):
        with h5py.File(path, "r+") as file:
            file.attrs["config"] = text
        seal(path)
    return tmp_path / "w"


def swap(a: Path, b: Path) -> None:
    one, other = a.read_bytes(), b.read_bytes()
    a.write_bytes(other)
    b.write_bytes(one)


CHANGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "an image more": (lambda d: shutil.copy(d / "train/dog/000.png", d / "train/dog/n.png"), r"1 image added \(dog\)"),
    "two images fewer": (lambda d: [(d / f"train/cat/00{i}.png").unlink() for i in "12"], r"2 images removed \(cat\)"),
    "one more, one fewer": (
        lambda d: (d / "train/cat/000.png").rename(d / "train/dog/x.png"),
        r"1 image added \(dog\); 1 image removed \(cat\)",
    ),
    "renamed": (lambda d: (d / "train/cat/000.png").rename(d / "train/cat/z.png"), "images renamed, or others in"),
    "another image of that name": (
        lambda d: shutil.copy(d / "test/dog/001.png", d / "train/dog/001.png"), "the contents of images differ",
    ),
    "moved to train": (
        lambda d: [(d / f"{a}/cat/001.png").rename(d / f"{b}/cat/x.png") for a, b in (("test", "train"),)],
        "images moved from split to split",
    ),
    "labels swapped": (lambda d: swap(d / "train/cat/000.png", d / "train/dog/000.png"), "contents of images differ"),
    "a class renamed": (
        lambda d: [(d / part / "cat").rename(d / part / "zebra") for part in PARTS],
        r"the classes are now dog, zebra \(zebra new, cat gone\)",
    ),
    "a class more": (
        lambda d: [shutil.copytree(d / part / "cat", d / part / "bird") for part in PARTS],
        r"the classes are now bird, cat, dog \(bird new\)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_run_goes_with_no_other_data_than_its_own_and_says_what_differs(there: Path, change: str) -> None:
    alter, message = CHANGES[change]
    alter(there / "pets")
    before = (there / "r/config.yaml").read_bytes()
    for use in (
        lambda: experiment.resume(str(there / "r"), ["budget.generations=7"], Quiet()),
        lambda: scores_of(str(there / "r"), None, Quiet()),
    ):
        with pytest.raises(InputError, match=rf"data: .*{message}.*; the run was of 32 images .*train 18.*cat, dog"):
            use()
    assert (there / "r/config.yaml").read_bytes() == before


def test_data_may_move_where_they_are_the_same(
    there: Path, monkeypatch: pytest.MonkeyPatch, quiet: Quiet, finished: Path
) -> None:
    monkeypatch.delenv("NEUROEVO_DATA", raising=False)
    expected = scores_of(str(finished / "r"), None, Quiet())
    (there / "disk/of/mine").mkdir(parents=True)
    (there / "pets").rename(there / "disk/of/mine/pets")
    with pytest.raises(InputError, match="is not a folder"):
        scores_of(str(there / "r"), None, Quiet())
    root = f"data.root={there / 'disk/of/mine/pets'}"
    assert scores_of(str(there / "r"), None, Quiet(), sets=[root]) == expected
    monkeypatch.setenv("NEUROEVO_DATA", str(there / "disk/of/mine"))
    assert scores_of(str(there / "r"), None, quiet) == expected
    assert any("isn't there" in line and "mine/pets is taken" in line for line in quiet.lines)
    experiment.resume(str(there / "r"), ["budget.generations=7", root], Quiet())
    assert load(str(there / "r/config.yaml")).data.source.options["root"] == root.removeprefix("data.root=")
    (there / "disk/of/mine/pets/train/cat/000.png").unlink()
    with pytest.raises(InputError, match=r"data: 1 image removed"):
        experiment.resume(str(there / "r"), ["budget.generations=8"], Quiet())


def test_the_longest_end_of_a_root_that_is_there_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a/pets", "pets"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.setenv("NEUROEVO_DATA", str(tmp_path))
    assert identity.locate("/x/a/pets") == str(tmp_path / "a/pets")
    assert identity.locate("/x/b/pets") == str(tmp_path / "pets")
    assert identity.locate("/x/b") == "/x/b"
    assert identity.locate(f"/x/{tmp_path.name}") == str(tmp_path)
    monkeypatch.delenv("NEUROEVO_DATA")
    assert identity.locate("/x/a/pets") == "/x/a/pets"


def test_other_names_in_the_same_order_change_nothing(there: Path, quiet: Quiet) -> None:
    (there / "pets/train/cat/011.png").rename(there / "pets/train/cat/011b.png")
    experiment.resume(str(there / "r"), ["budget.generations=7"], quiet)
    assert any("other names than when the run began" in line for line in quiet.lines)


def test_a_split_is_told_by_its_rows() -> None:
    c = load(None, TINY)
    then = Identity.of(*build.dataset(c))
    assert Identity.from_record(json.loads(json.dumps(then.record()))) == then
    other = Identity.of(*build.dataset(load(None, [*TINY, "data.split_seed=1"])))
    assert identity.difference(then, other) == "the same images are labelled or split otherwise"
    turned = then._replace(classes=then.classes[::-1])
    assert "in another order" in (identity.difference(then, turned) or "")
    few = Identity.of(*build.dataset(load(None, [*TINY, "data.long_tail=0.1"])))
    assert "images removed" in (identity.difference(then, few) or "")


def test_a_checkpoint_from_before_says_that_data_were_not_checked_but_classes_are(there: Path, quiet: Quiet) -> None:
    path = generations.paths(there / "r/checkpoints")[0]
    with h5py.File(path, "r+") as file:
        for name in ("data", "native", "frozen"):
            del file.attrs[name]
    seal(path)
    scores_of(str(there / "r"), None, quiet)
    assert [line for line in quiet.lines if "not checked" in line]
    CHANGES["a class renamed"][0](there / "pets")
    with pytest.raises(InputError, match=r"data: the classes are now dog, zebra .*; the run was of cat, dog"):
        scores_of(str(there / "r"), None, Quiet())


def test_a_search_and_its_final_run_go_with_the_searchs_data_only(there: Path) -> None:
    space = [
        "tune.space={algorithm.mutation.sigma: {name: float, low: 0.01, high: 1.0}}",
        "tune.budget={generations: 1}",
        "tune.trial={generations: 2}",
        "tune.sampler={name: pso, population: 2}",
        "tune.final=false",
    ]
    c = load(None, [*FOLDER, f"data.root={there / 'pets'}", *space])
    tune.run(c, str(there / "t"), "test", Quiet(), Signals())
    (there / "pets/train/cat/000.png").unlink()
    with pytest.raises(InputError, match=r"data: 1 image removed \(cat\)"):
        tune.resume(str(there / "t"), ["tune.budget.generations=2"], Quiet(), Signals())
    with pytest.raises(InputError, match=r"data: 1 image removed \(cat\)"):
        tune.resume(str(there / "t"), ["tune.final=true"], Quiet(), Signals())


def test_a_bench_compares_runs_on_the_same_data_only(there: Path) -> None:
    keys = dict(text.split("=", 1) for text in [*FOLDER, f"data.root={there / 'pets'}"])
    raw = config.override({}, [f"{key}={value}" for key, value in keys.items()], lambda line: None)
    (there / "base.yaml").write_text(config.dump(raw))
    given: dict[str, Any] = {"splits": 1, "jobs": 1, "budget": "samples=300", "out": str(there / "b")}
    benchmark.run(str(there / "base.yaml"), ["ga"], Quiet(), Signals(), seeds=1, **given)
    (there / "pets/train/cat/000.png").unlink()
    with pytest.raises(InputError, match=r"data: 1 image removed \(cat\)"):
        benchmark.run(str(there / "base.yaml"), ["ga"], Quiet(), Signals(), seeds=2, **given)
    with pytest.raises(InputError, match=r"data: 1 image removed \(cat\)"):
        benchmark.resume(str(there / "b"), Quiet(), Signals())


def test_evaluate_sets_how_images_are_read_and_nothing_else(there: Path) -> None:
    run, other = str(there / "r"), str(there / "pets/test")
    expected = scores_of(run, other, Quiet())
    assert expected == scores_of(run, None, Quiet())
    (there / "pets/test/cat/broken.png").write_bytes(b"broken")
    assert scores_of(run, other, Quiet(), sets=["data.broken=skip"]) == expected
    assert scores_of(run, None, Quiet(), sets=["data.broken=skip"]) == expected
    for sets, root, message in (
        (["data.root=x"], other, "--set data.root=x: .*; here, only data.broken, data.max_pixels can be set"),
        (
            ["seed=1"],
            None,
            "--set seed=1: .*; here, only data.root, data.file, data.broken, data.max_pixels can be set",
        ),
        (["data.broken=maybe"], other, "data.broken: 'maybe' given"),
        (["data.broken"], other, "--set data.broken: give it as section.key=value"),
    ):
        with pytest.raises(InputError, match=message):
            scores_of(run, root, Quiet(), sets=sets)


def test_a_start_that_is_damaged_is_named(there: Path) -> None:
    path = there / "r/champion.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"champion.safetensors: damaged: its content doesn't match its checksum"):
        experiment.run(load(None, [*TINY, f"genome.from=[{there / 'r'}]"]), str(there / "s"), "test", Quiet())
    assert not (there / "s").exists()


def test_a_damaged_record_is_none() -> None:
    record = json.loads(json.dumps(Identity.of(*build.dataset(load(None, TINY))).record()))
    assert Identity.is_record(record)
    for key in record:
        assert not Identity.is_record({k: v for k, v in record.items() if k != key})
        assert not Identity.is_record({**record, key: 3})
    assert not Identity.is_record({**record, "counts": {"train": [1, 2]}})
    assert not Identity.is_record(None)


def test_samples_in_other_groups_are_other_data() -> None:
    labels, rows = np.arange(8) % 2, {"train": torch.arange(8)}
    bare = Dataset(("a", "b"), Vectors(np.eye(8, dtype=np.float32)), labels, np.zeros(8, dtype=np.int64))
    grouped = [replace(bare, groups=Groups.among([names[i // 4] for i in range(8)])) for names in ("xy", "yx", "xz")]
    found = [Identity.of(data, rows) for data in (bare, *grouped, grouped[0])]
    assert len({each.splits for each in found}) == 4
    assert found[1] == found[4]
    assert identity.difference(found[1], found[2]) == "the same samples are labelled or split otherwise"
