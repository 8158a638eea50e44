"""The command where there is nothing but the extra `cli`: typer, rich, numpy and what they require."""

import json
import re
import subprocess
import sys
from importlib import metadata

import pytest
from packaging.requirements import Requirement

import adabelief


def requirements(*packages):
    """The modules of some packages and of all that they require."""
    modules, wanted = set(), list(packages)
    names = {}
    for module, distributions in metadata.packages_distributions().items():
        for distribution in distributions:
            names.setdefault(distribution.lower().replace("_", "-"), set()).add(module)
    for package in wanted:  # which grows
        modules |= names.get(package, set())
        required = (Requirement(text) for text in metadata.requires(package) or [])
        found = {r.name.lower().replace("_", "-") for r in required if not r.marker or r.marker.evaluate({"extra": ""})}
        wanted += sorted(found - set(wanted))
    return modules


BARE = """
import io, json, sys
from contextlib import redirect_stderr, redirect_stdout
allowed, commands = map(json.loads, sys.argv[1:])

class Nothing:
    def find_spec(self, name, path=None, target=None):
        root = name.partition(".")[0]
        if not root.startswith("_") and root not in allowed and root not in sys.stdlib_module_names:
            raise ModuleNotFoundError(f"No module named {root!r}", name=root)

sys.meta_path.insert(0, Nothing())
from adabelief.cli import main
found = []
for arguments in commands:
    sys.argv = ["adabelief", *arguments]
    out = io.StringIO()
    try:
        with redirect_stdout(out), redirect_stderr(out):
            main()
    except SystemExit as end:
        found.append([end.code, out.getvalue()])
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def bare():
    """What commands end in and print where there is nothing but the extra `cli`."""
    commands = [
        ["--version"],
        ["-h"],
        ["train", "-h"],
        ["tune", "-h"],
        ["settings"],
        ["settings", "cifar"],
        ["tasks"],
        ["doctor"],
    ]
    commands += [["train", "digits"], ["tasks", "digits"]]
    allowed = json.dumps(sorted({"adabelief", *requirements("numpy", "typer", "rich")}))
    arguments = [sys.executable, "-c", BARE, allowed, json.dumps(commands)]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return dict(zip(map(" ".join, commands), json.loads(done.stdout), strict=True))


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("--version", adabelief.__version__),
        ("-h", "settings"),
        ("train -h", "--optimizer"),
        ("tune -h", "--storage"),
        ("settings", "rl-rainbow"),
        ("settings cifar", "beta_1=0.9"),
        ("tasks", "rl-atari"),
        ("doctor", "pip install 'adabelief[torch]'"),
    ],
)
def test_what_is_static_needs_no_framework(bare, command, said):
    code, output = bare[command]
    assert not code, output
    assert said in " ".join(output.split())


@pytest.mark.parametrize("command", ["train digits", "tasks digits"])
def test_what_needs_one_names_it(bare, command):
    code, _ = bare[command]
    assert re.match(r"adabelief: the command needs \w+, which is not installed: pip install 'adabelief\[lab\]'", code)
