"""A text as words."""

from __future__ import annotations

import re

WORD = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")
"""A run of letters and digits, with apostrophes inside; or any other sign by itself."""


def tokens_of(text: str, split: str = "words") -> list[str]:
    """The tokens of a text: by `WORD`, or what stands between spaces.

    Example:
        >>> tokens_of("Isn't it 50 %?")
        ["Isn't", 'it', '50', '%', '?']
    """
    return text.split() if split == "spaces" else WORD.findall(text)
