"""Pre-processing: Eq. 4, the filter of the cells, the panel; and that no ST value decides anything."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData

from cgd.config import Config, DataConfig
from cgd.data.pair import make_pair, read_pair
from cgd.data.preprocess import MAX_COMPONENTS, log_normalise, prepare
from cgd.data.protocol import hide
from cgd.data.split import make_splits
from cgd.errors import ConfigError, DataError

REAL = (
    "human_breast_her2st_wu",
    "mouse_dentategyrus_visium_zeisel",
    "mouse_hippocampus_seqfish_zeisel",
    "mouse_ssp_osmfish_allen",
    "mouse_v1_starmap_zeisel",
)


def pair_of(sc_counts, genes=None, st_counts=None):
    """A pair over the genes of `sc_counts` (cells x genes)."""
    sc_counts = np.asarray(sc_counts, np.float32)
    genes = genes or [f"g{i}" for i in range(sc_counts.shape[1])]
    st_counts = np.ones((3, len(genes)), np.float32) if st_counts is None else st_counts
    st = AnnData(sp.csr_matrix(st_counts), var=pd.DataFrame(index=genes))
    st.obsm["spatial"] = np.arange(2.0 * len(st_counts)).reshape(-1, 2)
    return make_pair(st, AnnData(sp.csr_matrix(sc_counts), var=pd.DataFrame(index=genes)), "toy")


def test_eq_4_on_numbers_worked_out_by_hand():
    counts = sp.csr_matrix(np.array([[1, 3, 0], [0, 0, 2], [0, 0, 0]], np.float32))
    result = log_normalise(counts, np.array([4.0, 2.0, 0.0]), scale=8.0)
    assert sp.issparse(result)
    np.testing.assert_allclose(result.toarray(), np.log([[3, 7, 1], [1, 1, 9], [1, 1, 1]]), rtol=1e-6)


def test_scrna_is_normalised_by_totals_over_every_gene():
    sc_counts = np.array([[1, 1, 2], [2, 4, 2], [1, 2, 3]], np.float32)  # totals 4, 8, 6
    prepared = prepare(pair_of(sc_counts), DataConfig())
    np.testing.assert_allclose(prepared.sc_dense(["g2", "g0"]), np.log1p([[3.0, 1.5, 3.0], [1.5, 1.5, 1.0]]), rtol=1e-6)


def test_totals_count_genes_that_only_the_scrna_measures():
    sc_counts = np.array([[1, 1, 2], [2, 4, 2], [1, 2, 3]], np.float32)
    sc = AnnData(sp.csr_matrix(sc_counts), var=pd.DataFrame(index=["g0", "g1", "only_sc"]))
    st = pair_of(np.ones((1, 2))).adata_st
    prepared = prepare(make_pair(st, sc), DataConfig())
    assert (prepared.panel, prepared.sc_genes) == (("g0", "g1"), ("g0", "g1", "only_sc"))
    np.testing.assert_allclose(prepared.sc_dense(["g0"]), np.log1p([[1.5, 1.5, 1.0]]), rtol=1e-6)


def test_auto_filter_is_500_genes_or_2_percent_of_those_measured():
    sc_counts = np.zeros((4, 200), np.float32)
    for cell, n_detected in enumerate((3, 4, 5, 200)):  # 2 % of 200 genes is 4
        sc_counts[cell, :n_detected] = 1
    prepared = prepare(pair_of(sc_counts), DataConfig())
    assert prepared.n_cells == 3
    assert "1 of 4 cells dropped (data.min_genes_per_cell)" in prepared.notes
    assert prepare(pair_of(sc_counts), DataConfig(min_genes_per_cell=6)).n_cells == 1
    assert prepare(pair_of(sc_counts), DataConfig(min_genes_per_cell=0)).n_cells == 4
    wide = sp.lil_matrix((2, 30_000), dtype=np.float32)  # 2 % would be 600
    wide[0, :499], wide[1, :500] = 1, 1
    genes = [f"g{i}" for i in range(30_000)]
    sc = AnnData(wide.tocsr(), var=pd.DataFrame(index=genes))
    assert prepare(make_pair(pair_of(np.ones((1, 3))).adata_st, sc), DataConfig()).n_cells == 1


def test_no_cell_left_says_how_many_genes_the_best_one_has():
    with pytest.raises(
        DataError, match=r"toy: no cell has 9 detected genes \(largest: 3 of 3 measured\); lower data\."
    ):
        prepare(pair_of(np.ones((4, 3))), DataConfig(min_genes_per_cell=9))


def test_genes_in_no_kept_cell_cannot_be_predicted():
    sc_counts = np.ones((4, 5), np.float32)
    sc_counts[:, 1] = 0
    sc_counts[0] = [0, 1, 0, 0, 0]  # g1 in a cell that is dropped
    prepared = prepare(pair_of(sc_counts), DataConfig(min_genes_per_cell=2))
    assert prepared.panel == prepared.sc_genes == ("g0", "g2", "g3", "g4")
    assert any("1 shared genes are detected in no cell" in note for note in prepared.notes)
    st = pair_of(np.ones((1, 1)), ["g1"]).adata_st
    with pytest.raises(DataError, match="none of the 1 shared genes is detected in the scRNA-seq"):
        prepare(make_pair(st, AnnData(sp.csr_matrix(sc_counts), var=pd.DataFrame(index=[f"g{i}" for i in range(5)]))),
                DataConfig(min_genes_per_cell=2))  # fmt: skip


def test_the_panel_is_the_share_asked_for_or_the_minimum(tiny):
    def size(fraction, minimum):
        return len(prepare(tiny.pair, DataConfig(hvg_fraction=fraction, min_panel=minimum)).panel)

    assert size(0.25, 1) == 10
    assert size(0.26, 1) == 11  # rounded up
    assert size(0.25, 15) == 15
    assert size(0.25, 1000) == size(1.0, 1) == 40


def test_the_panel_prefers_variable_genes_and_keeps_the_st_order():
    rng = np.random.default_rng(0)
    level = rng.gamma(2.0, 2.0, 60)
    counts = rng.poisson(level, (200, 60)).astype(np.float32)
    variable = np.arange(3, 60, 6)
    counts[:, variable] = rng.poisson(level[variable] * rng.gamma(0.2, 5.0, (200, len(variable))))
    panel = prepare(pair_of(counts), DataConfig(hvg_fraction=1 / 6, min_panel=1)).panel
    wanted = [f"g{i}" for i in variable]
    assert len(set(panel) & set(wanted)) >= 8
    assert list(panel) == sorted(panel, key=lambda gene: int(gene[1:]))


def test_no_st_value_decides_which_cells_or_genes_are_kept(tiny):
    """Variable genes, filters and the scRNA-seq are the same whatever the ST counts are."""
    other = tiny.simulation.adata_st.copy()
    other.X = sp.csr_matrix(np.random.default_rng(1).poisson(3, other.shape).astype(np.float32))
    config = DataConfig(hvg_fraction=0.5, min_panel=1)
    one, two = prepare(tiny.pair, config), prepare(make_pair(other, tiny.simulation.adata_sc), config)
    assert (one.panel, one.sc_genes, one.notes) == (two.panel, two.sc_genes, two.notes)
    assert len(one.panel) == 20
    assert one.sc_expression.toarray().tobytes() == two.sc_expression.toarray().tobytes()
    assert one.sha256 != two.sha256


def test_a_prepared_pair_holds_raw_panel_counts_and_all_totals():
    rng = np.random.default_rng(0)
    sc_counts = rng.poisson(3, (20, 6)).astype(np.float32) + 1
    st_counts = rng.poisson(3, (4, 6)).astype(np.float32)
    st = AnnData(
        sp.csr_matrix(np.hstack([st_counts, [[1], [2], [3], [4]]])), var=pd.DataFrame(index=[*"abcdef", "only_st"])
    )
    st.obsm["spatial"] = rng.random((4, 3))
    sc = AnnData(sp.csr_matrix(sc_counts), var=pd.DataFrame(index=list("fedcba")))
    prepared = prepare(make_pair(st, sc), DataConfig())
    assert prepared.panel == tuple("abcdef")
    np.testing.assert_array_equal(prepared.st_counts.toarray(), st_counts)
    np.testing.assert_array_equal(prepared.st_totals, st_counts.sum(axis=1) + np.arange(1, 5))
    np.testing.assert_array_equal(prepared.coordinates, st.obsm["spatial"])
    assert (prepared.n_spots, prepared.n_cells) == (4, 20)


@pytest.mark.data
@pytest.mark.parametrize("name", REAL)
def test_every_real_pair_loads_prepares_and_splits(data_dir, name):
    config = Config()
    prepared = prepare(read_pair(data_dir / name), config.data)
    split = make_splits(prepared.panel, config.split)[0]
    hidden = hide(prepared, split, config)
    assert prepared.name == name
    assert np.isfinite(hidden.visible.x_st).all()
    assert np.isfinite(hidden.visible.x_sc).all()
    assert (hidden.visible.x_st.max(axis=1) > 0).all()
    assert (hidden.visible.x_sc.max(axis=1) > 0).all()
    assert 0 < len(split.test) <= 0.1 * len(prepared.panel) + 1
    assert hidden.test.score(hidden.test.truth)["pcc"].notna().any()


def test_cell_components_are_those_of_the_standardised_genes(tiny):
    prepared = tiny.prepared
    dense = prepared.sc_expression.toarray().astype(np.float64)
    standard = (dense - dense.mean(axis=0)) / np.sqrt(np.maximum(dense.var(axis=0), 1e-6))
    left = np.linalg.svd(standard, full_matrices=False)[0]
    found, k = prepared.cell_components, prepared.cell_components.shape[1]
    with pytest.raises(ConfigError, match="less than or equal to 80"):
        Config().with_values({"model.kernel_components": MAX_COMPONENTS + 1})
    assert k == min(MAX_COMPONENTS, *(n - 1 for n in dense.shape))
    np.testing.assert_allclose(found.T @ found, np.eye(k), atol=1e-5)
    np.testing.assert_allclose(np.abs((found[:, :5] * left[:, :5]).sum(axis=0)), 1, atol=1e-4)
