"""How several searches choose together, on looks made by hand."""

from pathlib import Path

import pytest
import torch

from neuroevo.errors import InputError
from neuroevo.experiments import looks
from neuroevo.networks import weightfiles


def write(folder: Path, found: dict[int, dict[str, float]]) -> Path:
    (folder / "looks").mkdir(parents=True)
    for generation, kinds in {0: {"start": 0.1}, **found}.items():
        state = {f"logits/{kind}": torch.zeros(2, 2) for kind in kinds} | {"labels": torch.zeros(2)}
        about = {"figures": {kind: {"accuracy": value} for kind, value in kinds.items()}}
        looks.place(folder / "looks", generation).write_bytes(weightfiles.seal(state, about))
    return folder


def merit(figures: dict[str, float]) -> tuple[float, ...]:
    return (figures["accuracy"],)


def test_the_best_mean_wins_over_the_best_of_one(tmp_path: Path) -> None:
    one = write(tmp_path / "1", {10: {"a": 1.0, "b": 0.7}, 20: {"a": 0.5, "b": 0.6}})
    two = write(tmp_path / "2", {10: {"a": 0.2, "b": 0.7}, 20: {"a": 0.5, "b": 0.6}})
    found = looks.choose([one, two], merit)
    assert (found.generation, found.candidate, found.looks) == (10, "b", 4)
    assert found.validation == {"accuracy": pytest.approx(0.7)}
    assert found.start == {"accuracy": pytest.approx(0.1)}


def test_of_equals_the_earliest_is_chosen_and_only_of_what_all_have(tmp_path: Path) -> None:
    one = write(tmp_path / "1", {10: {"a": 0.5}, 20: {"a": 0.5, "b": 0.9}, 30: {"a": 0.9}})
    two = write(tmp_path / "2", {10: {"a": 0.5}, 20: {"a": 0.5}})
    found = looks.choose([one, two], merit)
    assert (found.generation, found.candidate, found.looks) == (10, "a", 2)


def test_searches_without_a_common_look_choose_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no generation was validated in all of them"):
        looks.choose([write(tmp_path / "1", {10: {"a": 1}}), write(tmp_path / "2", {20: {"a": 1}})], merit)
    with pytest.raises(InputError, match="no look at validation is there"):
        looks.choose([tmp_path / "3"], merit)
