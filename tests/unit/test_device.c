/*
 * Checks device.h: what memory a pointer lies in, and that the current device is put back whatever fails.
 */
#define _POSIX_C_SOURCE 200809L /* barriers */

#include <cai/device.h>

#include "unit.h"

#include <stdlib.h>

TestSuite(device, .timeout = UNIT_TIMEOUT);

#if defined(CAI_NO_CUDA)

/* Built without CUDA: nothing is known of a device, and nothing is made current. */
Test(device, pointers_are_on_a_device_that_is_not_known)
{
    static const uint64_t addresses[] = {1, 4096, 0x7F0000001000, UINT64_MAX};
    for (size_t i = 0; i < UNIT_COUNT(addresses); i++) {
        cai_device_t device = {99, 99};
        cai_error_t  error;
        cr_expect_eq(cai_pointer_device((void *)addresses[i], &device, &error), CAI_OK);
        cr_expect_eq(device.device_type, CAI_DEVICE_CUDA);
        cr_expect_eq(device.device_id, -1);
        cr_expect_eq(cai_pointer_device((void *)addresses[i], &device, NULL), CAI_OK);
    }
}

Test(device, no_device_is_current)
{
    int32_t device = 99;
    cr_expect_eq(cai_current_device(&device, NULL), CAI_OK);
    cr_expect_eq(device, -1);
}

Test(device, guard_does_nothing)
{
    static const int32_t devices[] = {-1, 0, 1, 1000};
    for (size_t i = 0; i < UNIT_COUNT(devices); i++) {
        cai_device_guard_t guard;
        memset(&guard, 0x5A, sizeof(guard));
        cr_expect_eq(cai_device_guard_enter(&guard, devices[i], NULL), CAI_OK);
        cr_expect_eq(guard.previous, -1);
        cr_expect_eq(cai_device_guard_leave(&guard, NULL), CAI_OK);
        cr_expect_eq(cai_device_guard_leave(&guard, NULL), CAI_OK);
    }
}

#else

#include "unit_cuda.h"

#include <pthread.h>

/* ---- pointers ---------------------------------------------------------------------------------------------------- */

enum { SIZE = 4096 };

typedef enum memory_kind {
    DEVICE,
    POOL,
    MANAGED,
    PINNED,
    PINNED_PORTABLE,
    PINNED_MAPPED,
    ALLOCATED,
    STATIC,
    WILD
} memory_kind_t;

typedef struct memory_case {
    const char   *name;
    memory_kind_t kind;
    int           device; /* on which it is allocated */
    int32_t       device_type, device_id;
} memory_case_t;

static const memory_case_t memories[] = {
    {"device 0", DEVICE, 0, CAI_DEVICE_CUDA, 0},
    {"device 1", DEVICE, 1, CAI_DEVICE_CUDA, 1},
    {"pool of device 0", POOL, 0, CAI_DEVICE_CUDA, 0},
    {"pool of device 1", POOL, 1, CAI_DEVICE_CUDA, 1},
    {"managed on device 0", MANAGED, 0, CAI_DEVICE_CUDA_MANAGED, 0},
    {"managed on device 1", MANAGED, 1, CAI_DEVICE_CUDA_MANAGED, 1},
    {"pinned", PINNED, 0, CAI_DEVICE_CUDA_HOST, 0},
    {"pinned on device 1", PINNED, 1, CAI_DEVICE_CUDA_HOST, 0},
    {"pinned, portable", PINNED_PORTABLE, 1, CAI_DEVICE_CUDA_HOST, 0},
    {"pinned, mapped", PINNED_MAPPED, 0, CAI_DEVICE_CUDA_HOST, 0},
    {"malloc", ALLOCATED, 0, CAI_DEVICE_CPU, 0},
    {"static", STATIC, 0, CAI_DEVICE_CPU, 0},
    {"wild", WILD, 0, CAI_DEVICE_CPU, 0},
};

static char static_memory[SIZE];

