"""Folders of models: what is read, what is written, and what is refused."""

import errno
import json
import os
import pickle
import signal
import struct
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

import ptmkernels as ptm
from ptmkernels import checkpoint
from ptmkernels.files import atomic_files

SIZES = {
    "vocab_size": 31,
    "hidden_size": 10,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 7,
    "max_position_embeddings": 12,
}
IDS = torch.tensor([[4, 9, 30, 1, 2]])
WORDS = "bert.embeddings.word_embeddings.weight"


def make(head="pretraining", **overrides):
    torch.manual_seed(0)
    return ptm.create_model("bert-tiny", head, **(SIZES | overrides)).eval()


@pytest.fixture
def folder(tmp_path):
    make().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def change_weights(folder, change):
    """Rewrite model.safetensors after `change` has worked on the dict of its tensors."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def change_config(folder, **entries):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# -- what is read --------------------------------------------------------------------------------


def test_a_sharded_checkpoint_is_read_and_written(tmp_path):
    model = make()
    model.save_pretrained(tmp_path, max_shard_bytes=1000)
    shards = sorted(tmp_path.glob("model-*-of-*.safetensors"))
    assert len(shards) > 3
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == {shard.name for shard in shards}
    loaded = ptm.from_pretrained(tmp_path)
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), loaded.parameters(), strict=True)
    )


def test_saving_in_the_other_form_leaves_nothing_stale(tmp_path):
    make().save_pretrained(tmp_path, max_shard_bytes=1000)
    make(hidden_size=12).save_pretrained(tmp_path)
    assert ptm.from_pretrained(tmp_path).config.hidden_size == 12
    make(hidden_size=8).save_pretrained(tmp_path, max_shard_bytes=1000)
    assert ptm.from_pretrained(tmp_path).config.hidden_size == 8


def test_early_names_of_norms_are_understood(folder):
    def rename(tensors):
        for name in [n for n in tensors if "LayerNorm" in n]:
            early = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
                "LayerNorm.bias", "LayerNorm.beta"
            )
            tensors[early] = tensors.pop(name)

    change_weights(folder, rename)
    assert torch.equal(
        ptm.from_pretrained(folder)(IDS).prediction_logits, make()(IDS).prediction_logits
    )


def test_tied_copies_and_buffers_may_be_there(folder):
    def add(tensors):
        tensors["cls.predictions.decoder.weight"] = tensors[WORDS].clone()
        tensors["cls.predictions.decoder.bias"] = tensors["cls.predictions.bias"].clone()
        tensors["bert.embeddings.position_ids"] = torch.arange(12)[None]

    change_weights(folder, add)
    assert torch.equal(
        ptm.from_pretrained(folder)(IDS).prediction_logits, make()(IDS).prediction_logits
    )


@pytest.mark.parametrize(
    ("saved", "head"),
    [
        ("pretraining", "masked-lm"),
        ("pretraining", "backbone"),
        ("masked-lm", "token-classification"),
    ],
)
def test_another_head_takes_what_it_knows(tmp_path, saved, head, recwarn):
    make(saved).save_pretrained(tmp_path)
    model = ptm.from_pretrained(tmp_path, head)
    assert model.head == head
    first = model.backbone.stack.layers[0].attention.query.weight
    assert torch.equal(first, make(saved).backbone.stack.layers[0].attention.query.weight)
    warned = [str(w.message) for w in recwarn]
    assert any("tagger.weight" in text for text in warned) == (head == "token-classification")


def test_a_bare_encoder_gets_a_head(tmp_path):
    make("backbone").save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match=r"classifier\.bias, classifier\.weight; they start fresh"):
        model = ptm.from_pretrained(tmp_path, "sequence-classification", num_labels=3)
    assert model(IDS).logits.shape == (1, 3)
    assert torch.isfinite(model(IDS).logits).all()
    assert torch.equal(
        model.backbone.pooler.dense.weight, make("backbone").backbone.pooler.dense.weight
    )


def test_an_untied_decoder_is_kept(tmp_path):
    model = make("masked-lm", tie_word_embeddings=False)
    model.save_pretrained(tmp_path)
    loaded = ptm.from_pretrained(tmp_path)
    assert torch.equal(loaded.lm_head.decoder.weight, model.lm_head.decoder.weight)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_dtypes(tmp_path, dtype):
    model = make().to(dtype)
    model.save_pretrained(tmp_path)
    assert ptm.from_pretrained(tmp_path).dtype == torch.float32
    loaded = ptm.from_pretrained(tmp_path, dtype=dtype)
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), loaded.parameters(), strict=True)
    )


@pytest.mark.parametrize("dtype", ["bfloat16", torch.int32], ids=str)
def test_a_dtype_that_weights_cannot_have(folder, dtype):
    with pytest.raises(TypeError, match="expected a floating"):
        ptm.from_pretrained(folder, dtype=dtype)


def test_entries_of_the_configuration_survive(folder):
    change_config(folder, use_cache=True, id2label={"0": "no", "1": "yes"}, my_note=[1, 2])
    model = ptm.from_pretrained(folder)
    assert model.config.id2label == {0: "no", 1: "yes"}
    model.save_pretrained(folder)
    saved = json.loads((folder / "config.json").read_text())
    assert saved["my_note"] == [1, 2]
    assert saved["label2id"] == {"no": 0, "yes": 1}


# -- the hub -------------------------------------------------------------------------------------


def test_a_name_on_the_hub(folder, monkeypatch):
    asked = {}

    def snapshot_download(name, **options):
        asked.update(options, name=name)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert ptm.from_pretrained("someone/bert", revision="v1").head == "pretraining"
    assert asked["name"] == "someone/bert"
    assert asked["revision"] == "v1"
    assert not any("bin" in pattern for pattern in asked["allow_patterns"])


def test_no_network(monkeypatch):
    def snapshot_download(name, **options):
        raise ConnectionError("no route to host")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    with pytest.raises(OSError, match=r"'someone/bert' is no folder here .*no route to host"):
        ptm.from_pretrained("someone/bert")


@pytest.mark.parametrize("source", ["./nothing", "/nothing/here", "a/b/c"])
def test_a_path_is_not_looked_for_on_the_hub(source):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        ptm.from_pretrained(source)


def test_a_file_in_place_of_a_folder(folder):
    with pytest.raises(NotADirectoryError, match="expected the folder"):
        ptm.from_pretrained(folder / "config.json")


# -- hostile folders -----------------------------------------------------------------------------


def test_a_missing_tensor(folder):
    change_weights(folder, lambda tensors: tensors.pop("cls.predictions.bias"))
    with pytest.raises(
        ValueError, match=r"model.safetensors: tensor 'cls.predictions.bias' is missing"
    ):
        ptm.from_pretrained(folder)


def test_an_unexpected_tensor(folder):
    change_weights(folder, lambda tensors: tensors.update({"bert.extra": torch.zeros(2)}))
    with pytest.raises(ValueError, match=r"model.safetensors: unexpected tensor 'bert.extra'"):
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


class Trap:
    """Makes a folder where it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


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


# -- what is written -----------------------------------------------------------------------------


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
