"""Tables as HTML and as Markdown, and the formatting of numbers."""

import html
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import printable


@dataclass(frozen=True)
class Table:
    """Content of a table.

    Args:
        caption: title of the table.
        header: names of the columns.
        rows: cells; the first of each row is its name.
    """

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def escape(text: str) -> str:
    """Escape text, such as the name of a file, for HTML on a single line."""
    return html.escape(printable(text))


def table_html(table: Table) -> str:
    """Render a table as HTML; a cell between asterisks is bold."""

    def cell(text: str, tag: str, scope: str = "") -> str:
        strong = re.fullmatch(r"\*(.+)\*", text)
        inner = f"<b>{escape(strong[1])}</b>" if strong else escape(text)
        return f"<{tag}{scope}>{inner}</{tag}>"

    head = "".join(cell(text, "th", " scope=col") for text in table.header)
    rows = "".join(
        f"<tr>{cell(row[0], 'th', ' scope=row')}{''.join(cell(c, 'td') for c in row[1:])}</tr>"
        for row in table.rows
    )
    # The caption is outside of the table, so that it wraps while a wide table scrolls.
    caption = escape(table.caption)
    return (
        f'<p class="soft caption">{caption}</p>'
        f'<div class="scroll" tabindex="0" role="group" aria-label="{caption}">'
        f'<table aria-label="{caption}">'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def markdown(tables: Sequence[Table], notes: Sequence[str] = ()) -> str:
    """Render tables with their captions, and notes below, as Markdown."""
    parts = []
    for table in tables:
        lines = [table.header, ("---",) * len(table.header), *table.rows]
        rows = (" | ".join(cell.replace("|", "\\|") for cell in cells) for cells in lines)
        parts.append(f"**{table.caption}**\n\n" + "\n".join(f"| {row} |" for row in rows))
    return "\n\n".join([*parts, *notes]) + "\n"


def decibels(value: float, digits: int = 0, sign: str = "") -> str:
    """Format a number, with a minus sign, an infinity sign, and a dash for NaN."""
    if math.isnan(value):
        return "\N{EN DASH}"
    text = f"{round(value, digits) + 0.0:{sign}.{digits}f}"
    text = text.lstrip("+") if not float(text) else text
    return text.replace("-", "\N{MINUS SIGN}").replace("inf", "\N{INFINITY}")
