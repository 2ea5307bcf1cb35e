"""A paper's layer table beside the living network's."""
import pytest
import torch
from torch import nn

from dgnb.catalogue import Expected
from dgnb.layer_claims import beside_paper, differences


def paper(**rows):
    return [Expected("t", row, metric, value) for row, values in rows.items() for metric, value in zip(("kernel", "stride", "output", "parameters"), values)]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU())
        self.branches = nn.ModuleList([nn.Conv2d(4, 2, 1), nn.Sequential(nn.Conv2d(4, 2, 1), nn.Conv2d(2, 2, 3, padding=1))])

    def forward(self, x):
        x = self.first(x)
        return torch.cat([branch(x) for branch in self.branches], 1)


ROWS = {"first": "first.0", "branches": "branches.*"}
RIGHT = dict(first=("3x3", 2, "4x3x2", 112), branches=("1x1, 3x3", 1, "4x3x2", 10 + 10 + 38))


def compare(**changes):
    with torch.device("meta"):
        net = Net()
        return beside_paper(net, torch.zeros(1, 3, 6, 4), rows=ROWS, expected=paper(**(RIGHT | changes), total=(None, None, "4x3x2", 170)),
                            totals={"total": net}, side_by_side=("branches",))


def test_a_right_table_agrees_in_every_cell():
    table = compare()
    assert differences(table, "kernel", "stride", "output", "parameters") == []
    assert list(table.layer) == ["first", "branches", "total"] and table["ours parameters"].tolist() == [112, 58, 170]


@pytest.mark.parametrize(("changes", "column", "said"), [
    (dict(first=("5x5", 2, "4x3x2", 112)), "kernel", "first: kernel 3x3 where the paper has 5x5"),
    (dict(first=("3x3", 1, "4x3x2", 112)), "stride", "first: stride 2 where the paper has 1"),
    (dict(branches=("1x1, 3x3", 1, "2x3x2", 58)), "output", "branches: output 4x3x2 where the paper has 2x3x2"),
    (dict(branches=("1x1, 3x3", 1, "4x3x2", 57)), "parameters", "branches: parameters 58 where the paper has 57"),
])
def test_each_kind_of_difference_is_found_and_named(changes, column, said):
    table = compare(**changes)
    assert differences(table, column) == [said] == differences(table, "kernel", "stride", "output", "parameters")


def test_cells_the_paper_leaves_out_are_not_compared():
    assert differences(compare(branches=(None, None, None, None)), "kernel", "stride", "output", "parameters") == []


def test_a_row_without_layers_is_named():
    with pytest.raises(ValueError, match="differ in Conv9"):
        compare(Conv9=("3x3", 1, "4x3x2", 1))
