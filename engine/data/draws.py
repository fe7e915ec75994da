"""Random generators that are a function of their purpose and their place in a run."""

import hashlib

import torch


def draws_of(purpose: str, *numbers: int) -> torch.Generator:
    """A CPU generator of its own for one purpose and place in the run; hashing keeps neighbours unrelated."""
    digest = hashlib.sha256(f"{purpose}/{'/'.join(map(str, numbers))}".encode()).digest()
    generator = torch.Generator()
    generator.manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    return generator
