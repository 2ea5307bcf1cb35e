"""Backbones: shapes, counts, strides, weights from files, heads, features and activation maps that add up."""
import math

import pytest
import timm
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from dgnb.backbones import (POOLS, EmbeddingHead, ReIDNetwork, activation_maps, build_backbone, build_network, load_weights, part_max_pool, pool_maps,
                            read_weights, receptive_fields)
from dgnb.scales import seed_everything


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)
    seed_everything("test_backbones")


def count(module):
    return sum(p.numel() for p in module.parameters())


def small(pool="avg", classes=7, **options):
    return build_network(classes, "resnet10t", dim=16, pool=pool, truncate=1, **options)


# counts and shapes ---------------------------------------------------------------------------------------------------

def test_teacher_and_encoder_have_the_published_numbers_of_parameters():
    teacher = build_network(751, "resnet50", last_stride=2)
    assert count(teacher.backbone) == 23_508_032
    assert count(teacher.head.linear) + count(teacher.head.norm) == 1_050_112
    assert count(teacher.head.classifier) == 385_263
    assert count(teacher) == 24_943_407
    encoder = build_backbone("resnet50", last_stride=1, pool="max")
    heads = [EmbeddingHead(2048, 751), EmbeddingHead(2048, 751, dropout=0.75)]
    assert count(encoder) + sum(map(count, heads)) == 26_378_782
    assert count(encoder) + sum(count(h) - count(h.classifier) for h in heads) == 25_608_256


@pytest.mark.parametrize("name", ["resnet10t", "resnet14t", "resnet18", "resnet34", "resnet26d", "resnetaa34d", "resnetblur18", "seresnet50"])
def test_stride_1_doubles_the_last_grid_of_any_resnet_with_the_same_parameters(name):
    one, two = build_backbone(name, last_stride=1).eval(), build_backbone(name, last_stride=2).eval()
    assert one.state_dict().keys() == two.state_dict().keys() and count(one) == count(two)
    images = torch.zeros(1, 3, 64, 32)
    with torch.no_grad():
        fine, coarse = one.maps(images), two.maps(images)
    assert fine.shape == (1, one.num_features, 4, 2) and coarse.shape == (1, two.num_features, 2, 1)
    assert all(m.dilation in ((1, 1), 1) for m in one.modules() if isinstance(m, nn.Conv2d))


@pytest.mark.parametrize("truncate, features, grid", [(0, 512, (4, 2)), (1, 256, (8, 4)), (2, 128, (16, 8)), (3, 64, (16, 8))])
def test_truncation_drops_stages_and_stem_pool_keeps_cells(truncate, features, grid):
    images = torch.zeros(2, 3, 64, 32)
    net = build_backbone("resnet18", truncate=truncate).eval()
    assert net.num_features == features and net.maps(images).shape == (2, features, *grid) and net(images).shape == (2, features)
    wide = build_backbone("resnet18", truncate=truncate, stem_pool=False).eval()
    assert wide.maps(images).shape[2:] == tuple(2 * n for n in grid)


def test_one_channel_images():
    assert build_backbone("resnet10t", in_chans=1).eval()(torch.zeros(2, 1, 64, 32)).shape == (2, 512)


def test_receptive_field_agrees_with_where_the_gradient_arrives():
    net = build_backbone("resnet18", last_stride=2, truncate=1).eval()
    for m in net.modules():  # positive weights and inputs: no path cancels another, no ReLU is closed
        if isinstance(m, nn.Conv2d): nn.init.constant_(m.weight, 1 / m.weight[0].numel())
        if isinstance(m, nn.BatchNorm2d): nn.init.ones_(m.weight)
    net.maxpool = nn.AvgPool2d(3, 2, 1)  # the maximum would pass on one pixel only
    images = torch.rand(1, 3, 320, 320, dtype=torch.float64).requires_grad_()
    maps = net.double().maps(images)
    middle = maps.shape[-1] // 2
    grad, = torch.autograd.grad(maps[0, :, middle, middle].sum(), images)
    rows = grad[0, 0].abs().sum(1).nonzero().flatten()
    seen, step = receptive_fields(build_backbone("resnet18", last_stride=2, truncate=1))["layer3"]
    assert rows[-1] - rows[0] + 1 == seen == 211 and step == 320 // maps.shape[-1]


# bad input -----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("arguments, words", [
    (dict(name="resnet5"), "unknown ResNet of timm 'resnet5'"), (dict(name="vit_base_patch16_224"), "unknown ResNet"), (dict(pool="median"), "avg, gem, max"),
    (dict(last_stride=3), "last_stride is 1 or 2"), (dict(truncate=4), "truncate 0 to 3"), (dict(pretrained=True, weights="x.pth"), "not both")])
def test_unknown_settings_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        build_backbone(**{"name": "resnet10t", **arguments})