static char *allocate(const memory_case_t *row)
{
    void        *memory = NULL;
    cudaStream_t stream;
    UNIT_CUDA(cudaSetDevice(row->device));
    switch (row->kind) {
    case DEVICE: UNIT_CUDA(cudaMalloc(&memory, SIZE)); break;
    case POOL:
        stream = unit_stream(cudaStreamNonBlocking);
        UNIT_CUDA(cudaMallocAsync(&memory, SIZE, stream));
        UNIT_CUDA(cudaStreamSynchronize(stream));
        break;
    case MANAGED: UNIT_CUDA(cudaMallocManaged(&memory, SIZE, cudaMemAttachGlobal)); break;
    case PINNED: UNIT_CUDA(cudaMallocHost(&memory, SIZE)); break;
    case PINNED_PORTABLE: UNIT_CUDA(cudaHostAlloc(&memory, SIZE, cudaHostAllocPortable)); break;
    case PINNED_MAPPED: UNIT_CUDA(cudaHostAlloc(&memory, SIZE, cudaHostAllocMapped)); break;
    case ALLOCATED: memory = malloc(SIZE); break;
    case STATIC: memory = static_memory; break;
    case WILD: memory = (void *)UINT64_C(0x123456789000); break;
    }
    cr_assert_not_null(memory, "%s", row->name);
    return (char *)memory;
}

Test(device, pitfall_17_memory_of_pointers)
{
    static const ptrdiff_t inside[] = {0, 1, 7, 256, SIZE - 1};
    for (size_t i = 0; i < UNIT_COUNT(memories); i++) {
        const memory_case_t *row = &memories[i];
        char                *memory = allocate(row);
        for (int current = 0; current < 2; current++) {
            UNIT_CUDA(cudaSetDevice(current));
            for (size_t j = 0; j < UNIT_COUNT(inside); j++) {
                cai_device_t device = {99, 99};
                cai_error_t  error;
                cr_expect_eq(cai_pointer_device(memory + inside[j], &device, &error), CAI_OK, "%s + %td", row->name,
                             inside[j]);
                cr_expect_eq(device.device_type, row->device_type, "%s + %td: type %d", row->name, inside[j],
                             device.device_type);
                cr_expect_eq(device.device_id, row->device_id, "%s + %td: number %d while %d is current", row->name,
                             inside[j], device.device_id, current);
            }
            cr_expect_eq(unit_current_device(), current, "%s: the current device", row->name);
        }
        if (row->kind == ALLOCATED)
            free(memory);
    }
    cr_expect_eq(emulator_cudaPeekAtLastError(), cudaSuccess);
    UNIT_NO_VIOLATIONS();
}

Test(device, pitfall_17_one_query_per_pointer)
{
    cai_device_t device;
    void        *memory = NULL;
    UNIT_CUDA(cudaMalloc(&memory, SIZE));
    emulator_clear_calls();
    cr_expect_eq(cai_pointer_device(memory, &device, NULL), CAI_OK);
    cr_expect_eq(emulator_count_calls(NULL), 1);
    cr_expect_eq(emulator_count_calls("cudaPointerGetAttributes"), 1);
}

Test(device, pitfall_17_queries_create_no_context)
{
    cai_device_t device;
    int32_t      current = 99;
    int          on_the_stack = 0;
    cr_expect_eq(cai_pointer_device(&on_the_stack, &device, NULL), CAI_OK);
    cr_expect_eq(device.device_type, CAI_DEVICE_CPU);
    cr_expect_eq(cai_current_device(&current, NULL), CAI_OK);
    cr_expect_eq(current, 0);
    cr_expect_not(emulator_has_context(0));
    cr_expect_not(emulator_has_context(1));
}

