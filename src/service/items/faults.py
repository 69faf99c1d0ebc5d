"""Errors of items, which pure rules return too."""

from service.errors import Fault


class DuplicateSku(Fault):
    status, code, message = 409, "DUPLICATE_SKU", "Another item already has this SKU"


class UnknownItem(Fault):
    status, code, message = 422, "UNKNOWN_ITEM", "The request names items that do not exist"
    example_details = ({"field": "/lines/0/sku", "message": "does not exist", "source": "body"},)


class QuantityChanged(Fault):
    status, code, message = 409, "QUANTITY_CHANGED", "The stock is no longer the expected one"
    example_details = ({"expected": 42, "quantity": 41},)


class ItemArchived(Fault):
    status, code, message = 409, "ITEM_ARCHIVED", "The order names items that are archived"
    example_details = ({"item_id": "01a221da-02e2-72d1-9bdd-dcc49716d1b3", "sku": "BOLT-M8", "lines": [0]},)


class InsufficientStock(Fault):
    status, code, message = 409, "INSUFFICIENT_STOCK", "Not enough stock"
    example_details = (
        {
            "item_id": "01a221da-02e2-72d1-9bdd-dcc49716d1b3",
            "sku": "BOLT-M8",
            "lines": [0, 3],
            "requested": 4,
            "available": 3,
        },
    )
