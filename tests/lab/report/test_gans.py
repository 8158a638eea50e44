"""What the report makes of runs of GANs."""

from __future__ import annotations

import base64
import io
import itertools
import math
import re

import numpy as np
import pytest
from PIL import Image

from adabelief.lab.analysis.runs import load
from adabelief.lab.engine import session
from adabelief.lab.engine.config import plan
from adabelief.lab.report import report
from adabelief.lab.report.generated import pixels_apart
from adabelief.lab.tasks import task
from tests.lab import synthetic


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """The report on two optimizers with two seeds each."""
    out = tmp_path_factory.mktemp("gans")
    configs = plan(task("wgan"), scale="smoke", names=["AdaBelief", "RMSprop"], seeds=[0, 1])
    session.run(task("wgan"), configs, out / "runs", cpu=True)
    report.write(out / "report", load([out / "runs"]), command="adabelief report runs")
    return out / "report"


def test_report_shows_samples_boxes_and_the_features_name(reported):
    text = (reported / "report.md").read_text()
    for name in ("samples", "boxes"):
        assert f"figures/wgan-digits-smoke-{name}.png" in text
        with Image.open(reported / f"figures/wgan-digits-smoke-{name}.png") as picture:
            assert min(picture.size) > 300
    assert "test Fréchet distance, on random-conv" in text
    assert "| optimizer | diversity after the last epoch |" in text
    assert re.search(r"\| \d+, \d+ \| \d+ \(epoch [12]\), \d+ \(epoch [12]\) \|", text)
    assert re.search(r"Real images, those for validation, are 0\.\d+ from the test images\.", text)
    assert "features" in (reported / "results.csv").read_text()


def test_one_seed_has_no_box(reported, tmp_path):
    report.write(tmp_path, load([*reported.parent.glob("runs/*/*/seed1")]), command="adabelief report runs")
    assert (tmp_path / "figures/wgan-digits-smoke-samples.png").exists()
    assert not (tmp_path / "figures/wgan-digits-smoke-boxes.png").exists()
    assert "Box" not in (tmp_path / "report.md").read_text()


def test_pixels_apart_is_a_difference_over_all_pairs():
    images = np.random.default_rng(0).integers(0, 256, size=(4, 5, 5, 3), dtype=np.uint8)
    files = []
    for image in images:
        file = io.BytesIO()
        Image.fromarray(image).save(file, format="PNG")
        files.append(base64.b64encode(file.getvalue()).decode())
    pairs = [np.mean((a.astype(float) - b) ** 2) for a, b in itertools.combinations(images, 2)]
    assert pixels_apart(files) == pytest.approx(math.sqrt(np.mean(pairs)))
    assert pixels_apart(files[:1] * 3) == 0


@pytest.mark.parametrize(
    ("features", "told", "cell"),
    [("random-conv", "**Ours is no FID:** it is measured on random-conv", "≈ 81 "), ("inception", "", "≈ 81 (−10.00)")],
)
def test_a_distance_on_other_features_is_not_subtracted_from_an_fid(features, told, cell, tmp_path):
    synthetic.write(
        tmp_path,
        synthetic.config("AdaBelief", task="wgan", scale="paper", features=features),
        *((70.0,), (71.0,)),
        best=1,
    )
    report.write(tmp_path, load([tmp_path]), command="adabelief report")
    text = (tmp_path / "report.md").read_text()
    assert told in text
    assert ("Ours is no FID" in text) == bool(told)
    row = next(line for line in text.splitlines() if line.startswith("| AdaBelief") and "≈ 81" in line)
    assert cell in row
    assert ("(" in row.partition("≈ 81")[2].partition("`")[0]) == (not told)
    unit = "Inception (FID)" if features == "inception" else features
    assert f"test Fréchet distance, on {unit}" in text
