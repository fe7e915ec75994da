"""`predict.py`: what a delivered student needs to answer images where neither Distillery nor torch is installed."""

from collections.abc import Sequence
from importlib import resources

from distillery.errors import MissingDependency


def render(
    *, classes: Sequence[str], image_size: int, channels: int, mean: Sequence[float], std: Sequence[float]
) -> str:
    """The script, in ASCII; it stands on onnxruntime, numpy and pillow alone.

    Images are read, cut and resized as `engine.data.image_folder` does it, and normalised as `engine.data.views` does.
    Pillow's resize and torch's may differ by one grey level in a pixel; at the student's own size they are equal.

    Raises:
        MissingDependency: jinja2 is not installed.
    """
    try:
        import jinja2
    except ImportError as absent:
        raise MissingDependency(
            "predict.py is made with Jinja2, which is not installed.", hint="Install it with: pip install jinja2"
        ) from absent
    scripts = jinja2.Environment(
        autoescape=False,  # noqa: S701  # a script and no page: every value below is a Python literal
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    template = resources.files("engine").joinpath("templates/predict.py.j2").read_text(encoding="utf-8")
    return scripts.from_string(template).render(
        classes=ascii([str(name) for name in classes]),
        image_size=int(image_size),
        channels=int(channels),
        mean=repr([float(value) for value in mean]),
        std=repr([float(value) for value in std]),
    )
