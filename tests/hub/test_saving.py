"""Folders of models: what is written, and what is left when that fails."""

import errno
import os
import signal
import subprocess
import sys

import pytest
import torch

import ptmkernels as ptm
from ptmkernels import checkpoint
from ptmkernels.files import atomic_files
from tests.hub.folders import files, make


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(errno.ENOSPC, "No space left")])
def test_what_was_there_stays_when_saving_is_cut_off(folder, monkeypatch, error):
    before = files(folder)

    def interrupted(tensors, path, metadata):
        path.write_bytes(b"half")
        raise error

    monkeypatch.setattr(checkpoint, "save_file", interrupted)
    with pytest.raises(type(error) if isinstance(error, OSError) else error):
        make(hidden_size=12).save_pretrained(folder)
    assert files(folder) == before


def killed_after(calls, save):
    """Run `save` in a process that dies at its `calls`-th change of a name; whether it died."""
    child = os.fork()
    if child == 0:
        left = [calls]

        def fatal(change):
            def changed(*arguments, **options):
                left[0] -= 1
                if left[0] < 0:
                    os._exit(9)
                return change(*arguments, **options)

            return changed

        os.replace, os.unlink = fatal(os.replace), fatal(os.unlink)
        save()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


@pytest.mark.parametrize("shard_bytes", [10**6, 1000], ids=["single", "sharded"])
@pytest.mark.parametrize("before_bytes", [10**6, 1000], ids=["over-single", "over-sharded"])
def test_a_kill_between_the_renames_leaves_a_whole_model(tmp_path, before_bytes, shard_bytes):
    old, new = make(), make(hidden_size=12)
    sizes = []
    for calls in range(100):
        folder = tmp_path / str(calls)
        old.save_pretrained(folder, max_shard_bytes=before_bytes)
        died = killed_after(
            calls, lambda f=folder: new.save_pretrained(f, max_shard_bytes=shard_bytes)
        )
        loaded = ptm.from_pretrained(folder)
        expected = old if loaded.config.hidden_size == 10 else new
        assert all(
            torch.equal(a, b)
            for a, b in zip(loaded.parameters(), expected.parameters(), strict=True)
        )
        assert not list(folder.glob(".pending.*[0-9]"))
        sizes.append(loaded.config.hidden_size)
        if not died:
            break
    assert not died
    assert sizes == sorted(sizes)
    assert sizes.count(12) >= 4  # killed between the renames as well as at the end
    assert sizes[0] == 10


@pytest.mark.parametrize(
    "content",
    ["{", "[]", '{"rename": {"a": "../b"}, "remove": []}', '{"rename": {}, "remove": ["/b"]}'],
)
def test_a_journal_that_leads_elsewhere_is_refused(folder, content):
    (folder / ".pending.7").write_text(content)
    with pytest.raises(ValueError, match=r"\.pending\.7 is no list of renames"):
        ptm.from_pretrained(folder)


def test_whoever_may_read_the_folder_may_read_the_weights(folder):
    (folder / "of-others").write_text("")
    ptm.from_pretrained(folder).save_pretrained(folder)
    modes = {path.name: path.stat().st_mode for path in folder.iterdir()}
    assert len(set(modes.values())) == 1, modes


def test_a_full_disk(folder):
    """A limit on the size of files is the full disk that every user can have."""
    before = files(folder)
    code = (
        "import resource, signal, sys, ptmkernels as ptm\n"
        "model = ptm.create_model('bert-tiny')\n"
        f"signal.signal({int(signal.SIGXFSZ)}, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try:\n    model.save_pretrained(sys.argv[1])\n"
        "except OSError as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True
    )
    assert "model.safetensors could not be written" in done.stdout
    assert files(folder) == before


def test_a_full_disk_names_the_folder(tmp_path):
    with pytest.raises(OSError, match=rf"No space left.*{tmp_path}"), atomic_files(tmp_path):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(OSError, match=r"^weights could not be written$"), atomic_files(tmp_path):
        raise OSError("weights could not be written")


def test_a_file_where_the_folder_should_be(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        make().save_pretrained(tmp_path / "file")


def test_the_metadata_that_transformers_asks_for(folder):
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
