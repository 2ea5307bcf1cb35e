"""The training loop: schedules, exact resume, kill -9, faults, precision, two processes."""
from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_recipe import arcs, arcs_spec, cross_entropy_step, loader, network
from torch import nn

from dgnb import training
from dgnb.progress import Progress, clock_text, progress_mode
from dgnb.resuming import Batches, Checkpoints, find_place, rng_state, set_rng_state, undisturbed
from dgnb.run_store import RunContext, RunStore
from dgnb.safe_files import StoreError, load_state, save_state
from dgnb.scales import seed_everything
from dgnb.training import NonFiniteLoss, Schedule, Window, fit, lr_scheduler, make_fabric, ramp, steps

torch.set_num_threads(1)
HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    for name in ("DGNB_DEVICES", "DGNB_NODES", "LOCAL_RANK", "RANK", "DGNB_THREADS", "DGNB_PRECISION", "DGNB_ACCELERATOR", "DGNB_PROGRESS", "DGNB_TEST_KILL"):
        monkeypatch.delenv(name, raising=False)


def train(iterations, folder=None, step=cross_entropy_step, batches=None, seed=0, rate=0.02, total=30, **options):
    """Train the toy network from its seed; the network, its optimizer and what `fit` said."""
    seed_everything("test", seed)
    net = network()
    optimizer = torch.optim.Adam(net.parameters(), lr=rate)
    schedule = lr_scheduler(optimizer, Schedule(((0, 0.1), (10, 1.0), (total, 0.0))))
    result = fit({"net": net}, {"net": optimizer}, step, batches if batches is not None else loader(), iterations, schedulers={"s": schedule},
                 checkpoint=folder, **{"log_every": 4, "checkpoint_every": 5, "progress": "off", **options})
    return net, optimizer, result


def equal(a: nn.Module, b: nn.Module) -> bool:
    """Whether two networks agree bit for bit."""
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values()))


def losses(result):
    """The log without the time it took."""
    return [{k: v for k, v in row.items() if k != "seconds"} for row in result.log]


# ---- schedules

def test_the_released_warm_up_is_a_schedule():
    weight = ramp(30_000, 0.0005, 2.0)
    for iteration in (0, 29_999, 30_000, 30_001, 31_000, 33_999, 34_000, 90_000):
        assert weight(iteration) == pytest.approx(min(2.0, max(0.0, 0.0005 * (iteration - 30_000))), abs=1e-9)
    assert weight.points == ((30_000, 0.0), (34_000, 2.0))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1000), st.floats(-5, 5)), min_size=1, max_size=6, unique_by=lambda p: p[0]), st.integers(-10, 1100),
       st.sampled_from(["linear", "hold", "cosine"]))
def test_schedules_against_numpy(points, at, between):
    points = sorted(points)
    x, y = map(np.array, zip(*points))
    value = Schedule(tuple(points), between)(at)
    if between == "linear":
        assert value == pytest.approx(np.interp(at, x, y), abs=1e-9)
    elif between == "hold":
        assert value == y[max(0, np.searchsorted(x, at, side="right") - 1)]
    assert min(y) - 1e-9 <= value <= max(y) + 1e-9
    again = Schedule(**json.loads(json.dumps(Schedule(tuple(points), between).settings())))
    assert again == Schedule(tuple(points), between) and again(at) == value


def test_steps_and_warm_up():
    rate = steps(0.1, [40, 60])
    assert [rate(i) for i in (0, 39, 40, 59, 60, 99)] == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])
    warm = steps(0.1, [40], warmup=10)
    assert [warm(i) for i in (0, 5, 10, 39, 40, 80)] == pytest.approx([0, 0.05, 0.1, 0.1, 0.01, 0.01])


@pytest.mark.parametrize("points, between", [((), "linear"), (((5, 1), (5, 2)), "linear"), (((5, 1), (4, 2)), "linear"), (((0, float("nan")),), "linear"),
                                             (((0, 1),), "spline")])
