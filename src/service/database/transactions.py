"""SQL about the transactions that are open on the server."""

CLIENT_SESSIONS = """pg_stat_activity
where datname = current_database() and coalesce(backend_type, 'client backend') = 'client backend'
  and usesysid is not null"""
"""The sessions of clients. Those of other roles hide their type and times, but not their transaction's id."""

UNKNOWN_START = "timestamptz '1980-01-01 00:00Z'"
"""The start of a transaction that is hidden: nothing may be read past it."""

OLDEST_OPEN_TRANSACTION = f"""
select least(now(), min(coalesce(xact_start, case when backend_xid is not null then {UNKNOWN_START} end)))
from {CLIENT_SESSIONS}"""
"""Start of the oldest open transaction. All earlier transactions have ended, so a later query sees their
effects."""
