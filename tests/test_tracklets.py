"Tracklets, folders, MOT boxes and the official video layouts: reading, writing, traps, faults."
import json
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.io import loadmat, savemat

from dgnb.image_sets import load_image_set, open_set
from dgnb.own_tracklets import frame_number, mot_tracklets, order_frames, read_mot_boxes, read_tracklet_folder, read_tracklet_set
from dgnb.tracklets import TrackletRecord, VideoReIDSet, crop_box, query_rule, unmatched_queries
from dgnb.video_files import DUKE_FRAME, MARS_FRAME, frame_name, parse_frame, video_layout_of, write_video_set
from dgnb.video_sets import (PUBLISHED, check_tracklets, check_video_counts, format_video_report, guess_video_layout, is_video, load_video_set, open_video_set,
                             video_report)
from dgnb.video_worlds import VIDEO_WORLDS, make_video_world

torch.set_num_threads(1)
SPLITS = ("train", "query", "gallery")
facts = lambda records: [(r.name, r.pid, r.camid, r.length, r.numbers) for r in records]


def paint(path, size=(16, 8), shade=0):
    "A little picture of one grey."
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), shade, np.uint8)).save(path)


@pytest.fixture(scope="module")
def worlds():
    return {name: make_video_world(name, train_identities=3, test_identities=4, people=6) for name in VIDEO_WORLDS}


@pytest.fixture(scope="module")
def written(worlds, tmp_path_factory):
    home = tmp_path_factory.mktemp("sets")
    return {name: write_video_set(world, home / name) for name, world in worlds.items()}


@pytest.fixture
def copy(written, tmp_path):
    "A copy of a written set that a test may damage."
    return lambda name, keep_marker=True: _copied(written[name], tmp_path / name, keep_marker)


def _copied(source, target, keep_marker):
    shutil.copytree(source, target)
    if not keep_marker:
        (target / "dgnb.json").unlink()
    return target


# --- the rule on queries --------------------------------------------------------------------------------------------------

people = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 3)), min_size=1, max_size=14)


@given(people, st.data())
@settings(max_examples=80, deadline=None)
def test_unmatched_queries_by_brute_force(seen, data):
    records = [TrackletRecord(f"t{k:02d}", pid, camid, 4) for k, (pid, camid) in enumerate(seen)]
    asked = [r for r in records if data.draw(st.booleans())]
    rule = data.draw(st.booleans())
    inside = VideoReIDSet("x", (), asked, records, camera_rule=rule)
    outside = VideoReIDSet("x", (), asked, [r for r in records if r not in asked], camera_rule=rule)

    def brute(gallery):
        return [q for q in sorted(asked) if not any(g.pid == q.pid and g != q and (g.camid != q.camid or not rule) for g in gallery)]

    assert unmatched_queries(inside) == unmatched_queries(inside, True) == unmatched_queries(outside, True) == brute(records)
    assert unmatched_queries(inside, False) == unmatched_queries(outside) == brute(outside.gallery)
    assert len(unmatched_queries(inside)) <= len(unmatched_queries(outside))


def test_the_report_says_the_rule():
    records = [TrackletRecord(f"a{k}", 1, k, 4) for k in (1, 2)]
    assert query_rule(VideoReIDSet("x", (), records, records)) == "queries are searched among the gallery; 0 of 2 have no match (2 if queries left the gallery)"
    assert query_rule(VideoReIDSet("x", (), records[:1], records[1:])) == "queries are not in the gallery; 0 of 1 have no match there"
    assert query_rule(VideoReIDSet("x", records, (), ())) == "no queries"


# --- records and frames ---------------------------------------------------------------------------------------------------

def test_records_are_read_frame_by_frame(tmp_path):
    for n, size in ((1, (16, 8)), (2, (20, 10)), (5, (12, 6))):
        paint(tmp_path / f"{n}.png", size, n)
    record = read_tracklet_folder(tmp_path, pid=3, camid=2)
    source = VideoReIDSet("one", (record,), (), ())
    assert record.numbers == (1, 2, 5) and record.gaps == 2 and record.length == 3
    assert [image.shape for image in source.read_tracklet(record)] == [(16, 8, 3), (20, 10, 3), (12, 6, 3)]  # sizes may differ
    assert source.read_tracklet(record, [2])[0][0, 0, 0] == 5
    for bad in (-1, 3):
        with pytest.raises(IndexError, match="has frames 0 to 2"):
            source.read_frame(record, bad)


