"""The GPU on paper refuses what a device refuses, allows what it allows, and counts where the host waits."""

import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from paper_gpu import CPU, CUDA, EXPONENTIAL, DeviceMismatch, Gpu, OrderMissing, Paper, PaperGenerator, paper_gpu
from torch import nn
from torch.nn import functional

Make = Callable[[], object]


@pytest.fixture
def gpu() -> Iterator[Gpu]:
    with paper_gpu() as device:
        yield device


def on(*shape: int) -> torch.Tensor:
    return torch.ones(*shape, device="cuda")


def whole(*values: int, device: str = "cuda") -> torch.Tensor:
    return torch.tensor(values, device=device)


REFUSED: dict[str, Make] = {
    "two devices in a sum": lambda: on(3) + torch.ones(3),
    "two devices in a product": lambda: on(3, 3) @ torch.ones(3, 3),
    "two devices in place": lambda: on(3).add_(torch.ones(3)),
    "a number of the device added to one of the host, in place": lambda: torch.ones(()).add_(on(1)[0]),
    "a number of the device with a vector of the host": lambda: on(1)[0] + torch.ones(3),
    "a list of two devices": lambda: torch.cat([on(3), torch.ones(3)]),
    "a stack of numbers of two devices": lambda: torch.stack([on(1)[0], torch.ones(())]),
    "where with a mask of the host": lambda: torch.where(torch.ones(3) > 0, on(3), on(3)),
    "an array of numpy": lambda: on(3) * torch.from_numpy(np.ones(3, np.float32)),
    "out on the host": lambda: torch.add(on(3), on(3), out=torch.ones(3)),
    "index_select by the host": lambda: on(3).index_select(0, whole(0, device="cpu")),
    "gather by the host": lambda: on(3).gather(0, whole(0, device="cpu")),
    "indices of the device into the host": lambda: torch.ones(3)[whole(0, 1)],
    "a mask of the device into the host": lambda: torch.ones(3)[on(3) > 0],
    "values of the host put into the device": lambda: on(3).index_put_((whole(0, 1),), torch.ones(2)),
    "scatter of the host's values": lambda: on(3).scatter_(0, whole(0, 1), torch.ones(2)),
    "a linear layer of the host": lambda: nn.Linear(3, 2)(on(1, 3)),
    "a batch norm of the host": lambda: nn.BatchNorm2d(2).eval()(on(1, 2, 3, 3)),
    "a vector times a matrix of the host": lambda: on(3) @ torch.ones(3, 3),
    "a loss against the host": lambda: functional.cross_entropy(on(2, 3), whole(0, 1, device="cpu")),
    "quantiles at values of the host": lambda: torch.quantile(on(3), torch.tensor([0.5])),
    "bincount with weights of the host": lambda: torch.bincount(whole(0, 1), weights=torch.ones(2)),
    "a generator of the host": lambda: torch.rand(2, device="cuda", generator=torch.Generator()),
    "a generator of the host, in place": lambda: on(3).normal_(generator=torch.Generator()),
    "a generator of the host in multinomial": lambda: on(3).multinomial(1, generator=torch.Generator("cpu")),
    "a generator of the host in randperm": lambda: torch.randperm(3, device="cuda", generator=torch.Generator()),
    "a generator of the device for the host": lambda: torch.rand(2, generator=torch.Generator("cuda")),
    "numpy": lambda: on(3).numpy(),
    "asarray": lambda: np.asarray(on(3)),
    "pinned memory of the device": lambda: on(3).pin_memory(),
    "a product of whole numbers": lambda: torch.ones(2, 2, dtype=torch.int64, device="cuda").mm(whole(1, 1)[:, None]),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_a_device_refuses_is_refused(gpu: Gpu, what: str) -> None:
    with pytest.raises((DeviceMismatch, TypeError, RuntimeError)) as caught:
        REFUSED[what]()
    kind = {"numpy": TypeError, "asarray": TypeError}.get(what, RuntimeError)
    assert isinstance(caught.value, kind)
    assert any(word in str(caught.value) for word in ("device", "cuda", "CPU", "generator", "pin")), caught.value


ALLOWED: dict[str, Make] = {
    "a number of Python": lambda: on(3) * 2 + 1,
    "a number of the host with no dimensions": lambda: on(3) * torch.tensor(2.0),
    "where with numbers": lambda: torch.where(on(3) > 0, on(3), 0.0),
    "indices of the host": lambda: on(3)[whole(0, 2, device="cpu")],
    "a list of indices": lambda: on(3)[[0, 2]],
    "a slice": lambda: on(3, 4)[1:, ::2],
    "a generator of its own": lambda: torch.rand(3, device="cuda", generator=torch.Generator("cuda").manual_seed(1)),
    "what is like it": lambda: torch.rand_like(on(3)) + torch.zeros_like(on(3)) + on(3).new_ones(3),
    "an array that was moved": lambda: on(3) * torch.from_numpy(np.ones(3, np.float32)).to("cuda"),
    "another dtype": lambda: on(3).double().to(torch.float16).half(),
    "the device of another": lambda: torch.ones(3).to(on(3)),
    "a copy from the host": lambda: on(3).copy_(torch.zeros(3)),
    "a module that was moved": lambda: nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).to("cuda")(on(1, 3)),
    "a stack": lambda: torch.stack([on(3), on(3)]).sum(0),
    "vmap": lambda: torch.vmap(lambda a, b: a @ b)(on(2, 3, 4), on(2, 4, 5)),
    "out of its own": lambda: torch.add(on(3), on(3), out=on(3)),
}


