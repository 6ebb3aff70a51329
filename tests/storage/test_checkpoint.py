import errno
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pytest
import torch
from conftest import seal
from torch import Tensor

from neuroevo.data.identity import Identity
from neuroevo.engine import pareto
from neuroevo.engine.cost import Cost
from neuroevo.engine.execution import Execution
from neuroevo.engine.genome import BRED, KEPT, NEW, Layout, Population
from neuroevo.engine.loop import Champion, Step
from neuroevo.engine.scores import Scores
from neuroevo.errors import InputError, RunError
from neuroevo.storage import checkpoint, generations
from neuroevo.storage.writer import Writer

CPU = torch.device("cpu")
LAYOUT = Layout(("w", "b"), ((40, 100), (5,)))
SCALE = {"mean": torch.randn(3), "axes": torch.randn(3, 2)}
ATTRIBUTES = {
    "config": "seed: 3\n",
    "seed": 3,
    "device": "cpu",
    "layout": LAYOUT.to_json(),
    "classes": '["a", "b"]',
    "plan": '{"method": "gemm", "classes": 2, "individuals": 3, "samples": 4, "limit": 5, "threads": 2}',
    "plan_changes": '[{"generation": 2, "individuals": 3}]',
    "versions": '{"torch": "x"}',
    "features": "f",
}


class State(NamedTuple):
    population: Population
    sigma: Tensor
    nested: dict[str, Tensor]


def step(generation: int = 2, n: int = 30, champion: int = 1, columns: int = 1) -> Step:
    torch.manual_seed(generation)
    traits, parents = {"sigma": torch.rand(n)}, torch.randint(-1, n, (n, 2))
    population = Population(torch.randn(n, LAYOUT.genes), traits, parents, torch.randint(0, 3, (n,), dtype=torch.int8))
    state = State(population, torch.tensor(0.5), {"m": torch.arange(3)})
    scores = Scores(torch.randn(n, columns, dtype=torch.float64), torch.arange(n) == 1)
    best = Champion(torch.randn(LAYOUT.genes), "best", champion, {"accuracy": 0.5})
    return Step(generation, state, population, scores, line(generation), Cost(1, 2, 3, 4), 1.5, best, 2, None)


def line(generation: int) -> dict[str, float | None]:
    return {
        "generation": generation, "fitness_best": 0.5, "fitness_mean": 0.25, "fitness_std": 0.125, "diversity": 1.0,
        "validation": None if generation % 2 else 0.25, "invalid": 0, "forward_samples": 8, "backward_samples": 0,
        "seconds": 0.1,
    }  # fmt: skip


def save(path: Path, s: Step | None = None) -> Step:
    s = s or step()
    beside = {f"features/{key}": tensor for key, tensor in SCALE.items()}
    checkpoint.write(path, ATTRIBUTES, beside, s, [line(i + 1) for i in range(s.generation)])
    return s


def same(a: Any, b: Any) -> bool:
    if a is None or isinstance(a, int):
        return bool(a == b)
    if isinstance(a, Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return all(same(x, y) for x, y in zip(a, b, strict=True))


def test_lines_beside_a_checkpoint_are_on_disk_before_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []

    def fsync(descriptor: int) -> None:
        told.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)

    monkeypatch.setattr(os, "fsync", fsync)
    (tmp_path / "lines").write_text("{}\n")
    (tmp_path / "checkpoints").mkdir()
    writer = Writer(
        tmp_path / "checkpoints", ATTRIBUTES, SCALE, keep=2, lines=[tmp_path / "lines", tmp_path / "absent"]
    )
    writer.submit(step(), [line(1), line(2)])
    writer.close()
    assert told[:2] == ["lines", tmp_path.name]
    assert set(told[2:]) == {"generation-000002.partial", "checkpoints"}


def test_the_front_of_many_objectives_is_in_the_file_and_of_one_there_is_none(tmp_path: Path) -> None:
    s = step(columns=3)
    s = replace(s, scores=s.scores._replace(objectives=2))
    checkpoint.write(tmp_path / "c.h5", ATTRIBUTES, SCALE, s, [line(i + 1) for i in range(s.generation)])
    read = checkpoint.read(tmp_path / "c.h5")
    assert same(read.step.scores, s.scores)
    rows = pareto.front(s.scores.values[:, :2])
    assert read.front is not None
    assert torch.equal(read.front.genomes, s.population.genomes[rows])
    assert torch.equal(read.front.fitness, s.scores.values[rows, :2])
    save(tmp_path / "d.h5", step(columns=2))
    assert checkpoint.read(tmp_path / "d.h5").front is None


