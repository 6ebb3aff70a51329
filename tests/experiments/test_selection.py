import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Quiet
from safetensors import safe_open

from neuroevo.config import load
from neuroevo.errors import InputError
from neuroevo.experiments import card, comparison, experiment, export, reopen, selection
from neuroevo.networks import ensembles
from neuroevo.problems import mixtures
from neuroevo.storage import rundir

SMALL = ["algorithm.population=12", "budget.generations=6", "memory.limit=2e9", "fitness.samples=60", "data.limit=300",
         "genome.init_sigma=0.3", "algorithm.mutation.sigma=0.3"]  # fmt: skip
NETWORK = ["backbone.name=timm/test_resnet", "backbone.weights=none", "data.image_size=32"]
KINDS = {
    "linear": [*SMALL, *NETWORK],
    "mlp": [*SMALL, *NETWORK, "head={name: mlp, hidden: [9], norm: layer, init: default}"],
    "stage": [*SMALL, *NETWORK, "backbone.trainable=[layer4]", "head.init=default", "memory.plan=loop", "seed=1"],
    "pixels": [*SMALL, "backbone.name=none", "backbone.weights=none", "data.image_size=null"],
}
SELECTIONS = ("champion", "top_mean:3", "soup", "ensemble:3")
# Graphs take seconds each: of a network without a backbone all are made, elsewhere one of each form.
GRAPHS: dict[str, dict[str, tuple[str, ...]]] = {
    "linear": {"champion": ("pixels",)},
    "mlp": {"ensemble:3": ("pixels",)},
    "stage": {"ensemble:3": ("images",)},
    "pixels": dict.fromkeys(SELECTIONS, ("images", "pixels")),
}
# In a process of its own, where neuroevo can't be imported: what a card says, and a graph, give these logits.
ALONE = """
import json, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "neuroevo":
            raise ImportError("neuroevo is not here")
sys.meta_path.insert(0, Refuse())
import numpy, onnxruntime, torch
found = {}
with numpy.load("inputs.npz") as file:
    inputs = {name: file[name] for name in file}
for name, code in json.load(open("cards.json")).items():
    scope = {}
    exec(code, scope)
    with torch.no_grad():
        found[name] = scope["model"](torch.from_numpy(inputs["x"])).numpy()
for name, given in json.load(open("graphs.json")).items():
    session = onnxruntime.InferenceSession(name, providers=["CPUExecutionProvider"])
    found[name] = session.run(None, {given: inputs["pixels" if given == "pixels" else "x"]})[0]
    assert not isinstance(session.get_inputs()[0].shape[0], int)
numpy.savez("found.npz", **found)
try:
    import neuroevo
except ImportError:
    pass
else:
    raise SystemExit("neuroevo was there")
"""


@pytest.fixture(
    scope="module", params=[pytest.param(kind, marks=[] if kind == "linear" else pytest.mark.long) for kind in KINDS]
)
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp(request.param)
    experiment.run(load(None, KINDS[request.param]), str(folder / "r"), "test", Quiet())
    return folder / "r", request.param


def code_of(card: Path) -> str:
    found = re.search(r"```python\n(.*?)```", card.read_text(), re.S)
    assert found is not None
    return found[1]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("cat 1.5", "cat 1.5"), ("<script>", "&lt;script&gt;"), ("[x](javascript:y)", r"\[x\]\(javascript:y\)"),
        ("a|b`c", r"a\|b\`c"), ("# a\n\x1b[2J", r"\# a\\n\\x1b\[2J"),
    ],
)  # fmt: skip
def test_a_name_in_a_card_is_no_more_than_text(name: str, shown: str) -> None:
    assert card.plain(name) == shown


HOSTILE = "x\n\n<script>alert(1)</script>[a](b)"


def subject_of(result: Mapping[str, Any], scores: Mapping[str, Any] | None = None) -> card.Subject:
    network = SimpleNamespace(classes=("a", "b"))
    scores = result.get("champion", {}) if scores is None else scores
    of = (Path("m.safetensors"), load(None, []), network, {}, result, scores, result.get("cost", {}))
    return card.Subject(*of)  # type: ignore[arg-type]


