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
from ptmkernels.ops.word_vectors.checks import check_whole
from ptmkernels.undecodable import check_errors


def load_any(
    path: str | os.PathLike, limit: int | None = None, errors: str = "strict"
) -> WordVectors | FastText | Word2Vec | GloVe:
    """A word2vec text or binary file, a fastText .bin, or a safetensors file that a model saved.

    Args:
        path: of the file.
        limit: of the words, the first ones; None = all. Of a model then these vectors are returned.
        errors: as :meth:`WordVectors.load_word2vec` has it. The words of models are read whatever it is.

    Raises:
        ValueError: it is none of them, or an argument does not fit.
    """
    check_errors(errors)
    if limit is not None:
        check_whole("limit", limit, 1)
    found = _load_model(path)
    if found is None:
        return WordVectors.load_word2vec(path, limit=limit, errors=errors)
    return found if limit is None else found.wv.first(limit)


def load_vectors(
    path: str | os.PathLike, limit: int | None = None, errors: str = "strict"
) -> WordVectors:
    """The vectors by word of any file that :func:`load_any` reads; arguments as there."""
    found = load_any(path, limit, errors)
    return found if isinstance(found, WordVectors) else found.wv


def _load_model(path: str | os.PathLike) -> FastText | Word2Vec | GloVe | None:
    """None where the file holds vectors alone."""
    if Path(path).suffix == ".safetensors":
        models = {model.__name__: model for model in (Word2Vec, FastText, GloVe)}
        name = model_of(path)
        if name not in models:
            raise ValueError(f"{path} holds {name!r}; expected one of {sorted(models)}")
        return models[name].load(path)
    return FastText.load_fasttext(path) if is_fasttext(path) else None
