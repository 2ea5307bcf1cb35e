"""The catalogue: every table and figure of both papers exactly once, numbers as printed, and one-line errors for a broken file."""
from __future__ import annotations

import pytest
import yaml
from tiny import row, write_catalogue

from dgnb.catalogue import SCALE_NAMES, CatalogueError, load_catalogue, parse_check

DGNET = [f"dgnet-table{n}" for n in range(1, 11)] + [f"dgnet-fig{n}" for n in range(1, 10)]
NEED_TRUTH = ("dgnet-table1", "dgnet-fig7", "vrstc-fig5", "vrstc-fig6")  # real sets have no known factors and no true swaps
VRSTC = [f"vrstc-table{n}" for n in range(1, 6)] + [f"vrstc-fig{n}" for n in range(1, 7)]


@pytest.fixture(scope="module")
def catalogue():
    return load_catalogue()


def values(catalogue, item: str, **wanted) -> dict:
    """Row -> value of the expected numbers that fit."""
    fits = lambda e: all(getattr(e, key) == value for key, value in wanted.items())
    return {e.row: e.value for e in catalogue[item].expected if fits(e)}


def test_every_item_of_both_papers_stands_there_once(catalogue):
    """DG-Net has ten tables (two of them in the appendix of the 12-page version) and nine figures, VRSTC five and six."""
    raw = catalogue.file.read_text()
    for name in DGNET + VRSTC:
        assert raw.count(f"\n  {name}:\n") == 1, name
    assert [i.id for i in catalogue if i.paper == "dgnet"] == DGNET
    assert [i.id for i in catalogue if i.paper == "vrstc"] == VRSTC


def test_every_item_says_what_it_is(catalogue):
    """Place, caption, claims and all four scales; no caption twice."""
    for item in catalogue:
        number = item.id.rpartition("table")[2] if "table" in item.id else item.id.rpartition("fig")[2]
        if item.paper == "ours":
            continue
        assert item.place.startswith(("Table " if "table" in item.id else "Figure ") + number + ","), item.id
        assert len(item.caption) > 40 and item.requires and item.claims, item.id
        assert tuple(item.scales) == SCALE_NAMES or item.id in NEED_TRUTH and tuple(item.scales) == SCALE_NAMES[:3]
        assert item.kind == "table" or "fig" in item.id
    assert len({item.caption for item in catalogue}) == len(catalogue.items)


def test_built_items_have_their_notebook_and_its_parameters(catalogue):
    """What the catalogue gives a notebook, the notebook takes."""
    from dgnb.runner import plan
    built = [item for item in catalogue if item.built]
    assert built
    for item in built:
        assert catalogue.notebook(item).is_file(), item.notebook
        for scale in item.scales:
            assert plan(item, scale).parameters.items() >= item.scales[scale].parameters.items()


def test_headline_numbers(catalogue):
    """Spot checks against the papers, typed a second time."""
    assert values(catalogue, "dgnet-table3", data="market", metric="mAP", table="features") == {"baseline": 74.5, "f_prim": 84.4, "f_fine": 75.3, "f_prim_fine": 86.0}
    assert values(catalogue, "dgnet-table3", data="msmt", metric="rank1")["f_prim_fine"] == 77.2
    assert values(catalogue, "dgnet-table2", metric="FID") == {"Real": 7.22, "LSGAN": 136.26, "PG2-GAN": 151.16, "PN-GAN": 54.23, "FD-GAN": 257.0, "DG-Net": 18.24}
    assert values(catalogue, "dgnet-table9", metric="mAP") == {"market to duke": 24.25, "duke to market": 26.83, "market to msmt": 5.41,
                                                              "msmt to market": 33.62, "duke to msmt": 6.35, "msmt to duke": 40.69}
    assert values(catalogue, "dgnet-table10", metric="rank1")["PCB + RPP"] == 63.7
    assert values(catalogue, "vrstc-table1", data="ilids", metric="rank1") == {"baseline": 79.8, "NL": 80.1, "Spa": 81.4, "Spa+AE": 81.3, "Spa+TAE": 81.9,
                                                                              "Spa+Tem": 82.5, "Spa+Tem+LD": 82.7, "Spa+Tem+LD+GD": 82.9, "STCnet": 83.4}
    assert values(catalogue, "vrstc-table5", metric="rank20")["VRSTC"] == 99.5
    gains = [values(catalogue, "dgnet-table3", data=d, metric="mAP", table="features") for d in ("market", "duke", "msmt")]
    assert sum(g["f_prim_fine"] - g["baseline"] for g in gains) / 3 == pytest.approx(12.4, abs=0.05)  # as the paper's text has it


