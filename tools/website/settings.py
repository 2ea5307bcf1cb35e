"""What settings.ini says, and the addresses of a public copy that follow from it."""
import configparser
import lzma
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
config = configparser.ConfigParser(delimiters=["="])
config.read(ROOT / "settings.ini", encoding="utf-8")
settings = config["DEFAULT"]


def vendored() -> Path:
    """The folder of what is vendored, unpacked from `vendor/` (where scripts lie compressed) where it is not yet or has changed."""
    source, target = Path(__file__).resolve().parent / "vendor", ROOT / "_docs" / "vendor"
    for path in (path for path in source.rglob("*") if path.is_file()):
        data = path.read_bytes()
        data, there = (lzma.decompress(data) if path.suffix == ".xz" else data), target / path.relative_to(source).with_name(path.name.removesuffix(".xz"))
        if not there.exists() or there.read_bytes() != data:
            there.parent.mkdir(parents=True, exist_ok=True)
            there.write_bytes(data)
    return target


def source_url(path: str) -> str:
    """A file or folder of the repository at its public address."""
    kind = "tree" if (ROOT / path).is_dir() else "blob"
    return f"{settings['git_url']}/{kind}/{settings['branch']}/{path}"


def colab_url(notebook: str) -> str:
    """A notebook (path under nbs/) in Colab: the published site's copy, which has the setup cell."""
    return f"https://colab.research.google.com/github/{settings['user']}/{settings['repo']}/blob/{settings['site_branch']}/notebooks/{notebook}"


def binder_url(notebook: str) -> str:
    """A notebook (path under nbs/) in Binder, which makes its environment from environment.yml."""
    return f"https://mybinder.org/v2/gh/{settings['user']}/{settings['repo']}/{settings['branch']}?urlpath=lab/tree/nbs/{notebook}"


def setup_cell() -> str:
    """Source of the cell that installs the package where it is missing, and elsewhere does nothing."""
    address = f"git+{settings['git_url']}@{settings['branch']}"
    return ("# Where dgnb is installed this cell does nothing; in Colab it installs it.\n"
            "import importlib.util\n\n"
            f"if importlib.util.find_spec(\"{settings['lib_name']}\") is None:\n"
            f"    %pip install --quiet {address}")
