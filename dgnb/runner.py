"""Running catalogued items: parameters are checked, notebooks execute side by side in warm worker processes, and one failure stops no other.

A worker is a process forked from one that has imported already what the notebooks import (`dgnb.warm`), so an item starts in a fraction of
a second and cannot disturb another. Where processes cannot be forked (macOS, Windows) a worker imports once and keeps for several items.
"""
from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

from dgnb.catalogue import Item, load_catalogue, one_of
from dgnb.freshness import modules_of, run_folder
from dgnb.parameters import RunnerError, changed_parameters, checked_parameters, folder_name, parameters_of, parse_value
from dgnb.paths import figures_dir

MODES = ("warm", "kernel", "plain")
NOTEBOOK = "notebook.ipynb"  # the executed copy
PATHS = ("data", "weights", "inception")  # parameters that name a file or a folder
SETS = ("worlds", "world", "joint_on", "offline_on")  # parameters that name sets
STOPPED = "stopped by Ctrl-C"


@dataclass(frozen=True)
class Job:
    """One notebook to execute."""
    item: str
    scale: str
    notebook: str  # source file
    folder: str  # where results and the executed copy go
    parameters: Mapping[str, Any] = field(default_factory=dict)
    mode: str = "warm"  # one of MODES
    environment: Mapping[str, str] = field(default_factory=dict)  # the whole environment it runs in
    threads: int = 1  # CPU threads
    show: bool = False  # print what cells print on the terminal as well


@dataclass(frozen=True)
class Outcome:
    """How it went."""
    item: str
    scale: str
    ok: bool
    cause: str = ""  # one line; "" when all is well
    note: str = ""  # e.g. how many runs are not run
    seconds: float = 0.0
    folder: str = ""


def plan(
    item: Item,  # what to run
    scale: str,  # at which scale
    overrides: Mapping[str, str] = {},  # parameter -> text, as given on the command line
    how: Mapping[str, str] = {},  # DGNB_* variables to set
    data: str = "",  # root folder of a real set, for the notebook's `data` parameter
    **options,  # further fields of Job
) -> Job:
    """The job for an item; RunnerError or CatalogueError for unknown names and values."""
    one_of(scale, item.scales, f"scale of {item.id}")
    notebook = load_catalogue().notebook(item)
    declared = parameters_of(notebook)
    given = {name: parse_value(text, declared.get(name)) for name, text in overrides.items()}
    for name in ("item", "scale"):
        if name in given:
            raise RunnerError(f"-p {name}=... is not allowed: name the item and use --scale")
    if data and "data" not in declared:
        raise RunnerError(f"{item.id} takes no data folder: its notebook has no parameter `data`")
    own = {name: value for name, value in {"item": item.id, "scale": scale}.items() if name in declared}
    wanted = {**item.scales[scale].parameters, **({"data": data} if data else {}), **given, **own}
    wanted = checked_parameters(item, notebook, {name: _absolute(name, value) for name, value in wanted.items()})
    _check_sets(item, {**declared, **wanted})
    folder = str(figures_dir() / item.id / folder_name(scale, changed_parameters(item, scale, notebook, wanted)))
    environment = {"DGNB_PROGRESS": "lines", **os.environ, **how, "DGNB_OUT": folder}
    return Job(item.id, scale, str(notebook), folder, wanted, environment=environment, **options)


def _absolute(name: str, value: Any) -> Any:
    """A file or folder that a parameter names, from the folder of whoever asks (a notebook runs in its own); RunnerError when it is not there."""
    if name not in PATHS or not value:
        return value
    path = Path(value).expanduser().absolute()
    if not path.exists():
        raise RunnerError(f"{name}: there is no {path}" + (", the folder that holds the real sets, each under its name" if name == "data" else ""))
    return str(path)


def _check_sets(item: Item, wanted: Mapping[str, Any]) -> None:
    """RunnerError when real data are given and a parameter still names synthetic sets that are not among them."""
    if not wanted.get("data"):
        return
    there, standins = Path(wanted["data"]), {one.get("standin") for one in load_catalogue().sets.values()}
    listed = {name: [value] if isinstance(value, str) else value for name, value in wanted.items() if name in SETS}
    synthetic = {name: [one for one in values if one in standins and not (there / one).is_dir()] for name, values in listed.items()}
    if wrong := [name for name in SETS if synthetic.get(name)]:
        mends = " ".join(f"-p {_real(item, name, there)}" for name in wrong)
        raise RunnerError(f"{item.id}: {synthetic[wrong[0]][0]} is synthetic and not in {there}; name the real set by its folder there: {mends}")


