"""Figures: refused without words, readable without colour, the same bytes for the same input."""
import base64
import io
import json
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image

from dgnb import figures
from dgnb.figures import (FRAMES, LINES, PALETTE, THEMES, activation_map, as_uint8, bars, curves, figure_pdf, figure_png, figure_svg, heat, image_grid,
                          new_figure, ranked_list, save_figure, save_table, show, small_png, table, table_csv, table_latex, table_markdown, use_style, write_file)

ALT = "A grey square beside a white one."


@pytest.fixture(autouse=True)
def light():
    use_style("light")


def picture(value=0.5, height=16, width=8):
    return np.full((height, width, 3), value)


# words ---------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("alt", ["", "   ", "plot", None, "\n\t "])
def test_a_figure_without_words_is_refused(alt, tmp_path):
    fig = image_grid([picture()])
    with pytest.raises(ValueError, match="alt text"):
        show(fig, alt=alt)
    with pytest.raises(ValueError, match="alt text"):
        save_figure(fig, tmp_path, alt=alt, record={})
    assert list(tmp_path.iterdir()) == []


def test_alt_is_a_required_argument():
    with pytest.raises(TypeError):
        show(image_grid([picture()]))
    with pytest.raises(TypeError):
        save_figure(image_grid([picture()]), "nowhere", record={})


def test_show_outside_ipython_returns_the_figure():
    fig = image_grid([picture()])
    assert show(fig, alt="a grey tile") is fig


def test_show_in_ipython_displays_png_and_words(monkeypatch):
    shown = []
    class Display:
        @staticmethod
        def display(data, raw, metadata): shown.append((data, raw, metadata))
    monkeypatch.setattr(figures, "_in_notebook", lambda: True)
    monkeypatch.setitem(sys.modules, "IPython", type("M", (), {"display": Display, "version_info": (9, 0)}))
    assert show(image_grid([picture()]), alt="one  grey\n tile") is None
    (data, raw, metadata), = shown
    assert raw and data["text/plain"] == "one grey tile" == metadata["image/png"]["alt"]
    import base64
    assert Image.open(io.BytesIO(base64.b64decode(data["image/png"]))).format == "PNG"


def test_show_closes_pyplot_figures(monkeypatch):
    import matplotlib.pyplot as plt
    fig = plt.figure()
    show(fig, alt="an empty figure")
    assert not plt.fignum_exists(fig.number)


# style ---------------------------------------------------------------------------------------------------------------

def luminance(colour):
    return np.asarray(matplotlib.colors.to_rgb(colour)) ** 2.2 @ [0.2126, 0.7152, 0.0722]


@pytest.mark.parametrize("theme", THEMES)
def test_text_has_contrast(theme):
    paper = luminance(THEMES[theme]["paper"]) + 0.05
    for what in ("ink", "muted"):
        ratio = (luminance(THEMES[theme][what]) + 0.05) / paper
        assert max(ratio, 1 / ratio) > 4.5


def test_theme_colours_are_unique_so_that_the_exchange_is_safe():
    values = [v for theme in THEMES.values() for v in theme.values()] + [v for n, v in PALETTE.items() if n != "ink"]
    assert len(values) == len(set(values)) and all(re.fullmatch("#[0-9a-f]{6}", v) for v in values)


def test_unknown_theme_is_refused_with_the_valid_ones():
    with pytest.raises(ValueError, match="dark, light"):
        use_style("drak")


def test_dark_style_reaches_the_figure():
    use_style("dark")
    fig = curves([0, 1], {"a": [0, 1]})
    assert matplotlib.colors.to_hex(fig.get_facecolor()) == THEMES["dark"]["paper"]


def test_style_is_put_in_place_when_nobody_asked():
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        assert matplotlib.colors.to_hex(new_figure().get_facecolor()) == THEMES["light"]["paper"]


# images --------------------------------------------------------------------------------------------------------------

