"""The Causality Aware Transformer: what reaches what, exactly; kept keys and values; two attention implementations."""

import pytest
import torch
from token_layouts import attention_mask, sequence_layout

from cgd.config import ModelConfig
from cgd.model.ar_steps import NOISY, step_of_token
from cgd.model.attention import Layout, attend, boolean_mask, make_mask
from cgd.model.cat import CAT, NoisyTokens

K, C = 6, 2  # content per token, condition tokens
CONFIG = ModelConfig(width=32, n_heads=2, depth=2)
TOLERANCE = {"rtol": 1e-5, "atol": 1e-6}  # float32, sums over different runs of keys


@pytest.fixture
def cat():
    torch.manual_seed(0)
    model = CAT(CONFIG, K).eval()
    torch.nn.init.normal_(model.head.weight)  # untrained it is zero and would hide everything
    return model


def sequence(sizes, batch=2, seed=0):
    """Condition, content, centre, position, step and timestep of random sequences with AR steps of these sizes."""
    generator = torch.Generator().manual_seed(seed)
    step = step_of_token(sizes).expand(batch, -1)

    def normal(n, dim):
        return torch.randn(batch, n, dim, generator=generator)

    n_tokens = step.shape[1]
    t = torch.rand(batch, n_tokens, generator=generator)
    return normal(C, CONFIG.width), normal(n_tokens, K), normal(n_tokens, K), normal(n_tokens, CONFIG.width), step, t


def cached(cat, sizes, condition, content, center, position, step, t, x_t=None):
    """Prediction of the noisy tokens, with the clean tokens kept in one piece as in training."""
    v = step.shape[1] - sizes[-1]
    prefix = cat.start(condition)
    if v:
        prefix = cat.extend(prefix, content[:, :v], position[:, :v], step[:, :v])
    return cat.denoise(prefix, NoisyTokens(content if x_t is None else x_t, t, center, position, step))


def uncached(cat, sizes, condition, content, center, position, step, t):
    """The whole sequence [condition | clean | noisy] at once, under the mask of Algorithm 2."""
    v = step.shape[1] - sizes[-1]
    captured = []
    handle = cat.blocks[0].register_forward_pre_hook(lambda module, arguments: captured.append(arguments[0]))
    cached(cat, sizes, condition, content, center, position, step, t)
    handle.remove()
    x = torch.cat(captured, 1)
    allowed = attention_mask(sizes, C) == 0
    for block in cat.blocks:
        attention = block.attention
        q, k, w = attention.to_qkv(block.norm_attention(x)).view(*x.shape[:2], 3, attention.n_heads, -1).unbind(2)
        score = torch.einsum("bqhd,bkhd->bhqk", q, k) / q.shape[-1] ** 0.5
        share = score.masked_fill(~allowed, -torch.inf).softmax(-1)
        x = x + attention.out(torch.einsum("bhqk,bkhd->bqhd", share, w).flatten(2))
        x = x + block.mlp(block.norm_mlp(x))
    return x[:, : C + v], cat.head(cat.norm(x[:, C + v :]))


SIZES = [[2, 2, 3], [7], [1, 1, 1, 1], [3, 1], [1, 5]]


# ---- the cache ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", SIZES)
def test_kept_keys_and_values_give_what_the_whole_sequence_gives(cat, sizes):
    arguments = sequence(sizes)
    expected = uncached(cat, sizes, *arguments)[1]
    assert expected.std() > 0.1
    torch.testing.assert_close(cached(cat, sizes, *arguments), expected, **TOLERANCE)


def test_a_prefix_built_in_pieces_equals_one_built_at_once(cat):
    condition, content, center, position, step, t = sequence([2, 2, 3])
    at_once = cat.extend(cat.start(condition), content[:, :4], position[:, :4], step[:, :4])
    pieces = cat.start(condition)
    for part in (slice(0, 2), slice(2, 4)):
        pieces = cat.extend(pieces, content[:, part], position[:, part], step[:, part])
    for one, two in zip(at_once.past, pieces.past, strict=True):
        torch.testing.assert_close(one, two, **TOLERANCE)
    assert torch.equal(at_once.layout.kind, pieces.layout.kind)
    assert torch.equal(at_once.layout.step, pieces.layout.step)
    last = slice(4, 7)
    predicted = [
        cat.denoise(p, NoisyTokens(content[:, last], t[:, last], center[:, last], position[:, last], step[:, last]))
        for p in (at_once, pieces)
    ]
    torch.testing.assert_close(*predicted, **TOLERANCE)
    whole = cat.denoise(at_once, NoisyTokens(content, t, center, position, step))[:, last]
    torch.testing.assert_close(predicted[1], whole, **TOLERANCE)


def test_one_prefix_serves_a_larger_batch(cat):
    condition, content, center, position, step, t = sequence([2, 2, 3])
    prefix = cat.extend(cat.start(condition[:1]), content[:1, :4], position[:1, :4], step[:1, :4])
    both = cat.denoise(prefix, NoisyTokens(content, t, center, position, step))
    alone = cat.denoise(prefix, NoisyTokens(content[1:], t[1:], center[1:], position[1:], step[1:]))
    torch.testing.assert_close(both[1:], alone, **TOLERANCE)


