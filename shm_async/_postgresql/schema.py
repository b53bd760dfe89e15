"""The tables and functions that regions use in a database, as SQL.

Each has its reason:

* ``regions``: one row for each region. Its id, never a hash of its name, is the second half of
  the advisory lock's key. ``token`` is new with each store, so that equal tokens mean equal data.
* ``writers``: the number of the last store of each event loop that writes. A store whose answer
  was lost is in if, and only if, the number says so; however many others stored meanwhile.
* ``take``: the lock first and the data after it. A function that is VOLATILE takes a new snapshot
  for each of its statements; one plain SELECT would read the data from before the grant.
* ``store``: refuses a holder that has lost its lock. The revision has moved, or another session
  asks than the one that was granted the lock.
* ``fences``: a sequence. Its numbers only rise, also after a crash; a grant takes 64 of them.
"""

import re

__all__ = ["FENCES", "VERSION", "check_schema", "ddl"]

#: The version of what stands below. Another one in the database is refused.
VERSION = 1

#: How many fencing tokens a grant has: one for each block of a group.
FENCES = 64

#: Serialises the creation, in all sessions of the database.
CREATION_LOCK = 0x73686D61

_DDL = """\
BEGIN;
SELECT pg_advisory_xact_lock({lock});
DO $$ BEGIN
  IF to_regnamespace('{schema}') IS NULL THEN CREATE SCHEMA {schema}; END IF;
END $$;
CREATE TABLE IF NOT EXISTS {schema}.meta (
  version integer NOT NULL,
  namespace integer NOT NULL
);
INSERT INTO {schema}.meta
  SELECT {version}, ('x' || substr(md5(gen_random_uuid()::text), 1, 8))::bit(32)::integer
  WHERE NOT EXISTS (SELECT FROM {schema}.meta);
CREATE TABLE IF NOT EXISTS {schema}.regions (
  id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  name text NOT NULL UNIQUE,
  dtype text NOT NULL,
  shape integer[] NOT NULL,
  byte_order text NOT NULL,
  revision bigint NOT NULL DEFAULT 0,
  token uuid NOT NULL DEFAULT gen_random_uuid(),
  data bytea NOT NULL
);
ALTER TABLE {schema}.regions ALTER COLUMN data SET STORAGE EXTERNAL;
CREATE TABLE IF NOT EXISTS {schema}.writers (
  region integer NOT NULL,
  writer uuid NOT NULL,
  store bigint NOT NULL,
  stored_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (region, writer)
);
CREATE SEQUENCE IF NOT EXISTS {schema}.fences INCREMENT BY {fences};
CREATE OR REPLACE FUNCTION {schema}.take(
  wanted integer, namespace integer, exclusive boolean, known uuid, patience integer,
  OUT revision bigint, OUT token uuid, OUT fence bigint, OUT data bytea)
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
  IF patience > 0 THEN PERFORM set_config('lock_timeout', patience::text, true); END IF;
  IF exclusive THEN
    PERFORM pg_advisory_lock(namespace, wanted);
    fence := nextval('{schema}.fences');
  ELSE
    PERFORM pg_advisory_lock_shared(namespace, wanted);
  END IF;
  SELECT r.revision, r.token, CASE WHEN r.token IS DISTINCT FROM known THEN r.data END
    INTO revision, token, data FROM {schema}.regions r WHERE r.id = wanted;
END $$;
CREATE OR REPLACE FUNCTION {schema}.store(
  wanted integer, known bigint, backend integer, author uuid, number bigint, fresh uuid,
  bytes bytea)
RETURNS bigint LANGUAGE plpgsql VOLATILE AS $$
DECLARE moved bigint;
BEGIN
  UPDATE {schema}.regions AS r SET data = bytes, revision = r.revision + 1, token = fresh
    WHERE r.id = wanted AND r.revision = known AND pg_backend_pid() = backend
    RETURNING r.revision INTO moved;
  IF moved IS NULL THEN RETURN NULL; END IF;
  INSERT INTO {schema}.writers AS w (region, writer, store) VALUES (wanted, author, number)
    ON CONFLICT (region, writer) DO UPDATE SET store = EXCLUDED.store, stored_at = now();
  PERFORM pg_notify('{schema}.' || wanted, moved::text);
  RETURN moved;
END $$;
{grants}COMMIT;
"""

_GRANTS = """\
GRANT USAGE ON SCHEMA {schema} TO {role};
GRANT SELECT ON {schema}.meta TO {role};
GRANT SELECT, INSERT, UPDATE, DELETE ON {schema}.regions, {schema}.writers TO {role};
GRANT USAGE ON SEQUENCE {schema}.fences TO {role};
"""


def ddl(schema: str = "shm_async", *, role: str | None = None) -> str:
    """The SQL that creates what regions need, for an administrator to run.

    Running it again changes nothing. A region creates all this itself, at its first use, if its
    role may. Connects to nothing, and so never blocks.

    Args:
        schema: the schema to create it in; as `open_region` is told by ``schema=``.
        role: also grant this role what a region's user needs.

    Raises:
        ValueError: a name that is no plain identifier in lower case.
    """
    check_schema(schema)
    grants = ""
    if role is not None:
        quoted = '"' + role.replace('"', '""') + '"'
        grants = _GRANTS.format(schema=schema, role=quoted)
    return _DDL.format(
        schema=schema, lock=CREATION_LOCK, version=VERSION, fences=FENCES, grants=grants
    )


ddl.__module__ = "shm_async.postgresql"


def check_schema(schema: str) -> None:
    """Refuse a name of a schema that would need quotes."""
    if not isinstance(schema, str) or not re.fullmatch(r"[a-z_][a-z0-9_]{0,39}", schema):
        raise ValueError(
            f"schema {schema!r} must be 1 to 40 letters a-z, digits and underscores, "
            "and begin with no digit"
        )
