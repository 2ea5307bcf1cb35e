"""The pages with sliders: what they draw, that every control moves it, and that no notebook stores one. In a browser: test_widgets_browser.py."""
import base64
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from widget_pages import BANDS, MOVED, pages, tracklet

from dgnb.dgnet.generating import as_levels
from dgnb.figures import figure_png, image_grid
from dgnb.vrstc.localizer import occlusion_scores
from dgnb.widgets import STILL, Page, mannequin_page

torch.set_num_threads(1)
ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted(path for path in (ROOT / "nbs").rglob("*.ipynb") if "checkpoints" not in str(path))


@pytest.fixture(scope="module")
def made() -> dict[str, Page]:
    return pages()


def picture(html: str) -> bytes:
    """The PNG in a page's HTML."""
    return base64.b64decode(re.search(r'src="data:image/png;base64,([^"]+)"', html)[1])


def another(control):
    """Some other value that a control can take."""
    if hasattr(control, "options"):
        return next(value for _, value in control._options_full if value != control.value)
    middle = control.min + round((control.max - control.min) / control.step / 2) * control.step
    return middle if middle != control.value else control.max


# ---- with ipywidgets, without a browser ------------------------------------------------------------------------------

@pytest.mark.parametrize("name", MOVED)
def test_every_control_changes_the_picture(made, name):
    pytest.importorskip("ipywidgets", reason="not run: ipywidgets is not installed")
    page = made[name]
    box, shown = page.live().children
    controls = dict(zip(page.controls, box.children, strict=True))
    assert [control.description for control in box.children] == [name.replace("_", " ") for name in page.controls]
    for moved, control in controls.items():
        before = picture(shown.value)
        control.value = another(control)
        assert picture(shown.value) != before, f"moving {moved} changes nothing"
    assert shown.value == page.html(**{name: control.value for name, control in controls.items()})
    assert f'alt="{page.alt}"' in shown.value and page.alt


def test_a_page_that_nobody_draws_is_a_sentence(made):
    pytest.importorskip("ipywidgets", reason="not run: ipywidgets is not installed")
    bundle = made["swap"].live()._repr_mimebundle_()
    assert bundle["text/plain"] == STILL and "application/vnd.jupyter.widget-view+json" in bundle


def test_without_ipywidgets_the_message_says_what_to_do(made, monkeypatch):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    with pytest.raises(ImportError, match=r"pip install 'dgnb\[notebooks\]'.*\.figure"):
        made["swap"].live()
    assert figure_png(made["swap"].figure())


def test_the_module_needs_no_notebook_packages():
    code = "import sys, dgnb.widgets; print([m for m in ('IPython', 'ipywidgets', 'fastcore', 'nbdev') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert found.stdout.strip() == "[]"


# ---- what they draw --------------------------------------------------------------------------------------------------

def test_controls_begin_where_they_should_and_unknown_ones_are_refused():
    page = Page(lambda **values: (None, str(values)), {"a": (1, 5, 2), "b": [7, 8], "c": {"one": "x", "two": "y"}}, "nothing", {"b": 8})
    assert page.values() == {"a": 1, "b": 8, "c": "x"} and page.says(a=3) == "{'a': 3, 'b': 8, 'c': 'x'}"
    with pytest.raises(ValueError, match="unknown control 'd'.*Valid: a, b, c"):
        page.figure(d=1)


def test_what_is_said_is_escaped():
    page = Page(lambda: (image_grid(np.zeros((1, 8, 8, 3), np.uint8)), "a < b & c"), {}, 'an "alt" text')
    assert "a &lt; b &amp; c</figcaption>" in page.html() and "an &quot;alt&quot; text" in page.html()


def test_ends_of_the_swap_page_are_reconstructions(made):
    from widget_pages import mixer
    people = mixer()
    for value, person in ((0.0, 1), (1.0, 3)):
        tiles = [as_levels(people.images[1]), people.mix(person, person), as_levels(people.images[3])]
        wanted = figure_png(image_grid(tiles, column_labels=["first: b", "painted", "second: d"], scale=4))
        assert figure_png(made["swap"].figure(first=1, second=3, clothes=value, body=value)) == wanted
    assert "30% of the way to the clothes of d, 0% of the way to the body of d" in made["swap"].says(first=1, second=3, clothes=0.3)