@pytest.mark.parametrize("n", [2, 3, 300])
@pytest.mark.parametrize("columns", [1, 2])
@pytest.mark.parametrize("constrained", [False, True], ids=["", "constrained"])
def test_a_checkpoint_reads_back_to_the_same_bits(tmp_path: Path, n: int, columns: int, constrained: bool) -> None:
    s = step(n=n, columns=columns)
    if constrained:
        s = replace(s, scores=s.scores._replace(violation=torch.rand(n, dtype=torch.float64)))
    save(tmp_path / "c.h5", s)
    read = checkpoint.read(tmp_path / "c.h5")
    assert same(read.step.population, s.population)
    assert same(read.step.scores, s.scores)
    assert same(checkpoint.state(tmp_path / "c.h5", s.state, CPU), s.state)
    assert torch.equal(read.step.champion.genome, s.champion.genome)
    assert read.step.champion[1:] == s.champion[1:]
    assert (read.step.cost, read.step.seconds, read.step.stale, read.step.stop) == (s.cost, 1.5, 2, None)
    assert same(read.affine, SCALE)
    assert read.history == [line(1), line(2)]
    assert (read.layout, read.classes, read.seed, read.config) == (LAYOUT, ("a", "b"), 3, "seed: 3\n")
    assert read.plan == Execution("gemm", 2, 3, 4, 5, 2)
    assert read.changes == [{"generation": 2, "individuals": 3}]
    assert list(tmp_path.iterdir()) == [tmp_path / "c.h5"]


def test_h5py_alone_reads_it_and_it_holds_no_pickles(tmp_path: Path) -> None:
    s = save(tmp_path / "c.h5", step(n=300))
    with h5py.File(tmp_path / "c.h5", "r") as file:
        assert np.array_equal(file["population/genomes"][()], s.population.genomes.numpy())
        assert file["population/fitness"].shape == (300,)
        assert file["population/traits/sigma"].shape == (300,)
        assert file["champion/genome"].shape == (LAYOUT.genes,)
        assert file["history/generation"][()].tolist() == [1, 2]
        assert np.isnan(file["history/validation"][0])
        assert file["algorithm/population/genomes"] == file["population/genomes"]  # linked, not written twice
        walked: list[str] = []
        file.visit(walked.append)
        assert "population/genomes" in walked
        assert set(file.attrs) >= {
            "format",
            "generation",
            "seed",
            "device",
            "config",
            "layout",
            "plan",
            "cost",
            "versions",
        }
        opaque: list[str] = []
        file.visititems(lambda name, item: opaque.append(name) if str(getattr(item, "dtype", "")) == "object" else None)
        assert not opaque
    assert (tmp_path / "c.h5").stat().st_size < 1.2 * s.population.genomes.nbytes


