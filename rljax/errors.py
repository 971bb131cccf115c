"""Mistakes in how the library was called, each told in one sentence that says what to do."""

import difflib
from collections.abc import Iterable


class UsageError(ValueError):
    """A mistake of the caller's. Its message is one sentence; the command line prints it and exits with 2."""


def suggest(word: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown `word`: the nearest known ones, or all of them."""
    known = list(known)
    folded = {name.casefold(): name for name in known}
    near = [folded[match] for match in difflib.get_close_matches(str(word).casefold(), folded, n=3, cutoff=0.5)]
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"known are {', '.join(known)}."
