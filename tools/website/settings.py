"""What settings.ini says, and the addresses of a public copy that follow from it."""
import configparser
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
config = configparser.ConfigParser(delimiters=["="])
config.read(ROOT / "settings.ini", encoding="utf-8")
settings = config["DEFAULT"]


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
