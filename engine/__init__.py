"""Distillation itself: data, objectives, the loop, evaluation, latency, export. torch, no web stack."""
