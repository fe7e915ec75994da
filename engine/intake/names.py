"""Names that come from files: refused where they would mislead a path or an eye, cleaned where they are shown.

No name is ever used as a path. What could be one on some system is refused all the same: it was made to harm someone.
"""

import re
import unicodedata
from collections.abc import Iterable

from distillery.errors import HostileFile
from distillery.zip_directory import LONGEST_NAME_BYTES

_MOST_PARTS = 32
_LONGEST_PART_BYTES = 255
_MOST_SHOWN = 200
_SLASHES = frozenset("\u2044\u2215\u2216\u2571\u2572\u27cb\u27cd\u29f5\u29f8\u29f9\ufe68\uff0f\uff3c")
"""Look like a slash or a backslash; some systems turn them into one."""
_JOINERS = "\u200c\u200d"
"""Persian words and emoji need these two of the invisible characters."""
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_ENCODED = re.compile(r"%(25)*(2e|2f|5c|00|c0%a[ef])", re.IGNORECASE)
_OVERLONG = re.compile(rb"[\xc0\xc1][\x80-\xbf]|\xe0[\x80-\x9f][\x80-\xbf]|\xf0[\x80-\x8f][\x80-\xbf]{2}")
_DRIVE = re.compile(r"[A-Za-z]:")
_SYSTEM_FILES = frozenset({"thumbs.db", "desktop.ini", "ehthumbs.db"})
_MEND = "Give files and folders plain names and write the archive again."


def parts(name: str, *, raw: bytes | None = None) -> tuple[str, ...]:
    """The folders and the file that a member's name consists of; a beginning `./` and an ending slash are dropped.

    `raw` is the name as bytes, where it was decoded from something else than UTF-8.

    Raises:
        HostileFile: on some system it would lead outside, or it is not what it looks like.
    """
    reason = _of_characters(name) or (_OVERLONG.search(raw) and "is overlong UTF-8" if raw else None)
    pieces = tuple(name.removeprefix("./").removesuffix("/").split("/"))
    reason = reason or _of_path(name, pieces)
    if reason is not None:
        raise HostileFile(f"The name '{shown(name)}' {reason}.", hint=_MEND)
    return pieces


def _of_characters(name: str) -> str | None:
    """What is wrong with the characters of a name."""
    if name.isascii() and name.isprintable():
        return "holds a backslash" if "\\" in name else None
    for character in name:
        category = unicodedata.category(character)
        if category == "Cc":
            return "holds a control character"
        if character in _BIDI:
            return "holds a character that turns the direction of writing"
        if category in ("Cf", "Cs", "Zl", "Zp") and character not in _JOINERS:
            return "holds an invisible character"
        if character in _SLASHES:
            return "holds a look-alike of a slash"
    folded = unicodedata.normalize("NFKC", name)
    if "\\" in name or "\\" in folded:
        return "holds a backslash"
    return "holds a look-alike of a slash" if folded.count("/") != name.count("/") else None


def _of_path(name: str, pieces: tuple[str, ...]) -> str | None:
    """What is wrong with a name as a path."""
    if name.startswith("/"):
        return "begins at the root"
    if _DRIVE.match(name) or pieces[0] == "~":
        return "begins at a drive or a home"
    if len(name.encode(errors="replace")) > LONGEST_NAME_BYTES or len(pieces) > _MOST_PARTS:
        return "is too long or too deep"
    if _ENCODED.search(name):
        return "holds an encoded dot, slash or NUL"
    for piece in pieces:
        folded = piece if piece.isascii() else unicodedata.normalize("NFKC", piece)
        if not piece:
            return "holds an empty part"
        if not folded.strip(". ") or not piece.strip(". "):
            return "leads out of its folder"
        if piece[-1] in ". " or folded[-1:] in (".", " "):
            return "holds a part that ends in a dot or a space, which some systems drop"
        if len(piece.encode()) > _LONGEST_PART_BYTES:
            return "holds a part that is too long"
    return None


class Register:
    """The names of one source's files so far, to find two that some system takes for one."""

    def __init__(self) -> None:
        self._files: set[str] = set()
        self._folders: set[str] = set()

    def add(self, pieces: tuple[str, ...]) -> None:
        """Note a file.

        Raises:
            HostileFile: another has the same name but for case or the spelling of accents, or one is the other's
                folder.
        """
        key = _key("/".join(pieces))
        if key in self._files:
            raise HostileFile(f"Two members are called '{shown('/'.join(pieces))}', but for case.", hint=_MEND)
        self._files.add(key)
        self._folders.add(key.rpartition("/")[0])

    def check(self) -> None:
        """Refuse a file whose name is that of a folder.

        Raises:
            HostileFile: there is one.
        """
        above = {"/".join(pieces[:depth]) for pieces in map(_split, self._folders) for depth in range(1, len(pieces))}
        both = self._files & (self._folders | above)
        if both:
            raise HostileFile(f"'{shown(min(both))}' is a file and a folder.", hint=_MEND)


def _split(key: str) -> list[str]:
    return key.split("/")


def _key(name: str) -> str:
    return (
        name.casefold()
        if name.isascii()
        else unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    )


def is_clutter(pieces: tuple[str, ...]) -> bool:
    """Whether a member is what systems leave behind: `__MACOSX/`, `.DS_Store`, `Thumbs.db`, hidden files."""
    return (
        pieces[0] == "__MACOSX" or pieces[-1].lower() in _SYSTEM_FILES or any(piece.startswith(".") for piece in pieces)
    )


def shown(text: str, *, most: int = _MOST_SHOWN) -> str:
    """`text` without control, bidi and other invisible characters, cut to `most` characters."""
    if len(text) <= most and text.isascii() and text.isprintable():
        return text
    cut = text[: most + 1]
    kept = "".join(character for character in cut if _is_visible(character))
    return kept if len(text) <= most else f"{kept[: most - 1]}…"


def shown_text(text: str, *, most: int) -> str:
    """As `shown`, but line ends and tabs become spaces."""
    return shown(re.sub(r"\s", " ", text[: most + 1]) + text[most + 1 : most + 2], most=most)


def quoted(names: Iterable[str], *, most: int = 5) -> str:
    """The first names of many, for a sentence: 'a', 'b' and 3 more."""
    listed = list(names)
    more = f" and {len(listed) - most:,} more" if len(listed) > most else ""
    return ", ".join(f"'{shown(name, most=80)}'" for name in listed[:most]) + more if listed else "nothing"


def _is_visible(character: str) -> bool:
    if " " <= character < "\x7f" or character in _JOINERS:
        return True
    return unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp")