def test_layers_add_up(catalogue):
    """The layers of Tables 6 to 8 sum to the networks' parameter counts."""
    es = values(catalogue, "dgnet-table6", metric="parameters")
    assert es.pop("total") == sum(es.values()) + 52_576  # ASPP and Conv5 are known together only
    d = values(catalogue, "dgnet-table8", metric="parameters")
    assert d.pop("three scales") == 3 * d["one scale"] and d.pop("one scale") == sum(d.values())
    g = values(catalogue, "dgnet-table7", metric="parameters")
    assert g.pop("AdaIN MLPs") == 8 * 1_443_072 and sum(g.values()) == 1_455_555


def test_withdrawn_and_read_off_values_are_flagged(catalogue):
    """Everything on DukeMTMC, and nothing else, is withdrawn; plotted curves carry their uncertainty."""
    for item in catalogue:
        for value in item.expected:
            assert value.withdrawn == ("duke" in value.data), (item.id, value)
            assert value.source and (value.read_off > 0) == (item.id in ("dgnet-fig8", "vrstc-fig4"))
    assert len(catalogue["vrstc-fig4"].expected) == 44 and len(catalogue["dgnet-fig8"].expected) == 20


def test_checks_name_rows_that_exist(catalogue):
    """A claim's check compares rows of the item: of the paper's table, or our controls."""
    ours = {"tricks", "tricks-budget", "offline"}
    for item in catalogue:
        for claim in item.claims:
            if claim.check:
                rows = {value.row for value in item.expected} | ours
                assert set(claim.check.rows) <= rows, (item.id, claim.id)
    assert sum(claim.check is not None for item in catalogue for claim in item.claims) >= 12


def test_unknown_names_list_the_nearest(catalogue, tmp_path):
    with pytest.raises(CatalogueError, match=r"^unknown item 'dgnet-tabel3'\. Did you mean dgnet-table3"):
        catalogue["dgnet-tabel3"]
    planned = load_catalogue(write_catalogue(tmp_path, {"tiny-a": row("nbs/a.ipynb"), "tiny-b": row(None)}))
    with pytest.raises(CatalogueError, match="tiny-b is planned and has no notebook yet"):
        planned.select("tiny-b", "smoke")
    with pytest.raises(CatalogueError, match="Valid: prim-over-baseline"):
        catalogue["dgnet-table3"].claim("prim")
    assert [i.id for i in catalogue.select("all", "smoke")] == [i.id for i in catalogue if i.built]
    assert [i.id for i in catalogue.select("ours", "smoke")] == [i.id for i in catalogue if i.built and i.paper == "ours"]
    with pytest.raises(CatalogueError, match="unknown scale 'small'"):
        catalogue.select("all", "small")


def test_a_scale_an_item_cannot_have(tmp_path):
    """It is null in the file, left out of `all`, and refused by name."""
    from dgnb.runner import plan
    scales = {**row(None)["scales"], "paper": None}
    catalogue = load_catalogue(write_catalogue(tmp_path, {"tiny-a": row("nbs/a.ipynb", scales=scales), "tiny-b": row("nbs/a.ipynb")}))
    assert [i.id for i in catalogue.select("all", "paper")] == ["tiny-b"] and len(catalogue.select("all", "gpu")) == 2
    with pytest.raises(CatalogueError, match="unknown scale of tiny-a 'paper'. Valid: smoke, laptop, gpu"):
        plan(catalogue["tiny-a"], "paper")


