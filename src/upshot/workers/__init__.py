"""The loops that run stages: start, stop, wake, health."""
