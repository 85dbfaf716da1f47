"""Which methods a comparison runs: chosen by name, and found usable before anything runs."""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from ablations.study.comparison import TITLE, Compared
from cgd.baselines import METHODS, Entry, discover_methods, find_method, list_unusable
from cgd.baselines.predictions import Brought
from cgd.config import BROUGHT, CAUSALGED
from cgd.errors import ConfigError

ALL, FLOORS = "all", "floors"


def choose_methods(
    asked: Sequence[str], brought: Sequence[Brought], skip_missing: bool
) -> tuple[list[Compared], list[str]]:
    """The methods beside CausalGeD, and what to tell the user of those that are left out.

    Parameters
    ----------
    asked
        Names, comma-separated or one by one: `all` for every registered and installed one, `floors` for none.
    brought
        Predictions that stand beside them.
    skip_missing
        Leave out what needs a package that is not installed, instead of refusing.

    Raises
    ------
    ConfigError
        No such method, or one that cannot be made here.
    """
    names = list(dict.fromkeys(name.strip() for text in asked for name in text.split(",") if name.strip()))
    if not names:
        raise ConfigError(f"--methods names nothing; expected names such as spage,tangram, or '{ALL}', or '{FLOORS}'")
    chosen: list[Compared] = []
    notes = list_unusable() if ALL in names else []
    everything = [*METHODS, *discover_methods()] if ALL in names else []
    named = [name for name in names if name not in (ALL, FLOORS, CAUSALGED)]
    for name in dict.fromkeys([*everything, *named]):
        entry = _find(name)
        try:
            entry.check()
        except ConfigError as error:
            # of what was not named, but only found on this machine, nothing may keep the others from running
            if not (skip_missing or (ALL in names and name not in names and name not in METHODS)):
                raise ConfigError(f"{error}; or leave it out with --skip-missing") from None
            notes.append(f"{entry.title} is left out: {error}")
            continue
        chosen.append(Compared(name, entry.title, entry.note))
    chosen += [Compared(BROUGHT + one.name, one.name, find_method(BROUGHT + one.name).note) for one in brought]
    return _tell_apart(chosen), notes


def _find(name: str) -> Entry:
    """The method, a class of one's own also where its module lies in the current folder."""
    if ":" in name and (here := os.getcwd()) not in sys.path:
        sys.path.append(here)
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH", ""), here]))
    return find_method(name)


def _tell_apart(chosen: Sequence[Compared]) -> list[Compared]:
    """Titles as a table needs them: a title that several have, or CausalGeD has, is followed by the name."""
    counts = Counter([TITLE, *(one.title for one in chosen)])
    return [replace(one, title=f"{one.title} ({one.name})") if counts[one.title] > 1 else one for one in chosen]


def parse_brought(texts: Sequence[str]) -> list[Brought]:
    """NAME=FILE of --predictions. Raises ConfigError for anything else, and for a name given twice."""
    found: list[Brought] = []
    for text in texts:
        name, _, pattern = text.partition("=")
        if not pattern or not re.fullmatch(r"[A-Za-z0-9][\w .+()-]{0,59}", name):
            raise ConfigError(
                f"--predictions {text}: expected NAME=FILE, e.g. MyMethod=preds/{{dataset}}.h5ad; a name is letters, "
                "digits, blanks and _ . + - ( )"
            )
        if name in (one.name for one in found):
            raise ConfigError(
                f"--predictions names '{name}' twice; {{dataset}}, {{fold}} and {{seed}} tell files apart"
            )
        found.append(Brought(name, pattern))
    return found


def print_methods() -> None:
    """The methods a comparison can name, for --list; nothing of other packages is imported."""
    print("Methods:")
    print(f"  {CAUSALGED:<14} {TITLE}, in every comparison")
    for name, entry in (METHODS | discover_methods()).items():
        needs = f" (needs {entry.package})" if entry.package else ""
        print(f"  {name:<14} {entry.title}{needs}" + (f": {entry.note}" if entry.note else ""))
    print("  or MODULE:CLASS of your own, and --predictions NAME=FILE")
