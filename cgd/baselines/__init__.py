"""The methods CausalGeD is compared with: one file and one line of `METHODS` each.

A method is a class made without arguments. `fit(visible, seed)` gets what a method may see and returns nothing;
`predict(genes)` returns (n_genes, n_spots) float32 in log-normalised expression. It never sees an ST value of a
held-out gene, draws all its random numbers from `seed`, and refuses with a `CGDError` what it cannot work on.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Protocol

from cgd.errors import ConfigError, closest
from cgd.version import code_version

if TYPE_CHECKING:
    from cgd.data.protocol import FloatArray, VisiblePair


class Method(Protocol):
    """What every baseline offers."""

    def fit(self, visible: VisiblePair, seed: int) -> None: ...

    def predict(self, genes: Sequence[str]) -> FloatArray: ...


@dataclass(frozen=True)
class Entry:
    """A line of the registry.

    Attributes
    ----------
    home
        `module:class`.
    title
        As reports name it.
    extra
        Package that the optional extra `baselines` installs and the method needs; None for none.
    note
        What the row of a table must say about it.
    """

    home: str
    title: str
    extra: str | None = None
    note: str = ""

    def make(self) -> Method:
        """A fresh, unfitted method. Raises ConfigError if it cannot be imported."""
        module, _, name = self.home.partition(":")
        try:
            made = getattr(import_module(module), name)()
        except ModuleNotFoundError as error:
            raise ConfigError(f"{self.title} needs the package '{error.name}'; {self._mend()}") from None
        except AttributeError:
            raise ConfigError(f"module {module} has no class '{name}'") from None
        return made

    def code_version(self) -> str:
        """Version of the code the method runs; of code outside the package, its name alone."""
        return code_version("cgd.baselines.trial", self.home.partition(":")[0])

    def _mend(self) -> str:
        if self.extra:
            return "install it with: pip install 'causalged-ray[baselines]'"
        return "install it, or correct the name of the method"


METHODS: dict[str, Entry] = {
    "spage": Entry("cgd.baselines.spage:SpaGE", "SpaGE"),
    "stdiff": Entry(
        "cgd.baselines.stdiff:StDiff",
        "stDiff",
        note="A network of 128 units, 500 steps and 25 sampling steps in place of 512 to 2048, thousands and 1500.",
    ),
    "spadit": Entry(
        "cgd.baselines.spadit:SpaDiT",
        "SpaDiT (strict)",
        note="Re-implemented without the pasting of true test values that the published score rests on.",
    ),
    "spatialscope": Entry(
        "cgd.baselines.spatialscope:SpatialScope",
        "SpatialScope-style",
        note="Reduced: k-means for cell types, no spatial prior, an MLP score network, one pseudo-cell per spot.",
    ),
    "stplus": Entry("cgd.baselines.stplus:StPlus", "stPlus"),
    "spaotsc": Entry("cgd.baselines.spaotsc:SpaOTsc", "SpaOTsc"),
    "novosparc": Entry(
        "cgd.baselines.novosparc:NovoSpaRc", "novoSpaRc", note="The plan uses at most 1500 cells, drawn at random."
    ),
}


def find_method(name: str) -> Entry:
    """A method by its name, or `MODULE:CLASS`. Raises ConfigError for neither, with the closest name."""
    if name in METHODS:
        return METHODS[name]
    if re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", name):
        return Entry(home=name, title=name.partition(":")[2])
    raise ConfigError(f"no method is called '{name}'; {closest(name, ['causalged', *METHODS])}; or give MODULE:CLASS")
