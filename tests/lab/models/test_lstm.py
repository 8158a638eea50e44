import pytest
import torch
from torch import nn

from adabelief.lab.models import lstm
from adabelief.lab.models.lstm import AWDLSTM, locked_dropout


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def window(model, n=3, t=7, vocabulary=50):
    return torch.randint(vocabulary, (n, t)), torch.randn(n, model.state_size)


@pytest.mark.parametrize(("layers", "parameters"), [(1, 5_293_200), (2, 13_632_400), (3, 24_221_600)])
def test_parameters_are_the_paper_s(layers, parameters):
    with torch.device("meta"):
        model = AWDLSTM(10_000, layers)
    assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("training", [True, False])
def test_without_dropout_it_is_a_stack_of_torch_s_lstms(layers, training):
    model = AWDLSTM(50, layers, width=0.05, dropout=0.0 if training else 1.0).train(training)
    tokens, state = window(model)
    found = model(tokens, state)
    x, states = model.embedding.weight[tokens].transpose(0, 1), list(state.split(model.state_sizes, 1))
    after = []
    for i, layer in enumerate(model.layers):
        plain = nn.LSTM(layer.input_size, layer.hidden_size)
        plain.load_state_dict(layer.state_dict())
        x, (h, c) = plain(x, (states[2 * i][None], states[2 * i + 1][None]))
        after += [h[0], c[0]]
    torch.testing.assert_close(found.logits, x.transpose(0, 1) @ model.embedding.weight.T + model.bias)
    torch.testing.assert_close(found.state, torch.cat(after, 1))
    assert torch.equal(found.hidden, found.dropped)


@pytest.fixture
def recurrent(monkeypatch):
    """The recurrent matrices that the layers were called with."""
    seen = []

    def functional_call(layer, weights, inputs):
        seen.append((layer, weights["weight_hh_l0"]))
        return torch.func.functional_call(layer, weights, inputs)

    monkeypatch.setattr(lstm, "functional_call", functional_call)
    return seen


def test_recurrent_weights_are_dropped_one_by_one_and_anew(recurrent):
    model = AWDLSTM(50, 2, width=0.1)
    tokens, state = window(model)
    for _ in range(2):
        model(tokens, state)
    for layer, weight in recurrent:
        kept = weight != 0
        torch.testing.assert_close(weight[kept], 2 * layer.weight_hh_l0[kept])
        assert kept.float().mean() == pytest.approx(0.5, abs=0.05)
    first, _, again, _ = (weight for _, weight in recurrent)
    assert not torch.equal(first != 0, again != 0)
    model.eval()(tokens, state)
    assert all(torch.equal(weight, layer.weight_hh_l0) for layer, weight in recurrent[4:])


def test_what_is_dropped_has_no_gradient_and_the_rest_does(recurrent):
    model = AWDLSTM(50, 1, width=0.05)
    model(*window(model)).logits.square().sum().backward()
    ((layer, weight),) = recurrent
    assert torch.equal(layer.weight_hh_l0.grad != 0, weight != 0)


def test_no_weight_is_stale():
    """A change of the recurrent matrix, in place as an optimizer makes it, is a change of the function."""
    model = AWDLSTM(50, 1, width=0.05).eval()
    inputs = window(model)
    before = model(*inputs).logits
    with torch.no_grad():
        model.layers[0].weight_hh_l0.mul_(2)
    assert not torch.equal(model(*inputs).logits, before)
    assert list(model.state_dict()) == [
        *("bias", "embedding.weight", "layers.0.weight_ih_l0", "layers.0.weight_hh_l0"),
        *("layers.0.bias_ih_l0", "layers.0.bias_hh_l0"),
    ]


def test_locked_dropout_drops_the_same_features_at_all_times():
    dropped = locked_dropout(torch.ones(40, 9, 50), 0.4)
    assert torch.equal(dropped, dropped[:, :1].expand_as(dropped))
    assert dropped.unique().tolist() == pytest.approx([0, 1 / 0.6])
    assert (dropped == 0).float().mean() == pytest.approx(0.4, abs=0.05)
    assert not torch.equal(dropped[0], dropped[1])
    assert torch.equal(locked_dropout(torch.ones(2, 3, 4), 0.4, training=False), torch.ones(2, 3, 4))


def test_words_are_dropped_wherever_they_stand(monkeypatch):
    monkeypatch.setattr(lstm, "INPUT", 0.0)
    model = AWDLSTM(200, 1, width=0.05)
    nn.init.ones_(model.embedding.weight)
    seen = []
    model.layers[0].register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0]))
    tokens = torch.arange(200).repeat(2, 2)
    model(tokens, torch.zeros(2, model.state_size))
    (words,) = seen
    assert words.unique().tolist() == pytest.approx([0, 1 / 0.9])
    assert (words == 0).float().mean() == pytest.approx(0.1, abs=0.06)
    assert torch.equal(words, words[:1, :200].repeat(2, 2, 1))


def test_rates_are_where_the_paper_has_them(monkeypatch):
    """With one of the rates at nearly 1, what comes after it is nearly nothing but zeros."""
    seen = []
    for name in ("INPUT", "BETWEEN", "OUTPUT"):
        with monkeypatch.context() as patch:
            for other in ("WORDS", "INPUT", "BETWEEN", "OUTPUT"):
                patch.setattr(lstm, other, 0.999 if other == name else 0.0)
            model = AWDLSTM(50, 2, width=0.05)
            inputs = [[], []]
            for layer, into in zip(model.layers, inputs, strict=True):
                layer.register_forward_pre_hook(lambda layer, given, into=into: into.append(given[0]))
            dropped = model(*window(model)).dropped
            seen.append([bool((x == 0).float().mean() > 0.9) for x in (inputs[0][0], inputs[1][0], dropped)])
    assert seen == [[True, False, False], [False, True, False], [False, False, True]]


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"layers": 0}, "layers=0: give at least 1"),
        ({"width": 0.001}, "width=0.001 leaves nothing of a layer of 400"),
        ({"width": float("nan")}, "width=nan leaves nothing"),
        ({"dropout": 2.0}, "dropout=2.0: give a factor from 0 to less than 2"),
        ({"dropout": -1.0}, "dropout=-1.0: give a factor"),
    ],
)
def test_what_cannot_be_is_refused(choice, message):
    with pytest.raises(ValueError, match=message):
        AWDLSTM(50, **choice)
