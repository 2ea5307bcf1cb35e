"""The site: every page built without a warning, no dead link, nothing from a network; and in a browser, where there is one, maths, diagrams and pictures are there."""
from __future__ import annotations

import html
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from browser import CHROMIUM, Browser

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
for package in ("sphinx", "myst_nb", "sphinx_book_theme"):
    pytest.importorskip(package, reason="not run: the site's packages are not installed (make site installs them)")

from website import build, notebooks  # noqa: E402
from website.settings import ROOT as SITE_ROOT  # noqa: E402
from website.settings import colab_url, settings, setup_cell  # noqa: E402

assert SITE_ROOT == ROOT


class Page(HTMLParser):
    """What a built page holds: ids, links, pictures, and its text."""

    def __init__(self, path: Path):
        super().__init__()
        self.path, self.ids, self.links, self.loaded, self.pictures = path, set(), [], [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.ids |= {found[name] for name in ("id", "name") if found.get(name)}
        if tag == "a" and found.get("href"):
            self.links.append(found["href"])
        if tag in ("img", "script", "iframe", "source") and found.get("src"):
            self.loaded.append(found["src"])
        if tag == "link" and found.get("href") and found.get("rel") not in ("canonical",):
            self.loaded.append(found["href"])
        if tag == "img":
            self.pictures.append(found)


@pytest.fixture(scope="module")
def site() -> Path:
    """The built site; built here, once for all workers, where it is not fresh."""
    from filelock import FileLock
    build.WORK.mkdir(exist_ok=True)
    with FileLock(str(build.WORK / ".lock")):
        made = subprocess.run([sys.executable, Path(build.__file__)], capture_output=True, text=True)
    assert made.returncode == 0, f"make site says:\n{made.stderr[-3000:]}"
    return build.SITE


@pytest.fixture(scope="module")
def pages(site) -> dict[str, Page]:
    """Every built page."""
    return {path.relative_to(site).as_posix(): Page(path) for path in sorted(site.rglob("*.html"))}


def there(site: Path, here: Path, address: str) -> tuple[Path, str]:
    """(file, anchor) that a link leads to."""
    path, _, anchor = address.partition("#")
    path = unquote(path.split("?")[0])
    return (here.parent / path).resolve() if path else here, unquote(anchor)


# ------------------------------------------------------------------------------------------------------- the pages

def test_every_link_leads_somewhere(site, pages):
    """Each internal link to a file that is there and an anchor that is in it."""
    known, dead = {site / name: page for name, page in pages.items()}, []
    for name, page in pages.items():
        for address in page.links:
            if re.match(r"[a-z]+:|//", address):
                continue
            file, anchor = there(site, site / name, address)
            file = file / "index.html" if file.is_dir() else file
            missing = not file.exists() or anchor and file in known and anchor not in known[file].ids
            dead += [f"{name} -> {address}"] if missing else []
    assert not dead, dead[:20]


def test_nothing_comes_from_a_network(site, pages):
    for name, page in pages.items():
        for address in page.loaded:
            assert not re.match(r"(https?:)?//", address), (name, address)
            assert address.startswith("data:") or there(site, site / name, address)[0].exists(), (name, address)


def test_every_picture_has_an_alt_text(pages):
    """Pictures of content; a theme's own logo would have one too."""
    without = [(name, found.get("src")) for name, page in pages.items() for found in page.pictures if not (found.get("alt") or "").strip()]
    assert not without, without[:10]
    assert sum(len(page.pictures) for page in pages.values()) > 100


def test_every_notebook_is_there_in_reading_order(site, pages):
    """From the front page, `next` passes all notebooks in the order of their names."""
    seen, here = [], site / "index.html"
    while here and here not in seen:
        seen.append(here)
        found = re.search(r'<a class="right-next"\s+href="([^"]+)"', here.read_text(encoding="utf-8"))
        here = there(site, here, found[1])[0] if found else None
    names = [path.relative_to(site).with_suffix(".ipynb").as_posix() for path in seen]
    wanted = [path.relative_to(notebooks.NBS).as_posix() for path in notebooks.all_notebooks()]
    assert [name for name in names if name in wanted] == ["index.ipynb", *[name for name in wanted if name != "index.ipynb"]]


def test_claims_page_says_what_the_records_say(site):
    from dgnb.results import shipped_records
    said = html.unescape(re.sub(r"<[^>]+>", " ", (site / "claims.html").read_text(encoding="utf-8")))
    said = " ".join(said.split())
    for item, record in shipped_records().items():
        for claim in record["claims"]:
            effect = f"{claim['effect']:+.3f}" if claim["effect"] is not None else ""
            found = re.escape(" ".join(claim["text"].split()).replace("'", "’"))
            line = rf"{found} {re.escape(claim['data'])} {claim['verdict']} {re.escape(effect)}"
            assert re.search(line, said.replace("'", "’")), (item, claim["id"], claim["verdict"])


def test_every_failed_claim_is_on_the_page_of_what_did_not_reproduce(site):
    from dgnb.results import shipped_records
    said = " ".join(html.unescape(re.sub(r"<[^>]+>", " ", (site / "not_reproduced.html").read_text(encoding="utf-8"))).split()).replace("'", "’")
    failed = [c["text"] for record in shipped_records().values() for c in record["claims"] if c["verdict"] in ("fails", "within noise")]
    assert failed and all(" ".join(text.split()).replace("'", "’") in said for text in failed)
    assert "Its notebook does not say yet" not in said


def test_figures_have_their_provenance(site):
    from dgnb.results import shipped_records
    for item, record in shipped_records().items():
        said = (site / "results" / f"{item}.html").read_text(encoding="utf-8")
        assert record["command"] in html.unescape(said) and record["commit"][:12] in said and record["date"] in said
        assert all(f"{item}/{name}.svg" in said for name in record["figures"])
        assert (site / "figures" / item / "record.json").exists()


def test_the_reference_shows_what_stands_beside_arguments(site):
    said = (site / "api" / "dgnb.figures.html").read_text(encoding="utf-8")
    assert "share of the map’s colour, 0..1" in said or "share of the map's colour, 0..1" in html.unescape(said)
    assert "dgnb.figures.image_grid" in Page(site / "api" / "dgnb.figures.html").ids


# -------------------------------------------------------------------------------------------------- the written pages

def codes(page: str) -> list[str]:
    """Full names in a written page."""
    return re.findall(r"`(dgnb\.[\w.]+)`", (notebooks.NBS / "pages" / page).read_text(encoding="utf-8"))


def exists(name: str) -> bool:
    """Whether a full name is a thing in the package: module, object, or a field of a dataclass."""
    import dataclasses
    import importlib
    parts = name.split(".")
    for n in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:n]))
        except ImportError:
            continue
        for word in parts[n:]:
            if dataclasses.is_dataclass(found) and word in {field.name for field in dataclasses.fields(found)}:
                return True
            if word in getattr(found, "__annotations__", {}) or word in ("prim", "fine"):
                return True
            if not hasattr(found, word):
                return False
            found = getattr(found, word)
        return True
    return False


