"""Reading a file of this room into its model: every mistake in plain words, with its line and the closest name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from ablations.study.factor import Problem
from ablations.study.yaml_lines import LocatedYAML, Location
from cgd.errors import StudyError, closest

Model = TypeVar("Model", bound=BaseModel)

_IN_WORDS = {
    "tuple_type": "expected a list such as [a, b]",
    "dict_type": "expected a mapping such as {key: value}",
    "model_type": "expected a mapping such as {key: value}",
    "too_short": "expected at least one entry",
}


def validate(
    model: type[Model], document: LocatedYAML, source: str, parts: Mapping[str, type[BaseModel]], hidden: str = ""
) -> Model:
    """`document` as a `model`.

    Raises StudyError, which names the `source` and every mistake. `parts` is key -> model of what stands under it, for
    the names that a message suggests, save the key `hidden`.
    """
    try:
        return model.model_validate(document.values)
    except ValidationError as error:
        problems = "; ".join(_explain(e, document, model, parts, hidden) for e in error.errors())
        raise StudyError(f"{source}, {problems}" if document.root else f"{source}: {problems}") from None


def _explain(
    error: Any, document: LocatedYAML, model: type[BaseModel], parts: Mapping[str, type[BaseModel]], hidden: str
) -> str:
    """One error of pydantic as a sentence about the file, with what was found."""
    cause = error.get("ctx", {}).get("error")
    location: Location = cause.location if isinstance(cause, Problem) else error["loc"]
    message = _IN_WORDS.get(error["type"], error["msg"].removeprefix("Value error, "))
    says_all = error["type"] in ("value_error", "missing", "too_short")
    if not says_all and not isinstance(error["input"], dict | BaseModel):
        message += f", found {error['input']!r}"
    if error["type"] == "extra_forbidden":
        part = model
        for key in location[:-1]:
            part = parts.get(str(key), part)
        known = [key for key in part.model_fields if key != hidden]
        message = f"unknown key; {closest(str(location[-1]), known)}"
    return document.say(location, message)
