"""Sampling and augmentation: right parameters, torchvision's pixels, and the same picture for the same index whatever happens around it."""
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms as v1

from dgnb import augmentation as aug
from dgnb import sampling as s
from dgnb.image_sets import load_image_set, write_image_set
from dgnb.worlds import make_world

SIZE = (64, 32)
quick = settings(max_examples=40, deadline=None)


@pytest.fixture(scope="module")
def world():
    return make_world("mannequin-market", scale="smoke", seed=2, train_identities=6, images_per_identity=5, test_identities=4, test_images_per_identity=4)


@pytest.fixture(scope="module")
def cache(world):
    return s.ImageCache(world, world.train, SIZE)


def draws_of(index, epoch=0):
    index = np.asarray(index, np.int64)
    return aug.Draws(epoch, index, s.count_visits(index))


def random_bytes(count, size, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (count, 3, *size)).astype(np.uint8))


# random numbers -----------------------------------------------------------------------------------------------------

@quick
@given(seed=st.integers(0, 2**40), epoch=st.integers(0, 10_000), index=st.lists(st.integers(0, 2**31), min_size=1, max_size=20), count=st.integers(1, 5))
def test_numbers_depend_on_the_arguments_alone(seed, epoch, index, count):
    index = np.array(index)
    together = aug.uniforms(count + 1, seed, epoch, index)
    assert ((0 <= together) & (together < 1)).all()
    for n, i in enumerate(index):
        assert np.array_equal(aug.uniforms(count, seed, epoch, index[n:n + 1])[0], together[n, :count])
    for other in (aug.uniforms(count, seed + 1, epoch, index), aug.uniforms(count, seed, epoch + 1, index), aug.uniforms(count, seed, epoch, index, 1), aug.uniforms(count, seed, epoch, index, 0, "other")):
        assert not np.array_equal(other, together[:, :count])


def test_numbers_look_uniform_and_independent():
    u = np.concatenate([aug.uniforms(4, 0, epoch, np.arange(20_000)) for epoch in range(2)], 1)
    histogram = np.stack([np.histogram(column, 20, (0, 1))[0] for column in u.T])
    assert (((histogram - 1000) ** 2 / 1000).sum(1) < 50).all()  # chi-squared, 19 degrees of freedom: 1 in 10,000 is above 50
    assert abs(np.corrcoef(u.T) - np.eye(8)).max() < 0.03
    assert abs(np.corrcoef(u[:-1, 0], u[1:, 0])[0, 1]) < 0.03


@quick
@given(order=st.lists(st.integers(0, 6), max_size=30))
def test_visits(order):
    assert s.count_visits(np.array(order, np.int64)).tolist() == [order[:n].count(i) for n, i in enumerate(order)]


# parameters ---------------------------------------------------------------------------------------------------------

@quick
@given(height=st.integers(16, 256), width=st.integers(16, 128), seed=st.integers(0, 10**6), law=st.sampled_from(["uniform", "log"]),
       low=st.floats(0.02, 0.3), more=st.floats(0.0, 0.3), flat=st.floats(0.3, 1.0))
def test_boxes(height, width, seed, law, low, more, flat):
    a = aug.Augmentation(erase_area=(low, low + more), erase_aspect=(flat, 1 / flat), erase_law=law, tries=12)
    box = aug.draw_boxes(a, (height, width), seed, draws_of(np.arange(50)))
    row, column, h, w = box[box[:, 2] > 0].T
    assert (row >= 0).all() and (column >= 0).all() and (row + h <= height).all() and (column + w <= width).all()
    # sides are rounded to whole pixels, by half a pixel at most
    assert ((h + 0.5) * (w + 0.5) >= low * height * width - 1e-6).all() and ((h - 0.5) * (w - 0.5) <= (low + more) * height * width + 1e-6).all()
    assert ((h + 0.5) / (w - 0.5) >= flat - 1e-9).all() and ((h - 0.5) / (w + 0.5) <= 1 / flat + 1e-9).all()


def test_every_image_gets_a_box_where_most_fit():
    box = aug.draw_boxes(aug.Augmentation(), (256, 128), 0, draws_of(np.arange(5000)))
    assert (box[:, 2] > 0).all()


