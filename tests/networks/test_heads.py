import pytest
import torch
from torch import Tensor, nn

from neuroevo.engine.genome import Layout
from neuroevo.errors import InputError
from neuroevo.networks import heads


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


def twice(d: int, classes: int) -> nn.Module:
    layer = nn.Linear(d, d)
    return nn.Sequential(layer, nn.ReLU(), layer, nn.ReLU(), nn.Linear(d, classes))


PACKED = [heads.linear, lambda d, c: heads.mlp(d, c, hidden=[6], norm="layer"), twice]


@pytest.mark.parametrize("make", PACKED)
def test_packed_weights_give_the_same_logits_again_and_again(make: object, device: torch.device) -> None:
    torch.manual_seed(0)
    net = make(7, 3).to(device)  # type: ignore[operator]
    layout = Layout.of({f"fc.{name}": p for name, p in net.named_parameters()})
    weights = layout.unflatten(torch.randn(5, layout.genes, device=device))
    forward = heads.population_forward(net, "fc")[1]
    assert isinstance(forward, heads.Products)
    packed = forward.pack(weights)
    assert packed[forward.first].ndim == (3 if make is twice else 2)
    for _ in range(2):
        x = torch.randn(6, 7, device=device)
        assert torch.equal(forward(packed, x), forward(weights, x))
    half = forward.pack(weights, torch.bfloat16)
    with torch.autocast(device.type, torch.bfloat16):
        found = forward(half, x)
        assert torch.equal(found, forward(weights, x))
    assert found.dtype == torch.float32  # the biases' own
    torch.testing.assert_close(found, forward(weights, x), rtol=0.1, atol=0.3)


def test_an_mlp_has_the_widths_it_is_given() -> None:
    assert heads.widths(heads.mlp(7, 3, hidden=[6, 4])) == [6, 4, 3]
    assert [p.shape for p in heads.mlp(7, 3, hidden=[6]).parameters()] == [(6, 7), (6,), (3, 6), (3,)]


# Heads of one's own


class Residual(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class Scaled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 3 * super().forward(x)


class Leaky(nn.ReLU):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 0.1 * x


class Shifted(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 1


class Kept(nn.Dropout):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2


def hooked(d: int, c: int) -> nn.Module:
    head = nn.Linear(d, c)
    head.register_forward_hook(lambda module, args, out: out * 2)
    return head


def replaced(d: int, c: int) -> nn.Module:
    head = nn.Linear(d, c)
    head.forward = lambda x: nn.Linear.forward(head, x).square()  # type: ignore[method-assign]
    return head


def repeated(d: int, c: int) -> nn.Module:
    layer, act = nn.Linear(5, 5), nn.Tanh()
    return nn.Sequential(nn.Linear(d, 5), act, layer, act, layer, act, nn.Linear(5, c))


def tied(d: int, c: int) -> nn.Module:
    a, b = nn.Linear(5, 5), nn.Linear(5, 5)
    b.weight = a.weight
    return nn.Sequential(nn.Linear(d, 5), nn.Tanh(), a, nn.Tanh(), b, nn.Tanh(), nn.Linear(5, c))


def weight_norm(d: int, c: int) -> nn.Module:
    return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(d, 5)), nn.ReLU(), nn.Linear(5, c))


def spectral_norm(d: int, c: int) -> nn.Module:
    return nn.Sequential(nn.Linear(d, 5), nn.ReLU(), nn.utils.parametrizations.spectral_norm(nn.Linear(5, c)))


class InPlace(nn.Module):
    def __init__(self, d: int, c: int) -> None:
        super().__init__()
        self.a = nn.Linear(d, c)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.a(x.relu_())
        return out


OWN = {
    "residual": (lambda d, c: nn.Sequential(nn.Linear(d, 5), Residual(nn.Linear(5, 5)), nn.Linear(5, c)), "vmap"),
    "whole residual": (lambda d, c: nn.Sequential(Residual(nn.Linear(d, d)), nn.Linear(d, c)), "vmap"),
    "scaled": (Scaled, "vmap"),
    "leaky": (lambda d, c: nn.Sequential(nn.Linear(d, 5), Leaky(), nn.Linear(5, c)), "vmap"),
    "shifted": (lambda d, c: nn.Sequential(nn.Linear(d, 5), Shifted(5), nn.Linear(5, c)), "vmap"),
    "kept": (lambda d, c: nn.Sequential(nn.Linear(d, 5), Kept(), nn.Linear(5, c)), "vmap"),
    "hooked": (hooked, "vmap"),
    "replaced": (replaced, "vmap"),
    "repeated": (repeated, "gemm"),
    "tied": (tied, "gemm"),
    "weight norm": (weight_norm, "vmap"),
    "spectral norm": (spectral_norm, "vmap"),
    "in place": (InPlace, "vmap"),
    "in place first": (lambda d, c: nn.Sequential(nn.SiLU(inplace=True), nn.Linear(d, c)), "gemm"),
    "in place later": (lambda d, c: nn.Sequential(nn.Identity(), nn.Hardswish(inplace=True), nn.Linear(d, 5),
                                                  nn.ELU(inplace=True), nn.Linear(5, c)), "gemm"),
    "batch norm": (lambda d, c: nn.Sequential(nn.Linear(d, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, c)), "vmap"),
    "nothing inside": (lambda d, c: nn.Sequential(nn.Sequential(), nn.Linear(d, c)), "gemm"),
}  # fmt: skip


