"""Executing a notebook inside this process, with the outputs that a kernel would store, in the order in which they came.

papermill calls the engine as it calls its own kernel engine. `execnb`'s shell is not used because it stores printed text, pictures and
values in separate piles and so loses their order. Without IPython (a GPU machine with the bare package) `run_plain` executes the code alone.
"""
from __future__ import annotations

import io
import json
import os
import random
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any

try:
    from IPython.core.displayhook import DisplayHook
    from IPython.core.displaypub import DisplayPublisher
    from IPython.core.interactiveshell import InteractiveShell
    from papermill.engines import Engine, papermill_engines
    from traitlets.config import Config
except ImportError:  # only run_plain works
    DisplayHook = DisplayPublisher = InteractiveShell = Engine = object
    papermill_engines = None

ENGINE = "dgnb-warm"


class _Stream(io.TextIOBase):
    """Text written by a cell, appended to its outputs (and shown on the terminal when asked)."""

    def __init__(self, name: str, outputs: list, show: bool):
        self.name_, self.outputs, self.terminal = name, outputs, getattr(sys, f"__{name}__") if show else None

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        last = self.outputs[-1] if self.outputs else {}
        if last.get("output_type") == "stream" and last["name"] == self.name_:
            last["text"] += text
        elif text:
            self.outputs.append({"output_type": "stream", "name": self.name_, "text": text})
        if self.terminal:
            self.terminal.write(text)
            self.terminal.flush()
        return len(text)


class _Publisher(DisplayPublisher):
    """`display(...)` into the outputs."""

    def publish(self, data, metadata=None, *, transient=None, update=False, **_):
        if not update:
            self.shell.outputs.append({"output_type": "display_data", "data": _mime(data), "metadata": dict(metadata or {})})

    def clear_output(self, wait=False):
        self.shell.outputs.clear()


class _Hook(DisplayHook):
    """A cell's last value into the outputs."""

    def write_output_prompt(self):
        pass

    def write_format_data(self, format_dict, md_dict=None):
        self.shell.outputs.append({"output_type": "execute_result", "data": _mime(format_dict), "metadata": dict(md_dict or {}),
                                   "execution_count": self.shell.execution_count})


class Shell(InteractiveShell):
    """An IPython shell that keeps what a cell shows in `outputs`."""
    displayhook_class, display_pub_class = _Hook, _Publisher

    def __init__(self, **options):
        self.outputs: list[dict[str, Any]] = []
        super().__init__(**options)

    def enable_gui(self, gui=None):
        pass

    def _showtraceback(self, etype, evalue, stb):
        self.outputs.append({"output_type": "error", "ename": etype.__name__, "evalue": str(evalue), "traceback": list(stb)})


def _mime(data: Mapping[str, Any]) -> dict[str, Any]:
    """Display data as it stands in a notebook file: bytes in base64 with a line end, as kernels send them."""
    import base64
    return {kind: base64.encodebytes(value).decode() if isinstance(value, bytes) else value for kind, value in data.items()}


def _reset() -> None:
    """Random numbers, open figures and torch's switches as in a new process."""
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    if "matplotlib" in sys.modules:
        sys.modules["matplotlib"].rcdefaults()
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)
        torch.set_default_dtype(torch.float32)
        torch.set_grad_enabled(True)
        if torch.are_deterministic_algorithms_enabled():  # asking for what is so already would import torch._dynamo: 4 s
            torch.use_deterministic_algorithms(False)


@contextmanager
def kept() -> Iterator[None]:
    """Put back working folder, environment, paths, arguments, threads and `__main__` afterwards."""
    folder, env, path, argv, main = os.getcwd(), dict(os.environ), list(sys.path), list(sys.argv), sys.modules["__main__"]
    torch = sys.modules.get("torch")
    threads = torch.get_num_threads() if torch else None
    try:
        yield
    finally:
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(env)
        sys.path[:], sys.argv[:], sys.modules["__main__"] = path, argv, main
        if threads:
            torch.set_num_threads(threads)


@contextmanager
def _shell() -> Iterator[Shell]:
    """A new shell with a namespace of its own, gone afterwards."""
    with kept(), tempfile.TemporaryDirectory(prefix="dgnb-ipython-") as home:
        _reset()
        InteractiveShell.clear_instance()
        quiet = Config(HistoryManager={"enabled": False, "hist_file": ":memory:"})
        shell = Shell.instance(config=quiet, ipython_dir=home)
        try:
            with suppress(ImportError):
                shell.enable_matplotlib("inline")
            shell.outputs.clear()
            yield shell
        finally:
            shell.reset(new_session=False)
            shell.restore_sys_module_state()
            Shell.clear_instance()
            _reset()


def _run_cell(shell: Shell, cell: Mapping[str, Any], show: bool) -> bool:
    """Execute one code cell, store its outputs, and say whether it went well (or was allowed to fail)."""
    from nbformat import from_dict
    shell.outputs.clear()
    with redirect_stdout(_Stream("stdout", shell.outputs, show)), redirect_stderr(_Stream("stderr", shell.outputs, show)):
        result = shell.run_cell(cell["source"], store_history=True, cell_id=cell.get("id"))
    cell["execution_count"] = shell.execution_count - 1
    for output in shell.outputs:
        if output["output_type"] == "execute_result":
            output["execution_count"] = cell["execution_count"]
    cell["outputs"] = [from_dict(output) for output in shell.outputs]
    return result.success or "raises-exception" in cell["metadata"].get("tags", [])


class WarmEngine(Engine):
    """papermill's engine for a process that has imported everything already."""

    @classmethod
    def execute_managed_notebook(cls, nb_man, kernel_name, show: bool = False, **_):
        with _shell() as shell:
            for index, cell in enumerate(nb_man.nb.cells):
                nb_man.cell_start(cell, index)
                ok = cell.cell_type != "code" or not cell.source.strip() or _run_cell(shell, cell, show)
                if not ok:
                    nb_man.cell_exception(cell, cell_index=index)
                nb_man.cell_complete(cell, cell_index=index)
                if not ok:
                    break


if papermill_engines:
    papermill_engines.register(ENGINE, WarmEngine)


class CellFailed(RuntimeError):
    """A cell of a plainly executed notebook raised; says which."""


def run_plain(notebook: Path, parameters: Mapping[str, Any]) -> None:
    """Execute a notebook's code with nothing but Python: no outputs are kept, magics are refused. CellFailed names the cell."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    space: dict[str, Any] = {"__name__": "__main__"}
    with kept():
        _reset()
        os.chdir(notebook.parent)
        for index, cell in enumerate(cells):
            if cell["cell_type"] != "code":
                continue
            try:
                exec(compile("".join(cell["source"]), f"{notebook.name} cell {index + 1}", "exec"), space)
            except Exception as error:
                raise CellFailed(f"cell {index + 1}: {type(error).__name__}: {error}") from error
            if "parameters" in cell["metadata"].get("tags", []):
                space.update(parameters)
