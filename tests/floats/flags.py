"""Runs each CPU kernel over memory full of numbers that nobody wrote, and prints what it computed on.

`python -m tests.floats.flags`, with memory.cpp's library loaded before everything else (LD_PRELOAD) and the
instruction set in PTMKERNELS_CPU_ARCH. All inputs and exact results are normal numbers, so that an operation
with a denormal operand, or an invalid one (a signalling NaN), read memory before anything was written there.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ptmkernels.ops import (
    AliasTable,
    HuffmanTree,
    cbow_step_,
    glove_step_,
    hierarchical_softmax_log_prob,
    hierarchical_softmax_loss,
    negative_sampling_loss,
    skipgram_step_,
)
from ptmkernels.ops.word_vectors import ExactState, reference, word2vec_exact_step_
from tests.ops import attention_cases, relative_cases
from tests.ops.word_vectors.test_steps import case as step_case
from tests.ops.word_vectors.test_steps import subword_case

# One 32-bit word each: a denormal of every type, signalling NaNs.
PATTERNS = {
    "denormal": 0x00010001,
    "signalling float32, bfloat16": 0x7FA17FA1,
    "signalling float16": 0x7D017D01,
    "signalling float64": 0x7FF17FF1,
}
FLAGS = {1: "invalid", 2: "denormal operand"}
LENGTHS = ((1, 1), (1, 150), (7, 7), (63, 63), (64, 64), (65, 130), (150, 37))
HEAD_DIMS = (1, 26, 41, 64, 75, 128)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class Watch(TorchDispatchMode):
    """Fills all memory before each op of ours, and notes what the op raised after it."""

    def __init__(self, memory: ctypes.CDLL):
        super().__init__()
        self.memory, self.pattern, self.found, self.ops = memory, 0, set(), set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace != "ptmkernels":
            return function(*args, **(kwargs or {}))
        self.memory.floats_fill(self.pattern)
        self.memory.floats_clear_flags()
        result = function(*args, **(kwargs or {}))
        raised = self.memory.floats_flags()
        self.memory.floats_fill(0)
        self.ops.add(function._schema.name)
        self.found |= {(function._schema.name, name) for bit, name in FLAGS.items() if raised & bit}
        return result


def attention_runs() -> Iterator[tuple[str, Callable]]:
    """Every mask and bias, every option of relative attention, at many sizes and types."""
    masks = [m for m in attention_cases.MASKS if m != "nothing"]
    biases = [b for b in attention_cases.BIASES if b != "hiding"]
    for i in range(len(masks) * len(biases)):
        length, key_len = LENGTHS[i % len(LENGTHS)]
        if length > key_len:
            key_len = length
        case = attention_cases.Case(
            masks[i % len(masks)], biases[i % len(biases)], (0.0, 0.3)[i % 2], (4, 2, 1)[i % 3],
            DTYPES[i // 5 % 3], HEAD_DIMS[i % 11 % 6], length, key_len, strided=i % 13 == 0,
        )  # fmt: skip
        yield (
            f"attention {case}",
            lambda c=case: attention_cases.kernel(attention_cases.build(c), "cpu"),
        )
    for i in range(60):
        length, key_len = LENGTHS[i % len(LENGTHS)]
        case = relative_cases.RelativeCase(
            ("xl", "xlnet", "clip")[i % 3], ("", "b", "bh")[i // 3 % 3],
            ((), relative_cases.TERMS[:3], relative_cases.TERMS, ("relative_value",))[i % 4],
            ("", "sorted", "any")[i // 2 % 3], masks[i % len(masks)],
            ("none", "table", "full", "keys")[i % 4], (0.0, 0.3)[i % 2], (4, 2, 1)[i % 3],
            DTYPES[i // 5 % 3], HEAD_DIMS[i % 11 % 6], min(length, key_len), max(length, key_len),
        )  # fmt: skip
        yield (
            f"relative {case}",
            lambda c=case: relative_cases.call(*relative_cases.build(c), "cpu"),
        )


def word_vector_runs() -> Iterator[tuple[str, Callable]]:
    """Both steps with each loss, in place and as copies, with sub-words; the losses; GloVe's step."""
    for step in (skipgram_step_, cbow_step_):
        for width in (1, 7, 16, 41, 48, 100, 112):
            for dtype in (torch.float32, torch.bfloat16):
                for loss in (0, 1, 5, 6, 15, "tree"):
                    for subwords in (False, True):
                        name = f"{step.__name__} D{width} {dtype} {loss} sub-words: {subwords}"
                        yield name, lambda a=(step, width, dtype, loss, subwords): _step(*a)
    for width in (1, 16, 41, 100):
        for dtype in (torch.float32, torch.bfloat16):
            yield f"losses D{width} {dtype}", lambda w=width, d=dtype: _losses(w, d)
    for loss in ("negatives", "tree"):
        for cbow in (False, True):
            yield f"exact {loss} {cbow}", lambda a=(loss, cbow): _exact(*a)
    for dtype in (torch.float32, torch.float64):
        yield f"glove {dtype}", lambda d=dtype: _glove(d)