def test_a_frame_that_cannot_be_read_is_named(tmp_path):
    paint(tmp_path / "1.png")
    paint(tmp_path / "2.png")
    record = read_tracklet_folder(tmp_path)
    source = VideoReIDSet("one", (record,), (), ())
    (tmp_path / "2.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"2\.png: cannot be decoded"):
        source.read_frame(record, 1)
    (tmp_path / "2.png").unlink()
    with pytest.raises(ValueError, match=r"2\.png: cannot be read"):
        source.read_frame(record, 1)
    assert [p.name for p in check_tracklets(source)] == [record.path(1)]


def test_fingerprints_change_with_what_matters(tmp_path):
    a = TrackletRecord("a", 1, 1, 4, numbers=(1, 2, 3, 4))
    mark = lambda r: VideoReIDSet("x", (r,), (), ()).fingerprint
    others = [TrackletRecord("b", 1, 1, 4, numbers=(1, 2, 3, 4)), TrackletRecord("a", 2, 1, 4, numbers=(1, 2, 3, 4)), TrackletRecord("a", 1, 2, 4, numbers=(1, 2, 3, 4)),
              TrackletRecord("a", 1, 1, 4, numbers=(1, 2, 3, 5)), TrackletRecord("a", 1, 1, 4, numbers=(1, 2, 3, 4), boxes=((0, 0, 4, 8),) * 4)]
    assert len({mark(r) for r in (a, *others)}) == 6 and mark(a) == mark(a)


@given(st.integers(-20, 40), st.integers(-20, 40), st.integers(1, 50), st.integers(1, 50))
@settings(max_examples=60, deadline=None)
def test_boxes_are_clipped_to_the_frame(left, top, width, height):
    image = np.arange(24 * 30, dtype=np.int64).reshape(24, 30, 1)
    rows = [y for y in range(24) if top <= y < top + height]
    columns = [x for x in range(30) if left <= x < left + width]
    if rows and columns:
        assert np.array_equal(crop_box(image, (left, top, width, height)), image[np.ix_(rows, columns)])
    else:
        with pytest.raises(ValueError, match="lies outside the 30x24 frame"):
            crop_box(image, (left, top, width, height))


# --- folders of one's own -------------------------------------------------------------------------------------------------

@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=12, unique=True), st.randoms())
@settings(max_examples=50, deadline=None)
def test_frames_are_in_order_of_time(numbers, random):
    names = [f"cam1_person{n % 7}_{n}.png" for n in numbers]
    random.shuffle(names)
    ordered, found = order_frames(names)
    assert list(found) == sorted(numbers) and [frame_number(name) for name in ordered] == sorted(numbers)


def test_frames_without_numbers_or_with_the_same():
    assert order_frames(["b.png", "a.png"]) == (("a.png", "b.png"), (1, 2))
    assert order_frames(["x1.png", "y1.png"]) == (("x1.png", "y1.png"), (1, 2))
    assert order_frames([]) == ((), ())


def test_a_folder_set(tmp_path):
    for person in "abcd":
        for tracklet, frames in (("t1", (1, 2, 4)), ("t2", (7,))):
            for n in frames:
                paint(tmp_path / person / tracklet / f"{n}.png")
    (tmp_path / "a" / "t1" / ".hidden.png").write_bytes(b"x")
    (tmp_path / "cameras.csv").write_text("path,camera\n" + "".join(f"{p}/{t},{c}\n" for p in "abcd" for c, t in enumerate(("t1", "t2"), 1)))
    plain, filmed = read_tracklet_set(tmp_path), read_tracklet_set(tmp_path, tmp_path / "cameras.csv")
    assert not plain.camera_rule and filmed.camera_rule and filmed.num_train_identities == 2
    assert not unmatched_queries(filmed) and len(filmed.query) == 2
    assert "4 tracklets have gaps in their frame numbers (4 frames missing); frames are taken as they follow each other" in filmed.notes
    assert "4 tracklets have one frame only" in filmed.notes
    assert facts(read_tracklet_set(tmp_path).train) == facts(plain.train) and guess_video_layout(tmp_path) == "tracklets"
    (tmp_path / "a" / "t3").mkdir()
    with pytest.raises(ValueError, match="t3 holds no image; remove it, or pass strict=False"):
        read_tracklet_set(tmp_path)
    assert "left out a/t3: no image" in read_tracklet_set(tmp_path, strict=False).notes


