"""Checks of single parameters, that several parts ask for."""


def check_kind(name: str, value, *kinds: type) -> None:
    """Raise a TypeError unless `value` is an instance of one of the kinds."""
    if not isinstance(value, kinds):
        names = " or ".join(kind.__name__ for kind in kinds)
        raise TypeError(f"{name} must be an instance of {names}; got {value!r}.")
