"""What a trained model says: the words it puts in the place of [MASK]."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from ptmkernels.data.tokenizer import WordPieceTokenizer
from ptmkernels.hub import from_pretrained, local_folder
from ptmkernels.models.base import Model

__all__ = ["MaskFiller", "Prediction"]


@dataclass(frozen=True)
class Prediction:
    """A token and its probability."""

    token: str
    probability: float


@dataclass(frozen=True, eq=False)
class MaskFiller:
    """Predicts the masked words of a text.

    Args:
        model: with the head "masked-lm"; is put into evaluation mode.
        tokenizer: of the model, which may have more rows than there are tokens; those are no words.

    Raises:
        ValueError: the tokenizer has more tokens than the model.
    """

    model: Model
    tokenizer: WordPieceTokenizer

    def __post_init__(self) -> None:
        rows = self.model.config.vocab_size
        if self.tokenizer.vocab_size > rows:
            raise ValueError(
                f"the tokenizer has {self.tokenizer.vocab_size} tokens; expected at most {rows}, the "
                "vocabulary of the model"
            )
        self.model.eval()

    @classmethod
    def load(cls, source: str | Path) -> MaskFiller:
        """From a folder with a model and its tokenizer, such as that of a run, or a name on the hub.

        Raises:
            OSError, ValueError: as :func:`ptmkernels.from_pretrained` and :meth:`WordPieceTokenizer.load`.
        """
        folder = local_folder(source)
        return cls(from_pretrained(folder, head="masked-lm"), WordPieceTokenizer.load(folder))

    @torch.inference_mode()
    def __call__(self, text: str, top: int = 5) -> list[list[Prediction]]:
        """The likeliest tokens for each [MASK] of a text, in their order.

        Raises:
            ValueError: there is no [MASK], the text is longer than the model's positions, or `top` is out
                of range.
        """
        if not 1 <= top <= self.tokenizer.vocab_size:
            raise ValueError(f"top is {top}; expected 1 to {self.tokenizer.vocab_size}")
        ids = torch.tensor(self.tokenizer.encode([text], special_tokens=True))
        positions = (ids[0] == self.tokenizer.mask_id).nonzero()[:, 0]
        if not len(positions):
            raise ValueError(f"the text {text!r} has no [MASK]")
        longest = self.model.config.max_position_embeddings
        if ids.shape[1] > longest:
            raise ValueError(
                f"the text has {ids.shape[1]} tokens with [CLS] and [SEP]; expected at most {longest}, "
                "the positions of the model"
            )
        logits = self.model(ids.to(self.model.device)).logits[0, positions]
        best = logits[:, : self.tokenizer.vocab_size].float().softmax(-1).cpu().topk(top)
        return [
            [
                Prediction(self.tokenizer.tokens[token], probability)
                for token, probability in zip(tokens, probabilities, strict=True)
            ]
            for tokens, probabilities in zip(
                best.indices.tolist(), best.values.tolist(), strict=True
            )
        ]
