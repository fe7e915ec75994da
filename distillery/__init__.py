"""Distillery: turn a large trained network into a small, fast one, and say honestly what it cost.

The shared words of every room: job specs, the views that the service returns, errors, the client and the CLI.
"""
