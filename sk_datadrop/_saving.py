"""Fitted models on disk without pickle: findings by skops, weights by safetensors.

Both are in one zip file, which skops can open too. The code and the settings of the net
are not in it: whoever loads a model brings the net.
"""

import json
from collections.abc import Iterable
from dataclasses import replace
from io import BytesIO
from itertools import chain
from pathlib import Path
from pydoc import locate
from typing import Any
from uuid import uuid4
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
from sklearn import model_selection
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted
from skorch import NeuralNet

from sk_datadrop._base import BaseDataDropout
from sk_datadrop._curvature import GaussNewton, Hessian
from sk_datadrop._engine import View
from sk_datadrop._estimators import DataDropoutClassifier, DataDropoutRegressor
from sk_datadrop._influence import InfluenceFunctions
from sk_datadrop._net_weights import (
    describe,
    dump_weights,
    full_name,
    learned,
    load_net,
)
from sk_datadrop._predictions import Aim
from sk_datadrop._reading import Reading
from sk_datadrop._report import check_support
from sk_datadrop._selectors import DataDropoutSampler, DataDropoutTransformer
from sk_datadrop._solvers import CG, Arnoldi, Dense, Lanczos, LiSSA, SolverResult
from sk_datadrop._version import __version__

FORMAT = 1
"""Raised by changes that older versions of this package would read wrongly."""

_HEADER = "sk_datadrop.json"
_SUFFIX = ".safetensors"
_NETS = ("estimator", "estimator_", "round_one_estimators_")

_TRUSTED = [
    *(DataDropoutClassifier, DataDropoutRegressor),
    *(DataDropoutTransformer, DataDropoutSampler),
    *(InfluenceFunctions, GaussNewton, Hessian),
    *(Arnoldi, CG, Dense, Lanczos, LiSSA),
    *(Aim, Reading, SolverResult, View),
]
"""Types of this package that a file may hold; making them only sets attributes."""


def save_model(model: Any, path: Any) -> None:
    """Save a fitted model in one file from which no code is ever run.

    The file holds the parameters, the findings such as ``harm_probability_`` and
    ``sample_mask_``, and the weights of round 2. It does not hold the code and the
    settings of the net, the nets of round 1, the history, the optimiser, the samples
    and ``memory``. A file of that name is replaced at the end, or not at all.

    Parameters
    ----------
    model : DataDropoutClassifier, DataDropoutRegressor, DataDropoutTransformer, \
            DataDropoutSampler or sklearn.pipeline.Pipeline
        Fitted. A pipeline has one of the others as a step.
    path : str or os.PathLike
        File to write. It is a zip file, which skops can inspect too; we recommend the
        suffix ``.skops``.

    Raises
    ------
    ImportError
        If skops or safetensors is not installed.
    sklearn.exceptions.NotFittedError
        If the model is not fitted.
    FileNotFoundError, FileExistsError
        If there is no such folder, or `path` is a folder or a device.
    TypeError
        If it is another kind of model, holds a net besides those it trained, or
        something that skops or safetensors cannot store, such as a lambda.

    See Also
    --------
    load_model : Loads it.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from skorch import NeuralNetRegressor
    >>> from torch.nn import LazyLinear
    >>> from sk_datadrop import DataDropoutRegressor, load_model, save_model
    >>> X, y = [[-1.0], [1.0]] * 30, [-2.0, 2.0] * 30
    >>> net = NeuralNetRegressor(LazyLinear, module__out_features=1, lr=0.1)
    >>> model = DataDropoutRegressor(net, cv=2).fit(X, y)
    >>> with TemporaryDirectory() as folder:
    ...     save_model(model, f"{folder}/model.skops")
    ...     again = load_model(f"{folder}/model.skops", net)
    >>> bool((again.predict(X) == model.predict(X)).all())
    True
    """
    check_support("save_model", "skops", "safetensors")
    own = _own(model, "save_model")
    check_is_fitted(own, "sample_mask_")
    path = _checked_path(path)
    bare = whole = _without_nets(own)
    if own is not model:
        steps = [(name, bare if step is own else step) for name, step in model.steps]
        whole = _like(model, vars(model) | {"steps": steps, "memory": None})
    header: dict[str, Any] = {"format": FORMAT, "sk_datadrop": __version__}
    findings, weights = {"model": whole}, {}
    # Round 2 may have failed.
    if hasattr(own, "estimator_"):
        header["net"] = describe(own.estimator_)
        findings["net"] = learned(own.estimator_, own.estimator)
        weights = dump_weights(own.estimator_)
    entries = {f"{part}{_SUFFIX}": data for part, data in weights.items()}
    entries[_HEADER] = json.dumps(header).encode()
    _write(path, _dump(findings, vars(bare)), entries)


