"""The methods CausalGeD is compared with: one file and one line of `METHODS` each.

A method is a class made without arguments. `fit(visible, seed)` gets what a method may see and returns nothing;
`predict(genes)` returns (n_genes, n_spots) float32 in log-normalised expression. It never sees an ST value of a
held-out gene, draws all its random numbers from `seed`, and refuses with a `CGDError` what it cannot work on. A
generative method also has `draw(genes, n)`; of any other, draws are counts around its predictions (`draws.py`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import EntryPoint, PackageNotFoundError, distributions, entry_points, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from cgd.config import BROUGHT, CAUSALGED
from cgd.errors import CGDError, ConfigError, closest
from cgd.version import code_version

if TYPE_CHECKING:
    from cgd.data.protocol import FloatArray, VisiblePair


GROUP = "causalged_ray.methods"
_HOME = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
BROUGHT_NOTE = "Brought, not audited: that its values did not see the truth cannot be checked."


class Method(Protocol):
    """What every baseline offers."""

    def fit(self, visible: VisiblePair, seed: int) -> None: ...

    def predict(self, genes: Sequence[str]) -> FloatArray: ...


@runtime_checkable
class GenerativeMethod(Method, Protocol):
    """A method with draws of its own: (n, n_genes, n_spots) float32 in log-normalised expression, from the seed of
    `fit`, each with random numbers of its own, so that the first are the same however many."""

    def draw(self, genes: Sequence[str], n: int) -> FloatArray: ...


@dataclass(frozen=True)
class Entry:
    """A line of the registry.

    Attributes
    ----------
    home
        `module:class`.
    title
        As reports name it.
    package
        Importable name of the optional package the method needs; None for none.
    note
        What the row of a table must say about it.
    libraries
        Distributions that compute for it and for no other part of the project: another version is another method.
    """

    home: str
    title: str
    package: str | None = None
    note: str = ""
    libraries: tuple[str, ...] = ()

    def make(self) -> Method:
        """A fresh, unfitted method. Raises ConfigError if it cannot be imported or made."""
        module, _, name = self.home.partition(":")
        try:
            made = getattr(import_module(module), name, None)
            if made is None:
                raise ConfigError(f"module {module} has no class '{name}'")
            return made()
        except CGDError:
            raise
        except ModuleNotFoundError as error:
            raise ConfigError(f"{self.title} needs the package '{error.name}'; {self._mend()}") from None
        except (Exception, SystemExit) as error:  # code from elsewhere may fail in any way; it is the user's to mend
            raise ConfigError(f"{self.title} ({self.home}) cannot be made: {type(error).__name__}: {error}") from None

    def check(self) -> None:
        """Raise ConfigError where the method cannot be made here, as when a package is missing, or is not a method."""
        made = self.make()
        absent = [name for name in ("fit", "predict") if not callable(getattr(made, name, None))]
        if absent:
            raise ConfigError(
                f"{self.title} ({self.home}) has no {' and no '.join(absent)}; a method has fit(visible, seed) and "
                "predict(genes)"
            )

    def code_version(self) -> str:
        """Version of the code the method runs and of its libraries; of code from outside, of its own file alone."""
        module = self.home.partition(":")[0]
        own, outside = code_version("cgd.baselines.trial", module), _file_hash(module)
        beside = [f"{name} {_find_version(name)}" for name in self.libraries] + [outside] * bool(outside)
        return hashlib.sha256(repr([own, *beside]).encode()).hexdigest()[:12] if beside else own

    def _mend(self) -> str:
        if self.package:
            return "install it with: pip install 'causalged-ray[baselines]'"
        return "install it, or correct the name of the method"


# in the order of the paper's Table I
METHODS: dict[str, Entry] = {
    "spadit": Entry(
        "cgd.baselines.spadit:SpaDiT",
        "SpaDiT (strict)",
        note="Re-implemented without the pasting of true test values that the published score rests on.",
    ),
    "tangram": Entry(
        "cgd.baselines.tangram:Tangram",
        "Tangram",
        package="tangram",
        libraries=("tangram-sc", "scikit-learn"),
        note="Maps clusters of cells, 20 of k-means in place of Leiden's.",
    ),
    "gimvi": Entry(
        "cgd.baselines.gimvi:GimVI",
        "gimVI",
        package="scvi",
        libraries=("scvi-tools",),
        note="Trained for about half a minute: fewer epochs than the 200 published where cells or spots are many.",
    ),
    "spage": Entry("cgd.baselines.spage:SpaGE", "SpaGE"),
    "stplus": Entry("cgd.baselines.stplus:StPlus", "stPlus"),
    "spaotsc": Entry("cgd.baselines.spaotsc:SpaOTsc", "SpaOTsc", libraries=("pot",)),
    "novosparc": Entry(
        "cgd.baselines.novosparc:NovoSpaRc",
        "novoSpaRc",
        note="The plan uses at most 1500 cells, drawn at random.",
        libraries=("pot",),
    ),
    "spatialscope": Entry(
        "cgd.baselines.spatialscope:SpatialScope",
        "SpatialScope-style",
        note="Reduced: k-means for cell types, no spatial prior, an MLP score network, one pseudo-cell per spot.",
    ),
    "stdiff": Entry(
        "cgd.baselines.stdiff:StDiff",
        "stDiff",
        note="A network of 128 units, 500 steps and 25 sampling steps in place of 512 to 2048, thousands and 1500.",
    ),
}


def discover_methods() -> dict[str, Entry]:
    """Methods that installed packages offer as entry points of the group `causalged_ray.methods`; none is imported.

    A name that is taken already stays with who has it. What is no `MODULE:CLASS` is passed over (`list_unusable`).
    """
    found: dict[str, Entry] = {}
    for point in _points()[0]:
        if point.name != CAUSALGED and point.name not in METHODS and _HOME.fullmatch(point.value):
            note = f"Installed beside this project{_package(point)}."
            found.setdefault(point.name, Entry(point.value, point.name, note=note))
    return found


def list_unusable() -> list[str]:
    """What installed packages offer but cannot be used, a sentence each."""
    points, unread = _points()
    return unread + [
        f"{point.name} is left out: its entry point{_package(point)} is '{point.value}', expected MODULE:CLASS"
        for point in points
        if not _HOME.fullmatch(point.value)
    ]


def _points() -> tuple[list[EntryPoint], list[str]]:
    """The entry points of our group, and of which packages none can be read."""
    try:
        return list(entry_points(group=GROUP)), []
    except Exception:  # one package whose list cannot be parsed hides all others: they are asked one by one
        return _points_one_by_one()


def _points_one_by_one() -> tuple[list[EntryPoint], list[str]]:
    points, unread = [], []
    for package in distributions():
        try:
            points += list(package.entry_points.select(group=GROUP))
        except Exception as error:  # of any package, whatever it wrote there
            unread.append(f"the entry points of the package {package.name} cannot be read ({type(error).__name__})")
    return points, unread


def _package(point: EntryPoint) -> str:
    return f", of the package {point.dist.name} {point.dist.version}" if point.dist else ""


def find_method(name: str) -> Entry:
    """A method by its name, or `MODULE:CLASS`. Raises ConfigError for neither, with the closest name."""
    if name in METHODS:
        return METHODS[name]
    if name.startswith(BROUGHT):
        return Entry("cgd.baselines.predictions:Predictions", name.removeprefix(BROUGHT), note=BROUGHT_NOTE)
    if _HOME.fullmatch(name):
        return Entry(home=name, title=name.partition(":")[2])
    found = discover_methods()
    if name in found:
        return found[name]
    known = [CAUSALGED, *METHODS, *found]
    raise ConfigError(f"no method is called '{name}'; {closest(name, known)}; or give MODULE:CLASS")


def _find_version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _file_hash(module: str) -> str:
    """Of the file of a module outside this package, so that a changed method is another one; empty for any other."""
    if module.partition(".")[0] == "cgd":
        return ""
    try:
        spec = find_spec(module)
    except Exception:  # code of a package above it may fail in any way; whoever makes the method hears of it
        return ""
    path = Path(spec.origin) if spec and spec.origin else None
    return hashlib.sha256(path.read_bytes()).hexdigest() if path and path.is_file() else ""
