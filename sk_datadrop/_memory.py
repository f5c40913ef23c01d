"""What makes one round different from another, for `memory`.

A stored round may be given back only if training it again would lead to the same
numbers. joblib knows the rows; this adds the net: its parameters, the code of every
class and function that it is made of as Python has loaded it, the plain data that these
name, and the versions of the libraries they come from. Not seen is the state of other
objects that they name.
"""

import copy
import platform
import sys
import sysconfig
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from types import CodeType, FunctionType, ModuleType

import joblib
import numpy as np
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
        return ("tensor", _plain(value))
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
        elif isinstance(value, partial):
            yield from _definitions([value.func, *value.args, *value.keywords.values()])
        elif isinstance(value, type | FunctionType):
            yield value
        elif value is not None:
            yield type(value)


def _add_code(definition, seen: dict) -> None:
    """Note the code of a class or function, and of what it names."""
    if definition in seen:
        return
    seen[definition] = _name(definition)
    if _is_installed(definition):
        return
    if isinstance(definition, FunctionType):
        _add_function(definition, seen)
    else:
        _add_class(definition, seen)


def _add_function(function: FunctionType, seen: dict) -> None:
    names: set[str] = set()
    code = _code(function.__code__, names)
    defaults = (function.__defaults__, function.__kwdefaults__)
    seen[function] = (_name(function), code, _data_key(defaults))
    for name in sorted(names & set(function.__globals__)):
        value = function.__globals__[name]
        if isinstance(value, ModuleType) and not _is_installed(value):
            for attribute in sorted(names & set(vars(value))):
                _add_value(vars(value)[attribute], attribute, seen)
        _add_value(value, name, seen)
    for number, cell in enumerate(function.__closure__ or ()):
        _add_value(cell.cell_contents, f"{_name(function)}[{number}]", seen)


def _add_class(definition: type, seen: dict) -> None:
    for base in definition.__mro__[1:]:
        _add_code(base, seen)
    for name, value in sorted(vars(definition).items()):
        value = getattr(value, "__func__", getattr(value, "fget", value))
        if isinstance(value, FunctionType) or not name.startswith("__"):
            _add_value(value, f"{_name(definition)}.{name}", seen)


def _add_value(value, name: str, seen: dict) -> None:
    if isinstance(value, type | FunctionType):
        _add_code(value, seen)
    elif (key := _data_key(value)) is not None:
        seen[name, key] = (name, key)


def _data_key(value) -> str | None:
    """Hash of plain data; None for other objects, whose class has to do."""
    return joblib.hash(_plain(value)) if _is_plain(value) else None


def _is_plain(value) -> bool:
    if type(value) in (list, tuple, set, frozenset):
        return all(map(_is_plain, value))
    if type(value) is dict:
        return all(map(_is_plain, [*value, *value.values()]))
    return value is None or isinstance(
        value, bool | int | float | complex | str | bytes | np.ndarray | torch.Tensor
    )


def _plain(value):
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().numpy()
    if type(value) is dict:
        return [(_plain(k), _plain(v)) for k, v in value.items()]
    if type(value) in (set, frozenset):
        return sorted(map(repr, value))
    return [_plain(v) for v in value] if type(value) in (list, tuple) else value


def _code(code: CodeType, names: set[str]) -> tuple:
    """Code without line numbers; adds the global names that it may look up."""
    names.update(code.co_names)
    constants = [
        _code(c, names) if isinstance(c, CodeType) else repr(c) for c in code.co_consts
    ]
    return (code.co_code.hex(), code.co_names, code.co_varnames, constants)


def _name(definition) -> str:
    return f"{definition.__module__}.{definition.__qualname__}"


def _is_installed(thing) -> bool:
    """Whether code comes with a version: of Python, or of an installed library."""
    module = (
        thing if isinstance(thing, ModuleType) else sys.modules.get(thing.__module__)
    )
    if module is None or module.__name__ == "__main__":
        return False
    file = getattr(module, "__file__", None)
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
    versions |= {("python", platform.python_version()), ("sk_datadrop", _own_code())}
    return sorted(versions)


@cache
def _own_code() -> str:
    """Digest of this package: its version does not tell one commit from the next."""
    files = sorted(Path(__file__).parent.rglob("*.py"))
    return joblib.hash([path.read_bytes() for path in files])
