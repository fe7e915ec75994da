"""Changes to a spec: a merge patch (RFC 7396) for which defaults do not count once another kind is chosen."""

from typing import Any

_CHOICES = ("strategy", "preset", "objective", "name", "kind", "architecture", "members")
"""Fields that say of which kind an object is: of another kind, it has other defaults."""


def merged(before: Any, patch: Any, *, sent: Any = None) -> Any:
    """`before` with the changes of `patch`: null takes a field away, so that it has its default again, an object
    is merged, all else takes its place.

    `sent` is `before` without the defaults that were filled in. Where the patch chooses another kind (another method,
    optimizer, teacher), it is merged into that.
    """
    if not isinstance(patch, dict):
        return patch
    base = sent if _chooses_otherwise(before, patch) else before
    result = dict(base) if isinstance(base, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value, sent=sent.get(name) if isinstance(sent, dict) else None)
    return result


def _chooses_otherwise(before: Any, patch: dict[str, Any]) -> bool:
    # A spec as a whole has a name too, which chooses nothing.
    chooses = isinstance(before, dict) and "student" not in before
    return chooses and any(name in patch and patch[name] != before.get(name) for name in _CHOICES)
