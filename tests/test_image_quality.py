"""Image quality: against slow references, hand-worked values, symmetries, and bad input."""
import math
import sys

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dgnb import image_quality as q
from dgnb.backbones import build_network
from dgnb.image_quality import (FeatureFunction, FeatureStatistics, as_unit, class_recognition, diversity, dssim_lab, frechet_distance,
                                frechet_image_distance, identity_preservation, inception_features, l1_error, part_colour_error, psnr, reid_features,
                                rgb_to_lab, silhouette_iou, ssim)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def batch(seed=0, count=2, height=16, width=12):
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


images = st.tuples(st.integers(1, 3), st.integers(8, 14), st.integers(8, 14), st.integers(0, 10**6)).map(
    lambda t: (np.random.default_rng(t[3]).integers(0, 256, (2, t[0], t[1], t[2], 3), dtype=np.uint8)))


# forms ---------------------------------------------------------------------------------------------------------------

def test_every_form_of_a_batch_is_the_same_batch():
    levels = batch()
    wanted = torch.from_numpy(levels).permute(0, 3, 1, 2).double() / 255
    forms = [levels, torch.from_numpy(levels), torch.from_numpy(levels).permute(0, 3, 1, 2), wanted, wanted.permute(0, 2, 3, 1).numpy(), wanted.float()]
    for form in forms:
        assert torch.allclose(as_unit(form), wanted, atol=1e-7)
    assert torch.equal(as_unit(levels[0]), wanted[:1])


@pytest.mark.parametrize("bad, words", [
    (np.zeros((2, 4, 4)), "shape"), (np.zeros((2, 4, 4, 4)), "shape"), (np.zeros((0, 4, 4, 3)), "shape"), (np.full((1, 4, 4, 3), np.nan), "NaN"),
    (np.full((1, 4, 4, 3), 1.2), "normalisation"), (np.full((1, 4, 4, 3), -0.1), "normalisation")])
def test_what_is_no_batch_is_refused(bad, words):
    for measure in (as_unit, lambda x: psnr(x, x), lambda x: ssim(x, x), lambda x: dssim_lab(x, x), rgb_to_lab):
        with pytest.raises(ValueError, match=words):
            measure(bad)


@pytest.mark.parametrize("measure", [l1_error, psnr, ssim, dssim_lab])
def test_shapes_that_differ_are_refused(measure):
    with pytest.raises(ValueError, match="differ in shape"):
        measure(batch(count=2), batch(count=1))


# pixel errors --------------------------------------------------------------------------------------------------------

@given(images)
@settings(max_examples=20, deadline=None)
def test_identity_symmetry_and_full_mask(pair):
    a, b = pair
    full = np.ones(a.shape[:3], bool)
    assert torch.isinf(psnr(a, a)).all() and (l1_error(a, a) == 0).all() and torch.allclose(ssim(a, a), torch.ones(len(a)).double(), atol=1e-4)
    assert (dssim_lab(a, a).abs() < 1e-9).all()
    for measure, tolerance in ((l1_error, 1e-12), (psnr, 1e-9), (ssim, 1e-5)):
        assert torch.allclose(measure(a, b), measure(b, a), atol=tolerance)
        assert torch.equal(measure(a, b), measure(a, b, full))
        assert torch.allclose(measure(a, b), torch.cat([measure(a[i], b[i]) for i in range(len(a))]), atol=tolerance)
    assert torch.allclose(dssim_lab(a, b), dssim_lab(b, a))


