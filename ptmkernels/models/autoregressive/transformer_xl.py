"""Transformer-XL (Dai et al. 2019, arXiv:1901.02860)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ptmkernels.backbones.adaptive import AdaptiveEmbedding, AdaptiveSoftmax
from ptmkernels.backbones.embeddings import check_ids
from ptmkernels.backbones.transformer import LayerConfig
from ptmkernels.backbones.transformer_xl import TransformerXL
from ptmkernels.config import Config, positive, size
from ptmkernels.config import dropout as probability
from ptmkernels.models.base import Architecture, Head, Model
from ptmkernels.models.outputs import CausalLMOutput, EncoderOutput, LogitsOutput
from ptmkernels.models.tasks import kept, sequence_loss
from ptmkernels.registry import Card, register


@dataclass(kw_only=True)
class TransformerXLConfig(Config):
    """Transformer-XL's configuration; the defaults are those of transfo-xl-wt103.

    `tie_projs` says for each cluster whether its softmax shares the input's projection; None = all but the
    first do. Without `untie_r` all layers share u and v, as in the released PyTorch code. `pad_token_id` is
    read by the classification of texts only. `mem_len`, `clamp_len` and `same_length` are as for
    :class:`ptmkernels.backbones.transformer_xl.TransformerXL`.
    """

    model_type: ClassVar[str] = "transfo-xl"
    only: ClassVar[dict] = {"attn_type": 0, "adaptive": True}

    vocab_size: int = size(267735)
    cutoffs: list[int] = field(default_factory=lambda: [20000, 40000, 200000])
    d_model: int = size(1024)
    d_embed: int = size(1024)
    n_head: int = size(16)
    d_head: int = size(64)
    d_inner: int = size(4096)
    div_val: int = size(4)
    pre_lnorm: bool = False
    n_layer: int = size(18, most=1000)
    mem_len: int = size(1600, least=0)
    clamp_len: int = size(1000, least=-1)
    same_length: bool = True
    dropout: float = probability(0.1)
    dropatt: float = probability(0.0)
    tie_projs: list[bool] | None = None
    untie_r: bool = True
    init_std: float = positive(0.02)
    proj_init_std: float = positive(0.01)
    layer_norm_epsilon: float = positive(1e-5)
    pad_token_id: int | None = None

    def validate(self) -> None:
        super().validate()
        bounds = [0, *self.cutoffs, self.vocab_size]
        if bounds != sorted(set(bounds)):
            raise ValueError(
                f"cutoffs is {self.cutoffs}; expected rising ids between 0 and vocab_size = "
                f"{self.vocab_size}"
            )
        if self.d_model % 2:
            raise ValueError(f"d_model is {self.d_model}; expected an even number")
        if self.d_embed < self.div_val ** len(self.cutoffs):
            raise ValueError(
                f"d_embed is {self.d_embed}; expected at least div_val to the power of the cutoffs, "
                f"{self.div_val ** len(self.cutoffs)}"
            )
        if self.same_length and not self.mem_len:
            raise ValueError("mem_len is 0; same_length needs a memory")
        if self.tie_projs == self._tied_by_default():
            self.tie_projs = None
        if self.tie_projs is not None and len(self.tie_projs) != len(self.cutoffs) + 1:
            raise ValueError(
                f"tie_projs has {len(self.tie_projs)} entries; expected one a cluster, "
                f"{len(self.cutoffs) + 1}"
            )

    def _tied_by_default(self) -> list[bool]:
        return [False] + [True] * len(self.cutoffs)

    @property
    def tied_projections(self) -> list[bool]:
        """For each cluster, whether its softmax shares the input's projection."""
        return self._tied_by_default() if self.tie_projs is None else self.tie_projs

    def to_dict(self) -> dict[str, Any]:
        return super().to_dict() | {"tie_projs": self.tied_projections}


def layer_config(config: TransformerXLConfig) -> LayerConfig:
    """ReLU layers, post-norm or pre-norm."""
    return LayerConfig(
        hidden_size=config.d_model,
        num_heads=config.n_head,
        head_dim=config.d_head,
        intermediate_size=config.d_inner,
        activation="relu",
        norm_first=config.pre_lnorm,
        norm_eps=config.layer_norm_epsilon,
        dropout=config.dropout,
        attention_dropout=config.dropatt,
        activation_dropout=config.dropout,
    )


