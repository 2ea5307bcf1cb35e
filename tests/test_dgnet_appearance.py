"""The appearance encoder: published counts and shapes, the layout of the code, heads, and what `frozen` and `untracked` leave alone."""
import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dgnb.dgnet.appearance import AppearanceEncoder, frozen, untracked
from dgnb.scales import seed_everything


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)
    seed_everything("test_dgnet_appearance")


def count(module):
    return sum(p.numel() for p in module.parameters())


def small(classes=5, **options):
    return AppearanceEncoder(classes, "resnet10t", **({"dim": 16, "truncate": 2} | options))


def people(count=4, height=64, width=32):
    return torch.randn(count, 3, height, width)


def same(before, module):
    return all(torch.equal(before[name], value) for name, value in module.state_dict().items())


# published numbers ---------------------------------------------------------------------------------------------------

def test_parameters_at_751_people():
    with torch.device("meta"):
        encoder = AppearanceEncoder(751)
    assert count(encoder) == 26_378_782 and count(encoder.backbone) == 23_508_032
    for head in (encoder.prim, encoder.fine):
        assert count(head.linear) + count(head.norm) == 1_050_112 and count(head.classifier) == 385_263
    assert count(encoder) - count(encoder.prim.classifier) - count(encoder.fine.classifier) == 25_608_256
    assert (encoder.prim.dropout.p, encoder.fine.dropout.p) == (0.5, 0.75) and encoder.code_size == 8192


def test_shapes_at_256x128():
    with torch.device("meta"):
        encoder, images = AppearanceEncoder(751).eval(), torch.zeros(2, 3, 256, 128)
    shapes = {name: tuple(maps.shape[1:]) for name, maps in encoder.backbone.stage_maps(images).items()}
    assert shapes == {"stem": (64, 64, 32), "layer1": (256, 64, 32), "layer2": (512, 32, 16), "layer3": (1024, 16, 8), "layer4": (2048, 16, 8)}
    seen = encoder.look(images)
    assert seen.code.shape == (2, 8192) and seen.prim.shape == seen.fine.shape == (2, 512)
    assert [tuple(scores.shape) for scores in encoder(images)] == [(2, 751)] * 2


def test_start_of_training_costs_ln_k():
    encoder = small(classes=50)
    for scores in encoder(people(50)):
        assert F.cross_entropy(scores, torch.arange(50)).item() == pytest.approx(torch.tensor(50.).log().item(), abs=0.02)


# the code ------------------------------------------------------------------------------------------------------------

