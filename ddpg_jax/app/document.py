"""Writes a document of headings, paragraphs, tables, figures and code as HTML or Markdown.

The HTML page holds everything itself and forbids the browser every request; figures of a Markdown file lie beside it.
"""

from __future__ import annotations

import base64
import html
import urllib.parse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

from ddpg_jax.files import write_text

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto; }
th, td { padding: .25rem .75rem; border-bottom: 1px solid #ddd; text-align: left; vertical-align: top; }
img { max-width: 100%; }
pre { background: #f5f5f5; padding: .75rem; overflow-x: auto; font-size: .85rem; white-space: pre-wrap; }
"""
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


class Heading(NamedTuple):
    """A heading of the second level."""

    text: str


class Paragraph(NamedTuple):
    """A paragraph of plain text."""

    text: str


class Table(NamedTuple):
    """A table of plain text."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


class Picture(NamedTuple):
    """A figure."""

    name: str
    about: str
    png: bytes


class Code(NamedTuple):
    """Text as a computer reads it."""

    text: str


Block: TypeAlias = Heading | Paragraph | Table | Picture | Code


def as_html(title: str, blocks: Sequence[Block]) -> str:
    """Formats a document as one HTML page.

    >>> "<td>a &lt; b</td>" in as_html("t", [Table(["x"], [["a < b"]])])
    True
    """
    head = (
        f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f'<meta name="viewport" content="width=device-width"><title>{html.escape(title)}</title><style>{STYLE}</style>'
    )
    body = "\n".join(map(_html, blocks))
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body><h1>{html.escape(title)}</h1>\n{body}\n</body></html>\n'
    )


def _html(block: Block) -> str:
    if isinstance(block, Heading):
        return f"<h2>{html.escape(block.text)}</h2>"
    if isinstance(block, Paragraph):
        return f"<p>{html.escape(block.text)}</p>"
    if isinstance(block, Code):
        return f"<pre>{html.escape(block.text)}</pre>"
    if isinstance(block, Picture):
        data = base64.b64encode(block.png).decode()
        return f'<figure><img alt="{html.escape(block.about)}" src="data:image/png;base64,{data}"></figure>'
    head = "".join(f"<th>{html.escape(text)}</th>" for text in block.header)
    rows = ("".join(f"<td>{html.escape(text)}</td>" for text in row) for row in block.rows)
    return f"<table><tr>{head}</tr>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"


def as_markdown(title: str, blocks: Sequence[Block], stem: str) -> str:
    """Formats a document as Markdown; its pictures are `STEM_NAME.png`."""
    return f"# {title}\n\n" + "\n\n".join(_markdown(block, stem) for block in blocks) + "\n"


def _markdown(block: Block, stem: str) -> str:
    if isinstance(block, Heading):
        return f"## {block.text}"
    if isinstance(block, Paragraph):
        return block.text
    if isinstance(block, Code):
        return f"```text\n{block.text.rstrip()}\n```"
    if isinstance(block, Picture):
        return f"![{block.about}]({urllib.parse.quote(f'{stem}_{block.name}.png')})"
    lines = [block.header, ["---"] * len(block.header), *block.rows]
    return "\n".join("| " + " | ".join(text.replace("|", "\\|").replace("\n", " ") for text in line) + " |" for line in lines)


def write_document(path: Path, title: str, blocks: Sequence[Block]) -> None:
    """Writes a document as HTML, or, if the name ends in .md, as Markdown with its pictures beside it."""
    if path.suffix == ".html":
        write_text(path, as_html(title, blocks))
        return
    for block in blocks:
        if isinstance(block, Picture):
            path.with_name(f"{path.stem}_{block.name}.png").write_bytes(block.png)
    write_text(path, as_markdown(title, blocks, path.stem))
