"""Pictures to be shown, people from noise, and other towns: right answers where they are known, faults, and the recipes."""
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dgnb.baseline import baseline_settings, baseline_spec
from dgnb.dgnet.joint import dgnet_spec
from dgnb.dgnet.showing import (MIDDLE, bend, cut_sheet, edges, grid_spec, judge_spec, measure_grid, named, pack_sheet, shown_people, steps_of, three_people)
from dgnb.dgnet.step import dgnet_settings
from dgnb.dgnet.swaps import swap_pairs
from dgnb.dgnet.transfer import evaluate_on, transfer_spec
from dgnb.dgnet.unconditional import (LSGANSettings, NoisePainter, distance, dssim_by_person, from_noise, load_painter, lsgan_settings, lsgan_spec, realism_lost, resampled_distances,
                                      resampled_losses, shuffled, swapped_people, two_halves)
from dgnb.run_store import RunSpec, RunStore, RunStoreError
from dgnb.worlds import make_world

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def world():
    return make_world("mannequin-market", scale="smoke")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return RunStore(local=folder, shipped=folder)


def noise_tiles(rows: int, columns: int, height: int = 16, width: int = 8, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (rows, columns, 3, height, width), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


# ------------------------------------------------------------------------------------------------------- sheets

@settings(max_examples=20, deadline=None)
@given(rows=st.integers(1, 4), columns=st.integers(1, 5), seed=st.integers(0, 9))
def test_tiles_come_back_in_their_places(rows, columns, seed):
    """Flat tiles survive JPEG to a level or two, each in its place."""
    colours = torch.randint(0, 256, (rows, columns, 3, 1, 1), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    tiles = colours.expand(-1, -1, -1, 16, 8).contiguous()
    back = cut_sheet(pack_sheet(tiles), rows, columns)
    assert back.shape == tiles.shape and (back.int() - tiles.int()).abs().max() <= 3


def test_a_sheet_keeps_to_its_room_by_quality_and_then_refuses():
    tiles = noise_tiles(4, 8, 64, 32)
    free = pack_sheet(tiles, 10**6)
    tight = pack_sheet(tiles, len(free) * 2 // 3)
    assert len(tight) <= len(free) * 2 // 3
    with pytest.raises(ValueError, match="do not fit into 500 bytes"):
        pack_sheet(tiles, 500)


def test_large_tiles_are_averaged_down():
    tiles = torch.zeros(1, 2, 3, 256, 128, dtype=torch.uint8)
    tiles[..., ::2] = 200
    back = cut_sheet(pack_sheet(tiles), 1, 2)
    assert back.shape == (1, 2, 3, 128, 64) and (back.int() - 100).abs().max() <= 2


# --------------------------------------------------------------------------------------------- who, and how near

def test_shown_people_are_different_and_do_not_depend_on_the_count_beyond_all(world):
    for count in (1, 3, 8, 100):
        people = [world.query[n].pid for n in shown_people(world, count)]
        assert len(people) == len(set(people)) == min(count, 8) and people == sorted(people)


def test_named_takes_the_nearest():
    gallery = torch.eye(3)
    assert named(gallery[[2, 0]], gallery, [type("R", (), {"pid": p}) for p in (7, 8, 9)]).tolist() == [9, 7]


class Paints:
    """Stands in for a DG-Net: paints what it is told to."""

    def __init__(self, world, what):
        from dgnb.augmentation import normalise
        self.settings, self.device, self.world, self.what, self.normalise = dgnet_settings("smoke"), "cpu", world, what, normalise
        self.appearance = self.structure = self.decoder = torch.nn.Identity()

    def swap(self, a, s):
        return {"appearance": a, "structure": s}.get(self.what, self.what)


@pytest.mark.parametrize("what", ["structure", "appearance", "truth"])
def test_each_painter_is_nearest_to_what_it_copies(world, what, monkeypatch):
    """Copying a donor, or the truth, is found out in pixels and in the judge's feature."""
    from dgnb.augmentation import normalise
    from dgnb.backbones import build_network
    from dgnb.dgnet import showing
    pairs = swap_pairs(world, 12)
    true = normalise(world.swap(pairs.appearance, pairs.structure).images.permute(0, 3, 1, 2).contiguous())
    monkeypatch.setattr(showing, "reconstruct", lambda model, part: (part * 0).to(torch.uint8))
    torch.manual_seed(0)
    judge = build_network(4, "resnet10t", 16, truncate=2).eval()
    found = measure_grid(Paints(world, true if what == "truth" else what), judge, world, pairs)
    for kind in ("psnr", "cos"):
        mine, others = found[f"{kind}_{what}"], [found[f"{kind}_{other}"] for other in ("truth", "appearance", "structure") if other != what]
        assert all((mine >= other - 1e-6).all() for other in others), kind
    assert found["as_structure"].dtype == bool and (what != "structure" or (found["as_structure"] == found["real_as_itself"]).all())


def test_pairs_of_three_people(world):
    people = three_people(world, 20)
    pids = np.array([[world.query[n].pid for n in row] for row in people])
    assert people.shape == (20, 3) and (pids[:, 0] != pids[:, 1]).all() and (people[:5] == three_people(world, 5)).all()


# ------------------------------------------------------------------------------------------------------- between

def walk_of(weights) -> torch.Tensor:
    first, last = noise_tiles(1, 2, 32, 16, seed=3)[0].float()
    return torch.stack([first + w * (last - first) for w in weights]).round().to(torch.uint8)[None]


def test_an_even_fade_is_even_straight_and_loses_edges():
    fade = walk_of(torch.linspace(0, 1, 11))
    assert steps_of(fade).sum() == pytest.approx(1) and steps_of(fade)[0] == pytest.approx(np.full(10, 0.1), abs=0.005)
    assert bend(fade)[0] < 0.01
    kept = edges(fade)[0] / edges(fade)[0, [0, -1]].mean()
    assert kept[5] == pytest.approx(2**-0.5, abs=0.03) and np.argmin(kept) == 5


def test_a_switch_is_all_in_the_middle():
    switch = walk_of([0.0] * 5 + [1.0] * 6)
    assert steps_of(switch)[0, MIDDLE].sum() == pytest.approx(1) and bend(switch)[0] == pytest.approx(0.5, abs=0.01)
    assert (edges(switch)[0, 1:5] == edges(switch)[0, 0]).all()


def test_a_row_that_stands_still_has_numbers():
    still = walk_of([0.0] * 11)
    assert np.isfinite(steps_of(still)).all() and bend(still)[0] == 0


# ------------------------------------------------------------------------------------------------------ from noise

def test_painter_and_settings_refuse_what_cannot_work():
    with pytest.raises(ValueError, match="multiples of 16"):
        NoisePainter((60, 32))
    with pytest.raises(ValueError, match="batch must be at least 2"):
        LSGANSettings(batch=1)
    with pytest.raises(ValueError, match="LSGAN setting"):
        lsgan_settings("smoke", noize=3)
    assert NoisePainter((128, 64), width=4)(torch.zeros(1, 64)).shape == (1, 3, 128, 64)


def test_lsgan_trains_and_comes_back(world, store):
    run = store.get(lsgan_spec(world, lsgan_settings("smoke", iterations=3)), train=True, progress="off")
    painter = load_painter(run)
    assert torch.equal(from_noise(painter, 3), from_noise(painter, 3)) and len(torch.unique(from_noise(painter, 2).flatten(1), dim=0)) == 2
    assert run.metrics["images_seen"] == 24 and np.isfinite(run.metrics["loss_adv"])
    with pytest.raises(RunStoreError, match="not of 'lsgan'"):
        load_painter(store.get(baseline_spec(world, baseline_settings("smoke", epochs=1)), train=True, progress="off"))


def test_halves_do_not_share_a_picture(world):
    a, b = two_halves(world, 100)
    assert len(a) == len(b) == 24 and not set(a) & set(b)
    assert len(two_halves(world, 5)[0]) == 5


def test_nobody_is_swapped_with_themselves(world):
    """A painter who copies the structure donor shows somebody else."""
    records = two_halves(world, 24)[1]
    copied = swapped_people(Paints(world, "structure"), world, records)
    own = torch.from_numpy(np.stack([world.read_image(record) for record in records])).permute(0, 3, 1, 2)
    assert ((copied.float() - own.float()).abs().mean((1, 2, 3)) > 5).all()


def test_distances_and_their_resamples():
    draw = np.random.default_rng(0)
    base, near, far = (draw.normal(mean, 1, (200, 3)) for mean in (0, 0, 1))
    assert distance(base, base) == pytest.approx(0, abs=1e-6) and distance(far, base) == pytest.approx(3, rel=0.25)
    again = resampled_distances(base, {"near": near, "far": far}, 10)
    assert (again["far"] > again["near"]).all()
    assert np.array_equal(resampled_distances(base, {"near": near, "far": far}, 10)["far"], again["far"])


def test_what_is_lost_halfway_is_what_the_middle_moved():
    draw = np.random.default_rng(0)
    ends, reference = draw.normal(size=(60, 2, 3)), draw.normal(size=(80, 3))
    between = lambda middle: np.stack([ends[:, 0], middle, ends[:, 1]], 1)
    still, moved = (between(ends[:, 0] + shift) for shift in (0, 3))
    (first, last), middle = (distance(ends[:, k], reference) for k in (0, 1)), distance(ends[:, 0] + 3, reference)
    assert realism_lost(still, reference) == pytest.approx((first - last) / 2)
    assert realism_lost(moved, reference) == pytest.approx(middle - (first + last) / 2)
    again = resampled_losses({"still": still, "moved": moved}, reference, 4)
    assert again["moved"].shape == (4,) and (again["moved"] > again["still"]).all()
    np.testing.assert_array_equal(resampled_losses({"moved": moved}, reference, 4)["moved"], again["moved"])  # each kind has the same rows, whatever stands beside it


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 4), st.integers(0, 99))
def test_shuffled_pixels_are_the_same_pixels(count, seed):
    images = torch.arange(count * 3 * 5 * 4).remainder(251).to(torch.uint8).view(count, 3, 5, 4)
    moved = shuffled(images, seed)
    colours = lambda x: [sorted(map(tuple, one.flatten(1).T.tolist())) for one in x]
    assert colours(moved) == colours(images) and not torch.equal(moved, images), "whole pixels move, channels stay together"


def test_diversity_by_person():
    same = noise_tiles(1, 1, 16, 16)[0].repeat(4, 1, 1, 1)
    assert dssim_by_person(same, np.array([1, 1, 2, 2])) == pytest.approx([0, 0], abs=1e-6)
    other = noise_tiles(1, 4, 16, 16)[0]
    assert (dssim_by_person(other, np.array([1, 1, 2, 2])) > 0.3).all() and len(dssim_by_person(other, np.array([1, 1, 1, 2]))) == 1
    with pytest.raises(ValueError, match="no pair"):
        dssim_by_person(other, np.arange(4))


# ---------------------------------------------------------------------------------------------------- another town

def test_transfer_at_home_is_the_test_at_home(world, store):
    """The same scores as the training measured; elsewhere, the foreign set's queries."""
    run = store.get(baseline_spec(world, baseline_settings("smoke", epochs=1)), train=True, progress="off")
    home = store.get(transfer_spec(run.spec, world), train=True, progress="off")
    assert np.allclose(home.per_query["ap_step"], run.per_query["ap_step"], atol=1e-6)
    foreign = make_world("mannequin-duke", scale="smoke")
    away = store.get(transfer_spec(run.spec, foreign), train=True, progress="off")
    assert len(away.per_query["ap_step"]) == len(foreign.query) and away.metrics["trained_on"] == "mannequin-market" and away.spec.key != home.spec.key
    with pytest.raises(RunStoreError, match="can be tested elsewhere"):
        evaluate_on(store.get(lsgan_spec(world, lsgan_settings("smoke", iterations=3)), train=True, progress="off"), world)


def test_judge_is_the_tricks_baseline_and_no_teacher(world):
    of = dgnet_spec(world, dgnet_settings("smoke"))
    assert judge_spec(of) == baseline_spec(world, baseline_settings("smoke", "tricks")) and judge_spec(of).key != RunSpec(**of.as_dict()["settings"]["teacher"]).key
    large = dgnet_spec(make_world("mannequin-market", scale="laptop"), dgnet_settings("laptop"))
    assert judge_spec(large) == baseline_spec(make_world("mannequin-market", scale="laptop"), baseline_settings("laptop", "tricks"))


def test_grid_run_is_small_and_repeats(world, store):
    spec = grid_spec(dgnet_spec(world, dgnet_settings("smoke", iterations=2, warmup_start=1)), people=3, pairs=8)
    run = store.get(spec, train=True, progress="off")
    assert sum(facts["bytes"] for facts in run.record["files"].values()) < 100_000
    assert cut_sheet(run.per_query["sheet"], 3, 3).shape == (3, 3, 3, 64, 32) and len(run.per_query["psnr_truth"]) == 8


def test_a_sheet_of_noise_is_made_smaller():
    """What an untrained painter paints at the published size, four rows of eleven, is kept in 40,000 bytes, smaller; what fits stays as it is."""
    tiles = torch.randint(0, 256, (4, 11, 3, 256, 128), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    noisy = torch.nn.functional.interpolate(torch.randn(44, 3, 32, 16, generator=torch.Generator().manual_seed(0)), (128, 64)).mul(60).add(128).clamp(0, 255).to(torch.uint8)
    assert cut_sheet(pack_sheet(noisy.unflatten(0, (4, 11)), 40_000), 4, 11).shape in ((4, 11, 3, 64, 32), (4, 11, 3, 32, 16))
    assert cut_sheet(pack_sheet(tiles, 10**6), 4, 11).shape == (4, 11, 3, 128, 64)
