"""Input pipeline, JPEG to augmented tensor: ours against a chain of torchvision v1 transforms, CPU seconds of one core."""
from __future__ import annotations

import io
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision import transforms as v1

from dgnb import sampling
from dgnb.augmentation import IMAGENET_MEAN as MEAN
from dgnb.augmentation import IMAGENET_STD as STD
from dgnb.augmentation import get_augmentation
from dgnb.image_sets import load_image_set, write_image_set
from dgnb.worlds import make_world


def v1_chain(size: tuple[int, int]) -> v1.Compose:
    """What most re-ID code does to one picture: flip, resize, pad, crop, to tensor, normalise, erase."""
    pad = get_augmentation("dgnet").padding(size[0])
    return v1.Compose([
        v1.RandomHorizontalFlip(0.5), v1.Resize(size, v1.InterpolationMode.BICUBIC), v1.Pad(pad, padding_mode="edge"), v1.RandomCrop(size),
        v1.ToTensor(), v1.Normalize(MEAN, STD), v1.RandomErasing(0.5, scale=(0.02, 0.4), ratio=(0.3, 3.33), value=0)])


def v1_epoch(found, size: tuple[int, int], batch_size: int) -> None:
    """One epoch, picture by picture, from the files."""
    chain, order = v1_chain(size), np.random.permutation(len(found.train))
    for start in range(0, len(order) - batch_size + 1, batch_size):
        pictures = [Image.open(io.BytesIO(Path(found.train[i].path).read_bytes())).convert("RGB") for i in order[start:start + batch_size]]
        torch.stack([chain(picture) for picture in pictures])


def largest_difference(found, size: tuple[int, int]) -> float:
    """Largest difference between the two paths on the same pictures, with the random steps of both switched off."""
    chain = v1.Compose([v1.Resize(size, v1.InterpolationMode.BICUBIC), v1.ToTensor(), v1.Normalize(MEAN, STD)])
    worst = 0.0
    for batch in sampling.test_batches(found, found.train[:64], size):
        for n, index in enumerate(batch["index"].tolist()):
            worst = max(worst, (batch["image"][n] - chain(Image.open(found.train[index].path).convert("RGB"))).abs().max().item())
    return worst


def cpu_seconds(action) -> float:
    """Processor seconds of this process, which other processes on the machine hardly disturb."""
    start = time.process_time()
    action()
    return time.process_time() - start


def compare(found, size: tuple[int, int], repeats: int, batch_size: int = 32) -> tuple[float, float, float]:
    """Images per core and second: the v1 chain, ours with decoding and resizing in the epoch, ours afterwards. Alternating runs, medians."""
    images = len(found.train) // batch_size * batch_size
    times = {"v1": [], "first": [], "later": []}
    for _ in range(repeats):
        times["v1"].append(cpu_seconds(lambda: v1_epoch(found, size, batch_size)))
        made = []
        times["first"].append(cpu_seconds(lambda: made.append(sampling.train_loader(found, size, batch_size)) or list_nothing(made[0])))
        times["later"].append(cpu_seconds(lambda: [list_nothing(made[0]) for _ in range(4)]) / 4)
    return tuple(images / statistics.median(times[name]) for name in ("v1", "first", "later"))


def list_nothing(loader) -> None:
    """Go through an epoch and keep nothing."""
    for _ in loader:
        pass


def run(quick: bool = False) -> list[dict]:
    """Rows of (what, baseline, ours, ratio, unit, note); `quick` uses fewer pictures and repeats."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rows = []
    try:
        for stored, size in (((128, 64), (256, 128)), ((64, 32), (64, 32))):
            with tempfile.TemporaryDirectory() as folder:
                world = make_world("mannequin-market", "smoke", size=stored, train_identities=8 if quick else 40, images_per_identity=12)
                found = load_image_set("market1501", write_image_set(world, Path(folder) / "world"))
                worst = largest_difference(found, size)
                if worst > 1e-6:
                    raise AssertionError(f"the two paths give different pixels (by {worst:g}); their speeds cannot be compared")
                slow, first, later = compare(found, size, 2 if quick else 5)
            note = f"CPU time, 1 thread; torchvision v1 chain; largest pixel difference {worst:.1g}"
            what = f"JPEG {stored[0]}x{stored[1]} to augmented {size[0]}x{size[1]} tensor"
            rows.append({"what": what, "baseline": slow, "ours": later, "ratio": later / slow, "unit": "images/s per core", "note": note})
            rows.append({"what": f"{what}, first epoch", "baseline": slow, "ours": first, "ratio": first / slow, "unit": "images/s per core",
                         "note": "decoding and resizing included"})
    finally:
        torch.set_num_threads(threads)
    return rows


def main() -> None:
    """Print the rows."""
    for row in run(quick="--quick" in sys.argv):
        print(f"{row['what']:<64} {row['baseline']:>9,.0f} -> {row['ours']:>9,.0f} {row['unit']}  {row['ratio']:.1f}x  ({row['note']})")


if __name__ == "__main__":
    main()
