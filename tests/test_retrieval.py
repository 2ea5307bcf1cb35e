"""Retrieval metrics against a slow reference that sorts and walks, and against every kind of bad input."""
import json
import math
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import scipy.io
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dgnb import arrays, ranking, retrieval
from dgnb.retrieval import (
    FeatureDistances, Interval, Matcher, bootstrap_interval, evaluate_distances, evaluate_retrieval, join_parts, load_features, match_ranks,
    multi_query, paired_bootstrap, products, save_features, score_ranks, verdict,
)

quick = settings(max_examples=60, deadline=None)
FIELDS = ("ap_step", "ap_trapezoid", "inp", "first_rank")


def slow(distances, query_ids, gallery_ids, query_cameras=None, gallery_cameras=None, camera_rule=True, junk_label=-1):
    """Per query (AP step, AP trapezoid, INP, first rank), by a full stable sort and a walk along the list; zeros without a match."""
    rows = []
    for q, pid in enumerate(query_ids):
        order = sorted(range(len(gallery_ids)), key=lambda g: (distances[q][g], g))
        hits = seen = first = 0
        step = trapezoid = inp = 0.0
        for g in order:
            if junk_label is not None and gallery_ids[g] == junk_label: continue
            same = gallery_ids[g] == pid
            if camera_rule and query_cameras is not None and same and gallery_cameras[g] == query_cameras[q]: continue
            before = 1.0 if seen == 0 else hits / seen
            seen += 1
            if same:
                hits += 1
                first = first or seen
                step, trapezoid, inp = step + hits / seen, trapezoid + (before + hits / seen) / 2, hits / seen
        rows.append((step / hits, trapezoid / hits, inp, first) if hits else (0.0, 0.0, 0.0, 0))
    return dict(zip(FIELDS, (np.array(column) for column in zip(*rows))))


def check(result, expected):
    for name in FIELDS:
        np.testing.assert_allclose(getattr(result, name), expected[name], rtol=0, atol=1e-12, err_msg=name)
    np.testing.assert_array_equal(result.matched, expected["first_rank"] > 0)


@st.composite
def problems(draw):
    """A small evaluation with few identities and cameras, junk, distractors and many ties."""
    nq, ng = draw(st.integers(1, 7)), draw(st.integers(1, 30))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    ties = draw(st.sampled_from([2, 5, 1000]))
    labels = dict(query_ids=rng.integers(1, 5, nq), gallery_ids=rng.integers(-1, 5, ng))
    if draw(st.booleans()): labels |= dict(query_cameras=rng.integers(1, 4, nq), gallery_cameras=rng.integers(1, 4, ng))
    return rng.integers(0, ties, (nq, ng)) / 8 - 1, labels, rng


@quick
@given(problems(), st.booleans(), st.sampled_from([-1, None, 2]), st.sampled_from([None, 1, 3]), st.sampled_from(["numpy", "torch", "f4", "function"]))
def test_any_distances_equal_the_slow_reference(problem, camera_rule, junk, chunk, kind):
    distances, labels, _ = problem
    given = {"numpy": distances, "torch": torch.tensor(distances), "f4": distances.astype("f4"), "function": lambda a, b: distances[a:b]}[kind]
    kept = distances.copy()
    expected = slow(distances, **labels, camera_rule=camera_rule, junk_label=junk)
    result = evaluate_distances(given, **labels, camera_rule=camera_rule, junk_label=junk, chunk=chunk, unmatched="count", max_rank=40)
    check(result, expected)
    np.testing.assert_array_equal(distances, kept)  # only read
    first = expected["first_rank"]
    np.testing.assert_allclose(result.cmc, [np.mean((first > 0) & (first <= k)) for k in range(1, 41)], atol=1e-12)
    assert result.counted.all() and result.map_step == pytest.approx(expected["ap_step"].mean(), abs=1e-12)