def test_impossible_box_erases_nothing():
    a = aug.Augmentation(erase=1.0, erase_area=(0.9, 0.9), erase_aspect=(3.0, 3.0))
    assert (aug.draw_parameters(a, (32, 32), 0, draws_of(np.arange(20))).box == 0).all()


def test_parameters_have_the_stated_frequencies():
    p = aug.draw_parameters(aug.Augmentation(flip=0.3, erase=0.2), (128, 64), 0, draws_of(np.arange(20_000)))
    assert p.pad == 5 and abs(p.flip.mean() - 0.3) < 0.02 and abs((p.box[:, 2] > 0).mean() - 0.2) < 0.02
    for offsets in (p.top, p.left):
        assert (abs(np.bincount(offsets, minlength=11) / 20_000 - 1 / 11) < 0.01).all()
    share = p.box[:, 2:].prod(1)[p.box[:, 2] > 0] / (128 * 64)
    assert 0.015 < share.min() and share.max() < 0.42 and share.mean() < 0.21  # large flat ones fit less often


@quick
@given(index=st.lists(st.integers(0, 50), min_size=1, max_size=12), split=st.integers(0, 12), epoch=st.integers(0, 99))
def test_parameters_do_not_depend_on_the_batch(index, split, epoch):
    draws, a = draws_of(index, epoch), aug.AUGMENTATIONS["dgnet"]
    whole = aug.draw_parameters(a, SIZE, 7, draws)
    parts = [aug.draw_parameters(a, SIZE, 7, part) for part in (draws[:split], draws[split:])]
    for name in ("flip", "top", "left", "box"):
        assert np.array_equal(np.concatenate([getattr(p, name) for p in parts]), getattr(whole, name))


@pytest.mark.parametrize("height, pad", [(256, 10), (128, 5), (64, 2), (32, 1), (16, 1)])
def test_padding_scales(height, pad):
    assert aug.Augmentation().padding(height) == pad and aug.Augmentation(pad=0).padding(height) == 0


def test_names_are_checked():
    with pytest.raises(ValueError, match="unknown augmentation 'dgnt'. Did you mean 'dgnet'"):
        aug.get_augmentation("dgnt")
    with pytest.raises(ValueError, match="erase_law"):
        aug.draw_boxes(aug.Augmentation(erase_law="normal"), SIZE, 0, draws_of([0]))
    own = aug.Augmentation(flip=1.0)
    assert aug.get_augmentation(own) is own


# pixels -------------------------------------------------------------------------------------------------------------

