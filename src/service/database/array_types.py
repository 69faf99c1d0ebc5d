"""The array types of Depot's statements, which asyncpg would look up on each new connection.

A lookup takes the server 5 ms and three round trips for each type.
"""

from typing import Any

from service.database.servers import Connection

OIDS = {
    "bool": (1000, 16),
    "bytea": (1001, 17),
    "int4": (1007, 23),
    "int8": (1016, 20),
    "date": (1182, 1082),
    "timestamptz": (1185, 1184),
    "interval": (1187, 1186),
    "uuid": (2951, 2950),
    "jsonb": (3807, 3802),
}
"""OIDs of the array and of its elements. PostgreSQL does not change those of its own types."""


def declare_array_types(connection: Connection) -> None:
    """Tell asyncpg about the types. Call it after `set_type_codec`, which forgets them."""
    settings: Any = connection._protocol.get_settings()  # type: ignore[attr-defined]  # private: decision 0016
    settings.register_data_types([array_type(name, *oids) for name, oids in OIDS.items()])


def array_type(element: str, oid: int, element_oid: int) -> dict[str, Any]:
    """Return a row of asyncpg's lookup."""
    of_other_kinds = dict.fromkeys(("range_subtype", "attrtypoids", "attrnames", "basetype"))
    array = {"oid": oid, "ns": "pg_catalog", "name": f"_{element}", "kind": b"b"}
    return array | {"elemtype": element_oid, "elemdelim": ","} | of_other_kinds
