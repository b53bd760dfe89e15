/*
 * The contract between the C and Python, in the order in which its parts need each other.
 * Python's side of it is _native.py alone.
 *
 * cffi reads the five headers below as they stand (build_ffi.py), so they hold declarations and
 * numbers only: no #include, no #if. C files include this one.
 *
 * Every function returns >= 0 on success and -errno on failure, unless its comment says
 * otherwise. None calls back into Python, none prints.
 */
#ifndef SHMA_SHIM_H
#define SHMA_SHIM_H

#include <stdint.h>

#include "lock_bytes.h"
#include "control.h"
#include "objects.h"
#include "locking.h"
#include "watching.h"

#endif
