"""A comparison as one HTML page: no other files, no scripts, readable on a phone."""

import base64
import html
from collections.abc import Mapping, Sequence
from typing import NamedTuple

# A table that is wider than the screen scrolls under its first column. Two gradients that stay in
# place draw a shadow at each end; two that move with the content hide it where nothing is cut off.
_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff;
       max-width: 72rem; margin: 0 auto; padding: 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.25; }
h2 { font-size: 1.15rem; line-height: 1.3; margin: 2.2rem 0 .4rem; }
p, ul { max-width: 48rem; } ul { padding-left: 1.2rem; } li { margin: .3rem 0; }
img { max-width: 100%; height: auto; display: block; }
.scroll { overflow-x: auto; background:
  linear-gradient(to right, #fff 40%, #fff0) 0 0 / 2.5rem 100%,
  linear-gradient(to left, #fff 40%, #fff0) 100% 0 / 2.5rem 100%,
  linear-gradient(to right, #0005, #0000) 0 0 / .9rem 100%,
  linear-gradient(to left, #0005, #0000) 100% 0 / .9rem 100%;
  background-repeat: no-repeat; background-attachment: local, local, scroll, scroll; }
.hint { display: none; }
.note, figcaption, .hint { font-size: .9rem; color: #444; margin: .4rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem;
        overflow-wrap: normal; }
th, td { padding: .35rem .7rem; text-align: right; vertical-align: top;
         border-bottom: 1px solid #ccc; }
td { white-space: pre; } th { vertical-align: bottom; min-width: 5rem; max-width: 11rem; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: #fff;
                                 box-shadow: inset -1px 0 #ccc; padding-left: 0; }
.words { overflow-wrap: anywhere; }
.words td { text-align: left; white-space: normal; }
.words td:first-child { min-width: 6rem; }
.better { color: #0b6b3a; font-weight: 600; } .worse { color: #a11; font-weight: 600; }
.undecided { color: #444; }
.plots, .maps, .grids { display: grid; gap: .5rem 2rem; }
.plots { grid-template-columns: repeat(auto-fill, minmax(min(100%, 30rem), 1fr)); }
.maps { grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr)); }
.grids { grid-template-columns: repeat(auto-fill, minmax(min(100%, 33rem), 1fr)); }
figure { margin: 0; min-width: 0; } .plots img { max-width: min(100%, 34rem); }
.grids figcaption, .maps figcaption { font-weight: 600; color: #1a1a1a; }
@media (max-width: 48rem) {
  .hint { display: block; }
  th:first-child, td:first-child { max-width: 8rem; white-space: normal; }
  .grids img { width: 36rem; max-width: none; }
}
"""
_HINT = '<p class="hint">Scroll sideways to see all of it.</p>'


class Table(NamedTuple):
    """A table of the page. A cell "better", "worse" or "undecided" is coloured.

    Attributes:
      heading: above the table.
      header: one cell per column.
      rows: a cell may have two lines.
      note: what the numbers are, below the table.
    """

    heading: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str


class Plot(NamedTuple):
    """A plot of the page.

    Attributes:
      heading: above the plot.
      png: the image.
      caption: below the plot.
    """

    heading: str
    png: bytes
    caption: str


class Gallery(NamedTuple):
    """One image per arm, side by side where the screen is wide enough.

    Attributes:
      heading: above the images.
      kind: "maps" | "grids", which sets the width of the images.
      images: name of an arm -> PNG.
      note: below the heading.
    """

    heading: str
    kind: str
    images: Mapping[str, bytes]
    note: str


def page(
    title: str,
    summary: str,
    verdicts: Sequence[str],
    tables: Sequence[Table],
    plots: Sequence[Plot],
    galleries: Sequence[Gallery],
    conditions: Mapping[str, str],
) -> str:
    """Return the HTML text of the page; every text in it is escaped.

    Args:
      title: of the page.
      summary: what is compared, below the title.
      verdicts: one text per arm but the first.
      tables: shown first.
      plots: shown after the tables.
      galleries: shown last; one without images is left out.
      conditions: what the arms share and how each differs: data, sampler, versions and so on.
    """
    body = [f"<h1>{_text(title)}</h1>", f"<p>{_text(summary)}</p>", "<ul>"]
    body += [f"<li>{_text(verdict)}</li>" for verdict in verdicts]
    body.append("</ul>")
    for table in tables:
        body += _table(table)
    body.append('<div class="plots">')
    for plot in plots:
        body += [
            f"<figure><h2>{_text(plot.heading)}</h2>{_image(plot.png, plot.heading)}"
            f"<figcaption>{_text(plot.caption)}</figcaption></figure>"
        ]
    body.append("</div>")
    for gallery in galleries:
        body += _gallery(gallery)
    body += ["<h2>Conditions</h2>", '<table class="words"><tbody>']
    body += [
        f"<tr><td>{_text(name)}</td><td>{_text(value)}</td></tr>"
        for name, value in conditions.items()
    ]
    body.append("</tbody></table>")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(title)}</title><style>{_STYLE}</style></head><body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def _table(table: Table) -> list[str]:
    # A region that can take the focus scrolls with the arrow keys.
    label = html.escape(table.heading)
    return [
        f"<h2>{_text(table.heading)}</h2>",
        _HINT,
        f'<div class="scroll" role="region" aria-label="{label}" tabindex="0"><table><thead><tr>',
        *(f"<th>{_text(cell)}</th>" for cell in table.header),
        "</tr></thead><tbody>",
        *(f"<tr>{_name(row[0])}{''.join(map(_cell, row[1:]))}</tr>" for row in table.rows),
        "</tbody></table></div>",
        f'<p class="note">{_text(table.note)}</p>',
    ]


def _gallery(gallery: Gallery) -> list[str]:
    if not gallery.images:
        return []
    scrolls = gallery.kind == "grids"  # their small texts must not shrink
    return [
        f"<h2>{_text(gallery.heading)}</h2>",
        f'<p class="note">{_text(gallery.note)}</p>',
        *([_HINT] if scrolls else []),
        f'<div class="{gallery.kind}">',
        *(
            f'<figure><figcaption>{_text(name)}</figcaption><div class="scroll">'
            f"{_image(png, f'{gallery.heading}: {name}')}</div></figure>"
            for name, png in gallery.images.items()
        ),
        "</div>",
    ]


def _name(text: str) -> str:
    """Return the first cell of a row: the name of an arm, which may break after "_" and "+"."""
    return f"<td>{_text(text).replace('_', '_<wbr>').replace('+', '+<wbr>')}</td>"


def _cell(text: str) -> str:
    if text in ("better", "worse", "undecided"):
        return f'<td class="{text}">{text}</td>'
    return f"<td>{_text(text)}</td>"


def _text(value: object) -> str:
    return html.escape(str(value))


def _image(png: bytes, alt: str) -> str:
    data = base64.b64encode(png).decode()
    return f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{data}">'
