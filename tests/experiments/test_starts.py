"""What a run takes of earlier runs by the names of their classes: digits under names of animals, in any order."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY, Quiet
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits
from torch import Tensor, nn

from neuroevo.cli import inspection
from neuroevo.config import load
from neuroevo.data.datasets import Dataset
from neuroevo.data.images import Arrays
from neuroevo.errors import InputError
from neuroevo.experiments import experiment, export, reopen
from neuroevo.networks import backbones, heads, weightfiles
from neuroevo.storage import checkpoint, generations, rundir

ANIMALS = {"ant": 0, "bee": 1, "cat": 2, "dog": 3, "eel": 4, "fox": 5, "aardvark": 6, "yak": 7, "zebra": 2}
THEN = ["ant", "bee", "cat", "dog", "eel", "fox"]
NOW = {
    "permuted": ["fox", "bee", "eel", "ant", "dog", "cat"],
    "renamed": ["ant", "bee", "dog", "eel", "fox", "zebra"],
    "added": ["aardvark", *THEN, "yak"],
    "removed": ["ant", "dog", "eel", "fox"],
}
LINES = {
    "permuted": "6 kept (5 at another place)",
    "renamed": "5 kept (3 at another place), new: zebra, dropped: cat",
    "added": "6 kept (6 at another place), new: aardvark, yak",
    "removed": "4 kept (3 at another place), dropped: bee, cat",
}


def animals(*, names: list[str]) -> Dataset:
    """Digits of some classes, in the order of the names; each image is always in the same split."""
    bunch = load_digits()
    pixels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    own = {ANIMALS[name]: label for label, name in enumerate(names)}
    rows = np.flatnonzero(np.isin(bunch.target, list(own)))
    labels = np.array([own[int(digit)] for digit in bunch.target[rows]])
    return Dataset(tuple(names), Arrays(pixels[rows]), labels, np.array([0, 0, 0, 1, 2])[rows % 5])


RAW = ["features.standardise=false", "features.components=null"]
SCALES = {
    "raw": RAW,
    "standardised": ["features.components=null"],
    "projected": ["features.components=64", "features.whitening=0.25"],
}
LEARN = ["budget.generations=12", "refine.steps=20", "refine.lr=0.1", "head.init=default"]
STILL = ["budget.generations=1", "genome.init_sigma=0", "algorithm.mutation.sigma=0"]


def start(out: Path, names: list[str], *sets: str, quiet: Quiet | None = None) -> dict[str, Any]:
    data = ["data.name=test_starts:animals", f"data.names={json.dumps(names)}"]
    experiment.run(load(None, [*TINY, *data, *sets]), str(out), "test", quiet or Quiet())
    return rundir.read_result(out)


def predicted(out: Path, among: list[str]) -> list[str]:
    """Return the names that a run's exported network gives the test images of some classes, the best of all its own."""
    network, parts = export.network(str(out))
    images = animals(names=among)
    rows = np.flatnonzero(images.part == 2)
    x = torch.from_numpy(images.images.take(rows).pixels).float().view(len(rows), 1, 8, 8) / 255  # type: ignore[union-attr]
    with torch.inference_mode():
        logits = network(x)
    # A class that is gone, or has another name now, can't be predicted any more.
    kept = [i for i, name in enumerate(parts.network.classes) if name in among or name not in THEN]
    return [parts.network.classes[kept[i]] for i in logits[:, kept].argmax(1).tolist()]


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs that have learnt the six animals: one a head and scale."""
    folder = tmp_path_factory.mktemp("learnt")
    for head in ("linear", "mlp"):
        for scale, sets in SCALES.items():
            start(folder / f"{head}-{scale}", THEN, *LEARN, *sets, f"head.name={head}")
    return folder


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("head", ["linear", "mlp"])
@pytest.mark.parametrize("change", NOW)
def test_shared_classes_are_predicted_as_before_wherever_they_stand(
    tmp_path: Path, learnt: Path, change: str, head: str, scale: str
) -> None:
    now, before = NOW[change], learnt / f"{head}-{scale}"
    shared, quiet = [name for name in now if name in THEN], Quiet()
    if (change, scale) == ("removed", "projected"):  # what is left has fewer directions
        scale = "standardised"
    sets = [*SCALES[scale], f"head.name={head}", f"genome.from=[{before}]"]
    result = start(tmp_path / "r", now, *STILL, *sets, quiet=quiet)
    expected = predicted(before, shared)
    assert predicted(tmp_path / "r", shared) == expected
    right = sum(a == shared[b] for a, b in zip(expected, labels(shared), strict=True))
    assert right / len(expected) > 0.9
    assert result["champion"]["test"]["accuracy"] == right / len(labels(now))  # nothing else is known yet
    line = f"genome.from: {before}: classes by name: {LINES[change]}"
    data = ["data.name=test_starts:animals", f"data.names={json.dumps(now)}"]
    assert ("note", line) in inspection.estimate(load(None, [*TINY, *data, *STILL, *sets]))
    assert quiet.lines.count(line) == 1
    assert line in (tmp_path / "r/run.log").read_text()


def labels(names: list[str]) -> list[int]:
    given = animals(names=names)
    return [int(label) for label in given.labels[given.part == 2]]


@pytest.mark.parametrize("levels", ["ternary", "int8"])
@pytest.mark.parametrize("change", ["permuted", "added"])
def test_levels_stay_levels_and_predict_as_before(tmp_path: Path, change: str, levels: str) -> None:
    sets = [f"genome.levels={levels}", "head.init=default"]
    start(tmp_path / "a", THEN, *sets, "budget.generations=30", "algorithm.population=16")
    still = ["budget.generations=1", "genome.init_sigma=0", "algorithm.mutation.rate=0"]
    start(tmp_path / "b", NOW[change], *sets, *still, f"genome.from=[{tmp_path / 'a'}]")
    saved = checkpoint.newest(tmp_path / "b" / "checkpoints", pytest.fail)
    assert saved is not None and saved.kept is not None
    start_ = saved.kept["start"]
    parts, _ = reopen.open_run(str(tmp_path / "b"), Quiet())
    parts_ = {name: w[0] for name, w in parts.network.decode(start_).items()}
    before, _ = reopen.open_run(str(tmp_path / "a"), Quiet())
    old = before.network.fold(reopen.open_run(str(tmp_path / "a"), Quiet())[1].champion.genome)
    for place, name in enumerate(NOW[change]):
        if name in THEN:
            torch.testing.assert_close(parts_["head.weight"][place], old["head.weight"][THEN.index(name)])
    assert predicted(tmp_path / "b", THEN) == predicted(tmp_path / "a", THEN)


def test_several_runs_are_each_put_in_order(tmp_path: Path, learnt: Path) -> None:
    start(tmp_path / "b", NOW["permuted"], *LEARN, *RAW)
    quiet, now = Quiet(), NOW["added"]
    sources = [learnt / "linear-raw", tmp_path / "b"]
    start(tmp_path / "r", now, *STILL, *RAW, f"genome.from={json.dumps([*map(str, sources)])}", quiet=quiet)
    saved = checkpoint.newest(tmp_path / "r" / "checkpoints", pytest.fail)
    assert saved is not None and saved.kept is not None
    for row, source, names in zip(saved.kept["start"], sources, (THEN, NOW["permuted"]), strict=True):
        weight = load_file(source / "champion.safetensors")["head.weight"]
        found = saved.layout.unflatten(row[None])["head.weight"][0]
        for place, name in enumerate(now):
            if name in names:
                assert torch.equal(found[place], weight[names.index(name)])
    assert sum("classes by name: 6 kept (6 at another place), new: aardvark, yak" in line for line in quiet.lines) == 1
    assert sum("classes by name" in line for line in quiet.lines) == 2


def resumes_alike(folder: Path, gone: Path) -> None:
    """See that a run of four generations goes on from the second to the same end without a file, and says no names."""
    whole = load_file(folder / "champion.safetensors"), checkpoint.newest(folder / "checkpoints", pytest.fail)
    for path in generations.paths(folder / "checkpoints")[:2]:
        path.unlink()
    for name in ("result.json", "champion.safetensors"):
        (folder / name).unlink()
    shutil.rmtree(gone)
    quiet = Quiet()
    experiment.resume(str(folder), [], quiet)
    assert f"{folder}: going on after generation 2" in quiet.lines
    assert not [line for line in quiet.lines if "classes by name" in line]
    again = load_file(folder / "champion.safetensors"), checkpoint.newest(folder / "checkpoints", pytest.fail)
    assert whole[1] is not None and again[1] is not None
    assert torch.equal(whole[1].step.population.genomes, again[1].step.population.genomes)
    assert all(torch.equal(whole[0][name], again[0][name]) for name in whole[0])
    export.export(str(folder), None, str(folder / "exported.pt"))


FOUR = [
    "refine.steps=2",
    "refine.decay_to_start=0.1",
    "budget.generations=4",
    "checkpoint.every=1",
    "checkpoint.keep=9",
]


def test_a_resume_needs_no_file_and_takes_nothing_twice(tmp_path: Path, learnt: Path) -> None:
    shutil.copytree(learnt / "linear-raw", tmp_path / "old")
    start(tmp_path / "r", NOW["added"], *RAW, f"genome.from=[{tmp_path / 'old'}]", *FOUR)
    resumes_alike(tmp_path / "r", tmp_path / "old")


def test_what_can_not_be_taken_is_one_line(tmp_path: Path, learnt: Path) -> None:
    old = learnt / "linear-raw"
    with pytest.raises(
        InputError, match=r"genome.from: .*linear-raw: none of its classes \(ant, .* run's \(aardvark, yak"
    ):
        start(tmp_path / "r", ["aardvark", "yak"], *RAW, f"genome.from=[{old}]")
    start(tmp_path / "residual", THEN, *RAW, "head.name=test_starts:Residual", "head.init=default")
    quiet = Quiet()
    sets = [*RAW, "head.name=test_starts:Residual", "head.init=default", f"genome.from=[{tmp_path / 'residual'}]"]
    with pytest.raises(InputError, match=r"residual: its classes are others or in another order \(6 kept .* Residual"):
        start(tmp_path / "r", NOW["permuted"], *sets)
    start(tmp_path / "same", THEN, *sets, quiet=quiet)
    assert f"genome.from: {tmp_path / 'residual'}: classes by name: 6 kept" in quiet.lines
    assert not (tmp_path / "r").exists()


class Residual(nn.Module):
    """A head whose logits are not those of a linear layer alone."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(features, classes), nn.Linear(classes, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return x + torch.tanh(self.last(x))


