"Bodies, rays, cloth, scenes and the renderer: closed forms against brute force, invariances, determinism."
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dgnb.bodies import HAIR, OTHER, PARTS, SHOES, SLOTS, UPPER, capsules, skeleton, view_matrix
from dgnb.cloth import noise, noise_table, wave
from dgnb.people import sample_appearance, sample_body, take
from dgnb.rays import meet, ray_constants, shape_space
from dgnb.rendering import render
from dgnb.scenes import PLACES, backdrop, make_cameras, sample_moments

torch.set_num_threads(1)


def people(n, key=("test", 0), **changes):
    "Factors of n images of n people, one camera each of six."
    index = np.arange(n)
    cameras = make_cameras(key, 6)
    looks, body = sample_appearance((*key, "looks"), index), sample_body((*key, "body"), index)
    moments = sample_moments((*key, "moment"), index, index, index % 6, cameras)
    for name, value in changes.items():
        table = next(t for t in (looks, body, moments) if name in t)
        table[name] = np.full_like(table[name], value)
    return looks, body, moments


def march(a, b, radii, scale, axes, x, y, steps=4001):
    "Depth at which a ray along -z meets a flattened tapered capsule, by trying thousands of spheres."
    inverse = (axes / scale**2) @ axes.T
    t = np.linspace(0, 1, steps)[:, None]
    centre, radius = a + t * (b - a), radii[0] + t[:, 0] * (radii[1] - radii[0])
    dx, dy = x - centre[:, 0], y - centre[:, 1]
    qa = inverse[2, 2]
    qb = 2 * (inverse[2, 0] * dx + inverse[2, 1] * dy)
    qc = inverse[0, 0] * dx**2 + inverse[1, 1] * dy**2 + 2 * inverse[0, 1] * dx * dy - radius**2
    disc = qb**2 - 4 * qa * qc
    z = np.where(disc >= 0, centre[:, 2] + (-qb + np.sqrt(np.maximum(disc, 0))) / (2 * qa), -np.inf)
    return z.max()


coordinate = st.floats(-1, 1)


@given(st.tuples(*[coordinate] * 6), st.tuples(*[st.floats(0.1, 0.5)] * 2), st.tuples(*[st.floats(0.4, 1.3)] * 3),
       st.floats(0, 360), coordinate, coordinate)
@settings(max_examples=120, deadline=None)
def test_rays_meet_capsules_where_brute_force_says(ends, radii, scale, yaw, x, y):
    a, b = np.array(ends[:3]), np.array(ends[3:])
    axes = view_matrix(np.array([yaw]), 20.0, 10.0)[0]
    j, turn = shape_space(axes, np.array(scale))
    d = j @ (b - a)
    if (radii[1] - radii[0]) ** 2 >= 0.9 * (d[0] ** 2 + d[1] ** 2):
        return  # seen end on: one ball hides the other and the form is an approximation
    one = lambda v: np.asarray(v, float)[None, None]
    shape = dict(a=one(a), b=one(b), radius=one(radii), j=j[None, None], soft=one(0.001))
    c = {name: torch.as_tensor(value) for name, value in ray_constants(shape).items()}
    z, t, q, cover = meet(torch.tensor([x], dtype=torch.float64), torch.tensor([y], dtype=torch.float64), c)
    truth = march(a, b, radii, np.array(scale), axes, x, y)
    if np.isfinite(truth) and q.item() > 1e-3:
        assert z.item() == pytest.approx(truth, abs=2e-3)
    assert (q.item() > 0) == np.isfinite(truth) or abs(q.item()) < 1e-3


def test_shape_space_makes_capsules_round_and_keeps_rays():
    axes, scale = view_matrix(np.array([30.0, 200.0]), 15.0), np.array([[1.0, 0.5, 0.7], [0.4, 1.0, 1.2]])
    j, turn = shape_space(axes, scale)
    assert np.allclose(j[:, 0, 1], 0) and np.allclose(j[:, 0, 2], 0) and np.allclose(j[:, 1, 2], 0)
    assert np.allclose(turn @ np.swapaxes(turn, 1, 2), np.eye(3))


def test_views_turn_people():
    ahead, up = np.array([0, 0, 1.0]), np.array([0, 1.0, 0])
    view = view_matrix(np.array([0.0, 90.0, 180.0]), 0.0)
    assert np.allclose(view @ ahead, [[0, 0, 1], [1, 0, 0], [0, 0, -1]])
    assert np.allclose(view @ up, up)
    assert (view_matrix(np.array([180.0]), 20.0) @ ahead)[0, 1] > 0  # seen from above, what is farther stands higher


