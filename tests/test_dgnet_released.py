"""The authors' checkpoint: files of the same names and shapes with random numbers, and what must come out of them."""
from __future__ import annotations

import json
import sys
import warnings

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from dgnb.dgnet.joint import load_dgnet
from dgnb.dgnet.own_people import open_model
from dgnb.dgnet.released_weights import (DECODER_NAMES, LICENCE, STRUCTURE_NAMES, check_config, find_checkpoint, import_released, load_released, non_local_blocks,
                                         read_checkpoint)
from dgnb.dgnet.step import dgnet_settings

CLASSES = 11


def _conv(state: dict, name: str, inputs: int, outputs: int, kernel: int) -> None:
    state[f"{name}.weight"] = torch.randn(outputs, inputs, kernel, kernel) / (inputs * kernel * kernel) ** 0.5
    state[f"{name}.bias"] = 0.1 * torch.randn(outputs)


def _linear(state: dict, name: str, inputs: int, outputs: int) -> None:
    state[f"{name}.weight"], state[f"{name}.bias"] = torch.randn(outputs, inputs) / inputs**0.5, 0.1 * torch.randn(outputs)


def _batch_norm(state: dict, name: str, channels: int) -> None:
    state[f"{name}.weight"], state[f"{name}.bias"] = 1 + 0.1 * torch.randn(channels), 0.1 * torch.randn(channels)
    state[f"{name}.running_mean"], state[f"{name}.running_var"] = 0.1 * torch.randn(channels), 0.5 + torch.rand(channels)
    state[f"{name}.num_batches_tracked"] = torch.tensor(100_000)


def identity_state(classes: int = CLASSES) -> dict[str, torch.Tensor]:
    """Names and shapes of an id_XXXXXXXX.pt file, written down by hand but for torchvision's ResNet."""
    resnet, state = torchvision.models.resnet50(weights=None), {}
    for name, value in resnet.state_dict().items():
        state[f"model.{name}"] = 0.5 + torch.rand_like(value) if name.endswith("running_var") else value.clone()
    for number in (1, 2):
        _linear(state, f"classifier{number}.add_block.0", 2048, 512)
        _batch_norm(state, f"classifier{number}.add_block.1", 512)
        _linear(state, f"classifier{number}.classifier.0", 512, classes)
    return state


def generator_state() -> dict[str, torch.Tensor]:
    """Names and shapes of a gen_XXXXXXXX.pt file, written down by hand."""
    state: dict[str, torch.Tensor] = {}
    for n, (inputs, outputs) in enumerate(((1, 16), (16, 32), (32, 32), (32, 64))):
        _conv(state, f"enc_content.model.{n}.conv", inputs, outputs, 3)
    for i in range(4):
        for j in range(2):
            _conv(state, f"enc_content.model.4.model.{i}.model.{j}.conv", 64, 64, 3)
    _conv(state, "enc_content.model.5.conv1.conv", 64, 32, 1)
    for branch in ("conv6", "conv12", "conv18"):
        _conv(state, f"enc_content.model.5.{branch}.0.conv", 64, 32, 1)
        _conv(state, f"enc_content.model.5.{branch}.1.conv", 32, 32, 3)
    _conv(state, "enc_content.model.5.fuse.conv", 128, 128, 1)
    for i in range(4):
        for j in range(2):
            name = f"dec.model.1.model.{i}.model.{j}"
            state[f"{name}.norm.running_mean"], state[f"{name}.norm.running_var"] = torch.zeros(128), torch.ones(128)
            _conv(state, f"{name}.conv", 128, 128, 3)
    for at, inputs, outputs in ((3, 128, 64), (5, 64, 32)):
        state[f"dec.model.{at}.norm.gamma"], state[f"dec.model.{at}.norm.beta"] = torch.rand(outputs), 0.1 * torch.randn(outputs)
        _conv(state, f"dec.model.{at}.conv", inputs, outputs, 5)
    for at, outputs, kernel in ((6, 32, 3), (7, 32, 3), (8, 3, 1)):
        _conv(state, f"dec.model.{at}.conv", 32, outputs, kernel)
    for kind in "wb":
        for chunk in (1, 2, 3, 4):
            for n, (inputs, outputs) in enumerate(((2048, 512), (512, 512), (512, 256))):
                _linear(state, f"mlp_{kind}{chunk}.model.{n}.fc", inputs, outputs)
    return state


