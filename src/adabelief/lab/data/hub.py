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
