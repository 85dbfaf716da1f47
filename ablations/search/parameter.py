"""One parameter of a search space: its field, its values, and the condition under which it is searched."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Protocol

from pydantic import Field, ValidationError

from ablations.study.factor import Part, Problem, Scalar, Text, cast_to_field, check_value, find_repeated
from ablations.study.yaml_lines import Location
from cgd.config import Config, field_paths, says_where
from cgd.errors import ConfigError, closest

SECTIONS = ("model", "ar", "diffusion", "sampling", "train")
_NOT_SEARCHED = {
    "seed": "seeds are replicates: the finalists are compared over several",
    "data": "it decides which genes are asked for, and so changes the question",
    "split": "it decides which genes are asked for, and so changes the question",
    "evaluation": "it decides how a configuration is scored",
    "runtime": "it does not change what a trial computes",
}


class Suggests(Protocol):
    """What a parameter asks of a trial of a sampler: define-by-run, one value at a time."""

    def suggest_categorical(self, name: str, choices: Any) -> Any: ...

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int: ...

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float: ...


class Parameter(Part):
    """A field that is searched.

    Attributes
    ----------
    path
        Dotted path of the configuration.
    choices
        Values to choose from; or `low` and `high`, both included, in steps of `step`, or on a `log` scale.
    times, plus
        Another field: what is sampled is multiplied by its value or added to it, so that sizes that must divide or
        exceed one another always do.
    when
        Path -> value, or values, that other fields must have. Elsewhere the parameter is not searched.
    """

    path: Text
    choices: tuple[Scalar, ...] = ()
    low: int | float | None = None
    high: int | float | None = None
    step: Annotated[int | float, Field(gt=0)] | None = None
    log: bool = False
    times: Text | None = None
    plus: Text | None = None
    when: dict[Text, Scalar | tuple[Scalar, ...]] = Field(default_factory=dict)

    @property
    def is_integer(self) -> bool:
        """Whether the field takes whole numbers alone."""
        try:
            cast_to_field(self.path, 0.4321)
        except ValidationError:
            return True
        return False

    @property
    def reference(self) -> str | None:
        """The field it is multiplied by or added to."""
        return self.times or self.plus

    @property
    def label(self) -> str:
        """Its name for the sampler, where no other parameter shares its path."""
        if self.times:
            return f"{self.path} per {self.times}"
        return f"{self.path} above {self.plus}" if self.plus else self.path

    @property
    def condition(self) -> str:
        """`when` in words."""
        terms = [f"{path}={'|'.join(map(str, list_accepted(values)))}" for path, values in self.when.items()]
        return ", ".join(terms)

    def applies(self, values: Mapping[str, Any]) -> bool:
        """Whether `values`, dotted path -> value, meet its condition."""
        return all(values[path] in list_accepted(wanted) for path, wanted in self.when.items())

    def suggest(self, trial: Suggests, name: str) -> Any:
        """The sampled value."""
        if self.choices:
            return trial.suggest_categorical(name, list(self.choices))
        assert self.low is not None
        assert self.high is not None
        if self.is_integer:
            return trial.suggest_int(name, int(self.low), int(self.high), step=int(self.step or 1), log=self.log)
        return trial.suggest_float(name, self.low, self.high, step=self.step, log=self.log)

    def to_field(self, sampled: Any, values: Mapping[str, Any]) -> Any:
        """The field's value that a sampled one stands for."""
        if self.times:
            return sampled * values[self.times]
        return sampled + values[self.plus] if self.plus else sampled

    def to_sampled(self, values: Mapping[str, Any]) -> Any:
        """The sampled value that stands for the field's. Raises ConfigError where there is none."""
        value = values[self.path]
        if self.plus:
            return value - values[self.plus]
        if not self.times:
            return value
        sampled, rest = divmod(value, values[self.times])
        if rest:
            raise ConfigError(
                f"the space searches {self.path} in multiples of {self.times}, and {value} is none of "
                f"{values[self.times]}; change one of the two with --set, or the space"
            )
        return sampled

    def holds(self, sampled: Any) -> bool:
        """Whether a sampled value is one that `suggest` could give."""
        if self.choices:
            return sampled in self.choices
        assert self.low is not None
        assert self.high is not None
        if not self.low <= sampled <= self.high:
            return False
        steps = (sampled - self.low) / self.step if self.step else 0.0
        return math.isclose(steps, round(steps), abs_tol=1e-6)

    def include(self, sampled: Any) -> Parameter:
        """The parameter, widened where need be so that it holds a value."""
        if self.holds(sampled):
            return self
        if self.choices:
            return self.model_copy(update={"choices": (*self.choices, sampled)})
        assert self.low is not None
        assert self.high is not None
        wider = {"low": min(self.low, sampled), "high": max(self.high, sampled), "step": None}
        return self.model_copy(update=wider | ({"log": False} if wider["low"] <= 0 else {}))


