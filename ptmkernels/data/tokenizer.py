"""WordPiece: learnt from a corpus, read from a folder, saved so that Transformers reads it too."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from ptmkernels.data.added_tokens import add_tokens, as_entries
from ptmkernels.data.wordpiece import CONTINUATION, learn_pieces
from ptmkernels.files import BYTE_ORDER_MARK, atomic_files, refuse_lfs_pointer, settle

__all__ = ["WordPieceTokenizer"]

SPECIAL_TOKENS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}

# Entries of tokenizer_config.json and the options of the `tokenizers` library that they stand for.
NORMALIZATION = {
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "handle_chinese_chars",
}

FAST, VOCABULARY, CONFIG = "tokenizer.json", "vocab.txt", "tokenizer_config.json"


@dataclass(frozen=True, eq=False)
class WordPieceTokenizer:
    """Text to BERT's word pieces and back.

    Args:
        backend: the pipeline of the `tokenizers` library.
        max_length: tokens that a model takes at most, None = not known; saved for users of the folder.
    """

    backend: Tokenizer
    max_length: int | None = None

    def __post_init__(self) -> None:
        for token in SPECIAL_TOKENS.values():
            if self.backend.token_to_id(token) is None:
                raise ValueError(f"the vocabulary has no {token}")

    @classmethod
    def learn(
        cls,
        sentences: Iterable[str],
        vocab_size: int,
        *,
        lowercase: bool = True,
        min_frequency: int = 2,
        max_length: int | None = None,
    ) -> WordPieceTokenizer:
        """A vocabulary from text, special tokens first.

        Args:
            sentences: the text.
            vocab_size: pieces at most; a small corpus may give fewer.
            lowercase: drop case and accents.
            min_frequency: how often a pair of pieces has to occur to become one.
            max_length: see the class.

        Raises:
            ValueError: `vocab_size` leaves no room beside the special tokens.
        """
        if vocab_size <= len(SPECIAL_TOKENS):
            raise ValueError(
                f"vocab_size is {vocab_size}; expected more than the {len(SPECIAL_TOKENS)} special tokens"
            )
        normalizer = _normalizer({"do_lower_case": lowercase})
        splitter = pre_tokenizers.BertPreTokenizer()
        words: Counter[str] = Counter()
        for sentence in sentences:
            text = normalizer.normalize_str(sentence)
            words.update(word for word, _ in splitter.pre_tokenize_str(text))
        pieces = learn_pieces(words, vocab_size - len(SPECIAL_TOKENS), min_frequency)
        tokens = [*SPECIAL_TOKENS.values(), *pieces]
        return cls._of_tokens(tokens, normalizer, max_length)

    @classmethod
    def load(cls, folder: str | Path) -> WordPieceTokenizer:
        """The tokenizer in a folder: tokenizer.json, or vocab.txt; and the tokens that were added to it.

        Raises:
            OSError: the folder has neither, or a file cannot be read.
            ValueError: a file is damaged; names it.
        """
        folder = Path(folder)
        settle(folder)
        settings = _read_config(folder / CONFIG)
        length = settings.get("model_max_length")
        length = length if isinstance(length, int) and length < 10**9 else None
        if (folder / FAST).is_file():
            made = cls._load_fast(folder / FAST, length)
        elif (folder / VOCABULARY).is_file():
            made = cls._load_vocabulary(folder / VOCABULARY, _normalizer(settings), length)
        else:
            raise FileNotFoundError(f"{folder} has no {FAST} and no {VOCABULARY}")
        add_tokens(made.backend, folder, settings)
        return made

    @classmethod
    def _load_fast(cls, path: Path, length: int | None) -> WordPieceTokenizer:
        text = _read_text(path)
        try:
            backend = Tokenizer.from_str(text)
        except Exception as error:  # the library raises Exception itself
            raise ValueError(f"{path} is no tokenizer: {error}") from None
        if not isinstance(backend.model, models.WordPiece):
            kind = type(backend.model).__name__
            raise ValueError(f"{path} is a {kind} tokenizer; expected WordPiece")
        backend.no_padding()
        backend.no_truncation()
        return cls._checked(path, backend, length)

    @classmethod
    def _load_vocabulary(
        cls, path: Path, normalizer: normalizers.BertNormalizer, length: int | None
    ):
        # Not splitlines: a vocabulary may hold line separators other than the end of a line.
        tokens = _read_text(path).removesuffix("\n").split("\n")
        if len(set(tokens)) != len(tokens):
            repeated = next(t for i, t in enumerate(tokens) if t in tokens[:i])
            raise ValueError(f"{path} holds {repeated!r} twice")
        try:
            return cls._of_tokens(tokens, normalizer, length)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    @classmethod
    def _checked(cls, path: Path, *fields) -> WordPieceTokenizer:
        try:
            return cls(*fields)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    @classmethod
    def _of_tokens(
        cls, tokens: Sequence[str], normalizer: normalizers.BertNormalizer, length: int | None
    ) -> WordPieceTokenizer:
        vocabulary = {token: number for number, token in enumerate(tokens)}
        for token in SPECIAL_TOKENS.values():
            if token not in vocabulary:
                raise ValueError(f"the vocabulary has no {token}")
        unknown = SPECIAL_TOKENS["unk_token"]
        backend = Tokenizer(
            models.WordPiece(vocabulary, unk_token=unknown, max_input_chars_per_word=100)
        )
        backend.normalizer = normalizer
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        backend.add_special_tokens(list(SPECIAL_TOKENS.values()))
        backend.post_processor = processors.BertProcessing(
            ("[SEP]", vocabulary["[SEP]"]), ("[CLS]", vocabulary["[CLS]"])
        )
        backend.decoder = decoders.WordPiece(prefix=CONTINUATION)
        return cls(backend, length)

    def files(self) -> dict[str, str]:
        """Contents of tokenizer.json, vocab.txt and tokenizer_config.json, by name.

        Tokens that were added after the vocabulary stand in the first and the last only.
        """
        settings = {
            "tokenizer_class": "BertTokenizer",
            **self._normalization(),
            **SPECIAL_TOKENS,
            "added_tokens_decoder": as_entries(self.backend),
        }
        if self.max_length is not None:
            settings["model_max_length"] = self.max_length
        return {
            FAST: self.backend.to_str(pretty=True),
            VOCABULARY: "".join(f"{token}\n" for token in self._vocabulary()),
            CONFIG: json.dumps(settings, indent=2) + "\n",
        }

    def _normalization(self) -> dict[str, bool | None]:
        """The entries of tokenizer_config.json, which Transformers believes before the pipeline."""
        used = self.backend.normalizer
        if not isinstance(used, normalizers.BertNormalizer):
            return {}
        return {name: getattr(used, ours) for name, ours in NORMALIZATION.items()}

    def save(self, folder: str | Path) -> None:
        """Write :meth:`files` into a folder; Transformers' AutoTokenizer reads them.

        Args:
            folder: is made where it does not exist.
        """
        with atomic_files(folder) as at:
            for name, text in self.files().items():
                at(name).write_text(text, encoding="utf-8")

    def _vocabulary(self) -> list[str]:
        """The tokens before the added ones; all where those do not come last."""
        pieces = self.backend.get_vocab(with_added_tokens=False)
        first = self.tokens[: len(pieces)]
        return first if set(first) == set(pieces) else self.tokens

    @cached_property
    def tokens(self) -> list[str]:
        """Every piece, by its id."""
        vocabulary = self.backend.get_vocab()
        return sorted(vocabulary, key=vocabulary.__getitem__)

    @cached_property
    def continues_word(self) -> np.ndarray:
        """(V,) booleans: the piece goes on a word that another began."""
        return np.array([token.startswith(CONTINUATION) for token in self.tokens])

    @property
    def vocab_size(self) -> int:
        """V."""
        return self.backend.get_vocab_size()

    @property
    def pad_id(self) -> int:
        return self.backend.token_to_id("[PAD]")

    @property
    def unk_id(self) -> int:
        return self.backend.token_to_id("[UNK]")

    @property
    def cls_id(self) -> int:
        return self.backend.token_to_id("[CLS]")

    @property
    def sep_id(self) -> int:
        return self.backend.token_to_id("[SEP]")

    @property
    def mask_id(self) -> int:
        return self.backend.token_to_id("[MASK]")

    def encode(self, sentences: Sequence[str], *, special_tokens: bool = False) -> list[list[int]]:
        """The ids of each sentence.

        Args:
            sentences: the texts.
            special_tokens: put [CLS] before and [SEP] after.
        """
        encodings = self.backend.encode_batch_fast(
            list(sentences), add_special_tokens=special_tokens
        )
        return [encoding.ids for encoding in encodings]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of the ids, special tokens included."""
        return self.backend.decode(list(ids), skip_special_tokens=False)


def _normalizer(settings: Mapping[str, Any]) -> normalizers.BertNormalizer:
    """BERT's clean-up as the entries of a tokenizer_config.json say."""
    given = {name: settings[name] for name in NORMALIZATION if settings.get(name) is not None}
    for name, value in given.items():
        if not isinstance(value, bool):
            raise ValueError(f"{name} of {CONFIG} is {value!r}; expected true or false")
    return normalizers.BertNormalizer(**{NORMALIZATION[n]: value for n, value in given.items()})


def _read_text(path: Path) -> str:
    refuse_lfs_pointer(path)
    try:
        return path.read_text(encoding="utf-8").removeprefix(BYTE_ORDER_MARK)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: byte {error.start}") from None


def _read_config(path: Path) -> dict:
    if not path.is_file():
        return {}
    try:
        settings = json.loads(_read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is no JSON: {error}") from None
    if not isinstance(settings, dict):
        raise ValueError(f"{path} is no JSON object")
    return settings
