"""`DATABASE_URL` is taken as hosting providers hand it out, and never at the cost of its security."""

import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from service.database import url
from service.database.database import Database
from service.database.url import split_parameters
from service.settings import Settings, StartupError

PROVIDERS = [
    "channel_binding=prefer",
    "sslmode=prefer&channel_binding=disable",
    "connect_timeout=10",
    "gssencmode=disable",
    "keepalives=1&keepalives_idle=30&keepalives_interval=10&keepalives_count=3&tcp_user_timeout=10000",
    "sslsni=1&sslcompression=0&fallback_application_name=shop&client_encoding=utf8&load_balance_hosts=disable",
    "options=-c%20geqo%3Doff",
]
PROTECTIONS = [
    "channel_binding=require",
    "gssencmode=require",
    "require_auth=scram-sha-256",
    "requirepeer=postgres",
]


@pytest.mark.parametrize("parameters", PROVIDERS)
async def test_parameters_of_libpq_are_accepted(settings: Settings, parameters: str) -> None:
    async with Database(with_parameters(settings, parameters)).open() as database:
        assert await database.fetchval("select 1") == 1


async def test_options_and_the_name_of_the_application_are_honored(settings: Settings) -> None:
    named = with_parameters(settings, "application_name=shop&options=-c%20geqo%3Doff")
    async with Database(named).open() as database:
        assert await database.fetchval("show application_name") == "shop"
        assert await database.fetchval("show geqo") == "off"
    async with Database(settings).open() as database:
        assert await database.fetchval("show application_name") == "depot"


@pytest.mark.parametrize("parameters", PROTECTIONS)
def test_a_parameter_that_protects_the_connection_is_not_dropped(settings: Settings, parameters: str) -> None:
    with pytest.raises(StartupError, match=parameters):
        Database(with_parameters(settings, parameters))


@pytest.mark.parametrize("name", ["sslmode", "target_session_attrs"])
def test_an_unknown_value_stops_the_start_with_the_known_ones(name: str) -> None:
    settings = Settings(database_url=f"postgresql://u@h/db?{name}=bogus")
    with pytest.raises(StartupError, match=f"^DATABASE_URL: {name} must be one of [a-z, -]+$"):
        Database(settings)


@pytest.mark.parametrize(("name", "value"), [(name, v) for name, vs in url.CHOICES.items() for v in vs])
def test_every_known_value_is_accepted(name: str, value: str) -> None:
    Database(Settings(database_url=f"postgresql://u@h/db?{name}={value}"))


def test_dropped_parameters_are_logged_once(settings: Settings) -> None:
    url._report_dropped.cache_clear()
    with capture_logs() as logs:
        for _ in range(3):
            Database(with_parameters(settings, "gssencmode=prefer&keepalives=1"))
    assert [line["parameters"] for line in logs] == [("gssencmode", "keepalives")]


def test_a_missing_certificate_is_reported_once_by_its_parameter() -> None:
    url._report_missing.cache_clear()
    parameters = f"sslmode=verify-full&sslrootcert=/nowhere/ca.pem&sslcert={__file__}&sslkey=/nowhere/key"
    with capture_logs() as logs:
        for _ in range(3):
            split_parameters(f"postgresql://u@h/db?{parameters}")
    assert [(line["event"], line["parameters"]) for line in logs] == [
        ("database_url_files_missing", ("sslrootcert", "sslkey"))
    ]


def test_the_certificates_of_the_system_verify_the_server() -> None:
    plain, options = split_parameters("postgresql://u@h/db?sslmode=verify-full&sslrootcert=system&user=a")
    assert plain == "postgresql://u@h/db?user=a"
    assert options["ssl"].check_hostname


def with_parameters(settings: Settings, parameters: str) -> Settings:
    return replace(settings, database_url=f"{settings.database_url}&{parameters}")
