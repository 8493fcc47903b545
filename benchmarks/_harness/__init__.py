"""What the benchmarks share: measuring, rivals, servers, tables and plots."""
