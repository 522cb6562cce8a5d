"""ptmkernels: fused kernels, modules and models for the classic pre-trained language models.

    import ptmkernels as ptm

Three layers, each of use without the one above it: `ptm.ops` (functions on tensors), `ptm.nn` (modules),
and the zoo (`ptm.create_model`, `ptm.from_pretrained`). Everything is loaded when it is first used.
"""

from importlib import import_module

from ptmkernels import _checkout
from ptmkernels._version import __version__

_checkout.install()

_ATTRIBUTES = {
    "AttentionMask": "ptmkernels.masks",
    "create_model": "ptmkernels.registry",
    "from_pretrained": "ptmkernels.hub",
    "list_models": "ptmkernels.registry",
    "model_card": "ptmkernels.registry",
}
_SUBMODULES = ("models", "nn", "ops")

__all__ = ["__version__", *_ATTRIBUTES, *_SUBMODULES]


def __getattr__(name: str):
    if name in _SUBMODULES:
        return import_module(f"ptmkernels.{name}")
    if name in _ATTRIBUTES:
        return getattr(import_module(_ATTRIBUTES[name]), name)
    raise AttributeError(f"module 'ptmkernels' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
