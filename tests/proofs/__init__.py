"""What Upshot promises, shown under stress: scaled down by the tests, in full by `make soak`."""
