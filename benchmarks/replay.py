"""Calls recorded as CUDA graphs, so that what is timed is the kernels, not the Python."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor

WARM_UPS = 3  # before a recording: what is compiled, loaded or allocated once stays out of it


class Replay:
    """A call, recorded once; calling this object runs its kernels again, on the same tensors.

    The recording runs on the current stream, which must be that of :func:`recording_stream`.

    Raises:
        RuntimeError: the call cannot be recorded, because it waits for the device, for example.
    """

    def __init__(self, call: Callable[[], Sequence[Tensor | None]]) -> None:
        for _ in range(WARM_UPS):
            call()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, stream=torch.cuda.current_stream()):
            self.results = call()

    def __call__(self) -> None:
        self.graph.replay()

    def poisoned(self, inputs: Iterable[Tensor]) -> Sequence[Tensor | None]:
        """The results of a replay over NaN, so that an element which is not written shows.

        Args:
            inputs: the tensors of the call; results that share their memory are left as they are.
        """
        kept = {tensor.untyped_storage().data_ptr() for tensor in inputs}
        for result in self.results:
            if result is not None and result.untyped_storage().data_ptr() not in kept:
                result.untyped_storage().fill_(0xFF)  # NaN in every floating-point type
        self.graph.replay()
        return self.results


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


@contextmanager
def recording_stream(device: torch.device) -> Iterator[None]:
    """Makes a stream of its own the current one on a GPU: the default stream cannot be recorded.

    Backward formulas run on the stream of their forward, so both belong inside.
    """
    if device.type != "cuda":
        yield
        return
    before, stream = torch.cuda.current_stream(device), _stream(device)
    stream.wait_stream(before)
    with torch.cuda.stream(stream):
        yield
    before.wait_stream(stream)