class Own(nn.Module):
    """A head of one's own, whose output layer comes first by name."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(classes, classes), nn.Linear(features, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(self.b(x).relu())


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (nn.Linear(5, 4), "h"),
        (nn.Linear(5, 4, bias=False), "h"),
        (heads.mlp(5, 4, hidden=[4], norm="layer"), "h.3"),
        (Own(5, 4), "h.a"),
        (nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 4)), "h.1"),
        (Residual(5, 4), None),
        (nn.Sequential(nn.Linear(5, 4), nn.LayerNorm(4)), None),
        (nn.utils.parametrizations.weight_norm(nn.Linear(5, 4)), None),
        (nn.Conv1d(1, 4, 5), None),
    ],
)
def test_an_output_layer_is_one_whose_rows_are_the_logits(head: nn.Module, name: str | None) -> None:
    assert heads.output_layer(head, "h", 5, 4) == name


def test_a_file_without_names_is_taken_in_order_and_that_is_said(tmp_path: Path, learnt: Path) -> None:
    old, quiet = load_file(learnt / "linear-raw" / "champion.safetensors"), Quiet()
    torch.save(old, tmp_path / "o.pt")
    start(tmp_path / "r", NOW["permuted"], *STILL, *RAW, f"genome.from=[{tmp_path / 'o.pt'}]", quiet=quiet)
    saved = checkpoint.newest(tmp_path / "r" / "checkpoints", pytest.fail)
    assert saved is not None and saved.kept is not None
    assert torch.equal(saved.layout.unflatten(saved.kept["start"])["head.weight"][0], old["head.weight"])
    line = (
        f"genome.from: {tmp_path / 'o.pt'}: names no classes: the rows of its head are taken in the order of this run's"
    )
    assert line in quiet.lines
    with pytest.raises(InputError, match="not of this network's layout: head.weight"):
        start(tmp_path / "q", NOW["added"], *RAW, f"genome.from=[{tmp_path / 'o.pt'}]")


# The network's own head


NETWORK = ["backbone.name=timm/test_resnet", "data.image_size=32", *RAW]


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with weights `w.safetensors`, a run `old` that has learnt six animals on them, and its network."""
    folder = tmp_path_factory.mktemp("network")
    torch.manual_seed(0)
    own = backbones.build("timm/test_resnet", "none", 32, (8, 8, 1))
    save_file(own.body.state_dict(), folder / "w.safetensors")
    start(folder / "old", THEN, *NETWORK, f"backbone.weights={folder / 'w.safetensors'}", *LEARN)
    export.export(str(folder / "old"), None, str(folder / "old.safetensors"))
    export.export(str(folder / "old"), None, str(folder / "old.pt"))
    return folder


