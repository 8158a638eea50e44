import pytest

from adabelief.names import one_of

NAMES = ["AdaBelief", "AdamW", "AdamW-same-decay", "SGD"]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("SGD", "SGD"),
        ("adabelief", "AdaBelief"),
        ("ADAMW", "AdamW"),
        ("adamw_same_decay", "AdamW-same-decay"),
        (" sgd", "SGD"),
    ],
)
def test_names_in_any_case(typed, meant):
    assert one_of("--optimizer", typed, NAMES) == meant


def test_a_name_as_it_is_written_comes_first():
    assert [one_of("--set", name, ["k", "K"]) for name in "kK"] == ["k", "K"]


@pytest.mark.parametrize(
    ("typed", "close"),
    [("adabeleif", "AdaBelief"), ("AdmaW", "AdamW"), ("sdg", "SGD"), ("nothing", ""), ("", ""), (3, ""), (None, "")],
)
def test_a_typo_is_told_with_what_is_close(typed, close):
    with pytest.raises(ValueError, match=r"^--optimizer: there is no ") as error:
        one_of("--optimizer", typed, NAMES)
    listed = f"{typed!r} here; there are AdaBelief, AdamW, AdamW-same-decay, SGD"
    assert str(error.value).endswith(f"{listed}; did you mean {close}?" if close else listed)