@pytest.mark.parametrize("name", sorted(set(codes("notation.md"))))
def test_names_on_the_notation_page_exist(name):
    assert exists(name), f"{name} is not in the package: mend nbs/pages/notation.md"


def shape_on_page(symbol: str) -> list[str]:
    """Shapes that the notation page gives for the row of a symbol."""
    text = (notebooks.NBS / "pages" / "notation.md").read_text(encoding="utf-8")
    row = next(line for line in text.splitlines() if line.startswith(f"| {symbol} "))
    return [shape.strip() for shape in row.split("|")[-2].split(",")]


def test_shapes_on_the_notation_page_are_those_of_the_networks():
    import torch

    from dgnb.dgnet.appearance import AppearanceEncoder
    from dgnb.dgnet.decoder import Decoder
    from dgnb.dgnet.discriminator import MultiScaleDiscriminator
    from dgnb.dgnet.structure import StructureEncoder
    from dgnb.vrstc.attention import TemporalAttentionGenerator, attention_weights
    from dgnb.vrstc.critics import Discriminator
    from dgnb.vrstc.spatial import Encoder, SpatialStructureGenerator

    written = lambda tensor: " x ".join(["B", *map(str, tensor.shape[1:])])
    with torch.device("meta"), torch.no_grad():
        image = torch.zeros(2, 3, 256, 128)
        seen, structure = AppearanceEncoder(751).eval().look(image), StructureEncoder()(image)
        painted = Decoder(seen.code.shape[1])(structure, seen.code)
        assert shape_on_page("$a_i = E_a(x_i)$") == [written(seen.code)]
        assert shape_on_page(r"$f_\text{prim}$") == [written(seen.prim)] and shape_on_page(r"$f_\text{fine}$") == [written(seen.fine)]
        assert shape_on_page("$s_j = E_s(x_j)$") == [written(structure)]
        assert shape_on_page("$x_j^i = G(a_i, s_j)$") == [written(painted)]
        assert shape_on_page("$D$") == [written(one) for one in MultiScaleDiscriminator()(image)]
    with torch.no_grad():  # attention computes norms in a way of its own, which has no form without numbers
        frame, mask = torch.zeros(1, 3, 128, 64), torch.zeros(1, 1, 128, 64)
        maps = Encoder()(frame)
        assert shape_on_page("$F$, $R$") == [written(maps)]
        assert shape_on_page("$s$, $s^*$") == [written(attention_weights(maps, maps))]
        assert shape_on_page("$G_s$") == [written(SpatialStructureGenerator()(frame, mask))]
        assert shape_on_page("$G_t$") == [written(TemporalAttentionGenerator()(frame, frame, frame, mask))]
        assert shape_on_page("$D_g$, $D_l$") == [written(Discriminator()(frame))]


