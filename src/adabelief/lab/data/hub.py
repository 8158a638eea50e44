"""What comes from the Hugging Face hub, or from the cache of what came from it."""

from __future__ import annotations

from typing import Any


def load(repository: str, *, or_else: str, **which: Any) -> Any:
    """A data set of the hub, or a part of one: looked up in the cache of the datasets library, or else downloaded.

    Args:
        repository: Its repository on the hub.
        or_else: Which files of one's own do as well, for the message.
        which: What else tells it from others: `split`, `name` or `revision` of `datasets.load_dataset`.

    Raises:
        FileNotFoundError: If it is not in the cache and cannot be downloaded.
    """
    import datasets  # which takes seconds, and what is embedded does without

    try:
        return datasets.load_dataset(repository, **which)
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise FileNotFoundError(
            f"{repository} is not in the cache of the datasets library, and could not be downloaded "
            f"({' '.join(str(error).split())}); give a folder that has {or_else}, with --data FOLDER"
        ) from error


def texts(rows: Any, column: str, name: str) -> list[str]:
    """A column of texts.

    Args:
        rows: A part of a data set, as `load` gives it.
        column: The column's name.
        name: What to call the part in a message.

    Raises:
        ValueError: If a row has none.
    """
    found: list[str] = list(rows[column])
    for row, text in enumerate(found):
        if not isinstance(text, str):
            raise ValueError(f"{name}, row {row} has no text: {text!r} in the column {column}; download it again")
    return found
