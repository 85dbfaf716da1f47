"""Predictions that were made elsewhere: a file of values in place of a method.

That the values did not see the truth cannot be checked, which every table that shows them says. A file is read by
h5py or as text; nothing in it is executed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from cgd.errors import DataError

if TYPE_CHECKING:
    from cgd.data.protocol import FloatArray, VisiblePair

_FORMATS = (
    "give an .h5ad of spots x genes with obs_names and var_names, or a .csv whose first column names the spots and "
    "whose header names the genes; values log-normalised"
)
_MOST_NAMED = 5


@dataclass(frozen=True)
class Brought:
    """The files of one set of predictions.

    Attributes
    ----------
    name
        As the table names it.
    pattern
        Path of a file, with `{dataset}`, `{fold}` and `{seed}` where there are several.
    """

    name: str
    pattern: str

    def find_file(self, dataset: str, fold: int, seed: int) -> BroughtFile:
        """The file of a trial. Raises DataError where there is none."""
        path = self.pattern
        for key, value in (("dataset", dataset), ("fold", fold), ("seed", seed)):
            path = path.replace(f"{{{key}}}", str(value))
        return BroughtFile.identify(Path(path).expanduser().resolve())


@dataclass(frozen=True)
class BroughtFile:
    """A file of predictions and the hash of its content, which is what names it."""

    path: Path
    sha256: str

    @classmethod
    def identify(cls, path: Path) -> BroughtFile:
        """The file at `path`. Raises DataError if it cannot be read."""
        try:
            state = path.stat()
            return cls(path, _hash(path, state.st_mtime_ns, state.st_size))
        except OSError as error:
            raise DataError(f"{path}: cannot read these predictions: {error.strerror}; {_FORMATS}") from None

    def read(self, genes: Sequence[str], spots: Sequence[str]) -> FloatArray:
        """(n_genes, n_spots) values.

        Raises
        ------
        DataError
            It is no such file, has changed since it was named, or a gene, spot or value is missing.
        """
        if BroughtFile.identify(self.path).sha256 != self.sha256:
            raise DataError(f"{self.path}: the file was changed after the command began; run it again")
        table = _table(self.path, self.sha256)
        for what, wanted, known in (("genes", genes, table.columns), ("spots", spots, table.index)):
            _check_names(self.path, what, wanted, known)
        values = table.loc[list(spots), list(genes)].to_numpy(np.float32).T
        if not np.isfinite(values).all():
            n = int((~np.isfinite(values)).sum())
            raise DataError(f"{self.path}: {n} of {values.size} predicted values are not finite; predict all of them")
        return np.ascontiguousarray(values)

    def holds(self, genes: Sequence[str], spots: Sequence[str]) -> bool:
        """Whether every value asked for is there and finite; of a file that `read` has read."""
        table = _table(self.path, self.sha256)
        if not set(genes) <= set(table.columns):
            return False
        return bool(np.isfinite(table.loc[list(spots), list(genes)].to_numpy(np.float32)).all())


@dataclass
class Predictions:
    """The method that looks its answer up."""

    file: BroughtFile
    _spots: tuple[str, ...] = field(default=(), init=False)

    def fit(self, visible: VisiblePair, seed: int) -> None:
        self._spots = visible.spot_names

    def predict(self, genes: Sequence[str]) -> FloatArray:
        return self.file.read(genes, self._spots)

    def can_predict(self, genes: Sequence[str]) -> bool:
        """Whether the file has them: it may hold no more than the test genes."""
        return self.file.holds(genes, self._spots)


@lru_cache(maxsize=64)
def _hash(path: Path, modified: int, size: int) -> str:
    """Of the content; `modified` and `size` tell whether it has to be read again."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


@lru_cache(maxsize=1)
def _table(path: Path, sha256: str) -> pd.DataFrame:
    """Spots x genes; kept for the next fold of the same file."""
    return _read_h5ad(path) if path.suffix.lower() == ".h5ad" else _read_csv(path)


def _read_h5ad(path: Path) -> pd.DataFrame:
    try:
        adata = ad.read_h5ad(path)
        values = adata.X.toarray() if sp.issparse(adata.X) else np.asarray(adata.X, dtype=np.float32)
        return pd.DataFrame(values, index=adata.obs_names.astype(str), columns=adata.var_names.astype(str))
    except Exception as error:  # h5py and anndata raise many kinds for a file that is none of theirs
        raise DataError(f"{path}: not a readable h5ad file ({error}); {_FORMATS}") from None


def _read_csv(path: Path) -> pd.DataFrame:
    try:
        raw = pd.read_csv(path, header=None, dtype=str, keep_default_na=False)  # pandas would rename repeated genes
        table = pd.DataFrame(raw.iloc[1:, 1:].to_numpy(), index=raw.iloc[1:, 0], columns=raw.iloc[0, 1:])
        return table.replace("", "nan").astype(np.float32)
    except (ValueError, IndexError, OSError) as error:  # pandas' own errors of reading are ValueErrors
        raise DataError(f"{path}: not a table of numbers ({error}); {_FORMATS}") from None


def _check_names(path: Path, what: str, wanted: Sequence[str], known: pd.Index) -> None:
    if known.has_duplicates:
        repeated = known[known.duplicated()][0]
        raise DataError(f"{path}: {what} must be named once, found '{repeated}' twice")
    if missing := [name for name in wanted if name not in known]:
        shown = ", ".join(missing[:_MOST_NAMED]) + (", ..." if len(missing) > _MOST_NAMED else "")
        raise DataError(
            f"{path}: {len(missing)} of {len(wanted)} {what} are missing: {shown}; it holds {len(known)}, e.g. "
            f"{', '.join(map(str, known[:3]))}. --export-splits writes the names that are asked for"
        )
