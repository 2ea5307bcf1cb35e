"""A JupyterLab for tests: its own settings and folders, no look at a network, and gone afterwards."""
from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

SETTINGS = {"@jupyterlab/apputils-extension/notification": {"checkForUpdates": False, "fetchNews": "false"},
            "@jupyterlab/notebook-extension/tracker": {"windowingMode": "none"}}  # all cells are in the page, also those out of sight


class Lab:
    """One JupyterLab in a folder of its own; `address` of a notebook opens it alone."""

    def __init__(self, patience: float = 180.0):  # seconds to wait for the server
        self.home = tempfile.TemporaryDirectory(prefix="lab-", ignore_cleanup_errors=True)
        self.folder = Path(self.home.name, "work")
        self.folder.mkdir()
        for name, values in SETTINGS.items():
            file = Path(self.home.name, "settings", f"{name}.jupyterlab-settings")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(values))
        own = {f"JUPYTER_{what}_DIR": str(Path(self.home.name, what.lower())) for what in ("CONFIG", "DATA", "RUNTIME")}
        own |= {f"JUPYTERLAB_{what}_DIR": str(Path(self.home.name, what.lower())) for what in ("SETTINGS", "WORKSPACES")}
        options = ["--no-browser", "--ip=127.0.0.1", "--port=0", "--allow-root", f"--ServerApp.root_dir={self.folder}", "--LabApp.expose_app_in_browser=True", "--ServerApp.token=moved"]
        self.said = open(Path(self.home.name, "log"), "w+")
        self.process = subprocess.Popen([sys.executable, "-m", "jupyterlab", *options], stdout=self.said, stderr=self.said, start_new_session=True,
                                        env=os.environ | own | {"OMP_NUM_THREADS": "1", "MPLCONFIGDIR": str(Path(self.home.name, "matplotlib"))})
        try:
            self.url = self._until_up(patience)
        except BaseException:
            self.close()
            raise

    def _until_up(self, patience: float) -> str:
        end = time.monotonic() + patience
        while time.monotonic() < end and self.process.poll() is None:
            for file in Path(self.home.name, "runtime").glob("jpserver-*.json"):
                try:
                    url = json.loads(file.read_text())["url"]
                    urlopen(f"{url}api?token=moved", timeout=10).close()
                    return url
                except (ValueError, KeyError, URLError, OSError):
                    pass
            time.sleep(0.2)
        raise TimeoutError(f"JupyterLab did not start:\n{self.log()}")

    def log(self) -> str:
        """The end of what the server said."""
        return Path(self.home.name, "log").read_text()[-3000:]

    def notebook(self, name: str, *cells: str) -> str:
        """Write a notebook of code cells; the address that opens it."""
        from nbformat import v4, write
        made = v4.new_notebook(cells=[v4.new_code_cell(cell) for cell in cells], metadata={"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}})
        write(made, self.folder / name)
        return f"{self.url}lab/tree/{name}?token=moved"

    def close(self) -> None:
        """End the server and its kernels, politely first."""
        try:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)  # the session that was started for it, nothing else
            self.process.wait(10)
        self.said.close()
        self.home.cleanup()

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, *_) -> None:
        self.close()
