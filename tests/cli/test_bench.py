"""`ptmkernels bench`: options are checked, results are written, a wrong answer of ours exits with 1."""

import json

import pytest
import torch
from typer.testing import CliRunner

from ptmkernels import benchmarks
from ptmkernels.benchmarks import harness, masked_attention
from ptmkernels.cli import app

SMALL = ["--quick", "--series", "causal", "--size", "65", "--threads", "1", "--seconds", "0.01"]


def invoke(*arguments):
    return CliRunner().invoke(app, ["bench", *arguments])


def test_list():
    result = invoke("--list")
    assert result.exit_code == 0
    for op in benchmarks.OPS:
        assert op in result.output


def test_measures_and_writes(tmp_path):
    result = invoke("masked_attention", *SMALL, "--device", "cpu", "--output", str(tmp_path))
    assert result.exit_code == 0, result.output
    assert "causal 65" in result.output
    for ending in ("csv", "json", "png"):
        assert (tmp_path / f"masked_attention-cpu.{ending}").is_file()
    rows = json.loads((tmp_path / "masked_attention-cpu.json").read_text())
    assert {row["mode"] for row in rows} == {"forward", "forward+backward"}


def test_a_wrong_answer_of_ours_is_an_error(tmp_path, monkeypatch):
    right = masked_attention.masked_attention

    def wrong(*arguments, backend=None, **named):
        out = right(*arguments, backend="reference", **named)
        return out if backend == "reference" else 1.1 * out

    monkeypatch.setattr(masked_attention, "masked_attention", wrong)
    result = invoke("masked_attention", *SMALL, "--device", "cpu", "--output", str(tmp_path))
    assert result.exit_code == 1
    assert "no ratio" in result.output
    assert "ptmkernels wrong: output is off by 0.1" in result.output


def test_an_interrupted_run_writes_what_it_has(tmp_path, monkeypatch):
    whole = harness.run

    def interrupted(*arguments, **named):
        yield next(iter(whole(*arguments, **named)))
        raise KeyboardInterrupt

    monkeypatch.setattr(harness, "run", interrupted)
    result = invoke("masked_attention", *SMALL, "--device", "cpu", "--output", str(tmp_path))
    assert result.exit_code == 130
    assert "interrupted after" in result.output
    assert json.loads((tmp_path / "masked_attention-cpu.json").read_text())


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["nothing"], "op is 'nothing'"),
        (["masked_attention", "--dtype", "int8"], "dtype is 'int8'"),
        (["masked_attention", "--threads", "0"], "threads is '0'"),
        (["masked_attention", "--mode", "sideways"], "mode is 'sideways'"),
        (["masked_attention", "--series", "odd"], "series is"),
    ],
)
def test_bad_options_are_named(arguments, message):
    result = invoke(*arguments)
    assert isinstance(result.exception, ValueError)
    assert message in str(result.exception)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there():
    result = invoke("masked_attention", "--device", "cuda")
    assert "sees no CUDA device" in str(result.exception)
