"""The bidirectional encoder of BERT and its kin: embeddings, a stack of layers, a pooler."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ptmkernels._mask_tensors import PADDED, concrete, readable, token_mask
from ptmkernels._shapes import has_shape
from ptmkernels.backbones.embeddings import InputEmbeddings
from ptmkernels.backbones.layout import Padded, Row
from ptmkernels.backbones.transformer import TransformerStack
from ptmkernels.masks import AttentionMask
from ptmkernels.ops.attention.validation import check_mask_sizes

__all__ = ["Encoded", "Encoder"]


@dataclass
class Encoded:
    """What an encoder hands to a head: the tokens as they lay in the layers, and the way back.

    Args:
        hidden: (1, T, E) or (B, L, E), as `layout` says.
        pooled: (B, E), or None where the encoder has no pooler.
        hidden_states: (B, L, E) of each layer, where asked for.
        attentions: (B, H, L, L) of each layer, where asked for.
        mems: (B, M, E) of each layer, what the next segment is to be given, where the model has memory.
    """

    hidden: Tensor
    layout: Padded | Row
    pooled: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    mems: tuple[Tensor, ...] | None = None


class Encoder(nn.Module):
    """Embeddings, layers and pooler; see :meth:`forward` for how padding is left out.

    Args:
        embeddings: the input embeddings.
        stack: the layers.
        pooler: of the first token's state (B, E), or None.

    Attributes:
        leave_out_padding: False = the layers compute padding too, and no value is read back from a GPU.
    """

    def __init__(
        self, embeddings: InputEmbeddings, stack: TransformerStack, pooler: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.embeddings = embeddings
        self.stack = stack
        self.pooler = pooler
        self.leave_out_padding = True

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | AttentionMask | None = None,
        token_type_ids: Tensor | None = None,
        *,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        document_ids: Tensor | None = None,
        needed: Tensor | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> Encoded:
        """Run the layers, on the real tokens only where some are padding.

        Padding is left out when values can be looked at (not under torch.compile or torch.export) and no
        attention weights are asked for. Results at the positions left out are zeros. For it the number of
        real tokens is read back from a GPU, once for each call with an `attention_mask` and nothing besides;
        with `leave_out_padding` false nothing at all is.

        Args:
            input_ids: (B, L) token ids; or give `inputs_embeds`.
            attention_mask: (B, L), 1 = a token, 0 = padding on whichever side; or (B, L, L), 1 = may see, or
                an :class:`AttentionMask`, for anything else; None = all tokens, each sees all. A mask that is
                added to the scores (0 and -10000, or -inf) is refused.
            token_type_ids: (B, L) segments; None = all 0.
            position_ids: (B or 1, L); None = 0..L-1, from 0 again in each document of `document_ids`.
            inputs_embeds: (B, L, E) in place of the token embeddings.
            document_ids: (B, L), for several documents packed in one row: equal ids stand together and see
                each other only.
            needed: (B, L) booleans, padded positions whose results are read nevertheless.
            output_hidden_states, output_attentions: keep them.

        Raises:
            ValueError, TypeError: shapes do not fit, an id is outside of its table, or L exceeds the
                position table.
        """
        tokens = self._tokens(input_ids, inputs_embeds)
        batch, length = tokens.shape[:2]
        _check_attention_mask(attention_mask, batch, length)
        token_type_ids = _rows("token_type_ids", token_type_ids, batch, length)
        position_ids = _rows("position_ids", position_ids, batch, length)
        document_ids = _rows("document_ids", document_ids, batch, length)
        if position_ids is None and self.embeddings.max_positions is not None:
            position_ids = self.default_positions(tokens, document_ids)
        mask, layout = _mask_and_layout(
            *(tokens, attention_mask, document_ids, needed),
            movable=self.leave_out_padding and not output_attentions,
            right_only=self.stack.relative,
        )
        hidden = self.embeddings(
            *(
                None if values is None else layout.gather(values)
                for values in (input_ids, position_ids, token_type_ids, inputs_embeds)
            )
        )
        result = self.stack(
            hidden,
            mask,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
        )
        states = result.hidden_states
        return Encoded(
            result.hidden,
            layout,
            None if self.pooler is None else self.pooler(layout.first(result.hidden)),
            states and tuple(layout.scatter(state) for state in states),
            result.attentions,
        )

    def default_positions(self, tokens: Tensor, document_ids: Tensor | None) -> Tensor:
        """(B or 1, L) position ids where the caller gives none.

        Args:
            tokens: (B, L, ...), input ids or embeddings.
        """
        columns = torch.arange(tokens.shape[1], device=tokens.device)[None]
        if document_ids is None:
            return columns
        starts = torch.ones_like(document_ids, dtype=torch.bool)
        starts[:, 1:] = document_ids[:, 1:] != document_ids[:, :-1]
        return columns - torch.where(starts, columns, 0).cummax(dim=1).values

    def _tokens(self, input_ids: Tensor | None, inputs_embeds: Tensor | None) -> Tensor:
        """The one of the two inputs that is given, when it fits."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("expected one of input_ids and inputs_embeds")
        name, tokens, dims = (
            ("input_ids", input_ids, 2)
            if inputs_embeds is None
            else ("inputs_embeds", inputs_embeds, 3)
        )
        _check_tensor(name, tokens)
        width = self.embeddings.tokens.embedding_dim
        if tokens.dim() != dims or (dims == 3 and tokens.shape[2] != width):
            form = "(B, L)" if dims == 2 else f"(B, L, {width})"
            raise ValueError(f"{name} has shape {tuple(tokens.shape)}; expected {form}")
        length, positions = tokens.shape[1], self.embeddings.max_positions
        if positions is not None and length > positions:
            raise ValueError(f"the text has {length} tokens; the model has {positions} positions")
        return tokens


