"""The baseline: its settings, its key, its recipe, resuming after kill -9, and shipped runs that this code still reproduces."""
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from dgnb.baseline import (BASELINE_SCALES, BASELINE_VARIANTS, BaselineSettings, baseline_settings, baseline_spec, data_spec, evaluate_features,
                           extract_features, identities, load_network, make_network, maps_spec, nearest, open_data, some_queries, train_network, weights_name)
from dgnb.image_sets import load_image_set, write_image_set
from dgnb.retrieval import evaluate_retrieval
from dgnb.run_store import RunSpec, RunStore, RunStoreError
from dgnb.scales import seed_everything
from dgnb.worlds import make_world


@pytest.fixture(scope="module")
def world():
    return make_world("mannequin-market", scale="smoke")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return RunStore(local=tmp_path_factory.mktemp("runs"), shipped=tmp_path_factory.mktemp("shipped"))


@pytest.fixture(scope="module")
def run(world, store):
    return store.get(baseline_spec(world, baseline_settings("smoke")), train=True, progress="off")


def test_every_scale_and_variant_has_settings():
    for scale in BASELINE_SCALES:
        for variant in BASELINE_VARIANTS:
            assert isinstance(baseline_settings(scale, variant), BaselineSettings)
    with pytest.raises(ValueError, match="Did you mean 'dropout'"):
        baseline_settings("smoke", dropuot=0.1)


def test_tricks_see_as_many_images_as_the_baseline():
    for scale in BASELINE_SCALES:
        plain, tricks = baseline_settings(scale), baseline_settings(scale, "tricks")
        assert plain.epochs == tricks.epochs and plain.size == tricks.size and plain.backbone == tricks.backbone


def test_the_teacher_has_the_published_number_of_parameters():
    network = make_network(baseline_settings("paper"), 751)
    assert sum(p.numel() for p in network.parameters()) == 24_943_407


def test_key_depends_on_what_matters_only(world):
    spec = baseline_spec(world, baseline_settings("smoke"))
    assert spec.key == baseline_spec(make_world("mannequin-market", scale="smoke", device="cpu"), baseline_settings("smoke")).key
    others = [baseline_spec(world, baseline_settings("smoke", lr=0.1)), baseline_spec(world, baseline_settings("smoke"), seed=1),
              baseline_spec(make_world("mannequin-market", scale="smoke", seed=1), baseline_settings("smoke"))]
    assert len({spec.key, *(other.key for other in others)}) == 4


def test_a_world_survives_its_spec(world):
    again = open_data(data_spec(world))
    assert again.fingerprint == world.fingerprint


def test_a_set_on_disk_is_found_again_and_changes_are_noticed(world, tmp_path):
    write_image_set(world, tmp_path / "set")
    source = load_image_set("market1501", tmp_path / "set")
    spec = data_spec(source)
    assert open_data(spec).fingerprint == source.fingerprint
    victim = Path(source.train[0].path)
    victim.write_bytes(victim.read_bytes() + b"x")
    with pytest.raises(RunStoreError, match="has changed"):
        open_data(spec)
    with pytest.raises(RunStoreError, match="--data"):
        open_data({"set": "market1501", "fingerprint": "0" * 16})


def test_disk_and_world_train_to_the_same_network(world, tmp_path):
    write_image_set(world, tmp_path / "set")
    source, settings = load_image_set("market1501", tmp_path / "set"), baseline_settings("smoke", epochs=1)
    networks = []
    for one in (world, source):
        seed_everything("same", 0)
        networks.append(train_network(one, settings, progress="off")[0])
    first, second = (network.state_dict() for network in networks)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_imagenet_weights_are_named_by_content(tmp_path):
    from safetensors.torch import save_file

    network = make_network(baseline_settings("smoke"), 8)
    save_file({k: v.contiguous() for k, v in network.backbone.state_dict().items()}, tmp_path / "w.safetensors")
    name = weights_name(tmp_path / "w.safetensors")
    again = make_network(baseline_settings("smoke", weights=name), 8)
    assert torch.equal(again.backbone.conv1[0].weight if hasattr(again.backbone.conv1, "__getitem__") else again.backbone.conv1.weight,
                       network.backbone.conv1[0].weight if hasattr(network.backbone.conv1, "__getitem__") else network.backbone.conv1.weight)
    with pytest.raises(RunStoreError, match="weights_name"):
        make_network(baseline_settings("smoke", weights="0123456789ab"), 8)
    with pytest.raises(FileNotFoundError, match="no weight file"):
        weights_name(tmp_path / "absent.pth")