def backbone(config: TransformerXLConfig, with_pooler: bool) -> TransformerXL:
    """Adaptive input and layers with memory; there is no pooler."""
    embeddings = AdaptiveEmbedding(
        config.vocab_size, config.d_model, config.d_embed, config.cutoffs, config.div_val
    )
    return TransformerXL(
        embeddings,
        layer_config(config),
        config.n_layer,
        mem_len=config.mem_len,
        clamp_len=config.clamp_len,
        same_length=config.same_length,
        shared_biases=not config.untie_r,
    )


class TransformerXLModel(Model):
    """The bare stack."""

    def forward(self, input_ids=None, attention_mask=None, **inputs: Any) -> EncoderOutput:
        """Arguments of :meth:`ptmkernels.backbones.transformer_xl.TransformerXL.forward`.

        Returns:
            `last_hidden_state` (B, L, E) and `mems` for the next segment.
        """
        encoded = self.backbone(input_ids, attention_mask, **inputs)
        return EncoderOutput(last_hidden_state=encoded.hidden, **kept(encoded))


class TransformerXLLanguageModel(Model):
    """Predict the next token through the adaptive softmax."""

    def __init__(self, config: TransformerXLConfig, architecture: Architecture) -> None:
        super().__init__(config, architecture)
        self.lm_head = AdaptiveSoftmax(
            config.vocab_size,
            config.d_model,
            config.d_embed,
            config.cutoffs,
            config.div_val,
            config.tied_projections,
            config.tie_word_embeddings,
        )

    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        *,
        labels: Tensor | None = None,
        **inputs: Any,
    ) -> CausalLMOutput:
        """
        Args:
            labels: (B, L) ids; -100 = not predicted. As in Transformers they are the input itself, and token
                t is predicted from those before it.
            shift_labels: False where label t is already the token after input t, so that a segment's last
                token is predicted too.

        Returns:
            Without labels `logits` (B, L, V), the log-probabilities of all words; with them `losses`
            (B, L - 1), or (B, L) where nothing is shifted, 0 where there is no label, and their mean `loss`.
        """
        # Not in the signature, from which Transformers' Trainer reads the names of labels.
        shift_labels = inputs.pop("shift_labels", True)
        if labels is not None:
            _check_labels(labels, input_ids, inputs.get("inputs_embeds"), self.config.vocab_size)
        encoded = self.backbone(input_ids, attention_mask, **inputs)
        embedding = self.backbone.embeddings
        if labels is None:
            logits = self.lm_head.log_prob(encoded.hidden, embedding)
            return CausalLMOutput(logits=logits, **kept(encoded))
        hidden = encoded.hidden
        if shift_labels:
            hidden, labels = hidden[:, :-1], labels[:, 1:]
        losses = self.lm_head(hidden.flatten(0, 1), labels.flatten(), embedding)
        loss = losses.sum() / (labels >= 0).sum().clamp(min=1)
        return CausalLMOutput(losses=losses.view(labels.shape), loss=loss, **kept(encoded))


def _check_labels(
    labels: Tensor, input_ids: Tensor | None, inputs_embeds: Tensor | None, vocab_size: int
) -> None:
    """Raises ValueError where there is not a label, or a negative number, for each token."""
    tokens = inputs_embeds if input_ids is None else input_ids
    if tokens is not None and labels.shape != tokens.shape[:2]:
        raise ValueError(
            f"labels has shape {tuple(labels.shape)}; expected (B, L) = {tuple(tokens.shape[:2])}"
        )
    check_ids("labels", labels.clamp(min=0), vocab_size)


class TransformerXLSequenceClassification(Model):
    """A label for each text, from the state of its last token."""

    def __init__(self, config: TransformerXLConfig, architecture: Architecture) -> None:
        super().__init__(config, architecture)
        self.score = nn.Linear(config.d_model, config.num_labels, bias=False)

    def forward(
        self, input_ids=None, attention_mask=None, *, labels: Tensor | None = None, **inputs: Any
    ) -> LogitsOutput:
        """
        Args:
            input_ids: (B, L), the last token of a text being the one before the first `config.pad_token_id`;
                the last of the row where there is none, or with `inputs_embeds`.
            labels: as for :class:`ptmkernels.models.tasks.SequenceClassification`.

        Returns:
            `logits` (B, C), `loss` and `mems`.
        """
        encoded = self.backbone(input_ids, attention_mask, **inputs)
        logits = self.score(self._last_state(encoded.hidden, input_ids))
        loss = sequence_loss(self.config, logits, labels)
        return LogitsOutput(logits=logits, loss=loss, **kept(encoded))

    def _last_state(self, hidden: Tensor, input_ids: Tensor | None) -> Tensor:
        """(B, E), the state of each text's last token; zeros where the rows have no tokens."""
        batch, length = hidden.shape[:2]
        if length == 0:
            return hidden.sum(1)
        last = torch.full((batch,), length - 1, device=hidden.device)
        if input_ids is not None and self.config.pad_token_id is not None:
            padding = (input_ids == self.config.pad_token_id).to(torch.int8)
            last = (padding.argmax(1) - 1) % length
        return hidden[torch.arange(batch, device=last.device), last]


