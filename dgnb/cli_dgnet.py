"""The commands of the DG-Net chapter: train, swap, features, export, import-released. Torch is imported when a command needs it."""
from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Annotated, Optional

import typer

ModelOption = Annotated[Optional[Path], typer.Option("--model", metavar="RUN", help="folder of a trained run; default: the model that comes with dgnb")]
train_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Train on people of your own.")


@train_app.callback()
def train() -> None:
    """Train on people of your own."""


def say(line: str = "") -> None:
    """One line on the terminal, at once."""
    typer.echo(line)


def warn(line: str) -> None:
    """One line beside the output proper."""
    if line:
        typer.echo(f"note: {line}", err=True)


def parse_size(text: str) -> tuple[int, int] | None:
    """(128, 64) of "128x64", None of nothing; a ValueError shows the form."""
    height, _, width = text.lower().partition("x")
    if text and not (height.isdigit() and width.isdigit()):
        raise ValueError(f"--size takes HEIGHTxWIDTH, e.g. 128x64, found {text!r}")
    return (int(height), int(width)) if text else None


def open_people(data: str, cameras: Path | None, partial: bool, scale: str, size: tuple[int, int]):
    """The set to train on or to describe: a folder in any known layout, or a synthetic world of the right size."""
    from dgnb.image_sets import open_set
    from dgnb.worlds import WORLDS
    if data in WORLDS and (cameras or partial):
        raise ValueError(f"{data} is a synthetic world: it has its cameras and is whole; leave out --cameras and --partial")
    if data in WORLDS:
        return open_set(data, scale=scale, size=size)
    return open_set(data, strict=not partial, **({"cameras": cameras} if cameras else {}))


