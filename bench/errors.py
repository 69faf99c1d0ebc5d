"""What ends a run."""


class BenchError(Exception):
    """Why the figures cannot be had, or not be trusted; its text is for the person at the terminal."""
