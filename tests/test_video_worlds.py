"Walks, occluders and video worlds: protocols, determinism, twins and masks, dials, and image worlds left as they were."
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dgnb import rendering, video_worlds, worlds
from dgnb.obstacles import THINGS, VARIANTS, thing, thing_size
from dgnb.occluders import KINDS, Occlusion, band_edges, hidden_bands, render_film, sample_occluders
from dgnb.people import sample_appearance, sample_body, take
from dgnb.rendering import render
from dgnb.scenes import make_cameras
from dgnb.tracklets import unmatched_queries
from dgnb.video_worlds import CAMERAS_SEEN, LENGTHS, MEAN_LENGTH, VIDEO_SCALES, VIDEO_WORLDS, draw_halves, draw_lengths, make_video_world
from dgnb.walks import Pace, drift, lay_frames, walk_moments

torch.set_num_threads(1)
SPLITS = ("train", "query", "gallery")
KEY = ("test", 0)


def town(lengths, occlusion=Occlusion(share=1.0), first=0):
    "Tables of a few walkers: frames, and what `render_film` takes."
    people = np.arange(first, first + len(lengths))
    cameras, body = make_cameras(KEY, 6), sample_body((*KEY, "b"), people)
    frames = lay_frames(people * 64 + 1, lengths)
    moments = walk_moments(KEY, frames, people % 6, cameras, body["height"])
    occluders = sample_occluders(KEY, frames, moments["yaw"], body["height"], occlusion)
    return frames, take(sample_appearance((*KEY, "a"), people), frames.tracklet), take(body, frames.tracklet), moments, occluders


@pytest.fixture(scope="module")
def mars():
    return make_video_world("mannequin-mars", occlusion={"share": 1.0, "duration": (0.5, 0.9)})


# --- what was there before is as it was -----------------------------------------------------------------------------------

def test_image_worlds_are_what_they_were():
    assert (rendering.RENDERER_VERSION, worlds.WORLD_VERSION, video_worlds.VIDEO_WORLD_VERSION) == (1, 1, 1)
    world = worlds.make_world("mannequin-market")
    means = world.render(range(0, 48, 6), truth=False).images.float().mean((1, 2, 3))
    assert world.fingerprint == "bde561035c04c362"
    assert torch.allclose(means, torch.tensor([137.39, 118.86, 129.63, 83.71, 116.59, 95.96, 143.02, 114.81]), atol=0.05)  # grey levels; the last bit may differ between machines


def test_a_film_without_occluders_is_what_the_renderer_draws():
    frames, *tables, occluders = town([6] * 6, Occlusion(share=0.0))
    for size in ((64, 32), (128, 64)):
        film, reference = render_film(*tables, occluders, size, batch=7), render(*tables, size)
        assert torch.equal(film.images, reference.images) and torch.equal(film.twins, reference.images)
        assert torch.equal(film.parts, reference.parts) and torch.equal(film.silhouette, reference.silhouette) and not film.cover.any()


# --- walks ----------------------------------------------------------------------------------------------------------------

@given(st.lists(st.integers(1, 60), min_size=1, max_size=6), st.data())
@settings(max_examples=25, deadline=None)
def test_a_tracklet_does_not_depend_on_its_neighbours_in_the_table(lengths, data):
    people = np.arange(len(lengths)) + 3
    cameras, height = make_cameras(KEY, 6), 1.5 + 0.05 * people
    frames = lay_frames(people * 64, lengths)
    moments = walk_moments(KEY, frames, people % 6, cameras, height)
    occluders = sample_occluders(KEY, frames, moments["yaw"], height, Occlusion(share=1.0))
    k = data.draw(st.integers(0, len(lengths) - 1))
    one = lay_frames(people[k:k + 1] * 64, lengths[k:k + 1])
    alone = walk_moments(KEY, one, people[k:k + 1] % 6, cameras, height[k:k + 1])
    assert all(np.array_equal(alone[name], moments[name][frames.tracklet == k]) for name in moments)
    alone = sample_occluders(KEY, one, alone["yaw"], height[k:k + 1], Occlusion(share=1.0))
    assert all(np.array_equal(alone[name], occluders[name][frames.tracklet == k]) for name in occluders)


