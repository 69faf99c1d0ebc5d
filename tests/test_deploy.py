"""Tests that deploy/ and the Containerfile match the service; deploy/check runs them."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.app import create_app
from service.settings import Settings, load_settings
from tests.support.openapi_document import published_document

CHECKOUT = Path(__file__).parents[1]
DEPLOY = CHECKOUT / "deploy"
PODS = ("api", "worker", "migrate")


def manifests(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / "kubernetes" / f"{name}.yaml").read_text()))


def pod(name: str) -> dict[str, Any]:
    return manifests(name)[0]["spec"]["template"]["spec"]  # type: ignore[no-any-return]


def services() -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]  # type: ignore[no-any-return]


def seconds(text: str) -> float:
    return float(text.removesuffix("ms")) / 1000 if text.endswith("ms") else float(text.removesuffix("s"))


def haproxy(timeout: str) -> float:
    match = re.search(rf"\b{timeout} (\d+m?s)", (DEPLOY / "haproxy.cfg").read_text())
    assert match, timeout
    return seconds(match[1])


def test_every_variable_of_depot_in_deploy_is_a_setting() -> None:
    texts = [path.read_text() for path in (*DEPLOY.rglob("*.yaml"), CHECKOUT / "docs" / "deploy.md")]
    names = {name for text in texts for name in re.findall(r"\bDEPOT_[A-Z_]+", text)}
    compose_variables = {"DEPOT_IMAGE", "DEPOT_PORT"}
    assert {f"DEPOT_{field.upper()}" for field in Settings.__struct_fields__} >= names - compose_variables


def test_the_settings_of_the_config_map_are_valid() -> None:
    [config] = manifests("config")
    assert load_settings(config["data"]).blob_url == config["data"]["DEPOT_BLOB_URL"]


def test_probed_paths_exist() -> None:
    routes = {route.path for route in create_app(Settings(database_url="postgresql://unused")).routes}
    texts = [
        path.read_text()
        for path in (CHECKOUT / "Containerfile", *DEPLOY.rglob("*.yaml"), DEPLOY / "haproxy.cfg")
    ]
    probed = {path for text in texts for path in re.findall(r"/health/\w+", text)}
    assert probed == {"/health/live", "/health/ready"}
    assert routes >= probed


@pytest.mark.parametrize("name", ["api-1", "api-2", "worker", "migrate"])
def test_a_container_has_time_to_end_and_no_rights(name: str) -> None:
    service, defaults = services()[name], Settings()
    assert seconds(service["stop_grace_period"]) > defaults.drain_seconds + defaults.shutdown_timeout_seconds
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]


@pytest.mark.parametrize("name", PODS)
def test_a_pod_has_time_to_end_and_no_rights(name: str) -> None:
    spec, defaults = pod(name), Settings()
    [container] = spec["containers"]
    before = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    drain = defaults.drain_seconds if name == "api" else 0
    if name != "migrate":
        assert spec["terminationGracePeriodSeconds"] > before + drain + defaults.shutdown_timeout_seconds
    assert spec["securityContext"]["runAsNonRoot"]
    assert f"USER {spec['securityContext']['runAsUser']}:" in (CHECKOUT / "Containerfile").read_text()
    assert container["securityContext"] == {
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }


def test_a_draining_replica_gets_no_traffic_before_it_stops() -> None:
    noticed = 2 * (haproxy("inter") + haproxy("timeout check"))
    assert noticed < Settings().drain_seconds
    [container] = pod("api")["containers"]
    probe = container["readinessProbe"]
    assert (
        container["lifecycle"]["preStop"]["sleep"]["seconds"]
        >= probe["periodSeconds"] * probe["failureThreshold"]
    )


@pytest.mark.parametrize("file", ["haproxy.cfg", "nginx.conf"])
def test_the_balancer_closes_idle_connections_before_a_replica_does(file: str) -> None:
    text = (DEPLOY / file).read_text()
    timeouts = [seconds(value) for value in re.findall(r"(?:http-keep-alive|keepalive_timeout) (\d+s)", text)]
    assert timeouts
    assert max(timeouts) < Settings().keepalive_seconds


def test_haproxy_retries_exactly_the_posts_that_accept_a_key() -> None:
    paths = published_document()["paths"]
    keep = {path for path, item in paths.items() if "IdempotencyKey" in json.dumps(item.get("post"))}
    match = re.search(r"acl has_idempotency path_reg (\S+)", (DEPLOY / "haproxy.cfg").read_text())
    assert match
    posts = {path for path, item in paths.items() if "post" in item}
    assert {path for path in posts if re.fullmatch(match[1], re.sub(r"\{\w+\}", "x", path))} == keep


def test_patroni_acknowledges_nothing_that_one_server_alone_has() -> None:
    patroni = yaml.safe_load((DEPLOY / "patroni" / "patroni.yml").read_text())
    cluster = patroni["bootstrap"]["dcs"]
    assert cluster["synchronous_mode"] == "quorum"
    assert cluster["synchronous_mode_strict"]
    assert cluster["postgresql"]["parameters"]["synchronous_commit"] == "on"
    assert patroni["watchdog"]["mode"] == "required"


def test_patroni_stops_a_primary_before_its_lock_expires() -> None:
    patroni = yaml.safe_load((DEPLOY / "patroni" / "patroni.yml").read_text())
    cluster = patroni["bootstrap"]["dcs"]
    assert cluster["loop_wait"] + 2 * cluster["retry_timeout"] <= cluster["ttl"]
    assert patroni["watchdog"]["safety_margin"] < cluster["ttl"] - cluster["loop_wait"]


def test_haproxy_asks_patroni_which_database_is_the_primary() -> None:
    patroni = yaml.safe_load((DEPLOY / "patroni" / "patroni.yml").read_text())
    text = (DEPLOY / "patroni" / "haproxy-db.cfg").read_text()
    assert "option httpchk OPTIONS /primary" in text
    assert f"check port {patroni['restapi']['listen'].rpartition(':')[2]} " in text
    assert "on-marked-down shutdown-sessions" in text
