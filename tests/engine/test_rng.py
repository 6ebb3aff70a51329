import torch

from neuroevo.engine.rng import Context, fork, generator


def draws(seed: int, stream: str, generation: int) -> list[float]:
    return torch.rand(4, generator=generator(seed, stream, generation)).tolist()


def test_a_generator_is_a_function_of_seed_stream_and_generation() -> None:
    assert draws(1, "select", 2) == draws(1, "select", 2)
    others = [(0, "select", 2), (1, "mutation", 2), (1, "select", 3), (12, "select", 0), (1, "2/select", 2)]
    assert len({tuple(draws(*other)) for other in [(1, "select", 2), *others]}) == 6


def test_a_stream_is_not_moved_by_draws_from_another() -> None:
    context = Context(0, 1, 0.0, torch.device("cpu"))
    alone = torch.rand(3, generator=context.generator("b"))
    torch.rand(1000, generator=context.generator("a"))
    assert torch.equal(alone, torch.rand(3, generator=context.generator("b")))


def test_forked_draws_depend_on_the_source_alone_and_leave_the_global_generator_as_it_was() -> None:
    def inside() -> torch.Tensor:
        with fork(generator(0, "x", 0)):
            return torch.rand(3)

    torch.manual_seed(5)
    first, after = inside(), torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(3))
    torch.manual_seed(99)
    assert torch.equal(first, inside())


def test_forked_advances_its_source() -> None:
    source = generator(0, "x", 0)
    with fork(source):
        first = torch.rand(3)
    with fork(source):
        assert not torch.equal(first, torch.rand(3))