def test_bad_schedules_are_refused(points, between):
    with pytest.raises(ValueError):
        Schedule(points, between)


def test_learning_rate_follows_its_schedule():
    net, optimizer, result = train(30, log_every=1)
    assert [row["lr"] for row in result.log] == pytest.approx([0.02 * Schedule(((0, 0.1), (10, 1.0), (30, 0.0)))(i) for i in range(1, 31)])


# ---- generators and looking without touching

def test_generators_come_back():
    state = rng_state()
    first = (random.random(), np.random.rand(), torch.rand(1).item(), random.gauss(0, 1))
    set_rng_state(state)
    assert first == (random.random(), np.random.rand(), torch.rand(1).item(), random.gauss(0, 1))


def test_looking_changes_nothing():
    net = network()
    net[3].eval()
    state, random_state = {k: v.clone() for k, v in net.state_dict().items()}, torch.get_rng_state()
    with undisturbed([net]):
        assert not net.training and not torch.is_grad_enabled()
        net(torch.rand(8, 2))
    assert net.training and net[1].training and not net[3].training and torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(state[k], v) for k, v in net.state_dict().items())


# ---- exact resume

@pytest.fixture(scope="module")
def straight():
    """The toy training without an interruption."""
    net, optimizer, result = train(30)
    return net, optimizer, losses(result)


@pytest.mark.parametrize("stop", [1, 4, 5, 7, 8, 29])
def test_two_parts_equal_one(tmp_path, straight, stop):
    train(stop, tmp_path)
    torch.rand(3), random.random()
    net, optimizer, result = train(30, tmp_path)
    assert result.resumed_at == stop and equal(net, straight[0])
    for a, b in zip(optimizer.state_dict()["state"].values(), straight[1].state_dict()["state"].values()):
        assert all(torch.equal(a[k], b[k]) for k in a)
    kept = [row for row in losses(result) if row["iteration"] % 4 == 0 or row["iteration"] == 30]
    whole = [row for row in straight[2]]
    assert [r["iteration"] for r in kept] == [r["iteration"] for r in whole]
    assert kept == whole or stop % 4  # the shorter training reports its end, too, which splits one window in two


@pytest.mark.parametrize("when", range(0, 30, 7))
def test_interrupted_in_the_middle_of_an_update(tmp_path, straight, when):
    def step(batch, loop):
        found = cross_entropy_step(batch, loop)
        if loop.iteration == when and not (tmp_path / "once").exists():
            (tmp_path / "once").write_text("")
            raise OSError("the power went out")
        return found
    with pytest.raises(OSError):
        train(30, tmp_path / "c", step)
    net, _, result = train(30, tmp_path / "c", step)
    assert result.resumed_at == when // 5 * 5 and equal(net, straight[0]) and losses(result) == straight[2]


class Counting:
    """A loader with a state of its own that cannot be replayed."""

    def __init__(self):
        self.at = 0
        self.x, self.y = arcs(64)

    def __iter__(self):
        while True:
            self.at += 1
            pick = torch.randint(64, (16,), generator=torch.Generator().manual_seed(self.at))
            yield self.x[pick], self.y[pick]

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.at = state["at"]


class Shuffling(torch.utils.data.Sampler):
    """A sampler that moves on by itself from epoch to epoch."""
    epoch = 0

    def __iter__(self):
        yield from torch.randperm(64, generator=torch.Generator().manual_seed(self.epoch)).tolist()
        self.epoch += 1

    def __len__(self):
        return 64

    def state_dict(self):
        return {"epoch": self.epoch}

    def load_state_dict(self, state):
        self.epoch = state["epoch"]


def _data():
    return torch.utils.data.TensorDataset(*arcs(64))


LOADERS = {
    "own state": Counting,
    "own generator": lambda: torch.utils.data.DataLoader(_data(), 16, shuffle=True, generator=torch.Generator().manual_seed(3)),
    "own sampler": lambda: torch.utils.data.DataLoader(_data(), 16, sampler=Shuffling()),
    "workers": lambda: torch.utils.data.DataLoader(_data(), 16, shuffle=True, num_workers=1, multiprocessing_context="fork"),
    "distributed sampler": lambda: torch.utils.data.DataLoader(_data(), 16, sampler=torch.utils.data.DistributedSampler(_data(), 1, 0)),
    "list": lambda: list(loader()),
}


