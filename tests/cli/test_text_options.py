"""`--errors` and `--limit` of the commands that read word vectors or texts, plain and compressed."""

import bz2
import gzip
import shutil

import pytest
from typer.testing import CliRunner

from ptmkernels.cli import app
from ptmkernels.models import FastText, FastTextClassifier
from ptmkernels.models.shallow.vectors import WordVectors

VECTORS = b"4 2\na 1 0\nb 1 0.1\nc 1 0.2\ncaf\xc3 0 1\n"
OPENERS = {"": open, ".gz": gzip.open, ".bz2": bz2.open}
COMMANDS = {
    "neighbors": ["a"],
    "analogies": ["questions"],
    "word-pairs": ["pairs"],
}


def run(*arguments, given=None):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=given)


def output(*arguments, given=None):
    result = run(*arguments, given=given)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


@pytest.fixture(params=OPENERS)
def vectors(request, tmp_path, monkeypatch):
    """A file with a word that is not UTF-8, and the other files that the commands read."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "questions").write_text(": letters\na b b c\n")
    (tmp_path / "pairs").write_text("a\tb\t9\na\tc\t5\nb\tc\t7\n")
    path = tmp_path / f"vectors{request.param}"
    with OPENERS[request.param](path, "wb") as file:
        file.write(VECTORS)
    return path


@pytest.mark.parametrize("command", COMMANDS)
def test_vectors_that_are_not_utf8(command, vectors):
    more = COMMANDS[command]
    result = run(command, vectors, *more)
    assert "not UTF-8 at byte 29, in the word b'caf\\xc3'" in str(result.exception)
    result = run(command, vectors, *more, "--errors", "lenient")
    assert "errors is 'lenient'; expected one of" in str(result.exception)
    for errors in ("ignore", "replace"):
        assert output(command, vectors, *more, "--errors", errors)
    assert output(command, vectors, *more, "--limit", 3)  # the broken word is not reached
    assert "limit is 0" in str(run(command, vectors, *more, "--limit", 0).exception)


def test_what_errors_and_limit_leave(vectors):
    def words(*options):
        return [
            line.split()[1] for line in output("neighbors", vectors, "a", *options).splitlines()
        ]

    assert words("--errors", "ignore") == ["b", "c", "caf"]
    assert words("--errors", "replace") == ["b", "c", "caf\ufffd"]
    assert words("--limit", 2) == ["b"]


def test_limit_of_a_models_own_file(tmp_path):
    model = FastText(min_count=1, vector_size=4, bucket=50).fit([["a", "b", "c"]] * 9, epochs=1)
    model.save_fasttext(tmp_path / "model.bin")
    model.save(tmp_path / "model.safetensors")
    for name in ("model.bin", "model.safetensors"):
        found = output("neighbors", tmp_path / name, model.wv.words[0], "--limit", 2)
        assert [line.split()[1] for line in found.splitlines()] == model.wv.words[1:2]


@pytest.mark.parametrize("model", ["word2vec", "glove"])
@pytest.mark.parametrize("ending", OPENERS)
def test_a_corpus_that_is_not_utf8(model, ending, tmp_path):
    path, vectors = tmp_path / f"text{ending}", tmp_path / "vectors.txt"
    with OPENERS[ending](path, "wb") as file:
        file.write(b"\xef\xbb\xbfone caf\xc3\xa9 b\xff\n" * 50 + b"cut\xc3")
    command = ["embed", path, "--model", model, "--dim", 4, "--min-count", 1, "--epochs", 1]
    command += ["--output", vectors]
    result = run(*command)
    assert "text" + ending in str(result.exception)
    assert "not UTF-8 at byte 14" in str(result.exception)
    assert "errors is 'lenient'" in str(run(*command, "--errors", "lenient").exception)
    for errors, expected in (
        ("ignore", {"one", "café", "b", "cut", "\ufeffone"}),
        ("replace", {"one", "café", "b\ufffd", "cut\ufffd", "\ufeffone"}),
    ):
        output(*command, "--errors", errors)
        assert {*WordVectors.load_word2vec(vectors).words} == expected
    assert {p.name for p in tmp_path.iterdir()} == {path.name, "vectors.txt"}


@pytest.mark.parametrize("ending", OPENERS)
def test_a_classifiers_text_that_is_not_utf8(ending, tmp_path):
    text, model = tmp_path / f"text{ending}", tmp_path / "model.bin"
    with OPENERS[ending](text, "wb") as file:
        file.write(b"__label__a caf\xe9 x\n__label__b y\n" * 20)
    options = ["--dim", 4, "--epoch", 50, "--lr", 1]
    strict = run("classify", "train", text, model, *options)
    assert "not UTF-8 at byte 14" in str(strict.exception)
    output("classify", "train", text, model, *options, "--errors", "replace")
    assert "caf\ufffd" in FastTextClassifier.load_fasttext(model).words
    assert "not UTF-8" in str(run("classify", "test", model, text).exception)
    assert output("classify", "test", model, text, "--errors", "replace").startswith(
        "N\t40\nP@1\t1"
    )
    assert isinstance(run("classify", "predict", model, text).exception, UnicodeDecodeError)
    expected = "__label__a\n__label__b\n" * 20
    assert output("classify", "predict", model, text, "--errors", "replace") == expected
    with OPENERS[ending](text, "rb") as file:
        lines = file.read()
    assert output("classify", "predict", model, "-", "--errors", "ignore", given=lines) == expected
    assert "errors is 'x'" in str(
        run("classify", "predict", model, text, "--errors", "x").exception
    )


def test_help_names_the_compressed_forms():
    width = str(shutil.get_terminal_size().columns)
    for command in ("neighbors", "analogies", "word-pairs", "embed"):
        result = CliRunner(env={"COLUMNS": width}).invoke(app, [command, "--help"])
        assert ".gz" in result.output, command
        assert ".bz2" in result.output, command
