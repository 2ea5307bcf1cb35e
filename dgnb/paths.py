"""Where things lie: the checkout or the installed package, shipped runs, local runs, figures, the catalogue."""
from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


@lru_cache(maxsize=1)
def project_root() -> Path | None:
    """The checkout this package runs from, or None when it is installed as a wheel."""
    root = PACKAGE.parent
    return root if (root / "settings.ini").is_file() and (root / "nbs").is_dir() else None


def share_root() -> Path:
    """The folder that holds `nbs/experiments.yaml`, the result notebooks and `runs/`: the checkout, else the wheel's own copy."""
    return project_root() or PACKAGE / "share"


def home() -> Path:
    """Where an installed package keeps what it computes: `DGNB_HOME`, else the user's cache folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("DGNB_HOME") or cache / "dgnb").expanduser()


def catalogue_file() -> Path:
    """The catalogue of every table and figure, `nbs/experiments.yaml`."""
    return share_root() / "nbs" / "experiments.yaml"


def shipped_runs() -> Path:
    """The read-only store of runs that come with the project (`DGNB_SHIPPED_RUNS` overrides it)."""
    return Path(os.environ.get("DGNB_SHIPPED_RUNS") or share_root() / "runs").expanduser()


def local_runs() -> Path:
    """The store of runs made on this machine (`DGNB_RUNS` overrides it); git ignores it in a checkout."""
    default = project_root() / "_runs" if project_root() else home() / "runs"
    return Path(os.environ.get("DGNB_RUNS") or default).expanduser()


def figures_dir(ship: bool = False) -> Path:
    """Where items write: the ignored `_figures/`, or the tracked `figures/` that come with the project (`DGNB_FIGURES` overrides both)."""
    root = project_root()
    default = share_root() / "figures" if ship else root / "_figures" if root else home() / "figures"
    return Path(os.environ.get("DGNB_FIGURES") or default).expanduser()
