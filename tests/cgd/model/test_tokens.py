"""The two readings of "token": panels of genes with rotations and mixtures, and one latent cut into pieces."""

import pytest
import torch

from cgd.config import Config
from cgd.model.tokens import GeneTokens, LatentTokens, TrainingTable, draw_mixtures, draw_steps, random_rotations
from cgd.regression.conditional import causal_ridge

N, K, R = 40, 8, 5  # training genes, latent width, kernel features
VALUES = {
    "model.hidden_dim": 8,
    "model.latent_dim": K,
    "model.token_dim": 2,
    "model.width": 16,
    "model.n_condition_tokens": 3,
    "train.batch_size": 6,
    "train.panel_size": 12,
}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def config(**values):
    return Config().with_values({**VALUES, **{key.replace("__", "."): value for key, value in values.items()}})


def table(order=None):
    g = generator(9)
    z, code, features, center = (torch.randn(N, dim, generator=g) for dim in (K, K, R, K))
    return TrainingTable(code, features, order, z, center)


def gene_sequence(order=None, seed=0, **values):
    torch.manual_seed(0)
    return sequence_of(GeneTokens(config(**values)), seed, order)


def sequence_of(tokens, seed=0, order=None):
    known = table(order)
    return tokens.training_sequence(known, 0.5, tokens.draw(known, generator(seed)))


# ---- rotations, mixtures, steps -----------------------------------------------------------------------------------


def test_rotations_are_orthogonal_and_of_either_handedness():
    rotations = random_rotations(200, 5, generator())
    torch.testing.assert_close(
        rotations @ rotations.transpose(1, 2), torch.eye(5).expand(200, -1, -1), rtol=0, atol=1e-5
    )
    determinants = torch.linalg.det(rotations)
    assert 60 < (determinants > 0).sum() < 140
    assert (rotations - rotations[0]).abs().amax((1, 2))[1:].min() > 0.1


def test_rotations_favour_no_direction():
    first = random_rotations(5000, 3, generator())[:, 0]
    torch.testing.assert_close(first.mean(0), torch.zeros(3), rtol=0, atol=0.04)
    torch.testing.assert_close(first.T @ first / 5000, torch.eye(3) / 3, rtol=0, atol=0.02)


@pytest.mark.parametrize(("n_tokens", "size"), [(12, 3), (13, 3), (40, 1), (1, 40)])
def test_mixtures_are_disjoint_with_weights_of_unit_norm(n_tokens, size):
    index, weight = draw_mixtures(50, n_tokens, size, N, generator())
    assert index.shape == weight.shape == (50, n_tokens, size)
    for sample in index.flatten(1):
        assert len(sample.unique()) == n_tokens * size
    assert (index >= 0).all()
    assert (index < N).all()
    torch.testing.assert_close(weight.square().sum(-1), torch.ones(50, n_tokens))
    if size == 1:
        assert (weight == 1).all()


def test_every_gene_is_drawn():
    index, _ = draw_mixtures(300, 2, 3, N, generator())
    counts = torch.bincount(index.flatten(), minlength=N)
    assert counts.min() > 15
    assert counts.max() < 90


def test_steps_are_drawn_for_each_sample():
    steps = draw_steps(64, 12, 0.9, generator())
    assert steps.shape == (64, 12)
    assert (steps[:, 0] == 0).all()
    assert ((steps.diff(dim=1) == 0) | (steps.diff(dim=1) == 1)).all()
    assert len(steps.unique(dim=0)) > 20


# ---- gene tokens --------------------------------------------------------------------------------------------------


def distances(one, two):
    return torch.cdist(one, two, compute_mode="donot_use_mm_for_euclid_dist")


def find_genes(content, z):
    """Which gene each unmixed, unrotated token is."""
    distance = distances(content.flatten(0, 1), z)
    assert distance.min(1).values.max() < 1e-4
    return distance.argmin(1).view(content.shape[:2])


