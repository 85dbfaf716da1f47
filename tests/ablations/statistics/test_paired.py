import math

import numpy as np
import pandas as pd
import pytest
from scipy.stats import sem, ttest_1samp

from ablations.statistics import intervals
from ablations.statistics.intervals import draw_means
from ablations.statistics.paired import (
    compare_by_seed,
    compare_paired,
    correct_holm,
    estimate,
    summarise,
)
from ablations.statistics.power import find_needed


def long(values, seeds=1, start=0):
    """(n_genes,) or (seeds, n_genes) values as a table with columns seed, fold, gene, pcc."""
    values = np.broadcast_to(values, (seeds, np.shape(values)[-1]))
    rows = [(s + start, 0, f"g{g}", values[s, g]) for s in range(len(values)) for g in range(values.shape[1])]
    return pd.DataFrame(rows, columns=["seed", "fold", "gene", "pcc"])


def test_resampling_two_values_gives_three_means_at_their_rates():
    means = draw_means(np.array([[0.0], [1.0]]), n_resamples=8000, seed=1)[:, 0]
    shares = [np.mean(means == value) for value in (0.0, 0.5, 1.0)]
    assert shares == pytest.approx([0.25, 0.5, 0.25], abs=0.02)


def test_interval_of_a_proportion_is_the_binomial_one():
    (found,) = estimate(np.repeat([0.0, 1.0], 50)[:, None], n_resamples=5000)
    assert found.mean == 0.5
    assert (found.low, found.high) == pytest.approx((0.40, 0.60), abs=0.011)
    assert found.n_genes == 100


def test_draws_depend_on_the_seed_and_not_on_the_block_size(monkeypatch):
    values = np.random.default_rng(0).normal(size=(7, 2))
    whole = draw_means(values, 50, seed=3)
    assert not np.array_equal(whole, draw_means(values, 50, seed=4))
    monkeypatch.setattr(intervals, "_MAX_CELLS", 20)
    assert np.array_equal(whole, draw_means(values, 50, seed=3))


def test_columns_share_their_draws():
    values = np.random.default_rng(0).normal(size=(9, 1))
    means = draw_means(np.hstack([values, 2 * values]), 20)
    np.testing.assert_allclose(means[:, 1], 2 * means[:, 0])


def test_unscorable_genes_are_left_out_and_counted_per_metric():
    first, second = estimate(np.array([[1.0, 1.0], [3.0, np.nan], [np.nan, np.nan]]))
    assert (first.mean, first.n_genes, first.n_unscored) == (2.0, 2, 1)
    assert (second.mean, second.n_genes, second.n_unscored) == (1.0, 1, 2)
    assert math.isnan(second.low)
    assert not second.excludes_zero


def test_nothing_to_average_is_nan_and_not_zero():
    found = summarise(long(np.full(3, np.nan)), ["pcc"])["pcc"]
    assert math.isnan(found.mean)
    assert (found.n_genes, found.n_unscored) == (0, 3)
    assert math.isnan(summarise(long(np.empty(0)), ["pcc"])["pcc"].mean)


def test_seeds_that_repeat_values_do_not_narrow_the_interval():
    values = np.random.default_rng(0).normal(size=40)
    one, five = summarise(long(values), ["pcc"])["pcc"], summarise(long(values, seeds=5), ["pcc"])["pcc"]
    assert (five.low, five.high) == pytest.approx((one.low, one.high))
    assert five.n_genes == one.n_genes == 40


def test_the_same_gene_in_two_folds_counts_twice():
    both = pd.concat([long([0.1, 0.2]), long([0.3, 0.4]).assign(fold=1)])
    assert summarise(both, ["pcc"])["pcc"].n_genes == 4


def test_difference_pairs_seed_fold_and_gene():
    default = long(np.array([[0.0, 1.0, 5.0], [10.0, 11.0, 12.0]]), seeds=2)
    level = long(np.array([[1.0, 2.0, np.nan], [10.0, 11.0, 15.0]]), seeds=2)
    found = compare_paired(level.sample(frac=1, random_state=0), default, ["pcc"])["pcc"]
    assert found.mean == pytest.approx(np.mean([0.5, 0.5, 3.0]))
    assert compare_by_seed(level, default, "pcc") == {0: 1.0, 1: 1.0}


