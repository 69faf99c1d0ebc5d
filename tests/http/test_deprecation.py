"""A deprecated endpoint announces its removal in its replies and in the OpenAPI document."""

from datetime import date

import pytest
from litestar import Litestar, get
from litestar.testing import AsyncTestClient

from service.http.operation import deprecation
from service.http.reply import Reply


@get(
    "/old",
    **deprecation(since=date(2027, 1, 1), sunset=date(2028, 1, 1), explanation="https://depot.example/old"),
)
async def old() -> Reply[dict[str, int]]:
    return Reply({"a": 1})


async def test_a_deprecated_endpoint_names_the_day_of_its_removal() -> None:
    app = Litestar([old], response_class=Reply)
    async with AsyncTestClient(app) as client:
        headers = (await client.get("/old")).headers
    assert headers["Deprecation"] == "@1798761600"
    assert headers["Sunset"] == "Sat, 01 Jan 2028 00:00:00 GMT"
    assert headers["Link"] == '<https://depot.example/old>; rel="deprecation"'
    assert app.openapi_schema.to_schema()["paths"]["/old"]["get"]["deprecated"]


def test_a_removal_is_announced_a_year_before() -> None:
    with pytest.raises(ValueError, match="twelve months"):
        deprecation(since=date(2027, 1, 1), sunset=date(2027, 12, 31), explanation="https://depot.example")
