/* ---- identity: whether a descriptor is still ours ------------------------- */

/* How one open file description of an object is recognised later; see identity.c. */
typedef struct {
    uint64_t device;
    uint64_t inode;
    int64_t position; /* of the description: `ahead` bytes behind the object's end */
    int32_t ahead;    /* random, > 0 */
} shma_identity;

/* Mark the description of an object that has just been opened. */
int32_t shma_identity_take(int32_t fd, shma_identity *identity);

/*
 * -EBADFD: the program has closed that descriptor, and perhaps another file has its number.
 * -ERANGE: the object has fewer than `size` bytes. -EBADF: `fd` is not a descriptor.
 */
int32_t shma_identity_check(int32_t fd, shma_identity *identity, int64_t size);

/* ---- snapshot: a copy of the data under no lock --------------------------- */

/* One argument instead of six: that is cheaper through cffi. */
typedef struct {
    const shma_control *control;
    int64_t size; /* bytes that the object behind `fd` must have */
    shma_identity *identity;
    int32_t fd;
    int32_t linked; /* refuse an object without a name */
    int32_t sysv;   /* the id of its System V segment; -1: it has none */
} shma_snapshot;

/*
 * The generation's low 63 bits, before and after the copy. If both are equal, the copy is a
 * state that existed. Before: -EWOULDBLOCK if it is odd; -ERANGE if the object has become
 * smaller, as its lost pages are a SIGBUS; -ESTALE, -ENOLINK, -EBADFD as for a lock.
 */
int64_t shma_snapshot_before(shma_snapshot *snapshot);
int64_t shma_snapshot_after(const shma_snapshot *snapshot);

/* ---- segment -------------------------------------------------------------- */

/*
 * Reserve `size` bytes from `start` on of the object behind `fd` without changing its size, so
 * that no later store can hit a full /dev/shm. May take a while: it zeroes memory. After -EINTR
 * and -ENOSPC none of these bytes is reserved that was not before.
 */
int32_t shma_segment_reserve(int32_t fd, int64_t start, int64_t size);

/*
 * Claim one byte (lock_bytes.h) of the object behind `fd`, without waiting. This is an OFD
 * lock, so it ends with the descriptor at the latest. `kind`: 0 releases the byte, 1 shares it,
 * 2 takes it alone (`fd` must be writable). -EWOULDBLOCK: another description has it.
 */
int32_t shma_segment_claim(int32_t fd, int64_t byte, int32_t kind);

/* Whether another description has claimed that byte in any way: 1 or 0. Claims nothing. */
int32_t shma_segment_claimed(int32_t fd, int64_t byte);

/*
 * Whether the object, which belongs to `owner`, is open or mapped through another description
 * than that of `fd`, which must be writable: 1 or 0. It takes a lease and gives it back at once;
 * other processes that open the object meanwhile wait. -EACCES: the object is another user's,
 * and we may neither have leases of it (CAP_LEASE) nor act as that user (CAP_SETUID).
 * -EINVAL: there are no leases here.
 */
int32_t shma_lease_open_elsewhere(int32_t fd, uint32_t owner);

/* ---- System V segment ----------------------------------------------------- */

/* The result of shmctl(IPC_STAT). */
typedef struct {
    uint64_t size;     /* bytes */
    uint64_t attached; /* attachments of all processes */
    uint32_t key;      /* 0: it was removed, and ends with its last attachment */
    uint32_t uid;      /* of its owner */
    uint32_t gid;
    uint32_t mode;        /* permission bits */
    uint32_t removed;     /* 1: it was removed */
    uint32_t creator_pid; /* as the caller's pid namespace counts */
} shma_sysv_facts;

/* Make a segment that must not exist yet: its id. `reserve` 0: no memory is set aside. */
int32_t shma_sysv_create(uint32_t key, uint64_t size, uint32_t mode, int32_t reserve);

/* The id of the segment with that key. -ENOENT: there is none. */
int32_t shma_sysv_find(uint32_t key);

int32_t shma_sysv_stat(int32_t id, shma_sysv_facts *facts);

/* Give it to that user and group; -1 changes nothing. -EPERM: only its owner and root may. */
int32_t shma_sysv_give(int32_t id, int64_t uid, int64_t gid);

/*
 * Attach the whole segment in place of the range at `address`. The caller has mapped that
 * range, with the segment's size, and unmaps it: that detaches the segment.
 */
int32_t shma_sysv_place(int32_t id, void *address, int32_t writable);

/* Copy `size` bytes at `offset`, attaching for a moment. -ERANGE: the segment is smaller. */
int32_t shma_sysv_read(int32_t id, uint64_t offset, uint8_t *target, uint64_t size);

/* Remove it: its key leads nowhere any more, and it ends with its last attachment. */
int32_t shma_sysv_remove(int32_t id);

/* ---- mapping -------------------------------------------------------------- */

/*
 * Map the first `size` bytes of `fd` (MAP_SHARED) in place of the range at `address`. The
 * caller has mapped that range, of the same size, and unmaps it.
 */
int32_t shma_mapping_place(void *address, uint64_t size, int32_t fd, int32_t writable);

/*
 * Put private zeros in place of the mapping at `address`: the object is released, and a stale
 * view sees zeros. One step: there is never a hole, so never a fault.
 */
int32_t shma_mapping_discard(void *address, uint64_t size, int32_t writable);

/* mlock2(MLOCK_ONFAULT); undone when the range is unmapped. */
int32_t shma_mapping_lock(void *address, uint64_t size);

/* ---- process -------------------------------------------------------------- */

/* Have the kernel send the calling process `signal` when the thread that forked it ends. */
int32_t shma_process_end_with_parent(int32_t signal);

/* Become the parent of descendants whose own parent has ended, instead of init. */
int32_t shma_process_adopt_orphans(void);