def test_bones_keep_their_length_and_feet_the_ground():
    looks, body, moments = people(40)
    rest, lows = None, []
    for phase in np.linspace(0, 1, 9):
        size, joints = skeleton(body, moments | {"phase": np.full(40, phase)})
        bones = [np.linalg.norm(joints[f"{s} {p}"] - joints[f"{s} {q}"], axis=1) for s in ("left", "right")
                 for p, q in (("hip", "knee"), ("knee", "ankle"), ("shoulder", "elbow"), ("elbow", "wrist"))]
        rest = bones if rest is None else rest
        assert all(np.allclose(a, b, rtol=0.01) for a, b in zip(bones, rest))
        lows.append(np.minimum(joints["left ankle"][:, 1], joints["right ankle"][:, 1]))
    assert np.allclose(lows, 0.075)


def test_half_a_step_later_left_and_right_have_changed_places():
    looks, body, moments = people(12)
    moments["arm_left"] = moments["arm_right"] = np.zeros(12, int)
    _, now = skeleton(body, moments)
    _, later = skeleton(body, moments | {"phase": (moments["phase"] + 0.5) % 1})
    for joint in ("knee", "ankle", "wrist"):
        assert np.allclose(now[f"left {joint}"] * (-1, 1, 1), later[f"right {joint}"], atol=1e-9)


def test_every_slot_is_used_by_someone():
    shapes = capsules(*people(400))
    assert shapes["on"].any(0).all(), [s for s, used in zip(SLOTS, shapes["on"].any(0)) if not used]
    assert (shapes["radius"][shapes["on"]] > 0.02).all() and (shapes["radius"] < 0.5).all()


def test_waves_and_noise():
    x = torch.linspace(0, 4, 4001)
    assert wave(x, 0.5).mean().item() == pytest.approx(0.5, abs=0.01) and wave(x).min() == 0 and wave(x).max() == 1
    table = noise_table().reshape(256, 256)
    assert table.mean().item() == pytest.approx(0.5, abs=1e-4) and table.std().item() == pytest.approx(0.25, abs=1e-3)
    u = torch.rand(100) * 500 - 250
    assert torch.allclose(noise(u, u * 2), noise(u + 256, u * 2 - 512), atol=1e-3)  # repeats without a seam
    assert (noise(u, u) - noise(u + 1e-4, u)).abs().max() < 1e-2  # continuous


@pytest.mark.parametrize("size", [(64, 32), (128, 64), (256, 128)])
def test_truth_maps_agree_with_one_another(size):
    out = render(*people(12), size=size)
    assert out.images.shape == (12, *size, 3) and out.images.dtype == torch.uint8
    assert out.parts.shape == out.silhouette.shape == out.depth.shape == (12, *size)
    assert out.parts.max() < len(PARTS)
    assert torch.equal(out.silhouette, (out.parts > 0) & (out.parts != OTHER))
    assert (out.depth[~out.silhouette] == 0).all()
    share = out.silhouette.float().mean((1, 2))
    assert (share > 0.08).all() and (share < 0.6).all()


def test_images_do_not_depend_on_batch_or_order():
    tables, order = people(21), np.random.default_rng(0).permutation(21)
    whole = render(*tables, size=(64, 32))
    for batch in (1, 7, 64):
        again = render(*(take(t, order) for t in tables), size=(64, 32), batch=batch)
        for field in ("images", "parts", "silhouette", "depth"):
            assert torch.equal(getattr(again, field), getattr(whole, field)[order]), (batch, field)


def test_images_do_not_depend_on_threads():
    tables = people(6)
    one = render(*tables).images
    torch.set_num_threads(2)
    try:
        assert torch.equal(render(*tables).images, one)
    finally:
        torch.set_num_threads(1)


def test_truth_does_not_change_the_image():
    tables = people(5)
    out = render(*tables, size=(64, 32), truth=False)
    assert out.parts is None and torch.equal(out.images, render(*tables, size=(64, 32)).images)


def test_a_swap_moves_clothes_and_nothing_else():
    looks, body, moments = people(16, neighbour=0.0, lower_type=0, upper_type=1, logo=0, pattern=0, hem=0.0)
    other = {name: np.roll(values, 5, axis=0) for name, values in looks.items()}
    first, swapped = render(looks, body, moments), render(other, body, moments)
    assert torch.equal(first.parts, swapped.parts)  # the same garment types: the same shape, to the pixel
    assert torch.equal(first.depth, swapped.depth)
    changed = (first.images.int() - swapped.images.int()).abs().amax(-1)
    far = torch.nn.functional.max_pool2d((first.parts > 0).float(), 9, 1, 4) == 0
    assert changed[far].max() == 0 and changed[first.parts == UPPER].float().mean() > 10
    hair = torch.nn.functional.max_pool2d((first.parts != HAIR).float(), 5, 1, 2) == 0
    assert changed[hair].float().mean() < 1


