"""Reading and checking a pair: every accepted layout gives the same counts, every bad input a message that helps."""

import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData

from cgd.config import DataConfig, SplitConfig
from cgd.data.pair import make_pair, match_genes, read_pair
from cgd.data.preprocess import prepare
from cgd.data.split import make_splits
from cgd.errors import DataError

GENES = ["Gad1", "Gad2", "Sst", "Vip"]


def adata(genes=GENES, n_obs=6, seed=0, spatial=True, kind="spot"):
    """At least one count in each row and column, so that nothing is filtered by accident."""
    rng = np.random.default_rng(seed)
    counts = (1 + rng.poisson(2, (n_obs, len(genes)))).astype(np.float32)
    obs = pd.DataFrame(index=[f"{kind}{i}" for i in range(n_obs)])
    result = AnnData(sp.csr_matrix(counts), obs=obs, var=pd.DataFrame(index=list(genes)))
    if spatial:
        result.obsm["spatial"] = rng.random((n_obs, 2))
    return result


def reference(genes=GENES, n_obs=9, seed=1):
    return adata(genes, n_obs, seed, spatial=False, kind="cell")


def with_counts(values, genes=GENES, **layers):
    result = adata(genes, n_obs=len(values))
    result.X = values
    for name, layer in layers.items():
        result.layers[name] = layer
    return result


def write_text(folder, st, sc, index=None):
    """The benchmark's text layout; `index` adds an index column to the spatial counts."""
    folder.mkdir(exist_ok=True)
    counts = pd.DataFrame(st.X.toarray().astype(int), columns=st.var_names)
    if index is not None:
        counts.index = index
    counts.to_csv(folder / "Spatial_count.txt", sep="\t", index=index is not None)
    cells = pd.DataFrame(sc.X.toarray().astype(int).T, index=sc.var_names, columns=sc.obs_names)
    cells.to_csv(folder / "scRNA_count.txt", sep="\t")
    locations = pd.DataFrame(st.obsm["spatial"], columns=["X", "Y"])
    locations.to_csv(folder / "Locations.txt", sep="\t", index=False)
    return folder


def assert_same_content(one, other):
    assert one.genes == other.genes
    for a, b in ((one.adata_st, other.adata_st), (one.adata_sc, other.adata_sc)):
        assert list(a.var_names) == list(b.var_names)
        np.testing.assert_array_equal(a.X.toarray(), b.X.toarray())
    np.testing.assert_allclose(one.adata_st.obsm["spatial"], other.adata_st.obsm["spatial"], rtol=1e-12)


# ---- what is accepted ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [("st.h5ad", "sc.h5ad"), ("mouse_st.h5ad", "mouse_sc.h5ad")])
def test_a_folder_of_two_h5ad_files(tmp_path, names):
    st, sc = adata(), reference()
    st.write_h5ad(tmp_path / names[0])
    sc.write_h5ad(tmp_path / names[1])
    pair = read_pair(tmp_path)
    assert pair.name == tmp_path.name
    assert_same_content(pair, make_pair(st, sc))
    assert pair.sha256 == make_pair(st, sc).sha256
    assert_same_content(pair, read_pair(tmp_path / names[0], tmp_path / names[1]))


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_text_layout_equals_h5ad(tmp_path, line_end):
    st, sc = adata(), reference(["Vip", "Sst", "Gad2", "Gad1", "Extra"])
    folder = write_text(tmp_path / "text", st, sc)
    table = folder / "Spatial_count.txt"
    table.write_bytes(table.read_bytes().replace(b"\n", line_end.encode()))
    assert_same_content(read_pair(folder), make_pair(st, sc))


def test_a_pair_is_float32_csr_whatever_came_in():
    st = adata()
    expected = make_pair(st, reference())
    dense = st.X.toarray()
    for matrix in (
        dense.astype(np.int64),
        dense.astype(np.float64),
        sp.csc_matrix(dense),
        sp.coo_matrix(dense).tocsr(),
    ):
        st.X = matrix
        pair = make_pair(st, reference())
        assert sp.issparse(pair.adata_st.X)
        assert (pair.adata_st.X.format, pair.adata_st.X.dtype) == ("csr", np.float32)
        assert pair.sha256 == expected.sha256


