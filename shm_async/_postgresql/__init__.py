"""Regions in a PostgreSQL database: the public face is shm_async.postgresql."""
