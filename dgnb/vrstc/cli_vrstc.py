"""The commands of the VRSTC chapter: localize, repair, train stcnet. Torch is imported when a command needs it."""
from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Annotated, Optional

import typer

from dgnb.cli_dgnet import parse_size, say, train_app, warn, warn_of_precision

Tracklets = Annotated[Path, typer.Argument(metavar="TRACKLETS", help="frames of one tracklet, folders of tracklets, or a set in a known layout")]
PartialOption = Annotated[bool, typer.Option("--partial", help="go without folders that hold no frame")]
ScorerOption = Annotated[Optional[str], typer.Option("--scorer", metavar="RUN", help="folder or name of a video re-ID run; default: the network that guided the painter, which comes with dgnb for the default painter")]
ThresholdOption = Annotated[Optional[float], typer.Option(help="flag bands that score below this")]
ShareOption = Annotated[Optional[float], typer.Option(min=0.0, max=1.0, help="instead: flag this share of all bands, the lowest ones [default: 0.1]")]


def chosen_rule(threshold: float | None, share: float | None):
    """The rule of the options; a ValueError for both."""
    from dgnb.vrstc.localizer import Rule
    if threshold is not None and share is not None:
        raise ValueError("give either --threshold or --share")
    return Rule("threshold", threshold) if threshold is not None else Rule("quantile", 0.1 if share is None else share)


def opened(tracklets: Path, partial: bool):
    """The tracklets, and what a reader of the result must know about them."""
    from dgnb.vrstc.own_videos import open_tracklets
    from dgnb.vrstc.repair import home_splits
    source = open_tracklets(tracklets, strict=not partial)
    for line in source.notes:
        warn(line)
    records = home_splits(source)
    say(f"{source.name}: {len(records):,} tracklet{'' if len(records) == 1 else 's'}, {sum(r.length for r in records):,} frames")
    return source


def warn_of(run) -> None:
    """Say that weights are synthetic, where they are."""
    from dgnb.vrstc.own_videos import SYNTHETIC, is_synthetic
    warn(SYNTHETIC if is_synthetic(run) else "")


def warn_of_rule(rule) -> None:
    """Say what a quantile does."""
    if rule.kind == "quantile":
        warn(f"the lowest {rule.value:.0%} of each band's scores are flagged, whether or not anybody is hidden: look at the pictures of dgnb localize, then give --threshold")


def localize(
    tracklets: Tracklets,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="gets scores.csv and a picture of each tracklet's scores over time")] = Path("localized"),
    scorer: ScorerOption = None,
    threshold: ThresholdOption = None,
    share: ShareOption = None,
    pictures: Annotated[int, typer.Option(min=0, help="of how many tracklets at most, those with most flags first")] = 20,
    partial: PartialOption = False,
):
    """Score the upper, middle and lower band of every frame, and flag those unlike the rest of their tracklet."""
    rule = chosen_rule(threshold, share)
    from dgnb.vrstc.own_videos import localize_tracklets, open_scorer
    from dgnb.vrstc.score_tables import flag_report
    source, run = opened(tracklets, partial), open_scorer(scorer)
    table = stoppable(lambda: localize_tracklets(source, out, run, rule, pictures))
    warn_of(run)
    warn_of_rule(rule)
    found = flag_report(table)
    say(f"flagged {found['bands']:.1%} of bands, {found['frames']:.1%} of frames, in {found['tracklets']:.1%} of tracklets; "
        f"{found['without an unoccluded frame']} without an unoccluded frame")
    drawn = min(pictures, table.tracklet.nunique())
    say(f"wrote {out / 'scores.csv'}" + (f" and {drawn} picture{'' if drawn == 1 else 's'} beside it" if drawn else ""))
    say(f"next: {shlex.join(['dgnb', 'repair', str(tracklets), '-o', 'FOLDER', '--scores', str(out / 'scores.csv')])}")


def repair(
    tracklets: Tracklets,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="gets the tracklets under their names, and repairs.csv")],
    model: Annotated[Optional[str], typer.Option("--model", metavar="RUN", help="folder or name of an STCnet run, as `dgnb train stcnet` makes it; default: one of mannequin-mars at laptop scale, which comes with dgnb and has seen rendered people only")] = None,
    scorer: ScorerOption = None,
    scores: Annotated[Optional[Path], typer.Option(metavar="CSV", help="instead of a scorer: flags as `dgnb localize` wrote them, or corrected by hand")] = None,
    threshold: ThresholdOption = None,
    share: ShareOption = None,
    partial: PartialOption = False,
):
    """Paint flagged bands with STCnet; everything else stays as it is. Interrupted, the same command goes on where it was."""
    rule = chosen_rule(threshold, share)
    if scores and (scorer or threshold is not None or share is not None):
        raise ValueError("--scores brings its own flags: leave out --scorer, --threshold and --share")
    from dgnb.vrstc.own_videos import open_painter, repair_tracklets
    source, run = opened(tracklets, partial), open_painter(model)
    report = stoppable(lambda: repair_tracklets(source, out, run, scorer, scores, rule))
    warn_of(run)
    if not scores:
        warn_of_rule(rule)
    left = report.how.str.startswith("left")
    say(f"repaired {int((~left).sum()):,} frames of {report.loc[~left, 'tracklet'].nunique():,} tracklets; {int(left.sum()):,} flagged frames were left as they are"
        + "".join(f", {count:,} with {reason.removeprefix('left: ')}" for reason, count in report.how[left].value_counts().items()))
    say(f"wrote {out}; {out / 'repairs.csv'} has a line for each flagged frame")


