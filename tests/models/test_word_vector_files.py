"""Word vectors as a user handles them: files that are broken, training that is stopped, options that do
not fit."""

import dataclasses
import os
import signal
import tempfile

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from ptmkernels.cli import app
from ptmkernels.compressed import open_bytes
from ptmkernels.models import BPE, FastText, FastTextClassifier, GloVe, Word2Vec
from ptmkernels.models.shallow import glove, vector_file, word2vec
from ptmkernels.models.shallow.files import load_any
from ptmkernels.models.shallow.vectors import WordVectors
from tests.models.test_word_vectors import sentences

TEXT = [["a", "b", "c", "d"]] * 50
# module, name of its step, and the command's options
TRAINERS = {
    "word2vec": (word2vec, "skipgram_step_", []),
    "fasttext": (word2vec, "cbow_step_", ["--architecture", "cbow"]),
    "glove": (glove, "glove_step_", []),
}


@pytest.fixture(autouse=True)
def few_buckets(monkeypatch):
    """Files with fastText's 2,000,000 buckets would take most of the time."""

    @dataclasses.dataclass
    class Config(FastText.config_class):
        bucket: int = 1000

    monkeypatch.setattr(FastText, "config_class", Config)


@pytest.fixture
def interruptible():
    """Python's own handler of Ctrl-C, which a process that was started in the background lacks."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def invoke(*arguments, code=0):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("model", TRAINERS)
def test_a_signal_within_a_step(model, number, tmp_path, monkeypatch):
    """Ctrl-C or SIGTERM while a step runs; what it did is done once, not again after --resume."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    corpus = tmp_path / "text"
    corpus.write_text("\n".join(" ".join(s) for s in sentences(400)))
    module, name, options = TRAINERS[model]
    monkeypatch.setattr(module, "_PIECE", 1500)
    step, calls = getattr(module, name), []

    def interrupted(*args, **kwargs):
        result = step(*args, **kwargs)
        calls.append(name)
        if len(calls) == 3:
            signal.raise_signal(number)
        return result

    common = [
        "embed",
        corpus,
        "--model",
        model,
        "--dim",
        8,
        "--epochs",
        2,
        "--min-count",
        1,
        *options,
    ]
    whole, parts = tmp_path / "whole.txt", tmp_path / "new" / "parts.txt"
    invoke(*common, "--output", whole)
    monkeypatch.setattr(module, name, interrupted)
    stopped = invoke(*common, "--output", parts, code=130)
    assert "the same command with --resume goes on" in stopped.output
    assert len(calls) == 3
    assert not list(temporary.iterdir())
    result = CliRunner().invoke(
        app, [str(a) for a in [*common, "--seed", 2, "--output", parts, "--resume"]]
    )
    assert "--resume: seed is 2, but" in str(result.exception)
    invoke(*common, "--output", parts, "--resume")
    assert parts.read_bytes() == whole.read_bytes()
    assert [p.name for p in parts.parent.iterdir()] == ["parts.txt"]
    result = CliRunner().invoke(app, [str(a) for a in [*common, "--output", parts, "--resume"]])
    assert "--resume: there is no" in str(result.exception)


def embed_options(corpus, output):
    return "embed", corpus, "--dim", 8, "--epochs", 1, "--min-count", 1, "--output", output


@pytest.fixture
def corpus(tmp_path):
    (tmp_path / "text").write_text("\n".join(" ".join(s) for s in sentences(30)))
    return tmp_path / "text"


@pytest.mark.parametrize("option", ["--output", "--plot"])
def test_a_file_that_cannot_be_written_is_refused_before_the_training(
    option, corpus, tmp_path, monkeypatch
):
    monkeypatch.setattr(Word2Vec, "fit", lambda *_, **__: pytest.fail("the training began"))
    (tmp_path / "file").touch()
    for path in ("/proc/v.txt", tmp_path / "file" / "v.txt", tmp_path):
        arguments = [*embed_options(corpus, tmp_path / "v.txt"), option, path]
        result = CliRunner().invoke(app, [str(a) for a in arguments])
        assert isinstance(result.exception, (OSError, ValueError)), path
        assert str(path) in str(result.exception)
    assert {p.name for p in tmp_path.iterdir()} == {"text", "file"}


