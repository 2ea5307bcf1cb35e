"""Discriminators, local views, adversarial losses and the ID guider of VRSTC."""
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from dgnb.augmentation import normalise
from dgnb.layers import count_parameters
from dgnb.video_worlds import make_video_world
from dgnb.vrstc.critics import Discriminator, IDGuider, check_guider, critic_loss, fooling_loss, identity_loss, local_view
from dgnb.vrstc.video_reid import VideoReIDNetwork


def rectangle(top, bottom, left=0, right=None, size=(64, 32)):
    mask = torch.zeros(1, 1, *size)
    mask[..., top:bottom, left:right] = 1
    return mask


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return VideoReIDNetwork(5, "resnet10t", truncate=3)


@pytest.mark.parametrize("size, weights", [((128, 64), 6_275_457), ((64, 64), 6_274_945), ((256, 128), 6_278_529)])
def test_parameter_counts(size, weights):
    assert count_parameters(Discriminator(size)) == weights


@pytest.mark.parametrize("size", [(128, 64), (64, 32), (43, 64), (100, 50)])
def test_one_verdict_per_image_and_no_other_size(size):
    judge = Discriminator(size, width=2)
    assert judge(torch.zeros(3, 3, *size)).shape == (3,)
    with pytest.raises(ValueError, match=f"{size[0]}x{size[1]}.*resize"):
        judge(torch.zeros(3, 3, size[0] + 64, size[1]))


def test_norm_is_on_all_but_the_first_convolution():
    kinds = [type(m).__name__ for m in Discriminator(width=2).layers]
    assert kinds == ["Conv2d", "LeakyReLU"] + 5 * ["Conv2d", "BatchNorm2d", "LeakyReLU"]
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in Discriminator(width=2, norm=False).modules())


def test_canvas_is_the_equation_and_keeps_gradients_inside():
    images, mask = torch.randn(2, 3, 64, 32, requires_grad=True), rectangle(22, 43).expand(2, -1, -1, -1)
    seen = local_view(images, mask)
    assert torch.equal(seen, images * mask)
    seen.square().sum().backward()
    assert (images.grad[:, :, 22:43] != 0).all() and (images.grad[:, :, :22] == 0).all() and (images.grad[:, :, 43:] == 0).all()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 62), st.integers(1, 64), st.integers(0, 30), st.integers(1, 32))
def test_crop_is_the_rectangle_resized(top, height, left, width):
    bottom, right = min(64, top + height), min(32, left + width)
    images = torch.randn(1, 3, 64, 32)
    seen = local_view(images, rectangle(top, bottom, left, right), "crop", (16, 8))
    wanted = F.interpolate(images[..., top:bottom, left:right], (16, 8), mode="bilinear", align_corners=False)
    assert torch.equal(seen, wanted)


def test_crop_of_several_images_takes_each_ones_own_hole():
    images, mask = torch.arange(2.0).view(2, 1, 1, 1).expand(2, 3, 64, 32) + 1, torch.cat([rectangle(0, 22), rectangle(43, 64)])
    seen = local_view(images, mask, "crop")
    assert seen.shape == (2, 3, 64, 64) and (seen[0] == 1).all() and (seen[1] == 2).all()


def test_local_view_refuses():
    with pytest.raises(ValueError, match="empty mask"):
        local_view(torch.zeros(1, 3, 64, 32), torch.zeros(1, 1, 64, 32), "crop")
    with pytest.raises(ValueError, match="canvas, crop"):
        local_view(torch.zeros(1, 3, 64, 32), torch.zeros(1, 1, 64, 32), "cut")


@given(st.lists(st.floats(-12, 12), min_size=2, max_size=8))
def test_losses_are_the_standard_form(verdicts):
    d = torch.tensor(verdicts, dtype=torch.float64)
    real, fake = d[::2], d[1::2]
    p = torch.sigmoid
    assert critic_loss(real, fake).item() == pytest.approx(-(p(real).log().mean() + (1 - p(fake)).log().mean()).item(), rel=1e-4, abs=1e-5)
    assert fooling_loss(fake).item() == pytest.approx(-p(fake).log().mean().item(), rel=1e-4, abs=1e-5)


