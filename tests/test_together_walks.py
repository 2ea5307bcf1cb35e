"""New people from old walks: who is made, who dresses them, the set, its description, and what it is measured by."""
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dgnb.augmentation import denormalise, normalise
from dgnb.dgnet.joint import DGNet, dgnet_spec
from dgnb.dgnet.step import dgnet_settings, make_networks
from dgnb.run_store import RunSpec, RunStore
from dgnb.together.walks import (DGNetTailor, SwappedSet, TrueTailor, against_true_swaps, draw_people, new_walks, recoloured_walk, same_steps, swapped_data,
                                 third_colours, true_swap, walk_swaps_spec, walks_spec)
from dgnb.video_worlds import make_video_world
from dgnb.vrstc.video_training import open_video_data, training_tracklets, video_data_spec, video_settings
from dgnb.worlds import decode_image, make_world


@pytest.fixture(scope="module")
def town():
    return make_video_world("mannequin-mars", "smoke", longest=5, mean_length=5, train_identities=5, distractors=1, junk=1)


@pytest.fixture(scope="module")
def tailor():
    torch.manual_seed(0)
    plan = dgnet_settings("smoke")
    nets = make_networks(plan, 4)
    return DGNetTailor(DGNet(nets.appearance, nets.structure, nets.decoder, plan).eval())


# who is made

@given(st.integers(2, 60), st.data())
def test_nobody_wears_their_own_and_nobody_lends_or_walks_twice(people, data):
    source = SimpleNamespace(name="set", train=[SimpleNamespace(pid=7 * n) for n in range(people)])
    wanted, seed = data.draw(st.integers(1, people)), data.draw(st.integers(0, 99))
    pairs = draw_people(source, wanted, seed)
    clothes, bodies = zip(*pairs)
    assert len(pairs) == wanted == len(set(clothes)) == len(set(bodies)) and all(a != b for a, b in pairs)
    assert {*clothes, *bodies} <= {7 * n for n in range(people)} and pairs == draw_people(source, wanted, seed)


@pytest.mark.parametrize(("have", "wanted"), [(5, 6), (5, 0), (1, 1)])
def test_more_people_than_there_are_cannot_be_made(have, wanted):
    source = SimpleNamespace(name="set", train=[SimpleNamespace(pid=n) for n in range(have)])
    with pytest.raises(ValueError, match="people to train on"):
        draw_people(source, wanted)


def test_all_walks_of_a_body_and_no_known_identity(town):
    made, pairs = new_walks(town, 3), draw_people(town, 3)
    assert sorted(walk for _, walk in made.values()) == sorted(r for r in town.train if r.pid in {body for _, body in pairs})
    assert all(record.length == walk.length and record.camid == walk.camid for record, (_, walk) in made.items())
    assert len({r.name for r in made} | {r.name for r in town.train}) == len(made) + len(town.train)
    assert {(giver.pid, walk.pid) for giver, walk in made.values()} == set(pairs) and min(r.pid for r in made) > max(r.pid for r in town.train)


# who dresses them

def test_the_renderer_changes_the_clothes_and_nothing_else(town):
    giver, walk = next(iter(new_walks(town, 5).values()))
    own, other = true_swap(town, walk, walk), true_swap(town, giver, walk)
    film = town.film(walk)
    assert torch.equal(own.images, film.images)
    assert torch.equal(other.cover, film.cover) and not torch.equal(other.images, film.images)
    person = film.silhouette | other.silhouette
    far = ~torch.nn.functional.max_pool2d(person[:, None].float(), 5, 1, 2)[:, 0].bool()
    assert (other.twins[far].int() - film.twins[far].int()).abs().float().mean() < 3  # streets stay, up to the shadow
    assert [frame.shape for frame in TrueTailor().dress(town, giver, walk)] == [(64, 32, 3)] * walk.length


def test_dgnet_paints_the_giver_on_the_walk(town, tailor):
    giver, walk = next(iter(new_walks(town, 5).values()))
    frames, model = tailor.dress(town, giver, walk), tailor.model
    images = lambda record: torch.from_numpy(np.stack(town.read_tracklet(record)).transpose(0, 3, 1, 2).copy())
    with torch.no_grad():
        code = model.appearance.codes(normalise(images(giver))).mean(0, keepdim=True)
        painted = denormalise(model.decoder(model.structure(normalise(images(walk))), code.expand(walk.length, -1)))
    assert len(frames) == walk.length and frames[0].dtype == np.uint8
    assert np.abs(np.stack(frames).transpose(0, 3, 1, 2).astype(int) - painted.numpy()).max() <= 1


def test_true_swaps_of_a_filmed_set_are_refused():
    with pytest.raises(ValueError, match="filmed, not rendered"):
        TrueTailor().dress(SimpleNamespace(name="a set"), None, None)


# the set