@pytest.mark.parametrize("kind", LOADERS)
def test_every_kind_of_loader_is_found_again(tmp_path, kind):
    seed_everything(1)
    whole, _, _ = train(11, batches=LOADERS[kind](), total=20)
    seed_everything(1)
    train(6, tmp_path, batches=LOADERS[kind](), total=20)
    seed_everything(1)
    parts, _, result = train(11, tmp_path, batches=LOADERS[kind](), total=20)
    assert result.resumed_at == 6 and equal(whole, parts)


def test_the_projects_own_loader_is_found_again(tmp_path):
    sampling = pytest.importorskip("dgnb.sampling")

    class Toy(sampling.EpochLoop):
        """Three batches an epoch, different in each."""
        def plan(self, epoch):
            return [10 * epoch + i for i in range(3)]

        def produce(self, plan):
            return iter(plan)

        def settings(self):
            return {}
    one, two = Batches(Toy()), Batches(Toy())
    expected = [next(one) for _ in range(8)]
    for n in range(8):
        state = json.loads(json.dumps(two.state_dict()))
        two = Batches(Toy())
        find_place(two, state)
        assert next(two) == expected[n]


def test_an_empty_loader_is_named():
    with pytest.raises(ValueError, match="no batches"):
        train(3, batches=[])


# ---- kill -9

def _toy(folder, iterations=40, **environment):
    return subprocess.run([sys.executable, str(HERE / "toy_recipe.py"), str(folder), str(iterations)], capture_output=True, text=True, timeout=120,
                          env={**os.environ, "PYTHONPATH": f"{HERE.parent}:{HERE}", "OMP_NUM_THREADS": "1", **environment})


def test_kill_9_then_again_gives_the_same_bits(tmp_path, capfd):
    whole = RunStore(tmp_path / "whole", tmp_path / "none").get(arcs_spec(40), train=True, progress="off")
    killed = _toy(tmp_path / "killed", DGNB_TEST_KILL="25")
    assert killed.returncode == -signal.SIGKILL and not list((tmp_path / "killed").glob("*/record.json"))
    run = RunStore(tmp_path / "killed", tmp_path / "none").get(arcs_spec(40), train=True, progress="off")
    assert run.record["resumed"] and not whole.record["resumed"]
    assert (run.folder / "weights.safetensors").read_bytes() == (whole.folder / "weights.safetensors").read_bytes()
    assert run.metrics == whole.metrics and not (run.folder / "checkpoint").exists()
    assert run.log.drop(columns="seconds").equals(whole.log.drop(columns="seconds"))


