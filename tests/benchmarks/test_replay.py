"""Recorded calls: what a replay does not write shows, and on a GPU what is recorded."""

import pytest
import torch

from ptmkernels.benchmarks.replay import Replay, recording_stream

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


class Graph:
    """In the place of a recorded graph: writes only the first half of a result."""

    def __init__(self, result):
        self.result = result

    def replay(self):
        self.result[:2] = 3.0


def test_what_a_replay_does_not_write_is_nan():
    query, result = torch.ones(4), torch.ones(4)
    replay = Replay.__new__(Replay)
    replay.graph, replay.results = Graph(result), (result, query[1:], None)
    found = replay.poisoned([query])
    assert found[0][:2].tolist() == [3.0, 3.0]
    assert found[0][2:].isnan().all()
    assert query.tolist() == [1.0] * 4  # the memory of an input is left alone


@pytest.mark.gpu
@GPU
def test_a_recording_gives_the_answer_of_the_call():
    device = torch.device("cuda")
    with recording_stream(device):
        x = torch.randn(70, device=device, requires_grad=True)

        def call():
            return torch.autograd.grad((x**3).sum(), x)

        replay = Replay(call)
        (found,) = replay.poisoned([x])
        torch.testing.assert_close(found, 3 * x.detach() ** 2)
        with torch.no_grad():
            x.mul_(0.5)
        replay()
        torch.testing.assert_close(found, 3 * x.detach() ** 2)


@pytest.mark.gpu
@GPU
def test_a_call_that_waits_for_the_device_is_refused():
    with recording_stream(torch.device("cuda")):
        x = torch.ones(3, device="cuda")
        with pytest.raises(RuntimeError):
            Replay(lambda: (x * x.sum().item(),))
