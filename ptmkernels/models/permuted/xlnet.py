"""XLNet (Yang et al. 2019, arXiv:1906.08237)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ptmkernels.backbones.transformer import ACTIVATIONS, LayerConfig
from ptmkernels.backbones.xlnet import SequenceSummary, XLNet, XLNetOptions
from ptmkernels.config import Config, choice, positive, size
from ptmkernels.config import dropout as probability
from ptmkernels.models import tasks
from ptmkernels.models.base import Architecture, Head, Model
from ptmkernels.models.outputs import LogitsOutput
from ptmkernels.models.permuted.answer_span import AnswerSpan
from ptmkernels.registry import Card, register


@dataclass(kw_only=True)
class XLNetConfig(Config):
    """XLNet's configuration; the defaults are those of xlnet-large-cased.

    `attn_type` "uni" = each token sees those before it only. The other fields on positions and memory are as
    for :class:`ptmkernels.backbones.xlnet.XLNetOptions`, those that begin with `summary` as for
    :class:`ptmkernels.backbones.xlnet.SequenceSummary`. Every layer has biases of its own, whatever
    `untie_r` says, as in Transformers.
    """

    model_type: ClassVar[str] = "xlnet"

    vocab_size: int = size(32000)
    d_model: int = size(1024)
    n_layer: int = size(24, most=1000)
    n_head: int = size(16)
    d_inner: int = size(4096)
    ff_activation: str = choice("gelu", ACTIVATIONS)
    attn_type: str = choice("bi", ("bi", "uni"))
    layer_norm_eps: float = positive(1e-12)
    dropout: float = probability(0.1)
    mem_len: int | None = size(None, least=0)
    reuse_len: int | None = size(None, least=0)
    use_mems_eval: bool = True
    use_mems_train: bool = False
    bi_data: bool = False
    clamp_len: int = size(-1, least=-1)
    same_length: bool = False
    summary_type: str = choice("last", ("last", "first", "mean", "cls_index"))
    summary_use_proj: bool = True
    summary_activation: str | None = choice("tanh", ACTIVATIONS)
    summary_last_dropout: float = probability(0.1)
    start_n_top: int = size(5)
    end_n_top: int = size(5)
    pad_token_id: int | None = 5

    def validate(self) -> None:
        super().validate()
        if self.d_model % self.n_head or self.d_model % 2:
            raise ValueError(
                f"d_model is {self.d_model}; expected an even multiple of n_head = {self.n_head}"
            )

    @property
    def hidden_size(self) -> int:
        """E, as the tasks call it."""
        return self.d_model

    @property
    def classifier_dropout(self) -> float:
        """Of the summary of a text."""
        return self.summary_last_dropout


def backbone(config: XLNetConfig, with_pooler: bool) -> XLNet:
    """Post-norm layers of two streams; the pooler is the summary of a text."""
    layers = LayerConfig(
        hidden_size=config.d_model,
        num_heads=config.n_head,
        intermediate_size=config.d_inner,
        activation=config.ff_activation,
        norm_eps=config.layer_norm_eps,
        dropout=config.dropout,
        attention_dropout=config.dropout,
        activation_dropout=config.dropout,
    )
    options = XLNetOptions(
        mem_len=config.mem_len,
        reuse_len=config.reuse_len,
        use_mems_train=config.use_mems_train,
        use_mems_eval=config.use_mems_eval,
        clamp_len=config.clamp_len,
        one_way=config.attn_type == "uni",
        same_length=config.same_length,
        bi_data=config.bi_data,
    )
    summary = None
    if with_pooler:
        summary = SequenceSummary(
            config.d_model,
            config.summary_type,
            config.summary_activation,
            project=config.summary_use_proj,
        )
    return XLNet(config.vocab_size, layers, config.n_layer, options, summary)


class XLNetModel(tasks.EncoderModel):
    """The bare stack; arguments of :meth:`ptmkernels.backbones.xlnet.XLNet.forward`."""

    with_pooler = False


class XLNetTokenClassification(tasks.TokenClassification):
    """A label for each token; the stack has dropped out already."""

    def __init__(self, config: XLNetConfig, architecture: Architecture) -> None:
        super().__init__(config, architecture)
        self.dropout = nn.Identity()


class PermutationLM(Model):
    """Predict tokens in the order of a permutation."""

    with_pooler = False

    def __init__(self, config: XLNetConfig, architecture: Architecture) -> None:
        super().__init__(config, architecture)
        self.lm_bias = nn.Parameter(torch.empty(config.vocab_size))
        self.lm_weight = None
        if not config.tie_word_embeddings:
            self.lm_weight = nn.Parameter(torch.empty(config.vocab_size, config.d_model))

    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        token_type_ids=None,
        *,
        labels: Tensor | None = None,
        **inputs: Any,
    ) -> LogitsOutput:
        """Other arguments: :meth:`ptmkernels.backbones.xlnet.XLNet.forward`.

        Args:
            labels: (B, P) ids of the predicted tokens, (B, L) without `target_mapping`; -100 = not predicted.

        Returns:
            `logits` (B, P or L, V), `loss` and `mems`.
        """
        encoded = self.backbone(input_ids, attention_mask, token_type_ids, **inputs)
        weight = self.backbone.tokens.weight if self.lm_weight is None else self.lm_weight
        logits = F.linear(encoded.hidden, weight, self.lm_bias)
        loss = tasks.cross_entropy(logits, labels)
        return LogitsOutput(logits=logits, loss=loss, **tasks.kept(encoded))


def initialise(module: nn.Module, config: XLNetConfig) -> None:
    """The starting values of the released code: normal ones, norms 1, biases of linear layers 0."""
    for name, parameter in module.named_parameters(recurse=False):
        if isinstance(module, nn.LayerNorm) and name == "weight":
            nn.init.ones_(parameter)
        elif name in ("bias", "lm_bias"):
            nn.init.zeros_(parameter)
        else:
            nn.init.normal_(parameter, std=config.initializer_range)


XLNET = Architecture(
    config=XLNetConfig,
    backbone=backbone,
    prefix="transformer.",
    heads={
        "backbone": Head(XLNetModel, "XLNetModel"),
        "permutation-lm": Head(PermutationLM, "XLNetLMHeadModel"),
        "sequence-classification": Head(
            tasks.SequenceClassification, "XLNetForSequenceClassification"
        ),
        "token-classification": Head(XLNetTokenClassification, "XLNetForTokenClassification"),
        "multiple-choice": Head(tasks.MultipleChoice, "XLNetForMultipleChoice"),
        "question-answering": Head(tasks.QuestionAnswering, "XLNetForQuestionAnsweringSimple"),
        "answer-span": Head(AnswerSpan, "XLNetForQuestionAnswering"),
    },
    renames=(
        ("backbone.pooler.dense.", "sequence_summary.summary."),
        ("backbone.tokens.", "transformer.word_embedding."),
        ("backbone.mask_embedding", "transformer.mask_emb"),
        ("backbone.layers.", "transformer.layer."),
        (".attention.", ".rel_attn."),
        ("feed_forward.layers.up.", "ff.layer_1."),
        ("feed_forward.layers.down.", "ff.layer_2."),
        ("feed_forward.norm.", "ff.layer_norm."),
        ("lm_bias", "lm_loss.bias"),
        ("lm_weight", "lm_loss.weight"),
        ("end_logits.norm.", "end_logits.LayerNorm."),
        ("classifier.", "logits_proj."),
        ("tagger.", "classifier."),
        ("span.", "qa_outputs."),
    ),
    redundant=("lm_loss.weight",),
    initialise=initialise,
)

register(
    Card(
        name="xlnet",
        family="permuted",
        title="XLNet",
        authors="Yang et al.",
        paper="XLNet: Generalized Autoregressive Pretraining for Language Understanding",
        year=2019,
        link="arXiv:1906.08237",
        encoder="Transformer-XL with two streams and relative segments",
        objective="tokens in permuted order",
        architecture=XLNET,
        presets={
            "base-cased": {"n_layer": 12, "d_model": 768, "n_head": 12, "d_inner": 3072},
            "large-cased": {},
            # For trying; not published.
            "tiny": {"n_layer": 2, "d_model": 128, "n_head": 2, "d_inner": 512},
        },
        aliases={"base": "base-cased", "large": "large-cased"},
    )
)