@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_as_uint8_is_the_same_for_every_form(height, width, seed):
    levels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    assert (as_uint8(levels) == levels).all()
    assert (as_uint8(levels / 255) == levels).all()
    assert (as_uint8(torch.from_numpy(levels)) == levels).all()
    if width not in (1, 3):
        assert (as_uint8(torch.from_numpy(levels).permute(2, 0, 1)) == levels).all()
        assert (as_uint8(torch.from_numpy(levels).permute(2, 0, 1).float() / 255) == levels).all()


@pytest.mark.parametrize("bad, words", [
    (np.zeros((4, 4, 2)), "shape"), (np.zeros((0, 4, 3)), "shape"), (np.zeros(5), "shape"), (np.full((4, 4, 3), np.nan), "NaN"),
    (np.full((4, 4, 3), 7.0), "normalisation"), (np.full((4, 4, 3), -2.0), "normalisation")])
def test_what_is_no_image_is_refused(bad, words):
    with pytest.raises(ValueError, match=words):
        as_uint8(bad)


@given(st.integers(1, 3), st.integers(1, 4), st.integers(2, 12), st.integers(2, 9), st.integers(1, 3), st.integers(0, 10**6))
@settings(max_examples=12, deadline=None)
def test_every_pixel_of_a_sheet_is_a_crisp_square(rows, columns, height, width, scale, seed):
    tiles = np.random.default_rng(seed).integers(0, 256, (rows, columns, height, width, 3), dtype=np.uint8)
    drawn = np.asarray(Image.open(io.BytesIO(figure_png(image_grid(tiles, scale=scale, gap=4)))))
    for r in range(rows):
        for c in range(columns):
            y, x = 8 + r * (height * scale + 4), 8 + c * (width * scale + 4)
            assert (drawn[y:y + height * scale, x:x + width * scale] == tiles[r, c].repeat(scale, 0).repeat(scale, 1)).all()


def test_grid_forms_agree():
    tiles = np.random.default_rng(0).random((2, 3, 8, 4, 3))
    nested = figure_png(image_grid(tiles))
    assert figure_png(image_grid(list(tiles.reshape(6, 8, 4, 3)), columns=3)) == nested
    assert figure_png(image_grid([list(row) for row in tiles])) == nested
    assert figure_png(image_grid(torch.from_numpy(tiles.reshape(6, 8, 4, 3)), columns=3)) == nested


def test_empty_tiles_stay_empty_and_tiles_may_differ_in_size():
    fig = image_grid([[None, picture(0, 16, 8)], [picture(0, 8, 8), None]], scale=1, gap=4)
    drawn = np.asarray(Image.open(io.BytesIO(figure_png(fig))))
    paper = [int(THEMES["light"]["paper"][i:i + 2], 16) for i in (1, 3, 5)]
    assert (drawn[8:24, 8:16] == paper).all() and (drawn[8:24, 20:28] == 0).all()
    assert (drawn[28:36, 8:16] == 0).all() and (drawn[36:44, 8:16] == paper).all()


@pytest.mark.parametrize("arguments, words", [
    (dict(images=[]), "no image"), (dict(images=[None]), "no image"), (dict(images=[picture()] * 2, titles=["a"]), "1 titles for 2"),
    (dict(images=[picture()] * 2, frames=["right"] * 3), "3 frames for 2"), (dict(images=[picture()] * 2, row_labels=["a", "b"]), "2 row labels for 1 rows"),
    (dict(images=[picture()] * 2, column_labels=["a"]), "1 column labels for 2 columns")])
def test_sheets_that_do_not_fit_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        image_grid(**arguments)


def test_large_images_are_shrunk_with_antialiasing():
    stripes = np.zeros((256, 128, 3))
    stripes[::2] = 1
    drawn = np.asarray(Image.open(io.BytesIO(figure_png(image_grid([stripes] * 4)))))
    middle = drawn[20:-20, 20:60]
    assert drawn.shape[0] < 150 and abs(middle.mean() - 127.5) < 3 and middle.std() < 12


