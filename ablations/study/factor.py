"""The pieces of a study: factors, their levels, and the check of both against the configuration."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from ablations.study.yaml_lines import Location
from cgd.config import Config, field_paths, says_where
from cgd.errors import closest


def _check_scalar(value: Any) -> Any:
    if not isinstance(value, bool | int | float | str):
        raise ValueError(f"expected a number, a word, true or false, found {value!r}")
    return value


Scalar = Annotated[bool | int | float | str, BeforeValidator(_check_scalar)]  # one message, not one per type
Text = Annotated[str, Field(min_length=1)]

PROTOCOL = "evaluation.protocol"

_NOT_IN_A_STUDY = {
    "seed": "seeds are replicates: ask for several seeds instead, with 'seeds: N' or --seeds N",
    "split.n_folds": "folds are replicates: ask for several folds instead, with 'folds: K' or --folds K",
    PROTOCOL: "the two protocols never share a table: run the study once under each, with --protocol",
}

_YARDSTICK = {
    "evaluation": "it decides how a level is scored",
    "split": "it decides which genes are trained on and which are tested",
    "data": "it decides which genes and spots there are",
}


class Problem(ValueError):
    """What is wrong with a study, and where in it."""

    def __init__(self, location: Location, message: str) -> None:
        super().__init__(message)
        self.location = location


class Part(BaseModel):
    """Frozen, and strict about unknown keys; a number is accepted where a label is expected."""

    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True)


class Level(Part):
    """One value of a factor.

    Attributes
    ----------
    label
        How tables, figures and the tracking store name it.
    only_on
        Data sets it is run on; None for all of them.
    note
        What a table must say about it.
    """

    value: Scalar
    label: Text
    only_on: Annotated[tuple[Text, ...], Field(min_length=1)] | None = None
    note: str = ""

    @model_validator(mode="before")
    @classmethod
    def _label_from_value(cls, data: Any) -> Any:
        return {"label": str(data["value"]), **data} if isinstance(data, dict) and "value" in data else data


class Factor(Part):
    """What a study varies: a dotted path of the configuration, and its name in words."""

    path: Text
    name: Text


class GridFactor(Factor):
    """A factor of a grid, with its own levels.

    Attributes
    ----------
    when
        Other paths of the grid -> their values with which this factor is varied; with any other it stays at its
        default.
    """

    levels: Annotated[tuple[Level, ...], Field(min_length=2)]
    default: Scalar
    when: dict[str, Annotated[tuple[Scalar, ...], Field(min_length=1)]] = Field(default_factory=dict)

    @field_validator("when", mode="before")
    @classmethod
    def _one_value_or_several(cls, when: Any) -> Any:
        if not isinstance(when, dict):
            return when
        return {path: value if isinstance(value, list | tuple) else [value] for path, value in when.items()}


def check_axis(axis: GridFactor, at: Location) -> None:
    """Refuse an unknown or unfit path, a level its field does not accept, repeated levels, a default that is none.

    What the levels are measured by is unfit too: a level that hides less or tests other genes is not better.
    """
    place = (*at, "path") if at else ("factor", "path")
    check_path(axis.path, "be a factor", place)
    if why := _YARDSTICK.get(axis.path.partition(".")[0]):
        message = "levels and floors are compared on the same genes with the same measure; use 'fixed' or --set"
        raise Problem(place, f"'{axis.path}' cannot be a factor: {why}, and {message}")
    values = [check_value(axis.path, level.value, (*at, "levels", i, "value")) for i, level in enumerate(axis.levels)]
    for what, found in (("value", values), ("label", [level.label for level in axis.levels])):
        if repeated := find_repeated(found):
            raise Problem((*at, "levels"), f"two levels have the {what} {repeated[0]!r}")
    default = check_value(axis.path, axis.default, (*at, "default"))
    if default not in values:
        shown = ", ".join(str(value) for value in values)
        raise Problem((*at, "default"), f"the default {axis.default!r} is not one of the levels: {shown}")
    at_default = values.index(default)
    if axis.levels[at_default].only_on is not None:
        message = "the default is what every level is compared with, so it cannot be left out of a data set"
        raise Problem((*at, "levels", at_default, "only_on"), message)


def check_only_on(axis: GridFactor, datasets: Collection[str], at: Location) -> None:
    """Refuse a level that names a data set the study does not list."""
    for i, level in enumerate(axis.levels):
        for name in level.only_on or ():
            if name not in datasets:
                message = f"'{name}' is not among the study's 'datasets'; {closest(name, datasets)}"
                raise Problem((*at, "levels", i, "only_on"), message)


def check_when(axis: GridFactor, axes: Sequence[GridFactor], at: Location) -> None:
    """Refuse a condition on anything but the levels of another factor of the grid."""
    others = {other.path: other for other in axes if other.path != axis.path}
    for path, values in axis.when.items():
        if path not in others:
            raise Problem((*at, "when", path), f"'{path}' is no other factor of this grid; {closest(path, others)}")
        known = [cast_to_field(path, level.value) for level in others[path].levels]
        for value in values:
            if check_value(path, value, (*at, "when", path)) not in known:
                shown = ", ".join(str(level) for level in known)
                raise Problem((*at, "when", path), f"{value!r} is not one of the levels of '{path}': {shown}")


def check_path(path: str, doing: str, at: Location) -> None:
    """Refuse a path that no study may vary or fix; `doing` completes "cannot ..."."""
    if path not in field_paths():
        raise Problem(at, f"no field '{path}' in the configuration; {closest(path, field_paths())}")
    if path in _NOT_IN_A_STUDY:
        raise Problem(at, f"'{path}' cannot {doing}: {_NOT_IN_A_STUDY[path]}")
    if says_where(path):
        raise Problem(at, f"'{path}' cannot {doing}: it does not change what a trial computes")


def check_value(path: str, value: Scalar, at: Location) -> Any:
    """`value` as the field at `path` holds it. Refuses one that the field does not accept."""
    try:
        return cast_to_field(path, value)
    except ValidationError as error:
        message = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise Problem(at, f"{path} = {value!r}: {message}") from None


def cast_to_field(path: str, value: Scalar) -> Any:
    """`value` as the configuration holds it at `path`, e.g. 3 for '3'; the field alone is checked, not its company."""
    return _make_type(path).validate_python(value)


@functools.cache
def _make_type(path: str) -> TypeAdapter[Any]:
    section: Any = Config
    *sections, name = path.split(".")
    for part in sections:
        section = section.model_fields[part].annotation
    field = section.model_fields[name]
    annotated: Any = Annotated[field.annotation, field]
    return TypeAdapter(annotated)


def find_repeated(values: Sequence[Any]) -> list[Any]:
    """The values that occur more than once."""
    return [value for value, count in Counter(values).items() if count > 1]
