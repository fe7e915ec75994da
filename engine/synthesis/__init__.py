"""Images made up from what a teacher knows. One paper per file; the registry is the tuple below."""

from typing import Any

from distillery.spec.methods import Dafl, Fast
from engine.synthesis.canvas import Canvas
from engine.synthesis.dafl import DaflSynthesiser
from engine.synthesis.fast import FastSynthesiser
from engine.synthesis.synthesiser import Synthesiser

SYNTHESISERS: tuple[tuple[type[Any], type[Any]], ...] = ((Dafl, DaflSynthesiser), (Fast, FastSynthesiser))
"""Each spec and what makes images after it."""


def build(spec: Dafl | Fast, *, canvas: Canvas) -> Synthesiser:
    """A synthesiser whose generator's weights are drawn from torch's global generator, as those of any network."""
    kind = next(made for described, made in SYNTHESISERS if type(spec) is described)
    made: Synthesiser = kind(spec, canvas=canvas)
    return made