def test_a_folder_set_with_given_splits(tmp_path):
    for split, person in (("train", "p"), ("query", "q"), ("gallery", "q")):
        paint(tmp_path / split / person / "t" / "1.png")
    found = open_video_set(tmp_path)
    assert [[r.name for r in getattr(found, split)] for split in SPLITS] == [["train/p/t"], ["query/q/t"], ["gallery/q/t"]]


@pytest.mark.parametrize("make, message", [
    (lambda p: read_tracklet_folder(p / "no"), "no folder"), (lambda p: read_tracklet_folder(p), "holds no image"),
    (lambda p: read_tracklet_set(p / "no"), "no folder"), (lambda p: read_tracklet_set(p), "no folder identity/tracklet")])
def test_folders_that_are_no_tracklets(tmp_path, make, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        make(tmp_path)


# --- MOT ------------------------------------------------------------------------------------------------------------------

@pytest.fixture
def video(tmp_path):
    for n in range(1, 6):
        paint(tmp_path / "img1" / f"{n:06d}.jpg", (40, 60), 40 * n)
    return tmp_path


def test_mot_boxes_make_tracklets(video):
    (video / "gt.txt").write_text("2,7,5,4,10,20,1,1,0.9\n1,7,4,4,10,20,1,1,0.9\n5,7,55,4,10,20,1,1,0.9\n1,8,0,0,9,9,0,1,1\n1,9,0,0,9,9,1,3,1\n3,10,1.6,2.4,9,9,1,-1,-1,-1\n")
    tracks = mot_tracklets(video / "img1", video / "gt.txt", camid=4)
    assert [(t.pid, t.camid, t.numbers, t.gaps) for t in tracks] == [(7, 4, (1, 2, 5), 2), (10, 4, (3,), 0)]
    source = VideoReIDSet("street", tracks, (), ())
    assert [f.shape for f in source.read_tracklet(tracks[0])] == [(20, 10, 3), (20, 10, 3), (20, 5, 3)]
    assert tracks[1].boxes == ((2, 2, 9, 9),) and abs(int(source.read_frame(tracks[0], 2)[0, 0, 0]) - 200) < 4
    assert mot_tracklets(video / "img1", video / "gt.txt", shortest=2) == mot_tracklets(video / "img1", video / "gt.txt")[:1]


@pytest.mark.parametrize("lines, message", [
    ("1,-1,0,0,9,9,1\n", "line 1: id -1 means a detection"), ("1,1,0,0,-9,9,1\n", "the order is left, top, width, height"), ("1,1,0,0\n", "4 numbers; a box needs"),
    ("1,1,0,0,9,nine\n", "is not a list of numbers"), ("1,1,0,0,9,9\n1,1,2,2,9,9\n", "line 2: track 1 has a second box in frame 1"),
    ("99,1,0,0,9,9\n", r"box in frame 99, which is not in .* \(frames 1 to 5\)")])
def test_mot_files_that_are_wrong(video, lines, message):
    (video / "boxes.txt").write_text(lines)
    with pytest.raises(ValueError, match=message):
        mot_tracklets(video / "img1", video / "boxes.txt")


def test_mot_boxes_without_frames_can_be_left_out(video):
    (video / "boxes.txt").write_text("1 1 0 0 9 9\n99 1 0 0 9 9\n")
    assert mot_tracklets(video / "img1", video / "boxes.txt", strict=False)[0].numbers == (1,)
    with pytest.raises(FileNotFoundError, match="no file"):
        read_mot_boxes(video / "none.txt")


# --- official layouts -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", VIDEO_WORLDS)
def test_worlds_are_read_back_identically(name, worlds, written):
    world, kind = worlds[name], VIDEO_WORLDS[name]
    back = load_video_set(kind.layout, written[name])
    for split in SPLITS:
        assert facts(getattr(world, split)) == facts(getattr(back, split))
        for mine, its in zip(getattr(world, split), getattr(back, split)):
            assert all(world.read_frame_bytes(mine, n) == back.read_frame_bytes(its, n) for n in range(mine.length))
    assert back.label_of == world.label_of and back.queries_in_gallery == world.queries_in_gallery and query_rule(back) == query_rule(world)
    assert guess_video_layout(written[name]) == video_layout_of(world) == kind.layout and facts(open_video_set(written[name]).train) == facts(world.train)


@pytest.mark.parametrize("name", VIDEO_WORLDS)
def test_a_video_set_is_not_silently_read_as_images(name, written):
    "Where its folders are not people, it is refused; where they are, the set says that frames count as images."
    layout = VIDEO_WORLDS[name].layout
    for opened in (lambda: load_image_set("folder", written[name]), lambda: open_set("folder", written[name].parent / name)):
        if layout == "dukemtmc-videoreid":
            assert any("open_video_set reads them" in note for note in opened().notes)
        else:
            with pytest.raises(ValueError, match=f"looks like the video set {layout}, .*open_video_set"):
                opened()


def test_people_inside_a_video_set_can_be_read_as_images(written):
    "The way out that the message names; and frames directly in a person's folder need no note."
    found = load_image_set("folder", written["mannequin-mars"] / "bbox_train")
    assert len(found.identities) == 3 and not any("open_video_set" in note for note in found.notes)


@pytest.mark.parametrize("name", VIDEO_WORLDS)
def test_a_set_from_disk_is_written_again_identically(name, written, tmp_path):
    "What a repaired set goes through: read, write, read."
    kind = VIDEO_WORLDS[name]
    again = write_video_set(load_video_set(kind.layout, written[name]), tmp_path / "again")
    files = lambda root: {p.relative_to(root).as_posix(): p for p in root.rglob("*") if p.is_file() and p.name != "dgnb.json"}
    ours, theirs = files(again), files(written[name])
    assert ours.keys() == theirs.keys()
    for path in ours:
        if path.endswith(".mat"):
            a, b = loadmat(ours[path]), loadmat(theirs[path])
            assert all(np.array_equal(a[k], b[k]) for k in a if not k.startswith("__"))
        else:
            assert ours[path].read_bytes() == theirs[path].read_bytes()


def test_all_ten_ilids_splits(worlds, written):
    for split in (1, 9):
        back = load_video_set("ilids-vid", written["mannequin-ilids"], split=split)
        world = make_video_world("mannequin-ilids", train_identities=3, test_identities=4, people=6, split=split)
        assert facts(back.query) == facts(world.query) and facts(back.train) == facts(world.train)
    with pytest.raises(ValueError, match="splits 0 to 9"):
        load_video_set("ilids-vid", written["mannequin-ilids"], split=10)


def test_writing_twice_is_harmless_and_never_overwrites(worlds, written, tmp_path):
    assert write_video_set(worlds["mannequin-ilids"], written["mannequin-ilids"]) == written["mannequin-ilids"]
    with pytest.raises(FileExistsError, match="holds something else"):
        write_video_set(worlds["mannequin-mars"], written["mannequin-ilids"])

    class Broken(VideoReIDSet):
        def read_frame_bytes(self, tracklet, n):
            raise ValueError("no pixels")

    with pytest.raises(ValueError, match="no pixels"):
        write_video_set(Broken("x", worlds["mannequin-mars"].train, (), ()), tmp_path / "half")
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="fit none of"):
        write_video_set(VideoReIDSet("x", (TrackletRecord("me", 1, 1, 1),), (), ()), tmp_path / "me")


