"""E_s: what its layers forget, its shapes and counts, and what it refuses."""
import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dgnb.dgnet.structure import ASPP, ConvBlock, InstanceNorm, ResidualBlock, StructureEncoder, grey
from dgnb.layers import count_parameters, layer_table
from dgnb.scales import generator, seed_everything


def random_images(*shape, seed=0):
    return torch.randn(*shape, generator=generator("images", seed))


def test_grey_is_the_mean_of_channels():
    x = random_images(2, 3, 4, 5)
    assert torch.allclose(grey(x), (x[:, :1] + x[:, 1:2] + x[:, 2:]) / 3)
    assert not torch.allclose(grey(x)[:, 0], (x * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1), atol=0.1)


@given(batch=st.integers(1, 3), channels=st.integers(1, 5), height=st.integers(2, 9), width=st.integers(2, 9), seed=st.integers(0, 999))
@settings(max_examples=40, deadline=None)
def test_instance_norm_of_a_block_is_the_formula(batch, channels, height, width, seed):
    seed_everything("instance", seed)
    block = ConvBlock(channels, 3, 1, norm="instance", act=False).double()
    x = torch.randn(batch, channels, height, width, dtype=torch.float64) * 3 + 1
    y = F.conv2d(x, block.conv.weight, block.conv.bias)
    expected = (y - y.mean((2, 3), keepdim=True)) / (y.var((2, 3), unbiased=False, keepdim=True) + 1e-5).sqrt()
    assert torch.allclose(block(x), expected, atol=1e-10)


def test_a_block_pads_by_reflection_then_normalises_then_acts():
    block = ConvBlock(2, 4, 5, stride=2, norm="instance").double()
    x = random_images(2, 2, 12, 10).double()
    y = F.conv2d(F.pad(x, (2, 2, 2, 2), mode="reflect"), block.conv.weight, block.conv.bias, stride=2)
    assert torch.allclose(block(x), F.leaky_relu(F.instance_norm(y), 0.2)) and (block(x) < 0).any()
    wide = ConvBlock(2, 4, dilation=3).double()
    y = F.conv2d(F.pad(x, (3,) * 4, mode="reflect"), wide.conv.weight, wide.conv.bias, dilation=3)
    assert torch.allclose(wide(x), F.leaky_relu(y, 0.2))


def test_start_weights_are_kaiming_with_zero_bias():
    seed_everything("start")
    block = ConvBlock(64, 128)
    assert not block.conv.bias.any() and abs(block.conv.weight.std().item() - (2 / (64 * 9)) ** 0.5) < 1e-3


def test_unknown_norm():
    with pytest.raises(ValueError, match="unknown normalisation 'instanse'. Did you mean 'instance'"):
        ConvBlock(1, 1, norm="instanse")


def test_residual_block_adds_and_does_not_act():
    block = ResidualBlock(4, "instance")
    x = random_images(2, 4, 8, 8)
    assert torch.allclose(block(x), x + block.second(block.first(x))) and (block(x) < 0).any()
    block.second.conv.weight.data.zero_()
    assert torch.allclose(block(x), x)