# ------------------------------------------------------------------------------------------------------- the filter

def test_links_callouts_and_code():
    text = ("See [worlds](../1_foundations/04_worlds.ipynb#people), [the figures](../../figures), [cards](../1_foundations/data_cards.md), `[x](y)` and\n"
            "```python\na[0](b)\n```\n::: {.callout-note}\nOur choice.\n:::\n[out](https://example.org) [web](../../CITATION.cff)")
    made = notebooks.markdown(text, "nbs/2_dgnet/00_teacher.ipynb")
    assert "(../1_foundations/04_worlds.ipynb#people)" in made and "(../results/index.md)" in made and "(../1_foundations/data_cards.md)" in made
    assert "`[x](y)`" in made and "a[0](b)" in made and ":::{note}\nOur choice.\n:::" in made
    assert "(https://example.org)" in made and f"({settings['git_url']}/blob/{settings['branch']}/CITATION.cff)" in made


def test_verdicts_in_tables_have_their_marks():
    made = notebooks.marked("Here *holds* stays.\n\n| a | *holds* | *not run* |\n| *fails* a | *within noise* |")
    assert made.startswith("Here *holds* stays.") and '<span class="verdict holds">holds</span>' in made and '<span class="verdict not-run">not run</span>' in made and "*fails* a" in made


def test_titles_and_subtitles_are_found():
    """A chapter's page lists what each notebook is about."""
    found = {path.name: notebooks.title_of(path) for path in notebooks.all_notebooks() if path.parent.name[:1].isdigit()}
    assert found["03_attention.ipynb"] == ("Temporal attention", "Fill the hole with pieces of the neighbouring frames that look like what was guessed; and what the printed softmax does to that plan.")
    assert all(title and words for title, words in found.values()), [name for name, said in found.items() if not all(said)]


def test_dead_links_are_found(monkeypatch):
    monkeypatch.setattr(notebooks, "DEAD", [])
    notebooks.markdown("[gone](gone.ipynb)", "nbs/2_dgnet/00_teacher.ipynb")
    assert notebooks.DEAD == ["nbs/2_dgnet/00_teacher.ipynb: the link to gone.ipynb leads nowhere"]


def test_code_words_are_linked_only_where_they_stand_alone():
    made = notebooks.markdown("# About `make_world`\n\n`make_world()` and [`make_world`](x.ipynb), `other`.", "nbs/index.ipynb", {"make_world": "dgnb.worlds.make_world"})
    assert made.startswith("# About `make_world`\n\n{py:obj}`make_world() <dgnb.worlds.make_world>` and [`make_world`](") and made.endswith("`other`.")


def test_each_picture_has_its_own_cell_with_its_alt_text():
    picture = lambda alt: {"output_type": "display_data", "data": {"image/png": "aaaa", "text/plain": alt}, "metadata": {"image/png": {"alt": alt}}}
    said = {"output_type": "execute_result", "data": {"text/markdown": "**bold**", "text/plain": "bold"}, "metadata": {}, "execution_count": None}
    cell = {"cell_type": "code", "id": "one", "metadata": {}, "source": "#| export\nshow()", "outputs": [picture("first"), picture("second"), said]}
    made = notebooks.code_cells(cell, "nbs/2_dgnet/00_teacher.ipynb")
    assert [one["metadata"].get("mystnb", {}).get("image", {}).get("alt") for one in made] == ["first", "second", None]
    assert made[0]["source"] == "show()" and made[0]["metadata"]["tags"] == ["exported"] and made[1]["source"] == "" and made[2]["cell_type"] == "markdown"