@quick
@given(problems(), st.sampled_from(["cosine", "euclidean", "dot"]), st.sampled_from([None, 1, 2]), st.booleans(), st.sampled_from([1, 5, 33]))
def test_features_equal_the_slow_reference(problem, metric, chunk, as_torch, dimensions):
    _, labels, rng = problem
    q, g = rng.standard_normal((len(labels["query_ids"]), dimensions)), rng.standard_normal((len(labels["gallery_ids"]), dimensions))
    distance = {"cosine": -(q @ g.T) / np.linalg.norm(q, axis=1)[:, None] / np.linalg.norm(g, axis=1), "dot": -(q @ g.T),
                "euclidean": ((q[:, None] - g) ** 2).sum(2)}[metric]
    if dimensions == 1 and metric == "cosine": return  # all similarities are +-1: ties decided by rounding
    wrap = torch.tensor if as_torch else np.asarray
    result = evaluate_retrieval(wrap(q), wrap(g), **labels, metric=metric, chunk=chunk, unmatched="count")
    check(result, slow(distance, **labels))


@quick
@given(problems(), st.sampled_from(["cosine", "euclidean", "dot"]))
def test_ties_between_equal_features_keep_gallery_order(problem, metric):
    """Unit vectors along the axes have exact products: every comparison is a tie or clear."""
    _, labels, rng = problem
    axis = lambda n: np.eye(3, dtype="f4")[rng.integers(0, 3, n)]
    q, g = axis(len(labels["query_ids"])), axis(len(labels["gallery_ids"]))
    result = evaluate_retrieval(q, g, **labels, metric=metric, unmatched="count")
    check(result, slow(-(q @ g.T), **labels))


@quick
@given(problems(), st.sampled_from([None, 2]))
def test_whole_matrix_on_a_device_gives_the_same_ranks(problem, chunk):
    """The GPU's code path, run on CPU tensors."""
    distances, labels, _ = problem
    matcher = Matcher(**labels)
    good, out = ranking._pairs(matcher, 0, len(distances))
    with retrieval.ThreadPoolExecutor(2) as pool:
        ranks, tied = retrieval._ranks(torch.tensor(distances[:, matcher.keep]), good, out, pool)
        cpu = retrieval._ranks(distances[:, matcher.keep].copy(), good, out, pool)
    scores = score_ranks(ranks, good.row, len(distances))
    expected = slow(distances, **labels)
    for name in FIELDS: np.testing.assert_allclose(scores[name], expected[name], atol=1e-12)
    np.testing.assert_array_equal(cpu[0], ranks), np.testing.assert_array_equal(cpu[1], tied)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_features_on_a_gpu():
    rng = np.random.default_rng(0)
    labels = dict(query_ids=rng.integers(1, 9, 40), gallery_ids=rng.integers(-1, 9, 300), query_cameras=rng.integers(1, 4, 40), gallery_cameras=rng.integers(1, 4, 300))
    q, g = torch.tensor(rng.standard_normal((40, 16))), torch.tensor(rng.standard_normal((300, 16)))
    check(evaluate_retrieval(q.cuda(), g.cuda(), **labels), slow(-(q @ g.T / q.norm(dim=1)[:, None] / g.norm(dim=1)).numpy(), **labels))
    distances = torch.tensor(rng.integers(0, 9, (40, 300)) / 8)
    check(evaluate_distances(distances.cuda(), **labels), slow(distances.numpy(), **labels))


def test_larger_gallery_and_threads():
    """Enough columns for the threads' sub-blocks and for both kinds of sorting (few values picked out, whole rows)."""
    rng = np.random.default_rng(1)
    people = rng.standard_normal((30, 12))
    ids, g_ids = rng.integers(1, 30, 50), rng.integers(-1, 30, 9000)
    cameras, g_cameras = rng.integers(1, 4, 50), rng.integers(1, 4, 9000)
    q, g = people[ids] + 0.8 * rng.standard_normal((50, 12)), people[g_ids] + 0.8 * rng.standard_normal((9000, 12))
    q[:25] = people[ids[:25]]
    expected = slow(-(q @ g.T) / np.linalg.norm(g, axis=1), ids, g_ids, cameras, g_cameras)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            check(evaluate_retrieval(q, g, ids, g_ids, cameras, g_cameras), expected)
    finally: torch.set_num_threads(before)
    f4 = evaluate_retrieval(q.astype("f4"), g.astype("f4"), ids, g_ids, cameras, g_cameras)
    np.testing.assert_allclose([f4.map_step, f4.map_trapezoid], [expected["ap_step"].mean(), expected["ap_trapezoid"].mean()], atol=1e-4)