def add_non_local(state: dict, name: str, channels: int) -> None:
    """What the published files hold besides."""
    for conv, outputs in (("query_conv", channels // 8), ("key_conv", channels // 8), ("value_conv", channels)):
        _conv(state, f"{name}.{conv}", channels, outputs, 1)
    state[f"{name}.gamma"] = torch.zeros(1)


def write_files(folder, identity: dict, generator: dict, iteration: int = 100_000):
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"a": identity}, folder / f"id_{iteration:08d}.pt")
    torch.save({"a": generator}, folder / f"gen_{iteration:08d}.pt")
    return folder


def change_files(released, folder, change):
    """A copy of the files in which the change is made; what is not changed is linked."""
    source, identity, generator, _ = released
    new = dict(identity), dict(generator)
    change(*new)
    for kind, before, after in (("id", identity, new[0]), ("gen", generator, new[1])):
        same = before.keys() == after.keys() and all(before[name] is after[name] for name in before)
        name = f"{kind}_00100000.pt"
        (folder / name).hardlink_to(source / name) if same else torch.save({"a": after}, folder / name)


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """(folder, the two tables of tensors, the model read from it)."""
    torch.manual_seed(0)
    identity, generator = identity_state(), generator_state()
    add_non_local(generator, "enc_content.model.4.model.3.nonloc", 64)
    add_non_local(generator, "dec.model.1.model.3.nonloc", 128)
    folder = write_files(tmp_path_factory.mktemp("released"), identity, generator)
    return folder, identity, generator, load_released(folder)


def raw_conv(state, name, x, padding=0, stride=1, dilation=1):
    return F.conv2d(F.pad(x, (padding,) * 4, mode="reflect") if padding else x, state[f"{name}.weight"], state[f"{name}.bias"], stride, 0, dilation)


def raw_norm(x):
    """Instance norm by its definition."""
    mean, var = x.mean((2, 3), keepdim=True), x.var((2, 3), unbiased=False, keepdim=True)
    return (x - mean) / (var + 1e-5).sqrt()


def raw_mlp(state, name, x):
    for n in range(3):
        x = F.linear(x, state[f"{name}.model.{n}.fc.weight"], state[f"{name}.model.{n}.fc.bias"])
        x = F.leaky_relu(x, 0.2) if n < 2 else x
    return x


def raw_structure(state, images):
    """E_s from the raw tensors."""
    x, act = images.mean(1, keepdim=True), lambda x: F.leaky_relu(x, 0.2)
    for n, stride in enumerate((2, 1, 1, 2)):
        x = act(raw_norm(raw_conv(state, f"enc_content.model.{n}.conv", x, 1, stride)))
    for i in range(4):
        y = act(raw_norm(raw_conv(state, f"enc_content.model.4.model.{i}.model.0.conv", x, 1)))
        x = x + raw_norm(raw_conv(state, f"enc_content.model.4.model.{i}.model.1.conv", y, 1))
    branches = [raw_norm(raw_conv(state, "enc_content.model.5.conv1.conv", x))]
    for branch, dilation in (("conv6", 3), ("conv12", 6), ("conv18", 9)):
        y = act(raw_norm(raw_conv(state, f"enc_content.model.5.{branch}.0.conv", x)))
        branches.append(raw_norm(raw_conv(state, f"enc_content.model.5.{branch}.1.conv", y, dilation, 1, dilation)))
    return raw_norm(raw_conv(state, "enc_content.model.5.fuse.conv", torch.cat(branches, 1)))


