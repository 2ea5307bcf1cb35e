"""The `dgnb` command. Modules that import torch are imported when a command needs them, so that `dgnb list` answers at once."""
from __future__ import annotations

import os
import sys
import textwrap
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Optional

import typer

from dgnb.catalogue import SCALE_NAMES, load_catalogue, one_of
from dgnb.cli_dgnet import add_commands, parse_size, say
from dgnb.vrstc import cli_pipeline  # noqa: F401  (registers `train vrstc`)
from dgnb.vrstc.cli_vrstc import add_commands as add_vrstc_commands

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None,
                  context_settings={"max_content_width": 120}, help="Regenerate every table and figure of DG-Net and VRSTC, on bundled synthetic people or on real data.")
data_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Write synthetic data sets to disk, check data sets on disk.")
app.add_typer(data_app, name="data")
ItemName = Annotated[str, typer.Argument(metavar="ITEM", help="an id that `dgnb list` shows")]
ScaleOption = Annotated[str, typer.Option(help="smoke, laptop, gpu or paper")]


def columns(rows: list[list[str]], widest: int = 100) -> list[str]:
    """Rows as aligned lines; the last column is not padded."""
    widths = [min(widest, max(len(row[i]) for row in rows)) for i in range(len(rows[0]) - 1)] if rows else []
    return ["  ".join([*(cell.ljust(width) for cell, width in zip(row, widths)), row[-1]]).rstrip() for row in rows]


@app.command("list")
def list_items(
    item: Annotated[Optional[str], typer.Argument(metavar="ITEM", help="one item: what it claims, and the parameters that `dgnb run -p` changes")] = None,
    built: Annotated[bool, typer.Option("--built", help="only items that can be run")] = False,
    scale: Annotated[str, typer.Option(help="of the parameters of one item")] = "laptop",
):
    """All tables and figures: id, status, where in the paper, what it shows; of one item, its claims and its parameters."""
    if item:
        return _describe(load_catalogue()[item], one_of(scale, SCALE_NAMES, "scale"))
    items = [one for one in load_catalogue() if one.built or not built]
    short = lambda text: textwrap.shorten(text.split(". ")[0], 100, placeholder=" ...", break_on_hyphens=False)
    for line in columns([[one.id, one.status, one.kind, one.place.split(",")[0], short(one.caption)] for one in items]):
        say(line)


def _describe(item, scale: str) -> None:
    """What an item shows and claims, and what can be changed in it."""
    from dgnb.parameters import help_of, parameters_of
    say(f"{item.id}: {item.caption}")
    for line in columns([["claim", "", ""], *([f"  {claim.id}", claim.text, ""] for claim in item.claims)]) if item.claims else ():
        say(line)
    if not item.built or scale not in item.scales:
        return say(f"it is {item.status}" if not item.built else f"it has no {scale} scale")
    notebook = load_catalogue().notebook(item)
    values, words = {**parameters_of(notebook), **item.scales[scale].parameters}, help_of(notebook)
    rows = [[f"  {name}", repr(value), words.get(name, "")] for name, value in values.items() if name not in ("item", "scale")]
    for line in columns([[f"at {scale} scale, -p changes", "", ""], *rows]) if rows else ():
        say(line)
    say(f"notebook {item.notebook}")


