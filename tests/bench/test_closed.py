"""Arms that are closed forms, by running them on digits' own pixels and on a network of timm's tests."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Quiet
from safetensors.torch import load_file

from neuroevo.bench import benchmark
from neuroevo.config import load
from neuroevo.errors import InputError
from neuroevo.experiments import experiment
from neuroevo.experiments.signals import Signals
from neuroevo.report import report

PIXELS = "backbone: {name: none, weights: none}"
DEEP = "backbone: {name: timm/test_resnet, weights: none, trainable: [layer4]}"
BASE = "data: {name: digits, image_size: SIZE, limit: 300}\nmemory: {limit: 1000000000}\nfeatures: {components: null}\n"


@pytest.fixture(autouse=True)
def pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "report", lambda folder, **_: None)


def sources(folder: Path, base: str) -> list[str]:
    """Run three short searches from different seeds; return their folders."""
    (folder / "base.yaml").write_text(base)
    found = []
    for seed in range(3):
        out = str(folder / f"source-{seed}")
        sets = [f"seed={seed}", "budget.generations=4", "algorithm.population=8", "fitness.samples=64"]
        experiment.run(load(str(folder / "base.yaml"), sets), out, "test", Quiet())
        found.append(out)
    return found


def benched(base: str, folder: Path, arms: list[str], **changes: Any) -> list[dict[str, str]]:
    folder.mkdir(exist_ok=True)
    (folder / "bench.yaml").write_text(base)
    given: dict[str, Any] = {"seeds": 1, "splits": 1, "budget": "samples=20000", "jobs": 1, "levels": [], "sets": []}
    out = benchmark.run(
        str(folder / "bench.yaml"), arms, Quiet(), Signals(), out=str(folder / "out"), **given | changes
    )
    with open(out / "results.csv", newline="") as lines:
        return list(csv.DictReader(lines))


@pytest.mark.parametrize("backbone", [PIXELS, pytest.param(DEEP, marks=pytest.mark.long)])
def test_soups_and_the_merge_by_regression_are_validated_and_tested_once(tmp_path: Path, backbone: str) -> None:
    base = BASE.replace("SIZE", "null" if backbone is PIXELS else "32") + backbone + "\n"
    given = sources(tmp_path, base)
    rows = benched(base + f"genome: {{from: {json.dumps(given)}}}\n", tmp_path, ["soup", "greedy_soup", "regmean"])
    assert [row["arm"] for row in rows] == [row["champion_kind"] for row in rows] == ["soup", "greedy_soup", "regmean"]
    assert {row["generations"] for row in rows} == {"1"}
    weights = [load_file(Path(folder) / "champion.safetensors") for folder in given]
    made = {
        row["arm"]: load_file(tmp_path / "out" / "runs" / row["arm"] / "0-0" / "champion.safetensors") for row in rows
    }
    for name, value in made["soup"].items():
        mean = torch.stack([own[name] for own in weights]).mean(0)
        torch.testing.assert_close(value, mean, rtol=1e-3, atol=1e-5)
    # Regression looks at train samples, once for each source; the greedy soup at validation alone.
    costs = {row["arm"]: int(row["forward_samples"]) for row in rows}
    train = json.loads((tmp_path / "out" / "runs" / "soup" / "0-0" / "result.json").read_text())["data"]
    assert costs["soup"] == costs["greedy_soup"] == 128
    assert costs["regmean"] > 128 + 3 * 128 and train
    looks = {row["arm"]: int(row["validation_samples"]) for row in rows}
    assert looks["greedy_soup"] > looks["regmean"] > looks["soup"]
    best = max(
        float(json.loads((Path(f) / "result.json").read_text())["champion"]["validation"]["accuracy"]) for f in given
    )
    greedy = next(row for row in rows if row["arm"] == "greedy_soup")
    assert float(greedy["validation"]) >= best
    if backbone is PIXELS:  # one layer, whose inputs are the same for all: the least squares are the mean's
        for name, value in made["regmean"].items():
            torch.testing.assert_close(value, made["soup"][name], rtol=1e-2, atol=1e-3)
    else:
        assert not torch.equal(made["regmean"]["layer4.0.conv2.weight"], made["soup"]["layer4.0.conv2.weight"])


def test_biases_of_a_quantised_backbone_are_corrected_before_anything_is_computed(tmp_path: Path) -> None:
    base = BASE.replace("SIZE", "32") + "backbone: {name: timm/test_resnet, weights: none, quantise: {bits: 3}}\n"
    base += "head: {init: default}\n"
    rows = benched(base, tmp_path, ["bias_correction", "ga"])
    row = next(row for row in rows if row["arm"] == "bias_correction")
    assert row["champion_kind"] == "bias_correction"
    result = json.loads((tmp_path / "out" / "runs" / "bias_correction" / "0-0" / "result.json").read_text())
    assert result["quantised"]
    assert result["cost"]["backbone_samples"] == 300 + 2 * 210  # all images, and train twice
    assert "whose biases make up for" in result["champion"]["about"]


def test_an_arm_that_was_cut_off_begins_anew_and_ends_the_same(tmp_path: Path) -> None:
    base = BASE.replace("SIZE", "null") + PIXELS + "\n"
    base += f"genome: {{from: {json.dumps(sources(tmp_path, base))}}}\n"
    first = benched(base, tmp_path, ["soup"])
    folder = tmp_path / "out" / "runs" / "soup" / "0-0"
    before = (folder / "champion.safetensors").read_bytes()
    (folder / "result.json").unlink()
    again = benched(base, tmp_path, ["soup"])
    assert (folder / "champion.safetensors").read_bytes() == before
    assert [row["test"] for row in first] == [row["test"] for row in again]


def test_what_a_closed_form_lacks_is_one_line_and_leaves_no_folder(tmp_path: Path) -> None:
    base = BASE.replace("SIZE", "null") + PIXELS + "\n"
    with pytest.raises(InputError, match=r"^arm regmean: genome.from: the config has none; give it two networks"):
        benched(base, tmp_path, ["regmean"])
    assert not (tmp_path / "out").exists()


def test_logistic_is_an_arm_that_counts_its_passes_and_is_no_other_heads(tmp_path: Path) -> None:
    base = BASE.replace("SIZE", "null").replace("features: {components: null}\n", "") + PIXELS + "\n"
    rows = benched(base, tmp_path, ["logistic", "ga"])
    own = next(row for row in rows if row["arm"] == "logistic")
    assert own["champion_kind"] == "logistic"
    assert float(own["test"]) > 0.8
    assert int(own["backward_samples"]) > 210  # more than one pass over train
    assert int(own["forward_samples"]) > int(own["backward_samples"])  # and looks at what folds held out
    for arm in ("logistic", "ga"):
        result = json.loads((tmp_path / "out" / "runs" / arm / "0-0" / "result.json").read_text())
        assert "baseline" not in result
    with pytest.raises(InputError, match=r"arm logistic: the head isn't a linear layer with bias"):
        benched(base + "head: {name: mlp, init: default}\n", tmp_path / "mlp", ["logistic"])
