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


def sections(file: Path) -> dict[str, str]:
    """What a results file says, by benchmark."""
    parts = file.read_text(encoding="utf-8").split("\n## ")[1:] if file.exists() else []
    return {name: body.strip() for name, _, body in (part.partition("\n") for part in parts)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"which benchmarks: {', '.join(modules())} (default: all)")
    parser.add_argument("--quick", action="store_true", help="smaller sizes, a check that they run")
    parser.add_argument("--write", action="store_true", help="put what was run into benchmarks/results.md, leaving the other benchmarks there as they are")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - modules().keys()
    if unknown:
        parser.error(f"unknown benchmark {', '.join(sorted(unknown))}; valid: {', '.join(modules())}")
    where, kept = machine() + (" (quick sizes)" if arguments.quick else ""), sections(HERE / "results.md")
    for name in arguments.names or modules():
        rows = load(modules()[name]).run(quick=arguments.quick)
        kept[name] = f"{where}\n\n{table(rows)}"
        print(f"## {name}\n\n{kept[name]}\n", flush=True)
        if arguments.write:
            page = "\n\n".join(f"## {name}\n\n{kept[name]}" for name in sorted(kept))
            (HERE / "results.md").write_text(f"# Benchmarks\n\n{page}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
