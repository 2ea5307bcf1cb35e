"""Grids, blends, edits, whole sets and slider values: on a painter whose right answers are known, and on real networks."""
import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dgnb.augmentation import normalise
from dgnb.dgnet import generating
from dgnb.dgnet.generating import (Mixer, as_levels, between, blend_codes, donor_labels, draw_donors, draw_interpolation, draw_swap_grid, edit_chunk, encode,
                                   generate_set, interpolate_appearance, interpolate_structure, paint, plan_set, reconstruct, swap_grid)
from dgnb.dgnet.joint import DGNet
from dgnb.dgnet.step import dgnet_settings, make_networks
from dgnb.image_sets import load_image_set
from dgnb.safe_files import StoreError
from dgnb.scales import seed_everything
from dgnb.worlds import ImageRecord, decode_image, make_world

torch.set_num_threads(1)


class _Colour(nn.Module):
    """The mean colour of an image, as a code of four chunks that are all alike."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3, affine=False)  # something that a careless look in training mode would change
        self.fail_after, self.seen = None, 0

    def codes(self, images):
        self.norm(images)
        self.seen += 1
        if self.fail_after is not None and self.seen > self.fail_after:
            raise KeyboardInterrupt
        return images.mean((2, 3)).repeat(1, 4)


class _Shape(nn.Module):
    def forward(self, images):
        return images.mean(1, keepdim=True)


class _Paint(nn.Module):
    """Paints the structure in the colour: the mean of the four chunks, plus the structure less its mean."""

    def __init__(self):
        super().__init__()
        self.unused, self.styles = nn.Parameter(torch.zeros(())), SimpleNamespace(blocks=4)

    def forward(self, structure, code):
        return code.view(-1, 4, 3).mean(1)[:, :, None, None] + structure - structure.mean((2, 3), keepdim=True) + self.unused


class Painter(nn.Module):
    """A stand-in whose swaps can be computed by hand."""

    def __init__(self):
        super().__init__()
        self.appearance, self.structure, self.decoder, self.settings = _Colour(), _Shape(), _Paint(), SimpleNamespace(size=(64, 32))


@pytest.fixture(scope="module")
def world():
    return make_world("mannequin-market", scale="smoke")


@pytest.fixture(scope="module")
def images(world):
    return normalise(world.images(world.query[:5]).permute(0, 3, 1, 2))


@pytest.fixture(scope="module")
def model(world):
    seed_everything("generating", 0)
    plan = dgnet_settings("smoke")
    nets = make_networks(plan, world.num_train_identities)
    return DGNet(nets.appearance, nets.structure, nets.decoder, plan)


def by_hand(appearance, structure):
    """What `Painter` makes of normalised images."""
    grey = structure.mean(1, keepdim=True)
    return as_levels(appearance.mean((2, 3))[:, :, None, None] + grey - grey.mean((2, 3), keepdim=True))


def close(a, b):
    return (a.int() - b.int()).abs().max() <= 1


# ---- pictures -------------------------------------------------------------------------------------------------------------------------------------

def test_rows_of_a_grid_are_appearances_and_columns_structures(images):
    grid = swap_grid(Painter(), images[:2], images[2:])
    assert grid.shape == (2, 3, 3, 64, 32) and grid.dtype == torch.uint8
    for r in range(2):
        for c in range(3):
            assert close(grid[r, c], by_hand(images[r:r + 1], images[2 + c:3 + c])[0])


def test_a_grid_of_networks_is_made_of_single_swaps(model, images):
    grid = swap_grid(model, images[:3], images[:3])
    single = as_levels(model.swap(images[1:2], images[2:3]))[0]
    assert close(grid[1, 2], single) and not torch.equal(grid[1, 2], grid[2, 1])
    assert close(torch.stack([grid[k, k] for k in range(3)]), reconstruct(model, images[:3]))


def test_interpolations_begin_and_end_at_swaps(model, images):
    a, b, c = images[:1], images[1:2], images[2:3]
    clothes, body = interpolate_appearance(model, a, b, c), interpolate_structure(model, c, a, b)
    assert clothes.shape == body.shape == (1, 11, 3, 64, 32)
    assert close(clothes[0, 0], swap_grid(model, a, c)[0, 0]) and close(clothes[0, -1], swap_grid(model, b, c)[0, 0])
    assert close(body[0, 0], swap_grid(model, c, a)[0, 0]) and close(body[0, -1], swap_grid(model, c, b)[0, 0])


def test_several_rows_interpolate_at_once(images):
    rows = interpolate_appearance(Painter(), images[:2], images[2:4], images[1:3], steps=3)
    half = by_hand((images[:2] + images[2:4]) / 2, images[1:3])
    assert rows.shape[:2] == (2, 3) and close(rows[:, 1], half)


def test_between_keeps_its_ends_and_is_straight():
    first, second = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    line = between(first, second, 5)
    assert line.shape == (2, 5, 3, 4) and torch.equal(line[:, 0], first) and torch.allclose(line[:, 4], second)
    assert torch.allclose(line[:, 2], (first + second) / 2)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=6), st.integers(1, 4))
def test_each_chunk_has_its_own_weight(weights, size):
    first, second = torch.zeros(2, len(weights) * size), torch.ones(2, len(weights) * size)
    assert torch.equal(blend_codes(first, second, weights)[1], torch.tensor(weights).repeat_interleave(size))


def test_editing_every_chunk_is_a_swap_and_editing_none_changes_nothing(model, images):
    me, other = images[:2], images[2:4]
    assert close(edit_chunk(model, me, other, range(4)), as_levels(model.swap(other, me)))
    assert close(edit_chunk(model, me, other, []), reconstruct(model, me))
    one = edit_chunk(model, me, other, 2)
    assert not torch.equal(one, reconstruct(model, me)) and close(one, edit_chunk(model, me, other, [2]))


def test_chunks_that_are_not_there_are_named(model, images):
    with pytest.raises(ValueError, match="unknown chunk '4'.* 0, 1, 2, 3"):
        edit_chunk(model, images[:1], images[1:2], 4)
    with pytest.raises(ValueError, match="code of 10 numbers does not divide into 4"):
        blend_codes(torch.zeros(1, 10), torch.zeros(1, 10), [0] * 4)


@pytest.mark.parametrize("bad", [torch.zeros(0, 3, 64, 32), torch.zeros(3, 64, 32), torch.zeros(2, 1, 64, 32), torch.zeros(2, 3, 64, 32, dtype=torch.uint8)])
def test_images_that_are_not_normalised_batches_are_refused(model, bad):
    with pytest.raises(ValueError, match="images must be normalised B x 3 x H x W"):
        encode(model, bad)


def test_generating_leaves_the_model_and_the_generators_alone(images):
    painter = Painter().train()
    before, state = {k: v.clone() for k, v in painter.state_dict().items()}, torch.get_rng_state()
    swap_grid(painter, images, images)
    assert painter.training and painter.appearance.norm.training and torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(v, before[k]) for k, v in painter.state_dict().items())
    assert not reconstruct(painter, images).requires_grad


def test_small_batches_paint_the_same(model, images):
    codes = encode(model, images, batch_size=2)
    whole = encode(model, images)
    assert len(codes[1:3]) == 2 and torch.allclose(codes.appearance, whole.appearance, atol=1e-4)
    assert close(paint(model, codes.appearance, codes.structure, batch_size=2), paint(model, whole.appearance, whole.structure))


def test_figures_have_their_tiles(images):
    grid = swap_grid(Painter(), images[:2], images[2:5])
    one, two = draw_swap_grid(images[:2], images[2:5], grid), draw_swap_grid(images[:2], images[2:5], grid, grid)
    assert two.get_size_inches()[0] > 1.5 * one.get_size_inches()[0]
    with pytest.raises(ValueError, match="a grid of 2 x 3 for 3 appearances and 3 structures"):
        draw_swap_grid(images[:3], images[2:5], grid)
    assert draw_interpolation(images[:1], images[:1], interpolate_appearance(Painter(), images[:1], images[1:2], images[2:3]), images[1:2])


# ---- names and donors -----------------------------------------------------------------------------------------------------------------------------

_NAMES = st.lists(st.sampled_from(["1.jpg", "1.png", "a/1.jpg", "A/1.jpg", "b/1.jpg", "a+1.jpg", "a/1~0.jpg", "x" * 95 + "1.jpg", "x" * 95 + "2.jpg", "ü" * 60 + ".jpg"]),
                  min_size=1, unique=True)


@settings(max_examples=60, deadline=None)
@given(_NAMES)
def test_labels_differ_on_any_file_system(names):
    records = [ImageRecord(name, pid, 1) for pid, name in enumerate(names)]
    labels = list(donor_labels(records).values())
    assert len({label.casefold() for label in labels}) == len(records)
    assert all(len(label.encode()) <= 90 and "/" not in label for label in labels)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=2, max_size=20).filter(lambda pids: len(set(pids)) > 1), st.integers(1, 4), st.integers(0, 99))
def test_every_record_lends_its_appearance_once_a_pass_and_never_to_itself(pids, passes, seed):
    records = [ImageRecord(f"{n}.jpg", pid, 1) for n, pid in enumerate(pids)]
    rows = draw_donors(records, passes, seed)
    assert [a for a, _ in rows] == records * passes and all(a.pid != s.pid for a, s in rows)
    assert rows == draw_donors(records, passes, seed)
    plan = plan_set(rows)
    assert plan.path.str.casefold().is_unique and len(plan) == len(records) * passes
    assert [path.split("/")[0] for path in plan.path] == [f"{a.pid:04d}" for a, _ in rows]


def test_left_to_chance_each_pass_is_a_permutation():
    records = [ImageRecord(f"{n}.jpg", n // 4, 1) for n in range(12)]
    rows = draw_donors(records, 2, other_people=False)
    assert sorted(s for _, s in rows[:12]) == sorted(records) and rows[:12] != rows[12:]


def test_donors_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="same person"):
        draw_donors([ImageRecord("1.jpg", 1, 1), ImageRecord("2.jpg", 1, 1)])
    junk, person = ImageRecord("-1_c1.jpg", -1, 1), ImageRecord("0001_c1.jpg", 1, 1)
    with pytest.raises(ValueError, match="junk"):
        plan_set([(junk, person)])


# ---- whole sets -----------------------------------------------------------------------------------------------------------------------------------

def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_set_lies_in_folders_and_names_both_donors(world, tmp_path):
    table = generate_set(Painter(), world, tmp_path / "made", passes=2, progress="off", batch_size=7)
    assert len(table) == 2 * len(world.train) == len(list((tmp_path / "made").rglob("*.jpg")))
    row = table.iloc[3]
    a, s = (next(r for r in world.train if r.name == row[side]) for side in ("appearance", "structure"))
    assert row.path == f"{a.pid:04d}/{a.name[:-4]}__in__{s.name[:-4]}.jpg" and row.camera == s.camid and row.structure_identity == s.pid
    donors = normalise(torch.from_numpy(np.stack([world.read_image(r) for r in (a, s)])).permute(0, 3, 1, 2))
    wanted = by_hand(donors[:1], donors[1:])[0].permute(1, 2, 0)
    found = decode_image((tmp_path / "made" / row.path).read_bytes())
    assert np.abs(found.astype(int) - wanted.numpy()).mean() < 3


def test_the_set_is_read_again_by_the_projects_reader(world, tmp_path):
    table = generate_set(Painter(), world, tmp_path / "made", progress="off")
    found = load_image_set("folder", tmp_path / "made", cameras=tmp_path / "made" / "records.csv")
    everybody = found.train + found.query + found.gallery
    assert len(everybody) == len(table) and found.camera_rule
    camera = dict(zip(table.path, table.camera))
    assert all(record.camid == camera[record.name] for record in everybody)
    assert {found.identities[r.pid] for r in everybody} == {f"{r.pid:04d}" for r in world.train}
    assert load_image_set("folder", tmp_path / "made").read_image(found.train[0]).shape == (64, 32, 3)


def test_stopped_and_begun_again_it_is_the_same_set(world, tmp_path):
    whole, part, painter = tmp_path / "whole", tmp_path / "part", Painter()
    generate_set(painter, world, whole, progress="off", batch_size=8)
    painter.appearance.fail_after, painter.appearance.seen = 4, 0  # two batches of six, each encoded twice
    with pytest.raises(KeyboardInterrupt):
        generate_set(painter, world, part, progress="off", batch_size=8)
    painter.appearance.fail_after = None
    first = {p: p.stat().st_mtime_ns for p in part.rglob("*.jpg")}
    assert len(first) == 16 and not (part / "records.csv").exists()
    painter.appearance.seen = 0
    generate_set(painter, world, part, progress="off", batch_size=8)
    assert painter.appearance.seen == 8, "only the four missing batches are painted"
    assert contents(part) == contents(whole) and all(p.stat().st_mtime_ns == then for p, then in first.items())


def test_a_file_cut_short_or_lost_is_made_again(world, tmp_path):
    folder = tmp_path / "made"
    table = generate_set(Painter(), world, folder, progress="off", batch_size=8)
    before = contents(folder)
    short, empty, lost = (folder / path for path in table.path[[0, 9, 47]])
    short.write_bytes(short.read_bytes()[:-5])
    empty.write_bytes(b"")
    lost.unlink()
    generate_set(Painter(), world, folder, progress="off", batch_size=8)
    assert contents(folder) == before


@pytest.mark.parametrize("change", [{"seed": 1}, {"passes": 2}, {"ending": ".png"}, {"other_people": False}])
def test_a_folder_keeps_to_its_set(world, tmp_path, change):
    generate_set(Painter(), world, tmp_path / "made", progress="off")
    with pytest.raises(StoreError, match="holds a set made with"):
        generate_set(Painter(), world, tmp_path / "made", progress="off", **change)


def test_other_weights_are_another_set(world, tmp_path):
    painter = Painter()
    generate_set(painter, world, tmp_path / "made", progress="off", records=world.train[:8])
    nn.init.constant_(painter.decoder.unused, 0.1)
    with pytest.raises(StoreError, match="weights"):
        generate_set(painter, world, tmp_path / "made", progress="off", records=world.train[:8])


def test_foreign_folders_and_damaged_notes_are_left_alone(world, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "me.jpg").write_bytes(b"mine")
    with pytest.raises(StoreError, match="not empty"):
        generate_set(Painter(), world, tmp_path / "photos", progress="off")
    assert [p.name for p in (tmp_path / "photos").iterdir()] == ["me.jpg"]
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "generated.json").write_text("{ca")
    with pytest.raises(StoreError, match="damaged"):
        generate_set(Painter(), world, tmp_path / "made", progress="off")


def test_a_full_disk_is_one_line_and_loses_nothing(world, tmp_path, monkeypatch):
    written, real = [], generating.write_file

    def full(path, data):
        if len(written) > 10:
            raise OSError(28, "No space left on device")
        written.append(path)
        return real(path, data)

    monkeypatch.setattr(generating, "write_file", full)
    with pytest.raises(StoreError, match="No space left on device; free space .* goes on where it stopped") as error:
        generate_set(Painter(), world, tmp_path / "made", progress="off")
    assert "\n" not in str(error.value)
    monkeypatch.undo()
    generate_set(Painter(), world, tmp_path / "made", progress="off")
    generate_set(Painter(), world, tmp_path / "other", progress="off")
    assert contents(tmp_path / "made") == contents(tmp_path / "other")


_SLOW = """
import sys, time, torch
sys.path.insert(0, {tests!r})
from test_dgnet_generating import Painter
from dgnb.dgnet import generating
from dgnb.worlds import make_world
real = generating.write_file
def slow(path, data):
    time.sleep(0.1)
    return real(path, data)
