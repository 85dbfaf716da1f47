"""The head of a study as it is kept in the tracking store: what was asked, with what, of which data."""

from __future__ import annotations

from typing import Any

import pandas as pd

from ablations.study.study import Study
from cgd.errors import StudyError, TrackingError

OLDER = ("dataset", "level", "seed", "fold", "code_version", "run_id", "pcc", "when")


def read_header(content: Any, run_id: str) -> dict[str, Any]:
    """What `study.json` says of a study beside its trials and floors, as `StudyResults` has it.

    Raises
    ------
    TrackingError
        It is not what a study writes.
    """
    needed = ("study", "protocol", "config", "datasets", "trials", "floors", "versions")
    if not isinstance(content, dict) or any(key not in content for key in needed):
        absent = [key for key in needed if not isinstance(content, dict) or key not in content]
        raise TrackingError(f"run {run_id}: study.json lacks {', '.join(absent)}; it was written by another version")
    try:
        study = Study.from_dict(content["study"], f"study.json of run {run_id}")
    except StudyError as error:
        raise TrackingError(str(error)) from None
    known = {key: content[key] for key in ("protocol", "config", "datasets", "versions")}
    optional = {"code_version": content.get("code_version") or "", "forecast": content.get("forecast")}
    return {"study": study, "older": _older(content.get("older") or [], run_id)} | known | optional


def _older(entries: Any, run_id: str) -> pd.DataFrame:
    try:
        table = pd.DataFrame([{key: entry[key] for key in OLDER} for entry in entries], columns=list(OLDER))
        return table.assign(pcc=pd.to_numeric(table["pcc"]).astype(float))
    except (KeyError, TypeError, ValueError) as error:
        message = f"run {run_id}: 'older' of study.json is not a list of {', '.join(OLDER)}: {error}"
        raise TrackingError(f"{message}; run the study again to rewrite it") from None