def test_any_changed_byte_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "c.h5"
    save(path, step(n=2))
    whole = path.read_bytes()
    for place in [0, 30, 600, len(whole) // 2, len(whole) - 1]:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(InputError, match="damaged|not a neuroevo checkpoint"):
            checkpoint.read(path)
    for length in (0, 100, 512, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match="damaged|not a neuroevo checkpoint"):
            checkpoint.read(path)
    path.write_bytes(whole)
    checkpoint.read(path)


def test_a_random_file_and_another_format_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.h5").write_bytes(os.urandom(5000))
    with pytest.raises(InputError, match=r"x.h5: not a neuroevo checkpoint"):
        checkpoint.read(tmp_path / "x.h5")
    with pytest.raises(InputError, match=r"y.h5: No such file"):
        checkpoint.read(tmp_path / "y.h5")
    monkeypatch.setattr(checkpoint, "FORMAT", 2)
    save(tmp_path / "c.h5")
    monkeypatch.setattr(checkpoint, "FORMAT", 1)
    with pytest.raises(InputError, match=r"^\S+: checkpoint format 2; this version reads 1$"):
        checkpoint.read(tmp_path / "c.h5")


def test_a_damaged_checkpoint_is_reported_and_the_one_before_it_used(tmp_path: Path) -> None:
    for generation in (1, 2, 3):
        save(tmp_path / generations.name(generation), step(generation))
    newest = tmp_path / generations.name(3)
    newest.write_bytes(newest.read_bytes()[:-10])
    lines: list[str] = []
    found = checkpoint.newest(tmp_path, lines.append)
    assert found is not None
    assert found.step.generation == 2
    assert len(lines) == 1
    assert "generation-000003.h5: damaged" in lines[0]


def test_no_checkpoint_is_none_and_no_good_one_an_error(tmp_path: Path) -> None:
    assert checkpoint.newest(tmp_path, print) is None
    (tmp_path / generations.name(1)).write_bytes(b"x")
    with pytest.raises(InputError, match="no checkpoint is good"):
        checkpoint.newest(tmp_path, lambda line: None)


def test_a_state_of_another_algorithm_names_the_leaf_that_is_missing(tmp_path: Path) -> None:
    save(tmp_path / "c.h5")

    class Other(NamedTuple):
        mean: Tensor

    with pytest.raises(InputError, match="no algorithm/mean; written by another algorithm"):
        checkpoint.state(tmp_path / "c.h5", Other(torch.zeros(1)), CPU)


@pytest.mark.parametrize("call", ["pwrite", "fsync"])
def test_a_full_disk_is_one_line_and_the_checkpoint_before_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "c.h5"
    save(path, step(n=300))
    before = path.read_bytes()

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, full)
    with pytest.raises(RunError, match=r"c.h5: checkpoint not written \(No space left on device\)"):
        save(path, step(3, n=300))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_the_newest_few_are_kept_and_the_champions(tmp_path: Path) -> None:
    writer = Writer(tmp_path, ATTRIBUTES, SCALE, keep=2)
    for generation in range(1, 7):
        writer.submit(step(generation, champion=2), [line(i + 1) for i in range(generation)])
    writer.close()
    assert [path.name for path in generations.paths(tmp_path)] == [generations.name(g) for g in (6, 5, 2)]


def test_half_a_checkpoint_of_whoever_was_killed_is_removed_and_no_file_of_anybody_elses(tmp_path: Path) -> None:
    for name in ("generation-000037.partial", "mine.partial", "generation-000036.h5"):
        (tmp_path / name).write_bytes(b"x")
    Writer(tmp_path, ATTRIBUTES, SCALE, keep=2).close()
    assert {path.name for path in tmp_path.iterdir()} == {"mine.partial", "generation-000036.h5"}


def test_an_error_in_the_background_is_raised_in_the_foreground(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "nowhere", ATTRIBUTES, SCALE, keep=2)
    writer.submit(step(), [line(1), line(2)])
    with pytest.raises(RunError, match="checkpoint not written"):
        writer.wait()
    writer.close()


def test_a_config_longer_than_an_hdf5_attribute_used_to_hold_is_kept(tmp_path: Path) -> None:
    checkpoint.write(tmp_path / "c.h5", ATTRIBUTES | {"config": "x" * 200_000}, SCALE, step(), [line(1), line(2)])
    assert len(checkpoint.read(tmp_path / "c.h5").config) == 200_000


def test_the_newest_is_the_highest_number_in_a_name_and_other_files_are_none(tmp_path: Path) -> None:
    names = ["generation-000007.h5", "generation-999990.h5", "generation-1000000.h5", "generation-12345678.h5"]
    for name in [*names, "generation-x.h5", "generation-000009.h5.aside", "generation-000009.partial", "x.h5"]:
        (tmp_path / name).write_bytes(b"x")
    assert [path.name for path in generations.paths(tmp_path)] == names[::-1]
    assert generations.paths(tmp_path / "nowhere") == generations.paths(tmp_path / "x.h5") == []
    assert generations.name(1_000_000) == "generation-1000000.h5"


def test_what_is_newer_than_the_checkpoint_gone_on_from_is_set_aside_and_never_counts(tmp_path: Path) -> None:
    for generation in (1, 2, 3):
        save(tmp_path / generations.name(generation), step(generation))
    for count in (1, 2):
        (tmp_path / generations.name(3)).write_bytes(b"x" * count)
        aside = generations.put_aside(tmp_path, tmp_path / generations.name(2))
        assert [path.name for path in aside] == [f"generation-000003.h5.aside{'' if count == 1 else '-2'}"]
    writer = Writer(tmp_path, ATTRIBUTES, SCALE, keep=2)
    writer.submit(step(3), [line(i + 1) for i in range(3)])
    writer.close()
    assert [path.name for path in generations.paths(tmp_path)] == [generations.name(g) for g in (3, 2, 1)]
    assert len(list(tmp_path.iterdir())) == 5


