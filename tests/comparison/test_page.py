"""The page is complete, needs no other file and escapes its texts; its plots are images."""

import io
from html.parser import HTMLParser

import numpy as np
from PIL import Image

from cdt.comparison import charts
from cdt.comparison.arm import Arm
from cdt.comparison.page import Gallery, Plot, Table, page

RNG = np.random.default_rng(0)
ARMS = [
    Arm(name, np.array([5, 10, 15]), RNG.random((2, 3)) + 1, RNG.random((2, 3)),
        np.array([0, 5, 15]), RNG.random((2, 3, 6)) + 1, stages, {})
    for name, stages in [("uniform", None), ("curriculum", np.array([[4, 11], [6, 9]])),
                         ("min_snr", None)]
]  # fmt: skip


class Reader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.sources, self.text = [], [], ""

    def handle_starttag(self, tag, attributes):
        if tag not in ("meta", "img", "link", "wbr"):
            self.open.append(tag)
        self.sources += [v for k, v in attributes if k in ("src", "href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_plots_are_valid_and_differ():
    maps = charts.progress_maps(ARMS)
    assert [*maps] == ["curriculum", "min_snr"]
    pictures = [
        *maps.values(),
        charts.metric_plot(ARMS, "Frechet"),
        charts.difference_plot(ARMS, "Frechet"),
        charts.validation_plot(ARMS),
        charts.metric_plot([a._replace(metric=a.metric[:1]) for a in ARMS], "Frechet"),
    ]
    assert len(set(pictures)) == len(pictures)
    for picture in pictures:
        assert min(Image.open(io.BytesIO(picture)).size) > 100


def test_the_page_needs_nothing_else():
    picture = charts.validation_plot(ARMS)
    table = Table("Table", ["arm", "verdict"], [["<b>", "worse"], ["hard_to_easy", "better"]],
                  "a note")  # fmt: skip
    text = page(
        "a <title>", "a summary", ["curriculum: worse & proud"], [table],
        [Plot("Plot", picture, "a caption")],
        [Gallery("Samples", "grids", {"arm": picture}, ""), Gallery("None", "maps", {}, "")],
        {"data": "digits"},
    )  # fmt: skip
    reader = Reader()
    reader.feed(text)
    assert reader.open == []
    assert len(reader.sources) == 2
    assert all(source.startswith("data:image/png;base64,") for source in reader.sources)
    assert "worse & proud" in reader.text and "a <title>" in reader.text and "<b>" in reader.text
    assert "<td>hard_<wbr>to_<wbr>easy</td>" in text
    assert "None" not in reader.text  # a gallery without images
    assert '<td class="worse">' in text and "http" not in text and "<script" not in text


HOSTILE = "\"'><script>alert(1)</script><img src=x onerror=alert(2)>&lt;\x00"
TAGS = {"html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "ul", "li", "div",
        "table", "thead", "tbody", "tr", "th", "td", "img", "figure", "figcaption"}  # fmt: skip
ATTRIBUTES = {"lang", "charset", "name", "content", "class", "alt", "src", "role", "tabindex",
              "aria-label"}  # fmt: skip


def test_names_and_captions_are_text_and_nothing_else():
    """Hostile text in every place that a config or a data set can fill."""
    picture = charts.validation_plot(ARMS)
    text = page(
        HOSTILE, HOSTILE, [HOSTILE], [Table(HOSTILE, [HOSTILE], [[HOSTILE, "better"]], HOSTILE)],
        [Plot(HOSTILE, picture, HOSTILE)], [Gallery(HOSTILE, "grids", {HOSTILE: picture}, HOSTILE)],
        {HOSTILE: HOSTILE},
    )  # fmt: skip
    found, shown = [], []

    class All(HTMLParser):
        def handle_starttag(self, tag, attributes):
            found.append((tag, dict(attributes)))

        def handle_data(self, data):
            shown.append(data)

    All().feed(text)
    assert {tag for tag, _ in found} == TAGS
    for tag, attributes in found:
        assert attributes.keys() <= ATTRIBUTES
        assert attributes.get("aria-label", HOSTILE) == HOSTILE
        if tag == "img":
            assert attributes["src"].startswith("data:image/png;base64,")
            assert attributes["alt"] in (HOSTILE, f"{HOSTILE}: {HOSTILE}")
    assert "".join(shown).count(HOSTILE) == 15
