"""The run store: keys, atomic files, checkpoints without pickle, damage, locks, shipping."""
from __future__ import annotations

import copy
import json
import multiprocessing
import os
import pickle
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dgnb import run_store
from dgnb.run_store import RECIPES, DamagedRun, MissingRun, RunSpec, RunStore, RunStoreError, UnknownRecipe, kept_weights, narrowed, plain, recipe, thaw
from dgnb.safe_files import StoreError

torch.set_num_threads(1)
CALLS: list[str] = []


@pytest.fixture(autouse=True)
def _recipes(monkeypatch):
    """Recipes made in one test are unknown in the next; nothing of the caller's environment shines through."""
    monkeypatch.setattr(run_store, "RECIPES", dict(RECIPES))
    for name in ("DGNB_DEVICES", "DGNB_NODES", "LOCAL_RANK", "RANK", "DGNB_THREADS"):
        monkeypatch.delenv(name, raising=False)
    CALLS.clear()


@pytest.fixture
def store(tmp_path):
    """An empty store."""
    return RunStore(tmp_path / "local", tmp_path / "shipped", command="dgnb train {name}")


@pytest.fixture
def spec():
    """A spec whose recipe is registered: it draws numbers and saves everything a run can hold."""
    @recipe("draw", version=3)
    def draw(context):
        CALLS.append(context.spec.name)
        values = torch.rand(context.spec.settings["count"])
        kept = context.save_weights({"w": values, "n": torch.tensor(3), "big": torch.tensor([1e6])})
        context.save_log([{"iteration": 1, "loss": 0.5}])
        context.save_per_query({"ap": values.numpy(), "pid": np.arange(len(values))})
        context.save_metrics({"mean": float(kept["w"].mean()), "list": [1, 2]})
    return RunSpec("draw", 3, {"count": 5}, {"world": "none"}, seed=1)


def flip(path: Path, at: int = -3) -> None:
    """Flip one bit of a file."""
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(bytes(content))


# ---- keys

def test_key_is_the_same_everywhere():
    assert RunSpec("toy", 1, {"lr": 0.1, "widths": (16, 16)}, {"set": "moons", "images": 200}, 0).name == "toy-fa06e4489818"


SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-2**60, 2**60), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=5))
VALUES = st.recursive(SCALARS, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)), max_leaves=8)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.text(max_size=4), VALUES, max_size=4), st.integers(0, 100))
def test_key_depends_on_content_not_on_form(values, seed):
    spec = RunSpec("toy", 1, values, {}, seed)
    reordered = dict(reversed(list(thaw(plain(values)).items())))
    through_json = RunSpec(**json.loads(json.dumps(spec.as_dict())))
    assert RunSpec("toy", 1, reordered, {}, seed) == spec == through_json and through_json.key == spec.key
    assert pickle.loads(pickle.dumps(spec)) == spec == copy.deepcopy(spec) and hash(spec) == hash(through_json)
    assert RunSpec("toy", 1, values | {"extra": 1}, {}, seed).key != spec.key != RunSpec("toy", 1, values, {}, seed + 1).key


@pytest.mark.parametrize("a, b", [(1, 1.0), (0.0, -0.0), ((1, 2), [1.0, 2]), (np.float64(0.5), 0.5), (np.int32(4), 4), (np.bool_(True), True)])
def test_equal_values_have_equal_keys(a, b):
    assert RunSpec("toy", settings={"x": a}).key == RunSpec("toy", settings={"x": b}).key


@pytest.mark.parametrize("a, b", [(1, True), (0, False), (1, "1"), (None, "None"), (0.1, 0.1 + 1e-16 * 2), ([1], [[1]]), ({}, [])])
def test_different_values_have_different_keys(a, b):
    assert RunSpec("toy", settings={"x": a}).key != RunSpec("toy", settings={"x": b}).key


@pytest.mark.parametrize("value, said", [
    (Path("x"), "PosixPath"), (torch.zeros(1), "Tensor"), (np.zeros(2), "ndarray"), ({1, 2}, "set"), (b"x", "bytes"), (print, "builtin"),
    (float("nan"), "finite"), (float("inf"), "finite"), ({1: 2}, "write '1'"), (1j, "complex")])
def test_unknown_types_are_refused_by_name_and_place(value, said):
    with pytest.raises((TypeError, ValueError), match=r"settings\['a'\]\[1\]") as caught:
        RunSpec("toy", settings={"a": [0, value]})
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("wrong", [{"recipe": "Has Space"}, {"recipe": "../up"}, {"recipe": ""}, {"recipe": "a", "seed": "1"}, {"recipe": "a", "version": 1.5},
                                   {"recipe": "a", "settings": [1]}, {"recipe": "a", "seed": True}])
def test_specs_are_checked(wrong):
    with pytest.raises((TypeError, ValueError)):
        RunSpec(**wrong)


