"""G: its norms against their formulas, phases against the direct form, which code reaches which block, counts, and what it refuses."""
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dgnb.backbones import part_max_pool
from dgnb.dgnet.decoder import AdaptiveResidualBlock, Decoder, LayerNorm, StyleNetwork, UpBlock, adaptive_instance_norm, phase_kernels, upsampled_convolution
from dgnb.layers import count_parameters, layer_table
from dgnb.scales import seed_everything

sizes = dict(batch=st.integers(1, 3), channels=st.integers(1, 5), height=st.integers(2, 8), width=st.integers(2, 8), seed=st.integers(0, 999))


def normal(*shape, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype)


@given(**sizes)
@settings(max_examples=40, deadline=None)
def test_adain_is_its_equation(batch, channels, height, width, seed):
    seed_everything("adain", seed)
    x, scale, shift = normal(batch, channels, height, width) * 4 + 1, normal(batch, channels), normal(batch, channels)
    deviation = (x.var((2, 3), unbiased=False, keepdim=True) + 1e-5).sqrt()
    expected = scale[..., None, None] * (x - x.mean((2, 3), keepdim=True)) / deviation + shift[..., None, None]
    y = adaptive_instance_norm(x, scale, shift)
    assert torch.allclose(y, expected, atol=1e-10) and torch.allclose(y.mean((2, 3)), shift, atol=1e-10)
    assert torch.allclose(y.std((2, 3), unbiased=False), scale.abs() * (1 - 1e-5 / deviation.squeeze((2, 3)) ** 2).sqrt(), atol=1e-9)


def test_adain_gradients_and_no_one_plus():
    x, scale, shift = normal(2, 2, 3, 4).requires_grad_(), normal(2, 2).requires_grad_(), normal(2, 2).requires_grad_()
    assert torch.autograd.gradcheck(adaptive_instance_norm, (x, scale, shift))
    assert torch.allclose(adaptive_instance_norm(x, scale * 0, shift), shift[..., None, None].expand_as(x))
    assert torch.allclose(adaptive_instance_norm(torch.full((1, 1, 4, 4), 7.0), torch.ones(1, 1), torch.full((1, 1), 2.0)), torch.full((1, 1, 4, 4), 2.0), atol=1e-3)


def test_adaptive_block_takes_scale_shift_scale_shift():
    seed_everything("block")
    block, x, style = AdaptiveResidualBlock(3).double(), normal(2, 3, 6, 5), normal(2, 4, 3)
    first = F.leaky_relu(adaptive_instance_norm(block.first.conv(x), style[:, 0], style[:, 1]), 0.2)
    assert torch.allclose(block(x, style), x + adaptive_instance_norm(block.second.conv(first), style[:, 2], style[:, 3]))
    assert torch.allclose(block(x, style * 0), x)


def plain_layer_norm(x, weight, bias, eps):
    """As the equation stands: unbiased deviation, eps added to it."""
    deviation = x.flatten(1).std(1).view(-1, 1, 1, 1)
    return (x - x.mean((1, 2, 3), keepdim=True)) / (deviation + eps) * weight[:, None, None] + bias[:, None, None]


@given(**sizes, eps=st.sampled_from([1e-5, 0.1, 2.0]))
@settings(max_examples=40, deadline=None)
def test_layer_norm_value_and_gradients_are_the_formulas(batch, channels, height, width, seed, eps):
    seed_everything("layer", seed)
    norm = LayerNorm(channels, eps).double()
    norm.bias.data.normal_()
    x, cot = (normal(batch, channels, height, width) * 3 - 1).requires_grad_(), normal(batch, channels, height, width)
    expected = plain_layer_norm(x, norm.weight, norm.bias, eps)
    assert torch.allclose(norm(x), expected, atol=1e-12)
    inputs = (x, norm.weight, norm.bias)
    for mine, theirs in zip(torch.autograd.grad((norm(x) * cot).sum(), inputs), torch.autograd.grad((expected * cot).sum(), inputs)):
        assert torch.allclose(mine, theirs, atol=1e-10)


def test_layer_norm_of_a_flat_image_and_its_start():
    seed_everything("flat")
    norm = LayerNorm(400)
    assert norm.weight.min() >= 0 and norm.weight.max() < 1 and abs(norm.weight.mean().item() - 0.5) < 0.05 and not norm.bias.any()
    x = torch.full((2, 400, 3, 3), 5.0, requires_grad=True)
    norm(x).sum().backward()
    assert torch.allclose(norm(x), torch.zeros(()), atol=0.1) and torch.isfinite(x.grad).all()