generating.write_file = slow
print("ready", flush=True)
generating.generate_set(Painter(), make_world("mannequin-market", scale="smoke"), {folder!r}, progress="off", batch_size=8)
"""


def test_killed_without_warning_it_goes_on(world, tmp_path):
    folder = tmp_path / "part"
    code = _SLOW.format(tests=os.path.dirname(__file__), folder=str(folder))
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=os.environ | {"OMP_NUM_THREADS": "1"})
    process.stdout.readline()
    deadline = time.monotonic() + 30
    while len(list(folder.rglob("*.jpg"))) < 11 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    there = len(list(folder.rglob("*.jpg")))
    assert 11 <= there < 48
    generate_set(Painter(), world, folder, progress="off", batch_size=8)
    generate_set(Painter(), world, tmp_path / "whole", progress="off", batch_size=8)
    part, whole = contents(folder), contents(tmp_path / "whole")
    assert {name: part[name] for name in whole} == whole
    assert all(name.endswith(".part") for name in set(part) - set(whole)), "at most the file under way is left over"


def test_networks_generate_a_set_of_their_own_size(model, world, tmp_path):
    table = generate_set(model, world, tmp_path / "made", records=world.train[::8], ending=".png", progress="off")
    assert decode_image((tmp_path / "made" / table.path[0]).read_bytes()).shape == (64, 32, 3)
    assert json.loads((tmp_path / "made" / "generated.json").read_text())["images"] == 6


# ---- slider values --------------------------------------------------------------------------------------------------------------------------------

def test_slider_values_become_pictures(model, images):
    mixer = Mixer(model, images)
    assert close(mixer.mix(0, 1), reconstruct(model, images[:1])[0])
    assert close(mixer.mix(0, 1, appearance=1), as_levels(model.swap(images[1:2], images[:1]))[0])
    assert close(mixer.mix(0, 1, structure=1), as_levels(model.swap(images[:1], images[1:2]))[0])
    assert close(mixer.mix(0, 1, 1, 1), reconstruct(model, images[1:2])[0])
    assert close(mixer.mix(0, 1, appearance=1, chunk=2), edit_chunk(model, images[:1], images[1:2], 2)[0])
    with pytest.raises(ValueError, match="unknown person '9'"):
        mixer.mix(0, 9)
    assert mixer.sheet(0, 1, steps=2)


def test_the_module_needs_no_notebook_packages():
    code = "import sys, dgnb.dgnet.generating; print([m for m in ('IPython', 'ipywidgets', 'fastcore', 'nbdev') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert found.stdout.strip() == "[]"