@given(images, st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_masked_errors_are_the_errors_of_the_masked_pixels(pair, seed):
    a, b = pair
    mask = np.random.default_rng(seed).random(a.shape[:3]) < 0.4
    mask[:, 0, 0] = True
    for i in range(len(a)):
        difference = (a[i][mask[i]] / 255 - b[i][mask[i]] / 255)
        assert math.isclose(l1_error(a, b, mask)[i], np.abs(difference).mean(), rel_tol=1e-9)
        assert math.isclose(psnr(a, b, mask)[i], -10 * math.log10((difference**2).mean()), rel_tol=1e-9)


def test_masked_ssim_sees_the_mask_only():
    a = batch(1, 1, 64, 32)
    b = a.copy()
    b[:, 40:] = 255 - b[:, 40:]
    top, bottom = np.zeros((2, 1, 64, 32), bool)
    top[:, :34], bottom[:, 46:] = True, True
    assert abs(ssim(a, b, top).item() - 1) < 1e-4 and ssim(a, b, bottom).item() < 0.2


@pytest.mark.parametrize("mask, words", [(np.zeros((2, 16, 12)), "mask of image 0 is empty"), (np.ones((2, 12, 16)), "must be N x H x W"), (np.ones((1, 16, 12)), "must be N x H x W")])
def test_bad_masks_are_refused(mask, words):
    for measure in (l1_error, psnr, ssim):
        with pytest.raises(ValueError, match=words):
            measure(batch(0), batch(1), mask)


def test_psnr_and_ssim_agree_with_torchmetrics():
    from torchmetrics.functional.image import peak_signal_noise_ratio
    a, b = batch(0, 3, 40, 24), batch(1, 3, 40, 24)
    x, y = as_unit(a), as_unit(b)
    assert torch.allclose(psnr(a, b), peak_signal_noise_ratio(x, y, data_range=1.0, dim=(1, 2, 3), reduction="none"), atol=1e-4)


def gaussian_ssim(a, b):
    """SSIM with reflected borders, pixel by pixel, float64."""
    taps = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    window = np.outer(taps, taps) / taps.sum() ** 2
    c1, c2, total = 0.01**2, 0.03**2, []
    for c in range(3):
        x, y = (np.pad(v[..., c].astype(float) / 255, 5, mode="reflect") for v in (a, b))
        for i in range(a.shape[0]):
            for j in range(a.shape[1]):
                p, r = x[i:i + 11, j:j + 11], y[i:i + 11, j:j + 11]
                mp, mr = (window * p).sum(), (window * r).sum()
                vp, vr, cov = (window * p * p).sum() - mp**2, (window * r * r).sum() - mr**2, (window * p * r).sum() - mp * mr
                total.append((2 * mp * mr + c1) * (2 * cov + c2) / ((mp**2 + mr**2 + c1) * (vp + vr + c2)))
    return np.mean(total)


@pytest.mark.parametrize("make", [lambda r: (r.integers(0, 256, (14, 11, 3)), r.integers(0, 256, (14, 11, 3))),
                                  lambda r: (r.integers(225, 231, (14, 11, 3)), r.integers(225, 231, (14, 11, 3)))])
def test_ssim_agrees_with_the_loop_also_on_flat_bright_images(make):
    a, b = (v.astype(np.uint8) for v in make(np.random.default_rng(3)))
    assert abs(ssim(a, b).item() - gaussian_ssim(a, b)) < 5e-4


# Lab and DSSIM -------------------------------------------------------------------------------------------------------

def lab_by_hand(rgb):
    """One sRGB pixel (0..1) to CIE Lab, by the book."""
    linear = [((v + 0.055) / 1.055) ** 2.4 if v > 0.04045 else v / 12.92 for v in rgb]
    matrix = [[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]]
    xyz = [sum(m * v for m, v in zip(row, linear)) / white for row, white in zip(matrix, (0.95047, 1.0, 1.08883))]
    fx, fy, fz = (v ** (1 / 3) if v > 0.008856 else 7.787 * v + 16 / 116 for v in xyz)
    return [116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)]


@given(arrays(np.uint8, (1, 2, 3)))
@settings(max_examples=60, deadline=None)
def test_lab_by_hand(pixels):
    found = rgb_to_lab(pixels)[0].permute(1, 2, 0)
    assert np.allclose(found, [[lab_by_hand(pixel / 255) for pixel in row] for row in pixels], atol=1e-8)


