"""The leak audit of a command: noise in place of the truth may change no bit of a prediction."""

from __future__ import annotations

from cgd.audit import audit_leakage
from cgd.config import CAUSALGED, Config
from cgd.data.preprocess import PreparedPair
from cgd.data.split import GeneSplit, make_splits
from tune.terminal.text import join_lines
from tune.trials.plan import Planner


def audit(planner: Planner, config: Config, name: str = CAUSALGED) -> bool:
    """Audit a configuration of the method `name` on every data set and fold, a line each; whether all passed.

    Where the method raises, the line says so, it counts as not passed, and the others go on.
    """
    passed = True
    who = "" if name == CAUSALGED else f"{name} on "
    for data, key in planner.prepare_under_base().items():
        prepared = planner.plan.datasets[key]
        for split in make_splits(prepared.panel, config.split):
            is_same, said = _audit_split(config, prepared, split)
            passed &= is_same
            print(f"{who}{data}, fold {split.fold}: {said}")
    return passed


def _audit_split(config: Config, prepared: PreparedPair, split: GeneSplit) -> tuple[bool, str]:
    try:
        found = audit_leakage(config, prepared, split)
    except (Exception, SystemExit) as error:  # code from elsewhere may fail in any way
        return False, f"NOT AUDITED, {type(error).__name__}: {join_lines(str(error))}"
    verdict = "bit-identical" if found.identical else f"DIFFERS by up to {found.largest_difference:.3g}"
    return found.identical, f"{found.n_values} values, {verdict} with the truth replaced by noise"
