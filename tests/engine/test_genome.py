import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neuroevo.engine.genome import BRED, KEPT, NEW, Layout, Population, roles

CPU = torch.device("cpu")
SHAPES = st.lists(st.lists(st.integers(1, 4), max_size=3).map(tuple), min_size=1, max_size=5)


@given(SHAPES, st.integers(1, 5))
def test_flatten_and_unflatten_are_each_others_inverse(shapes: list[tuple[int, ...]], n: int) -> None:
    parameters = {f"p{i}": torch.randn(n, *shape) for i, shape in enumerate(shapes)}
    layout = Layout.of({name: p[0] for name, p in parameters.items()})
    genomes = layout.flatten(parameters)
    assert genomes.shape == (n, layout.genes)
    back = layout.unflatten(genomes)
    assert list(back) == list(parameters)
    assert all(torch.equal(back[name], parameters[name]) for name in parameters)
    assert Layout.from_json(layout.to_json()) == layout


def test_unflatten_shares_storage() -> None:
    layout = Layout(("w", "b"), ((2, 3), (2,)))
    genomes = torch.zeros(4, 8)
    views = layout.unflatten(genomes)
    views["b"][1] = 5
    views["w"][2, 1, 0] = 7
    assert genomes[1].tolist() == [0, 0, 0, 0, 0, 0, 5, 5]
    assert genomes[2, 3] == 7
    assert views["w"].untyped_storage().data_ptr() == genomes.untyped_storage().data_ptr()


def test_offsets_say_where_each_parameter_begins() -> None:
    assert Layout(("a", "b", "c"), ((2, 3), (), (4,))).offsets == (0, 6, 7)


def test_parameters_of_another_shape_are_named() -> None:
    layout = Layout(("w", "b"), ((2, 3), (2,)))
    with pytest.raises(ValueError, match=r"b: shape \(2,\) expected, \(3,\) found"):
        layout.flatten({"w": torch.zeros(1, 2, 3), "b": torch.zeros(1, 3)})
    with pytest.raises(ValueError, match="w: .* nothing found"):
        layout.flatten({"b": torch.zeros(1, 2)})


def test_the_rows_of_a_population_take_all_along_that_they_carry() -> None:
    everybody = Population.new(torch.arange(8.0).view(4, 2), parents=3)
    assert everybody.parents.tolist() == [[-1] * 3] * 4
    assert (everybody.roles.tolist(), everybody.roles.dtype) == ([NEW] * 4, torch.int8)
    assert everybody.traits == {}
    carried = everybody._replace(
        traits={"sigma": torch.arange(4.0)}, parents=torch.arange(4)[:, None], roles=roles({KEPT: 1, BRED: 3}, CPU)
    )
    for index in (torch.tensor([3, 0]), slice(0, 2)):
        some = carried.rows(index)
        assert torch.equal(some.genomes, carried.genomes[index])
        assert torch.equal(some.traits["sigma"], carried.traits["sigma"][index])
        assert torch.equal(some.parents, carried.parents[index])
        assert torch.equal(some.roles, carried.roles[index])


def test_roles_come_one_after_another_and_none_of_a_role_is_no_row() -> None:
    assert roles({KEPT: 2, BRED: 0, NEW: 1}, CPU).tolist() == [KEPT, KEPT, NEW]