def test_lab_of_known_colours():
    colours = np.array([[[0, 0, 0], [255, 255, 255], [255, 0, 0], [119, 119, 119]]], np.uint8)
    assert np.allclose(rgb_to_lab(colours)[0, :, 0].T, [[0, 0, 0], [100, 0, 0], [53.24, 80.09, 67.20], [50.03, 0, 0]], atol=0.02)


def square_dssim(a, b):
    """(1 - SSIM) / 2 in Lab: 7x7 windows inside the image, sample variances, data range 100."""
    la, lb = (np.array([[lab_by_hand(p / 255) for p in row] for row in v]) for v in (a, b))
    total = []
    for c in range(3):
        for i in range(a.shape[0] - 6):
            for j in range(a.shape[1] - 6):
                p, r = la[i:i + 7, j:j + 7, c].ravel(), lb[i:i + 7, j:j + 7, c].ravel()
                cov = np.cov(p, r)
                total.append((2 * p.mean() * r.mean() + 1) * (2 * cov[0, 1] + 9) / ((p.mean() ** 2 + r.mean() ** 2 + 1) * (cov[0, 0] + cov[1, 1] + 9)))
    return (1 - np.mean(total)) / 2


@pytest.mark.parametrize("seed", range(3))
def test_dssim_by_hand(seed):
    a, b = batch(seed, 1, 11, 9)[0], batch(seed + 10, 1, 11, 9)[0]
    b = (0.5 * a + 0.5 * b).astype(np.uint8)
    assert math.isclose(dssim_lab(a, b).item(), square_dssim(a, b), rel_tol=1e-7)


@pytest.mark.parametrize("measure, side", [(ssim, 5), (dssim_lab, 6)])
def test_images_smaller_than_a_window_are_refused(measure, side):
    with pytest.raises(ValueError, match=f"at least {side + 1}x{side + 1}"):
        measure(batch(0, 1, side, 20), batch(1, 1, side, 20))


def test_diversity_has_the_direction_of_table_2():
    from torchvision.transforms.v2.functional import gaussian_blur
    sharp, ids = as_unit(batch(0, 12, 32, 16)), np.repeat([4, 7, 9], 4)
    blurred = gaussian_blur(sharp, [9, 9], [2.0, 2.0])
    real, soft = diversity(sharp, ids), diversity(blurred, ids)
    assert soft.value < real.value and real.better == "higher" and real.comparable and "running means" in real.how
    assert min(real.details["runs"]) <= real.value <= max(real.details["runs"])
    assert diversity(sharp, ids) == real and diversity(sharp, ids, seed=1) != real
    assert not diversity(sharp, ids, ssim).comparable and not diversity(sharp, ids, pairs=3).comparable


def test_diversity_is_the_midpoint_of_the_extreme_running_means():
    values = iter([0.1, 0.5, 0.3, 0.3, 0.3])  # running means 0.1, 0.3, 0.3, 0.3, 0.3
    def in_turn(a, b): return torch.full((len(a),), next(values)).double()
    found = diversity(batch(), [1, 1], in_turn)
    assert math.isclose(found.value, 0.2, rel_tol=1e-6) and math.isclose(found.details["mean"], 0.3, rel_tol=1e-6)


def test_diversity_pairs_are_of_one_identity_and_of_different_images():
    seen = []
    def spy(a, b):
        seen.extend(zip(a[:, 0, 0, 0].tolist(), b[:, 0, 0, 0].tolist()))
        return torch.zeros(len(a)).double()
    marked = np.zeros((7, 8, 8, 3), np.uint8) + np.arange(7, dtype=np.uint8)[:, None, None, None]
    diversity(marked, [0, 0, 1, 1, 1, 2, 0], spy)
    owner = [0, 0, 1, 1, 1, 2, 0]
    assert len(seen) == 2 * 10 * 5 and all(a != b and owner[a] == owner[b] for a, b in seen)


@pytest.mark.parametrize("ids, words", [([1, 2], "no identity has two"), ([1], "1 identities for 2")])
def test_diversity_without_pairs_is_refused(ids, words):
    with pytest.raises(ValueError, match=words):
        diversity(batch(), ids)


