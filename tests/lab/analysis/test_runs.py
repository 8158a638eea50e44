import json
import math

import pytest

from adabelief.lab.analysis.experiments import experiments
from adabelief.lab.analysis.runs import load
from tests.lab import synthetic


def read(tmp_path):
    return experiments(load([tmp_path]))


def only(tmp_path):
    (run,) = load([tmp_path])
    return run


def test_a_finished_run(tmp_path):
    path = synthetic.write(tmp_path, synthetic.config("SGD", 5), (90.0, 92.0, 91.0), (80.0, 81.0, 82.0))
    run = only(tmp_path)
    assert (run.path, run.label, run.config.seed) == (path, "SGD", 5)
    assert (run.finished, run.diverged, run.valid) == (True, False, True)
    assert (run.validation, run.test, run.last_test) == (92.0, 81.0, 82.0)
    assert run.outcome["best_epoch"] == 2
    assert run.curve("validation_accuracy") == [90.0, 92.0, 91.0]
    assert run.curve("train_accuracy") == []
    assert run.test_examples == 300
    assert len(run.steps) == len(run.epochs) == 3


def test_settings_are_python_again(tmp_path):
    synthetic.write(tmp_path, synthetic.config())
    assert only(tmp_path).config.settings["betas"] == (0.9, 0.999)
    assert "betas=(0.9, 0.999), eps=1e-08" in only(tmp_path).arguments


def test_a_line_that_is_being_written_is_left_out(tmp_path):
    synthetic.write(tmp_path, synthetic.config(), finished=False, tail='{"epoch": 3, "train_lo')
    run = only(tmp_path)
    assert len(run.epochs) == 2
    assert not run.finished
    assert not run.valid
    with pytest.raises(ValueError, match="unfinished"):
        _ = run.test


def test_a_run_that_has_just_begun(tmp_path):
    folder = synthetic.write(tmp_path, synthetic.config(), finished=False)
    for name in ("metrics.jsonl", "environment.json"):
        (folder / name).unlink()
    run = only(tmp_path)
    assert (run.epochs, run.steps, run.environment, run.test_examples) == ((), (), {}, None)


def test_nan_is_read(tmp_path):
    synthetic.write(tmp_path, synthetic.config(), diverged=True)
    run = only(tmp_path)
    assert run.diverged
    assert run.finished
    assert not run.valid
    assert math.isnan(run.epochs[-1]["train_loss"])


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("config.json", "{", "config.json is damaged"),
        ("config.json", "[]", "no JSON object"),
        ("config.json", '{"task": "digits"}', "it has no 'model'"),
        ("environment.json", "", "environment.json is damaged"),
        ("result.json", "{]", "result.json is damaged"),
        ("metrics.jsonl", '{"a": 1}\n{"b"}\n{"c": 1}\n', "metrics.jsonl is damaged in line 2"),
        ("metrics.jsonl", "[1]\n", "metrics.jsonl is damaged in line 1"),
        ("metrics.jsonl", "", "metrics.jsonl is damaged: it has no epoch 2"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, name, content, told):
    folder = synthetic.write(tmp_path, synthetic.config())
    (folder / name).write_text(content)
    with pytest.raises(ValueError, match=r"damaged|no configuration") as error:
        load([tmp_path])
    assert told in str(error.value)
    assert str(folder) in str(error.value)


@pytest.mark.parametrize("change", [{"optimizer": "Adamant"}, {"task": "mnist"}])
def test_what_the_lab_does_not_have_is_named(tmp_path, change):
    folder = synthetic.write(tmp_path, synthetic.config())
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, **change}))
    with pytest.raises(ValueError, match=next(iter(change.values()))):
        load([tmp_path])


def test_a_path_without_runs_is_named(tmp_path):
    synthetic.write(tmp_path / "a", synthetic.config())
    (tmp_path / "b").mkdir()
    for path in (tmp_path / "b", tmp_path / "c"):
        with pytest.raises(ValueError, match=r"has no run.*name a folder") as error:
            load([tmp_path / "a", path])
        assert str(path) in str(error.value)


