"""Where a fact is stored: causal tracing, its studies, averages and controls."""
