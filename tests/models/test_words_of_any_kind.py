"""Messages and pictures of the word vectors where a word or a text is out of the ordinary."""

import math
import warnings

import numpy as np
import pytest
from matplotlib import rcParams

import ptmkernels as ptm
from ptmkernels.models import Word2Vec
from ptmkernels.models.shallow.fonts import fonts_for
from ptmkernels.models.shallow.vectors import WordVectors


@pytest.mark.parametrize("word", ["$$", "$5-$10", "$", "a_b^c", "x$y_z$", r"\frac", "{", "Ωß"])
def test_words_are_drawn_as_they_are(tmp_path, word):
    vectors = WordVectors([word, "price", "more"], np.eye(3, dtype=np.float32))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vectors.plot(tmp_path / "map.png")
    assert (tmp_path / "map.png").stat().st_size > 1000


@pytest.mark.parametrize("word", ["日本語", "हिन्दी", "ไทย", "한국어", "😀", "\ue123", "caf\udce9"])
def test_words_of_any_script_are_drawn(tmp_path, word):
    """In a font that has them; where there is none, one warning names the characters."""
    vectors = WordVectors([word, "price", "more"], np.eye(3, dtype=np.float32))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        vectors.plot(tmp_path / "map.png")
    assert (tmp_path / "map.png").stat().st_size > 1000
    assert len(caught) <= 1
    for warning in caught:
        assert str(warning.message).startswith("no installed font has")
        assert word[0] in str(warning.message)
        assert warning.filename == __file__


def test_fonts_are_found_by_their_characters():
    assert fonts_for(["word"]) == rcParams["font.family"]
    assert any(f.startswith("STIX") for f in fonts_for(["\ue000"]))  # matplotlib brings them
    with pytest.warns(UserWarning, match="no installed font has 1 characters.*\U0010fffd"):
        fonts_for(["a\U0010fffd"])


def test_a_loss_that_is_not_known_is_not_reported():
    """Sub-sampling drops nearly all words of this text, so that often no pair is drawn for the report."""
    losses = []
    model = Word2Vec(min_count=1, vector_size=8)
    model.fit(
        [["the", "cat", "sat", "on", "a", "mat"]] * 20, progress=lambda p: losses.append(p.loss)
    )
    assert not any(math.isnan(loss) for loss in losses)
    assert np.isfinite(model.wv.vectors).all()


def test_a_preset_that_needs_a_value_says_which():
    with pytest.raises(ValueError, match=r"nnlm-\S+ needs vocab_size.*create_model\('nnlm-"):
        ptm.create_model(next(name for name in ptm.list_models() if name.startswith("nnlm-")))
