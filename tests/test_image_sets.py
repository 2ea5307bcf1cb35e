"""Image re-ID sets: names both ways, worlds to disk and back, folders of one's own, and every way a folder can be wrong."""
import io
import json
import os
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dgnb import image_sets as sets
from dgnb import layouts
from dgnb.image_sets import CUHK, DUKE, LAYOUTS, MARKER, MARKET, MSMT, check_images, load_image_set, open_set, write_image_set
from dgnb.worlds import WORLDS, make_world

SMALL = dict(train_identities=3, images_per_identity=4, test_identities=3, test_images_per_identity=4)


@pytest.fixture(scope="module")
def worlds():
    return {name: make_world(name, scale="smoke", seed=1, **SMALL) for name in WORLDS}


@pytest.fixture(scope="module")
def market(worlds):
    return worlds["mannequin-market"]


@pytest.fixture()
def market_folder(market, tmp_path):
    return write_image_set(market, tmp_path / "market")


def plain(records):
    return [(r.name, r.pid, r.camid) for r in records]


def jpeg(level=100, size=(32, 64)):
    buffer = io.BytesIO()
    Image.new("RGB", size, (level, 50, 150)).save(buffer, "JPEG")
    return buffer.getvalue()


def fill(folder, names, data=None):
    for n, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data or jpeg(n % 200))
    return folder


# names ------------------------------------------------------------------------------------------------------------

SUFFIX = st.sampled_from([".jpg", ".jpg.jpg", ".png", ".JPG"])
FIELDS = {
    "market1501": dict(pid=st.integers(-1, 99_999), camid=st.integers(1, 120), sequence=st.integers(1, 20), frame=st.integers(0, 9_999_999), box=st.integers(0, 999)),
    "dukemtmc-reid": dict(pid=st.integers(0, 99_999), camid=st.integers(1, 120), frame=st.integers(0, 99_999_999)),
    "msmt17": dict(pid=st.integers(0, 99_999), number=st.integers(0, 9_999), camid=st.integers(1, 120),
                   moment=st.from_regex(r"\d{4}(morning|noon|afternoon)_\d{4}_\d(_ex)?", fullmatch=True).filter(str.isascii)),
    "cuhk03-np": dict(pid=st.integers(0, 99_999), camid=st.integers(1, 10), rest=st.from_regex(r"_[a-z0-9]{1,6}", fullmatch=True).filter(str.isascii)),
}


@settings(max_examples=80, deadline=None)
@given(data=st.data(), layout=st.sampled_from(list(LAYOUTS.values())))
def test_parse_undoes_format(data, layout):
    fields = {name: data.draw(values, label=name) for name, values in FIELDS[layout.name].items()} | {"suffix": data.draw(SUFFIX)}
    if layout is MSMT:
        fields["folder"] = fields["pid"]
    assert layout.parse(layout.format(**fields)) == fields


@pytest.mark.parametrize("layout, name, pid, camid", [
    (MARKET, "0002_c1s1_000451_03.jpg", 2, 1),
    (MARKET, "-1_c3s2_000101_00.jpg", -1, 3),
    (MARKET, "0000_c6s3_094992_07.jpg", 0, 6),
    (MARKET, "0100_c1s1_014051_00.jpg.jpg", 100, 1),
    (DUKE, "0001_c2_f0046182.jpg", 1, 2),
    (MSMT, "0000/0000_045_12_0303morning_0006_2.jpg", 0, 12),
    (MSMT, "0000/0000_046_12_0303morning_0006_2_ex.jpg", 0, 12),
    (MSMT, "1040/1040_003_07_0302noon_0712_1.jpg", 1040, 7),
    (CUHK, "0003_c1_21.png", 3, 1),
])
def test_official_names(layout, name, pid, camid):
    fields = layout.parse(name)
    assert (fields["pid"], fields["camid"]) == (pid, camid)
    assert layout.format(**fields) == name


