"""Folders of models: what is read."""

import json

import pytest
import torch
from safetensors.torch import load_file

import ptmkernels as ptm
from tests.hub.folders import IDS, WORDS, change_config, change_weights, make


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


def test_a_head_that_the_file_lacks_starts_fresh(folder):
    change_weights(folder, lambda tensors: tensors.pop("cls.predictions.bias"))
    with pytest.warns(UserWarning, match=r"no weights for lm_head.bias; they start fresh"):
        model, info = ptm.from_pretrained(folder, output_loading_info=True)
    assert info["missing_keys"] == ["cls.predictions.bias"]
    assert not model.lm_head.bias.any()


def test_a_pooler_that_the_file_lacks_starts_fresh(folder):
    change_weights(folder, lambda tensors: [tensors.pop(n) for n in list(tensors) if "pooler" in n])
    with pytest.warns(UserWarning, match=r"backbone\.pooler\.dense\.bias"):
        assert ptm.from_pretrained(folder, "backbone")(IDS).pooler_output.isfinite().all()


@pytest.mark.parametrize("head", ["backbone", "pretraining", None])
def test_tensors_that_no_head_knows_are_left(folder, head):
    def add(tensors):
        tensors["crf.transitions"] = torch.zeros(3, 3)
        tensors["bert.steps"] = torch.zeros(2, dtype=torch.int64)

    change_weights(folder, add)
    with pytest.warns(UserWarning, match=r"which are left: bert\.steps, crf\.transitions"):
        model, info = ptm.from_pretrained(folder, head, output_loading_info=True)
    assert {"crf.transitions", "bert.steps"} <= set(info["unexpected_keys"])
    assert ("cls.predictions.bias" in info["unexpected_keys"]) == (head == "backbone")
    words = model.backbone.embeddings.tokens.weight
    assert torch.equal(words, make().backbone.embeddings.tokens.weight)


def test_another_number_of_labels(tmp_path):
    make("sequence-classification", num_labels=3).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"shape \(3, 10\).*ignore_mismatched_sizes=True"):
        ptm.from_pretrained(tmp_path, num_labels=5)
    with pytest.warns(
        UserWarning, match=r"classifier.weight of shape \(3, 10\); expected \(5, 10\)"
    ):
        model, info = ptm.from_pretrained(
            tmp_path, num_labels=5, ignore_mismatched_sizes=True, output_loading_info=True
        )
    assert model(IDS).logits.shape == (1, 5)
    assert info["mismatched_keys"] == [
        ("classifier.bias", (3,), (5,)),
        ("classifier.weight", (3, 10), (5, 10)),
    ]
    assert info["missing_keys"] == []


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "model.", "module._orig_mod."])
@pytest.mark.parametrize("head", ["pretraining", "backbone"])
def test_names_in_wrappers(tmp_path, wrapper, head):
    make(head).save_pretrained(tmp_path)

    def wrap(tensors):
        for name in list(tensors):
            tensors[wrapper + name] = tensors.pop(name)

    change_weights(tmp_path, wrap)
    loaded = ptm.from_pretrained(tmp_path)
    for one, other in zip(loaded.parameters(), make(head).parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_config_that_does_not_say_what_the_model_is(folder):
    path = folder / "config.json"
    published = json.loads(path.read_text())
    for name in ("architectures", "model_type"):
        published.pop(name)
    path.write_text(json.dumps(published))
    with pytest.raises(ValueError, match=r"model_type is None; give the argument model_type, one"):
        ptm.from_pretrained(folder)
    assert ptm.from_pretrained(folder, model_type="bert").head == "backbone"
    loaded = ptm.from_pretrained(folder, "pretraining", model_type="bert")
    assert torch.equal(loaded(IDS).prediction_logits, make()(IDS).prediction_logits)
    with pytest.raises(ValueError, match="model_type is 'berd'; did you mean 'bert'"):
        ptm.from_pretrained(folder, model_type="berd")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_pointer_of_git_lfs(folder, name):
    note = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
    (folder / name).write_text(note)
    with pytest.raises(ValueError, match=rf"{name} is a pointer of git-lfs.*git lfs pull"):
        ptm.from_pretrained(folder)


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


@pytest.mark.parametrize("tied", [True, False])
def test_the_second_name_of_a_bias(tmp_path, tied):
    """Transformers 5 adds decoder.bias to the logits, and ties it to the other where the words are tied."""
    folder = tmp_path / "model"
    model = make("masked-lm", tie_word_embeddings=tied)
    with torch.no_grad():
        model.lm_head.bias.normal_()
    model.save_pretrained(folder)
    names = load_file(folder / "model.safetensors").keys()
    assert ("cls.predictions.decoder.bias" in names) == (not tied)

    def as_transformers_5(tensors):
        tensors["cls.predictions.decoder.bias"] = tensors["cls.predictions.bias"].clone()
        tensors["cls.predictions.bias"].zero_()

    change_weights(folder, as_transformers_5)
    assert torch.equal(ptm.from_pretrained(folder).lm_head.bias, model.lm_head.bias)


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
