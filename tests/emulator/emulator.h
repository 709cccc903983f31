/*
 * The emulator: a CUDA runtime on host memory, for machines without a GPU.
 *
 * emulator_runtime.h declares the runtime's calls; this header controls them. What the emulator promises:
 *
 * - Work put on a stream is not done until something forces it: a synchronisation, a copy that blocks the host, a
 *   query asked often enough, a step of the scheduler. Until then a read of the memory sees the old data, so that a
 *   missing wait is a deterministic wrong answer. Forcing runs what it depends on and nothing else.
 * - What the runtime does not order is not ordered: streams, events, captures and devices answer as measured on GPUs,
 *   and one suite of behaviours (behaviours.c) runs against both.
 * - Memory is filled with EMULATOR_FRESH when its allocation takes effect and with EMULATOR_FREED when it is freed,
 *   both in stream order; freed memory is handed out again at once.
 * - A wrong use that a GPU would meet with undefined behaviour (a handle used after its destruction, memory freed
 *   twice) is answered with an error code and also noted as a violation.
 *
 * Threads: every function may be called from any thread, with or without Python's GIL, unless it says otherwise.
 * Kernels run on the thread that forces them, host functions on a thread of the emulator's own; both without any lock
 * held. They must not call the runtime (answered with cudaErrorNotPermitted, and noted as a violation).
 *
 * Real device pointers must never be passed in. A child process made by fork without exec must not use the emulator.
 */
#ifndef EMULATOR_H
#define EMULATOR_H

#include "emulator_runtime.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The byte that fills memory whose allocation has taken effect and that nobody has written to. */
#define EMULATOR_FRESH 0xA5

/* The byte that fills memory whose freeing has taken effect. */
#define EMULATOR_FREED 0xDB

/* The largest number of devices that can be emulated. */
#define EMULATOR_MAX_DEVICES 8

/* The memory of each device in bytes; an allocation beyond it fails with cudaErrorMemoryAllocation. */
#define EMULATOR_DEVICE_MEMORY ((size_t)4 << 30)

/* How often a query answers cudaErrorNotReady before it makes progress, unless set otherwise. */
#define EMULATOR_QUERY_PATIENCE 16

/*
 * Puts everything back to the start: pending work is dropped without running, all memory and all handles become
 * invalid, contexts, records, scripted failures, violations and settings are forgotten, and every thread's current
 * device, last error and capture mode are the initial ones. Waits for functions that are running, so that the caller
 * must not hold what they need (the GIL, if they take it). No other thread may be inside a call. Not from kernels or
 * host functions.
 */
EMULATOR_API void emulator_reset(void);

/*
 * Sets the number of devices, 0 to EMULATOR_MAX_DEVICES; initially 2. With 0 every call answers cudaErrorNoDevice.
 * Returns 0, or -1 if the count is out of range or something already exists on a device that would go.
 */
EMULATOR_API int emulator_set_device_count(int count);

/* Whether a call has created a context on the device; false for a device that does not exist. */
EMULATOR_API bool emulator_has_context(int device);

/* The number of the calling thread, as recorded calls give it: 1 for the first thread that used the emulator. */
EMULATOR_API unsigned long long emulator_thread(void);

/*
 * Launches a kernel: function will be called with a copy of the size bytes at arguments (aligned as malloc aligns; NULL
 * if size is 0), when the stream's order permits and something forces it. It behaves as a kernel launch in every
 * respect: in a capture it becomes a graph node, whose every replay gets its own copy of the arguments, and a stream of
 * another than the current device is answered with cudaErrorInvalidResourceHandle.
 *
 * Recorded, and scripted to fail, under the name "emulator_launch".
 */
EMULATOR_API cudaError_t emulator_launch(cudaStream_t stream, void (*function)(void *arguments), const void *arguments,
                                         size_t size);

/* --------------------------------------------------------------------------------------------------------------------
 * Pending work
 */

/* How many pieces of work are not done: kernels, copies, fills, host functions, allocations and frees, and the event
 * records and waits between them that have something to wait for. */
EMULATOR_API size_t emulator_count_pending(void);

/* Whether the stream (of the current device, for the handles 0, 1 and 2) has work that is not done. Unlike
 * cudaStreamQuery it makes no progress, is not recorded, and minds no capture. False, and a violation, for an invalid
 * handle. */
EMULATOR_API bool emulator_is_pending(cudaStream_t stream);

/*
 * Runs up to steps pieces of work, each chosen at random (reproducibly from seed) among those that nothing pending
 * stands before. Returns how many were run; fewer than steps if nothing was left to choose. Waits for the functions
 * that it starts. Not from kernels or host functions.
 */
EMULATOR_API size_t emulator_schedule(uint64_t seed, size_t steps);

/* Finishes all work, oldest first, and returns how many pieces were pending. Waits for the functions that it starts.
 * Not from kernels or host functions. */
EMULATOR_API size_t emulator_run_all(void);

/*
 * Sets how often cudaStreamQuery and cudaEventQuery answer cudaErrorNotReady for the same pending work; the next query
 * then runs what it depends on, without waiting for host functions, so that a loop of queries ends.
 */