def broken(change) -> dict:
    value = row("nbs/a.ipynb")
    change(value)
    return value


@pytest.mark.parametrize(("change", "message"), [
    (lambda r: r.pop("caption"), "tiny-a lacks caption"),
    (lambda r: r.update(knd="table"), "unknown key in tiny-a: 'knd'. Did you mean kind"),
    (lambda r: r.update(kind="tabel"), "unknown kind of tiny-a: 'tabel'. Did you mean table"),
    (lambda r: r.update(notebook=None), "status is built but notebook is null"),
    (lambda r: r.update(place=3), "tiny-a.place must be str, found int"),
    (lambda r: r["scales"].pop("gpu"), "tiny-a.scales lacks gpu"),
    (lambda r: r["scales"].update(smoke={"parameters": {"a b": 1}}), "a parameter is a Python name"),
    (lambda r: r["scales"].update(smoke={"parameters": {}, "minutes": -1}), "must not be negative"),
    (lambda r: r["claims"].append({"id": "up", "text": "again"}), "two claims have the same id"),
    (lambda r: r["claims"][0].update(check="higher(mAP, a, b)"), "unknown check in tiny-a.claims: 'higher'"),
    (lambda r: r["claims"][0].update(check="greater(mAP, a)"), "takes a metric and two or more rows"),
    (lambda r: r.update(expected=[{"name": "t", "source": "s", "columns": ["m", "n"], "rows": {"a": [1]}}]), "row 'a' has 1 values for 2 columns"),
    (lambda r: r.update(expected=[{"name": "t", "source": "s", "columns": ["m"], "rows": {"a": {"values": [1], "sets": ["reel"]}}}]), "Did you mean real"),
])
def test_a_broken_row_gives_one_line(tmp_path, change, message):
    """File, place and mend in one line."""
    file = write_catalogue(tmp_path, {"tiny-a": broken(change)})
    with pytest.raises(CatalogueError) as caught:
        load_catalogue(file)
    assert message in str(caught.value) and str(caught.value).startswith("experiments.yaml: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize(("text", "message"), [
    ("version: 1\nitems: {}\nitems: {}\n", "line 3: 'items' stands there twice"),
    ("version: 2\nsets: {}\npapers: {}\nitems: {}\n", "version 2 is unknown"),
    ("version: 1\n", "lacks sets, papers, items"),
    ("version: [\n", "experiments.yaml: "),
    ("version: 1\nsets: {}\npapers: {}\nitems: !!python/object:os.system {}\n", "could not determine a constructor"),
    ("- a\n", "catalogue must be a mapping"),
])
def test_a_broken_file_gives_one_line(tmp_path, text, message):
    file = tmp_path / "experiments.yaml"
    file.write_text(text)
    with pytest.raises(CatalogueError) as caught:
        load_catalogue(file)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_missing_file_says_what_to_do(tmp_path):
    with pytest.raises(CatalogueError, match="there is no catalogue at"):
        load_catalogue(tmp_path / "none.yaml")


def test_a_paper_gives_its_scales_to_items_without(tmp_path):
    items = {"tiny-a": {key: value for key, value in row("nbs/a.ipynb").items() if key != "scales"}}
    assert load_catalogue(write_catalogue(tmp_path, items))["tiny-a"].scales["gpu"].parameters == {"seeds": [0]}


def test_checks_are_parsed():
    check = parse_check("greater(mAP, f_prim, baseline)")
    assert (check.kind, check.metric, check.rows) == ("greater", "mAP", ("f_prim", "baseline"))


def test_the_file_is_what_yaml_reads(catalogue):
    """Our loader refuses more than the plain safe loader but reads the same."""
    assert list(yaml.safe_load(catalogue.file.read_text())["items"])[:len(DGNET + VRSTC)] == DGNET + VRSTC