# ---- what reaches what --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", SIZES)
def test_nothing_in_front_of_the_noisy_tokens_depends_on_them(cat, sizes):
    """Exactly: neither their content nor their centre nor their timestep."""
    condition, content, center, position, step, t = sequence(sizes)
    prefix = cat.extend(cat.start(condition), content, position, step)
    before = [tensor.clone() for pair in prefix.past for tensor in pair]
    first = cat.denoise(prefix, NoisyTokens(content, t, center, position, step))
    other = cat.denoise(prefix, NoisyTokens(content + 9, t / 2, center - 9, position, step))
    assert not torch.equal(first, other)
    assert all(torch.equal(one, two) for one, two in zip(before, (x for p in prefix.past for x in p), strict=True))
    arguments = [sequence(sizes, seed=seed) for seed in (0, 1)]
    fronts = [uncached(cat, sizes, *arguments[0][:2], a[2], *arguments[0][3:5], a[5])[0] for a in arguments]
    assert torch.equal(*fronts)


def test_a_noisy_token_depends_on_clean_tokens_of_earlier_steps(cat):
    sizes = [2, 2, 3]
    condition, content, center, position, step, t = sequence(sizes)
    x_t = torch.randn(content.shape, generator=torch.Generator().manual_seed(5))
    before = cached(cat, sizes, condition, content, center, position, step, t, x_t)
    for token in range(7):
        altered = content.clone()
        altered[:, token] += 3.0
        after = cached(cat, sizes, condition, altered, center, position, step, t, x_t)
        for query in range(7):
            reached = bool(step[0, token] < step[0, query])
            assert torch.equal(before[:, query], after[:, query]) == (not reached), (token, query)


def test_a_noisy_token_depends_on_noisy_tokens_of_its_step_alone(cat):
    sizes = [2, 2, 3]
    condition, content, center, position, step, t = sequence(sizes)
    before = cached(cat, sizes, condition, content, center, position, step, t, content)
    for token in range(7):
        altered = content.clone()
        altered[:, token] += 3.0
        after = cached(cat, sizes, condition, content, center, position, step, t, altered)
        for query in range(7):
            reached = bool(step[0, token] == step[0, query])
            assert torch.equal(before[:, query], after[:, query]) == (not reached), (token, query)


def test_a_clean_tokens_position_code_reaches_later_steps_alone(cat):
    condition, content, center, position, step, t = sequence([2, 2, 3])

    def predict(clean_position):
        prefix = cat.extend(cat.start(condition), content[:, :4], clean_position, step[:, :4])
        return cat.denoise(prefix, NoisyTokens(content, t, center, position, step))

    before, altered = predict(position[:, :4]), position[:, :4].clone()
    altered[:, 2] += 1.0  # of the second step
    changed = (predict(altered) != before).any(-1).all(0)
    assert changed.tolist() == [False] * 4 + [True] * 3


def test_all_tokens_depend_on_the_condition_and_it_on_nothing(cat):
    sizes = [2, 2, 3]
    condition, content, center, position, step, t = sequence(sizes)
    before = cached(cat, sizes, condition, content, center, position, step, t)
    after = cached(cat, sizes, condition + 1, content, center, position, step, t)
    assert (before != after).any(-1).all()
    kept = cat.start(condition).past
    extended = cat.extend(cat.start(condition), content, position, step).past
    for (k, v), (k_long, v_long) in zip(kept, extended, strict=True):
        assert torch.equal(k, k_long[:, :, :C])
        assert torch.equal(v, v_long[:, :, :C])


def test_the_timestep_and_the_centre_reach_the_prediction(cat):
    condition, content, center, position, step, t = sequence([2, 2, 3])
    before = cached(cat, [2, 2, 3], condition, content, center, position, step, t)
    for other in ((center + 1, t), (center, t * 0.5)):
        after = cached(cat, [2, 2, 3], condition, content, other[0], position, step, other[1])
        assert (before != after).any(-1).all()


def test_an_untrained_cat_predicts_zero():
    arguments = sequence([2, 2, 3])
    assert not cached(CAT(CONFIG, K), [2, 2, 3], *arguments).any()


def test_samples_of_a_batch_may_have_different_steps(cat):
    """As in training: the clean part is as long as the longest needs, and no sample sees more than it may."""
    both = [sequence(sizes, batch=1, seed=i) for i, sizes in enumerate([[1, 3, 3], [3, 1, 1, 2]])]
    condition, content, center, position, step, t = (torch.cat(parts) for parts in zip(*both, strict=True))
    prefix = cat.extend(cat.start(condition), content[:, :5], position[:, :5], step[:, :5])
    batch = cat.denoise(prefix, NoisyTokens(content, t, center, position, step))
    for i, sizes in enumerate([[1, 3, 3], [3, 1, 1, 2]]):
        torch.testing.assert_close(batch[i : i + 1], cached(cat, sizes, *both[i]), **TOLERANCE)


