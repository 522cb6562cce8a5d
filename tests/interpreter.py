"""Runs tests marked `interpreted` where Triton interprets its kernels on the CPU.

Triton decides when a kernel is decorated whether it is compiled or interpreted, so one process cannot do
both. Each pytest process starts one child with TRITON_INTERPRET=1 and hands it the marked tests; what
they raise is raised here. Their parameters must be picklable.
"""

import os
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context

import numpy
import pytest

VARIABLE = "TRITON_INTERPRET"


@cache
def _child() -> ProcessPoolExecutor:
    """One process, started while the variable is set for it to inherit."""
    pool = ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn"))
    os.environ[VARIABLE] = "1"
    try:
        pool.submit(os.getpid).result()
    finally:
        del os.environ[VARIABLE]
    return pool


def _refusal() -> str | None:
    """Why Triton's interpreter cannot run here."""
    import triton

    if triton.__version__ < "3.7" and numpy.lib.NumpyVersion(numpy.__version__) >= "2.4.0":
        return f"the interpreter of Triton {triton.__version__} needs numpy < 2.4"
    return None


def pytest_configure(config):
    config.addinivalue_line("markers", "interpreted: runs where Triton interprets its kernels")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    if pyfuncitem.get_closest_marker("interpreted") is None or os.environ.get(VARIABLE) == "1":
        return None
    if refusal := _refusal():
        pytest.skip(refusal)
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    _child().submit(pyfuncitem.obj, **arguments).result()
    return True
