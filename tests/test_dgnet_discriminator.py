"""The discriminator: published sizes and start values, the three games, and R1 against an independent reckoning."""
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from dgnb.dgnet.discriminator import (GAN_KINDS, MultiScaleDiscriminator, PatchDiscriminator, discriminator_loss, generator_loss, gradient_penalty,
                                      halve, precise)

torch.set_num_threads(1)
quick = settings(max_examples=25, deadline=None)


def small(seed=0, **options):
    torch.manual_seed(seed)
    return MultiScaleDiscriminator(**({"width": 4, "blocks": 1} | options)).double()


def draw(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_parameters_and_shapes_at_the_published_size():
    D = MultiScaleDiscriminator()
    assert [sum(p.numel() for p in scale.parameters()) for scale in D.scales] == [341_857] * 3
    assert sum(p.numel() for p in D.parameters()) == 1_025_571
    with torch.no_grad():
        verdicts = D(torch.zeros(1, 3, 256, 128))
    assert [tuple(v.shape) for v in verdicts] == [(1, 1, 64, 32), (1, 1, 32, 16), (1, 1, 16, 8)]


def test_initial_weights():
    torch.manual_seed(0)
    D = MultiScaleDiscriminator()
    convolutions = [m for m in D.modules() if isinstance(m, torch.nn.Conv2d)]
    assert all(m.bias.abs().max() == 0 and (m.padding_mode == "reflect" or m.kernel_size == (1, 1)) for m in convolutions)
    assert all(abs(m.weight.std().item() - 0.02) < 0.004 for m in convolutions if m.weight.numel() > 1000)


def test_start_values_and_balance():
    torch.manual_seed(0)
    D, x = MultiScaleDiscriminator(), torch.randn(2, 3, 64, 32)
    with torch.no_grad():
        real, fake = D(x), D(-x)
    assert 2 * discriminator_loss(real, fake).item() == pytest.approx(6.0, abs=0.05)
    assert 2 * generator_loss(fake).item() == pytest.approx(12.0, abs=0.05)
    half = [torch.full_like(v, 0.5) for v in real]
    assert 2 * discriminator_loss(half, half).item() == 2 * generator_loss(half).item() == 3.0


def test_start_values_of_the_other_games():
    zero = [torch.zeros(2, 1, 4, 4)] * 3
    assert 2 * discriminator_loss(zero, zero, "log").item() == pytest.approx(12 * math.log(2), rel=1e-6)
    assert 2 * generator_loss(zero, "log").item() == pytest.approx(6 * math.log(2), rel=1e-6)
    assert 2 * discriminator_loss(zero, zero, "hinge").item() == 12 and generator_loss(zero, "hinge").item() == 0


@quick
@given(st.floats(-8, 8), st.floats(-8, 8))
def test_log_is_equation_7(real, fake):
    """D minimises what equation 7 has it maximise; G wants the same verdict to grow."""
    r, f = ([torch.tensor([[value]], dtype=torch.float64)] for value in (real, fake))
    written = torch.log(torch.sigmoid(r[0])) + torch.log(1 - torch.sigmoid(f[0]))
    assert discriminator_loss(r, f, "log").item() == pytest.approx(-written.item(), rel=1e-6, abs=1e-9)
    assert generator_loss(f, "log").item() == pytest.approx(-math.log(1 / (1 + math.exp(-fake))), rel=1e-6, abs=1e-9)


@quick
@given(st.sampled_from(sorted(GAN_KINDS)), st.floats(0.05, 0.95))
def test_every_game_pulls_in_the_right_direction(kind, at):
    """Between the targets: D up on real, down on generated; G up on generated."""
    for function, sign in zip(GAN_KINDS[kind], (-1, 1, -1)):
        d = torch.tensor(at, dtype=torch.float64, requires_grad=True)
        slope = torch.autograd.grad(function(d), d)[0].item()
        assert slope * sign >= 0
    assert torch.autograd.grad(GAN_KINDS[kind][2](d), d)[0] < 0


@quick
@given(st.integers(1, 3), st.integers(0, 99))
def test_mean_over_verdicts_sum_over_scales(scales, seed):
    real, fake = ([draw(seed + k + n, 2, 1, 8 >> n, 4) for n in range(scales)] for k in (0, 10))
    assert discriminator_loss(real, fake).item() == pytest.approx(sum(((r - 1) ** 2).mean().item() + (f ** 2).mean().item() for r, f in zip(real, fake)))
    assert generator_loss(fake).item() == pytest.approx(sum(2 * ((f - 1) ** 2).mean().item() for f in fake))


@quick
@given(st.integers(3, 12), st.integers(3, 12), st.integers(0, 99))
def test_halving_counts_no_padding(height, width, seed):
    x = draw(seed, 1, 2, height, width)
    y = halve(x)
    assert y.shape[2:] == (-(-height // 2), -(-width // 2)) and halve(torch.ones_like(x)).eq(1).all()
    i, j = (height - 1) // 2, (width - 1) // 2
    window = x[:, :, max(2 * i - 1, 0):2 * i + 2, max(2 * j - 1, 0):2 * j + 2]
    assert torch.allclose(y[:, :, i, j], window.mean((2, 3)))


def test_scales_see_halved_images_and_share_nothing():
    D, x = small(), draw(0, 2, 3, 32, 24)
    found = D(x)
    for n, image in enumerate((x, halve(x), halve(halve(x)))):
        assert torch.equal(found[n], D.scales[n](image))
    assert len({id(p) for p in D.parameters()}) == 3 * len(list(D.scales[0].parameters()))


def test_an_image_is_judged_alone():
    """No batch statistics anywhere: the verdict on an image does not depend on its neighbours."""
    D, x = small(), draw(0, 4, 3, 32, 20)
    for alone, together in zip(D(x[:1]), D(x)):
        assert torch.allclose(alone, together[:1], atol=1e-12)


def test_receptive_field():
    net = PatchDiscriminator(4, 4).double()
    x = draw(0, 1, 3, 128, 128).requires_grad_()
    slope = torch.autograd.grad(net(x)[0, 0, 16, 16], x)[0].abs().sum((0, 1))
    rows = slope.sum(1).nonzero()
    assert rows.max() - rows.min() + 1 == 77


@quick
@given(st.integers(1, 4), st.integers(0, 999))
def test_r1_of_linear_critics(count, seed):
    """D(x) = <w, x>: the penalty is |w|^2 for any number of images, summed over scales."""
    w, x = draw(seed, 3, 4, 2), draw(seed + 1, count, 3, 4, 2).requires_grad_()
    assert gradient_penalty([(x * w).sum((1, 2, 3))], x).item() == pytest.approx(w.square().sum().item())
    assert gradient_penalty([x * w, 2 * x * w], x).item() == pytest.approx(5 * w.square().sum().item())


def test_r1_image_by_image():
    """Against the gradient of each image's and scale's summed verdicts, one at a time."""
    D, x = small(), draw(3, 3, 3, 24, 20)
    whole = x.clone().requires_grad_()
    found = gradient_penalty(D(whole), whole)
    lengths = []
    for image in x:
        for n in range(3):
            one = image[None].clone().requires_grad_()
            lengths.append(torch.autograd.grad(D(one)[n].sum(), one)[0].square().sum())
    assert found.item() == pytest.approx((sum(lengths) / 3).item(), rel=1e-9)


def test_r1_teaches_the_weights():
    """The penalty's gradient for the weights is that of finite differences."""
    D, x = small(blocks=0, scales=1), draw(1, 2, 3, 12, 12).requires_grad_()
    weight = D.scales[0].layers[1].conv.weight
    slope = torch.autograd.grad(gradient_penalty(D(x), x), weight)[0]
    direction = torch.zeros_like(weight)
    direction[0, 0, 1, 1] = 1e-5
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            weight.add_(sign * direction)
        values.append(gradient_penalty(D(x), x).item())
        with torch.no_grad():
            weight.sub_(sign * direction)
    assert (values[0] - values[1]) / 2e-5 == pytest.approx(slope[0, 0, 1, 1].item(), rel=1e-3, abs=1e-9)


def dirac(r1, iterations=300, rate=0.2):
    """Mescheder's example, by the explicit formulas: gradients of equation 7 and of R1 = psi^2."""
    theta = psi = 1.0
    for _ in range(iterations):
        sigma = 1 / (1 + math.exp(-psi * theta))
        psi -= rate * (sigma * theta + 2 * r1 * psi)
        theta += rate * psi / (1 + math.exp(-psi * theta))
    return math.hypot(theta, psi)


def test_dirac_pair_needs_r1():
    """With our functions the pair goes exactly where the formulas say: round for ever, or to rest."""
    for r1 in (0.0, 0.5):
        theta, psi = (torch.tensor(1.0, dtype=torch.float64, requires_grad=True) for _ in range(2))
        for _ in range(300):
            real = torch.zeros(1, 1, dtype=torch.float64, requires_grad=True)
            loss = discriminator_loss([psi * real], [psi * theta.detach().view(1, 1)], "log") + r1 * gradient_penalty([psi * real], real)
            psi = (psi - 0.2 * torch.autograd.grad(loss, psi)[0]).detach().requires_grad_()
            theta = (theta - 0.2 * torch.autograd.grad(-F.softplus(psi.detach() * theta), theta)[0]).detach().requires_grad_()
        assert math.hypot(theta.item(), psi.item()) == pytest.approx(dirac(r1), rel=1e-6, abs=1e-12)
    assert dirac(0.0) > 1.2 and dirac(0.5) < 1e-6


def test_half_precision_is_lifted():
    for dtype, wanted in ((torch.bfloat16, torch.float32), (torch.float16, torch.float32), (torch.float64, torch.float64)):
        assert precise(torch.ones(2, dtype=dtype)).dtype == wanted == generator_loss([torch.ones(2, dtype=dtype)]).dtype
    tiny = torch.full((1, 3, 4, 4), 1e-4, dtype=torch.float16)
    x = torch.zeros(1, 3, 4, 4, dtype=torch.float16, requires_grad=True)
    assert gradient_penalty([x * tiny], x).item() == pytest.approx(48e-8, rel=1e-2)


@pytest.mark.parametrize("action, words", [
    (lambda: generator_loss([torch.zeros(1)], "lsgam"), "lsgan"), (lambda: discriminator_loss([torch.zeros(1)], [torch.zeros(1)], "wgan"), "Valid"),
    (lambda: small()(draw(0, 1, 3, 16, 32)), "at least 17"), (lambda: gradient_penalty([torch.zeros(1)], torch.zeros(1)), "requires_grad_")])
def test_clear_errors(action, words):
    with pytest.raises(ValueError, match=words):
        action()


def test_smallest_image_that_works():
    assert [v.shape[2:] for v in small()(draw(0, 1, 3, 17, 17))] == [(5, 5), (3, 3), (2, 2)]


def test_different_numbers_of_scales_are_refused():
    with pytest.raises(ValueError):
        discriminator_loss([torch.zeros(1)] * 3, [torch.zeros(1)] * 2)