def test_nothing_is_lost_where_the_output_turns_unwritable(corpus, tmp_path, monkeypatch):
    """While it trains, a file takes the place of the output's folder: the state goes elsewhere."""
    whole, folder, elsewhere = tmp_path / "whole.txt", tmp_path / "new", tmp_path / "elsewhere"
    invoke(*embed_options(corpus, whole))
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    step = word2vec.skipgram_step_

    def blocking(*args, **kwargs):
        folder.rmdir()
        folder.touch()
        return step(*args, **kwargs)

    monkeypatch.setattr(word2vec, "skipgram_step_", blocking)
    result = CliRunner().invoke(app, [str(a) for a in embed_options(corpus, folder / "v.txt")])
    place = elsewhere / "v.txt"
    assert f"saved to {place}.state.safetensors" in str(result.exception)
    assert f"--output {place} and --resume goes on" in str(result.exception)
    monkeypatch.setattr(word2vec, "skipgram_step_", step)
    invoke(*embed_options(corpus, place), "--resume")
    assert place.read_bytes() == whole.read_bytes()
    assert [p.name for p in elsewhere.iterdir()] == ["v.txt"]


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_vectors_are_written(number, corpus, tmp_path, monkeypatch):
    whole, folder = tmp_path / "whole.txt", tmp_path / "new"
    invoke(*embed_options(corpus, whole))
    numbers = vector_file._numbers

    def interrupted(rows):
        signal.raise_signal(number)
        return numbers(rows)

    monkeypatch.setattr(vector_file, "_numbers", interrupted)
    stopped = invoke(*embed_options(corpus, folder / "v.txt"), code=130)
    assert "the same command with --resume goes on" in stopped.output
    assert [p.name for p in folder.iterdir()] == ["v.txt.state.safetensors"]
    monkeypatch.setattr(vector_file, "_numbers", numbers)
    invoke(*embed_options(corpus, folder / "v.txt"), "--resume")
    assert (folder / "v.txt").read_bytes() == whole.read_bytes()
    assert [p.name for p in folder.iterdir()] == ["v.txt"]


def test_compressed_outputs(corpus, tmp_path):
    for name in ("v.txt.gz", "v.bin.bz2"):
        invoke(*embed_options(corpus, tmp_path / name))
        with open_bytes(tmp_path / name) as file:
            assert file.readline().endswith(b" 8\n")
        assert load_any(tmp_path / name)["c1"].shape == (8,)
    arguments = [*embed_options(corpus, tmp_path / "v.bin.gz"), "--model", "fasttext"]
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert "fastText's own form is not compressed" in str(result.exception)


def test_glove_is_saved_and_goes_on(tmp_path):
    whole = GloVe(vector_size=4, min_count=1).fit(sentences(50), epochs=3)
    part = GloVe(vector_size=4, min_count=1).fit(sentences(50), epochs=1)
    part.save(tmp_path / "part.safetensors")
    again = GloVe.load(tmp_path / "part.safetensors").fit(sentences(50), epochs=3)
    for name, tensor in whole.parameters.items():
        assert torch.equal(again.parameters[name], tensor), name
    with pytest.raises(ValueError, match="training began on a text of"):
        again.fit(sentences(49), epochs=3)
    with pytest.raises(ValueError, match="epochs is 2, but 3 are done"):
        again.fit(sentences(50), epochs=2)
    with pytest.raises(ValueError, match="began on a text of"):
        again.fit(sentences(50)[::-1], epochs=4)


