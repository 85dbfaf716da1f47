"""What a method sees and what it does not, and how the two protocols score."""

from dataclasses import fields, replace

import numpy as np
import pytest
import scipy.sparse as sp

from cgd.data.preprocess import log_normalise
from cgd.data.protocol import HiddenGenes, VisiblePair, hide
from cgd.data.split import GeneSplit
from cgd.errors import DataError
from cgd.evaluation import evaluate_floors
from cgd.metrics.facts import NOISE_CEILINGS, SCORES
from cgd.metrics.gene import gene_metrics
from cgd.metrics.summary import summarise_table

PUBLISHED = {"evaluation.protocol": "published"}


def columns(tiny, genes):
    return [tiny.prepared.panel.index(gene) for gene in genes]


def altered(tiny, genes, value):
    """The prepared pair with another count for each of `genes` at every spot."""
    counts = tiny.prepared.st_counts.toarray()
    counts[:, columns(tiny, genes)] = value
    totals = tiny.prepared.st_totals - tiny.prepared.st_counts.toarray().sum(axis=1) + counts.sum(axis=1)
    return replace(tiny.prepared, st_counts=sp.csc_matrix(counts), st_totals=totals)


# ---- what is visible ----------------------------------------------------------------------------------------------


def test_the_visible_pair_is_normalised_by_training_genes_alone(tiny):
    visible = tiny.hidden().visible
    counts = tiny.prepared.st_counts.toarray()[:, columns(tiny, tiny.split.train)].astype(np.float64)
    totals = counts.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(visible.x_st, np.log1p(counts / totals * np.median(totals)).T, rtol=1e-5)
    assert visible.train_genes == tiny.split.train
    assert visible.genes == tiny.prepared.panel
    np.testing.assert_array_equal(visible.sc_rows(("Reg001", "Reg000")), tiny.prepared.sc_dense(["Reg001", "Reg000"]))


def test_no_hidden_value_changes_a_bit_of_what_is_visible(tiny):
    hidden_genes = (*tiny.split.val, *tiny.split.test)
    visible = tiny.hidden().visible
    for value in (0, 1, 1000):
        other = hide(altered(tiny, hidden_genes, value), tiny.split, tiny.base).visible
        for field in fields(VisiblePair):
            one, two = getattr(visible, field.name), getattr(other, field.name)
            assert one.tobytes() == two.tobytes() if isinstance(one, np.ndarray) else one == two, field.name
    seen = hide(altered(tiny, tiny.split.train[:1], 1000), tiny.split, tiny.base).visible
    assert seen.x_st.tobytes() != visible.x_st.tobytes()


def test_spots_with_few_visible_genes_are_dropped_everywhere(tiny):
    detected = (tiny.prepared.st_counts.toarray()[:, columns(tiny, tiny.split.train)] > 0).sum(axis=1)
    threshold = int(np.median(detected)) + 1
    keep = detected >= threshold
    hidden = tiny.hidden({"data.min_genes_per_spot": threshold})
    np.testing.assert_array_equal(hidden.spots, keep)
    assert hidden.visible.x_st.shape == (28, keep.sum())
    assert hidden.test.truth.shape == (4, keep.sum())
    np.testing.assert_allclose(hidden.visible.coordinates, tiny.prepared.coordinates[keep], rtol=1e-6)
    assert f"{(~keep).sum()} spots dropped" in hidden.notes[0]
    with pytest.raises(DataError, match=r"no spot has 29 detected training genes; lower data\.min_genes_per_spot"):
        tiny.hidden({"data.min_genes_per_spot": 29})


def test_training_genes_seen_in_no_spot_are_dropped_and_counted(tiny):
    gone = tiny.split.train[2]
    hidden = hide(altered(tiny, [gone], 0), tiny.split, tiny.base)
    assert hidden.visible.train_genes == tuple(gene for gene in tiny.split.train if gene != gone)
    assert hidden.visible.x_st.shape[0] == 27
    assert hidden.notes == ("1 training genes dropped: detected in no spot",)
    with pytest.raises(DataError, match="1 of 28 training genes have ST counts; need 2"):
        hide(altered(tiny, tiny.split.train[1:], 0), tiny.split, tiny.base)


def test_the_truth_is_normalised_by_every_gene_in_each_fold(tiny):
    hidden = tiny.hidden()
    totals = tiny.prepared.st_totals
    expected = log_normalise(tiny.prepared.st_counts, totals, float(np.median(totals))).toarray().T
    np.testing.assert_allclose(hidden.test.truth, expected[columns(tiny, tiny.split.test)], rtol=1e-6)
    other = GeneSplit(tiny.split.val, tiny.split.train, tiny.split.test, fold=1)
    again = hide(tiny.prepared, other, tiny.base)
    kept = again.spots[hidden.spots]
    assert again.test.truth.tobytes() == hidden.test.truth[:, kept].tobytes()


def test_validation_truth_is_normalised_without_the_test_genes(tiny):
    counts = tiny.prepared.st_counts[:, columns(tiny, (*tiny.split.train, *tiny.split.val))]
    totals = np.asarray(counts.sum(axis=1)).ravel()
    expected = log_normalise(tiny.prepared.st_counts, totals, float(np.median(totals))).toarray().T
    np.testing.assert_allclose(tiny.hidden().val.truth, expected[columns(tiny, tiny.split.val)], rtol=1e-6)


# ---- how it is scored ---------------------------------------------------------------------------------------------


def test_scores_are_the_metrics_of_the_prediction(tiny):
    test = tiny.hidden().test
    prediction = np.random.default_rng(0).random(test.truth.shape).astype(np.float32)
    table = test.score(prediction)
    assert list(table.columns) == ["gene", *SCORES]
    assert tuple(table["gene"]) == tiny.split.test
    for key, values in gene_metrics(prediction, test.truth).items():
        np.testing.assert_array_equal(table[key], values)


