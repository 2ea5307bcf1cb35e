"""Items as tasks of a Dask cluster: `dgnb run all --dask tcp://host:8786`, with workers started as `dask worker ADDRESS --nthreads 1`.

A task executes its notebook inside the Dask worker (which stays warm from one task to the next) in a temporary folder and sends the files
back, so no disk need be shared. A task whose worker dies is given to another one by Dask (up to its `allowed-failures`, 3); a notebook that
fails is not tried again.
"""
from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from dgnb.parameters import RunnerError
from dgnb.runner import STOPPED, Job, Outcome, execute

_one_at_a_time = threading.Lock()  # a notebook has the process to itself, however many threads the worker has


def portable(job: Job) -> tuple[Job, str]:
    """The job without this machine's paths and environment, and the notebook's text."""
    own = {name: value for name, value in job.environment.items() if name in ("DGNB_TRAIN", "DGNB_FRESH", "DGNB_DEVICES", "DGNB_NODES", "DGNB_PRECISION")}
    return replace(job, environment=own, folder="", notebook=Path(job.notebook).name), Path(job.notebook).read_text(encoding="utf-8")


def execute_here(job: Job, source: str) -> tuple[Outcome, dict[str, bytes]]:
    """Execute a job in a temporary folder; the outcome, and the files it left by name. Runs on the cluster's worker."""
    import os
    with _one_at_a_time, tempfile.TemporaryDirectory(prefix="dgnb-") as folder:
        notebook, out = Path(folder, "source", job.notebook), Path(folder, "out")
        notebook.parent.mkdir()
        notebook.write_text(source, encoding="utf-8")
        environment = {**os.environ, **job.environment, "DGNB_OUT": str(out)}
        outcome = execute(replace(job, notebook=str(notebook), folder=str(out), environment=environment))
        return outcome, {path.name: path.read_bytes() for path in sorted(out.iterdir()) if path.is_file()} if out.is_dir() else {}


def _received(job: Job, result: tuple[Outcome, dict[str, bytes]]) -> Outcome:
    """Put a task's files into the job's folder, the record last; the outcome as seen from here."""
    outcome, files = result
    folder = Path(job.folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name in sorted(files, key=lambda name: (name == "record.json", name)):
        part = folder / f".{Path(name).name}.new"
        part.write_bytes(files[name])
        part.replace(folder / Path(name).name)
    return replace(outcome, folder=job.folder)


def _versions_agree(client) -> None:
    """RunnerError when a worker has another version of the package."""
    from importlib.metadata import version
    here = version("dgnb")
    other = {address: found for address, found in client.run(version, "dgnb").items() if found != here}
    if other:
        raise RunnerError(f"dgnb {here} here, but {', '.join(f'{v} on {a}' for a, v in other.items())}: install the same version there")


def run_on_dask(
    jobs: Sequence[Job],  # what to execute
    address: str,  # of the scheduler, e.g. tcp://127.0.0.1:8786
    report: Callable[[Outcome], None] = lambda outcome: None,  # called as each one ends
    timeout: float = 20.0,  # seconds to wait for the scheduler
) -> list[Outcome]:
    """Execute all jobs on a cluster and return their outcomes in order; RunnerError when the cluster cannot be reached."""
    try:
        from distributed import Client, as_completed
    except ImportError:
        raise RunnerError("--dask needs the cluster extra: pip install 'dgnb[cluster]'") from None
    try:
        client = Client(address, timeout=timeout)
    except (OSError, ValueError, TimeoutError) as error:
        raise RunnerError(f"no Dask scheduler answers at {address} ({' '.join(str(error).split())[:80]}); start one with `dask scheduler`") from None
    with client:
        if not client.scheduler_info(n_workers=-1)["workers"]:
            raise RunnerError(f"the scheduler at {address} has no workers; start some with `dask worker {address} --nthreads 1`")
        _versions_agree(client)
        futures = {client.submit(execute_here, *portable(job), pure=False, key=f"{job.item}-{job.scale}-{index}"): index for index, job in enumerate(jobs)}
        done: dict[int, Outcome] = {}
        try:
            for future in as_completed(futures):
                index = futures[future]
                done[index] = _outcome(jobs[index], future)
                report(done[index])
        except KeyboardInterrupt:
            client.cancel(list(futures))
    return [done.get(index) or Outcome(job.item, job.scale, False, STOPPED, folder=job.folder) for index, job in enumerate(jobs)]


def _outcome(job: Job, future) -> Outcome:
    """A finished task's outcome; what Dask itself raised (a worker that died too often) is the cause."""
    try:
        return _received(job, future.result())
    except Exception as error:
        return Outcome(job.item, job.scale, False, f"{type(error).__name__}: {' '.join(str(error).split())}"[:300], folder=job.folder)
