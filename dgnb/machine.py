"""Facts about the machine and the process that a record keeps: versions, processor, memory, commit, number among the processes."""
from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from dgnb.paths import project_root

PACKAGES = ("dgnb", "torch", "torchvision", "timm", "numpy", "scipy", "lightning-fabric", "safetensors")


def version(package: str) -> str | None:
    """A package's installed version, or None."""
    with suppress(metadata.PackageNotFoundError):
        return metadata.version(package)
    return None


def commit() -> str | None:
    """The checkout's commit, with `+changes` when tracked files differ from it; None outside a checkout."""
    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(project_root()), *words], capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    with suppress(OSError, subprocess.SubprocessError):
        if project_root():
            return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "-uno") else "")
    return None


def cpu_model() -> str:
    """The processor's name as the system gives it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("model name", "Model")):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def peak_memory() -> dict[str, int]:
    """The most bytes this process has held so far: of main memory (`host`) and of the GPU (`device`)."""
    host = 0
    with suppress(ImportError):  # not on Windows
        import resource
        host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"host": int(host), "device": int(torch.cuda.max_memory_allocated()) if torch.cuda.is_available() else 0}


def environment() -> dict[str, Any]:
    """What a result was made with: package versions, device, processor, threads, commit, date (UTC). No person's or machine's name."""
    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu"
    return {"versions": {"python": platform.python_version()} | {p: v for p in PACKAGES if (v := version(p))},
            "device": device, "cpu": cpu_model(), "system": platform.system(), "threads": torch.get_num_threads(),
            "commit": commit(), "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}


def wanted_processes() -> int:
    """How many processes a training was asked to use: `DGNB_DEVICES` on each of `DGNB_NODES` machines."""
    return int(os.environ.get("DGNB_DEVICES") or 1) * int(os.environ.get("DGNB_NODES") or 1)


def process_rank() -> int:
    """This process's number among those of one training (torchrun, Lightning Fabric and SLURM say it in the environment); 0 when alone."""
    env = os.environ
    if "RANK" in env:
        return int(env["RANK"])
    if "LOCAL_RANK" in env:
        return int(env.get("NODE_RANK", 0)) * int(env.get("DGNB_DEVICES") or 1) + int(env["LOCAL_RANK"])
    return int(env.get("SLURM_PROCID", 0)) if int(env.get("SLURM_NTASKS", 1)) > 1 else 0
