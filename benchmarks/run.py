"""Speed and memory as ratios against named baselines measured in the same run: `python benchmarks/run.py [--quick] [NAME ...]`.

Each `bench_*.py` beside this file has `run(quick) -> list[dict]` with the keys what, baseline, ours, ratio, unit and note.
The table goes to the screen and to `benchmarks/results/<machine>.md` when `--write` is given.
"""
from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent


def modules() -> dict[str, Path]:
    return {path.stem.removeprefix("bench_"): path for path in sorted(HERE.glob("bench_*.py"))}


def load(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def machine() -> str:
    """Processor, cores and library versions, for the head of the table."""
    import numpy
    import torch

    model = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "") if Path("/proc/cpuinfo").exists() else ""
    return f"{model or platform.processor()}, {os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}, NumPy {numpy.__version__}, {time.strftime('%Y-%m-%d')}"


def text(value) -> str:
    return f"{value:.3g}" if isinstance(value, float) and abs(value) < 1000 else f"{value:,.0f}" if isinstance(value, float) else str(value)


def table(rows: list[dict]) -> str:
    head = ["what", "baseline", "ours", "ratio", "unit", "note"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(text(row.get(key, "")) for key in head) + " |" for row in rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"which benchmarks: {', '.join(modules())} (default: all)")
    parser.add_argument("--quick", action="store_true", help="smaller sizes, a check that they run")
    parser.add_argument("--write", action="store_true", help="also write benchmarks/results.md")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - modules().keys()
    if unknown:
        parser.error(f"unknown benchmark {', '.join(sorted(unknown))}; valid: {', '.join(modules())}")
    parts = [f"# Benchmarks\n\n{machine()}{' (quick sizes)' if arguments.quick else ''}\n"]
    for name in arguments.names or modules():
        rows = load(modules()[name]).run(quick=arguments.quick)
        parts.append(f"## {name}\n\n{table(rows)}\n")
        print(parts[-1], flush=True)
    if arguments.write:
        (HERE / "results.md").write_text("\n".join(parts), encoding="utf-8")


if __name__ == "__main__":
    main()
