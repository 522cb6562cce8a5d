"""Learning-rate schedules: the factor on the peak rate, in closed form of the number of updates done."""

from __future__ import annotations

import math
from collections.abc import Callable

__all__ = ["SCHEDULES", "Schedule", "create_schedule"]

# updates done so far, 0 before the first -> factor of the next one
Schedule = Callable[[int], float]

SCHEDULES = ("linear", "polynomial", "inverse-sqrt", "constant")


def create_schedule(name: str, warmup: int, total: int, power: float = 1.0) -> Schedule:
    """A schedule that climbs linearly to 1 over `warmup` updates, and then

    - "linear": falls linearly to 0 at `total` (BERT; Devlin et al. 2019);
    - "polynomial": falls to 0 at `total` as (share left) ** `power` (LAMB; You et al. 2020);
    - "inverse-sqrt": falls as 1 / sqrt(update) (Vaswani et al. 2017; T5, Raffel et al. 2020);
    - "constant": stays.

    Counting updates from 1, the warm-up gives update n the factor n / warmup, and the decay gives the first
    update after it factor 1 and the last one 1 / (total - warmup): no update is lost to a factor of 0.

    Raises:
        ValueError: the name is unknown, or a number is out of range.
    """
    if name not in SCHEDULES:
        raise ValueError(f"schedule is {name!r}; expected one of {', '.join(SCHEDULES)}")
    if not 0 <= warmup <= total:
        raise ValueError(f"warmup is {warmup} updates; expected 0 <= warmup <= {total}, the total")
    if not power > 0:
        raise ValueError(f"power is {power}; expected a number > 0")

    def decay(done: int) -> float:
        if name == "constant":
            return 1.0
        if name == "inverse-sqrt":
            return math.sqrt(max(warmup, 1) / (done + 1))
        left = (total - done) / (total - warmup)
        return left if name == "linear" else left**power

    def factor(done: int) -> float:
        return (done + 1) / warmup if done < warmup else decay(done)

    return factor
