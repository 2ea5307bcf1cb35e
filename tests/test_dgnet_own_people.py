"""DG-Net on a folder of one's own: settings, what is refused and why, training by command and by call, swaps, features, ONNX."""
from __future__ import annotations

import csv
import json
import os
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from dgnb.augmentation import normalise
from dgnb.baseline import BaselineSettings, baseline_spec, data_spec, open_data
from dgnb.dgnet import exporting
from dgnb.dgnet.exporting import ReIDGraph, check_onnx, export_onnx
from dgnb.dgnet.joint import extract_both
from dgnb.dgnet.own_people import (SYNTHETIC, adopt_teacher, check_sharing, default_spec, describe_people, describe_set, fitting_dilations, image_paths, look_over, open_folder,
                                   open_model, people_settings, people_spec, read_people, save_arrays, swap_people, swap_sheet, train_people)
from dgnb.dgnet.step import dgnet_settings
from dgnb.image_sets import open_set
from dgnb.retrieval import evaluate_retrieval, load_features
from dgnb.run_store import MissingRun, RunStore, RunStoreError
from dgnb.worlds import make_world

TINY = dict(iterations=2, batch=2)


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """As the store trains by default; the command would take all cores."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("DGNB_THREADS", "1")
    for name in ("DEVICES", "PRECISION", "NODES"):
        monkeypatch.delenv(f"DGNB_{name}", raising=False)
    before = {name: value for name, value in os.environ.items() if name.startswith("DGNB_")}
    yield
    for name in [name for name in os.environ if name.startswith("DGNB_") and not name.startswith(("DGNB_SET", "DGNB_WEIGHTS")) and name not in before]:
        del os.environ[name]


def write_people(root, world, records, people=None):
    """Images of a world as one would keep one's own: a folder for each person."""
    for record in records:
        if people is None or record.pid in people:
            target = root / f"person {record.pid}" / record.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(world.read_bytes(record))
    return root


@pytest.fixture(scope="module")
def world():
    return make_world("mannequin-market", scale="smoke", seed=0)


