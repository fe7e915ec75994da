"""Pages from the templates: no script, no network, everything inside; all text that is put in is escaped."""

from collections.abc import Mapping, Sequence
from typing import Any

from distillery.errors import MissingDependency
from engine import figures


def render(template: str, values: Mapping[str, Any], *, filters: Sequence[str]) -> str:
    """A template of `engine/templates` as a page; `filters` are functions of `engine.figures`.

    Raises:
        MissingDependency: jinja2 is not installed.
    """
    try:
        import jinja2
    except ImportError as absent:
        raise MissingDependency(
            "The report's page is made with Jinja2, which is not installed.", hint="Install it with: pip install jinja2"
        ) from absent
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("engine", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {name: getattr(figures, name) for name in filters}
    return made.get_template(template).render(values)
