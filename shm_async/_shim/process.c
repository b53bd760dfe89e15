#define _GNU_SOURCE
#include <errno.h>
#include <sys/prctl.h>

#include <stdint.h>

#include "shim.h"

int32_t shma_process_end_with_parent(int32_t signal)
{
    return prctl(PR_SET_PDEATHSIG, (unsigned long)signal) < 0 ? -errno : 0;
}

int32_t shma_process_adopt_orphans(void)
{
    return prctl(PR_SET_CHILD_SUBREAPER, 1UL) < 0 ? -errno : 0;
}
