"""The page, as markup; test_report.py opens one in a browser where there is one."""

import base64
import re

import pytest

from adabelief.lab.report import html
from adabelief.lab.report.chapter import Picture

FIGURE = Picture("a-time", "Times <of a>", {"png": b"png", "svg": b"<svg/>"})
FILM = Picture("race", "A race", {"gif": b"light", "dark.gif": b"dark"})
LONG = "adabelief report " + " ".join(f"folder-{i}" for i in range(30))
TEXT = f"""# A title

## In short

- {FIGURE.title}

## Second

| a | b |
| :-- | --: |
| 1 | 2 |

{FIGURE}

{FILM}

```sh
adabelief demo
```

- A list:

    ```sh
    {LONG}
    ```

## Third

### Below
"""


@pytest.fixture(scope="module")
def page():
    return html.page(TEXT, {picture.link: picture for picture in (FIGURE, FILM)})


@pytest.mark.parametrize(
    "markup",
    [
        "<title>A title</title>",
        '<h1 id="a-title">A title</h1>',
        '<h2 id="second"><a href="#second">Second</a></h2>',  # a heading links to itself
        '<h3 id="below"><a href="#below">Below</a></h3>',
        '<li><a href="#in-short">In short</a></li><li><a href="#second">Second</a></li><li><a href="#third">',
        '<div class="scroll" tabindex="0" role="region" aria-label="table"><table>',
        '<figure id="figure-a-time">',
        '<a href="#figure-a-time"><img alt="Times &lt;of a&gt;" src="data:image/svg+xml;base64,',
        "<pre><code>adabelief demo</code></pre>",
        f"<pre><code>{LONG}</code></pre>",
    ],
)
def test_markup(page, markup):
    assert markup in page


def test_a_long_command_is_folded_and_a_short_one_is_not(page):
    assert page.count('<details class="command">') == 1
    (shown,) = re.findall(r'<details class="command"><summary><code>(.*?) …</code></summary>', page)
    assert LONG.startswith(shown)
    assert len(shown) <= html.LONG


def test_a_film_has_a_version_for_dark_pages(page):
    light, dark = (base64.b64encode(content).decode() for content in (b"light", b"dark"))
    assert f'<source media="(prefers-color-scheme: dark)" srcset="data:image/gif;base64,{dark}">' in page
    assert f'<img alt="A race" src="data:image/gif;base64,{light}">' in page


def test_the_style_has_both_schemes_narrow_pages_and_figures_at_their_own_size(page):
    (style,) = re.findall("<style>(.*?)</style>", page, re.DOTALL)
    assert "@media (prefers-color-scheme: dark)" in style
    assert "@media (max-width: 40rem)" in style
    assert not re.search(r"img[^{}]*\{[^}]*width", style), "an image is neither stretched nor shrunk"
