import pytest
import torch
from paper_gpu import CUDA, paper_gpu

from neuroevo import devices
from neuroevo.errors import InputError


def test_auto_is_the_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert devices.resolve("auto") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert devices.resolve("auto") == torch.device("cuda")
    assert devices.resolve("cuda:1") == torch.device("cuda:1")


@pytest.mark.parametrize("name", ["cuda:99", "tpu", "mps", ""])
def test_a_device_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="device: "):
        devices.resolve(name)


def test_free_memory_is_a_number_of_bytes(device: torch.device) -> None:
    assert 2**20 < devices.available_memory(device) < 2**50


def test_what_is_sent_to_a_gpu_is_not_waited_for() -> None:
    x = torch.arange(3)
    assert devices.send(x, x.device) is x
    with paper_gpu() as gpu, gpu.count() as waits:
        there = devices.send(x[1:], CUDA)
        assert devices.send(there, CUDA) is there
        assert not waits.reads + waits.writes
        assert devices.send(there, x.device).tolist() == [1, 2]
    assert there.device == CUDA


def test_a_cpu_is_known_by_its_model_and_by_what_torch_uses_of_it() -> None:
    assert devices.model(torch.device("cpu")).endswith(f" {torch.backends.cpu.get_cpu_capability()}")


def test_one_thread_is_one_and_then_there_are_as_many_as_before() -> None:
    before = torch.get_num_threads()
    with pytest.raises(ValueError, match="left"), devices.one_thread():
        assert torch.get_num_threads() == 1
        raise ValueError("left")
    assert torch.get_num_threads() == before
