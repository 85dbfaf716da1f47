"""The leak audit of a command: noise in place of the truth may change no bit of a prediction."""

from __future__ import annotations

from cgd.config import CAUSALGED, Config
from cgd.data.split import make_splits
from cgd.evaluation import audit_leakage
from tune.plan import Planner


def audit(planner: Planner, config: Config, name: str = CAUSALGED) -> bool:
    """Audit a configuration on every data set and fold, a line each; whether all passed.

    Parameters
    ----------
    name
        Of its method; lines begin with it where it is not CausalGeD.
    """
    passed = True
    who = "" if name == CAUSALGED else f"{name} on "
    for data, key in planner.under_base().items():
        prepared = planner.plan.datasets[key]
        for split in make_splits(prepared.panel, config.split):
            found = audit_leakage(config, prepared, split)
            passed &= found.identical
            verdict = "bit-identical" if found.identical else f"DIFFERS by up to {found.largest_difference:.3g}"
            what = f"{who}{data}, fold {split.fold}: {found.n_values} values"
            print(f"{what}, {verdict} with the truth replaced by noise")
    return passed
