"""Results and configs as HTML, for notebooks."""

import base64
import html
from collections.abc import Iterable, Sequence
from typing import Any

from rljax.report import console, plot


def page(summary: dict[str, Any], figure: Any) -> str:
    """The table of a run or a sweep, and its learning curve, if there is a figure."""
    made = console.table(summary)
    rows = zip(*(column.cells for column in made.columns), strict=True)
    text = table([str(column.header) for column in made.columns], rows, str(made.title), str(made.caption or ""))
    if figure is None:
        return text
    data = base64.b64encode(plot.png(figure)).decode()
    return f"{text}<img alt='learning curve' width='700' src='data:image/png;base64,{data}'>"


def table(heads: Sequence[str], rows: Iterable[Iterable[Any]], title: str = "", note: str = "") -> str:
    """A table with a title above it and a note below."""
    lines = [f"<tr>{_cells('th', heads)}</tr>", *(f"<tr>{_cells('td', row)}</tr>" for row in rows)]
    parts = [f"<div><b>{html.escape(title)}</b></div>" if title else "", f"<table>{''.join(lines)}</table>"]
    return "".join([*parts, f"<div>{html.escape(note)}</div>" if note else ""])


def _cells(tag: str, texts: Iterable[Any]) -> str:
    return "".join(f"<{tag} style='text-align: right'>{html.escape(str(text))}</{tag}>" for text in texts)
