"""Checks of single parameters, that several parts ask for."""

from numbers import Integral, Real


def check_count(name: str, value) -> None:
    """Raise a ValueError unless `value` is a positive integer."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a positive integer; got {value!r}.")


def check_positive(name: str, value: float, unit: str = "") -> None:
    """Raise a ValueError unless `value` is a positive number."""
    if not isinstance(value, Real) or isinstance(value, bool) or not value > 0:
        raise ValueError(f"{name} must be a positive number{unit}; got {value!r}.")


def check_kind(name: str, value, *kinds: type, optional: bool = False) -> None:
    """Raise a TypeError unless `value` is an instance of one of the kinds."""
    if not isinstance(value, kinds) and not (optional and value is None):
        names = " or ".join(kind.__name__ for kind in kinds)
        none = "None or " if optional else ""
        raise TypeError(f"{name} must be {none}an instance of {names}; got {value!r}.")
