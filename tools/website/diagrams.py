"""Fenced `mermaid` blocks as diagrams that the browser draws, from a local file, in the page's colours.

Not sphinxcontrib-mermaid: it loads Mermaid as a JavaScript module, which browsers refuse to do for pages opened from disk.
"""
import html
import re

from docutils import nodes
from sphinx.util.docutils import SphinxDirective


def words(source: str) -> str:
    """What a diagram says, for those who do not see it: its own `accDescr`, else the labels of its nodes in order."""
    if own := re.search(r"accDescr:\s*(.+)", source):
        return own[1].strip()
    labels = re.findall(r'\["?(.+?)"?\]|\("?([^()]+?)"?\)|\{"?(.+?)"?\}', source)
    flat = [re.sub(r"<[^>]+>", ", ", "".join(label)).strip() for label in labels]
    return "Diagram: " + "; ".join(dict.fromkeys(flat))


class Mermaid(SphinxDirective):
    """A diagram in Mermaid's language."""
    has_content = True

    def run(self):
        source = "\n".join(self.content)
        return [nodes.raw("", f'<div class="mermaid" role="img" aria-label="{html.escape(words(source), quote=True)}">{html.escape(source)}</div>', format="html")]


def setup(app):
    app.add_directive("mermaid", Mermaid)