def test_another_text_is_refused():
    model = Word2Vec(min_count=1, vector_size=4).fit(TEXT, epochs=2)
    with pytest.raises(
        ValueError, match="source has 5 tokens, but training began on a text of 250"
    ):
        model.fit(TEXT[:1], epochs=2)
    with pytest.raises(
        ValueError, match="source has other tokens, but training began on a text of 250"
    ):
        model.fit([TEXT[0][::-1], *TEXT[1:]], epochs=2)
    with pytest.raises(ValueError, match="epochs is 1, but 2 are done"):
        model.fit(TEXT, epochs=1)
    with pytest.raises(TypeError, match="source can be read only once"):
        Word2Vec(min_count=1).fit(s for s in TEXT)
    with pytest.raises(TypeError, match="sentence 0 of source is a string"):
        Word2Vec(min_count=1).fit(["a b c"])


BAD_OPTIONS = [
    (Word2Vec, "learning_rate", float("nan"), "expected a finite number >= 0"),
    (Word2Vec, "negative", -1, "expected 0 to 65536"),
    (Word2Vec, "window", 1001, "expected 1 to 1000"),
    (Word2Vec, "vector_size", 8.5, "expected a whole number"),
    (Word2Vec, "huffman_ties", "stack", "expected one of"),
    (Word2Vec, "seed", 2**63, "expected -"),
    (Word2Vec, "sample", float("nan"), "expected a finite number"),
    (FastText, "bucket", 0, "expected 1 to"),
    (FastText, "min_n", 7, "and max_n 6"),
    (GloVe, "vector_size", 0, "expected at least 1"),
    (GloVe, "power", float("nan"), "expected a finite number"),
    (GloVe, "memory", 0, "expected at least 1048576"),
    (FastTextClassifier, "word_ngrams", 1.5, "expected a whole number"),
]  # fmt: skip


@pytest.mark.parametrize(("model", "name", "value", "expected"), BAD_OPTIONS)
def test_options_that_do_not_fit(model, name, value, expected):
    with pytest.raises((ValueError, TypeError), match=f"{name} is .*{expected}"):
        model(**{name: value})


FILES = [
    (b"2 3\na 1 2 3\n\xff 1 2 3\n", "file: not UTF-8 at byte 12"),
    (b"2 3\na\0\0\0 1234abcd\xff\xff\0\0\nb\xff 1234abcd\0\0\0\0", "file: not UTF-8 at byte 23"),
    (b"2 3\na 1 2 3\nb 1 x 3\n", "file: line 3: could not convert string to float: b'x'"),
    (b"2 3\na 1 2 3\nb 1 2\n", "file: line 3 has 2 numbers; expected 3"),
    (b"9999999999999 300\na 1 2\n", "tells of 9999999999999 words of 300 numbers, but 6 bytes"),
    (b"2 3\nnew york 1 2 3\na 1 2 3\n", "file: line 2 has 4 numbers; expected 3"),
    (b"-5 3\na 1 2 3\n", "tells of -5 words of 3 numbers"),
    (b"", "the first line is b''"),
    (b"a b\n", r"the first line is b'a b\\n'; expected 'words width', or a word and its numbers"),
    (b"a 1 2\nb 1\n", "file: line 2 has 1 numbers; expected 2"),
    (b"a 1 2\nb 1 2 3\n", "file: line 2 has 3 numbers; expected 2"),
    (b"a 1 2\nb 1 x\n", "file: line 2: could not convert"),
]


@pytest.mark.parametrize(("content", "message"), FILES)
def test_broken_word2vec_files(content, message, tmp_path):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        WordVectors.load_word2vec(tmp_path / "file")


def test_what_a_file_cannot_hold(tmp_path):
    with pytest.raises(ValueError, match=r"words\[1\] is 'b c'; white space ends a word"):
        WordVectors(["a", "b c"], np.ones((2, 2))).save_word2vec(tmp_path / "file")
    assert not list(tmp_path.iterdir())
    vectors = np.array([[np.nan, 1], [-np.inf, 1e-30]], np.float32)
    WordVectors(["a", "b\u00a0c"], vectors).save_word2vec(tmp_path / "file")
    back = WordVectors.load_word2vec(tmp_path / "file")
    assert back.words == ["a", "b\u00a0c"]
    np.testing.assert_array_equal(back.vectors, vectors)