@pytest.mark.parametrize("what", ALLOWED)
def test_what_a_device_allows_stays_there(gpu: Gpu, what: str) -> None:
    found = ALLOWED[what]()
    assert isinstance(found, Paper)
    assert found.device == CUDA
    assert found.is_cuda
    assert not found.is_cpu
    assert str(found.cpu().device) == "cpu"


def test_results_are_those_of_the_cpu(gpu: Gpu) -> None:
    def work(device: str) -> torch.Tensor:
        draw = torch.Generator(device).manual_seed(3)
        x = torch.randn(5, 4, device=device, generator=draw)
        x[:, 1] *= 3  # in place, through a view
        x.T[0].add_(1)
        x[x > 1] = 0
        return (x @ x.T).softmax(1).sort(descending=True).values[:, :2]

    assert torch.equal(work("cuda").cpu(), work("cpu"))


@pytest.mark.parametrize("shapes", [((3,), (3,)), ((3,), (3, 2)), ((2, 3), (3,)), ((4, 2, 3), (3,)), ((3,), (4, 3, 2))])
def test_products_of_vectors_are_those_of_the_cpu(gpu: Gpu, shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    a, b = (torch.randn(shape) for shape in shapes)
    found = a.to("cuda") @ b.to("cuda")
    assert found.shape == (a @ b).shape
    assert torch.allclose(found.cpu(), a @ b)


def test_vmap_of_batch_norm_is_that_of_the_cpu(gpu: Gpu) -> None:
    def work(device: str) -> torch.Tensor:
        layer = nn.BatchNorm2d(2).to(device).eval()
        with torch.backends.cudnn.flags(enabled=False):
            return torch.vmap(layer)(torch.arange(24.0).view(3, 2, 2, 2, 1).to(device))

    assert torch.equal(work("cuda").cpu(), work("cpu"))


def test_gradients_are_of_the_device_and_those_of_the_cpu(gpu: Gpu) -> None:
    def gradient(device: str) -> torch.Tensor:
        layer = nn.Linear(3, 2)
        with torch.no_grad():
            for p in layer.parameters():
                p.fill_(0.1)
        layer = layer.to(device)
        x = torch.arange(6.0).view(2, 3).to(device)
        functional.cross_entropy(layer(x), torch.tensor([0, 1]).to(device)).backward()
        assert layer.weight.grad is not None
        assert str(layer.weight.grad.device) == str(x.device)
        return layer.weight.grad.cpu()

    assert torch.equal(gradient("cuda"), gradient("cpu"))


READS: dict[str, tuple[int, Make]] = {
    "item": (1, lambda: on(1).item()),
    "float": (1, lambda: float(on(3).sum())),
    "int": (1, lambda: int(whole(3)[0])),
    "bool": (1, lambda: bool(on(3).all())),
    "if": (1, lambda: 1 if on(3).sum() > 2 else 0),
    "tolist": (1, lambda: on(3).tolist()),
    "cpu": (1, lambda: on(3).cpu()),
    "to": (1, lambda: on(3).to("cpu")),
    "to, another dtype as well": (1, lambda: on(3).to("cpu", torch.float64)),
    "copy into the host": (1, lambda: torch.zeros(3).copy_(on(3))),
    "nonzero": (1, lambda: on(3).nonzero()),
    "where alone": (1, lambda: torch.where(on(3) > 0)),
    "unique": (1, lambda: on(3).unique()),
    "boolean index": (1, lambda: on(3)[on(3) > 0]),
    "values put by a mask": (1, lambda: on(3).index_put_((on(3) > 0,), on(3))),
    "masked_select": (1, lambda: on(3).masked_select(on(3) > 0)),
    "equal": (1, lambda: torch.equal(on(3), on(3))),
    "allclose": (1, lambda: torch.allclose(on(3), on(3))),
    "bincount": (1, lambda: torch.bincount(torch.zeros(3, dtype=torch.int64, device="cuda"))),
    "one_hot of as many as there are": (1, lambda: functional.one_hot(torch.zeros(3, dtype=torch.int64).to("cuda"))),
    "multinomial": (1, lambda: on(3).multinomial(2)),
    "an exponential, whose terms depend on its norm": (EXPONENTIAL, lambda: torch.linalg.matrix_exp(on(2, 2))),
    "a number of the device as an index": (1, lambda: on(3)[whole(1)[0]]),
    "synchronize": (1, lambda: torch.cuda.synchronize()),
    "a number put by a mask": (0, lambda: on(3).__setitem__(on(3) > 0, 0.0)),
    "masked_fill by a number of the device": (1, lambda: on(3).masked_fill(on(3) > 0, on(1)[0])),
    "index_fill by a number of the device": (1, lambda: on(3).index_fill(0, whole(1), on(1)[0])),
    "masked_fill": (0, lambda: on(3).masked_fill(on(3) > 0, 0.0)),
    "one_hot of so many": (0, lambda: functional.one_hot(torch.zeros(3, dtype=torch.int64).to("cuda"), 2)),
    "multinomial with replacement": (0, lambda: on(3).multinomial(2, replacement=True)),
    "a generation's arithmetic": (0, lambda: (on(3, 3) @ on(3, 3)).topk(2).indices.sum() * 2),
    "shapes": (0, lambda: len(on(3)) + on(3).shape[0] + on(3).numel()),
    "the host's own": (0, lambda: float(torch.ones(3).sum()) + len(torch.ones(3).nonzero())),
}


@pytest.mark.parametrize("what", READS)
def test_reads_are_counted(gpu: Gpu, what: str) -> None:
    expected, make = READS[what]
    with gpu.count() as waits:
        make()
    assert waits.reads.total() == expected, waits.reads


WRITES: dict[str, tuple[int, Make]] = {
    "to": (1, lambda: torch.ones(3).to("cuda")),
    "to, not waiting, from memory that isn't pinned": (1, lambda: torch.ones(3).to("cuda", non_blocking=True)),
    "to, waiting, from pinned memory": (1, lambda: torch.ones(3).pin_memory().to("cuda")),
    "a list": (1, lambda: torch.tensor([1, 2], device="cuda")),
    "an array": (1, lambda: torch.as_tensor(np.ones(2), device="cuda")),
    "indices of the host": (1, lambda: on(3)[torch.tensor([0])]),
    "copy": (1, lambda: on(3).copy_(torch.ones(3))),
    "to, not waiting, from pinned memory": (0, lambda: torch.ones(3).pin_memory().to("cuda", non_blocking=True)),
    "part of what was made pinned": (0, lambda: torch.empty(9, pin_memory=True)[:3].to("cuda", non_blocking=True)),
    "copy from pinned memory": (0, lambda: on(3).copy_(torch.ones(3).pin_memory(), non_blocking=True)),
    "a number put in a place": (1, lambda: on(3, 2).__setitem__((0, 1), 5.0)),
    "where with a number of the host": (1, lambda: torch.where(on(3) > 0, on(3), torch.tensor(2.0))),
    "where with a number of Python": (0, lambda: torch.where(on(3) > 0, on(3), 2.0)),
    "an array like it": (1, lambda: on(3).new_tensor([1.0, 2.0])),
    "a number put in a row": (0, lambda: on(3, 2).__setitem__(0, 5.0)),
    "made there": (0, lambda: torch.full((3,), 2.0, device="cuda") + torch.arange(3, device="cuda")),
}


@pytest.mark.parametrize("what", WRITES)
def test_copies_to_the_device_that_wait_are_counted(gpu: Gpu, what: str) -> None:
    expected, make = WRITES[what]
    with gpu.count() as waits:
        make()
    assert waits.writes.total() == expected, waits.writes
    assert not waits.reads


def test_a_counter_counts_its_own_thread_within_its_block(gpu: Gpu) -> None:
    with gpu.count() as outer:
        on(3).sum().item()
        with gpu.count() as inner:
            on(3).tolist()
        thread = threading.Thread(target=lambda: on(3).cpu())
        thread.start()
        thread.join()
    on(3).tolist()
    assert inner.reads == {"tolist: outside": 1}
    assert outer.reads == {"local_scalar_dense: outside": 1, "tolist: outside": 1}


def test_another_thread_has_the_device_as_well(gpu: Gpu) -> None:
    found: list[object] = []

    def work() -> None:
        found.append(on(3).device)
        with pytest.raises(DeviceMismatch):
            on(3) + torch.ones(3)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [CUDA]


def test_pinned_memory_is_the_hosts(gpu: Gpu) -> None:
    pinned = torch.ones(3).pin_memory()
    assert pinned.device == CPU
    assert pinned.is_pinned()
    assert not torch.ones(3).is_pinned()


def test_generators_say_where_they_are_and_are_generators(gpu: Gpu) -> None:
    assert torch.Generator("cuda").device == CUDA
    assert torch.Generator().device == CPU
    assert isinstance(torch.Generator("cuda"), torch.Generator)


def test_nothing_of_it_is_left() -> None:
    def look() -> list[object]:
        names = sorted(name for name in dir(torch.cuda) if not name.startswith("__"))
        return [
            torch.Generator, torch.random.fork_rng, threading.Thread.run,
            *(getattr(torch.cuda, name) for name in names),
            torch.__future__.get_swap_module_params_on_conversion(), torch.overrides._get_current_function_mode(),
            len(torch.utils._python_dispatch._get_current_dispatch_mode_stack()),
        ]  # fmt: skip

    before = look()
    with pytest.raises(ZeroDivisionError), paper_gpu():  # whatever ends it
        assert torch.cuda.is_available()
        assert torch.Generator is PaperGenerator
        raise ZeroDivisionError
    assert look() == before
    if not torch.cuda.is_available():
        with pytest.raises((RuntimeError, AssertionError)):
            torch.ones(3, device="cuda")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_of_the_device_takes_products_in_half_precision(gpu: Gpu, dtype: torch.dtype) -> None:
    with torch.autocast("cuda", dtype):
        assert (on(3, 3) @ on(3, 3)).dtype == dtype
        assert nn.Linear(3, 2).to(CUDA)(on(1, 3)).dtype == dtype
    with torch.autocast("cuda", dtype, enabled=False):
        assert (on(3, 3) @ on(3, 3)).dtype == torch.float32
    assert (on(3, 3) @ on(3, 3)).dtype == torch.float32


def test_a_graph_does_what_was_captured_with_what_its_buffers_hold_now(gpu: Gpu) -> None:
    x, graph = on(3), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = (x + 1).view(3, 1)
        y.mul_(2)
    assert isinstance(y, Paper)
    assert bool(y.elem.isnan().all())  # nothing is done while it is captured
    for value in (1.0, 4.0):
        x.fill_(value)
        graph.replay()
        assert y.flatten().tolist() == [2 * (value + 1)] * 3


@pytest.mark.parametrize("read", ["item", "nonzero", "copy"])
def test_what_a_capture_can_not_hold_is_refused(gpu: Gpu, read: str) -> None:
    x = on(3)
    work = {"item": lambda: float(x.sum()), "nonzero": lambda: x.nonzero(), "copy": lambda: torch.ones(3).to(CUDA)}
    graph = torch.cuda.graph(torch.cuda.CUDAGraph())
    with pytest.raises(RuntimeError, match="not permitted when stream is capturing"), graph:
        work[read]()
    assert float(x.sum()) == 3


APART = torch.tensor([1e8, -1e8, 1.0, 1.0])
DISORDER = {
    "scatter_add": lambda x: torch.zeros(2).to(CUDA).scatter_add_(0, torch.tensor([0, 0, 0, 1]).to(CUDA), x),
    "index_add": lambda x: torch.zeros(2).to(CUDA).index_add(0, torch.tensor([0, 0, 0, 1]).to(CUDA), x),
    "cumsum": lambda x: (x / 3).cumsum(0),
}


@pytest.mark.parametrize("what", DISORDER)
def test_sums_that_a_device_makes_in_any_order_are_refused(gpu: Gpu, what: str) -> None:
    with pytest.raises(OrderMissing, match=what):
        DISORDER[what](APART.to(CUDA))
    DISORDER[what](torch.tensor([3.0, 3.0, 3.0, 6.0]).to(CUDA))  # in any order the same


def test_a_sum_by_sorted_places_has_an_order(gpu: Gpu) -> None:
    places = torch.tensor([0, 0, 0, 1]).to(CUDA)
    found = torch.zeros(2).to(CUDA).index_put_((places,), APART.to(CUDA), accumulate=True)
    assert found.tolist() == torch.zeros(2).index_put_((places.cpu(),), APART, accumulate=True).tolist()
