"""What a search aims at: the best guess, the draws, or a Pareto front of two aims; and which samples are on a front."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator

from cgd.errors import closest
from cgd.metrics.facts import METRICS, OUTCOMES

SECONDS = "seconds"


@dataclass(frozen=True)
class Aim:
    """A number that a search makes as good as it can.

    Attributes
    ----------
    name
        `pcc`, `crps` or `seconds`.
    label
        In tables, figures and sentences.
    sign
        1 or -1, times which a value is the better the larger it is.
    """

    name: str
    label: str
    sign: int

    @property
    def full_label(self) -> str:
        """The label with the genes it is of."""
        return self.label if self.name == SECONDS else f"validation {self.label}"

    @property
    def mode(self) -> Literal["max", "min"]:
        """As Ray says it."""
        return "max" if self.sign > 0 else "min"

    @property
    def direction(self) -> Literal["maximize", "minimize"]:
        """As Optuna says it."""
        return "maximize" if self.sign > 0 else "minimize"

    def weigh(self, value: float) -> float:
        """A number that is the larger the better a value is; minus infinity where there is none."""
        return self.sign * value if math.isfinite(value) else -math.inf


AIMS = {name: Aim(name, METRICS[name].label, METRICS[name].sign) for name in OUTCOMES} | {
    SECONDS: Aim(SECONDS, SECONDS, -1)
}
_, DRAWS = OUTCOMES  # the one that compares draws
BOTH = "both"
# what a user may ask for -> names of the aims; the first is an outcome, which trials report from epoch to epoch
CHOICES = {
    **{name: (name,) for name in OUTCOMES},
    BOTH: OUTCOMES,
    **{f"{name},{SECONDS}": (name, SECONDS) for name in OUTCOMES},
}


def list_aims(choice: str) -> tuple[Aim, ...]:
    """The aims that one of `CHOICES` stands for."""
    return tuple(AIMS[name] for name in CHOICES[choice])


def _check_choice(value: str) -> str:
    if value not in CHOICES:
        raise ValueError(f"no aim '{value}'; {closest(value, list(CHOICES))}")
    return value


Choice = Annotated[str, AfterValidator(_check_choice)]


def find_front(rows: Sequence[Sequence[float]], aims: Sequence[Aim]) -> list[int]:
    """Places of the rows, a value per aim each, that no other beats in one aim without losing in another.

    They are in the order of the first aim, the best first; of rows that are equal the first counts.
    """
    weighed = [tuple(aim.weigh(value) for aim, value in zip(aims, row, strict=True)) for row in rows]
    order = sorted(range(len(rows)), key=lambda i: tuple(-value for value in weighed[i]))
    front: list[int] = []
    for i in order:  # what beats a row comes before it
        if not any(all(a >= b for a, b in zip(weighed[j], weighed[i], strict=True)) for j in front):
            front.append(i)
    return front
