"""The first losses of every kind of shipped run, recomputed by the code that trains. `python tests/first_losses.py` notes those not yet noted."""
import json
from pathlib import Path

import torch

from dgnb.baseline import open_data
from dgnb.paths import shipped_runs
from dgnb.run_store import RunSpec, repeatable

NOTES = Path(__file__).with_name("first_losses.json")
KINDS = ("baseline", "dgnet")


class Enough(Exception):
    """Raised to leave a training after a few steps."""


def shipped() -> dict[str, RunSpec]:
    """Shipped trainings of seed 0 on the main world: one of each kind (the others differ in seed or world only)."""
    specs = {path.name: RunSpec(**json.loads((path / "record.json").read_text())["spec"]) for kind in KINDS for path in sorted(shipped_runs().glob(f"{kind}-*"))}
    return {name: spec for name, spec in specs.items() if spec.recipe in KINDS and spec.seed == 0 and spec.as_dict()["data"].get("world") == "mannequin-market"}


def first_losses(spec: RunSpec) -> list[float]:
    source = open_data(spec.as_dict()["data"])
    with repeatable(spec, 1):
        return {"baseline": baseline_losses, "dgnet": dgnet_losses}[spec.recipe](source, spec)


def baseline_losses(source, spec, count=8) -> list[float]:
    from dgnb.baseline import BaselineSettings, identification_step, make_network, make_optimizer
    from dgnb.sampling import train_loader
    from dgnb.training import fit, lr_scheduler, steps

    settings, losses = BaselineSettings(**spec.as_dict()["settings"]), []
    network = make_network(settings, source.num_train_identities)
    loader = train_loader(source, settings.size, settings.batch, augmentation=settings.augmentation, seed=spec.seed)
    optimizer, epoch = make_optimizer(network, settings), len(loader)
    factor = steps(1.0, [round(settings.epochs * epoch * settings.decay_at)], warmup=round(settings.warmup * epoch))

    def step(batch, loop):
        found = identification_step(batch, loop)
        losses.append(found["id"].item())
        return found

    fit({"network": network}, {"sgd": optimizer}, step, loader, count, schedulers={"sgd": lr_scheduler(optimizer, factor)}, progress="off")
    return losses


def dgnet_losses(source, spec, count=3) -> list[float]:
    """Image, adversarial, identity and critic losses of each step. The teacher is an untrained network: its training is the baseline's affair."""
    from dgnb.baseline import BaselineSettings, make_network
    from dgnb.dgnet.joint import settings_of, train_dgnet

    teacher = make_network(BaselineSettings(**spec.as_dict()["settings"]["teacher"]["settings"]), source.num_train_identities)

    def look(loop):
        if loop.iteration > count:  # the log holds the steps before this one
            raise Enough([float(row[name]) for row in loop.log for name in ("img1", "img2", "adv", "id", "d")])

    try:
        train_dgnet(source, settings_of(spec), spec.seed, teacher, progress="off", log_every=1, callbacks=[(1, look)])
    except Enough as losses:
        return losses.args[0]


def note() -> None:
    """Write the losses of shipped runs that have none, and drop those of runs that are shipped no more."""
    noted, specs = json.loads(NOTES.read_text()), shipped()
    kept = {name: noted[name] if name in noted else [round(v, 4) for v in first_losses(spec)] for name, spec in specs.items()}
    NOTES.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    note()