@pytest.mark.parametrize("name", ["", "0002.jpg", "0002_c1_000451.jpg", "a002_c1s1_000451_03.jpg", "0002_c1s1_000451_03.txt", "0002_cs1_000451_03.jpg", "-2_c1s1_000451_03.jpg"])
def test_foreign_names_are_refused_with_an_example(name):
    with pytest.raises(ValueError, match="0002_c1s1_000451_03.jpg"):
        MARKET.parse(name)


@pytest.mark.parametrize("name", list(WORLDS))
def test_names_of_worlds_are_canonical(worlds, name):
    world = worlds[name]
    layout = sets.layout_of(world)
    assert layout.name[:4] == world.kind.layout[:4]
    for record in (*world.train, *world.query, *world.gallery):
        fields = layout.parse(record.name)
        assert layout.format(**fields) == record.name
        assert (fields["pid"], fields["camid"]) == (record.pid, record.camid)


# worlds to disk and back ------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", list(WORLDS))
def test_written_worlds_are_read_back_identically(worlds, name, tmp_path):
    world = worlds[name]
    home = write_image_set(world, tmp_path / name)
    back = load_image_set(sets.layout_of(world).name, home)
    assert back.name == name and back.camera_rule and not back.notes
    for split in ("train", "query", "gallery"):
        ours, theirs = getattr(world, split), getattr(back, split)
        assert plain(ours) == plain(theirs)
        assert all(world.read_bytes(a) == back.read_bytes(b) for a, b in zip(ours, theirs))
    assert np.array_equal(world.read_image(world.query[0]), back.read_image(back.query[0]))
    assert back.label_of == world.label_of
    assert open_set(home).fingerprint == back.fingerprint
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_msmt_lists(worlds, tmp_path):
    world = worlds["mannequin-msmt"]
    home = write_image_set(world, tmp_path / "msmt")
    lines = {which: [line.split() for line in (home / f"{which}.txt").read_text().splitlines()] for which in ("list_train", "list_val", "list_query", "list_gallery")}
    assert len(lines["list_train"]) + len(lines["list_val"]) == len(world.train)
    assert all(len(line) == 2 and int(line[1]) == int(line[0][:4]) for content in lines.values() for line in content)
    assert max(r.camid for r in load_image_set("msmt17", home).train) > 9
    # version 2: other folders, lists without suffix, resource forks of a Mac
    v2 = tmp_path / "MSMT17_V2"
    home.rename(v2)
    (v2 / sets.MARKER).unlink()
    for old, new in (("train", "mask_train_v2"), ("test", "mask_test_v2"), *((f"{k}.txt", k) for k in lines)):
        (v2 / old).rename(v2 / new)
    fill(v2, ["mask_test_v2/0000/._0000_002_01_0303morning_0016_2.jpg"])
    again = load_image_set("msmt17", tmp_path, strict=False)
    assert plain(again.gallery) == plain(world.gallery)
    assert any("of 82,161" in note for note in again.notes)


def test_msmt_missing_parts_are_named(worlds, tmp_path):
    home = write_image_set(worlds["mannequin-msmt"], tmp_path / "msmt")
    gone = load_image_set("msmt17", home).gallery[2]
    os.remove(gone.path)
    with pytest.raises(FileNotFoundError, match=f"1 files of gallery.*{gone.name}"):
        load_image_set("msmt17", home)
    kept = load_image_set("msmt17", home, strict=False)
    assert gone.name not in [r.name for r in kept.gallery] and len(kept.notes) == 2
    (home / "list_query.txt").unlink()
    with pytest.raises(FileNotFoundError, match="list_query.txt"):
        load_image_set("msmt17", home)


