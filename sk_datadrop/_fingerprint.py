"""Hashes that tell one value, and the code of one class, from another.

Code is that of the user's classes and functions as Python has loaded it, with the
functions, classes and plain values that it names. What other objects hold that the code
uses is not part of it.
"""

import copy
import dis
import platform
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from types import CellType, CodeType, FunctionType, ModuleType
from typing import Any

import joblib
import numpy as np
import torch
from joblib.hashing import NumpyHasher

_STDLIB = Path(sysconfig.get_path("stdlib")).resolve()
_SITES = {"site-packages", "dist-packages"}


def digest(name: str, value: Any, definitions: list[Any], copies: int = 2) -> str:
    """Return a hash that tells the value from others.

    The hash of a copy must be the same. Values that are too large for a copy are not
    checked; if their hash changes, the cache only misses.
    """
    if isinstance(value, torch.Tensor | np.ndarray):
        return str(joblib.hash(_as_plain(value)))
    try:
        digest = hash_of(value, definitions)
        if copies > 1 and digest != hash_of(copy.deepcopy(value), []):
            raise ValueError("two copies of it have different hashes")
    except Exception as error:
        raise ValueError(
            f"memory= cannot tell {name}={value!r} from other values ({error}), and "
            "could give back results of another. Define functions and classes at the "
            "top level of a module, pass numbers, strings and arrays, or leave memory "
            "out."
        ) from error
    return digest


def hash_of(value: Any, definitions: list[Any]) -> str:
    """Return a hash, and note the classes and functions that the value refers to."""
    return str(_Hasher(definitions).hash(value))


class _Hasher(NumpyHasher):
    """joblib's, which also notes the classes and functions that a value refers to.

    Those of a script are hashed by name, since pickle does not find them in workers.
    """

    dispatch = NumpyHasher.dispatch.copy()

    def __init__(self, definitions: list[Any]) -> None:
        super().__init__("md5")
        self.definitions = definitions

    def save(self, obj: Any) -> None:
        # torch writes tensors in a way that differs from copy to copy.
        super().save(_as_plain(obj) if isinstance(obj, torch.Tensor) else obj)

    def save_global(self, obj: Any, name: Any = None) -> None:
        if isinstance(obj, type | FunctionType):
            self.definitions.append(obj)
            if is_of_main(obj):
                self.save(_name(obj))
                return
        super().save_global(obj, name)

    dispatch[FunctionType] = save_global
    dispatch[type] = save_global


def reached(definitions: Iterable[Any]) -> dict[Any, Any]:
    """Return classes and functions, and what their code names, with what they are."""
    seen: dict[Any, Any] = {}
    waiting = list(definitions)
    while waiting:
        value = waiting.pop()
        value = getattr(value, "__func__", getattr(value, "fget", value))
        wrapped = getattr(value, "__wrapped__", None)
        if isinstance(wrapped, FunctionType):
            # A decorator's own code counts too.
            waiting.append(wrapped)
        if isinstance(value, list | tuple | dict):
            waiting += value.values() if isinstance(value, dict) else value
        if not isinstance(value, type | FunctionType) or value in seen:
            continue
        seen[value] = _name(value)
        if not _is_installed(value):
            named = dict(_named_by(value))
            seen[value] = (_name(value), _own_code(value), plain_values(named))
            waiting += named.values()
    return seen


def _named_by(definition: Any) -> Iterator[tuple[str, Any]]:
    """Yield what a class or function refers to, by name."""
    if isinstance(definition, type):
        yield from ((base.__qualname__, base) for base in definition.__mro__[1:])
        # Python adds plain values of its own while a program runs: __slotnames__ at the
        # first copy of an instance.
        yield from sorted(
            (name, value)
            for name, value in vars(definition).items()
            if not (name.startswith("__") and _is_plain(value))
        )
        return
    yield "defaults", (definition.__defaults__, definition.__kwdefaults__)
    for number, cell in enumerate(definition.__closure__ or ()):
        if cell != CellType():
            yield f"closure {number}", cell.cell_contents
    attributes, names = _names(definition.__code__)
    for name in sorted(names & set(definition.__globals__)):
        value = definition.__globals__[name]
        if isinstance(value, ModuleType) and not _is_installed(value):
            found = attributes & set(vars(value))
            yield from ((f"{name}.{a}", vars(value)[a]) for a in sorted(found))
        else:
            yield name, value


