"""Drawings of methods: where things are put, and that they can be read on a dark page too."""
import numpy as np
import pytest
from matplotlib.patches import Rectangle

from dgnb.diagrams import INK, PAPER, Diagram
from dgnb.figures import THEMES, figure_svg


@pytest.fixture
def sheet():
    return Diagram(4, 3)


def rectangles(sheet):
    return [p.get_bbox().bounds for p in sheet.axes.patches if isinstance(p, Rectangle)]


def test_an_inch_is_an_inch(sheet):
    assert sheet.figure.get_size_inches().tolist() == [4, 3] and sheet.axes.get_xlim() == (0, 4) and sheet.axes.get_ylim() == (0, 3)
    assert sheet.axes.get_position().bounds == (0, 0, 1, 1)


def test_pictures_stand_upright(sheet):
    image = np.zeros((4, 2, 3), np.uint8)
    image[0] = 255  # the upper row is white
    sheet.picture(image, 1, 1, 0.5, 1, frame="red", words="below")
    laid = sheet.axes.images[0]
    assert laid.get_extent() == [1, 1.5, 1, 2] and laid.origin == "upper" and laid.get_array()[0].min() == 255
    assert rectangles(sheet) == [(1, 1, 0.5, 1)] and sheet.axes.texts[0].get_position() == (1.25, pytest.approx(0.87))
    with pytest.raises(ValueError):
        sheet.picture(np.zeros(3), 0, 0, 1, 1)


def test_cells_count_from_the_top_left(sheet):
    middle = sheet.cell((1, 1, 2, 1), (4, 8), (0, 1), "red")
    assert rectangles(sheet)[-1] == pytest.approx((1.25, 1.75, 0.25, 0.25)) and middle == pytest.approx((1.375, 1.875))
    sheet.cell((1, 1, 2, 1), (4, 8), (0, 1), "red", around=1)
    assert rectangles(sheet)[-1] == pytest.approx((1, 1.5, 0.75, 0.5))  # cut off at the border


def test_maps_share_limits(sheet):
    sheet.map(np.array([[0.2, 0.4]]), 0, 0, 1, 1, limits=(0, 1))
    assert sheet.axes.images[0].get_clim() == (0, 1)


def test_layers_are_as_tall_as_their_maps(sheet):
    end = sheet.layers([(16, 64, 32), (64, 16, 8)], 0.5, 1.5, 1.0, ["C0", "C1"])
    first, second = rectangles(sheet)
    assert first[3] == pytest.approx(1.0) and second[3] == pytest.approx(0.25) and second[2] > first[2] and first[1] == pytest.approx(1.0)
    assert end == pytest.approx(second[0] + second[2])


def test_a_dark_page_swaps_ink_and_paper(sheet):
    sheet.box(1, 1, "G")
    sheet.arrow((0, 0), (1, 1), dashed=True)
    light, dark = (figure_svg(sheet.figure, "a box and an arrow", theme).decode() for theme in ("light", "dark"))
    assert INK in light and PAPER in light and INK not in dark and THEMES["dark"]["ink"] in dark