@app.command()
def run(
    item: Annotated[list[str], typer.Argument(metavar="ITEM...|PAPER|all", help="ids that `dgnb list` shows, a paper (dgnet, vrstc, ours), or all")],
    scale: ScaleOption = "laptop",
    parameter: Annotated[Optional[list[str]], typer.Option("-p", "--parameter", metavar="NAME=VALUE", help="set a notebook parameter")] = None,
    train: Annotated[bool, typer.Option("--train", help="train runs that are missing")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="train all runs anew")] = False,
    ship: Annotated[bool, typer.Option("--ship", help="store the result in figures/ and in the notebook")] = False,
    stale: Annotated[bool, typer.Option("--stale", help="only items that are not fresh")] = False,
    workers: Annotated[int, typer.Option(min=0, help="notebooks side by side; 0 = as many as fit")] = 0,
    devices: Annotated[Optional[int], typer.Option(min=1, help="GPUs (or processes) that train one run together")] = None,
    nodes: Annotated[Optional[int], typer.Option(min=1, help="machines that train one run together")] = None,
    precision: Annotated[Optional[str], typer.Option(help="32-true, bf16-mixed or 16-mixed")] = None,
    data: Annotated[str, typer.Option(metavar="ROOT", help="folder that holds real data sets; -p worlds=[...] or -p world=... names which")] = "",
    dask: Annotated[str, typer.Option(metavar="ADDRESS", help="run on a Dask cluster")] = "",
    kernel: Annotated[bool, typer.Option("--kernel", help="a real Jupyter kernel for each notebook (slower)")] = False,
    plain: Annotated[bool, typer.Option("--plain", help="run the code without Jupyter packages; keeps no executed notebook")] = False,
):
    """Regenerate tables and figures. Trains nothing unless asked to; what was never trained is drawn as *not run*."""
    from dgnb.parameters import RunnerError, parameters_of
    from dgnb.runner import cores, plan
    overrides = dict(_pair(text) for text in parameter or [])
    if kernel and plain or ship and plain:
        raise RunnerError("--plain keeps no executed notebook: leave out --kernel and --ship")
    if ship:
        from dgnb.shipping import refuse_unshippable
        refuse_unshippable(scale)
    since = _since() if fresh else ""
    how = {"DGNB_TRAIN": "1" if train or fresh else "", "DGNB_FRESH": since, "DGNB_DEVICES": devices, "DGNB_NODES": nodes,
           "DGNB_PRECISION": precision}
    how = {name: str(value) for name, value in how.items() if value is not None}
    catalogue = load_catalogue()
    chosen = {one.id: one for name in item for one in catalogue.select(name, scale)}
    items = [one for one in chosen.values() if not stale or not _is_fresh(one, scale)]
    if not plain and not dask and not all(map(find_spec, ("papermill", "nbformat", "ipykernel"))):
        raise RunnerError("executing notebooks needs the notebooks extra: pip install 'dgnb[notebooks]', or add --plain to do without")
    workers = workers or (1 if scale in ("gpu", "paper") else max(1, min(cores(), len(items), 4)))
    options = dict(mode="kernel" if kernel else "plain" if plain else "warm", show=train or fresh,
                   threads=int(os.environ.get("OMP_NUM_THREADS") or max(1, cores() // workers)))
    takes = lambda one: one.id in item or "data" in parameters_of(catalogue.notebook(one))  # of a whole paper, tables of layers need no set
    jobs = [plan(one, scale, overrides, how, data if takes(one) else "", **options) for one in items]
    if fresh:
        say(f"trains again every run made before now; to go on after an interruption: DGNB_FRESH={since} and the same command")
    raise typer.Exit(_run(jobs, workers, dask, ship))


def _since() -> str:
    """The Unix time before which runs are trained again: now, or that of an interrupted command that goes on."""
    given = os.environ.get("DGNB_FRESH", "")
    return given if given.replace(".", "", 1).isdigit() and float(given) > 1 else repr(time.time())


def _pair(text: str) -> tuple[str, str]:
    """("name", "value") of "name=value"."""
    from dgnb.parameters import RunnerError
    name, equals, value = text.partition("=")
    if not equals or not name.strip().isidentifier():
        raise RunnerError(f"-p takes name=value, found {text!r}")
    return name.strip(), value


def _is_fresh(item, scale: str) -> bool:
    from dgnb.freshness import states
    return any(state.state == "fresh" and state.place == "local" for state in states(item, (scale,)))


def _run(jobs, workers: int, dask: str, ship: bool) -> int:
    """Execute, report each item in a line, ship what went well; the exit status."""
    if dask:
        from dgnb.dask_runner import run_on_dask as execute_all
    else:
        from dgnb.runner import run_jobs as execute_all
    from dgnb.runner import STOPPED
    started, count = time.time(), [0]

    def report(outcome) -> None:
        count[0] += 1
        what = "failed" if not outcome.ok else "drawn" + (f" ({outcome.note})" if outcome.note else "")
        say(f"[{count[0]}/{len(jobs)}] {outcome.item} {outcome.scale}: {what} in {outcome.seconds:.1f} s")

    plural = lambda number, what: f"{number} {what}" + ("" if number == 1 else "s")
    say(f"{plural(len(jobs), 'item')}, {dask or plural(workers, 'worker')}")
    outcomes = execute_all(jobs, dask, report) if dask else execute_all(jobs, workers, report)
    by_item, failed = {job.item: job for job in jobs}, []
    for outcome in outcomes:
        if outcome.ok and ship:
            outcome = _shipped(by_item[outcome.item], outcome)
        failed += [] if outcome.ok else [outcome]
    for outcome in failed:
        say(f"failed: {outcome.item} {outcome.scale}: {outcome.cause}")
    done = [outcome for outcome in outcomes if outcome.ok]
    say(f"{len(done)} of {len(jobs)} done in {time.time() - started:.0f} s" + (f", in {Path(done[0].folder).parents[1]}" if done else ""))
    for outcome in done:
        if Path(outcome.folder).name != outcome.scale:
            say(f"{outcome.item}: with changed parameters, in {outcome.folder}")
    if len(done) > 1:
        _overview([Path(outcome.folder) for outcome in done], done[0].scale)
    stopped = len(outcomes) < len(jobs) or any(outcome.cause == STOPPED for outcome in outcomes)
    return 130 if stopped else 1 if failed else 0


def _overview(folders: list[Path], scale: str) -> None:
    """Print every claim of some results, and write the page."""
    from dgnb.overview import claim_lines, claims_in, counts, write_overview
    for line in columns(claim_lines(folders)):
        say(line)
    if page := write_overview(folders, scale):
        say(f"{counts(list(claims_in(folders)))}; with links, and with all items made at this scale: {page}")


def _shipped(job, outcome):
    """The outcome after shipping; a failure to ship is the item's failure."""
    from dataclasses import replace

    from dgnb.shipping import ship
    try:
        say(f"shipped {job.item} to {ship(job)}")
    except (ValueError, OSError) as error:
        return replace(outcome, ok=False, cause=f"not shipped: {error}")
    return outcome


@app.command()
def status(
    item: Annotated[Optional[str], typer.Argument(metavar="ITEM", help="one item only")] = None,
    cost: Annotated[bool, typer.Option("--cost", help="minutes from nothing, at each scale")] = False,
    scale: Annotated[str, typer.Option(help="one scale only")] = "",
):
    """What is fresh, stale, missing, failed or not run, and why; with --cost how many minutes everything takes."""
    from dgnb.freshness import states
    catalogue = load_catalogue()
    items = [catalogue[item]] if item else list(catalogue)
    if cost:
        return _cost(items)
    scales = (one_of(scale, SCALE_NAMES, "scale"),) if scale else SCALE_NAMES
    found = [state for one in items for state in states(one, scales)]
    seconds = lambda s: "" if s.seconds is None else f"{s.seconds:.1f} s"
    for line in columns([["item", "scale", "where", "state", "took", "why"], *([s.item, s.scale, s.place, s.state, seconds(s), s.why] for s in found)]):
        say(line)


def _cost(items) -> None:
    """Minutes of each built item at each scale, measured where it was shipped, and their sums with each run counted once; what is not known is a question mark."""
    from dgnb.costs import minutes_of, minutes_together
    show = lambda minutes: "?" if minutes is None else f"{max(minutes, 0.1):.1f}".removesuffix(".0")
    built = [item for item in items if item.built]
    rows = [["minutes from nothing", *SCALE_NAMES, ""]]
    rows += [[item.id, *(show(minutes_of(item, name)) if item.scales.get(name) else "-" for name in SCALE_NAMES), ""] for item in built]
    rows += [["all that is known, each run once", *(show(minutes_together(built, name)) for name in SCALE_NAMES), ""]]
    for line in columns(rows):
        say(line)
    planned = len(items) - len(built)
    say(f"{planned} planned item{' has' if planned == 1 else 's have'} no cost yet" if planned else "of what was shipped, the time its runs took on one core, and not of runs that nobody has made; of all else, what the catalogue says")


@data_app.command("make")
def data_make(
    world: Annotated[str, typer.Argument(help="a synthetic world, e.g. mannequin-market or mannequin-mars")],
    folder: Annotated[Path, typer.Argument(help="where to write it")],
    scale: ScaleOption = "smoke",
    seed: Annotated[int, typer.Option(help="another world of the same kind")] = 0,
    size: Annotated[str, typer.Option(metavar="HEIGHTxWIDTH", help="image size in pixels, e.g. 128x64")] = "",
):
    """Write a synthetic world in the official layout of the set it stands in for, so that any re-ID software reads it."""
    one_of(scale, SCALE_NAMES, "scale")
    from dgnb.image_sets import write_image_set
    from dgnb.video_files import write_video_set
    from dgnb.video_worlds import VIDEO_WORLDS, make_video_world
    from dgnb.worlds import WORLDS, make_world
    film = one_of(world, (*WORLDS, *VIDEO_WORLDS), "world") in VIDEO_WORLDS
    pixels = parse_size(size)
    made = (make_video_world if film else make_world)(world, scale=scale, seed=seed, **({"size": pixels} if pixels else {}))
    (write_video_set if film else write_image_set)(made, folder)
    say(f"{made.name}: {len(made.train)} train, {len(made.query)} query, {len(made.gallery)} gallery {'tracklets' if film else 'images'} in {folder}")


@data_app.command("check")
def data_check(
    where: Annotated[str, typer.Argument(metavar="NAME|FOLDER", help="a folder, or the name of a world or of a set")],
    root: Annotated[Optional[Path], typer.Argument(metavar="[FOLDER]", help="the folder to check, of a set or a written world that is called by name")] = None,
    images: Annotated[bool, typer.Option(help="decode every image as well")] = True,
    cameras: Annotated[Optional[Path], typer.Option(metavar="CSV", help="of a folder of your own: columns path, camera and optionally split")] = None,
):
    """Read a data set, compare its counts with the published ones, and name what is missing or damaged."""
    from dgnb.image_sets import LAYOUTS, check_report, format_report, open_set
    from dgnb.video_sets import VIDEO_LAYOUTS, format_video_report, is_video, open_video_set, video_report
    from dgnb.video_worlds import VIDEO_WORLDS
    from dgnb.worlds import WORLDS
    if root is None and Path(where).is_dir():
        where = os.path.join(os.curdir, where)  # a folder may be called as a set is: what lies there is meant
    if root is None and where in (*LAYOUTS, *VIDEO_LAYOUTS, "folder", "tracklets"):
        raise ValueError(f"{where} is not part of this package: say where it lies, dgnb data check {where} FOLDER")
    synthetic = where in (*WORLDS, *VIDEO_WORLDS) and root is None
    if synthetic and cameras:
        raise ValueError(f"{where} is a synthetic world and has its cameras: leave out --cameras")
    options = {"scale": "smoke"} if synthetic else {"strict": False, **({"cameras": cameras} if cameras else {})}
    if is_video(where):
        report = video_report(open_video_set(where, root, **options), frames=images)
        say(format_video_report(report))
    else:
        report = check_report(open_set(where, root, **options), images=images)
        say(format_report(report))
    raise typer.Exit(1 if report["differences"] or report["problems"] else 0)


@app.command()
def evaluate(
    features: Annotated[Path, typer.Option(metavar="F.npz", help="query, gallery (features), query_ids, gallery_ids, and query_cameras, gallery_cameras or neither")],
    metric: Annotated[str, typer.Option(help="cosine, euclidean or dot")] = "cosine",
    unmatched: Annotated[str, typer.Option(help="queries without a match: skip, or count as 0")] = "skip",
    camera_rule: Annotated[bool, typer.Option(help="leave out the same person in the same camera")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
):
    """Rank anyone's features: CMC, mAP by both rules of average precision, mINP, and the rules they were made under."""
    import json

    from dgnb.retrieval import evaluate_retrieval, load_features
    found = evaluate_retrieval(**load_features(features), metric=metric, unmatched=unmatched, camera_rule=camera_rule).to_dict()
    if as_json:
        return say(json.dumps(found, indent=1))
    names = {"rank1": "rank-1", "rank5": "rank-5", "rank10": "rank-10", "map_step": "mAP, step rule", "map_trapezoid": "mAP, trapezoid rule", "minp": "mINP"}
    for line in columns([[title, f"{found[name]:.2%}"] for name, title in names.items()]):
        say(line)
    say(f"{found['counted']} of {found['queries']} queries counted; {found['rules']}")


@app.command()
def verify(
    item: Annotated[Optional[str], typer.Argument(metavar="ITEM", help="one item only; else all that were shipped")] = None,
    only: Annotated[str, typer.Option("--run", help="only runs whose name or key begins so")] = "",
    quick: Annotated[bool, typer.Option("--quick", help="only the run that took least time")] = False,
):
    """Train shipped runs again from nothing and compare their metrics with what was shipped."""
    from dgnb.results import shipped_records
    from dgnb.verify import verify as verify_items
    catalogue = load_catalogue()
    items = [catalogue[item]] if item else [catalogue[name] for name, record in shipped_records().items() if record["runs"]]
    raise typer.Exit(0 if verify_items(items, only, quick, say) else 1)


@app.command()
def new(item: ItemName):
    """Write a result notebook for an item from the template; never overwrites."""
    from dgnb.template import new_notebook
    say(f"wrote {new_notebook(load_catalogue()[item])}; set the item's notebook and status in the catalogue")


add_commands(app)
add_vrstc_commands(app)


def main() -> None:
    """Entry point: errors that a user can mend are one line; DGNB_DEBUG=1 shows where they came from."""
    try:
        app(standalone_mode=True)
    except (ValueError, OSError, RuntimeError, LookupError, ImportError) as error:
        if os.environ.get("DGNB_DEBUG"):
            raise
        print(f"dgnb: {_one_line(error)}", file=sys.stderr)
        sys.exit(2)


def _one_line(error: Exception) -> str:
    """The message; of an error that was not meant for a reader, its kind, and how to see where it came from."""
    text = " ".join(str(error).split())
    meant = type(error) not in (KeyError, IndexError, LookupError, RuntimeError, ModuleNotFoundError, UnicodeDecodeError)
    return text if meant and text else f"{type(error).__name__}: {text} (DGNB_DEBUG=1 shows where it came from)"


if __name__ == "__main__":
    main()
