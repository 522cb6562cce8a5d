"""`ptmkernels classify` when it is stopped: nothing half-written stays, and it says so."""

import signal
import tempfile

import pytest
from typer.testing import CliRunner

from ptmkernels.cli import app
from ptmkernels.models import FastTextClassifier
from ptmkernels.models.shallow import fasttext_file

TEXT = "__label__a x y\n__label__b z w\n" * 200


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """One with a text, where temporary files would lie too; Ctrl-C is Python's own."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "text").write_text(TEXT)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield tmp_path
    signal.signal(signal.SIGINT, before)


def stops_at(monkeypatch, owner, name, number, calls):
    """The signal comes within one of the calls of a function."""
    function, seen = getattr(owner, name), []

    def interrupted(*args, **kwargs):
        seen.append(name)
        if len(seen) == calls:
            signal.raise_signal(number)
        return function(*args, **kwargs)

    monkeypatch.setattr(owner, name, interrupted)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("owner", "name"), [(FastTextClassifier, "_loss"), (fasttext_file, "_write_matrix")]
)
def test_a_training_that_is_stopped(owner, name, number, folder, monkeypatch):
    """In the training, and while the model is written; an older model stays."""
    (folder / "model.bin").write_bytes(b"old")
    stops_at(monkeypatch, owner, name, number, 2)
    handler = signal.getsignal(signal.SIGTERM)
    command = ["classify", "train", str(folder / "text"), str(folder / "model.bin"), "--dim", "4"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 130, result.exception
    assert result.stdout == ""
    assert result.stderr == "stopped; nothing was saved\n"
    assert {path.name for path in folder.iterdir()} == {"text", "model.bin"}
    assert (folder / "model.bin").read_bytes() == b"old"
    assert signal.getsignal(signal.SIGTERM) is handler


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_quantize_that_is_stopped(number, folder, monkeypatch):
    words = " ".join(f"w{i}" for i in range(300))
    (folder / "text").write_text(f"__label__a {words}\n__label__b z\n")
    model = FastTextClassifier(vector_size=4).fit(folder / "text", epochs=1)
    model.save_fasttext(folder / "model.bin")
    stops_at(monkeypatch, fasttext_file, "_write_matrix", number, 2)
    command = ["classify", "quantize", str(folder / "model.bin"), str(folder / "model.ftz")]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 130, result.exception
    assert result.stderr == "stopped; nothing was saved\n"
    assert {path.name for path in folder.iterdir()} == {"text", "model.bin"}