# ---- implementations ----------------------------------------------------------------------------------------------


def random_attention(sizes, width_per_head=16, batch=2, n_heads=2, device="cpu"):
    """Queries, keys, values and the layout of [condition | clean | noisy] under different steps per sample."""
    generator = torch.Generator().manual_seed(0)
    steps = torch.stack([step_of_token(sizes), step_of_token(sizes[::-1])])[:batch]
    kind, step = sequence_layout(steps, C, steps.shape[1] - min(sizes[0], sizes[-1]))
    layout = Layout(kind.to(device), step.to(device))
    q, k, v = torch.randn(3, batch, n_heads, kind.shape[1], width_per_head, generator=generator).to(device)
    return q, k, v, layout


@pytest.mark.parametrize("sizes", [[2, 2, 3], [1, 6], [40, 60, 50]])
def test_sdpa_and_flex_agree(sizes):
    """To 1e-5: float32 sums in another order."""
    q, k, v, layout = random_attention(sizes)
    sdpa, flex = (attend(q, k, v, make_mask(layout, layout, backend)) for backend in ("sdpa", "flex"))
    assert sdpa.std() > 0.1
    torch.testing.assert_close(flex, sdpa, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sizes", [[2, 2, 3], [40, 60, 50]])
def test_sdpa_and_flex_agree_where_queries_follow_kept_keys(sizes):
    q, k, v, layout = random_attention(sizes)
    start = int((layout.kind[0] != NOISY).sum())
    queries = Layout(layout.kind[:, start:], layout.step[:, start:])
    sdpa, flex = (attend(q[:, :, start:], k, v, make_mask(queries, layout, b)) for b in ("sdpa", "flex"))
    torch.testing.assert_close(flex, sdpa, rtol=1e-5, atol=1e-5)
    whole = attend(q, k, v, make_mask(layout, layout, "sdpa"))[:, :, start:]
    torch.testing.assert_close(sdpa, whole, rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_sdpa_and_flex_agree_on_cuda():
    """To 2e-3: the compiled kernel multiplies in TF32 where the device does."""
    q, k, v, layout = random_attention([40, 60, 50], device="cuda")
    sdpa, flex = (attend(q, k, v, make_mask(layout, layout, backend)) for backend in ("sdpa", "flex"))
    torch.testing.assert_close(flex, sdpa, rtol=2e-3, atol=2e-3)


def test_the_boolean_mask_is_algorithm_2():
    kind, step = sequence_layout(step_of_token([2, 2, 3])[None], C, 4)
    mask = boolean_mask(Layout(kind, step), Layout(kind, step))
    assert mask.shape == (1, 1, 13, 13)
    assert torch.equal(~mask[0, 0], attention_mask([2, 2, 3], C).bool())


def test_layouts_join():
    one = Layout(torch.tensor([[0, 1]]), torch.tensor([[-1, 0]]))
    joined = one.join(Layout(torch.tensor([[2]]), torch.tensor([[3]])))
    assert joined.kind.tolist() == [[0, 1, 2]]
    assert joined.step.tolist() == [[-1, 0, 3]]


def test_where_all_may_be_seen_there_is_no_mask():
    """Condition and clean tokens of one step: the context of a prediction, and the noisy tokens that follow it."""
    kind, step = sequence_layout(torch.zeros(1, 4, dtype=torch.long), C, 4)
    q, k, v = torch.randn(3, 1, 2, C + 4, 8)
    start = C + 4
    context, clean = Layout(kind[:, :start], step[:, :start]), Layout(kind[:, C:start], step[:, C:start])
    assert make_mask(clean, context, "sdpa") is None
    mask = boolean_mask(clean, context)
    torch.testing.assert_close(attend(q[:, :, C:], k, v, None), attend(q[:, :, C:], k, v, mask))
    assert make_mask(context, context, "sdpa") is not None, "a condition token sees no clean one"
    later = Layout(torch.full((1, 3), NOISY), torch.ones(1, 3, dtype=torch.long))
    assert make_mask(later, context.join(later), "sdpa") is None
    same = Layout(later.kind, torch.zeros_like(later.step))
    assert make_mask(same, context.join(same), "sdpa") is not None


@torch.no_grad()
@pytest.mark.parametrize("sizes", [[2, 2, 3], [1, 6]])
def test_the_whole_transformer_predicts_the_same_with_either(cat, sizes, monkeypatch):
    """Without gradients: FlexAttention has no backward pass on the CPU."""
    flex = CAT(CONFIG, K, "flex").eval()
    flex.load_state_dict(cat.state_dict())
    arguments, masks = sequence(sizes), []
    monkeypatch.setattr("cgd.model.cat.make_mask", lambda *given: masks.append(make_mask(*given)) or masks[-1])
    found = cached(flex, sizes, *arguments)
    assert {type(mask).__name__ for mask in masks} == {"BlockMask"}
    torch.testing.assert_close(found, cached(cat, sizes, *arguments), rtol=1e-4, atol=1e-5)