def list_accepted(values: Scalar | tuple[Scalar, ...]) -> tuple[Scalar, ...]:
    """The values a condition names, one or several."""
    return values if isinstance(values, tuple) else (values,)


def check_parameter(parameter: Parameter, earlier: list[str], searched: list[str], at: Location) -> None:
    """Refuse an unknown or unfit path, values its field does not accept, and references that come too late."""
    _check_path(parameter.path, (*at, "path"))
    if bool(parameter.choices) == (parameter.low is not None or parameter.high is not None):
        raise Problem(at, f"{parameter.path}: expected either 'choices' or 'low' and 'high'")
    if parameter.choices:
        _check_choices(parameter, at)
    else:
        _check_range(parameter, at)
    for key in ("times", "plus"):
        if reference := getattr(parameter, key):
            _check_reference(parameter, reference, earlier, searched, (*at, key))
            _check_sizes(parameter, reference, (*at, key))
    if parameter.times and parameter.plus:
        raise Problem((*at, "plus"), f"{parameter.path}: expected 'times' or 'plus', found both")
    for path, values in parameter.when.items():
        _check_reference(parameter, path, earlier, searched, (*at, "when", path))
        for value in list_accepted(values):
            check_value(path, value, (*at, "when", path))


def _check_path(path: str, at: Location) -> None:
    section = path.partition(".")[0]
    if path not in field_paths():
        raise Problem(at, f"no field '{path}' in the configuration; {closest(path, field_paths())}")
    if section not in SECTIONS or says_where(path):
        why = _NOT_SEARCHED.get(section, _NOT_SEARCHED["runtime"])
        raise Problem(at, f"'{path}' cannot be searched: {why}")


def _check_choices(parameter: Parameter, at: Location) -> None:
    if len(parameter.choices) < 2 or find_repeated(parameter.choices):
        raise Problem((*at, "choices"), f"{parameter.path}: expected at least two different choices")
    if parameter.step is not None or parameter.log:
        raise Problem((*at, "choices"), f"{parameter.path}: 'step' and 'log' belong to a range, not to choices")
    if parameter.reference is None:
        for i, choice in enumerate(parameter.choices):
            check_value(parameter.path, choice, (*at, "choices", i))


def _check_range(parameter: Parameter, at: Location) -> None:
    low, high, step, path = parameter.low, parameter.high, parameter.step, parameter.path
    if low is None or high is None or not low < high:
        raise Problem(at, f"{path}: expected 'low' below 'high', found {low} and {high}")
    if parameter.log and (low <= 0 or step is not None):
        raise Problem((*at, "log"), f"{path}: a log scale needs 'low' above 0 and no 'step'")
    if step is not None and not parameter.holds(high):
        raise Problem((*at, "step"), f"{path}: steps of {step} from {low} do not arrive at {high}")
    if parameter.is_integer and any(isinstance(v, float) and not v.is_integer() for v in (low, high, step or 1)):
        raise Problem(at, f"{path} takes whole numbers: expected whole 'low', 'high' and 'step'")
    if parameter.reference is None:
        for key, value in (("low", low), ("high", high)):
            check_value(path, value, (*at, key))


def _check_sizes(parameter: Parameter, reference: str, at: Location) -> None:
    """`times` and `plus` are for sizes: whole numbers from 1 on, on both sides."""
    values = Config().flatten()
    for path in (reference, parameter.path):
        if type(values[path]) is not int or values[path] < 1:
            raise Problem(at, f"'times' and 'plus' relate sizes, whole numbers from 1 on; {path} is {values[path]!r}")
    if any(type(choice) is not int for choice in parameter.choices):
        raise Problem(at, f"{parameter.path}: expected whole numbers as choices beside 'times' or 'plus'")


def _check_reference(parameter: Parameter, path: str, earlier: list[str], searched: list[str], at: Location) -> None:
    if path not in field_paths():
        raise Problem(at, f"no field '{path}' in the configuration; {closest(path, field_paths())}")
    if path in searched and path not in earlier:
        raise Problem(at, f"{parameter.path} depends on {path}, which must stand above it")