def transfer(folder: Path) -> list[str]:
    return [
        f"backbone.weights={folder / 'w.safetensors'}",
        f"backbone.transfer=[{{from: {folder / 'old'}, parts: [fc]}}]",
    ]


@pytest.mark.parametrize("way", ["weights", "transfer"])
@pytest.mark.parametrize("change", NOW)
def test_the_networks_own_head_goes_by_names_too(tmp_path: Path, network: Path, change: str, way: str) -> None:
    given = transfer(network) if way == "transfer" else [f"backbone.weights={network / 'old.safetensors'}"]
    sets = [*NETWORK, *given, "head.init=network", *STILL]
    quiet, now = Quiet(), NOW[change]
    start(tmp_path / "r", now, *sets, quiet=quiet)
    found, old = (load_file(at / "champion.safetensors") for at in (tmp_path / "r", network / "old"))
    for place, name in enumerate(now):
        if name in THEN:
            for key in ("fc.weight", "fc.bias"):
                assert torch.equal(found[key][place], old[key][THEN.index(name)])
    line = f"head.init: network: classes by name: {LINES[change]}"
    assert quiet.lines.count(line) == 1
    data = ["data.name=test_starts:animals", f"data.names={json.dumps(now)}"]
    assert ("note", line) in inspection.estimate(load(None, [*TINY, *data, *sets]))


