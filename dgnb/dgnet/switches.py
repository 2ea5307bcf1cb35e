"""One thing changed at a time in DG-Net: the switches, the shortened trainings, and the run that measures one of them."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from dgnb.run_store import Run, RunContext, RunSpec, RunStore, RunStoreError, recipe
from dgnb.scales import choose
from dgnb.worlds import ReIDSet, World

from .joint import dgnet_spec
from .step import DGNetSettings, dgnet_settings
from .swaps import GARMENTS, examples, pack_examples, swaps_spec

__all__ = ["Switch", "SWITCHES", "REFERENCE", "switched_settings", "switch_spec", "measure_switch", "switch_pictures"]

SWITCH_VERSION = 1
REFERENCE = "released"  # the row with which every other one is compared
FEATURES = ("prim", "fine", "both")


@dataclass(frozen=True)
class Switch:
    """What one row changes against the released recipe."""
    text: str  # what is changed, in words
    changes: Mapping = field(default_factory=dict)  # fields of `DGNetSettings` or of `Recipe`
    variant: str = "released"  # one of `RECIPES`


SWITCHES: dict[str, Switch] = {
    REFERENCE: Switch("as released"),
    "static": Switch("soft label: all mass on who lent the clothes, whatever the teacher sees", {"teacher_style": "static"}),
    "pseudo": Switch("soft label: all mass on the teacher's first choice", {"teacher_style": "pseudo"}),
    "lsro": Switch("soft label: the same for everybody", {"teacher_style": "lsro"}),
    "two-label": Switch("soft label: on the two donors only", {"teacher_style": "two-label"}),
    "batch-teacher": Switch("the teacher normalises by its batch", {"teacher_statistics": "batch"}),
    "no-feed": Switch("nothing painted is fed back", {"feed": "off"}),
    "feed-attached": Switch("fed pictures teach the painter too", {"feed": "attached"}),
    "code-attached": Switch("the painter's gradient reaches the appearance encoder", {"detach_code": False}),
    "code1-frozen": Switch("L_code1 teaches the painter", {"code1": "frozen"}),
    "code1-live": Switch("L_code1 teaches painter and encoder", {"code1": "live"}),
    "judge-live": Switch("L_id^c trains its judge too", {"judge": "live"}),
    "no-identity": Switch("without L_id^c", {"identity": False}),
    "no-cycle": Switch("without the image cycle", {"cycle": 0.0}),
    "colour": Switch("structure read from colour, not grey", {"structure_inputs": 3}),
    "one-stripe": Switch("appearance code of one stripe", {"parts": 1}),
    "two-stripes": Switch("appearance code of two stripes", {"parts": 2}),
    "log": Switch("GAN loss with logarithms, as printed", {"gan": "log"}),
    "hinge": Switch("GAN loss with hinges", {"gan": "hinge"}),
    "no-r1": Switch("without the discriminator's gradient penalty", {"r1": 0.0}),
    "no-warm-up": Switch("late losses from the start", {"warmup_start": 0}),
    "apart": Switch("batch normalisation of each batch alone, as released for large batches", {"together": False}),
    "paper": Switch("every gradient that the equations imply", variant="paper"),
}


def switched_settings(
    row: str,  # one of `SWITCHES`
    scale: str = "smoke",  # one of `SCALES`
    length: float = 1.0,  # of the training, as a share of the scale's; all schedules shrink with it
    **own,  # further settings of every row, such as weights
) -> DGNetSettings:
    """Settings of a row; ValueError for a row that is not there."""
    one, whole = SWITCHES[choose(row, SWITCHES, "switch")], dgnet_settings(scale, **own)
    times = {name: max(1, round(length * getattr(whole, name))) for name in ("iterations", "warmup_start")}
    return dgnet_settings(scale, one.variant, **times | {"warmup_slope": min(1.0, whole.warmup_slope / length)} | own | dict(one.changes))


def switch_spec(
    people: ReIDSet,  # what to train on; on a world its swaps are measured too
    settings: DGNetSettings,  # of a row
    seed: int = 0,  # of the training
    pairs: int = 256,  # swaps that are measured
    outline: int = 800,  # training steps of the silhouette finder
) -> RunSpec:
    """The name of the run that trains a row, measures it, and keeps a few kilobytes."""
    of = dgnet_spec(people, settings, seed)
    swaps = swaps_spec(of, pairs, outline_iterations=outline).as_dict() if isinstance(people, World) else None
    return RunSpec("dgnet-switch", SWITCH_VERSION, {"of": of.as_dict(), "swaps": swaps}, of.as_dict()["data"], seed)


def colour_errors(arrays: Mapping) -> np.ndarray:
    """Mean over the garments that can be seen of the error of their colours (Delta E), pair by pair."""
    values = np.stack([np.asarray(arrays[f"{garment}_model"], float) for garment in GARMENTS])
    seen = np.isfinite(values)
    return np.where(seen, values, 0).sum(0) / np.maximum(seen.sum(0), 1)


@recipe("dgnet-switch", version=SWITCH_VERSION)
def measure_switch(context: RunContext) -> None:
    """Have the row trained and its swaps measured; keep every query's precision, every pair's errors, and a few pictures."""
    plan, store = context.spec.as_dict()["settings"], RunStore(local=context.folder.parent)
    ask = lambda spec: store.get(RunSpec(**spec), train=True, progress=context.progress)
    trained = ask(plan["of"])
    if "counted" not in trained.per_query:
        raise RunStoreError(f"{trained.spec.name} could not be evaluated: no query has a picture of the same person")
    counted = trained.per_query["counted"]
    arrays = {f"ap_{name}": trained.per_query[f"ap_step_{name}"][counted].astype(np.float16) for name in FEATURES}
    metrics = {name: value for name, value in trained.metrics.items() if name.endswith(("_mAP", "_rank1")) or name == "parameters"}
    if plan["swaps"]:
        swaps = ask(plan["swaps"])
        arrays |= {name: swaps.per_query[f"{name}_model"].astype(np.float16) for name in ("psnr", "ssim")}
        arrays |= {"colour": colour_errors(swaps.per_query).astype(np.float16)} | pack_examples(examples(swaps)[:6])
    if context.writes:
        context.save_metrics(metrics | {"training_seconds": trained.record["seconds"]})
        context.save_per_query(arrays)


def switch_pictures(run: Run) -> list[np.ndarray]:  # of recipe "dgnet-switch" on a world -> uint8 H x W x 3 each
    """Swaps of the first pairs."""
    return list(examples(run).permute(0, 2, 3, 1).numpy())