@pytest.mark.parametrize("source, layout", [("mannequin-duke", "market1501"), ("mannequin-msmt", "market1501"), ("mannequin-duke", "msmt17"), ("mannequin-msmt", "cuhk03-np")])
def test_a_world_in_another_layout_keeps_people_cameras_and_pictures(worlds, source, layout, tmp_path):
    world = worlds[source]
    back = open_set(write_image_set(world, tmp_path / "x", layout=layout))
    assert back.layout == layout
    for split in ("train", "query", "gallery"):
        key = lambda s: sorted((r.pid, r.camid, s.read_bytes(r)) for r in getattr(s, split))
        assert key(world) == key(back)


def test_junk_has_no_place_in_other_layouts(market, tmp_path):
    with pytest.raises(ValueError, match="junk"):
        write_image_set(market, tmp_path / "x", layout="dukemtmc-reid")
    assert list(tmp_path.iterdir()) == []


def test_writing_is_all_or_nothing(market, tmp_path, monkeypatch):
    calls = []

    def failing(record):
        calls.append(record)
        if len(calls) > 5:
            raise OSError(28, "No space left on device")
        return b"x"

    monkeypatch.setattr(market, "read_bytes", failing, raising=False)
    with pytest.raises(OSError, match="No space"):
        write_image_set(market, tmp_path / "deep" / "market")
    assert list((tmp_path / "deep").iterdir()) == []


def test_writing_never_replaces_anything_else(market, worlds, tmp_path):
    target = tmp_path / "market"
    target.mkdir()
    write_image_set(market, target)  # an empty folder is fine
    stamp = (target / sets.MARKER).stat().st_mtime_ns
    assert write_image_set(market, target) == target and (target / sets.MARKER).stat().st_mtime_ns == stamp
    with pytest.raises(FileExistsError, match="something else"):
        write_image_set(worlds["same-clothes"], target)
    other = fill(tmp_path / "photos", ["holiday.jpg"])
    with pytest.raises(FileExistsError, match="something else"):
        write_image_set(market, other)
    assert (other / "holiday.jpg").exists()
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(FileExistsError):
        write_image_set(market, file)


def test_equal_names_are_refused(market, tmp_path, monkeypatch):
    monkeypatch.setattr(layouts, "new_name", lambda layout, record, number: layout.example)
    with pytest.raises(ValueError, match="names must differ"):
        write_image_set(make_world("mannequin-duke", "smoke", **SMALL), tmp_path / "x", layout="market1501")


# what can be wrong with a folder -----------------------------------------------------------------------------------

