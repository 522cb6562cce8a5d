"""NEZHA (Wei et al. 2019, arXiv:1909.00204)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from ptmkernels.backbones.embeddings import InputEmbeddings, Pooler
from ptmkernels.backbones.encoder import Encoder
from ptmkernels.backbones.transformer import TransformerStack
from ptmkernels.config import dropout, size
from ptmkernels.models.denoising.bert import BertConfig, architecture, layer_config
from ptmkernels.registry import Card, register


@dataclass(kw_only=True)
class NezhaConfig(BertConfig):
    """BERT's configuration, with distances clipped at `max_relative_position` in place of positions.

    The defaults are those of nezha-cn-base. No text is too long; `max_position_embeddings` is not read.
    """

    model_type: ClassVar[str] = "nezha"
    only: ClassVar[dict] = {"is_decoder": False, "add_cross_attention": False}

    vocab_size: int = size(21128)
    max_relative_position: int = size(64)
    classifier_dropout: float | None = dropout(0.1)


def backbone(config: NezhaConfig, with_pooler: bool) -> Encoder:
    """BERT without a position table; each attention adds sinusoids of the distance to keys and values."""
    embeddings = InputEmbeddings(
        config.vocab_size,
        config.hidden_size,
        0,
        segments=config.type_vocab_size,
        pad_token_id=config.pad_token_id,
        norm_eps=config.layer_norm_eps,
        dropout=config.hidden_dropout_prob,
    )
    layers = replace(layer_config(config), max_relative_position=config.max_relative_position)
    stack = TransformerStack(layers, config.num_hidden_layers)
    return Encoder(embeddings, stack, Pooler(config.hidden_size) if with_pooler else None)


LARGE = {
    "num_hidden_layers": 24,
    "hidden_size": 1024,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
}
TINY = {  # for trying; not published
    "num_hidden_layers": 2,
    "hidden_size": 128,
    "num_attention_heads": 2,
    "intermediate_size": 512,
}

register(
    Card(
        name="nezha",
        family="denoising",
        title="NEZHA",
        authors="Wei et al.",
        paper="NEZHA: Neural Contextualized Representation for Chinese Language Understanding",
        year=2019,
        link="arXiv:1909.00204",
        encoder="Transformer encoder, post-norm, functional relative positions",
        objective="masked whole words, next sentence",
        architecture=architecture(NezhaConfig, backbone, "Nezha"),
        presets={"cn-base": {}, "cn-large": LARGE, "tiny": TINY},
        aliases={"base": "cn-base", "large": "cn-large"},
    )
)
