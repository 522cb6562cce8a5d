"""From text to batches: reading, tokenising, cutting into examples, masking."""

from ptmkernels.data.corpus import DEFAULT_CORPUS, Corpus, choose_held_out
from ptmkernels.data.dataset import Cursor, MaskedDataset, collate, load_batches
from ptmkernels.data.encoding import EncodedCorpus, encode_corpus
from ptmkernels.data.examples import Example, ExampleSource
from ptmkernels.data.masking import (
    IGNORED,
    Masking,
    budget,
    choose_units,
    corrupt,
    token_units,
    whole_word_units,
)
from ptmkernels.data.packing import FullSentences
from ptmkernels.data.permutation import Permutation
from ptmkernels.data.python_topics import python_topics
from ptmkernels.data.segments import CausalSegments, PermutedSegments
from ptmkernels.data.sentence_pairs import SentencePairs, truncate_pairs
from ptmkernels.data.sentences import split_sentences
from ptmkernels.data.tokenizer import WordPieceTokenizer

__all__ = [
    "DEFAULT_CORPUS",
    "IGNORED",
    "CausalSegments",
    "Corpus",
    "Cursor",
    "EncodedCorpus",
    "Example",
    "ExampleSource",
    "FullSentences",
    "MaskedDataset",
    "Masking",
    "Permutation",
    "PermutedSegments",
    "SentencePairs",
    "WordPieceTokenizer",
    "budget",
    "choose_held_out",
    "choose_units",
    "collate",
    "corrupt",
    "encode_corpus",
    "load_batches",
    "python_topics",
    "split_sentences",
    "token_units",
    "truncate_pairs",
    "whole_word_units",
]
