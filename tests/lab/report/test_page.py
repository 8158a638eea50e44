"""The page of a whole report, in a browser too where there is one; test_html.py has its parts."""

import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

from adabelief.lab.report import html
from tests.lab.report.reading import tables

pytestmark = pytest.mark.xdist_group("report")  # so that one process makes the report, for all of them
BROWSER = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome", "chromium-browser"))), None)


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.words = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)


def test_page_needs_no_other_file(out):
    text = (out / "report.html").read_text()
    page = Page(text)
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) == 2 * 3 + 3
    for attributes in images:
        assert re.match(r"data:image/(png|gif|svg\+xml);base64,[A-Za-z0-9+/=]{1000}", attributes["src"])
        assert attributes["alt"]
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    assert not [a for tag, a in page.tags if "src" in a and tag != "img"]
    assert "url(" not in text
    assert "@import" not in text


def test_page_says_what_the_markdown_says(out):
    page = Page((out / "report.html").read_text())
    words = "".join(page.words)
    found = tables((out / "report.md").read_text())
    for row in found[0]:
        for cell in row.values():
            assert cell.strip("`*") in words
    assert [tag for tag, _ in page.tags].count("table") == len(found)
    anchors = {attributes["id"] for tag, attributes in page.tags if tag in ("h1", "h2", "h3", "figure")}
    links = {a["href"][1:] for tag, a in page.tags if tag == "a" and a["href"].startswith("#")}
    assert links <= anchors


@pytest.mark.skipif(BROWSER is None, reason="no chromium, google-chrome or chrome is installed")
@pytest.mark.parametrize("width", [1280, 400])
def test_page_in_a_browser(out, tmp_path, width):
    """The page itself is as wide as the window: what is wider scrolls in a box of its own."""
    probe = """<script>addEventListener("load", () => {
        const broken = [...document.images].filter(image => !image.naturalWidth).length;
        document.title = `${document.documentElement.scrollWidth} of ${innerWidth}, ${broken} broken`;
    });</script></body>"""
    copy = tmp_path / "report.html"
    copy.write_text((out / "report.html").read_text().replace("</body>", probe))
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        f"--window-size={width},900",
    ]
    options += ["--enable-logging=stderr", "--v=0", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    done = subprocess.run([BROWSER, *options, copy.as_uri()], capture_output=True, text=True, timeout=60)
    (title,) = re.findall("<title>(.*?)</title>", done.stdout)
    needed, window = map(int, re.findall(r"\d+", title)[:2])
    assert title.endswith(", 0 broken")
    assert 0.8 * width < window <= max(width, 500)  # no narrower window than 500 pixels is to be had of some browsers
    assert needed <= window
    assert "CONSOLE" not in done.stderr


def test_page_escapes_html():
    text = html.page("# a < b\n\n<script>alert(1)</script>", {})
    assert "<script" not in text
    assert "<title>a &lt; b</title>" in text
    assert '<h1 id="a--b">' in text