def test_spec_cannot_be_changed():
    given_settings = {"a": [1, {"b": 2}]}
    spec = RunSpec("toy", settings=given_settings)
    given_settings["a"][1]["b"] = 3
    assert spec.settings["a"][1]["b"] == 2
    with pytest.raises(TypeError):
        spec.settings["a"] = 1
    with pytest.raises(AttributeError):
        spec.seed = 2


# ---- getting runs

def test_missing_run_names_the_command(store, spec):
    with pytest.raises(MissingRun, match=f"dgnb train {spec.name}$"):
        store.get(spec)
    with pytest.raises(MissingRun, match="make it so$"):
        store.get(spec, command="make it so")
    assert store.status(spec).state == "missing" and not CALLS and store.list() == []


def test_trained_once_then_found(store, spec):
    run = store.get(spec, train=True)
    again = store.get(spec)
    assert CALLS == [spec.name] and again.metrics == run.metrics and again.folder == store.local / spec.name
    assert run.metrics["list"] == [1, 2] and list(run.log["loss"]) == [0.5] and run.per_query["pid"].tolist() == [0, 1, 2, 3, 4]
    assert store.status(spec).state == "local" and [s.name for s in store.list()] == [spec.name]
    assert not [p for p in store.local.iterdir() if p.name.endswith(".part")]


def test_record_says_how_it_was_made(store, spec):
    record = store.get(spec, train=True).record
    assert record["spec"] == spec.as_dict() and record["versions"]["torch"] and record["threads"] == 1 and record["device"] and record["cpu"]
    assert record["seconds"] >= 0 and record["peak_memory"]["host"] > 1e7 and record["date"].endswith("Z") and "commit" in record
    text = json.dumps(record)
    assert os.uname().nodename not in text and str(store.local) not in text


def test_same_seed_same_run_and_metrics_belong_to_the_kept_weights(store, spec, tmp_path):
    other = RunStore(tmp_path / "elsewhere", tmp_path / "none")
    torch.rand(7)
    a, b = store.get(spec, train=True), other.get(spec, train=True)
    assert (a.folder / "weights.safetensors").read_bytes() == (b.folder / "weights.safetensors").read_bytes() and a.metrics == b.metrics
    assert a.weights()["w"].mean().item() == a.metrics["mean"]
    assert kept_weights(a)["w"].dtype == torch.float16 and a.weights()["w"].dtype == torch.float32 and a.weights()["big"].item() == 1e6
    assert a.weights()["n"].dtype == torch.int64
    c = store.get(RunSpec("draw", 3, {"count": 5}, {"world": "none"}, seed=2), train=True)
    assert c.metrics != a.metrics


def test_threads_and_flags_are_put_back(store, spec):
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(2)
    try:
        store.get(spec, train=True)
        assert torch.get_num_threads() == 2 and not torch.are_deterministic_algorithms_enabled()
    finally:
        torch.set_num_threads(1)


def test_fresh_retrains_once_and_keeps_the_old_run_until_done(store, spec, monkeypatch):
    first = store.get(spec, train=True)
    later = RunStore(store.local, store.shipped)
    seen = []
    monkeypatch.setattr(run_store, "seal", lambda folder, record, seal=run_store.seal: (seen.append((first.folder / "record.json").exists()), seal(folder, record))[1])
    os.utime(first.folder / "record.json", (later.created - 5, later.created - 5))
    later.get(spec, fresh=True)
    later.get(spec, fresh=True)
    later.get(spec, fresh=later.created)
    assert CALLS == [spec.name] * 2 and seen == [True]


def test_unknown_recipe_and_version(store, spec):
    with pytest.raises(UnknownRecipe, match="unknown recipe 'drew'.*Did you mean 'draw'"):
        store.get(RunSpec("drew", 3), train=True)
    with pytest.raises(UnknownRecipe, match="version 2.*has version 3"):
        store.get(RunSpec("draw", 2, {"count": 5}), train=True)


def test_two_functions_cannot_share_a_recipe_name(spec):
    with pytest.raises(ValueError, match="already registered by"):
        @recipe("draw")
        def another(context):
            pass


def test_a_recipe_must_save_metrics(store):
    @recipe("silent")
    def silent(context):
        pass
    with pytest.raises(RunStoreError, match="without saving metrics"):
        store.get(RunSpec("silent"), train=True)
    assert store.status(RunSpec("silent")).state == "partial"


def test_metrics_must_be_finite(store):
    @recipe("nan")
    def nan(context):
        context.save_metrics({"loss": float("nan")})
    with pytest.raises(ValueError, match=r"metrics\['loss'\] is nan"):
        store.get(RunSpec("nan"), train=True)


# ---- damage

