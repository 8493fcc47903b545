"""The dashboard, built of the library's table of metrics."""
