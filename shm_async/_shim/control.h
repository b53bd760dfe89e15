/* ---- control page: the last 4096 bytes of a managed segment -------------- */

/*
 * Native byte order, as both sides are on one host. The first 128 bytes are written once,
 * before the segment has a name, and never again; `checksum` covers bytes 16 to 123. The
 * fields from `generation` on change all the time and have cache lines of their own.
 */
typedef struct {
    uint8_t magic[16];      /*   0  "shm_async region", no NUL                 */
    uint32_t version;       /*  16  of this format: 1                          */
    uint32_t flags;         /*  20  bit 0: sparse on purpose                   */
    uint64_t nbytes;        /*  24  of data                                    */
    uint64_t lineage;       /*  32  random, from creation; a replacement has the same one */
    uint8_t dtype[16];      /*  40  the element type's name, padded with NUL   */
    uint64_t creator_start; /*  56  clock ticks after boot (/proc/PID/stat 22) */
    uint32_t creator_pid;   /*  64  as its own pid namespace counts            */
    uint32_t ndim;          /*  68  dimensions, 1 to 6                         */
    uint64_t shape[6];      /*  72  elements per dimension; 0 beyond the last  */
    uint32_t epoch;         /* 120  0, and one more with each replacement      */
    uint32_t checksum;      /* 124  CRC-32 of bytes 16 to 123                  */
    uint64_t generation;    /* 128  odd: a writer is active, or died writing   */
    uint64_t writer_start;  /* 136  as creator_start, of the last writer; 0: not known */
    uint32_t writer_pid;    /* 144  of the last writer, as writer_ns counts    */
    uint32_t replaced;      /* 148  1: another object has its name, or was about to get it */
    uint64_t writer_since;  /* 152  when it began, ns (CLOCK_MONOTONIC); for people */
    uint64_t writer_ns;     /* 160  the inode of the pid namespace that counts it; 0: not known */
    uint32_t recent;        /* 168  how long writers have lately had it, ns, at most 1e6; a hint */
    uint8_t pad1[20];
    uint32_t gate;      /* 192  1: a waiter stands at the gate; a hint         */
    uint32_t watchers;  /* 196  bit 0: a watcher sleeps until something changes */
    uint64_t companion; /* 200  cookie of the file with a System V segment's lock; 0: none */
    uint8_t pad2[3888];
} shma_control;

/* The generation as it is now. Never blocks. Needs no lock. */
uint64_t shma_control_generation(const shma_control *control);
