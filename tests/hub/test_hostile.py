"""Folders of models that are damaged or mean harm: what is refused."""

import json
import pickle
import struct

import pytest
import torch

import ptmkernels as ptm
from tests.hub.folders import WORDS, Trap, change_config, change_weights, make


def test_a_missing_tensor(folder):
    change_weights(folder, lambda tensors: tensors.pop(WORDS))
    with pytest.raises(ValueError, match=rf"model.safetensors: tensor '{WORDS}' is missing"):
        ptm.from_pretrained(folder)


def test_a_tensor_of_another_shape(folder):
    change_weights(folder, lambda tensors: tensors.update({WORDS: torch.zeros(31, 11)}))
    with pytest.raises(ValueError, match=rf"{WORDS}' has shape \(31, 11\); expected \(31, 10\)"):
        ptm.from_pretrained(folder)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float8_e4m3fn])
def test_a_tensor_of_another_kind(folder, dtype):
    change_weights(folder, lambda tensors: tensors.update({WORDS: torch.zeros(31, 10).to(dtype)}))
    with pytest.raises(ValueError, match=f"{WORDS}' has dtype .*; expected one of BF16"):
        ptm.from_pretrained(folder)


def test_two_names_of_one_tensor(folder):
    def add(tensors):
        tensors["bert.embeddings.LayerNorm.gamma"] = torch.ones(10)

    change_weights(folder, add)
    with pytest.raises(ValueError, match="are the same weight"):
        ptm.from_pretrained(folder)


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.3, 0.99])
def test_a_truncated_file(folder, share):
    path = folder / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ValueError, match=r"model.safetensors is not a whole safetensors file"):
        ptm.from_pretrained(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda entry: entry.update(data_offsets=[0, 10**12]),
        lambda entry: entry.update(data_offsets=[-8, 4]),
        lambda entry: entry.update(shape=[2**40, 2**40]),
        lambda entry: entry.update(dtype="F1"),
        lambda entry: entry.pop("shape"),
    ],
)
def test_a_header_that_lies(folder, change):
    path = folder / "model.safetensors"
    content = path.read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + size])
    change(header[WORDS])
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + size :])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        ptm.from_pretrained(folder)


@pytest.mark.parametrize("size", [2**63, 2**40, 10**8])
def test_a_header_of_a_size_that_cannot_be(folder, size):
    path = folder / "model.safetensors"
    path.write_bytes(struct.pack("<Q", size) + path.read_bytes()[8:])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        ptm.from_pretrained(folder)


@pytest.mark.parametrize(
    "shard",
    [
        "../other.safetensors",
        "/etc/passwd",
        "sub/x.safetensors",
        "..\\x.safetensors",
        "x.bin",
        3,
        "",
    ],
)
def test_an_index_that_leads_elsewhere(tmp_path, shard):
    make().save_pretrained(tmp_path, max_shard_bytes=1000)
    path = tmp_path / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"][WORDS] = shard
    path.write_text(json.dumps(index))
    with pytest.raises(ValueError, match=f"puts tensor '{WORDS}' into"):
        ptm.from_pretrained(tmp_path)


def test_an_index_that_promises_too_much(tmp_path):
    make().save_pretrained(tmp_path, max_shard_bytes=1000)
    path = tmp_path / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["more"] = index["weight_map"][WORDS]
    path.write_text(json.dumps(index))
    with pytest.raises(ValueError, match="tensor 'more' is missing, which"):
        ptm.from_pretrained(tmp_path)
    path.write_text('{"metadata": {}}')
    with pytest.raises(ValueError, match="no weight_map"):
        ptm.from_pretrained(tmp_path)


def test_a_missing_shard(tmp_path):
    make().save_pretrained(tmp_path, max_shard_bytes=1000)
    shard = sorted(tmp_path.glob("model-*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(FileNotFoundError, match=shard.name):
        ptm.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "weights.pt", "model.pkl"])
def test_a_pickle_in_place_of_weights(folder, name):
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps({WORDS: Trap(folder / "sprung")}))
    with pytest.raises(ValueError, match=f"holds {name}, which is a pickle.*ptmkernels convert"):
        ptm.from_pretrained(folder)
    assert not (folder / "sprung").exists()


def test_a_pickle_called_safetensors(folder):
    path = folder / "model.safetensors"
    path.write_bytes(pickle.dumps({WORDS: Trap(folder / "sprung")}, protocol=2))
    with pytest.raises(ValueError, match="looks like a pickle"):
        ptm.from_pretrained(folder)
    torch.save({WORDS: torch.zeros(2)}, path)
    with pytest.raises(ValueError, match="looks like a pickle"):
        ptm.from_pretrained(folder)
    assert not (folder / "sprung").exists()


def test_an_empty_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config.json does not exist"):
        ptm.from_pretrained(tmp_path)
    make().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"neither model\.safetensors nor"):
        ptm.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        ("[1]", "holds a list; expected a JSON object"),
        ("[" * 100_000, "is not JSON"),
        ("{}", "model_type is None"),
        ('{"model_type": "berd"}', "model_type is 'berd'; did you mean 'bert'"),
        ('{"model_type": "bert", "architectures": ["BertForPoetry"]}', "BertForPoetry"),
        ('{"model_type": "bert", "hidden_size": "10"}', "hidden_size is '10'"),
        ('{"model_type": "bert", "hidden_size": 0}', "hidden_size is 0; expected"),
        ('{"model_type": "bert", "hidden_size": 1e300}', "hidden_size is 1e[+]300"),
        ('{"model_type": "bert", "num_hidden_layers": 99999999}', "num_hidden_layers is 99999999"),
        ('{"model_type": "bert", "layer_norm_eps": NaN}', "layer_norm_eps is nan"),
        ('{"model_type": "bert", "hidden_act": "sinc"}', "hidden_act is 'sinc'; expected one of"),
        ('{"model_type": "bert", "is_decoder": true}', "is_decoder is True; only False"),
        ('{"model_type": "bert", "pruned_heads": {"0": [1]}}', "pruned_heads is "),
        (
            '{"model_type": "bert", "position_embedding_type": "relative_key"}',
            "position_embedding_type is 'relative_key'",
        ),
    ],
)
def test_a_config_that_cannot_be(folder, text, message):
    (folder / "config.json").write_text(text)
    with pytest.raises((ValueError, TypeError), match=message) as caught:
        ptm.from_pretrained(folder)
    assert "config.json" in str(caught.value)


def test_a_config_of_gigantic_sizes_takes_no_memory(folder):
    change_config(folder, vocab_size=2**24, hidden_size=2**24, num_attention_heads=1)
    with pytest.raises(ValueError, match=r"has shape .*; expected"):
        ptm.from_pretrained(folder)
