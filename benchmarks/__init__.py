"""Speed and memory against what people use now: each module is a command that prints a table.

Numbers are kept in `benchmarks/results.json`: name -> value, low, high over repeats, with the machine.
"""
