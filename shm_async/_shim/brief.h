/*
 * Which calls keep Python's GIL; for the wrappers that cffi writes, in no other file.
 *
 * cffi gives the GIL up around every call and then asks for it again. That is 8 % of a free lock,
 * and more where another thread computes, as each call may have to wait for that thread. The
 * calls named here keep the GIL, because none of them waits: a few system calls that return at
 * once, and no mutex. (But a try that has lost its descriptor opens the object again. It waits
 * for the registry's mutex then, whose owners need no GIL, and for a lease of the object.) All
 * others give it up, among them the spin, as another thread of this process may have the lock
 * and has to run to release it.
 */
#ifndef SHMA_BRIEF_H
#define SHMA_BRIEF_H

/* A wrapper knows its own name, and the compiler compares: nothing of it is left at run time. */
#define SHMA_IS(name) (!__builtin_strcmp(__func__, "_cffi_f_" #name))
#define SHMA_IS_BRIEF                                                                              \
    (SHMA_IS(shma_lock_try_shared) || SHMA_IS(shma_lock_try_exclusive) ||                          \
     SHMA_IS(shma_lock_try_manner) || SHMA_IS(shma_lock_release) || SHMA_IS(shma_lock_begin) ||    \
     SHMA_IS(shma_lock_end) || SHMA_IS(shma_lock_pass) || SHMA_IS(shma_lock_sound) ||              \
     SHMA_IS(shma_lock_recovered) || SHMA_IS(shma_lock_downgrade) || SHMA_IS(shma_lock_upgrade) || \
     SHMA_IS(shma_lock_mode) || SHMA_IS(shma_lock_mode_here) || SHMA_IS(shma_watch_look) ||        \
     SHMA_IS(shma_control_generation) || SHMA_IS(shma_snapshot_before) ||                          \
     SHMA_IS(shma_snapshot_after))

#undef Py_BEGIN_ALLOW_THREADS
#undef Py_END_ALLOW_THREADS
#define Py_BEGIN_ALLOW_THREADS                                                                     \
    {                                                                                              \
        PyThreadState *_save = SHMA_IS_BRIEF ? NULL : PyEval_SaveThread();
#define Py_END_ALLOW_THREADS                                                                       \
    if (!SHMA_IS_BRIEF)                                                                            \
        PyEval_RestoreThread(_save);                                                               \
    }

#endif
