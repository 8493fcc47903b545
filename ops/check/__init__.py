"""The checks of what is shipped for operations, `make ops-check`."""
