"""XLNet-base beside Transformers', the same weights: the training step of the permutation language model.

An order of its own for each row, one token in six to be predicted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from ptmkernels.benchmarks.harness import Benchmark, Case, Options, Provider
from ptmkernels.benchmarks.providers import from_setup
from ptmkernels.benchmarks.training_step import SERIES, matrix_weights, step_case, step_of
from ptmkernels.models.base import Model
from ptmkernels.registry import create_model

LENGTHS = {"cpu": (128,), "cuda": (512,)}  # L
TOKENS = {"cpu": 256, "cuda": 8192}  # in a batch
PREDICTED = 6  # one token in so many
PEER = "transformers"


@dataclass(frozen=True)
class Setup:
    """The model, and a batch in our form.

    Args:
        batch: input_ids (B, L), labels (B, P), perm_rank (B, L), target_mapping (B, P).
    """

    model: Model
    batch: dict[str, Tensor]


def cases(options: Options) -> Iterator[Case]:
    """Every length and dtype that the options ask for."""
    if options.series and SERIES not in options.series:
        return
    model = small_or_base(options)
    for length in options.sizes or LENGTHS[options.device.type]:
        for dtype in options.dtypes:
            yield _case(length, dtype, model)


def small_or_base(options: Options) -> Model:
    """XLNet-base; a small one where the options ask for little."""
    torch.manual_seed(0)
    name = "xlnet-tiny" if options.quick else "xlnet-base-cased"
    return create_model(name, "permutation-lm", device=options.device, dropout=0.0)


def _case(length: int, dtype: torch.dtype, model: Model) -> Case:
    batch = max(1, TOKENS[model.device.type] // length)
    setup = Setup(model, _batch(batch, length, model))
    predicted, config = setup.batch["labels"].shape[1], model.config
    shape = {"B": batch, "L": length, "P": predicted, "tokens": batch * length}
    rows = batch * (length + predicted)
    operations = 2.0 * matrix_weights(model) * rows
    operations += 6.0 * config.n_layer * config.d_model * rows * length
    operations += 2.0 * batch * predicted * config.d_model * config.vocab_size
    reference = _transformers(setup)
    return step_case(shape, dtype, model, reference, setup, config.n_layer, operations)


def _batch(batch: int, length: int, model: Model) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, model.config.vocab_size, (batch, length), generator=generator)
    order = torch.rand(batch, length, generator=generator).argsort(1)
    rank = order.argsort(1)
    places = order[:, length - max(1, length // PREDICTED) :].sort(1).values
    rank[rank < length - places.shape[1]] = -1  # what is not predicted sees all of its kind
    found = {
        "input_ids": ids,
        "labels": ids.gather(1, places),
        "perm_rank": rank,
        "target_mapping": places,
    }
    return {name: tensor.to(model.device) for name, tensor in found.items()}


def providers(case: Case, options: Options) -> Sequence[Provider]:
    """Ours, and Transformers'."""
    return [
        Provider("ptmkernels", from_setup(_ours), against=None),
        Provider(PEER, from_setup(_transformers)),
    ]


def _loss(output: object) -> Tensor:
    return output.loss


def _ours(setup: Setup) -> Callable[..., Tensor]:
    return step_of(setup.model, setup.batch, _loss)


def _transformers(setup: Setup) -> Callable[..., Tensor]:
    import transformers

    config = transformers.XLNetConfig(**setup.model.config.to_dict())
    with torch.random.fork_rng():
        model = transformers.XLNetLMHeadModel(config).to(setup.model.device)
    return step_of(model, _dense(setup.batch), _loss, setup.model.published_names())


def _dense(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The order and the targets as the matrices that Transformers takes: (B, L, L) and (B, P, L)."""
    rank, places = batch["perm_rank"], batch["target_mapping"]
    length = rank.shape[1]
    targets = torch.zeros_like(rank, dtype=torch.bool).scatter(1, places, True)
    highest = rank - targets.long()
    matrices = {
        "perm_mask": (rank[:, None, :] > highest[:, :, None]).float(),
        "target_mapping": one_hot(places, length).float(),
    }
    return {n: t for n, t in batch.items() if n in ("input_ids", "labels")} | matrices


def goal(case: Case, mode: str, provider: str) -> float | None:
    """No goal is stated for the whole model."""
    return None


BENCHMARK = Benchmark("xlnet", PEER, cases, providers, goal)
