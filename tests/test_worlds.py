"Worlds: official rules and names, determinism, JPEG bytes, truth, swaps, refusals."
import io
import pickle
import re
import time

import numpy as np
import pytest
import torch
from PIL import Image

from dgnb.worlds import (SIZES, WORLD_SCALES, WORLDS, ImageRecord, ReIDSet, World, decode_image, encode_jpeg, make_world)

torch.set_num_threads(1)
SPLITS = ("train", "query", "gallery")


@pytest.fixture(scope="module")
def world():
    return make_world("mannequin-market")


@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.parametrize("scale", WORLD_SCALES)
def test_protocol(name, scale):
    "Unseen test identities; one query per identity and camera; every query has a match in another camera; names unique."
    w, kind, sizes = make_world(name, scale), WORLDS[name], WORLD_SCALES[scale]
    for split in SPLITS:
        records = getattr(w, split)
        assert list(records) == sorted(records) and len({r.name for r in records}) == len(records)
        assert all(1 <= r.camid <= kind.cameras for r in records)
    identity = {split: {int(w.table.identity[r.index]) for r in getattr(w, split)} for split in SPLITS}
    assert not identity["train"] & (identity["query"] | identity["gallery"])
    if kind.layout != "msmt17":  # MSMT17 numbers test identities from 0 again
        assert not {r.pid for r in w.train} & {r.pid for r in w.gallery}
    assert w.num_train_identities == sizes.train_identities
    assert len(w.train) == sizes.train_identities * sizes.images_per_identity
    assert len({(r.pid, r.camid) for r in w.query}) == len(w.query) and len({r.pid for r in w.query}) == sizes.test_identities
    matches = {}
    for r in w.gallery:
        matches.setdefault(r.pid, set()).add(r.camid)
    assert all(matches[r.pid] - {r.camid} for r in w.query)
    assert not {r.name for r in w.query} & {r.name for r in w.gallery}
    if scale != "smoke":
        assert sizes.test_identities >= 200 and len(w.query) >= 1000
        assert {r.camid for r in w.train} == set(range(1, kind.cameras + 1))


@pytest.mark.parametrize("name, pattern", [("mannequin-market", r"(-1|\d{4})_c\ds\d_\d{6}_\d\d\.jpg"),
                                           ("mannequin-duke", r"\d{4}_c\d_f\d{7}\.jpg"),
                                           ("mannequin-msmt", r"(\d{4})/\1_\d{3}_\d\d_\d{4}(morning|noon|afternoon)_\d{4}_\d\.jpg")])
def test_names_say_what_the_records_say(name, pattern):
    w = make_world(name, "laptop")
    for r in (*w.train, *w.query, *w.gallery):
        assert re.fullmatch(pattern, r.name), r.name
        pid, camera = ((r.name.split("/")[0], r.name.split("_")[2]) if name == "mannequin-msmt"
                       else (r.name.split("_")[0], re.search(r"_c(\d)", r.name).group(1)))
        assert (int(pid), int(camera)) == (r.pid, r.camid)


def test_junk_and_distractors():
    market, duke, msmt = (make_world(f"mannequin-{name}", "laptop") for name in ("market", "duke", "msmt"))
    pids = [r.pid for r in market.gallery]
    assert pids.count(-1) == WORLD_SCALES["laptop"].junk and pids.count(0) == WORLD_SCALES["laptop"].distractors
    queried = {r.pid for r in duke.query}
    strangers = [r for r in duke.gallery if r.pid not in queried]
    assert len(strangers) == WORLD_SCALES["laptop"].distractors and min(r.pid for r in strangers) > max(queried)
    assert {r.pid for r in msmt.gallery} == {r.pid for r in msmt.query}
    lonely = {}
    for r in strangers:
        lonely.setdefault(r.pid, set()).add(r.camid)
    assert all(len(cameras) == 1 for cameras in lonely.values())


def test_same_index_same_bytes_however_asked_for():
    "Whatever the order, the block, or the number of other identities asked for first."
    a, b = make_world("mannequin-market"), make_world("mannequin-market")
    some = a.query[5]
    assert a.read_bytes(some) == b.prepare(batch=7).read_bytes(some)
    c = make_world("mannequin-market", distractors=0, junk=0)
    assert c.read_bytes(c.query[5]) == a.read_bytes(some)
    shuffled = [b.records[i] for i in np.random.default_rng(0).permutation(len(b.records))]
    assert torch.equal(b.images(shuffled)[3], a.images([shuffled[3]])[0])


def test_seeds_and_names_make_different_towns(world):
    other = make_world("mannequin-market", seed=1)
    assert other.fingerprint != world.fingerprint
    assert not np.array_equal(other.render([0]).images, world.render([0]).images)
    assert make_world("mannequin-market").fingerprint == world.fingerprint
    assert make_world("mannequin-market", size=(128, 64)).fingerprint != world.fingerprint