def raw_decoder(state, x, code):
    """G from the raw tensors: chunk k of the code drives block k, the first half of each MLP's output its first norm."""
    for k in range(4):
        chunk = code[:, 2048 * k:2048 * (k + 1)]
        scale, shift = (raw_mlp(state, f"mlp_{kind}{k + 1}", chunk)[:, :, None, None] for kind in "wb")
        name = f"dec.model.1.model.{k}.model"
        y = F.leaky_relu(scale[:, :128] * raw_norm(raw_conv(state, f"{name}.0.conv", x, 1)) + shift[:, :128], 0.2)
        x = x + scale[:, 128:] * raw_norm(raw_conv(state, f"{name}.1.conv", y, 1)) + shift[:, 128:]
    for at in (3, 5):
        x = raw_conv(state, f"dec.model.{at}.conv", x.repeat_interleave(2, 2).repeat_interleave(2, 3), 2)
        flat = x.flatten(1)
        x = (x - flat.mean(1)[:, None, None, None]) / (flat.std(1)[:, None, None, None] + 1e-5)
        x = F.leaky_relu(x * state[f"dec.model.{at}.norm.gamma"][:, None, None] + state[f"dec.model.{at}.norm.beta"][:, None, None], 0.2)
    for at in (6, 7):
        x = F.leaky_relu(raw_conv(state, f"dec.model.{at}.conv", x, 1), 0.2)
    return raw_conv(state, "dec.model.8.conv", x)


def raw_maps(state, images):
    """The last map of torchvision's ResNet-50 with stride 1 at its end."""
    net = torchvision.models.resnet50(weights=None)
    net.load_state_dict({name.removeprefix("model."): value for name, value in state.items() if name.startswith("model.")})
    net.layer4[0].conv2.stride = net.layer4[0].downsample[0].stride = (1, 1)
    net = nn.Sequential(*list(net.children())[:-2]).eval()
    with torch.no_grad():
        return net(images)


@pytest.fixture(scope="module")
def images():
    return torch.randn(2, 3, 256, 128, generator=torch.Generator().manual_seed(1))


def test_every_number_arrives(released):
    """Each tensor of the files is in the model once, except the known spare ones; the counts are the fact sheet's."""
    _, identity, generator, model = released
    spare = ("model.fc.", "nonloc.", "norm.running_")
    wanted = [v for k, v in (identity | generator).items() if not any(s in k for s in spare if not (s == "norm.running_" and k.startswith(("model.", "classifier"))))]
    found = list(model.state_dict().values())
    assert len(found) == len(wanted)
    total = lambda values: sorted((tuple(v.shape), round(float(v.double().sum()), 6)) for v in values)
    assert total(found) == total(wanted)
    assert sum(p.numel() for p in model.structure.parameters()) == 380_544
    assert sum(p.numel() for p in model.decoder.parameters()) == 1_455_555 + 11_544_576
    assert not model.training and model.settings == dgnet_settings("paper")


def test_one_convolution_one_mlp_one_head_by_hand(released, images):
    _, identity, generator, model = released
    with torch.no_grad():
        first = F.leaky_relu(raw_norm(raw_conv(generator, "enc_content.model.0.conv", images.mean(1, keepdim=True), 1, 2)), 0.2)
        assert torch.allclose(model.structure.layers[0](images.mean(1, keepdim=True)), first, atol=1e-5)
        code = torch.randn(3, 8192)
        styles = model.decoder.styles(code)
        for k in range(4):
            scale, shift = (raw_mlp(generator, f"mlp_{kind}{k + 1}", code[:, 2048 * k:2048 * (k + 1)]) for kind in "wb")
            expected = torch.stack([scale[:, :128], shift[:, :128], scale[:, 128:], shift[:, 128:]], 1)
            assert torch.allclose(styles[:, k], expected, atol=1e-5)
        pooled = torch.randn(3, 2048)
        for number, head in ((1, model.appearance.prim), (2, model.appearance.fine)):
            name = f"classifier{number}"
            y = F.linear(pooled, identity[f"{name}.add_block.0.weight"], identity[f"{name}.add_block.0.bias"])
            norm = f"{name}.add_block.1"
            y = (y - identity[f"{norm}.running_mean"]) / (identity[f"{norm}.running_var"] + 1e-5).sqrt() * identity[f"{norm}.weight"] + identity[f"{norm}.bias"]
            assert torch.allclose(head.embed(pooled), y, atol=1e-4)
            assert torch.allclose(head.classify(y), F.linear(y, identity[f"{name}.classifier.0.weight"], identity[f"{name}.classifier.0.bias"]), atol=1e-5)


