"""The texts of the command, for its help and its manual page."""

__all__ = ["COMMANDS", "DESCRIPTION", "EPILOG", "REGION_NAMES", "SUMMARY", "USAGES"]

SUMMARY = "see, inspect and use shared memory and its locks"

DESCRIPTION = """\
See, inspect and use shared memory: POSIX objects in /dev/shm and System V segments, those of
shm_async with their locks, and those of any other program."""

EPILOG = """\
A region is named as in the API: NAME or /NAME for an object in /dev/shm, 0x1234 (or --key 1234)
for a System V segment; /0x1234 is an object of that name. "?" stands for a fact that the kernel
does not tell this user. ls, info, holders, top and doctor take no lock and attach to nothing.

exit status:
  0    done
  1    not found, or the lock was not granted in time
  2    the command line makes no sense
  3    any other failure: no permission, a damaged region, no memory, a writer that died
  130  Ctrl-C;  141: the reader of the output has ended
  lock and watch also return the exit status of the command that they run."""

#: Each command: one line, and more details.
COMMANDS = {
    "ls": (
        "list the regions of this host",
        "On a terminal that is too narrow it leaves out columns; --json and a pipe show all.",
    ),
    "info": (
        "show all facts of a region, its problems and their solutions",
        "It shows its facts, the processes that have it attached, the lock's holders and waiters, "
        "and the fields of the control page.",
    ),
    "holders": (
        "show the holders of a region's lock, and its waiters",
        "Programs that use flock(2) alone are listed, too.",
    ),
    "dump": (
        "print the data of a region",
        "It copies the data under the read lock and prints after releasing it.",
    ),
    "get": (
        "print elements of a region, a line each",
        "It copies them under the read lock. INDEX is a number, from the end if negative; one "
        "number for each dimension (1,2); or a range (2:5). Without it, all elements are printed.",
    ),
    "set": (
        "store elements in a region",
        "It stores the values from INDEX on, under the write lock. A single - as VALUE reads raw "
        "bytes from stdin, and stores them in a transaction: all or nothing. Put -- in front of "
        "values that look like options.",
    ),
    "lock": (
        "run a command while the lock of a region is held",
        "The options are those of flock(1). COMMAND does not inherit the lock. When COMMAND ends, "
        "however it ends, the lock is released and its exit status returned (128 and the number "
        "of the signal that killed it; 69 if it cannot be executed). When shm-async is killed, "
        "COMMAND is killed, too, and then the lock is free; the region is then marked as "
        "half-written. SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2 and SIGALRM are passed "
        "on. If an earlier writer died, it prints a warning and goes on. There is no -u: that "
        "option is for descriptors of a shell, which flock(1) has.",
    ),
    "watch": (
        "report every change of a region",
        "It prints a line for each change, or runs COMMAND, with SHM_ASYNC_NAME and "
        "SHM_ASYNC_GENERATION in its environment; with --json, a JSON object a line. Changes that "
        "come faster than it reports are reported once, and the last one is never missed. It ends "
        "with status 1 when the region is removed, or when --timeout passes without a change. With "
        "--once it returns the exit status of COMMAND.",
    ),
    "top": (
        "show the regions of this host live, by writes a second",
        "Keys: q ends, < and > choose the sort field, r reverses, space looks at once. With "
        "--count, or if the output is not a terminal, it prints one table after each interval; "
        "with --json, one JSON array a line.",
    ),
    "doctor": (
        "find the settings of this host that hinder shared memory, with fixes",
        "It checks /dev/shm, limits of memory and inotify, System V, namespaces, the kernel, "
        "logind and the regions that need action. Exit status 4: something will not work.",
    ),
    "bench": (
        "measure the cost of the lock on this machine",
        "It compares free locks with flock(2) and asyncio.Lock, and two processes that write as "
        "fast as they can. It creates a region for that, and removes it.",
    ),
    "create": (
        "create a region",
        "Its data is zero. The name, or the key, must be free.",
    ),
    "rm": (
        "remove regions",
        "Attached processes keep the memory, and new ones do not find it.",
    ),
    "resize": (
        "give a region another length",
        "It takes the write lock, keeps the data, and zeroes new elements. Only managed regions "
        "that have a name can be resized.",
    ),
    "prune": (
        "list the unused regions, and remove them with --force",
        "These are managed regions that no process has attached, and the objects that crashes "
        "left. Raw and sized objects stay: rm removes those.",
    ),
    "sql": (
        "print the SQL that regions in PostgreSQL need",
        "It is for an administrator, where the role of a service may not create a schema. It "
        "connects to nothing: pipe it to psql. Running it twice is harmless.",
    ),
}

#: The arguments after a command's name.
USAGES = {
    "ls": "[OPTION]... [PATTERN]",
    "info": "[OPTION]... NAME",
    "holders": "[OPTION]... NAME",
    "dump": "[OPTION]... NAME",
    "get": "[OPTION]... NAME [INDEX]",
    "set": "[OPTION]... NAME INDEX VALUE...",
    "lock": "[OPTION]... NAME [--] COMMAND [ARGUMENT]...",
    "watch": "[OPTION]... NAME [[--] COMMAND [ARGUMENT]...]",
    "top": "[OPTION]... [PATTERN]",
    "doctor": "[--json]",
    "bench": "[OPTION]...",
    "create": "[OPTION]... NAME [LENGTH]",
    "rm": "[OPTION]... NAME...",
    "resize": "[OPTION]... NAME [LENGTH]",
    "prune": "[OPTION]... [PATTERN]",
    "sql": "[OPTION]...",
}

#: For shtab: the shell functions that complete a region's name.
REGION_NAMES = {
    "bash": "_shm_async_regions",
    "zsh": "_shm_async_regions",
    "fish": "(command shm-async ls --quiet 2>/dev/null)",
}
