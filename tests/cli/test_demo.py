"""The demo in a few steps: what it trains, says and writes, and how it stops."""

import json
import signal

import numpy as np
import pytest
from typer.testing import CliRunner

from ptmkernels import demo
from ptmkernels.benchmarks.masked_attention import quick_attention_benchmark
from ptmkernels.cli import app
from ptmkernels.data import IGNORED
from ptmkernels.training import prepare_pretraining
from ptmkernels.training.reporting import Reporter


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """A small vocabulary and benchmark: what is tested is that the parts fit."""
    monkeypatch.setattr(demo, "quick_benchmark", lambda: quick_attention_benchmark("cpu", 65, 0.01))


def call(output, *options):
    arguments = ["demo", "--output", str(output), *map(str, options)]
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "300"})


def test_a_short_demo_misses_the_goal_and_says_so(tmp_path):
    result = call(tmp_path, "--steps", 2)
    assert result.exit_code == 1
    assert "the goal of 1.5 is missed" in result.output
    assert "attention, causal 65" in result.output
    for name in ("report.md", "loss.png", "history.json"):
        assert f"written: {tmp_path / name}" in result.output
    report = (tmp_path / "report.md").read_text()
    assert "the goal of 1.5 is missed" in report
    assert all(sentence in report for sentence in demo.SENTENCES)
    history = json.loads((tmp_path / "history.json").read_text())
    assert [row["step"] for row in history["evaluation"]] == [1, 2]
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    demo._clear(tmp_path / "run")  # as the next demo does
    assert not (tmp_path / "run").exists()


def test_nothing_but_a_run_is_replaced(tmp_path):
    mine = tmp_path / "run" / "mine.txt"
    mine.parent.mkdir()
    mine.write_text("keep")
    result = call(tmp_path, "--steps", 1)
    assert isinstance(result.exception, ValueError)
    assert f"{mine.parent} is there and holds no run" in str(result.exception)
    assert mine.read_text() == "keep"


def test_ctrl_c_ends_it(tmp_path, monkeypatch):
    steps = iter([lambda: signal.raise_signal(signal.SIGINT)])
    monkeypatch.setattr(Reporter, "advance", lambda self: next(steps, int)())
    result = call(tmp_path, "--steps", 9)
    assert result.exit_code == 130
    assert "Stopped after step 2 of 9." in result.output
    assert not (tmp_path / "report.md").exists()


def test_entropy_is_that_of_the_tokens_that_are_predicted():
    assert demo.unigram_entropy(np.array([3, 3, 3, 3])) == 0.0
    assert demo.unigram_entropy(np.array([1, 2, 5, 9])) == pytest.approx(np.log(4))
    held_out = prepare_pretraining(demo.demo_config(0, 1), None).held_out
    tokens = demo.masked_tokens(held_out)
    labels = np.concatenate([held_out.epoch_batch(n, 1)["labels"][0] for n in range(len(held_out))])
    assert np.array_equal(tokens, labels[labels != IGNORED])
    assert (
        0.9 * 0.15
        < len(tokens)
        / sum(int(held_out.epoch_batch(n, 1)["attention_mask"].sum()) for n in range(len(held_out)))
        < 1.1 * 0.15
    )


def test_no_held_out_paragraph_is_trained_on():
    trainer = prepare_pretraining(demo.demo_config(0, 1), None)

    def sentences(data):
        corpus = data.source.corpus
        return {tuple(part) for part in np.split(corpus.tokens, corpus.sentence_starts[1:-1])}

    held_out, trained = sentences(trainer.held_out), sentences(trainer.data)
    shared = {sentence for sentence in held_out & trained if len(sentence) > 12}
    assert len(shared) < 0.02 * len(held_out)