def test_the_objects_given_are_left_as_they_were():
    st, sc = adata(), reference()
    st.X.data[:3] = 0.0  # stored zeros, which the pair drops
    before = [(a.X.data.copy(), a.X.indices.copy(), a.X.indptr.copy(), list(a.var_names)) for a in (st, sc)]
    pair = make_pair(st, sc)
    for a, (data, indices, indptr, names) in zip((st, sc), before, strict=True):
        np.testing.assert_array_equal(a.X.data, data)
        np.testing.assert_array_equal(a.X.indices, indices)
        np.testing.assert_array_equal(a.X.indptr, indptr)
        assert list(a.var_names) == names
    assert not np.shares_memory(pair.adata_sc.X.data, sc.X.data)


def test_the_hash_is_of_the_content():
    base = make_pair(adata(), reference(), "a").sha256
    assert make_pair(adata(), reference(), "b").sha256 == base
    moved = adata()
    moved.obsm["spatial"] = moved.obsm["spatial"] + 1.0
    renamed = adata(["Gad1", "Gad2", "Sst", "Npy"])
    counted = adata()
    counted.X[0, 0] += 1
    for st in (moved, renamed, counted):
        assert make_pair(st, reference()).sha256 != base
    assert make_pair(adata(), reference(seed=2)).sha256 != base


# ---- matching genes -----------------------------------------------------------------------------------------------


def test_genes_are_shared_in_st_order_and_the_rest_is_counted():
    pair = make_pair(adata(["Sst", "OnlySt", "Gad1"]), reference(["Gad1", "OnlySc", "OnlySc2", "Sst"]))
    assert pair.genes == ("Sst", "Gad1")
    assert (pair.matching.n_exact, pair.matching.only_st, pair.matching.only_sc) == (2, 1, 2)
    assert pair.matching.lines() == ["1 ST genes are not in the scRNA-seq and cannot be used"]


def test_case_is_ignored_where_that_is_unambiguous_and_said_so():
    pair = make_pair(adata(["GAD1", "Sst", "VIP"]), reference(["Gad1", "Sst", "Vip"]))
    assert pair.genes == ("Gad1", "Sst", "Vip")
    assert list(pair.adata_st.var_names) == ["Gad1", "Sst", "Vip"]
    assert pair.matching.case_matched == (("GAD1", "Gad1"), ("VIP", "Vip"))
    assert pair.matching.lines() == ["2 genes matched ignoring case: GAD1~Gad1, VIP~Vip"]


@pytest.mark.parametrize(
    ("st", "sc", "matched"),
    [
        (["GAD1"], ["Gad1", "gad1"], {}),  # two candidates
        (["GAD1", "gad1"], ["Gad1"], {}),  # two askers
        (["Gad1", "GAD1"], ["Gad1"], {"Gad1": "Gad1"}),  # the exact one wins
        (["GAD1"], ["Gad1"], {"GAD1": "Gad1"}),
    ],
)
def test_ambiguous_case_matches_nothing(st, sc, matched):
    assert match_genes(st, sc) == matched


def test_duplicated_genes_are_summed():
    st = with_counts(np.array([[1, 2, 4], [8, 16, 32]], np.float32), ["Gad1", "Sst", "Gad1"])
    pair = make_pair(st, reference(["Gad1", "Gad1", "Sst"], n_obs=4))
    assert pair.genes == ("Gad1", "Sst")
    np.testing.assert_array_equal(pair.adata_st.X.toarray(), [[5, 2], [40, 16]])
    np.testing.assert_array_equal(
        pair.adata_sc.X.toarray()[:, 0], reference(["a", "b", "c"], n_obs=4).X.toarray()[:, :2].sum(axis=1)
    )
    assert pair.matching.lines() == [
        "1 duplicated gene names in the ST summed into one: Gad1",
        "1 duplicated gene names in the scRNA-seq summed into one: Gad1",
    ]


def test_duplicated_columns_of_a_text_file_are_summed_too(tmp_path):
    folder = write_text(tmp_path / "text", adata(["Gad1", "Sst", "Vip"]), reference(["Gad1", "Sst", "Vip"]))
    table = folder / "Spatial_count.txt"
    table.write_text(table.read_text().replace("Gad1\tSst\tVip", "Gad1\tSst\tGad1"))
    pair = read_pair(folder)
    assert pair.matching.duplicates_st == ("Gad1",)
    np.testing.assert_array_equal(
        pair.adata_st[:, "Gad1"].X.toarray().ravel(), adata(["a", "b", "c"]).X.toarray()[:, [0, 2]].sum(axis=1)
    )


def test_no_shared_gene_shows_both_kinds_of_name():
    with pytest.raises(DataError, match=r"mine: no gene is measured in both .* Gad1, Gad2, Sst, .* ENSMUSG0, ENSMUSG1"):
        make_pair(adata(), reference(["ENSMUSG0", "ENSMUSG1"]), "mine")


