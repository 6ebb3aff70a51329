"""A graph gives what its function gives, for what it is given now; what can't be captured runs without."""

from collections.abc import Iterator

import pytest
import torch
from paper_gpu import CUDA, Gpu, Paper, PaperGraph, paper_gpu
from torch import Tensor

from neuroevo.engine.graphs import SHAPES, Graphs

SOURCE = torch.Generator().manual_seed(0)


class Counted(PaperGraph):
    """A graph that is counted."""

    made = 0

    def __init__(self) -> None:
        super().__init__()
        type(self).made += 1


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gpu]:
    with paper_gpu() as device:
        monkeypatch.setattr(Counted, "made", 0)
        monkeypatch.setattr(torch.cuda, "CUDAGraph", Counted)
        yield device
        monkeypatch.undo()  # or it would bring back the graphs on paper


def on(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=SOURCE).to(CUDA)


def work(w: Tensor, x: Tensor) -> list[Tensor]:
    logits = torch.bmm(w, x.mT.expand(len(w), -1, -1)).add_(w.mean((1, 2), keepdim=True))
    return [logits.log_softmax(1).sum((1, 2)), logits.amax((1, 2)).double()]


def same(found: object, expected: object) -> bool:
    assert isinstance(found, list)
    assert isinstance(expected, list)
    return all(isinstance(a, Paper) and torch.allclose(a.elem, b.elem) for a, b in zip(found, expected, strict=True))


def test_a_graph_gives_what_its_function_gives_for_other_numbers_and_a_last_smaller_slice(gpu: Gpu) -> None:
    graphs = Graphs(pytest.fail)
    before = []
    for n, samples in [(4, 6), (4, 6), (4, 2), (3, 6), (4, 6), (4, 2)]:
        w, x = on(n, 5, 3), on(samples, 3)
        found, expected = graphs.call(work, [w, x]), work(w, x)
        assert same(found, expected)
        before.append((found, expected))
    assert Counted.made == 3
    assert all(same(*each) for each in before)  # the next call writes to buffers of its own


def test_genomes_that_lie_apart_in_memory_are_taken_as_they_are(gpu: Gpu) -> None:
    genomes, x = on(4, 20), on(6, 3)
    w = genomes[:, 2:17].unflatten(1, (5, 3))
    assert not w.is_contiguous()
    assert same(Graphs(pytest.fail).call(work, [w, x]), work(w, x))


def test_functions_of_other_keys_are_other_graphs(gpu: Gpu) -> None:
    graphs, x = Graphs(pytest.fail), on(3)
    assert same(graphs.call(lambda x: [x + 1], [x], "a"), [x + 1])
    assert same(graphs.call(lambda x: [x + 2], [x], "b"), [x + 2])


def test_no_more_graphs_are_kept_than_there_is_use_for(gpu: Gpu) -> None:
    graphs = Graphs(pytest.fail)
    for n in range(1, SHAPES + 3):
        graphs.call(work, [on(n, 5, 3), on(6, 3)])
    assert len(graphs.kept) == SHAPES
    graphs.call(work, [on(1, 5, 3), on(6, 3)])
    assert Counted.made == SHAPES + 3


ASKING = {
    "local_scalar_dense waits for the device": lambda x: [x * float(x.sum())],
    "index waits for the device": lambda x: [x[x > 0].sum()],
    "operation not permitted when stream is capturing: bincount": lambda x: [(x > 0).long().bincount()],
    "operation not permitted when stream is capturing: copy to the host": lambda x: [x.cpu().sum().to(CUDA)],
}


@pytest.mark.parametrize("why", ASKING)
def test_a_function_that_the_host_waits_in_runs_without_and_that_is_said_once(gpu: Gpu, why: str) -> None:
    notes: list[str] = []
    graphs, asks, here = Graphs(notes.append), ASKING[why], torch.cuda.current_stream()
    for _ in range(3):
        x = on(4)
        assert same(graphs.call(asks, [x]), asks(x))
    assert notes == [f"CUDA graphs: this can't be captured ({why}); runs without"]
    assert not graphs.kept
    assert torch.cuda.current_stream() is here  # a capture that fails leaves its own


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_real_graph_gives_what_its_function_gives() -> None:
    graphs, refused = Graphs(pytest.fail), Graphs(lambda line: None)
    for n, samples in [(4, 6), (4, 2), (4, 6), (3, 6), (4, 2)]:
        w, x = on(n, 5, 3), on(samples, 3)
        for a, b in zip(graphs.call(work, [w, x]), work(w, x), strict=True):
            torch.testing.assert_close(a, b)
    for asks in (lambda x: [x * float(x.sum())], lambda x: [x.cpu().sum().to(CUDA)]):
        refused.refused, x, here = False, on(4), torch.cuda.current_stream()
        torch.testing.assert_close(refused.call(asks, [x])[0], asks(x)[0])
        assert refused.refused
        assert torch.cuda.current_stream() == here
