"""A study: one question about one factor, and the trials that answer it.

The built-in studies are one YAML file each beside this module: the paper's five ablations (Sadia, Ahamed, Cheng,
CausalGeD, arXiv:2502.07751, section V) and those that the method itself asks for. A study changes exactly the
configuration fields it declares and nothing else. docs/studies.md says how to write one.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, model_validator

from ablations.study.combinations import Combination, Configuration, check_configurations, cross, list_rows
from ablations.study.factor import (
    PROTOCOL,
    Factor,
    GridFactor,
    Level,
    Part,
    Problem,
    Scalar,
    Text,
    cast_to_field,
    check_axis,
    check_only_on,
    check_path,
    check_value,
    check_when,
    find_repeated,
)
from ablations.study.validation import validate
from ablations.study.yaml_lines import LocatedYAML, Location, find_yaml, list_built_in, read_yaml
from cgd.config import Config
from cgd.errors import ConfigError, StudyError, closest

_BUILT_IN = Path(__file__).parents[1]
PAPER_STUDIES = ("ar_decay", "decoder_training", "depth", "encoder_variation", "timestep_sampling")
_BY_CODE_ONLY = "configurations"
METHOD = "method"  # the field of the configuration that a comparison varies

Replicates = Annotated[int, Field(ge=1, strict=True)]


class Paper(Part):
    """What the paper states: `values` is level label -> abbreviation of the paper's data set (Table III) -> number."""

    figure: Text
    protocol: Literal["published", "heldout_genes"]
    metric: Literal["pcc", "ssim", "rmse", "js"]
    claim: Text
    values: dict[str, dict[str, float]] = Field(default_factory=dict)
    note: str = ""


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
    """One question, in one of three layouts.

    It varies one `factor` (of the methods: a comparison, which may fix the protocol and have one level, since there
    the floors are compared with as well); or with `grid: true` it crosses the levels of several `factors`; or, made by
    code only, it compares `configurations` that were found elsewhere.

    Attributes
    ----------
    fixed
        Dotted path -> value that holds throughout instead of the configuration's own.
    seeds, folds, datasets
        Replicates and data sets where a command names none.
    smallest_effect
        Smallest difference in mean PCC worth knowing.
    """

    name: Annotated[str, Field(max_length=80, pattern=r"^[a-z][a-z0-9_]*$")]
    question: Text
    hypothesis: Text
    factor: Factor | None = None
    levels: tuple[Level, ...] = ()
    default: Scalar | None = None
    grid: bool = False
    factors: tuple[GridFactor, ...] = ()
    configurations: tuple[Configuration, ...] = ()
    fixed: dict[str, Scalar] = Field(default_factory=dict)
    seeds: Replicates | None = None
    folds: Replicates | None = None
    datasets: tuple[Text, ...] = ()
    smallest_effect: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.01
    figure: Literal["bars", "lines", "table"] = "bars"
    paper: Paper | None = None

    @model_validator(mode="after")
    def _is_sound(self) -> Study:
        _check_layout(self)
        _check_content(self)
        if self.paper:
            for label in sorted(set(self.paper.values) - set(self.labels)):
                message = f"no level is labelled '{label}'; {closest(label, self.labels)}"
                raise Problem(("paper", "values", label), message)
        return self

    @property
    def axes(self) -> tuple[GridFactor, ...]:
        """The factors with their levels: one, or those of the grid; none where configurations are compared."""
        if self.factor is None or self.default is None:
            return self.factors
        axis = GridFactor.model_construct(
            path=self.factor.path, name=self.factor.name, levels=self.levels, default=self.default, when={}
        )
        return (axis,)

    @property
    def is_comparison(self) -> bool:
        """Whether methods are compared: the report is then a table of methods, floors among them."""
        return self.factor is not None and self.factor.path == METHOD

    @property
    def notes(self) -> dict[str, str]:
        """Label -> what is to be said of the level, where there is something; of a single factor."""
        return {level.label: level.note for level in self.levels if level.note}

    @property
    def paths(self) -> tuple[str, ...]:
        """Every dotted path the study varies."""
        varied = [path for row in self.configurations for path in row.values]
        return tuple(dict.fromkeys([*(axis.path for axis in self.axes), *varied]))

    @property
    def title(self) -> str:
        """The factor in words, e.g. for a heading."""
        if self.is_comparison:
            return "Comparison of methods"
        return " × ".join(axis.name for axis in self.axes) or "Configuration"

    @property
    def combinations(self) -> tuple[Combination, ...]:
        """All rows: the levels in file order; for a grid their product."""
        return list_rows(self.configurations) if self.configurations else cross(self.axes)

    def combinations_on(self, dataset: str) -> tuple[Combination, ...]:
        """The rows that are run on this data set."""
        return tuple(row for row in self.combinations if row.only_on is None or dataset in row.only_on)

    @property
    def labels(self) -> list[str]:
        return [row.label for row in self.combinations]

    @property
    def default_label(self) -> str:
        return next(row.label for row in self.combinations if row.is_default)

    def base(self, config: Config) -> Config:
        """`config` with what the study holds fixed. Raises StudyError if they contradict each other."""
        try:
            return config.with_values(self.fixed) if self.fixed else config
        except ConfigError as error:
            raise StudyError(f"study '{self.name}', fixed: {error}") from None

    def check_assigned(self, assigned: Mapping[str, Any]) -> None:
        """Refuse an assignment (dotted path -> value) of the command line that contradicts what is fixed."""
        for path, value in self.fixed.items():
            if path in assigned and cast_to_field(path, assigned[path]) != cast_to_field(path, value):
                raise StudyError(
                    f"--set {path}={assigned[path]} contradicts study '{self.name}', which holds {path} fixed at "
                    f"{value}; leave out the --set, or change 'fixed' in a copy of the study"
                )

    def trials(self, base: Config, datasets: Sequence[str], seeds: Sequence[int], folds: Sequence[int]) -> list[Trial]:
        """Every data set x fold x seed x level, the levels innermost so that unfinished studies stay comparable.

        `base` is the command's configuration; what the study holds fixed comes on top.

        Raises
        ------
        StudyError
            A list is empty or repeats itself, a fold does not exist, a level is not valid on top of `base`, or a data
            set has one level only.
        """
        for what, asked in (("data set", datasets), ("seed", seeds), ("fold", folds)):
            _check_list(self.name, what, asked)
        own = self.base(base)
        return [
            Trial(self.name, row.label, dataset, seed, fold, self._configure(own, row, seed, fold))
            for dataset in datasets
            for fold, seed, row in itertools.product(folds, seeds, self._rows_on(dataset))
        ]

    def _rows_on(self, dataset: str) -> tuple[Combination, ...]:
        rows = self.combinations_on(dataset)
        if len(rows) < (1 if self.is_comparison else 2):  # of a comparison the floors are part
            limited = [f"'{row.label}' on {', '.join(sorted(row.only_on))}" for row in self.combinations if row.only_on]
            raise StudyError(
                f"study '{self.name}' has nothing to compare on '{dataset}', as it runs {'; '.join(limited)} only"
            )
        return rows

    def _configure(self, base: Config, row: Combination, seed: int, fold: int) -> Config:
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
    return list_built_in(_BUILT_IN)


