"""The page about persistence is true: its code, its lists and its warnings."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import skops.io
from conftest import MLP
from skorch import NeuralNetClassifier
from torch import nn

from sk_datadrop import (
    CG,
    Arnoldi,
    DataDropoutClassifier,
    DataDropoutRegressor,
    DataDropoutSampler,
    DataDropoutTransformer,
    Dense,
    GaussNewton,
    Hessian,
    InfluenceFunctions,
    Lanczos,
    LiSSA,
)

PAGE = (Path(__file__).parents[1] / "docs" / "persistence.md").read_text()
FILES = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE, re.DOTALL))


def functions():
    namespace = {}
    exec(FILES["save.py"] + FILES["load.py"], namespace)
    return namespace


def test_every_block_is_a_file():
    assert PAGE.count("```python") == len(FILES)


def test_the_page_runs_and_predicts_the_same_in_another_process(tmp_path):
    for name, code in FILES.items():
        (tmp_path / name).write_text(code)
    for name, out in (("train.py", "before.npz"), ("predict.py", "after.npz")):
        script = tmp_path / f"run_{name}"
        script.write_text(
            f"import numpy, torch\ntorch.set_num_threads(1)\n{FILES[name]}\n"
            f"numpy.savez({out!r}, model.predict_proba(X), model.influence_, "
            "model.sample_mask_)\n"
        )
        root = str(Path(__file__).parents[1])
        env = os.environ | {"PYTHONPATH": root, "PYTHONWARNINGS": "ignore"}
        subprocess.run([sys.executable, script], cwd=tmp_path, env=env, check=True)
    before, after = (np.load(tmp_path / f"{t}.npz") for t in ("before", "after"))
    assert len(before.files) == 3
    for name in before.files:
        np.testing.assert_array_equal(before[name], after[name])


@pytest.mark.parametrize(
    ("engine", "parameters"),
    [
        (None, {}),
        (InfluenceFunctions(solver=CG()), {}),
        (InfluenceFunctions(GaussNewton(), Arnoldi()), {}),
        (InfluenceFunctions(Hessian(damping=2.0), Dense()), {}),
        (InfluenceFunctions(solver=LiSSA(max_iter=300)), {}),
        (InfluenceFunctions(solver=Lanczos(), n_groups=2), {}),
        (InfluenceFunctions(n_checkpoints=3), {"cv": 3, "drop_fraction": "auto"}),
    ],
)
def test_the_list_of_trusted_types_is_enough(
    regressor, plane, tmp_path, engine, parameters
):
    page = functions()
    parameters = {"cv": 2, "engine": engine, **parameters}
    model = DataDropoutRegressor(regressor, random_state=0, **parameters)
    model.fit(*plane)
    page["save"](model, tmp_path / "model")
    again = page["load"](tmp_path / "model", regressor)
    np.testing.assert_array_equal(again.predict(plane[0]), model.predict(plane[0]))
    np.testing.assert_array_equal(again.influence_, model.influence_)
    np.testing.assert_array_equal(again.harm_probability_, model.harm_probability_)
    assert again.summary_ == model.summary_
    assert again.views_ == model.views_
    for a, b in zip(again.solver_results_, model.solver_results_, strict=True):
        assert repr(a) == repr(b)
        np.testing.assert_array_equal(a.ritz_values, b.ritz_values)
    again.fit(*plane)
    np.testing.assert_array_equal(again.influence_, model.influence_)


@pytest.mark.parametrize("kind", [DataDropoutTransformer, DataDropoutSampler])
def test_selectors_have_no_weights_to_keep(classifier, blobs, tmp_path, kind):
    page = functions()
    selector = kind(classifier, drop_fraction=0.1, cv=2, random_state=0).fit(*blobs)
    page["save"](selector, tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model.skops"]
    again = page["load"](tmp_path / "model", classifier)
    np.testing.assert_array_equal(again.get_support(), selector.get_support())


def test_every_trusted_type_is_ours_and_exists():
    for name in functions()["TRUSTED"]:
        module, _, attribute = name.rpartition(".")
        assert module.startswith("sk_datadrop.")
        assert isinstance(getattr(sys.modules[module], attribute), type)


def test_what_is_not_on_the_list_is_refused(classifier, blobs, tmp_path):
    page = functions()
    model = DataDropoutClassifier(classifier, cv=2, random_state=0).fit(*blobs)
    skops.io.dump(model, tmp_path / "model.skops")
    with pytest.raises(Exception, match=r"Untrusted types .*NeuralNetClassifier"):
        page["load"](tmp_path / "model", classifier)


class Touches:
    """Leaves a mark when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_net_inside_skops_is_a_pickle_that_no_list_of_types_shows(blobs, tmp_path):
    net = NeuralNetClassifier(MLP, criterion=nn.CrossEntropyLoss, max_epochs=1)
    model = DataDropoutClassifier(net.set_params(verbose=0), cv=2).fit(*blobs)
    model.estimator_.module_.mark = Touches(tmp_path / "mark")
    skops.io.dump(model, tmp_path / "model.skops")
    types = skops.io.get_untrusted_types(file=tmp_path / "model.skops")
    assert not any("Touches" in name or "touch" in name for name in types)
    assert not (tmp_path / "mark").exists()
    skops.io.load(tmp_path / "model.skops", trusted=types)
    assert (tmp_path / "mark").exists()