# parts ---------------------------------------------------------------------------------------------------------------

def test_part_colour_error_names_the_part():
    a = np.full((1, 8, 8, 3), 0.5)
    b, parts = a.copy(), np.zeros((1, 8, 8), np.uint8)
    parts[:, 4:] = 3
    b[:, 4:] = [0.7, 0.2, 0.2]
    error = part_colour_error(a, b, parts, [0, 3, 5])[0]
    wanted = math.dist(lab_by_hand([0.5] * 3), lab_by_hand([0.7, 0.2, 0.2]))
    assert error[0] == 0 and math.isclose(error[1], wanted, rel_tol=1e-9) and error[2].isnan()
    with pytest.raises(ValueError, match="no image shows"):
        part_colour_error(a, b, parts, [5])
    with pytest.raises(ValueError, match="part map"):
        part_colour_error(a, b, parts[:, :4], [0])


def test_noise_hardly_moves_a_mean_colour():
    a = np.full((1, 64, 32, 3), 0.5)
    b = a + np.random.default_rng(0).normal(0, 0.05, a.shape).clip(-0.4, 0.4)
    assert part_colour_error(a, b, np.zeros((1, 64, 32)), [0]).item() < 1


def test_silhouettes():
    a, b = np.zeros((2, 2, 4, 4), bool)
    a[:, :2], b[:, 1:3] = True, True
    assert silhouette_iou(a, b).tolist() == [1 / 3, 1 / 3] and silhouette_iou(a, a).tolist() == [1, 1] and silhouette_iou(a, ~a).tolist() == [0, 0]
    with pytest.raises(ValueError, match="empty"):
        silhouette_iou(np.zeros((1, 4, 4)), np.zeros((1, 4, 4)))
    with pytest.raises(ValueError, match="alike"):
        silhouette_iou(a, b[:1])


# Frechet distance ----------------------------------------------------------------------------------------------------

def naive(mu1, s1, mu2, s2):
    return ((mu1 - mu2) ** 2).sum() + np.trace(s1) + np.trace(s2) - 2 * np.trace(scipy.linalg.sqrtm(s1 @ s2)).real


def gaussian(seed, count, dimensions, shift=0.0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, dimensions)) @ rng.normal(size=(dimensions, dimensions)) + shift
    return x.mean(0), np.cov(x.T).reshape(dimensions, dimensions)


