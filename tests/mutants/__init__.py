"""The yardstick of the suite: seeded faults of the product, each of which some test must notice (`make mutants`).

Faults are data, in `faults/`. `lane.py` is a copy of the checkout in which one is planted and the tests that should
notice it are run; `__main__.py` hands faults to lanes and says what survived; `results.py` keeps what is known.
"""