def test_missing_folders_are_named(market_folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder .*nowhere"):
        load_image_set("market1501", tmp_path / "nowhere")
    shutil.rmtree(market_folder / "query")
    with pytest.raises(FileNotFoundError, match="no folder query in .*there is: bounding_box_test"):
        load_image_set("market1501", market_folder)


def test_found_one_level_below(market, tmp_path):
    write_image_set(market, tmp_path / "data" / "Market-1501-v15.09.15")
    (tmp_path / "data" / "__MACOSX").mkdir()
    assert len(load_image_set("market1501", tmp_path / "data", strict=False).query) == len(market.query)
    assert open_set(tmp_path / "data", strict=False).layout == "market1501"


def test_clutter_is_passed_over(market, market_folder):
    for name in ("Thumbs.db", ".DS_Store", "._0002_c1s1_000451_03.jpg", "readme.txt", "desktop.ini"):
        (market_folder / "bounding_box_train" / name).write_bytes(b"junk")
    (market_folder / "gt_query").mkdir()
    assert plain(load_image_set("market1501", market_folder).train) == plain(market.train)


def test_foreign_images_are_errors_or_notes(market, market_folder):
    fill(market_folder / "query", ["my cat.jpg"])
    with pytest.raises(ValueError, match="my cat.jpg.*strict=False"):
        load_image_set("market1501", market_folder)
    loose = load_image_set("market1501", market_folder, strict=False)
    assert plain(loose.query) == plain(market.query) and "my cat.jpg" in loose.notes[0]


def test_wrong_layout_is_told(market_folder, worlds, tmp_path):
    with pytest.raises(ValueError, match="not a dukemtmc-reid file name"):
        load_image_set("dukemtmc-reid", market_folder)
    with pytest.raises(ValueError, match="unknown data set 'market'.*market1501"):
        load_image_set("market", market_folder)
    with pytest.raises(ValueError, match="no option 'boxes'"):
        load_image_set("market1501", market_folder, boxes="detected")


def test_empty_split_is_an_error_even_if_not_strict(market_folder):
    shutil.rmtree(market_folder / "query")
    (market_folder / "query").mkdir()
    for strict in (True, False):
        with pytest.raises(ValueError, match="query holds no image"):
            load_image_set("market1501", market_folder, strict=strict)


def test_counts_are_compared_with_the_published_ones(market_folder):
    (market_folder / sets.MARKER).unlink()
    with pytest.raises(ValueError, match="train has 12 images of 12,936.*query has .* of 3,368.*gallery has .* of 19,732"):
        load_image_set("market1501", market_folder)
    found = load_image_set("market1501", market_folder, strict=False)
    assert found.name == "market1501" and len(found.notes) == 6


def test_counts_are_compared_with_the_marker(market, market_folder):
    os.remove(load_image_set("market1501", market_folder).gallery[0].path)
    with pytest.raises(ValueError, match=f"gallery has {len(market.gallery) - 1} images of {len(market.gallery)}"):
        load_image_set("market1501", market_folder)
    (market_folder / sets.MARKER).write_text('{"name": ')
    with pytest.raises(ValueError, match="dgnb.json is damaged"):
        load_image_set("market1501", market_folder)


def test_cuhk(tmp_path):
    for boxes, count in (("detected", 2), ("labeled", 3)):
        for folder in ("bounding_box_train", "query", "bounding_box_test"):
            fill(tmp_path / boxes / folder, [f"{n + 1:04d}_c{1 + n % 2}_{n}.png" for n in range(count)])
    assert len(load_image_set("cuhk03-np", tmp_path, strict=False).train) == 2
    labeled = load_image_set("cuhk03-np", tmp_path, strict=False, boxes="labeled")
    assert len(labeled.train) == 3 and any("of 7,368" in note for note in labeled.notes)
    with pytest.raises(ValueError, match="unknown value of boxes"):
        load_image_set("cuhk03-np", tmp_path, boxes="both")
    assert open_set(tmp_path, strict=False).layout == "cuhk03-np"


def test_damaged_images_are_found_and_named(market_folder):
    found = load_image_set("market1501", market_folder)
    truncated, empty, text = found.train[1], found.query[0], found.gallery[3]
    with open(truncated.path, "rb+") as file:
        file.truncate(os.path.getsize(truncated.path) // 2)
    open(empty.path, "wb").close()
    open(text.path, "w").write("<html>not found</html>")
    problems = check_images(found)
    assert {(p.split, p.name) for p in problems} == {("train", truncated.name), ("query", empty.name), ("gallery", text.name)}
    os.remove(found.train[0].path)
    assert found.train[0].name in [p.name for p in check_images(found)]


def test_report(market, market_folder):
    report = sets.check_report(load_image_set("market1501", market_folder), images=True)
    junk = sum(r.pid == -1 for r in market.gallery)
    assert report["splits"]["gallery"]["junk"] == junk > 0 and report["problems"] == []
    assert report["splits"]["gallery"]["identities"] == 3 and report["splits"]["train"]["images"] == 12
    text = sets.format_report(report)
    assert "all images can be decoded" in text and "INCOMPLETE" not in text
    assert json.dumps(report) and "mannequin-market" in sets.format_report(sets.check_report(market))


def test_fingerprint_sees_an_exchanged_file(market_folder):
    found = load_image_set("market1501", market_folder)
    before = found.fingerprint
    with open(found.train[0].path, "ab") as file:
        file.write(b"x")
    assert before != load_image_set("market1501", market_folder).fingerprint


def test_order_of_the_file_system_does_not_matter(market_folder, monkeypatch):
    expected = load_image_set("market1501", market_folder)
    walk = os.walk
    monkeypatch.setattr(os, "walk", lambda *a, **k: ((here, folders, files[::-1]) for here, folders, files in walk(*a, **k)))
    assert load_image_set("market1501", market_folder).train == expected.train


# folders of one's own -----------------------------------------------------------------------------------------------

def people(root, identities=4, images=3, prefix=""):
    return fill(root, [f"{prefix}person {chr(97 + i)}/ü {n}.jpg" for i in range(identities) for n in range(images)])


def test_folder_without_cameras(tmp_path):
    found = load_image_set("folder", people(tmp_path / "mine", 5))
    assert not found.camera_rule and any("no cameras" in note for note in found.notes)
    assert len(found.label_of) == 3 and len(found.query) == 2
    assert {r.pid for r in found.train}.isdisjoint({r.pid for r in (*found.query, *found.gallery)})
    assert not set(found.query) & set(found.gallery)
    assert sorted(found.identities.values()) == [f"person {c}" for c in "abcde"]
    assert load_image_set("folder", tmp_path / "mine").train == found.train


@settings(max_examples=10, deadline=None)
@given(counts=st.lists(st.integers(1, 4), min_size=2, max_size=7), seed=st.integers(0, 9))
def test_folder_splits_hold_everything_once(tmp_path_factory, counts, seed):
    root = tmp_path_factory.mktemp("set")
    names = [f"{i:02d}/{n}.jpg" for i, count in enumerate(counts) for n in range(count)]
    fill(root, names, data=b"never decoded")
    try:
        found = load_image_set("folder", root, seed=seed)
    except ValueError as error:
        assert "second image" in str(error)
        return
    assert sorted(r.name for r in (*found.train, *found.query, *found.gallery)) == sorted(names)
    tested = {r.pid for r in (*found.query, *found.gallery)}
    assert len(found.label_of) == (len(counts) + 1) // 2 and tested.isdisjoint(found.label_of)
    assert {r.pid for r in found.query} == {p for p in tested if counts[p - 1] > 1} and len(found.query) == len({r.pid for r in found.query})


def test_one_image_identity_stays_in_the_gallery(tmp_path):
    fill(people(tmp_path / "mine", 6), [f"alone {n}/x.jpg" for n in range(6)])
    found = load_image_set("folder", tmp_path / "mine")
    singles = [r for r in found.gallery if found.identities[r.pid].startswith("alone")]
    assert singles and not {r.pid for r in singles} & {r.pid for r in found.query}
    assert any(note.startswith(f"{len(singles)} of the tested identities") for note in found.notes)


def write_csv(path, rows, header="path,camera,split"):
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]), encoding="utf-8")
    return path