# ---- counts and coordinates that cannot be used -------------------------------------------------------------------


def changed(value):
    counts = adata().X.toarray()
    counts[1, 2] = value
    return counts


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (changed(-1), "1 negative values; expected raw counts >= 0"),
        (changed(np.nan), "1 non-finite values; expected raw counts >= 0"),
        (changed(np.inf), "1 non-finite values; expected raw counts >= 0"),
        (np.zeros((6, 4), np.float32), "all 6 rows of X are empty; expected raw counts"),
        (np.log1p(adata().X.toarray()), r"100% of the non-zero values of X are fractional \(largest value"),
        (None, r"expected a matrix of counts in X, found shape \(6, 4\)"),
    ],
)
def test_counts_that_are_none_are_refused_with_the_modality(values, message):
    st = adata()
    st.X = values
    with pytest.raises(DataError, match=rf"^mine, ST: .*{message}"):
        make_pair(st, reference(), "mine")
    sc = adata()
    sc.X = values
    with pytest.raises(DataError, match=rf"^mine, scRNA-seq: .*{message}"):
        make_pair(adata(), sc, "mine")


def test_normalised_values_point_to_where_the_counts_may_be():
    raw = adata()
    normalised = raw.copy()
    normalised.X = sp.csr_matrix(np.log1p(raw.X.toarray()))
    with pytest.raises(DataError, match=r"already normalised\. Raw counts are needed in X$"):
        make_pair(normalised, reference())
    normalised.layers["counts"] = raw.X.copy()
    normalised.raw = raw
    with pytest.raises(DataError, match=r"found besides X: layers\['counts'\], raw\.X"):
        make_pair(normalised, reference())


def test_missing_coordinates_list_the_keys_there_are():
    st = adata(spatial=False)
    with pytest.raises(DataError, match=r"expected coordinates in obsm\['spatial'\], found obsm keys: none"):
        make_pair(st, reference())
    st.obsm["X_spatial"] = np.ones((6, 2))
    with pytest.raises(DataError, match="found obsm keys: X_spatial"):
        make_pair(st, reference())


@pytest.mark.parametrize(
    "coordinates", [np.ones((6, 5)), np.ones((6, 1)), np.full((6, 2), np.nan), np.full((6, 2), "a1")]
)
def test_coordinates_that_are_no_positions_are_refused(coordinates):
    st = adata()
    st.obsm["spatial"] = coordinates
    with pytest.raises(DataError, match=r"expected finite coordinates \(n_spots, 2 or 3\) in obsm\['spatial'\]"):
        make_pair(st, reference())


def test_too_few_shared_genes_to_split():
    pair = make_pair(adata(), reference())
    prepared = prepare(pair, DataConfig())
    with pytest.raises(DataError, match="4 genes are too few"):
        make_splits(prepared.panel, SplitConfig())


# ---- files that cannot be read ------------------------------------------------------------------------------------


def test_missing_files_are_named(tmp_path):
    adata().write_h5ad(tmp_path / "st.h5ad")
    with pytest.raises(DataError, match=r"no file at .*gone\.h5ad; expected an h5ad file with raw counts"):
        read_pair(tmp_path / "st.h5ad", tmp_path / "gone.h5ad")
    with pytest.raises(DataError, match=r"at .*nowhere: it is not there\. A folder holds st\.h5ad and sc\.h5ad"):
        read_pair(tmp_path / "nowhere")
    with pytest.raises(DataError, match="it is a single file; name the scRNA-seq file too"):
        read_pair(tmp_path / "st.h5ad")
    with pytest.raises(DataError, match=r"no sc\.h5ad and no \*_sc\.h5ad \(it holds: st\.h5ad\)"):
        read_pair(tmp_path)


def test_a_wrong_layout_lists_what_the_folder_holds(tmp_path):
    with pytest.raises(DataError, match=r"no st\.h5ad and no \*_st\.h5ad \(it holds: nothing\)"):
        read_pair(tmp_path)
    for name in ("counts.csv", "a_st.h5ad", "b_st.h5ad"):
        (tmp_path / name).write_text("x")
    with pytest.raises(DataError, match=r"2 files \*_st\.h5ad \(it holds: a_st\.h5ad, b_st\.h5ad, counts\.csv\)"):
        read_pair(tmp_path)


def write_bad_h5ad(path, kind):
    if kind == "text":
        path.write_text("gene,count\nGad1,3\n")
    elif kind == "truncated":
        adata().write_h5ad(path)
        path.write_bytes(path.read_bytes()[:3000])
    else:
        with h5py.File(path, "w") as file:
            file["weights"] = np.ones(3)


