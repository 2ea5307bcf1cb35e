"""Installs dgnb. Everything it says is read from settings.ini, the one place for names, versions and requirements."""
import configparser
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
config = configparser.ConfigParser(delimiters=["="])
config.read(HERE / "settings.ini", encoding="utf-8")
cfg = config["DEFAULT"]
SHARED = ["nbs/experiments.yaml", "nbs/4_results", "nbs/5_beyond", "runs", "figures"]  # what the command line needs besides code


class BuildWithShared(build_py):
    """Copies the catalogue, the result notebooks and the shipped runs into the wheel as `dgnb/share/`."""

    def run(self):
        super().run()
        if self.editable_mode:  # a checkout reads them where they lie
            return
        for name in SHARED:
            source, target = HERE / name, Path(self.build_lib, "dgnb", "share", name)
            if source.is_dir():
                shutil.copytree(source, target, dirs_exist_ok=True)
            elif source.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target)


extras = {key.removesuffix("_requirements"): cfg[key].split() for key in cfg if key.endswith("_requirements")}
extras["all"] = sorted({requirement for group in extras.values() for requirement in group})
setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=(HERE / "README.md").read_text(encoding="utf-8") if (HERE / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    author=cfg["author"],
    license="Apache-2.0",
    url=cfg["git_url"],
    keywords=cfg["keywords"].split(),
    packages=find_packages(include=["dgnb", "dgnb.*"]),
    python_requires=f">={cfg['min_python']}",
    install_requires=cfg["requirements"].split(),
    extras_require=extras,
    entry_points={"console_scripts": cfg["console_scripts"].split(), "nbdev": ["dgnb=dgnb._modidx:d"]},
    cmdclass={"build_py": BuildWithShared},
    zip_safe=False,
)
