"""BERT-base beside Transformers' (its SDPA model), the same weights: inference, and a training step.

A step is what pre-training repeats: the loss (masked tokens and next sentence) and its gradients; what the
optimizer does with them is the same for both. Dropout is off, or no two answers would be alike. The gradients
of the key biases are left out: the softmax does not see them, so they are round-off alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import functional_call

from ptmkernels.benchmarks.harness import BOTH, FORWARD, Benchmark, Case, Options, Provider
from ptmkernels.benchmarks.machine import Work
from ptmkernels.benchmarks.providers import from_setup
from ptmkernels.models.base import Model
from ptmkernels.registry import create_model

INFERENCE, TRAINING = "inference", "training"
HALF_PADDED = "half-padded"
QUICK_SERIES = (INFERENCE, f"{INFERENCE}-{HALF_PADDED}")
SERIES = (*QUICK_SERIES, TRAINING, f"{TRAINING}-{HALF_PADDED}")
LENGTHS = {"cpu": (128,), "cuda": (128, 512)}  # L
TOKENS = {"cpu": 256, "cuda": 16384}  # real ones in a batch
SHARES = (1.0, 0.625, 0.25, 0.125)  # of L that rows of a half-padded batch have, in turn; mean 1/2
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
PREDICTED = 7  # one token in seven is to be predicted

# Times as fast as Transformers: without padding, and with half of the batch padded.
GOALS = {False: 1.0, True: 1.3}
ATTENTIONS = ("sdpa", "eager")  # of Transformers


@dataclass(frozen=True)
class Setup:
    """A batch and the model on it.

    Args:
        model: ours, whose weights the inputs replace.
        training: the result is the loss, else the last hidden state of the real tokens.
        padded: half of the tokens are padding.
        fixed: weights that are no inputs, because the result has no gradient in them, by our names.
    """

    model: Model
    training: bool
    padded: bool
    fixed: dict[str, Tensor]


def cases(options: Options) -> Iterator[Case]:
    """Every series x length x dtype that the options ask for."""
    series = options.series or (QUICK_SERIES if options.quick else SERIES)
    unknown = set(series) - set(SERIES)
    if unknown:
        raise ValueError(f"series is {sorted(unknown)}; expected some of {', '.join(SERIES)}")
    for name in series:
        training, padded = name.startswith(TRAINING), name.endswith(HALF_PADDED)
        setup = _setup(training, padded, options.device)
        for length in options.sizes or LENGTHS[options.device.type]:
            for dtype in options.dtypes:
                yield _case(name, length, dtype, options.device, setup)


def _setup(training: bool, padded: bool, device: torch.device) -> Setup:
    torch.manual_seed(0)
    head = "pretraining" if training else "backbone"
    model = create_model("bert-base-uncased", head, device=device, **NO_DROPOUT)
    fixed = {
        name: parameter.detach()
        for name, parameter in model.named_parameters()
        if name.endswith("key.bias") or (not training and ".pooler." in name)
    }
    return Setup(model, training, padded, fixed)


def _case(series: str, length: int, dtype: torch.dtype, device: torch.device, setup: Setup) -> Case:
    batch = _batch(length, setup, device)
    shape = {
        "B": batch["input_ids"].shape[0],
        "L": length,
        "tokens": int(batch["attention_mask"].sum()),
    }

    def inputs() -> dict[str, Tensor]:
        # Leaves of their own: no provider may change another's weights.
        weights = {
            name: parameter.detach().to(dtype, copy=True)
            for name, parameter in setup.model.named_parameters()
            if name not in setup.fixed
        }
        return weights | batch

    mode = BOTH if setup.training else FORWARD
    return Case(
        *(series, length, shape, dtype, device, inputs),
        reference=_transformers(setup, "eager"),
        work={mode: _work(setup, batch)},
        setup=setup,
        modes=(mode,),
        depth=setup.model.config.num_hidden_layers,
    )


def _batch(length: int, setup: Setup, device: torch.device) -> dict[str, Tensor]:
    """Random tokens, every row beginning with a real one, padded on the right."""
    shares = SHARES if setup.padded else (1.0,)
    rows = max(1, round(TOKENS[device.type] / length / sum(shares))) * len(shares)
    lengths = torch.tensor([max(1, round(share * length)) for share in shares])
    lengths = lengths.repeat(rows // len(shares))
    mask = (torch.arange(length) < lengths[:, None]).long()
    vocabulary = setup.model.config.vocab_size
    batch = {
        "input_ids": torch.randint(1, vocabulary, mask.shape) * mask,
        "attention_mask": mask,
        "token_type_ids": (torch.arange(length) >= lengths[:, None] // 2).long() * mask,
    }
    if setup.training:
        predicted = (torch.arange(mask.numel()).view(mask.shape) % PREDICTED == 3) & mask.bool()
        labels = torch.randint(1, vocabulary, mask.shape)
        batch["labels"] = torch.where(predicted, labels, -100)
        # All alike: opposite gradients would cancel to nothing but round-off.
        batch["next_sentence_label"] = torch.zeros(rows, dtype=torch.long)
    return {name: tensor.to(device) for name, tensor in batch.items()}


def _work(setup: Setup, batch: dict[str, Tensor]) -> Work:
    """Two operations for each weight of the layers and real token, four for each pair of tokens of a row and
    dimension; with the gradients three times as much, and the vocabulary for each predicted token."""
    config = setup.model.config
    width = config.hidden_size
    weights = config.num_hidden_layers * width * (4 * width + 2 * config.intermediate_size)
    lengths = batch["attention_mask"].sum(1)
    operations = 2.0 * weights * int(lengths.sum())
    operations += 4.0 * config.num_hidden_layers * width * int((lengths**2).sum())
    if setup.training:
        predicted = int((batch["labels"] >= 0).sum())
        operations = 3 * (operations + 2.0 * predicted * width * (config.vocab_size + width))
    return Work(operations, 4.0 * weights * (3 if setup.training else 1))


def providers(case: Case, options: Options) -> Sequence[Provider]:
    """Ours, in training with the logits of every token too, as Transformers has them; and Transformers'."""
    found = [Provider("ptmkernels", from_setup(_ours), against=None)]
    if case.setup.training:
        build = from_setup(_ours, every_logit=True)
        found.append(Provider("ptmkernels, every logit", build))
    names = ATTENTIONS[:1] if options.quick else ATTENTIONS
    return found + [Provider(n, from_setup(_transformers, attention=n)) for n in names]


