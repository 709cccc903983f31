/*
 * Checks what order.h gives back late: called when the stream's work is done, by itself, and by nobody who waits.
 */
#define _POSIX_C_SOURCE 200809L /* nanosleep */

#include <cai/order.h>

#include "unit.h"
#include "unit_cuda.h"

#include <stdlib.h>
#include <time.h>

TestSuite(order_late, .timeout = UNIT_TIMEOUT);

/* What a call that is made late has found. */
typedef struct late_call {
    int         calls;
    int         seen;   /* *target at that time */
    const int  *target; /* of the work that comes before */
    const void *stack;  /* somewhere on the stack of the thread that called */
} late_call_t;

static void note_call(void *data)
{
    late_call_t *call = (late_call_t *)data;
    call->seen = *call->target;
    call->stack = (const void *)&call;
    (void)__atomic_add_fetch(&call->calls, 1, __ATOMIC_RELEASE);
}

static int count(const late_call_t *call)
{
    return __atomic_load_n(&call->calls, __ATOMIC_ACQUIRE);
}

/* Managed, so that the test and the call may look at it while work is pending. */
static int *new_int(void)
{
    int *memory = NULL;
    UNIT_CUDA(cudaMallocManaged((void **)&memory, sizeof(int), cudaMemAttachGlobal));
    *memory = 0;
    return memory;
}

static late_call_t make_call(void)
{
    late_call_t call = {0, -1, NULL, NULL};
    call.target = new_int();
    return call;
}

static cai_order_pool_t *new_pool(void)
{
    cai_order_pool_t *pool = cai_order_pool_new(NULL);
    cr_assert_not_null(pool);
    return pool;
}

typedef enum kind { LEGACY, PER_THREAD, BLOCKING, FREE, N_KINDS } kind_t;

static const char *const kind_names[N_KINDS] = {"legacy", "per-thread", "blocking", "non-blocking"};

static cai_stream_t make_stream(kind_t kind)
{
    switch (kind) {
    case LEGACY: return CAI_STREAM_LEGACY;
    case PER_THREAD: return CAI_STREAM_PER_THREAD;
    default: return unit_stream(kind == BLOCKING ? cudaStreamDefault : cudaStreamNonBlocking);
    }
}

/* Not before the stream's work is done, not by whoever asked, and without anybody's waiting for the stream. */
Test(order_late, pitfall_56_call_comes_after_the_streams_work)
{
    for (int device = 0; device < 2; device++) {
        cai_order_pool_t *pool = new_pool();
        UNIT_CUDA(cudaSetDevice(device));
        for (int kind = 0; kind < N_KINDS; kind++) {
            const cai_stream_t stream = make_stream((kind_t)kind);
            late_call_t        call = make_call();
            int                here = 0;
            unit_write_late(stream, (int *)(uintptr_t)call.target);
            cr_assert(cai_impl_call_late(pool, stream, device, note_call, &call), "%s", kind_names[kind]);
            cr_expect_eq(*call.target, 0, "%s: the host waited", kind_names[kind]);
            cr_expect_eq(count(&call), 0, "%s", kind_names[kind]);
            cr_expect_eq(pool->late->pending, 1, "%s", kind_names[kind]);
            (void)emulator_run_all();
            cr_expect_eq(count(&call), 1, "%s", kind_names[kind]);
            cr_expect_eq(call.seen, 1, "%s: before the work", kind_names[kind]);
            cr_expect_gt(labs((long)((const char *)call.stack - (const char *)&here)), 65536, "%s: on this thread",
                         kind_names[kind]);
            cr_expect_eq(pool->late->pending, 0, "%s", kind_names[kind]);
        }
        cai_order_pool_release(pool);
    }
    UNIT_NO_VIOLATIONS();
}

