"""Print what a logged model infills where no packages are but some: URI PACKAGE..."""

import sys
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import packages_distributions, requires
from typing import Any

import pandas as pd
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def needed(names: list[str]) -> set[str]:
    """Packages, and those that they require."""
    found: set[str] = set()
    while names:
        name = canonicalize_name(names.pop())
        if name not in found:
            found.add(name)
            required = map(Requirement, requires(name) or [])
            names += [each.name for each in required if not each.marker or each.marker.evaluate()]
    return found


uri, *packages = sys.argv[1:]
here = needed(packages)
absent = {
    module
    for module, brought_by in packages_distributions().items()
    if module != "pipeline" and not here & {*map(canonicalize_name, brought_by)}
}
find = PathFinder.find_spec


def find_spec(name: str, *where: Any) -> ModuleSpec | None:
    """As if nothing else were installed."""
    return None if name.partition(".")[0] in absent else find(name, *where)


PathFinder.find_spec = find_spec  # type: ignore[method-assign, assignment]

import mlflow.pyfunc  # noqa: E402

model = mlflow.pyfunc.load_model(uri)
import pipeline  # noqa: E402

assert "/code/pipeline/" in str(pipeline.__file__), pipeline.__file__
frame = pd.DataFrame({"template": ["a[2]c[?]"] * 3})
print(*model.predict(frame, params={"steps": 4, "seed": 3})["text"], sep="\n")
