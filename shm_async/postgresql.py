"""Regions in a PostgreSQL database: see `shm_async.open_region` and docs/one-host.md.

Needs psycopg, as in the extra ``shm_async[postgresql]``.
"""

from ._postgresql.hold import PostgresHold
from ._postgresql.region import PostgresRegion
from ._postgresql.schema import ddl

__all__ = ["PostgresHold", "PostgresRegion", "ddl"]