def load_model(path: Any, estimator: NeuralNet, *, trusted: Any = None) -> Any:
    """Load a model that ``save_model`` has saved, and run no code from the file.

    What the file holds besides numbers, text and known types is refused, unless its
    type is named in `trusted`. The loaded model predicts bitwise the same as the saved
    one on the same device, and can be fitted again. It has no
    ``round_one_estimators_``, and ``memory`` is None: the folder of a cache can hold
    code, so that a file must not choose it.

    Parameters
    ----------
    path : str or os.PathLike
        File that :func:`save_model` has written.
    estimator : skorch.NeuralNet
        Net that the model was made with, from your own code. It is cloned, and the
        clone gets the weights. Sizes that callbacks have set in training are set again.
    trusted : list of str or type, or None, default=None
        Types and functions that may be in the file besides those of this package, of
        scikit-learn and of numpy: your own `cv`, `engine` or `objective`, as they are
        or by names such as "my_module.MySplitter". The file can call them with any
        arguments. A net is refused even so.

    Returns
    -------
    DataDropoutClassifier, DataDropoutRegressor, DataDropoutTransformer, \
            DataDropoutSampler or sklearn.pipeline.Pipeline
        Model as it was saved, with `estimator`.

    Raises
    ------
    ImportError
        If skops or safetensors is not installed.
    FileNotFoundError
        If there is no such file.
    TypeError
        If the file holds a type that is not trusted, or `estimator` is no net.
    ValueError
        If it is not a file of :func:`save_model`, is damaged, or is of a newer version
        of this package; if the weights do not fit the net.

    See Also
    --------
    save_model : Saves it.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from skorch import NeuralNetRegressor
    >>> from torch.nn import LazyLinear
    >>> from sk_datadrop import DataDropoutTransformer, load_model, save_model
    >>> X, y = [[-1.0], [1.0]] * 30, [-2.0, 2.0] * 30
    >>> net = NeuralNetRegressor(LazyLinear, module__out_features=1, lr=0.1)
    >>> selector = DataDropoutTransformer(net, drop_fraction=0.1, cv=2).fit(X, y)
    >>> with TemporaryDirectory() as folder:
    ...     save_model(selector, f"{folder}/selector.skops")
    ...     load_model(f"{folder}/selector.skops", net).n_dropped_
    6
    """
    check_support("load_model", "skops", "safetensors")
    if not isinstance(estimator, NeuralNet):
        got = getattr(estimator, "__name__", type(estimator).__name__)
        raise TypeError(
            f"load_model needs the skorch net that the model was made with; got {got}."
        )
    # Read once: what is checked is what is loaded.
    data = Path(path).read_bytes()
    header, weights = _read(data, path)
    model, facts = _construct(data, path, header, trusted)
    own = _own(model, "load_model")
    # The folder of a cache holds pickles.
    _forget_caches(model, set())
    own.estimator = estimator
    own.aim_ = _aim(own, estimator.predict_nonlinearity)
    if _has_objects(own):
        own.suggested_targets_ = own.classes_[own.suggested_targets_]
    if weights:
        own.estimator_ = load_net(estimator, weights, header["net"], facts)
    return model


