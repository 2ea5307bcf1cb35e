"""The site: notebooks, generated pages and the reference as static HTML in `_site/`, searchable, with no need of a network.

`build.py` writes what Sphinx reads to `_docs/`, lets it build (warnings are errors), and does nothing when nothing has changed.
"""
from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
WORK, SITE = ROOT / "_docs", ROOT / "_site"
SOURCES, BUILT = WORK / "source", WORK / "built" / "html"
sys.path[:0] = [str(HERE.parent), str(ROOT)]
os.environ.setdefault("MPLBACKEND", "Agg")
INPUTS = ("nbs/**/*.ipynb", "nbs/**/*.md", "nbs/experiments.yaml", "figures/*/*", "dgnb/**/*.py", "tools/website/*.py", "tools/website/static/*",
          "tools/website/vendor/*/*", "settings.ini", "benchmarks/results.md", "CONTRIBUTING.md", "CHANGELOG.md")


def fingerprint() -> str:
    """A hash of everything the site is made from."""
    found = sorted({path for pattern in INPUTS for path in ROOT.glob(pattern) if path.is_file() and "checkpoints" not in str(path)})
    return hashlib.sha256("".join(f"{path.relative_to(ROOT)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n" for path in found).encode()).hexdigest()


def write(path: Path, data: str | bytes) -> None:
    """Write a file where it differs, so that Sphinx reads again only what has changed."""
    data = data.encode() if isinstance(data, str) else data
    if not path.exists() or path.read_bytes() != data:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def sources() -> dict[str, str | bytes]:
    """What Sphinx reads: path from the source folder -> content."""
    from dgnb.figures import repaint
    from dgnb.results import shipped_records
    from website import api, pages, verdicts
    from website import notebooks as nb
    names, made = api.names(), dict(pages.everything())
    for path in nb.all_notebooks():
        place = path.relative_to(nb.NBS).as_posix()
        made[place] = nb.page(path, names, pages.contents() if place == "index.ipynb" else "")
        made[f"_extra/notebooks/{place}"] = nb.copy(path)
    texts = {path.relative_to(ROOT).as_posix(): path for path in [*nb.NBS.rglob("*.md"), ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / "benchmarks/results.md"]}
    made |= {nb.site_path(name): nb.markdown(path.read_text(encoding="utf-8"), name, names) for name, path in texts.items() if "checkpoints" not in name}
    made |= {name: verdicts.shown(text, shipped_records()) for name, text in made.items() if name.startswith("pages/")}
    made |= {f"_extra/{path.relative_to(ROOT).as_posix()}": path.read_bytes() for path in (ROOT / "figures").rglob("*") if path.is_file()}
    made |= {f"_extra/{path.relative_to(ROOT).as_posix()[:-4]}-dark.svg": repaint(path.read_text(encoding="utf-8")).encode()
             for path in (ROOT / "figures").rglob("*.svg") if pages.has_dark(path)}
    return made


def prepare() -> int:
    """Bring the source folder up to date and take out what is no longer there; returns the number of pages."""
    made = sources()
    for path in SOURCES.rglob("*"):
        if path.is_file() and path.relative_to(SOURCES).as_posix() not in made:
            path.unlink()
    for name, data in made.items():
        write(SOURCES / name, data)
    return sum(not name.startswith("_extra") for name in made)


def stale(folder: Path) -> list[Path]:
    """Built pages whose source is gone."""
    own = ("genindex.html", "search.html", "py-modindex.html")
    pages = [path for path in folder.rglob("*.html") if path.name not in own]
    return [path for path in pages if not any((SOURCES / path.relative_to(folder)).with_suffix(kind).exists() for kind in (".ipynb", ".md", ".rst"))]


def sphinx(jobs: str) -> int:
    """Run Sphinx in this process, which has imported the package already; its exit status."""
    from sphinx.cmd.build import main
    options = ["-b", "html", "-W", "--keep-going", "-q", "-j", jobs, "-c", HERE, "-d", WORK / "doctrees", "-D", f"html_extra_path={SOURCES / '_extra'}"]
    return main([*map(str, options), str(SOURCES), str(BUILT)])


def mirror(source: Path, target: Path) -> None:
    """Make one folder like another, touching only what differs."""
    wanted = {path.relative_to(source): path for path in source.rglob("*") if path.is_file()}
    for path in [path for path in target.rglob("*") if path.is_file() and path.relative_to(target) not in wanted]:
        path.unlink()
    for name, path in wanted.items():
        there = target / name
        if not there.exists() or there.stat().st_size != path.stat().st_size or there.stat().st_mtime_ns != path.stat().st_mtime_ns:
            there.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, there)


def build(jobs: str = "auto", force: bool = False) -> int:
    """Build the site unless it is there and fresh; returns an exit status."""
    started, stamp, now, begun = time.perf_counter(), WORK / "made-from", fingerprint(), WORK / "begun"
    if not force and stamp.exists() and stamp.read_text() == now and (SITE / "index.html").exists():
        print(f"the site is fresh: {SITE / 'index.html'}")
        return 0
    if force or begun.exists():  # a build that was cut off leaves half-made pages
        shutil.rmtree(WORK, ignore_errors=True)
    stamp.unlink(missing_ok=True)
    WORK.mkdir(exist_ok=True)
    begun.touch()
    count = prepare()
    from website.notebooks import DEAD
    print("\n".join(DEAD), file=sys.stderr, end="\n" if DEAD else "")
    code = sphinx(jobs) or bool(DEAD)
    for path in stale(BUILT):
        path.unlink()
    (BUILT / ".nojekyll").touch()  # else GitHub's pages leave out folders that begin with an underscore
    mirror(BUILT, SITE)
    begun.unlink()
    if not code:
        stamp.write_text(now)
    print(f"{count} pages in {time.perf_counter() - started:.0f} s: {SITE / 'index.html'}" + (" (with the complaints above)" if code else ""))
    return int(code)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", default="auto", help="processes side by side")
    parser.add_argument("--force", action="store_true", help="from nothing")
    options = parser.parse_args()
    sys.exit(build(options.jobs, options.force))