def _fork(work):
    """Run something in a forked child; how the child ended."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("writes", [1, 2, 3, 4, 5, 6, 9])
def test_killed_while_writing(tmp_path, writes, monkeypatch):
    """SIGKILL at the n-th file being written, between its content and its rename; then at the next, until the run is done."""
    make = lambda: RunStore(tmp_path / "runs", tmp_path / "none")
    real, count = os.replace, [0]

    def replace(source, target):
        count[0] += 1
        if count[0] == writes:
            os.kill(os.getpid(), signal.SIGKILL)
        real(source, target)

    def work():
        os.replace = replace
        make().get(arcs_spec(16), train=True, progress="off")
    assert _fork(work) == -signal.SIGKILL
    run = make().get(arcs_spec(16), train=True, progress="off")
    whole = RunStore(tmp_path / "whole", tmp_path / "none").get(arcs_spec(16), train=True, progress="off")
    assert all(torch.equal(a, b) for a, b in zip(run.weights().values(), whole.weights().values())) and run.metrics == whole.metrics


def test_ctrl_c_leaves_a_good_checkpoint(tmp_path, straight):
    def step(batch, loop):
        if loop.iteration == 12:
            os.kill(os.getpid(), signal.SIGINT)
        return cross_entropy_step(batch, loop)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match="stopped at iteration 13 of 30"):
        train(30, tmp_path, step)
    assert signal.getsignal(signal.SIGINT) is handler
    net, _, result = train(30, tmp_path)
    assert result.resumed_at == 13 and equal(net, straight[0])


# ---- faults

def test_a_damaged_checkpoint_is_passed_over(tmp_path, straight):
    train(13, tmp_path)
    newest = Checkpoints(tmp_path).file(13)
    newest.write_bytes(newest.read_bytes()[:-100])
    with pytest.warns(UserWarning, match="going back to the checkpoint before it"):
        net, _, result = train(30, tmp_path)
    assert result.resumed_at == 10 and equal(net, straight[0])


def test_two_damaged_checkpoints_mean_a_new_start(tmp_path, straight):
    train(13, tmp_path)
    for path in tmp_path.glob("*.safetensors"):
        path.write_bytes(b"")
    with pytest.warns(UserWarning):
        net, _, result = train(30, tmp_path)
    assert result.resumed_at == 0 and equal(net, straight[0])


def test_two_checkpoints_are_kept(tmp_path):
    train(23, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"{i:09d}.rank0.safetensors{e}" for i in (20, 23) for e in ("", ".sha256")]


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    context = RunContext(arcs_spec(20), tmp_path)
    train(6, context.checkpoint)
    with pytest.raises(StoreError, match="checkpoint of 'an unnamed run'.*folder of its own") as caught:
        train(20, context=context)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    train(6, tmp_path)
    net = nn.Linear(2, 2)
    with pytest.raises(StoreError, match="does not fit module 'net'") as caught:
        fit({"net": net}, {"net": torch.optim.Adam(net.parameters())}, cross_entropy_step, loader(), 9, checkpoint=tmp_path, progress="off")
    assert "\n" not in str(caught.value)


def test_a_checkpoint_beyond_the_end_is_refused(tmp_path):
    train(6, tmp_path)
    with pytest.raises(StoreError, match="iteration 6, beyond the 4"):
        train(4, tmp_path)


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf")])
def test_a_loss_that_is_no_number_stops_with_its_name(tmp_path, straight, poison):
    def step(batch, loop):
        found = cross_entropy_step(batch, loop)
        return {**found, "other": torch.tensor(poison) if loop.iteration == 17 else 0.5}
    with pytest.raises(NonFiniteLoss, match="'other' is .* at iteration 18; the last good checkpoint is of iteration 15") as caught:
        train(30, tmp_path, step, log_every=6)
    assert "\n" not in str(caught.value) and Checkpoints(tmp_path).iterations() == [10, 15]
    net, _, result = train(30, tmp_path)
    assert result.resumed_at == 15 and equal(net, straight[0])


def test_weights_that_are_no_numbers_are_not_saved(tmp_path):
    def step(batch, loop):
        found = cross_entropy_step(batch, loop)
        if loop.iteration == 9:
            with torch.no_grad():
                next(loop["net"].parameters())[0, 0] = float("nan")
        return found
    with pytest.raises(NonFiniteLoss, match="weight net.0.weight is not finite at iteration 10; the last good checkpoint is of iteration 5"):
        train(30, tmp_path, step)
    assert Checkpoints(tmp_path).iterations() == [5]


def test_a_full_disk_keeps_what_was_saved(tmp_path, straight, monkeypatch):
    real = os.fsync
    with monkeypatch.context() as patched:
        left = [5]

        def fsync(number):
            left[0] -= 1
            if left[0] < 0:
                raise OSError(28, "No space left on device")
            real(number)
        patched.setattr(os, "fsync", fsync)
        with pytest.raises(StoreError, match="No space left on device; free some space"):
            train(30, tmp_path)
    net, _, result = train(30, tmp_path)
    assert result.resumed_at == 10 and equal(net, straight[0])


def test_unknown_names_are_named():
    with pytest.raises(ValueError, match="unknown optimizer 'nett'.*Did you mean 'net'"):
        train(2, step=lambda batch, loop: loop.update(loop["net"](batch[0]).sum(), "nett"))
    with pytest.raises(ValueError, match="unknown network 'n'"):
        train(2, step=lambda batch, loop: loop["n"])
    with pytest.raises(ValueError, match="unknown precision"):
        make_fabric(precision="8-bit")


# ---- several optimizers, callbacks, logs

def test_a_gan_with_two_optimizers_and_one_loss_for_two(tmp_path):
    def make(iterations, folder=None):
        seed_everything(0)
        nets = {"E": nn.Linear(2, 3), "G": nn.Linear(3, 2), "D": nn.Linear(2, 1), "teacher": nn.Linear(2, 1).requires_grad_(False)}
        optimizers = {k: torch.optim.Adam(nets[k].parameters(), 0.01) for k in "EGD"}

        def step(batch, loop):
            real = batch[0]
            fake = loop["G"](loop["E"](real))
            d = loop["D"](fake.detach()).pow(2).mean() + (loop["D"](real) - 1).pow(2).mean()
            loop.update(d, "D")
            before = nets["D"].weight.clone()
            g = (loop["D"](fake) - 1).pow(2).mean() + loop["teacher"](fake).pow(2).mean()
            loop.update(g, "E", "G")
            assert torch.equal(before, nets["D"].weight)
            return {"d": d, "g": g}
        result = fit(nets, optimizers, step, loader(), iterations, checkpoint=folder, log_every=3, progress="off")
        return nets, result
    whole, result = make(12)
    start, _ = make(0)
    make(5, tmp_path)
    parts, _ = make(12, tmp_path)
    assert all(equal(whole[k], parts[k]) for k in whole) and equal(start["teacher"], whole["teacher"]) and not equal(start["E"], whole["E"])
    assert {"d", "g", "lr/E", "lr/D", "iteration", "epoch"} <= set(result.log[-1])


def test_evaluation_and_callbacks_do_not_disturb(straight):
    seen = []

    def evaluate(loop):
        assert not loop["net"].training and not torch.is_grad_enabled()
        torch.rand(3)
        return {"accuracy": 0.5}
    net, _, result = train(30, evaluate=evaluate, evaluate_every=7, callbacks=[(10, lambda loop: seen.append(loop.iteration))])
    assert equal(net, straight[0]) and seen == [10, 20, 30]
    assert [r["iteration"] for r in result.log if "accuracy" in r] == [7, 14, 21, 28, 30]
    assert len({r["iteration"] for r in result.log}) == len(result.log)


def test_log_holds_the_mean_since_the_last_report():
    _, _, fine = train(12, log_every=1)
    _, _, coarse = train(12, log_every=4)
    means = [np.mean([r["loss"] for r in fine.log[i:i + 4]]) for i in (0, 4, 8)]
    assert [r["loss"] for r in coarse.log] == pytest.approx(means)


def test_window_takes_numbers_and_tensors_and_names_that_come_and_go():
    window = Window()
    window.add(1, {"a": torch.tensor(1.0), "b": 2})
    window.add(2, {"a": torch.tensor([3.0])})
    assert window.means() == {"a": 2.0, "b": 2.0} and window.means() == {}


def test_extras_are_kept(tmp_path):
    class Average:
        value = 0.0

        def state_dict(self):
            return {"value": self.value}

        def load_state_dict(self, state):
            self.value = state["value"]
    one = Average()

    def step(batch, loop):
        one.value += 1
        return cross_entropy_step(batch, loop)
    train(6, tmp_path, step, extras={"average": one})
    two = Average()
    train(6, tmp_path, extras={"average": two})
    assert two.value == 6


def test_time_adds_up_over_sittings(tmp_path):
    def step(batch, loop):
        time.sleep(0.02)
        return cross_entropy_step(batch, loop)
    train(5, tmp_path, step)
    result = train(6, tmp_path)[2]
    assert result.seconds >= 0.1 and result.peak_memory["host"] > 1e7


# ---- progress

def test_lines_in_a_log(capfd):
    progress = Progress("toy", 100, "lines", every=0.0)
    progress.step(50, {"loss": 0.5, "iteration": 50})
    err = capfd.readouterr().err
    assert "toy  50/100 (50 %)  loss 0.5" in err and "left" in err and "\r" not in err
    for iteration in (99, 100, 100):  # the last group of tracklets may hold none that is scored
        progress.step(iteration)
    assert [line.split()[1] for line in capfd.readouterr().err.splitlines()] == ["99/100", "100/100"]


def test_progress_modes(monkeypatch):
    assert progress_mode("auto") == "lines" and progress_mode("off") == "off"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert progress_mode("auto") == "bar"
    monkeypatch.setenv("DGNB_PROGRESS", "off")
    assert progress_mode("bar") == "off"
    with pytest.raises(ValueError, match="progress mode"):
        monkeypatch.setenv("DGNB_PROGRESS", "colourful")
        progress_mode()


def test_a_bar_in_a_terminal(capfd):
    progress = Progress("toy", 10, "bar")
    progress.step(10, {"loss": 0.25})
    progress.close()
    assert "10/10" in capfd.readouterr().err


@pytest.mark.parametrize("mode", ["lines", "bar", "off"])
def test_a_training_says_that_it_goes_on(tmp_path, capfd, mode):
    """Before anything else, and from where; one that begins says nothing of the kind."""
    train(7, tmp_path, progress=mode)
    assert "goes on" not in capfd.readouterr().err
    train(9, tmp_path, progress=mode)
    err = capfd.readouterr().err
    assert err.startswith("training goes on from iteration 7 of 9\n") if mode != "off" else err == ""
    train(9, tmp_path, progress=mode)
    assert "goes on" not in capfd.readouterr().err, "nothing was left to do"


# ---- precision and processes

def test_mixed_precision_trains_and_resumes(tmp_path):
    whole = train(8, fabric=make_fabric(precision="bf16-mixed"))[0]
    train(5, tmp_path, fabric=make_fabric(precision="bf16-mixed"))
    parts = train(8, tmp_path, fabric=make_fabric(precision="bf16-mixed"))[0]
    assert equal(whole, parts) and not equal(whole, train(8)[0]) and next(whole.parameters()).dtype == torch.float32


def test_fabric_is_found_inside_lightning_or_asked_for(monkeypatch):
    found = training._fabric_module()
    monkeypatch.setitem(sys.modules, "lightning_fabric", None)
    monkeypatch.setitem(sys.modules, "lightning", type(sys)("lightning"))
    monkeypatch.setitem(sys.modules, "lightning.fabric", found)
    assert training._fabric_module() is found
    monkeypatch.setitem(sys.modules, "lightning.fabric", None)
    with pytest.raises(StoreError, match="pip install lightning-fabric"):
        training._fabric_module()


def _halves(rank, processes):
    """Four batches of 16 points, shared out."""
    (x, y), size = arcs(64), 16 // processes
    return [(x[i + rank * size:i + (rank + 1) * size], y[i + rank * size:i + (rank + 1) * size]) for i in range(0, 64, 16)]


def _plain_step(batch, loop):
    loss = nn.functional.cross_entropy(loop["net"](batch[0]), batch[1])
    loop.update(loss)
    return {"loss": loss}


def _pair(iterations, fabric, folder=None):
    """Train a network without batch norm on this process's share of the batches."""
    seed_everything(0)
    net = network(dropout=0.0, norm=False)
    result = fit({"net": net}, {"net": torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)}, _plain_step, _halves, iterations, fabric=fabric,
                 checkpoint=folder, log_every=5, progress="off")
    return net.state_dict(), [row["loss"] for row in result.log]


