import csv
import io
import json

from adabelief.lab.analysis.experiments import experiments
from adabelief.lab.analysis.runs import load
from adabelief.lab.report.tables import results_csv
from tests.lab import synthetic


def test_csv_has_a_row_for_each_run(tmp_path):
    synthetic.write(tmp_path, synthetic.config("SGD", 1), (90.0, 92.0, 91.0), (80.0, 81.0, 82.0))
    synthetic.write(tmp_path, synthetic.config("Adam", 0), finished=False)
    synthetic.write(tmp_path, synthetic.config("Yogi", 0), diverged=True)
    rows = list(csv.DictReader(io.StringIO(results_csv(experiments(load([tmp_path]))))))
    sgd, adam, yogi = rows
    assert (sgd["optimizer"], sgd["seed"], sgd["finished"], sgd["diverged"]) == ("SGD", "1", "True", "False")
    assert [float(sgd[name]) for name in ("validation", "test", "last_test", "best_epoch")] == [92, 81, 82, 2]
    assert json.loads(sgd["settings"]) == {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4, "fused": True}
    assert (sgd["torch"], sgd["processor"], sgd["commit"]) == ("2.14.1", "A processor", "abc1234")
    assert (adam["finished"], adam["test"], adam["best_epoch"], adam["epochs_run"]) == ("False", "", "", "2")
    assert (yogi["diverged"], yogi["last_train_loss"]) == ("True", "nan")
    assert yogi["test"] == yogi["last_test"] == yogi["validation"] == "", "what diverged has no number to average"
    assert [row["step_form"] for row in rows] == ["fused", "fused", "foreach"]
