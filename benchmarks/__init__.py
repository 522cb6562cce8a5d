"""Benchmarks: one harness, and for each op a file that only says what to run beside what.

``ptmkernels bench --list`` shows them; ``ptmkernels bench masked_attention`` runs one.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ptmkernels.benchmarks.harness import Benchmark

# Name on the command line -> what it measures. Each is a module here that defines BENCHMARK.
OPS = {
    "bert": "BERT-base, inference and training step, beside Transformers'",
    "hierarchical_softmax": "the loss beside padded paths in PyTorch, and training beside gensim",
    "masked_attention": "attention over interval masks, beside SDPA, FlexAttention and eager PyTorch",
    "negative_sampling": "the loss beside plain PyTorch, and training beside gensim",
    "neighbors": "the nearest of 200,000 words, of one and of a thousand, beside gensim",
    "relative_attention": "Transformer-XL's and XLNet's attention, beside Transformers' and SDPA",
    "t5": "T5's encoder, training step, beside the same with Transformers' attention",
    "two_stream_attention": "XLNet's two streams, beside two calls of Transformers' and our content stream",
    "xlnet": "XLNet-base, training step, beside Transformers'",
}


def load(op: str) -> Benchmark:
    """The benchmark of an op.

    Raises:
        ValueError: there is none of this name.
    """
    if op not in OPS:
        raise ValueError(f"op is {op!r}; expected one of {', '.join(OPS)}")
    return import_module(f"ptmkernels.benchmarks.{op}").BENCHMARK