def test_pretrained_out_of_reach_says_what_to_do(monkeypatch):
    def offline(*_, **options):
        assert options["pretrained"]
        raise ConnectionError("no route to host")
    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(RuntimeError, match="weights=PATH"):
        build_backbone("resnet18", pretrained=True)


def test_default_never_asks_for_pretrained_weights(monkeypatch):
    asked, create = [], timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda *a, **k: asked.append(k["pretrained"]) or create(*a, **k))
    build_backbone("resnet10t")
    assert asked == [False]


def test_grey_levels_are_refused():
    with pytest.raises(ValueError, match="normalise"):
        small().eval().features(torch.zeros(2, 3, 64, 32, dtype=torch.uint8))


def test_a_training_batch_of_one_is_refused_before_anything_changes():
    net = small().train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    for call in (net, net.features, lambda x: net.features(x, mirror=True), lambda x: net.head(torch.zeros(1, 256))):
        with pytest.raises(ValueError, match="drop_last=True"):
            call(torch.rand(1, 3, 64, 32))
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert net.eval().features(torch.rand(1, 3, 64, 32)).shape == (1, 16) and net(torch.rand(1, 3, 64, 32)).shape == (1, 7)


# pooling -------------------------------------------------------------------------------------------------------------

@given(st.integers(1, 3), st.integers(1, 5), st.integers(4, 9), st.integers(1, 6), st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_pools_keep_their_order_and_the_stripes_hold_the_maximum(batch, channels, height, width, seed):
    maps = torch.rand(batch, channels, height, width, generator=torch.Generator().manual_seed(seed))
    pooled = {kind: pool_maps(maps, kind) for kind in POOLS}
    assert (pooled["avg"] <= pooled["gem"] + 1e-6).all() and (pooled["gem"] <= pooled["max"] + 1e-6).all()
    parts = part_max_pool(maps)
    assert parts.shape == (batch, channels, 4, 1) and torch.equal(parts.amax((-2, -1)), pooled["max"])
    if height % 4 == 0:
        assert torch.equal(parts[..., 0], maps.unflatten(2, (4, -1)).amax((-2, -1)))


def test_too_few_rows_for_stripes():
    with pytest.raises(ValueError, match="2 rows has no 4 stripes"):
        part_max_pool(torch.zeros(1, 8, 2, 4))


def test_channels_last_and_bfloat16_work():
    net = small().eval()
    images = torch.rand(4, 3, 64, 32)
    with torch.no_grad():
        plain = net.features(images)
        last = net.to(memory_format=torch.channels_last).features(images.to(memory_format=torch.channels_last), mirror=True)
        with torch.autocast("cpu", torch.bfloat16): short = net.features(images)
    assert last.shape == plain.shape and short.dtype == torch.float32
    assert F.cosine_similarity(short, plain).min() > 0.99


# weights -------------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def whole():
    return timm.create_model("resnet18", num_classes=10)


@pytest.mark.parametrize("form", ["pth", "safetensors", "nested", "dataparallel", "without counters"])
def test_every_form_of_a_weight_file_fills_the_backbone(form, whole, tmp_path):
    state = {k: v.clone() for k, v in whole.state_dict().items()}
    path = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pth")
    if form == "safetensors": save_file(state, path)
    elif form == "nested": torch.save({"epoch": 3, "state_dict": state}, path)
    elif form == "dataparallel": torch.save({f"module.{k}": v for k, v in state.items()}, path)
    elif form == "without counters": torch.save({k: v for k, v in state.items() if "num_batches" not in k}, path)
    else: torch.save(state, path)
    net, images = build_backbone("resnet18", last_stride=2, weights=path).eval(), torch.rand(2, 3, 64, 32)
    with torch.no_grad():
        assert torch.allclose(net(images), whole.eval().forward_features(images).mean((2, 3)), atol=1e-5)


def test_truncated_and_one_channel_networks_take_what_they_need(whole, tmp_path):
    torch.save(whole.state_dict(), tmp_path / "w.pth")
    cut = build_backbone("resnet18", truncate=2, weights=tmp_path / "w.pth")
    assert torch.equal(cut.layer2[0].conv1.weight, whole.layer2[0].conv1.weight)
    grey = build_backbone("resnet18", in_chans=1, weights=tmp_path / "w.pth")
    assert torch.allclose(grey.conv1.weight, whole.conv1.weight.sum(1, keepdim=True))


@pytest.mark.parametrize("spoil, words", [
    (lambda s: s.pop("layer1.0.conv1.weight"), "layer1.0.conv1.weight is missing"), (lambda s: s.update(extra=torch.zeros(1)), "extra is unknown"),
    (lambda s: s.update({"bn1.weight": torch.zeros(3)}), r"bn1.weight is \(3,\) instead of \(64,\)")])
def test_misfits_are_named(spoil, words, whole, tmp_path):
    state = dict(whole.state_dict())
    spoil(state)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=words):
        build_backbone("resnet18", weights=tmp_path / "w.pth")


class Payload:
    def __reduce__(self): return (print, ("code in a pickle was run",))


