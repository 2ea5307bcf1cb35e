"""G_s: masks and units, composition to the bit, fills, windows measured by autograd, counts, learning, and what it refuses."""
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from dgnb.layers import count_parameters
from dgnb.occluders import band_edges
from dgnb.scales import generator, seed_everything
from dgnb.vrstc.spatial import Decoder, Encoder, SpatialStructureGenerator, band_masks, check_frames, compose, fill_hole, to_levels, to_signed


def frames(batch=2, height=16, width=8, *seed):
    return torch.rand(batch, 3, height, width, generator=generator("frames", *seed)) * 2 - 1


def holes(batch=2, height=16, width=8, *seed):
    mask = (torch.rand(batch, 1, height, width, generator=generator("holes", *seed)) > 0.5).float()
    mask[:, :, 0, 0], mask[:, :, -1, -1] = 0, 1
    return mask


def test_levels_come_back():
    every = torch.arange(256).to(torch.uint8)
    assert torch.equal(to_levels(to_signed(every)), every)
    assert to_signed(every).min() == -1 and to_signed(every).max() == 1 and to_levels(torch.tensor([-3.0, 3.0])).tolist() == [0, 255]
    assert torch.equal(to_levels(to_signed(every).bfloat16()), every)


@given(hidden=st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=4), height=st.integers(3, 130), width=st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_band_masks_hide_their_bands(hidden, height, width):
    mask, edges = band_masks(torch.tensor(hidden), (height, width)), band_edges(height)
    assert mask.shape == (len(hidden), 1, height, width) and mask.dtype == torch.float32
    for row, flags in zip(mask, hidden):
        for k, flag in enumerate(flags):
            assert (row[:, edges[k]:edges[k + 1]] == float(flag)).all()


BITS = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.int16, torch.float64: torch.int64}


@given(seed=st.integers(0, 999), kind=st.sampled_from(list(BITS)), painter=st.sampled_from([torch.float32, torch.bfloat16]), boolean=st.booleans())
@settings(max_examples=40, deadline=None)
def test_outside_the_hole_nothing_changes_a_bit(seed, kind, painter, boolean):
    x, mask = frames(2, 16, 8, seed).to(kind), holes(2, 16, 8, seed)
    x[0, 0, 0, 0] = -0.0
    painted = torch.where(mask > 0, 0.25, torch.tensor(float("nan"))).expand_as(x).to(painter)
    out, outside = compose(painted, x, mask > 0 if boolean else mask), (mask == 0).expand_as(x)
    if torch.promote_types(kind, painter) == kind:
        assert out.dtype == kind and torch.equal(out[outside].view(BITS[kind]), x[outside].view(BITS[kind]))
    assert torch.equal(out[outside].double(), x[outside].double()) and (out[~outside] == 0.25).all()


def test_generator_returns_the_rest_to_the_bit_also_in_half_precision_and_when_it_is_broken():
    seed_everything("bits")
    net, x, mask = SpatialStructureGenerator(4), frames(2, 32, 16), holes(2, 32, 16)
    outside = (mask == 0).expand_as(x)
    with torch.autocast("cpu", torch.bfloat16):
        out = net(x, mask)
    assert torch.equal(out[outside], x[outside]) and out.dtype == torch.float32
    net.decoder.layers[-2].bias.data.fill_(float("nan"))
    out = net(x, mask)
    assert torch.equal(out[outside], x[outside]) and out[~outside].isnan().all()


def test_what_is_in_the_hole_is_not_seen():
    seed_everything("blind")
    for fill in (0.0, 1.0, "mean"):
        net, x, mask = SpatialStructureGenerator(4, fill=fill), frames(2, 32, 16), holes(2, 32, 16)
        other = torch.where(mask > 0, torch.tensor(float("nan")), x)
        inside = (mask > 0).expand_as(x)
        assert torch.equal(net(x, mask)[inside], net(other, mask)[inside]) and not net(other, mask).isnan().any()


