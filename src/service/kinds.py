"""The kinds of jobs there are."""

from service.documents.inspect import inspection
from service.items.jobs import IMPORT
from service.jobs.kinds import Kinds
from service.jobs.sleep import SLEEP
from service.reports.export import EXPORT
from service.settings import Settings


def kinds(settings: Settings) -> Kinds:
    return Kinds([IMPORT, EXPORT, inspection(settings), *[SLEEP] * settings.job_test_kinds])
