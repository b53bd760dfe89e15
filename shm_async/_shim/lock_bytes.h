/*
 * The one home of the bytes of an object that we lock: OFD byte-range locks, far behind any
 * data. No byte there is ever read or written. Python reads this file through cffi, so it has
 * plain numbers only. A new byte gets its name here, and a number that no range reaches.
 */

/*
 * The gate (gate.c). A stay at the gate locks a range that ENDS with this byte and is up to
 * SHMA_GATE_LONGEST bytes long, so the bytes below it are taken too.
 */
#define SHMA_GATE_BYTE    0x4000000000000000
#define SHMA_GATE_LONGEST 0x1000000000000

/* Every attachment shares this byte; a process that removes the object takes it alone. */
#define SHMA_PRESENCE_BYTE 0x4000000000000001

/* Of a System V segment's companion: a process that creates or removes the segment has it. */
#define SHMA_CREATION_BYTE 0x4000000000000040
