"""What is kept as JSON: every format is one frozen model, which both its writer and its reader use."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Annotated, Self

import numpy as np
import pandas as pd
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from cgd.errors import CGDError, TrackingError

PER_GENE = "per_gene.json"  # the artifact of a run
_ADVICE = "delete the run in MLflow and run the study again"


class Stored(BaseModel):
    """A stored format. Numbers that are not finite are null; keys that other versions add are left out."""

    model_config = ConfigDict(frozen=True)

    def to_json(self) -> str:
        """The text that is kept."""
        return self.model_dump_json(indent=1, by_alias=True)

    @classmethod
    def from_json(cls, text: str, source: str, advice: str) -> Self:
        """Read what `to_json` wrote. Raises TrackingError with `source` and `advice` where it is something else."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise TrackingError(f"{source} {explain(error)}", advice) from None
        except CGDError as error:  # of a part that is no `Stored`
            raise TrackingError(f"{source}: {error}", advice) from None


def explain(error: ValidationError) -> str:
    """What a text of a stored format lacks; where it lacks nothing, what is wrong first."""
    found = [(".".join(map(str, one["loc"])), one) for one in error.errors(include_url=False)]
    if absent := [place for place, one in found if one["type"] == "missing"]:
        return f"lacks {', '.join(absent)}"
    place, first = found[0]
    shown = repr(first["input"])
    return f"does not fit{f' at {place}' if place else ''}: {first['msg']}, found {shown[:80]}"


# NaN where it is not known, which is null in JSON
Number = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]


def write_per_gene(table: pd.DataFrame) -> str:
    """A per-gene table as it is kept with a run."""
    return str(table.to_json(orient="split", index=False))


def read_per_gene(
    text: str, run_id: str, keys: list[str], columns: Sequence[str], optional: Sequence[str] = ()
) -> pd.DataFrame:
    """The `keys` and numeric `columns` of a kept table; null and infinite entries become NaN.

    Of the `optional` columns those that it has come after; a table of an earlier version may lack them.

    Raises
    ------
    TrackingError
        It is no such table, or lists a gene twice.
    """
    try:
        content = json.loads(text)
        table = pd.DataFrame(content["data"], columns=content["columns"])
        wanted = [*columns, *(name for name in optional if name in table)]
        numbers = table[wanted].apply(pd.to_numeric).astype(float)
        result = table[keys].join(numbers.where(np.isfinite(numbers)))
    except (KeyError, TypeError, ValueError) as error:
        raise TrackingError(f"run {run_id}: {PER_GENE} is not the expected table: {error}", _ADVICE) from None
    if (repeated := result.duplicated(keys)).any():
        gene = result.loc[repeated, "gene"].iloc[0]
        reason = f"run {run_id}: {PER_GENE} lists gene '{gene}' twice; it was logged more than once"
        raise TrackingError(reason, _ADVICE)
    return result
