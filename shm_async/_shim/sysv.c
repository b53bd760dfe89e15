#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/shm.h>

#include "shim.h"

static int32_t get(uint32_t key, uint64_t size, int flags)
{
    int id = shmget((key_t)key, size, flags);

    return id < 0 ? -errno : id;
}

int32_t shma_sysv_create(uint32_t key, uint64_t size, uint32_t mode, int32_t reserve)
{
    int flags = IPC_CREAT | IPC_EXCL | (int)(mode & 0777) | (reserve ? 0 : SHM_NORESERVE);

    return get(key, size, flags);
}

int32_t shma_sysv_find(uint32_t key) { return get(key, 0, 0); }

int32_t shma_sysv_stat(int32_t id, shma_sysv_facts *facts)
{
    struct shmid_ds found;

    if (shmctl(id, IPC_STAT, &found) < 0)
        return -errno;
    facts->size = found.shm_segsz;
    facts->attached = found.shm_nattch;
    facts->key = (uint32_t)found.shm_perm.__key;
    facts->uid = found.shm_perm.uid;
    facts->gid = found.shm_perm.gid;
    facts->mode = found.shm_perm.mode & 0777;
    facts->creator_pid = (uint32_t)found.shm_cpid;
    facts->removed = (found.shm_perm.mode & SHM_DEST) != 0;
    return 0;
}

int32_t shma_sysv_give(int32_t id, int64_t uid, int64_t gid)
{
    struct shmid_ds found;

    if (shmctl(id, IPC_STAT, &found) < 0)
        return -errno;
    if (uid >= 0)
        found.shm_perm.uid = (uid_t)uid;
    if (gid >= 0)
        found.shm_perm.gid = (gid_t)gid;
    return shmctl(id, IPC_SET, &found) < 0 ? -errno : 0;
}

int32_t shma_sysv_place(int32_t id, void *address, int32_t writable)
{
    int flags = SHM_REMAP | (writable ? 0 : SHM_RDONLY);

    return shmat(id, address, flags) == (void *)-1 ? -errno : 0;
}

int32_t shma_sysv_read(int32_t id, uint64_t offset, uint8_t *target, uint64_t size)
{
    shma_sysv_facts facts = {0};
    uint8_t *data;
    int32_t code = shma_sysv_stat(id, &facts);

    if (code < 0)
        return code;
    if (offset > facts.size || size > facts.size - offset)
        return -ERANGE;
    data = shmat(id, NULL, SHM_RDONLY);
    if (data == (void *)-1)
        return -errno;
    memcpy(target, data + offset, size);
    return shmdt(data) < 0 ? -errno : 0;
}

int32_t shma_sysv_remove(int32_t id) { return shmctl(id, IPC_RMID, NULL) < 0 ? -errno : 0; }
