/* ---- watch: to be told when a write has ended ----------------------------- */

/* How many inotify events are taken at once. */
enum { SHMA_WATCH_BATCH = 64 };

/*
 * One inotify instance. The caller gives the memory, zeroed, and keeps it until it is closed.
 * Only the shim writes it. A fork closes the descriptor in the child.
 */
typedef struct shma_watch {
    int32_t fd;    /* -1: closed, or this is a forked child */
    int32_t owner; /* by these four the descriptor is recognised: see identity.c */
    int32_t number;
    uint64_t device;
    uint64_t inode;
    int32_t found[64];        /* the result of shma_watch_read */
    struct shma_watch *next;  /* every instance of the process */
    struct shma_watch **link; /* what points to this one */
} shma_watch;

/* Make one. -EMFILE: max_user_instances is reached, or no descriptor is left. */
int32_t shma_watch_open(shma_watch *watch);

/*
 * -EBADF: it is closed. -EBADFD: the program has closed its descriptor. The other calls return
 * these, too.
 */
int32_t shma_watch_check(const shma_watch *watch);

/* Closing twice is fine. Takes 10 ms or more if a watch was added just before. */
void shma_watch_close(shma_watch *watch);

/*
 * Watch the object that `path` leads to: the watch descriptor, which is the same for the same
 * object. -ENOSPC: max_user_watches is reached.
 */
int32_t shma_watch_add(shma_watch *watch, const char *path);
int32_t shma_watch_remove(shma_watch *watch, int32_t number);

/* Watch the directory at `path` for new names. As above. */
int32_t shma_watch_add_names(shma_watch *watch, const char *path);

/*
 * Take events, without waiting: how many there were. `found` gets the watch descriptor of each,
 * and -1 where events were lost. There may be more; then the descriptor is still readable. Some
 * may be of watches that were removed since. Some mean nothing.
 */
int32_t shma_watch_read(shma_watch *watch);

/*
 * The newest generation, of its low 63 bits, at which a write had ended. If that is not after
 * `since` and `leave_word` is set, word is left in the control page, which must be mapped for
 * writing: the next writer to end tells, once. A dead writer's end counts as the number that it
 * would have stored: when the next writer begins, or at once if `ignore` is set.
 * -EWOULDBLOCK: none after `since`, and a writer is active; it may die there, so look again in
 * a while. -EOWNERDEAD: none, and the writer died, see `dead_pid`. -ERANGE, -ESTALE, -ENOLINK:
 * as for a lock. The `lock` must hold nothing and be used for nothing else.
 */
int64_t shma_watch_look(shma_lock *lock, int64_t since, int32_t leave_word);
