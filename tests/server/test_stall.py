"""Tests that no request of the maximum size delays others; `make stall` is the long form."""

from collections.abc import Iterator

import pytest

from tests.support.large_requests import LARGE_REQUESTS, longest_wait
from tests.support.raw_http import LiveServer, serving

WAIT_SECONDS_MAX = 1.0
"""A generous bound for a busy machine; an idle one needs less than 0.1 s."""


@pytest.fixture(scope="module")
def served(
    server_url: str, depot_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiveServer]:
    with serving(server_url, depot_template, tmp_path_factory.mktemp("stall")) as served:
        yield served


def test_no_large_request_delays_a_health_check(served: LiveServer) -> None:
    results = {name: longest_wait(served.address, served.key, name) for name in LARGE_REQUESTS}
    assert {name: wait for name, (_, wait) in results.items() if wait > WAIT_SECONDS_MAX} == {}
    assert {name: status for name, (status, _) in results.items() if status >= 500} == {}
    assert served.server.events("unhandled_error") == []
