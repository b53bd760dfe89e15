"""The modules whose names users may use."""

PUBLIC_MODULES = [
    "shm_async",
    "shm_async.contrib.dashboard",
    "shm_async.contrib.opentelemetry",
    "shm_async.contrib.prometheus",
    "shm_async.errors",
    "shm_async.mmap_ipc",
    "shm_async.postgresql",
    "shm_async.pytest_plugin",
    "shm_async.shm_typed_array",
]