def _check_tensor(name: str, values: Tensor) -> None:
    if not isinstance(values, Tensor):
        raise TypeError(f"{name} is a {type(values).__name__}; expected a tensor")


def _check_attention_mask(mask: Tensor | AttentionMask | None, batch: int, length: int) -> None:
    if mask is None:
        return
    if isinstance(mask, AttentionMask):
        check_mask_sizes(mask, batch, length, length, "attention_mask")
        return
    _check_tensor("attention_mask", mask)
    if not has_shape(mask, (batch, length), (batch, length, length)):
        raise ValueError(
            f"attention_mask has shape {tuple(mask.shape)}; expected (B, L) = "
            f"({batch}, {length}) or (B, L, L)"
        )


def _rows(name: str, values: Tensor | None, batch: int, length: int) -> Tensor | None:
    """`values` as (B or 1, L), when they fit."""
    if values is None:
        return None
    _check_tensor(name, values)
    values = values[None] if values.dim() == 1 else values
    if not has_shape(values, (batch, length), (1, length)):
        raise ValueError(
            f"{name} has shape {tuple(values.shape)}; expected (B, L) = ({batch}, {length}), or (1, L)"
        )
    return values


def _mask_and_layout(
    tokens: Tensor,
    attention_mask: Tensor | AttentionMask | None,
    document_ids: Tensor | None,
    needed: Tensor | None,
    movable: bool,
    right_only: bool,
) -> tuple[AttentionMask | None, Padded | Row]:
    """What each token sees, and how the tokens lie; a mask that hides nothing is None.

    Args:
        movable: padding may be left out.
        right_only: only where it is on the right, so that distances stay what they are.
    """
    length = tokens.shape[1]
    documents = None if document_ids is None else AttentionMask.documents(document_ids)
    if attention_mask is None:
        return documents, Padded()
    if isinstance(attention_mask, Tensor) and attention_mask.dim() == 3:
        attention_mask = AttentionMask.dense(token_mask("attention_mask", attention_mask))
    if isinstance(attention_mask, Tensor):
        real, mask = token_mask("attention_mask", attention_mask), None
    else:
        mask = attention_mask
        real = (mask.key_rank != PADDED).expand(tokens.shape[0], length)
        movable = movable and mask.allowed is None and mask.branches is None
    keep = real.clone() if needed is None else real | needed
    keep[:, :1] = True
    every, count, padded_right = False, keep.numel(), True
    if readable(real) or (movable and concrete(real)):
        every, count, padded_right = _counted(real, keep)
    if mask is None and every:
        return documents, Padded()
    mask = AttentionMask.keys(real) if mask is None else mask
    mask = mask if documents is None else mask & documents
    if not movable or count == keep.numel() or (right_only and not padded_right):
        return mask, Padded()
    row = Row(keep, count)
    return row.mask(mask), row


def _counted(real: Tensor, keep: Tensor) -> tuple[bool, int, bool]:
    """Whether every token is real, how many are kept, and whether those of each row come first: one read."""
    first = (keep[:, :-1] | ~keep[:, 1:]).all()
    every, count, padded_right = torch.stack([real.all(), keep.sum(), first]).tolist()
    return bool(every), count, bool(padded_right)
