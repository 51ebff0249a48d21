"""Pieces of HTML that every part of the page uses, and its style sheet."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape


def section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>"


def missing(what: str, command: str) -> str:
    return f'<p class="missing">{escape(what)}; <code>{escape(command)}</code> makes it.</p>'


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, markup: bool = False, wide_last: bool = False) -> str:
    """Numbers stand on the right, words on the left.

    Args:
        markup: the cells are HTML.
        wide_last: the last column takes all the room that is left, and its words are broken into lines.
    """
    of_words = [' class="words"' if i and _is_words([row[i] for row in rows]) else "" for i in range(len(head))]

    def cell(text: str, kind: str) -> str:
        # A path may be broken after a slash where the screen is narrow.
        return f"<td{kind}>{text if markup else escape(text).replace('/', '/<wbr>')}</td>"

    names = "".join(f"<th{kind}>{escape(name)}</th>" for name, kind in zip(head, of_words, strict=True))
    body = "".join(f"<tr>{''.join(map(cell, row, of_words))}</tr>" for row in rows)
    kind = ' class="wide-last"' if wide_last else ""
    return f'<div class="scroll"><table{kind}><thead><tr>{names}</tr></thead><tbody>{body}</tbody></table></div>'


def _is_words(column: Sequence[str]) -> bool:
    """Whether most cells of a column begin with a letter."""
    return sum(text[:1].isalpha() for text in column) > len(column) / 2


STYLE = """
:root{--ink:#1f2933;--soft:#5f6c7b;--line:#e3e8ee;--page:#f6f8fa;--card:#fff;--blue:#2563a8;--pale:#a9c5e4;
--orange:#d9661f;--green:#2f855a;--red:#c53030}
@media(prefers-color-scheme:dark){:root{--ink:#e4e9ef;--soft:#9aa7b5;--line:#2d3742;--page:#12171c;--card:#1a2129;
--blue:#6aa9ea;--pale:#35557a;--orange:#f08a4b;--green:#4fae7f;--red:#ef6b6b}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
header,main{max-width:1120px;margin:0 auto;padding:0 24px}
header{padding-top:32px}h1{margin:0;font-size:28px}header p{margin:2px 0 0;color:var(--soft)}
section{background:var(--card);border:1px solid var(--line);border-radius:10px;margin:20px 0;padding:18px 24px 22px}
h2{margin:0 0 12px;font-size:18px}h3{margin:20px 0 6px;font-size:15px}p{margin:6px 0}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(210px,42%),1fr));gap:12px}
.tiles div{border:1px solid var(--line);border-radius:8px;padding:10px 14px}
.tiles small,.tiles span{display:block;color:var(--soft);font-size:13px}
.tiles b{display:block;font-size:23px;line-height:1.25;font-variant-numeric:tabular-nums}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(460px,100%),1fr));gap:18px 26px;margin:8px 0 12px}
svg{display:block;width:100%;height:auto;overflow:visible}
.scroll{overflow-x:auto;background:linear-gradient(to left,var(--card) 30%,transparent) right/48px 100% no-repeat local,
linear-gradient(to left,var(--line),transparent) right/12px 100% no-repeat}
table{border-collapse:collapse;font-size:14px;font-variant-numeric:tabular-nums}
table.wide-last{width:100%}table.wide-last td:last-child{width:100%;min-width:160px;white-space:normal}
th,td{padding:5px 18px 5px 0;text-align:right;white-space:nowrap;border-bottom:1px solid var(--line)}
th{color:var(--soft);font-weight:500;font-size:13px}th:first-child,td:first-child,.words{text-align:left}
table.wide-last th:last-child,table.wide-last td:last-child{text-align:left;padding-right:0}
.bar{display:flex;height:14px;border-radius:3px;overflow:hidden;min-width:160px}.bar i{display:block;height:100%}
.kept{background:var(--green)}.r0{background:#d9661f}.r1{background:#e0a030}.r2{background:#b7465c}.r3{background:#7a5ab0}
.r4{background:#3f88c5}.r5{background:#8c6d46}.r6{background:#d17fa8}.r7{background:#5a9aa0}.r8{background:#9aa5b1}
.missing{color:var(--soft);border-left:3px solid var(--line);padding-left:12px}
.good{color:var(--green)}.bad{color:var(--red);font-weight:600}
pre{background:var(--page);border:1px solid var(--line);border-radius:6px;padding:10px 14px;overflow-x:auto;
white-space:pre-wrap;overflow-wrap:anywhere;font:13px/1.45 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
pre b{color:var(--blue)}code{background:var(--page);border-radius:4px;padding:1px 5px;font-size:13px}
summary{cursor:pointer;color:var(--soft)}details{margin-bottom:12px}
@media(max-width:520px){header,main{padding:0 12px}section{padding:14px 14px 16px}
th,td{white-space:normal;padding-right:12px}}
"""
