"""What the trainings of word vectors share: their reports, and how an interrupted one goes on."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class FitProgress:
    """A report of the training.

    Attributes:
        done, total: tokens of the training stream, all epochs together.
        loss: of a sample of the last piece, per pair (CBOW: per window).
        words_per_second: tokens trained, sub-sampled ones included, over the last piece.
        unit: "words", or what `done`, `total` and the rate count instead (GloVe: "pairs").
    """

    done: int
    total: int
    loss: float
    words_per_second: float
    unit: str = "words"


def check_goes_on(done: int, before: int, now: int, epochs: int, unit: str) -> None:
    """Check that training of which `done` units are behind can go on with a text of `now` units.

    Args:
        before: units of the text that it began with.
        epochs: as many as are wanted in all.
        unit: for the message.

    Raises:
        ValueError: it is another text, or more epochs are done.
    """
    if done and before != now:
        raise ValueError(
            f"source has {now} {unit}, but training began on a text of {before}; expected that text"
        )
    if done > epochs * now:
        raise ValueError(
            f"epochs is {epochs}, but {done / now:.3g} are done; expected at least as many"
        )
