import pytest
import torch
from torch import Tensor, nn

from neuroevo import heads
from neuroevo.genome import Layout


class Own(nn.Module):
    """A user's head that is no chain of layers."""

    def __init__(self, d: int, classes: int) -> None:
        super().__init__()
        self.a = nn.Linear(d, classes)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.a(x) * self.scale + self.a(x).square()
        return out


def mlp_with_norm(d: int, classes: int) -> nn.Module:
    return nn.Sequential(nn.LayerNorm(d), nn.Linear(d, 5), nn.GELU(), nn.Linear(5, classes))


CASES = [
    (heads.linear, "gemm"),
    (lambda d, c: heads.mlp(d, c, hidden=[6]), "gemm"),
    (lambda d, c: heads.mlp(d, c, hidden=[6, 4], dropout=0.5), "gemm"),
    (lambda d, c: heads.mlp(d, c, hidden=[]), "gemm"),
    (lambda d, c: nn.Linear(d, c, bias=False), "gemm"),
    (lambda d, c: nn.Sequential(nn.Tanh(), nn.Sequential(nn.Linear(d, 3), nn.SiLU()), nn.Linear(3, c)), "gemm"),
    (mlp_with_norm, "vmap"),
    (Own, "vmap"),
]


@pytest.mark.parametrize(("make", "method"), CASES)
@pytest.mark.parametrize(("n", "b"), [(1, 1), (3, 5), (4, 2)])
def test_a_population_of_heads_gives_what_each_head_gives_alone(
    make: object, method: str, n: int, b: int, device: torch.device
) -> None:
    torch.manual_seed(0)
    nets = [make(7, 3).to(device).eval() for _ in range(n)]  # type: ignore[operator]
    x = torch.randn(b, 7, device=device)
    weights = {f"fc.{name}": torch.stack([dict(net.named_parameters())[name].detach() for net in nets])
               for name, _ in nets[0].named_parameters()}  # fmt: skip
    layout = Layout.of({name: w[0] for name, w in weights.items()})
    found, forward = heads.population_forward(nets[0], "fc")
    assert found == method
    logits = forward(layout.unflatten(layout.flatten(weights)), x)
    expected = torch.stack([net(x) for net in nets])
    torch.testing.assert_close(logits, expected.detach(), rtol=1e-5, atol=1e-5)


def test_an_mlp_has_the_widths_it_is_given() -> None:
    assert heads.widths(heads.mlp(7, 3, hidden=[6, 4])) == [6, 4, 3]
    assert [p.shape for p in heads.mlp(7, 3, hidden=[6]).parameters()] == [(6, 7), (6,), (3, 6), (3,)]