@quick
@given(height=st.integers(4, 40), width=st.integers(4, 40), pad=st.integers(0, 60), seed=st.integers(0, 1000))
def test_flip_and_crop_has_torchvisions_pixels(height, width, pad, seed):
    images = random_bytes(4, (height, width), seed)
    a = aug.Augmentation(pad=pad * 256 // height if pad else 0)
    p = aug.draw_parameters(a, (height, width), seed, draws_of(np.arange(6)))
    select = np.array([3, 1, 0, 2, 3, 3])
    ours = aug.flip_and_crop(images, p, select)
    assert torch.equal(ours, aug._gather_crop(images, p, select))
    for n, k in enumerate(select):
        picture = Image.fromarray(images[k].permute(1, 2, 0).numpy())
        assert torch.equal(aug.erase(aug.normalise(ours[n:n + 1]), p.box[n:n + 1])[0], aug.reference_augment(picture, p, n, (height, width)))


@pytest.mark.parametrize("size", [(64, 32), (128, 64), (256, 128), (96, 40)])
def test_resizing_once_and_mirroring_afterwards(size):
    """The released chain mirrors, then resizes; we resize, then mirror: at most one grey level apart."""
    for seed, shape in enumerate([(128, 64), (97, 51), (300, 140)]):
        image = random_bytes(1, shape, seed)[0].permute(1, 2, 0).numpy()
        after = aug.resize_image(image, size)[:, ::-1].astype(int)
        before = aug.resize_image(np.ascontiguousarray(image[:, ::-1]), size)
        assert abs(after - before).max() <= 1


def test_normalise_has_the_bits_of_v1_and_the_values_of_v2():
    levels = torch.arange(256, dtype=torch.uint8).view(1, 16, 16).expand(3, 16, 16)
    image = Image.fromarray(levels.permute(1, 2, 0).contiguous().numpy())
    v1_chain = v1.Compose([v1.ToTensor(), v1.Normalize(aug.IMAGENET_MEAN, aug.IMAGENET_STD)])
    assert torch.equal(aug.normalise(levels), v1_chain(image))
    assert torch.allclose(aug.normalise(levels), aug.test_transform((16, 16))(image), atol=1e-6)
    assert torch.equal(aug.denormalise(aug.normalise(levels)), levels)


def test_whole_chain_equals_v1_transforms(world):
    """JPEG to tensor as in the papers' code, with the random steps pinned: same bits."""
    size = (256, 128)
    chain = v1.Compose([v1.Resize(size, v1.InterpolationMode.BICUBIC), v1.ToTensor(), v1.Normalize(aug.IMAGENET_MEAN, aug.IMAGENET_STD)])
    batch = next(s.test_batches(world, world.query, size, batch_size=8))
    for n, record in enumerate(world.query[:8]):
        assert torch.equal(batch["image"][n], chain(Image.fromarray(world.read_image(record))))


def test_train_transform_without_randomness_is_the_test_transform(world):
    image = Image.fromarray(world.read_image(world.train[0]))
    assert torch.equal(aug.train_transform(SIZE, "none")(image), aug.test_transform(SIZE)(image))
    torch.manual_seed(0)
    outputs = torch.stack([aug.train_transform(SIZE)(image) for _ in range(60)])
    assert outputs.shape == (60, 3, *SIZE)
    erased = ((outputs == 0).all(1).flatten(1).float().mean(1) > 0.01).float().mean()
    assert 0.25 < erased < 0.75


def test_erase_leaves_its_input_alone_and_hits_only_the_box():
    images = torch.ones(3, 3, 10, 8)
    box = np.array([[2, 1, 3, 4], [0, 0, 0, 0], [9, 7, 1, 1]])
    out = aug.erase(images, box)
    assert torch.equal(out, aug._erase_by_mask(images, box)) and torch.equal(out, aug.erase(images.clone(), box, inplace=True))
    assert (images == 1).all() and (out[1] == 1).all()
    assert out[0].sum() == 3 * (80 - 12) and (out[0, :, 2:5, 1:5] == 0).all() and out[2].sum() == 3 * 79


# samplers -----------------------------------------------------------------------------------------------------------

LABELS = st.lists(st.integers(0, 8), min_size=1, max_size=60)


@quick
@given(labels=LABELS, seed=st.integers(0, 99), epoch=st.integers(0, 9))
def test_shuffled(labels, seed, epoch):
    order = s.ShuffledSampler(len(labels), seed).order(epoch)
    assert sorted(order) == list(range(len(labels)))
    assert np.array_equal(order, s.ShuffledSampler(len(labels), seed).order(epoch))


def test_orders_differ_between_epochs_and_seeds():
    orders = [tuple(s.ShuffledSampler(40, seed).order(epoch)) for seed in range(3) for epoch in range(3)]
    assert len(set(orders)) == 9


@quick
@given(labels=LABELS, identities=st.integers(1, 6), images=st.integers(1, 5), seed=st.integers(0, 99))
def test_identity_balance(labels, identities, images, seed):
    labels = np.array(labels)
    people, sizes = np.unique(labels, return_counts=True)
    if len(people) < identities:
        with pytest.raises(ValueError, match=f"the set has {len(people)}. Lower"):
            s.IdentitySampler(labels, identities, images, seed)
        return
    order = s.IdentitySampler(labels, identities, images, seed).order(0)
    assert len(order) and len(order) % (identities * images) == 0
    for batch in order.reshape(-1, identities, images):
        assert (labels[batch] == labels[batch[:, :1]]).all() and len(set(labels[batch[:, 0]])) == identities
        for group in batch:
            assert len(set(group)) == min(images, (labels == labels[group[0]]).sum())
    used = np.bincount(order, minlength=len(labels))
    assert (used[np.isin(labels, people[sizes >= images])] <= 1).all()


@quick
@given(labels=LABELS, seed=st.integers(0, 99), epoch=st.integers(0, 9))
def test_positive_pairs(labels, seed, epoch):
    labels = np.array(labels)
    draws = s.PositivePairSampler(labels, seed).draws(epoch)
    assert sorted(draws.index) == list(range(len(labels)))
    assert np.array_equal(labels[draws.positive], labels[draws.index])
    alone = np.isin(labels[draws.index], [v for v in labels if (labels == v).sum() == 1])
    assert np.array_equal(draws.positive == draws.index, alone)


def test_partners_are_uniform():
    labels = np.array([1, 0, 0, 1, 0, 0, 0])
    sampler, counts = s.PositivePairSampler(labels, 3), np.zeros((7, 7))
    for epoch in range(2000):
        draws = sampler.draws(epoch)
        np.add.at(counts, (draws.index, draws.positive), 1)
    expected = (labels[:, None] == labels[None]) & ~np.eye(7, dtype=bool)
    expected = expected / expected.sum(1, keepdims=True) * 2000
    assert abs(counts - expected).max() < 4.5 * np.sqrt(500)


@pytest.mark.parametrize("make", [lambda: s.ShuffledSampler(10, 1), lambda: s.PositivePairSampler([0, 0, 1, 1, 1], 1), lambda: s.IdentitySampler([0, 0, 1, 1, 2], 2, 2, 1), lambda: s.OrderedSampler(4)])
def test_samplers_resume(make):
    key = lambda d: (d.epoch, int(d.index[0]), int(d.visit[0]), None if d.positive is None else int(d.positive[0]))
    through, sampler = [], make()
    for _ in range(3):
        through += [key(d) for d in sampler]
    for stop in range(0, len(through), 3):
        first, seen = make(), []
        while len(seen) < stop:
            for draw in first:
                seen.append(key(draw))
                if len(seen) == stop:
                    break
        second = make()
        second.load_state_dict(first.state_dict())
        while second.epoch < 3:
            seen += [key(d) for d in second]
        assert seen == through
    with pytest.raises(ValueError, match="cannot resume the sampler"):
        s.ShuffledSampler(10, 2).load_state_dict(make().state_dict())


@quick
@given(count=st.integers(1, 60), batch_size=st.integers(1, 9), world_size=st.integers(1, 4))
def test_processes_share_each_batch(count, batch_size, world_size):
    draws = draws_of(np.random.default_rng(count).permutation(count))
    shares = [s.share_epoch(draws, batch_size, rank, world_size) for rank in range(world_size)]
    whole = s.share_epoch(draws, batch_size * world_size)
    assert {len(share) for share in shares} == {len(whole)} == {count // (batch_size * world_size)}
    for n, batch in enumerate(whole):
        assert np.array_equal(np.concatenate([share[n].index for share in shares]), batch.index)
    everything = s.share_epoch(draws, batch_size, drop_last=False)
    assert np.array_equal(np.concatenate([d.index for d in everything]), draws.index)


# the loader ---------------------------------------------------------------------------------------------------------

def collect(loader, epochs=1):
    """(epoch, index) -> the tensors of that image."""
    found = {}
    for epoch in range(epochs):
        for batch in loader:
            for n, index in enumerate(batch["index"].tolist()):
                found[epoch, index] = torch.stack([batch[k][n] for k in ("image", "erased", "positive", "positive_erased")])
    return found


def pair_loader(images, batch_size=5, seed=4, **options):
    return s.BatchLoader(images, s.PositivePairSampler(images.labels, seed), batch_size, erased="both", seed=seed, **options)


def test_same_image_for_the_same_index(world, cache, tmp_path):
    """Two worker counts, two batch sizes, cached or not, from memory or from disk: bit for bit the same; another seed: not."""
    reference = collect(pair_loader(cache), epochs=2)
    assert len(reference) == 2 * len(world.train)
    on_disk = load_image_set("market1501", write_image_set(world, tmp_path / "w"))
    for images, options in [(cache, dict(batch_size=10)), (s.ImageDataset(world, world.train, SIZE), dict(batch_size=6, workers=2)),
                            (s.ImageDataset(on_disk, on_disk.train, SIZE), dict(batch_size=15, workers=1))]:
        other = collect(pair_loader(images, **options), epochs=2)
        assert other.keys() == reference.keys() and all(torch.equal(other[k], reference[k]) for k in other)
    other = collect(pair_loader(cache, seed=5))
    assert sum(torch.equal(other[k], reference[k]) for k in other) <= 1


def test_epochs_differ(cache):
    found = collect(pair_loader(cache), epochs=2)
    same = [torch.equal(found[0, i], found[1, i]) for i in range(len(cache))]
    assert sum(same) <= 1


def test_processes_load_the_same_images(cache):
    whole = collect(pair_loader(cache, 10))
    parts = [collect(pair_loader(cache, 5, rank=rank, world_size=2)) for rank in range(2)]
    assert not parts[0].keys() & parts[1].keys()
    joined = parts[0] | parts[1]
    assert joined.keys() == whole.keys() and all(torch.equal(joined[k], whole[k]) for k in whole)


def test_repeated_images_look_different(cache):
    sampler = s.IdentitySampler(np.repeat(np.arange(2), [1, 29]), 2, 4)
    cache_of_one = next(iter(s.BatchLoader(cache, sampler, 8, erased="off")))
    same = cache_of_one["image"][cache_of_one["index"] == 0]
    assert len(same) == 4 and any(not torch.equal(same[0], other) for other in same[1:])


@pytest.mark.parametrize("stop", [0, 1, 5, 6, 7, 11])
@pytest.mark.parametrize("workers", [0, 2])
def test_loader_resumes_exactly(world, cache, stop, workers):
    if workers and stop not in (1, 6):
        pytest.skip("starting workers takes time; two positions suffice")
    images = s.ImageDataset(world, world.train, SIZE) if workers else cache
    take = lambda loader, n: [b for b, _ in zip(loader.forever(), range(n))] if n else []
    through = take(pair_loader(cache), 12)
    first = pair_loader(images, workers=workers)
    before = []
    while len(before) < stop:
        for batch in first:
            before.append(batch)
            if len(before) == stop:
                break
    second = pair_loader(images, workers=workers)
    second.load_state_dict(first.state_dict())
    after = take(second, 12 - stop)
    assert len(before + after) == 12
    for a, b in zip(through, before + after):
        assert all(torch.equal(a[k], b[k]) for k in a)


def test_foreign_states_are_refused(cache):
    state = pair_loader(cache).state_dict()
    for other in (pair_loader(cache, 6), pair_loader(cache, seed=9), pair_loader(cache, augmentation="baseline"), s.BatchLoader(cache, s.ShuffledSampler(len(cache), 4), 5, erased="both", seed=4)):
        with pytest.raises(ValueError, match="cannot resume the data loader: its"):
            other.load_state_dict(state)


def test_state_survives_json_and_weights_only_loading(cache, tmp_path):
    import json
    loader = pair_loader(cache)
    next(iter(loader))
    state = loader.state_dict()
    torch.save(state, tmp_path / "state.pt")
    for again in (json.loads(json.dumps(state)), torch.load(tmp_path / "state.pt", weights_only=True)):
        other = pair_loader(cache)
        other.load_state_dict(again)
        assert (other.epoch, other.batch) == (0, 1)


def test_loading_leaves_global_generators_alone(world):
    torch.manual_seed(0)
    np.random.seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    list(s.train_loader(world, SIZE, 8, cache=False, workers=1))
    assert torch.equal(before[0], torch.get_rng_state()) and np.array_equal(before[1], np.random.get_state()[1])


def test_views(world, cache):
    facts = {"label", "camid", "index"}
    sampler = s.ShuffledSampler(len(cache))
    first = {erased: next(iter(s.BatchLoader(cache, sampler, 30, erased=erased))) for erased in ("replace", "both", "off")}
    assert first["replace"].keys() == first["off"].keys() == facts | {"image"} and first["both"].keys() == facts | {"image", "erased"}
    assert torch.equal(first["both"]["image"], first["off"]["image"]) and torch.equal(first["both"]["erased"], first["replace"]["image"])
    changed = (first["both"]["erased"] != first["both"]["image"]).flatten(1).any(1)
    assert 5 < changed.sum() < 25
    never = next(iter(s.BatchLoader(cache, sampler, 30, "baseline", erased="both")))
    assert torch.equal(never["image"], never["erased"])
    assert first["off"]["image"].dtype == torch.float32 and first["off"]["label"].dtype == torch.int64
    for n, index in enumerate(first["off"]["index"]):
        record = world.train[index]
        assert first["off"]["label"][n] == world.label_of[record.pid] and first["off"]["camid"][n] == record.camid


def test_test_batches_hold_everything_in_order(world):
    for workers in (0, 1):
        batches = list(s.test_batches(world, world.gallery, SIZE, 7, workers=workers))
        assert torch.cat([b["index"] for b in batches]).tolist() == list(range(len(world.gallery)))
        assert torch.cat([b["camid"] for b in batches]).tolist() == [r.camid for r in world.gallery]
        assert all((b["label"] == -1).all() for b in batches)


def test_test_people_have_no_label_even_where_numbers_coincide():
    msmt = make_world("mannequin-msmt", "smoke", train_identities=3, images_per_identity=4, test_identities=3, test_images_per_identity=4)
    assert {r.pid for r in msmt.query} & {r.pid for r in msmt.train}
    assert set(s.labels_of(msmt, msmt.query)[0]) == {-1} and set(s.labels_of(msmt, msmt.train)[0]) == {0, 1, 2}


def test_work_can_be_sent_to_another_process(world, cache):
    """Where processes are spawned and not forked (macOS, Windows), the job is pickled."""
    import pickle
    job = s._Job(s.ImageDataset(world, world.train, SIZE), aug.get_augmentation("dgnet"), 3, "both")
    draws = s.PositivePairSampler(cache.labels, 1).draws(2)[:4]
    a, b = job.__getitems__(draws), pickle.loads(pickle.dumps(job)).__getitems__(pickle.loads(pickle.dumps(draws)))
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_train_loader_kinds(world, cache):
    seen = []
    loader = s.train_loader(world, SIZE, 6, "pairs", progress=lambda records: seen.extend(records) or records)
    shared = s.train_loader(cache, batch_size=6, sampler="pairs")
    assert len(seen) == len(world.train) and shared.images is cache
    assert all(torch.equal(a["positive"], b["positive"]) for a, b in zip(loader, shared))
    batch = next(iter(s.train_loader(world, SIZE, 6, "pairs")))
    assert "positive" in batch
    batch = next(iter(s.train_loader(world, SIZE, 6, "identities", images_per_identity=2)))
    assert len(set(batch["label"].tolist())) == 3
    with pytest.raises(ValueError, match="no multiple"):
        s.train_loader(world, SIZE, 7, "identities")
    with pytest.raises(ValueError, match="unknown sampler 'random'"):
        s.train_loader(world, SIZE, 6, "random")


@pytest.mark.parametrize("options, message", [
    (dict(batch_size=31), "30 images do not fill one batch of 31"),
    (dict(batch_size=8, world_size=4, rank=0), "for 4 process"),
    (dict(batch_size=0), "at least 1"),
    (dict(batch_size=2, rank=2, world_size=2), "rank in 0..world_size-1"),
    (dict(batch_size=2, world_size=2, drop_last=False), "drop_last=True"),
    (dict(batch_size=2, erased="yes"), "unknown value of erased"),
])
def test_settings_that_cannot_work(cache, options, message):
    with pytest.raises(ValueError, match=message):
        s.BatchLoader(cache, s.ShuffledSampler(len(cache)), **options)


def test_damaged_and_missing_images_are_named(world, tmp_path):
    found = load_image_set("market1501", write_image_set(world, tmp_path / "w"))
    path = found.train[4].path
    with open(path, "rb+") as file:
        file.truncate(300)
    for make in (lambda: s.ImageCache(found, found.train, SIZE), lambda: list(s.train_loader(found, SIZE, 5, cache=False))):
        with pytest.raises(ValueError, match=f"{found.train[4].name}.*check_images"):
            make()
    with pytest.raises(ValueError, match=found.train[4].name):
        list(s.train_loader(found, SIZE, 5, cache=False, workers=1))
    with pytest.raises(ValueError, match="no images to load"):
        s.ImageCache(found, [], SIZE)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_gives_the_same_pixels(world, cache):
    on_gpu = s.ImageCache(world, world.train, SIZE, device="cuda")
    ours, theirs = collect(pair_loader(cache)), collect(pair_loader(on_gpu, device="cuda"))
    assert ours.keys() == theirs.keys()
    assert all(torch.allclose(ours[k], theirs[k].cpu(), atol=1e-6) for k in ours)