@given(st.integers(1, 24), st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_frechet_agrees_with_the_matrix_root(dimensions, seed):
    a, b = gaussian(seed, 3 * dimensions + 3, dimensions), gaussian(seed + 1, 3 * dimensions + 3, dimensions, 1.0)
    found = frechet_distance(*a, *b)
    assert math.isclose(found, naive(*a, *b), rel_tol=1e-6, abs_tol=1e-7)
    assert math.isclose(found, frechet_distance(*b, *a), rel_tol=1e-9, abs_tol=1e-9)
    assert frechet_distance(*a, *a) < 1e-9 * max(1, np.trace(a[1]))


@pytest.mark.parametrize("count, dimensions", [(20, 48), (10, 64), (2, 16), (100, 128)])
def test_frechet_of_fewer_samples_than_dimensions_is_exact(count, dimensions):
    rng = np.random.default_rng(count)
    x, y = rng.normal(size=(2, count, dimensions)) @ rng.normal(size=(dimensions, dimensions))
    centred = [(v - v.mean(0)) / math.sqrt(count - 1) for v in (x, y)]
    root = np.linalg.svd(centred[0] @ centred[1].T, compute_uv=False).sum()  # the nuclear norm: exact, no root of a singular matrix
    wanted = ((x.mean(0) - y.mean(0)) ** 2).sum() + sum((c**2).sum() for c in centred) - 2 * root
    found = frechet_distance(x.mean(0), np.cov(x.T), y.mean(0), np.cov(y.T))
    assert math.isclose(found, wanted, rel_tol=1e-9)
    assert math.isclose(found, naive(x.mean(0), np.cov(x.T), y.mean(0), np.cov(y.T)), rel_tol=1e-6)
    assert math.isclose(found, frechet_distance(y.mean(0), np.cov(y.T), x.mean(0), np.cov(x.T)), rel_tol=1e-9)


def test_frechet_by_hand_and_of_nothing():
    assert math.isclose(frechet_distance([0.0], [[1.0]], [3.0], [[4.0]]), 10)
    diagonal = frechet_distance(np.zeros(3), np.diag([1.0, 4, 9]), np.ones(3), np.diag([4.0, 9, 16]))
    assert math.isclose(diagonal, 3 + 3)
    assert frechet_distance(np.zeros(2), np.zeros((2, 2)), np.ones(2), np.eye(2)) == 4
    commuting = frechet_distance(np.zeros(2), 4 * np.eye(2), np.zeros(2), np.diag([9.0, 0.0]))
    assert math.isclose(commuting, 8 + 9 - 2 * 6)


def test_frechet_does_not_change_its_input():
    a, b = gaussian(0, 30, 8), gaussian(1, 30, 8)
    copies = [v.copy() for v in (*a, *b)]
    frechet_distance(*a, *b)
    assert all((v == c).all() for v, c in zip((*a, *b), copies))


@pytest.mark.parametrize("arguments, words", [
    (([0.0], np.eye(2), [0.0], np.eye(1)), "D x D"), ((np.zeros(2), np.eye(2), np.zeros(3), np.eye(3)), "D x D"),
    ((np.zeros(2), np.full((2, 2), np.nan), np.zeros(2), np.eye(2)), "NaN")])
def test_bad_moments_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        frechet_distance(*arguments)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=8), st.integers(1, 6), st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_statistics_do_not_depend_on_the_batches(sizes, dimensions, seed):
    sizes = [2, *sizes]
    x = np.random.default_rng(seed).normal(1e4, 1, (sum(sizes), dimensions))
    whole, parts, half = FeatureStatistics().add(x), FeatureStatistics(), FeatureStatistics()
    for i, block in enumerate(np.split(x, np.cumsum(sizes)[:-1])): (half if i % 2 else parts).add(torch.from_numpy(block) if i % 3 else block)
    parts += half
    assert parts.count == len(x)
    for found in (whole, parts):
        assert np.allclose(found.mean, x.mean(0), rtol=1e-12) and np.allclose(found.covariance, np.cov(x.T).reshape(dimensions, dimensions), rtol=1e-6, atol=1e-8)


def test_statistics_refuse_what_has_none():
    for use in (lambda s: s.mean, lambda s: s.add(np.ones((1, 2))).covariance, lambda s: s.add([[np.nan]]), lambda s: s.add(np.ones(3)),
                lambda s: s.add(np.ones((2, 3))).add(np.ones((2, 4)))):
        with pytest.raises(ValueError):
            use(FeatureStatistics())


# feature functions ---------------------------------------------------------------------------------------------------

def means(images):
    return images.double().mean((2, 3))


def test_frechet_image_distance_is_that_of_the_features_and_says_so():
    a, b = batch(0, 9), batch(1, 7, 20, 10)
    found = frechet_image_distance(a, b, FeatureFunction("colour means", means), batch_size=4)
    x, y = a.astype(float).mean((1, 2)), b.astype(float).mean((1, 2))
    assert math.isclose(found.value, naive(x.mean(0), np.cov(x.T), y.mean(0), np.cov(y.T)), rel_tol=1e-6)
    assert found.name == "Frechet distance" and not found.comparable and "not comparable with published FID" in found.how
    assert "colour means, 9 against 7 images" in found.how and found.better == "lower" and float(found) == found.value
    assert set(found.record()) == {"name", "value", "better", "how", "comparable"}
    assert "biased upwards" in frechet_image_distance(a[:3], b, FeatureFunction("colour means", means)).how and "biased" not in found.how
    with pytest.raises(ValueError, match="at least two"):
        frechet_image_distance(a[:1], b, FeatureFunction("colour means", means))


