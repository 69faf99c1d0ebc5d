"""Tests of how a reply is written to its connection."""

import httpx
import pytest
from litestar import Response, get

from service.app import create_app
from service.settings import Settings
from service.testing.live_server import serving


@get("/forged", opt={"public": True}, include_in_schema=False, sync_to_thread=False)
def forged() -> Response[bytes]:
    return Response(b"", media_type="text/plain", headers={"X-Name": "a\r\nX-Forged: b"})


def test_a_header_with_a_line_break_is_not_sent(settings: Settings) -> None:
    app = create_app(settings)
    app.register(forged)
    with serving(app, settings) as url, httpx.Client(base_url=url) as client:
        with pytest.raises(httpx.RemoteProtocolError, match="disconnected without sending"):
            client.get("/forged")
        assert client.get("/health/live").status_code == 200