def test_jpeg_is_made_once_and_read_back(world):
    r = world.gallery[3]
    data = world.read_bytes(r)
    assert data[:2] == b"\xff\xd8" and world.read_bytes(r) is data
    assert np.array_equal(world.read_image(r), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
    assert torch.equal(world.images([r])[0], torch.from_numpy(world.read_image(r)))
    raw = world.render([r]).images[0].numpy().astype(int)
    assert 0 < np.abs(raw - world.read_image(r)).mean() < 8


def test_a_world_read_from_disk_is_the_same(world, tmp_path):
    "A plain `ReIDSet` over files with a world's bytes gives the same pixels."
    records = []
    for r in world.train[:4]:
        (tmp_path / r.name).write_bytes(world.read_bytes(r))
        records.append(ImageRecord(r.name, r.pid, r.camid, path=str(tmp_path / r.name)))
    files = ReIDSet("copy", records, (), ())
    for mine, its in zip(files.train, world.train):
        assert files.read_bytes(mine) == world.read_bytes(its) and np.array_equal(files.read_image(mine), world.read_image(its))


def test_swap_with_oneself_is_the_image(world):
    assert torch.equal(world.swap([4, 5], [4, 5]).images, world.render([4, 5]).images)
    swapped = world.swap(world.query[0], world.query[9])
    assert torch.equal(swapped.depth > 0, swapped.depth > 0) and not torch.equal(swapped.images, world.render(world.query[9]).images)


def test_factors(world):
    table = world.factors
    assert len(table) == len(world.records) and table.name.tolist() == [r.name for r in world.records]
    assert set(table.split) == set(SPLITS) and {"upper_colour", "bag", "height", "yaw", "camid", "role"} <= set(table.columns)
    people = table[table.role == "person"]
    for factor in ("upper_colour", "lower_type", "hair_style", "height", "bag"):
        assert (people.groupby("identity")[factor].nunique() == 1).all()
    assert people.groupby("identity").yaw.nunique().min() > 1
    assert not table.isna().any().any()


def test_same_clothes():
    table = make_world("same-clothes", "laptop").factors
    people = table[table.role == "person"]
    outfits = people.groupby(people.identity // 25)[["upper_colour", "lower_colour", "pattern", "skin_tone", "shoe_colour"]].nunique()
    assert (outfits == 1).all().all()
    assert (people.groupby(people.identity // 25).height.nunique() >= 20).all()


def test_labels_and_records(world):
    assert sorted(world.label_of.values()) == list(range(world.num_train_identities))
    assert list(world.label_of) == sorted(world.label_of)
    again = pickle.loads(pickle.dumps(world))
    assert again.fingerprint == world.fingerprint and again.read_bytes(again.train[0]) == world.read_bytes(world.train[0])


def test_smoke_is_quick():
    start = time.perf_counter()
    make_world("mannequin-duke", seed=3).prepare()
    assert time.perf_counter() - start < 8  # under 2 s on a quiet core; CI is not quiet


@pytest.mark.parametrize("call, says", [
    (dict(name="market"), "mannequin-market, mannequin-duke"), (dict(scale="paper"), "smoke, laptop, gpu"),
    (dict(size=(64, 64)), r"\(64, 32\), \(128, 64\)"), (dict(identities=3), "train_identities"),
    (dict(train_identities=-1), "whole number from 1"), (dict(images_per_identity=1), "whole number from 4"),
    (dict(distractors=2.5), "whole number from 0"), (dict(seed="x"), "seed"), (dict(device="abacus"), "device")])
def test_refusals_name_what_is_valid(call, says):
    with pytest.raises(ValueError, match=says):
        make_world(**{"name": "mannequin-market", **call})


def test_bad_indices_and_swaps_are_refused(world):
    with pytest.raises(ValueError, match="outside 0.."):
        world.render([len(world.records)])
    with pytest.raises(ValueError, match="outside 0.."):
        world.read_bytes(ImageRecord("x.jpg", 1, 1))
    with pytest.raises(ValueError, match="as many"):
        world.swap([1, 2], [3])


def test_reading_faults(tmp_path):
    bad = ReIDSet("x", (), (), ())
    with pytest.raises(ValueError, match="cannot be read"):
        bad.read_image(ImageRecord("a.jpg", 1, 1, path=str(tmp_path / "a.jpg")))
    whole = encode_jpeg(np.zeros((64, 32, 3), np.uint8), 90)
    (tmp_path / "b.jpg").write_bytes(whole[:len(whole) // 2])
    with pytest.raises(ValueError, match="b.jpg: cannot be decoded"):
        bad.read_image(ImageRecord("b.jpg", 1, 1, path=str(tmp_path / "b.jpg")))


def test_unusual_pictures_are_understood():
    def packed(image, **save):
        buffer = io.BytesIO()
        image.save(buffer, **save)
        return buffer.getvalue()

    grey = decode_image(packed(Image.new("L", (4, 8), 77), format="PNG"))
    assert grey.shape == (8, 4, 3) and (grey == 77).all()
    deep = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)  # 16 bits a pixel: scaled, not cut off at 255
    assert (decode_image(packed(Image.fromarray(deep), format="PNG")) == np.arange(256).reshape(16, 16, 1)).all()
    clear = decode_image(packed(Image.new("RGBA", (4, 8), (255, 0, 0, 0)), format="PNG"))
    assert (clear == 255).all()
    lying = Image.fromarray(np.arange(96, dtype=np.uint8).reshape(4, 8, 3))
    exif = Image.Exif()
    exif[274] = 6  # "rotate a quarter turn clockwise to show"
    assert np.array_equal(decode_image(packed(lying, format="PNG", exif=exif)), np.rot90(np.asarray(lying), -1))


def test_scales_and_sizes():
    assert isinstance(make_world("mannequin-msmt"), World)
    assert all(scale.size in SIZES for scale in WORLD_SCALES.values())
    w = make_world("mannequin-market", train_identities=5, images_per_identity=7, size=(128, 64))
    assert len(w.train) == 35 and w.read_image(w.train[0]).shape == (128, 64, 3)