@quick
@given(st.lists(st.integers(1, 200), min_size=1, max_size=20, unique=True))
def test_step_is_never_below_trapezoid_and_both_are_1_for_perfect_lists_only(ranks):
    s = {k: v.item() for k, v in score_ranks(sorted(ranks)).items()}
    assert 0 < s["inp"] <= 1 and 0 <= s["ap_trapezoid"] <= s["ap_step"] <= 1 and s["first_rank"] == min(ranks)
    perfect = max(ranks) == len(ranks)
    assert (s["ap_step"] == 1) == perfect == (s["inp"] == 1) and (abs(s["ap_trapezoid"] - 1) < 1e-12) == perfect


def test_worked_example():
    ranks = match_ranks([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], [2, 5], [0, 3])
    assert ranks.tolist() == [2, 4]
    scores = {k: v.item() for k, v in score_ranks(ranks).items()}
    assert scores == dict(ap_step=0.5, ap_trapezoid=pytest.approx(1 / 3, abs=1e-15), inp=0.5, first_rank=2)


@quick
@given(problems())
def test_single_row_ranks_agree_with_the_evaluator(problem):
    distances, labels, _ = problem
    matcher = Matcher(**labels)
    good, out = ranking._pairs(matcher, 0, 1)
    if not len(good.item): return
    ranks = match_ranks(distances[0], matcher.keep[good.item], np.concatenate([matcher.keep[out.item], np.flatnonzero(labels["gallery_ids"] == -1)]))
    first = evaluate_distances(distances, **labels, unmatched="count").first_rank[0]
    assert ranks[0] == first and (np.diff(ranks) > 0).all()


class TestRules:
    labels = dict(query_ids=[5, 9], query_cameras=[1, 1], gallery_ids=[5, 0, 5, -1, 7, 5], gallery_cameras=[1, 3, 2, 2, 2, 3])
    distances = np.arange(12.0).reshape(2, 6)

    def test_unmatched_queries_are_skipped_or_counted_and_the_report_says_which(self):
        skip, count = (evaluate_distances(self.distances, **self.labels, unmatched=how) for how in ("skip", "count"))
        assert skip.map_step == 0.5 and count.map_step == 0.25 and count.cmc[-1] == 0.5 and skip.cmc[-1] == 1
        assert "1 of 2 queries without a match skipped" in skip.rules and "counted as 0" in count.rules
        assert skip.to_dict()["counted"] == 1 and count.to_dict()["counted"] == 2
        assert len(skip.per_query()) == 1 and len(count.per_query()) == 2

    def test_report_names_camera_rule_junk_and_ties(self):
        on, off = evaluate_distances(self.distances, **self.labels), evaluate_distances(self.distances, **self.labels, camera_rule=False)
        none = evaluate_distances(np.zeros((2, 6)), self.labels["query_ids"], self.labels["gallery_ids"], junk_label=None)
        assert "camera rule on" in on.rules and "1 junk image left out" in on.rules and "tied" not in on.rules
        assert "camera rule off" in off.rules and off.first_rank[0] == 1
        assert "no cameras given" in none.rules and "1 query with a tied match" in none.rules and "\n" not in none.rules

    def test_a_query_with_the_junk_label_has_no_match(self):
        result = evaluate_distances(np.zeros((2, 2)), [-1, 3], [-1, 3])
        assert result.matched.tolist() == [False, True]

    def test_zero_is_an_ordinary_identity_where_a_query_has_it(self):
        assert evaluate_distances([[0.1, 0.2]] * np.ones((1, 1)), [0], [0, 1]).map_step == 1

    def test_only_junk(self):
        with pytest.raises(ValueError, match="no query has a match"): evaluate_distances(np.zeros((1, 2)), [1], [-1, -1])
        assert evaluate_distances(np.zeros((1, 2)), [1], [-1, -1], unmatched="count").map_step == 0
        assert evaluate_retrieval(np.ones((1, 2)), np.ones((2, 2)), [1], [-1, -1], unmatched="count").map_trapezoid == 0

    def test_summary_is_json_and_arrays_are_complete(self):
        result = evaluate_distances(self.distances, **self.labels)
        assert json.loads(json.dumps(result.to_dict()))["map_trapezoid"] == pytest.approx(1 / 3)
        assert all(len(values) == 2 for values in result.arrays().values())
        assert "step rule" in str(result) and "trapezoid rule" in str(result)
        assert result.per_query("rank1").tolist() == [0] and result.per_query("rank2").tolist() == [1]
        with pytest.raises(ValueError, match="Valid: ap_step, ap_trapezoid"): result.per_query("map")


