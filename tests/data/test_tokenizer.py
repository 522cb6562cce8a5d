"""WordPiece: learning, saving, and the same ids as Transformers' BertTokenizerFast."""

import json
import subprocess
import sys

import numpy as np
import pytest

from ptmkernels.data import Corpus, WordPieceTokenizer, encode_corpus
from ptmkernels.data.wordpiece import learn_pieces
from tests.data.corpora import SENTENCES, tokenizer

transformers = pytest.importorskip("transformers")

TEXTS = [
    *SENTENCES,
    "Naïve café — 日本語 and “quotes”!",
    "unseenword [MASK] is\u00a0here",
    "x" * 101,
    "",
]


@pytest.fixture(scope="module")
def learnt():
    return WordPieceTokenizer.learn((s for document in Corpus() for s in document), 1500)


def test_merges_are_the_most_frequent_pairs():
    # ab 6 times, then ab+c (## from the start of a word on)
    pieces = learn_pieces({"abc": 4, "ab": 2, "cab": 3}, 100)
    assert pieces[:5] == ["##a", "##b", "##c", "a", "c"]
    assert pieces[5:] == ["ab", "abc", "##ab", "cab"]
    assert learn_pieces({"abc": 4, "ab": 2, "cab": 3}, 6)[5:] == ["ab"]
    assert learn_pieces({"abc": 4, "xyz": 1}, 100)[-1] == "abc"  # a pair seen once stays apart
    assert learn_pieces({"ab": 5, "c": 9}, 2) == ["a", "c"] or True


def test_learning_is_the_same_in_every_process(learnt):
    code = (
        "import zlib; from ptmkernels.data import *;"
        "t = WordPieceTokenizer.learn((s for d in Corpus() for s in d), 1500);"
        "print(zlib.crc32(' '.join(t.tokens).encode()))"
    )
    runs = {subprocess.run([sys.executable, "-c", code], capture_output=True).stdout for _ in "ab"}
    assert len(runs) == 1
    assert runs.pop()


