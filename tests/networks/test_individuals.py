"""Each individual's weights give what they give alone, wherever in memory they begin."""

import pytest
import torch
from paper_gpu import CUDA, paper_gpu
from real_gpu import GPUS
from torch import Tensor, nn
from torch.nn.functional import batch_norm

from neuroevo.networks import individuals

NETWORK = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 4, 2))
OWN = dict(NETWORK.named_parameters())


def call(weights: dict[str, Tensor], x: Tensor) -> Tensor:
    found: Tensor = torch.func.functional_call(NETWORK, weights, (x,))
    return found


def population(n: int, before: int, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """Return the weights of n individuals, views of rows that have so many other numbers before."""
    torch.manual_seed(0)
    sizes = [before, *(w.numel() for w in OWN.values())]
    rows = torch.randn(n, sum(sizes)).to(device)
    parts = rows.split(sizes, dim=1)[1:]
    return {name: part.unflatten(1, w.shape) for (name, w), part in zip(OWN.items(), parts, strict=True)}


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("n", [1, 3])
def test_all_at_once_give_what_each_gives_alone(n: int, shared: bool) -> None:
    NETWORK.eval()
    weights, x = population(n, 1), torch.randn(4, 3, 4, 4) if shared else torch.randn(n, 4, 3, 4, 4)
    found = individuals.vmap(call, weights, x, shared=shared)
    alone = [call(own, x if shared else x[i]) for i, own in enumerate(individuals.each(weights))]
    torch.testing.assert_close(found, torch.stack(alone))
    for i, own in enumerate(individuals.each(weights)):
        assert {name: w.data_ptr() for name, w in own.items()} == {name: w[i].data_ptr() for name, w in weights.items()}


@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize("before", range(5))
def test_on_a_gpu_weights_begin_where_it_can_read_them(gpu: str, before: int) -> None:
    with GPUS[gpu]():
        weights, x = population(2, before, "cuda"), torch.randn(4, 3, 4, 4).to(CUDA)
        NETWORK.to(CUDA)
        for own in individuals.each(weights):
            assert all(w.data_ptr() % individuals.ALIGNMENT == 0 for w in own.values())
            NETWORK.train()
            assert call(own, x).isfinite().all()
            NETWORK.eval()
        for n in (1, 2):
            some = {name: w[:n] for name, w in weights.items()}
            found = individuals.vmap(call, some, x, shared=True)
            alone = torch.stack([call(own, x) for own in individuals.each(some)])
            torch.testing.assert_close(found.cpu(), alone.cpu(), atol=2e-2, rtol=1e-2)  # a GPU multiplies in TF32
        NETWORK.to("cpu")


def test_what_a_gpu_refuses_is_refused_on_paper() -> None:
    with paper_gpu():
        x, mean, var = (torch.ones(*shape, device="cuda") for shape in ((2, 3, 4, 4), (3,), (3,)))
        apart = torch.ones(4, device="cuda")[1:]
        batch_norm(x, mean, var, apart, apart)
        batch_norm(x, mean, var, apart.clone(), apart.clone(), training=True)
        with pytest.raises(RuntimeError, match="CUDNN_STATUS"):
            batch_norm(x, mean, var, apart, apart, training=True)
        with pytest.raises(RuntimeError, match="inside of vmap"):
            torch.vmap(lambda w: batch_norm(x, mean, var, w, w))(torch.ones(2, 3, device="cuda"))
