import json

import pytest

from adabelief.lab.report import writer
from adabelief.lab.report.chapter import Chapter, Picture

SVG = b'<svg><defs></defs><path style="fill: #222222"/></svg>'


def chapter(*names):
    pictures = [Picture(name, f"Of {name}", {"png": b"png", "svg": SVG}) for name in names]
    return Chapter("A chapter", "\n\n".join(map(str, pictures)), ["It says something."], pictures, {"a.csv": "1\n"})


def names(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


OWN = {"report.md", "report.html", "a.csv", "manifest.json"}


def test_the_next_report_takes_the_last_one_s_files_away_and_no_other(tmp_path):
    writer.write(tmp_path, "Title", "", [chapter("old")])
    (tmp_path / "figures/mine.png").write_text("mine")
    assert names(tmp_path) == {*OWN, "figures/old.png", "figures/old.svg", "figures/mine.png"}
    writer.write(tmp_path, "Title", "", [chapter("new")])
    assert names(tmp_path) == {*OWN, "figures/new.png", "figures/new.svg", "figures/mine.png"}
    writer.write(tmp_path, "Title", "", [])
    assert names(tmp_path) == {*OWN, "figures/mine.png"} - {"a.csv"}


@pytest.mark.parametrize(
    "manifest", ["{", "[]", '{"files": 3}', "", json.dumps({"files": ["../kept", "/kept", 3, "figures"]})]
)
def test_a_manifest_that_is_none_removes_nothing(tmp_path, manifest):
    out = tmp_path / "report"
    (out / "figures").mkdir(parents=True)
    (tmp_path / "kept").write_text("kept")
    (out / "figures/kept.png").write_text("kept")
    (out / "manifest.json").write_text(manifest)
    writer.write(out, "Title", "", [chapter("new")])
    assert (tmp_path / "kept").exists()
    assert (out / "figures/kept.png").exists()


def test_findings_are_told_in_short_with_a_link_to_their_chapter():
    text = writer.markdown("Title", "Intro.", [chapter("one"), Chapter("Another", "Text.")])
    assert text.startswith(
        "# Title\n\nIntro.\n\n## In short\n\n- **[A chapter](#a-chapter)**\n    - It says something."
    )
    assert "[Another]" not in text
    assert text.endswith("## Another\n\nText.\n")
