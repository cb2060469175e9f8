"""The page is whole, self-contained and safe to open; its pictures are pictures."""

import io
from html.parser import HTMLParser

import numpy as np
from PIL import Image

from cdt.comparison import charts
from cdt.comparison.arm import Arm
from cdt.comparison.page import page

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
        if tag not in ("meta", "img", "link"):
            self.open.append(tag)
        self.sources += [v for k, v in attributes if k in ("src", "href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_pictures_are_valid_and_differ():
    pictures = [
        charts.metric_plot(ARMS, "Frechet"),
        charts.difference_plot(ARMS, "Frechet"),
        charts.validation_plot(ARMS),
        charts.progress_plot(ARMS),
        charts.progress_plot(ARMS[:2]),
        charts.metric_plot([a._replace(metric=a.metric[:1]) for a in ARMS], "Frechet"),
    ]
    assert len(set(pictures)) == len(pictures)
    for picture in pictures:
        assert min(Image.open(io.BytesIO(picture)).size) > 100


def test_the_page_needs_nothing_else():
    picture = charts.validation_plot(ARMS)
    text = page(
        "a <title>", ["curriculum: worse & proud"],
        {"Table": (["arm", "verdict"], [["<b>", "worse"], ["x", "better"]])},
        {"Plot": picture}, {"arm": picture}, {"data": "digits"},
    )  # fmt: skip
    reader = Reader()
    reader.feed(text)
    assert reader.open == []
    assert len(reader.sources) == 2
    assert all(source.startswith("data:image/png;base64,") for source in reader.sources)
    assert "worse & proud" in reader.text and "a <title>" in reader.text and "<b>" in reader.text
    assert '<td class="worse">' in text and "http" not in text and "<script" not in text


HOSTILE = "\"'><script>alert(1)</script><img src=x onerror=alert(2)>&lt;\x00"
TAGS = {"html", "head", "meta", "title", "style", "body", "h1", "h2", "ul", "li", "div", "table",
        "thead", "tbody", "tr", "th", "td", "img", "figure", "figcaption"}  # fmt: skip


def test_names_and_captions_are_text_and_nothing_else():
    """In every place where words of a config or a data set can stand."""
    picture = charts.validation_plot(ARMS)
    text = page(
        HOSTILE, [HOSTILE], {HOSTILE: ([HOSTILE], [[HOSTILE, "better"]])},
        {HOSTILE: picture}, {HOSTILE: picture}, {HOSTILE: HOSTILE},
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
        assert attributes.keys() <= {"lang", "charset", "name", "content", "class", "alt", "src"}
        if tag == "img":
            assert attributes["src"].startswith("data:image/png;base64,")
            assert attributes["alt"] == HOSTILE
    assert "".join(shown).count(HOSTILE) == 10
