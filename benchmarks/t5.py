"""A training step of T5's encoder, Transformers' own, beside the same with our attention in its place.

The attention has T5's bucketed bias, which every layer shares and which gets a gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import MethodType

import torch
from torch import Tensor, nn

from ptmkernels.benchmarks.harness import Benchmark, Case, Options, Provider
from ptmkernels.benchmarks.providers import from_setup
from ptmkernels.benchmarks.training_step import SERIES, matrix_weights, step_case, step_of
from ptmkernels.ops.attention import BucketedBias, masked_attention

BASE = {"d_model": 768, "d_kv": 64, "d_ff": 3072, "num_layers": 12, "num_heads": 12}
SMALL = {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4}
LENGTHS = {"cpu": (128,), "cuda": (512, 1024)}  # L
TOKENS = {"cpu": 256, "cuda": 16384}  # in a batch
PEER = "transformers"


@dataclass(frozen=True)
class Setup:
    """Sizes of the model, and the tokens (B, L)."""

    sizes: dict[str, int]
    ids: Tensor


def cases(options: Options) -> Iterator[Case]:
    """Every length and dtype that the options ask for."""
    if options.series and SERIES not in options.series:
        return
    sizes = SMALL if options.quick else BASE
    for length in options.sizes or LENGTHS[options.device.type]:
        batch = max(1, TOKENS[options.device.type] // length)
        setup = Setup(sizes, torch.randint(0, 1000, (batch, length), device=options.device))
        for dtype in options.dtypes:
            yield _case(setup, dtype)


def _case(setup: Setup, dtype: torch.dtype) -> Case:
    model = _encoder(setup)
    batch, length = setup.ids.shape
    layers, width = setup.sizes["num_layers"], setup.sizes["num_heads"] * setup.sizes["d_kv"]
    shape = {"B": batch, "L": length, "tokens": batch * length}
    operations = 2.0 * matrix_weights(model) * batch * length
    operations += 4.0 * layers * width * batch * length**2
    return step_case(shape, dtype, model, _transformers(setup), setup, layers, operations)


def _encoder(setup: Setup) -> nn.Module:
    """The same weights in every call."""
    import transformers

    config = transformers.T5Config(**setup.sizes, vocab_size=1000, dropout_rate=0.0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return transformers.T5EncoderModel(config).to(setup.ids.device)


def providers(case: Case, options: Options) -> Sequence[Provider]:
    """With our attention, and Transformers' alone."""
    return [
        Provider("ptmkernels", from_setup(_ours), against=None),
        Provider(PEER, from_setup(_transformers)),
    ]


def _hidden(output: object) -> Tensor:
    return output.last_hidden_state


def _transformers(setup: Setup) -> Callable[..., Tensor]:
    return step_of(_encoder(setup), {"input_ids": setup.ids}, _hidden)


def _ours(setup: Setup) -> Callable[..., Tensor]:
    model = _encoder(setup)
    for block in model.encoder.block:
        attention = block.layer[0].SelfAttention
        attention.forward = MethodType(_attention, attention)
    return step_of(model, {"input_ids": setup.ids}, _hidden)


def _attention(self, hidden_states: Tensor, *unused, position_bias=None, **ignored) -> tuple:
    """In the place of T5Attention.forward, for an encoder without padding.

    The first layer makes the bias, which Transformers hands to the next ones.
    """

    def heads(projection: nn.Module) -> Tensor:
        return projection(hidden_states).unflatten(-1, (self.n_heads, -1)).transpose(1, 2)

    if position_bias is None:
        table, farthest = self.relative_attention_bias.weight, self.relative_attention_max_distance
        position_bias = BucketedBias.t5(table, hidden_states.shape[1], max_distance=farthest)
    query, key, value = (heads(projection) for projection in (self.q, self.k, self.v))
    attended = masked_attention(query, key, value, bias=position_bias, scale=1.0)
    return self.o(attended.transpose(1, 2).flatten(2)), position_bias, None


def goal(case: Case, mode: str, provider: str) -> float | None:
    """No goal is stated for the whole model."""
    return None


BENCHMARK = Benchmark("t5", PEER, cases, providers, goal)