def lines_of(subject: card.Subject) -> list[str]:
    return [*card.worth(subject), *card.data(subject), *card.cost(subject)]


TEST = {"images": 1000, "accuracy": 0.25, "interval": {"accuracy": [0.125, 0.5]}}
CHAMPION = {"validation": {"accuracy": 0.5, "loss": None}, "test": TEST}


def test_a_card_has_the_figures_of_the_result() -> None:
    images = {"noun": "rows", "images": {"train": 1200, "test": 1000}}
    result = {
        "champion": CHAMPION,
        "data": images,
        "cost": {"forward_samples": 12345, "seconds": 2.4},
        "test_scored": 2,
    }
    entry = {"validation": {"accuracy": 0.75}, "cost": {"validation_samples": 99}}
    lines = lines_of(subject_of(result))
    assert "| accuracy | 0.5000 | 0.2500 | 0.1250, 0.5000 |" in lines
    assert "| loss | - | - |  |" in lines
    assert any(line.endswith("1000 rows; this run's networks were scored on it 2 times in all.") for line in lines)
    assert "- rows: train 1,200, test 1,000" in lines
    assert lines[-2:] == ["- forward samples: 12,345", "- seconds: 2"]
    lines = lines_of(subject_of(result, entry))
    assert any("chosen by" in line and line.endswith("champion has accuracy 0.2500 on test.") for line in lines)
    assert lines[-1] == "- validation samples of the choice: 99"


@pytest.mark.parametrize(
    "changed",
    [
        {"data": {"noun": HOSTILE, "images": {HOSTILE: 3}}}, {"data": {"noun": 3, "images": 3}}, {"data": "x"},
        {"data": {"images": {"train": "x", "test": None}}}, {"cost": {HOSTILE: 3}}, {"cost": {"extra": None}},
        {"cost": {"extra": HOSTILE}}, {"cost": {"extra": 10**400}}, {"test_scored": HOSTILE}, {"test_scored": [1]},
        {"champion": {"validation": {HOSTILE: 0.5}, "test": {**TEST, "interval": {HOSTILE: [0.1, 0.2]}}}},
        {"champion": {"validation": {"accuracy": "x"}, "test": {"images": HOSTILE, "interval": {"accuracy": 3}}}},
        {"champion": {"validation": 3, "test": "x"}},
    ],
    ids=lambda changed: ascii(changed)[:60],
)  # fmt: skip
@pytest.mark.parametrize("chosen", [False, True])
def test_whatever_a_result_has_a_card_is_a_text_that_does_nothing(changed: dict[str, Any], chosen: bool) -> None:
    result = {"champion": CHAMPION, "cost": {"seconds": 1.0}, **changed}
    entry = {"validation": {"accuracy": 0.5}, "cost": changed.get("cost", {})} if chosen else None
    lines = lines_of(subject_of(result, entry))
    assert not any("\n" in line or "<script" in line or "[a](b)" in line for line in lines)