/* Soon after the work is done, without a further call: CUDA's own progress is enough. */
Test(order_late, pitfall_56_call_comes_by_itself)
{
    const struct timespec pause = {0, 1000000};
    cai_order_pool_t     *pool = new_pool();
    const cai_stream_t    stream = unit_stream(cudaStreamNonBlocking);
    late_call_t           call = make_call();
    unit_write_late(stream, (int *)(uintptr_t)call.target);
    cr_assert(cai_impl_call_late(pool, stream, 0, note_call, &call));
    cr_assert_eq(emulator_set_background(1), 0);
    for (int i = 0; i < 2000 && count(&call) == 0; i++)
        (void)nanosleep(&pause, NULL);
    cr_expect_eq(count(&call), 1);
    cr_expect_eq(call.seen, 1);
    cr_assert_eq(emulator_set_background(-1), 0);
    cai_order_pool_release(pool);
}

/* The stream itself is not held up, neither by the call nor by another stream's work. */
Test(order_late, pitfall_50_nobody_waits_for_the_call)
{
    cai_order_pool_t  *pool = new_pool();
    const cai_stream_t first = unit_stream(cudaStreamNonBlocking), second = unit_stream(cudaStreamNonBlocking);
    late_call_t        call = make_call();
    int               *later = new_int();
    unit_write_late(first, (int *)(uintptr_t)call.target);
    cr_assert(cai_impl_call_late(pool, first, 0, note_call, &call));
    unit_write_late(first, later);
    UNIT_CUDA(cudaStreamSynchronize(first));
    cr_expect_eq(*later, 1);
    cr_expect_eq(count(&call), 0, "the emulator ran what nothing waited for");
    unit_write_late(second, later);
    UNIT_CUDA(cudaStreamSynchronize(second));
    cr_expect_eq(*later, 1);
    (void)emulator_run_all();
    cr_expect_eq(count(&call), 1);
    cai_order_pool_release(pool);
}

/* No more than the limit are under way; what is beyond is not taken, and room is made by the work's being done. */
Test(order_late, number_of_calls_is_bounded)
{
    cai_order_pool_t  *pool = new_pool();
    const cai_stream_t stream = unit_stream(cudaStreamNonBlocking);
    late_call_t        call = make_call();
    for (int round = 0; round < 3; round++) {
        call.calls = 0;
        for (int i = 0; i < CAI_IMPL_LATE_LIMIT; i++)
            cr_assert(cai_impl_call_late(pool, stream, 0, note_call, &call), "%d", i);
        cr_expect_not(cai_impl_call_late(pool, stream, 0, note_call, &call));
        (void)emulator_run_all();
        cr_expect_eq(count(&call), CAI_IMPL_LATE_LIMIT);
        cr_expect_eq(pool->late->pending, 0);
    }
    cr_expect_leq(emulator_count_streams(), 2, "one helper for one stream");
    cai_order_pool_release(pool);
    cr_expect_eq(emulator_count_streams(), 1);
    cr_expect_eq(emulator_count_events(), 0);
    UNIT_NO_VIOLATIONS();
}

/* A pool may go before what it has arranged. */
Test(order_late, pitfall_45_call_outlives_the_pool)
{
    cai_order_pool_t  *pool = new_pool();
    const cai_stream_t stream = unit_stream(cudaStreamNonBlocking);
    late_call_t        call = make_call();
    unit_write_late(stream, (int *)(uintptr_t)call.target);
    cr_assert(cai_impl_call_late(pool, stream, 0, note_call, &call));
    cai_order_pool_release(pool);
    cr_expect_eq(emulator_count_streams(), 1);
    cr_expect_eq(emulator_count_events(), 0);
    cr_expect_eq(count(&call), 0);
    (void)emulator_run_all();
    cr_expect_eq(count(&call), 1);
    cr_expect_eq(call.seen, 1);
    UNIT_NO_VIOLATIONS();
}

Test(order_late, without_a_place_for_streams_nothing_is_arranged)
{
    cai_order_pool_t *pool = new_pool();
    late_call_t       call = make_call();
    emulator_clear_calls();
    cr_expect_not(cai_impl_call_late(NULL, CAI_STREAM_LEGACY, 0, note_call, &call));
    cr_expect_not(cai_impl_call_late(pool, CAI_STREAM_LEGACY, CAI_IMPL_POOL_DEVICES, note_call, &call));
    cr_expect_eq(emulator_count_calls(NULL), 0);
    cr_expect_eq(pool->late->pending, 0);
    cai_order_pool_release(pool);
}

