"""The pieces of a study: factors, their levels, and the check of both against the configuration."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from ablations.located_yaml import Location
from cgd.config import Config, field_paths
from cgd.errors import closest

Scalar = bool | int | float | str
Text = Annotated[str, Field(min_length=1)]

_NO_FACTOR = {
    "seed": "seeds are replicates: ask for several seeds instead",
    "evaluation.protocol": "the two protocols never share a table: run the study once under each",
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
    """One value of a factor; `label` is how tables, figures and the tracking store name it."""

    value: Scalar
    label: Text

    @model_validator(mode="before")
    @classmethod
    def _label_from_value(cls, data: Any) -> Any:
        return {"label": str(data["value"]), **data} if isinstance(data, dict) and "value" in data else data


class Factor(Part):
    """What a study varies: a dotted path of the configuration, and its name in words."""

    path: Text
    name: Text


class GridFactor(Factor):
    """A factor of a grid, with its own levels."""

    levels: Annotated[tuple[Level, ...], Field(min_length=2)]
    default: Scalar


def check_axis(axis: GridFactor, at: Location) -> None:
    """Refuse an unknown or unfit path, a level its field does not accept, repeated levels, a default that is none."""
    path_at = (*at, "path") if at else ("factor", "path")
    if axis.path not in field_paths():
        raise Problem(path_at, f"no field '{axis.path}' in the configuration; {closest(axis.path, field_paths())}")
    if axis.path in _NO_FACTOR:
        raise Problem(path_at, f"'{axis.path}' cannot be a factor: {_NO_FACTOR[axis.path]}")
    if axis.path.startswith("runtime."):
        raise Problem(path_at, f"'{axis.path}' cannot be a factor: it does not change what a trial computes")
    values = [_checked(axis.path, level.value, (*at, "levels", i, "value")) for i, level in enumerate(axis.levels)]
    for what, found in (("value", values), ("label", [level.label for level in axis.levels])):
        if repeated := repeated_in(found):
            raise Problem((*at, "levels"), f"two levels have the {what} {repeated[0]!r}")
    if _checked(axis.path, axis.default, (*at, "default")) not in values:
        shown = ", ".join(str(value) for value in values)
        raise Problem((*at, "default"), f"the default {axis.default!r} is not one of the levels: {shown}")


def _checked(path: str, value: Scalar, at: Location) -> Any:
    try:
        return as_field(path, value)
    except ValidationError as error:
        message = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise Problem(at, f"{path} = {value!r}: {message}") from None


def as_field(path: str, value: Scalar) -> Any:
    """`value` as the configuration holds it at `path`, e.g. 3 for '3'; the field alone is checked, not its company."""
    return _field_type(path).validate_python(value)


@functools.cache
def _field_type(path: str) -> TypeAdapter[Any]:
    section: Any = Config
    *sections, name = path.split(".")
    for part in sections:
        section = section.model_fields[part].annotation
    field = section.model_fields[name]
    annotated: Any = Annotated[field.annotation, field]
    return TypeAdapter(annotated)


def repeated_in(values: Sequence[Any]) -> list[Any]:
    """The values that occur more than once."""
    return [value for value, count in Counter(values).items() if count > 1]
