"""What a type checker says of code that uses the package."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from mypy import api

SOURCE = Path(__file__).parents[1] / "src"
SNIPPET = """
import adabelief
from adabelief import AdaBelief, AdaBeliefW, recommended

adabelief.AdaBelif  # E: Module has no attribute "AdaBelif"
adabelief.AdaBelief([], **recommended("cifar"))
AdaBeliefW([], **recommended("imagenet", AdaBeliefW))
recommended("cifra")  # E: Argument 1 to "recommended" has incompatible type
recommended("cifar", "AdaBelief")  # E: Argument 2 to "recommended" has incompatible type
AdaBelief([]).step(3)  # E: No overload variant of "step"
AdaBelief([], learning_rate=1e-3)  # E: Unexpected keyword argument "learning_rate"
"""


@pytest.fixture(scope="module")
def messages(tmp_path_factory):
    """What mypy says, by line; other packages are left out, since to read torch alone takes a minute."""
    folder = tmp_path_factory.mktemp("types")
    (folder / "snippet.py").write_text(SNIPPET)
    (folder / "mypy.ini").write_text("[mypy]\nfollow_imports = skip\n[mypy-adabelief.*]\nfollow_imports = silent\n")
    options = ["--config-file", str(folder / "mypy.ini"), "--cache-dir", str(folder / "cache"), "--strict"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MYPYPATH", str(SOURCE))
        said, errors, _ = api.run([*options, "--no-namespace-packages", str(folder / "snippet.py")])
    assert not errors
    found = re.findall(r"snippet\.py:(\d+): error: (.*)", said)
    return {int(line): message for line, message in found}


@pytest.mark.parametrize(("line", "text"), [*enumerate(SNIPPET.splitlines(), 1)][1:])
def test_mistakes_are_errors_and_the_rest_is_not(messages, line, text):
    expected = text.partition("# E: ")[2]
    assert expected in messages.get(line, "")
    assert bool(expected) == (line in messages), messages.get(line)
