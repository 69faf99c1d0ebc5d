"""The choice of a tracer by the settings."""

from importlib.util import find_spec

from service.observability.tracing import NO_TRACER, Tracer

EXTRA = "opentelemetry.exporter"


def is_installed() -> bool:
    """Return whether the extra `tracing` is installed, without importing it."""
    try:
        return (
            find_spec(f"{EXTRA}.otlp.proto.http") is not None and find_spec("opentelemetry.sdk") is not None
        )
    except ModuleNotFoundError:
        return False


def create_tracer(url: str | None, ratio: float) -> Tracer:
    """Return a tracer for an OTLP/HTTP endpoint, or the no-op one."""
    if url is None:
        return NO_TRACER
    from service.observability.otel import OtelTracer  # noqa: PLC0415  # an extra, imported only where it is used

    return OtelTracer(url, ratio)
