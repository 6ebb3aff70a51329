import os
from collections.abc import Iterator

import pytest
import torch

from neuroevo.engine import threads


@pytest.fixture(params=[1, 2, 5])
def several(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_every_piece_is_done_once_by_any_number_of_threads(several: int) -> None:
    done: list[int] = []
    threads.share(done.append, range(50))
    assert sorted(done) == [*range(50)]


def test_an_error_of_a_piece_gets_through(several: int) -> None:
    def work(piece: int) -> None:
        if piece == 7:
            raise ValueError("seven")

    with pytest.raises(ValueError, match="seven"):
        threads.share(work, range(9))


@pytest.mark.filterwarnings("ignore:.*fork")
def test_a_forked_process_has_threads_of_its_own(several: int) -> None:
    threads.share(lambda piece: None, range(9))
    child = os.fork()
    if not child:
        done: list[int] = []
        threads.share(done.append, range(9))
        os._exit(0 if sorted(done) == [*range(9)] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