@settings(max_examples=25, deadline=None)
@given(st.integers(1, 4), st.sampled_from([(64, 32), (96, 32), (128, 64), (64, 48)]), st.integers(1, 3), st.integers(0, 2**31))
def test_number_c_times_parts_plus_p_is_the_maximum_of_channel_c_in_stripe_p(parts, size, batch, seed):
    torch.manual_seed(seed)
    encoder = small(parts=parts).eval()
    images = people(batch, *size)
    with torch.no_grad():
        maps, seen = encoder.backbone.maps(images), encoder.look(images)
    rows = maps.shape[2]
    want = torch.stack([maps[:, :, p * rows // parts:-(-(p + 1) * rows // parts)].amax((2, 3)) for p in range(parts)], -1)
    assert seen.code.shape == (batch, encoder.code_size)
    for c in (0, 1, maps.shape[1] - 1):
        for p in range(parts):
            assert torch.equal(seen.code[:, c * parts + p], want[:, c, p])
    assert torch.equal(seen.code.unflatten(1, (-1, parts)), want)
    assert torch.equal(seen.code.unflatten(1, (-1, parts)).amax(-1), maps.amax((2, 3)))
    assert torch.equal(encoder.codes(images), seen.code)


def test_heads_are_fed_the_global_maximum():
    encoder, images = small().eval(), people()
    pooled = encoder.codes(images).unflatten(1, (-1, 4)).amax(-1)
    seen, (prim, fine) = encoder.look(images), encoder(images)
    assert torch.equal(seen.prim, encoder.prim.norm(encoder.prim.linear(pooled))) and torch.equal(seen.fine, encoder.fine.norm(encoder.fine.linear(pooled)))
    assert torch.equal(prim, encoder.prim.classifier(seen.prim)) and torch.equal(fine, encoder.fine.classifier(seen.fine))


def test_images_do_not_influence_each_other_at_test_time():
    encoder, images = small().eval(), people(6)
    with torch.no_grad():
        assert torch.allclose(encoder.codes(images)[2:4], encoder.codes(images[2:4]), atol=1e-5)
        assert torch.allclose(encoder.features(images)[0][:1], encoder.features(images[:1])[0], atol=1e-5)


def test_dropout_is_before_the_classifier_only():
    encoder, images = small(dropout=(0.5, 0.75)), people(32)
    encoder.backbone.eval()
    for head in (encoder.prim, encoder.fine):
        head.norm.eval()
    one, two = encoder.look(images), encoder.look(images)
    assert torch.equal(one.prim, two.prim) and torch.equal(one.fine, two.fine)
    ones = torch.ones(1, 20_000)
    assert (encoder.prim.dropout(ones) == 0).float().mean().item() == pytest.approx(0.5, abs=0.02)
    assert (encoder.fine.dropout(ones) == 0).float().mean().item() == pytest.approx(0.75, abs=0.02)
    assert not torch.equal(encoder.prim.classify(one.prim), encoder.prim.classify(one.prim))


# features ------------------------------------------------------------------------------------------------------------

@settings(max_examples=15, deadline=None)
@given(st.integers(1, 4), st.integers(0, 2**31))
def test_features_are_unit_vectors_and_do_not_know_left_from_right(batch, seed):
    torch.manual_seed(seed)
    encoder, images = small().eval(), people(batch)
    with torch.no_grad():
        seen, mirrored, plain = encoder.look(images), encoder.look(images.flip(-1)), encoder.features(images, mirror=False)
        found, flipped = encoder.features(images), encoder.features(images.flip(-1))
    for n, name in enumerate(("prim", "fine")):
        one, other = (F.normalize(getattr(view, name), dim=1) for view in (seen, mirrored))
        assert torch.allclose(found[n], F.normalize(one + other, dim=1), atol=1e-5) and torch.allclose(plain[n], one, atol=1e-5)
        assert torch.allclose(found[n], flipped[n], atol=1e-5)
        assert torch.allclose(found[n].norm(dim=1), torch.ones(batch), atol=1e-5) and found[n].dtype == torch.float32


# what reaches what ---------------------------------------------------------------------------------------------------

def test_frozen_passes_the_gradient_on_and_keeps_none():
    encoder, images = small(), people().requires_grad_()
    with frozen(encoder):
        loss = sum(scores.square().sum() for scores in encoder(images))
    loss.backward()
    assert images.grad.abs().sum() > 0 and all(p.grad is None for p in encoder.parameters())
    assert all(p.requires_grad for p in encoder.parameters())


def test_frozen_has_the_gradient_of_a_frozen_copy():
    """The released code copies the network in every iteration; the context gives the same to the images without a copy."""
    encoder, images = small(dropout=(0.0, 0.0)), people()
    other = copy.deepcopy(encoder)
    gradients = []
    for network, manager in ((encoder, frozen(encoder)), (other.requires_grad_(False), frozen())):
        x = images.clone().requires_grad_()
        with manager:
            loss = network(x)[0].square().sum() + network.codes(x).sum()
        gradients += torch.autograd.grad(loss, x)
    assert torch.equal(*gradients)


def test_frozen_leaves_what_was_computed_before_alone():
    encoder = small()
    loss = encoder(people())[0].square().sum()
    with frozen(encoder):
        pass
    loss.backward()
    assert encoder.backbone.conv1[0].weight.grad is not None


def test_frozen_comes_back_after_an_error_and_leaves_the_frozen_frozen():
    encoder = small()
    encoder.fine.requires_grad_(False)
    with pytest.raises(RuntimeError), frozen(encoder, encoder):
        with frozen(encoder):
            pass
        assert not any(p.requires_grad for p in encoder.parameters())
        raise RuntimeError
    assert all(p.requires_grad for p in encoder.prim.parameters()) and not any(p.requires_grad for p in encoder.fine.parameters())


@settings(max_examples=15, deadline=None)
@given(st.integers(2, 5), st.sampled_from([1.0, 1e3, float("inf"), float("nan")]), st.sampled_from([0.1, 0.5, None]))
def test_untracked_remembers_nothing_whatever_it_sees(batch, size, momentum):
    encoder = small()
    for module in encoder.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = momentum
    encoder(people())
    before = copy.deepcopy(encoder.state_dict())
    with untracked(encoder), torch.no_grad():
        encoder(people(batch) * size)
    assert same(before, encoder)
    encoder(people())
    assert not same(before, encoder)


def test_untracked_changes_no_value_and_no_gradient():
    encoder, images = small(dropout=(0.0, 0.0)), people()
    other = copy.deepcopy(encoder)
    with untracked(encoder):
        loss = encoder(images)[0].square().sum()
    want = other(images)[0].square().sum()
    loss.backward(), want.backward()
    assert torch.equal(loss, want)
    assert all(torch.equal(p.grad, q.grad) for p, q in zip(encoder.parameters(), other.parameters()) if q.grad is not None)


def test_untracked_leaves_evaluation_mode_alone_and_comes_back():
    encoder, images = small().eval(), people()
    want = encoder(images)[0]
    with pytest.raises(RuntimeError), untracked(encoder, encoder.prim):
        with untracked(encoder):
            assert torch.equal(encoder(images)[0], want)
        raise RuntimeError
    before = copy.deepcopy(encoder.state_dict())
    encoder.train()(people())
    assert not same(before, encoder)


def test_untracked_needs_no_running_statistics():
    norm = nn.BatchNorm1d(4, track_running_stats=False)
    with untracked(norm):
        norm(torch.randn(3, 4))
    assert not norm.track_running_stats


def test_detached_codes_have_no_way_back():
    encoder, images = small(), people()
    with torch.no_grad():
        code = encoder.codes(images)
    assert not code.requires_grad and encoder.codes(images).requires_grad


# faults --------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("method", ["forward", "look", "features"])
def test_a_training_batch_of_one_is_refused_before_anything_has_changed(method):
    encoder = small()
    before = copy.deepcopy(encoder.state_dict())
    with pytest.raises(ValueError, match="batch of one"):
        getattr(encoder, method)(people(1))
    assert same(before, encoder)


@pytest.mark.parametrize("bad, message", [
    (torch.zeros(2, 3, 64, 32, dtype=torch.uint8), "grey levels"), (torch.zeros(2, 3, 12, 32), "3 rows has no 4 stripes"),
    (torch.zeros(2, 1, 64, 32), "B x 3 x H x W"), (torch.zeros(3, 64, 32), "B x 3 x H x W"), (torch.zeros(2, 64, 32, 3), "B x 3 x H x W")])
@pytest.mark.parametrize("method", ["forward", "look", "codes", "features"])
def test_images_of_the_wrong_kind_are_refused(bad, message, method):
    encoder = small()
    before = copy.deepcopy(encoder.state_dict())
    with pytest.raises(ValueError, match=message):
        getattr(encoder, method)(bad)
    if "rows" not in message:
        assert same(before, encoder)


@pytest.mark.parametrize("options, message", [
    ({"classes": 0}, "at least one class"), ({"parts": 0}, "parts"), ({"dropout": (0.5, 1.5)}, "dropout"), ({"dropout": 0.5}, "dropout"),
    ({"last_stride": 3}, "last_stride")])
def test_settings_that_cannot_be_meant_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        small(**options)