def test_a_sheet_laid_out_for_a_column_comes_back():
    fig = image_grid(np.random.default_rng(0).random((2, 4, 16, 8, 3)), row_labels=["one", "two"])
    before, size = figure_png(fig), fig.get_size_inches().copy()
    fig.layout_at(8.25 / 2.54)
    assert abs(fig.get_size_inches()[0] * 2.54 - 8.25) < 1e-6
    fig.layout_at()
    assert (fig.get_size_inches() == size).all() and figure_png(fig) == before
    with pytest.raises(ValueError, match="do not fit"):
        fig.layout_at(0.5)


def test_headings_wider_than_their_tile_are_set_smaller():
    fig = image_grid([picture()] * 2, column_labels=["a", "a very long heading indeed"], scale=2)
    sizes = sorted(t.get_fontsize() for t in fig.axes[0].texts)
    assert sizes[0] == 6 and sizes[1] == 8


# ranked lists and maps -----------------------------------------------------------------------------------------------

def test_right_and_wrong_differ_in_more_than_colour():
    right, wrong, junk = FRAMES["right"], FRAMES["wrong"], FRAMES["junk"]
    assert len({right[1], wrong[1], junk[1]}) == 3 and len({right[3], wrong[3], junk[3]}) == 3
    fig = ranked_list(picture(), [picture()] * 3, [True, False, None], [0.1, 0.2, 0.3])
    assert [p.get_linestyle() for p in fig.axes[0].patches][1] != [p.get_linestyle() for p in fig.axes[0].patches][2]
    words = [t.get_text() for t in fig.axes[0].texts]
    assert "✓ 0.10" in words and "✗ 0.20" in words and "– 0.30" in words and {"query", "1", "2", "3"} <= set(words)


def test_ranked_list_takes_arrays_and_many_queries():
    q, g = np.random.default_rng(0).random((2, 8, 4, 3)), np.random.default_rng(1).random((2, 3, 8, 4, 3))
    flags, distances = np.array([[True, False, True], [False] * 3]), np.arange(6).reshape(2, 3) / 10
    fig = ranked_list(q, g, flags, distances, labels=["7", "9"])
    assert [t.get_text() for t in fig.axes[0].texts].count("✗ 0.10") == 1
    one = ranked_list(q[0], g[0], flags[0], distances[0])
    assert len(one.axes[0].images) == 4
    with pytest.raises(ValueError, match="2 queries, 1 rankings"):
        ranked_list(q, g[:1], flags)


def test_heat_rises_in_lightness_and_refuses_nan():
    ramp = np.linspace(0, 1, 8)[None].repeat(4, 0)
    drawn = heat(picture(0.5, 32, 64), ramp).astype(float) @ [0.299, 0.587, 0.114]
    assert (np.diff(drawn.mean(0)) > -1).all() and drawn[:, -1].mean() > drawn[:, 0].mean() + 60
    assert heat(picture(), np.zeros((2, 2))).shape == (16, 8, 3)
    for bad in (np.full((2, 2), np.nan), np.zeros(4)):
        with pytest.raises(ValueError, match="finite h x w"):
            heat(picture(), bad)
    with pytest.raises(ValueError, match="1 maps for 2 images"):
        activation_map([picture()] * 2, [np.zeros((2, 2))])


# plots ---------------------------------------------------------------------------------------------------------------

def test_lines_differ_in_dash_and_marker():
    fig = curves(range(5), {str(i): np.arange(5) + i for i in range(6)}, {"0": (np.arange(5) - 1, np.arange(5) + 1)})
    lines = fig.axes[0].lines
    assert len({str(l._unscaled_dash_pattern) for l in lines}) == 6 and len({l.get_marker() for l in lines}) == 6
    assert len(fig.axes[0].collections) == 1 and len(LINES) == 6
    with pytest.raises(ValueError, match="'b' has 2 values for 3"):
        curves([1, 2, 3], {"a": [1, 2, 3], "b": [1, 2]})


