"""HTTP endpoint that changes the stock of many items."""

from litestar import Controller, post
from litestar.di import NamedDependency
from litestar.params import JSONBody

from service.database.session import Session
from service.http.idempotency import hold_claim
from service.http.operation import operation
from service.http.request import StrictRequest
from service.idempotency.replies import IDEMPOTENCY_FAULTS
from service.items import stock
from service.items.faults import InsufficientStock, QuantityChanged, UnknownItem
from service.items.schemas import ItemStocks, StockChanges


class StockController(Controller):
    path = "/stock"
    tags = ["Items"]

    @post(
        status_code=200,
        opt=operation(
            scope="items:write",
            faults=[InsufficientStock, QuantityChanged, UnknownItem, *IDEMPOTENCY_FAULTS],
        ),
    )
    async def adjust_stocks(
        self, session: NamedDependency[Session], request: StrictRequest, data: JSONBody[StockChanges]
    ) -> ItemStocks:
        """Adjust the stock of many items

        Either all changes are made or none; an error lists every change that is not possible. Each change
        adds or removes units (`delta`), or sets the counted `quantity` if the stock is still `expected`.
        """
        async with hold_claim(request) as claim:
            return await stock.adjust_all(session, data, claim, request.author)
