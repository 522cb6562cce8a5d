"""Tokens that were added to a tokenizer, from every file in which Transformers writes them.

They are found in a text before it is cut into pieces. `added_tokens_decoder` of tokenizer_config.json holds
them by id with all that is known of them; added_tokens.json, in older folders, ids by token; the names of the
special ones, which need not have an id yet, stand in special_tokens_map.json and tokenizer_config.json.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from ptmkernels.checkpoint import read_json

__all__ = ["add_tokens", "as_entries"]

IDS, SPECIAL = "added_tokens.json", "special_tokens_map.json"
DECODER = "added_tokens_decoder"
LISTS = ("additional_special_tokens", "extra_special_tokens")
OPTIONS = ("lstrip", "rstrip", "single_word", "normalized", "special")


def add_tokens(backend: Tokenizer, folder: Path, settings: Mapping[str, Any]) -> None:
    """Teaches a tokenizer the added tokens of its folder; those that it knows stay as they are.

    Args:
        settings: what tokenizer_config.json holds.

    Raises:
        ValueError: a file is damaged, or a token would get another id than it says; names file and token.
    """
    known = {token.content for token in backend.get_added_tokens_decoder().values()}
    special = dict(_special(folder, settings))
    for number, token in _with_ids(folder, settings, special):
        if token.content not in known:
            _add(backend, token)
        found = backend.token_to_id(token.content)
        if found != number:
            raise ValueError(
                f"{folder}: the added token {token.content!r} has the id {number}; expected {found}, by the "
                "vocabulary and the added tokens before it"
            )
        known.add(token.content)
    for content, token in special.items():
        if content not in known:
            _add(backend, token)


def as_entries(backend: Tokenizer) -> dict[str, dict[str, Any]]:
    """The added tokens as `added_tokens_decoder` has them."""
    return {
        str(number): {"content": token.content, **{n: getattr(token, n) for n in OPTIONS}}
        for number, token in sorted(backend.get_added_tokens_decoder().items())
    }


def _add(backend: Tokenizer, token: AddedToken) -> None:
    (backend.add_special_tokens if token.special else backend.add_tokens)([token])


def _with_ids(
    folder: Path, settings: Mapping[str, Any], special: Mapping[str, AddedToken]
) -> list[tuple[int, AddedToken]]:
    """Tokens with their ids, by rising ids."""
    found: dict[int, AddedToken] = {}
    if (folder / IDS).is_file():
        for content, number in read_json(folder / IDS).items():
            if not isinstance(number, int):
                raise ValueError(
                    f"{folder / IDS} gives {content!r} the id {number!r}; expected a number"
                )
            plain = AddedToken(content, normalized=True, special=False)
            found[number] = special.get(content, plain)
    where = f"{DECODER} of {folder}"
    for number, entry in _mapping(where, settings.get(DECODER)).items():
        if not str(number).isdecimal():
            raise ValueError(f"{where} has the id {number!r}; expected a number")
        found[int(number)] = _token(where, entry, special=False)
    return sorted(found.items())


def _special(folder: Path, settings: Mapping[str, Any]) -> Iterator[tuple[str, AddedToken]]:
    """The special tokens, by what they are written as."""
    given = read_json(folder / SPECIAL) if (folder / SPECIAL).is_file() else {}
    for where, source in ((folder / SPECIAL, given), ("tokenizer_config.json", settings)):
        for name, entry in source.items():
            if name in LISTS:
                entries = list(entry.values()) if isinstance(entry, Mapping) else entry or []
            else:
                entries = (
                    [entry] if name.endswith("_token") and isinstance(entry, str | Mapping) else []
                )
            for each in entries:
                token = _token(f"{name} of {where}", each, special=True)
                yield token.content, token


def _token(where: str, entry: Any, special: bool) -> AddedToken:
    """A token from its text, or from an object with its text and its options."""
    if isinstance(entry, str):
        entry = {"content": entry}
    content = _mapping(where, entry).get("content")
    if not isinstance(content, str) or not content:
        raise ValueError(f"{where} has a token {content!r}; expected a text")
    options = {n: bool(entry[n]) for n in OPTIONS if n in entry}
    options["special"] = options.get("special", special)
    return AddedToken(content, **{"normalized": not options["special"], **options})


def _mapping(where: str, value: Any) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ValueError(f"{where} is a {type(value).__name__}; expected an object")
    return value
