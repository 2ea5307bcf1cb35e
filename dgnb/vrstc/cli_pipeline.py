"""The command `dgnb train vrstc`: the whole method from raw tracklets to scores. Torch is imported when it is needed."""
from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Optional

import typer

from dgnb.cli_dgnet import say, train_app, warn
from dgnb.vrstc.cli_vrstc import open_walks, stoppable


@train_app.command("vrstc")
def train_vrstc(
    data: Annotated[str, typer.Option(metavar="FOLDER", help="a folder with person/tracklet/ folders of frames (or a known layout, or a synthetic video world)")],
    out: Annotated[Optional[Path], typer.Option(metavar="FOLDER", help="where runs are kept; default: dgnb's own folder")] = None,
    cameras: Annotated[Optional[Path], typer.Option(metavar="CSV", help="of a folder: columns path (of a tracklet), camera and optionally split")] = None,
    partial: Annotated[bool, typer.Option("--partial", help="go without empty folders, and without tracklets that the CSV does not list")] = False,
    scale: Annotated[str, typer.Option(help="size of networks and schedules: smoke, laptop, gpu or paper")] = "laptop",
    variant: Annotated[str, typer.Option(help="of STCnet: spatial, ae, tae, temporal, local, global or full (rows of VRSTC's Table 1)")] = "full",
    threshold: Annotated[Optional[float], typer.Option(help="repair bands that score below this [default: the scale's rule]")] = None,
    share: Annotated[Optional[float], typer.Option(min=0.0, max=1.0, help="instead: repair this share of all bands, the lowest ones")] = None,
    truth: Annotated[bool, typer.Option("--truth", help="instead: repair what is really hidden (synthetic worlds only)")] = False,
    discard: Annotated[bool, typer.Option("--discard", help="also train and test without flagged frames")] = False,
    folds: Annotated[int, typer.Option(help="repair training people by painters that never met them: parts of the people, 2 or more; 0: one painter for all, as in the paper")] = 0,
    grid: Annotated[bool, typer.Option(help="also test each network on the other kinds of video")] = True,
    seed: Annotated[int, typer.Option(help="of every stage; the split of a folder stays")] = 0,
    threads: Annotated[Optional[int], typer.Option(min=1, help="CPU threads; default: the cores there are, at most 8")] = None,
):
    """VRSTC from end to end: pretrain, localize, train STCnet, repair, train again; raw video beside it. Interrupted, the same command goes on where it was."""
    if sum((threshold is not None, share is not None, truth)) > 1:
        raise ValueError("give one of --threshold, --share and --truth")
    from dgnb.run_store import RunStore
    from dgnb.runner import cores
    from dgnb.vrstc.pipeline import VRSTCPlan, compare_runs, run_vrstc, stages
    rule = "truth" if truth else "threshold" if threshold is not None else "quantile" if share is not None else ""
    plan = VRSTCPlan(scale, seed, variant, rule, threshold if threshold is not None else share, folds=folds)
    source = open_walks(data, cameras, partial, scale, plan.first.size)
    if not source.query:
        raise ValueError(f"{source.name} has nobody to look for: repaired video is worth what it finds, so tracklets of at least two cameras are needed (--cameras CSV)")
    if truth and not hasattr(source, "occlusions"):
        raise ValueError(f"{source.name} has no exact masks: --truth is for synthetic worlds")
    plan = fitted(plan, source)
    for line in source.notes:
        warn(line)
    say(f"{source.name}: {source.num_train_identities} identities and {len(source.train):,} tracklets to train on, {len(source.query):,} queries")
    for name, spec in stages(plan, source).items():
        if name != "discarded" or discard:
            say(f"{name:<10} {spec.name}")
    os.environ["DGNB_THREADS"] = str(threads or os.environ.get("DGNB_THREADS") or min(8, cores()))
    kinds = ("raw", "discarded", "repaired") if discard else ("raw", "repaired")
    store = RunStore(local=out.expanduser() if out else None)
    runs = stoppable(lambda: run_vrstc(plan, source, store, kinds=kinds, cross=grid))
    report(runs, compare_runs(runs))


def fitted(plan, source):
    """The plan with what a set of one's own has: batches that its tracklets fill, unoccluded frames by scores where there are no masks. ValueError for too few people."""
    from dataclasses import replace
    from dgnb.vrstc.own_videos import own_guider, own_settings
    from dgnb.vrstc.pipeline import WithoutFold
    sets = [WithoutFold(source, fold, plan.folds, plan.seed) for fold in range(plan.folds)] or [source]
    batch = min(min(plan.first.batch, own_guider(each, plan.completion).batch) for each in sets)
    wanted = own_settings(source, plan.scale, plan.variant, **plan.stcnet)
    clean = {name: getattr(wanted, name) for name in ("clean", "rule", "tau") if getattr(wanted, name) != getattr(plan.completion, name)}
    return replace(plan, reid=dict(plan.reid) | ({"batch": batch} if batch < plan.first.batch else {}), stcnet=dict(plan.stcnet) | clean)


def report(runs, table) -> None:
    """What was flagged and repaired, and what it is worth."""
    found = runs["repairs"].metrics
    say(f"flagged {found['bands']:.1%} of bands, {found['frames']:.1%} of frames; {', '.join(f'{count:,} {how}' for how, count in found['how'].items()) or 'nothing to repair'}")
    for name, row in table.iterrows():
        gain = "" if name == "raw" else f"  {row.gain:+.1f} ({row.interval}) to raw: {row.verdict}"
        say(f"{name:<32} mAP {row.mAP:5.1f}  rank-1 {row['rank-1']:5.1f}{gain}")
    say(f"the runs are in {runs['raw'].folder.parent}")
