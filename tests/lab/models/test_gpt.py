import pytest
import torch

from adabelief.lab.models.gpt import GPT


def test_parameters():
    width, layers = 32, 2
    norms, attention, hidden = 2 * 2 * width, 4 * (width + 1) * width, (width + 1) * 4 * width + (4 * width + 1) * width
    expected = (50 + 16) * width + layers * (norms + attention + hidden) + 2 * width
    assert sum(p.numel() for p in GPT(50, 16, width, layers).parameters()) == expected


def test_it_sees_what_was_and_not_what_will_be():
    torch.manual_seed(0)
    model, tokens = GPT(50, 16, width=32).eval(), torch.randint(50, (2, 16))
    before, changed = model(tokens), tokens.clone()
    changed[:, 7] += 1 - 50 * (changed[:, 7] == 49)
    after = model(changed)
    assert torch.equal(before[:, :7], after[:, :7])
    assert (before[:, 7:] != after[:, 7:]).any(2).all()


def test_it_knows_where_a_token_is():
    model = GPT(50, 16, width=32).eval()
    logits = model(torch.zeros(1, 16, dtype=torch.int64))
    assert not torch.allclose(logits[0, 0], logits[0, 9])


def test_dropout_is_for_training():
    model, tokens = GPT(50, 16, width=32, dropout=0.5), torch.zeros(1, 16, dtype=torch.int64)
    assert not torch.equal(model(tokens), model(tokens))
    model.eval()
    assert torch.equal(model(tokens), model(tokens))


@pytest.mark.parametrize("choice", [{"width": 30}, {"context": 0}, {"layers": -1}, {"heads": 0}])
def test_what_cannot_be_is_refused(choice):
    ((name, value),) = choice.items()
    with pytest.raises(ValueError, match=rf"{name}={value}\b.*(at least 1|multiple of heads)"):
        GPT(50, **{"context": 16, **choice})
