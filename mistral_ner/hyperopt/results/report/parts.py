"""The parts that every page of the report is made of. Texts of a study are escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable
from importlib.resources import files as package_files

from mistral_ner.hyperopt.results.report.figure import escape

# what is wider than the page gets a shadow, which says that there is more
_MARK_WIDE = """<script>
"use strict";
(() => {
  const mark = wide => wide.classList.toggle("more", wide.scrollWidth > wide.clientWidth);
  const watch = new ResizeObserver(seen => seen.forEach(({ target }) => mark(target.closest(".wide"))));
  document.querySelectorAll(".wide, .wide > *").forEach(part => watch.observe(part));
})();
</script>
"""
REPORT_PAGE, ERRORS_PAGE = "report.html", "errors.html"
_LONG = ("trials", "repeat", "slices", "sentences")  # sections that a page break may divide


def build_document(title: str, body: Iterable[str], scripts: Iterable[str]) -> str:
    """Return a whole HTML page that loads nothing; ``scripts`` are script elements."""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{escape(title)}</title>
<style>
{read_asset("page.css")}</style>
</head>
<body>
<main>
{"".join(body)}
</main>
{"".join(scripts)}
{_MARK_WIDE}</body>
</html>
"""


def read_asset(name: str) -> str:
    """Return the text of a style or script of this package."""
    return (package_files("mistral_ner.hyperopt.results.report") / name).read_text(encoding="utf-8")


def build_section(name: str, title: str, content: str) -> str:
    """Return a section that ``#name`` links to."""
    long = ' class="long"' if name in _LONG else ""
    return f'<section id="{name}"{long}><h2>{escape(title)}</h2>{content}</section>\n'


def build_table(
    head: Iterable[str], lines: Iterable[Iterable[str]], long: int | None = None, cards: bool = False
) -> str:
    """Return a table of texts.

    Args:
        head: the names of the columns.
        lines: the rows.
        long: the column whose texts may be wrapped.
        cards: on a narrow screen each row becomes a list of names and values, so that no column is out of sight.
    """
    names = list(head)

    def build_cell(place: int, text: str) -> str:
        wraps = " class=long" if place == long else ""
        name = f' data-name="{escape(names[place])}"' if cards else ""
        return f"<td{wraps}{name}>{escape(text)}</td>"

    top = "".join(f"<th>{escape(name)}</th>" for name in names)
    rows = "".join(f"<tr>{''.join(build_cell(*cell) for cell in enumerate(line))}</tr>" for line in lines)
    of_cards = ' class="cards"' if cards else ""
    return f'<div class="wide"><table{of_cards}><thead><tr>{top}</tr></thead><tbody>{rows}</tbody></table></div>'


def build_pre(content: str) -> str:
    """Return text as it stands, such as a command or a file."""
    return f"<pre>{html.escape(content)}</pre>"
