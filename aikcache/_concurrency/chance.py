"""What is left to chance: pauses, draws, the order in which servers are asked.

Not the module `random`, whose state is the application's: whoever has seeded it gets the numbers he expects.
"""

from random import SystemRandom

chance = SystemRandom()
"""Has no state, so nothing to share between threads, nor to repeat in the children of a fork."""