def test_the_whole_swap_by_hand(released, images):
    """G(a_0, s_1) from the raw tensors: torchvision's ResNet, plain convolutions, no code of ours."""
    _, identity, generator, model = released
    with torch.no_grad():
        maps = raw_maps(identity, images[:1])
        code = F.adaptive_max_pool2d(maps, (4, 1)).flatten(1)
        assert torch.allclose(model.appearance.codes(images[:1]), code, atol=1e-4 * float(code.abs().max()))
        structure = raw_structure(generator, images[1:])
        assert torch.allclose(model.structure(images[1:]), structure, atol=1e-3)
        expected = raw_decoder(generator, structure, code)
    painted = model.swap(images[:1], images[1:])
    assert painted.shape == (1, 3, 256, 128)
    assert float((painted - expected).abs().max()) < 1e-3 * float(expected.abs().max())


def test_features_as_in_the_released_test(released, images):
    """Each half normalised, mirrored halves added, normalised again."""
    _, identity, _, model = released
    sums = []
    for number in (1, 2):
        halves = []
        for view in (images[:1], images[:1].flip(-1)):
            pooled, name = raw_maps(identity, view).amax((2, 3)), f"classifier{number}.add_block"
            y = F.linear(pooled, identity[f"{name}.0.weight"], identity[f"{name}.0.bias"])
            y = F.batch_norm(y, identity[f"{name}.1.running_mean"], identity[f"{name}.1.running_var"], identity[f"{name}.1.weight"], identity[f"{name}.1.bias"])
            halves.append(F.normalize(y))
        sums.append(F.normalize(sum(halves)))
    prim, fine = model.features(images[:1])
    assert torch.allclose(prim, sums[0], atol=1e-4) and torch.allclose(fine, sums[1], atol=1e-4)


def test_imported_run_is_a_model_like_any_other(released, images, tmp_path):
    folder, _, _, model = released
    run = import_released(folder, tmp_path)
    assert run.folder.parent == tmp_path and run.record["licence"] == LICENCE and "not for commercial use" in LICENCE
    assert run.metrics["identities"] == CLASSES and run.metrics["iteration"] == 100_000 and run.metrics["skipped"]
    again = open_model(run.folder)
    assert not again.synthetic and again.note and "commercial" in again.note
    assert torch.equal(again.network.swap(images[:1], images[1:]), model.swap(images[:1], images[1:]))
    assert import_released(folder, tmp_path).folder == run.folder
    assert load_dgnet(run).settings == model.settings


def test_skips_the_known_and_nothing_else(released):
    _, identity, generator, _ = released
    assert non_local_blocks(generator) == {"enc_content.model.4.model.3.nonloc", "dec.model.1.model.3.nonloc"}
    without = {k: v for k, v in generator.items() if "nonloc.key_conv" not in k}
    assert non_local_blocks(without) == set(), "only a complete block counts"
    assert not non_local_blocks(identity)


@pytest.mark.parametrize(("change", "message"), [
    (lambda i, g: g.pop("mlp_b3.model.1.fc.weight"), "mlp_b3.model.1.fc.weight is missing"),
    (lambda i, g: g.update({"dec.model.9.conv.weight": torch.zeros(3, 3, 1, 1)}), "dec.model.9.conv.weight is unknown"),
    (lambda i, g: g.update({"enc_content.model.0.conv.weight": torch.zeros(16, 3, 3, 3)}), r"enc_content.model.0.conv.weight is \(16, 3, 3, 3\) instead of \(16, 1, 3, 3\)"),
    (lambda i, g: add_non_local(g, "dec.model.2", 128) or g.pop("dec.model.2.gamma"), "dec.model.2.query_conv.weight is unknown"),
    (lambda i, g: i.update({"model.fc2.weight": torch.zeros(1)}), "model.fc2.weight is unknown"),
    (lambda i, g: i.pop("classifier2.add_block.0.bias"), "classifier2.add_block.0.bias is missing"),
    (lambda i, g: i.pop("classifier1.classifier.0.bias"), "classifier1.classifier.0.bias"),
    (lambda i, g: i.update({"classifier2.classifier.0.bias": torch.zeros(5)}), "classifier2.classifier.0.bias"),
    (lambda i, g: g.update({"dec.model.8.conv.bias": torch.full((3,), float("nan"))}), "dec.model.8.conv.bias .* not finite"),
])
def test_strict(released, tmp_path, change, message):
    change_files(released, tmp_path, change)
    with pytest.raises(ValueError, match=message) as error:
        load_released(tmp_path)
    assert "\n" not in str(error.value)


