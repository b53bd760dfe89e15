"""What libpq and the server report, as exceptions: none shows a password."""

import re
from typing import TYPE_CHECKING

from ..errors import RegionFormatError, RegionServerError

if TYPE_CHECKING:
    from psycopg.pq.abc import PGresult

__all__ = ["CalledOff", "DisconnectedError", "of_connecting", "of_result", "sqlstate"]


class DisconnectedError(RegionServerError):
    """The connection is gone, or could not be made now; a later try may succeed."""


class CalledOff(Exception):  # noqa: N818  # no error: somebody asked for it
    """The server stopped a wait for a lock because it was asked to, or the wait was too long."""


#: SQLSTATEs of what passes by: shutdown, start, crash, too many connections.
PASSING = {"57P01", "57P02", "57P03", "57P05", "53300", "25006"}

#: SQLSTATEs of a wait that was stopped: query_canceled, lock_not_available.
STOPPED = {"57014", "55P03"}

#: Begins of what the server says when it refuses a user, in libpq's text: there is no code.
REFUSALS = (
    "password authentication failed",
    "no password supplied",
    "no pg_hba.conf entry",
    "authentication failed",
    "is not permitted to log in",
    "permission denied for database",
)


def of_connecting(message: str, *, needs_password: bool = False) -> OSError:
    """The error for a connection that could not be made, from libpq's message."""
    message = _one_line(message)
    if needs_password or any(text in message for text in REFUSALS):
        return PermissionError(
            f"the database refuses this user: {message}; check the user and the password "
            "(the address, PGPASSWORD or ~/.pgpass)"
        )
    if re.search(r'database "[^"]*" does not exist', message):
        return RegionServerError(f"no such database: {message}; check the address")
    if re.search(r'role "[^"]*" does not exist', message):
        return PermissionError(f"no such user: {message}; check the address")
    if "SSL" in message and "server does not support" in message:
        return RegionServerError(f"{message}; check sslmode in the address")
    if re.search("certificate|private key", _without_names(message)):
        return RegionServerError(
            f"no trust between this host and the database: {message}; check sslmode, sslrootcert, "
            "sslcert and sslkey in the address, and when the certificates expire"
        )
    return DisconnectedError(f"the database cannot be reached: {message}")


def sqlstate(result: "PGresult") -> str:
    from psycopg.pq import DiagnosticField

    return (result.error_field(DiagnosticField.SQLSTATE) or b"").decode()


def of_result(result: "PGresult", doing: str) -> Exception:
    """The error for a command that the server refused."""
    from psycopg.pq import DiagnosticField

    code = sqlstate(result)
    text = (result.error_field(DiagnosticField.MESSAGE_PRIMARY) or b"").decode(errors="replace")
    if code in STOPPED:
        return CalledOff(text)
    if not code or code[:2] == "08" or code in PASSING:
        return DisconnectedError(f"the database ended the connection: {text or 'no reason given'}")
    if code == "42501":
        return PermissionError(
            f"the role may not {doing}: {text}; have an administrator run what "
            "`shm-async sql --role ROLE` prints"
        )
    if code in ("42P01", "42883", "42703", "3F000"):  # no such table, function, column, schema
        return RegionFormatError(
            f"the database's tables are not those of this version of shm_async: {text}; "
            "run what `shm-async sql` prints, or choose another schema="
        )
    return RegionServerError(f"the database could not {doing}: {text} (SQLSTATE {code})")


def _without_names(message: str) -> str:
    """The message without what it quotes: a host may be called anything."""
    return re.sub('"[^"]*"', '""', message)


def _one_line(message: str) -> str:
    return " ".join(message.split()) or "no reason given"
