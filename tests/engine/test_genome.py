import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neuroevo.engine.genome import Layout

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