@given(st.integers(0, 10**6), st.floats(1, 30))
@settings(max_examples=40, deadline=None)
def test_drift_is_smooth_and_bounded(passage, pace):
    value = drift(KEY, lay_frames([passage], [80]), pace)
    assert np.abs(value).max() <= 1 and np.abs(np.diff(value)).max() <= 2 * np.sin(np.pi / 2 * min(1, 1 / pace)) + 1e-9


def test_people_walk():
    frames, _, body, moments, _ = town([40] * 40)
    phase = moments["phase"].reshape(40, 40)
    step = (np.diff(phase, axis=1) % 1)
    assert np.allclose(step, step[:, :1]) and 0.02 < np.median(step) < 0.12  # the gait advances evenly
    walking = moments["stride"].reshape(40, 40)[:, 0] > 0.3
    assert (step[walking, 0] > step[~walking, 0].max(initial=0)).all()
    turned = np.abs((moments["yaw"].reshape(40, 40)[:, -1] - moments["yaw"].reshape(40, 40)[:, 0] + 180) % 360 - 180)
    assert np.median(turned) < 40 and turned.max() > 60  # mostly straight, somebody turns
    sideways = np.abs(np.sin(np.radians(moments["yaw"].reshape(40, 40)))).mean(1)
    passed = np.ptp(moments["backdrop_x"].reshape(40, 40), axis=1)
    assert np.corrcoef(sideways[walking], passed[walking])[0, 1] > 0.3
    for name in ("backdrop_x", "backdrop_y"):
        assert 0 <= moments[name].min() and moments[name].max() < 1


def test_dials_of_the_pace():
    people, cameras = np.arange(30), make_cameras(KEY, 6)
    frames = lay_frames(people, [30] * 30)
    make = lambda **pace: walk_moments(KEY, frames, people % 6, cameras, np.full(30, 1.7), Pace(**pace))
    calm, usual = make(jitter=0.0, shake=0.0), make()
    assert np.abs(calm["shift_x"]).max() == 0 and usual["shift_x"].std() > 0.01
    assert np.ptp(calm["backdrop_y"].reshape(30, 30), axis=1).max() == 0 < np.ptp(usual["backdrop_y"].reshape(30, 30), axis=1).min()
    assert np.allclose((np.diff(make(cycle=7.0)["phase"][:30]) % 1)[0], 2 * (np.diff(usual["phase"][:30]) % 1)[0])


def test_background_people_stay_behind():
    _, _, _, moments, _ = town([30] * 40)
    assert (moments["neighbour"] != 0).any() and (moments["neighbour_far"] > 0).all()


# --- occluders ------------------------------------------------------------------------------------------------------------

