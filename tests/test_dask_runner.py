"""Items on a Dask cluster: a real scheduler and two workers on loopback, one of which is killed in the middle of its task."""
from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from tiny import executed, make_project

from dgnb.catalogue import load_catalogue
from dgnb.parameters import RunnerError
from dgnb.results import read_record
from dgnb.runner import plan

pytest.importorskip("distributed")
from dgnb.dask_runner import run_on_dask  # noqa: E402

SLOW = """import os, pathlib, time
pathlib.Path(os.environ["TINY_PIDS"], str(os.getpid())).touch()
while not pathlib.Path(os.environ["TINY_PIDS"], "go").exists(): time.sleep(0.05)"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def cluster(folder, workers: int):
    """A scheduler and workers as processes of their own; yields address and worker processes."""
    address, quiet = f"tcp://127.0.0.1:{free_port()}", dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder)
    dask = [sys.executable, "-m", "dask"]
    crew = [subprocess.Popen([*dask, "scheduler", "--host", "127.0.0.1", "--port", address.rpartition(":")[2], "--no-dashboard", "--no-show"], **quiet)]
    crew += [subprocess.Popen([*dask, "worker", address, "--nthreads", "1", "--no-nanny", "--no-dashboard", "--host", "127.0.0.1",
                               "--local-directory", str(folder)], **quiet) for _ in range(workers)]
    try:
        from distributed import Client
        with Client(address, timeout=60) as client:
            client.wait_for_workers(workers, timeout=60)
        yield address, crew[1:]
    finally:
        for process in crew:
            process.kill()
            process.wait()


def test_a_killed_worker_costs_nothing_but_time(tmp_path, monkeypatch):
    """Three items, two workers; the worker of one is killed while its notebook runs, and all three come out; a failing one is not retried."""
    make_project(tmp_path, monkeypatch, a=(SLOW,), b=(SLOW,), c=("1 / 0",))
    pids = tmp_path / "pids"
    pids.mkdir()
    monkeypatch.setenv("TINY_PIDS", str(pids))
    jobs = [plan(item, "smoke", mode="warm") for item in load_catalogue()]
    with cluster(tmp_path, 2) as (address, workers):
        with ThreadPoolExecutor(1) as pool:
            outcomes = pool.submit(run_on_dask, jobs, address)
            started = time.time()
            while len(list(pids.iterdir())) < 2 and time.time() - started < 60:
                time.sleep(0.05)
            assert {int(p.name) for p in pids.iterdir()} == {w.pid for w in workers}, "both workers hold a notebook"
            os.kill(workers[0].pid, signal.SIGKILL)
            (pids / "go").touch()
            a, b, c = outcomes.result(timeout=120)
    assert a.ok and b.ok, (a.cause, b.cause)
    assert not c.ok and "ZeroDivisionError" in c.cause
    for outcome in (a, b):
        assert read_record(outcome.folder)["item"] == outcome.item
        assert executed(tmp_path, outcome.item).metadata.papermill.parameters["scale"] == "smoke"


def test_no_scheduler_is_one_line(tmp_path, monkeypatch):
    make_project(tmp_path, monkeypatch, a=("x = 1",))
    import dask
    with dask.config.set({"distributed.comm.retry.count": 0}), pytest.raises(RunnerError, match="no Dask scheduler answers at tcp://127.0.0.1"):
        run_on_dask([plan(load_catalogue()["tiny-a"], "smoke")], f"tcp://127.0.0.1:{free_port()}", timeout=2)
