"""Files that appear whole: what is no plain file is not replaced by one."""

import os
import threading

import pytest

from ptmkernels.files import atomic_file


def write(path, text="new") -> None:
    with atomic_file(path) as temporary:
        temporary.write_text(text)


def test_a_file_is_replaced_or_stays(tmp_path):
    path = tmp_path / "file"
    write(path, "old")
    with pytest.raises(TypeError):
        write(path, None)
    assert path.read_text() == "old"
    write(path)
    assert path.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_pipe_is_written_and_stays(tmp_path):
    path, read = tmp_path / "pipe", []
    os.mkfifo(path)
    reader = threading.Thread(target=lambda: read.append(path.read_text()))
    reader.start()
    write(path)
    reader.join()
    assert read == ["new"]
    assert path.is_fifo()


def test_a_link_stays(tmp_path):
    (tmp_path / "far").mkdir()
    link, target = tmp_path / "link", tmp_path / "far" / "file"
    link.symlink_to(target)
    write(link)
    assert link.is_symlink()
    assert target.read_text() == "new"


def test_a_folder_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(IsADirectoryError, match=str(tmp_path)):
        write(tmp_path)
    assert not list(tmp_path.iterdir())
