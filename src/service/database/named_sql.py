"""SQL statements with named parameters."""

import re
from typing import Any

PARAMETER = re.compile(r"(?<![:\w]):([a-z][a-z0-9_]*)")  # not the type in `value::type`


def any_of(array: str) -> str:
    """Return `any(array)` of a parameter such as `$1::uuid[]`, in a form that is planned once.

    PostgreSQL would plan the statement again for each array: it estimates fewer rows for an array that it
    knows than for an unknown one. It does not look into a subselect.
    """
    return f"any((select {array})::{array.rpartition('::')[2]})"


class NamedSql:
    """A statement whose parameters are written `:name`; PostgreSQL numbers them."""

    def __init__(self, statement: str) -> None:
        self.names = tuple(dict.fromkeys(PARAMETER.findall(statement)))
        positions = {name: position for position, name in enumerate(self.names, start=1)}
        self.sql = PARAMETER.sub(lambda match: f"${positions[match[1]]}", statement)

    def __call__(self, **values: object) -> list[Any]:
        """Return the arguments for asyncpg: the statement, then the values in order."""
        if len(values) > len(self.names):
            raise TypeError(f"the statement has no parameters {sorted(values.keys() - set(self.names))}")
        return [self.sql, *(values[name] for name in self.names)]
