import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from neuroevo.errors import InputError
from neuroevo.networks import backbones
from neuroevo.networks.weightfiles import read_safetensors, read_weights, seal, strip_prefix

STATE = {"0.weight": torch.arange(6.0).view(2, 3), "0.bias": torch.ones(2), "1.weight": torch.zeros(4)}


def same(found: dict[str, torch.Tensor], state: dict[str, torch.Tensor] = STATE) -> bool:
    return list(found) == list(state) and all(torch.equal(found[name], state[name]) for name in state)


BESIDE = {"epoch": 3, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]},
          "args": argparse.Namespace(lr=0.1, out=Path("x")), "best": np.float64(0.5), "acc": np.int64(3)}  # fmt: skip


@pytest.mark.parametrize(
    "wrapped",
    [
        STATE, {"state_dict": STATE}, {"model": STATE, **BESIDE}, {"model_state_dict": STATE, **BESIDE},
        {"net": STATE, "epoch": 1}, {"ema": {"module": STATE}}, {"state_dict_ema": STATE}, {"generator": STATE},
        {"model": {"state_dict": STATE}, "lr_scheduler": {"last_epoch": 3}},
        {"state_dict": STATE, "optimizer": STATE, "callbacks": {"best": torch.tensor(1.0)}},
    ],
)  # fmt: skip
def test_weights_are_found_in_what_training_scripts_wrap_them_in(tmp_path: Path, wrapped: dict[str, Any]) -> None:
    torch.save(wrapped, tmp_path / "w.pth")
    assert same(read_weights(tmp_path / "w.pth"))


def test_of_several_weights_the_plain_ones_are_taken_and_that_is_said_or_they_are_named(tmp_path: Path) -> None:
    other = {name: value + 1 for name, value in STATE.items()}
    torch.save({"model_ema": other, "model": STATE}, tmp_path / "w.pth")
    lines: list[str] = []
    assert same(read_weights(tmp_path / "w.pth", lines.append))
    assert lines == [f"{tmp_path / 'w.pth'}: model taken; it also holds model_ema"]
    with pytest.raises(InputError, match="holds several weights, model_ema, model; save the one that is meant"):
        read_weights(tmp_path / "w.pth")
    torch.save({"student": STATE, "teacher": other}, tmp_path / "w.pth")
    with pytest.raises(InputError, match="holds several weights, student, teacher"):
        read_weights(tmp_path / "w.pth", lines.append)


@pytest.mark.parametrize("content", [{}, {"epoch": 1, "lr": 0.1}, [1, 2], {"a": {"b": {1: torch.ones(2)}}}])
def test_a_file_without_weights_says_what_it_has(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"w.pth: holds no weights by name; (its keys are|it is a list)"):
        read_weights(tmp_path / "w.pth")


def test_a_whole_network_is_refused_by_its_name(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"it holds a torch.nn.modules.linear.Linear; save the network's state_dict"):
        read_weights(tmp_path / "w.pth")


def test_what_all_names_begin_with_is_taken_off_where_the_rest_then_fits() -> None:
    wrapped = {f"module._orig_mod.{name}": value for name, value in STATE.items()}
    assert same(strip_prefix(wrapped, STATE))
    assert same(strip_prefix(STATE, STATE))
    assert strip_prefix(wrapped, ["x"]) == wrapped
    more = wrapped | {"criterion.weight": STATE["0.bias"]}
    assert strip_prefix(more, STATE) == more
    head = {"fc.weight": STATE["0.weight"]}
    assert strip_prefix(head, ["fc.weight", "weight"]) == head


@pytest.mark.parametrize("prefix", ["", "module.", "model."])
def test_a_backbone_loads_weights_of_data_parallel_and_lightning(tmp_path: Path, prefix: str) -> None:
    source = backbones.build("timm/test_resnet", "none", 32, (8, 8, 1))
    assert source.own_head is not None
    state = {name: value + 1 for name, value in source.network(source.own_head).state_dict().items()}
    torch.save({"state_dict": {prefix + name: value for name, value in state.items()}}, tmp_path / "w.pth")
    found = backbones.build("timm/test_resnet", str(tmp_path / "w.pth"), 32, (8, 8, 1))
    assert torch.equal(found.body.get_parameter("conv1.0.weight"), state["conv1.0.weight"])
    more = {f"model.{name}": value for name, value in state.items()} | {"criterion.weight": torch.ones(3)}
    torch.save({"state_dict": more}, tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"another architecture: .* only some of its names begin with model\., so"):
        backbones.build("timm/test_resnet", str(tmp_path / "w.pth"), 32, (8, 8, 1))


def test_weights_none_are_the_same_in_every_process() -> None:
    built = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        built.append(backbones.build("timm/test_resnet", "none", 32, (8, 8, 1)).frozen)
    assert built[0] == built[1]


def test_frozen_weights_are_known_by_all_that_does_not_evolve(tmp_path: Path) -> None:
    source = backbones.build("timm/test_resnet", "none", 32, (8, 8, 1))
    assert source.own_head is not None
    state = {name: value.clone() for name, value in source.network(source.own_head).state_dict().items()}
    found = []
    for name in (None, "layer4.0.conv1.weight", "layer4.0.bn1.running_mean", "fc.weight"):
        save_file(state if name is None else state | {name: state[name] + 1}, tmp_path / "w.safetensors")
        built = backbones.build(
            "timm/test_resnet", str(tmp_path / "w.safetensors"), 32, (8, 8, 1), trainable=["layer4"]
        )
        found.append(built.frozen)
    assert [sha == found[0] for sha in found] == [True, True, False, True]


def test_any_changed_byte_of_a_sealed_file_is_seen_or_changes_nothing(tmp_path: Path) -> None:
    content = bytearray(seal(STATE, {"classes": ["a", "b"]}))
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    assert same(read_weights(path), dict(sorted(STATE.items()))) or set(read_weights(path)) == set(STATE)
    assert read_safetensors(path)[1] == {"classes": ["a", "b"]}
    seen = 0
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        try:
            state = read_weights(path)
        except InputError as error:
            assert str(path) in str(error)
            seen += 1
        else:
            assert {k: v.tolist() for k, v in state.items()} == {k: v.tolist() for k, v in STATE.items()}
    assert seen > 0.8 * len(content)


def test_tied_tensors_are_written_each_under_its_name(tmp_path: Path) -> None:
    tied = {"a": STATE["0.weight"], "b": STATE["0.weight"], "c": STATE["0.weight"][0]}
    (tmp_path / "w.safetensors").write_bytes(seal(tied, {}))
    assert {name: value.tolist() for name, value in read_weights(tmp_path / "w.safetensors").items()} == {
        name: value.tolist() for name, value in tied.items()
    }


@pytest.mark.parametrize("kind", ["sparse", "without data", "complex"])
def test_tensors_that_are_no_plain_numbers_are_refused(tmp_path: Path, kind: str) -> None:
    plain = torch.eye(3)
    of_kind = {"sparse": plain.to_sparse(), "without data": plain.to("meta"), "complex": plain.to(torch.complex64)}
    torch.save({"fc.weight": of_kind[kind]}, tmp_path / "w.pt")
    with pytest.raises(InputError, match=rf"w.pt: fc.weight is {kind}"):
        read_weights(tmp_path / "w.pt")
