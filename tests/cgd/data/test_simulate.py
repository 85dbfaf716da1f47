"""The simulated tissue: its graph shows in the counts, technologies differ, and the benchmark carries signal."""

import json

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp

from cgd.data.protocol import VisiblePair
from cgd.data.simulate import TECHNOLOGIES, simulate_pair
from cgd.errors import ConfigError
from cgd.metrics.floors import predict_floors
from cgd.metrics.gene import gene_metrics


@pytest.fixture(scope="module")
def simulation():
    return simulate_pair()


def log_normalised(adata):
    counts = adata.X.toarray()
    totals = counts.sum(axis=1, keepdims=True)
    return np.log1p(counts / np.maximum(totals, 1) * np.median(totals))


def test_layout_is_that_of_a_matched_pair(simulation):
    st, sc = simulation.adata_st, simulation.adata_sc
    assert (st.shape, sc.shape) == ((400, 150), (500, 150))
    assert list(st.var_names) == list(sc.var_names)
    assert st.obsm["spatial"].shape == (400, 2)
    assert len(np.unique(st.obsm["spatial"], axis=0)) == 400
    for adata in (st, sc):
        assert sp.isspmatrix_csr(adata.X)
        assert adata.X.dtype == np.float32
        assert (adata.X.data == np.round(adata.X.data)).all()
        assert (adata.X.data > 0).all()
        assert adata.obs["cell_type"].nunique() == 6
        provenance = json.loads(adata.uns["provenance"])
        assert provenance["simulated"] is True
        assert (provenance["technology"], provenance["seed"]) == ("visium", 0)


def test_pair_survives_a_round_trip_through_h5ad(simulation, tmp_path):
    simulation.adata_st.write_h5ad(tmp_path / "st.h5ad")
    read = ad.read_h5ad(tmp_path / "st.h5ad")
    assert (read.X != simulation.adata_st.X).nnz == 0
    np.testing.assert_array_equal(read.uns["regulatory_graph"]["target"], simulation.graph["target"])


def test_graph_has_no_cycle_and_reaches_every_target(simulation):
    graph, names = simulation.graph, list(simulation.adata_st.var_names)
    position = {name: i for i, name in enumerate(names)}
    assert (graph["regulator"].map(position) < graph["target"].map(position)).all()
    assert set(graph["regulator"]) <= set(names[:20])
    parents = graph.groupby("target").size()
    assert set(names[20:]) <= set(parents.index)
    assert parents.between(1, 3).all()
    assert {-1.0, 1.0} == set(np.sign(graph["weight"]))


def test_regulators_correlate_most_with_their_own_targets(simulation):
    graph, names = simulation.graph, list(simulation.adata_sc.var_names)
    position = {name: i for i, name in enumerate(names)}
    edges = graph["regulator"].map(position).to_numpy(), graph["target"].map(position).to_numpy()
    weights = np.zeros((150, 150))
    weights[edges] = graph["weight"]
    related = np.linalg.inv(np.eye(150) - weights) != 0  # ancestors of each gene, itself included
    unrelated = ~(related.T.astype(float) @ related.astype(float) > 0)[:20]  # no common ancestor either
    correlation = np.corrcoef(log_normalised(simulation.adata_sc).T)
    direct = correlation[edges] * np.sign(graph["weight"])
    assert direct.mean() > 0.25
    assert np.abs(correlation[edges]).mean() > 2 * np.abs(correlation[:20][unrelated]).mean()


def test_same_seed_gives_the_same_counts_and_another_seed_others():
    small = {"n_spots": 60, "n_cells": 50, "n_genes": 40, "n_regulators": 5}
    first, again, other = (simulate_pair(**small, seed=seed) for seed in (0, 0, 1))
    for part in ("adata_st", "adata_sc"):
        a, b, c = (getattr(s, part).X.toarray() for s in (first, again, other))
        np.testing.assert_array_equal(a, b)
        assert not np.array_equal(a, c)
    assert first.graph.equals(again.graph)


def test_technologies_differ_in_zeros_and_keep_the_tissue():
    pairs = {name: simulate_pair(technology=name) for name in TECHNOLOGIES}
    zeros = {name: 1 - pair.adata_st.X.nnz / (400 * 150) for name, pair in pairs.items()}
    assert zeros["starmap"] > zeros["visium"] > zeros["merfish"] > zeros["seqfish"]
    assert zeros["starmap"] > 0.4
    assert zeros["seqfish"] < 0.2
    graphs = [pair.graph for pair in pairs.values()]
    assert all(graph.equals(graphs[0]) for graph in graphs)


def test_cell_types_form_neighbourhoods():
    st = simulate_pair(technology="merfish").adata_st
    positions, types = st.obsm["spatial"], st.obs["cell_type"].to_numpy()
    distance = np.linalg.norm(positions[:, None] - positions[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    nearest = types[distance.argmin(axis=1)]
    chance = np.square(st.obs["cell_type"].value_counts(normalize=True)).sum()
    assert (types == nearest).mean() > chance + 0.2


def test_a_visium_spot_mixes_cells_and_is_less_specific():
    def type_share(technology):
        """Share of the variance of log expression between the cell types, mean over genes."""
        st = simulate_pair(technology=technology, n_spots=900).adata_st
        counts = np.log1p(st.X.toarray())
        fitted = np.stack([counts[st.obs["cell_type"] == t].mean(axis=0) for t in st.obs["cell_type"]])
        return (fitted.var(axis=0) / counts.var(axis=0)).mean()

    assert type_share("visium") < type_share("seqfish")


def test_ridge_predicts_held_out_genes_better_than_the_mean(simulation):
    st, sc = log_normalised(simulation.adata_st), log_normalised(simulation.adata_sc)
    genes = np.array(simulation.adata_st.var_names)
    held_out = np.random.default_rng(0).permutation(150)[:37]
    train = np.setdiff1d(np.arange(150), held_out)
    visible = VisiblePair(
        name="simulated",
        train_genes=tuple(genes[train]),
        x_st=st[:, train].T,
        genes=tuple(genes),
        x_sc=sc.T,
        coordinates=simulation.adata_st.obsm["spatial"].astype(np.float32),
        spot_names=tuple(simulation.adata_st.obs_names),
        st_totals=np.ones(len(st), dtype=np.float32),
        sc_totals=np.ones(len(sc), dtype=np.float32),
        cell_components=np.zeros((len(sc), 0), dtype=np.float32),
    )
    floors = predict_floors(visible, list(genes[held_out]))
    pcc = {name: gene_metrics(prediction, st[:, held_out].T)["pcc"].mean() for name, prediction in floors.items()}
    assert 0.3 < pcc["kernel_ridge"] < 0.6
    assert pcc["kernel_ridge"] > pcc["mean_pattern"] + 0.2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_spots": 1}, "n_spots must be a whole number of at least 2, found 1"),
        ({"n_cells": 10.5}, "n_cells must be a whole number .* found 10.5"),
        ({"n_cell_types": True}, "n_cell_types must be"),
        ({"n_regulators": 150}, r"n_regulators \(150\) must be below n_genes \(150\)"),
        ({"seed": -1}, "seed must be"),
        ({"technology": "starmp"}, "did you mean 'starmap'"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        simulate_pair(**arguments)


@pytest.mark.parametrize("technology", TECHNOLOGIES)
def test_smallest_arguments_work(technology):
    tiny = simulate_pair(2, 2, 2, 1, 1, technology=technology)
    assert tiny.adata_st.shape == (2, 2)
    assert len(tiny.graph) == 1