@pytest.fixture(scope="module")
def folder(world, tmp_path_factory):
    """Eight people, and beside them a CSV with their cameras."""
    root = write_people(tmp_path_factory.mktemp("own") / "people", world, world.train)
    with open(root.parent / "cameras.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "camera"])
        rows.writerows([f"person {record.pid}/{record.name}", record.camid] for record in world.train)
    return root


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    """(store, set, run) of a tiny training."""
    store, source = tmp_path_factory.mktemp("runs"), open_set(folder)
    return store, source, train_people(source, people_settings("smoke", **TINY), out=store, progress="off")


@pytest.fixture(scope="module")
def model(trained):
    return open_model(trained[2].folder)


@pytest.fixture
def dgnb(monkeypatch, capsys):
    """Call the command in this process; gives (exit status, what it printed, what it complained about)."""
    from dgnb.cli import main

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["dgnb", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            main()
        out, err = capsys.readouterr()
        return end.value.code or 0, out, err
    return call


# settings


def test_settings_default_to_the_scale():
    assert people_settings("laptop") == dgnet_settings("laptop") and people_settings("gpu", "paper") == dgnet_settings("gpu", "paper")


def test_a_shorter_training_keeps_its_shape():
    """A tenth of the iterations: warm-ups begin at a tenth and rise ten times as fast, so they end at the same share."""
    full, short = people_settings("paper"), people_settings("paper", iterations=10_000)
    assert short.warmup_start == 3000 and short.warmup_slope == pytest.approx(0.005) and short.decay_at == full.decay_at
    for at in (0.0, 0.29, 0.31, 0.33, 0.5, 1.0):
        for name in full.loss_weights:
            assert short.loss_weights[name](round(at * 10_000)) == pytest.approx(full.loss_weights[name](round(at * 100_000)), abs=1e-6)


@pytest.mark.parametrize(("size", "dilations"), [((64, 32), (1, 2, 3)), ((128, 64), (3, 6, 9)), ((256, 128), (3, 6, 9))])
def test_every_size_paints(size, dilations):
    from dgnb.dgnet.joint import DGNet
    from dgnb.dgnet.step import make_networks

    settings = people_settings("smoke", size=size)
    assert settings.size == size and settings.dilations == dilations
    nets = make_networks(settings, 3)
    images = torch.randn(2, 3, *size)
    assert DGNet(nets.appearance, nets.structure, nets.decoder, settings).eval().swap(images, images).shape == images.shape


@pytest.mark.parametrize("size", [(32, 32), (64, 16), (100, 50), (128, 60)])
def test_sizes_that_do_not_fit(size):
    with pytest.raises(ValueError, match=f"{size[0]}x{size[1]} do not fit.*64x32"):
        fitting_dilations(size)


def test_imagenet_weights_go_with_their_rate(tmp_path, monkeypatch):
    import timm

    torch.save(timm.create_model("resnet10t", num_classes=0).state_dict(), tmp_path / "w.pth")
    settings = people_settings("smoke", weights=tmp_path / "w.pth")
    assert len(settings.weights) == 12 and settings.backbone_lr == 0.002 < people_settings("smoke").backbone_lr
    world = make_world("mannequin-market", scale="smoke")
    teacher = people_spec(world, settings).as_dict()["settings"]["teacher"]["settings"]
    assert teacher["weights"] == settings.weights and teacher["backbone_lr"] == 0.1, "the teacher starts from them too, at the rate that suits them"
    monkeypatch.delenv(f"DGNB_WEIGHTS_{settings.weights}")
    with pytest.raises(FileNotFoundError, match="no weight file"):
        people_settings("smoke", weights=tmp_path / "nowhere.pth")


# what is refused before anything is trained


def test_look_over_counts(folder):
    notes = look_over(open_set(folder), people_settings("smoke"))
    assert any("images of 4 people are few" in note for note in notes) and any("no cameras given" in note for note in notes)


def test_one_identity_is_too_few(world, tmp_path):
    pid = world.train[0].pid
    write_people(tmp_path / "one", world, world.train, {pid})
    with pytest.raises(ValueError, match="at least two identities"):
        open_set(tmp_path / "one")
    for split in ("train", "query", "gallery"):
        write_people(tmp_path / "split" / split, world, world.train, {pid})
    with pytest.raises(ValueError, match="1 identity to train on: two are the least"):
        look_over(open_set(tmp_path / "split"), people_settings("smoke"))


def test_fewer_images_than_a_batch(folder):
    with pytest.raises(ValueError, match="fewer than a batch of 64: add images or lower the batch"):
        look_over(open_set(folder), people_settings("smoke", batch=64))


@pytest.mark.parametrize(("batch", "processes", "message"), [
    (4, 1, ""), (4, 2, ""), (4, 4, "batch of 4 of DG-Net: .*; 1 or 2 can"), (6, 4, "batch of 6 of DG-Net: .*; 1 or 2 or 3 can"), (16, 4, ""), (16, 5, "batch of 16 of DG-Net: .*; 1 or 2 or 4 can")])
def test_a_batch_that_processes_cannot_share(folder, batch, processes, message):
    source = open_set(folder)
    settings = people_settings("smoke", batch=batch)
    if message:
        with pytest.raises(ValueError, match=f"{processes} processes cannot share the {message}"):
            check_sharing(source, settings, processes)
    else:
        check_sharing(source, settings, processes)


def test_the_teachers_batch_is_shared_too(folder):
    """A batch of one has no statistics; a teacher that is there already does not matter."""
    source, settings = open_set(folder), people_settings("smoke", batch=18)
    with pytest.raises(ValueError, match="9 processes cannot share the batch of 16 of the teacher: .*; 1 or 2 or 3 or 6 can"):
        check_sharing(source, settings, 9)
    check_sharing(source, settings, 9, teacher=False)


def test_a_damaged_image_is_named(folder, tmp_path):
    root = shutil.copytree(folder, tmp_path / "people")
    image = sorted(root.rglob("*.jpg"))[0]
    image.write_bytes(image.read_bytes()[:200])
    with pytest.raises(ValueError, match="1 image of people cannot be used, the first is person .*: replace or remove it") as error:
        look_over(open_set(root), people_settings("smoke"))
    assert image.name in str(error.value) and "\n" not in str(error.value)
    sorted(root.rglob("*.jpg"))[1].write_bytes(b"no image")
    with pytest.raises(ValueError, match="2 images of people .*dgnb data check lists all"):
        look_over(open_set(root), people_settings("smoke"))


def test_single_images_and_a_single_camera_are_noted(world, tmp_path):
    people = sorted({record.pid for record in world.train})
    root = tmp_path / "people"
    for split, chosen in (("train", people[:3]), ("query", people[4:]), ("gallery", people[4:])):
        write_people(root / split, world, world.train, chosen)
    alone = sorted((root / "train" / f"person {people[0]}").iterdir())
    for path in alone[1:]:
        path.unlink()
    with open(tmp_path / "c.csv", "w", newline="") as file:
        csv.writer(file).writerows([["path", "camera"], *([p.relative_to(root).as_posix(), 1 if "train" in p.parts else len(p.stem) % 2 + 1] for p in sorted(root.rglob("*.jpg")))])
    notes = look_over(open_set(root, cameras=tmp_path / "c.csv"), people_settings("smoke"))
    assert any("1 of 3 training identities have a single image" in note for note in notes)
    assert any("all training images are of one camera" in note for note in notes)


def test_an_identity_with_one_image_trains(world, tmp_path):
    """It is its own positive; nothing breaks and every loss stays finite."""
    people = sorted({record.pid for record in world.train})[:4]
    root = write_people(tmp_path / "people", world, world.train, people)
    for folder in sorted(root.iterdir())[:3]:
        for path in sorted(folder.iterdir())[1:]:
            path.unlink()
    source = open_set(root)
    run = train_people(source, people_settings("smoke", iterations=3, batch=2), out=tmp_path / "runs", progress="off")
    assert np.isfinite(run.log[["img1", "img2", "id"]].to_numpy(float)).all()


# the set is found again


@pytest.mark.parametrize("with_cameras", [False, True])
def test_the_same_set_is_opened_again(folder, with_cameras):
    """The CSV belongs to the set: a recipe that opens the data by its name gets the same cameras and splits."""
    source = open_set(folder, **({"cameras": folder.parent / "cameras.csv"} if with_cameras else {}))
    again = open_data(data_spec(source))
    assert again.fingerprint == source.fingerprint and again.camera_rule == with_cameras and again.query == source.query


# training


def test_training_makes_teacher_and_student(trained):
    store, source, run = trained
    assert sorted(path.name.split("-")[0] for path in store.iterdir() if not path.name.startswith(".")) == ["baseline", "dgnet"]
    teacher = RunStore(local=store).get(baseline_spec(source, BaselineSettings(**run.spec.as_dict()["settings"]["teacher"]["settings"])), weights=True)
    assert len(teacher.weights()["head.classifier.bias"]) == source.num_train_identities == 4
    assert len(run.weights()["appearance.prim.classifier.bias"]) == 4, "the class count is that of the folder"
    assert {"prim_map_step", "fine_rank1", "both_map_step"} <= run.metrics.keys()
    started = run.record["date"]
    again = train_people(source, people_settings("smoke", **TINY), out=store, progress="off")
    assert again.folder == run.folder and again.record["date"] == started, "found, not trained again"


def test_the_teachers_batch_fits_a_small_set(folder):
    source = open_set(folder)
    usual = people_spec(source, people_settings("laptop")).as_dict()["settings"]["teacher"]["settings"]["batch"]
    assert usual == len(source.train) < 32


def test_an_interrupted_training_goes_on(trained, tmp_path, monkeypatch):
    """Stopped by Ctrl-C in the middle, asked again: the same weights as a training that was never stopped."""
    import signal

    from dgnb.dgnet import step

    store, source, _ = trained
    settings, teacher = people_settings("smoke", iterations=6, batch=2), next(store.glob("baseline-*"))
    for name in "ab":
        shutil.copytree(teacher, tmp_path / name / teacher.name)
    whole = train_people(source, settings, out=tmp_path / "a", progress="off")
    call, seen = step.JointStep.__call__, []

    def interrupted(self, batch, loop):
        seen.append(loop.iteration)
        if len(seen) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return call(self, batch, loop)

    monkeypatch.setattr(step.JointStep, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_people(source, settings, out=tmp_path / "b", progress="off")
    resumed = train_people(source, settings, out=tmp_path / "b", progress="off")
    assert seen == [0, 1, 2, 3, 4, 5] and resumed.record["resumed"]
    assert all(torch.equal(value, resumed.weights()[name]) for name, value in whole.weights().items())


# the teacher that is given


def test_a_given_teacher_is_used(trained, tmp_path):
    store, source, run = trained
    teacher = next(store.glob("baseline-*"))
    settings = adopt_teacher(teacher, source, 0, tmp_path)
    assert people_spec(source, people_settings("smoke", **TINY), 0, settings) == run.spec
    copied = tmp_path / teacher.name
    assert open_folder(copied).weights().keys() == open_folder(teacher).weights().keys()
    assert adopt_teacher(copied, source, 0, tmp_path) == settings


def test_teachers_that_do_not_fit(trained, world, folder, tmp_path):
    store, source, run = trained
    teacher = next(store.glob("baseline-*"))
    with pytest.raises(RunStoreError, match="is a run of 'dgnet'; a teacher is a run of 'baseline'"):
        adopt_teacher(run.folder, source, 0, tmp_path)
    with pytest.raises(RunStoreError, match="was trained with seed 0: give --seed 0"):
        adopt_teacher(teacher, source, 1, tmp_path)
    pids = sorted({record.pid for record in world.train})[:6]
    other = open_set(write_people(tmp_path / "others", world, world.train, pids))
    with pytest.raises(RunStoreError, match="learnt 4 people of other data than others with its 3"):
        adopt_teacher(teacher, other, 0, tmp_path)
    with pytest.raises(RunStoreError, match="not the folder of a finished run"):
        adopt_teacher(tmp_path, source, 0, tmp_path)


# models


def test_a_model_knows_where_it_comes_from(model, trained):
    assert not model.synthetic and model.note == "" and model.size == (64, 32) and not model.network.training
    fake = replace(trained[2], spec=replace(trained[2].spec, data={"world": "mannequin-market"}))
    synthetic = replace(model, run=fake)
    assert synthetic.synthetic and synthetic.note == SYNTHETIC and "real photograph" in SYNTHETIC and "\n" not in SYNTHETIC


def test_without_a_shipped_model_the_error_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("DGNB_SHIPPED_RUNS", str(tmp_path / "shipped"))
    monkeypatch.setenv("DGNB_RUNS", str(tmp_path / "runs"))
    with pytest.raises(MissingRun, match="no model came with this copy.*--model RUN.*dgnb train dgnet --data mannequin-market"):
        open_model()


def test_the_suggested_command_makes_the_default(tmp_path):
    """`dgnb train dgnet --data mannequin-market --scale laptop` asks for the very run that `open_model()` looks for."""
    world = make_world("mannequin-market", scale="laptop", size=people_settings("laptop").size)
    assert people_spec(world, people_settings("laptop")) == default_spec()


def test_a_folder_that_is_no_run(trained, tmp_path):
    with pytest.raises(RunStoreError, match=f"did you mean .*{trained[2].spec.name}"):
        open_model(trained[0])
    with pytest.raises(RunStoreError, match="not the folder of a finished run"):
        open_model(tmp_path / "nothing")
    with pytest.raises(RunStoreError, match="baseline-.* is a run of recipe 'baseline', not of 'dgnet': give a folder whose name begins with dgnet-"):
        open_model(next(trained[0].glob("baseline-*")))


# images


def test_images_of_any_kind(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (90, 40, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(pixels[..., 0]).save(tmp_path / "b.png")
    Image.fromarray(np.dstack([pixels, np.full((90, 40), 255, np.uint8)])).save(tmp_path / "c.PNG")
    assert [path.name for path in image_paths(tmp_path)] == ["a.png", "b.png", "c.PNG"]
    images = read_people([tmp_path / "a.png", tmp_path], (64, 32))
    assert images.shape == (4, 3, 64, 32) and torch.equal(images[0], images[1]) and torch.equal(images[1], images[3])
    expected = np.asarray(Image.fromarray(pixels).resize((32, 64), Image.Resampling.BICUBIC))
    assert torch.equal(images[0], normalise(torch.from_numpy(expected.copy()).permute(2, 0, 1)))


@pytest.mark.parametrize(("make", "message"), [
    (lambda p: p / "nowhere.jpg", "no file .*nowhere.jpg"), (lambda p: p, "no image in"), (lambda p: [], "no image was given")])
def test_missing_images(tmp_path, make, message):
    with pytest.raises((FileNotFoundError, ValueError), match=message):
        image_paths(make(tmp_path))


def test_an_image_that_is_none(tmp_path):
    (tmp_path / "x.jpg").write_bytes(b"\xff\xd8 cut")
    with pytest.raises(ValueError, match="x.jpg: cannot be decoded"):
        read_people(tmp_path / "x.jpg", (64, 32))


# swaps


def test_swaps_take_clothes_from_the_left_and_bodies_from_above(model, folder):
    files = sorted(folder.rglob("*.jpg"))[:5]
    donors, bodies = read_people(files[:2], model.size), read_people(files[2:], model.size)
    painted = swap_people(model, donors, bodies)
    assert painted.shape == (2, 3, 64, 32, 3) and painted.dtype == np.uint8
    from dgnb.augmentation import denormalise
    alone = denormalise(model.network.swap(donors[1:], bodies[2:]))[0].permute(1, 2, 0).numpy()
    assert np.abs(painted[1, 2].astype(int) - alone).max() <= 1
    sheet = swap_sheet(donors, bodies, painted, rows=64)
    assert sheet.shape == (3 * 76, 4 * 44, 3)
    assert (sheet[:76, :44] == 255).all() and np.array_equal(sheet[76 + 6:76 + 70, 44 + 6:44 + 38], painted[0, 0])
    assert np.array_equal(sheet[6:70, 44 + 6:44 + 38], denormalise(bodies[0]).permute(1, 2, 0).numpy())
    assert np.array_equal(sheet[76 + 6:76 + 70, 6:38], denormalise(donors[0]).permute(1, 2, 0).numpy())
    assert swap_sheet(donors, bodies, painted).shape[0] > 3 * 256


# features


def test_features_of_loose_images(model, folder):
    files = sorted(folder.rglob("*.jpg"))[:5]
    found = describe_people(model, files, batch_size=2)
    assert found["f_prim"].shape == found["f_fine"].shape == (5, 32) and found["joined"].shape == (5, 64)
    for name in ("f_prim", "f_fine"):
        assert np.allclose(np.linalg.norm(found[name], axis=1), 1, atol=1e-5)
    assert np.allclose(found["joined"], np.concatenate([found["f_prim"], found["f_fine"]], 1), atol=1e-6)
    assert found["names"].tolist() == [str(path) for path in files]
    whole = describe_people(model, files)
    assert np.allclose(whole["f_prim"], found["f_prim"], atol=1e-5), "independent of the batch"


def test_features_of_a_set_are_ranked_as_in_the_run(trained, model, tmp_path):
    """What `dgnb features --data` writes gives `dgnb evaluate` the scores that the training measured."""
    _, source, run = trained
    save_arrays(tmp_path / "f.npz", describe_set(model, source))
    found = evaluate_retrieval(**load_features(tmp_path / "f.npz"), metric="dot").to_dict()
    assert found["map_step"] == pytest.approx(run.metrics["both_map_step"], abs=1e-6) and found["rank1"] == pytest.approx(run.metrics["both_rank1"])
    loose = describe_people(model, [record.path for record in source.query])
    assert np.allclose(loose["f_prim"], extract_both(model.network, source, source.query)[0].numpy(), atol=1e-5)
    half = np.load(tmp_path / "f.npz")["query"]
    assert np.allclose(half[:, 32:], 0.5 * loose["f_fine"], atol=1e-5) and np.allclose(half[:, :32], loose["f_prim"], atol=1e-5)


def test_files_are_whole_or_absent(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises((RuntimeError, OSError)):
        save_arrays(tmp_path / "file" / "f.npz", {"a": np.zeros(1)})
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# ONNX


@pytest.fixture(scope="module")
def onnx_file(model, tmp_path_factory):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    path = tmp_path_factory.mktemp("onnx") / "reid.onnx"
    return path, export_onnx(model, path)


def test_onnx_computes_the_same(model, folder, onnx_file):
    """From pixels in 0..1 to features, for batch sizes the export never saw, in another runtime."""
    path, report = onnx_file
    assert report["difference"] < 1e-5 and report["opset"] == 18 and report["bytes"] == path.stat().st_size
    ort = pytest.importorskip("onnxruntime")
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    files = sorted(folder.rglob("*.jpg"))[:7]
    image = np.stack([np.asarray(Image.open(path), np.float32) / 255 for path in files]).transpose(0, 3, 1, 2)
    prim, fine, joined = session.run(None, {"image": image})
    wanted = describe_people(model, files)
    assert np.abs(prim - wanted["f_prim"]).max() < 1e-5 and np.abs(fine - wanted["f_fine"]).max() < 1e-5 and np.abs(joined - wanted["joined"]).max() < 1e-5


def test_onnx_file_says_what_it_is(model, onnx_file):
    import onnx

    made = onnx.load(str(onnx_file[0]))
    facts = {entry.key: entry.value for entry in made.metadata_props}
    assert facts["model"] == model.run.spec.name and "0..1" in facts["input"] and facts["mirror"] == "True"
    shape = made.graph.input[0].type.tensor_type.shape.dim
    assert shape[0].dim_param and [dim.dim_value for dim in shape[1:]] == [3, 64, 32]


def test_onnx_without_a_runtime(model, onnx_file, monkeypatch):
    """The evaluator of onnx itself serves where onnxruntime is missing."""
    monkeypatch.setattr(exporting, "find_spec", lambda name: None if name == "onnxruntime" else object())
    report = check_onnx(onnx_file[0], ReIDGraph(model.network).eval(), model.size, batches=(1,))
    assert report["checked_with"] == "onnx reference evaluator" and report["difference"] < 1e-5


def test_onnx_that_differs_is_not_written(model, tmp_path, monkeypatch):
    pytest.importorskip("onnxscript")
    monkeypatch.setattr(exporting, "_write_graph", lambda graph, model, path: path.write_bytes(b"a file"))
    monkeypatch.setattr(exporting, "check_onnx", lambda *a: {"difference": 0.1})
    with pytest.raises(RuntimeError, match="differs from PyTorch by 1.0e-01"):
        export_onnx(model, tmp_path / "reid.onnx", mirror=False)
    assert not list(tmp_path.iterdir())


def test_a_changed_network_is_noticed(model, onnx_file):
    """The check can fail: other weights give other features."""
    graph = ReIDGraph(model.network, mirror=False).eval()
    assert check_onnx(onnx_file[0], graph, model.size, batches=(2,))["difference"] > 1e-3


def test_onnx_missing_says_how_to_get_it(monkeypatch, model, tmp_path):
    monkeypatch.setattr(exporting, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"onnx and onnxscript: pip install 'dgnb\[onnx\]'"):
        export_onnx(model, tmp_path / "reid.onnx")


# the commands


def test_train_command_from_folder_to_next_command(dgnb, folder, tmp_path, monkeypatch):
    words = ("train", "dgnet", "--data", folder, "--cameras", folder.parent / "cameras.csv", "--out", tmp_path, "--scale", "smoke", "--iterations", "2")
    status, out, err = dgnb(*words)
    assert status == 0, err
    run = next(tmp_path.glob("dgnet-*"))
    assert "people: 4 identities" in out and "smoke, released recipe, 64x32, 2 iterations of twice 4 images; first a teacher" in out
    assert "both    mAP" in out and f"made {run}" in out and f"next: dgnb swap --model {run} --appearance" in out
    assert open_folder(run).record["threads"] == 1
    status, again, _ = dgnb(*words)
    assert status == 0 and again == out, "found, not trained again"
    monkeypatch.setenv("DGNB_PRECISION", "")  # which the option sets
    status, again, err = dgnb(*words, "--precision", "bf16-mixed")
    assert status == 0 and again == out and err == "note: 1 run was there already, made in 32-true and not in bf16-mixed: another --out FOLDER trains anew\n"


def test_train_command_on_a_world_and_its_warning(dgnb, folder, tmp_path):
    status, _, err = dgnb("train", "dgnet", "--data", "mannequin-market", "--out", tmp_path, "--scale", "smoke", "--iterations", "2", "--recipe", "paper")
    assert status == 0, err
    run, files = next(tmp_path.glob("dgnet-*")), sorted(folder.rglob("*.jpg"))[:3]
    status, out, err = dgnb("swap", "--model", run, "--appearance", files[0], "--structure", files[1], "--structure", files[2], "--out", tmp_path / "s.png")
    assert status == 0 and "1 x 2 swaps of 64x32" in out and err.count("\n") == 1 and SYNTHETIC in err
    assert Image.open(tmp_path / "s.png").size == (3 * 140, 2 * 268)


def test_swap_command_writes_pictures_alone(dgnb, model, folder, tmp_path):
    people = sorted(folder.iterdir())
    status, out, err = dgnb("swap", "--model", model.run.folder, "--appearance", people[0], "--structure", people[1], "--out", tmp_path / "swaps")
    made = sorted((tmp_path / "swaps").iterdir())
    assert status == 0 and not err and len(made) == len(list(people[0].iterdir())) * len(list(people[1].iterdir()))
    assert Image.open(made[0]).size == (32, 64) and "-on-" in made[0].name


def test_features_command_and_evaluate(dgnb, trained, folder, tmp_path):
    _, source, run = trained
    files = sorted(folder.rglob("*.jpg"))[:3]
    status, out, _ = dgnb("features", *files, "--model", run.folder, "--out", tmp_path / "f.npz")
    assert status == 0 and "3 images, f_prim and f_fine of 32 numbers each, joined of 64" in out
    with np.load(tmp_path / "f.npz") as found:
        assert sorted(found) == ["f_fine", "f_prim", "joined", "names"] and found["names"].tolist() == list(map(str, files))
    status, out, _ = dgnb("features", "--data", folder, "--model", run.folder, "--out", tmp_path / "g.npz")
    assert status == 0 and f"{len(source.query)} queries" in out
    status, out, _ = dgnb(*out.splitlines()[-1].removeprefix("next: dgnb ").split(), "--json")
    assert status == 0 and json.loads(out)["map_step"] == pytest.approx(run.metrics["both_map_step"], abs=1e-6)


def test_export_command(dgnb, model, tmp_path):
    pytest.importorskip("onnxscript")
    status, out, err = dgnb("export", "--model", model.run.folder, "--out", tmp_path / "r.onnx", "--no-mirror")
    assert status == 0 and not err and "opset 18" in out and "largest difference" in out and (tmp_path / "r.onnx").is_file()


def test_stopping_says_how_to_go_on(dgnb, folder, tmp_path, monkeypatch):
    from dgnb.dgnet import own_people

    def stop(*_):
        raise KeyboardInterrupt("stopped at iteration 1 of 2")
    monkeypatch.setattr(own_people, "train_people", stop)
    status, out, err = dgnb("train", "dgnet", "--data", folder, "--out", tmp_path, "--scale", "smoke")
    assert status == 130 and "the same command goes on" in out and "Traceback" not in err


@pytest.mark.parametrize(("words", "message"), [
    (("train", "dgnet", "--data", "/tmp/nowhere"), "'/tmp/nowhere' is no folder and no set"),
    (("train", "dgnet", "--data", "mannequin-market", "--cameras", "c.csv"), "leave out --cameras"),
    (("train", "dgnet", "--data", "mannequin-market", "--size", "3x"), "--size takes HEIGHTxWIDTH"),
    (("train", "dgnet", "--data", "mannequin-market", "--size", "60x30"), "60x30 do not fit"),
    (("train", "dgnet", "--data", "mannequin-market", "--scale", "laptpo"), "Did you mean 'laptop'?"),
    (("train", "dgnet", "--data", "mannequin-market", "--recipe", "realeased"), "Did you mean 'released'?"),
    (("train", "dgnet", "--data", "mannequin-market", "--weights", "/tmp/nowhere.pth"), "no weight file"),
    (("swap", "--model", "/tmp/nowhere", "--appearance", "a.jpg", "--structure", "b.jpg"), "not the folder of a finished run"),
    (("train", "dgnet", "--data", "mannequin-market", "--scale", "smoke", "--devices", "3"), "3 processes cannot share the batch of 4 of DG-Net"),
    (("features", "--out", "/tmp/never.npz"), "give either images or --data FOLDER"),
    (("import-released", "/tmp/nowhere"), "no folder /tmp/nowhere"),
])
def test_errors_are_one_line(dgnb, words, message):
    status, _, err = dgnb(*words)
    assert status == 2 and message in err and err.count("\n") == 1 and "Traceback" not in err


def test_errors_with_a_model(dgnb, model, folder, tmp_path):
    image = sorted(folder.rglob("*.jpg"))[0]
    status, _, err = dgnb("swap", "--model", model.run.folder, "--appearance", image, "--structure", tmp_path / "b.jpg")
    assert status == 2 and "no file" in err and err.count("\n") == 1
    status, _, err = dgnb("swap", "--model", model.run.folder, "--appearance", image, "--structure", image, "--out", tmp_path / "x.jpg")
    assert status == 2 and ".png file or a folder" in err and not list(tmp_path.iterdir())


def test_a_precision_that_does_not_exist(dgnb, folder, tmp_path):
    status, _, err = dgnb("train", "dgnet", "--data", folder, "--out", tmp_path, "--scale", "smoke", "--iterations", "2", "--precision", "bf16")
    assert status == 2 and "precision" in err and "bf16-mixed" in err


def test_modules_import_without_onnx():
    import subprocess

    code = "import sys\nfor name in ('onnx', 'onnxscript', 'onnxruntime', 'IPython', 'papermill', 'nbdev'): sys.modules[name] = None\n" \
           "import dgnb.dgnet.own_people, dgnb.dgnet.exporting, dgnb.dgnet.released_weights, dgnb.cli"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