def test_broken_files_of_other_kinds(tmp_path):
    path = tmp_path / "junk.safetensors"
    path.write_bytes(b"junk junk junk")
    with pytest.raises(ValueError, match=r"junk.safetensors is not a safetensors file"):
        Word2Vec.load(path)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="pipe is a folder, a device or a pipe"):
        Word2Vec(vector_size=4).fit([["a"] * 9], epochs=1).save(pipe)
    (tmp_path / "bpe").write_bytes(b"#version: 0.2\na b\n\xff c\n")
    with pytest.raises(ValueError, match="bpe: not UTF-8 at byte 18"):
        BPE.load(tmp_path / "bpe")


@pytest.mark.parametrize("model", [Word2Vec, FastText, GloVe])
def test_damaged_states(model, tmp_path):
    path = tmp_path / "model.safetensors"
    model(vector_size=4, min_count=1).fit([["a", "b", "a"]] * 3, epochs=1).save(path)
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        header = file.metadata()
    name = "word" if model is GloVe else "output"
    for change, head, message in (
        ({name: tensors[name][:1].clone()}, {}, rf"tensor '{name}' has shape \(1, 4\); expected"),
        ({name: tensors[name].T.contiguous()}, {}, f"tensor '{name}' has shape"),
        (
            {"counts": tensors["counts"][:1].clone()},
            {},
            r"counts has shape \(1,\); expected \(2,\)",
        ),
        ({}, {"config": "{"}, "is damaged"),
        ({}, {"config": '{"bogus": 1}'}, "bogus"),
        ({}, {"progress": "{}"}, "done"),
    ):
        save_file(tensors | change, path, metadata=header | head)
        with pytest.raises(
            ValueError, match=rf"model.safetensors is damaged: .*{message}|{message}"
        ):
            model.load(path)


@pytest.mark.parametrize("model", ["word2vec", "fasttext", "glove"])
@pytest.mark.parametrize("suffix", [".txt", ".bin", ".safetensors"])
def test_neighbors_reads_whatever_embed_writes(model, suffix, tmp_path):
    (tmp_path / "text").write_text("\n".join(" ".join(s) for s in sentences(30)))
    out = tmp_path / f"v{suffix}"
    options = ("--dim", 6, "--epochs", 1, "--min-count", 1)
    invoke("embed", tmp_path / "text", "--model", model, *options, "--output", out)
    assert len(invoke("neighbors", out, "c1", "~c2", "--count", 3).output.splitlines()) == 3
    result = CliRunner().invoke(app, ["neighbors", str(out), "never"])
    if model == "fasttext" and suffix != ".txt":
        assert len(result.output.splitlines()) == 10  # from the spelling
    else:
        assert "'never' is not in the vocabulary" in str(result.exception)


def test_neighbours_of_unseen_words():
    model = FastText(min_count=1, vector_size=8, bucket=100).fit(TEXT, epochs=1)
    vector = model.vector("abcd")
    (word, cosine), *_ = model.most_similar("abcd", count=1)
    known = model.vector(word)
    assert cosine == pytest.approx(
        known @ vector / np.linalg.norm(known) / np.linalg.norm(vector), abs=1e-6
    )
    with pytest.raises(KeyError, match="has no n-gram"):
        FastText(min_count=1, vector_size=8, max_n=0).fit(TEXT, epochs=1).most_similar("zz")


def test_a_map_of_one_word(tmp_path):
    vectors = WordVectors(["a"], np.ones((1, 3)))
    vectors.plot(tmp_path / "map.png")
    assert (tmp_path / "map.png").stat().st_size > 1000
    with pytest.raises(ValueError, match="positive and negative are empty"):
        vectors.most_similar([])


def test_load_any_names_what_it_found(tmp_path):
    from safetensors.torch import save_file

    save_file({"x": torch.ones(1)}, tmp_path / "x.safetensors", metadata={"model": "Bert"})
    with pytest.raises(ValueError, match="holds 'Bert'; expected one of"):
        load_any(tmp_path / "x.safetensors")
    save_file({"x": torch.ones(1)}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="holds no word vectors"):
        load_any(tmp_path / "x.safetensors")
