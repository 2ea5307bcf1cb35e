"""Importing this module imports, once, what result notebooks import: workers start from a process that has done so."""
import importlib
import os
from contextlib import suppress

os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # ask for GPUs without starting CUDA, which would not survive a fork
MODULES = ("numpy", "pandas", "matplotlib.pyplot", "torch", "torchvision", "timm", "scipy.stats", "seaborn", "safetensors.torch", "nbformat",
           "papermill", "IPython.core.interactiveshell", "matplotlib_inline.backend_inline", "dgnb.results", "dgnb.figures", "dgnb.retrieval",
           "dgnb.run_store")
for name in MODULES:
    with suppress(Exception):  # a notebook that needs it says what is wrong with it
        importlib.import_module(name)
