"""Sphinx configuration of the site; `build.py` writes the sources it reads."""
from pathlib import Path

from website import api, diagrams
from website.settings import settings, vendored

HERE = Path(api.__file__).parent

api.import_all()  # once, before Sphinx forks its readers

project = settings["title"]
author = settings["author"]
copyright = settings["copyright"]
version = release = settings["version"]
language = "en"

extensions = ["myst_nb", "sphinx.ext.autodoc"]  # the lessons are the source listings
exclude_patterns = ["_extra/**"]
templates_path = []

nb_execution_mode = "off"
nb_merge_streams = True
nb_ipywidgets_js = {}  # widgets do not run in a static page, and their code would come from the network
nb_number_source_lines = False
myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_fence_as_directive = ["mermaid"]
myst_heading_anchors = 4
myst_dmath_double_inline = True

autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
autodoc_typehints = "signature"
autodoc_inherit_docstrings = False
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 100
add_module_names = False
toc_object_entries = False  # thousands of entries, sorted through again for each page, took most of the build's time; reference pages list their names themselves

html_theme = "sphinx_book_theme"
html_title = settings["title"]
html_static_path = [str(HERE / "static"), str(vendored())]
html_extra_path = []  # build.py gives it
html_css_files = ["site.css"]
html_js_files = ["site.js"]
html_copy_source = False
html_show_sourcelink = False
html_last_updated_fmt = None
html_show_search_summary = False  # a browser does not let a page from disk read the others
html_context = {"default_mode": "auto"}
html_theme_options = {
    "home_page_in_toc": True,
    "show_navbar_depth": 1,
    "show_toc_level": 2,
    "navbar_persistent": [],
    "navigation_depth": 2,
    "use_download_button": False,
    "use_fullscreen_button": False,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
mathjax_path = "mathjax/tex-svg.js"
mathjax3_config = {"options": {"enableMenu": False}}  # its menu would load more files; what screen readers read stays on


def setup(app):
    api.setup(app)
    diagrams.setup(app)