@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_layer_norm_in_32_bits_is_as_good_as_in_64(offset):
    seed_everything("single")
    norm, x = LayerNorm(8), torch.randn(2, 8, 32, 16) + offset
    assert (norm(x).double() - plain_layer_norm(x.double(), norm.weight, norm.bias, norm.eps)).abs().max() < 1e-6 * max(1, offset)


def test_layer_norm_in_half_precision_measures_in_32_bits():
    seed_everything("half")
    norm = LayerNorm(4)
    x = (torch.randn(2, 4, 32, 16) + 30).bfloat16().requires_grad_()
    y = norm(x)
    y.float().square().sum().backward()
    assert (y.float() - plain_layer_norm(x.float(), norm.weight, norm.bias, norm.eps)).abs().max() < 1e-2
    assert x.grad.dtype == torch.bfloat16 and torch.isfinite(x.grad).all() and norm.weight.grad.dtype == torch.float32


def test_layer_norm_refuses_a_silently_wrong_second_derivative():
    x = normal(1, 2, 3, 3).requires_grad_()
    gradient, = torch.autograd.grad(LayerNorm(2).double()(x).pow(2).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiable"):
        gradient.sum().backward()


@given(batch=st.integers(1, 2), inputs=st.integers(1, 3), outputs=st.integers(1, 3), height=st.integers(2, 7), width=st.integers(2, 7), seed=st.integers(0, 999))
@settings(max_examples=60, deadline=None)
def test_phases_are_the_direct_form(batch, inputs, outputs, height, width, seed):
    seed_everything("phases", seed)
    conv = nn.Conv2d(inputs, outputs, 5, padding=2, padding_mode="reflect").double()
    x, cot = normal(batch, inputs, height, width).requires_grad_(), normal(batch, outputs, 2 * height, 2 * width)
    direct, phases = conv(F.interpolate(x, scale_factor=2, mode="nearest")), upsampled_convolution(x, conv)
    assert (direct - phases).abs().max() < 1e-12
    inputs = (x, conv.weight, conv.bias)
    for mine, theirs in zip(torch.autograd.grad((phases * cot).sum(), inputs), torch.autograd.grad((direct * cot).sum(), inputs)):
        assert (mine - theirs).abs().max() < 1e-12 * max(1, theirs.abs().max())


def test_phase_kernels_keep_the_sum_of_taps():
    weight = normal(3, 2, 5, 5)
    kernels = phase_kernels(weight)
    assert kernels.shape == (12, 2, 3, 3) and torch.allclose(kernels.sum((2, 3)), weight.sum((2, 3)).repeat_interleave(4, 0))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_up_blocks_agree_with_gradients(layout):
    seed_everything("up")
    blocks = {how: UpBlock(6, 4, how).double() for how in ("direct", "phases")}
    blocks["phases"].load_state_dict(blocks["direct"].state_dict())
    x, results = normal(2, 6, 8, 4), {}
    for how, block in blocks.items():
        leaf = x.clone(memory_format=layout).requires_grad_()
        y = block.to(memory_format=layout)(leaf)
        results[how] = [y, *torch.autograd.grad(y.pow(3).sum(), [leaf, *block.parameters()])]
    assert all(torch.allclose(a, b, atol=1e-10) for a, b in zip(*results.values()))


def test_up_block_refuses_other_ways():
    with pytest.raises(ValueError, match="unknown way to upsample 'phase'. Did you mean 'phases'"):
        UpBlock(4, 2, "phase")


def test_phases_save_multiplications():
    flops = {}
    for how in ("direct", "phases"):
        with torch.device("meta"), FlopCounterMode(display=False) as counter:
            nn.Sequential(UpBlock(128, 64, how), UpBlock(64, 32, how))(torch.zeros(1, 128, 64, 32))
        flops[how] = counter.get_total_flops()
    assert flops["direct"] / flops["phases"] > 2.7
    assert flops["direct"] == 2 * 25 * (128 * 64 * 128 * 64 + 64 * 32 * 256 * 128)


def test_chunks_are_channels_and_drive_one_block_each():
    seed_everything("chunks")
    net, maps = StyleNetwork(64, channels=3, blocks=4, hidden=8), torch.rand(2, 16, 8, 4, requires_grad=True)
    styles = net(part_max_pool(maps, 4).flatten(1))
    assert styles.shape == (2, 4, 4, 3)
    for k in range(4):
        gradient, = torch.autograd.grad(styles[:, k].sum(), maps, retain_graph=True)
        assert (gradient != 0).any(3).any(2).any(0).nonzero().flatten().tolist() == list(range(4 * k, 4 * k + 4))
        assert (gradient != 0).any(3).any(1).any(0).view(4, 2).any(1).all()  # all four stripes
    image_wise, = torch.autograd.grad(styles[0].sum(), maps)
    assert not image_wise[1].any()


def test_styles_are_in_the_released_order():
    net = StyleNetwork(8, channels=2, blocks=2, hidden=4)
    code = torch.randn(1, 8)
    scale, shift = net.scales[1](code[:, 4:]), net.shifts[1](code[:, 4:])
    assert torch.equal(net(code)[0, 1], torch.stack([scale[0, :2], shift[0, :2], scale[0, 2:], shift[0, 2:]]))


def test_table_7():
    with torch.device("meta"):
        net = Decoder(8192)
        table = layer_table(net, torch.zeros(1, 128, 64, 32), torch.zeros(1, 8192)).set_index("layer")
    assert table.parameters.tolist() == [11_544_576] + [295_168] * 4 + [204_992, 51_296, 9_248, 9_248, 99]
    assert table.output.tolist() == [(4, 4, 128)] + [(128, 64, 32)] * 4 + [(64, 128, 64)] + [(32, 256, 128)] * 3 + [(3, 256, 128)]
    assert count_parameters(net.blocks, net.up, net.out) == 1_455_555 and [count_parameters(m) for m in [*net.styles.scales, *net.styles.shifts]] == [1_443_072] * 8


def small_decoder(how="phases"):
    seed_everything("small decoder")
    return Decoder(16, 8, 4, 8, how)


def test_decoder_ways_agree_and_end_without_a_bound():
    structure, code = torch.randn(2, 8, 16, 8), torch.randn(2, 16)
    one, two = small_decoder("direct")(structure, code), small_decoder("phases")(structure, code)
    assert one.shape == (2, 3, 64, 32) and torch.allclose(one, two, atol=1e-4)
    net = small_decoder()
    net.out[2].conv.bias.data.fill_(50)
    assert net(structure, code).min() > 10
    assert torch.allclose(net.decode(structure, net.styles(code)), net(structure, code))


def test_decoder_images_do_not_interact():
    net, structure, code = small_decoder(), torch.randn(3, 8, 16, 8), torch.randn(3, 16)
    assert torch.allclose(net(structure, code)[1:2], net(structure[1:2], code[1:2]), atol=1e-4)


def test_decoder_in_channels_last_and_bfloat16():
    net, structure, code = small_decoder(), torch.randn(2, 8, 16, 8), torch.randn(2, 16)
    exact = net(structure, code).detach()
    last = net.to(memory_format=torch.channels_last)(structure.contiguous(memory_format=torch.channels_last), code)
    assert torch.allclose(last, exact, atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        coarse = net(structure, code).float()
    assert ((coarse - exact).square().mean() / exact.square().mean()).sqrt() < 0.05
    coarse.square().mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters())


def test_adain_in_half_precision_measures_in_32_bits():
    x = (torch.randn(2, 4, 64, 32) + 20).bfloat16()
    scale, shift = torch.randn(2, 4), torch.randn(2, 4)
    got, exact = adaptive_instance_norm(x, scale, shift).float(), adaptive_instance_norm(x.float(), scale, shift)
    assert (got - exact).abs().max() < 0.02 and (got - exact).mean((2, 3)).abs().max() < 1e-3  # a mean kept in 16 bits would be off by up to 0.06


def test_refusals():
    net = small_decoder()
    with pytest.raises(ValueError, match="10 numbers cannot be cut into 4"):
        Decoder(10, 8, 4)
    with pytest.raises(ValueError, match="B x 16, this one is 1 x 12"):
        net(torch.zeros(1, 8, 4, 4), torch.zeros(1, 12))
    with pytest.raises(ValueError, match="1 x 4 x 4: flatten it"):
        net(torch.zeros(1, 8, 4, 4), torch.zeros(1, 4, 4))
    with pytest.raises(ValueError, match="maps of 8 channels, this one is 1 x 6 x 4 x 4"):
        net(torch.zeros(1, 6, 4, 4), torch.zeros(1, 16))
