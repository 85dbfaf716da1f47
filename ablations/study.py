"""A study: one question about one factor, and the trials that answer it.

The built-in studies are the paper's five ablations (Sadia, Ahamed, Cheng, CausalGeD, arXiv:2502.07751, section V),
one YAML file each beside this module. A study changes exactly the configuration field it declares and nothing else.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError, model_validator

from ablations.factor import Factor, GridFactor, Level, Part, Problem, Scalar, Text, as_field, check_axis, repeated_in
from ablations.located_yaml import LocatedYAML, Location, read_yaml
from cgd.config import Config
from cgd.errors import ConfigError, StudyError, closest

_BUILT_IN = Path(__file__).parent


class Paper(Part):
    """What the paper states: `values` is level label -> abbreviation of the paper's data set (Table III) -> number."""

    figure: Text
    protocol: Literal["published", "heldout_genes"]
    metric: Literal["pcc", "ssim", "rmse", "js"]
    claim: Text
    values: dict[str, dict[str, float]] = Field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Combination:
    """One row of a study: a level, or one level of each factor of a grid. `values` is dotted path -> value."""

    label: str
    values: Mapping[str, Scalar]
    is_default: bool


@dataclass(frozen=True)
class Trial:
    """One full configuration on one data set with one seed and one fold of the genes."""

    study: str
    level: str
    dataset: str
    seed: int
    fold: int
    config: Config


