"""What the trainings of word vectors share: their reports, and how an interrupted one goes on."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class FitProgress:
    """A report of the training.

    Attributes:
        done, total: tokens of the training stream, all epochs together.
        loss: of a sample of the last piece from which a pair was drawn, per pair (CBOW: per window). Until
            there is one, as may be in a small text, nothing is reported.
        words_per_second: tokens trained, sub-sampled ones included, over the last piece.
        unit: "words", or what `done`, `total` and the rate count instead (GloVe: "pairs").
    """

    done: int
    total: int
    loss: float
    words_per_second: float
    unit: str = "words"


@dataclasses.dataclass(frozen=True)
class Material:
    """What a training goes over.

    Attributes:
        size: in tokens, the ends of sentences included, or what else the model trains on.
        checksum: of the text.
    """

    size: int = 0
    checksum: int = 0


def check_goes_on(done: int, before: Material, now: Material, epochs: int, unit: str) -> None:
    """Check that training that began on `before`, of which `done` units are behind, can go on with `now`.

    Args:
        epochs: as many as are wanted in all.
        unit: of the sizes, for the message.

    Raises:
        ValueError: it is another text, or more epochs are done.
    """
    if done and before != now:
        another = f"{now.size} {unit}" if before.size != now.size else f"other {unit}"
        raise ValueError(
            f"source has {another}, but training began on a text of {before.size}; expected that text"
        )
    if done > epochs * now.size:
        raise ValueError(
            f"epochs is {epochs}, but {done / now.size:.3g} are done; expected at least as many"
        )
