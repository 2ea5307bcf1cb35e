"""The documentation site: `python tools/website/build.py`."""