/* The stream of another device than the array's, and the current device where none is told. */
Test(order_late, pitfall_55_stream_of_another_device)
{
#if CAI_IMPL_HAS_STREAM_GET_DEVICE
    for (int32_t device = -1; device < 2; device++) {
        cai_order_pool_t *pool = new_pool();
        late_call_t       call = make_call();
        cai_stream_t      stream;
        UNIT_CUDA(cudaSetDevice(1));
        stream = unit_stream(cudaStreamNonBlocking);
        unit_write_late(stream, (int *)(uintptr_t)call.target);
        UNIT_CUDA(cudaSetDevice(0));
        cr_expect(cai_impl_call_late(pool, stream, device, note_call, &call), "device %d", device);
        cr_expect_eq(unit_current_device(), 0);
        cr_expect_eq(emulator_cudaPeekAtLastError(), cudaSuccess);
        (void)emulator_run_all();
        cr_expect_eq(call.seen, 1, "device %d", device);
        cai_order_pool_release(pool);
    }
    UNIT_NO_VIOLATIONS();
#endif
}

/* Captures of others stay intact, also where the helper stream has still to be made. */
Test(order_late, pitfall_51_captures_elsewhere_stay_intact)
{
    static const enum cudaStreamCaptureMode modes[] = {cudaStreamCaptureModeGlobal, cudaStreamCaptureModeThreadLocal,
                                                       cudaStreamCaptureModeRelaxed};
    for (size_t i = 0; i < UNIT_COUNT(modes); i++) {
        cai_order_pool_t  *pool = new_pool();
        const cai_stream_t capturing = unit_stream(cudaStreamNonBlocking), stream = unit_stream(cudaStreamNonBlocking);
        late_call_t        call = make_call();
        unit_write_late(stream, (int *)(uintptr_t)call.target);
        UNIT_CUDA(cudaStreamBeginCapture(capturing, modes[i]));
        cr_expect(cai_impl_call_late(pool, stream, 0, note_call, &call), "%zu", i);
        cr_expect_eq(unit_capture_mode(), cudaStreamCaptureModeGlobal, "%zu", i);
        unit_end_capture(capturing, "elsewhere");
        (void)emulator_run_all();
        cr_expect_eq(call.seen, 1, "%zu", i);
        cai_order_pool_release(pool);
    }
    UNIT_NO_VIOLATIONS();
}

/* Each call fails in turn: then nothing is arranged, nothing is counted, and nothing is left. */
Test(order_late, every_call_may_fail)
{
    int n_failed = 0;
    for (int nth = 1; nth <= 30; nth++) {
        cai_order_pool_t  *pool = new_pool();
        const cai_stream_t stream = unit_stream(cudaStreamNonBlocking);
        late_call_t        call = make_call();
        bool               arranged, failed;

        enum cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;
        cr_assert_eq(emulator_fail(NULL, nth, cudaErrorDevicesUnavailable), 0);
        arranged = cai_impl_call_late(pool, stream, 0, note_call, &call);
        failed = emulator_count_failures() == 0;
        emulator_fail_clear();
        cr_expect_eq(emulator_cudaPeekAtLastError(), cudaSuccess, "call %d", nth);
        if (nth == 4) /* the way back to the thread's capture mode: only CUDA could go it */
            UNIT_CUDA(cudaThreadExchangeStreamCaptureMode(&mode));
        cr_expect_eq(unit_capture_mode(), cudaStreamCaptureModeGlobal, "call %d", nth);
        cr_expect_eq(pool->late->pending, (int)arranged, "call %d", nth);
        (void)emulator_run_all();
        cr_expect_eq(count(&call), (int)arranged, "call %d", nth);
        cai_order_pool_release(pool);
        UNIT_CUDA(cudaStreamDestroy(stream));
        cr_expect_eq(emulator_count_streams(), 0, "call %d", nth);
        cr_expect_eq(emulator_count_events(), 0, "call %d", nth);
        n_failed += failed;
        if (!failed) {
            cr_expect(arranged);
            break;
        }
    }
    cr_expect_geq(n_failed, 7);
}
