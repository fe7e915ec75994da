"""Prefixed identifiers that sort by creation time, such as `job_01jd8q5w…`."""

import secrets
import time
from typing import Literal

Prefix = Literal["job", "mdl", "bmk", "ckp", "whk", "msg", "upl", "dts", "pfl", "inf"]
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: no i, l, o, u to misread
_RANDOM_BITS = 80
_LENGTH = 26  # 48 bits of milliseconds and 80 random bits, five to a character

ID_PATTERN = r"^[a-z]{3}_[0-9a-hjkmnp-tv-z]{26}$"


def new_id(prefix: Prefix) -> str:
    """A new identifier: `prefix_` and 26 characters, sortable to the millisecond."""
    number = (time.time_ns() // 1_000_000) << _RANDOM_BITS | secrets.randbits(_RANDOM_BITS)
    return f"{prefix}_" + "".join(_ALPHABET[number >> 5 * place & 31] for place in reversed(range(_LENGTH)))