class Study(Part):
    """One question. With `grid: true` it crosses the levels of several `factors`; otherwise it varies one `factor`."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    question: Text
    hypothesis: Text
    factor: Factor | None = None
    levels: tuple[Level, ...] = ()
    default: Scalar | None = None
    grid: bool = False
    factors: tuple[GridFactor, ...] = ()
    figure: Literal["bars", "lines", "table"] = "bars"
    paper: Paper | None = None

    @model_validator(mode="after")
    def _is_sound(self) -> Study:
        self._check_layout()
        for i, axis in enumerate(self.axes):
            check_axis(axis, ("factors", i) if self.grid else ())
        unknown = set(self.paper.values if self.paper else ()) - set(self.labels)
        for label in sorted(unknown):
            raise Problem(("paper", "values", label), f"no level is labelled '{label}'; {closest(label, self.labels)}")
        return self

    def _check_layout(self) -> None:
        if not self.grid and self.factors:
            raise Problem(
                ("factors",),
                f"found {len(self.factors)} factors: a study changes one, declared as 'factor', 'levels' and "
                "'default'; to cross several on purpose, add 'grid: true'",
            )
        if not self.grid and (self.factor is None or len(self.levels) < 2 or self.default is None):
            raise Problem((), "expected a 'factor', at least two 'levels' and the 'default' level")
        if self.grid and (self.factor is not None or self.levels or self.default is not None):
            raise Problem((), "a grid lists everything under 'factors'; remove 'factor', 'levels' and 'default'")
        repeated = repeated_in([factor.path for factor in self.factors])
        if self.grid and (len(self.factors) < 2 or repeated):
            raise Problem(("factors",), "a grid crosses at least two factors with different paths")

    @property
    def axes(self) -> tuple[GridFactor, ...]:
        """The factors with their levels: one, or those of the grid."""
        if self.factor is None or self.default is None:
            return self.factors
        axis = GridFactor.model_construct(
            path=self.factor.path, name=self.factor.name, levels=self.levels, default=self.default
        )
        return (axis,)

    @property
    def title(self) -> str:
        """The factor in words, e.g. for a heading."""
        return " × ".join(axis.name for axis in self.axes)

    @property
    def combinations(self) -> tuple[Combination, ...]:
        """The levels in file order; for a grid their product."""
        paths = [axis.path for axis in self.axes]
        defaults = [as_field(axis.path, axis.default) for axis in self.axes]
        rows = []
        for levels in itertools.product(*(axis.levels for axis in self.axes)):
            values = [as_field(path, level.value) for path, level in zip(paths, levels, strict=True)]
            label = " × ".join(level.label for level in levels)
            rows.append(Combination(label, dict(zip(paths, values, strict=True)), values == defaults))
        return tuple(rows)

    @property
    def labels(self) -> list[str]:
        return [row.label for row in self.combinations]

    @property
    def default_label(self) -> str:
        return next(row.label for row in self.combinations if row.is_default)

    def trials(self, base: Config, datasets: list[str], seeds: list[int], folds: list[int]) -> list[Trial]:
        """Every data set x fold x seed x level, the levels innermost so that unfinished studies stay comparable.

        Raises
        ------
        StudyError
            A list is empty or repeats itself, a fold does not exist, or a level is not valid on top of `base`.
        """
        for what, asked in (("data set", datasets), ("seed", seeds), ("fold", folds)):
            _check_list(self.name, what, asked)
        return [
            Trial(self.name, row.label, dataset, seed, fold, self._config(base, row, seed, fold))
            for dataset, fold, seed, row in itertools.product(datasets, folds, seeds, self.combinations)
        ]

    def _config(self, base: Config, row: Combination, seed: int, fold: int) -> Config:
        where = f"study '{self.name}', level '{row.label}'"
        try:
            config = base.with_values({**row.values, "seed": seed})
        except ConfigError as error:
            raise StudyError(f"{where}: {error}") from None
        before, after = base.flatten(), config.flatten()
        changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
        if extra := changed - set(row.values) - {"seed"}:
            raise StudyError(f"{where} would also change {', '.join(sorted(extra))}; it may change its factor only")
        if not 0 <= fold < config.split.n_folds:
            raise StudyError(f"{where}: fold {fold} does not exist, split.n_folds is {config.split.n_folds}")
        return config

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str = "study") -> Study:
        """Validate a mapping, as written by `model_dump`. Raises StudyError naming `source`."""
        return _validate(LocatedYAML(dict(values), None), source)


def list_studies() -> list[str]:
    """Names of the built-in studies."""
    return sorted(path.stem for path in _BUILT_IN.glob("*.yaml"))


def load_study(name_or_path: str | Path) -> Study:
    """A built-in study by its name, or any study by the path of its YAML file.

    Raises
    ------
    StudyError
        No such study (with the closest name), or a malformed one (with the line).
    """
    names = list_studies()
    path = _BUILT_IN / f"{name_or_path}.yaml" if str(name_or_path) in names else Path(name_or_path)
    if not path.is_file():
        raise StudyError(f"no study '{name_or_path}' and no such file; {closest(str(name_or_path), names)}")
    return _validate(read_yaml(path), str(path))


def _validate(document: LocatedYAML, source: str) -> Study:
    try:
        return Study.model_validate(document.values)
    except ValidationError as error:
        problems = "; ".join(_explain(e, document) for e in error.errors())
        raise StudyError(f"{source}, {problems}" if document.root else f"{source}: {problems}") from None


def _explain(error: Any, document: LocatedYAML) -> str:
    cause = error.get("ctx", {}).get("error")
    location = cause.location if isinstance(cause, Problem) else error["loc"]
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        message = f"unknown key; {closest(str(location[-1]), _keys_at(location[:-1]))}"
    where = ".".join(str(part) for part in location)
    line = f"line {document.line(location)}: " if document.root else ""
    return f"{line}{where}: {message}" if where else f"{line}{message}"


def _keys_at(location: Location) -> list[str]:
    part: type[BaseModel] = Study
    named: dict[str, type[BaseModel]] = {"factor": Factor, "levels": Level, "factors": GridFactor, "paper": Paper}
    for key in location:
        part = named.get(str(key), part)
    return list(part.model_fields)


def _check_list(study: str, what: str, asked: Sequence[Any]) -> None:
    if not asked:
        raise StudyError(f"study '{study}': expected at least one {what}, found none")
    if repeated := repeated_in(asked):
        raise StudyError(f"study '{study}': {what} {repeated[0]!r} is asked for twice")
