"""Reading text: both layouts, the embedded corpus, and everything that a file can have wrong."""

import bz2
import gzip

import pytest

from ptmkernels.data import Corpus, choose_held_out, encode_corpus, python_topics, split_sentences
from ptmkernels.data.corpus import guess_layout
from tests.data.corpora import tokenizer


def write(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    "text, sentences",
    [
        ("", []),
        ("  \n ", []),
        ("One.", ["One."]),
        ("One. Two!  Three? four", ["One.", "Two!", "Three? four"]),
        ('He said "No." Then\nhe left.', ['He said "No."', "Then he left."]),
        ("See e.g. Smith et al. 2019, i.e. Fig. 3. Next.", 2),
        ("Dr. A. Smith came. (It rained.) I. Newton did not.", 3),
        ("Version 3.11 is out. 42 is a number.", ["Version 3.11 is out.", "42 is a number."]),
    ],
)
def test_sentences(text, sentences):
    found = split_sentences(text)
    assert len(found) == sentences if isinstance(sentences, int) else found == sentences
    assert " ".join(found).split() == text.split()


def test_one_sentence_a_line(tmp_path):
    path = write(tmp_path / "a.txt", "\n\nOne  two.\nThree.\n \nFour.\r\n\n\n\nFive.")
    documents = list(Corpus(path, "sentences"))
    assert documents == [["One two.", "Three."], ["Four."], ["Five."]]


def test_compressed_texts(tmp_path):
    write(tmp_path / "a.txt", "One.")
    write(tmp_path / "b.txt.gz", gzip.compress(b"\xef\xbb\xbfTwo."))
    write(tmp_path / "c.txt.bz2", bz2.compress(b"Three."))
    assert list(Corpus(tmp_path, "sentences")) == [["One."], ["Two."], ["Three."]]
    write(tmp_path / "b.txt.gz", b"none")
    with pytest.raises(ValueError, match=r"b\.txt\.gz is no whole \.gz file"):
        list(Corpus(tmp_path, "sentences"))


def test_free_text(tmp_path):
    text = "A first\nsentence. A\nsecond.\n\nNew paragraph.\n\n\nNew document.\n\fAnother one.\n"
    documents = list(Corpus(write(tmp_path / "a.txt", text), "text"))
    assert documents == [
        ["A first sentence.", "A second.", "New paragraph."],
        ["New document."],
        ["Another one."],
    ]


def test_a_book_without_a_break_gives_documents(tmp_path):
    path = write(tmp_path / "a.txt", "Some words. And more.\n\n" * 300)
    assert [len(document) for document in Corpus(path, "text")] == [256, 256, 88]


def test_layout_is_guessed(tmp_path):
    lines = write(tmp_path / "lines.txt", "One two three.\nFour five?\n\nSix.\n")
    wrapped = write(tmp_path / "wrapped.txt", "One two three\nfour. Five\nsix seven\neight.\n")
    paragraphs = write(tmp_path / "paragraphs.txt", "One. Two. Three.\n\nFour. Five.\n")
    assert [guess_layout(p) for p in (lines, wrapped, paragraphs)] == ["sentences", "text", "text"]
    assert list(Corpus(lines)) == [["One two three.", "Four five?"], ["Six."]]


def test_a_folder_and_several_sources(tmp_path):
    for name in ("b.txt", "a.txt", "c.md"):
        write(tmp_path / name, f"In {name}.\n")
    extra = write(tmp_path / "c.md", "Extra.\n")
    assert list(Corpus([tmp_path, extra])) == [["In a.txt."], ["In b.txt."], ["Extra."]]


def test_byte_order_mark_and_other_alphabets(tmp_path):
    path = write(tmp_path / "a.txt", "\ufeffÜber ß.\n日本語。\n".encode())
    assert list(Corpus(path, "sentences")) == [["Über ß.", "日本語。"]]


def test_an_undecodable_file_names_file_and_byte(tmp_path):
    path = write(tmp_path / "bad.txt", b"Fine.\nAlso fine.\nNot \xff fine.\n")
    with pytest.raises(ValueError, match=r"bad\.txt is not UTF-8 text: byte 21 is 0xff"):
        list(Corpus(path, "sentences"))


@pytest.mark.parametrize("content", [b"", b"\n \n\n", b"\xef\xbb\xbf\n"])
def test_an_empty_corpus(tmp_path, content):
    with pytest.raises(ValueError, match=r"empty\.txt holds no text"):
        list(Corpus(write(tmp_path / "empty.txt", content)))


def test_what_cannot_be_read(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"missing\.txt"):
        list(Corpus(tmp_path / "missing.txt"))
    with pytest.raises(ValueError, match=r"has no \*\.txt"):
        list(Corpus(tmp_path))
    with pytest.raises(ValueError, match="layout is 'lines'; expected one of"):
        Corpus(tmp_path, "lines")


def test_nothing_but_characters_that_are_dropped(tmp_path):
    path = write(tmp_path / "a.txt", "\u200b\u200b\n\x07\x08\n")
    with pytest.raises(ValueError, match="holds no token"):
        encode_corpus(Corpus(path, "sentences"), tokenizer())


