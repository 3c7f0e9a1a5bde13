#!/usr/bin/env python3
"""Runs the tests of the Python and Node examples: `tests/python/run.py [NAME]`.

The last line is of the form that tests/run.sh counts. NAME: only tests with that in their name.
"""
import pathlib
import sys
import unittest

HERE = pathlib.Path(__file__).resolve().parent


def main():
    loader = unittest.TestLoader()
    if len(sys.argv) > 1:
        loader.testNamePatterns = [f"*{sys.argv[1]}*"]
    suite = loader.discover(str(HERE), "test_*.py", str(HERE))
    result = unittest.TextTestRunner(stream=sys.stdout, verbosity=2).run(suite)
    bad = len(result.failures) + len(result.errors)
    good = result.testsRun - bad - len(result.skipped)
    for test, why in result.skipped:
        print(f"not run: {test}: {why}")
    print(f"test result: {'FAILED' if bad else 'ok'}. {good} passed; {bad} failed", flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    sys.exit(main())