def test_genes_too_rare_to_score_are_nan_and_counted():
    truth = np.zeros((3, 100), np.float32)
    truth[0, :50], truth[1, :4] = np.linspace(1, 2, 50), [1, 2, 3, 4]
    for hidden in (None, truth > 1.5):
        table = HiddenGenes(("common", "rare", "absent"), truth, hidden, min_spot_fraction=0.05).score(truth + 1)
        assert table.drop(columns="gene").isna().all(axis=1).tolist() == [False, True, True]
        summary = summarise_table(table)
        assert (summary["n_genes"], summary["n_scored"]) == (3, 1)
        assert summary["pcc"] == table["pcc"][0]


def test_published_copies_everything_but_the_hidden_entries(tiny):
    test = tiny.hidden(PUBLISHED).test
    assert not (test.hidden & (test.truth == 0)).any()
    prediction = np.random.default_rng(0).random(test.truth.shape).astype(np.float32)
    table = test.score(prediction)
    pasted = np.where(test.hidden, prediction, test.truth)
    for key, values in gene_metrics(pasted, test.truth).items():
        np.testing.assert_array_equal(table[key], values)
    for row, mask, one, truth in zip(table.to_dict("records"), test.hidden, prediction, test.truth, strict=True):
        alone = gene_metrics(one[mask][None], truth[mask][None])
        assert all(row[f"hidden_{key}"] == alone[key][0] for key in SCORES)
        assert row["copied_share"] == 1 - mask.mean()


def test_the_share_copied_is_what_the_hidden_fraction_leaves():
    rng = np.random.default_rng(0)
    truth = (rng.random((50, 2000)) < 0.4) * rng.random((50, 2000))
    from_truth = truth > 0
    hidden = from_truth & (rng.random(truth.shape) < 0.3)
    table = HiddenGenes(tuple(f"g{i}" for i in range(50)), truth.astype(np.float32), hidden, 0.05).score(
        np.zeros(truth.shape, np.float32)
    )
    assert table["copied_share"].mean() == pytest.approx(1 - 0.3 * 0.4, abs=0.003)


@pytest.mark.parametrize("fraction", [0.3, 0.8])
def test_the_mask_hides_the_share_of_the_non_zeros_asked_for(tiny, fraction):
    test = tiny.hidden({**PUBLISHED, "evaluation.hidden_fraction": fraction}).test
    n = (test.truth > 0).sum()
    standard_error = np.sqrt(fraction * (1 - fraction) / n)
    assert test.hidden.sum() / n == pytest.approx(fraction, abs=4 * standard_error)
    density = (test.truth > 0).mean()
    copied = test.score(test.truth)["copied_share"].mean()
    assert copied == pytest.approx(1 - fraction * density, abs=4 * standard_error)


def test_the_mask_depends_on_the_split_and_on_nothing_else(tiny):
    mask = tiny.hidden(PUBLISHED).test.hidden
    assert mask.any()
    for values in ({"seed": 7}, {"model.decoder": "joint"}, {"train.epochs": 9}):
        np.testing.assert_array_equal(tiny.hidden({**PUBLISHED, **values}).test.hidden, mask)
    assert not np.array_equal(tiny.hidden({**PUBLISHED, "split.seed": 1}).test.hidden, mask)
    fold = replace(tiny.split, fold=1)
    assert not np.array_equal(hide(tiny.prepared, fold, tiny.config(PUBLISHED)).test.hidden, mask)


def test_two_methods_are_scored_under_the_same_mask(tiny):
    """The model's table and every floor's have the same copied entries of each gene."""
    model = tiny.evaluate(PUBLISHED).per_gene
    config = tiny.config({**PUBLISHED, "sampling.n_samples": 0})
    floors = evaluate_floors(tiny.prepared, tiny.split, config)
    floors = floors[~floors["method"].isin(NOISE_CEILINGS)]  # which predict nothing
    assert {"zero_fill", "visible_mean_fill", "kernel_ridge", "ceiling"} <= set(floors["method"])
    for _, rows in floors.groupby("method"):
        assert rows["copied_share"].tolist() == model["copied_share"].tolist()
    assert {f"hidden_{key}" for key in SCORES} <= set(model.columns) & set(floors.columns)


def test_validation_never_copies_whatever_the_protocol(tiny):
    heldout, published = tiny.hidden(), tiny.hidden(PUBLISHED)
    assert heldout.val.hidden is None
    assert published.val.hidden is None
    assert heldout.test.hidden is None
    prediction = np.random.default_rng(0).random(published.test.truth.shape).astype(np.float32)
    np.testing.assert_array_equal(
        published.test.score_heldout(prediction)["pcc"], gene_metrics(prediction, published.test.truth)["pcc"]
    )
    assert tiny.evaluate().summary["val_pcc"] == tiny.evaluate(PUBLISHED).summary["val_pcc"]
    assert "copied_share" not in tiny.evaluate().per_gene


def test_genes_with_under_three_hidden_entries_have_no_metric():
    truth = np.tile(np.linspace(1, 2, 10, dtype=np.float32), (2, 1))
    hidden = np.zeros((2, 10), bool)
    hidden[0, :2], hidden[1, :3] = True, True
    table = HiddenGenes(("two", "three"), truth, hidden, 0.0).score(truth[:, ::-1])
    assert table["hidden_pcc"].isna().tolist() == [True, False]
    assert table["hidden_pcc"][1] == pytest.approx(-1)
    assert table["pcc"].notna().all()
