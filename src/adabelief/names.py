"""Names that people type: found whatever their case, and with a suggestion where one is misspelt."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def one_of(option: str, name: str, names: Iterable[str]) -> str:
    """The one of `names` that `name` means, regardless of case, and of - or _ between words.

    Args:
        option: What the name was given for; the message begins with it.
        name: As it was typed.
        names: Those that there are, as they are to be written.

    Raises:
        ValueError: If there is none; the message lists them, and says which one is close.

    Example:
        >>> one_of("--optimizer", "adabelief", ["AdaBelief", "SGD"])
        'AdaBelief'
    """
    names = list(names)
    if name in names:
        return name
    meant = {_plain(known): known for known in names}
    if _plain(name) in meant:
        return meant[_plain(name)]
    raise ValueError(f"{option}: there is no {name!r} here; {there_are(name, names)}")


def there_are(name: str, names: Iterable[str]) -> str:
    """What to say of a name that there is none of: the list of those that there are, and the one that is close."""
    known = [known for known in names if known]
    return f"there are {', '.join(known) or 'none'}{suggestion(name, known)}"


def suggestion(name: str, names: Iterable[str]) -> str:
    """`; did you mean X?` of the name that is close; empty where none is."""
    meant = {_plain(known): known for known in names}
    return "".join(f"; did you mean {meant[key]}?" for key in get_close_matches(_plain(name), meant, n=1))


def _plain(name: str) -> str:
    return str(name).strip().lower().replace("_", "-")  # whatever was given: a message shows it
