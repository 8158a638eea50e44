"""The command `adabelief`."""

from __future__ import annotations

import sys

EXTRAS = {
    **dict.fromkeys(("typer", "rich"), "cli"),
    **dict.fromkeys(("keras", "tensorflow"), "lab,keras"),
    **dict.fromkeys(("jax", "optax"), "lab,jax"),
    "optuna": "tune",
    **dict.fromkeys(("stable_baselines3", "gymnasium", "ale_py", "cv2", "mujoco"), "rl"),
}
"""What of the package brings a package that the command may lack; the others come with its lab."""


def main() -> None:
    """Runs the command; where a package that it needs is missing, says how to get it."""
    try:
        from adabelief.lab.commands import app

        app(prog_name="adabelief")
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package == "adabelief":
            raise
        extra = EXTRAS.get(package, "lab")
        sys.exit(f"adabelief: the command needs {package}, which is not installed: pip install 'adabelief[{extra}]'")
