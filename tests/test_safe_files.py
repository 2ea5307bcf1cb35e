"""Safe files: atomic writes, states without pickle, checksums."""
from __future__ import annotations

import errno
import json
import os
import re
import resource
import signal
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dgnb import safe_files
from dgnb.safe_files import DamagedFile, StoreError, load_state, pack_state, save_state, unpack_state, write_bytes, write_json

torch.set_num_threads(1)
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-2**60, 2**60), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=5))


def flip(path: Path, at: int = -3) -> None:
    """Flip one bit of a file."""
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(bytes(content))


def test_write_is_all_or_nothing(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "file.json"
    write_json(path, {"a": 1})

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="cannot write .*file.json.*No space left.*free some space") as caught:
        write_json(path, {"a": 2})
    assert "\n" not in str(caught.value) and json.loads(path.read_text()) == {"a": 1}
    assert os.listdir(path.parent) == ["file.json"]


def test_a_write_the_kernel_refuses_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.bin"
    write_bytes(path, b"old")
    old, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, old[1]))
    try:
        with pytest.raises(StoreError, match="cannot write"):
            write_bytes(path, bytes(100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["file.bin"]


TENSORS = st.sampled_from([torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool]).flatmap(
    lambda t: st.lists(st.integers(0, 3), max_size=3).map(lambda s: (torch.arange(int(np.prod(s))).reshape(s) % 2).to(t)))
ARRAYS = st.sampled_from(["f4", "f8", "u4", "i2", "b1"]).map(lambda t: np.arange(6).reshape(2, 3).astype(t))
LEAVES = st.one_of(SCALARS, TENSORS, ARRAYS, st.integers(-2**200, 2**200), st.just(float("inf")))
STATES = st.recursive(LEAVES, lambda inner: st.one_of(
    st.lists(inner, max_size=3), st.tuples(inner, inner), st.dictionaries(st.one_of(st.integers(0, 9), st.text(max_size=3)), inner, max_size=3)), max_leaves=10)


def same(a, b) -> bool:
    """Whether two states are identical in value and type."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    return len(a) == len(b) and all(map(same, a, b)) if isinstance(a, (list, tuple)) else a == b


@settings(max_examples=150, deadline=None)
@given(STATES)
def test_packed_states_come_back_identical(state):
    tensors, packed = pack_state(state)
    assert same(unpack_state(tensors, json.loads(json.dumps(packed))), state)


def test_states_with_tags_counters_and_shared_memory(tmp_path):
    base = torch.arange(6.0)
    state = {"!": "tensor", "inner": {"!": 1}, "views": [base[:3], base[::2], base.view(2, 3).T], "milestones": Counter({30: 1, 60: 2})}
    save_state(tmp_path / "s.safetensors", state)
    assert same(load_state(tmp_path / "s.safetensors"), state)


@pytest.mark.parametrize("optimizer", ["SGD", "Adam", "AdamW", "RMSprop"])
def test_optimizers_and_schedulers_survive(tmp_path, optimizer):
    def make():
        torch.manual_seed(0)
        net = torch.nn.Linear(3, 2)
        opt = getattr(torch.optim, optimizer)(net.parameters(), lr=0.1)
        return net, opt, torch.optim.lr_scheduler.MultiStepLR(opt, [2, 4]), torch.optim.lr_scheduler.CosineAnnealingLR(opt, 9)

    def go(net, opt, *schedulers, n=3):
        for i in range(n):
            opt.zero_grad()
            net(torch.full((1, 3), 1.0 + i)).pow(2).sum().backward()
            opt.step()
            [s.step() for s in schedulers]
    one, two = make(), make()
    go(*one, n=6)
    go(*two, n=3)
    save_state(tmp_path / "s.safetensors", [part.state_dict() for part in two])
    three = make()
    for part, state in zip(three, load_state(tmp_path / "s.safetensors")):
        part.load_state_dict(dict(state))
    assert same(dict(two[1].state_dict()), dict(three[1].state_dict()))
    go(*two), go(*three)
    assert all(torch.equal(a, b) for a, b in zip(two[0].parameters(), three[0].parameters()))


@pytest.mark.parametrize("thing", [print, {1, 2}, torch.nn.Linear(1, 1), np.array(["a"]), np.array([None])])
def test_what_a_checkpoint_cannot_hold_is_named(thing):
    with pytest.raises(TypeError, match="state/a/0 is a"):
        pack_state({"a": [thing]})


@pytest.mark.parametrize("harm", ["truncate", "flip", "empty", "no checksum", "gone", "checksum garbage"])
def test_damaged_states_are_noticed(tmp_path, harm):
    path = tmp_path / "s.safetensors"
    save_state(path, {"w": torch.rand(100)})
    note = Path(f"{path}.sha256")
    {"truncate": lambda: path.write_bytes(path.read_bytes()[:-7]), "flip": lambda: flip(path), "empty": lambda: path.write_bytes(b""),
     "no checksum": note.unlink, "gone": path.unlink, "checksum garbage": lambda: note.write_bytes(b"\xff\xfe")}[harm]()
    with pytest.raises(DamagedFile, match="s.safetensors") as caught:
        load_state(path)
    assert "\n" not in str(caught.value)


def test_checksum_file_is_what_sha256sum_reads(tmp_path):
    save_state(tmp_path / "s.safetensors", {"w": torch.rand(3)})
    assert subprocess.run(["sha256sum", "-c", "s.safetensors.sha256"], cwd=tmp_path, capture_output=True).returncode == 0


def test_nothing_is_unpickled():
    folder = Path(safe_files.__file__).parent
    source = "".join((folder / f"{name}.py").read_text() for name in ("safe_files", "run_store", "resuming", "training", "launch"))
    assert not re.search(r"(?<!safetensors\.)torch\.(save|load)\(|import pickle", source)