def test_defaults_are_told_from_what_was_used():
    cell = {"cell_type": "code", "id": "one", "metadata": {"tags": ["parameters"]}, "source": 'item = "dgnet-table3"  # id\nscale = "smoke"  # scale', "outputs": []}
    assert '`scale = "laptop"`' in notebooks.shown_with(cell)[0]["source"]
    assert notebooks.shown_with({**cell, "metadata": {}}) == []


def test_setup_cell_installs_only_where_the_package_is_missing():
    """The downloaded notebook's first code cell, run as IPython runs it: nothing here, an installation where dgnb is not found."""
    from IPython.core.inputtransformer2 import TransformerManager
    code = TransformerManager().transform_cell(setup_cell())
    calls = []
    shell = type("Shell", (), {"run_line_magic": lambda self, *words: calls.append(words)})()
    exec(code, {"get_ipython": lambda: shell})
    assert not calls
    exec(code.replace('find_spec("dgnb")', 'find_spec("dgnb_that_is_not_there")'), {"get_ipython": lambda: shell})
    assert calls == [("pip", f"install --quiet git+{settings['git_url']}@{settings['branch']}")]


def test_copies_are_whole_notebooks_with_that_cell(site):
    import nbformat
    for path in notebooks.all_notebooks():
        name = path.relative_to(notebooks.NBS).as_posix()
        made = nbformat.read(site / "notebooks" / name, as_version=4)
        nbformat.validate(made)
        own = json.loads(path.read_text(encoding="utf-8"))["cells"]
        assert [cell["id"] for cell in made.cells if cell["id"] != "setup"] == [cell["id"] for cell in own]
        assert sum(cell["source"] == setup_cell() for cell in made.cells) == 1
        assert colab_url(name) in html.unescape((site / name).with_suffix(".html").read_text(encoding="utf-8"))


# ------------------------------------------------------------------------------------------------------ in a browser

@pytest.fixture(scope="module")
def browser():
    if not CHROMIUM:
        pytest.skip("not run: there is no Chromium here")
    with Browser() as made:
        yield made


MAIN = {"index": "document.images.length > 0", "2_dgnet/04_discriminator": "document.querySelectorAll('mjx-container svg').length > 5",
        "3_vrstc/03_attention": "document.querySelectorAll('div.mermaid[data-drawn] svg').length > 0 && document.querySelectorAll('mjx-container svg').length > 5",
        "4_results/dgnet_table3": "document.images.length > 1", "claims": "document.querySelectorAll('.verdict').length > 20",
        "not_reproduced": "document.querySelectorAll('.verdict.fails').length > 0", "results/index": "document.images.length > 5",
        "results/dgnet-table3": "document.querySelectorAll('dl.provenance dd').length > 5", "pages/notation": "document.querySelectorAll('mjx-container svg').length > 20",
        "pages/faq": "document.querySelectorAll('h3').length > 10", "pages/glossary": "document.querySelectorAll('dl.glossary dt').length > 20",
        "pages/questions": "document.querySelectorAll('.verdict').length > 20", "pages/notes_questions_zh": "document.querySelector('article').lang === 'zh-Hans'",
        "pages/teaching": "document.querySelectorAll('table').length > 5", "api/dgnb.figures": "document.querySelectorAll('dl.py').length > 5"}


@pytest.mark.parametrize("name", MAIN)
def test_main_pages_open_from_disk(site, browser, name):
    """No complaint, nothing asked from a network, maths and diagrams drawn, every visible picture there with its alt text."""
    browser.open((site / f"{name}.html").as_uri())
    browser.wait(MAIN[name])
    browser.value("[...document.images].forEach(i => i.loading = 'eager')")
    browser.wait("[...document.images].filter(i => getComputedStyle(i).display !== 'none').every(i => i.complete && i.naturalWidth > 0)")
    assert browser.value("[...document.images].every(i => i.alt.trim())")
    assert not browser.value("!!document.querySelector('mjx-merror, [data-mjx-error]')")
    assert not browser.errors
    assert not [address for address in browser.asked if not re.match("file:|data:|blob:", address)]