def test_reid_features_are_those_of_the_network():
    from dgnb.sampling import normalise
    network = build_network(5, "resnet10t", truncate=2, dim=8)
    levels = batch(0, 5, 64, 32)
    features = reid_features(network, "small")
    with torch.no_grad(): wanted = network.eval().features(normalise(torch.from_numpy(levels).permute(0, 3, 1, 2)))
    network.train()
    assert torch.allclose(torch.cat(list(features(levels, batch_size=2))), wanted, atol=1e-5)
    assert frechet_image_distance(levels, levels, features).value < 1e-6


def test_networks_and_functions_are_taken_as_they_are():
    network, levels = build_network(5, "resnet10t", truncate=2, dim=8), batch(0, 4, 64, 32)
    assert "not comparable" in frechet_image_distance(levels, levels[::-1].copy(), network).how
    assert frechet_image_distance(levels, levels, means).how.startswith("means, 4 against 4 images")


def test_inception_needs_a_file_and_torch_fidelity(tmp_path, monkeypatch):
    with pytest.raises((FileNotFoundError, ImportError)):
        inception_features(tmp_path / "nowhere.pth")
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    with pytest.raises(ImportError, match=r"dgnb\[inception\]"):
        inception_features(tmp_path / "nowhere.pth")


def test_inception_from_a_local_file(tmp_path, monkeypatch):
    inception = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    torch.save({"wrong": torch.zeros(1)}, tmp_path / "wrong.pth")
    with pytest.raises(ValueError, match="does not fit"):
        inception_features(tmp_path / "wrong.pth")
    with monkeypatch.context() as patch:  # the network with its random initial weights, made without a file
        patch.setattr(inception, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(torch.nn.Module, "load_state_dict", lambda *_, **__: None)
        torch.save(inception.FeatureExtractorInceptionV3("x", ["2048"]).state_dict(), tmp_path / "random.pth")
    features = inception_features(tmp_path / "random.pth")
    found = frechet_image_distance(batch(0, 2, 32, 16), batch(1, 2, 32, 16), features)
    assert found.name == "FID" and found.comparable and found.details["dimensions"] == 2048 and "random.pth, sha256" in found.how


# identity ------------------------------------------------------------------------------------------------------------

def test_identity_preservation_by_hand():
    gallery = np.eye(4)
    found = identity_preservation(gallery[[0, 1, 2]] * 5 + 0.1, [10, 11, 13], gallery, [10, 11, 12, 13])
    assert math.isclose(found.value, 2 / 3) and found.details["right"].tolist() == [True, True, False] and "4 real images" in found.how
    with pytest.raises(ValueError, match="no real image"):
        identity_preservation(gallery[:1], [99], gallery, [10, 11, 12, 13])
    with pytest.raises(ValueError, match="1 features for 2 claims"):
        identity_preservation(gallery[:1], [10, 11], gallery, [10, 11, 12, 13])


def test_class_recognition_by_hand():
    found = class_recognition([[2.0, 0, 0], [0, 0, 3]], [0, 1])
    assert found.value == 0.5 and math.isclose(found.details["probability"][0], math.exp(2) / (math.exp(2) + 2))
    for logits, claimed in (([[1.0, 2]], [2]), ([[1.0, 2]], [0, 1]), ([1.0, 2], [0]), (np.zeros((0, 2)), [])):
        with pytest.raises(ValueError):
            class_recognition(logits, claimed)


def test_nothing_here_reaches_for_the_network(monkeypatch):
    import socket
    def refuse(*_): raise AssertionError("a connection was tried")
    monkeypatch.setattr(socket.socket, "connect", refuse)
    a, b = batch(0, 4, 32, 16), batch(1, 4, 32, 16)
    psnr(a, b), ssim(a, b), dssim_lab(a, b), frechet_image_distance(a, b, FeatureFunction("means", means))
    assert q.Measurement("x", 1.0, "lower", "so", False).value == 1.0
