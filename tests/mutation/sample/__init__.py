"""What the tests of `tests.mutation` make mutants of."""
