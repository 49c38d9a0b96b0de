"""Which methods there are. Each is a room of its own, imported when it is asked for."""

from importlib import import_module
from typing import Any, cast

from pipeline.methods.protocol import Method, Model

METHODS = ("sedd", "embedding")


def method_named(name: str) -> Method:
    """The method that `method` in params.yaml names.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in METHODS:
        raise ValueError(f"method must be {' or '.join(METHODS)} (got {name})")
    module: Any = import_module(f"pipeline.methods.{name}.method")
    return cast(Method, module)


def method_of(model: Model) -> Method:
    """The method that a model belongs to."""
    return method_named(model.config.method)
