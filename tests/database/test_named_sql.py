"""Named parameters become numbered ones; casts and literals stay."""

import pytest

from service.database.named_sql import NamedSql

STATEMENT = NamedSql("select :v2::uuid, :name, to_char(now(), 'HH24:MI'), '{\"a\": 1}' where :v2 is null")


def test_a_parameter_that_is_used_twice_has_one_number() -> None:
    assert STATEMENT.sql == ("select $1::uuid, $2, to_char(now(), 'HH24:MI'), '{\"a\": 1}' where $1 is null")


def test_a_call_returns_the_statement_and_its_arguments_in_order() -> None:
    assert STATEMENT(name="bolt", v2=7) == [STATEMENT.sql, 7, "bolt"]


def test_a_missing_argument_is_an_error() -> None:
    with pytest.raises(KeyError, match="name"):
        STATEMENT(v2=7)


def test_an_unknown_argument_is_an_error() -> None:
    with pytest.raises(TypeError, match="color"):
        STATEMENT(v2=7, name="bolt", color="red")