def stoppable(action):
    """Run something that can be gone on with."""
    try:
        return action()
    except KeyboardInterrupt:
        say("stopped; the same command goes on from here")
        raise typer.Exit(130) from None


@train_app.command("stcnet")
def train_stcnet(
    data: Annotated[str, typer.Option(metavar="FOLDER", help="a folder with person/tracklet/ folders of frames (or a known layout, or a synthetic video world)")],
    out: Annotated[Optional[Path], typer.Option(metavar="FOLDER", help="where runs are kept; default: dgnb's own folder")] = None,
    cameras: Annotated[Optional[Path], typer.Option(metavar="CSV", help="of a folder: columns path (of a tracklet), camera and optionally split")] = None,
    partial: Annotated[bool, typer.Option("--partial", help="go without empty folders, and without tracklets that the CSV does not list")] = False,
    scale: Annotated[str, typer.Option(help="size of networks and schedule: smoke, laptop, gpu or paper")] = "laptop",
    variant: Annotated[str, typer.Option(help="spatial, ae, tae, temporal, local, global or full (rows of VRSTC's Table 1)")] = "full",
    size: Annotated[str, typer.Option(metavar="HEIGHTxWIDTH", help="multiples of 4, e.g. 128x64; default: the scale's")] = "",
    iterations: Annotated[Optional[int], typer.Option(min=1, help="default: the scale's")] = None,
    seed: Annotated[int, typer.Option(help="of weights, order and holes; the split of a folder stays")] = 0,
    guider: Annotated[Optional[str], typer.Option(metavar="RUN", help="folder or name of a video re-ID run on the same data; default: trained first")] = None,
    devices: Annotated[Optional[int], typer.Option(min=1, help="GPUs (or processes) that train together")] = None,
    precision: Annotated[Optional[str], typer.Option(help="32-true, bf16-mixed or 16-mixed")] = None,
    threads: Annotated[Optional[int], typer.Option(min=1, help="CPU threads of each process; default: the cores there are, at most 8")] = None,
):
    """Train a guider, then an STCnet, on tracklets of people. Interrupted, the same command goes on where it was."""
    from dgnb.runner import cores
    from dgnb.vrstc.own_videos import own_settings, train_tracklets
    source = open_walks(data, cameras, partial, scale, parse_size(size))
    settings = own_settings(source, scale, variant, parse_size(size), iterations)
    for line in source.notes:
        warn(line)
    say(f"{source.name}: {source.num_train_identities} identities, {len(source.train):,} tracklets and {sum(r.length for r in source.train):,} frames to train on")
    say(f"{scale}, variant {variant}, {settings.height}x{settings.width}, {settings.iterations:,} iterations of {settings.batch} frames")
    chosen = {"DEVICES": devices, "PRECISION": precision, "THREADS": threads or os.environ.get("DGNB_THREADS") or max(1, min(8, cores() // (devices or 1)))}
    os.environ.update({f"DGNB_{name}": str(value) for name, value in chosen.items() if value})
    run = stoppable(lambda: train_tracklets(source, settings, seed, out, guider))
    warn_of_precision(run)
    report(run)


def open_walks(data: str, cameras: Path | None, partial: bool, scale: str, size: tuple[int, int] | None):
    """The set to train on: a folder in any known layout, or a synthetic video world of the right size."""
    from dgnb.video_sets import guess_video_layout, open_video_set
    from dgnb.video_worlds import VIDEO_SCALES, VIDEO_WORLDS
    from dgnb.vrstc.step import stcnet_settings
    if data in VIDEO_WORLDS:
        if cameras or partial:
            raise ValueError(f"{data} is a synthetic world: it has its cameras and is whole; leave out --cameras and --partial")
        return open_video_set(data, scale=scale if scale in VIDEO_SCALES else "gpu", size=size or stcnet_settings(scale).size)
    folder = Path(data).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}; give a folder of person/tracklet/ folders, or one of {', '.join(VIDEO_WORLDS)}")
    if cameras and guess_video_layout(folder) not in ("", "tracklets"):
        raise ValueError(f"{folder} is a set with cameras of its own: leave out --cameras")
    options = {"cameras": cameras} if cameras else {}
    if guess_video_layout(folder):
        return open_video_set(folder, strict=not partial, **options)
    from dgnb.own_tracklets import read_tracklet_set
    return read_tracklet_set(folder, cameras, strict=not partial)


def report(run) -> None:
    """What was made, how good it is, and what to do with it."""
    found = run.metrics
    for name, title in (("stcnet", "STCnet"), ("coarse", "its first stage alone"), ("neighbour_copy", "neighbour copied"), ("mean_band", "mean of the tracklet")):
        if f"practice_{name}_psnr" in found:
            say(f"{title:<22} PSNR {found[f'practice_{name}_psnr']:.1f} dB  SSIM {found[f'practice_{name}_ssim']:.2f}  in the hole, {found['practice_cases']} unseen frames")
    if found.get("practice_stcnet_psnr", 0) < found.get("practice_neighbour_copy_psnr", 0):
        warn("a copied neighbour is closer to the truth than what this network paints: train for longer, or on more tracklets")
    say(f"made {run.folder} in {run.record['seconds'] / 60:.1f} minutes")
    say(f"next: dgnb repair TRACKLETS -o FOLDER --model {shlex.quote(str(run.folder))}")


def add_commands(app: typer.Typer) -> None:
    """Put the chapter's commands into the `dgnb` command (`train stcnet` is there once this module is imported)."""
    app.command("localize")(localize)
    app.command("repair")(repair)