def test_clothes_show_their_colour():
    "Under a neutral camera the mean colour of the upper garment is nearest to its own palette entry among far apart ones."
    colours = {"black": (0.07, 0.07, 0.08), "white": (0.9, 0.9, 0.9), "red": (0.74, 0.12, 0.13), "blue": (0.14, 0.3, 0.66),
               "yellow": (0.92, 0.78, 0.2), "green": (0.16, 0.47, 0.26)}
    looks, body, moments = people(60, pattern=0, logo=0, upper_type=1, bag=0, gain=1.0, level=1.0, gamma=1.0, saturation=1.0, haze=0.0)
    names = list(colours)
    looks["upper_rgb"] = np.array([colours[names[i % 6]] for i in range(60)])
    out = render(looks, body, moments)
    palette, right = torch.tensor(list(colours.values())), 0
    for i in range(60):
        mean = out.images[i][out.parts[i] == UPPER].float().mean(0) / 255
        right += int(((palette - mean) ** 2).sum(1).argmin() == i % 6)
    assert right >= 55


def test_faces_look_at_the_camera():
    shown = [render(*people(12, yaw=yaw, turn=0.0, hat=0, hair_style=1, neighbour=0.0)).parts for yaw in (0.0, 180.0)]
    face = [(parts == PARTS.index("face")).sum((1, 2)) for parts in shown]
    assert (face[0] > 4 * face[1] + 10).all()


def test_backpacks_show_from_behind():
    area = [(render(*people(12, yaw=yaw, bag=1, neighbour=0.0)).parts == PARTS.index("bag")).sum((1, 2)) for yaw in (0.0, 180.0)]
    assert (area[1] > 1.5 * area[0]).all() and area[1].sum() > 3 * area[0].sum()  # from the front only straps and rims show


def test_absent_people_leave_the_scene():
    out = render(*people(4, presence=0, neighbour=0.0))
    assert not out.silhouette.any() and out.images.float().std() > 5


def test_people_stand_in_the_crop():
    parts = render(*people(60, neighbour=0.0)).parts
    rows = (parts > 0).any(2)
    top, bottom = rows.float().argmax(1), 128 - rows.flip(1).float().argmax(1)
    assert 0 <= top.float().median() < 16 and 116 < bottom.float().median() <= 128
    feet = (parts == SHOES).any(2).float().argmax(1)
    assert feet.float().median() > 100


def test_backdrops_differ_between_cameras_and_are_stable():
    first = backdrop(11, 0, 128)
    assert first.shape == (3, 192, 704) and first.dtype == torch.uint8
    backdrop.cache_clear()
    assert torch.equal(backdrop(11, 0, 128), first)
    means = torch.stack([backdrop(11, place, 64).float().mean((1, 2)) for place in range(len(PLACES))])
    assert (torch.cdist(means, means) + 99 * torch.eye(len(PLACES))).min() > 1


def test_cameras_see_colours_differently():
    tables = people(1, neighbour=0.0, upper_rgb=0.6, lower_rgb=0.6, pattern=0, upper_type=1)
    moments = {name: np.repeat(v, 6, 0) for name, v in tables[2].items()}
    cameras = make_cameras(("test", 0), 6)
    moments["gain"], moments["level"] = cameras["gain"], cameras["exposure"]
    out = render(*({k: np.repeat(v, 6, 0) for k, v in t.items()} for t in tables[:2]), moments)
    means = torch.stack([out.images[i][out.silhouette[i]].float().mean(0) for i in range(6)])
    assert (means.max(0).values - means.min(0).values).max() > 10  # grey levels, on the same grey clothes


def test_empty_batch():
    tables = tuple(take(t, np.array([], int)) for t in people(2))
    assert render(*tables, size=(64, 32)).images.shape == (0, 64, 32, 3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_agrees_with_cpu_within_one_grey_level():
    tables = people(64)
    a, b = render(*tables), render(*tables, device="cuda")
    assert (a.images.int() - b.images.cpu().int()).abs().max() <= 1 and torch.equal(a.parts, b.parts.cpu())