@pytest.mark.parametrize("name", VIDEO_WORLDS)
def test_a_small_copy_is_not_the_real_set(name, copy):
    layout, root = VIDEO_WORLDS[name].layout, copy(name, keep_marker=False)
    with pytest.raises(ValueError, match=f"{layout} in .* is incomplete: train has"):
        load_video_set(layout, root)
    loose = load_video_set(layout, root, strict=False)
    assert check_video_counts(loose) and any(note.startswith("incomplete: train has") for note in loose.notes)
    assert guess_video_layout(root) == layout


def test_published_counts_agree_with_each_other():
    mars, duke = PUBLISHED["mars"], PUBLISHED["dukemtmc-videoreid"]
    assert duke["train"][0] + duke["query"][0] + duke["gallery"][0] == 5_534
    assert mars["gallery"][0] == 12_180 and mars["gallery"][0] - mars["query"][0] == 10_200
    assert round(mars["train"][2] / mars["train"][0], 1) == 61.5 and round(mars["query"][2] / mars["query"][0], 1) == 57.8


def test_mars_without_queries_in_the_gallery(written):
    usual, without = (load_video_set("mars", written["mannequin-mars"], **o) for o in ({}, {"queries_in_gallery": False}))
    assert set(without.gallery) == set(usual.gallery) - set(usual.query) and not without.queries_in_gallery
    assert len(unmatched_queries(without)) == len(unmatched_queries(usual, False)) > 0
    assert "against the official evaluation" in without.notes[0] and usual.fingerprint != without.fingerprint


