"""Sparse k-reciprocal re-ranking against a dense transcription of the definition, image by image."""
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dgnb import reranking
from dgnb.reranking import KReciprocal, largest, nearest, reciprocal_sets, rerank
from dgnb.retrieval import evaluate_distances

quick = settings(max_examples=40, deadline=None)


def reciprocal(i, k, near):
    return [g for g in near[i, :k + 1] if i in near[g, :k + 1]]


def expanded(i, k, near):
    core = reciprocal(i, k, near)
    grown = set(core)
    for c in core:
        friends = reciprocal(c, int(np.around(k / 2)), near)
        if 3 * len(set(friends) & set(core)) > 2 * len(friends): grown |= set(friends)
    return sorted(int(g) for g in grown)


def dense(query, gallery, k1=20, k2=6, lam=0.3, metric="cosine"):
    """The definition with n x n matrices."""
    x = np.concatenate([query, gallery]).astype(float)
    if metric == "cosine": x = x / np.linalg.norm(x, axis=1, keepdims=True)
    d = ((x[:, None] - x) ** 2).sum(2)
    d = d / d.max(1, keepdims=True)
    near, v = np.argsort(d, axis=1, kind="stable"), np.zeros_like(d)
    for i in range(len(x)):
        members = expanded(i, k1, near)
        v[i, members] = np.exp(-d[i, members])
        v[i] /= v[i].sum()
    v = np.stack([v[near[i, :k2]].mean(0) for i in range(len(x))])
    low = np.stack([np.minimum(row, v).sum(1) for row in v[:len(query)]])
    high = np.stack([np.maximum(row, v).sum(1) for row in v[:len(query)]])
    return ((1 - lam) * (1 - low / high) + lam * d[:len(query)])[:, len(query):]


def clustered(seed, people=6, queries=7, gallery=40, dimensions=8, noise=0.6):
    rng = np.random.default_rng(seed)
    person = rng.standard_normal((people, dimensions))
    draw = lambda n: person[rng.integers(0, people, n)] + noise * rng.standard_normal((n, dimensions))
    return draw(queries), draw(gallery)


@quick
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 2, 3, 5, 8, 20, 60]), st.sampled_from([1, 2, 6, 90]), st.sampled_from([0, 0.3, 1]),
       st.sampled_from(["cosine", "euclidean"]), st.integers(1, 40))
def test_equals_the_dense_form(seed, k1, k2, lam, metric, gallery):
    query, gallery = clustered(seed, gallery=gallery)
    given = dict(k1=k1, k2=k2, lam=lam, metric=metric)
    np.testing.assert_allclose(rerank(query, gallery, **given), dense(query, gallery, **given), rtol=0, atol=1e-11)


def test_single_precision_is_within_1e_5_and_stays_single():
    query, gallery = clustered(3, people=30, queries=60, gallery=600, dimensions=64, noise=1.0)
    found = rerank(torch.tensor(query).float(), gallery.astype("f4"))
    assert found.dtype == np.float32 and np.abs(found - dense(query.astype("f4"), gallery.astype("f4"))).max() < 1e-5


@quick
@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 400), st.sampled_from([2, 30, 10**6]), st.sampled_from(["f4", "f8"]))
def test_largest_equals_a_stable_sort(seed, rows, width, levels, kind):
    rng = np.random.default_rng(seed)
    keys, k = rng.integers(0, levels, (rows, width)).astype(kind), int(rng.integers(1, min(width, 25) + 1))
    np.testing.assert_array_equal(largest(keys, k), np.argsort(-keys, axis=1, kind="stable")[:, :k])


@quick
@given(st.integers(0, 2**32 - 1), st.integers(1, 12))
def test_sets_equal_the_definition(seed, k1):
    rng = np.random.default_rng(seed)
    near = np.array([rng.permutation(25) for _ in range(25)]) if seed % 2 else np.argsort(((x := rng.standard_normal((25, 2)))[:, None] - x).__pow__(2).sum(2), axis=1)
    image, member = reciprocal_sets(near.astype(np.int32), k1)
    for i in range(25): assert member[image == i].tolist() == expanded(i, k1, near)


def test_blocks_do_not_matter(monkeypatch):
    query, gallery = clustered(5, queries=40, gallery=500)
    whole = rerank(query, gallery)
    rows = KReciprocal(query, gallery)
    np.testing.assert_allclose(np.concatenate([rows(a, min(a + 7, 40)) for a in range(0, 40, 7)]), whole, atol=1e-12)
    monkeypatch.setattr(reranking, "_BLOCK", 1)  # 128 rows at a time
    np.testing.assert_allclose(rerank(query, gallery), whole, atol=1e-12)


def test_evaluates_as_a_function_of_rows():
    query, gallery = clustered(0)
    labels = dict(query_ids=np.arange(7) % 3, gallery_ids=np.arange(40) % 3 - 1)
    a, b = evaluate_distances(KReciprocal(query, gallery), **labels), evaluate_distances(rerank(query, gallery), **labels)
    np.testing.assert_allclose(a.ap_step, b.ap_step), np.testing.assert_allclose(a.cmc, b.cmc)


def test_lambda_one_is_the_original_order_and_out_is_written():
    query, gallery = clustered(1)
    d = ((query[:, None] / np.linalg.norm(query, axis=1)[:, None, None] - gallery / np.linalg.norm(gallery, axis=1, keepdims=True)) ** 2).sum(2)
    out = np.empty(d.shape)
    assert rerank(query, gallery, lam=1, out=out) is out
    np.testing.assert_array_equal(np.argsort(out, axis=1), np.argsort(d, axis=1))


