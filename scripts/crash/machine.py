"""Stands in for svd_batch.engine.machine beside the millisecond engine: there is no torch to be made deterministic."""


def make_deterministic() -> None:
    """Do nothing."""
