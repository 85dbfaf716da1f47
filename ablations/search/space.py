"""A search space: which fields are searched, between which values, under which conditions.

The built-in spaces are YAML files in `spaces/`. A space is define-by-run: parameters are sampled in the order of the
file, and one whose condition the values before it do not meet is not sampled at all. A path may appear twice under
conditions that exclude each other, with other values each time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, model_validator

from ablations.search.aim import AIMS, SECONDS, Aim, Choice, list_aims
from ablations.search.parameter import Parameter, Suggests, check_parameter, list_accepted
from ablations.study.factor import Part, Problem, Text
from ablations.study.validation import validate
from ablations.study.yaml_lines import LocatedYAML, find_yaml, list_built_in, read_yaml
from cgd.config import Config
from cgd.errors import StudyError
from cgd.metrics.facts import PRIMARY

_BUILT_IN = Path(__file__).parent / "spaces"


class SamplerSettings(Part):
    """Arguments of the TPE sampler, all explicit: they are recorded with the search."""

    n_startup_trials: Annotated[int, Field(ge=1, description="random samples before the model is trusted")] = 10
    n_ei_candidates: Annotated[int, Field(ge=1)] = 24
    multivariate: bool = True
    group: bool = Field(True, description="one joint density per group of parameters that occur together")


class Stopping(Part):
    """Early stopping of hopeless trials (ASHA), on a budget in per cent of a trial's own work."""

    first_percent: Annotated[int, Field(ge=1, le=99)] = 20
    factor: Annotated[float, Field(gt=1)] = 3
    spared: Annotated[int, Field(ge=0, description="the first samples run to their end: few say little")] = 10


_PARTS: dict[str, type[BaseModel]] = {"parameters": Parameter, "sampler": SamplerSettings, "stopping": Stopping}


class Space(Part):
    """What is searched, and how."""

    name: Annotated[str, Field(max_length=80, pattern=r"^[a-z][a-z0-9_]*$")]
    description: Text
    parameters: Annotated[tuple[Parameter, ...], Field(min_length=1)]
    aim: Choice = PRIMARY
    sampler: SamplerSettings = SamplerSettings()
    stopping: Stopping | None = Stopping()

    @model_validator(mode="after")
    def _is_sound(self) -> Space:
        searched = [parameter.path for parameter in self.parameters]
        for i, parameter in enumerate(self.parameters):
            check_parameter(parameter, searched[:i], searched, ("parameters", i))
            for other in self.parameters[:i]:
                if other.path == parameter.path and not _exclude_each_other(other, parameter):
                    raise Problem(
                        ("parameters", i, "path"),
                        f"{parameter.path} is searched twice under conditions that do not exclude each other",
                    )
        return self

    @property
    def aims(self) -> tuple[Aim, ...]:
        """What is made as good as it can be; several for a Pareto front."""
        return list_aims(self.aim)

    @property
    def outcomes(self) -> tuple[Aim, ...]:
        """Those of them that say how good a prediction is."""
        return tuple(aim for aim in self.aims if aim.name != SECONDS)

    @property
    def traded(self) -> tuple[Aim, ...]:
        """The two that a front is drawn of: one aim alone is weighed against seconds."""
        return self.aims if len(self.aims) > 1 else (*self.aims, AIMS[SECONDS])

    @property
    def stops_early(self) -> bool:
        """Whether hopeless samples are stopped: by several aims none is hopeless before its end."""
        return self.stopping is not None and len(self.aims) == 1

    def name_parameters(self) -> list[tuple[str, Parameter]]:
        """Parameters with the names the sampler knows them by; the condition tells two of one path apart."""
        labels = [parameter.label for parameter in self.parameters]
        return [
            (f"{label} ({parameter.condition})" if labels.count(label) > 1 else label, parameter)
            for label, parameter in zip(labels, self.parameters, strict=True)
        ]

    def suggest(self, trial: Suggests, base: Config) -> dict[str, Any]:
        """Sample one point, dotted path -> value of the fields that are searched there; elsewhere `base` holds."""
        values, chosen = base.flatten(), {}
        for name, parameter in self.name_parameters():
            if parameter.applies(values):
                found = parameter.to_field(parameter.suggest(trial, name), values)
                values[parameter.path] = chosen[parameter.path] = found
        return chosen

    def point(self, config: Config) -> dict[str, Any]:
        """Sampler's name -> value that give `config`, in so far as the space can.

        Raises ConfigError where a size is not the multiple that the space makes it.
        """
        values = config.flatten()
        return {name: p.to_sampled(values) for name, p in self.name_parameters() if p.applies(values)}

    def include(self, config: Config) -> Space:
        """The space, widened so that it holds `config`."""
        values = config.flatten()
        wider = [p.include(p.to_sampled(values)) if p.applies(values) else p for p in self.parameters]
        return self.model_copy(update={"parameters": tuple(wider)})

    def find_outside(self, config: Config) -> dict[str, Any]:
        """Name -> value of the parameters that the space does not hold at `config`."""
        parameters = dict(self.name_parameters())
        return {name: value for name, value in self.point(config).items() if not parameters[name].holds(value)}

    def hold(self, paths: list[str]) -> Space:
        """The space without these fields, which stay as they are. Raises StudyError where that leaves none."""
        left = tuple(parameter for parameter in self.parameters if parameter.path not in paths)
        if not left:
            raise StudyError(f"space '{self.name}': every parameter is held by --set; nothing is left to search")
        return self.model_copy(update={"parameters": left})

    def aim_at(self, choice: str) -> Space:
        """The space with another aim."""
        return self.model_copy(update={"aim": choice})

    def fingerprint(self, *parts: Any) -> str:
        """16 hex digits naming the space together with `parts` (anything JSON can hold)."""
        payload = json.dumps([self.model_dump(mode="json"), *parts], sort_keys=True)
        return hashlib.sha256(payload.encode()).hexdigest()[:16]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str = "space") -> Space:
        """Validate a mapping, as written by `model_dump`. Raises StudyError naming `source`."""
        return validate(Space, LocatedYAML(dict(values), None), source, _PARTS)


def _exclude_each_other(one: Parameter, other: Parameter) -> bool:
    shared = one.when.keys() & other.when.keys()
    return any(not set(list_accepted(one.when[path])) & set(list_accepted(other.when[path])) for path in shared)


def list_spaces() -> list[str]:
    """Names of the built-in spaces."""
    return list_built_in(_BUILT_IN)


def load_space(name_or_path: str | Path) -> Space:
    """A built-in space by its name, or any space by the path of its YAML file.

    Raises
    ------
    StudyError
        No such space (with the closest name), or a malformed one (with the line).
    """
    path = find_yaml(_BUILT_IN, name_or_path, "search space")
    document = read_yaml(path, "a search space with 'name:', 'description:', 'parameters:'")
    return validate(Space, document, str(path), _PARTS)