class Scorer(nn.Module):
    """A network whose step calls a method of its own."""
    forward_methods = ("score",)

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))

    def forward(self, x):
        return self.body(x)

    def score(self, x, target):
        return (self(x) - target).pow(2).mean()


def _adversarial(fabric, folder):
    """Two networks with batch norm, called several times before a backward, in two parts."""
    def step(batch, loop):
        fake = loop["G"](batch[0] + torch.randn_like(batch[0]))
        d = loop["D"].score(fake.detach(), 0) + loop["D"].score(batch[0], 1)
        loop.update(d, "D")
        g = loop["D"].score(fake, 1)
        loop.update(g, "G")
        return {"d": d, "g": g}

    def go(n, folder):
        seed_everything(0)
        nets = {"G": Scorer(), "D": Scorer()}
        nets["G"].body[-1] = nn.Linear(8, 2)
        fit(nets, {k: torch.optim.Adam(m.parameters(), 0.01) for k, m in nets.items()}, step, _halves, n, fabric=fabric, checkpoint=folder, progress="off")
        return {k: m.state_dict() for k, m in nets.items()}
    whole = go(9, None)
    go(4, folder)
    return [whole, go(9, folder)]


def _rank(rank, port, folder):
    """One of two processes, as a launcher would start it."""
    os.environ.update(LOCAL_RANK=str(rank), WORLD_SIZE="2", NODE_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), DGNB_DEVICES="2")
    fabric = make_fabric(accelerator="cpu")
    assert (fabric.global_rank, fabric.world_size) == (rank, 2)
    whole = _pair(10, fabric)
    _pair(4, fabric, folder / "c")
    parts = _pair(10, fabric, folder / "c")
    save_state(folder / f"{rank}.safetensors", [whole, parts, _adversarial(fabric, folder / "gan")])