@pytest.mark.parametrize("name", ["weights.safetensors", "metrics.json", "per_query.safetensors", "log.json", "record.json"])
@pytest.mark.parametrize("harm", ["flip", "truncate", "remove"])
def test_damaged_local_files_are_refused_or_retrained(store, spec, name, harm):
    good = store.get(spec, train=True)
    before = (good.folder / "weights.safetensors").read_bytes()
    path = good.folder / name
    {"flip": lambda: flip(path), "truncate": lambda: path.write_bytes(path.read_bytes()[:-9]), "remove": path.unlink}[harm]()
    with pytest.raises(DamagedRun, match=f"{name}.*train it again: dgnb train {spec.name}") as caught:
        store.get(spec)
    assert "\n" not in str(caught.value) and store.status(spec).state == "damaged"
    assert (store.get(spec, train=True).folder / "weights.safetensors").read_bytes() == before and len(CALLS) == 2
    assert store.status(spec).state == "local"


def test_a_folder_under_the_wrong_name_is_refused(store, spec):
    other = RunSpec("draw", 3, {"count": 6}, {"world": "none"}, seed=1)
    store.get(spec, train=True).folder.rename(store.local / other.name)
    with pytest.raises(DamagedRun, match="another run"):
        store.get(other)


def test_shipped_comes_first_and_its_damage_is_named(store, spec):
    store.get(spec, train=True)
    folder = store.ship(spec, weights=True)
    run = store.get(spec)
    assert run.shipped and run.has_weights and store.status(spec).state == "shipped" and folder == store.shipped / spec.name
    flip(folder / "metrics.json")
    for train in (False, True):
        with pytest.raises(DamagedRun, match=rf"metrics.json.*git checkout -- {folder}"):
            store.get(spec, train=train)
    assert len(CALLS) == 1 and store.get(spec, fresh=1.0).shipped is False


def test_shipping_leaves_weights_behind_unless_asked(store, spec):
    store.get(spec, train=True)
    store.ship(spec)
    run = store.get(spec)
    assert run.shipped and not run.has_weights and "weights.safetensors" not in os.listdir(run.folder)
    with pytest.raises(MissingRun, match="without its weights"):
        run.weights()
    assert store.get(spec, weights=True).shipped is False
    assert store.ship(spec, weights=True) and store.get(spec, weights=True).shipped
    assert store.ship(spec) and store.get(spec, weights=True).shipped  # shipped again with an item's record, it keeps them


@given(st.lists(st.integers(-2**15 - 1, 2**15), max_size=6), st.sampled_from([np.int16, np.int32, np.int64, np.uint8, np.float32]))
@settings(max_examples=40, deadline=None)
def test_narrowed_arrays_hold_the_same_numbers(values, kind):
    values = [v % 200 for v in values] if kind == np.uint8 else [max(-2**15, min(v, 2**15 - 1)) for v in values] if kind == np.int16 else values
    data = safetensors.numpy.save({"a": np.array(values, kind), "b": np.array([0.1, np.nan], np.float32), "c": np.array([True])})
    found = safetensors.numpy.load(narrowed(data))
    assert np.array_equal(found["a"], np.array(values, kind)) and found["b"].tobytes() == np.array([0.1, np.nan], np.float32).tobytes() and found["c"].dtype == bool
    whole = kind in (np.int32, np.int64)
    assert found["a"].dtype == (np.int16 if whole and all(-2**15 <= v < 2**15 for v in values) else kind)
    assert narrowed(narrowed(data)) == narrowed(data)


def test_shipped_whole_numbers_are_small_and_read_as_before(store):
    spec = RunSpec("ranks")

    @recipe("ranks")
    def ranks(context):
        context.save_metrics({"n": 3})
        context.save_per_query({"first_rank": np.array([1, 30_000, 7], np.int32), "far": np.array([40_000], np.int32), "ap": np.array([0.5], np.float32)})
    local = store.get(spec, train=True)
    folder = store.ship(spec)
    kept, run = safetensors.numpy.load((folder / "per_query.safetensors").read_bytes()), store.get(spec)
    assert kept["first_rank"].dtype == np.int16 and kept["far"].dtype == np.int32 and run.shipped
    for name, array in local.per_query.items():
        assert run.per_query[name].dtype == array.dtype and np.array_equal(run.per_query[name], array)
    assert (10 * run.per_query["first_rank"]).max() == 300_000  # no overflow
    before = (folder / "per_query.safetensors").read_bytes()
    assert store.ship(spec) == folder and (folder / "per_query.safetensors").read_bytes() == before


