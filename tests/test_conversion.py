"""`convert`: old pickled checkpoints to safetensors."""

import json
import os
import pickle

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

import ptmkernels as ptm
from ptmkernels.cli import app
from ptmkernels.conversion import convert
from tests.hub.folders import IDS, WORDS, Trap, make


@pytest.fixture
def old(tmp_path):
    """A folder as it was written years ago: pickled, early names, tied copies sharing memory."""
    folder = tmp_path / "old"
    make().save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    early = {}
    for name, tensor in tensors.items():
        name = name.replace("LayerNorm.weight", "LayerNorm.gamma")
        early[f"module.{name.replace('LayerNorm.bias', 'LayerNorm.beta')}"] = tensor
    early["module.cls.predictions.decoder.weight"] = early[f"module.{WORDS}"]
    torch.save(early, folder / "pytorch_model.bin")
    (folder / "vocab.txt").write_text("[PAD]\n")
    return folder


def assert_loads(folder):
    logits = ptm.from_pretrained(folder)(IDS).prediction_logits
    assert torch.equal(logits, make()(IDS).prediction_logits)


def test_in_place(old):
    names = convert(old)
    assert WORDS in names
    assert not [n for n in names if n.startswith("module.") or n.endswith(("gamma", "beta"))]
    assert_loads(old)
    assert (old / "pytorch_model.bin").is_file()


def test_to_another_folder(old, tmp_path):
    convert(old, tmp_path / "new")
    assert_loads(tmp_path / "new")
    assert (tmp_path / "new" / "vocab.txt").is_file()
    assert not (tmp_path / "new" / "pytorch_model.bin").exists()
    assert not (old / "model.safetensors").exists()


def test_the_command(old):
    result = CliRunner().invoke(app, ["convert", str(old)])
    assert result.exit_code == 0
    assert "tensors written to" in result.output
    assert_loads(old)


def test_shards(old):
    tensors = torch.load(old / "pytorch_model.bin", weights_only=True)
    (old / "pytorch_model.bin").unlink()
    names = sorted(tensors)
    index = {}
    for i, part in enumerate((names[:9], names[9:])):
        torch.save({n: tensors[n] for n in part}, old / f"pytorch_model-{i}.bin")
        index |= dict.fromkeys(part, f"pytorch_model-{i}.bin")
    path = old / "pytorch_model.bin.index.json"
    path.write_text(json.dumps({"weight_map": index}))
    convert(old)
    assert_loads(old)
    index[names[0]] = "../pytorch_model-0.bin"
    path.write_text(json.dumps({"weight_map": index}))
    with pytest.raises(ValueError, match="in the same folder"):
        convert(old)


@pytest.mark.parametrize("wrapper", ["state_dict", "model"])
def test_weights_inside_a_training_checkpoint(old, wrapper):
    tensors = torch.load(old / "pytorch_model.bin", weights_only=True)
    torch.save({wrapper: tensors, "epoch": 3}, old / "pytorch_model.bin")
    convert(old / "pytorch_model.bin")
    assert_loads(old)


def test_shared_and_sliced_memory(tmp_path):
    whole = torch.arange(12.0).view(3, 4)
    torch.save({"a": whole, "b": whole, "c": whole[1:], "d": whole.t()}, tmp_path / "x.pt")
    convert(tmp_path / "x.pt")
    found = load_file(tmp_path / "model.safetensors")
    assert torch.equal(found["a"], whole)
    assert torch.equal(found["b"], whole)
    assert torch.equal(found["c"], whole[1:])
    assert torch.equal(found["d"], whole.t())


def test_a_trap_is_not_sprung(tmp_path):
    for protocol in (0, 2, 4):
        content = pickle.dumps({"a": Trap(tmp_path / "sprung")}, protocol=protocol)
        (tmp_path / "pytorch_model.bin").write_bytes(content)
        with pytest.raises(ValueError, match="never unpickled"):
            convert(tmp_path)
    torch.save({"a": Trap(tmp_path / "sprung")}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="never unpickled"):
        convert(tmp_path)
    assert not (tmp_path / "sprung").exists()
    assert not (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.zeros(2)], "holds a list; expected tensors by name"),
        ({"a": 3}, "'a' is a int; expected a tensor"),
        ({}, "holds no tensors"),
        ({"module.a": torch.zeros(2), "a": torch.zeros(2)}, "'a' is there twice"),
    ],
)
def test_contents_that_cannot_be(tmp_path, content, message):
    torch.save(content, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=message):
        convert(tmp_path)


def test_a_damaged_file(old):
    content = (old / "pytorch_model.bin").read_bytes()
    for damaged in (content[: len(content) // 2], b"", os.urandom(100)):
        (old / "pytorch_model.bin").write_bytes(damaged)
        with pytest.raises(ValueError, match="is damaged"):
            convert(old)


def test_nothing_to_convert(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        convert(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=r"neither pytorch_model\.bin nor"):
        convert(tmp_path)
