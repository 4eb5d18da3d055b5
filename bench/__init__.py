"""Benchmarks: one a module, run together by ``python -m bench``, each at a small size by the tests.

Figures of one run may be compared with each other; those of two runs only if the machine was idle
both times. What was measured, and under which conditions, stands in the table that is printed.
"""
