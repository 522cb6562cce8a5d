"""BERT (Devlin et al. 2019, arXiv:1810.04805)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from ptmkernels.backbones.embeddings import InputEmbeddings, Pooler
from ptmkernels.backbones.encoder import Encoder
from ptmkernels.backbones.transformer import ACTIVATIONS, LayerConfig, TransformerStack
from ptmkernels.config import Config, choice, dropout, positive, size
from ptmkernels.models import tasks
from ptmkernels.models.base import Architecture, Head
from ptmkernels.registry import Card, register


@dataclass(kw_only=True)
class BertConfig(Config):
    """BERT's configuration; the defaults are those of bert-base-uncased."""

    model_type: ClassVar[str] = "bert"
    only: ClassVar[dict] = {
        "position_embedding_type": "absolute",
        "is_decoder": False,
        "add_cross_attention": False,
        "pruned_heads": {},
    }

    vocab_size: int = size(30522)
    hidden_size: int = size(768)
    num_hidden_layers: int = size(12, most=1000)
    num_attention_heads: int = size(12)
    intermediate_size: int = size(3072)
    hidden_act: str = choice("gelu", ACTIVATIONS)
    hidden_dropout_prob: float = dropout(0.1)
    attention_probs_dropout_prob: float = dropout(0.1)
    max_position_embeddings: int = size(512)
    type_vocab_size: int = size(2)
    layer_norm_eps: float = positive(1e-12)
    pad_token_id: int | None = 0
    classifier_dropout: float | None = dropout(None)

    def validate(self) -> None:
        super().validate()
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size is {self.hidden_size}; expected a multiple of "
                f"num_attention_heads = {self.num_attention_heads}"
            )
        if self.pad_token_id is not None and not 0 <= self.pad_token_id < self.vocab_size:
            raise ValueError(
                f"pad_token_id is {self.pad_token_id}; expected 0..{self.vocab_size - 1}"
            )


def layer_config(config: BertConfig) -> LayerConfig:
    """BERT's layers: post-norm, biases everywhere."""
    return LayerConfig(
        hidden_size=config.hidden_size,
        num_heads=config.num_attention_heads,
        intermediate_size=config.intermediate_size,
        activation=config.hidden_act,
        norm_eps=config.layer_norm_eps,
        dropout=config.hidden_dropout_prob,
        attention_dropout=config.attention_probs_dropout_prob,
    )


def backbone(config: BertConfig, with_pooler: bool) -> Encoder:
    """Token, position and segment embeddings, post-norm layers, tanh pooler."""
    embeddings = InputEmbeddings(
        config.vocab_size,
        config.hidden_size,
        config.max_position_embeddings,
        segments=config.type_vocab_size,
        pad_token_id=config.pad_token_id,
        norm_eps=config.layer_norm_eps,
        dropout=config.hidden_dropout_prob,
    )
    stack = TransformerStack(layer_config(config), config.num_hidden_layers)
    return Encoder(embeddings, stack, Pooler(config.hidden_size) if with_pooler else None)


LAYER_RENAMES = (
    ("attention.query.", "attention.self.query."),
    ("attention.key.", "attention.self.key."),
    ("attention.value.", "attention.self.value."),
    ("attention.output.", "attention.output.dense."),
    ("attention_norm.", "attention.output.LayerNorm."),
    ("feed_forward.up.", "intermediate.dense."),
    ("feed_forward.down.", "output.dense."),
    ("feed_forward_norm.", "output.LayerNorm."),
)

EMBEDDING_RENAMES = (
    ("embeddings.tokens.", "embeddings.word_embeddings."),
    ("embeddings.positions.", "embeddings.position_embeddings."),
    ("embeddings.segments.", "embeddings.token_type_embeddings."),
    ("embeddings.norm.", "embeddings.LayerNorm."),
)


def architecture(
    config: type[BertConfig], backbone: Callable[[BertConfig, bool], Encoder], published: str
) -> Architecture:
    """All tasks of a model of BERT's make.

    Args:
        config, backbone: its own.
        published: what Transformers' classes of it are called by, such as "Bert".
    """
    prefix = f"{published.lower()}."
    return Architecture(
        config=config,
        backbone=backbone,
        prefix=prefix,
        heads={
            "backbone": Head(tasks.EncoderModel, f"{published}Model"),
            "pretraining": Head(tasks.PreTraining, f"{published}ForPreTraining"),
            "masked-lm": Head(tasks.MaskedLM, f"{published}ForMaskedLM"),
            "next-sentence": Head(tasks.NextSentence, f"{published}ForNextSentencePrediction"),
            "sequence-classification": Head(
                tasks.SequenceClassification, f"{published}ForSequenceClassification"
            ),
            "token-classification": Head(
                tasks.TokenClassification, f"{published}ForTokenClassification"
            ),
            "question-answering": Head(tasks.QuestionAnswering, f"{published}ForQuestionAnswering"),
            "multiple-choice": Head(tasks.MultipleChoice, f"{published}ForMultipleChoice"),
        },
        renames=(
            ("backbone.stack.layers.", f"{prefix}encoder.layer."),
            ("backbone.", prefix),
            *LAYER_RENAMES,
            *EMBEDDING_RENAMES,
            ("lm_head.dense.", "cls.predictions.transform.dense."),
            ("lm_head.norm.", "cls.predictions.transform.LayerNorm."),
            ("lm_head.", "cls.predictions."),
            ("next_sentence.", "cls.seq_relationship."),
            ("tagger.", "classifier."),
            ("span.", "qa_outputs."),
        ),
        redundant=(
            "cls.predictions.decoder.weight",
            "cls.predictions.decoder.bias",
            f"{prefix}embeddings.position_ids",
        ),
    )


BERT = architecture(BertConfig, backbone, "Bert")


def _sizes(layers: int, hidden: int) -> dict[str, int]:
    """The published proportions: heads of 64, a feed-forward network four times as wide."""
    return {
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": hidden // 64,
        "intermediate_size": 4 * hidden,
    }


BASE, LARGE = _sizes(12, 768), _sizes(24, 1024)
CASED, CHINESE = {"vocab_size": 28996}, {"vocab_size": 21128}

register(
    Card(
        name="bert",
        family="denoising",
        title="BERT",
        authors="Devlin et al.",
        paper="BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding",
        year=2019,
        link="arXiv:1810.04805",
        encoder="Transformer encoder, post-norm",
        objective="masked tokens, next sentence",
        architecture=BERT,
        presets={
            "base-uncased": BASE,
            "base-cased": BASE | CASED,
            "large-uncased": LARGE,
            "large-cased": LARGE | CASED,
            "large-uncased-whole-word-masking": LARGE,
            "large-cased-whole-word-masking": LARGE | CASED,
            "base-multilingual-uncased": BASE | {"vocab_size": 105879},
            "base-multilingual-cased": BASE | {"vocab_size": 119547},
            "base-chinese": BASE | CHINESE,
            # Turc et al. 2019, Well-Read Students Learn Better, arXiv:1908.08962
            "tiny": _sizes(2, 128),
            "mini": _sizes(4, 256),
            "small": _sizes(4, 512),
            "medium": _sizes(8, 512),
        },
        aliases={"base": "base-uncased", "large": "large-uncased"},
    )
)
