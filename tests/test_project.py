"""The project as a whole: requirements in step, notebooks well-formed, nothing named that a user does not have."""
import configparser
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted(p for p in (ROOT / "nbs").rglob("*.ipynb") if "checkpoints" not in str(p))
CONDA_NAMES = {"torch": "pytorch", "matplotlib": "matplotlib-base"}


def normalise(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def split(requirement: str) -> tuple[str, str]:
    name, version = re.match(r"([A-Za-z0-9._-]+)(.*)", requirement).groups()
    return normalise(name), version.strip()


@pytest.fixture(scope="module")
def settings():
    config = configparser.ConfigParser(delimiters=["="])
    config.read(ROOT / "settings.ini")
    return config["DEFAULT"]


def requirements(settings) -> dict[str, str]:
    keys = [key for key in settings if key == "requirements" or key.endswith("_requirements")]
    return dict(split(item) for key in keys for item in settings[key].split())


def test_environment_yml_asks_for_what_settings_ini_asks_for(settings):
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    conda = dict(split(item) for item in environment["dependencies"] if isinstance(item, str))
    pip = dict(split(item) for group in environment["dependencies"] if isinstance(group, dict) for item in group["pip"] if not item.startswith("-e"))
    wanted = {normalise(CONDA_NAMES.get(name, name)): version for name, version in requirements(settings).items()}
    assert {name: version for name, version in {**conda, **pip}.items() if name not in ("python", "pip", "make")} == wanted
    assert conda["python"] == f">={settings['min_python']}"


def test_constraints_satisfy_every_requirement(settings):
    from packaging.specifiers import SpecifierSet

    pinned = dict(split(line) for line in (ROOT / "constraints.txt").read_text().split())
    for name, version in requirements(settings).items():
        assert name in pinned, f"{name} is required but constraints.txt does not pin it"
        assert pinned[name].removeprefix("==") in SpecifierSet(version), f"{name}{version} against {pinned[name]}"


def test_version_is_said_once(settings):
    import dgnb

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert dgnb.__version__ == settings["version"] == citation["version"]
    assert settings["version"] in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.parametrize("module", ["dgnb.scales", "dgnb.baseline", "dgnb.run_store", "dgnb.worlds", "dgnb.retrieval", "dgnb.image_sets"])
def test_imports_without_any_notebook_package(module):
    blocked = ["IPython", "papermill", "nbdev", "fastcore", "execnb", "jupyterlab", "ipywidgets", "nbformat", "distributed", "torch_fidelity", "hypothesis"]
    code = f"import sys\nfor name in {blocked}: sys.modules[name] = None\nimport {module}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def cells(path: Path):
    return json.loads(path.read_text())["cells"]


def source(cell) -> str:
    return "".join(cell["source"])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
class TestNotebook:
    def test_has_a_title_and_a_subtitle(self, path):
        first = next(source(cell) for cell in cells(path) if cell["cell_type"] == "markdown")
        assert re.match(r"# \S.*\n\s*\n> \S", first), "the first text cell is an H1 title and, after an empty line, a `> subtitle`"

    def test_every_picture_has_alt_text(self, path):
        for cell in cells(path):
            pictures = [o for o in cell.get("outputs", []) if {"image/png", "image/svg+xml"} & o.get("data", {}).keys()]
            assert not pictures or re.search(r"\balt\s*=", source(cell)), source(cell)

    def test_is_small_and_has_no_errors_stored(self, path):
        assert path.stat().st_size <= 300_000
        assert not [o for cell in cells(path) for o in cell.get("outputs", []) if o["output_type"] == "error"]

    def test_code_cells_are_short(self, path):
        for cell in cells(path):
            lines = [line for line in source(cell).splitlines() if line.strip() and not line.startswith("#|")]
            assert cell["cell_type"] != "code" or len(lines) <= 40, f"{len(lines)} lines: {lines[0]}"

    def test_imports_stand_alone_when_exported(self, path):
        for cell in cells(path):
            lines = [line for line in source(cell).splitlines() if line.strip() and not line.startswith("#|")]
            if cell["cell_type"] == "code" and "#| export" in source(cell) and any(re.match(r"(import|from) \w", line) for line in lines):
                assert not any(re.match(r"(def|class) ", line) for line in lines), "imports have a cell of their own"

    def test_only_notebooks_before_it_are_imported(self, path):
        modules = {}
        for other in NOTEBOOKS:
            found = re.search(r"#\| default_exp (\S+)", "\n".join(source(c) for c in cells(other)[:2]))
            if found:
                modules[found[1]] = other
        text = "\n".join(source(c) for c in cells(path) if c["cell_type"] == "code")
        for name in re.findall(r"^\s*from dgnb\.([\w.]+) import", text, re.M):
            assert name not in modules or modules[name] <= path, f"{path.name} imports {name}, which comes later"


def test_one_notebook_one_module():
    names = [m for p in NOTEBOOKS for m in re.findall(r"#\| default_exp (\S+)", "\n".join(source(c) for c in cells(p)))]
    assert len(names) == len(set(names))


def test_result_notebooks_have_a_parameters_cell():
    for path in sorted((ROOT / "nbs" / "4_results").glob("*.ipynb")) + sorted((ROOT / "nbs" / "5_beyond").glob("*.ipynb")):
        if any("#| export" in source(c) for c in cells(path)):
            continue
        assert sum("parameters" in c["metadata"].get("tags", []) for c in cells(path)) == 1, path.name


def _sample_of_a_world(file: Path) -> bool:
    """Whether a picture is one that a training on a synthetic world kept with its run."""
    record = file.parent / "record.json"
    return file.name.startswith("sample-") and record.is_file() and any("world" in key for key in json.loads(record.read_text())["spec"]["data"])


def test_no_photograph_and_a_small_tree():
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    files = [ROOT / name for name in names if name and (ROOT / name).is_file()]
    kept = [f for f in files if f.suffix.lower() in (".jpg", ".jpeg") and not _sample_of_a_world(f)]
    assert not kept, "images of real people never; synthetic ones as PNG"
    assert sum(f.stat().st_size for f in files) < 40 * 2**20
