"""`model_card.md`: the report in the form in which models are handed on, as Hugging Face's cards have it."""

import re
from collections.abc import Mapping
from importlib import resources
from typing import Any

import yaml

from distillery.errors import MissingDependency
from distillery.report import Report
from engine import figures
from engine.report_roles import built, captions, in_order, strategy
from engine.report_terms import term_weights

MOST_CLASSES = 50
"""Classes that are named; of more, the first."""
_LICENCES = (("student", "license"), ("data", "license.data"), ("teacher", "license.teacher"))
"""Whose licence, and under which label of the job it is stated."""
_FILTERS = ("percent", "points", "between", "size", "ratio")


def render(report: Report, *, has_script: bool) -> str:
    """The card. Names from the spec and the data are escaped: they stay text, on one line.

    `has_script` is whether `student.onnx` and `predict.py` were delivered too. Licences are those that the job's labels
    `license`, `license.data` and `license.teacher` state.

    Raises:
        MissingDependency: jinja2 is not installed.
    """
    try:
        import jinja2
    except ImportError as absent:
        raise MissingDependency(
            "The model card is made with Jinja2, which is not installed.", hint="Install it with: pip install jinja2"
        ) from absent
    cards = jinja2.Environment(
        autoescape=False,  # noqa: S701  # Markdown, whose escapes are those of `text`
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    cards.filters |= {name: getattr(figures, name) for name in _FILTERS} | {"text": text, "count": _count}
    template = resources.files("engine").joinpath("templates/model_card.md.j2").read_text(encoding="utf-8")
    return cards.from_string(template).render(_card(report, has_script=has_script))


def text(value: object) -> str:
    """`value` on one line, with all that Markdown or HTML could read as mark-up escaped."""
    line = " ".join(str(value).split())
    return re.sub(r"([\\`*_\[\]<>|#&~$!])", r"\\\1", line)


def _card(report: Report, *, has_script: bool) -> dict[str, Any]:
    quality = {each.role: each for each in report.quality}
    labels = report.spec.get("labels") or {}
    precise = "gpu" if any(each.device != "cpu" for each in _comparisons(report)) else "cpu"
    return {
        "report": report,
        "front": _front(labels, strategy=strategy(report.spec), has_script=has_script),
        "name": report.spec.get("name", "distillation"),
        "data": report.dataset,
        "most_classes": MOST_CLASSES,
        "teacher": quality["teacher"].architecture if "teacher" in quality else "",
        "teacher_sha256": (report.spec.get("provenance") or {}).get("teacher_sha256"),
        "strategy": strategy(report.spec).replace("_", " "),
        "terms": list(term_weights(report.spec)),
        "quality": [quality[role] for role in in_order(quality)],
        "captions": captions(report),
        "built": built(report),
        "comparisons": _comparisons(report),
        "machine": report.environment.get(precise) or report.environment.get("cpu", "a machine that is not named"),
        "has_script": has_script,
        "licences": [(what, labels.get(key)) for what, key in _LICENCES if what != "teacher" or "teacher" in quality],
    }


def _comparisons(report: Report) -> tuple[Any, ...]:
    return report.latency.comparisons if report.latency else ()


def _front(labels: Mapping[str, str], *, strategy: str, has_script: bool) -> str:
    """The YAML front matter."""
    told = {
        "license": labels.get("license") or "unknown",
        "library_name": "onnx" if has_script else "safetensors",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "knowledge-distillation", strategy.replace("_", "-"), "distillery"],
        "metrics": ["accuracy"],
    }
    return yaml.safe_dump(told, sort_keys=False, allow_unicode=True)


def _count(value: int | None) -> str:
    return figures.NONE if value is None else f"{value:,}"