def test_bars_carry_intervals_as_ends():
    fig = bars(["x", "y"], {"a": [1.0, 2.0], "b": [3.0, np.nan]}, {"a": ([0.5, 1.8], [1.2, 2.6])})
    segments = fig.axes[0].collections[0].get_segments()
    assert np.allclose([s[:, 1] for s in segments], [[0.5, 1.2], [1.8, 2.6]])
    assert len({p.get_hatch() for p in fig.axes[0].patches}) == 2
    with pytest.raises(ValueError, match="'a' has 1 values for 2"):
        bars(["x", "y"], {"a": [1]})


# tables --------------------------------------------------------------------------------------------------------------

cells = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=12)


@given(st.lists(st.tuples(cells, st.floats(-1e6, 1e6)), min_size=1, max_size=5))
@settings(max_examples=40, deadline=None)
def test_markdown_rows_keep_their_columns_whatever_is_in_them(rows):
    text = table_markdown(pd.DataFrame(rows, columns=["name", "value"]))
    lines = text.removesuffix("\n").split("\n")
    assert len(lines) == len(rows) + 2
    assert all(len(re.findall(r"(?<!\\)\|", line.replace("\\\\", ""))) == 3 for line in lines)


@given(st.lists(st.tuples(cells, st.floats(allow_nan=True, allow_infinity=False)), min_size=1, max_size=5))
@settings(max_examples=40, deadline=None)
def test_csv_comes_back(rows):
    frame = pd.DataFrame(rows, columns=["name", "value"])
    back = pd.read_csv(io.StringIO(table_csv(frame)), keep_default_na=False, na_values={"value": [""]}, dtype={"name": str})
    assert np.allclose(back.value, frame.value, rtol=1e-14, equal_nan=True) and back.name.tolist() == frame.name.tolist()


def test_latex_is_escaped_and_has_its_columns():
    frame = pd.DataFrame({"a_b": ["50% & more", "x\\y"], "n": [0.12345, np.nan]}, index=pd.Index(["#1", "$2"], name="row"))
    text = table_latex(frame, digits=2)
    assert r"50\% \& more" in text and r"x\textbackslash{}y" in text and r"\#1" in text and r"\$2" in text and "0.12" in text
    assert r"\begin{tabular}{lrr}" in text and all(line.count(" & ") == 2 for line in text.split("\n") if line.endswith(r"\\"))
    assert not re.search(r"(?<!\\)[%#_]", text.replace(r"\begin{tabular}", ""))


def test_index_appears_when_it_says_something():
    frame = pd.DataFrame({"n": [1, 2]})
    assert table_markdown(frame).startswith("| n |") and table_markdown(frame.set_axis(["x", "y"])).split("\n")[2] == "| x | 1 |"
    assert table_markdown(frame.rename_axis("k")).startswith("| k | n |")
    with pytest.raises(ValueError, match="csv, latex, markdown"):
        table(frame, "html")


# files ---------------------------------------------------------------------------------------------------------------

def some_figures():
    x = np.arange(4.0)
    return [image_grid(np.random.default_rng(0).random((3, 16, 8, 3)), titles=["a", "b", "c"], frames=["right", "wrong", "junk"]),
            curves(x, {"a": x, "b": x**2}, {"a": (x - 1, x + 1)}, "x", "y", "t"), bars(["u", "v"], {"a": [1, 2]})]


@pytest.mark.parametrize("which", range(3))
def test_files_are_the_same_byte_for_byte(which, tmp_path):
    both = [save_figure(some_figures()[which], tmp_path / str(i), alt=ALT, record={"seed": 1}, pdf_width="single") for i in range(2)]
    assert [p.name for p in both[0]] == ["figure.png", "figure.svg", "figure.txt", "figure.pdf", "record.json"]
    assert [p.read_bytes() for p in both[0]] == [p.read_bytes() for p in both[1]]
    assert not [p for p in tmp_path.rglob("*.part")]