def _names(code: CodeType) -> tuple[set[str], set[str]]:
    """Return the names that code uses, and those among them that are global."""
    attributes = set(code.co_names)
    names = {i.argval for i in dis.get_instructions(code) if i.opname == "LOAD_GLOBAL"}
    for inner in filter(lambda part: isinstance(part, CodeType), code.co_consts):
        of_inner = _names(inner)
        attributes, names = attributes | of_inner[0], names | of_inner[1]
    return attributes, names


def _own_code(definition: Any) -> Any:
    """Return the instructions of a function, without line numbers."""
    code = getattr(definition, "__code__", definition)
    if not isinstance(code, CodeType):
        return None
    # Python orders sets anew in every process.
    constants = [
        sorted(map(repr, c)) if isinstance(c, frozenset) else _own_code(c) or repr(c)
        for c in code.co_consts
    ]
    return code.co_code.hex(), code.co_names, code.co_varnames, constants


def plain_values(named: dict[str, Any]) -> str:
    """Return a hash of those values that are plain data."""
    plain = {k: _as_plain(v) for k, v in named.items() if _is_plain(v)}
    return str(joblib.hash(sorted(plain.items())))


def _is_plain(value: Any) -> bool:
    if type(value) in (list, tuple, set, frozenset):
        return all(map(_is_plain, value))
    if type(value) is dict:
        return all(map(_is_plain, [*value, *value.values()]))
    return value is None or isinstance(
        value, bool | int | float | complex | str | bytes | np.ndarray | torch.Tensor
    )


def _as_plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        # By bytes, as numpy lacks some dtypes.
        flat = value.detach().cpu().to_dense().resolve_conj().resolve_neg().flatten()
        data = flat.contiguous().view(torch.uint8).numpy()
        return (str(value.dtype), tuple(value.shape), data)
    if type(value) is dict:
        return [(_as_plain(k), _as_plain(v)) for k, v in value.items()]
    if type(value) in (set, frozenset):
        return sorted(map(repr, value))
    return [_as_plain(v) for v in value] if type(value) in (list, tuple) else value


def _name(definition: Any) -> str:
    return f"{definition.__module__}.{definition.__qualname__}"


def is_of_main(definition: Any) -> bool:
    is_top_level: bool = definition.__qualname__.isidentifier()
    return definition.__module__ == "__main__" and is_top_level


def _is_installed(thing: Any) -> bool:
    """Tell whether code comes with a version: Python's, or that of a library."""
    is_module = isinstance(thing, ModuleType)
    module = thing if is_module else sys.modules.get(thing.__module__)
    if module is None or module.__name__ == "__main__":
        return False
    file = getattr(module, "__file__", None)
    # This package, wherever it is, goes by the hash of its files: see `versions`.
    is_own = module.__name__.partition(".")[0] == __package__
    if is_own or file is None or not _SITES.isdisjoint(Path(file).parts):
        return True
    return Path(file).resolve().is_relative_to(_STDLIB)


def versions(definitions: Iterable[Any]) -> list[tuple[str, str]]:
    """Return the versions of the libraries that define these, and of Python."""
    packages = {"sklearn", "skorch", "torch", "numpy", "scipy"}
    packages |= {definition.__module__.partition(".")[0] for definition in definitions}
    found = {n: str(getattr(sys.modules.get(n), "__version__", "")) for n in packages}
    found |= {"python": platform.python_version(), "sk_datadrop": _own_digest()}
    return sorted(found.items())


@cache
def _own_digest() -> str:
    """Return a hash of this package: commits of one version differ."""
    files = sorted(Path(__file__).parent.rglob("*.py"))
    return str(joblib.hash([path.read_bytes() for path in files]))