good = dict(query=np.ones((2, 3)), gallery=np.ones((4, 3)), query_ids=[1, 2], gallery_ids=[1, 2, 1, 2], query_cameras=[1, 1], gallery_cameras=[2, 2, 2, 2])


@pytest.mark.parametrize("changes, message", [
    (dict(query=np.ones((3, 3))), "query has 3 rows for 2 labels"),
    (dict(gallery=np.ones((4, 2))), "query features have 3 dimensions, gallery features 2"),
    (dict(gallery=np.ones(4)), r"gallery must be images x dimensions, not of shape \(4,\)"),
    (dict(gallery=np.array([[1, 1, 1], [1, 1, 1], [1, np.nan, 1], [1, 1, 1]])), "gallery row 2 holds NaN"),
    (dict(query=torch.full((2, 3), math.inf)), "query row 0 holds NaN, infinity"),
    (dict(query=np.array([["a"] * 3] * 2)), "query must be numbers"),
    (dict(query_ids=[1.5, 2]), "query_ids must be whole numbers; found 1.5"),
    (dict(query_ids=[math.nan, 2]), "query_ids must be whole numbers; found nan"),
    (dict(gallery_ids=["a", "b", "c", "d"]), "gallery_ids must be a flat list of whole numbers"),
    (dict(gallery_ids=np.ones((4, 1), int)), r"not int64 of shape \(4, 1\)"),
    (dict(gallery_cameras=None), "gallery_cameras is missing"),
    (dict(query_cameras=[1]), "query_cameras has 1 entries for 2 images"),
    (dict(metric="cosin"), "Did you mean 'cosine'"),
    (dict(unmatched="drop"), "Valid: count, skip"),
    (dict(max_rank=0), "max_rank must be at least 1"),
    (dict(chunk=0), "chunk must be at least 1"),
    (dict(query=np.ones((0, 3)), query_ids=[], query_cameras=[]), "nothing to evaluate: 0 queries"),
])
def test_bad_input_is_named(changes, message):
    evaluate_retrieval(**good)
    with pytest.raises(ValueError, match=message) as error: evaluate_retrieval(**good | changes)
    assert "\n" not in str(error.value)


def test_bad_distances_are_named():
    labels = dict(query_ids=[1, 2], gallery_ids=[1, 2, 3])
    with pytest.raises(ValueError, match=r"\(2, 2\) do not fit 2 queries x 3"): evaluate_distances(np.zeros((2, 2)), **labels)
    with pytest.raises(ValueError, match=r"has shape \(2, 2\), not \(2, 3\)"): evaluate_distances(lambda a, b: np.zeros((2, 2)), **labels)
    for bad in (np.nan, np.inf, -np.inf):
        with pytest.raises(ValueError, match="hold NaN or infinity"): evaluate_distances(np.array([[0, 1, 2], [0, bad, 2]]), **labels)


def test_zero_features_are_orthogonal_to_everything():
    result = evaluate_retrieval(np.array([[1.0, 0]]), np.array([[1.0, 0], [0, 0], [-1, 0]]), [1], [2, 1, 3])
    assert result.first_rank[0] == 2


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, np.int64, torch.float16, torch.bfloat16, torch.float64])
def test_kinds_of_numbers(kind):
    q, g = np.array([[3, 1, 0], [0, 2, 1]]), np.array([[2, 1, 0], [0, 1, 1], [1, 0, 3], [1, 1, 1]])
    wrap = (lambda x: torch.tensor(x).to(kind)) if isinstance(kind, torch.dtype) else (lambda x: x.astype(kind))
    assert evaluate_retrieval(wrap(q), wrap(g), [1, 2], [1, 2, 1, 2]).first_rank.tolist() == [1, 1]