def _mars_tables(root, which="train"):
    path = root / "info" / f"tracks_{which}_info.mat"
    return path, loadmat(path)[f"track_{which}_info"]


@pytest.mark.parametrize("spoil, message", [
    (lambda t: t + [[-1, -1, 0, 0]], "lines outside 1.."),
    (lambda t: np.concatenate([t[:1], t[1:] - [[1, 1, 0, 0]]]), "are not one tracklet of identity"),
    (lambda t: np.concatenate([t[:1] + [[0, 1, 0, 0]], t[1:]]), "are not one tracklet of identity"),
    (lambda t: t + [[0, 0, 1, 0]], "are not one tracklet of identity"),
    (lambda t: t[:, :3], r"a table of shape \(\d+, 3\); MARS's has 4 columns")])
def test_mars_tables_that_lie(copy, spoil, message):
    root = copy("mannequin-mars")
    path, table = _mars_tables(root)
    savemat(path, {"track_train_info": spoil(table.astype(float))})
    with pytest.raises(ValueError, match=message):
        load_video_set("mars", root)


def test_mars_files_that_are_missing_or_damaged(copy):
    root = copy("mannequin-mars")
    frame = sorted((root / "bbox_train").rglob("*.jpg"))[0]
    frame.rename(root / "aside.jpg")
    with pytest.raises(FileNotFoundError, match=f"1 frames are missing, the first is .*{frame.name}"):
        load_video_set("mars", root)
    loose = load_video_set("mars", root, strict=False)
    first = next(r for r in loose.train if frame.name.startswith(r.name))
    assert first.numbers[0] == 2 and any("1 frames are missing" in note for note in loose.notes)
    (root / "aside.jpg").rename(frame)
    (root / "info" / "query_IDX.mat").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="query_IDX.mat is damaged"):
        load_video_set("mars", root)
    savemat(root / "info" / "query_IDX.mat", {"queries": [[1]]})
    with pytest.raises(ValueError, match="has no variable 'query_IDX' but queries"):
        load_video_set("mars", root)
    savemat(root / "info" / "query_IDX.mat", {"query_IDX": [[0]]})
    with pytest.raises(ValueError, match="rows outside 1.."):
        load_video_set("mars", root)
    (root / "info" / "test_name.txt").unlink()
    with pytest.raises(FileNotFoundError, match="test_name.txt"):
        load_video_set("mars", root)


def test_a_damaged_frame_is_found_by_the_check(copy):
    root = copy("mannequin-dukevideo")
    frame = sorted((root / "query").rglob("*.jpg"))[2]
    frame.write_bytes(frame.read_bytes()[:40])
    report = video_report(load_video_set("dukemtmc-videoreid", root), frames=True)
    assert [p.name for p in report["problems"]] == [str(frame)] and report["problems"][0].split == "query"
    assert "DAMAGED: query/" in format_video_report(report) and "no query looks for them" in format_video_report(report)


def test_ilids_refuses_splits_of_other_people(copy):
    root = copy("mannequin-ilids")
    shutil.rmtree(root / "i-LIDS-VID" / "sequences" / "cam2" / "person001")
    with pytest.raises(ValueError, match="the positions would name others"):
        load_video_set("ilids-vid", root, strict=False)
    shutil.rmtree(root / "train-test people splits")
    with pytest.raises(FileNotFoundError, match="train_test_splits_ilidsvid.mat"):
        load_video_set("ilids-vid", root)