@pytest.mark.parametrize("name", OWN)
def test_a_head_of_ones_own_gives_what_it_gives_alone_and_leaves_its_input(name: str) -> None:
    make, method = OWN[name]
    torch.manual_seed(0)
    head: nn.Module = make(7, 3)  # type: ignore[no-untyped-call]
    notes: list[str] = []
    found, forward = heads.population_forward(head, "fc", (7, 3), None, notes.append)
    assert found == method
    assert len(notes) == (method == "vmap")
    weights = {f"fc.{k}": p.detach() + torch.randn(4, *p.shape) for k, p in head.named_parameters()}
    for x in (torch.randn(6, 7), torch.randn(4, 6, 7)):
        before = x.clone()
        logits = forward(weights, x)
        assert torch.equal(x, before)
        for i in range(4):
            own = {k.removeprefix("fc."): w[i] for k, w in weights.items()}
            alone = torch.func.functional_call(head, own, (before if x.ndim == 2 else before[i],))
            torch.testing.assert_close(logits[i], alone, rtol=1e-4, atol=1e-4)
            before = x.clone()


class Branches(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if self.bias.sum() > 0 else x[:, : self.out_features]


class Random(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(super().forward(x), 0.5, training=True)


class OfTheBatch(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(x)
        return out - out.mean(0)


class Counts(nn.Linear):
    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x) * self.calls


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Random, "other logits each time"),
        (Counts, "other logits each time"),
        (OfTheBatch, "depend on the others in its batch"),
        (lambda d, c: nn.Linear(d, c + 1), r"gives \(6, 4\) for \(6, 3\), samples x classes"),
        (lambda d, c: nn.Linear(d + 1, c), "fails on features"),
        (lambda d, c: nn.Sequential(nn.Linear(d, c), nn.Flatten(0)), "gives"),
    ],
)  # fmt: skip
def test_a_head_that_is_no_function_of_one_image_is_refused(make: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        heads.population_forward(make(7, 3), "fc", (7, 3))  # type: ignore[operator]


def test_a_head_that_vmap_refuses_is_evaluated_one_individual_after_another() -> None:
    head, notes = Branches(7, 3), []
    method, forward = heads.population_forward(head, "fc", (7, 3), note=notes.append)
    assert method == "loop"
    assert "one individual after another" in notes[-1]
    weights = {"fc.weight": torch.randn(4, 3, 7), "fc.bias": torch.tensor([[1.0] * 3, [-1.0] * 3] * 2)}
    weights = {name: w.requires_grad_(True) for name, w in weights.items()}
    for x in (torch.randn(5, 7), torch.randn(4, 5, 7)):
        logits = forward(weights, x)
        for i in range(4):
            own = {name.removeprefix("fc."): w[i] for name, w in weights.items()}
            assert torch.equal(logits[i], torch.func.functional_call(head, own, (x if x.ndim == 2 else x[i],)))
        assert torch.autograd.grad(logits.sum(), weights["fc.weight"])[0].shape == (4, 3, 7)


def test_a_head_is_compared_with_the_one_that_is_built_again() -> None:
    def make() -> nn.Module:
        head = nn.Sequential(nn.Linear(7, 7), nn.BatchNorm1d(7), nn.Linear(7, 3))
        head[1].running_mean.copy_(torch.randn(7))  # a buffer that nobody seeds
        return head

    with pytest.raises(InputError, match="can't be evaluated as a population: logits differ"):
        heads.population_forward(make(), "fc", (7, 3), make())


def test_only_a_plain_linear_layer_of_its_own_takes_a_scale() -> None:
    layer = nn.Linear(7, 7)
    assert heads.first_linear(nn.Sequential(nn.Sequential(nn.Linear(7, 5)), nn.Linear(5, 3)), "fc") == "fc.0.0"
    assert heads.first_linear(nn.Linear(7, 3), "fc") == "fc"
    for head in (
        Scaled(7, 3), hooked(7, 3), nn.Linear(7, 3, bias=False), nn.Sequential(layer, nn.Tanh(), layer),
        weight_norm(7, 3), Residual(layer), nn.Sequential(nn.ReLU(), layer), Own(7, 3), nn.Sequential(),
    ):  # fmt: skip
        assert heads.first_linear(head, "fc") is None


def test_noise_in_training_is_found_and_leaves_no_trace() -> None:
    norm = nn.Sequential(nn.Linear(7, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)).eval()
    before = {k: v.clone() for k, v in norm.state_dict().items()}
    assert not heads.noisy_in_training(norm, 7)
    assert all(torch.equal(v, norm.state_dict()[k]) for k, v in before.items())
    assert not norm.training
    assert heads.noisy_in_training(nn.Sequential(nn.Linear(7, 5), nn.AlphaDropout(0.5), nn.Linear(5, 3)), 7)
    assert heads.noisy_in_training(nn.Sequential(nn.Linear(7, 5), Kept(0.5), nn.Linear(5, 3)), 7)
    assert not heads.noisy_in_training(Own(7, 3), 7)


def test_a_layer_that_runs_twice_takes_its_memory_twice() -> None:
    assert heads.widths(repeated(7, 3)) == [5, 5, 5, 3]
