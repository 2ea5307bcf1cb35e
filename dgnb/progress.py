"""How far a training is: a bar in a terminal or notebook, plain lines in a log."""
from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from typing import Any

from tqdm import tqdm

from dgnb.scales import choose


def progress_mode(mode: str = "auto") -> str:
    """Resolve "auto": a bar in a terminal or notebook, plain lines in a log; the environment's DGNB_PROGRESS decides first."""
    mode = choose(os.environ.get("DGNB_PROGRESS") or mode, ("auto", "bar", "lines", "off"), "progress mode")
    if mode != "auto":
        return mode
    notebook = "ipykernel" in sys.modules and "IPython" in sys.modules and sys.modules["IPython"].get_ipython() is not None
    return "bar" if notebook or sys.stderr.isatty() else "lines"


def clock_text(seconds: float) -> str:
    """A duration as a person says it: 8 s, 3 min 20 s, 2 h 5 min."""
    seconds = int(seconds)
    if seconds < 60:
        return f"{seconds} s"
    return f"{seconds // 60} min {seconds % 60} s" if seconds < 3600 else f"{seconds // 3600} h {seconds % 3600 // 60} min"


class Progress:
    """Shows how far a training is, what its losses are and how long it will take."""

    def __init__(
        self,
        name: str,  # what is being trained
        total: int,  # iterations in all
        mode: str = "auto",  # "auto", "bar", "lines" or "off"
        start: int = 0,  # iterations done in an earlier sitting
        every: float = 10.0,  # seconds between lines, at least
    ):
        self.name, self.total, self.first, self.every, self.shown = name, total, start, every, -1
        self.mode, self.began, self.last, self.text = progress_mode(mode), time.monotonic(), time.monotonic(), ""
        if 0 < start < total and self.mode != "off":
            print(f"{name} goes on from iteration {start} of {total}", file=sys.stderr, flush=True)
        self.bar = tqdm(total=total, initial=start, desc=name, file=sys.stderr, dynamic_ncols=True) if self.mode == "bar" else None

    def step(self, iteration: int, row: Mapping[str, Any] | None = None) -> None:
        """Note the iterations done so far, and the newest row of the log."""
        if row:
            self.text = "  ".join(f"{k} {v:.4g}" for k, v in row.items() if isinstance(v, float) and k != "seconds")
        if self.bar is not None:
            if row:
                self.bar.set_postfix_str(self.text, refresh=False)
            self.bar.update(iteration - self.bar.n)
        elif self.mode == "lines" and iteration != self.shown and (iteration == self.total or time.monotonic() - self.last >= self.every):
            self.last, self.shown = time.monotonic(), iteration
            print(self.line(iteration), file=sys.stderr, flush=True)

    def line(self, iteration: int) -> str:
        """One line for a log: name, share done, losses, pace, time left."""
        pace = (time.monotonic() - self.began) / max(1, iteration - self.first)
        share = 100 * iteration // max(1, self.total)
        return f"{self.name}  {iteration}/{self.total} ({share} %)  {self.text}  {pace:.3g} s/iteration  {clock_text(pace * (self.total - iteration))} left"

    def close(self) -> None:
        """Leave the bar as it is."""
        if self.bar is not None:
            self.bar.close()