def test_ilids_positions_are_not_person_numbers(written):
    "Numbers have gaps, so a loader that takes positions for numbers finds other people."
    many = make_video_world("mannequin-ilids", people=40)
    numbers = sorted({r.pid for r in (*many.train, *many.gallery)})
    assert numbers != list(range(1, 41)) and numbers[-1] > 40


def test_empty_tracklet_folders(copy):
    for name, inner in (("mannequin-ilids", "i-LIDS-VID/sequences/cam1/person001"), ("mannequin-dukevideo", "train")):
        root = copy(name)
        folder = root / inner
        folder = folder if name == "mannequin-ilids" else next(p for p in sorted(folder.glob("*/*")))
        for file in folder.iterdir():
            file.unlink()
        with pytest.raises(ValueError, match="holds no image"):
            load_video_set(VIDEO_WORLDS[name].layout, root)
        assert any(note.startswith("left out ") for note in load_video_set(VIDEO_WORLDS[name].layout, root, strict=False).notes)


def test_both_forms_of_duke_names(copy):
    root = copy("mannequin-dukevideo")
    before = load_video_set("dukemtmc-videoreid", root)
    for file in root.rglob("*.jpg"):
        file.rename(file.with_name(file.name.replace("_", "")))
    after = load_video_set("dukemtmc-videoreid", root)
    assert all(facts(getattr(before, split)) == facts(getattr(after, split)) for split in SPLITS)
    file = sorted((root / "train").rglob("*.jpg"))[0]
    file.rename(file.with_name("9" + file.name[1:]))
    with pytest.raises(ValueError, match="people or cameras"):
        load_video_set("dukemtmc-videoreid", root)


@given(st.integers(-1, 1500), st.integers(1, 6), st.integers(1, 9999), st.integers(1, 920))
@settings(max_examples=60, deadline=None)
def test_mars_names_there_and_back(pid, camid, serial, frame):
    who = "00-1" if pid == -1 else f"{pid:04d}"
    record = TrackletRecord(f"{who}C{camid}T{serial:04d}", pid, camid, 1, numbers=(frame,))
    assert parse_frame(MARS_FRAME, frame_name("mars", record, 0), "mars") == (pid, camid, frame)


def test_foreign_names_are_refused():
    for name in ("0001C1T0001F001.txt", "1C1T0001F001.jpg", "thumbs.jpg"):
        with pytest.raises(ValueError, match="is not a mars frame name"):
            parse_frame(MARS_FRAME, name, "mars")
    with pytest.raises(ValueError):
        parse_frame(DUKE_FRAME, "0001_C6_F0099.jpg", "duke")


@pytest.fixture
def prid(tmp_path):
    root = tmp_path / "prid_2011"
    for camera in "ab":
        for person in (1, 2, 3, 4, 5, 6, 199, 201):  # 201 in A and 201 in B are different people
            frames = 2 if person == 6 and camera == "b" else 5
            for n in range(1, frames + 1):
                paint(root / "multi_shot" / f"cam_{camera}" / f"person_{person:04d}" / f"{n:04d}.png")
    paint(root / "multi_shot" / "cam_b" / "person_0700" / "0001.png")
    return root


def test_prid_shares_only_the_first_200_numbers(prid):
    found = load_video_set("prid2011", prid, strict=False, shortest=5)
    pids = {r.pid for split in SPLITS for r in getattr(found, split)}
    assert pids == {1, 2, 3, 4, 5, 199} and not unmatched_queries(found) and len(found.query) == 3
    assert {r.camid for r in found.query} == {1} and {r.camid for r in found.gallery} == {2}
    assert any("drawn here" in note for note in found.notes) and any("1 of 7 shared people have fewer than 5 frames" in note for note in found.notes)
    assert facts(load_video_set("prid2011", prid, strict=False, shortest=5, split=3).query) != facts(found.query)
    assert guess_video_layout(prid) == "prid2011"
    with pytest.raises(ValueError, match="incomplete"):
        load_video_set("prid2011", prid, shortest=5)