def test_long_lines_of_code_wrap_and_are_copied_as_written(site, browser):
    """In a window of usual width nothing of a cell is hidden at the right, and what is selected is the cell's source."""
    place = "2_dgnet/02_structure"
    written = ["\n".join(line for line in "".join(cell["source"]).splitlines() if not line.startswith("#|")).strip()
               for cell in json.loads((notebooks.NBS / f"{place}.ipynb").read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code" and "class StructureEncoder" in "".join(cell["source"])]
    browser.open((site / f"{place}.html").as_uri())
    browser.wait("document.querySelectorAll('pre.wrapped').length > 10")
    assert browser.value("[...document.querySelectorAll('pre.wrapped')].every(pre => pre.scrollWidth <= pre.clientWidth + 1)")
    copied = browser.value("(() => { const pre = [...document.querySelectorAll('pre.wrapped')].find(p => p.textContent.includes('class StructureEncoder')), r = document.createRange();"
                           " r.selectNodeContents(pre); getSelection().removeAllRanges(); getSelection().addRange(r); return getSelection().toString(); })()")
    assert len(written) == 1 and copied.rstrip() == written[0]
    assert browser.value("[...document.querySelectorAll('div.cell.tag_exercise')].every(c => getComputedStyle(c, '::before').content.length > 5)")


def test_search_finds_a_lesson(site, browser):
    browser.open((site / "search.html").as_uri() + "?q=discriminator")
    browser.wait("[...document.querySelectorAll('#search-results li a')].some(a => a.href.includes('04_discriminator'))")
    assert not browser.errors


def test_light_and_dark(site, browser):
    """A shipped figure has a rendering for each, and a diagram is drawn again."""
    shown = "[...document.querySelectorAll('img.drawing')].filter(i => getComputedStyle(i).display !== 'none').map(i => i.src.endsWith('-dark.svg'))"
    browser.open((site / "results" / "dgnet-fig8.html").as_uri())
    for theme in ("light", "dark"):
        browser.value(f"document.documentElement.dataset.theme = '{theme}'")
        found = browser.value(shown)
        assert found and all(dark == (theme == "dark") for dark in found)
    browser.open((site / "3_vrstc" / "03_attention.html").as_uri())
    browser.wait("!!document.querySelector('div.mermaid[data-drawn] svg')")
    colours = {}
    for theme in ("light", "dark"):
        browser.value(f"document.documentElement.dataset.theme = '{theme}'")
        browser.wait(f"document.querySelector('div.mermaid').dataset.drawn === '{theme}'")
        colours[theme] = browser.value("getComputedStyle(document.querySelector('div.mermaid svg .node rect')).fill")
    assert colours["light"] != colours["dark"]


def test_pages_can_be_walked_with_the_keyboard(site, browser):
    """Tab reaches search, the contents, the actions under the title and the next page, each with a visible mark."""
    browser.open((site / "2_dgnet" / "04_discriminator.html").as_uri())
    reached, unmarked = set(), []
    for _ in range(150):
        browser.press("Tab", 9)
        word, mark = browser.value("(() => { const e = document.activeElement, s = getComputedStyle(e); return [(e.className || '') + ' ' + (e.textContent || '').trim().slice(0, 40),"
                                   " s.outlineStyle !== 'none' || s.boxShadow !== 'none' || s.textDecorationLine !== 'none']; })()")
        reached.add(word)
        unmarked += [] if mark else [word]
    said = " | ".join(reached)
    assert all(word in said for word in ("search-button", "Download notebook", "Foundations", "theme-switch"))
    assert len(unmarked) < 0.2 * 150, unmarked[:10]


def test_a_build_that_was_cut_off_begins_anew(tmp_path, monkeypatch):
    work, site = tmp_path / "work", tmp_path / "site"
    html = work / "built" / "html"
    for name, path in {"WORK": work, "SITE": site, "SOURCES": work / "source", "BUILT": html}.items():
        monkeypatch.setattr(build, name, path)
    monkeypatch.setattr(build, "fingerprint", lambda: "now")
    monkeypatch.setattr(build, "prepare", lambda: 1)
    monkeypatch.setattr(notebooks, "DEAD", [])  # what other tests left

    def cut_off(jobs):
        html.mkdir(parents=True)
        (html / "half.png").touch()
        raise KeyboardInterrupt

    def whole(jobs):
        html.mkdir(parents=True, exist_ok=True)
        (html / "index.html").touch()
        return 0
    monkeypatch.setattr(build, "sphinx", cut_off)
    with pytest.raises(KeyboardInterrupt):
        build.build()
    monkeypatch.setattr(build, "sphinx", whole)
    assert build.build() == 0 and not (html / "half.png").exists() and (work / "made-from").read_text() == "now"
    (html / "kept.png").touch()
    monkeypatch.setattr(build, "fingerprint", lambda: "later")
    assert build.build() == 0 and (html / "kept.png").exists()  # a build that went to its end is built upon
