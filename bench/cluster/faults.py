"""What happens to the cluster, how it is undone, and how soon writes must work again."""

import signal
import time
from collections.abc import Callable

import httpx
from msgspec import Struct

from bench.cluster.members import (
    CONFIGURATION_STORES,
    DATABASES,
    HostProcess,
    Member,
    Network,
)
from bench.cluster.state import Cluster, wait_for
from bench.errors import BenchError

REPLACED_SECONDS = 30.0
"""A silent primary is replaced: the lock expires after 20 s, then a standby is elected and promoted."""
SWITCHED_SECONDS = 10.0
"""A primary that Patroni sees end is replaced without waiting for its lock."""
COMMITS_WAIT_SECONDS = 4.0
"""Longer than a statement's timeout, so that waiting commits are given up; shorter than `wal_sender_timeout`,
after which Patroni no longer counts the standbys as synchronous and would promote neither of them."""
STANDBY_SECONDS = 3.0
"""Until Depot notices that nothing is wrong any more."""


class Scene:
    """The cluster, and what a fault needs to break it."""

    def __init__(self, cluster: Cluster, stores: dict[str, HostProcess], network: Network) -> None:
        self.cluster = cluster
        self.stores = stores
        self.network = network
        self.primary = cluster.primary()
        self.standbys = cluster.standbys()


class Fault(Struct, frozen=True):
    """A fault. `hold_seconds` is how long it lasts at least."""

    name: str
    back_seconds: float
    """Writes must work again so soon."""
    inject: Callable[[Scene], None]
    undo: Callable[[Scene], None]
    hold_seconds: float = 5.0
    is_core: bool = False


def others(member: Member) -> list[str]:
    return [name for name in DATABASES if name != member.name]


def nothing(scene: Scene) -> None:
    """Leave the rest to Patroni."""


def heal(scene: Scene) -> None:
    scene.network.heal()


def kill_postgres(scene: Scene) -> None:
    scene.primary.signal_postgres(signal.SIGKILL)


def suspend_postgres(scene: Scene) -> None:
    scene.primary.signal_postgres(signal.SIGSTOP)


def resume_postgres(scene: Scene) -> None:
    scene.primary.signal_postgres(signal.SIGCONT)


def kill_patroni(scene: Scene) -> None:
    scene.primary.patroni.kill()


def start_patroni(scene: Scene) -> None:
    scene.primary.patroni.start()


def suspend_patroni(scene: Scene) -> None:
    scene.primary.patroni.signal(signal.SIGSTOP)


def resume_patroni(scene: Scene) -> None:
    scene.primary.patroni.signal(signal.SIGCONT)


def split(scene: Scene) -> None:
    """Cut the primary off from etcd and its standbys. Depot and HAProxy still reach all of them."""
    scene.network.cut(scene.primary.name, [*CONFIGURATION_STORES, *others(scene.primary)])


def isolate_primary(scene: Scene) -> None:
    scene.network.isolate(scene.primary.name)


def lose_unreplicated_commits(scene: Scene) -> None:
    """Let commits wait for standbys that are cut off, and then lose the host."""
    scene.network.cut(scene.primary.name, others(scene.primary))
    time.sleep(COMMITS_WAIT_SECONDS)
    scene.network.isolate(scene.primary.name)
    scene.primary.power_off()


def restore_host(scene: Scene) -> None:
    scene.network.heal()
    scene.primary.patroni.start()


def isolate_standby(scene: Scene) -> None:
    scene.network.isolate(scene.standbys[0].name)


def stop_store(scene: Scene) -> None:
    scene.stores[CONFIGURATION_STORES[0]].kill()


def stop_quorum(scene: Scene) -> None:
    for name in CONFIGURATION_STORES[:2]:
        scene.stores[name].kill()


def start_stores(scene: Scene) -> None:
    for store in scene.stores.values():
        if store.has_ended:
            store.start()


def switch_over(scene: Scene) -> None:
    _switch(scene.cluster, scene.primary, scene.standbys[0])


def restart_all(scene: Scene) -> None:
    """Restart the standbys, hand the primary's role over, and restart the former primary."""
    for standby in scene.standbys:
        _restart(scene.cluster, standby)
    _switch(scene.cluster, scene.primary, scene.standbys[0])
    _restart(scene.cluster, scene.primary)


def _switch(cluster: Cluster, primary: Member, standby: Member) -> None:
    content = {"leader": primary.name, "candidate": standby.name}
    _require(primary.ask("POST", "/switchover", timeout=SWITCHED_SECONDS, json=content))
    wait_for("whole after the switchover", cluster.is_whole)


def _restart(cluster: Cluster, member: Member) -> None:
    _require(member.ask("POST", "/restart", timeout=REPLACED_SECONDS, json={}))
    wait_for("whole after the restart", cluster.is_whole)


def _require(reply: httpx.Response | None) -> None:
    if reply is None or not reply.is_success:
        raise BenchError(f"Patroni: {reply.text if reply is not None else 'no answer'}")


FAULTS = [
    Fault("PostgreSQL killed", SWITCHED_SECONDS, kill_postgres, nothing, is_core=True),
    Fault("Patroni suspended", REPLACED_SECONDS, suspend_patroni, resume_patroni, 28, is_core=True),
    Fault("split: primary without etcd and standbys", REPLACED_SECONDS, split, heal, 25, is_core=True),
    Fault(
        "standbys cut off, then the host lost",
        COMMITS_WAIT_SECONDS + REPLACED_SECONDS,
        lose_unreplicated_commits,
        restore_host,
        25,
        is_core=True,
    ),
    Fault("standby cut off", STANDBY_SECONDS, isolate_standby, heal, 12, is_core=True),
    Fault("Patroni killed", REPLACED_SECONDS, kill_patroni, start_patroni, 28),
    Fault("PostgreSQL suspended", REPLACED_SECONDS, suspend_postgres, resume_postgres, 28),
    Fault("primary cut off from all", REPLACED_SECONDS, isolate_primary, heal, 25),
    Fault("etcd member lost", STANDBY_SECONDS, stop_store, start_stores, 25),
    Fault("etcd quorum lost", STANDBY_SECONDS, stop_quorum, start_stores, 30),
    Fault("switchover", SWITCHED_SECONDS, switch_over, nothing),
    Fault("rolling restart", 3 * SWITCHED_SECONDS, restart_all, nothing),
]
