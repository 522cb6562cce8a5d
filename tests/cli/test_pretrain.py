"""`pretrain` and `fill-mask` from end to end on a small text, and everything that a user can get wrong."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file
from typer.testing import CliRunner

from ptmkernels.cli import app
from ptmkernels.cli.pretrain import parse_overrides
from ptmkernels.training import PretrainingConfig, checkpoints_of, latest_checkpoint

SMALL = [
    *("--vocab-size", "90", "--max-length", "33", "--batch-size", "4", "--log-every", "1"),
    *("--set", "hidden_size=24", "--set", "num_attention_heads=2", "--set", "intermediate_size=31"),
    *("--set", "max_position_embeddings=33", "--learning-rate", "0.01", "--held-out", "0.2"),
]
TEXT = "\n\n".join(
    f"The number {n} follows {n - 1}.\nIt is a number.\nAnother sentence with {n} is here."
    for n in range(1, 21)
)


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


def call(*arguments):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def pretrain(text, output, *options):
    return call("pretrain", "bert", "--corpus", text, "--output", output, *SMALL, *options)


def test_train_and_ask(text, tmp_path):
    run = tmp_path / "run"
    result = pretrain(text, run, "--steps", 8, "--evaluate-every", 4)
    assert result.exit_code == 0
    assert f"The model lies in {run}" in result.output
    answer = call("fill-mask", run, "the [MASK] follows a [MASK].", "--top", 3)
    assert "[MASK] 1" in answer.output
    assert "[MASK] 2" in answer.output
    rows = [line for line in answer.output.splitlines() if "0." in line]
    assert len(rows) == 3


def test_transformers_reads_the_run(text, tmp_path):
    transformers = pytest.importorskip("transformers")
    run = tmp_path / "run"
    pretrain(text, run, "--steps", 2)
    model = transformers.AutoModelForPreTraining.from_pretrained(run)
    tokenizer = transformers.AutoTokenizer.from_pretrained(run)
    assert isinstance(model, transformers.BertForPreTraining)
    assert len(tokenizer) == model.config.vocab_size
    assert tokenizer.model_max_length == 33


def test_going_on_gives_the_same_weights(text, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    options = ("--steps", 6, "--save-every", 2, "--threads", 1, "--keep", 9)
    pretrain(text, whole, *options)
    pretrain(text, parts, *options)
    for checkpoint in checkpoints_of(parts)[1:]:
        for file in checkpoint.iterdir():
            file.unlink()
        checkpoint.rmdir()
    result = call("pretrain", "bert", "--output", parts, "--resume", "--threads", 1)
    assert result.exit_code == 0
    files = [latest_checkpoint(run) / "model.safetensors" for run in (whole, parts)]
    first, second = map(load_file, files)
    assert all((first[name] == second[name]).all() for name in first)


@pytest.mark.parametrize(
    "options",
    [
        {"objective": "mlm", "static": True, "duplicates": 2, "whole_words": True},
        {"optimizer": "lamb", "schedule": "polynomial", "precision": "bf16"},
        {"optimizer": "adafactor", "schedule": "inverse-sqrt", "checkpoint_activations": True},
        {"start": "local", "cased": True, "layout": "sentences", "accumulation": 2},
        {"held_out": 0.0, "schedule": "constant", "warmup": 2, "workers": 1},
    ],
)
def test_options(text, tmp_path, options):
    given = []
    for name, value in options.items():
        option = f"--{name.replace('_', '-')}"
        given += [option] if value is True else [option, value]
    run = tmp_path / "run"
    assert pretrain(text, run, "--steps", 3, *given).exit_code == 0
    assert latest_checkpoint(run).name == "step-00000003"
    values = PretrainingConfig.read(run).flat()
    values |= {"cased": not values["lowercase"], "static": values["duplicates"] is not None}
    assert {name: values[name] for name in options} == options


def test_a_held_out_text_and_a_tokenizer_of_its_own(text, tmp_path):
    other = tmp_path / "other.txt"
    other.write_text("A number.\nAnother number.\n\nOne is here.\nIt is a sentence.\n")
    pretrain(text, tmp_path / "first", "--steps", 1)
    options = ("--held-out-text", other, "--tokenizer", tmp_path / "first", "--vocab-size", "7000")
    pretrain(text, tmp_path / "second", "--steps", 1, *options)
    vocabularies = [(tmp_path / run / "vocab.txt").read_text() for run in ("first", "second")]
    assert vocabularies[0] == vocabularies[1]


@pytest.mark.parametrize(
    "options, error, message",
    [
        (("--preset", "tinny"), ValueError, "bert has no preset 'tinny'.*tiny"),
        (("--set", "hidden_sizes=3"), ValueError, "unknown override 'hidden_sizes'.*hidden_size"),
        (("--set", "hidden_size"), ValueError, "--set is 'hidden_size'; expected name=value"),
        (("--set", "hidden_size=25"), ValueError, "hidden_size is 25"),
        (("--max-length", "34"), ValueError, "max_position_embeddings is 33; expected at least 34"),
        (
            ("--set", "vocab_size=50"),
            ValueError,
            r"vocab_size is 50; expected at least \d+, the vocabulary",
        ),
        (("--objective", "nsp"), ValueError, "objective is 'nsp'"),
        (("--objective", "lm"), ValueError, "'lm' does not fit: bert has no head 'causal-lm'"),
        (("--start", "random"), ValueError, "start is 'random'"),
        (("--layout", "lines"), ValueError, "layout is 'lines'"),
        (("--held-out", "1.5"), ValueError, "held-out share is 1.5"),
        (("--batch-size", "0"), ValueError, "batch_size is 0"),
        (("--warmup", "9", "--steps", "3"), ValueError, "warmup is 9"),
        (("--mask-probability", "0"), ValueError, "mask probability is 0"),
        (("--threads", "-1"), ValueError, "threads is -1"),
        (("--seed", "-1"), ValueError, "seed is -1"),
        (("--tokenizer", "/no/such/folder"), OSError, "/no/such/folder"),
        (("--held-out-text", "/no/such.txt"), OSError, "/no/such.txt"),
    ],
)
def test_bad_options(text, tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        pretrain(text, tmp_path / "run", *options)
    assert not checkpoints_of(tmp_path / "run")


def test_what_the_model_cannot_be_is_said_before_the_text_is_read(tmp_path):
    for options, message in (
        (("bert", "--set", "hidden_act=sinc"), "hidden_act is 'sinc'"),
        (("nnlm", "--preset", "base"), "nnlm has no objective of these"),
    ):
        with pytest.raises(ValueError, match=message):
            call("pretrain", *options, "--corpus", "/no/such.txt", "--output", tmp_path)


def test_bad_corpora(tmp_path):
    bad = tmp_path / "bad.txt"
    run = tmp_path / "run"
    with pytest.raises(OSError, match=r"missing\.txt"):
        pretrain(tmp_path / "missing.txt", run)
    bad.write_bytes(b"")
    with pytest.raises(ValueError, match=r"bad\.txt holds no text"):
        pretrain(bad, run)
    bad.write_bytes(b"One.\n\nTwo.\n\xe9\n")
    with pytest.raises(ValueError, match=r"bad\.txt is not UTF-8 text: byte 11 is 0xe9"):
        pretrain(bad, run)
    bad.write_text("One sentence.\nAnd another.\nBut one document.\n")
    with pytest.raises(ValueError, match="too few documents to hold some out, 1"):
        pretrain(bad, run)
    with pytest.raises(ValueError, match=r"one document.*another"):
        pretrain(bad, run, "--held-out", 0)


def test_errors_are_one_line(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "ptmkernels", "fill-mask", str(tmp_path), "a [MASK]"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert str(tmp_path) in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_run_is_not_overwritten_and_not_changed(text, tmp_path):
    run = tmp_path / "run"
    pretrain(text, run, "--steps", 2)
    with pytest.raises(ValueError, match="holds a run already"):
        pretrain(text, run, "--steps", 2)
    resume = ("pretrain", "bert", "--output", run, "--resume")
    with pytest.raises(ValueError, match=r"--steps is 3, but the run in .* was started with 2"):
        call(*resume, "--steps", 3)
    assert call(*resume, "--keep", 1, "--steps", 2).exit_code == 0
    settings = run / "pretraining.json"
    for content, message in (("{", "is not JSON"), ('{"a": 1}', "holds no settings of a run")):
        settings.write_text(content)
        with pytest.raises(ValueError, match=rf"pretraining\.json {message}"):
            call(*resume)
    with pytest.raises(OSError, match="does not exist"):
        call("pretrain", "bert", "--output", tmp_path / "nowhere", "--resume")


def test_nothing_to_go_on_from(text, tmp_path):
    run = tmp_path / "run"
    pretrain(text, run, "--steps", 1)
    (run / "checkpoints").rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="has no checkpoint to go on from"):
        call("pretrain", "bert", "--output", run, "--resume")


def test_fill_mask_refuses(text, tmp_path):
    run = tmp_path / "run"
    pretrain(text, run, "--steps", 1)
    with pytest.raises(ValueError, match=r"has no \[MASK\]"):
        call("fill-mask", run, "nothing hidden")
    with pytest.raises(ValueError, match="expected at most 33, the positions of the model"):
        call("fill-mask", run, "[MASK] " + "a " * 40)
    with pytest.raises(ValueError, match="top is 0"):
        call("fill-mask", run, "[MASK]", "--top", 0)
    (run / "tokenizer.json").unlink()
    (run / "vocab.txt").unlink()
    with pytest.raises(OSError, match=r"has no tokenizer\.json and no vocab\.txt"):
        call("fill-mask", run, "[MASK]")


def test_ctrl_c_says_how_to_go_on(text, tmp_path):
    run = tmp_path / "run"
    arguments = ["pretrain", "bert", "--corpus", text, "--output", run, *SMALL]
    process = subprocess.Popen(
        [sys.executable, "-m", "ptmkernels", *map(str, arguments), "--save-every", "2"],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[2],
    )
    deadline = time.monotonic() + 60
    while latest_checkpoint(run) is None:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    step = json.loads((latest_checkpoint(run) / "state.json").read_text())["step"]
    assert f"Stopped after step {step} of 10000" in said
    assert f"ptmkernels pretrain bert --output {run} --resume" in said


def test_overrides():
    texts = ["a=3", "b=0.5", "c=true", "d=null", "e=gelu", "f=", "g=x=y"]
    expected = {"a": 3, "b": 0.5, "c": True, "d": None, "e": "gelu", "f": "", "g": "x=y"}
    assert parse_overrides(texts) == expected
    assert parse_overrides(None) == {}
