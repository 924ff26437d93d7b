"""The page itself: everything that comes from outside is escaped, and nothing is fetched. No torch.

The page says so to the browser too: its policy forbids scripts, requests and forms.
"""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Iterable, Iterator, Sequence

# C0 and C1 controls, and what turns the direction of the text that follows.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")

STYLE = """
:root{color-scheme:light dark;--paper:#fbfbfa;--card:#fff;--ink:#1c1e21;--faint:#5f6670;
--line:#dcdfe3;--bar:#b9c0c9;--accent:#2563b8;--mark:#b3261e;--warn:#fff3d6}
@media(prefers-color-scheme:dark){:root{--paper:#14161a;--card:#1d2026;--ink:#e8eaed;
--faint:#a2a9b4;--line:#343941;--bar:#555d69;--accent:#7fb2ff;--mark:#ff8a80;--warn:#3b3116}}
*{box-sizing:border-box}
body{margin:0 auto;padding:1rem;max-width:76rem;background:var(--paper);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
h1{font-size:1.6rem;margin:.2rem 0;overflow-wrap:anywhere}
h2{font-size:1.25rem;margin:2.2rem 0 .6rem;border-top:1px solid var(--line);padding-top:1rem}
h3{font-size:1.05rem;margin:0;overflow-wrap:anywhere}h4{font-size:.85rem;margin:.7rem 0 .3rem;
color:var(--faint);font-weight:600}
p{margin:.4rem 0;overflow-wrap:anywhere}.faint{color:var(--faint);font-size:.9rem}
a{color:var(--accent)}nav{display:flex;flex-wrap:wrap;gap:.2rem .9rem;margin:.6rem 0 1rem}
.note{background:var(--warn);border-radius:8px;padding:.5rem .8rem;margin:.6rem 0}
.tiles{display:grid;grid-template-columns:repeat(auto-fill,minmax(9.5rem,1fr));gap:.6rem}
.tiles div,.card{background:var(--card);border:1px solid var(--line);border-radius:10px;
padding:.6rem .8rem;min-width:0}
.tiles b{display:block;font-size:1.4rem;line-height:1.3}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,33rem),1fr));gap:.8rem}
.strip{display:grid;grid-template-columns:repeat(4,1fr);gap:.4rem}
.wide{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,15rem),1fr));gap:.7rem}
figure{margin:0;min-width:0}
figure img,figure .gone{display:block;width:100%;aspect-ratio:1;object-fit:contain;
background:var(--line);border-radius:6px}
.wide img,.wide .gone{aspect-ratio:4/3}
.gone{display:flex!important;align-items:center;justify-content:center;color:var(--faint);
font-size:.75rem}
figcaption{font-size:.75rem;color:var(--faint);overflow:hidden;text-overflow:ellipsis;
white-space:nowrap}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-size:.9rem;min-width:100%}
th,td{padding:.25rem .6rem;border-bottom:1px solid var(--line);text-align:left;
vertical-align:top}
th{color:var(--faint);font-weight:600;white-space:nowrap}
td.number,th.number{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
td bdi{display:inline-block;overflow-wrap:anywhere}
td:first-child bdi{min-width:7rem}td:last-child bdi{min-width:10rem}
summary{cursor:pointer;margin:.5rem 0}
svg{display:block;width:100%;height:auto}svg.small{height:2.6rem;margin:.3rem 0}
svg.histogram{max-width:48rem}
svg text{fill:var(--faint);font-size:12px}
@media(max-width:40rem){svg text{font-size:20px}}
.grid{stroke:var(--line);fill:none}.stored{fill:var(--bar)}.shown{fill:var(--accent)}
.threshold{stroke:var(--mark);fill:none;stroke-width:1.5;vector-effect:non-scaling-stroke}
.key{display:inline-block;width:.8em;height:.8em;border-radius:2px;margin:0 .3em 0 .8em}
.key.stored{background:var(--bar)}.key.shown{background:var(--accent)}
.key.threshold{background:var(--mark);width:2px}
@media print{nav{display:none}details{display:block}}
"""
_POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; "
    "form-action 'none'"
)


def text(value: object) -> str:
    """A value as it may stand anywhere in the page: in text, and between quotes."""
    return html.escape(_UNSEEN.sub("\ufffd", str(value)), quote=True)


def name(value: object) -> str:
    """Somebody's text, which must not turn what stands beside it."""
    return f"<bdi>{text(value)}</bdi>"


def head(title: str) -> str:
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n'
        f"<title>{text(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
    )


FOOT = "</body>\n</html>\n"


def heading(title: str, anchor: str) -> str:
    return f'<h2 id="{anchor}">{text(title)}</h2>\n'


def paragraph(words: str, kind: str = "") -> str:
    return f'<p class="{kind}">{text(words)}</p>\n' if kind else f"<p>{text(words)}</p>\n"


def tiles(values: Iterable[tuple[str, object]]) -> str:
    cells = (f"<div><b>{text(value)}</b>{text(what)}</div>" for what, value in values)
    return f'<div class="tiles">{"".join(cells)}</div>\n'


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    """A table, row by row; columns whose first value is a number stand on the right."""
    yield '<div class="scroll"><table>\n'
    numbers: list[bool] | None = None
    for row in rows:
        if numbers is None:
            numbers = [isinstance(cell, (int, float)) for cell in row]
            yield _row("th", columns, numbers)
        yield _row("td", [_shown(cell) for cell in row], numbers)
    yield "</table></div>\n"


def _row(tag: str, cells: Sequence[str], numbers: Sequence[bool]) -> str:
    kinds = (' class="number"' if is_number else "" for is_number in numbers)
    made = (
        f"<{tag}{kind}>{text(cell) if kind else name(cell)}</{tag}>"
        for cell, kind in zip(cells, kinds, strict=True)
    )
    return f"<tr>{''.join(made)}</tr>\n"


def _shown(cell: object) -> str:
    if isinstance(cell, float):
        return f"{cell:.2f}"
    return f"{cell:,}" if isinstance(cell, int) else str(cell)


def figure(jpeg: bytes | None, caption: str, title: str) -> str:
    """A picture with a line under it, which is cut where it is too long; `title` is all of it."""
    shown = '<span class="gone">not found</span>'
    if jpeg is not None:
        data = base64.b64encode(jpeg).decode("ascii")
        shown = f'<img src="data:image/jpeg;base64,{data}" alt="{text(title)}">'
    return f'<figure title="{text(title)}">{shown}<figcaption>{name(caption)}</figcaption></figure>'