def test_chunks_of_oneself_and_none_of_them_change_nothing(made):
    moves = lambda **values: float(re.search(r"move by ([\d.]+)", made["chunk"].says(**values))[1])
    assert moves(chunk_1=0.0) == 0 and moves(donor=0, chunk_1=1.0) == 0
    assert 0 < moves(chunk_1=0.3) < moves(chunk_1=1.0)


def test_the_threshold_page_counts_as_one_would_by_hand(made):
    _, features = tracklet()
    for threshold in (0.7, 0.9, 0.99):
        flagged, truth = occlusion_scores(features) < threshold, BANDS >= 0.2
        said = [int(number) for number in re.findall(r"\b\d+\b(?!\.\d)", made["threshold"].says(threshold=threshold).split(":", 1)[1])]
        assert said == [flagged.sum(), 18, truth.sum(), (flagged & truth).sum(), (flagged & (BANDS == 0)).sum()]
    assert "finds 2" in made["threshold"].says(threshold=0.9)  # what is hidden is what scores low here


def test_the_line_moves_and_its_axes_do_not(made):
    spans = [[ax.get_ylim() for ax in made["threshold"].figure(threshold=threshold).axes] for threshold in (0.5, 0.9, 1.0)]
    assert spans[0] == spans[1] == spans[2] and spans[0][-1] == (0, 1)


def test_the_lower_the_temperature_the_fewer_positions_take_part(made):
    bits = [float(re.search(r"([\d.]+) bits", made["temperature"].says(scale=scale))[1]) for scale in (1, 10, 100)]
    assert np.log2(128) >= bits[0] > bits[1] > bits[2] >= 0
    assert "temperature 0.1:" in made["temperature"].says(scale=10)


def test_clothes_change_neither_the_shape_of_the_head_nor_the_street(made):
    """Another's clothes are a true swap: what is not cloth stays where it is."""
    from dgnb.bodies import FACE, HAIR
    seen = []
    page = mannequin_page(size=(64, 32))
    import dgnb.widgets as module
    real = module.render
    try:
        module.render = lambda *args: seen.append(real(*args)) or seen[-1]
        page.figure(person=4, clothes=4), page.figure(person=4, clothes=1)
    finally:
        module.render = real
    own, other = seen
    head = lambda made: (made.parts == FACE) | (made.parts == HAIR)
    assert torch.equal(head(own), head(other)) and not torch.equal(own.images, other.images)
    assert torch.equal(own.images[0, :, 0], other.images[0, :, 0])  # the left edge of the picture


# ---- in the notebooks ------------------------------------------------------------------------------------------------

def cells(path: Path) -> list[dict]:
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


LIVE = [(path, number) for path in NOTEBOOKS for number, cell in enumerate(cells(path)) if "widget" in cell["metadata"].get("tags", [])]


def test_there_are_five_pages_in_lessons():
    assert sorted(path.stem for path, _ in LIVE) == ["01_localizer", "03_attention", "03_rendering", "07_generating", "07_generating"]


@pytest.mark.parametrize("path, number", LIVE, ids=[f"{path.stem}-{number}" for path, number in LIVE])
def test_a_live_cell_is_skipped_where_nobody_looks_and_has_a_picture_beside_it(path, number):
    found = cells(path)
    source = "".join(found[number]["source"])
    assert "skip-execution" in found[number]["metadata"]["tags"] and source.startswith("#| eval: false\n")
    assert source.endswith(".live()") and not found[number]["outputs"]
    pictures = [n for n, cell in enumerate(found) if any("image/png" in output.get("data", {}) for output in cell.get("outputs", []))]
    assert min(abs(n - number) for n in pictures) <= 3
    assert any("JupyterLab" in "".join(cell["source"]) for cell in found[:number] if cell["cell_type"] == "markdown")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_notebook_stores_a_widget(path):
    text = path.read_text(encoding="utf-8")
    assert "widget-view+json" not in text and "widget-state+json" not in text, "clear the output of the cell with sliders: nothing answers it in a stored page"
