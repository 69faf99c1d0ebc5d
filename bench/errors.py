"""The error that ends a run."""


class BenchError(Exception):
    """A reason why there are no figures, or none to trust. Its text is for the operator."""
