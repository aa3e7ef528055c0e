"""Fault tests of the whole program: real runs that are killed and meet storage errors, and an oracle over what is left.

`scripts/crashtest` is the command; docs/durability.md has its figures.
"""
