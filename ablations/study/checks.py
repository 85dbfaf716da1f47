"""Whether the parts of a study fit together; each check refuses with the place in the file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ablations.study.combinations import check_configurations
from ablations.study.factor import (
    PROTOCOL,
    Problem,
    check_axis,
    check_only_on,
    check_path,
    check_value,
    check_when,
    repeated_in,
)
from ablations.study.yaml_lines import Location

if TYPE_CHECKING:
    from ablations.study.study import Study


def check_layout(study: Study) -> None:
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
    if study.grid and (len(study.factors) < 2 or repeated_in([factor.path for factor in study.factors])):
        raise Problem(("factors",), "a grid crosses at least two factors with different paths")
    least = 1 if study.is_comparison else 2
    whole = study.factor is not None and len(study.levels) >= least and study.default is not None
    if not (study.grid or study.configurations or whole):
        raise Problem((), "expected a 'factor', at least two 'levels' and the 'default' level")


def check_content(study: Study) -> None:
    """Factors, conditions, configurations, what is fixed, data sets and labels."""
    if repeated := repeated_in(study.datasets):
        raise Problem(("datasets",), f"data set '{repeated[0]}' is listed twice")
    for i, axis in enumerate(study.axes):
        at: Location = ("factors", i) if study.grid else ()
        check_axis(axis, at)
        if study.datasets:
            check_only_on(axis, [_name_of(dataset) for dataset in study.datasets], at)
    for i, axis in enumerate(study.factors):
        check_when(axis, study.factors, ("factors", i))
    if study.configurations:
        check_configurations(study.configurations)
    _check_fixed(study)
    if not all(study.labels) or repeated_in(study.labels):
        message = f"the rows of the grid do not have distinct labels: {', '.join(study.labels)}"
        raise Problem(("factors",), message)


def _check_fixed(study: Study) -> None:
    for path, value in study.fixed.items():
        if not (study.is_comparison and path == PROTOCOL):
            check_path(path, "be fixed", ("fixed", path))
        check_value(path, value, ("fixed", path))
        if path in study.paths:
            raise Problem(("fixed", path), f"'{path}' is varied by this study, so it cannot be fixed as well")


def _name_of(dataset: str) -> str:
    """The name a data set goes by when it is given as a folder or as two files."""
    first = dataset.partition(",")[0].strip()
    return Path(first).stem if "," in dataset else Path(first).name
