"""Importing this module imports, once, what `DGNB_WARM` lists: the runner's workers are forked from a process that has done so."""
import importlib
import os
from contextlib import suppress

os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # ask for GPUs without starting CUDA, which would not survive a fork
names = [name for name in os.environ.get("DGNB_WARM", "").split(",") if name]
if any(name.split(".")[0] in ("torch", "torchvision", "timm", "dgnb") and name != "dgnb.engine" for name in names):
    with suppress(Exception):
        importlib.import_module("torch").set_num_threads(1)  # a pool of OpenMP threads would not survive a fork either
for name in names:
    with suppress(Exception):  # a notebook that needs it says what is wrong with it
        importlib.import_module(name)
