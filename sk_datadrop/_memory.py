"""What makes one split different from another, for `memory`.

A stored split may be given back only if training it again would lead to the same
numbers. joblib knows the rows; this adds the net: its parameters, the code of every
class and function that it is made of as Python has loaded it, the plain data that these
name, what the net holds before its training, and the versions of the libraries. Not
seen is the state of other objects that the code names, and uses in training only.
"""

import copy
import dis
import platform
import sys
import sysconfig
from contextlib import suppress
from dataclasses import is_dataclass
from functools import cache, partial
from pathlib import Path
from types import CellType, CodeType, FunctionType, ModuleType, SimpleNamespace

import joblib
import numpy as np
import torch
from joblib.hashing import NumpyHasher
from sklearn.base import clone

from sk_datadrop._rows import key_parts

_INSTALLED = tuple(
    Path(sysconfig.get_path(name)).resolve()
    for name in ("stdlib", "platstdlib", "purelib", "platlib")
)

_SITES = {"site-packages", "dist-packages"}
"""Also those of a Python or a user that a virtual environment can see."""


def round_key(estimator, modules, settings: dict, rows) -> str:
    """Digest of all that a split depends on, besides its split and its seed.

    Parameters
    ----------
    estimator : skorch.NeuralNet
    modules : iterable of torch.nn.Module
        What the module of the net is made of, once initialized from a seed.
    settings : dict
        What else the result depends on.
    rows : iterable of array-like
        Those that are split. Of files that a data set reads, only what it holds of
        them is seen, such as their names.

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
    modules = list(modules)
    parameters = clone(estimator).get_params(deep=False) | settings
    key: dict = {}
    definitions = [type(estimator), *map(type, modules)]
    for name, value in parameters.items():
        key[name], parts = _as_key(name, value)
        definitions += parts
    of_rows = [
        _as_key("X", part, in_one_copy=True)
        for data in rows
        for part in key_parts(data)
    ]
    key["rows"] = [digest for digest, _ in of_rows]
    definitions += [part for _, parts in of_rows for part in parts]
    seen = _reached(definitions)
    untrained = [_data_of(module) for module in modules]
    return joblib.hash(
        [key, untrained, sorted(map(repr, seen.values())), _versions(seen)]
    )


def lend_to_main(estimator) -> None:
    """Put what a script or notebook defines where pickle looks for it.

    Workers know it by value, but skorch and joblib write and read it by name.
    """
    main = sys.modules["__main__"]
    definitions = [type(estimator)]
    for value in clone(estimator).get_params(deep=False).values():
        hasher = _Hasher()
        # What pickle cannot write is not looked for.
        with suppress(Exception):
            hasher.hash(value)
        definitions += hasher.definitions
    for definition in _reached(definitions):
        if not isinstance(definition, type | FunctionType) or not _is_main(definition):
            continue
        name = definition.__qualname__
        if name in _LENT or not hasattr(main, name):
            _LENT.add(name)
            setattr(main, name, definition)


_LENT: set[str] = set()


class _Hasher(NumpyHasher):
    """joblib's, and notes the classes and functions that a value is made of.

    Those of a script go by their name, as pickle does not find them in workers.
    """

    dispatch = NumpyHasher.dispatch.copy()

    def __init__(self):
        super().__init__("md5")
        self.definitions: list = []

    def save(self, obj):
        # torch writes tensors in a way that differs from copy to copy.
        super().save(_plain(obj) if isinstance(obj, torch.Tensor) else obj)

    def save_global(self, obj, name=None):
        if isinstance(obj, type | FunctionType):
            self.definitions.append(obj)
            if _is_main(obj):
                self.save(_name(obj))
                return
        super().save_global(obj, name)

    dispatch[FunctionType] = save_global
    dispatch[type] = save_global


def _is_main(definition) -> bool:
    return (
        definition.__module__ == "__main__" and definition.__qualname__.isidentifier()
    )


def _as_key(name: str, value, *, in_one_copy: bool = False) -> tuple[str, list]:
    """Return a hash that tells the value from others, and what it is made of.

    Of a value too large for two copies it is not seen whether these would be told
    apart: a split would then be trained again.
    """
    if isinstance(value, torch.Tensor | np.ndarray):
        return joblib.hash(_plain(value)), []
    hasher = _Hasher()
    try:
        digest = hasher.hash(value)
        other = digest if in_one_copy else _Hasher().hash(copy.deepcopy(value))
    except Exception as error:
        raise ValueError(_unhashable(name, value, str(error))) from error
    if digest != other:
        raise ValueError(
            _unhashable(name, value, "two copies of it have different hashes")
        )
    return digest, hasher.definitions


def _unhashable(name, value, reason: str) -> str:
    return (
        f"memory= cannot tell {name}={value!r} from other values ({reason}), and could "
        "give back results of another. Define functions and classes at the top level "
        "of a module, pass numbers, strings and arrays, or leave memory out."
    )


def _reached(definitions) -> dict:
    """Classes and functions, and what their code names, by what tells them apart."""
    seen: dict[object, object] = {}
    for definition in definitions:
        _add_code(definition, seen)
    return seen


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
    looked_up: set[str] = set()
    code = _code(function.__code__, names, looked_up)
    defaults = (function.__defaults__, function.__kwdefaults__)
    seen[function] = (_name(function), code)
    _add_value(defaults, f"{_name(function)} defaults", seen)
    for name in sorted(looked_up & set(function.__globals__)):
        _add_named(function.__globals__[name], name, names, seen)
    for number, cell in enumerate(function.__closure__ or ()):
        if cell != CellType():
            _add_value(cell.cell_contents, f"{_name(function)}[{number}]", seen)


def _add_named(value, name: str, names: set[str], seen: dict) -> None:
    """Add a value; of a module of the user what may be looked up in it."""
    if not isinstance(value, ModuleType):
        _add_value(value, name, seen)
    elif not _is_installed(value):
        for attribute in sorted(names & set(vars(value))):
            _add_named(vars(value)[attribute], attribute, names - {attribute}, seen)


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
    elif isinstance(value, list | tuple):
        for part in value:
            _add_value(part, name, seen)
    elif isinstance(value, dict):
        for entry, part in value.items():
            _add_value(part, f"{name}[{entry!r}]", seen)
    elif isinstance(value, partial):
        _add_value((value.func, value.args, value.keywords), name, seen)
    elif isinstance(wrapped := getattr(value, "__wrapped__", None), FunctionType):
        _add_code(wrapped, seen)


def _data_key(value) -> str | None:
    """Hash of plain data; None for other objects, whose class has to do."""
    return joblib.hash(_plain(value)) if _is_plain(value) else None


def _data_of(thing) -> str | None:
    """Hash of those attributes that are plain data."""
    return _data_key({k: v for k, v in vars(thing).items() if _is_plain(v)})


def _is_plain(value) -> bool:
    if type(value) in (list, tuple, set, frozenset):
        return all(map(_is_plain, value))
    if type(value) is dict:
        return all(map(_is_plain, [*value, *value.values()]))
    if _is_record(value):
        return _is_plain(vars(value))
    return value is None or isinstance(
        value, bool | int | float | complex | str | bytes | np.ndarray | torch.Tensor
    )


def _is_record(value) -> bool:
    is_record = is_dataclass(value) or isinstance(value, SimpleNamespace)
    return is_record and not isinstance(value, type) and hasattr(value, "__dict__")


def _plain(value):
    if isinstance(value, torch.Tensor):
        # By bytes, as numpy lacks some dtypes.
        flat = value.detach().cpu().to_dense().resolve_conj().resolve_neg().flatten()
        data = flat.contiguous().view(torch.uint8).numpy()
        return (str(value.dtype), tuple(value.shape), data)
    if type(value) is dict:
        return [(_plain(k), _plain(v)) for k, v in value.items()]
    if type(value) in (set, frozenset):
        return sorted(map(repr, value))
    if _is_record(value):
        return (type(value).__qualname__, _plain(vars(value)))
    return [_plain(v) for v in value] if type(value) in (list, tuple) else value


def _code(code: CodeType, names: set[str], looked_up: set[str]) -> tuple:
    """Code without line numbers; adds its names, and which of them are global."""
    names.update(code.co_names)
    # Others are attributes, that happen to be called as some global is.
    looked_up.update(
        i.argval for i in dis.get_instructions(code) if i.opname == "LOAD_GLOBAL"
    )
    constants = [
        _code(c, names, looked_up) if isinstance(c, CodeType) else _constant(c)
        for c in code.co_consts
    ]
    return (code.co_code.hex(), code.co_names, code.co_varnames, constants)


def _constant(value) -> str:
    # Python orders sets anew in every process.
    return (
        str(sorted(map(repr, value))) if isinstance(value, frozenset) else repr(value)
    )


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
    if file is None or not _SITES.isdisjoint(Path(file).parts):
        return True
    return any(Path(file).resolve().is_relative_to(place) for place in _INSTALLED)


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
