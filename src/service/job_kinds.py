"""The registry of all job kinds."""

from service.documents.inspection import inspection_kind
from service.items.import_job import import_kind
from service.jobs.kinds import KindRegistry
from service.jobs.sleep import SLEEP
from service.orders.export import ORDERS_EXPORT
from service.replay.job import REPLAY_KIND
from service.reports.export import EXPORT
from service.settings import Settings


def build_registry(settings: Settings) -> KindRegistry:
    return KindRegistry(
        [
            import_kind(settings),
            EXPORT,
            ORDERS_EXPORT,
            inspection_kind(settings),
            REPLAY_KIND,
            *[SLEEP] * settings.job_test_kinds,
        ]
    )
