import json
import multiprocessing
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from neuroevo import rundir
from neuroevo.errors import InputError


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "f"
    rundir.replace(path, b"one")
    with pytest.raises(TypeError):
        rundir.replace(path, "not bytes")  # type: ignore[arg-type]
    assert path.read_bytes() == b"one"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def hold(folder: Path, held: "multiprocessing.synchronize.Event", free: "multiprocessing.synchronize.Event") -> None:
    with rundir.locked(folder):
        held.set()
        free.wait(20)


def test_a_folder_is_owned_by_one_process_and_freed_when_that_dies(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    held, free = context.Event(), context.Event()
    owner = context.Process(target=hold, args=(tmp_path, held, free))
    owner.start()
    assert held.wait(60)
    with pytest.raises(InputError, match="in use by another process"), rundir.locked(tmp_path):
        pass
    owner.kill()
    owner.join()
    with rundir.locked(tmp_path):
        pass


def test_history_is_a_line_a_generation(tmp_path: Path) -> None:
    rundir.write_history(tmp_path, [{"generation": 1, "validation": None}, {"generation": 2, "validation": 0.5}])
    lines = (tmp_path / "history.jsonl").read_text().splitlines()
    assert [json.loads(line)["validation"] for line in lines] == [None, 0.5]


def test_the_champions_file_is_plain_weights_with_a_note(tmp_path: Path) -> None:
    rundir.write_champion(tmp_path, {"fc.weight": torch.eye(3).T}, {"classes": [1]})
    with safe_open(tmp_path / "champion.safetensors", "pt") as file:
        assert file.metadata() == {"neuroevo": '{"classes": [1]}'}
        assert torch.equal(file.get_tensor("fc.weight"), torch.eye(3))


def test_an_out_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    with pytest.raises(InputError, match="--out: "):
        rundir.claim(str(tmp_path / "f"), "x", 0)
