"""Studies without an effect, to count how often the statistics of the reports find one.

`python tests/ablations/simulated_effects.py` prints the tables of docs/statistics.md.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import t

from ablations.statistics.intervals import ALPHA, Spread, find_p_values, find_reach, measure
from ablations.statistics.paired import correct_holm

SKEW = 1.4  # of a gamma distribution of shape 2; the largest seen among real paired differences was 1.44
TRUTH = 0.03
NOISES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0)
BLOCK = 2500  # simulated studies at once; each block draws its own bootstrap


@dataclass(frozen=True)
class Design:
    """Genes in all folds together; `model_noise` is the standard deviation of a trained model's common shift, and
    `fold_noise` of the shift that all models on a fold's training genes share, in units of the standard error that the
    genes of one fold give its mean."""

    n_genes: int
    n_folds: int
    n_seeds: int
    skew: float = 0.0
    model_noise: float = 0.0
    fold_noise: float = 0.0

    @property
    def folds(self) -> np.ndarray:
        return np.sort(np.arange(self.n_genes) % self.n_folds)

    @property
    def sees_noise(self) -> bool:
        return self.n_folds >= 3 or self.n_folds * (self.n_seeds - 1) >= 2


def gene_effects(generator: np.random.Generator, shape: tuple[int, ...], skew: float) -> np.ndarray:
    """Mean 0 and variance 1."""
    if not skew:
        return generator.normal(size=shape)
    k = 4 / skew**2
    return (generator.gamma(k, size=shape) - k) / np.sqrt(k)


def simulate(design: Design, n: int, generator: np.random.Generator) -> np.ndarray:
    """(n_seeds, n_genes, n) paired differences with mean `TRUTH`.

    A difference is the gene's own effect, its model's shift, and noise of the gene in that model (half as large).
    """
    genes = gene_effects(generator, (design.n_genes, n), design.skew)
    shift = generator.normal(size=(design.n_seeds, design.n_folds, n)) * design.model_noise
    if design.fold_noise:
        shift += generator.normal(size=(1, design.n_folds, n)) * design.fold_noise
    shift *= np.sqrt(design.n_folds / design.n_genes)
    noise = 0.5 * generator.normal(size=(design.n_seeds, design.n_genes, n))
    return TRUTH + genes + shift[:, design.folds] + noise


def error_rate(design: Design, repetitions: int, n_resamples: int, seed: int = 0) -> float:
    """Share of studies whose p of the truth is below 0.05: of false positives, and 1 - coverage of the interval."""
    generator, wrong = np.random.default_rng(seed), 0
    for start in range(0, repetitions, BLOCK):
        values = simulate(design, min(BLOCK, repetitions - start), generator)
        spread = measure(values, design.folds, n_resamples, seed=seed + start)
        wrong += int((find_p_values(spread, null=TRUTH) < ALPHA).sum())
    return wrong / repetitions


def relative_width(design: Design, repetitions: int, n_resamples: int, seed: int = 1) -> float:
    """Median width of the interval over the width that knowing every variance would give."""
    values = simulate(design, repetitions, np.random.default_rng(seed))
    spread = measure(values, design.folds, n_resamples, seed)
    width = find_reach(spread, spread.low_shape) + find_reach(spread, spread.high_shape)
    variance = (1 + 0.25 / design.n_seeds + design.model_noise**2 / design.n_seeds) / design.n_genes
    return float(np.median(width) / (2 * 1.96 * np.sqrt(variance)))


def family_error_rate(families: int, n_resamples: int, seed: int = 0) -> float:
    """Share of studies of 5 levels on 2 data sets (33 and 54 genes) where Holm's correction leaves a false positive.

    All levels of a data set are compared with the same default.
    """
    generator, p = np.random.default_rng(seed), []
    for n_genes in (33, 54):
        default, levels = generator.normal(size=(n_genes, 1, families)), generator.normal(size=(n_genes, 5, families))
        differences = (levels - default).reshape(1, n_genes, 5 * families)
        spread = measure(differences, np.zeros(n_genes, dtype=int), n_resamples, seed)
        p.append(find_p_values(spread).reshape(5, families))
    return float(np.mean([min(correct_holm(family)) < ALPHA for family in np.vstack(p).T]))


def rows(repetitions: int, n_resamples: int) -> Iterator[list[str]]:
    """Per number of genes, folds and seeds: rates for each skew without and with model noise, then widths."""
    for n_genes, n_folds, n_seeds in itertools.product((10, 33, 54, 150), (1, 5), (1, 3)):
        design = Design(n_genes, n_folds, n_seeds)
        noises = (0.0, 1.0) if design.sees_noise else (0.0,)
        cells = [str(n_genes), str(n_folds), str(n_seeds)]
        for noise, skew in itertools.product(noises, (0.0, SKEW, 2.0)):
            cells.append(f"{error_rate(replace(design, skew=skew, model_noise=noise), repetitions, n_resamples):.3f}")
        cells += ["–"] * (9 - len(cells))
        widths = [relative_width(replace(design, model_noise=noise), 200, n_resamples) for noise in noises]
        yield cells + [f"{width:.2f}" for width in widths] + ["–"] * (2 - len(widths))


def satterthwaite(spread: Spread) -> np.ndarray:
    """What `p_values` replaces: Student's t with the model variance truncated at 0 and Satterthwaite's df (no skew)."""
    genes, total, excess = spread.gene_variance, spread.model_total, spread.model_excess
    error = spread.standard_error
    alone = np.maximum(0.0, genes - excess) if np.allclose(genes, excess) else genes  # fold means contain the genes
    df = error**4 / (alone**2 / spread.gene_df + total**2 / spread.model_df)
    return 2 * t.sf(np.abs(spread.mean - TRUTH) / error, np.where(total > excess, df, spread.gene_df))


def comparison(repetitions: int, n_resamples: int) -> Iterator[list[str]]:
    """Rates of both methods over the size of the model noise, where few replicates tell it."""
    for n_genes, n_folds, n_seeds in ((150, 5, 1), (60, 3, 1), (33, 1, 3)):
        for method in (lambda spread: find_p_values(spread, null=TRUTH), satterthwaite):
            cells = [str(n_genes), str(n_folds), str(n_seeds), "Satterthwaite" if method is satterthwaite else "ours"]
            for noise in NOISES:
                design = Design(n_genes, n_folds, n_seeds, model_noise=noise)
                values = simulate(design, repetitions, np.random.default_rng(0))
                cells.append(f"{(method(measure(values, design.folds, n_resamples)) < ALPHA).mean():.3f}")
            yield cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=10_000)
    parser.add_argument("--resamples", type=int, default=500)
    asked = parser.parse_args()
    kinds = ["normal", f"skew {SKEW}", "skew 2"]
    noisy = [f"{kind}, model noise" for kind in kinds]
    header = ["genes", "folds", "seeds"]
    show([*header, *kinds, *noisy, "width", "width, model noise"], rows(asked.repetitions, asked.resamples))
    noises = [f"noise {noise:g}" for noise in NOISES]
    show([*header, "method", *noises], comparison(asked.repetitions, asked.resamples))
    rate = family_error_rate(asked.repetitions // 2, asked.resamples)
    print(f"Holm, 5 levels x 2 data sets: {rate:.4f} of studies with a false positive")


def show(header: list[str], body: Iterator[list[str]]) -> None:
    """A Markdown table, each row as soon as it is known."""
    print(f"| {' | '.join(header)} |\n|{'---|' * len(header)}")
    for row in body:
        print(f"| {' | '.join(row)} |", flush=True)
    print()


if __name__ == "__main__":
    main()
