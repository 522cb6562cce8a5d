"""What a trained model says: the words that it puts in the place of [MASK]."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from ptmkernels.data.tokenizer import WordPieceTokenizer
from ptmkernels.hub import from_pretrained
from ptmkernels.models.base import Model

__all__ = ["MaskFiller", "Prediction"]


@dataclass(frozen=True)
class Prediction:
    """A word piece and its probability."""

    token: str
    probability: float


class MaskFiller:
    """Predicts the [MASK] tokens of texts.

    Args:
        model: with the head "masked-lm".
        tokenizer: the one that the model was trained with.
    """

    def __init__(self, model: Model, tokenizer: WordPieceTokenizer) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer

    @classmethod
    def load(cls, folder: str | Path) -> MaskFiller:
        """Model and tokenizer of a folder.

        Raises:
            OSError, ValueError: as `from_pretrained`, or the folder holds no tokenizer.
        """
        return cls(from_pretrained(folder, head="masked-lm"), WordPieceTokenizer.load(folder))

    @torch.no_grad()
    def __call__(self, text: str, top: int = 5) -> list[list[Prediction]]:
        """The `top` likeliest word pieces for each [MASK] of a text, likeliest first.

        Raises:
            ValueError: the text has no [MASK], `top` is below 1, or the text is longer than the positions.
        """
        if top < 1:
            raise ValueError(f"top is {top}; expected a number >= 1")
        ids = torch.tensor(self.tokenizer.encode([text], special_tokens=True))
        masked = ids[0] == self.tokenizer.mask_id
        if not masked.any():
            raise ValueError(f"the text has no [MASK]: {text!r}")
        logits = self.model(ids).logits[0, masked]
        best = logits.softmax(-1).topk(min(top, logits.shape[-1]))
        tokens = self.tokenizer.tokens
        return [
            [Prediction(tokens[i], p) for p, i in zip(row_p, row_i, strict=True)]
            for row_p, row_i in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]