def test_files_are_the_same_in_another_process_without_ipython(tmp_path):
    code = ("import sys; sys.modules['IPython'] = None\nimport numpy as np\nfrom dgnb.figures import curves, save_figure, show\n"
            f"x = np.arange(4.0)\nfig = curves(x, {{'a': x}})\nassert show(fig, alt={ALT!r}) is fig and 'matplotlib.pyplot' not in sys.modules\n"
            f"save_figure(fig, sys.argv[1], alt={ALT!r}, record={{}}, pdf_width='double')")
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "there")], check=True, env={**os.environ, "PYTHONHASHSEED": "1"}, timeout=300)
    x = np.arange(4.0)
    for path in save_figure(curves(x, {"a": x}), tmp_path / "here", alt=ALT, record={}, pdf_width="double"):
        assert path.read_bytes() == (tmp_path / "there" / path.name).read_bytes(), path.name


def test_a_figure_may_be_saved_again():
    for fig in some_figures():
        first = figure_png(fig), figure_svg(fig, ALT), figure_pdf(fig, "single")
        assert first == (figure_png(fig), figure_svg(fig, ALT), figure_pdf(fig, "single"))


def test_dark_svg_differs_in_page_colours_only():
    for fig in some_figures():
        light, dark = figure_svg(fig, ALT).decode(), figure_svg(fig, ALT, "dark").decode()
        strip = lambda text: re.sub("#[0-9a-f]{6}", "", text)
        assert strip(light) == strip(dark) and light != dark
        assert not set(re.findall("#[0-9a-f]{6}", dark)) & set(THEMES["light"].values())
        assert f"<title>{ALT}</title>" in light


def test_images_in_svg_keep_their_own_resolution():
    import base64
    tile = np.random.default_rng(0).integers(0, 256, (64, 32, 3), dtype=np.uint8)
    text = figure_svg(image_grid([tile], scale=4), ALT).decode()
    found = re.findall(r"data:image/png;base64,([^\"]+)", text)
    embedded = np.asarray(Image.open(io.BytesIO(base64.b64decode(found[0]))).convert("RGB"))
    assert len(found) == 1 and embedded.shape == (64, 32, 3)
    assert (embedded == tile).all() or (embedded[::-1] == tile).all()
    assert "pixelated" in text


def test_pdf_has_the_width_of_the_column():
    for fig in some_figures():
        size = fig.get_size_inches().copy()
        box = re.search(rb"/MediaBox \[ ?0 0 ([\d.]+) ([\d.]+) ?\]", figure_pdf(fig, 12.0))
        assert abs(float(box[1]) / 72 * 2.54 - 12) < 0.01
        assert np.allclose(fig.get_size_inches(), size)
    with pytest.raises(ValueError, match="double, single"):
        figure_pdf(some_figures()[1], "triple")
    with pytest.raises(ValueError, match="2 to 100"):
        figure_pdf(some_figures()[1], 0.1)


def test_a_plot_is_laid_out_anew_for_the_column(monkeypatch):
    fig, seen = curves([0, 1], {"a": [0, 1e6]}, ylabel="a long name of the axis"), []
    figure_png(fig)
    natural = fig.axes[0].get_position().x0
    monkeypatch.setattr(fig, "savefig", lambda *_, **__: (fig.draw_without_rendering(), seen.append(fig.axes[0].get_position().x0)))
    figure_pdf(fig, "single")
    assert seen[0] > 1.3 * natural and fig.axes[0].get_position().x0 == natural


def test_record_is_plain_json_and_shared_by_sisters(tmp_path):
    fig = some_figures()[1]
    record = {"map": np.float64(0.5), "nan": float("nan"), "rows": np.arange(2), "path": tmp_path, "set": {2, 1}}
    save_figure(fig, tmp_path, alt=ALT, record=record, name="first")
    save_figure(fig, tmp_path, alt=ALT + " Again.", record=record, name="second")
    found = json.loads((tmp_path / "record.json").read_text())
    assert found["map"] == 0.5 and found["nan"] is None and found["rows"] == [0, 1] and found["set"] == [1, 2]
    assert set(found["figures"]) == {"first", "second"} and found["figures"]["first"]["alt"] == ALT
    assert (tmp_path / "second.txt").read_text() == ALT + " Again.\n"
    with pytest.raises(ValueError, match="JSON"):
        save_figure(fig, tmp_path, alt=ALT, record={"bad": object()})