def test_ranking_lists_are_shipped_where_asked_and_then_kept(store):
    spec = RunSpec("lists")

    @recipe("lists")
    def lists(context):
        context.save_metrics({"n": 1})
        context.save_per_query({"nearest": np.arange(20, dtype=np.int32).reshape(2, 10), "ap": np.array([0.5, 1.0], np.float32)})
    assert "nearest" in store.get(spec, train=True).per_query
    store.ship(spec)
    assert store.get(spec).shipped and list(store.get(spec).per_query) == ["ap"]
    for more in (dict(lists=True), {}):  # shipped again with an item that does not ask, it keeps them
        store.ship(spec, **more)
        assert np.array_equal(store.get(spec).per_query["nearest"], np.arange(20).reshape(2, 10))


def test_sample_pictures_are_shipped_with_the_weights(store):
    spec = RunSpec("pictured")

    @recipe("pictured")
    def pictured(context):
        context.save_metrics({"n": 1})
        context.save_weights({"w": torch.rand(3)})
        (context.folder / "sample-0001.jpg").write_bytes(b"a picture")
    store.get(spec, train=True)
    assert sorted(os.listdir(store.ship(spec))) == ["metrics.json", "record.json"] and store.get(spec).metrics == {"n": 1}
    assert "sample-0001.jpg" in os.listdir(store.ship(spec, weights=True)) and store.get(spec, weights=True).shipped
    assert "sample-0001.jpg" in os.listdir(store.ship(spec))


def test_shipping_refuses_what_is_too_large_or_too_precise(store, spec):
    store.get(spec, train=True)
    with pytest.raises(RunStoreError, match="more than the 100 a shipped run may have"):
        store.ship(spec, limit=100)

    @recipe("precise")
    def precise(context):
        context.save_weights({"w": torch.rand(3)}, half=False)
        context.save_metrics({"x": 1})
    store.get(RunSpec("precise"), train=True)
    with pytest.raises(RunStoreError, match="full precision"):
        store.ship(RunSpec("precise"), weights=True)
    assert not store.shipped.exists() or not os.listdir(store.shipped)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_store_one_cannot_write_to_by_permission(tmp_path, spec):
    (tmp_path / "ro").mkdir(mode=0o500)
    with pytest.raises(StoreError, match="DGNB_RUNS"):
        RunStore(tmp_path / "ro" / "local", tmp_path).get(spec, train=True)


def test_a_store_one_cannot_write_to(tmp_path, spec):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StoreError, match="cannot lock .*DGNB_RUNS") as caught:
        RunStore(tmp_path / "file" / "local", tmp_path / "none").get(spec, train=True)
    assert "\n" not in str(caught.value)


# ---- interruption and company

def test_an_interruption_between_sealing_and_renaming_loses_nothing(store, spec, monkeypatch):
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(run_store, "_replace_folder", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        store.get(spec, train=True)
    assert store.status(spec).state == "partial"
    RunStore(store.local, store.shipped).get(spec, train=True)
    assert len(CALLS) == 1 and store.status(spec).state == "local"


def _slow(context):
    (context.folder / f"seen-{os.getpid()}").write_text("")
    time.sleep(1.0)
    context.save_metrics({"pid": os.getpid()})


def _ask(local, queue):
    recipe("slow")(_slow)
    queue.put(RunStore(local, local / "none").get(RunSpec("slow"), train=True).metrics["pid"])


def test_processes_that_ask_at_once_train_once(tmp_path, capfd):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    processes = [context.Process(target=_ask, args=(tmp_path / "local", queue)) for _ in range(3)]
    [p.start() for p in processes]
    trainers = {queue.get(timeout=20) for _ in processes}
    [p.join() for p in processes]
    assert len(trainers) == 1 and trainers < {p.pid for p in processes}
    assert capfd.readouterr().err.count(f"waiting for process {trainers.pop()}") == 2


def test_a_dead_process_blocks_nobody(tmp_path):
    def die(context):
        os.kill(os.getpid(), signal.SIGKILL)

    def ask():
        recipe("slow")(die)
        RunStore(tmp_path, tmp_path / "none").get(RunSpec("slow"), train=True)
    process = multiprocessing.get_context("fork").Process(target=ask)
    process.start()
    process.join()
    store = RunStore(tmp_path, tmp_path / "none")
    assert process.exitcode == -signal.SIGKILL and store.status(RunSpec("slow")).state == "partial"
    recipe("slow")(_slow)
    assert store.get(RunSpec("slow"), train=True).metrics["pid"] == os.getpid()


def test_status_says_who_is_running_it(tmp_path):
    queue = multiprocessing.get_context("fork").Queue()
    process = multiprocessing.get_context("fork").Process(target=_ask, args=(tmp_path, queue))
    process.start()
    store = RunStore(tmp_path, tmp_path / "none")
    while not list(tmp_path.glob("*.part/seen-*")):
        time.sleep(0.02)
    status = store.status(RunSpec("slow"))
    queue.get(timeout=20)
    process.join()
    assert status.state == "running" and f"process {process.pid}" in status.detail and store.status(RunSpec("slow")).state == "local"
