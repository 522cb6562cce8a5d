"""PEP 517 backend: setuptools, plus torch as a build requirement only where none is installed.

The libraries need nothing of torch but its headers (the stable ABI), so an isolated build borrows
those of the torch that the target environment already has instead of downloading another one.
"""

from setuptools import build_meta
from setuptools.build_meta import *  # noqa: F403  the hooks that are not overridden below
from torch_headers import find_torch_headers


def _torch_requirement() -> list[str]:
    return [] if find_torch_headers() else ["torch>=2.10"]


def get_requires_for_build_wheel(config_settings=None):
    return build_meta.get_requires_for_build_wheel(config_settings) + _torch_requirement()


def get_requires_for_build_editable(config_settings=None):
    return build_meta.get_requires_for_build_editable(config_settings) + _torch_requirement()