def test_a_panel_is_made_of_distinct_training_genes():
    sequence = gene_sequence(train__rotate=False, train__mixture_size=1)
    assert sequence.content.shape == sequence.center.shape == (6, 12, K)
    assert sequence.position.shape == (6, 12, 16)
    assert sequence.condition.shape == (6, 3, 16)
    genes = find_genes(sequence.content, table().z)
    assert all(len(row.unique()) == 12 for row in genes)
    assert len(genes.unique(dim=0)) == 6
    torch.manual_seed(0)
    tokens = GeneTokens(config())
    torch.testing.assert_close(sequence.position, tokens.embed_position(table().code[genes]))
    centre = causal_ridge(table().features[genes], sequence.content, sequence.step, 0.5)[0]
    torch.testing.assert_close(sequence.center, centre)


def test_a_rotation_keeps_the_geometry_and_changes_coordinates():
    plain, rotated = (gene_sequence(train__rotate=rotate, train__mixture_size=1) for rotate in (False, True))
    assert torch.equal(plain.position, rotated.position)  # the same genes
    assert not torch.allclose(plain.content, rotated.content, atol=0.1)
    torch.testing.assert_close(distances(plain.content, plain.content), distances(rotated.content, rotated.content))
    features = table().features[find_genes(plain.content, table().z)]
    torch.testing.assert_close(rotated.center, causal_ridge(features, rotated.content, rotated.step, 0.5)[0])