Test(device, failing_query_of_a_pointer)
{
    int          on_the_stack = 0;
    cai_device_t device;
    cai_error_t  error;
    cr_assert_eq(emulator_fail("cudaPointerGetAttributes", 1, cudaErrorDevicesUnavailable), 0);
    cr_expect_eq(cai_pointer_device(&on_the_stack, &device, &error), CAI_ERROR_CUDA_CALL);
    cr_expect_eq(error.status, CAI_ERROR_CUDA_CALL);
    cr_expect_eq(error.cuda_code, cudaErrorDevicesUnavailable);
    cr_expect_str_eq(error.cuda_name, "cudaErrorDevicesUnavailable");
    cr_expect_eq(strncmp(error.message, "cudaPointerGetAttributes failed: ", 33), 0, "%s", error.message);
    cr_expect_eq(emulator_cudaPeekAtLastError(), cudaSuccess);
    cr_assert_eq(emulator_fail("cudaPointerGetAttributes", 1, cudaErrorDevicesUnavailable), 0);
    cr_expect_eq(cai_pointer_device(&on_the_stack, &device, NULL), CAI_ERROR_CUDA_CALL);
    cr_expect_eq(cai_pointer_device(&on_the_stack, &device, NULL), CAI_OK);
}

/* ---- the current device ------------------------------------------------------------------------------------------ */

Test(device, current_device)
{
    for (int i = 1; i >= 0; i--) {
        int32_t current = 99;
        UNIT_CUDA(cudaSetDevice(i));
        cr_expect_eq(cai_current_device(&current, NULL), CAI_OK);
        cr_expect_eq(current, i);
    }
}

Test(device, failing_query_of_the_current_device)
{
    int32_t     current = 99;
    cai_error_t error;
    cr_assert_eq(emulator_fail("cudaGetDevice", 1, cudaErrorInitializationError), 0);
    cr_expect_eq(cai_current_device(&current, &error), CAI_ERROR_CUDA_CALL);
    cr_expect_eq(error.cuda_code, cudaErrorInitializationError);
    cr_expect_eq(strncmp(error.message, "cudaGetDevice failed: ", 22), 0, "%s", error.message);
    cr_expect_eq(emulator_cudaPeekAtLastError(), cudaSuccess);
}

Test(device, pitfall_55_guard_enters_and_leaves)
{
    for (int from = 0; from < 2; from++) {
        for (int to = 0; to < 2; to++) {
            cai_device_guard_t guard;
            cai_error_t        error;
            memset(&guard, 0x5A, sizeof(guard));
            UNIT_CUDA(cudaSetDevice(from));
            cr_expect_eq(cai_device_guard_enter(&guard, to, &error), CAI_OK, "%d to %d", from, to);
            cr_expect_eq(unit_current_device(), to, "%d to %d", from, to);
            cr_expect_eq(cai_device_guard_leave(&guard, &error), CAI_OK, "%d to %d", from, to);
            cr_expect_eq(unit_current_device(), from, "%d to %d", from, to);
        }
    }
}

/* Nothing is called that changes nothing. */
Test(device, guard_calls_what_it_must)
{
    cai_device_guard_t guard;
    emulator_clear_calls();
    cr_expect_eq(cai_device_guard_enter(&guard, 0, NULL), CAI_OK);
    cr_expect_eq(emulator_count_calls("cudaSetDevice"), 0, "the device is current already");
    cr_expect_eq(emulator_count_calls(NULL), 1);
    emulator_clear_calls();
    cr_expect_eq(cai_device_guard_leave(&guard, NULL), CAI_OK);
    cr_expect_eq(emulator_count_calls(NULL), 0, "there is nothing to go back to");
    cr_expect_not(emulator_has_context(0));

    cr_expect_eq(cai_device_guard_enter(&guard, 1, NULL), CAI_OK);
    cr_expect_eq(emulator_count_calls("cudaSetDevice"), 1);
    cr_expect_eq(emulator_count_calls(NULL), 2);
    emulator_clear_calls();
    cr_expect_eq(cai_device_guard_leave(&guard, NULL), CAI_OK);
    cr_expect_eq(emulator_count_calls(NULL), 1);
    cr_expect_eq(emulator_count_calls("cudaSetDevice"), 1);
}

