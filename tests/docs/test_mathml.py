"""Formulas of docstrings and pages, as MathML."""

from __future__ import annotations

import re
import sys
from xml.etree import ElementTree

import pytest

from tests.docs.pages import ROOT

sys.path.insert(0, str(ROOT / "docs" / "hooks"))
from mathml import block, formula


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("a + b", "<mi>a</mi><mo>+</mo><mi>b</mi>"),
        ("a/b · c", "<mfrac><mrow><mi>a</mi></mrow><mrow><mi>b</mi></mrow></mfrac><mo>·</mo><mi>c</mi>"),
        (
            "(a + b)²",
            "<msup><mrow><mrow><mo>(</mo><mi>a</mi><mo>+</mo><mi>b</mi><mo>)</mo></mrow></mrow><mn>2</mn></msup>",
        ),
        ("beta1^t", "<msup><mrow><msub><mi>β</mi><mn>1</mn></msub></mrow><mrow><mi>t</mi></mrow></msup>"),
        ("√(x + 1)", "<msqrt><mi>x</mi><mo>+</mo><mn>1</mn></msqrt>"),
        ("m_old", "<msub><mi>m</mi><mi>old</mi></msub>"),
        ("weight_decay", "<mi>weight_decay</mi>"),
        ("1/((a)(b))", None),  # a bracket that is taken off is the outer one
    ],
)
def test_formulas(text, made):
    found = formula(text)
    ElementTree.fromstring(found)  # it is well-formed
    if made:
        assert found == f"<math>{made}</math>"
    else:
        assert found.count("<mo>(</mo>") == 2


@pytest.mark.parametrize("text", ["", "a b", "(a", "a +", "√", "the mean of g"])
def test_what_is_no_formula_is_refused(text):
    with pytest.raises((ValueError, IndexError)):
        formula(text)


def test_lines_have_notes():
    found = block("    s ← b · s          the second `mean`\n    p ← p − s, then no more\n")
    assert "<div>the second <code>mean</code></div>" in found
    assert "then no more" in found
    with pytest.raises(ValueError, match="no formulas"):
        block("adabelief/\n  rule.py      the rule")


@pytest.mark.parametrize("file", ["torch/optimizer.py", "keras/optimizers.py", "optax/optimizers.py", "optax/scale.py"])
def test_the_updates_of_docstrings_are_typeset(file):
    text = (ROOT / "src/adabelief" / file).read_text()
    updates = re.findall(r"^ +s ← .*eps.*$|^ +p ← p − .*/ \(.*$", text, re.MULTILINE)
    assert updates
    assert all("<msup>" in block(update) for update in updates)