def test_old_files_without_batch_counts(released, tmp_path, images):
    """PyTorch before 0.4.1 kept no num_batches_tracked."""
    _, identity, generator, model = released
    write_files(tmp_path, {k: v for k, v in identity.items() if not k.endswith("num_batches_tracked")}, generator)
    assert torch.equal(load_released(tmp_path).features(images[:1])[0], model.features(images[:1])[0])


def test_finds_the_newest_pair(tmp_path):
    home = tmp_path / "outputs" / "E0.5" / "checkpoints"
    home.mkdir(parents=True)
    for name in ("id_00090000.pt", "gen_00090000.pt", "id_00100000.pt", "gen_00100000.pt", "id_00110000.pt", "dis_00110000.pt"):
        (home / name).write_bytes(b"")
    for folder in (home, home.parent):
        identity, generator, iteration = find_checkpoint(folder)
        assert (identity.name, generator.name, iteration) == ("id_00100000.pt", "gen_00100000.pt", 100_000)
    assert find_checkpoint(home, 90_000)[2] == 90_000
    with pytest.raises(FileNotFoundError, match="no pair of iteration 80000.* there are 90000, 100000"):
        find_checkpoint(home, 80_000)


def test_wrong_folders_are_explained(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder"):
        find_checkpoint(tmp_path / "nowhere")
    (tmp_path / "net_last.pth").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match="net_last.pth is the teacher"):
        find_checkpoint(tmp_path)
    (tmp_path / "net_last.pth").unlink()
    (tmp_path / "id_00100000.pt").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match="gen_XXXXXXXX.pt"):
        find_checkpoint(tmp_path)


class _Command:
    """Something that would run if the file were unpickled carelessly."""

    def __reduce__(self):
        return print, ("executed",)


def test_nothing_in_a_file_is_run(tmp_path, capsys):
    torch.save({"a": _Command()}, tmp_path / "id_00000001.pt")
    with pytest.raises(ValueError, match="id_00000001.pt holds Python objects besides tensors"):
        read_checkpoint(tmp_path / "id_00000001.pt")
    assert "executed" not in capsys.readouterr().out


@pytest.mark.parametrize(("content", "message"), [(b"", "damaged"), (b"PK\x03\x04 cut", "damaged")])
def test_damaged_files(tmp_path, content, message):
    (tmp_path / "gen_00000001.pt").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_checkpoint(tmp_path / "gen_00000001.pt")


def test_a_file_without_its_table(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "gen_00000001.pt")
    with pytest.raises(ValueError, match="no table 'a'.* state_dict"):
        read_checkpoint(tmp_path / "gen_00000001.pt")


def test_a_config_of_another_network_is_refused(tmp_path):
    checkpoints = tmp_path / "checkpoints"
    checkpoints.mkdir()
    check_config(checkpoints)
    (tmp_path / "config.yaml").write_text("ID_class: 751\nID_stride: 1\npool: max\nsingle: gray\nnorm_id: false\ngen:\n  dim: 16\n  tanh: false\n")
    check_config(checkpoints)
    (tmp_path / "config.yaml").write_text("pool: avg\n")
    with pytest.raises(ValueError, match="config.yaml has pool: 'avg'.* 'max'"):
        check_config(checkpoints)
    (tmp_path / "config.yaml").write_text("gen:\n  tanh: true\n")
    with pytest.raises(ValueError, match="gen.tanh: True"):
        check_config(tmp_path)
    (tmp_path / "config.yaml").write_text("a: [")
    with pytest.raises(ValueError, match="config.yaml is no YAML"):
        check_config(tmp_path)


def test_names_are_one_to_one():
    for pairs in (STRUCTURE_NAMES, DECODER_NAMES):
        assert len(set(pairs.values())) == len(pairs)


def test_the_command(released, tmp_path, monkeypatch, capsys):
    from dgnb.cli import main

    folder = released[0]
    monkeypatch.setattr(sys, "argv", ["dgnb", "import-released", str(folder), "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as end, warnings.catch_warnings():
        warnings.simplefilter("error")
        main()
    out = capsys.readouterr().out
    assert not end.value.code and LICENCE in out and "non-local" in out and f"{CLASSES} identities" in out
    run = next(tmp_path.glob("dgnet-*"))
    assert f"dgnb swap --model {run}" in out
    assert json.loads((run / "record.json").read_text())["spec"]["data"]["set"] == "released"
