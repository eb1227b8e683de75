"""Tables as HTML, which notebooks show in place of a line of text; they need no scripts and no style of their own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape


def html_table(caption: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose first column names its rows.

    Args:
        caption: What stands above it.
        header: Names of the columns.
        rows: Texts of the cells, which are escaped.

    Examples:
        >>> html_table("Sizes", ["layer", "units"], [["a<b", "3"]])[-62:]
        '<tr><th scope="row">a&lt;b</th><td>3</td></tr></tbody></table>'
    """
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in header)
    body = "".join(
        f'<tr><th scope="row">{escape(first)}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in others)}</tr>'
        for first, *others in rows
    )
    return f"<table><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
