"""How an estimator is written: in one line, without what is as by default."""

from inspect import signature
from reprlib import Repr
from typing import Any

from sklearn.base import BaseEstimator

MOST_CHARACTERS = 80
"""Characters of a parameter that is no estimator."""

_BRIEF = Repr()
_BRIEF.maxother = _BRIEF.maxstring = MOST_CHARACTERS

_FIRST = ("estimator", "module")
"""Parameters that need no name."""


def written(value: Any) -> str:
    """Return how a parameter is written; estimators and nets by what was changed."""
    if isinstance(value, BaseEstimator) and not isinstance(value, type):
        return _written_with(value, value.get_params(deep=False))
    if hasattr(value, "__name__"):
        return str(value.__name__)
    if type(value) in (list, tuple) and len(value) < 5:
        items = ", ".join(map(written, value))
        text = f"[{items}]" if isinstance(value, list) else f"({items})"
    elif " object at 0x" in (text := _BRIEF.repr(value)):
        text = f"{type(value).__name__}(...)"
    # Arrays are written on several lines.
    text = " ".join(text.split())
    return text if len(text) <= MOST_CHARACTERS else text[: MOST_CHARACTERS - 3] + "..."


def _written_with(estimator: BaseEstimator, params: dict[str, Any]) -> str:
    defaults: dict[str, Any] = {}
    for kind in reversed(type(estimator).__mro__):
        if "__init__" in vars(kind):
            defaults |= signature(vars(kind)["__init__"]).parameters
    given = {name: written(value) for name, value in params.items() if name[0] != "_"}
    changed = {
        name: text
        for name, text in given.items()
        if name not in defaults or text != written(defaults[name].default)
    }
    shown = [changed.pop(name) for name in _FIRST if name in changed]
    shown += [f"{name}={text}" for name, text in changed.items()]
    return f"{type(estimator).__name__}({', '.join(shown)})"