def test_folder_with_cameras_and_splits(tmp_path):
    root = people(tmp_path / "mine", 4, 4)
    names = sets.image_files(root)
    table = write_csv(tmp_path / "c.csv", [(n, "north" if k % 2 else "south", ["train", "query", "gallery"][min(k // 4, 2)]) for k, n in enumerate(names)])
    found = load_image_set("folder", root, cameras=table)
    assert found.camera_rule and {r.camid for r in found.train} == {1, 2}
    assert [len(s) for s in (found.train, found.query, found.gallery)] == [4, 4, 8] and not found.notes


def test_folder_with_cameras_asks_only_what_can_be_answered(tmp_path):
    root = people(tmp_path / "mine", 8, 3)
    names = sets.image_files(root)
    table = write_csv(tmp_path / "c.csv", [(n, 12 if "person" in n and n[7] in "aceg" else 3 + k % 3) for k, n in enumerate(names)], "path,camera")
    for seed in range(4):
        found = load_image_set("folder", root, cameras=table, seed=seed)
        assert {r.camid for s in (found.train, found.query, found.gallery) for r in s} <= {3, 4, 5, 12}
        for q in found.query:
            assert any(g.pid == q.pid and g.camid != q.camid for g in found.gallery)


@pytest.mark.parametrize("rows, header, message", [
    ([("person a/ü 0.jpg", 1)], "file,camera", "columns path"),
    ([], "path,camera", "at least one row"),
    ([("person a/none.jpg", 1)], "path,camera", "line 2: no image 'person a/none.jpg'"),
    ([("person a/ü 0.jpg",)], "path,camera", "line 2: no camera for person a/ü 0.jpg"),
    ([("person a/ü 0.jpg", 1, "test")], "path,camera,split", "unknown split 'test'"),
    ([("person a/ü 0.jpg", 1)], "path,camera", "lists 1 of 12 images; the first missing is person a/ü 1.jpg"),
])
def test_csv_faults(tmp_path, rows, header, message):
    root = people(tmp_path / "mine")
    with pytest.raises(ValueError, match=message):
        load_image_set("folder", root, cameras=write_csv(tmp_path / "c.csv", rows, header))
    with pytest.raises(FileNotFoundError, match="no file"):
        load_image_set("folder", root, cameras=tmp_path / "none.csv")


def test_a_message_names_the_line_as_an_editor_counts_it(tmp_path):
    """Blank lines, before the header too, and a field over two lines are counted as lines."""
    root, table = people(tmp_path / "mine"), tmp_path / "c.csv"
    first, second = sets.image_files(root)[:2]
    for text, line in ((f"path,camera\n\n\n{first},1\n\n{second},\n", 6), (f"\r\n\r\npath,camera\r\n{first},1\r\n\r\n{second},\r\n", 6),
                       (f'path,camera,remark\n{first},1,"two\nlines"\n{second},,\n', 4)):
        table.write_bytes(text.encode())
        with pytest.raises(ValueError, match=f"c.csv line {line}: no camera for {second}"):
            load_image_set("folder", root, cameras=table)


def test_a_table_of_more_than_there_is(tmp_path):
    """A part of a set with the table of the whole: an error that says so, or the part, if that is wanted."""
    root = people(tmp_path / "mine")
    rows = [(n, 1 + k % 2) for k, n in enumerate(sets.image_files(root))]
    table = write_csv(tmp_path / "c.csv", [("person z/gone.jpg", 2), *rows], "path,camera")
    with pytest.raises(ValueError, match="line 2: no image 'person z/gone.jpg'.*--partial"):
        load_image_set("folder", root, cameras=table)
    part, whole = load_image_set("folder", root, cameras=table, strict=False), load_image_set("folder", root, cameras=write_csv(tmp_path / "d.csv", rows, "path,camera"))
    assert [part.train, part.query, part.gallery] == [whole.train, whole.query, whole.gallery] and part.camera_rule
    with pytest.raises(ValueError, match="lists none of the 12 images; paths are relative to the set's folder, such as person a/"):
        load_image_set("folder", root, cameras=write_csv(tmp_path / "e.csv", [("mine/x.jpg", 1)], "path,camera"), strict=False)


def test_one_camera_says_what_to_leave_out(tmp_path):
    root = people(tmp_path / "mine")
    table = write_csv(tmp_path / "c.csv", [(n, 3) for n in sets.image_files(root)], "path,camera")
    with pytest.raises(ValueError, match="second image in another camera to be found; .*leave the table of cameras out"):
        load_image_set("folder", root, cameras=table)
    assert not load_image_set("folder", root).camera_rule


def test_a_file_that_is_no_image_is_named_without_addresses():
    from dgnb.worlds import decode_image
    with pytest.raises(ValueError, match=r"^x.jpg: cannot be decoded \(cannot identify image file\); replace the file or remove it$"):
        decode_image(b"no image", "x.jpg")


def test_csv_of_a_spreadsheet(tmp_path):
    root, table = people(tmp_path / "mine"), tmp_path / "c.csv"
    text = "path,camera\r\n" + "".join(f"{name},{1 + n % 2}\r\n" for n, name in enumerate(sets.image_files(root))).replace("/", "\\")
    table.write_bytes(text.encode("utf-8-sig"))
    assert load_image_set("folder", root, cameras=table).camera_rule
    table.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match="c.csv is not a CSV file in UTF-8.*save it as"):
        load_image_set("folder", root, cameras=table)


def test_partial_csv_and_partial_split(tmp_path):
    root = people(tmp_path / "mine")
    names = sets.image_files(root)
    table = write_csv(tmp_path / "c.csv", [(n, 1 + k % 2) for k, n in enumerate(names[:-1])], "path,camera")
    loose = load_image_set("folder", root, cameras=table, strict=False)
    assert sum(map(len, (loose.train, loose.query, loose.gallery))) == 11 and any("1 images without a camera" in note for note in loose.notes)
    table = write_csv(tmp_path / "d.csv", [(n, 1, "train" if k else "") for k, n in enumerate(names)])
    with pytest.raises(ValueError, match="have no split"):
        load_image_set("folder", root, cameras=table)
    table = write_csv(tmp_path / "e.csv", [(n, 1, "train") for n in names])
    with pytest.raises(ValueError, match="no image is in split 'query'"):
        load_image_set("folder", root, cameras=table)


def test_split_folders(tmp_path):
    for split in ("train", "query", "gallery"):
        people(tmp_path / "mine", 2, 2, prefix=f"{split}/")
    found = open_set(tmp_path / "mine")
    assert found.layout == "folder" and [len(s) for s in (found.train, found.query, found.gallery)] == [4, 4, 4]
    assert {r.pid for r in found.query} == {r.pid for r in found.gallery} == {1, 2}


@pytest.mark.parametrize("make, message", [
    (lambda root: fill(root, ["a.jpg", "b.jpg"]), "2 images but no folder per identity"),
    (lambda root: root.mkdir(), "0 images but no folder"),
    (lambda root: people(root, 1), "at least two identities"),
    (lambda root: people(root, 4, 1), "no test identity has a second image"),
])
def test_folder_faults(tmp_path, make, message):
    make(tmp_path / "mine")
    with pytest.raises(ValueError, match=message):
        load_image_set("folder", tmp_path / "mine")


def test_every_kind_of_image_becomes_rgb(tmp_path):
    """EXIF rotation, alpha, grey, palette, CMYK: all come out as height x width x 3 bytes, upright."""
    root = tmp_path / "mine"
    rgb = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 32, 3)).astype(np.uint8))
    turned = Image.Exif()
    turned[0x0112] = 6  # rotate by 270 degrees to see it upright
    kinds = {"plain.png": (rgb, {}), "grey.png": (rgb.convert("L"), {}), "alpha.png": (rgb.convert("RGBA"), {}), "palette.gif": (rgb.convert("P"), {}),
             "cmyk.jpg": (rgb.convert("CMYK"), {}), "one bit.png": (rgb.convert("1"), {}), "turned.jpg": (rgb.transpose(Image.Transpose.ROTATE_90), {"exif": turned})}
    people(root, 3, 2)
    (root / "odd").mkdir()
    for name, (image, options) in kinds.items():
        image.save(root / "odd" / name, **options)
    found = load_image_set("folder", root)
    odd = {r.name.split("/")[1]: r for s in (found.train, found.query, found.gallery) for r in s if r.name.startswith("odd")}
    assert odd.keys() == kinds.keys() and check_images(found) == []
    for name, record in odd.items():
        image = found.read_image(record)
        assert image.shape == (64, 32, 3) and image.dtype == np.uint8, name
    assert np.array_equal(found.read_image(odd["plain.png"]), np.asarray(rgb))
    grey = found.read_image(odd["grey.png"])
    assert (grey[..., 0] == grey[..., 1]).all() and (grey[..., 1] == grey[..., 2]).all()


# one name opens anything ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("world", ["mannequin-market", "mannequin-duke", "mannequin-msmt", "same-clothes"])
def test_a_written_world_is_opened_by_its_name_and_folder(world, tmp_path):
    made = open_set(world, scale="smoke", **SMALL)
    home = write_image_set(made, tmp_path / "a")
    back = open_set(world, home)
    assert back.name == world and [r.name for r in back.query] == [r.name for r in made.query] and back.layout == open_set(home).layout
    (home / MARKER).unlink()  # as if copied by other software: the layout of the set it stands in for
    assert open_set(world, home, strict=False).layout == back.layout


def test_open_set(tmp_path):
    assert open_set("mannequin-market", scale="smoke", **SMALL).name == "mannequin-market"
    with pytest.raises(ValueError, match="not part of this package.*root"):
        open_set("market1501")
    with pytest.raises(ValueError, match="no folder and no set.*mannequin-market"):
        open_set("mannequin-makret")
    found = open_set("folder", root=people(tmp_path / "mine"), seed=5)
    assert found.query == open_set(tmp_path / "mine", seed=5).query


# the data cards --------------------------------------------------------------------------------------------------------

def test_data_cards_state_the_counts_that_the_loaders_check():
    from dgnb.paths import project_root
    page = (project_root() / "nbs" / "1_foundations" / "data_cards.md").read_text(encoding="utf-8")
    rows = {cells[0]: cells[1:] for line in page.splitlines() if line.startswith("| ") and len(cells := [c.strip() for c in line.strip("|").split("|")]) == 8}
    labeled = sets._cuhk_boxes(sets.Path("."), "labeled")[0]
    for title, layout in {"Market-1501": MARKET, "DukeMTMC-reID": DUKE, "MSMT17": MSMT, "CUHK03-NP, detected": CUHK, "CUHK03-NP, labeled": labeled}.items():
        known, (train, people, query, gallery, cameras) = layout.published, [int(c.replace(",", "")) for c in rows[title][1:6]]
        assert rows[title][0] == f"`{layout.name}`"
        assert (train, people) == known["train"] and query == known["query"][0] and gallery == known["gallery"][0] and cameras == layout.cameras
    assert "withdrawn" in rows["DukeMTMC-reID"][6] and not any("http" in line for line in page.splitlines() if "Duke" in line)


def test_a_table_finds_names_that_another_system_spelled_and_contradicts_nobody(tmp_path):
    """An accent may be a character of its own in the table or in the folder; a picture listed twice must be said to be in one place; a semicolon is named."""
    import unicodedata
    root, names = tmp_path / "own", [f"{who}/{n} é.png" for who in ("Zoë", "ben") for n in range(4)]
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 16)).save(root / name)
    rows = [(unicodedata.normalize("NFD", name), 1 + k % 2) for k, name in enumerate(names)]
    assert rows[0][0] != names[0]
    found = load_image_set("folder", root, cameras=write_csv(tmp_path / "c.csv", rows, "path,camera"))
    assert {r.name: r.camid for r in (*found.train, *found.query, *found.gallery)} == {name: 1 + k % 2 for k, name in enumerate(names)}
    again = load_image_set("folder", root, cameras=write_csv(tmp_path / "d.csv", [*rows, rows[0]], "path,camera"))
    assert again.query == found.query and again.train == found.train, "the same line twice does no harm"
    with pytest.raises(ValueError, match="d.csv line 10: .* was listed before, with another camera or split; keep one line"):
        load_image_set("folder", root, cameras=write_csv(tmp_path / "d.csv", [*rows, (names[0], 2)], "path,camera"))
    (tmp_path / "e.csv").write_text("path;camera\nben/0 é.png;1\n")
    with pytest.raises(ValueError, match="separated by commas, and at least one row; found columns path;camera"):
        load_image_set("folder", root, cameras=tmp_path / "e.csv")