def test_what_is_named_twice_is_read_once(tmp_path):
    folder = synthetic.write(tmp_path, synthetic.config())
    assert len(load([tmp_path, folder, tmp_path])) == 1


def test_a_copy_of_a_run_is_no_second_seed(tmp_path):
    for name in ("a", "b"):
        synthetic.write(tmp_path / name, synthetic.config())
    with pytest.raises(ValueError, match="have the same run; leave one of them out"):
        read(tmp_path)


def test_runs_are_in_the_order_of_optimizers_and_seeds(tmp_path):
    for name in ("Adam", "SGD", "AdaBelief"):
        for seed in (10, 9):
            synthetic.write(tmp_path, synthetic.config(name, seed))
    (experiment,) = read(tmp_path)
    found = [(run.label, run.config.seed) for run in experiment.runs]
    assert found == [(name, seed) for name in ("AdaBelief", "SGD", "Adam") for seed in (9, 10)]
    assert experiment.name == "digits, small"


def test_settings_set_groups_apart_but_not_experiments(tmp_path):
    for lr in (None, 0.01, 0.1):
        synthetic.write(tmp_path, synthetic.config(**({"lr": lr} if lr else {})))
    (experiment,) = read(tmp_path)
    assert list(experiment.groups) == ["AdaBelief", "AdaBelief (lr=0.01)", "AdaBelief (lr=0.1)"]


def test_what_has_the_same_label_and_other_settings_is_not_averaged(tmp_path):
    synthetic.write(tmp_path / "a", synthetic.config("SGD"))
    folder = synthetic.write(tmp_path / "b", synthetic.config("SGD", 1))
    content = json.loads((folder / "config.json").read_text())
    content["settings"]["momentum"] = 0.8
    (folder / "config.json").write_text(json.dumps(content))
    (experiment,) = read(tmp_path)
    assert len(experiment.groups) == 2
    assert any("momentum=0.8" in label for label in experiment.groups)


def test_other_conditions_are_other_experiments(tmp_path):
    synthetic.write(tmp_path, synthetic.config())
    synthetic.write(tmp_path, synthetic.config(batch_size=32))
    synthetic.write(tmp_path, synthetic.config(scale="smoke"))
    synthetic.write(tmp_path, synthetic.config(task="cifar10", model="vgg11"))
    names = [experiment.name for experiment in read(tmp_path)]
    assert names == [
        "cifar10, vgg11, small",
        "digits, small, batch_size=64",
        "digits, small, batch_size=32",
        "digits, smoke",
    ]


def test_when_a_target_is_reached(tmp_path):
    synthetic.write(tmp_path, synthetic.config(), (90.0, 92.0, 91.0), (0.0, 0.0, 0.0), seconds=2.5)
    run = only(tmp_path)
    assert run.reached(90.0) == (1, 2.5)
    assert run.reached(90.5) == (2, 5.0)
    assert run.reached(93.0) is None