def _own(model: Any, caller: str) -> Any:
    """Return the estimator of this package that a model is, or has as a step."""
    steps = model.steps if isinstance(model, Pipeline) else [("", model)]
    own = [step for _, step in steps if isinstance(step, BaseDataDropout)]
    if len(own) == 1:
        return own[0]
    inner = [n for n in ("best_estimator_", "regressor_") if hasattr(model, n)]
    advice = f" Pass its {inner[0]}." if inner else ""
    raise TypeError(
        f"{caller} takes a fitted estimator of this package, or a Pipeline with one "
        f"such step; got {type(model).__name__}.{advice}"
    )


def _like(estimator: Any, attributes: dict[str, Any]) -> Any:
    """Return an estimator of the same type with these attributes."""
    made = object.__new__(type(estimator))
    vars(made).update(attributes)
    return made


def _without_nets(own: Any) -> Any:
    """Return an estimator of the same findings without nets and functions of nets."""
    attributes = {k: v for k, v in vars(own).items() if k not in _NETS}
    attributes |= {"estimator": None, "memory": None}
    attributes["aim_"] = _aim(own, "predict_nonlinearity of the net")
    if _has_objects(own):
        labels = own.suggested_targets_
        attributes["suggested_targets_"] = np.searchsorted(own.classes_, labels)
    return _like(own, attributes)


def _aim(own: Any, nonlinearity: Any) -> Aim:
    """Return the aim with another function to read probabilities, if one does."""
    aim: Aim = own.aim_
    if aim.reading is None or aim.reading.nonlinearity is None:
        return aim
    return Aim(replace(aim.reading, nonlinearity=nonlinearity), *aim[1:])


def _forget_caches(value: Any, seen: set[int]) -> None:
    """Set `memory` to None in an object and all that it holds."""
    if id(value) in seen:
        return
    seen.add(id(value))
    inner = getattr(value, "__dict__", {})
    if "memory" in inner:
        inner["memory"] = None
    items = [value.values() if isinstance(value, dict) else inner.values()]
    if isinstance(value, list | tuple | set):
        items.append(value)
    elif isinstance(value, np.ndarray) and value.dtype == object:
        items.append(value.ravel())
    for item in chain(*items):
        _forget_caches(item, seen)


def _has_objects(own: Any) -> bool:
    """Tell whether labels are objects, which skops stores one by one, slowly."""
    has_labels = hasattr(own, "classes_") and hasattr(own, "suggested_targets_")
    return has_labels and own.classes_.dtype == object


def _dump(tree: dict[str, Any], parts: dict[str, Any]) -> bytes:
    """Return a tree as skops stores it.

    Raises a TypeError that names the one among the parts that it cannot store.
    """
    import skops.io

    def attempt(value: Any) -> bytes:
        data: bytes = skops.io.dumps(value, compression=ZIP_DEFLATED)
        found = skops.io.get_untrusted_types(data=data)
        _refuse_nets(found)
        # What cannot be read back must not be found out too late.
        skops.io.loads(data, trusted=found)
        return data

    try:
        return attempt(tree)
    except Exception as error:
        for name, value in parts.items():
            try:
                attempt(value)
            except Exception as cause:
                raise TypeError(
                    f"{name} of type {type(value).__name__} cannot be saved: {cause}. "
                    "Functions and classes must have a name in a module. A parameter "
                    "can be set to something else by set_params, which leaves what was "
                    "fitted as it is."
                ) from cause
        raise TypeError(f"the model cannot be saved: {error}") from error


def _refuse_nets(names: Iterable[str]) -> None:
    """Raise a TypeError if one of these types is a net; imports them."""
    for name in names:
        found = locate(name)
        if isinstance(found, type) and issubclass(found, NeuralNet):
            raise TypeError(
                f"{name} is a net, and loading a net from a file would unpickle what "
                "is in it"
            )


