import re

import pytest

from adabelief.lab.report import latex

pytestmark = pytest.mark.xdist_group("report")  # so that one process makes the report, for all of them


def test_latex_escapes():
    assert latex.escape("a_b & 5 % of {x} \\ ~ ^ # $") == (
        r"a\_b \& 5 \% of \{x\} \textbackslash{} \textasciitilde{} \textasciicircum{} \# \$"
    )
    assert latex.escape("−1.20 ± 0.50 – ×") == r"$-$1.20 $\pm$ 0.50 -- $\times$"


def test_latex_table(out):
    text = (out / "table.tex").read_text()
    assert text.count(r"\begin{table*}") == text.count(r"\end{table*}") == 2
    assert text.count(r"\toprule") == text.count(r"\midrule") == text.count(r"\bottomrule") == 2
    rows = [line.strip() for line in text.splitlines() if line.strip().startswith(("AdaBelief &", "SGD &"))]
    assert rows[0].startswith(
        r"AdaBelief & 94.50 $\pm$ 0.71 & 0 & 94.00 $\pm$ 0.71 & 0 & 95.50 $\pm$ 0.71 & 3, 3 & 0, 1 \\"
    )
    assert rows[1].startswith(r"SGD & 92.50 $\pm$ 0.71 & $-$2.00 $\pm$")
    body = re.sub(r"\\begin\{tabular\}\{(\w+)\}", "", text)
    columns = len(re.findall(r"\\begin\{tabular\}\{(\w+)\}", text)[0])
    assert {line.count(" & ") for line in body.splitlines() if line.endswith(r"\\")} == {columns - 1}
    assert r"weight\_decay=0.0005" in text
    assert "Adam diverged (seed 2 in epoch 2)" in text
    plain = text.replace("% \\usepackage{booktabs}\n", "")
    assert not re.search(r"(?<!\\)[%#_]", plain)
    assert plain.isascii()
    bare = re.sub(r"\\[{}]", "", plain)
    assert bare.count("{") == bare.count("}")