def _real(item: Item, name: str, there: Path) -> str:
    """What to write for a parameter that names sets, when they lie in a folder."""
    if name.endswith("_on"):
        return f"'{name}=[]'"  # all of `worlds`
    real = next((one for one in item.choices.get(name, ()) if not one.startswith("mannequin-") and (there / one).is_dir()), "NAME")
    return f"'{name}=[{real}]'" if name == "worlds" else f"{name}={real}"


def _ipc(stack: str) -> dict[str, Any]:
    """Engine options for a kernel that talks through sockets of its own, so that kernels side by side cannot meet."""
    from traitlets.config import Config
    return {} if os.name == "nt" else {"config": Config(KernelManager={"transport": "ipc", "ip": os.path.join(stack, "k")})}


def _papermill(job: Job) -> None:
    """Execute through papermill, in this process or in a kernel."""
    import logging

    import nbformat
    import papermill

    from dgnb import engine
    logging.getLogger("papermill").setLevel(logging.ERROR)
    source = nbformat.read(job.notebook, as_version=4)
    output = str(Path(job.folder, NOTEBOOK)).replace("{", "{{").replace("}", "}}")  # papermill fills in braces
    with tempfile.TemporaryDirectory(prefix="k") as sockets:
        own = {"engine_name": engine.ENGINE, "show": job.show} if job.mode == "warm" else _ipc(sockets)
        papermill.execute_notebook(source, output, dict(job.parameters), kernel_name="python3", progress_bar=False,
                                   cwd=str(Path(job.notebook).parent), **own)


def _cause(error: BaseException) -> str:
    """An exception in one line; of a cell's, the cell and what it raised."""
    text = f"{type(error).__name__}: {error}"
    if hasattr(error, "ename"):
        text = f"cell {error.exec_count}: {error.ename.lstrip('_')}: {error.evalue}"
    return " ".join(text.split())[:300]


def _differing(job: Job, record: Mapping[str, Any]) -> list[str]:
    """Requested parameters that the record does not confirm."""
    return [f"{name}={record['parameters'].get(name)!r}" for name, value in job.parameters.items() if record["parameters"].get(name) != value]


def _verdict(job: Job, started: float) -> tuple[str, str]:
    """(cause, note) from the record that the notebook wrote."""
    from dgnb.results import read_record
    file, record = Path(job.folder, "record.json"), read_record(job.folder)
    if record is None or file.stat().st_mtime < started - 2:
        return "the notebook ended without result.save(): it wrote no record.json", ""
    if other := _differing(job, record):
        return f"the record has other parameters than were asked for: {', '.join(other)}", ""
    missing, other = len(record["missing"]), precision_note(map(_precision, record["runs"]), job.environment.get("DGNB_PRECISION", ""))
    notes = [f"{missing} run{'s' if missing > 1 else ''} not run: {record['command']}"] * bool(missing) + [f"{other}: --fresh trains anew"] * bool(other)
    return "", "; ".join(notes)


def _precision(run: Mapping[str, Any]) -> str:
    """In which precision a run that a record names was made; "" where that cannot be read."""
    try:
        return json.loads((run_folder(run) / "record.json").read_bytes())["precision"]
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def precision_note(
    made: Iterable[str],  # precisions that runs were made in; "" = not known
    wanted: str,  # the precision that was asked for; "" = none
) -> str:
    """Which runs were found that were made in another precision than was asked for; "" when none."""
    other = [one for one in made if one and wanted and one != wanted]
    plural = "s were" if len(other) > 1 else " was"
    return f"{len(other)} run{plural} there already, made in {', '.join(sorted(set(other)))} and not in {wanted}" if other else ""


def execute(job: Job) -> Outcome:
    """Execute one notebook in this process and write `outcome.json` beside its results; never raises for what the notebook does."""
    from dgnb import engine
    folder, started, cause, note = Path(job.folder), time.time(), "", ""
    with engine.kept():
        os.environ.clear()
        os.environ.update({**job.environment, "OMP_NUM_THREADS": str(job.threads)})
        if job.mode == "kernel":
            os.environ.pop("MPLBACKEND", None)  # a kernel that is told a backend stores no pictures
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(job.threads)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            engine.run_plain(Path(job.notebook), job.parameters) if job.mode == "plain" else _papermill(job)
            cause, note = _verdict(job, started)
        except Exception as error:
            cause = str(error) if isinstance(error, engine.CellFailed) else _cause(error)
    outcome = Outcome(job.item, job.scale, not cause, cause, note, round(time.time() - started, 1), job.folder)
    return _written(outcome)