def test_bad_files_are_refused_in_words_and_nothing_in_them_runs(tmp_path, capsys):
    with pytest.raises(FileNotFoundError, match="no weight file"):
        read_weights(tmp_path / "nowhere.pth")
    torch.save({"a": Payload()}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match="Python objects"):
        read_weights(tmp_path / "evil.pth")
    for name in ("torn.pth", "torn.safetensors"):
        (tmp_path / name).write_bytes(b"\x80half a file")
        with pytest.raises(ValueError, match="torn"):
            read_weights(tmp_path / name)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="no table of tensors"):
        read_weights(tmp_path / "list.pth")
    assert capsys.readouterr().out == ""


def test_load_weights_leaves_the_module_alone_when_it_refuses(tmp_path):
    net = small()
    before = net.backbone.conv1[0].weight.clone()
    torch.save({"conv1.0.weight": torch.zeros_like(before)}, tmp_path / "part.pth")
    with pytest.raises(ValueError, match="is missing"):
        load_weights(net.backbone, tmp_path / "part.pth")
    assert torch.equal(net.backbone.conv1[0].weight, before)


# head and features ---------------------------------------------------------------------------------------------------

def test_head_starts_as_released():
    head = EmbeddingHead(2048, 751)
    assert not head.linear.bias.any() and not head.classifier.bias.any()
    assert abs(head.linear.weight.std().item() / math.sqrt(2 / 512) - 1) < 0.01
    assert abs(head.classifier.weight.std().item() / 0.001 - 1) < 0.02
    assert (head.norm.weight == 1).all() and not head.norm.bias.any() and head.dropout.p == 0.5
    loss = F.cross_entropy(head(torch.randn(64, 2048)), torch.zeros(64, dtype=torch.long))
    assert abs(loss.item() - math.log(751)) < 0.02
    with pytest.raises(ValueError, match="at least one class"):
        EmbeddingHead(8, 0)


def test_feature_is_taken_before_dropout_and_classifier():
    net, images = small().train(), torch.rand(8, 3, 64, 32)
    pooled = net.backbone(images).detach()
    assert torch.equal(net.head.embed(pooled), net.head.embed(pooled))  # no dropout in the feature, even in training
    assert not torch.equal(net.head(pooled), net.head(pooled))
    net.eval()
    assert torch.allclose(net.logits(images), net.head.classifier(net.features(images, normalize=False)), atol=1e-6)
    assert torch.equal(net.logits(images), net(images))


def test_mirrored_features():
    net, images = small().eval(), torch.rand(5, 3, 64, 32)
    with torch.no_grad():
        plain, both = net.features(images), net.features(images, mirror=True)
        assert torch.allclose(both, net.features(images.flip(-1), mirror=True), atol=1e-6)
        assert torch.allclose(both, F.normalize(plain + net.features(images.flip(-1))), atol=1e-6)
        raw = net.features(images, mirror=True, normalize=False)
    assert torch.allclose(both.norm(dim=1), torch.ones(5)) and not torch.allclose(raw.norm(dim=1), torch.ones(5))


# activation maps -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("pool", POOLS)
def test_activation_maps_add_up_to_the_score(pool):
    net = small(pool).double()
    nn.init.normal_(net.head.classifier.weight)
    net.train()(torch.rand(8, 3, 64, 32).double())  # running statistics that are not the initial ones
    net.eval()
    images, classes = torch.rand(3, 3, 64, 32).double(), torch.tensor([0, 3, 6])
    maps = activation_maps(net, images, classes)
    with torch.no_grad():
        score, constant = net(images).gather(1, classes[:, None])[:, 0], net.head(torch.zeros(1, 256).double())[0, classes]
    assert maps.shape[0] == 3
    assert torch.allclose(maps.sum((1, 2)), (score - constant).float(), rtol=1e-3, atol=1e-4)
    assert all(p.grad is None for p in net.parameters())


def test_strength_maps_need_no_class_and_training_mode_is_refused():
    net, images = small().eval(), torch.rand(2, 3, 64, 32)
    maps = activation_maps(net, images)
    assert (maps >= 0).all() and maps.shape == net.backbone.maps(images).shape[:1] + net.backbone.maps(images).shape[2:]
    with torch.no_grad(): assert activation_maps(net, images, torch.tensor([0, 1])).shape == maps.shape
    with pytest.raises(ValueError, match="evaluation mode"):
        activation_maps(net.train(), images)


def test_network_learns():
    net, labels = small(classes=2), torch.arange(16) % 2
    images = torch.randn(16, 3, 64, 32) + labels[:, None, None, None]
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for _ in range(12):
        loss = F.cross_entropy(net(images), labels)
        optimizer.zero_grad(), loss.backward(), optimizer.step()
        losses.append(loss.item())
    assert abs(losses[0] - math.log(2)) < 0.05 and losses[-1] < 0.3
    assert isinstance(net, ReIDNetwork)
