"""The full mask beside the causal one: which token sees which, by hand, and that no answer reaches its question."""

import pytest
import torch
from token_layouts import sequence_layout

from cgd.config import Config, ModelConfig
from cgd.model.ar_steps import CLEAN, CONDITION, NOISY, step_of_token
from cgd.model.attention import Layout, attend, boolean_mask, make_mask
from cgd.model.cat import CAT, NoisyTokens
from cgd.model.network import Network
from cgd.model.tokens import TrainingTable
from cgd.random import make_generator
from cgd.regression.conditional import causal_ridge, other_steps_ridge, predict_from_context

K, C, LAMBDA = 6, 2, 0.5
SIZES = [[2, 2, 3], [7], [1, 1, 1, 1], [3, 1], [1, 5]]


def layout(sizes):
    """[condition | clean | noisy] with every token in the clean part too, as the full mask needs it."""
    step = step_of_token(sizes)[None]
    return Layout(*sequence_layout(step, C, step.shape[1]))


def allowed_by_hand(rule, query, key):
    (query_kind, query_step), (key_kind, key_step) = query, key
    if key_kind == CONDITION:
        return True
    if query_kind == CLEAN and key_kind == CLEAN:
        return key_step <= query_step if rule == "causal" else key_step == query_step
    if query_kind == NOISY and key_kind == CLEAN:
        return key_step < query_step if rule == "causal" else key_step != query_step
    return query_kind == NOISY and key_kind == NOISY and key_step == query_step


@pytest.mark.parametrize("rule", ["causal", "full"])
@pytest.mark.parametrize("sizes", SIZES)
def test_the_mask_pair_by_pair(rule, sizes):
    tokens = layout(sizes)
    mask = boolean_mask(tokens, tokens, rule)[0, 0]
    listed = list(zip(tokens.kind[0].tolist(), tokens.step[0].tolist(), strict=True))
    expected = [[allowed_by_hand(rule, query, key) for key in listed] for query in listed]
    assert mask.tolist() == expected


@pytest.mark.parametrize("sizes", SIZES)
def test_the_full_mask_shows_a_target_every_other_token_once(sizes):
    tokens = layout(sizes)
    n = sum(sizes)
    mask = boolean_mask(tokens, tokens, "full")[0, 0]
    clean, noisy = mask[C + n :, C : C + n], mask[C + n :, C + n :]
    assert (clean.int() + noisy.int() == 1).all()


@pytest.mark.parametrize("rule", ["causal", "full"])
@pytest.mark.parametrize("sizes", SIZES)
def test_no_answer_reaches_its_question_through_many_blocks(rule, sizes):
    """Along every path of the mask, not in one block alone."""
    tokens = layout(sizes)
    n = sum(sizes)
    reach = boolean_mask(tokens, tokens, rule)[0, 0].float() + torch.eye(C + 2 * n)
    for _ in range(5):
        reach = (reach @ reach > 0).float()
    from_clean = reach[C + n :, C : C + n].bool()
    step = step_of_token(sizes)
    open_steps = step[None] < step[:, None] if rule == "causal" else step[None] != step[:, None]
    assert torch.equal(from_clean, open_steps)


def test_the_full_mask_is_the_largest_that_leaks_nothing():
    """Given that targets see all other steps: open one more pair, and some answer reaches its question."""
    tokens = layout([2, 1, 2])
    n, step = 5, step_of_token([2, 1, 2])
    mask = boolean_mask(tokens, tokens, "full")[0, 0]
    same = step[None] == step[:, None]
    for query, key in (~mask).nonzero().tolist():
        into_front = query < C or (query < C + n and key >= C + n)  # those would make the prefix depend on t
        if into_front:
            continue
        reach = mask.float() + torch.eye(C + 2 * n)
        reach[query, key] = 1
        for _ in range(5):
            reach = (reach @ reach > 0).float()
        assert (reach[C + n :, C : C + n].bool() & same).any(), (query, key)


# ---- the transformer ----------------------------------------------------------------------------------------------


@pytest.fixture
def cat():
    torch.manual_seed(0)
    model = CAT(ModelConfig(width=32, n_heads=2, depth=3, attention_mask="full"), K).eval()
    torch.nn.init.normal_(model.head.weight)  # untrained it is zero and would hide everything
    return model


