"""Settings are parsed once; a bad or unknown one stops the start with one clear line."""

from pathlib import Path

import pytest

from service.auth.rate_limit import RateLimiter
from service.observability.metrics import Metrics
from service.settings import Settings, SettingsError, load_settings


def test_an_empty_environment_gives_the_defaults() -> None:
    assert load_settings({}) == Settings()


def test_names_of_the_contract_are_read() -> None:
    settings = load_settings(
        {
            "PORT": "9000",
            "HOST": "::1",
            "DATABASE_URL": "postgres://db/depot",
            "DEPOT_HOME": "elsewhere",
            "DEPOT_POOL_SIZE": "3",
            "DEPOT_DRAIN_SECONDS": "0.5",
            "DEPOT_LOG": "console",
            "PATH": "not ours",
        }
    )
    assert (settings.port, settings.host, settings.database_url) == (9000, "::1", "postgres://db/depot")
    assert settings.home == Path("elsewhere")
    assert (settings.pool_size, settings.drain_seconds, settings.log) == (3, 0.5, "console")


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://a:5432,b:5433,[::1]:5434/depot?target_session_attrs=read-write",
        "postgresql://u:p%40w@[::1]/depot",
        "postgresql://postgres:@/depot?host=/tmp/sockets",
        "postgresql+asyncpg:///depot",
    ],
)
def test_addresses_of_many_forms_are_taken(url: str) -> None:
    assert load_settings({"DATABASE_URL": url}).database_url == url


def test_an_empty_value_counts_as_unset() -> None:
    assert load_settings({"PORT": "", "DEPOT_POOL_SIZE": ""}) == Settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "65536"),
        ("PORT", "http"),
        ("DATABASE_URL", "mysql://db/depot"),
        ("DEPOT_POOL_SIZE", "0"),
        ("DEPOT_POOL_SIZE", "many"),
        ("DEPOT_POOL_SIZE", "9" * 20),
        ("DEPOT_UPLOADS_MAX", "9" * 20),
        ("DEPOT_BODY_BYTES_MAX", "9" * 20),
        ("DEPOT_DRAIN_SECONDS", "-1"),
        ("DEPOT_DRAIN_SECONDS", "nan"),
        ("DEPOT_LOG", "xml"),
        ("DEPOT_SECRET", "short"),
        ("DEPOT_SECRET_PREVIOUS", "short"),
        ("DEPOT_RATE_LIMIT_STORE", "memcached://cache"),
        ("DEPOT_RATE_LIMIT_STORE", "redis://cache:port/0"),
        ("DEPOT_RATE_LIMIT_STORE", "redis://cache:99999/0"),
        ("DEPOT_RATE_LIMIT_STORE", "redis://:p#w@cache/0"),
        ("DEPOT_RATE_LIMIT_STORE", "redis://cache/0?pool=5"),
        ("DATABASE_URL", "postgresql://u:p@db:99999/depot"),
        ("DATABASE_URL", "postgresql://u:p#w@db/depot"),
        ("DATABASE_URL", "postgresql://u:p@[db/depot"),
        ("DATABASE_URL", "postgresql://u:p@db:one/depot"),
        ("DEPOT_METRICS", "closed"),
        ("DEPOT_TRACES_URL", "collector:4318"),
        ("DEPOT_TRACES_RATIO", "2"),
        ("DEPOT_WORKER_METRICS_PORT", "0"),
        ("DEPOT_POOLSIZE", "3"),
    ],
)
def test_a_bad_or_unknown_value_is_named(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=name) as refusal:
        load_settings({name: value})
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://cache",
        "redis://cache:6379/0",
        "rediss://user:p%23w@cache.example:6380/",
        "redis://[::1]:6379/2",
    ],
)
def test_the_url_of_a_rate_limit_store_is_accepted_and_its_password_is_a_secret(url: str) -> None:
    settings = load_settings({"DEPOT_RATE_LIMIT_STORE": url})
    assert settings.rate_limit_store == url
    assert ("p#w" in settings.secrets()) == ("@" in url)
    RateLimiter(Metrics(), url)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("PORT", "http", "PORT must be a whole number, not 'http'"),
        ("PORT", "65536", "PORT must be at most 65535, not '65536'"),
        ("DEPOT_LOG", "xml", "DEPOT_LOG must be one of json, console, not 'xml'"),
        (
            "DEPOT_WEBHOOK_ALLOW_PRIVATE",
            "maybe",
            "DEPOT_WEBHOOK_ALLOW_PRIVATE must be true or false, not 'maybe'",
        ),
        ("DEPOT_RATE_LIMIT", "600", "DEPOT_RATE_LIMIT must be a rate such as 600/minute, not '600'"),
        ("DATABASE_URL", "mysql://db/depot", "DATABASE_URL must be a URL that starts with postgresql://"),
        ("DEPOT_POLL_SIZE", "3", "DEPOT_POLL_SIZE is not a setting of Depot; did you mean DEPOT_POOL_SIZE?"),
        ("DEPOT_POOLSIZE", "3", "DEPOT_POOLSIZE is not a setting of Depot; did you mean DEPOT_POOL_SIZE?"),
        ("DEPOT_X", "3", "DEPOT_X is not a setting of Depot; docs/configuration.md lists all settings"),
    ],
)
def test_the_message_names_what_is_allowed(name: str, value: str, message: str) -> None:
    with pytest.raises(SettingsError) as rejection:
        load_settings({name: value})
    assert str(rejection.value) == message


@pytest.mark.parametrize(
    "name", ["DATABASE_URL", "DEPOT_SECRET", "DEPOT_SECRET_PREVIOUS", "DEPOT_RATE_LIMIT_STORE"]
)
def test_a_bad_secret_is_not_repeated(name: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        load_settings({name: "hunter2"})
    assert "hunter2" not in str(refusal.value)
