"""The API reference: Sphinx reads docstrings and signatures; what stands beside each argument (docments) is added here.

Docstrings of this project are Markdown, mostly one line; they are turned into what Sphinx expects.
"""
import importlib
import inspect
import json
import re
import sys
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PLUMBING = ("_modidx", "__init__", "__main__", "warm", "launch", "template")


@lru_cache(maxsize=1)
def modules() -> dict[str, Path | None]:
    """Module name -> the notebook that exports it (None where it is written by hand), in reading order, hand-written ones last."""
    made = {}
    for notebook in sorted((ROOT / "nbs").rglob("*.ipynb")):
        cells = [] if "checkpoints" in str(notebook) else json.loads(notebook.read_text(encoding="utf-8"))["cells"][:2]
        found = re.search(r"#\| default_exp (\S+)", "\n".join("".join(cell["source"]) for cell in cells))
        if found:
            made[f"dgnb.{found[1]}"] = notebook
    files = [path.relative_to(ROOT).with_suffix("") for path in sorted((ROOT / "dgnb").rglob("*.py")) if path.stem not in PLUMBING]
    written = [".".join(file.parts) for file in files]
    return {name: made[name] for name in made if name in written} | {name: None for name in written if name not in made}


def import_all() -> None:
    """Import every module that the reference shows."""
    for name in modules():
        importlib.import_module(name)


def public(name: str) -> list[str]:
    """Names a module defines for others."""
    module = importlib.import_module(name)
    own = [n for n, value in vars(module).items() if not n.startswith("_") and getattr(value, "__module__", None) == name and callable(value)]
    return [n for n in getattr(module, "__all__", own) if n in own] or own


def literal(text: str) -> str:
    """Markdown with `code` as reStructuredText: code as literals, everything else as it is read."""
    parts = re.split(r"`([^`]+)`", text)
    plain = [re.sub(r"([*\\_|<>`\[\]])", r"\\\1", part) for part in parts[::2]]
    code = [f"\\ ``{part}``\\ " for part in parts[1::2]]
    return "".join(word for pair in zip(plain, [*code, ""]) for word in pair)


def docstring(app, what, name, obj, options, lines) -> None:
    """Mend a docstring and add what stands beside each argument."""
    own = [line for line in lines if line.strip()] and [literal(line.strip()) if line.strip() else "" for line in lines]
    if what == "class" and own and re.match(r"\w+\(.*\)$", lines[0].strip()):
        own = []  # a dataclass's docstring that only repeats its signature
    lines[:] = [*own, *([""] + arguments(obj) + [""] if what in ("class", "function", "method", "exception") else [])]


def arguments(obj) -> list[str]:
    """Fields for Sphinx from the comments beside arguments; none where the source has none."""
    from fastcore.docments import docments
    try:
        found = docments(obj, full=True)
    except Exception:  # a class or function without source of its own
        return []
    fields = [f":param {name}: {literal(' '.join(entry['docment'].split()))}" for name, entry in found.items() if name != "return" and entry.get("docment")]
    back = (found.get("return") or {}).get("docment")
    if back and (rest := re.search(r"\*\*(\w+),?[ ]*# *(.+)", inspect.getsource(obj))) and rest[2].strip() == back.strip():
        return [*fields, f":param {rest[1]}: {literal(back)}"]  # docments takes what stands beside **options for what is returned
    return fields + ([f":returns: {literal(' '.join(back.split()))}"] if back else [])


def page(name: str, notebook: Path | None) -> str:
    """A module's page."""
    rule = "=" * len(name)
    lesson = "" if notebook is None else f"Made by the lesson :doc:`/{notebook.relative_to(ROOT / 'nbs').with_suffix('').as_posix()}`, which explains it.\n\n"
    members = public(name)
    listed = " · ".join(f":py:obj:`{one} <{name}.{one}>`" for one in members)
    text = f"{name}\n{rule}\n\n{lesson}" + (f"{listed}\n\n" if members else "") + f".. automodule:: {name}\n"
    return text + (f"   :members: {', '.join(members)}\n   :undoc-members:\n" if members else "")


def names() -> dict[str, str]:
    """Name -> full name: short ones that only one module has and that no prose would use by chance, and all full ones, of members too."""
    found: dict[str, list[str]] = {}
    whole: list[str] = []
    for module in modules():
        for name in public(module):
            found.setdefault(name, []).append(f"{module}.{name}")
            thing = getattr(sys.modules[module], name)
            members = {*vars(thing), *getattr(thing, "__annotations__", {})} if isinstance(thing, type) else ()
            whole += [f"{module}.{name}", *(f"{module}.{name}.{member}" for member in members if not member.startswith("_"))]
    short = {name: full[0] for name, full in found.items() if len(full) == 1 and re.search(r"_|[a-z][A-Z]", name)}
    return {full: full for full in whole} | short


def setup(app) -> None:
    app.connect("autodoc-process-docstring", docstring)