def test_it_repairs_a_list():
    """Sixteen photos of each of 30 people, noisy: re-ranking must gain clearly."""
    rng = np.random.default_rng(0)
    ids = np.repeat(np.arange(30), 16)
    x = rng.standard_normal((30, 32))[ids] + 1.3 * rng.standard_normal((480, 32))
    labels = dict(query_ids=ids[::8], gallery_ids=np.delete(ids, np.s_[::8]))
    q, g = x[::8], np.delete(x, np.s_[::8], axis=0)
    unit = lambda a: a / np.linalg.norm(a, axis=1, keepdims=True)
    assert evaluate_distances(KReciprocal(q, g), **labels).map_step > evaluate_distances(-unit(q) @ unit(g).T, **labels).map_step + 0.05


@pytest.mark.parametrize("same", [np.zeros, np.ones])
def test_collapsed_features_give_finite_distances(same):
    found = rerank(same((3, 4)), same((30, 4)))
    assert np.isfinite(found).all() and np.ptp(found) < 1.1


def test_duplicates_of_the_query():
    """More copies of one image than the neighbourhood holds: finite, and every copy nearer than anything else."""
    rng = np.random.default_rng(0)
    one, other = rng.standard_normal((1, 8)), rng.standard_normal((30, 8))
    found = rerank(one, np.concatenate([np.repeat(one, 30, axis=0), other]), k1=5, k2=3)
    assert np.isfinite(found).all() and found[0, :30].max() <= found[0, 30:].min()


def test_inputs_are_only_read_and_smallest_sets_work():
    query, gallery = torch.randn(2, 3), torch.randn(5, 3)
    kept = query.clone(), gallery.clone()
    for metric in ("cosine", "euclidean"): rerank(query, gallery, metric=metric)
    assert query.equal(kept[0]) and gallery.equal(kept[1])
    np.testing.assert_allclose(rerank([[1.0, 0]], [[0, 1.0]]), dense([[1.0, 0]], [[0, 1.0]]))


@pytest.mark.parametrize("given, message", [
    (dict(query=np.ones((2, 4))), "query features have 4 dimensions, gallery features 3"),
    (dict(query=np.ones((0, 3))), "nothing to re-rank: 0 queries"),
    (dict(gallery=np.full((5, 3), np.nan)), "gallery row 0 holds NaN"),
    (dict(k1=0), "k1 and k2 must be at least 1"),
    (dict(k2=0), "k1 and k2 must be at least 1"),
    (dict(lam=1.5), "lam in 0..1"),
    (dict(metric="dot"), "Valid: cosine, euclidean"),
    (dict(out=np.zeros((2, 2))), r"out has shape \(2, 2\), not \(2, 5\)"),
])
def test_bad_input_is_named(given, message):
    with pytest.raises(ValueError, match=message): rerank(**dict(query=np.ones((2, 3)), gallery=np.ones((5, 3))) | given)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_features_on_a_gpu():
    query, gallery = clustered(2, gallery=300)
    np.testing.assert_allclose(rerank(torch.tensor(query).cuda(), torch.tensor(gallery).cuda()), dense(query, gallery), atol=1e-11)


@pytest.mark.parametrize("levels", [1, 3, 1000])
@pytest.mark.parametrize("order", ["random", "rising", "falling", "two crowds"])
@pytest.mark.parametrize("k", [1, 5, 21])
def test_half_of_the_products_gives_the_same_lists(monkeypatch, levels, order, k):
    """Whole numbers, so that keys are exact and many are tied; orders in which newcomers are ever nearer, ever farther, or come from another place."""
    monkeypatch.setattr(reranking, "_BLOCK", 1)  # blocks of 16 k, then of 128 rows
    rng = np.random.default_rng(levels)
    x = rng.integers(0, levels, (700, 3)).astype(float)
    if order == "two crowds": x[400:] += 10 * levels
    elif order != "random": x = x[np.argsort(x.sum(1) if order == "rising" else -x.sum(1), kind="stable")]
    key = -((x[:, None] - x) ** 2).sum(2) / 2
    kept = np.empty((450, 250))
    found, lowest = nearest(torch.tensor(x), torch.tensor(x).square().sum(1) / 2, k, kept)
    np.testing.assert_array_equal(found, np.argsort(-key, axis=1, kind="stable")[:, :k])
    np.testing.assert_array_equal(lowest, key.min(1)), np.testing.assert_array_equal(kept, key[:450, 450:])


def test_the_way_of_a_gpu_gives_the_same_lists(monkeypatch):
    monkeypatch.setattr(reranking, "_BLOCK", 1)
    x = torch.randn(300, 8, dtype=torch.float64)
    for half in (None, x.square().sum(1) / 2):
        a, b = np.empty((2, 200, 100))
        ours, theirs = nearest(x, half, 9, a), reranking._nearest_on_device(x, half, 9, b)
        np.testing.assert_array_equal(ours[0], theirs[0]), np.testing.assert_allclose(ours[1], theirs[1]), np.testing.assert_allclose(a, b, atol=1e-12)


def test_out_may_be_any_array(tmp_path):
    query, gallery = clustered(4)
    whole = rerank(query, gallery)
    mapped = np.memmap(tmp_path / "d", np.float32, "w+", shape=whole.shape)
    for out in (np.empty(whole.shape, order="F"), np.empty((7, 80))[:, ::2], mapped):
        assert rerank(query, gallery, out=out) is out
        np.testing.assert_allclose(out, whole, atol=1e-6)


def test_nearest_with_lengths_is_euclidean():
    x = torch.randn(50, 4, dtype=torch.float64)
    found, lowest = nearest(x, x.square().sum(1) / 2, 9)
    d = torch.cdist(x, x)
    np.testing.assert_array_equal(found, d.argsort(1)[:, :9])
    np.testing.assert_allclose(-2 * lowest, d.numpy().max(1) ** 2, atol=1e-9)