def test_a_history_keeps_which_line_has_which_columns(tmp_path: Path) -> None:
    late = [line(1), {"generation": 2, "steps": None, **line(2)}, {**line(3), "steps": 0.5}]
    checkpoint.write(tmp_path / "c.h5", ATTRIBUTES, SCALE, step(3), late)
    read = checkpoint.read(tmp_path / "c.h5").history
    assert read == late
    assert [[*one] for one in read] == [[*one] for one in late]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("population/genomes", None), ("population/genomes", np.zeros((30, 7), np.float32)),
        ("population/genomes", np.zeros((30, LAYOUT.genes))), ("population/invalid", np.zeros(30)),
        ("population/parents", np.zeros(30, np.int64)), ("population/roles", np.zeros((30, 1), np.int8)),
        ("population/fitness", np.zeros(3)),
        ("champion/genome", np.zeros(3, np.float32)), ("population/traits/sigma", np.zeros(3)),
        ("history/validation", np.zeros(9)), ("champion", None), ("population", None),
    ],
)  # fmt: skip
def test_parts_that_are_missing_or_do_not_fit_are_one_line(tmp_path: Path, key: str, value: Any) -> None:
    save(tmp_path / "c.h5")
    reseal(tmp_path / "c.h5", key, value)
    with pytest.raises(InputError, match=r"c.h5: not as a checkpoint is \(.+\)$"):
        checkpoint.read(tmp_path / "c.h5")


def test_a_checkpoint_from_before_there_were_roles_has_them_in_the_parents(tmp_path: Path) -> None:
    s = step(n=4)
    parents = torch.tensor([[-1, -1], [2, -1], [3, 0], [0, 0]])
    population = s.population._replace(parents=parents)
    save(tmp_path / "c.h5", replace(s, population=population, state=s.state._replace(population=population)))
    for key in ("population/roles", "algorithm/population/roles"):
        reseal(tmp_path / "c.h5", key, None)
    told = torch.tensor([NEW, KEPT, BRED, BRED], dtype=torch.int8)
    for found in (
        checkpoint.read(tmp_path / "c.h5").step.population,
        checkpoint.state(tmp_path / "c.h5", s.state, CPU).population,
    ):
        assert same(found, population._replace(roles=told))


def test_a_state_of_another_kind_or_shape_names_the_leaf(tmp_path: Path) -> None:
    s = save(tmp_path / "c.h5")
    for value in (np.zeros((30, 3), np.float32), np.zeros(30), np.zeros((30, LAYOUT.genes), np.int64)):
        reseal(tmp_path / "c.h5", "population/genomes", value)
        with pytest.raises(InputError, match="algorithm/population/genomes is .* expected"):
            checkpoint.state(tmp_path / "c.h5", s.state, CPU)


def reseal(path: Path, key: str, value: Any) -> None:
    """Change a part of a checkpoint, and its checksum with it."""
    with h5py.File(path, "r+") as file:
        del file[key]
        if value is not None:
            file[key] = value
    seal(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda history: history.pop("generation"),
        lambda history: history.pop("validation"),
        lambda history: history.pop("seconds"),
        lambda history: history.update(generation=history["generation"][::-1]),
        lambda history: history.update(generation=history["generation"] + 1),
        lambda history: history.update(generation=history["generation"] * 0.5),
        lambda history: history.update(seconds=history["seconds"][:-1]),
    ],
)
def test_a_history_that_was_never_written_so_is_damage_though_its_checksum_is_right(
    tmp_path: Path, change: Callable[[dict[str, Any]], Any]
) -> None:
    save(tmp_path / "c.h5")
    assert len(checkpoint.read(tmp_path / "c.h5").history) > 1
    with h5py.File(tmp_path / "c.h5") as file:
        history = {name: column[()] for name, column in file["history"].items()}
    before = {**history}
    change(history)
    for name in before:
        if not np.array_equal(history.get(name, 0), before[name]):
            reseal(tmp_path / "c.h5", f"history/{name}", history.get(name))
    with pytest.raises(InputError, match=r"c.h5: not as a checkpoint is \(a history "):
        checkpoint.read(tmp_path / "c.h5")