def test_wrong_image_size_is_refused(world):
    with pytest.raises(ValueError, match="64x32"):
        baseline_spec(world, baseline_settings("gpu"))


def test_shipped_scores_belong_to_the_kept_weights(run, world):
    network = load_network(run, world.num_train_identities)
    size = baseline_settings("smoke").size
    query, gallery = (extract_features(network, world, records, size) for records in (world.query, world.gallery))
    again = evaluate_features(query, gallery, world)
    assert again.map_step == pytest.approx(run.metrics["map_step"], abs=1e-6)
    assert np.allclose(again.ap_step, run.per_query["ap_step"], atol=1e-5)


def test_nearest_follows_the_rules(world):
    generator = np.random.default_rng(0)
    query, gallery = (torch.nn.functional.normalize(torch.tensor(generator.normal(size=(len(r), 8)), dtype=torch.float32)) for r in (world.query, world.gallery))
    found, result = nearest(query, gallery, world, k=len(world.gallery) // 2), evaluate_features(query, gallery, world)
    pids, camids = identities(world.gallery), np.array([r.camid for r in world.gallery])
    for row, record, rank in zip(found, world.query, result.first_rank):
        assert not (pids[row] == -1).any()
        assert not ((pids[row] == record.pid) & (camids[row] == record.camid)).any()
        hits = np.flatnonzero(pids[row] == record.pid)
        assert (len(hits) and hits[0] + 1 == rank) or rank > len(row)


def test_features_do_not_depend_on_the_batch(run, world):
    network, size = load_network(run, world.num_train_identities), baseline_settings("smoke").size
    whole = extract_features(network, world, world.query, size)
    assert torch.allclose(whole, extract_features(network, world, world.query, size, batch_size=1), atol=1e-5)
    assert torch.allclose(whole.norm(dim=1), torch.ones(len(whole)), atol=1e-5)


def test_activation_maps_are_a_run(run, store, world):
    looked = store.get(maps_spec(run.spec, 3), train=True, progress="off")
    assert looked.per_query["maps"].shape[0] == len(some_queries(world, 3)) == 3


SCRIPT = """
import sys
from dgnb.baseline import baseline_settings, baseline_spec
from dgnb.worlds import make_world
from dgnb.run_store import RunStore
spec = baseline_spec(make_world("mannequin-market", scale="smoke"), baseline_settings("smoke", epochs=30))
print("ready", flush=True)
RunStore(local=sys.argv[1], shipped=sys.argv[1] + "-none").get(spec, train=True, progress="off")
"""


def finish(folder: Path) -> None:
    subprocess.run([sys.executable, "-c", SCRIPT, str(folder)], check=True, capture_output=True, timeout=300)


@pytest.mark.slow
def test_killed_and_run_again_gives_the_same_bits(tmp_path):
    """kill -9 in the middle of a baseline training, then the same command: the weights equal an uninterrupted run's, bit for bit."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    finish(whole)
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(broken)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.time() + 240
    while not list(broken.glob("*.part/checkpoint/*.sha256")) and time.time() < deadline and process.poll() is None:
        time.sleep(0.02)
    assert process.poll() is None, "the run ended before it could be killed"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert list(broken.glob("*.part")) and not list(broken.glob("*/record.json"))
    finish(broken)
    first, second = (next(folder.glob("baseline-*/weights.safetensors")).read_bytes() for folder in (whole, broken))
    assert first == second