def load_study(name_or_path: str | Path) -> Study:
    """A built-in study by its name, or any study by the path of its YAML file.

    Raises
    ------
    StudyError
        No such study (with the closest name), or a malformed one (with the line).
    """
    path = find_yaml(_BUILT_IN, name_or_path, "study")
    document = read_yaml(path)
    if _BY_CODE_ONLY in document.values:
        message = "is written by the search alone; a study file varies a 'factor', or 'factors' with 'grid: true'"
        raise StudyError(f"{path}, {document.say((_BY_CODE_ONLY,), message)}")
    return _validate(document, str(path))


def load_studies(names: Sequence[str | Path]) -> list[Study]:
    """Several studies, each once; `all` stands for the built-in ones, `paper` for the five of the paper."""
    groups: dict[str, Sequence[str]] = {"all": list_studies(), "paper": PAPER_STUDIES}
    wanted = [name for given in names for name in groups.get(str(given), [given])]
    return [load_study(name) for name in dict.fromkeys(wanted)]


def _validate(document: LocatedYAML, source: str) -> Study:
    parts: dict[str, type[BaseModel]] = {"factor": Factor, "levels": Level, "factors": GridFactor, "paper": Paper}
    return validate(Study, document, source, parts, hidden=_BY_CODE_ONLY)


def _check_list(study: str, what: str, asked: Sequence[Any]) -> None:
    if not asked:
        raise StudyError(f"study '{study}': expected at least one {what}, found none")
    if repeated := find_repeated(asked):
        raise StudyError(f"study '{study}': {what} {repeated[0]!r} is asked for twice")


def _check_layout(study: Study) -> None:
    """One factor, or a declared grid of several, or configurations."""
    single = study.factor is not None or bool(study.levels) or study.default is not None
    if study.factors and not study.grid:
        raise Problem(
            ("factors",),
            f"found {len(study.factors)} factors: a study changes one, declared as 'factor', 'levels' and "
            "'default'; to cross several on purpose, add 'grid: true'",
        )
    if study.configurations and (study.grid or single):
        raise Problem(("configurations",), "configurations stand alone: remove the factors and their levels")
    if study.grid and single:
        raise Problem((), "a grid lists everything under 'factors'; remove 'factor', 'levels' and 'default'")
    if study.grid and (len(study.factors) < 2 or find_repeated([factor.path for factor in study.factors])):
        raise Problem(("factors",), "a grid crosses at least two factors with different paths")
    least = 1 if study.is_comparison else 2
    whole = study.factor is not None and len(study.levels) >= least and study.default is not None
    if not (study.grid or study.configurations or whole):
        raise Problem((), "expected a 'factor', at least two 'levels' and the 'default' level")


def _check_content(study: Study) -> None:
    """Factors, conditions, configurations, what is fixed, data sets and labels."""
    if repeated := find_repeated(study.datasets):
        raise Problem(("datasets",), f"data set '{repeated[0]}' is listed twice")
    for i, axis in enumerate(study.axes):
        at: Location = ("factors", i) if study.grid else ()
        check_axis(axis, at)
        if study.datasets:
            check_only_on(axis, [_find_name(dataset) for dataset in study.datasets], at)
    for i, axis in enumerate(study.factors):
        check_when(axis, study.factors, ("factors", i))
    if study.configurations:
        check_configurations(study.configurations)
    _check_fixed(study)
    if not all(study.labels) or find_repeated(study.labels):
        message = f"the rows of the grid do not have distinct labels: {', '.join(study.labels)}"
        raise Problem(("factors",), message)


def _check_fixed(study: Study) -> None:
    for path, value in study.fixed.items():
        if not (study.is_comparison and path == PROTOCOL):
            check_path(path, "be fixed", ("fixed", path))
        check_value(path, value, ("fixed", path))
        if path in study.paths:
            raise Problem(("fixed", path), f"'{path}' is varied by this study, so it cannot be fixed as well")


def _find_name(dataset: str) -> str:
    """The name a data set goes by when it is given as a folder or as two files."""
    first = dataset.partition(",")[0].strip()
    return Path(first).stem if "," in dataset else Path(first).name
