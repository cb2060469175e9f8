"""A comparison as one self-contained HTML page: no network, no scripts, readable on a phone."""

import base64
import html
from collections.abc import Mapping, Sequence

_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff;
       max-width: 60rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
img { max-width: 100%; height: auto; display: block; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { padding: .35rem .7rem; text-align: right; white-space: pre; vertical-align: top;
         border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; }
.words td { text-align: left; white-space: normal; vertical-align: top; }
.words td:first-child { white-space: nowrap; }
.better { color: #0b6b3a; font-weight: 600; } .worse { color: #a11; font-weight: 600; }
.undecided { color: #666; }
.grids { display: grid; grid-template-columns: repeat(auto-fill, minmax(16rem, 1fr)); gap: 1rem; }
figure { margin: 0; } figcaption { font-size: .85rem; color: #444; margin-top: .3rem; }
ul { padding-left: 1.2rem; } small { color: #555; }
"""


def page(
    title: str,
    verdicts: Sequence[str],
    tables: Mapping[str, tuple[Sequence[str], Sequence[Sequence[str]]]],
    pictures: Mapping[str, bytes],
    grids: Mapping[str, bytes],
    conditions: Mapping[str, str],
) -> str:
    """The page's text.

    Args:
      verdicts: sentences.
      tables: heading -> (header, rows); a cell that is "better", "worse" or "undecided" is
        coloured, and one of two lines keeps them.
      pictures: heading -> PNG.
      grids: name of an arm -> PNG of its samples.
      conditions: what stands beside every number: data, sampler, versions and so on.
    """
    body = [f"<h1>{_text(title)}</h1>", "<ul>"]
    body += [f"<li>{_text(sentence)}</li>" for sentence in verdicts]
    body.append("</ul>")
    for heading, (header, rows) in tables.items():
        body += [f"<h2>{_text(heading)}</h2>", '<div class="scroll"><table><thead><tr>']
        body += [f"<th>{_text(cell)}</th>" for cell in header]
        body.append("</tr></thead><tbody>")
        body += [f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows]
        body.append("</tbody></table></div>")
    for heading, picture in pictures.items():
        body += [f"<h2>{_text(heading)}</h2>", _image(picture, heading)]
    if grids:
        body += ["<h2>Samples from the same noise</h2>", '<div class="grids">']
        body += [
            f"<figure>{_image(picture, name)}<figcaption>{_text(name)}</figcaption></figure>"
            for name, picture in grids.items()
        ]
        body.append("</div>")
    body += ["<h2>Conditions</h2>", '<div class="scroll"><table class="words"><tbody>']
    body += [
        f"<tr><td>{_text(name)}</td><td>{_text(value)}</td></tr>"
        for name, value in conditions.items()
    ]
    body.append("</tbody></table></div>")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(title)}</title><style>{_STYLE}</style></head><body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def _cell(text: str) -> str:
    if text in ("better", "worse", "undecided"):
        return f'<td class="{text}">{text}</td>'
    return f"<td>{_text(text)}</td>"


def _text(value: object) -> str:
    return html.escape(str(value))


def _image(png: bytes, alt: str) -> str:
    data = base64.b64encode(png).decode()
    return f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{data}">'