def test_read_only_and_strided_arrays():
    q, g = np.random.default_rng(0).standard_normal((2, 4, 6))[:, :, ::2]
    q.flags.writeable = False
    assert evaluate_retrieval(q, g[::-1], [1, 2, 3, 4], [1, 2, 3, 4]).matched.all()


@quick
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 40), st.sampled_from([torch.float32, torch.float64]))
def test_products_are_inner_products(n, m, d, kind):
    a, b = torch.randn(n, d, dtype=kind), torch.randn(m, d, dtype=kind)
    torch.testing.assert_close(products(a, b), torch.einsum("nd,md->nm", a, b), rtol=1e-5, atol=1e-5)


def test_lower_matmul_precision_is_not_used_behind_the_callers_back(monkeypatch):
    def refuse(*_): raise AssertionError("used at reduced precision")
    monkeypatch.setattr(retrieval, "_inner_product", refuse)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try: assert products(torch.eye(3), torch.eye(3)).equal(torch.eye(3))
    finally: torch.set_float32_matmul_precision(before)
    monkeypatch.setattr(retrieval, "_inner_product", None)
    assert products(torch.eye(3), torch.eye(3)).equal(torch.eye(3))


def _another_signature(a, b, bias): raise AssertionError("never reached")


@pytest.mark.parametrize("mkldnn", [
    SimpleNamespace(), SimpleNamespace(_linear_pointwise=_another_signature), SimpleNamespace(_linear_pointwise=lambda a, b, *_: a @ b.T + 1),
    SimpleNamespace(_linear_pointwise=Mock(side_effect=NotImplementedError("built without oneDNN")))], ids=["gone", "signature", "wrong", "not built"])
def test_torch_without_the_routine_that_is_not_public(monkeypatch, mkldnn):
    """Whatever a torch does to it, products fall back to the public routine and stay right."""
    monkeypatch.setattr(torch.ops, "mkldnn", mkldnn)
    monkeypatch.setattr(retrieval, "_inner_product", retrieval._one_dnn())
    a, b = torch.randn(5, 7), torch.randn(6, 7)
    assert products(a, b).equal(a @ b.T)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch is built without oneDNN")
def test_this_torch_has_the_fast_routine():
    """Says so when a new torch has taken it away, which costs speed on AMD processors and nothing else."""
    assert retrieval._inner_product is torch.ops.mkldnn._linear_pointwise


class TestFeatureDistances:
    def test_order_is_that_of_the_metric(self):
        rng = np.random.default_rng(0)
        q, g = rng.standard_normal((5, 7)), rng.standard_normal((11, 7))
        order = lambda d: np.argsort(d, axis=1).tolist()
        assert order(FeatureDistances(q, g, "euclidean")(0, 5)) == order(((q[:, None] - g) ** 2).sum(2))
        assert order(FeatureDistances(q, g, "cosine")(0, 5)) == order(-(q @ g.T) / np.linalg.norm(g, axis=1))

    def test_inputs_are_only_read(self):
        q, g = torch.randn(3, 4), torch.randn(5, 4)
        kept = q.clone(), g.clone()
        for metric in retrieval.METRICS: evaluate_retrieval(q, g, [1, 2, 3], [1, 2, 3, 1, 2], metric=metric)
        assert q.equal(kept[0]) and g.equal(kept[1])


