"""Temporal attention: shifted sums against patches (values, gradients), the softmax's bound, what is summed, G_t's stages and counts, what it refuses."""
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from dgnb.layers import count_parameters, layer_table
from dgnb.scales import generator, seed_everything
from dgnb.vrstc.attention import STAGES, VALUES, TemporalAttention, TemporalAttentionGenerator, attention_weights, mix, patch_similarity, shifted_sum

shapes = dict(batch=st.integers(1, 3), channels=st.integers(1, 5), height=st.integers(1, 7), width=st.integers(1, 7), size=st.sampled_from([1, 3, 5, 7]), seed=st.integers(0, 999))


def normal(seed, *shape, dtype=torch.float64):
    return torch.randn(*shape, generator=generator("attention", seed), dtype=dtype)


def patches(maps, size):
    return F.unfold(maps, size, padding=size // 2).transpose(1, 2)


def similarity(current, adjacent, size):
    """VRSTC eq. 1, word for word."""
    query, key = (F.normalize(patches(maps, size), dim=-1, eps=1e-8) for maps in (current, adjacent))
    return query @ key.transpose(1, 2)


def unfolded(current, adjacent, scale, size, values):
    """VRSTC eq. 1-3 with patches."""
    weights = (scale * similarity(current, adjacent, size)).softmax(-1)
    shape = adjacent.shape[-2:]
    if values == "centres":
        return (weights @ adjacent.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, shape)
    lay = lambda x: F.fold(x.transpose(1, 2), shape, size, padding=size // 2)
    found = weights @ patches(adjacent, size)
    return lay(found) / lay(torch.ones_like(found))


@given(**shapes)
@settings(max_examples=60, deadline=None)
def test_similarity_is_that_of_patches_with_gradients(batch, channels, height, width, size, seed):
    pair = [normal((seed * 2 + n), batch, channels, height, width).requires_grad_() for n in range(2)]
    ours, plain = patch_similarity(*pair, size), similarity(*pair, size)
    assert ours.shape == (batch, height * width, height * width) and (ours - plain).abs().max() < 1e-12 and ours.abs().max() < 1 + 1e-12
    cot = normal(seed, *ours.shape)
    for mine, theirs in zip(*[torch.autograd.grad((s * cot).sum(), pair) for s in (ours, plain)]):
        assert (mine - theirs).abs().max() < 1e-9 * max(1, theirs.abs().max())


@given(**shapes, scale=st.sampled_from([1.0, 10.0, 50.0]), values=st.sampled_from(VALUES))
@settings(max_examples=60, deadline=None)
def test_layer_is_the_unfold_form(batch, channels, height, width, size, seed, scale, values):
    pair = [normal((seed * 2 + n), batch, channels, height, width).requires_grad_() for n in range(2)]
    ours, plain = TemporalAttention(scale, size, values)(*pair), unfolded(*pair, scale, size, values)
    assert ours.shape == pair[0].shape and (ours - plain).abs().max() < 1e-11
    cot = normal(seed, *ours.shape)
    for mine, theirs in zip(*[torch.autograd.grad((s * cot).sum(), pair) for s in (ours, plain)]):
        assert (mine - theirs).abs().max() < 1e-8 * max(1, theirs.abs().max())


@pytest.mark.parametrize("values", VALUES)
def test_single_precision_at_the_published_size(values):
    current, adjacent = (F.elu(normal(n, 1, 256, 32, 16, dtype=torch.float32) * 3) for n in range(2))
    with torch.no_grad():
        assert (TemporalAttention(10.0, values=values)(current, adjacent) - unfolded(current, adjacent, 10.0, 3, values)).abs().max() < 1e-5


@given(height=st.integers(1, 6), width=st.integers(1, 6), reach=st.integers(0, 4), seed=st.integers(0, 999))
@settings(max_examples=60, deadline=None)
def test_shifted_sum_is_its_definition_and_symmetric(height, width, reach, seed):
    n = height * width
    table, other = normal(seed, 2, n, n), normal(seed + 1, 2, n, n)
    expected, grid = torch.zeros_like(table), table.view(2, height, width, height, width)
    out = expected.view(2, height, width, height, width)
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            rows, columns = [y for y in range(height) if 0 <= y + dy < height], [x for x in range(width) if 0 <= x + dx < width]
            if rows and columns:
                at, of = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)), (slice(rows[0] + dy, rows[-1] + dy + 1), slice(columns[0] + dx, columns[-1] + dx + 1))
                out[:, at[0], at[1], at[0], at[1]] += grid[:, of[0], of[1], of[0], of[1]]
    kept = table.clone()
    assert torch.allclose(shifted_sum(table, (height, width), reach), expected, atol=1e-12) and torch.equal(table, kept)
    assert torch.allclose((shifted_sum(table, (height, width), reach) * other).sum(), (table * shifted_sum(other, (height, width), reach)).sum(), atol=1e-9)