def test_two_processes_equal_one_with_twice_the_batch(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")  # a fork would inherit IPython where other tests of this process used it
    processes = [context.Process(target=_rank, args=(rank, port, tmp_path)) for rank in (0, 1)]
    [p.start() for p in processes]
    [p.join(120) for p in processes]
    assert [p.exitcode for p in processes] == [0, 0]
    (a, la), parts, gan_a = load_state(tmp_path / "0.safetensors")
    (b, _), _, gan_b = load_state(tmp_path / "1.safetensors")
    for net in ("G", "D"):
        for (key, x), y in zip(gan_a[0][net].items(), gan_b[0][net].values()):
            assert torch.equal(x, y) != ("running" in key), "weights agree over processes, batch statistics stay each process's own"
        for whole, resumed in (gan_a, gan_b):
            assert all(torch.equal(x, y) for x, y in zip(whole[net].values(), resumed[net].values()))
    c, lc = _pair(10, make_fabric(accelerator="cpu"))
    assert all(torch.equal(a[k], b[k]) and torch.equal(a[k], parts[0][k]) for k in a)
    assert all(torch.allclose(a[k], c[k], rtol=1e-5, atol=1e-6) for k in a) and la == pytest.approx(lc, rel=1e-5)
    with pytest.raises(StoreError, match="of a training on 2 processes, this one has 1"):
        _pair(10, make_fabric(accelerator="cpu"), tmp_path / "c")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_resume_on_a_gpu(tmp_path, precision):
    whole = train(12, fabric=make_fabric(precision=precision))[0]
    train(7, tmp_path, fabric=make_fabric(precision=precision))
    parts, _, result = train(12, tmp_path, fabric=make_fabric(precision=precision))
    assert result.resumed_at == 7 and equal(whole, parts) and next(parts.parameters()).is_cuda and result.peak_memory["device"] > 0


@pytest.mark.slow
def test_a_run_on_two_processes_through_the_store(tmp_path, monkeypatch):
    monkeypatch.setenv("DGNB_DEVICES", "2")
    monkeypatch.setenv("DGNB_ACCELERATOR", "cpu")
    monkeypatch.setenv("PYTHONPATH", f"{HERE.parent}:{HERE}")
    run = RunStore(tmp_path / "local", tmp_path / "none").get(arcs_spec(12), train=True, progress="off")
    assert run.record["processes"] == 2 and run.metrics["iterations"] == 12