class TestMultiQuery:
    def slow(self, q, qi, qc, g, gi, gc, pooling, include):
        rows = []
        for x, i, c in zip(q, qi, qc):
            photos = [y for y, j, d in zip(g, gi, gc) if j == i and d == c and j != -1]
            if include or not photos: photos.append(x)
            rows.append(np.mean(photos, 0) if pooling == "mean" else np.max(photos, 0))
        return np.array(rows)

    @quick
    @given(st.integers(0, 2**32 - 1), st.sampled_from(["mean", "max"]), st.booleans())
    def test_equals_slow(self, seed, pooling, include):
        rng = np.random.default_rng(seed)
        args = (rng.standard_normal((6, 3)), rng.integers(-1, 4, 6), rng.integers(1, 3, 6), rng.standard_normal((20, 3)), rng.integers(-1, 4, 20), rng.integers(1, 3, 20))
        np.testing.assert_allclose(multi_query(*args, pooling=pooling, include_query=include), self.slow(*args, pooling, include), atol=1e-12)

    def test_refuses(self):
        with pytest.raises(ValueError, match="Valid: max, mean"): multi_query([[1.0]], [1], [1], [[1.0]], [1], [1], pooling="sum")
        with pytest.raises(ValueError, match="pool has 1 rows for 2"): multi_query([[1.0]], [1], [1], [[1.0]], [1, 1], [1, 1])


class TestJoinParts:
    def test_weight_acts_once(self):
        rng = np.random.default_rng(0)
        q, g = rng.standard_normal((2, 3, 4)), rng.standard_normal((2, 5, 4))
        unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)
        np.testing.assert_allclose(join_parts(*q, weights=(1, 0.5)) @ join_parts(*g).T, unit(q[0]) @ unit(g[0]).T + 0.5 * unit(q[1]) @ unit(g[1]).T, atol=1e-12)

    def test_refuses(self):
        with pytest.raises(ValueError, match="1 weights for 2 parts"): join_parts(np.ones((2, 2)), np.ones((2, 2)), weights=[1])
        with pytest.raises(ValueError, match="must agree"): join_parts(np.ones((2, 2)), np.ones((3, 2)))
        with pytest.raises(ValueError, match="at least one"): join_parts()


class TestBootstrap:
    def test_known_width(self):
        """For n normal values the 95 % interval of the mean is about 2 x 1.96 x sd / sqrt(n) wide."""
        values = np.random.default_rng(0).standard_normal(400)
        interval = bootstrap_interval(values)
        assert interval.high - interval.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.05)
        assert interval.low < values.mean() < interval.high and interval.mean == pytest.approx(values.mean())

    def test_covers_the_truth_about_as_often_as_it_says(self):
        rng = np.random.default_rng(1)
        intervals = [bootstrap_interval(rng.exponential(size=80) - 1, resamples=400, seed=i) for i in range(300)]
        assert 0.88 <= np.mean([i.low <= 0 <= i.high for i in intervals]) <= 0.98

    def test_same_seed_same_interval_whatever_the_size(self):
        values = np.random.default_rng(0).random(300)
        assert bootstrap_interval(values, seed=3) == bootstrap_interval(values, seed=3) != bootstrap_interval(values, seed=4)

    def test_pairing_removes_what_is_common(self):
        rng = np.random.default_rng(0)
        hard, small = rng.random(200), 0.01 * rng.random(200)
        assert verdict(paired_bootstrap(hard + small, hard)) == "holds" and verdict(paired_bootstrap(hard, hard + small)) == "fails"
        assert bootstrap_interval(hard).low < hard.mean() + small.mean() < bootstrap_interval(hard).high  # unpaired, one could not tell

    def test_seeds_are_averaged_first_and_their_spread_reported(self):
        a = np.array([[0.5, 0.7, 0.9], [0.1, 0.3, 0.5]])
        interval = paired_bootstrap(a, np.zeros((2, 3)))
        assert interval.mean == pytest.approx(0.5) and interval.seeds == 2 and interval.queries == 3
        assert interval.spread == pytest.approx(np.std([0.7, 0.3], ddof=1))
        assert interval.low == pytest.approx(0.3, abs=1e-9) and interval.high == pytest.approx(0.7, abs=1e-9)  # of 0.3, 0.5, 0.7
        assert paired_bootstrap(a, [0.0, 0, 0]).spread is None and bootstrap_interval(a[0]).spread is None
        assert "seeds ±" in str(interval)

    def test_equal_is_within_noise(self):
        assert verdict(paired_bootstrap([0.5, 0.7], [0.5, 0.7])) == "within noise"

    def test_a_chain_holds_only_if_every_link_does(self):
        up, down, flat = (Interval(m, m - w, m + w, 0.95, 10, 1, None) for m, w in ((0.2, 0.1), (-0.2, 0.1), (0.0, 0.1)))
        assert [verdict(*c) for c in ((up, up), (up, flat), (up, down), (flat, down))] == ["holds", "within noise", "fails", "fails"]
        edge = Interval(0.1, 0.0, 0.2, 0.95, 10, 1, None)
        assert verdict(edge) == "within noise"

    def test_refuses(self):
        with pytest.raises(ValueError, match="3 queries, b 2"): paired_bootstrap([1, 2, 3], [1, 2])
        with pytest.raises(ValueError, match="NaN"): bootstrap_interval([1, np.nan])
        with pytest.raises(ValueError, match="not of shape"): bootstrap_interval(np.zeros((2, 2, 2)))
        with pytest.raises(ValueError, match="level"): bootstrap_interval([1, 2], level=1)
        with pytest.raises(ValueError, match="at least one"): verdict()