def _written(outcome: Outcome) -> Outcome:
    """Leave the outcome beside the results, for `dgnb status`."""
    try:
        file = Path(outcome.folder, "outcome.json")
        file.with_suffix(".new").write_text(json.dumps(asdict(outcome), indent=1) + "\n", encoding="utf-8")
        file.with_suffix(".new").replace(file)
    except OSError as error:
        return Outcome(**{**asdict(outcome), "ok": False, "cause": outcome.cause or _cause(error)})
    return outcome


def _end_with_parent() -> None:
    """Wait until the command that started this worker is gone, then end the worker and everything it started."""
    multiprocessing.parent_process().join()
    os.killpg(0, signal.SIGKILL) if hasattr(os, "killpg") else os._exit(1)


def _serve(connection) -> None:
    """A worker's life: execute what comes until None does. Ctrl-C is for the parent to act on, and no worker outlives it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)  # kernels and training processes started from here end with it
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while (job := connection.recv()) is not None:
        connection.send(execute(job))


class _Worker:
    """One process at a time that executes jobs."""

    def __init__(self, context, keep: bool):
        self.context, self.keep, self.process, self.stopped = context, keep, None, False

    def _start(self) -> None:
        self.connection, theirs = self.context.Pipe()
        self.process = self.context.Process(target=_serve, args=(theirs,))
        self.process.start()
        theirs.close()

    def run(self, job: Job) -> Outcome:
        """Execute in the worker; a worker that dies fails its job alone."""
        started = time.time()
        if self.process is None:
            self._start()
        try:
            self.connection.send(job)
            outcome = self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            code, self.process = self.process.exitcode, None
            cause = f"its worker was killed by {signal.Signals(-code).name}" if code and code < 0 else f"its worker ended with code {code}"
            cause = STOPPED if self.stopped else cause
            outcome = _written(Outcome(job.item, job.scale, False, cause, "", round(time.time() - started, 1), job.folder))
        if not self.keep:
            self.close()
        return outcome

    def close(self) -> None:
        """Let the process end."""
        if self.process is not None:
            self.connection.send(None)
            self.process.join()
            self.process = None

    def kill(self) -> None:
        """End the process and what it started, now."""
        self.stopped = True
        if self.process is not None:
            try:
                os.killpg(self.process.pid, signal.SIGTERM)
            except (AttributeError, OSError):
                self.process.terminate()


def imported_by(jobs: Sequence[Job]) -> list[str]:
    """The modules that the jobs' notebooks import, ours with all they import in turn; nothing for jobs that get a kernel of their own."""
    names = {"dgnb.engine", "matplotlib_inline.backend_inline"}
    for notebook in {Path(job.notebook) for job in jobs if job.mode != "kernel"}:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
        names |= set(re.findall(r"^(?:from|import)\s+([\w.]+)", code, re.MULTILINE))
        names |= {f"dgnb.{module}" for module in modules_of(notebook)}
    return sorted(names)


def _context(modules: Sequence[str]):
    """(multiprocessing context, whether workers are kept): forked from a process that has imported the modules, where that is safe."""
    if not sys.platform.startswith("linux"):
        return multiprocessing.get_context("spawn"), True
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["dgnb.warm"])
    os.environ["DGNB_WARM"] = ",".join(modules)
    forkserver.ensure_running()
    del os.environ["DGNB_WARM"]
    return context, False


def run_jobs(
    jobs: Sequence[Job],  # what to execute
    workers: int = 1,  # processes side by side
    report: Callable[[Outcome], None] = lambda outcome: None,  # called as each one ends
) -> list[Outcome]:
    """Execute all jobs and return their outcomes in order; on Ctrl-C what runs is ended, what is finished stays, and the rest is missing."""
    context, keep = _context(imported_by(jobs))
    crew, idle, done, lock = [], [], {}, threading.Lock()

    def one(index: int) -> None:
        with lock:
            worker = idle.pop() if idle else _Worker(context, keep)
            crew.append(worker)
        outcome = worker.run(jobs[index])
        with lock:
            idle.append(worker)
            done[index] = outcome
            report(outcome)

    pool = ThreadPoolExecutor(max(1, min(workers, len(jobs) or 1)))
    try:
        for future in [pool.submit(one, index) for index in range(len(jobs))]:
            future.result()
    except KeyboardInterrupt:
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in set(crew):
            worker.kill()
    finally:
        pool.shutdown(wait=True)
        for worker in set(idle):
            worker.close()
    return [done[index] for index in sorted(done)]


def cores() -> int:
    """CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