def test_the_manual_of_python():
    documents = list(python_topics())
    sentences = [sentence for document in documents for sentence in document]
    assert len(documents) > 100
    assert sum(map(len, sentences)) > 200_000
    assert "The if statement is used for conditional execution:" in sentences
    text = "\n".join(sentences)
    assert "::=" not in text
    assert ">>>" not in text
    # Topics quote one another; long sentences in two documents would be known from training.
    where = {}
    for number, document in enumerate(documents):
        for sentence in document:
            if len(sentence) > 120:
                where.setdefault(sentence, set()).add(number)
    assert max(map(len, where.values())) == 1


def test_topics_without_program_text():
    topics = {
        "b": 'The "x" statement\n*****************\n\nIt is *quite* a "nice" one, e.g.:\n\n   x = 1\n\n'
        "   y = 2\n\nThis goes on in **strong** words-\nand more.\n\n   x_stmt ::= NAME\n\n"
        "* A bullet with some words.\n\nNote:\n\n  The note is English too.\n",
        "a": "First\n=====\n\nOnly this one paragraph here.\n\nSecond\n------\n\nAnother one has words.\n",
        "c": "Quote\n=====\n\nOnly this one paragraph here.\n",
    }
    assert list(python_topics(topics)) == [
        ["Only this one paragraph here."],
        ["Another one has words."],
        [
            "It is quite a nice one, e.g.:",
            "This goes on in strong words-and more.",
            "A bullet with some words.",
            "The note is English too.",
        ],
    ]


def test_held_out_documents():
    chosen = choose_held_out(100, 0.05, seed=0)
    assert chosen.sum() == 5
    assert (chosen == choose_held_out(100, 0.05, seed=0)).all()
    assert (chosen != choose_held_out(100, 0.05, seed=1)).any()
    assert not choose_held_out(100, 0.0, seed=0).any()
    assert choose_held_out(3, 0.05, seed=0).sum() == 1
    assert choose_held_out(4, 0.9, seed=0, least=2).sum() == 2
    with pytest.raises(ValueError, match="too few documents to hold some out, 1"):
        choose_held_out(1, 0.05, seed=0)
    with pytest.raises(ValueError, match=r"share is 1\.0"):
        choose_held_out(10, 1.0, seed=0)


SCRIPTS = {
    "english": "This is line {}.",
    "russian": "Это строка {}.",
    "chinese": "第{}句话在这里。",
    "quoted": "他说：“第{}句。”",
    "japanese": "これは文{}です。",
    "hindi": "यह वाक्य {} है।",
    "arabic": "هل هذه جملة {}؟",
    "urdu": "یہ جملہ {} ہے۔",
    "amharic": "ይህ ዓረፍተ ነገር {} ነው።",
    "armenian": "Սա {} նախադասություն է։",
    "thai": "ประโยคที่ {}",
    "plain": "this is line number {}",
}


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_sentence_a_line_in_any_script(tmp_path, script, mark):
    documents = ["\n".join(SCRIPTS[script].format(i) for i in range(4)) for _ in range(5)]
    path = write(tmp_path / "c.txt", mark + "\n\n".join(documents))
    corpus = Corpus(path)
    expected = [SCRIPTS[script].format(i) for i in range(4)]
    assert list(corpus) == [expected] * 5
    assert corpus.guesses() == [
        f"{path} read in the layout 'sentences': a sentence a line, a blank line between documents"
    ]


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("第一句。第二句！第三句？最后", ["第一句。", "第二句！", "第三句？", "最后"]),
        ("「はい。」と言った。次の文です。", ["「はい。」と言った。", "次の文です。"]),
        ("यह एक है। वह दो है। तीन", ["यह एक है।", "वह दो है।", "तीन"]),
        ("هل هذا؟ نعم هذا. آخر", ["هل هذا؟", "نعم هذا.", "آخر"]),
        ("Это раз. Это два. и так", ["Это раз.", "Это два. и так"]),
        ("¿Qué tal? ¡Hola! Bien.", ["¿Qué tal?", "¡Hola!", "Bien."]),
        ("圆周率是3.14。下一句", ["圆周率是3.14。", "下一句"]),
    ],
)
def test_sentences_of_other_scripts(text, sentences):
    assert split_sentences(text) == sentences


def test_free_text_of_other_scripts_is_free_text(tmp_path):
    for sentence in ("第{}句话在这里。", "यह वाक्य {} है। ", "هل هذه جملة {}؟ "):
        paragraph = "".join(sentence.format(i) for i in range(4))
        path = write(tmp_path / "free.txt", f"{paragraph}\n\n{paragraph}\n\n\n{paragraph}\n")
        assert guess_layout(path) == "text"
        assert [len(document) for document in Corpus(path)] == [8, 4]


def test_lines_that_were_broken_at_a_width(tmp_path):
    words = ["some", "words", "without", "any", "mark", "go", "on", "over", "many", "lines"]
    lines = [" ".join((words * 3)[i : i + 12]) for i in range(6)] + ["and end"]
    path = write(tmp_path / "wrapped.txt", "\n".join([*lines, "", *lines]))
    assert guess_layout(path) == "text"
    chinese = "这是一个很长的句子它没有任何标点所以只能按照固定的宽度断开成为许多行"
    path = write(tmp_path / "zh.txt", f"{chinese}\n{chinese}\n{chinese[:8]}\n\n\n结束")
    assert list(Corpus(path)) == [[chinese * 2 + chinese[:8]], ["结束"]]