@pytest.mark.filterwarnings("ignore")  # the exporter's own
def test_each_file_loads_without_neuroevo_and_gives_the_logits_that_the_run_gives(
    finished: tuple[Path, str], tmp_path: Path
) -> None:
    folder, kind = str(finished[0]), finished[1]
    run, _ = reopen.open_run(folder, Quiet())
    t = run.network.backbone.transform
    pixels = torch.rand(5, t.channels, *t.size)
    x = pixels
    if t.mean is not None and t.std is not None:
        x = (pixels - torch.tensor(t.mean).view(-1, 1, 1)) / torch.tensor(t.std).view(-1, 1, 1)
    np.savez(tmp_path / "inputs.npz", x=x.numpy(), pixels=pixels.numpy())
    cards, graphs, expected = {}, {}, {}
    for select in SELECTIONS:
        asked, name = selection.read(select), select.replace(":", "")
        found = export.open_choice(folder, asked, Quiet(), False, export.NEVER)
        assert (len(found.choice.genomes) > 1) == (asked.kind == "ensemble")  # of one it would show nothing
        rows = run.network.backbone.features(x)
        means = []
        for genome in found.choice.genomes:
            means.append(run.network.forward(run.network.decode(genome[None]), affine(run, rows))[0])
        expected[name] = torch.stack(means).mean(0)
        export.export(folder, None, str(tmp_path / f"{name}.safetensors"), select)
        cards[f"{name}.safetensors"] = code_of(tmp_path / f"{name}.safetensors.md")
        for how in GRAPHS[kind].get(select, ()):
            file = f"{name}-{how}.onnx"
            export.export(folder, None, str(tmp_path / file), select, with_transform=how == "pixels")
            graphs[file] = how
    assert len([line for line in cards["champion.safetensors"].splitlines() if line]) == 4
    (tmp_path / "cards.json").write_text(json.dumps(cards))
    (tmp_path / "graphs.json").write_text(json.dumps(graphs))
    own = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run([sys.executable, "-c", ALONE], cwd=tmp_path, env=own, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "found.npz") as file:
        assert set(file) == {*cards, *graphs}
        for name in file:
            logits = expected[re.split(r"[-.]", name)[0]].numpy()
            most = (1e-4 if name.endswith(".onnx") else 1e-5) * max(1.0, np.abs(logits).max())
            np.testing.assert_allclose(file[name], logits, rtol=0, atol=most, err_msg=name)
    assert len({logits.numpy().tobytes() for logits in expected.values()}) > 1


def affine(run: Any, rows: torch.Tensor) -> torch.Tensor:
    """Return features as the head sees them; behind a cut the network has the map inside."""
    inside = run.network.backbone.cut is not None or run.network.affine is None
    return rows if inside else run.network.affine(rows)


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_linear_heads_are_one_layer_and_others_are_kept_each(tmp_path: Path, kind: str) -> None:
    run = str(tmp_path / "r")
    experiment.run(load(None, KINDS[kind]), run, "test", Quiet())
    parts, _ = reopen.open_run(run, Quiet())
    genomes = [torch.randn(parts.network.layout.genes) for _ in range(3)]
    taken, x = ensembles.take(parts.network, genomes), torch.randn(4, 3, 32, 32)
    alone = [ensembles.take(parts.network, [genome]).network(x) for genome in genomes]
    torch.testing.assert_close(taken(x), torch.stack(alone).mean(0), rtol=1e-4, atol=1e-4)
    assert taken.members == (1 if kind == "linear" else 3)
    assert any(name.startswith("members.2.") for name in taken.state) == (kind == "mlp")
    halved = ensembles.take(parts.network, genomes, 2.0)
    torch.testing.assert_close(halved(x), taken(x) / 2, rtol=1e-4, atol=1e-4)


ARRAYS = ["backbone.name=none", "backbone.weights=none", "data.image_size=null", "budget.generations=8",
          "memory.limit=1e8", "algorithm.population=10", "head={name: mlp, hidden: [4], init: default}"]  # fmt: skip


def write_arrays(path: Path, shuffled: bool) -> None:
    """Write 240 rows of two classes, of which a third is for test; the labels of those may be shuffled."""
    random = np.random.default_rng(0)
    y = random.integers(0, 3, 240)
    x = (np.eye(3)[y] @ random.normal(size=(3, 6)) + random.normal(size=(240, 6))).astype(np.float32)
    split = np.array(["train", "validation", "test"])[np.arange(240) % 3]
    if shuffled:
        rows = np.flatnonzero(split == "test")
        y[rows] = y[random.permutation(rows)]
    np.savez(path, x=x, y=y, split=split)