def test_a_target_depends_on_clean_values_of_other_steps_only(cat):
    generator = torch.Generator().manual_seed(0)
    step = step_of_token([2, 2, 3])[None]
    content, x_t, center = torch.randn(3, 1, 7, K, generator=generator)
    position, condition = torch.randn(1, 7, 32, generator=generator), torch.randn(1, C, 32, generator=generator)
    t = torch.rand(1, 7, generator=generator)

    def predict(clean):
        return cat.denoise(
            cat.extend(cat.start(condition), clean, position, step), NoisyTokens(x_t, t, center, position, step)
        )

    before = predict(content)
    for token in range(7):
        altered = content.clone()
        altered[:, token] += 3.0
        changed = (predict(altered) != before).any(-1)[0]
        assert changed.tolist() == (step[0] != step[0, token]).tolist(), token


def test_both_masks_have_the_same_parameters():
    networks = [Network(Config().with_values({"model.attention_mask": mask}), 30, 40) for mask in ("causal", "full")]
    one, other = ({name: p.shape for name, p in network.named_parameters()} for network in networks)
    assert one == other


@pytest.mark.parametrize("center", ["ridge", "none"])
@pytest.mark.parametrize("mask", ["causal", "full"])
def test_a_training_gene_is_predicted_without_its_own_value(tiny, monkeypatch, mask, center):
    """The whole training step: its content is altered in the sequence, and its prediction and centre stay."""
    config = tiny.config({"model.attention_mask": mask, "model.center": center, "train.mixture_size": 1})
    torch.manual_seed(0)
    network = Network(config, 30, 40).eval()
    torch.nn.init.normal_(network.cat.head.weight)
    generator = torch.Generator().manual_seed(3)
    z, code, features = (torch.randn(28, width, generator=generator) for width in (8, 8, 5))
    table = TrainingTable(code, features, None, z)
    sequence = network.tokens.training_sequence(table, LAMBDA, network.tokens.draw(table, make_generator(0, "batch")))
    step, x_t = sequence.step, torch.randn(sequence.content.shape, generator=generator)

    def predict(content):
        # features of the panel are not in the sequence: the centre is recomputed from those of the first genes
        known = torch.ones_like(features[: step.shape[1]]).expand(len(step), -1, -1) * features[: step.shape[1]]
        centers = causal_ridge if mask == "causal" else other_steps_ridge
        middle = centers(known, content, step, LAMBDA)[0] if center == "ridge" else torch.zeros_like(content)
        prefix = network._make_prefix(content, sequence.position, sequence.condition, step)
        return network.predict(prefix, NoisyTokens(x_t, torch.full_like(step, 40), middle, sequence.position, step))

    before, reached = predict(sequence.content), 0
    for token in range(step.shape[1]):
        altered = sequence.content.clone()
        altered[:, token] += 2.0
        after = predict(altered)
        torch.testing.assert_close(after[:, token], before[:, token], rtol=1e-4, atol=1e-4)
        open_to = step > step[:, token : token + 1] if mask == "causal" else step != step[:, token : token + 1]
        changed = (after - before).abs().amax(-1) > 1e-3
        assert not (changed & ~open_to).any()
        reached += int((changed & open_to).sum())
    assert reached > 0


def test_the_full_masks_centre_is_a_ridge_on_all_other_steps():
    generator = torch.Generator().manual_seed(0)
    features, latents = torch.randn(2, 7, 5, generator=generator), torch.randn(2, 7, K, generator=generator)
    step = torch.stack([step_of_token([2, 2, 3]), step_of_token([1, 6])])
    center, variance = other_steps_ridge(features, latents, step, LAMBDA)
    for b in range(2):
        for i in range(7):
            others = step[b] != step[b, i]
            mean, spread = predict_from_context(
                features[b][others], latents[b : b + 1, others], features[b, i : i + 1], LAMBDA
            )
            torch.testing.assert_close(center[b, i], mean[0, 0], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(variance[b, i], spread[0], rtol=1e-4, atol=1e-5)
    alone = other_steps_ridge(features, latents, torch.zeros(2, 7, dtype=torch.long), LAMBDA)[0]
    torch.testing.assert_close(alone, torch.zeros_like(alone), rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("sizes", [[2, 2, 3], [40, 60, 50]])
def test_sdpa_and_flex_agree_under_the_full_mask(sizes):
    tokens = layout(sizes)
    q, k, v = torch.randn(3, 1, 2, tokens.kind.shape[1], 16, generator=torch.Generator().manual_seed(0))
    sdpa, flex = (attend(q, k, v, make_mask(tokens, tokens, backend, "full")) for backend in ("sdpa", "flex"))
    torch.testing.assert_close(flex, sdpa, rtol=1e-5, atol=1e-5)