def test_shifted_sum_has_second_derivatives_and_takes_any_strides():
    table = normal(0, 1, 6, 6).requires_grad_()
    assert torch.autograd.gradcheck(lambda t: shifted_sum(t, (3, 2)), table) and torch.autograd.gradgradcheck(lambda t: shifted_sum(t, (3, 2)).pow(2), table)
    assert torch.equal(shifted_sum(table.transpose(1, 2), (3, 2)), shifted_sum(table, (3, 2)).transpose(1, 2))


def bound(scale, positions):
    return 1 / (1 + (positions - 1) * math.exp(-2 * scale))


@given(**shapes, scale=st.floats(0.1, 8))
@settings(max_examples=60, deadline=None)
def test_weights_sum_to_one_below_their_bound(batch, channels, height, width, size, seed, scale):
    pair = [normal((seed * 2 + n), batch, channels, height, width) for n in range(2)]
    weights = attention_weights(*pair, scale, size)
    assert torch.allclose(weights.sum(-1), torch.ones(()).double()) and weights.min() >= 0 and weights.max() <= bound(scale, height * width) + 1e-12


def test_the_bound_of_the_printed_softmax_is_reached_and_small():
    assert round(bound(1, 512), 4) == 0.0143 and round(1 / (1 + 511 * math.exp(-0.4)), 4) == 0.0029 and round(1 / (1 + 511 * math.exp(-4)), 3) == 0.097
    current, adjacent = torch.ones(1, 1, 32, 16), -torch.ones(1, 1, 32, 16)
    adjacent[..., 5, 5] = 1
    weights = attention_weights(current, adjacent, 1.0, 1)
    assert torch.allclose(weights.max(-1).values, torch.tensor(bound(1, 512))) and (weights.argmax(-1) == 5 * 16 + 5).all()