@given(contrast=st.floats(0.2, 5), brightness=st.floats(-3, 3), seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_light_does_not_matter(contrast, brightness, seed):
    seed_everything("light", seed)
    net, x = StructureEncoder(4, 1, (1, 2)).double(), random_images(1, 3, 32, 16, seed=seed).double()
    assert (net(x) - net(contrast * x + brightness)).abs().max() < 2e-2 / min(1, contrast) ** 2


def test_hue_does_not_matter_when_grey_and_does_otherwise():
    x = random_images(1, 3, 64, 32)
    other = x + torch.tensor([0.7, -0.5, -0.2])[:, None, None] * random_images(1, 1, 64, 32, seed=1)
    for inputs, same in ((1, True), (3, False)):
        seed_everything("hue")
        net = StructureEncoder(8, 1, (1, 2, 3), inputs=inputs)
        assert torch.allclose(net(x), net(other), atol=1e-2) is same


def test_output_is_standardised():
    maps = StructureEncoder(4, 1, (1, 2, 3))(random_images(3, 3, 64, 32))
    assert maps.shape == (3, 32, 16, 8)
    assert maps.mean((2, 3)).abs().max() < 1e-5 and (maps.std((2, 3), unbiased=False) - 1).abs().max() < 1e-2


def test_images_do_not_interact_and_modes_are_alike():
    net, x = StructureEncoder(4, 1, (1, 2, 3)), random_images(4, 3, 64, 32)
    assert torch.allclose(net(x)[1:2], net(x[1:2]), atol=1e-4) and torch.equal(net(x), net.eval()(x))
    assert not list(net.buffers())


def test_table_6():
    with torch.device("meta"):
        net = StructureEncoder()
        table = layer_table(net, torch.zeros(1, 3, 256, 128))
    assert table.output.tolist() == [(16, 128, 64), (32, 128, 64), (32, 128, 64)] + [(64, 64, 32)] * 5 + [(128, 64, 32)]
    assert table.parameters.tolist() == [160, 4640, 9248, 18496] + [73856] * 4 + [52576] and count_parameters(net) == 380_544


@pytest.mark.parametrize("dilation", [1, 2, 3])
def test_a_branch_sees_as_far_as_its_dilation(dilation):
    branch = copy.deepcopy(ASPP(3, 3, 3, (dilation,)).branches[1]).double()
    for block in branch:
        block.norm = nn.Identity()
    x = random_images(1, 3, 11, 11).double().requires_grad_()
    branch(x)[0, :, 5, 5].sum().backward()
    seen = x.grad[0].abs().sum(0).nonzero()
    assert len(seen) == 9 and set(seen.flatten().tolist()) == {5 - dilation, 5, 5 + dilation}


@given(height=st.integers(1, 12), width=st.integers(1, 12), dilations=st.lists(st.integers(1, 10), min_size=1, max_size=3))
@settings(max_examples=60, deadline=None)
def test_pyramid_works_or_names_the_mend(height, width, dilations):
    net, x = ASPP(2, 2, 2, dilations), torch.ones(2, 2, height, width)
    if max(dilations) < min(height, width):
        assert net(x).shape == x.shape
    else:
        with pytest.raises(ValueError, match=rf"{height}x{width} is too small for dilation {max(dilations)}.*dilations=\(1, 2, 3\)"):
            net(x)


def test_refusals():
    with pytest.raises(ValueError, match="16x8 is too small for dilation 9"):
        StructureEncoder(4)(torch.zeros(1, 3, 64, 32))
    with pytest.raises(ValueError, match="66x32 .* multiples of 4"):
        StructureEncoder(4, 1, (1,))(torch.zeros(1, 3, 66, 32))
    with pytest.raises(ValueError, match="inputs=2"):
        StructureEncoder(inputs=2)


def test_channels_last_gives_the_same():
    seed_everything("last")
    net, x = StructureEncoder(4, 1, (1, 2, 3)).double(), random_images(2, 3, 64, 32).double()
    expected, grads = net(x), torch.autograd.grad(net(x).pow(3).sum(), net.parameters())
    last = net.to(memory_format=torch.channels_last)
    got = last(x.contiguous(memory_format=torch.channels_last))
    assert torch.allclose(got, expected, atol=1e-10)
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(torch.autograd.grad(got.pow(3).sum(), last.parameters()), grads))


def test_bfloat16_keeps_statistics_in_32_bits():
    seed_everything("bf16")
    x = (random_images(2, 4, 64, 32) + 20).bfloat16()
    y = InstanceNorm(4)(x).float()
    assert (y - F.instance_norm(x.float())).abs().max() < 0.02 and y.mean((2, 3)).abs().max() < 1e-3  # a mean kept in 16 bits would be off by up to 0.06
    assert torch.allclose(InstanceNorm(4)(x.float()), nn.InstanceNorm2d(4)(x.float()), rtol=1e-5, atol=1e-5)
    net, images = StructureEncoder(8, 1, (1, 2, 3)), random_images(2, 3, 64, 32)
    with torch.autocast("cpu", torch.bfloat16):
        coarse = net(images).float()
    exact = net(images)
    assert (coarse - exact).square().mean().sqrt() < 0.05 and coarse.mean((2, 3)).abs().max() < 0.02
    coarse.square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters())
