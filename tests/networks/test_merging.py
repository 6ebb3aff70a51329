import pytest
import torch
from torch import Tensor, nn

from neuroevo.errors import InputError
from neuroevo.networks.merging import add_tasks, covariances, merge_by_regression, mix, mix_greedily

CONVOLUTIONS = {
    "plain": {"kernel_size": 3},
    "strided and padded": {"kernel_size": 3, "stride": 2, "padding": 1},
    "dilated": {"kernel_size": 2, "dilation": 2},
    "same": {"kernel_size": 3, "padding": "same", "dilation": 2},
    "without bias": {"kernel_size": 3, "bias": False},
    "grouped": {"kernel_size": 3, "groups": 2},
    "depthwise": {"kernel_size": 3, "groups": 4, "padding": 1},
    "reflecting": {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
    "1 x 1": {"kernel_size": 1},
}


def states(*networks: nn.Module) -> list[dict[str, Tensor]]:
    return [dict(network.state_dict()) for network in networks]


def least(layers: list[nn.Module], inputs: list[Tensor]) -> float:
    """Return the least mean square, summed over networks, by which one layer can miss them all, by direct solving."""
    merged = layers[0]
    parameters = list(merged.parameters())
    columns = []
    with torch.no_grad():
        wanted = torch.cat([layer(x).flatten() / x.shape[0] ** 0.5 for layer, x in zip(layers, inputs, strict=True)])
        sizes = sum(p.numel() for p in parameters)
        for k in range(sizes):  # a layer is linear in its parameters: its output for each of them alone
            unit = torch.zeros(sizes, dtype=torch.float64)
            unit[k] = 1
            nn.utils.vector_to_parameters(unit, parameters)
            columns.append(torch.cat([merged(x).flatten() / x.shape[0] ** 0.5 for x in inputs]))
    matrix = torch.stack(columns, 1)
    found = torch.linalg.lstsq(matrix, wanted[:, None], driver="gelsd").solution
    return float((matrix @ found - wanted[:, None]).square().sum())


@pytest.mark.parametrize("kind", ["linear", "linear without bias", *CONVOLUTIONS])
def test_regression_misses_the_networks_outputs_on_their_own_inputs_by_the_least_that_can_be(kind: str) -> None:
    torch.manual_seed(0)

    def layer() -> nn.Module:
        if kind in CONVOLUTIONS:
            return nn.Conv2d(4, 4, **CONVOLUTIONS[kind]).double()
        return nn.Linear(5, 3, bias=kind == "linear").double()

    layers = [layer() for _ in range(3)]
    inputs = [torch.randn(20, *((4, 6, 7) if kind in CONVOLUTIONS else (5,))).double() + i for i in range(3)]
    found = [covariances(one, [x[:12], x[12:]]) for one, x in zip(layers, inputs, strict=True)]
    merged = layer()
    merged.load_state_dict(merge_by_regression(states(*layers), found, alpha=1.0))
    with torch.no_grad():
        missed = [float((merged(x) - one(x)).square().sum() / len(x)) for one, x in zip(layers, inputs, strict=True)]
    assert sum(missed) == pytest.approx(least(layers, inputs), rel=1e-6)


def test_a_convolution_that_pads_in_its_own_way_is_merged_by_what_it_computes() -> None:
    from timm.layers import Conv2dSame

    torch.manual_seed(0)
    layers = [Conv2dSame(3, 4, 3, stride=2).double() for _ in range(2)]
    inputs = [torch.randn(20, 3, 6, 7).double() + i for i in range(2)]
    found = [covariances(one, [x]) for one, x in zip(layers, inputs, strict=True)]
    merged = Conv2dSame(3, 4, 3, stride=2).double()
    merged.load_state_dict(merge_by_regression(states(*layers), found, alpha=1.0))
    with torch.no_grad():
        missed = sum(float((merged(x) - one(x)).square().sum() / len(x)) for one, x in zip(layers, inputs, strict=True))
    assert missed == pytest.approx(least(layers, inputs), rel=1e-6)


def test_without_off_diagonals_an_input_weighs_a_network_by_its_own_size() -> None:
    one, two = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    found = [covariances(one, [torch.full((4, 1), 2.0)]), covariances(two, [torch.full((9, 1), 1.0)])]
    merged = merge_by_regression(states(one, two), found, alpha=0.0)["weight"]
    torch.testing.assert_close(merged, ((4 * one.weight + two.weight) / 5).detach())


def test_where_all_inputs_are_alike_or_networks_are_the_same_regression_is_the_mean() -> None:
    torch.manual_seed(0)
    nets = [nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2)) for _ in range(2)]
    x = torch.randn(200, 3, 4, 4)
    same = [covariances(nets[0], [x])] * 2
    merged, mean = merge_by_regression(states(*nets), same), mix(states(*nets))
    for name, value in merged.items():
        torch.testing.assert_close(value, mean[name], rtol=1e-3, atol=1e-4)
    alone = merge_by_regression(states(nets[0], nets[0]), [covariances(nets[0], [x]), covariances(nets[0], [x * 2])])
    for name, value in nets[0].state_dict().items():
        torch.testing.assert_close(alone[name], value, rtol=1e-3, atol=1e-4)


