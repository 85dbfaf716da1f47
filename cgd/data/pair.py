"""A matched pair of data sets: spatial transcriptomics (ST) and the scRNA-seq reference, as raw counts."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from cgd.data.graph import Edges, read_graph
from cgd.errors import DataError


@dataclass(frozen=True)
class MatchReport:
    """How the genes of the two modalities were matched."""

    n_exact: int
    case_matched: tuple[tuple[str, str], ...]  # (ST name, scRNA-seq name)
    duplicates_st: tuple[str, ...]
    duplicates_sc: tuple[str, ...]
    only_st: int
    only_sc: int

    def lines(self) -> list[str]:
        """What a user should know, one sentence each; empty when every name matched exactly once."""
        notes = []
        for label, names in (("ST", self.duplicates_st), ("scRNA-seq", self.duplicates_sc)):
            if names:
                notes.append(f"{len(names)} duplicated gene names in the {label} summed into one: {_some(names)}")
        if self.case_matched:
            pairs = [f"{st}~{sc}" for st, sc in self.case_matched]
            notes.append(f"{len(pairs)} genes matched ignoring case: {_some(pairs)}")
        if self.only_st:
            notes.append(f"{self.only_st} ST genes are not in the scRNA-seq and cannot be used")
        return notes


@dataclass(frozen=True)
class Pair:
    """ST and scRNA-seq raw counts with matched gene names.

    Attributes
    ----------
    name
        Name of the data set.
    adata_st
        (n_spots, n_genes_st) CSR float32 counts, `obsm["spatial"]`; shared genes bear the scRNA-seq spelling.
    adata_sc
        (n_cells, n_genes_sc) CSR float32 counts.
    genes
        Genes measured in both, in ST order.
    matching
        How the names were matched.
    graph
        Regulatory graph that the ST carries, None without one.
    """

    name: str
    adata_st: ad.AnnData
    adata_sc: ad.AnnData
    genes: tuple[str, ...]
    matching: MatchReport
    graph: Edges | None = None

    @cached_property
    def sha256(self) -> str:
        """Hash of counts, gene names, coordinates and graph: two files with the same content are the same data set."""
        digest = hashlib.sha256()
        for adata in (self.adata_st, self.adata_sc):
            for array in (adata.X.indptr.astype(np.int64), adata.X.indices.astype(np.int64), adata.X.data):
                digest.update(np.ascontiguousarray(array).tobytes())
            digest.update("\n".join(adata.var_names).encode())
        digest.update(np.ascontiguousarray(self.adata_st.obsm["spatial"], dtype=np.float64).tobytes())
        for edge in self.graph or ():
            digest.update("\n".join(edge).encode() + b"\0")
        return digest.hexdigest()


def make_pair(adata_st: ad.AnnData, adata_sc: ad.AnnData, name: str = "pair") -> Pair:
    """Check two AnnData objects, match their genes and return them as a pair.

    Raises
    ------
    DataError
        Coordinates missing, counts missing or already normalised, negative or non-finite values, no shared genes.
    """
    st, duplicates_st = _clean(adata_st, f"{name}, ST")
    sc, duplicates_sc = _clean(adata_sc, f"{name}, scRNA-seq")
    st.obsm["spatial"] = _coordinates(adata_st, f"{name}, ST")
    graph = read_graph(adata_st, f"{name}, ST")
    renamed = match_genes(list(st.var_names), list(sc.var_names))
    case_matched = tuple((a, b) for a, b in renamed.items() if a != b)
    if not renamed:
        raise DataError(
            f"{name}: no gene is measured in both modalities; the ST has names like {_some(st.var_names)}, "
            f"the scRNA-seq like {_some(sc.var_names)}. Give both the same kind of gene name (symbols or Ensembl ids)"
        )
    st.var_names = pd.Index([renamed.get(gene, gene) for gene in st.var_names])
    shared = set(renamed.values())
    genes = tuple(gene for gene in st.var_names if gene in shared)
    report = MatchReport(
        n_exact=len(renamed) - len(case_matched),
        case_matched=case_matched,
        duplicates_st=duplicates_st,
        duplicates_sc=duplicates_sc,
        only_st=st.n_vars - len(genes),
        only_sc=sc.n_vars - len(genes),
    )
    return Pair(name=name, adata_st=st, adata_sc=sc, genes=genes, matching=report, graph=graph)


def match_genes(st_genes: list[str], sc_genes: list[str]) -> dict[str, str]:
    """ST name -> scRNA-seq name: exact matches first, then names that differ in case alone and are unambiguous."""
    in_sc = set(sc_genes)
    matched = {gene: gene for gene in st_genes if gene in in_sc}
    taken = set(matched.values())
    folded: defaultdict[str, list[str]] = defaultdict(list)
    for gene in sc_genes:
        folded[gene.casefold()].append(gene)
    st_folded = Counter(gene.casefold() for gene in st_genes)
    for gene in st_genes:
        candidates = folded.get(gene.casefold(), [])
        unambiguous = len(candidates) == 1 and st_folded[gene.casefold()] == 1
        if gene not in matched and unambiguous and candidates[0] not in taken:
            matched[gene] = candidates[0]
    return matched


def read_pair(st: str | Path, sc: str | Path | None = None, name: str | None = None) -> Pair:
    """Read a pair from two h5ad files, or from one folder.

    A folder holds `st.h5ad` and `sc.h5ad`, or one `*_st.h5ad` and one `*_sc.h5ad`, or the benchmark's text layout
    (`Spatial_count.txt` without an index column, `scRNA_count.txt`, `Locations.txt`).

    Raises
    ------
    DataError
        A file is missing, unreadable or has the wrong layout, or the counts cannot be used (see `make_pair`).
    """
    st = Path(st)
    if sc is not None:
        return make_pair(_read_h5ad(st), _read_h5ad(Path(sc)), name or st.stem)
    if not st.is_dir():
        state = "a single file; name the scRNA-seq file too" if st.is_file() else "not there"
        raise DataError(f"expected a folder with a data set at {st}: it is {state}. {_LAYOUTS}")
    name = name or st.resolve().name
    if (st / "Spatial_count.txt").exists():
        return make_pair(_read_text_st(st), _read_text_sc(st), name)
    return make_pair(_read_h5ad(_one_file(st, "st")), _read_h5ad(_one_file(st, "sc")), name)


_LAYOUTS = (
    "A folder holds st.h5ad and sc.h5ad, or NAME_st.h5ad and NAME_sc.h5ad, or Spatial_count.txt, "
    "scRNA_count.txt and Locations.txt"
)


def locate(genes: Iterable[str], among: Iterable[str]) -> list[int]:
    """Where each of `genes` stands `among` others, every one of which is named once."""
    position = {gene: i for i, gene in enumerate(among)}
    return [position[gene] for gene in genes]


def _some(names: Iterable[object], n: int = 3) -> str:
    listed = [str(name) for name in names]
    return ", ".join(listed[:n]) + (", ..." if len(listed) > n else "")


def _one_file(folder: Path, modality: str) -> Path:
    exact = folder / f"{modality}.h5ad"
    found = [exact] if exact.exists() else sorted(folder.glob(f"*_{modality}.h5ad"))
    if len(found) != 1:
        what = f"{len(found)} files *_{modality}.h5ad" if found else f"no {modality}.h5ad and no *_{modality}.h5ad"
        there = _some(sorted(path.name for path in folder.iterdir()), 8) or "nothing"
        raise DataError(f"{folder} has {what} (it holds: {there}). {_LAYOUTS}")
    return found[0]


def _read_h5ad(path: Path) -> ad.AnnData:
    if not path.is_file():
        raise DataError(f"no file at {path}; expected an h5ad file with raw counts")
    try:
        return ad.read_h5ad(path)
    except Exception as error:  # anndata's own error class for a foreign layout is private; it derives from Exception
        raise DataError(f"{path} is not a readable h5ad file: {error}") from None


def _read_table(path: Path, index_col: int | bool) -> pd.DataFrame:
    if not path.is_file():
        raise DataError(f"no file at {path}. {_LAYOUTS}")
    try:
        table = pd.read_csv(path, sep="\t", index_col=index_col)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not a tab-separated table: {error}") from None
    if table.empty:
        raise DataError(f"{path} holds no values; expected a table of counts")
    text = [str(column) for column, kind in table.dtypes.items() if kind.kind not in "iufb"]
    if text:
        raise DataError(f"{path}: expected numbers, found text in column(s) {_some(text)}")
    return table


def _read_text_st(folder: Path) -> ad.AnnData:
    path = folder / "Spatial_count.txt"
    genes, n_first = _header(path)
    if "" in genes or n_first != len(genes):
        raise DataError(
            f"{path}: the header names {len([g for g in genes if g])} genes and the first row has {n_first} values; "
            "expected spots x genes with a header of gene names and no index column"
        )
    counts = _read_table(path, index_col=False)
    names, n_values = _header(folder / "Locations.txt")
    locations = _read_table(folder / "Locations.txt", index_col=False)
    if len(names) != n_values or len(locations) != len(counts) or locations.shape[1] != 2:
        raise DataError(
            f"{folder / 'Locations.txt'} is {len(locations)} x {n_values}; expected {len(counts)} x 2, a row "
            "X Y for each spot of Spatial_count.txt"
        )
    # names from the header itself: pandas renames duplicated columns
    st = ad.AnnData(sp.csr_matrix(counts.to_numpy(dtype=np.float32)), var=pd.DataFrame(index=pd.Index(genes)))
    st.obsm["spatial"] = locations.to_numpy(dtype=np.float64)
    return st


def _header(path: Path) -> tuple[list[str], int]:
    """Names in the first line of a tab-separated file, and the number of fields in the second."""
    if not path.is_file():
        raise DataError(f"no file at {path}. {_LAYOUTS}")
    try:
        with path.open(encoding="utf-8") as file:
            lines = [file.readline().rstrip("\r\n") for _ in range(2)]
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not a tab-separated table: {error}") from None
    if not lines[0]:
        raise DataError(f"{path} is not a tab-separated table: its first line is empty")
    if not lines[1]:
        raise DataError(f"{path} holds no values; expected a table of counts")
    return [name.strip().strip('"') for name in lines[0].split("\t")], lines[1].count("\t") + 1


def _read_text_sc(folder: Path) -> ad.AnnData:
    table = _read_table(folder / "scRNA_count.txt", index_col=0)
    counts = sp.csr_matrix(table.to_numpy(dtype=np.float32).T)
    return ad.AnnData(
        counts, obs=pd.DataFrame(index=table.columns.astype(str)), var=pd.DataFrame(index=table.index.astype(str))
    )


def _clean(adata: ad.AnnData, what: str) -> tuple[ad.AnnData, tuple[str, ...]]:
    """A copy with CSR float32 counts and unique gene names, and the names that were duplicated."""
    if adata.X is None or 0 in adata.shape:
        raise DataError(f"{what}: expected a matrix of counts in X, found shape {adata.shape}")
    if adata.isbacked:
        adata = adata.to_memory()
    counts = sp.csr_matrix(adata.X, dtype=np.float32, copy=True)
    counts.sum_duplicates()
    counts.eliminate_zeros()
    _check_counts(counts, adata, what)
    names = pd.Index(adata.var_names.astype(str))
    duplicated = tuple(names[names.duplicated()].unique())
    if duplicated:
        unique = names.unique()
        collapse = sp.csr_matrix(
            (np.ones(len(names), np.float32), (np.arange(len(names)), unique.get_indexer(names))),
            shape=(len(names), len(unique)),
        )
        counts, names = (counts @ collapse).tocsr(), unique
    obs = adata.obs.copy()
    obs.index = obs.index.astype(str)
    clean = ad.AnnData(counts, obs=obs, var=pd.DataFrame(index=names))
    if "provenance" in adata.uns:
        clean.uns["provenance"] = adata.uns["provenance"]
    return clean, duplicated


def _check_counts(counts: sp.csr_matrix, adata: ad.AnnData, what: str) -> None:
    values = counts.data
    if not values.size:
        raise DataError(f"{what}: all {adata.n_obs} rows of X are empty; expected raw counts")
    if not np.isfinite(values).all():
        raise DataError(
            f"{what}: X has {int((~np.isfinite(values)).sum())} non-finite values; expected raw counts >= 0"
        )
    if values.min() < 0:
        raise DataError(f"{what}: X has {int((values < 0).sum())} negative values; expected raw counts >= 0")
    fractional = values != np.round(values)
    if fractional.any():
        where = [f"layers['{key}']" for key in adata.layers] + (["raw.X"] if adata.raw is not None else [])
        hint = f"; found besides X: {', '.join(where)}" if where else ""
        raise DataError(
            f"{what}: {fractional.mean():.0%} of the non-zero values of X are fractional (largest value "
            f"{values.max():.3g}): this looks already normalised. Raw counts are needed in X{hint}"
        )


def _coordinates(adata: ad.AnnData, what: str) -> np.ndarray:
    if "spatial" not in adata.obsm:
        keys = ", ".join(adata.obsm) or "none"
        raise DataError(f"{what}: expected coordinates in obsm['spatial'], found obsm keys: {keys}")
    found = np.asarray(adata.obsm["spatial"])
    numeric = found.dtype.kind in "iuf"
    if not numeric or found.ndim != 2 or found.shape[1] not in (2, 3) or not np.isfinite(found).all():
        raise DataError(
            f"{what}: expected finite coordinates (n_spots, 2 or 3) in obsm['spatial'], "
            f"found {found.dtype} {found.shape}"
        )
    return found.astype(np.float64)
