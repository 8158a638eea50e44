"""Published numbers beside ours."""

import pytest

from tests.lab import synthetic
from tests.lab.report.reading import tables, text_of

pytestmark = pytest.mark.xdist_group("report")  # so that one process makes the report, for all of them


def test_published_numbers_are_beside_ours(out):
    text = (out / "report.md").read_text()
    (table,) = (t for t in tables(text) if "ours, last epoch" in t[0])
    rows = {row["optimizer"]: row for row in table}
    assert rows.keys() == {"AdaBelief", "SGD", "Adam †"}, "what has other settings was not published"
    belief = rows["AdaBelief"]
    assert (belief["ours, last epoch"], belief["ours, picked on validation"]) == ("94.00 ± 0.71", "94.50 ± 0.71")
    assert belief["last epoch [1]"] == "95.20", "of another experiment there is no difference to give"
    assert belief["best, picked on test [1]"] == "95.44"
    assert belief["best, picked on test [2]"] == "95.26"
    assert "**Ours is another experiment**" in text
    assert "ours minus theirs" not in text
    assert "1. https://github.com/juntang-zhuang/Adabelief-Optimizer" in text
    assert "**What sets ours apart:** 5,000 training" in text


def test_published_numbers_that_were_read_off_say_so(tmp_path):
    synthetic.write(tmp_path, synthetic.config(task="cifar100", model="vgg11", scale="paper"), (66.0,), (67.0,))
    text = text_of(tmp_path)
    (table,) = (t for t in tables(text) if "ours, last epoch" in t[0])
    assert table[0]["last epoch [1]"] == "≈ 67.4 (−0.40)"
    assert "(read off a figure, by eye)" in text
    assert "epochs 1 instead of this scale's 200" in text


def test_notes_on_published_numbers_are_given(tmp_path):
    synthetic.write(tmp_path, synthetic.config("Adam", task="imagenet", scale="paper"), (66.0,), (67.0,))
    text = text_of(tmp_path)
    (table,) = (t for t in tables(text) if "ours, last epoch" in t[0])
    assert table[0]["as reported [1]"] == "63.79 (+3.21) (a)"
    assert "- (a) quoted in Table 2" in text


def test_numbers_on_other_data_are_not_subtracted(tmp_path):
    for folder, changes in (("same", {}), ("other", {"images": "fashion-mnist"})):
        synthetic.write(tmp_path / folder, synthetic.config(task="keras-cnn", scale="paper", **changes))
    same, other = (text_of(tmp_path / folder) for folder in ("same", "other"))
    assert "97.91 (−6.91)" in same
    assert "other data" not in same
    assert "| 97.91 (a) |" in other
    assert "**Ours is on other data** (fashion-mnist, not mnist), so there is no difference to give." in other