def test_old_people_stay_and_new_ones_are_painted_once(town, tailor):
    made = SwappedSet(town, tailor, 3, keep=2)
    new = [record for record in made.train if record not in set(town.train)]
    assert made.num_train_identities == 8 and made.query == town.query and made.gallery == town.gallery
    assert all(made.label_of[pid] == label for pid, label in town.label_of.items())
    assert np.array_equal(made.read_frame(town.train[0], 0), town.read_frame(town.train[0], 0)) and made.read_frame_bytes(town.train[0], 0) == town.read_frame_bytes(town.train[0], 0)
    first = [made.read_frame(record, record.length - 1) for record in new]
    assert len(made._painted) == 2
    assert all(np.array_equal(frame, made.read_frame(record, record.length - 1)) for record, frame in zip(new, first))
    assert np.array_equal(decode_image(made.read_frame_bytes(new[0], 0)), made.read_frame(new[0], 0))
    cache = training_tracklets(made, (64, 32))
    place = cache.records.index(new[1])
    assert np.array_equal(cache.pixels[cache.offsets[place] + new[1].length - 1].permute(1, 2, 0).numpy(), first[1])


def test_fingerprints_tell_sets_apart(town, tailor):
    torch.manual_seed(1)
    other = DGNetTailor(DGNet(*(getattr(make_networks(dgnet_settings("smoke"), 4), name) for name in ("appearance", "structure", "decoder")), dgnet_settings("smoke")).eval())
    sets = [SwappedSet(town, tailor, 3), SwappedSet(town, tailor, 2), SwappedSet(town, tailor, 3, seed=1), SwappedSet(town, other, 3), SwappedSet(town, TrueTailor(), 3)]
    assert len({one.fingerprint for one in sets}) == 5 and SwappedSet(town, tailor, 3).fingerprint == sets[0].fingerprint
    by_hand = video_data_spec(sets[0])
    assert open_video_data(by_hand) is sets[0]


def test_a_description_makes_the_set_again(town, tmp_path):
    data = swapped_data(town, 3)
    assert data == swapped_data(video_data_spec(town), 3) and data != swapped_data(town, 2)
    made = open_video_data(data)
    assert isinstance(made, SwappedSet) and video_data_spec(made) == data and made is open_video_data(data)
    record = made.train[-1]
    giver, walk = made._walks[record]
    assert np.array_equal(made.read_frame(record, 0), true_swap(town, giver, walk).images[0].numpy())


@settings(max_examples=50)
@given(st.integers(1, 60), st.integers(4, 500), st.integers(0, 500))
def test_as_many_steps_as_before(epochs, before, more):
    one = video_settings("smoke", epochs=epochs, decay_every=max(1, epochs - 1))
    two = same_steps(one, before, before + more)
    assert two.epochs >= 1 and (two.epochs == 1 or abs(two.epochs * (before + more) - epochs * before) <= (before + more) / 2)
    assert same_steps(one, before, before) == one


def test_names_chain_without_anything_painted(town, monkeypatch):
    monkeypatch.setattr(DGNetTailor, "dress", None)
    spec = walks_spec(town, video_settings("smoke"), 5)
    assert spec.recipe == "video-reid" and spec.settings["epochs"] == 2 and spec == RunSpec(**spec.as_dict())
    assert RunSpec("x", data=spec.as_dict()["data"]["swapped"]) == RunSpec("x", data=video_data_spec(town))


# against the truth

def test_colours_of_thirds():
    image, body = torch.zeros(1, 3, 9, 4, dtype=torch.uint8), torch.ones(1, 9, 4, dtype=torch.bool)
    image[:, 0, :3], image[:, 1, 3:6], image[:, 2, 6:] = 30, 60, 90
    assert torch.allclose(third_colours(image, body), torch.diag(torch.tensor([30.0, 60, 90])))


def test_recoloured_in_ones_own_colours_is_unchanged(town):
    film = town.film(town.train[0])
    assert (recoloured_walk(film, film).int() - film.images.permute(0, 3, 1, 2).int()).abs().max() <= 1


def test_a_perfect_painter_has_no_error(town):
    giver, walk = next(iter(new_walks(town, 5).values()))
    found, shown = against_true_swaps(town, TrueTailor(), giver, walk)
    assert found["dgnet"] == 60 and found["unchanged"] < 40 and torch.equal(shown["dgnet"], shown["truth"])


def test_the_runs(town, tmp_path):
    store = RunStore(local=tmp_path, shipped="none")
    photographs = make_world("mannequin-market", "smoke", train_identities=4, test_identities=3, distractors=2, junk=1)
    painter = dgnet_spec(photographs, dgnet_settings("smoke", iterations=2))
    run = store.get(walk_swaps_spec(painter, town, walks=3, shown=2), train=True, progress="off")
    assert run.metrics["walks"] == 3 and {len(run.per_query[name]) for name in ("dgnet", "unchanged", "recoloured")} == {3} and "truth_01" in run.per_query
    trained = store.get(walks_spec(town, video_settings("smoke", epochs=2, frames=2, batch=4), 2, painter), train=True, progress="off")
    assert trained.metrics["classes"] == 7 and trained.per_query["counted"].any()


def test_a_network_of_painted_people_counts_as_synthetic(town):
    from dgnb.vrstc.own_videos import is_synthetic
    spec = walks_spec(town, video_settings("smoke"), 2)
    assert is_synthetic(SimpleNamespace(spec=spec))