@train_app.command("dgnet")
def train_dgnet(
    data: Annotated[str, typer.Option(metavar="FOLDER", help="a folder with one sub-folder per person (or a known layout, or a synthetic world)")],
    out: Annotated[Optional[Path], typer.Option(metavar="FOLDER", help="where runs are kept; default: dgnb's own folder")] = None,
    cameras: Annotated[Optional[Path], typer.Option(metavar="CSV", help="columns path, camera and optionally split")] = None,
    partial: Annotated[bool, typer.Option("--partial", help="go without images that are missing from the set or from the CSV")] = False,
    scale: Annotated[str, typer.Option(help="size of networks and schedule: smoke, laptop, gpu or paper")] = "laptop",
    recipe: Annotated[str, typer.Option(help="released or paper")] = "released",
    size: Annotated[str, typer.Option(metavar="HEIGHTxWIDTH", help="64x32, 128x64, 256x128; default: the scale's")] = "",
    iterations: Annotated[Optional[int], typer.Option(min=1, help="default: the scale's")] = None,
    seed: Annotated[int, typer.Option(help="of weights, order and augmentation; the split of a folder stays")] = 0,
    teacher: Annotated[Optional[Path], typer.Option(metavar="RUN", help="folder of a baseline run on the same data; default: trained first")] = None,
    weights: Annotated[Optional[Path], typer.Option(metavar="FILE", help="ImageNet weights of the scale's ResNet (.safetensors, .pth)")] = None,
    devices: Annotated[Optional[int], typer.Option(min=1, help="GPUs (or processes) that train together")] = None,
    precision: Annotated[Optional[str], typer.Option(help="32-true, bf16-mixed or 16-mixed")] = None,
    threads: Annotated[Optional[int], typer.Option(min=1, help="CPU threads of each process; default: the cores there are, at most 8")] = None,
):
    """Train a teacher, then a DG-Net, on a folder of people. Interrupted, the same command goes on where it was."""
    from dgnb.dgnet.own_people import check_sharing, look_over, people_settings, train_people
    from dgnb.runner import cores
    settings = people_settings(scale, recipe, parse_size(size), iterations, weights)
    source = open_people(data, cameras, partial, scale, settings.size)
    say(f"looking at the {len(source.train) + len(source.query) + len(source.gallery):,} images of {source.name}")
    for line in look_over(source, settings):
        say(f"note: {line}")
    check_sharing(source, settings, devices or 1, teacher is None)
    say(f"{source.name}: {source.num_train_identities} identities, {len(source.train):,} images to train on; {len(source.query):,} queries, {len(source.gallery):,} gallery images")
    say(f"{scale}, {recipe} recipe, {settings.height}x{settings.width}, {settings.iterations:,} iterations of twice {settings.batch} images"
        + ("; first a teacher, unless there is one" if settings.needs_teacher and not teacher else ""))
    chosen = {"DEVICES": devices, "PRECISION": precision, "THREADS": threads or os.environ.get("DGNB_THREADS") or max(1, min(8, cores() // (devices or 1)))}
    os.environ.update({f"DGNB_{name}": str(value) for name, value in chosen.items() if value})
    try:
        run = train_people(source, settings, seed, out, teacher)
    except KeyboardInterrupt:
        say("stopped; the same command goes on from the last checkpoint")
        raise typer.Exit(130) from None
    warn_of_precision(run)
    report(run)


def warn_of_precision(run) -> None:
    """Say that a run was found and not made, where it is of another precision than was asked for."""
    from dgnb.runner import precision_note
    note = precision_note([run.record.get("precision", "")], os.environ.get("DGNB_PRECISION", ""))
    warn(f"{note}: another --out FOLDER trains anew" if note else "")


def report(run) -> None:
    """What was made, how good it is, and what to do with it."""
    found = run.metrics
    for feature, name in (("prim", "f_prim"), ("fine", "f_fine"), ("both", "both")):
        if f"{feature}_map_step" in found:
            say(f"{name:<7} mAP {found[f'{feature}_map_step']:.1%}  rank-1 {found[f'{feature}_rank1']:.1%}")
    if "retrieval" in found:
        say(f"retrieval {found['retrieval']}")
    say(f"made {run.folder} in {run.record['seconds'] / 60:.1f} minutes")
    say(f"next: dgnb swap --model {shlex.quote(str(run.folder))} --appearance A.jpg --structure B.jpg")


def swap(
    appearance: Annotated[list[Path], typer.Option(metavar="IMAGE", help="whose clothes; may be given several times, or be a folder")],
    structure: Annotated[list[Path], typer.Option(metavar="IMAGE", help="whose body, pose and place; may be given several times, or be a folder")],
    model: ModelOption = None,
    out: Annotated[Path, typer.Option(metavar="PNG|FOLDER", help="a .png: one sheet with the donors; a folder: each picture alone")] = Path("swap.png"),
):
    """Paint the people of --structure in the clothes of --appearance."""
    from dgnb.dgnet.own_people import image_paths, open_model, read_people, save_png, swap_people, swap_sheet
    if out.suffix.lower() not in ("", ".png"):
        raise ValueError(f"--out takes a .png file or a folder, found {out}")
    opened = open_model(model)
    files = image_paths(appearance), image_paths(structure)
    donors = [read_people(paths, opened.size) for paths in files]
    painted = swap_people(opened, *donors)
    warn(opened.note)
    if out.suffix.lower() == ".png":
        say(f"wrote {save_png(out, swap_sheet(*donors, painted))}: {len(files[0])} x {len(files[1])} swaps of {opened.size[0]}x{opened.size[1]}, clothes from the left, bodies from above")
        return
    for i, clothes in enumerate(files[0]):
        for j, body in enumerate(files[1]):
            save_png(out / f"{i:03d}-{clothes.stem}-on-{j:03d}-{body.stem}.png", painted[i, j])
    say(f"wrote {len(files[0]) * len(files[1])} pictures to {out}")


def features(
    out: Annotated[Path, typer.Option(metavar="F.npz", help="the file to write")],
    images: Annotated[Optional[list[Path]], typer.Argument(metavar="IMAGES", help="image files, or folders of them")] = None,
    data: Annotated[str, typer.Option(metavar="FOLDER", help="instead of images: a set, for `dgnb evaluate`")] = "",
    cameras: Annotated[Optional[Path], typer.Option(metavar="CSV", help="of the set: columns path, camera and optionally split")] = None,
    partial: Annotated[bool, typer.Option("--partial", help="go without images that are missing from the set or from the CSV")] = False,
    beta: Annotated[float, typer.Option(help="weight of f_fine on the query's side, for --data")] = 0.5,
    model: ModelOption = None,
):
    """Features of loose images (f_prim, f_fine, joined, names), or of a set's query and gallery for `dgnb evaluate`."""
    from dgnb.dgnet.own_people import describe_people, describe_set, open_model, save_arrays
    if bool(images) == bool(data):
        raise ValueError("give either images or --data FOLDER")
    opened = open_model(model)
    if data:
        found = describe_set(opened, open_people(data, cameras, partial, "laptop", opened.size), beta)
    else:
        found = describe_people(opened, images)
    save_arrays(out, found)
    warn(opened.note)
    if data:
        say(f"wrote {out}: {len(found['query_ids']):,} queries, {len(found['gallery_ids']):,} gallery images")
        say(f"next: dgnb evaluate --features {shlex.quote(str(out))} --metric dot")
    else:
        say(f"wrote {out}: {len(found['names']):,} images, f_prim and f_fine of {found['f_prim'].shape[1]} numbers each, joined of {found['joined'].shape[1]}")


def export(
    out: Annotated[Path, typer.Option(metavar="FILE.onnx", help="the file to write")] = Path("reid.onnx"),
    model: ModelOption = None,
    mirror: Annotated[bool, typer.Option(help="add the mirrored image's features, as `dgnb features` does")] = True,
):
    """Write the network that finds people to ONNX and check that it computes the same."""
    from dgnb.dgnet.exporting import export_onnx, need_onnx
    from dgnb.dgnet.own_people import open_model
    need_onnx()
    opened = open_model(model)
    found = export_onnx(opened, out, mirror)
    warn(opened.note)
    say(f"wrote {out}: {found['bytes'] / 2**20:.1f} MiB, opset {found['opset']}, input image (any number x 3 x {opened.size[0]} x {opened.size[1]}, red, green, blue in 0..1), "
        f"outputs f_prim, f_fine, joined; largest difference {found['difference']:.1e} by {found['checked_with']}")


def import_released(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="holds id_XXXXXXXX.pt and gen_XXXXXXXX.pt")],
    out: Annotated[Optional[Path], typer.Option(metavar="FOLDER", help="where runs are kept; default: dgnb's own folder")] = None,
    iteration: Annotated[Optional[int], typer.Option(help="which pair; default: the last")] = None,
):
    """Read the checkpoint that DG-Net's authors published, where you have it, and keep it as a run."""
    from dgnb.dgnet.released_weights import LICENCE, import_released as read
    say(LICENCE)
    run = read(folder, out, iteration)
    found, skipped = run.metrics, run.metrics["skipped"]
    kinds = {"ImageNet's classifier": "model.fc.", "non-local blocks": ".nonloc.", "dummy buffers": ".norm.running_"}
    said = ", ".join(f"{sum(part in name for name in skipped)} of {kind}" for kind, part in kinds.items() if any(part in name for name in skipped))
    say(f"iteration {found['iteration']:,}, {found['identities']} identities, {found['parameters']:,} parameters; left out as unused: {said or 'nothing'}")
    say(f"made {run.folder}")
    say(f"next: dgnb swap --model {shlex.quote(str(run.folder))} --appearance A.jpg --structure B.jpg")


def add_commands(app: typer.Typer) -> None:
    """Put the chapter's commands into the `dgnb` command."""
    app.add_typer(train_app, name="train")
    for name, function in (("swap", swap), ("features", features), ("export", export), ("import-released", import_released)):
        app.command(name)(function)
