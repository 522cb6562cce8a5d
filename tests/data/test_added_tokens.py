"""Tokens added to a tokenizer, in every form in which Transformers writes them."""

import json

import pytest

from ptmkernels.data import WordPieceTokenizer

transformers = pytest.importorskip("transformers")

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cat", "new", "york", "##tok", "tok"]
TEXTS = ["newtok cat", "a new york<e1>cat NEWTOK", "newtoks", "[CLS] cat <e1> [MASK]", "new  york"]


def saved(folder, kind=transformers.BertTokenizer):
    """A tokenizer with a word, two words and a special token more, saved by Transformers."""
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in VOCABULARY))
    theirs = kind.from_pretrained(folder)
    theirs.add_tokens(["newtok", transformers.AddedToken("new york", single_word=True)])
    theirs.add_special_tokens({"additional_special_tokens": ["<e1>"]})
    theirs.save_pretrained(folder)
    return transformers.BertTokenizerFast.from_pretrained(folder)


def check(folder, theirs):
    ours = WordPieceTokenizer.load(folder)
    assert ours.vocab_size == len(theirs)
    assert ours.encode(TEXTS, special_tokens=True) == theirs(TEXTS)["input_ids"]
    return ours


def keep(folder, *names):
    for path in folder.iterdir():
        if path.name not in names:
            path.unlink()


@pytest.mark.parametrize("kind", ["BertTokenizer", "BertTokenizerFast"])
def test_a_whole_folder(tmp_path, kind):
    theirs = saved(tmp_path, getattr(transformers, kind))
    ours = check(tmp_path, theirs)
    assert ours.tokens[10:] == ["newtok", "new york", "<e1>"]


@pytest.mark.parametrize("form", ["tokenizer_config.json", "added_tokens.json"])
def test_one_form_alone(tmp_path, form):
    theirs = saved(tmp_path)
    keep(tmp_path, "vocab.txt", form)
    ours = WordPieceTokenizer.load(tmp_path)
    assert ours.tokens == sorted(theirs.get_vocab(), key=theirs.get_vocab().get)
    assert ours.encode(["newtok <e1> cat"]) == [[10, 12, 5]]


def test_tokens_that_tokenizer_json_lacks(tmp_path):
    theirs = saved(tmp_path, transformers.BertTokenizerFast)
    path = tmp_path / "tokenizer.json"
    content = json.loads(path.read_text())
    content["added_tokens"] = [t for t in content["added_tokens"] if t["id"] < 5]
    path.write_text(json.dumps(content))
    check(tmp_path, theirs)


@pytest.mark.parametrize("name", ["special_tokens_map.json", "tokenizer_config.json"])
@pytest.mark.parametrize("entry", ["<e1>", {"content": "<e1>", "lstrip": True}])
def test_special_tokens_without_an_id_come_last(tmp_path, name, entry):
    (tmp_path / "vocab.txt").write_text("".join(f"{token}\n" for token in VOCABULARY))
    (tmp_path / name).write_text(json.dumps({"additional_special_tokens": [entry]}))
    ours = WordPieceTokenizer.load(tmp_path)
    assert ours.encode(["cat <e1>new"]) == [[5, 10, 6]]


def test_saved_and_read_again(tmp_path):
    theirs = saved(tmp_path)
    ours = WordPieceTokenizer.load(tmp_path)
    again = tmp_path / "again"
    ours.save(again)
    assert (again / "vocab.txt").read_text().split() == VOCABULARY
    check(again, theirs)
    auto = transformers.AutoTokenizer.from_pretrained(again)
    assert auto(TEXTS)["input_ids"] == theirs(TEXTS)["input_ids"]
    (again / "tokenizer.json").unlink()
    check(again, theirs)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("added_tokens.json", {"newtok": 12}, r"'newtok' has the id 12; expected 10"),
        ("added_tokens.json", {"newtok": "x"}, r"gives 'newtok' the id 'x'; expected a number"),
        ("added_tokens.json", [], "expected a JSON object"),
        ("tokenizer_config.json", {"added_tokens_decoder": 3}, "is a int; expected an object"),
        (
            "tokenizer_config.json",
            {"added_tokens_decoder": {"10": {"content": 3}}},
            "has a token 3; expected a text",
        ),
        (
            "tokenizer_config.json",
            {"added_tokens_decoder": {"x": {"content": "a"}}},
            "has the id 'x'; expected a number",
        ),
    ],
)
def test_files_that_cannot_be(tmp_path, name, content, message):
    (tmp_path / "vocab.txt").write_text("".join(f"{token}\n" for token in VOCABULARY))
    (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        WordPieceTokenizer.load(tmp_path)


def test_a_byte_order_mark_is_no_part_of_the_first_token(tmp_path):
    for mark in ("", "\ufeff"):
        text = mark + "".join(f"{token}\n" for token in VOCABULARY)
        (tmp_path / "vocab.txt").write_text(text, encoding="utf-8")
        assert WordPieceTokenizer.load(tmp_path).tokens == VOCABULARY


def test_a_vocabulary_that_git_lfs_has_not_fetched(tmp_path):
    (tmp_path / "vocab.txt").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:1\n"
    )
    with pytest.raises(ValueError, match=r"vocab.txt is a pointer of git-lfs"):
        WordPieceTokenizer.load(tmp_path)