def test_labels_of_test_decide_nothing_but_figures_of_test(tmp_path: Path) -> None:
    found = []
    for name in ("as they are", "shuffled"):
        folder = tmp_path / name
        folder.mkdir()
        write_arrays(folder / "a.npz", name == "shuffled")
        data = f"data={{name: arrays, file: {folder / 'a.npz'}}}"
        experiment.run(load(None, [*ARRAYS, data]), str(folder / "r"), "test", Quiet())
        weights = {}
        for select in ("top_mean", "soup", "ensemble"):
            export.export(str(folder / "r"), None, str(folder / "m.safetensors"), select, temperature=True)
            with safe_open(folder / "m.safetensors", "pt") as file:
                weights[select] = {key: file.get_tensor(key).numpy().tobytes() for key in file.keys()}  # noqa: SIM118
        found.append((weights, rundir.read_result(folder / "r")))
    (one, first), (other, second) = found
    assert one == other
    assert first["champion"]["test"] != second["champion"]["test"]
    assert first["selections"].keys() == {f"{name} with temperature" for name in ("top_mean", "soup", "ensemble")}
    for name, entry in first["selections"].items():
        assert entry.pop("test") != second["selections"][name].pop("test")
    assert first["selections"] == second["selections"]
    assert first["test_scored"] == second["test_scored"] == 4


def test_test_is_looked_at_once_for_each_network_and_counted(tmp_path: Path, quiet: Quiet) -> None:
    run = tmp_path / "r"
    experiment.run(load(None, KINDS["pixels"]), str(run), "test", Quiet())
    assert rundir.read_result(run)["test_scored"] == 1
    first = export.export(str(run), None, str(tmp_path / "a.pt"), "ensemble:3")
    again = export.export(str(run), None, str(tmp_path / "b.pt"), "ensemble:3")
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()
    result = rundir.read_result(run)
    assert result["test_scored"] == 2
    assert first.compared is not None
    assert again.compared is not None
    assert first.compared.entry == again.compared.entry == result["selections"]["ensemble:3"]
    parts, step = reopen.open_run(str(run), Quiet())
    alone = comparison.test(parts.supervised, [step.champion.genome], None)
    assert alone == result["champion"]["test"]
    judge = mixtures.Judge(parts.supervised, parts.supervised.splits["validation"])
    champion = judge.scores(*judge.logits(step.champion.genome))
    assert champion["accuracy"] == pytest.approx(result["champion"]["validation"]["accuracy"])
    assert judge.of.merit(first.compared.entry["validation"]) >= judge.of.merit(champion)
    experiment.resume(str(run), ["budget.generations=8"], Quiet())
    after = rundir.read_result(run)
    assert "selections" not in after
    assert after["test_scored"] == 3
    assert not quiet.lines


def test_a_soup_is_of_descendants_of_one_ancestor(tmp_path: Path, quiet: Quiet) -> None:
    two = [*KINDS["pixels"], "algorithm.crossover=uniform", "budget.generations=4"]
    experiment.run(load(None, two), str(tmp_path / "two"), "test", Quiet())
    parts, step = reopen.open_run(str(tmp_path / "two"), Quiet())
    rows, how = selection.family(parts, step, tmp_path / "two")
    lines = [json.loads(line) for line in (tmp_path / "two" / "lineage.jsonl").read_text().splitlines()]
    start = int(re.fullmatch(r"individual (\d+) of generation 1", how.how)[1])  # type: ignore[index]
    for row in range(12):  # by hand: everybody's ancestors, back to the first generation
        found = {row}
        for line in reversed(lines[1:]):
            found = {parent for each in found for parent in line["parents"][each] if parent >= 0}
        assert (row in rows) == (start in found)
    export.export(str(tmp_path / "two"), None, str(tmp_path / "s.pt"), "soup", quiet)
    (tmp_path / "two" / "lineage.jsonl").unlink()
    with pytest.raises(InputError, match="--select soup: there is no lineage to tell by"):
        export.export(str(tmp_path / "two"), None, str(tmp_path / "t.pt"), "soup")
    assert not (tmp_path / "t.pt").exists()


def size(network: torch.nn.Module) -> float:
    return -sum(float(p.norm()) for p in network.parameters())