def test_prid_splits_from_their_file(prid):
    name = "person_{:04d}".format
    (prid / "splits_prid2011.json").write_text(json.dumps([{"train": [name(1)], "test": [name(2), name(199)]}]))
    found = load_video_set("prid2011", prid, strict=False, shortest=5)
    assert [r.pid for r in found.query] == [2, 199] and {r.pid for r in found.train} == {1}
    (prid / "splits_prid2011.json").write_text(json.dumps([{"train": [name(1)], "test": [name(777)]}]))
    with pytest.raises(ValueError, match="person_0777 has no tracklet in both cameras"):
        load_video_set("prid2011", prid, strict=False, shortest=5)
    (prid / "splits_prid2011.json").write_text("{")
    with pytest.raises(ValueError, match="is not a list of"):
        load_video_set("prid2011", prid, strict=False, shortest=5)


@pytest.mark.parametrize("name, message", [("mars", "no folder bbox_train"), ("ilids-vid", "no folder sequences/"), ("dukemtmc-videoreid", "no folder train, query, gallery"),
                                           ("prid2011", "no folder multi_shot/cam_a"), ("tracklets", "no folder identity/tracklet")])
def test_folders_that_are_something_else(name, message, tmp_path):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_video_set(name, tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match="no folder"):
        load_video_set(name, tmp_path / "none")


def test_what_cannot_be_opened(tmp_path):
    with pytest.raises(ValueError, match="unknown video set 'mrs'. Did you mean 'mars'"):
        load_video_set("mrs", tmp_path)
    with pytest.raises(ValueError, match="mars has no option 'split'; valid: strict, queries_in_gallery"):
        load_video_set("mars", tmp_path, split=1)
    with pytest.raises(ValueError, match="is no video set; sets: mannequin-mars"):
        open_video_set(tmp_path)
    with pytest.raises(ValueError, match="give the folder you unpacked it to"):
        open_video_set("mars")


def test_image_sets_are_not_taken_for_video(written, tmp_path):
    for path in ("market/bounding_box_train/0001_c1s1_000001_00.jpg", "market/query/0001_c1s1_000001_00.jpg", "market/bounding_box_test/0001_c1s1_000001_00.jpg",
                 "msmt/train/0000/0000_000_01_0303morning_0015_0.jpg", "msmt/test/0000/0000_000_01_0303morning_0015_0.jpg", "own/anna/1.jpg", "own/bert/1.jpg",
                 "cuhk/detected/query/0003_c1_21.png"):
        paint(tmp_path / path)
    assert not any(is_video(tmp_path / name) for name in ("market", "msmt", "own", "cuhk", "none")) and not is_video("mannequin-market")
    assert all(is_video(root) for root in written.values()) and is_video("mars") and is_video("mannequin-mars")


def test_a_written_world_is_opened_by_its_name(written):
    assert open_video_set("mannequin-mars", written["mannequin-mars"]).name == "mannequin-mars"
    with pytest.raises(ValueError, match="holds mannequin-mars, not mannequin-ilids"):
        open_video_set("mannequin-ilids", written["mannequin-mars"])
    with pytest.raises(ValueError, match="holds no written world, not mannequin-ilids; write it with: dgnb data make"):
        open_video_set("mannequin-ilids", written["mannequin-mars"].parent)


def test_the_command_line_makes_and_checks_video_sets(tmp_path, capsys):
    from dgnb.cli import app

    def run(*words):
        with pytest.raises(SystemExit) as done:
            app([str(word) for word in words])
        return done.value.code, capsys.readouterr().out

    status, out = run("data", "make", "mannequin-ilids", tmp_path / "film", "--seed", "3")
    assert status == 0 and "16 train, 8 query, 8 gallery tracklets" in out
    status, out = run("data", "check", tmp_path / "film")
    assert status == 0 and "all frames can be decoded" in out and "queries are not in the gallery" in out
    frame = sorted((tmp_path / "film").rglob("*.png"))[0]
    frame.write_bytes(frame.read_bytes()[:50])
    status, out = run("data", "check", "mannequin-ilids", tmp_path / "film")
    assert status == 1 and f"DAMAGED" in out and frame.name in out
    status, out = run("data", "check", "mannequin-mars", "--no-images")
    assert status == 0 and "queries are searched among the gallery; 0 of" in out
