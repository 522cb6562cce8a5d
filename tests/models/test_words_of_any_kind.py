"""Messages and pictures of the word vectors where a word or a text is out of the ordinary."""

import math
import warnings

import numpy as np
import pytest

import ptmkernels as ptm
from ptmkernels.models import Word2Vec
from ptmkernels.models.shallow.vectors import WordVectors


@pytest.mark.parametrize("word", ["$$", "$5-$10", "$", "a_b^c", "x$y_z$", r"\frac", "{", "日本語"])
def test_words_are_drawn_as_they_are(tmp_path, word):
    vectors = WordVectors([word, "price", "more"], np.eye(3, dtype=np.float32))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")
        vectors.plot(tmp_path / "map.png")
    assert (tmp_path / "map.png").stat().st_size > 1000


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
