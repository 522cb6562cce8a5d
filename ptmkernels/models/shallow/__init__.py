"""Shallow embeddings: word2vec, fastText, GloVe."""

from ptmkernels.models.shallow.bpe import BPE
from ptmkernels.models.shallow.char_cnn import CharCNNLanguageModel
from ptmkernels.models.shallow.context2vec import Context2Vec
from ptmkernels.models.shallow.fasttext import FastText
from ptmkernels.models.shallow.fasttext_classifier import FastTextClassifier
from ptmkernels.models.shallow.glove import GloVe
from ptmkernels.models.shallow.nnlm import NNLM
from ptmkernels.models.shallow.skip_thoughts import SkipThoughts
from ptmkernels.models.shallow.vectors import WordVectors
from ptmkernels.models.shallow.word2vec import Word2Vec

__all__ = [
    "BPE",
    "NNLM",
    "CharCNNLanguageModel",
    "Context2Vec",
    "FastText",
    "FastTextClassifier",
    "GloVe",
    "SkipThoughts",
    "Word2Vec",
    "WordVectors",
]