def _ours(setup: Setup, every_logit: bool = False) -> Callable[..., Tensor]:
    options = {"labelled_only": not every_logit} if setup.training else {}
    return _function(setup.model, setup, {}, options)


def _transformers(setup: Setup, attention: str) -> Callable[..., Tensor]:
    import transformers

    config = transformers.BertConfig(**setup.model.config.to_dict())
    auto = transformers.AutoModelForPreTraining if setup.training else transformers.AutoModel
    with torch.random.fork_rng():
        model = auto.from_config(config, attn_implementation=attention)
    return _function(model.to(setup.model.device), setup, setup.model.published_names(), {})


def _function(
    model: torch.nn.Module, setup: Setup, names: Mapping[str, str], options: dict[str, bool]
) -> Callable[..., Tensor]:
    """The result as a function of weights and batch.

    Args:
        names: those of the model's weights by ours, where they differ.
    """

    def function(**inputs: Tensor) -> Tensor:
        weights = {n: t for n, t in inputs.items() if t.is_floating_point()}
        batch = {n: t for n, t in inputs.items() if n not in weights}
        dtype = next(iter(weights.values())).dtype
        weights |= {name: weight.to(dtype) for name, weight in setup.fixed.items()}
        weights = {names.get(name, name): weight for name, weight in weights.items()}
        output = functional_call(model, weights, (), batch | options)
        if setup.training:
            return output.loss
        return output.last_hidden_state[batch["attention_mask"].bool()]

    return function


def goal(case: Case, mode: str, provider: str) -> float | None:
    """How many times as fast as `provider` we want to be, where a goal is set."""
    return GOALS[case.setup.padded] if provider == "sdpa" else None


BENCHMARK = Benchmark("bert", "sdpa", cases, providers, goal)
