"""Trainings that take turns: each contender is a process of its own that trains on and stops when its turn is over."""
