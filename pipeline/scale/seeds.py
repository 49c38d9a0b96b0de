"""Seeds by what is computed, never by who computes it or what came before."""

import numpy as np
import torch


def step_seed(seed: int, purpose: str, number: int) -> int:
    """A seed for one purpose and step, unrelated to its neighbours'."""
    words = np.random.SeedSequence([seed, *purpose.encode(), number]).generate_state(2)
    return int(words[0]) << 31 | int(words[1]) >> 1


def seeded(device: torch.device, seed: int, purpose: str, number: int) -> torch.Generator:
    """A generator on `device` for one purpose and number."""
    return torch.Generator(device).manual_seed(step_seed(seed, purpose, number))