def test_a_gene_is_compared_within_its_fold():
    default = pd.concat([long([0.0, 0.0]), long([5.0, 5.0]).assign(fold=1)])
    level = pd.concat([long([1.0, 1.0]), long([6.0, 6.0]).assign(fold=1)])
    found = compare_paired(level, default, ["pcc"])["pcc"]
    assert (found.mean, found.low, found.high, found.n_genes) == (1.0, 1.0, 1.0, 4)


def test_a_seed_that_one_side_lacks_does_not_enter():
    default, level = long(np.zeros((2, 3)), seeds=2), long(np.array([1.0, 2.0, 3.0]), start=1)
    found = compare_paired(level, default, ["pcc"])["pcc"]
    assert (found.mean, found.n_genes) == (2.0, 3)
    assert compare_by_seed(level, default, "pcc") == {1: 2.0}


def test_a_floor_without_seeds_is_paired_with_every_seed():
    floor = long(np.array([1.0, 2.0])).drop(columns="seed")
    level = long(np.array([[2.0, 3.0], [4.0, 5.0]]), seeds=2)
    assert compare_paired(level, floor, ["pcc"])["pcc"].mean == pytest.approx(2.0)


def test_pairing_sees_a_small_difference_between_varied_genes():
    generator = np.random.default_rng(0)
    genes = generator.normal(0.3, 0.2, size=50)
    default, level = long(genes), long(genes + 0.02 + generator.normal(0, 0.01, size=50))
    difference = compare_paired(level, default, ["pcc"])["pcc"]
    assert difference.low > 0
    assert difference.excludes_zero
    assert difference.high < summarise(level, ["pcc"])["pcc"].high - summarise(default, ["pcc"])["pcc"].low


def test_interval_of_a_paired_difference_covers_the_truth():
    """Genes differ in level (shared by both sides) and in their own difference; three seeds add training noise."""
    generator, truth, n_genes, hits = np.random.default_rng(7), 0.03, 60, []
    for _ in range(60):
        genes, own = generator.normal(0.3, 0.2, n_genes), generator.normal(truth, 0.05, n_genes)
        default = long(genes + generator.normal(0, 0.02, (3, n_genes)), seeds=3)
        level = long(genes + own + generator.normal(0, 0.02, (3, n_genes)), seeds=3)
        found = compare_paired(level, default, ["pcc"], n_resamples=400)["pcc"]
        hits.append(found.low <= truth <= found.high)
    assert np.mean(hits) >= 0.93


def cube(seeds=1, folds=1, genes=8, seed=0, shift=0.0, columns=1):
    """(seeds, folds * genes, columns) normal values about 0.3 with a shift per (seed, fold), and the fold labels."""
    generator = np.random.default_rng(seed)
    values = (
        0.3
        + generator.normal(size=(1, folds * genes, columns))
        + 0.2 * generator.normal(size=(seeds, folds * genes, columns))
    )
    labels = np.repeat(np.arange(folds), genes)
    return values + shift * generator.normal(size=(seeds, folds, columns))[:, labels], labels


@pytest.mark.parametrize(("seeds", "folds"), [(1, 1), (3, 1), (1, 5), (3, 5), (2, 2)])
def test_p_is_below_5_percent_where_the_interval_excludes_zero(seeds, folds):
    found = estimate(*cube(seeds, folds, shift=0.3, columns=150), n_resamples=200)
    assert [e.p < 0.05 for e in found] == [e.excludes_zero for e in found]
    assert 0 < sum(e.excludes_zero for e in found) < 150


def test_one_fold_of_normal_genes_is_the_paired_t_test():
    values, _ = cube(genes=150)
    (found,) = estimate(values)
    test = ttest_1samp(values[0, :, 0], 0.0)
    assert (found.standard_error, found.df) == pytest.approx((sem(values[0, :, 0]), 149), rel=1e-3)
    assert found.p == pytest.approx(test.pvalue, abs=0.01)
    interval = test.confidence_interval(0.95)
    assert found.low <= interval.low + 1e-9
    assert found.high >= interval.high - 1e-9
    assert found.high - found.low == pytest.approx(interval.high - interval.low, rel=0.15)
    assert found.effect_size == pytest.approx(values.mean() / values.std(ddof=1))