Test(device, guard_left_twice_is_harmless)
{
    cai_device_guard_t guard;
    cr_expect_eq(cai_device_guard_enter(&guard, 1, NULL), CAI_OK);
    cr_expect_eq(cai_device_guard_leave(&guard, NULL), CAI_OK);
    UNIT_CUDA(cudaSetDevice(1));
    emulator_clear_calls();
    cr_expect_eq(cai_device_guard_leave(&guard, NULL), CAI_OK);
    cr_expect_eq(emulator_count_calls(NULL), 0);
    cr_expect_eq(unit_current_device(), 1);
}

Test(device, guards_nest)
{
    cai_device_guard_t outer, inner, innermost;
    cr_expect_eq(cai_device_guard_enter(&outer, 1, NULL), CAI_OK);
    cr_expect_eq(cai_device_guard_enter(&inner, 0, NULL), CAI_OK);
    cr_expect_eq(cai_device_guard_enter(&innermost, 0, NULL), CAI_OK);
    cr_expect_eq(unit_current_device(), 0);
    cr_expect_eq(cai_device_guard_leave(&innermost, NULL), CAI_OK);
    cr_expect_eq(unit_current_device(), 0);
    cr_expect_eq(cai_device_guard_leave(&inner, NULL), CAI_OK);
    cr_expect_eq(unit_current_device(), 1);
    cr_expect_eq(cai_device_guard_leave(&outer, NULL), CAI_OK);
    cr_expect_eq(unit_current_device(), 0);
}

/* Whichever call fails, the device is as before and leaving is harmless. */
Test(device, pitfall_55_failing_enter)
{
    static const char *const calls[] = {"cudaGetDevice", "cudaSetDevice"};
    for (int nth = 1; nth <= 2; nth++) {
        cai_device_guard_t guard;
        cai_error_t        error;
        memset(&guard, 0x5A, sizeof(guard));
        cr_assert_eq(emulator_fail(NULL, nth, cudaErrorInitializationError), 0);
        cr_expect_eq(cai_device_guard_enter(&guard, 1, &error), CAI_ERROR_CUDA_CALL, "call %d", nth);
        cr_expect_eq(emulator_count_failures(), 0, "call %d", nth);
        cr_expect_eq(error.cuda_code, cudaErrorInitializationError, "call %d", nth);
        cr_expect_eq(strncmp(error.message, calls[nth - 1], strlen(calls[nth - 1])), 0, "call %d: %s", nth,
                     error.message);
        cr_expect_eq(emulator_cudaPeekAtLastError(), cudaSuccess, "call %d", nth);
        cr_expect_eq(unit_current_device(), 0, "call %d", nth);
        emulator_clear_calls();
        cr_expect_eq(cai_device_guard_leave(&guard, &error), CAI_OK, "call %d", nth);
        cr_expect_eq(emulator_count_calls(NULL), 0, "call %d", nth);
        cr_expect_eq(unit_current_device(), 0, "call %d", nth);
    }
}

Test(device, pitfall_55_enter_of_no_device)
{
    static const int32_t none[] = {2, 7, 1000, -1, -2, INT32_MAX, INT32_MIN};
    for (int current = 0; current < 2; current++) {
        UNIT_CUDA(cudaSetDevice(current));
        for (size_t i = 0; i < UNIT_COUNT(none); i++) {
            cai_device_guard_t guard;
            cai_error_t        error;
            cr_expect_eq(cai_device_guard_enter(&guard, none[i], &error), CAI_ERROR_CUDA_CALL, "%d", none[i]);
            cr_expect_eq(error.cuda_code, cudaErrorInvalidDevice, "%d", none[i]);
            cr_expect_eq(emulator_cudaPeekAtLastError(), cudaSuccess, "%d", none[i]);
            cr_expect_eq(cai_device_guard_leave(&guard, &error), CAI_OK, "%d", none[i]);
            cr_expect_eq(unit_current_device(), current, "%d", none[i]);
        }
    }
}