@pytest.mark.parametrize("kind", ["text", "truncated", "other HDF5"])
def test_what_is_no_h5ad_is_refused_with_its_path(tmp_path, kind):
    write_bad_h5ad(tmp_path / "st.h5ad", kind)
    reference().write_h5ad(tmp_path / "sc.h5ad")
    with pytest.raises(DataError, match=r"st\.h5ad is not a readable h5ad file|expected a matrix of counts in X"):
        read_pair(tmp_path)


@pytest.mark.parametrize(
    "index",
    [
        pytest.param(None, id="no header cell"),
        pytest.param([f"spot{i}" for i in range(6)], id="names under an empty header cell"),
        pytest.param(list(range(6)), id="numbers under an empty header cell"),
    ],
)
def test_spatial_counts_with_an_index_column_are_refused(tmp_path, index):
    folder = write_text(tmp_path / "text", adata(), reference(), index=index)
    if index is None:
        header, *rows = (folder / "Spatial_count.txt").read_text().splitlines()
        lines = [header, *(f"spot{i}\t{row}" for i, row in enumerate(rows))]
        (folder / "Spatial_count.txt").write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match=r"Spatial_count\.txt: .*no index column"):
        read_pair(folder)


def spoil(folder, name, content):
    path = folder / name
    if content is None:
        path.unlink()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("Locations.txt", "X\tY\n1\t2\n3\t4\n", r"Locations\.txt is 2 x 2; expected 6 x 2, a row X Y for each spot"),
        ("Locations.txt", "X\tY\tZ\n" + "1\t2\t3\n" * 6, r"Locations\.txt is 6 x 3; expected 6 x 2"),
        ("Locations.txt", "X\tY\n" + "1\tleft\n" * 6, r"Locations\.txt: expected numbers, found text in column\(s\) Y"),
        ("Locations.txt", None, r"no file at .*Locations\.txt\. A folder holds"),
        ("scRNA_count.txt", None, r"no file at .*scRNA_count\.txt\. A folder holds"),
        ("scRNA_count.txt", "\tc0\tc1\nGad1\t1\tmany\n", r"scRNA_count\.txt: expected numbers, .* column\(s\) c1"),
        ("scRNA_count.txt", "\tc0\nGad1\t1\t2\t3\nSst\t1\n", r"scRNA_count\.txt"),
        ("scRNA_count.txt", "", r"scRNA_count\.txt is not a tab-separated table"),
        ("scRNA_count.txt", "\tc0\tc1\n", r"scRNA_count\.txt holds no values"),
        ("scRNA_count.txt", b"\tc0\nG\xe9n\t1\n", r"scRNA_count\.txt is not a tab-separated table: 'utf-8'"),
        ("Spatial_count.txt", b"G\xe9n\tB\n1\t2\n", r"Spatial_count\.txt is not a tab-separated table: 'utf-8'"),
        ("Spatial_count.txt", "Gad1\tSst\n" + "1\tx\n" * 6, r"Spatial_count\.txt: .* text in column\(s\) Sst"),
        ("Spatial_count.txt", "Gad1,Sst\n" + "1,2\n" * 6, r"Spatial_count\.txt: expected numbers, found text"),
        ("Spatial_count.txt", "Gad1\tSst\n1\t2\n1\t2\t3\n", r"Spatial_count\.txt is not a tab-.*line 3"),
        ("Spatial_count.txt", "Gad1\tSst\n" + "1\t2\n" * 5 + "1\n", "1 non-finite values"),
        ("Spatial_count.txt", "", r"Spatial_count\.txt is not a tab-separated table"),
    ],
)  # fmt: skip
def test_bad_text_files_are_named_with_what_is_wrong(tmp_path, name, content, message):
    folder = write_text(tmp_path / "text", adata(), reference())
    spoil(folder, name, content)
    with pytest.raises(DataError, match=message):
        read_pair(folder)


# ---- the real data sets -------------------------------------------------------------------------------------------


@pytest.mark.data
@pytest.mark.parametrize("name", ["mouse_dentategyrus_visium_zeisel", "mouse_ssp_osmfish_allen"])
def test_text_layout_of_a_real_data_set_equals_its_h5ad(data_dir, name):
    text, binary = read_pair(data_dir / "plain_text" / name), read_pair(data_dir / name)
    assert_same_content(text, binary)
    assert list(text.adata_sc.obs_names) == list(binary.adata_sc.obs_names)
    assert text.adata_st.X.nnz > 1000