@given(scale=st.floats(0.5, 60), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_centres_stay_between_the_neighbours_values_and_strength_does_not_matter(scale, seed):
    current, adjacent = normal(seed, 1, 3, 6, 5), normal(seed + 1, 1, 3, 6, 5)
    out = TemporalAttention(scale)(current, adjacent)
    low, high = adjacent.amin((2, 3), keepdim=True), adjacent.amax((2, 3), keepdim=True)
    assert (out >= low - 1e-12).all() and (out <= high + 1e-12).all()
    assert torch.allclose(TemporalAttention(scale)(0.01 * current, adjacent), out, atol=1e-9)


def test_sharp_attention_undoes_a_shift():
    frame = normal(0, 1, 8, 10, 8)
    current, adjacent = frame[..., 1:], frame[..., :-1]  # the neighbour shows the same one cell further right
    for values in VALUES:
        out = TemporalAttention(500.0, values=values)(current, adjacent)
        assert (out - current)[..., 1:-1, 1:-2].abs().max() < 0.05


def test_an_empty_question_weighs_all_alike():
    weights = attention_weights(torch.zeros(1, 4, 6, 5), normal(0, 1, 4, 6, 5, dtype=torch.float32), 100.0)
    assert torch.allclose(weights, torch.tensor(1 / 30))
    pair = [torch.zeros(1, 4, 6, 5, requires_grad=True), torch.zeros(1, 4, 6, 5, requires_grad=True)]
    TemporalAttention()(*pair).sum().backward()
    assert all(torch.isfinite(x.grad).all() for x in pair)


def test_a_flat_neighbour_comes_back_flat_by_centres_and_dented_by_patches():
    question, flat = normal(0, 1, 2, 6, 5), torch.ones(1, 2, 6, 5).double()
    weights = attention_weights(question, flat)
    assert torch.allclose(mix(weights, flat), flat)
    dented = mix(weights, flat, "patches")
    assert dented.max() < 1 and dented.min() > 0.5


@pytest.mark.parametrize("size", [1, 3])
def test_half_precision_and_autocast(size):
    current, adjacent = (normal(n, 2, 8, 8, 4, dtype=torch.float32) for n in range(2))
    layer = TemporalAttention(10.0, size)
    exact = layer(current, adjacent)
    with torch.autocast("cpu", torch.bfloat16):
        assert (layer(current, adjacent) - exact).abs().max() < (0.1 if size == 1 else 1e-6)
    half = layer(current.bfloat16(), adjacent.bfloat16())
    assert half.dtype == torch.bfloat16 and (half.float() - exact).abs().max() < 0.1
    assert attention_weights(current.bfloat16(), adjacent.bfloat16()).dtype == torch.float32


def test_no_patches_are_made(monkeypatch):
    def forbidden(*args, **kwargs):
        raise AssertionError("patches were made")
    monkeypatch.setattr(F, "unfold", forbidden)
    monkeypatch.setattr(F, "fold", forbidden)
    current, adjacent = (normal(n, 1, 16, 8, 4, dtype=torch.float32) for n in range(2))
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            out = function(*args, **(kwargs or {}))
            largest = max([largest, *[x.numel() for x in (out if isinstance(out, (tuple, list)) else [out]) if isinstance(x, torch.Tensor)]])
            return out

    for values in VALUES:
        with Watch():
            TemporalAttention(values=values)(current, adjacent)
    assert largest <= 32 * 32 < 9 * current.numel()


# --- G_t

def frames(batch=2, height=32, width=16, seed=0):
    return [torch.rand(batch, 3, height, width, generator=generator("frames", seed, n)) * 2 - 1 for n in range(3)]


def hole(batch=2, height=32, width=16):
    mask = torch.zeros(batch, 1, height, width)
    mask[:, :, height // 3:2 * height // 3] = 1
    return mask


def test_counts():
    full = TemporalAttentionGenerator()
    assert count_parameters(full) == 12_112_259 == count_parameters(TemporalAttentionGenerator(stage="neighbours"))
    assert count_parameters(full.current, full.previous, full.following) == 10_406_400 and count_parameters(full.attention) == 0
    assert count_parameters(TemporalAttentionGenerator(last=False)) == 11_985_539
    assert count_parameters(TemporalAttentionGenerator(share=True)) == 12_112_259 - 3_468_800
    alone = TemporalAttentionGenerator(stage="alone")
    assert count_parameters(alone.current) == 31_197_696 and round(31_197_696 / 10_406_400, 1) == 3.0


def test_attention_sits_behind_the_encoders_and_before_the_decoder():
    net = TemporalAttentionGenerator(4)
    table = layer_table(net, *frames(1, 128, 64), hole(1, 128, 64)).set_index("layer")
    order = list(table.index)
    assert order[-1] == "decoder.layers" or order[-1].startswith("decoder")
    assert min(order.index(n) for n in order if n.startswith("attention")) > max(order.index(n) for n in order if n.startswith(("current", "previous", "following")))
    parts = net.features(*frames(1, 128, 64))
    assert [tuple(p.shape) for p in parts] == [(1, 16, 32, 16)] * 3


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("options", [{}, {"share": True}, {"values": "patches", "scale": 1.0}, {"kernel": 3, "last": False, "norm": True, "size": 1, "alike": False}])
def test_every_stage_paints_only_the_hole_and_learns_where_it_may(stage, options):
    seed_everything("stages")
    net, (x, before, behind), mask = TemporalAttentionGenerator(2, stage=stage, **options), frames(), hole()
    out, outside = net(x, before, behind, mask), (mask == 0).expand_as(x)
    assert out.shape == x.shape and torch.equal(out[outside], x[outside]) and not torch.equal(out, x)
    out.square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() and p.grad.any() for p in net.parameters() if p.ndim > 1)
    with torch.no_grad():
        other = net(x, behind, before, mask)
    assert torch.equal(other, net(x, behind, before, mask)) and (torch.equal(other, out) == (stage == "alone"))


def test_encoders_start_alike_and_part_ways():
    same = lambda net: all(torch.equal(a, b) for a, b in zip(net.current.parameters(), net.previous.parameters()))
    seed_everything("alike")
    net = TemporalAttentionGenerator(4)
    assert same(net) and net.previous is not net.following and not same(TemporalAttentionGenerator(4, alike=False))
    (x, before, behind), mask = frames(), hole()
    optimizer = torch.optim.Adam(net.parameters())
    net(x, before, behind, mask).sum().backward()
    optimizer.step()
    assert not same(net)


def test_nothing_painted_depends_on_what_is_outside_a_neighbours_reach():
    """The neighbours' content matters: a hidden pattern that only the neighbours show changes what is painted."""
    seed_everything("matter")
    net, (x, before, behind), mask = TemporalAttentionGenerator(4), frames(), hole()
    with torch.no_grad():
        assert (net(x, before, behind, mask) - net(x, -before, behind, mask)).abs().max() > 1e-3


@pytest.mark.parametrize("attempt, words", [
    (lambda: patch_similarity(torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 4, 5)), "one shape"),
    (lambda: patch_similarity(torch.zeros(2, 4, 4), torch.zeros(2, 4, 4)), "B x C x h x w"),
    (lambda: TemporalAttention(size=1)(torch.zeros(1, 2, 4, 4), torch.zeros(2, 2, 4, 4)), "one shape"),
    (lambda: TemporalAttention(size=2)(torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 4, 4)), "odd size"),
    (lambda: patch_similarity(torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 4, 4), 0), "odd size"),
    (lambda: TemporalAttention(values="centers"), "'centres'"),
    (lambda: mix(torch.zeros(1, 4, 4), torch.zeros(1, 1, 2, 2), "patch"), "'patches'"),
    (lambda: TemporalAttentionGenerator(2, stage="atention"), "'attention'"),
    (lambda: TemporalAttentionGenerator(1)(*frames(2)[:2], frames(1)[0], hole()), "following frames .* other neighbour"),
    (lambda: TemporalAttentionGenerator(1)(*frames(2), hole(1)), "mask must be 2"),
    (lambda: TemporalAttentionGenerator(1)(*frames(1, 30, 16), hole(1, 30, 16)), "multiples of 4"),
])
def test_refusals_in_one_line(attempt, words):
    with pytest.raises(ValueError, match=words) as error:
        attempt()
    assert "\n" not in str(error.value)
