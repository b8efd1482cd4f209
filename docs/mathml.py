"""A hook of mkdocs.yml: formulas as MathML, which browsers draw without a script from elsewhere."""

from __future__ import annotations

import html
import re

from latex2mathml.converter import convert

_INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.S)
_BLOCK = re.compile(r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', re.S)


def on_page_content(page_html: str, **_: object) -> str:
    """Called by mkdocs with the HTML of a page's text; returns it with its formulas as MathML."""
    page_html = _BLOCK.sub(lambda found: convert(html.unescape(found[1]), display="block"), page_html)
    return _INLINE.sub(lambda found: convert(html.unescape(found[1])), page_html)
