"""`dgnb localize`, `dgnb repair` and `dgnb train stcnet`, as a user types them, and the functions behind them."""
import shutil
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dgnb.cli import main
from dgnb.own_tracklets import read_tracklet_set
from dgnb.run_store import RunSpec, RunStore, RunStoreError
from dgnb.video_worlds import make_video_world
from dgnb.vrstc.localizer import Rule
from dgnb.vrstc.own_videos import find_run, is_synthetic, localize_tracklets, open_painter, open_scorer, open_tracklets, own_settings, repair_tracklets, train_tracklets
from dgnb.vrstc.pipeline import against_twins
from dgnb.vrstc.repair import RepairedSet, true_table
from dgnb.vrstc.repairing import REPAIRS
from dgnb.vrstc.stcnet import load_stcnet, stcnet_spec
from dgnb.vrstc.step import stcnet_settings
from dgnb.vrstc.video_training import video_settings, video_spec

TINY = dict(train_identities=4, test_identities=2, tracklets=2.0, test_tracklets=1.0, distractors=0, junk=0, longest=6, mean_length=5)


def call_main(monkeypatch, capsys, *words):
    monkeypatch.setattr(sys, "argv", ["dgnb", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        main()
    out, err = capsys.readouterr()
    return end.value.code or 0, out, err


@pytest.fixture
def dgnb(monkeypatch, capsys):
    """Call the command in this process; gives (exit status, what it printed, what it complained about)."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("DGNB_THREADS", "1")
    return lambda *words: call_main(monkeypatch, capsys, *words)


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """Somebody's own folders: person/tracklet/frames."""
    root, world = tmp_path_factory.mktemp("own") / "people", make_video_world("mannequin-mars", "smoke", occlusion={"share": 0.6}, **TINY)
    for record in world.train:
        folder = root / f"p{record.pid}" / record.name
        folder.mkdir(parents=True)
        for n in range(record.length):
            (folder / f"{n:03d}.jpg").write_bytes(world.read_frame_bytes(record, n))
    return root


@pytest.fixture(scope="module")
def runs(people, tmp_path_factory):
    """A store with a painter and its scorer of those people, and a painter of a world."""
    store, source = tmp_path_factory.mktemp("runs"), read_tracklet_set(people)
    run = train_tracklets(source, own_settings(source, "smoke", iterations=2, channels=2, critic_channels=2, batch=4), out=store, progress="off")
    world = make_video_world("mannequin-mars", "smoke", **TINY)
    synthetic = RunStore(local=store, shipped=store / "none").get(stcnet_spec(world, stcnet_settings("smoke", "spatial", channels=2, iterations=1, batch=4)), train=True, progress="off")
    return {"store": store, "painter": run, "scorer": open_scorer(painter=run), "synthetic": synthetic}


# --- what is opened

def test_a_folder_is_one_tracklet_or_many(people, tmp_path):
    many = open_tracklets(people)
    assert not many.train and not many.query and len(many.gallery) == len(list(people.glob("*/*"))) and all("/" in record.name for record in many.gallery)
    first = people / many.gallery[0].name
    one = open_tracklets(first)
    assert [record.name for record in one.gallery] == [first.name] and one.gallery[0].length == many.gallery[0].length
    assert [record.name for record in open_tracklets(first.parent).gallery][:1] == [first.name]


@pytest.mark.parametrize(("make", "error", "message"), [
    (lambda root: None, FileNotFoundError, "no folder"), (lambda root: root.mkdir(), ValueError, "holds no image; remove it, put its frames there"),
    (lambda root: (root / "a" / "b").mkdir(parents=True), ValueError, "a/b holds no image")])
def test_nothing_to_open_is_said(make, error, message, tmp_path):
    make(tmp_path / "x")
    with pytest.raises(error, match=message):
        open_tracklets(tmp_path / "x")


def test_empty_tracklet_folders_are_errors_or_left_out(people, tmp_path, dgnb, runs):
    root = shutil.copytree(people, tmp_path / "people")
    (root / "p9" / "empty").mkdir(parents=True)
    with pytest.raises(ValueError, match="p9/empty holds no image.*--partial"):
        open_tracklets(root)
    loose = open_tracklets(root, strict=False)
    assert loose.notes[0] == "left out p9/empty: no image" and len(loose.gallery) == len(open_tracklets(people).gallery)
    status, _, err = dgnb("localize", root, "-o", tmp_path / "out", "--scorer", runs["scorer"].folder)
    assert status == 2 and "p9/empty holds no image" in err and err.count("\n") == 1


def test_gaps_and_single_frames_are_noted(tmp_path, people):
    folder = next(iter(sorted(people.glob("*/*"))))
    shutil.copytree(folder, tmp_path / "in" / "a")
    (tmp_path / "in" / "a" / "001.jpg").rename(tmp_path / "in" / "a" / "090.jpg")
    (tmp_path / "in" / "b").mkdir()
    shutil.copy(folder / "000.jpg", tmp_path / "in" / "b" / "7.jpg")
    notes = open_tracklets(tmp_path / "in").notes
    assert "gaps in their frame numbers" in notes[0] and "1 tracklets have one frame only" in notes[1]


# --- which runs

def test_runs_are_found_by_folder_and_by_name(runs, monkeypatch):
    painter = runs["painter"]
    assert find_run(painter.folder, "stcnet").spec == painter.spec
    monkeypatch.setenv("DGNB_RUNS", str(runs["store"]))
    assert find_run(painter.spec.name, "stcnet").spec == painter.spec and open_scorer(painter=painter).spec.as_dict() == painter.spec.as_dict()["settings"]["guider"]
    assert not is_synthetic(painter) and is_synthetic(runs["synthetic"])
    with pytest.raises(RunStoreError, match="is a run of 'stcnet'; a run of 'video-reid' with weights is needed"):
        find_run(painter.folder, "video-reid")
    with pytest.raises(RunStoreError, match="neither the folder nor the name of a finished run; did you mean"):
        find_run(runs["store"], "stcnet")
    with pytest.raises(RunStoreError, match="was trained without a guider, so it has no network that scores bands: name one"):
        open_scorer(painter=runs["synthetic"])


def test_a_copy_without_networks_says_what_to_do(people, tmp_path, dgnb, monkeypatch):
    monkeypatch.setenv("DGNB_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("DGNB_SHIPPED_RUNS", str(tmp_path / "shipped"))
    for words, option in ((("localize", people, "-o", tmp_path / "out"), "--scorer RUN"), (("repair", people, "-o", tmp_path / "out"), "--model RUN")):
        status, _, err = dgnb(*words)
        assert status == 2 and option in err and "dgnb train stcnet --data mannequin-mars --scale laptop" in err and not (tmp_path / "out").exists()


def test_painter_and_scorer_come_with_the_project(people, tmp_path, dgnb, monkeypatch):
    """Without a run of one's own and without --model: scored, painted, and a warning that these weights know rendered people only."""
    monkeypatch.setenv("DGNB_RUNS", str(tmp_path / "runs"))
    status, said, err = dgnb("repair", people, "-o", tmp_path / "out", "--share", 0.2)
    assert status == 0 and "repaired " in said and "only seen rendered Mannequin people" in err and list((tmp_path / "out").rglob("*.png")), err
    status, said, err = dgnb("localize", people, "-o", tmp_path / "seen", "--pictures", 0)
    assert status == 0 and "only seen rendered Mannequin people" in err and (tmp_path / "seen" / "scores.csv").is_file()
    assert open_painter().shipped and open_scorer().shipped and not (tmp_path / "runs").exists()


def test_the_painter_that_comes_along_can_paint():
    """In another town, of which it has seen nobody: bands where something is hidden come nearer to what is behind."""
    town = make_video_world("mannequin-mars", "smoke", seed=5, occlusion={"share": 0.8})
    found = against_twins(RepairedSet(town, load_stcnet(open_painter()), true_table(town)), 48)
    assert len(found) == 48 and found.after.mean() > found.before.mean() + 1


# --- localize

def test_localize_writes_a_table_and_pictures(people, runs, tmp_path, dgnb):
    out = tmp_path / "out"
    status, said, err = dgnb("localize", people, "-o", out, "--scorer", runs["scorer"].folder, "--pictures", 2, "--share", 0.2)
    assert status == 0, err
    table = pd.read_csv(out / "scores.csv")
    frames = sum(record.length for record in open_tracklets(people).gallery)
    assert list(table.columns) == ["split", "tracklet", "frame", "band", "score", "flagged"] and len(table) == 3 * frames
    assert abs(table.flagged.mean() - 0.2) < 0.03 and f"{frames} frames" in said and "flagged 2" in said
    pictures = sorted(out.glob("*.png"))
    assert len(pictures) == 2 and min(Image.open(pictures[0]).size) > 100 and np.asarray(Image.open(pictures[0]).convert("L")).std() > 10
    assert "whether or not anybody is hidden" in err and "rendered Mannequin" not in err
    stamp = (out / "scores.csv").stat().st_mtime_ns
    status, said, err = dgnb("localize", people, "-o", out, "--scorer", runs["scorer"].folder, "--pictures", 0, "--threshold", -1)
    assert status == 0 and "flagged 0.0% of bands" in said and "whether or not" not in err
    again = pd.read_csv(out / "scores.csv")
    assert (again.score == table.score).all() and not again.flagged.any() and (out / "scores.csv").stat().st_mtime_ns != stamp


def test_one_tracklet_and_one_frame(people, runs, tmp_path):
    folder = sorted(people.glob("*/*"))[0]
    table = localize_tracklets(open_tracklets(folder), tmp_path / "one", runs["scorer"], Rule("threshold", 0.5), progress="off")
    assert (tmp_path / "one" / f"{folder.name}.png").is_file() and set(table.tracklet) == {folder.name}
    (tmp_path / "single").mkdir()
    shutil.copy(folder / "000.jpg", tmp_path / "single" / "000.jpg")
    table = localize_tracklets(open_tracklets(tmp_path / "single"), tmp_path / "two", runs["scorer"], Rule("threshold", 0.5), progress="off")
    assert table.score.tolist() == [1, 1, 1] and not table.flagged.any()


def test_an_unreadable_frame_is_named(people, runs, tmp_path, dgnb):
    root = shutil.copytree(people, tmp_path / "people")
    bad = sorted(root.rglob("*.jpg"))[3]
    bad.write_bytes(b"no picture")
    status, _, err = dgnb("localize", root, "-o", tmp_path / "out", "--scorer", runs["scorer"].folder)
    assert status == 2 and bad.name in err and "cannot be decoded" in err and err.strip().splitlines()[-1].startswith("dgnb: ")


def test_all_damaged_frames_are_named_at_once(people, runs, tmp_path, dgnb):
    """One error for a folder, not one for each frame after another wait; by localize, by repair that scores, and by repair of given flags."""
    root = shutil.copytree(people, tmp_path / "people")
    table = localize_tracklets(open_tracklets(root), tmp_path / "seen", runs["scorer"], pictures=0, progress="off")
    table["flagged"] = (table.band == "lower") & table.frame.isin([0, 2, 3])  # so that repair paints the frames that will be damaged
    table.to_csv(tmp_path / "flags.csv", index=False)
    bad = [sorted(root.glob("*/*"))[n] / f"{n:03d}.jpg" for n in (0, 2, 3)]
    bad[0].write_bytes(b"no picture"), bad[1].write_bytes(bad[1].read_bytes()[:200]), bad[2].write_bytes(b"")
    for words in (("localize", root, "-o", tmp_path / "a", "--scorer", runs["scorer"].folder), ("repair", root, "-o", tmp_path / "b", "--model", runs["painter"].folder),
                  ("repair", root, "-o", tmp_path / "c", "--model", runs["painter"].folder, "--scores", tmp_path / "flags.csv")):
        status, _, err = dgnb(*words)
        last = err.strip().splitlines()[-1]
        assert status == 2 and last.startswith(f"dgnb: 3 frames in {root} cannot be used: ") and "replace or remove them" in last
        assert all(path.relative_to(root).as_posix() in last for path in bad)


def test_both_rules_are_too_many(people, dgnb, tmp_path):
    for words in (("localize", people, "--threshold", 0.5, "--share", 0.1), ("repair", people, "-o", tmp_path / "x", "--scores", "s.csv", "--threshold", 0.5)):
        status, _, err = dgnb(*words)
        assert status == 2 and ("give either --threshold or --share" in err or "--scores brings its own flags" in err)


# --- repair

def test_repair_paints_flagged_bands_only_and_goes_on(people, runs, tmp_path, dgnb):
    out = tmp_path / "out"
    status, said, err = dgnb("repair", people, "-o", out, "--model", runs["painter"].folder, "--share", 0.1)
    assert status == 0 and "repaired " in said, err
    report, source = pd.read_csv(out / "repairs.csv"), open_tracklets(people)
    painted = report[~report.how.str.startswith("left")]
    assert len(painted) and f"repaired {len(painted)} frames of {painted.tracklet.nunique()} tracklets" in said and "rendered Mannequin" not in err
    for record in source.gallery:
        mine = set(painted.frame[painted.tracklet == record.name])
        for n, file in enumerate(record.files):
            made = out / record.name / file
            assert made.with_suffix(".png").is_file() if n in mine else made.read_bytes() == (people / record.name / file).read_bytes()
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    shutil.rmtree(out / source.gallery[2].name)
    assert dgnb("repair", people, "-o", out, "--model", runs["painter"].folder)[0] == 0
    assert before == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    status, _, err = dgnb("repair", people, "-o", out, "--model", runs["painter"].folder, "--share", 0.5)
    assert status == 2 and "holds repairs of other tracklets, by another network or other flags" in err


def test_repair_with_a_corrected_table_and_a_synthetic_painter(people, runs, tmp_path, dgnb):
    localize_tracklets(open_tracklets(people), tmp_path / "seen", runs["scorer"], Rule("threshold", -2.0), 0, "off")
    table = pd.read_csv(tmp_path / "seen" / "scores.csv")
    name = open_tracklets(people).gallery[0].name
    table.loc[(table.tracklet == name) & (table.frame == 1) & (table.band == "lower"), "flagged"] = True
    table.to_csv(tmp_path / "corrected.csv", index=False)
    status, said, err = dgnb("repair", people, "-o", tmp_path / "out", "--model", runs["synthetic"].folder, "--scores", tmp_path / "corrected.csv")
    assert status == 0 and "repaired 1 frames of 1 tracklets; 0 flagged frames were left" in said and "only seen rendered Mannequin people" in err and "whether or not" not in err
    table = table.assign(flagged=True)
    table.to_csv(tmp_path / "all.csv", index=False)
    status, said, _ = dgnb("repair", people, "-o", tmp_path / "all", "--model", runs["synthetic"].folder, "--scores", tmp_path / "all.csv")
    assert status == 0 and "repaired 0 frames of 0 tracklets" in said and "with no unoccluded frame" in said
    assert set(pd.read_csv(tmp_path / "all" / "repairs.csv").how) == {REPAIRS[3]}
    status, _, err = dgnb("repair", people, "-o", tmp_path / "none", "--model", runs["synthetic"].folder)
    assert status == 2 and "was trained without a guider" in err


def test_output_within_the_input_is_refused(people, runs, dgnb):
    for out in (people, people / "repaired"):
        status, _, err = dgnb("repair", people, "-o", out, "--model", runs["painter"].folder)
        assert status == 2 and "where it would be taken for tracklets" in err and not (people / "repaired").exists()
        assert "where it would be taken for tracklets" in dgnb("localize", people, "-o", out, "--scorer", runs["scorer"].folder)[2]


def test_frames_of_different_sizes(people, runs, tmp_path):
    root = tmp_path / "in" / "walk"
    root.mkdir(parents=True)
    files = sorted(max(people.glob("*/*"), key=lambda folder: len(list(folder.iterdir()))).iterdir())[:5]
    assert len(files) == 5
    for n, file in enumerate(files):
        Image.open(file).resize(((32, 64), (45, 90), (64, 128))[n % 3]).save(root / file.name)
    report = repair_tracklets(open_tracklets(tmp_path / "in"), tmp_path / "out", runs["painter"], runs["scorer"], progress="off")
    sizes = [Image.open(next((tmp_path / "out" / "walk").glob(f"{n:03d}.*"))).size for n in range(5)]
    assert sizes == [(32, 64), (45, 90), (64, 128), (32, 64), (45, 90)] and len(report)


# --- train

def test_training_on_own_tracklets(people, tmp_path, dgnb, monkeypatch):
    monkeypatch.setitem(sys.modules["dgnb.vrstc.step"].STCNET_SCALES, "smoke", stcnet_settings("smoke").__dict__ | dict(channels=2, critic_channels=2, batch=4))
    words = ("train", "stcnet", "--data", people, "--out", tmp_path / "runs", "--scale", "smoke", "--iterations", 2)
    status, said, err = dgnb(*words)
    assert status == 0 and "in the hole" in said and "next: dgnb repair" in said, err
    assert "a copied neighbour is closer to the truth" in err and "no cameras given" in err
    folder = said.split("made ")[1].split(" in ")[0]
    run = open_painter(folder)
    assert run.spec.as_dict()["settings"]["clean"] == "scores" and run.spec.as_dict()["settings"]["iterations"] == 2
    guider = RunSpec(**run.spec.as_dict()["settings"]["guider"])
    monkeypatch.setenv("DGNB_PRECISION", "")  # which the option sets
    again = dgnb(*words, "--guider", tmp_path / "runs" / guider.name, "--precision", "bf16-mixed")
    assert again[0] == 0 and f"made {folder}" in again[1] and "made in 32-true and not in bf16-mixed: another --out FOLDER trains anew" in again[2]


def test_a_guider_of_other_people_is_refused(people, runs, tmp_path, dgnb):
    other = RunStore(local=tmp_path, shipped=tmp_path / "none").get(video_spec(make_video_world("mannequin-mars", "smoke", **TINY), video_settings("smoke", truncate=3, epochs=1, batch=4)),
                                                                   train=True, progress="off")
    status, _, err = dgnb("train", "stcnet", "--data", people, "--out", tmp_path / "runs", "--scale", "smoke", "--guider", other.folder)
    assert status == 2 and "learnt 4 people of other data than people with its 2" in err and not list((tmp_path / "runs").glob("stcnet*"))
    status, _, err = dgnb("train", "stcnet", "--data", people, "--out", tmp_path / "runs", "--scale", "smoke", "--guider", runs["scorer"].folder, "--seed", 3)
    assert status == 2 and "was trained with seed 0: give --seed 0" in err


@pytest.mark.parametrize(("words", "message"), [
    (("--data", "nowhere"), "no folder nowhere; give a folder of person/tracklet/"), (("--data", "mannequin-mars", "--partial"), "is a synthetic world"),
    (("--data", "mannequin-mars", "--variant", "ful"), "Did you mean 'full'"), (("--data", "mannequin-mars", "--scale", "huge"), "unknown scale"),
    (("--data", "mannequin-mars", "--size", "64"), "HEIGHTxWIDTH")])
def test_training_says_what_is_wrong(dgnb, tmp_path, words, message):
    status, _, err = dgnb("train", "stcnet", "--out", tmp_path, *words)
    assert status == 2 and message in err and err.count("\n") == 1


def test_one_person_is_not_enough(people, tmp_path):
    first = sorted(people.iterdir())[0]
    shutil.copytree(first, tmp_path / "in" / first.name)
    shutil.copytree(first, tmp_path / "in" / "other")
    source = read_tracklet_set(tmp_path / "in")
    with pytest.raises(ValueError, match="two of each are the least"):
        train_tracklets(source, own_settings(source, "smoke"), out=tmp_path / "runs", progress="off")
