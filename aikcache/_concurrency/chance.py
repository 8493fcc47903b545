"""Random numbers, for pauses and draws.

Not the module `random`, whose state is the application's: an application that has seeded it gets the numbers it
expects. These come from the system, as those of `random.SystemRandom`, which would have to be loaded. So there is no
state to share between threads, or to repeat in the children of a fork.
"""

import os


def random() -> float:
    """From 0 to below 1."""
    return (int.from_bytes(os.urandom(7)) >> 3) / 2**53  # as many bits as a float has


def uniform(low: float, high: float) -> float:
    """From one to the other."""
    return low + (high - low) * random()
