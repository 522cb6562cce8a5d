"""The zoo: one folder for each family of the survey, one thin file for each model."""

from importlib import import_module
from pkgutil import walk_packages

for _module in walk_packages(__path__, prefix=f"{__name__}."):
    import_module(_module.name)

_shallow = import_module(f"{__name__}.shallow")


def __getattr__(name: str):
    """The shallow models, which are classes of their own: `ptmkernels.models.Word2Vec`."""
    if name in _shallow.__all__:
        return getattr(_shallow, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
