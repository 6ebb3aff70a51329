"""Rows of the host reach the device in their order, whenever their copies are made, and buffers are kept from them."""

from collections.abc import Iterator

import pytest
import torch
from paper_gpu import CPU, CUDA, DeviceMismatch, Gpu, Paper, PaperEvent, PaperStream, paper_gpu
from torch import Tensor

from neuroevo.data import staging
from neuroevo.data.samples import Features, together
from neuroevo.engine.samples import walk
from neuroevo.networks.affine import Standardise

ROWS = torch.arange(200.0).view(100, 2)
INDEX = torch.randperm(100, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gpu]:
    with paper_gpu() as device:
        yield device
        monkeypatch.undo()  # or it would bring back events on paper


def features(*pieces: Tensor, device: torch.device = CUDA) -> Features:
    labels = torch.arange(sum(map(len, pieces))).to(device)
    return Features(pieces, labels, Standardise(torch.ones(2).to(device), torch.full((2,), 2.0).to(device)), device)


def host(x: Tensor) -> Tensor:
    return x.elem.clone() if isinstance(x, Paper) else x


def fill(part: Tensor, out: Tensor) -> Tensor:
    return torch.index_select(ROWS, 0, part, out=out)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("pieces", [(ROWS,), (ROWS[:60], ROWS[60:])])
@pytest.mark.parametrize("size", [7, 10, 30, 100])
def test_what_is_walked_on_a_device_is_what_each_batch_holds(
    gpu: Gpu, pieces: tuple[Tensor, ...], size: int, dtype: torch.dtype
) -> None:
    there = features(*(piece.to(dtype) for piece in pieces))
    parts = INDEX.split(size)
    found = [(host(x), host(y)) for x, y in walk(there, parts)]
    assert len(found) == len(parts)
    for (x, y), part in zip(found, parts, strict=True):
        assert torch.equal(x, (ROWS[part].to(dtype).float() - 1) / 2)
        assert torch.equal(y, part)
        assert torch.equal(x, host(there.batch(part)[0]))


def test_a_copy_that_nobody_waits_for_has_not_been_made(gpu: Gpu) -> None:
    """The device on paper makes it when it is waited for, so that the tests beside this one can fail."""
    stream, plain = PaperStream(), torch.ones(3).pin_memory()
    with torch.cuda.stream(stream):  # type: ignore[arg-type]
        out = torch.empty(3, device=CUDA)
        out.copy_(plain, non_blocking=True)
    done = PaperEvent()
    done.record(stream)
    assert isinstance(out, Paper)
    assert bool(out.elem.isnan().all())
    torch.cuda.current_stream().wait_event(done)  # type: ignore[arg-type]
    assert out.elem.tolist() == [1, 1, 1]


def test_pinned_memory_is_not_written_to_before_the_host_has_waited_for_its_copy(gpu: Gpu) -> None:
    """Nor is that what is wrong: the device's own wait tells the host nothing."""
    plain = torch.ones(3).pin_memory()
    with torch.cuda.stream(PaperStream()):  # type: ignore[arg-type]
        torch.empty(3, device=CUDA).copy_(plain, non_blocking=True)
        done = torch.cuda.Event()
        done.record()
    torch.cuda.current_stream().wait_event(done)
    plain.fill_(2)
    with pytest.raises(DeviceMismatch, match="pinned memory was written to"):
        done.synchronize()
    plain.fill_(1)


def test_rows_say_on_which_stream_they_are_used(gpu: Gpu) -> None:
    found = list(staging.ahead(fill, INDEX.split(30), ROWS, CUDA))
    here: PaperStream = torch.cuda.current_stream()  # type: ignore[assignment]
    assert all(a is b for a, b in zip(here.used, found, strict=True))


def test_two_buffers_take_turns_each_when_its_rows_were_used(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []

    class Told(PaperEvent):
        def record(self, stream: PaperStream | None = None) -> None:
            super().record(stream)
            events.append("used")

        def synchronize(self) -> None:
            super().synchronize()
            events.append("waited")

    monkeypatch.setattr(torch.cuda, "Event", Told)
    seen = []

    def note(part: Tensor, out: Tensor) -> Tensor:
        seen.append(out.data_ptr())
        events.append("filled")
        return fill(part, out)

    for _ in staging.ahead(note, INDEX.split(25), ROWS, CUDA):
        events.append("launched")
    once = ["filled", "launched", "used"]
    assert events == once * 2 + ["waited", *once] * 2
    assert len({*seen}) == 2
    assert seen[:2] == seen[2:]


def test_the_host_waits_for_no_copy_from_plain_memory(gpu: Gpu) -> None:
    there = features(ROWS)
    with gpu.count() as waits:
        for _ in walk(there, INDEX.split(50)):
            pass
        there.batch(INDEX)
    assert not waits.writes
    assert not waits.reads


def test_without_a_gpu_a_walk_is_one_batch_after_another() -> None:
    here = features(ROWS, device=CPU)
    for (x, y), part in zip(walk(here, INDEX.split(30)), INDEX.split(30), strict=True):
        assert torch.equal(x, here.batch(part)[0])
        assert torch.equal(y, here.batch(part)[1])


def test_pieces_of_which_one_does_not_fit_the_device_lie_on_the_host(gpu: Gpu) -> None:
    first, second = together([ROWS.to(CUDA), ROWS])
    assert first.device == second.device == CPU
    assert torch.equal(first, ROWS)
    kept = together([ROWS.to(CUDA), ROWS.to(CUDA)])
    assert {piece.device for piece in kept} == {CUDA}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("size", [1000, 4096, 20_000])
def test_what_is_walked_on_a_real_device_is_what_each_batch_holds(size: int) -> None:
    rows, source = torch.arange(20_000.0 * 64).view(20_000, 64), torch.Generator().manual_seed(0)
    parts = torch.randperm(20_000, generator=source).repeat(3).split(size)
    there = Features((rows,), torch.arange(20_000).to(CUDA), None, CUDA)
    sums = [
        (x.double() @ x.double().mT.sum(1)).sum() for x, _ in walk(there, parts)
    ]  # work that takes longer than a copy
    again = [(rows[part].double() @ rows[part].double().mT.sum(1)).sum() for part in parts]
    torch.testing.assert_close(torch.stack(sums).cpu(), torch.stack(again))
    for (x, y), part in zip(walk(there, parts), parts, strict=True):
        assert torch.equal(x.cpu(), rows[part])
        assert torch.equal(y.cpu(), part)