Test(device, failing_leave)
{
    cai_device_guard_t guard;
    cai_error_t        error;
    cr_expect_eq(cai_device_guard_enter(&guard, 1, NULL), CAI_OK);
    cr_assert_eq(emulator_fail("cudaSetDevice", 1, cudaErrorDevicesUnavailable), 0);
    cr_expect_eq(cai_device_guard_leave(&guard, &error), CAI_ERROR_CUDA_CALL);
    cr_expect_eq(error.cuda_code, cudaErrorDevicesUnavailable);
    cr_expect_eq(strncmp(error.message, "cudaSetDevice failed: ", 22), 0, "%s", error.message);
    cr_expect_eq(emulator_cudaPeekAtLastError(), cudaSuccess);
    emulator_clear_calls();
    cr_expect_eq(cai_device_guard_leave(&guard, &error), CAI_OK);
    cr_expect_eq(emulator_count_calls(NULL), 0);
}

Test(device, failures_without_a_place_for_the_error)
{
    cai_device_guard_t guard;
    for (int nth = 1; nth <= 2; nth++) {
        cr_assert_eq(emulator_fail(NULL, nth, cudaErrorInitializationError), 0);
        cr_expect_eq(cai_device_guard_enter(&guard, 1, NULL), CAI_ERROR_CUDA_CALL);
    }
    cr_expect_eq(cai_device_guard_enter(&guard, 1, NULL), CAI_OK);
    cr_assert_eq(emulator_fail(NULL, 1, cudaErrorInitializationError), 0);
    cr_expect_eq(cai_device_guard_leave(&guard, NULL), CAI_ERROR_CUDA_CALL);
    cr_expect_eq(emulator_cudaPeekAtLastError(), cudaSuccess);
}

/* ---- results of calls -------------------------------------------------------------------------------------------- */

typedef struct result_case {
    cudaError_t result;
    const char *name;
} result_case_t;