def test_a_network_whose_file_names_no_classes_is_taken_in_order(tmp_path: Path, network: Path) -> None:
    sets = [*NETWORK, f"backbone.weights={network / 'old.pt'}", *STILL]
    line = "head.init: network: names no classes: the rows of its head are taken in the order of this run's"
    quiet = Quiet()
    start(tmp_path / "r", NOW["permuted"], *sets, "head.init=network", quiet=quiet)
    assert line in quiet.lines
    quiet = Quiet()
    start(tmp_path / "q", NOW["permuted"], *sets, quiet=quiet)  # a head from zero takes nothing
    assert not [told for told in quiet.lines if "classes" in told]
    with pytest.raises(InputError, match="head.init: network: the weights have a linear head of 6 classes, the data 4"):
        start(tmp_path / "s", NOW["removed"], *sets, "head.init=network")


@pytest.mark.parametrize("way", ["genome.from", "transfer"])
def test_a_head_that_does_not_evolve_knows_all_classes_or_is_refused(tmp_path: Path, network: Path, way: str) -> None:
    weights = f"backbone.weights={network / 'w.safetensors'}"
    given = {"transfer": [*transfer(network), "head.init=network"],
             "genome.from": [weights, f"genome.from=[{network / 'old'}]"]}[way]  # fmt: skip
    sets = [*NETWORK, *given, *STILL, "backbone.trainable=[layer4]", "head.trainable=false", "memory.limit=2e9"]
    for change in ("permuted", "removed"):
        start(tmp_path / change, NOW[change], *sets)
        found, old = (load_file(at / "champion.safetensors") for at in (tmp_path / change, network / "old"))
        for place, name in enumerate(NOW[change]):
            assert torch.equal(found["fc.weight"][place], old["fc.weight"][THEN.index(name)])
    with pytest.raises(InputError, match=r"head.trainable: false, but .* lacks classes of the data \(aardvark, yak\)"):
        start(tmp_path / "added", NOW["added"], *sets)
    assert not (tmp_path / "added").exists()


@pytest.mark.parametrize("change", ["permuted", "added"])
def test_a_resume_needs_no_file_that_gave_the_networks_head(tmp_path: Path, network: Path, change: str) -> None:
    shutil.copytree(network / "old", tmp_path / "old")
    shutil.copy(network / "w.safetensors", tmp_path)
    start(tmp_path / "r", NOW[change], *NETWORK, *transfer(tmp_path), "head.init=network", *FOUR)
    resumes_alike(tmp_path / "r", tmp_path / "old")


def test_names_in_a_file_that_are_no_names_are_damage(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(weightfiles.seal({"fc.weight": torch.zeros(2, 3)}, {"classes": ["a", 3]}))
    with pytest.raises(InputError, match="damaged"):
        weightfiles.read_named(path)
