"""Any file of word vectors."""

from __future__ import annotations

import os
from pathlib import Path

from ptmkernels.models.shallow.fasttext import FastText
from ptmkernels.models.shallow.fasttext_file import is_fasttext
from ptmkernels.models.shallow.glove import GloVe
from ptmkernels.models.shallow.state_file import model_of
from ptmkernels.models.shallow.vectors import WordVectors
from ptmkernels.models.shallow.word2vec import Word2Vec


def load_any(path: str | os.PathLike) -> WordVectors | FastText | Word2Vec | GloVe:
    """A word2vec text or binary file, a fastText .bin, or a safetensors file that a model saved.

    Raises:
        ValueError: it is none of them.
    """
    if Path(path).suffix == ".safetensors":
        models = {model.__name__: model for model in (Word2Vec, FastText, GloVe)}
        name = model_of(path)
        if name not in models:
            raise ValueError(f"{path} holds {name!r}; expected one of {sorted(models)}")
        return models[name].load(path)
    return FastText.load_fasttext(path) if is_fasttext(path) else WordVectors.load_word2vec(path)


def load_vectors(path: str | os.PathLike) -> WordVectors:
    """The vectors by word of any file that :func:`load_any` reads."""
    found = load_any(path)
    return found if isinstance(found, WordVectors) else found.wv
