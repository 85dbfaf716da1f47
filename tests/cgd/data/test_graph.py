"""The regulatory graph a data set may carry: read, kept, and followed by the order of the tokens."""

from dataclasses import replace

import pandas as pd
import pytest
import torch
from regulation_table import oracle_table

from cgd.config import Config
from cgd.data.graph import causal_depth
from cgd.data.pair import make_pair
from cgd.data.preprocess import prepare
from cgd.data.simulate import simulate_pair
from cgd.errors import ConfigError, DataError
from cgd.estimator import CausalGeD
from cgd.model.reference import Reference

CHAIN = (("a", "b"), ("b", "c"), ("a", "c"), ("c", "d"), ("x", "d"))


def test_depth_is_the_longest_chain_of_regulators():
    assert causal_depth(CHAIN, "abcdxy") == {"a": 0, "b": 1, "c": 2, "d": 3, "x": 0, "y": 0}
    assert causal_depth(CHAIN, "ad") == {"a": 0, "d": 3}  # regulators in between that are not asked for count


def test_a_cycle_has_no_order():
    with pytest.raises(DataError, match="has a cycle, which no order can follow: "):
        causal_depth((*CHAIN, ("d", "a")), "a")


def test_the_token_order_is_topological_in_the_simulated_graph(tiny):
    visible = tiny.hidden().visible
    features = torch.zeros(len(visible.genes), 3)
    for order, sign in (("graph", 1), ("graph_reversed", -1)):
        made = Reference.build(visible, tiny.config({"ar.token_order": order}))
        score = dict(zip(visible.genes, (sign * made.score_order(visible.genes, features)).tolist(), strict=True))
        edges = list(zip(tiny.simulation.graph["regulator"], tiny.simulation.graph["target"], strict=True))
        assert len(edges) > 30
        assert all(score[regulator] > score[target] for regulator, target in edges)
        assert [sign * value for value in made.order.tolist()] == [score[gene] for gene in visible.train_genes]


def test_targets_are_generated_causes_first(tiny):
    hidden = tiny.hidden()
    model = CausalGeD(tiny.config({"ar.token_order": "graph"}))
    model.fit_visible(hidden.visible, hidden.val, hidden.measured)
    depth = causal_depth(tiny.pair.graph, tiny.split.test)
    assert model._look_up(tiny.split.test)[0].order.tolist() == [-depth[gene] for gene in tiny.split.test]


def test_the_graph_travels_with_the_data_and_names_them(tiny):
    st, sc = tiny.simulation.adata_st.copy(), tiny.simulation.adata_sc
    edges = set(zip(tiny.simulation.graph["regulator"], tiny.simulation.graph["target"], strict=True))
    assert set(tiny.pair.graph) == set(tiny.hidden().visible.graph) == edges
    del st.uns["regulatory_graph"]
    without = make_pair(st, sc)
    assert without.graph is None
    assert without.sha256 != tiny.pair.sha256
    st.uns["regulatory_graph"] = tiny.simulation.graph.iloc[1:]
    assert make_pair(st, sc).sha256 not in (without.sha256, tiny.pair.sha256)


@pytest.mark.parametrize(("entry", "found"), [({"a": 1}, "dict"), (pd.DataFrame({"from": ["a"]}), "columns from")])
def test_something_else_under_the_name_of_the_graph(tiny, entry, found):
    st = tiny.simulation.adata_st.copy()
    st.uns["regulatory_graph"] = entry
    with pytest.raises(DataError, match=f"expected a table with the columns regulator and target.*found .*{found}"):
        make_pair(st, tiny.simulation.adata_sc, "tiny")


def test_data_without_a_graph_cannot_be_ordered_by_it(tiny):
    visible = replace(tiny.hidden().visible, graph=None)
    for order in ("graph", "graph_reversed"):
        with pytest.raises(DataError, match=f"ar.token_order = {order} needs a known regulatory graph"):
            Reference.build(visible, tiny.config({"ar.token_order": order}))
    with pytest.raises(DataError, match="no uns"):
        oracle_table(replace(tiny.prepared, graph=None), tiny.base)
    with pytest.raises(ConfigError, match=r"graph orders genes; it needs model\.tokens = gene"):
        tiny.config({"ar.token_order": "graph", "model.tokens": "latent"})


# ---- what regulators tell -----------------------------------------------------------------------------------------


def test_regulators_help_where_the_expression_follows_them():
    """Far more than random genes: the spots are single cells, nearly without noise."""
    simulation = simulate_pair(n_spots=300, n_genes=60, n_regulators=12, technology="seqfish", seed=3)
    config = Config().with_values({"split.n_folds": 2})
    prepared = prepare(make_pair(simulation.adata_st, simulation.adata_sc), config.data)
    table = oracle_table(prepared, config)
    assert list(table["gene"].sort_values()) == sorted(prepared.panel)
    regulated = table[table["regulators"].notna()]
    assert set(regulated["gene"]) == set(simulation.graph["target"])
    gain = (regulated[["regulators", "random"]].sub(regulated["ridge"], axis=0)).mean()
    assert gain["regulators"] > gain["random"] + 0.03
    assert set(table[table["effects"].notna()]["gene"]) <= set(simulation.graph["regulator"])
    pd.testing.assert_frame_equal(table, oracle_table(prepared, config))