def test_where_the_learning_rate_drops(tmp_path):
    folder = synthetic.write(tmp_path, synthetic.config(), (1.0,) * 8, (1.0,) * 8)
    ((epoch, factor),) = only(tmp_path).drops()
    assert (epoch, factor) == (6, pytest.approx(10))
    steps = [{"step": i, "epoch": i // 2, "loss": 1, "lr_factor": 1 / i} for i in range(1, 9)]
    with (folder / "metrics.jsonl").open("a") as file:
        file.write("".join(json.dumps(step) + "\n" for step in steps))
    assert only(tmp_path).drops() == [], "a schedule that moves all the time has no drops"


DAMAGE = [
    ("config.json", "{", "config.json is damaged"),
    ("config.json", "[1]", "no JSON object"),
    ("config.json", "\xff", "config.json"),
    ("config.json", '{"architectures": ["Bert"]}', "no configuration of a run: it has no 'task'"),
    ("config.json", {"settings": [1]}, "no configuration of a run: its 'settings' is [1]"),
    ("config.json", {"epochs": "many"}, "its 'epochs' is 'many'"),
    ("config.json", {"seed": True}, "its 'seed' is True"),
    ("config.json", {"model": "vgg99"}, "names 'vgg99', which this version of the lab does not have"),
    ("config.json", {"optimizer": "Adamant"}, "names 'Adamant', which this version of the lab does not have"),
    ("result.json", "{", "result.json is damaged"),
    ("result.json", "[]", "result.json is damaged: it is no JSON object"),
    ("result.json", "{}", "result.json is no result of a run: it has no 'epochs'"),
    ("result.json", {"test": [1]}, "its 'test' is [1]"),
    ("result.json", {"test": "high"}, "result.json"),
    ("result.json", {"best_epoch": 9}, "it has no epoch 9, which is the best one"),
    ("result.json", {"best_epoch": None}, "its 'best_epoch' is None"),
    ("environment.json", {"packages": 3}, "its 'packages' is 3"),
    ("environment.json", {"command": "adabelief"}, "its 'command' is no list of words"),
    ("environment.json", "{}", "no environment of a run: it has no 'python'"),
    ("metrics.jsonl", '{"epoch": 1, "train_loss": 1}\n', "damaged in line 1: it has no 'epoch_seconds'"),
    ("metrics.jsonl", '{"step": 1}\n', "damaged in line 1: it has no 'epoch'"),
    ("metrics.jsonl", "null\n", "damaged in line 1"),
]


@pytest.mark.parametrize(("name", "content", "told"), DAMAGE)
def test_one_damaged_run_does_not_cost_the_others(tmp_path, name, content, told):
    """A whole content, or values that take the place of good ones."""
    synthetic.write(tmp_path, synthetic.config("SGD"))
    folder = synthetic.write(tmp_path, synthetic.config())
    if isinstance(content, dict):
        content = json.dumps({**json.loads((folder / name).read_text()), **content})
    (folder / name).write_bytes(content.encode("latin-1"))
    damaged = []
    (run,) = load([tmp_path], damaged.append)
    assert run.label == "SGD"
    (message,) = damaged
    assert told in message
    assert str(folder / name) in message or "metrics.jsonl" in message
    with pytest.raises(ValueError, match=name.replace(".", r"\.") if "epoch 9" not in told else "metrics"):
        load([tmp_path])


def test_where_no_run_can_be_read_it_is_an_error(tmp_path):
    (synthetic.write(tmp_path, synthetic.config()) / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is damaged"):
        load([tmp_path], lambda message: None)


def test_a_plan_alone_has_not_started(tmp_path):
    folder = synthetic.write(tmp_path, synthetic.config(), finished=False)
    assert only(tmp_path).started
    (folder / "metrics.jsonl").unlink()
    assert not only(tmp_path).started


@pytest.mark.parametrize(
    ("optimizer", "changes", "form"),
    [
        ("AdaBelief", {}, "default"),
        ("Adam", {}, "fused"),
        ("Adam", {"foreach": True}, "foreach"),
        ("Adam", {"foreach": False}, "loop"),
        ("RAdam", {}, "foreach"),
        ("EAdam", {}, "foreach"),
        ("Yogi", {}, "foreach"),
    ],
)
def test_the_form_in_which_an_optimizer_steps(tmp_path, optimizer, changes, form):
    synthetic.write(tmp_path, synthetic.config(optimizer, **changes))
    assert only(tmp_path).form == form


def test_the_form_that_adabelief_chose_is_named(tmp_path):
    synthetic.write(tmp_path, synthetic.config(), environment={**synthetic.ENVIRONMENT, "default_form": "fused"})
    synthetic.write(
        tmp_path, synthetic.config(seed=1, foreach=True), environment={"default_form": "fused", **synthetic.ENVIRONMENT}
    )
    assert [run.form for run in load([tmp_path])] == ["fused", "foreach"]
