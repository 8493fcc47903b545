"""Random numbers: for pauses, draws, and the order in which servers are asked.

Not the module `random`, whose state is the application's: an application that has seeded it gets the numbers it
expects.
"""

from random import SystemRandom

chance = SystemRandom()
"""Has no state, so there is nothing to share between threads, or to repeat in the children of a fork."""
