"""Tiny data sets in the official layouts, under one folder ROOT and by the names that `--data ROOT` asks for: what stands in for the real ones."""
from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from dgnb.image_sets import MARKER, write_image_set
from dgnb.scales import numpy_generator
from dgnb.video_files import write_video_set
from dgnb.video_worlds import make_video_world
from dgnb.worlds import ReIDSet, World, encode_jpeg, make_world

IMAGES = {"market1501": "mannequin-market", "dukemtmc-reid": "mannequin-duke", "msmt17": "mannequin-msmt", "cuhk03-np": "mannequin-msmt"}
VIDEOS = {"mars": "mannequin-mars", "dukemtmc-videoreid": "mannequin-dukevideo", "ilids-vid": "mannequin-ilids"}
HOMES = {"market1501": "Market-1501-v15.09.15", "cuhk03-np": "detected"}  # folder inside the archive, where the set's own files are one level down
TOWN = {"images_per_identity": 4, "test_images_per_identity": 4, "distractors": 2, "junk": 2}
FILM = {"train_identities": 3, "test_identities": 3, "people": 6, "tracklets": 2.0, "test_tracklets": 2.5, "distractors": 1, "junk": 1, "mean_length": 5, "shortest": 4, "longest": 6}


class FewPictures(ReIDSet):
    """Sixteen training pictures of eight people, eight queries each with one right answer by another camera, and the first people of other kinds."""

    def __init__(self, world: World):
        self.world, train, query, gallery = world, [], [], []
        for record in world.train:
            train += [record] if sum(one.pid == record.pid for one in train) < 2 else []
        for record in world.query:
            answers = [other for other in world.gallery if other.pid == record.pid and other.camid != record.camid]
            if answers and record.pid not in {one.pid for one in query}:
                query, gallery = [*query, record], [*gallery, answers[0]]
        strangers = {record.pid: record for record in world.gallery if record.pid not in {one.pid for one in query}}
        super().__init__(world.name, tuple(train), tuple(query), (*gallery, *list(strangers.values())[:2]))

    def read_bytes(self, record) -> bytes:
        return self.world.read_bytes(record)


def noise(name: str) -> bytes:
    """A picture of nothing, as a file, always the same for a name."""
    return encode_jpeg(numpy_generator("noise", name).integers(0, 256, (64, 32, 3), dtype=np.uint8), 90)


def write_real_sets(root: Path, names=(*IMAGES, *VIDEOS), drawn: bool = True) -> Path:
    """Write the sets below `root`, each in a folder of its name, as if they were the real ones (but for their counts); not drawn, pictures are noise, in no time."""
    for name in names:
        home = root / name / HOMES.get(name, "")
        if name in IMAGES:
            few = FewPictures(make_world(IMAGES[name], scale="smoke", **TOWN))
            few.read_bytes = few.read_bytes if drawn else lambda record: noise(record.name)
            if name != "market1501":  # nobody else has junk
                few.gallery = tuple(record for record in few.gallery if record.pid >= 0)
            write_image_set(few, home, layout=name)
        else:
            film = make_video_world(VIDEOS[name], scale="smoke", **FILM)
            film.read_frame_bytes = film.read_frame_bytes if drawn else lambda record, n: noise(f"{record.name} {n}")
            write_video_set(film, home)
        marker = json.loads((home / MARKER).read_text())
        (home / MARKER).unlink()
        (root / name / (HOMES[name] if name == "cuhk03-np" else "") / MARKER).write_text(json.dumps(marker | {"name": name}))  # called as the real one is; its counts stay those of the tiny one
    return root