class TestFiles:
    arrays = {key: np.asarray(value) for key, value in good.items()}

    def test_round_trip(self, tmp_path):
        path = save_features(tmp_path / "f.npz", **self.arrays)
        loaded = load_features(path)
        assert set(loaded) == set(self.arrays) and all(np.array_equal(loaded[k], self.arrays[k]) for k in loaded)
        assert [p.name for p in tmp_path.iterdir()] == ["f.npz"]
        assert evaluate_retrieval(**loaded).matched.all()

    def test_cameras_may_be_absent(self, tmp_path):
        np.savez(tmp_path / "f.npz", **{k: v for k, v in self.arrays.items() if "cameras" not in k})
        assert "no cameras given" in evaluate_retrieval(**load_features(tmp_path / "f.npz")).rules

    def test_matlab_file_of_dgnets_script(self, tmp_path):
        names = dict(zip(arrays.MATLAB.values(), (self.arrays[k] for k in arrays.MATLAB)))
        scipy.io.savemat(tmp_path / "pytorch_result.mat", names)
        assert evaluate_retrieval(**load_features(tmp_path / "pytorch_result.mat")).rules == evaluate_retrieval(**self.arrays).rules

    @pytest.mark.parametrize("changes, message", [
        (dict(query_ids=None, gallery=None), "lacks gallery, query_ids"),
        (dict(query=np.full((2, 3), np.nan)), "query row 0 holds NaN"),
        (dict(gallery=np.ones((4, 2))), "3 dimensions, gallery features 2"),
        (dict(gallery=np.ones((5, 3))), "gallery has 5 rows for 4 labels"),
        (dict(query_cameras=None), "query_cameras is missing"),
        (dict(query=np.array([{}, {}])), "neither an .npz nor"),
    ])
    def test_what_is_wrong_is_named(self, tmp_path, changes, message):
        arrays = {k: v for k, v in (self.arrays | changes).items() if v is not None}
        np.savez(tmp_path / "f.npz", **arrays)
        with pytest.raises(ValueError, match=message) as error: load_features(tmp_path / "f.npz")
        assert "f.npz" in str(error.value)

    def test_damaged_missing_and_foreign_files(self, tmp_path):
        path = save_features(tmp_path / "f.npz", **self.arrays)
        path.write_bytes(path.read_bytes()[:300])
        with pytest.raises(ValueError, match="neither an .npz nor"): load_features(path)
        with pytest.raises(FileNotFoundError, match="it must hold query, gallery"): load_features(tmp_path / "nowhere.npz")
        np.save(tmp_path / "single.npy", np.ones(3))
        with pytest.raises(ValueError, match="neither an .npz nor|lacks"): load_features(tmp_path / "single.npy")

    def test_saving_leaves_nothing_behind_when_it_fails(self, tmp_path):
        with pytest.raises(ValueError, match="unknown arrays featurs"): save_features(tmp_path / "f.npz", featurs=1)
        with pytest.raises(ValueError, match="NaN"): save_features(tmp_path / "f.npz", **self.arrays | dict(query=np.full((2, 3), np.nan)))
        assert not list(tmp_path.iterdir())