def test_losses_survive_certainty_and_half_precision():
    sure = torch.tensor([-200.0, 200.0])
    assert critic_loss(sure, sure).item() == 200 and fooling_loss(sure).item() == 100
    low = torch.zeros(4, dtype=torch.bfloat16)
    assert critic_loss(low, low).dtype == torch.float32 and critic_loss(low, low).item() == pytest.approx(2 * math.log(2))


def test_fooling_pushes_hardest_where_the_critic_is_sure():
    d = torch.tensor([-10.0, 10.0], requires_grad=True)
    fooling_loss(d).backward()
    assert d.grad[0] < -0.49 and abs(d.grad[1]) < 1e-4


def test_guider_is_the_network_on_normalised_frames(network):
    levels = torch.randint(0, 256, (4, 3, 64, 32), dtype=torch.uint8)
    guider = IDGuider(network, (64, 32))
    same = guider(levels / 127.5 - 1)
    assert guider.num_classes == 5 and torch.allclose(same, network(normalise(levels)[:, None]), atol=1e-5)
    larger = IDGuider(network, (128, 64))(levels / 127.5 - 1)
    enlarged = F.interpolate(levels.float(), (128, 64), mode="bilinear", align_corners=False)
    assert torch.allclose(larger, network(normalise(enlarged)[:, None]), atol=1e-5) and not torch.allclose(same, larger, atol=1e-3)


def test_guider_leaves_its_input_alone(network):
    images = torch.rand(2, 3, 64, 32) * 2 - 1
    before = images.clone()
    IDGuider(network, (64, 32))(images)
    assert torch.equal(images, before)


def test_guider_is_frozen_and_passes_gradients(network):
    guider = IDGuider(network, (64, 32))
    before = {name: value.clone() for name, value in guider.state_dict().items()}
    images = (torch.rand(4, 3, 64, 32) * 2 - 1).requires_grad_()
    guider.train()
    torch.nn.ModuleDict({"guider": guider}).train()
    identity_loss(guider(images), torch.tensor([0, 1, 2, 3])).backward()
    assert (images.grad.flatten(1).abs().sum(1) > 0).all() and not any(m.training for m in guider.modules())
    assert all(torch.equal(value, before[name]) for name, value in guider.state_dict().items())
    assert all(p.grad is None and not p.requires_grad for p in guider.parameters())


def test_descending_the_identity_loss_changes_who_is_seen(network):
    guider, images = IDGuider(network, (64, 32)), torch.zeros(1, 3, 64, 32)
    target = guider(images).argmin(1)
    start = identity_loss(guider(images), target)
    for _ in range(10):
        images.requires_grad_()
        slope = torch.autograd.grad(identity_loss(guider(images), target), images)[0]
        images = (images - 0.05 * slope.sign()).detach()
    assert identity_loss(guider(images), target) < start


def test_identity_loss_is_equation_nine():
    scores, label = torch.randn(6, 5), torch.tensor([0, 1, 2, 3, 4, 0])
    q = F.one_hot(label, 5)
    assert identity_loss(scores, label).item() == pytest.approx(-(q * scores.softmax(1).log()).sum(1).mean().item(), rel=1e-5)
    assert identity_loss(scores.bfloat16(), label).dtype == torch.float32


def test_guider_of_other_people_is_refused(network):
    world = make_video_world("mannequin-mars", "smoke")
    with pytest.raises(ValueError, match="tells 5 people apart.*has 8.*train the guider on the same tracklets"):
        check_guider(IDGuider(network, (64, 32)), world)
    check_guider(IDGuider(VideoReIDNetwork(8, "resnet10t", truncate=3), (64, 32)), world)