def test_nothing_is_learnt_from_outside_the_hole():
    painted, x, mask = frames(2, 16, 8, "p").requires_grad_(), frames(), holes()
    (compose(painted, x, mask) - x).abs().sum().backward()
    assert torch.equal(painted.grad != 0, (mask > 0).expand_as(x))


def test_fills():
    x, mask = frames(), holes()
    inside = (mask > 0).expand_as(x)
    assert (fill_hole(x, mask)[inside] == 0).all() and (fill_hole(x, mask, 1)[inside] == 1).all() and (fill_hole(x, mask, -0.5)[inside] == -0.5).all()
    mean = fill_hole(x, mask, "mean")
    for n in range(len(x)):
        for c in range(3):
            expected = x[n, c][mask[n, 0] == 0].mean()
            assert torch.allclose(mean[n, c][mask[n, 0] > 0], expected, atol=1e-6)
    assert torch.equal(mean[~inside], x[~inside]) and fill_hole(x.bfloat16(), mask).dtype == torch.bfloat16
    for bad in (255, 1.5, float("nan"), "white"):
        with pytest.raises(ValueError, match="-1..1"):
            fill_hole(x, mask, bad)


def window(encoder: Encoder, size=288) -> torch.Tensor:
    image = torch.rand(1, 3, size, size, dtype=torch.float64, generator=generator("window"), requires_grad=True)
    maps = encoder.double()(image)
    maps[0, :, maps.shape[2] // 2, maps.shape[3] // 2].sum().backward()
    return image.grad[0].abs().sum(0) > 0


@pytest.mark.parametrize("dilations, pixels", [((), 21), ((1,) * 4, 53), ((2, 4, 8, 16), 261), ((1, 2, 4, 8), 141)])
def test_receptive_field_without_gaps(dilations, pixels):
    seed_everything("window")
    seen = window(Encoder(width=1, dilations=dilations))
    assert seen.any(0).sum() == seen.any(1).sum() == pixels and seen.sum() == pixels**2


def test_counts():
    assert count_parameters(Encoder()) == 3_468_800 and count_parameters(SpatialStructureGenerator()) == 4_126_083
    assert count_parameters(SpatialStructureGenerator(last=False)) == 3_999_363
    assert count_parameters(SpatialStructureGenerator(mask_channel=True)) == 4_126_083 + 9 * 64
    assert count_parameters(SpatialStructureGenerator(norm=True)) == 4_126_083 + 2 * (64 + 128 + 128 + 256 * 6 + 128 + 64)
    assert count_parameters(Encoder(width=192)) == 31_197_696


@pytest.mark.parametrize("options", [{}, {"mask_channel": True}, {"kernel": 3}, {"last": False}, {"norm": True}, {"fill": "mean"}, {"dilations": (1, 3)}, {"kernel": 3, "last": False}])
@pytest.mark.parametrize("size", [(128, 64), (32, 20)])
def test_every_setting_paints(options, size):
    seed_everything("settings")
    net = SpatialStructureGenerator(2, **options)
    x, mask = frames(2, *size), holes(2, *size)
    out = net(x, mask)
    assert out.shape == x.shape and out.abs().max() <= 1 and torch.equal(net.eval()(x, mask.bool()), net(x, mask))
    assert net.encoder(torch.zeros(1, 3 + options.get("mask_channel", False), *size)).shape == (1, 8, size[0] // 4, size[1] // 4)
    out.sum().backward()
    assert all(torch.isfinite(p.grad).all() and p.grad.any() for p in net.parameters() if p.ndim > 1)


def test_mask_channel_tells_a_hole_from_a_grey_garment():
    seed_everything("channel")
    x, mask = frames(1, 32, 16), holes(1, 32, 16)
    grey = fill_hole(x, mask)
    less = mask.clone()
    less[mask.nonzero(as_tuple=True)[0][:1], 0, -1, -1] = 0  # that grey pixel is now said to be seen
    inside = (less > 0).expand_as(x)
    without, having = SpatialStructureGenerator(4), SpatialStructureGenerator(4, mask_channel=True)
    assert torch.equal(without(grey, mask)[inside], without(grey, less)[inside]) and not torch.equal(having(grey, mask)[inside], having(grey, less)[inside])


def test_even_kernels_paint_no_checkerboard():
    for kernel, even in ((4, True), (3, False)):
        decoder = Decoder(1, 1, kernel=kernel)
        up = decoder.layers[0]
        up.weight.data.fill_(1.0)
        with torch.no_grad():
            inner = up(torch.ones(1, 1, 8, 8))[0, 0, 4:-4, 4:-4]
        assert (inner.unique().numel() == 1) == even
    with pytest.raises(ValueError, match="kernel=5"):
        Decoder(4, kernel=5)


def test_start_keeps_signals_alive():
    """PyTorch's own start loses nearly everything in nine layers, He's keeps it in sight."""
    seed_everything("start")
    encoder, x = Encoder(width=16), frames(4, 64, 32)
    with torch.no_grad():
        he = encoder(x).std()
        for layer in encoder.layers[::2]:
            layer.reset_parameters()
        assert 0.1 < he < 2 and he > 4 * encoder(x).std()


def test_it_learns_what_the_rest_tells():
    """Frames of one colour each: the hole's colour is that of the rest."""
    seed_everything("one colour")
    g, net, steps = generator("one colour"), SpatialStructureGenerator(6), 150
    optimizer = torch.optim.Adam(net.parameters(), 0.005)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.005, total_steps=steps)
    mask = band_masks(torch.tensor([[False, True, False]]), (32, 16)).expand(8, -1, -1, -1)
    colours = lambda: (torch.rand(8, 3, 1, 1, generator=g) * 1.6 - 0.8).expand(-1, -1, 32, 16)
    inside = mask.expand(-1, 3, -1, -1) > 0
    for _ in range(steps):
        x = colours()
        loss = F.l1_loss(net(x, mask)[inside], x[inside])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    x = colours()
    with torch.no_grad():
        assert (net(x, mask) - x).abs()[inside].mean() < 0.15 < x.abs().mean() / 2


@pytest.mark.parametrize("x, mask, words", [
    (torch.zeros(2, 3, 70, 32), torch.zeros(2, 1, 70, 32), "70x32 .* multiples of 4"),
    (torch.zeros(2, 3, 64, 30), torch.zeros(2, 1, 64, 30), "multiples of 4"),
    (torch.zeros(2, 3, 64, 32), torch.zeros(2, 64, 32), "2 x 1 x 64 x 32"),
    (torch.zeros(2, 3, 64, 32), torch.zeros(1, 1, 64, 32), "this one is 1 x 1"),
    (torch.zeros(2, 3, 64, 32), torch.zeros(2, 3, 64, 32), "this one is 2 x 3"),
    (torch.zeros(2, 3, 64, 32), torch.zeros(2, 1, 32, 64), "band_masks"),
    (torch.zeros(2, 3, 64, 32), torch.ones(2, 1, 64, 32), "all of frame 0"),
    (torch.zeros(2, 4, 64, 32), torch.zeros(2, 1, 64, 32), "B x 3 x H x W"),
    (torch.zeros(3, 64, 32), torch.zeros(1, 64, 32), "B x 3 x H x W"),
    (torch.zeros(2, 3, 64, 32, dtype=torch.uint8), torch.zeros(2, 1, 64, 32), "to_signed"),
])
def test_refusals_in_one_line(x, mask, words):
    net = SpatialStructureGenerator(1)
    with pytest.raises(ValueError, match=words) as error:
        net(x, mask)
    assert "\n" not in str(error.value)


def test_which_frame_is_all_hole_is_said_and_no_hole_is_no_mistake():
    mask = torch.zeros(3, 1, 8, 8)
    mask[1] = 1
    with pytest.raises(ValueError, match="all of frame 1"):
        check_frames(torch.zeros(3, 3, 8, 8), mask)
    x = frames(2, 16, 8)
    assert torch.equal(SpatialStructureGenerator(1)(x, torch.zeros(2, 1, 16, 8)), x)
    assert SpatialStructureGenerator(1)(x[:0], torch.zeros(0, 1, 16, 8)).shape == (0, 3, 16, 8)