static const result_case_t results[] = {
    {cudaErrorInvalidValue, "cudaErrorInvalidValue"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice"},
    {cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle"},
    {cudaErrorNotReady, "cudaErrorNotReady"},
    {cudaErrorIllegalAddress, "cudaErrorIllegalAddress"},
    {cudaErrorStreamCaptureUnsupported, "cudaErrorStreamCaptureUnsupported"},
    {cudaErrorStreamCaptureImplicit, "cudaErrorStreamCaptureImplicit"},
};

Test(device, results_of_calls)
{
    for (size_t i = 0; i < UNIT_COUNT(results); i++) {
        const result_case_t *row = &results[i];
        cai_error_t          error;
        char                 start[128];
        memset(&error, 0x5A, sizeof(error));
        cr_expect_eq(cai_cuda_status(row->result, "cudaSomeCall", &error), CAI_ERROR_CUDA_CALL, "%s", row->name);
        cr_expect_eq(error.status, CAI_ERROR_CUDA_CALL, "%s", row->name);
        cr_expect_eq(error.cuda_code, (int32_t)row->result, "%s: %d", row->name, error.cuda_code);
        cr_expect_str_eq(error.cuda_name, row->name, "%s", row->name);
        snprintf(start, sizeof(start), "cudaSomeCall failed: %s (%d): ", row->name, (int)row->result);
        cr_expect_eq(strncmp(error.message, start, strlen(start)), 0, "%s: %s", row->name, error.message);
        cr_expect_str_eq(error.message + strlen(start), emulator_cudaGetErrorString(row->result), "%s", row->name);
        cr_expect_eq(cai_cuda_status(row->result, "cudaSomeCall", NULL), CAI_ERROR_CUDA_CALL, "%s", row->name);
    }
}

Test(device, success_of_a_call)
{
    cai_error_t error, before;
    memset(&error, 0x5A, sizeof(error));
    memset(&before, 0x5A, sizeof(before));
    emulator_clear_calls();
    cr_expect_eq(cai_cuda_status(cudaSuccess, "cudaSomeCall", &error), CAI_OK);
    cr_expect_eq(memcmp(&error, &before, sizeof(error)), 0);
    cr_expect_eq(emulator_count_calls(NULL), 0);
}

/* The failure that was reported is not reported a second time by the next call of somebody else's. */
Test(device, reported_failures_are_cleared)
{
    const cudaError_t result = emulator_cudaSetDevice(99);
    cr_assert_eq(result, cudaErrorInvalidDevice);
    cr_assert_eq(emulator_cudaPeekAtLastError(), cudaErrorInvalidDevice);
    cr_expect_eq(cai_cuda_status(result, "cudaSetDevice", NULL), CAI_ERROR_CUDA_CALL);
    cr_expect_eq(emulator_cudaPeekAtLastError(), cudaSuccess);
}

Test(device, a_failure_of_somebody_else_stays)
{
    cai_device_guard_t guard;
    cai_device_t       device;
    cr_assert_eq(emulator_cudaSetDevice(99), cudaErrorInvalidDevice);
    cr_expect_eq(cai_pointer_device(static_memory, &device, NULL), CAI_OK);
    cr_expect_eq(cai_device_guard_enter(&guard, 1, NULL), CAI_OK);
    cr_expect_eq(cai_device_guard_leave(&guard, NULL), CAI_OK);
    cr_expect_eq(emulator_cudaPeekAtLastError(), cudaErrorInvalidDevice);
}

/* ---- memory ------------------------------------------------------------------------------------------------------ */

Test(device, host_memory_is_aligned)
{
    static const size_t sizes[] = {1, 63, 64, 65, 1000};
    for (size_t i = 0; i < UNIT_COUNT(sizes); i++) {
        void *pointer = NULL;
        cr_assert_eq(cai_impl_memory_allocate(&pointer, sizes[i], CAI_MEMORY_HOST, NULL, NULL), CAI_OK);
        cr_expect_eq((uintptr_t)pointer % 64, 0, "%zu", sizes[i]);
        memset(pointer, 0x11, sizes[i]);
        cr_expect_eq(cai_impl_memory_free(pointer, CAI_MEMORY_HOST, NULL, NULL), CAI_OK);
    }
    cr_expect_eq(emulator_count_calls(NULL), 0);
}

Test(device, sizes_that_no_host_has)
{
    static const size_t sizes[] = {SIZE_MAX, SIZE_MAX - 62, SIZE_MAX / 2};
    for (size_t i = 0; i < UNIT_COUNT(sizes); i++) {
        void       *pointer = (void *)(uintptr_t)1;
        cai_error_t error;
        cr_expect_eq(cai_impl_memory_allocate(&pointer, sizes[i], CAI_MEMORY_HOST, NULL, &error), CAI_ERROR_MEMORY);
        cr_expect_eq(error.status, CAI_ERROR_MEMORY, "%zu", i);
        cr_expect_null(pointer, "%zu", i);
    }
}

/* The capture mode of the thread is the same afterwards, and a capture that minds everybody stays intact. */
Test(device, pitfall_51_memory_beside_a_capture)
{
    static const cai_memory_t allocated[] = {CAI_MEMORY_DEVICE, CAI_MEMORY_DEVICE_NO_POOL, CAI_MEMORY_MANAGED,
                                             CAI_MEMORY_PINNED};
    const cudaStream_t        capturing = unit_stream(cudaStreamNonBlocking);
    UNIT_CUDA(cudaStreamBeginCapture(capturing, cudaStreamCaptureModeGlobal));
    for (size_t i = 0; i < UNIT_COUNT(allocated); i++) {
        void *pointer = NULL;
        cr_expect_eq(cai_impl_memory_allocate(&pointer, 100, allocated[i], CAI_IMPL_BITS(cudaStream_t, 2), NULL),
                     CAI_OK);
        cr_expect_eq(unit_capture_mode(), cudaStreamCaptureModeGlobal, "%zu", i);
        cr_expect_eq(emulator_count_allocations(), 1, "%zu", i);
        cr_expect_eq(cai_impl_memory_free(pointer, allocated[i], CAI_IMPL_BITS(cudaStream_t, 2), NULL), CAI_OK);
        cr_expect_eq(unit_capture_mode(), cudaStreamCaptureModeGlobal, "%zu", i);
        cr_expect_eq(emulator_count_allocations(), 0, "%zu", i);
    }
    unit_end_capture(capturing, "memory");
    UNIT_NO_VIOLATIONS();
}

/* The barrier: streams that wait for nobody are waited for, a capture stays intact, also without device memory. */
Test(device, pitfall_56_barrier_of_the_device)
{
    for (int full = 0; full < 2; full++) {
        const cudaStream_t capturing = unit_stream(cudaStreamNonBlocking), stream = unit_stream(cudaStreamNonBlocking);
        int               *target = NULL;
        UNIT_CUDA(cudaMallocManaged((void **)&target, sizeof(int), cudaMemAttachGlobal));
        unit_write_late(stream, target);
        UNIT_CUDA(cudaStreamBeginCapture(capturing, cudaStreamCaptureModeGlobal));
        if (full)
            cr_assert_eq(emulator_fail("cudaMalloc", 1, cudaErrorMemoryAllocation), 0);
        cr_expect_eq(*target, 0);
        cr_expect_eq(cai_impl_device_barrier(NULL), CAI_OK, "full %d", full);
        cr_expect_eq(*target, 1, "full %d", full);
        cr_expect_eq(unit_capture_mode(), cudaStreamCaptureModeGlobal, "full %d", full);
        cr_expect_eq(emulator_cudaPeekAtLastError(), cudaSuccess, "full %d", full);
        unit_end_capture(capturing, "barrier");
        UNIT_CUDA(cudaFree(target));
        cr_expect_eq(emulator_count_allocations(), 0, "full %d", full);
    }
    UNIT_NO_VIOLATIONS();
}

/* ---- threads ----------------------------------------------------------------------------------------------------- */

/* The current device is the calling thread's: guards of several threads do not meet. */
enum { N_THREADS = 4, N_ROUNDS = 200 };

typedef struct guard_thread {
    pthread_t          thread;
    pthread_barrier_t *barrier;
    int                own;
    size_t             wrong;
} guard_thread_t;

static void *guard_in_rounds(void *argument)
{
    guard_thread_t *self = (guard_thread_t *)argument;
    for (int i = 0; i < N_ROUNDS; i++) {
        const int          other = 1 - self->own;
        int32_t            current = 99;
        cai_device_guard_t guard;
        self->wrong += emulator_cudaSetDevice(self->own) != cudaSuccess;
        if (i < 20)
            pthread_barrier_wait(self->barrier);
        self->wrong += cai_device_guard_enter(&guard, other, NULL) != CAI_OK;
        if (i < 20)
            pthread_barrier_wait(self->barrier);
        self->wrong += cai_current_device(&current, NULL) != CAI_OK || current != other;
        if (i < 20)
            pthread_barrier_wait(self->barrier);
        self->wrong += cai_device_guard_leave(&guard, NULL) != CAI_OK;
        self->wrong += cai_current_device(&current, NULL) != CAI_OK || current != self->own;
    }
    return NULL;
}

Test(device, guards_are_the_threads_own)
{
    guard_thread_t    threads[N_THREADS];
    pthread_barrier_t barrier;
    cr_assert_eq(pthread_barrier_init(&barrier, NULL, N_THREADS), 0);
    for (int i = 0; i < N_THREADS; i++) {
        threads[i].barrier = &barrier;
        threads[i].own = i % 2;
        threads[i].wrong = 0;
        cr_assert_eq(pthread_create(&threads[i].thread, NULL, guard_in_rounds, &threads[i]), 0);
    }
    for (int i = 0; i < N_THREADS; i++) {
        cr_assert_eq(pthread_join(threads[i].thread, NULL), 0);
        cr_expect_eq(threads[i].wrong, 0, "thread %d: %zu wrong", i, threads[i].wrong);
    }
    pthread_barrier_destroy(&barrier);
    cr_expect_eq(unit_current_device(), 0);
}

#endif
