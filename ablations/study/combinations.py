"""The rows of a study: the levels of its factor, those of a grid, or configurations that were named one by one."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from ablations.study.factor import (
    GridFactor,
    Level,
    Part,
    Problem,
    Scalar,
    Text,
    cast_to_field,
    check_path,
    check_value,
    find_repeated,
)


@dataclass(frozen=True)
class Combination:
    """One row of a study: a level, one level of each factor of a grid, or a configuration.

    Attributes
    ----------
    label
        How tables, figures and the tracking store name it.
    values
        Dotted path -> value.
    is_default
        Whether the others are compared with it.
    only_on
        Data sets it is run on; None for all of them.
    """

    label: str
    values: Mapping[str, Scalar]
    is_default: bool
    only_on: frozenset[str] | None = None


class Configuration(Part):
    """Several fields changed at once under one label, as a search ends with. `values` is dotted path -> value."""

    label: Text
    values: dict[str, Scalar] = Field(default_factory=dict)
    is_default: bool = False


def cross(axes: Sequence[GridFactor]) -> tuple[Combination, ...]:
    """The product of the levels of all factors, in order.

    Where the condition of a factor is not met it stays at its default and out of the label. Levels that have no data
    set in common are not combined.
    """
    rows = (_combine(axes, levels) for levels in itertools.product(*(axis.levels for axis in axes)))
    return tuple(row for row in rows if row is not None)


def _combine(axes: Sequence[GridFactor], levels: Sequence[Level]) -> Combination | None:
    values = {axis.path: cast_to_field(axis.path, level.value) for axis, level in zip(axes, levels, strict=True)}
    defaults = {axis.path: cast_to_field(axis.path, axis.default) for axis in axes}
    varied = [_is_varied(axis, values) for axis in axes]
    if any(values[axis.path] != defaults[axis.path] for axis, on in zip(axes, varied, strict=True) if not on):
        return None
    chosen = [level for level, on in zip(levels, varied, strict=True) if on]
    limits = [frozenset(level.only_on) for level in chosen if level.only_on is not None]
    only_on = frozenset.intersection(*limits) if limits else None
    if only_on is not None and not only_on:
        return None
    label = " × ".join(level.label for level in chosen)
    return Combination(label, values, values == defaults, only_on)


def _is_varied(axis: GridFactor, values: Mapping[str, Any]) -> bool:
    return all(values[path] in [cast_to_field(path, v) for v in wanted] for path, wanted in axis.when.items())


def list_rows(configurations: Sequence[Configuration]) -> tuple[Combination, ...]:
    """Configurations as rows, in order."""
    return tuple(
        Combination(row.label, {path: cast_to_field(path, value) for path, value in row.values.items()}, row.is_default)
        for row in configurations
    )


def check_configurations(configurations: Sequence[Configuration]) -> None:
    """Refuse unfit paths and values, anything but one default, and repeated labels or values."""
    at = "configurations"
    for i, row in enumerate(configurations):
        for path, value in row.values.items():
            check_path(path, "be varied", (at, i, "values", path))
            check_value(path, value, (at, i, "values", path))
    n_defaults = sum(row.is_default for row in configurations)
    if len(configurations) < 2 or n_defaults != 1:
        found = f"found {len(configurations)} with {n_defaults} marked"
        raise Problem((at,), f"expected at least two configurations, one of them marked 'is_default'; {found}")
    rows = [tuple(sorted(row.values.items())) for row in list_rows(configurations)]
    for what, found_twice in (("label", [row.label for row in configurations]), ("values", rows)):
        if repeated := find_repeated(found_twice):
            raise Problem((at,), f"two configurations have the {what} {repeated[0]!r}")
