"""What a model of the zoo is: an architecture, a head, and weights with published names."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ptmkernels.config import Config, nearest

__all__ = ["Architecture", "Head", "Model", "init_truncated_normal"]


def truncated_normal_(tensor: Tensor, std: float) -> None:
    """Fill with a normal distribution cut at two standard deviations, by its inverse distribution.

    Several times faster than nn.init.trunc_normal_, which takes tens of seconds for a large model.
    """
    within = math.erf(math.sqrt(2.0))  # the probability of two standard deviations
    sample = torch.empty_like(tensor, dtype=torch.float32).uniform_(-within, within)
    tensor.copy_(sample.erfinv_().mul_(std * math.sqrt(2.0)).clamp_(-2.0 * std, 2.0 * std))


def init_truncated_normal(module: nn.Module, config: Config) -> None:
    """BERT's initialisation of one module's own parameters.

    Weights from a normal distribution cut at two standard deviations, biases 0, norms 1; the padding
    token's embedding 0 (Devlin et al. 2019, released code).
    """
    std = config.initializer_range
    for name, parameter in module.named_parameters(recurse=False):
        if isinstance(module, nn.LayerNorm | nn.RMSNorm):
            nn.init.constant_(parameter, float(name == "weight"))
        elif name == "bias":
            nn.init.zeros_(parameter)
        else:
            truncated_normal_(parameter, std)
    if isinstance(module, nn.Embedding) and module.padding_idx is not None:
        nn.init.zeros_(module.weight[module.padding_idx])


def no_constants(config: Config) -> Mapping[str, Tensor]:
    """A published file holds weights only."""
    return {}


@dataclass(frozen=True)
class Head:
    """A task on a backbone: the class that does it and the name that config.json calls it by."""

    model: type[Model]
    published: str


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Everything that the models of one `model_type` share.

    Args:
        config: the configuration class; its `model_type` is that of config.json.
        backbone: builds the backbone, (config, with_pooler) -> module.
        heads: the tasks by name; "backbone" is the bare one.
        prefix: what published names of the backbone's weights begin with where a head is there too.
        renames: (ours, published) parts of weight names, replaced one after another.
        redundant: patterns of published names that may stand in a file and mean nothing where no weight has
            that name: tied copies, buffers.
        aliases: second published names of weights, by which they are read where a file has both; they are
            written too where embeddings are not tied, since Transformers 5 ties neither then.
        constants: fixed tensors that a published file holds beside the weights, by their published names.
        initialise: fills one module's own parameters.
    """

    config: type[Config]
    backbone: Callable[[Config, bool], nn.Module]
    heads: Mapping[str, Head]
    prefix: str
    renames: tuple[tuple[str, str], ...]
    redundant: tuple[str, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    constants: Callable[[Config], Mapping[str, Tensor]] = no_constants
    initialise: Callable[[nn.Module, Config], None] = field(default=init_truncated_normal)

    @property
    def model_type(self) -> str:
        return self.config.model_type

    def head(self, name: str) -> Head:
        """The task of that name.

        Raises:
            ValueError: there is none; the nearest names are given.
        """
        if name not in self.heads:
            raise ValueError(
                f"{self.model_type} has no head {name!r}; {nearest(name, list(self.heads))}"
            )
        return self.heads[name]

    def head_of(self, published: str) -> str | None:
        """The head that config.json calls `published`, or None where it is none of ours."""
        return {head.published: name for name, head in self.heads.items()}.get(published)

    def build(self, head: str, config: Config) -> Model:
        """The model on the current device, its weights not set."""
        model = self.head(head).model(config, self)
        model.architecture, model.head = self, head
        return model

    def is_redundant(self, published: str) -> bool:
        """Whether a tensor of that name means nothing, unless a weight is called so."""
        return any(fnmatchcase(published, pattern) for pattern in self.redundant)

    def weight_names(self, head: str, config: Config) -> set[str]:
        """The published names of the weights with that head, backbone prefix included."""
        config = config.replace(
            num_labels=2
        )  # any head can be built with two, and names are the same
        with torch.device("meta"):
            return set(map(self.published_name, self.build(head, config).state_dict()))

    def published_name(self, name: str) -> str:
        """The published name of our parameter `name`, backbone prefix included."""
        for ours, published in self.renames:
            name = name.replace(ours, published)
        return name


class Model(nn.Module):
    """A backbone and, in subclasses, a head.

    Attributes:
        config: the configuration.
        architecture: what all models of this `model_type` share.
        head: the name of the task, "backbone" for the bare one.
    """

    architecture: Architecture
    head: str
    with_pooler = True  # whether the task reads the pooled first token
    # Transformers' Trainer would hand the number of labels to any forward with **keywords.
    accepts_loss_kwargs = False

    def __init__(self, config: Config, architecture: Architecture) -> None:
        super().__init__()
        self.config = config
        self.backbone = architecture.backbone(config, self.with_pooler)

    @property
    def num_labels(self) -> int:
        return self.config.num_labels

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    def num_parameters(self) -> int:
        """How many weights there are; tied ones count once."""
        return sum(parameter.numel() for parameter in self.parameters())

    def published_names(self) -> dict[str, str]:
        """Our name of each parameter, and the one that it has in a file."""
        names = {name: self.architecture.published_name(name) for name in self.state_dict()}
        if self.head == "backbone":
            prefix = self.architecture.prefix
            names = {name: published.removeprefix(prefix) for name, published in names.items()}
        return names

    def published_weights(self) -> dict[str, Tensor]:
        """The weights under their published names, not copied, and the constants that go with them."""
        state = self.state_dict()
        weights = {published: state[name] for name, published in self.published_names().items()}
        if not self.config.tie_word_embeddings:
            aliases = self.architecture.aliases.items()
            weights |= {second: weights[first] for second, first in aliases if first in weights}
        prefix = self.architecture.prefix if self.head == "backbone" else ""
        constants = self.architecture.constants(self.config)
        return weights | {name.removeprefix(prefix): value for name, value in constants.items()}

    def gradient_checkpointing_enable(self, enabled: bool = True) -> None:
        """Keep only each layer's input in training, and compute the rest again in the backward pass."""
        for module in self.modules():
            if hasattr(module, "gradient_checkpointing"):
                module.gradient_checkpointing = enabled

    def gradient_checkpointing_disable(self) -> None:
        self.gradient_checkpointing_enable(False)

    def initialise(self, only: set[str] | None = None) -> None:
        """Give the parameters their starting values.

        Args:
            only: names; modules that own none of them are left as they are. None = all.
        """
        with torch.no_grad():
            for prefix, module in self.named_modules():
                own = [
                    f"{prefix}.{n}".lstrip(".") for n, _ in module.named_parameters(recurse=False)
                ]
                if own and (only is None or not only.isdisjoint(own)):
                    self.architecture.initialise(module, self.config)

    def save_pretrained(self, folder: str | Path, **options: Any) -> None:
        """Write config.json and model.safetensors; see :func:`ptmkernels.hub.save_pretrained`."""
        from ptmkernels.hub import save_pretrained

        save_pretrained(self, folder, **options)