EMULATOR_API void emulator_set_query_patience(unsigned int queries);

/*
 * Lets a thread of the emulator finish work by itself, delay_ms milliseconds after it was enqueued, in any order that
 * is permitted; negative (the initial setting) turns this off again. Returns 0, or -1 if the thread cannot be started.
 */
EMULATOR_API int emulator_set_background(int delay_ms);

/*
 * Sets a function that is called, on the calling thread and without any lock, whenever a call is about to block the
 * host in the real runtime, work pending or not: cudaDeviceSynchronize, cudaStreamSynchronize, cudaEventSynchronize,
 * cudaFree of memory that is not from a pool or a graph, cudaMallocHost, cudaHostAlloc, cudaFreeHost, and the copies
 * and fills that the runtime documents as synchronous (all to pageable memory among them). name is the call's, with
 * static storage. A call that fails before it would block does not count. NULL (the initial setting) for none. The hook
 * may make calls of its own.
 */
EMULATOR_API void emulator_set_blocking_hook(void (*hook)(const char *name, void *context), void *context);

/* --------------------------------------------------------------------------------------------------------------------
 * Recorded calls
 */

/* One call of the runtime. Arguments that the call does not take are zero. */
typedef struct emulator_call {
    const char        *name; /* as the runtime spells it, "cudaEventRecord"; static storage */
    cudaError_t        result;
    unsigned long long thread;         /* see emulator_thread */
    int                current_device; /* of that thread, when the call was made */
    int                device;         /* the device that the call is about */
    cudaStream_t       stream;         /* as passed; for a call that creates a stream, the new one */
    cudaEvent_t        event;          /* likewise */
    const void        *pointer; /* the memory, for copies the destination; for a call that allocates, the new memory */
    const void        *source;  /* of copies */
    size_t             size;    /* in bytes */
    unsigned int       flags;   /* flags, mode or attribute */
} emulator_call_t;

/* Switches recording on or off; it is on initially. What was recorded stays, at about 100 bytes a call. */
EMULATOR_API void emulator_record_calls(bool on);

/* How many recorded calls have that name; with NULL all of them. */
EMULATOR_API size_t emulator_count_calls(const char *name);

/* Copies the recorded call at index, counted from 0 in the order in which the calls were made. Returns 0, or -1 if
 * there are not that many. */
EMULATOR_API int emulator_get_call(size_t index, emulator_call_t *call);

/* Forgets the recorded calls. */
EMULATOR_API void emulator_clear_calls(void);

/* --------------------------------------------------------------------------------------------------------------------
 * Scripted failures
 */

/*
 * The nth call from now (1 is the next) of the named function, or of any function if name is NULL, fails with error and
 * has no other effect than to set the thread's last error. Several failures can be scripted; each happens once and
 * counts by itself. cudaGetLastError, cudaPeekAtLastError, cudaGetErrorName and cudaGetErrorString never fail and are
 * not counted. Returns 0, or -1 if nth is less than 1, error is cudaSuccess, or name is no such function.
 */
EMULATOR_API int emulator_fail(const char *name, int nth, cudaError_t error);

/* Forgets the scripted failures that have not happened yet. */
EMULATOR_API void emulator_fail_clear(void);

/* How many scripted failures have not happened yet. */
EMULATOR_API size_t emulator_count_failures(void);

/* --------------------------------------------------------------------------------------------------------------------
 * Violations and leaks
 */

/* How many violations were noted: wrong uses that a real runtime does not, or not reliably, detect. */
EMULATOR_API size_t emulator_count_violations(void);

/* Copies the text of the violation at index, counted from 0 in the order of their happening, cut to size bytes with the
 * terminator. Returns 0, or -1 if there are not that many. */
EMULATOR_API int emulator_get_violation(size_t index, char *text, size_t size);

/* Forgets the violations. */
EMULATOR_API void emulator_clear_violations(void);

/* One allocation that has not been freed. */
typedef struct emulator_allocation {
    const char *kind; /* "device", "pool", "managed", "pinned" or "graph"; static storage */
    void       *pointer;
    size_t      size; /* as asked for, in bytes */
    int         device;
} emulator_allocation_t;

/* How many allocations have not been freed. One counts as freed from the call that frees it, also if that takes effect
 * later, in stream order; memory of a graph counts from the launch that allocates it to the free that is executed. */
EMULATOR_API size_t emulator_count_allocations(void);

/* Copies the allocation at index, counted from 0 in the order of their addresses. Returns 0, or -1 if there are not
 * that many. */
EMULATOR_API int emulator_get_allocation(size_t index, emulator_allocation_t *allocation);

/* The bytes asked for of the device's pool that are not free: allocated, or freed and the free not yet executed. */
EMULATOR_API size_t emulator_pool_bytes(int device);

/* How many handles have not been destroyed. The handles 0, 1 and 2 do not count, nor do graphs that are being
 * captured. */
EMULATOR_API size_t emulator_count_streams(void);
EMULATOR_API size_t emulator_count_events(void);
EMULATOR_API size_t emulator_count_graphs(void);
EMULATOR_API size_t emulator_count_executable_graphs(void);

#ifdef __cplusplus
}
#endif

#endif