@pytest.mark.parametrize(
    ("sets", "select", "message"),
    [
        (["algorithm={name: snes, population: 8}"], "soup", "there is no lineage to tell by who descends from whom"),
        (["algorithm={name: fixed, population: 4}", "refine.steps=1"], "soup", "has no other descendant"),
        (["genome.levels=ternary"], "soup", "genes are whole levels, whose mean is none"),
        (["genome.levels=ternary"], "top_mean", "genes are whole levels, whose mean is none"),
        ([], "top_mean:99", "the population has 12 valid individuals"),
        (["fitness.metrics=[cross_entropy, weight_norm]"], "top_mean", "of several objectives none says who is best"),
        ([], "member:0", "has no front"),
        (["validate.metric={name: 'test_selection:size', of: network}"], "ensemble", "logits aren't enough"),
    ],
)
def test_what_cannot_be_taken_is_refused_and_touches_nothing(
    tmp_path: Path, sets: list[str], select: str, message: str
) -> None:
    given = [each for each in KINDS["pixels"] if not (sets and each.startswith("algorithm"))]
    experiment.run(load(None, [*given, *sets]), str(tmp_path / "r"), "test", Quiet())
    before = (tmp_path / "r" / rundir.RESULT).read_bytes()
    with pytest.raises(InputError, match=re.escape(message)):
        export.export(str(tmp_path / "r"), None, str(tmp_path / "m.safetensors"), select)
    assert [path.name for path in tmp_path.iterdir()] == ["r"]
    assert (tmp_path / "r" / rundir.RESULT).read_bytes() == before


@pytest.mark.parametrize("text", ["", "best", "soup:3", "champion:1", "ensemble:1", "top_mean:0", "member", "member:x"])
def test_a_selection_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="--select"):
        selection.read(text)


def test_without_the_data_what_needs_none_is_taken_and_the_rest_is_refused_by_a_line(
    tmp_path: Path, quiet: Quiet
) -> None:
    write_arrays(tmp_path / "a.npz", False)
    data = f"data={{name: arrays, file: {tmp_path / 'a.npz'}}}"
    experiment.run(load(None, [*ARRAYS, data]), str(tmp_path / "r"), "test", Quiet())
    (tmp_path / "a.npz").unlink()
    for select in ("champion", "top_mean"):
        found = export.export(str(tmp_path / "r"), None, str(tmp_path / "m.safetensors"), select, quiet)
        assert found.compared is None
    assert [line.split(" since")[0] for line in quiet.lines] == ["top_mean is not scored,"]
    card = (tmp_path / "m.safetensors.md").read_text()
    assert "Not scored" in card
    for select, temperature in (("soup", False), ("ensemble", False), ("champion", True)):
        with pytest.raises(InputError, match="needs the run's data, which can't be had: .*a.npz"):
            export.export(str(tmp_path / "r"), None, str(tmp_path / "n.pt"), select, temperature=temperature)
    assert not (tmp_path / "n.pt").exists()


def test_a_card_never_takes_the_place_of_another_file(tmp_path: Path) -> None:
    experiment.run(load(None, KINDS["pixels"]), str(tmp_path / "r"), "test", Quiet())
    (tmp_path / "m.safetensors.md").write_text("my notes\n")
    with pytest.raises(InputError, match=r"m.safetensors.md, where the model card would be, is there"):
        export.export(str(tmp_path / "r"), None, str(tmp_path / "m.safetensors"))
    assert (tmp_path / "m.safetensors.md").read_text() == "my notes\n"
    assert not (tmp_path / "m.safetensors").exists()
    export.export(str(tmp_path / "r"), None, str(tmp_path / "n.safetensors"))
    export.export(str(tmp_path / "r"), None, str(tmp_path / "n.safetensors"))  # over its own
    with pytest.raises(InputError, match="--with-transform: only a graph"):
        export.export(str(tmp_path / "r"), None, str(tmp_path / "n.safetensors"), with_transform=True)