@pytest.mark.parametrize(
    "use",
    [
        checkpoint.read, checkpoint.read_config, checkpoint.trials, checkpoint.verify,
        lambda path: checkpoint.state(path, step().state, CPU),
    ],
)  # fmt: skip
def test_nothing_opens_a_damaged_file_since_hdf5_may_never_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, use: Callable[[Path], Any]
) -> None:
    path = tmp_path / "c.h5"
    save(path)
    checkpoint.verify(path)  # what was known of it before it was damaged is forgotten
    content = bytearray(path.read_bytes())
    content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    path.write_bytes(content)
    monkeypatch.setattr(checkpoint.hdf5.h5py, "File", lambda *_, **__: pytest.fail("opened"))
    with pytest.raises(InputError, match="damaged"):
        use(path)


def test_a_checkpoint_is_opened_where_it_is_verified_alone() -> None:
    package = Path(checkpoint.__file__).parents[1]
    found = {str(path.relative_to(package)) for path in package.rglob("*.py") if "hdf5.open_file(" in path.read_text()}
    assert found == {"storage/checkpoint.py"}


FORMS: list[tuple[str, str]] = [
    ("classes", "[1, 2, 3]"), ("classes", '[["a"], ["b"]]'), ("classes", '{"a": 1}'),
    ("versions", "[1]"), ("versions", '{"torch": 3}'), ("moves", '[{"x": 1}]'), ("moves", "[3]"),
    ("moves", '[{"generation": 1, "threads": 3}]'), ("native", "[1e9, 1e9, 3]"), ("native", '["x"]'),
    ("native", "[1000000000, 1000000000, 3]"), ("plan", "[]"), ("plan", "{}"), ("data", "{}"),
    ("data", '{"classes": "ab"}'),
    ("data", json.dumps(Identity(("other", "names"), {"train": (1, 1)}, "", "", "", "images").record())),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), FORMS)
def test_attributes_of_another_form_are_one_line_though_the_checksum_is_right(
    tmp_path: Path, key: str, value: str
) -> None:
    save(tmp_path / "c.h5")
    rewrite(tmp_path / "c.h5", key, value)
    with pytest.raises(InputError, match=r"c.h5: not as a checkpoint is \(.+\)$"):
        checkpoint.read(tmp_path / "c.h5")


@pytest.mark.parametrize("home", ["\x1b", "meta", "cuda:x", "", "cuda:99999"])
def test_a_home_that_is_no_device_is_one_line(tmp_path: Path, home: str) -> None:
    save(tmp_path / "c.h5")
    plan = checkpoint.read(tmp_path / "c.h5").plan
    rewrite(tmp_path / "c.h5", "plan", json.dumps(plan._replace(home=home)._asdict()))
    with pytest.raises(InputError, match="plan has another form"):
        checkpoint.read(tmp_path / "c.h5")


@pytest.mark.parametrize("value", ["[]", '{"accuracy": "x"}', '{"accuracy": 1' + "0" * 400 + "}", '{"accuracy": null}'])
def test_a_champions_validation_that_is_no_figures_is_one_line(tmp_path: Path, value: str) -> None:
    save(tmp_path / "c.h5")
    rewrite(tmp_path / "c.h5", "champion/validation", value)
    with pytest.raises(InputError, match="validation has another form"):
        checkpoint.read(tmp_path / "c.h5")


def test_a_front_in_a_run_of_one_metric_is_one_line(tmp_path: Path) -> None:
    save(tmp_path / "c.h5")
    read = checkpoint.read(tmp_path / "c.h5")
    for config in ("fitness: {metric: accuracy}", "fitness: 3"):
        with pytest.raises(InputError, match="has a front, and its config no metrics"):
            _ = replace(read, config=config).objectives
    front = checkpoint.Front(torch.zeros(1, 3), torch.zeros(1, 2))
    with pytest.raises(InputError, match="has a front of other metrics than its config"):
        _ = replace(read, config="fitness: {metrics: [accuracy]}", front=front).objectives


def rewrite(path: Path, key: str, value: str) -> None:
    """Change an attribute of a checkpoint, and its checksum with it."""
    with h5py.File(path, "r+") as file:
        place, _, name = key.rpartition("/")
        file[place or "/"].attrs[name] = value
    seal(path)
