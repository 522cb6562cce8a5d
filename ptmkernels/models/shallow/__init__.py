"""Shallow embeddings: word2vec, fastText, GloVe."""

from ptmkernels.models.shallow.fasttext import FastText
from ptmkernels.models.shallow.glove import GloVe
from ptmkernels.models.shallow.vectors import WordVectors
from ptmkernels.models.shallow.word2vec import Word2Vec

__all__ = ["FastText", "GloVe", "Word2Vec", "WordVectors"]
