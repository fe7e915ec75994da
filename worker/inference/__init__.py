"""Answers predictions: a process of its own, asked by the API and by nobody else. It is run as `worker.inference`."""
