"""The table of layers: shapes and counts against arithmetic, order, sharing, and that looking changes nothing."""
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dgnb.layers import count_parameters, evaluating, layer_names, layer_table, shape_of


class Net(nn.Module):
    """Layers used in another order than they are made, one of them twice, one never."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(8, 3)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Sequential(nn.BatchNorm2d(8), nn.ReLU()))
        self.twice = nn.Conv2d(8, 8, 1)
        self.unused = nn.Linear(5, 5)

    def forward(self, x):
        return self.last(self.pool(x))

    def pool(self, x):
        return self.twice(self.twice(self.body(x))).mean((2, 3))


def test_shapes_counts_order_and_calls():
    table = layer_table(Net(), torch.zeros(2, 3, 6, 5)).set_index("layer")
    assert list(table.index) == ["body.0", "body.1.0", "body.1.1", "twice", "last", "unused"]
    assert table.output.to_dict() == {"body.0": (8, 6, 5), "body.1.0": (8, 6, 5), "body.1.1": (8, 6, 5), "twice": (8, 6, 5), "last": (3,), "unused": None}
    assert table.parameters.to_dict() == {"body.0": 224, "body.1.0": 16, "body.1.1": 0, "twice": 72, "last": 27, "unused": 30}
    assert table.calls.to_dict() == {"body.0": 1, "body.1.0": 1, "body.1.1": 1, "twice": 2, "last": 1, "unused": 0}
    assert table.parameters.sum() == count_parameters(Net())


def test_rows_merge_layers():
    table = layer_table(Net(), torch.zeros(1, 3, 6, 5), rows={"head": "last", "body": ["body.*", "twice"]})
    assert table.layer.tolist() == ["body", "head"] and table.parameters.tolist() == [312, 27] and table.output.tolist() == [(8, 6, 5), (3,)]


@given(widths=st.lists(st.integers(1, 9), min_size=2, max_size=5))
@settings(max_examples=25, deadline=None)
def test_counts_are_arithmetic(widths):
    net = nn.Sequential(*[nn.Linear(a, b) for a, b in zip(widths, widths[1:])])
    table = layer_table(net, torch.zeros(1, widths[0]))
    assert table.parameters.tolist() == [a * b + b for a, b in zip(widths, widths[1:])]
    assert table.output.tolist() == [(b,) for b in widths[1:]]


def test_depth_opens_layers():
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.more = Net(), nn.ModuleList([nn.ReLU()])

        def forward(self, x):
            return self.more[0](self.net(x))

    assert layer_names(Outer()) == ["net", "more.0"]
    assert layer_names(Outer(), 2)[:2] == ["net.last", "net.body.0"]
    deep = layer_table(Outer(), torch.zeros(1, 3, 4, 4), depth=2)
    assert deep.layer.tolist()[0] == "net.body.0" and deep.parameters.sum() == count_parameters(Net())


def test_leaves_the_network_as_it_was():
    net = Net().train()
    net.body[1].eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    modes, state = [m.training for m in net.modules()], torch.get_rng_state()
    layer_table(net, torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)))
    assert modes == [m.training for m in net.modules()] and torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not any(m._forward_hooks for m in net.modules())
    with pytest.raises(RuntimeError):
        layer_table(net, torch.zeros(2, 9, 4, 4))
    assert modes == [m.training for m in net.modules()] and not any(m._forward_hooks for m in net.modules())


def test_other_methods_and_kinds_of_output():
    @dataclass
    class Pair:
        a: torch.Tensor
        b: torch.Tensor

    x = torch.zeros(2, 3, 4)
    assert shape_of(Pair(x, x[:, 0])) == ((3, 4), (4,)) and shape_of({"x": [x]}) == (((3, 4),),) and shape_of(7) is None
    table = layer_table(Net(), torch.zeros(1, 3, 4, 4), call="pool").set_index("layer")
    assert table.output["twice"] == (8, 4, 4) and table.output["last"] is None


def test_shared_weights_are_counted_once():
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    assert count_parameters(first, second) == 24 and count_parameters(first, first) == 20
    first.bias.requires_grad_(False)
    assert count_parameters(first, second, trainable=True) == 20


def test_unknown_layer_is_named():
    with pytest.raises(ValueError, match="Net has no layer 'boddy'; it has last, body.0"):
        layer_table(Net(), torch.zeros(1, 3, 4, 4), rows={"x": "boddy"})
    with pytest.raises(ValueError, match="no layer"):
        layer_table(Net(), torch.zeros(1, 3, 4, 4), rows={"x": "body*.1.0.weight"})


def test_meta_device_needs_no_memory():
    with torch.device("meta"):
        net = nn.Sequential(nn.Conv2d(3, 4096, 3), nn.Conv2d(4096, 4096, 3))
        table = layer_table(net, torch.zeros(1, 3, 64, 64))
    assert table.output.tolist() == [(4096, 62, 62), (4096, 60, 60)] and table.parameters.sum() == 4096 * 28 + 4096 * (9 * 4096 + 1)


def test_evaluating_restores_after_an_error():
    net = nn.Sequential(nn.Dropout(), nn.Linear(2, 2))
    with pytest.raises(KeyError), evaluating(net):
        assert not net.training and not net[0].training
        raise KeyError
    assert net.training and net[0].training
