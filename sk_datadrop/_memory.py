"""What makes one round different from another, for `memory`.

A stored round may be given back only if training it again would lead to the same
numbers. joblib knows the rows; this adds the net: its parameters, the code of every
class and function that it is made of as Python has loaded it, and the versions of the
libraries they come from.
"""

import copy
import platform
import sys
import sysconfig
from collections.abc import Iterator
from inspect import getmro
from pathlib import Path
from types import CodeType, FunctionType, ModuleType

import joblib
import torch
from sklearn.base import clone

_INSTALLED = tuple(
    Path(sysconfig.get_path(name)).resolve()
    for name in ("stdlib", "platstdlib", "purelib", "platlib")
)


def round_key(estimator, modules, settings: dict) -> str:
    """Digest of all that a round depends on, besides its rows and its seed.

    Parameters
    ----------
    estimator : skorch.NeuralNet
    modules : iterable of torch.nn.Module
        What the module of the net is made of, once initialized.
    settings : dict
        What else the result depends on.

    Returns
    -------
    str

    Raises
    ------
    ValueError
        If there is something that cannot be told from another of its kind.
    """
    if isinstance(estimator.module, torch.nn.Module):
        raise ValueError(
            "memory= needs a module class, and the net holds an instance of "
            f"{type(estimator.module).__name__}, whose weights change with every "
            "training. Pass the class, and its arguments as module__name=value, or "
            "leave memory out."
        )
    parameters = clone(estimator).get_params(deep=False) | settings
    key = {name: _as_key(name, value) for name, value in parameters.items()}
    seen: dict[object, object] = {}
    for definition in _definitions([*key.values(), estimator, *modules]):
        _add_code(definition, seen)
    return joblib.hash([key, sorted(map(repr, seen.values())), _versions(seen)])


def _as_key(name: str, value):
    """Return the value as something whose hash tells it from others."""
    if isinstance(value, torch.Tensor):
        return ("tensor", value.detach().cpu().numpy())
    try:
        hashes = {joblib.hash(value), joblib.hash(copy.deepcopy(value))}
    except Exception as error:
        raise ValueError(_unhashable(name, value, str(error))) from error
    if len(hashes) > 1:
        raise ValueError(
            _unhashable(name, value, "two copies of it have different hashes")
        )
    return value


def _unhashable(name, value, reason: str) -> str:
    return (
        f"memory= cannot tell {name}={value!r} from other values ({reason}), and could "
        "give back results of another. Define functions and classes at the top level "
        "of a module, pass numbers, strings and arrays, or leave memory out."
    )


def _definitions(values) -> Iterator:
    """Classes and functions among values, and the classes of objects."""
    for value in values:
        if isinstance(value, list | tuple):
            yield from _definitions(value)
        elif isinstance(value, type | FunctionType):
            yield value
        elif value is not None:
            yield type(value)


def _add_code(thing, seen: dict) -> None:
    """Note the code of a class or function, and of what it calls by name."""
    if thing in seen:
        return
    if _is_installed(thing):
        seen[thing] = _name(thing)
        return
    seen[thing] = None
    if isinstance(thing, FunctionType):
        names: set[str] = set()
        seen[thing] = (_name(thing), _code(thing.__code__, names), thing.__defaults__)
        for name in sorted(names):
            _add_global(thing.__globals__.get(name), name, seen)
        return
    for base in getmro(thing)[1:]:
        _add_code(base, seen)
    constants = []
    for name, value in sorted(vars(thing).items()):
        function = getattr(value, "__func__", getattr(value, "fget", value))
        if isinstance(function, FunctionType):
            _add_code(function, seen)
        elif _is_constant(value) and not name.startswith("__"):
            constants.append((name, value))
    seen[thing] = (_name(thing), constants)


def _add_global(value, name: str, seen: dict) -> None:
    if isinstance(value, type | FunctionType):
        _add_code(value, seen)
    elif _is_constant(value):
        seen[name, repr(value)] = (name, value)


def _is_constant(value) -> bool:
    return isinstance(value, int | float | complex | str | bytes) or (
        isinstance(value, tuple | frozenset) and all(map(_is_constant, value))
    )


def _code(code: CodeType, names: set[str]) -> tuple:
    """Code without line numbers; adds the global names that it may look up."""
    names.update(code.co_names)
    constants = [
        _code(c, names) if isinstance(c, CodeType) else repr(c) for c in code.co_consts
    ]
    return (code.co_code.hex(), code.co_names, code.co_varnames, constants)


def _name(thing) -> str:
    return f"{thing.__module__}.{thing.__qualname__}"


def _module(thing) -> ModuleType | None:
    return sys.modules.get(thing.__module__)


def _is_installed(thing) -> bool:
    """Whether code comes with a version: of Python, or of an installed library."""
    if thing.__module__ == "__main__":
        return False
    file = getattr(_module(thing), "__file__", None)
    return file is None or any(
        Path(file).resolve().is_relative_to(place) for place in _INSTALLED
    )


def _versions(definitions) -> list[tuple[str, str]]:
    packages = {"sklearn", "skorch", "torch", "numpy", "scipy"}
    packages |= {
        definition.__module__.partition(".")[0]
        for definition in definitions
        if isinstance(definition, type | FunctionType)
    }
    versions = {
        (name, str(getattr(sys.modules.get(name), "__version__", "")))
        for name in packages
    }
    own = [path.read_bytes() for path in sorted(Path(__file__).parent.rglob("*.py"))]
    versions |= {("python", platform.python_version()), ("own", joblib.hash(own))}
    return sorted(versions)
