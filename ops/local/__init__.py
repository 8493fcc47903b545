"""`make redis-up` and its sisters: the shipped configuration on this machine, on loopback."""