def _checked_path(path: Any) -> Path:
    """Return the path of a file to write or replace, behind links."""
    place = Path(path).resolve()
    if not place.parent.is_dir():
        raise FileNotFoundError(
            f"there is no folder {place.parent} to save a model in."
        )
    if place.exists() and not place.is_file():
        raise FileExistsError(f"{place} is not a file. Pass the name of a file.")
    return place


def _write(path: Path, findings: bytes, entries: dict[str, bytes]) -> None:
    """Add entries to a zip file, and put it in its place once it is complete."""
    draft = path.with_name(f".sk_datadrop-{uuid4().hex}")
    try:
        draft.write_bytes(findings)
        with ZipFile(draft, "a") as archive:
            for name, data in entries.items():
                archive.writestr(name, data)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _read(data: bytes, path: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the header of a file, and its weights by module."""
    import safetensors.torch

    try:
        with ZipFile(BytesIO(data)) as archive:
            header = json.loads(archive.read(_HEADER))
            version, written = int(header["format"]), header["sk_datadrop"]
            # Reading an entry compares it with its checksum.
            entries = {name: archive.read(name) for name in archive.namelist()}
        weights = {
            name.removesuffix(_SUFFIX): safetensors.torch.load(entry)
            for name, entry in entries.items()
            if name.endswith(_SUFFIX)
        }
    except Exception as error:
        raise _damaged(path, error) from error
    if version > FORMAT:
        raise ValueError(
            f"{path} was saved by sk_datadrop {written} in format {version}; this is "
            f"sk_datadrop {__version__}, which reads formats up to {FORMAT}. Upgrade "
            "sk_datadrop."
        )
    if weights and not isinstance(header.get("net"), dict):
        raise _damaged(path, TypeError("it does not name the net"))
    return header, weights


def _damaged(path: Any, error: Exception) -> ValueError:
    """Return the error to raise for any that a made-up file causes."""
    return ValueError(
        f"{path} is no complete file of save_model: {error}. A pickle or a file of "
        "joblib is not loaded here, since it may run any code; a file that "
        "skops.io.dump has written is loaded by skops.io.load."
    )


def _construct(
    data: bytes, path: Any, header: dict[str, Any], trusted: Any
) -> tuple[Any, Any]:
    """Return the model that skops has stored, and facts on its net, if all is trusted.

    Raises a TypeError if the type of something is not trusted.
    """
    import skops.io

    kinds = [k for k in vars(model_selection).values() if isinstance(k, type)]
    ours = {
        full_name(k) for k in (*_TRUSTED, *(k for k in kinds if hasattr(k, "split")))
    }
    theirs = _names_of(trusted)
    try:
        found = set(skops.io.get_untrusted_types(data=data)) - ours
    except Exception as error:
        raise _damaged(path, error) from error
    if unknown := sorted(found - theirs):
        raise TypeError(
            f"{path} holds types that are not trusted: {', '.join(unknown)}. If you "
            f"know them, and who made the file, pass trusted={unknown}."
        )
    _refuse_nets(found)
    try:
        tree = skops.io.loads(data, trusted=[*ours, *theirs])
        return tree["model"], tree["net"] if "net" in header else None
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"{path}, saved by sk_datadrop {header['sk_datadrop']}, needs something "
            f"that is missing here: {error}. This is sk_datadrop {__version__}."
        ) from error
    except Exception as error:
        raise _damaged(path, error) from error


def _names_of(trusted: Any) -> set[str]:
    """Return the names of types and functions, given by themselves or by name."""
    kinds = () if trusted is None else trusted
    if isinstance(kinds, list | tuple | set | frozenset) and all(
        isinstance(kind, str) or hasattr(kind, "__name__") for kind in kinds
    ):
        return {kind if isinstance(kind, str) else full_name(kind) for kind in kinds}
    raise TypeError(
        f"trusted must be a list of types, functions or their names; got {trusted!r}."
    )
