"""Changes to a spec: a merge patch (RFC 7396) that knows of choices."""

from typing import Any

_CHOICES = ("strategy", "preset", "objective", "name", "kind", "architecture", "members")
"""Fields that say of which kind an object is: with another kind, what was said of the one before means nothing."""


def merged(before: Any, patch: Any) -> Any:
    """`before` with the changes of `patch`: null takes a field away, so that it has its default again, an object
    is merged, all else takes its place.

    An object for which the patch chooses another kind (another method, optimizer, teacher) is replaced as a whole.
    """
    if not isinstance(patch, dict):
        return patch
    whole = isinstance(before, dict) and not _chooses_otherwise(before, patch)
    result = dict(before) if whole else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value)
    return result


def _chooses_otherwise(before: dict[str, Any], patch: dict[str, Any]) -> bool:
    # A spec as a whole has a name too, which chooses nothing.
    return "student" not in before and any(name in patch and patch[name] != before.get(name) for name in _CHOICES)
