"""What clients change of a run from outside: pause, options, reset."""