def test_inputs_that_never_vary_leave_the_mean() -> None:
    one, two = nn.Linear(3, 2), nn.Linear(3, 2)
    nothing = [covariances(net, [torch.zeros(5, 3)]) for net in (one, two)]
    merged = merge_by_regression(states(one, two), nothing)
    torch.testing.assert_close(merged["weight"], ((one.weight + two.weight) / 2).detach())


def test_the_uniform_soup_is_the_mean_and_counts_are_the_firsts() -> None:
    one, two = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    two.running_mean.fill_(4)
    two.num_batches_tracked.fill_(7)
    found = mix(states(one, two))
    assert found["running_mean"].tolist() == [2, 2]
    assert found["num_batches_tracked"] == 0


def test_the_greedy_soup_takes_those_that_make_it_no_worse() -> None:
    given = [{"w": torch.tensor([x])} for x in (5.0, 1.0, -1.2, 0.9)]
    asked: list[float] = []

    def score(state: dict[str, Tensor]) -> float:
        asked.append(float(state["w"]))
        return -abs(asked[-1])

    found = mix_greedily(given, score)
    # The best alone is 0.9; with 1.0 it is worse; with -1.2 better; with 5 worse.
    assert float(found["w"]) == pytest.approx(-0.15)
    assert len(asked) == 2 * 4 - 1
    assert asked[:4] == pytest.approx([5.0, 1.0, -1.2, 0.9])


def test_task_arithmetic_adds_what_networks_differ_by() -> None:
    base = {"w": torch.tensor([1.0, 1]), "n": torch.tensor(3)}
    given = [{"w": torch.tensor([2.0, 1]), "n": torch.tensor(9)}, {"w": torch.tensor([1.0, 3]), "n": torch.tensor(9)}]
    assert add_tasks(base, given, 0.5)["w"].tolist() == [1.5, 2]
    assert torch.equal(add_tasks(base, given, 0.5)["n"], torch.tensor(3))
    assert torch.equal(add_tasks(base, given, 0.5)["w"], mix(given)["w"])


def test_networks_of_other_layouts_are_refused() -> None:
    with pytest.raises(InputError, match=r"^states: network 1 has \(2, 4\) for weight, and the first has \(2, 3\)"):
        mix(states(nn.Linear(3, 2), nn.Linear(4, 2)))
    with pytest.raises(InputError, match=r"^states: network 1 has nothing for bias"):
        add_tasks(nn.Linear(3, 2, bias=False).state_dict(), states(nn.Linear(3, 2)))
    with pytest.raises(InputError, match="^states: no network is given"):
        mix([])
    with pytest.raises(InputError, match="^alpha: 2 given; a number from 0 to 1"):
        merge_by_regression(states(nn.Linear(3, 2)), [{}], alpha=2)