def _step(step, width: int, dtype: torch.dtype, loss: int | str, subwords: bool) -> None:
    counts, tokens, (a, b) = step_case(vocabulary=200, width=width, dtype=dtype)
    options = {"sampler": AliasTable.from_counts(counts), "num_negatives": loss}
    if loss == "tree":
        options, b = {"tree": HuffmanTree.from_counts(counts)}, b[1:]
    if subwords:
        a, options["subwords"] = subword_case(len(counts), width)
    step(
        a.to(dtype), b, tokens, window=5, learning_rate=0.05, seed=torch.tensor([1]),
        backend="cpu", **options,
    )  # fmt: skip


def _losses(width: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    counts = torch.arange(1, 200).flip(0)
    hidden = torch.randn(13, width, generator=generator).to(dtype).requires_grad_()
    weight, nodes = (
        torch.randn(rows, width, generator=generator).to(dtype).requires_grad_()
        for rows in (199, 198)
    )
    target = torch.randint(199, (13,), generator=generator)
    sampler, tree = AliasTable.from_counts(counts), HuffmanTree.from_counts(counts)
    for sparse in (False, True):
        negative_sampling_loss(
            hidden, target, weight, sampler=sampler, num_negatives=5, seed=torch.tensor([1]),
            sparse=sparse, backend="cpu",
        ).backward()  # fmt: skip
        hierarchical_softmax_loss(
            hidden, target, nodes, tree, sparse=sparse, backend="cpu"
        ).backward()
        weight.grad = nodes.grad = None
    hierarchical_softmax_log_prob(hidden, nodes, tree, backend="cpu").sum().backward()


def _exact(loss: str, cbow: bool) -> None:
    counts, tokens, (a, b) = step_case(width=41)
    if loss == "tree":
        options = {"tree": HuffmanTree.from_counts(counts)}
    else:
        options = {"noise_ends": torch.from_numpy(reference.noise_ends(counts.numpy()))}
    word2vec_exact_step_(
        a, b[1:] if loss == "tree" else b, tokens.clamp(min=0), counts=counts, state=ExactState(),
        cbow=cbow, window=5, learning_rate=0.05, epochs=1, **options,
    )  # fmt: skip


def _glove(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    shapes = {"word": (9, 41), "context": (9, 41), "word_bias": (9,), "context_bias": (9,)}
    values = {n: torch.randn(s, generator=generator).to(dtype) for n, s in shapes.items()}
    sums = {f"{n}_sums": torch.ones(s, dtype=dtype) for n, s in shapes.items()}
    pairs = [torch.randint(9, (50,), generator=generator, dtype=torch.int32) for _ in range(2)]
    glove_step_(values | sums, *pairs, torch.rand(50, dtype=torch.float64) + 0.5)


def unwritten(memory: ctypes.CDLL) -> None:
    """What a sum over memory that nobody wrote raises with each pattern."""
    for name, pattern in PATTERNS.items():
        memory.floats_fill(pattern)
        numbers = torch.empty(100_000)
        memory.floats_clear_flags()
        numbers + 1.0
        raised = memory.floats_flags()
        memory.floats_fill(0)
        for bit, flag in FLAGS.items():
            if raised & bit:
                print(f"{name}: {flag}")


def main() -> None:
    torch.set_num_threads(1)
    memory = ctypes.CDLL(None)
    memory.floats_fill.argtypes = [ctypes.c_uint32]
    if sys.argv[1:] == ["unwritten"]:
        return unwritten(memory)
    watch = Watch(memory)
    for name, run in (*attention_runs(), *word_vector_runs()):
        for pattern, watch.pattern in PATTERNS.items():
            watch.found.clear()
            with watch:
                run()
            for op, what in sorted(watch.found):
                print(f"{op}: {what}, memory {pattern}: {name}", flush=True)
    print("watched", *sorted(watch.ops))


if __name__ == "__main__":
    main()