def test_the_longer_tail_gets_the_longer_arm():
    skewed = np.random.default_rng(0).exponential(size=(25, 1))
    (found,) = estimate(skewed)
    assert found.high - found.mean > 1.1 * (found.mean - found.low)


def test_replicates_that_differ_widen_the_interval():
    for seeds, folds in ((3, 1), (1, 5), (2, 2)):
        loud, labels = cube(seeds, folds, genes=50, shift=1.0)
        quiet, _ = cube(seeds, folds, genes=50)
        (wide,), (narrow,) = estimate(loud, labels), estimate(quiet, labels)
        assert wide.noise_known
        assert wide.model_share > 0.5 > narrow.model_share
        assert wide.high - wide.low > 3 * (narrow.high - narrow.low)


@pytest.mark.parametrize(("seeds", "folds"), [(1, 1), (2, 1), (1, 2)])
def test_too_few_replicates_are_not_asked_about_training_noise(seeds, folds):
    (found,) = estimate(*cube(seeds, folds, shift=1.0))
    assert not found.noise_known
    assert (found.n_seeds, found.n_folds, found.model_share) == (seeds, folds, 0.0)


def test_a_seed_missing_from_one_fold_is_no_obstacle():
    values, labels = cube(3, 2, genes=20, shift=0.5)
    values[2, labels == 1] = np.nan
    (found,) = estimate(values, labels)
    assert found.noise_known
    assert found.mean == pytest.approx(np.nanmean(values, axis=0).mean())


def test_folds_of_one_gene_each_are_read_as_one_sample():
    values = np.array([0.1, 0.4, 0.2, 0.5])[:, None]
    (apart,), (together,) = estimate(values, np.arange(4)), estimate(values)
    assert (apart.low, apart.high, apart.n_folds) == (together.low, together.high, 4)


def test_what_does_not_vary_is_certain():
    zero, one = estimate(np.array([[0.0, 1.0]] * 4))
    assert (zero.low, zero.high, zero.p, zero.mde) == (0.0, 0.0, 1.0, 0.0)
    assert (one.low, one.high, one.p) == (1.0, 1.0, 0.0)
    assert math.isnan(zero.effect_size)


def test_smallest_detectable_effect_is_that_of_the_t_test():
    """54 pairs find 0.389 standard deviations with power 0.8 (G*Power 3.1, paired t, two-sided 0.05)."""
    values = np.random.default_rng(2).normal(size=(54, 1))
    (found,) = estimate(values)
    assert found.mde / values.std(ddof=1) == pytest.approx(0.389, rel=0.08)


def test_holm_by_hand():
    """0.01 x 4, then 0.02 x 3, 0.03 x 2, 0.04 x 1, never less than the one before."""
    assert correct_holm([0.03, 0.01, math.nan, 0.04, 0.02])[:2] == pytest.approx([0.06, 0.04])
    assert correct_holm([0.03, 0.01, math.nan, 0.04, 0.02])[3:] == pytest.approx([0.06, 0.06])
    assert math.isnan(correct_holm([0.03, math.nan])[1])
    assert correct_holm([0.7, 0.9]) == [1.0, 1.0]
    assert correct_holm([]) == []


def test_a_design_that_is_said_to_do_would_do():
    (found,) = estimate(np.random.default_rng(0).normal(0, 0.05, size=(30, 1)))
    need = find_needed(found, effect=found.mde / 2)
    assert 4 <= need.folds <= 8
    assert need.genes == 30 * need.folds
    assert need.seeds is None
    assert find_needed(found, effect=found.mde / 4).folds > 2 * need.folds


def test_seeds_would_do_only_where_training_noise_is_what_hurts():
    loud, labels = cube(3, 1, genes=150, shift=1.0)
    quiet, _ = cube(3, 1, genes=150)
    (noisy,), (still,) = estimate(loud, labels), estimate(quiet, labels)
    assert 3 < find_needed(noisy, 0.4).seeds < 40
    assert find_needed(still, still.standard_error).seeds is None


def test_no_number_of_seeds_is_promised_where_folds_tell_noise():
    """What folds differ by is the training genes' as well, which no seed thins out."""
    (found,) = estimate(*cube(3, 5, genes=30, shift=2.0))
    assert found.model_share > 0.5
    assert find_needed(found, found.mde / 1.2).seeds is None