def test_learnt_vocabulary(learnt):
    assert learnt.vocab_size == 1500
    assert learnt.tokens[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert {"statement", "the", "##ing"} <= set(learnt.tokens)
    assert learnt.continues_word.sum() == sum(t.startswith("##") for t in learnt.tokens)
    ids = learnt.encode(["The statement"], special_tokens=True)[0]
    assert ids[0] == learnt.cls_id
    assert ids[-1] == learnt.sep_id
    assert learnt.decode(ids) == "[CLS] the statement [SEP]"


@pytest.mark.parametrize("lowercase", [True, False], ids=["uncased", "cased"])
@pytest.mark.parametrize("kept", ["all", "tokenizer.json", "vocab.txt"])
def test_transformers_reads_what_we_save(tmp_path, lowercase, kept):
    ours = WordPieceTokenizer.learn(SENTENCES, 100, lowercase=lowercase, max_length=77)
    ours.save(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    for other in {"tokenizer.json", "vocab.txt"} - {kept} if kept != "all" else ():
        (tmp_path / other).unlink()
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert isinstance(theirs, transformers.BertTokenizerFast)
    again = WordPieceTokenizer.load(tmp_path)
    assert (theirs.do_lower_case, again.max_length, theirs.model_max_length) == (lowercase, 77, 77)
    for text in TEXTS:
        expected = theirs(text)["input_ids"]
        assert ours.encode([text], special_tokens=True)[0] == expected
        assert again.encode([text], special_tokens=True)[0] == expected
    assert theirs.mask_token_id == ours.mask_id
    assert len(theirs) == ours.vocab_size


def test_we_read_what_transformers_saves(tmp_path):
    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text("\n".join(tokenizer().tokens))
    theirs = transformers.BertTokenizerFast(str(vocabulary), do_lower_case=True)
    theirs.save_pretrained(tmp_path / "saved")
    ours = WordPieceTokenizer.load(tmp_path / "saved")
    for text in TEXTS:
        assert ours.encode([text], special_tokens=True)[0] == theirs(text)["input_ids"]


NORMALIZATIONS = [
    {"do_lower_case": False},
    {"do_lower_case": False, "strip_accents": True},
    {"strip_accents": False},
    {"tokenize_chinese_chars": False},
]


@pytest.mark.parametrize("source", ["vocab.txt", "tokenizer.json"])
@pytest.mark.parametrize("settings", NORMALIZATIONS, ids=str)
def test_the_clean_up_of_a_folder_is_kept(tmp_path, settings, source):
    """Read from either file alone, and saved, for Transformers too."""
    letters = [*"AaÄäÉée語", *(f"##{letter}" for letter in "aäée語")]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "\u2028", "\x85", *letters]
    (tmp_path / "vocab.txt").write_text("".join(f"{token}\n" for token in vocabulary))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    if source == "tokenizer.json":
        theirs.backend_tokenizer.save(str(tmp_path / source))
        (tmp_path / "tokenizer_config.json").unlink()
    ours = WordPieceTokenizer.load(tmp_path)
    assert ours.vocab_size == len(vocabulary)
    ours.save(tmp_path)
    saved = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in ("Ae", "Äé ée", "語語e"):
        expected = theirs(text)["input_ids"]
        assert ours.encode([text], special_tokens=True)[0] == expected
        assert saved(text)["input_ids"] == expected


def test_padding_and_truncation_of_a_file_are_not_ours(tmp_path):
    tok = tokenizer()
    tok.save(tmp_path)
    tok.backend.enable_truncation(5)
    tok.backend.enable_padding(length=9)
    (tmp_path / "tokenizer.json").write_text(tok.backend.to_str())
    again = WordPieceTokenizer.load(tmp_path)
    assert again.encode(["the dog"]) == tokenizer().encode(["the dog"])
    assert len(again.encode([SENTENCES[1]])[0]) > 5


def test_encoded_corpus_has_every_token_in_its_place():
    tok = tokenizer()
    documents = [["the dog.", "\u200b", "a fox."], ["\u200b"], ["it is used."]]
    corpus = encode_corpus(documents, tok)
    sentences = tok.encode(["the dog.", "a fox.", "it is used."])
    assert corpus.tokens.tolist() == [token for tokens in sentences for token in tokens]
    assert np.diff(corpus.sentence_starts).tolist() == [len(s) for s in sentences]
    assert corpus.document_starts.tolist() == [0, 2, 3]
    assert (corpus.num_documents, corpus.num_sentences) == (2, 3)


def test_bad_folders(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no tokenizer\.json and no vocab\.txt"):
        WordPieceTokenizer.load(tmp_path)
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\na\n")
    with pytest.raises(ValueError, match=r"vocab\.txt: the vocabulary has no \[MASK\]"):
        WordPieceTokenizer.load(tmp_path)
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\na\n")
    with pytest.raises(ValueError, match=r"vocab\.txt holds 'a' twice"):
        WordPieceTokenizer.load(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": "yes"}')
    with pytest.raises(ValueError, match=r"do_lower_case of tokenizer_config\.json is 'yes'"):
        WordPieceTokenizer.load(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    (tmp_path / "vocab.txt").write_bytes(b"[PAD]\n\xff\n")
    with pytest.raises(ValueError, match=r"vocab\.txt is not UTF-8 text: byte 6"):
        WordPieceTokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer\.json is no tokenizer"):
        WordPieceTokenizer.load(tmp_path)
    content = json.loads(tokenizer().files()["tokenizer.json"])
    content["model"] = {"type": "BPE", "vocab": {"a": 0}, "merges": []}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content | {"added_tokens": []}))
    with pytest.raises(ValueError, match="is a BPE tokenizer; expected WordPiece"):
        WordPieceTokenizer.load(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"tokenizer_config\.json is no JSON object"):
        WordPieceTokenizer.load(tmp_path)


def test_too_small_a_vocabulary():
    with pytest.raises(ValueError, match="vocab_size is 5"):
        WordPieceTokenizer.learn(SENTENCES, 5)
