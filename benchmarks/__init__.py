"""Measures what the README claims: ratios within one run, on the machine at hand."""
