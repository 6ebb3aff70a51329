"""What is sent through a pipe comes whole, in turn, and where it ends is heard."""

import pickle
import socket
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from neuroevo.remote.pipe import Pipe


@pytest.fixture
def ends() -> Iterator[tuple[Pipe, Pipe]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield Pipe(ours), Pipe(theirs, lambda size: np.empty(size, np.uint8))


def test_a_message_and_its_buffers_come_as_they_were(ends: tuple[Pipe, Pipe]) -> None:
    ours, theirs = ends
    buffers = [np.arange(6.0).reshape(2, 3), b"", np.random.default_rng(0).bytes(5_000_000)]
    thread = threading.Thread(target=ours.send, args=[("what", 1, None), buffers])
    thread.start()
    message, found = theirs.receive()
    thread.join()
    assert message == ("what", 1, None)
    assert [bytes(buffer) for buffer in found] == [bytes(buffer) for buffer in buffers]
    theirs.send("nothing beside it")
    assert ours.receive() == ("nothing beside it", [])


def test_messages_of_several_threads_dont_mix(ends: tuple[Pipe, Pipe]) -> None:
    ours, theirs = ends
    senders = [threading.Thread(target=ours.send, args=[n, [bytes([n]) * 400_000]]) for n in range(8)]
    for sender in senders:
        sender.start()
    found = [theirs.receive() for _ in senders]
    assert sorted(n for n, _ in found) == list(range(8))
    assert all(bytes(buffer) == bytes([n]) * 400_000 for n, (buffer,) in found)


def test_a_pipe_that_is_shut_or_cut_within_a_message_says_so(ends: tuple[Pipe, Pipe]) -> None:
    ours, theirs = ends
    ours.end.sendall(bytes(7) + bytes([200]) + pickle.dumps("cut"))
    ours.shut()
    with pytest.raises(EOFError):
        theirs.receive()
    with pytest.raises(OSError):
        ours.send("nobody")
    ours.close()
    with pytest.raises(EOFError):
        theirs.receive()