def test_mixtures_mix_content_code_and_features_alike():
    for seed in range(20):
        sequence = gene_sequence(seed=seed, train__rotate=False, train__mixture_size=3, train__batch_size=1)
        distance = distances(sequence.content[0], table().z).min(1).values
        if distance.max() > 0.1:
            break
    g = generator(seed)
    size = int(torch.randint(1, 4, (1,), generator=g))
    index, weight = draw_mixtures(1, 12, size, N, g)
    assert size > 1

    def mixed(rows):
        return (weight[..., None] * rows[index]).sum(2)

    torch.manual_seed(0)
    tokens = GeneTokens(config())
    torch.testing.assert_close(sequence.content, mixed(table().z))
    torch.testing.assert_close(sequence.position, tokens.embed_position(mixed(table().code)), rtol=1e-4, atol=1e-5)
    centre = causal_ridge(mixed(table().features), sequence.content, sequence.step, 0.5)[0]
    torch.testing.assert_close(sequence.center, centre, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("share", [0.0, 0.4, 0.7])
def test_tokens_follow_the_order_of_their_scores(share):
    """Those of the context and those after it, each for themselves."""
    order, n_context = torch.randn(N, generator=generator(3)), int(share * 12)
    plain = {"train__rotate": False, "train__mixture_size": 1, "train__context_share": share}
    genes = find_genes(gene_sequence(order, **plain).content, table().z)
    unordered = find_genes(gene_sequence(None, **plain).content, table().z)
    for part in (slice(n_context), slice(n_context, None)):
        found, before = order[genes[:, part]], order[unordered[:, part]]
        assert (found.diff(dim=1) <= 0).all()
        assert (before.sort(1, descending=True).values == found).all()
    assert not (order[unordered].diff(dim=1) <= 0).all()


@pytest.mark.parametrize("share", [0.0, 0.4, 0.7])
def test_a_panel_begins_with_its_share_of_context(share):
    """In the AR step before the first: what is generated sees it whole, and its loss is that of the others."""
    tokens, known = GeneTokens(config(train__mixture_size=1, train__context_share=share)), table()
    draw, n_context = tokens.draw(known, generator()), int(share * 12)
    assert draw.n_context == n_context
    assert draw.step.shape == (6, 12)
    assert not draw.step[:, :n_context].any()
    assert (draw.step[:, n_context] == (n_context > 0)).all()
    assert (draw.step.diff(dim=1) >= 0).all()
    assert draw.part(slice(1, 3)).n_context == n_context
    assert all(len(set(row.tolist())) == 12 for row in draw.index[..., 0])  # no gene is in both


def test_a_mixtures_score_weighs_genes_by_their_share():
    """Squared weights sum to 1; the sign of a weight says nothing about when a gene should come."""
    order = torch.randn(N, generator=generator(3))
    values = {"train__batch_size": 1, "train__mixture_size": 3, "train__context_share": 0.0}
    sequence = gene_sequence(order, seed=1, **values)
    g = generator(1)
    size = int(torch.randint(1, 4, (1,), generator=g))
    index, weight = draw_mixtures(1, 12, size, N, g)
    assert size > 1
    score = (weight.square() * order[index]).sum(-1)[0]
    mixed = (weight[..., None] * table().z[index]).sum(2)[0]
    torch.testing.assert_close(sequence.content[0], mixed[score.argsort(descending=True)])


def test_without_a_centre_it_is_zero():
    assert not gene_sequence(model__center="none").center.any()
    assert gene_sequence(model__center="ridge").center.any()


def test_panels_are_never_larger_than_the_genes_there_are():
    sequence = gene_sequence(train__panel_size=500, train__mixture_size=1)
    assert sequence.content.shape[1] == N


def test_the_condition_sees_all_training_genes_in_no_order():
    torch.manual_seed(0)
    tokens, code = GeneTokens(config()), table().code
    condition = tokens.condition(code)
    assert condition.shape == (3, 16)
    torch.testing.assert_close(tokens.condition(code[torch.randperm(N)]), condition)
    altered = code.clone()
    altered[7] += 1
    assert not torch.equal(tokens.condition(altered), condition)


# ---- latent tokens ------------------------------------------------------------------------------------------------


def latent_tokens(**values):
    torch.manual_seed(0)
    return LatentTokens(config(model__tokens="latent", **values))


def test_join_undoes_split_under_every_permutation():
    tokens = latent_tokens()
    latent = torch.randn(30, K, generator=generator())
    order = tokens.token_order(30, generator())
    assert order.sort(1).values.tolist() == [list(range(4))] * 30
    assert len(order.unique(dim=0)) > 10
    pieces = tokens.split(latent, order)
    assert pieces.shape == (30, 4, 2)
    assert torch.equal(tokens.join(pieces, order), latent)
    first = latent[0].view(4, 2)[order[0]]
    assert torch.equal(pieces[0], first)


def test_leading_dimensions_come_first_under_variance():
    assert latent_tokens(ar__token_order="variance").token_order(5, generator()).tolist() == [[0, 1, 2, 3]] * 5


def test_a_latent_sequence_is_a_gene_with_condition_and_centre():
    tokens = latent_tokens(train__mixture_size=1)
    sequence = sequence_of(tokens)
    assert sequence.content.shape == sequence.center.shape == (6, 4, 2)
    assert sequence.position.shape == (6, 4, 16)
    assert sequence.condition.shape == (6, 3, 16)
    for content, center, position, condition in zip(
        sequence.content, sequence.center, sequence.position, sequence.condition, strict=True
    ):
        order = distances(position, tokens.embed_index.weight).argmin(1)[None]
        gene = (tokens.join(content[None], order) - table().z).abs().sum(1).argmin()
        torch.testing.assert_close(tokens.join(content[None], order)[0], table().z[gene])
        torch.testing.assert_close(tokens.join(center[None], order)[0], table().center[gene])
        torch.testing.assert_close(condition, tokens.condition(table().code[gene : gene + 1])[0])


@pytest.mark.parametrize("kind", ["gene", "latent"])
def test_sequences_follow_the_generator(kind):
    tokens = GeneTokens(config()) if kind == "gene" else latent_tokens()
    one, same, other = (sequence_of(tokens, seed) for seed in (0, 0, 1))
    for name in ("content", "center", "position", "step"):
        assert torch.equal(getattr(one, name), getattr(same, name))
    assert one.content.shape != other.content.shape or not torch.equal(one.content, other.content)
