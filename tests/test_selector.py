"""Which backend serves a call, what the refusals say, and processes that lack a part."""

import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from ptmkernels import _library, _selector
from ptmkernels._selector import BACKENDS, ENVIRONMENT, forced_backend, select, unavailable
from ptmkernels.ops import masked_attention, template_op
from ptmkernels.ops.refusals import EVERY_OP, KERNELS, REFUSALS, as_markdown, refusals
from tests import backends

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def available(monkeypatch):
    """Every backend available, none forced."""
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    monkeypatch.setattr(_selector, "unavailable", lambda backend: None)
    return monkeypatch


def test_the_first_that_can_serve(available):
    assert select("op", {"cuda": "on cpu", "cpu": None, "reference": None}) == "cpu"
    assert select("op", {"cuda": None, "cpu": None}) == "cuda"


def test_a_missing_kernel_is_told_once(available):
    available.setattr(_selector, "unavailable", lambda b: "not built" if b == "cpu" else None)
    refused = {"cuda": "on cpu", "cpu": "no int4", "reference": None}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert (
            select("told once", refused) == "reference"
        )  # a kernel that was there would refuse too
        assert not told
        for _ in range(2):
            assert select("told once", {"cpu": None, "reference": None}) == "reference"
    assert [str(w.message) for w in told] == [
        "told once runs as plain PyTorch, slowly, since no kernel can serve (cpu: not built); "
        "`ptmkernels info` tells more"
    ]


def test_a_forced_backend_serves_or_says_why_not(available):
    reasons = {"cuda": "on cpu", "cpu": None, "reference": None}
    assert select("op", reasons, "reference") == "reference"
    available.setenv(ENVIRONMENT, "reference")
    assert select("op", reasons) == "reference"
    assert select("op", reasons, "cpu") == "cpu"  # the argument goes before the environment
    with pytest.raises(RuntimeError, match=r"^op: .*\(cuda: on cpu\)$"):
        select("op", reasons, "cuda")
    with pytest.raises(RuntimeError, match="triton: the op has no such backend"):
        select("op", reasons, "triton")
    available.setenv(ENVIRONMENT, "")
    assert select("op", reasons) == "cpu"


def test_every_reason_is_listed_where_none_can_serve(available):
    with pytest.raises(RuntimeError, match="cuda: on cpu; cpu: no int4"):
        select("op", {"cuda": "on cpu", "cpu": "no int4"})


def test_unknown_names_are_refused(monkeypatch):
    with pytest.raises(ValueError, match="backend is 'gpu'; expected one of cpu, cuda"):
        forced_backend("gpu")
    monkeypatch.setenv(ENVIRONMENT, "fast")
    with pytest.raises(ValueError, match=f"environment variable {ENVIRONMENT} is 'fast'"):
        forced_backend(None)


def test_the_environment_forces_every_call(monkeypatch):
    query = torch.randn(1, 1, 3, 8)
    monkeypatch.setenv(ENVIRONMENT, "cuda")
    if not torch.cuda.is_available():
        for call in (
            lambda: masked_attention(query, query, query),
            lambda: template_op(query, query, 1.0),
        ):
            with pytest.raises(RuntimeError, match="no backend can serve this call \\(cuda: "):
                call()
    monkeypatch.setenv(ENVIRONMENT, "reference")
    assert torch.equal(
        masked_attention(query, query, query),
        masked_attention(query, query, query, backend="reference"),
    )


def test_what_is_unavailable_says_why():
    assert unavailable("reference") is None
    for backend in BACKENDS:
        reason = unavailable(backend)
        assert reason is None or len(reason) > 20


def test_refusals_are_data():
    assert len({(r.op, r.backends, r.reason) for r in REFUSALS}) == len(REFUSALS)
    for refusal in REFUSALS:
        assert set(refusal.backends) <= set(KERNELS)  # the reference serves everything
        assert refusal.op == EVERY_OP or refusal.op.isidentifier()


def test_refusals_of_a_call():
    backends = ("cuda", "cpu", "reference")
    plain = torch.randn(1, 1, 2, 4)
    found = refusals("masked_attention", backends, plain)
    assert found == {"cuda": "it serves tensors on CUDA devices", "cpu": None, "reference": None}
    found = refusals("masked_attention", backends, plain.double())
    assert found["cpu"] == "float64 is served by reference only"
    assert found["reference"] is None
    assert refusals("template_op", backends, plain.double())["cpu"] is None
    assert refusals("template_op", ("cpu",), plain.to("meta")) == {
        "cpu": "it serves tensors on the CPU"
    }


def test_the_document_holds_the_list():
    assert as_markdown() in (ROOT / "docs" / "refusals.md").read_text()


def test_float64_with_a_forced_kernel():
    query = torch.randn(1, 1, 2, 4, dtype=torch.float64)
    assert masked_attention(query, query, query).dtype == torch.float64
    with pytest.raises(
        RuntimeError, match=r"masked_attention: .*cpu: float64 is served by reference"
    ):
        masked_attention(query, query, query, backend="cpu")


def test_the_cuda_library_is_not_loaded_into_a_torch_without_cuda(tmp_path, monkeypatch):
    if torch.version.cuda is not None:
        pytest.skip("this torch is built with CUDA")
    for name in ("ptmkernels", "ptmkernels_cuda"):
        _library_file(tmp_path, name).write_bytes(b"not a library")
    monkeypatch.setattr(_library, "LIBRARY_DIR", tmp_path)
    monkeypatch.setattr(torch.ops, "load_library", lambda path: pytest.fail(f"loads {path}"))
    assert _library.cuda_library_error.__wrapped__() == "this torch is built without CUDA"


def test_a_library_that_does_not_load_says_why(tmp_path, monkeypatch):
    monkeypatch.setattr(_library, "LIBRARY_DIR", tmp_path)
    assert "is not built (install with compilation" in _library.cpu_library_error.__wrapped__()
    _library_file(tmp_path, "ptmkernels").write_bytes(b"not a library")
    assert "could not be loaded into torch" in _library.cpu_library_error.__wrapped__()


def _library_file(folder, name):
    return folder / _library._path(name).name


def in_a_process(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_a_process_without_the_library_and_without_triton():
    """The reference serves, and who forces a kernel reads what is missing."""
    in_a_process(
        """
import importlib.util, pathlib, sys
sys.modules["triton"] = None
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "triton" else find_spec(name, *rest)
import torch
from ptmkernels import AttentionMask, _library
_library.LIBRARY_DIR = pathlib.Path("nowhere")
from ptmkernels.ops import masked_attention, template_op
query = torch.randn(1, 2, 5, 8, requires_grad=True)
masked_attention(query, query, query, AttentionMask.causal(5), dropout_p=0.1).sum().backward()
assert query.grad.isfinite().all()
assert template_op(torch.ones(2), torch.ones(2), 3.0).tolist() == [4.0, 4.0]
for backend, word in (("cpu", "is not built"), ("triton", "pip install triton")):
    try:
        masked_attention(query, query, query, backend=backend)
    except RuntimeError as error:
        assert word in str(error), error
    else:
        raise AssertionError(backend)
"""
    )


def test_the_list_of_backends_that_are_tested():
    """The CPU kernels are built wherever the tests run: they may not be left out for want of them."""
    assert "cpu" in backends.KERNELS