def test_a_dark_figure_is_not_saved(tmp_path):
    use_style("dark")
    with pytest.raises(ValueError, match="light"):
        save_figure(curves([0, 1], {"a": [0, 1]}), tmp_path, alt=ALT, record={})


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    path = write_file(tmp_path / "deep" / "a.txt", "old\n")
    def full_disk(*_): raise OSError(28, "No space left on device")
    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_file(path, "new\n")
    assert path.read_text() == "old\n" and [p.name for p in path.parent.iterdir()] == ["a.txt"]


def test_fewer_colours_make_a_smaller_file_that_looks_alike():
    photo = np.random.default_rng(0).normal(0.5, 0.1, (4, 64, 32, 3)).clip(0, 1)
    fig = image_grid(photo, scale=2)
    full, few = figure_png(fig), figure_png(fig, colours=64)
    read = lambda data: np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(float)
    assert len(few) < 0.6 * len(full) and abs(read(full) - read(few)).mean() < 12


def test_photographs_in_a_drawing_are_jpeg_where_that_is_smaller():
    ramp = np.linspace(0, 1, 64)[:, None, None] * np.linspace(0.2, 1, 32)[:, None] * np.array([1.0, 0.6, 0.3])
    photo = (ramp + 0.02 * np.sin(np.arange(64 * 32 * 3).reshape(64, 32, 3))).clip(0, 1)
    flat = np.full((64, 32, 3), 0.5)
    whole, few = (figure_svg(image_grid([photo, flat], scale=2), ALT, colours=colours).decode() for colours in (None, 96))
    read = lambda text: [(kind, np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")).astype(float)) for kind, data in re.findall(r"data:image/(\w+);base64,([^\"]+)", text)]
    assert [kind for kind, _ in read(whole)] == ["png", "png"] and [kind for kind, _ in read(few)] == ["jpeg", "png"] and len(few) < len(whole)
    for (_, one), (_, other) in zip(read(whole), read(few)):
        assert one.shape == other.shape and abs(one - other).mean() < 3


def test_a_chart_gets_a_palette_and_a_photograph_does_not():
    chart = figure_png(curves(range(99), {"a": np.sin(np.linspace(0, 9, 99)), "b": np.cos(np.linspace(0, 9, 99))}))
    photo = figure_png(image_grid(np.random.default_rng(0).random((2, 64, 32, 3)), scale=2))
    small, read = small_png(chart), lambda data: np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(float)
    assert Image.open(io.BytesIO(small)).mode == "P" and len(small) < 0.7 * len(chart) and 0 <= abs(read(chart) - read(small)).mean() < 0.25
    assert small_png(photo) == photo and small_png(small) == small


def test_what_is_stored_is_small(tmp_path, monkeypatch):
    fig = curves(range(99), {"a": np.sin(np.linspace(0, 9, 99))})
    save_figure(fig, tmp_path, alt=ALT, record={}, dpi=90)
    assert (tmp_path / "figure.png").read_bytes() == small_png(figure_png(fig, 90)) != figure_png(fig, 90)
    shown = []
    monkeypatch.setattr(figures, "_in_notebook", lambda: True)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(display=SimpleNamespace(display=lambda data, **rest: shown.append(data))))
    show(fig, alt=ALT)
    assert base64.b64decode(shown[0]["image/png"]) == small_png(figure_png(fig))


def test_tables_are_saved_in_three_forms(tmp_path):
    paths = save_table(pd.DataFrame({"a": [1.23456]}), tmp_path)
    assert [p.name for p in paths] == ["table.md", "table.csv", "table.tex"]
    assert "1.235" in paths[0].read_text() and "1.23456" in paths[1].read_text()