def initialise(module: nn.Module, config: TransformerXLConfig) -> None:
    """The starting values of the released code: normal ones, norms around 1, biases 0."""
    for name, parameter in module.named_parameters(recurse=False):
        if name.endswith("bias") and not name.startswith("r_"):
            nn.init.zeros_(parameter)
        elif isinstance(module, nn.LayerNorm):
            nn.init.normal_(parameter, 1.0, config.init_std)
        elif isinstance(module, nn.ParameterList | nn.ParameterDict):
            nn.init.normal_(parameter, std=config.proj_init_std)
        else:
            nn.init.normal_(parameter, std=config.init_std)


def _constants(config: TransformerXLConfig) -> Mapping[str, Tensor]:
    """The frequencies of the encoding of distances, which Transformers reads from the file."""
    steps = torch.arange(0, config.d_model, 2, dtype=torch.float32)
    return {"transformer.pos_emb.inv_freq": 1 / 10000 ** (steps / config.d_model)}


TRANSFORMER_XL = Architecture(
    config=TransformerXLConfig,
    backbone=backbone,
    prefix="transformer.",
    heads={
        "backbone": Head(TransformerXLModel, "TransfoXLModel"),
        "causal-lm": Head(TransformerXLLanguageModel, "TransfoXLLMHeadModel"),
        "sequence-classification": Head(
            TransformerXLSequenceClassification, "TransfoXLForSequenceClassification"
        ),
    },
    renames=(
        ("backbone.", "transformer."),
        ("embeddings.tables.", "word_emb.emb_layers."),
        ("embeddings.projections.", "word_emb.emb_projs."),
        (".attention.", ".dec_attn."),
        ("feed_forward.layers.up.", "pos_ff.CoreNet.0."),
        ("feed_forward.layers.down.", "pos_ff.CoreNet.3."),
        ("feed_forward.norm.", "pos_ff.layer_norm."),
        ("lm_head.layers.", "crit.out_layers."),
        ("lm_head.projections.", "crit.out_projs."),
        ("lm_head.", "crit."),
    ),
    redundant=(
        "crit.out_layers.*.weight",
        "crit.out_projs.*",
        "transformer.pos_emb.inv_freq",
    ),
    constants=_constants,
    initialise=initialise,
)

register(
    Card(
        name="transformer-xl",
        family="autoregressive",
        title="Transformer-XL",
        authors="Dai et al.",
        paper="Transformer-XL: Attentive Language Models Beyond a Fixed-Length Context",
        year=2019,
        link="arXiv:1901.02860",
        encoder="Transformer with memory and relative positions",
        objective="next token",
        architecture=TRANSFORMER_XL,
        presets={
            # The sizes trained on WikiText-103, with the memory of training.
            "base": {
                "n_layer": 16,
                "d_model": 410,
                "d_embed": 410,
                "n_head": 10,
                "d_head": 41,
                "d_inner": 2100,
                "div_val": 1,
                "mem_len": 150,
                "clamp_len": -1,
                "same_length": False,
            },
            "large": {
                "dropout": 0.2,
                "dropatt": 0.2,
                "mem_len": 384,
                "clamp_len": -1,
                "same_length": False,
            },
            # The published model: large, with the memory of its evaluation.
            "wt103": {},
            # For trying; not published.
            "tiny": {
                "n_layer": 2,
                "d_model": 128,
                "d_embed": 128,
                "n_head": 2,
                "d_inner": 512,
                "div_val": 1,
                "mem_len": 64,
                "clamp_len": -1,
                "same_length": False,
            },
        },
    )
)
