"""`ptmkernels info`: plain data, the table, the prefix for CMake, and what it says of older cards."""

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import ptmkernels
from ptmkernels._selector import BACKENDS, unavailable
from ptmkernels.cli import app, info
from ptmkernels.ops.attention.call import FORWARD
from ptmkernels.ops.refusals import WORD_OPS
from ptmkernels.ops.word_vectors.checks import BACKENDS as WORD_BACKENDS

run = CliRunner().invoke


def test_json_holds_everything():
    result = run(app, ["info", "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.output)
    assert found["versions"]["torch"] == torch.__version__
    assert found["versions"]["ptmkernels"] == ptmkernels.__version__
    assert found["cpu"]["cores"] >= 1
    for op, reasons in found["backends"].items():
        assert tuple(reasons) == BACKENDS
        assert reasons["reference"] is None
        for backend in info.OP_BACKENDS[op]:
            assert reasons[backend] == unavailable(backend)


def test_the_listed_backends_are_those_of_the_ops():
    for op in info.OP_BACKENDS:
        assert hasattr(ptmkernels.ops, op)
    for op in ("masked_attention", "relative_attention", "two_stream_attention"):
        assert set(info.OP_BACKENDS[op]) == set(FORWARD)
    for op in WORD_OPS:
        assert info.OP_BACKENDS[op] == WORD_BACKENDS


ARCHS = ("generic", "avx2", "avx512", "avx512_bf16")


def test_the_cpu_kernels_are_named_and_can_be_forced(monkeypatch):
    assert info.cpu_kernels() in ARCHS
    monkeypatch.setenv("PTMKERNELS_CPU_ARCH", "generic")
    assert info.cpu_kernels() == "generic"
    monkeypatch.setenv("PTMKERNELS_CPU_ARCH", "abacus")
    with pytest.raises(RuntimeError, match="abacus"):
        info.cpu_kernels()


def test_table_names_each_op_and_each_reason():
    result = run(app, ["info"])
    assert result.exit_code == 0, result.output
    for op in info.OP_BACKENDS:
        assert op in result.output
    for backend in BACKENDS:
        if reason := unavailable(backend):
            assert reason in result.output


def test_prefix_leads_to_the_package_file():
    result = run(app, ["info", "--cmake-prefix"])
    prefix = Path(result.output.strip())
    assert (prefix / "lib" / "cmake" / "ptmkernels" / "ptmkernelsConfig.cmake").is_file()
    assert (prefix / "include" / "ptmkernels" / "attention.h").is_file()


@pytest.fixture
def old_card(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index=0: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index=0: "Tesla T4")
    monkeypatch.setattr(info, "cuda_driver", lambda: "550.90.07")


def test_an_old_card_and_an_old_driver_are_said(old_card):
    driver, card = info._remarks()
    assert "R580" in driver
    assert "550.90.07" in driver
    assert "Tesla T4 has compute capability 7.5" in card
    assert "8.0 and later" in card
