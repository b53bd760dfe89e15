"""`sql`: what an administrator runs for regions in PostgreSQL."""

from argparse import Namespace

from .._postgresql.schema import ddl

__all__ = ["sql"]


def sql(options: Namespace) -> int:
    """Print the DDL."""
    print(ddl(options.schema, role=options.role), end="")
    return 0