@given(st.integers(3, 90), st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_bands_cover_all_rows_and_differ_by_one(height, bands):
    edges = band_edges(height, bands)
    sizes = np.diff(edges)
    assert edges[0] == 0 and edges[-1] == height and sizes.max() - sizes.min() <= 1 and list(sizes) == sorted(sizes, reverse=True) or bands == 3 and height % 3 != 0
    assert band_edges(128) == (0, 43, 86, 128)


@given(st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_hidden_bands_by_counting(seed):
    rng = np.random.default_rng(seed)
    person, cover = rng.random((2, 20, 6)) < 0.5, rng.random((2, 20, 6)) < 0.4
    found = hidden_bands(torch.from_numpy(person & cover), torch.from_numpy(person))
    for b in range(2):
        for k, (a, z) in enumerate(zip((0, 7, 14), (7, 14, 20))):
            assert np.isclose(found[b, k], (person & cover)[b, a:z].sum() / max(person[b, a:z].sum(), 1))


def test_films_do_not_depend_on_the_batch():
    frames, *tables = town([9, 4, 7, 6, 8, 5])
    whole = render_film(*tables)
    order = np.random.default_rng(0).permutation(len(frames.n))
    shuffled = render_film(*(take(table, order) for table in tables), batch=5)
    for name in ("images", "twins", "cover", "parts"):
        assert torch.equal(getattr(whole, name)[order], getattr(shuffled, name))


def test_twins_differ_only_near_the_occluder():
    frames, *tables, occluders = town([12] * 12, Occlusion(share=1.0, kinds=(1, 1, 0, 1, 1)))  # spokes of bicycles cover less than half of a pixel
    for size, reach in (((64, 32), 3), ((128, 64), 4)):
        film = render_film(*tables, occluders, size)
        differ = (film.images != film.twins).any(-1)
        near = torch.nn.functional.max_pool2d(film.cover[:, None].float(), 2 * reach + 3, 1, reach + 1)[:, 0] > 0
        touched = film.cover.flatten(1).any(1)
        far = differ & ~near & touched[:, None, None]  # a sliver that covers less than half of a pixel is not in the mask
        assert touched.any() and far.sum() <= 0.002 * differ.sum()
        assert not far.any() or (film.images.int() - film.twins.int()).abs().amax(-1)[far].max() < 20
        assert (differ & film.cover).sum() > 0.97 * film.cover.sum()
        assert torch.equal(film.hidden, film.cover & film.silhouette)


def test_every_kind_hides_somebody():
    for number, kind in enumerate(KINDS[1:]):
        weights = tuple(float(k == number) for k in range(len(KINDS) - 1))
        _, *tables, occluders = town([10] * 6, Occlusion(share=1.0, severity=(0.6, 1.0), kinds=weights))
        assert set(occluders["kind"]) == {number + 1}
        assert render_film(*tables, occluders).hidden.flatten(1).sum(1).max() > 100, kind


def test_share_only_adds_occluded_tracklets():
    kinds = [town([5] * 60, Occlusion(share=share))[-1]["kind"].reshape(60, 5)[:, 0] for share in (0.0, 0.3, 0.7, 1.0)]
    counts = [(kind > 0).sum() for kind in kinds]
    assert counts[0] == 0 < counts[1] < counts[2] < counts[3] == 60 and 9 < counts[1] < 28
    for less, more in zip(kinds, kinds[1:]):
        assert (more[less > 0] == less[less > 0]).all()


@pytest.mark.parametrize("dial", ["severity", "height", "duration"])
def test_dials_hide_more(dial):
    base = dict(share=1.0, severity=(0.5, 0.5), height=(0.7, 0.7), duration=(0.5, 0.5))
    hidden = []
    for level in (0.05, 0.5, 1.0):
        frames, *tables = town([8] * 14, Occlusion(**{**base, dial: (level, level)}))
        film = render_film(*tables)
        share = (film.hidden.sum((1, 2)) / film.silhouette.sum((1, 2))).reshape(14, 8)
        hidden.append(float((share > 0.01).float().mean()) if dial == "duration" else float(share.max(1).values.mean()))
    assert hidden[0] + 0.05 < hidden[1] < hidden[2] - 0.02, hidden


def test_duration_is_the_number_of_touched_frames():
    "By the law of crossing: the outlines overlap in `duration` of the frames."
    frames, _, _, _, table = town([50] * 80, Occlusion(share=1.0, duration=(0.4, 0.4)))
    touching = (np.abs(table["x"]) < table["reach"] + 0.28).reshape(80, 50).sum(1)
    assert (np.abs(touching - 20) <= 5).mean() > 0.7 and touching.max() <= 21


def test_branches_hide_from_the_head_down():
    weights = (0, 0, 0, 0, 1)
    frames, *tables, occluders = town([10] * 30, Occlusion(share=1.0, height=(0.4, 0.4), severity=(0.8, 0.8), kinds=weights))
    film, above = render_film(*tables, occluders), occluders["above"]
    touched = (film.hidden.flatten(1).sum(1) > 30).numpy()
    assert 0.1 < above.mean() < 0.6
    bands = film.bands.numpy()
    assert (bands[touched & above, 0] > bands[touched & above, 2]).mean() > 0.9 and (bands[touched & ~above, 0] < bands[touched & ~above, 2]).mean() > 0.9


def test_things_are_cut_out():
    for kind in THINGS:
        for variant in (0, VARIANTS - 1):
            picture = thing(kind, variant)
            assert picture.shape[0] == 4 and 0 <= picture.min() and picture.max() <= 1 + 1e-6 and (picture[:3] <= picture[3:] + 1e-6).all()
            half = thing(kind, variant, 1)
            assert abs(float(half[3].mean() - picture[3].mean())) < 0.03 and min(thing_size(kind)) > 0


@pytest.mark.parametrize("change, message", [({"share": 1.5}, "share=1.5: give a number from 0 to 1"), ({"duration": (0.5, 20)}, "within 0..1"), ({"height": (0.9, 0.2)}, "within 0..1"),
                                             ({"kinds": (1, 2)}, "give 5 weights, for person, pole, bicycle, car, bush"), ({"kinds": (0,) * 5}, "give 5 weights")])
def test_impossible_occlusions_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Occlusion(**change)


# --- worlds ---------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("layout", LENGTHS)
def test_lengths_follow_the_fact_sheet(layout):
    lengths = draw_lengths(KEY, np.arange(40_000), layout)
    for share, frames in LENGTHS[layout].items():
        if 0 < share < 0.96:  # beyond, the curve is too steep to be measured by counting
            assert abs(np.quantile(lengths, share) / frames - 1) < 0.05
    assert min(LENGTHS[layout].values()) <= lengths.min() and lengths.max() <= max(LENGTHS[layout].values()) and abs(lengths.mean() / MEAN_LENGTH[layout] - 1) < 0.12
    scaled = draw_lengths(KEY, np.arange(40_000), layout, mean=15, shortest=8, longest=32)
    assert scaled.min() == 8 and scaled.max() == 32 and 12 < scaled.mean() < 20


@pytest.mark.parametrize("name", VIDEO_WORLDS)
@pytest.mark.parametrize("scale", VIDEO_SCALES)
def test_protocol(name, scale):
    world, kind, sizes = make_video_world(name, scale), VIDEO_WORLDS[name], VIDEO_SCALES[scale]
    for split in SPLITS:
        records = getattr(world, split)
        assert list(records) == sorted(records) and len({r.name for r in records}) == len(records) and all(1 <= r.camid <= kind.cameras for r in records)
        assert all(sizes.shortest <= r.length <= sizes.longest and len(r.numbers) == r.length and r.gaps == 0 for r in records)
    identity = {split: {int(world.table.identity[r.index]) for r in getattr(world, split)} for split in SPLITS}
    assert not identity["train"] & (identity["query"] | identity["gallery"]) and not {r.pid for r in world.train} & {r.pid for r in world.gallery}
    assert not unmatched_queries(world)
    if kind.layout == "mars":
        assert world.queries_in_gallery and len({(q.pid, q.camid) for q in world.query}) == len(world.query) and len(unmatched_queries(world, False)) > 0
        pids = [r.pid for r in world.gallery]
        assert pids.count(0) == sizes.distractors and pids.count(-1) == sizes.junk and min(q.pid for q in world.query) > 0
        assert scale == "smoke" or len(world.query) >= (1000 if scale == "laptop" else 900)
    elif kind.layout == "ilids-vid":
        assert {q.camid for q in world.query} == {1} and {r.camid for r in world.gallery} == {2} and len(world.query) == len(world.gallery) == sizes.people // 2
        assert world.num_train_identities == sizes.people // 2 and len(world.train) == 2 * (sizes.people // 2)
    else:
        assert not world.queries_in_gallery and len(world.query) == len({q.pid for q in world.query}) == sizes.test_identities
        strangers = [r for r in world.gallery if r.pid not in {q.pid for q in world.query}]
        assert len(strangers) == len({r.pid for r in strangers}) == sizes.distractors
        assert {r.numbers[0] for r in world.train} == {1, 2} or scale == "smoke"


def test_cameras_seen_as_in_mars():
    world = make_video_world("mannequin-mars", train_identities=4000, tracklets=13.3)
    people = world.table[world.table.split == "train"].groupby("identity")
    seen = np.bincount(people.camera.nunique(), minlength=7)[1:] / 4000
    assert np.abs(seen - np.array(CAMERAS_SEEN) / sum(CAMERAS_SEEN)).max() < 0.025 and abs(people.size().mean() - 13.3) < 0.6


def test_ten_halves():
    splits = [make_video_world("mannequin-ilids", split=k) for k in range(10)]
    assert len({frozenset(r.pid for r in s.train) for s in splits}) == 10 and len({s.fingerprint for s in splits}) == 10
    assert len({r.name for s in splits for r in s.tracklets}) == len(splits[0].tracklets)
    halves = draw_halves(KEY, 30)
    assert halves.shape == (10, 30) and all(sorted(row) == list(range(30)) for row in halves.tolist())


def test_a_frame_is_the_same_however_asked_for(mars):
    fresh = make_video_world("mannequin-mars", occlusion={"share": 1.0, "duration": (0.5, 0.9)})
    walk = mars.gallery[7]
    assert fresh.read_frame_bytes(walk, 2) == mars.prepare().read_frame_bytes(walk, 2)
    assert torch.equal(mars.film(walk, [1, 3]).images, mars.film([mars.gallery[2], walk]).images[-walk.length:][[1, 3]])
    bigger = make_video_world("mannequin-mars", occlusion={"share": 1.0, "duration": (0.5, 0.9)}, distractors=0, junk=0)
    same = next(r for r in bigger.gallery if r.name == walk.name)
    assert bigger.read_frame_bytes(same, 2) == mars.read_frame_bytes(walk, 2)


def test_seeds_settings_and_fingerprints(mars):
    plain = make_video_world("mannequin-mars")
    others = [plain, mars, make_video_world("mannequin-mars", seed=1), make_video_world("mannequin-mars", size=(128, 64)), make_video_world("mannequin-mars", longest=9), make_video_world("mannequin-dukevideo")]
    assert len({w.fingerprint for w in others}) == len(others) and make_video_world("mannequin-mars").fingerprint == plain.fingerprint
    assert plain.film(0).images.shape[1:] == (64, 32, 3) and not torch.equal(plain.film(0, [0]).images, others[2].film(0, [0]).images)


def test_the_same_walks_without_occluders_are_the_twins(mars):
    free = make_video_world("mannequin-mars", occlusion={"share": 0.0})
    film = mars.film(mars.query[:3])
    assert torch.equal(free.film(free.query[:3]).images, film.twins) and film.hidden.any()
    twins = mars.read_twins(mars.query[0])
    frames, film = mars.read_tracklet(mars.query[0]), mars.film(mars.query[0])
    for n in range(mars.query[0].length):
        if torch.equal(film.images[n], film.twins[n]):
            assert np.array_equal(frames[n], twins[n])


def test_occlusion_table(mars):
    table, film = mars.occlusions(mars.query[:4]), mars.film(mars.query[:4])
    assert len(table) == len(film.images) and np.allclose(table[["upper", "middle", "lower"]], film.bands)
    assert np.allclose(table.hidden, film.hidden.sum((1, 2)) / film.silhouette.sum((1, 2)))
    assert table.hidden.max() > 0.1 and (table.occluder != "none").all() and list(table.frame[:3]) == [0, 1, 2]


def test_files_have_the_format_of_the_set(mars):
    assert mars.read_frame_bytes(mars.train[0], 0)[:2] == b"\xff\xd8"
    ilids = make_video_world("mannequin-ilids", people=4)
    r = ilids.train[0]
    assert ilids.read_frame_bytes(r, 0)[1:4] == b"PNG" and np.array_equal(ilids.read_frame(r, 0), ilids.film(r, [0]).images[0])


def test_factors_say_who_is_who(mars):
    table = mars.factors
    assert len(table) == len(mars.tracklets) and list(table.name) == [r.name for r in mars.tracklets] and table.groupby("identity").upper_colour.nunique().max() == 1


@pytest.mark.parametrize("make, message", [
    (lambda: make_video_world("mannequin-market"), "unknown video world 'mannequin-market'; valid: mannequin-mars"), (lambda: make_video_world("mannequin-mars", "huge"), "unknown scale 'huge'"),
    (lambda: make_video_world("mannequin-mars", split=3), "has one split, 0"), (lambda: make_video_world("mannequin-ilids", split=10), "splits 0 to 9"),
    (lambda: make_video_world("mannequin-mars", train=3), "unknown setting 'train'"), (lambda: make_video_world("mannequin-mars", longest=2), "shortest=4 is more than longest=2"),
    (lambda: make_video_world("mannequin-mars", size=(100, 50)), "unknown size"), (lambda: make_video_world("mannequin-mars", seed=0.5), "give a whole number"),
    (lambda: make_video_world("mannequin-mars", occlusion={"amount": 1}), "unknown occlusion setting 'amount'; valid: share"),
    (lambda: make_video_world("mannequin-mars", train_identities=2.5), "give a whole number"), (lambda: make_video_world("mannequin-mars", device="tpu9"), "device='tpu9' cannot be used"),
    (lambda: make_video_world("mannequin-mars").film([0, 1], [0]), "needs one tracklet"), (lambda: make_video_world("mannequin-mars").film(9999), "use this world's own records")])
def test_what_cannot_be_made(make, message):
    with pytest.raises(ValueError, match=message):
        make()
