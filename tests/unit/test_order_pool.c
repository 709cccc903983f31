/*
 * Checks the second half of order.h: the pool that order keeps its events in, and one stream ordered after another.
 */
#define _POSIX_C_SOURCE 200809L /* threads */

#include <cai/order.h>

#include "unit.h"

#include <pthread.h>

TestSuite(order_pool, .timeout = UNIT_TIMEOUT);

static cai_order_pool_t *new_pool(void)
{
    cai_error_t       error;
    cai_order_pool_t *pool = cai_order_pool_new(&error);
    cr_assert_not_null(pool);
    return pool;
}

/* ---- references -------------------------------------------------------------------------------------------------- */

Test(order_pool, null_is_let_through)
{
    cr_expect_null(cai_order_pool_retain(NULL));
    cai_order_pool_release(NULL);
}

enum { N_THREADS = 4, N_ROUNDS = 2000 };

static void *count_up_and_down(void *argument)
{
    cai_order_pool_t *pool = (cai_order_pool_t *)argument;
    for (int i = 0; i < N_ROUNDS; i++)
        cai_order_pool_release(cai_order_pool_retain(pool));
    return NULL;
}

Test(order_pool, references_are_counted_by_many_threads)
{
    cai_order_pool_t *pool = new_pool();
    pthread_t         threads[N_THREADS];
    for (int i = 0; i < N_THREADS; i++)
        cr_assert_eq(pthread_create(&threads[i], NULL, count_up_and_down, pool), 0);
    for (int i = 0; i < N_THREADS; i++)
        cr_assert_eq(pthread_join(threads[i], NULL), 0);
    cr_expect_eq(pool->references, 1);
    cr_expect_eq(cai_order_pool_retain(pool), pool);
    cr_expect_eq(pool->references, 2);
    cai_order_pool_release(pool);
    cr_expect_eq(pool->references, 1);
    cai_order_pool_release(pool);
}

/* ---- what could not be freed yet --------------------------------------------------------------------------------- */

typedef struct put_off {
    cai_impl_deferred_t deferred;
    int                 tries, refusals;
} put_off_t;

static bool try_again(cai_impl_deferred_t *deferred)
{
    put_off_t *item = (put_off_t *)deferred;
    return item->tries++ >= item->refusals;
}

Test(order_pool, what_is_put_off_is_tried_again_until_it_is_done)
{
    cai_order_pool_t *pool = new_pool();
    put_off_t         items[4];
    memset(items, 0, sizeof(items));
    for (int i = 0; i < 4; i++) {
        items[i].deferred.retry = try_again;
        items[i].refusals = i;
        cai_impl_pool_defer(pool, &items[i].deferred);
    }
    for (int round = 1; round <= 6; round++) {
        cai_impl_pool_sweep(pool);
        for (int i = 0; i < 4; i++)
            cr_expect_eq(items[i].tries, round <= i ? round : i + 1, "round %d, item %d: %d", round, i, items[i].tries);
    }
    cr_expect_null(pool->deferred);
    cai_impl_pool_sweep(NULL);
    cai_order_pool_release(pool);
}

#if defined(CAI_NO_CUDA)

Test(order_pool, without_cuda_equal_streams_only)
{
    cai_order_pool_t  *pool = new_pool();
    const cai_stream_t handle = (cai_stream_t)(uintptr_t)0x5000;
    cai_error_t        error;
    cr_expect_eq(cai_order_streams(pool, handle, handle, 0, &error), CAI_OK);
    cr_expect_eq(cai_order_streams(pool, handle, CAI_STREAM_LEGACY, 0, &error), CAI_ERROR_DEVICE_MISMATCH);
    cr_expect_eq(error.status, CAI_ERROR_DEVICE_MISMATCH);
    cr_expect_not_null(strstr(error.message, "CAI_NO_CUDA"), "%s", error.message);
    cai_order_pool_release(pool);
}

#else

#include "unit_cuda.h"

Test(order_pool, a_pool_calls_no_cuda)
{
    emulator_clear_calls();
    cai_order_pool_release(cai_order_pool_new(NULL));
    cr_expect_eq(emulator_count_calls(NULL), 0);
    cr_expect_not(emulator_has_context(0));
}

/* ---- order ------------------------------------------------------------------------------------------------------- */

/* Managed, so that the test may look at it while work is pending. */
static int *new_int(void)
{
    int *memory = NULL;
    UNIT_CUDA(cudaMallocManaged((void **)&memory, sizeof(int), cudaMemAttachGlobal));
    *memory = 0;
    return memory;
}

/* What a copy on `after` sees of a late write on `before`. */
static int seen_behind(cai_order_pool_t *pool, cai_stream_t before, cai_stream_t after, int32_t device_id, bool order,
                       const char *name)
{
    int        *target = new_int(), *copy = new_int(), value;
    cai_error_t error;
    const int   device = unit_current_device();
    UNIT_CUDA(cudaSetDevice(device_id < 0 ? device : device_id));
    unit_write_late(before, target);
    UNIT_CUDA(cudaSetDevice(device));
    if (order) {
        cr_expect_eq(cai_order_streams(pool, before, after, device_id, &error), CAI_OK, "%s", name);
        cr_expect_eq(unit_current_device(), device, "%s: the current device", name);
        cr_expect_eq(emulator_cudaPeekAtLastError(), cudaSuccess, "%s: the last error", name);
        cr_expect_eq(*target, 0, "%s: the host waited", name);
    }
    UNIT_CUDA(cudaSetDevice(device_id < 0 ? device : device_id));
    UNIT_CUDA(cudaMemcpyAsync(copy, target, sizeof(int), cudaMemcpyDefault, after));
    UNIT_CUDA(cudaStreamSynchronize(after));
    value = *copy;
    UNIT_CUDA(cudaStreamSynchronize(before));
    UNIT_CUDA(cudaFree(target));
    UNIT_CUDA(cudaFree(copy));
    UNIT_CUDA(cudaSetDevice(device));
    return value;
}

typedef enum kind { LEGACY, PER_THREAD, BLOCKING, FREE, ALSO_FREE, N_KINDS } kind_t;

static const char *const kind_names[N_KINDS] = {"legacy", "per-thread", "blocking", "non-blocking",
                                                "another non-blocking"};

/* Streams of a device, which is current only for making them. */
static void make_streams(cai_stream_t *streams, int device)
{
    const int before = unit_current_device();
    UNIT_CUDA(cudaSetDevice(device));
    streams[LEGACY] = CAI_STREAM_LEGACY;
    streams[PER_THREAD] = CAI_STREAM_PER_THREAD;
    streams[BLOCKING] = unit_stream(cudaStreamDefault);
    streams[FREE] = unit_stream(cudaStreamNonBlocking);
    streams[ALSO_FREE] = unit_stream(cudaStreamNonBlocking);
    UNIT_CUDA(cudaSetDevice(before));
}

/* That the copy runs after the write is cai_order_streams' doing wherever CUDA does not order by itself. */
Test(order_pool, pitfall_55_order_is_real_on_every_device)
{
    for (int with_pool = 0; with_pool < 2; with_pool++) {
        cai_order_pool_t *pool = with_pool ? new_pool() : NULL;
        for (int current = 0; current < 2; current++) {
            for (int32_t device = -1; device < 2; device++) {
                cai_stream_t streams[N_KINDS];
                UNIT_CUDA(cudaSetDevice(current));
                make_streams(streams, device < 0 ? current : device);
                for (int i = 0; i < N_KINDS; i++) {
                    for (int j = 0; j < N_KINDS; j++) {
                        char name[160];
                        snprintf(name, sizeof(name), "%s pool, device %d current, device %d, %s before %s",
                                 with_pool ? "a" : "no", current, device, kind_names[i], kind_names[j]);
                        cr_expect_eq(seen_behind(pool, streams[i], streams[j], device, true, name), 1, "%s", name);
                        if (i != j && (i >= FREE || j >= FREE))
                            cr_expect_eq(seen_behind(pool, streams[i], streams[j], device, false, name), 0,
                                         "%s: the test cannot fail", name);
                    }
                }
            }
        }
        cai_order_pool_release(pool);
        cr_expect_eq(emulator_count_events(), 0, "%d", with_pool);
    }
    UNIT_NO_VIOLATIONS();
}

/* Not the other way round: what comes later on `before` does not hold up `after`. */
Test(order_pool, later_work_is_not_waited_for)
{
    const cai_stream_t before = unit_stream(cudaStreamNonBlocking), after = unit_stream(cudaStreamNonBlocking);
    int               *late = new_int(), *copy = new_int();
    cr_expect_eq(cai_order_streams(NULL, before, after, 0, NULL), CAI_OK);
    unit_write_late(before, late);
    UNIT_CUDA(cudaMemcpyAsync(copy, late, sizeof(int), cudaMemcpyDefault, after));
    UNIT_CUDA(cudaStreamSynchronize(after));
    cr_expect_eq(*copy, 0);
    cr_expect_eq(*late, 0);
    UNIT_NO_VIOLATIONS();
}

/* Streams of two devices: each side's event is of its own device. */
Test(order_pool, pitfall_55_between_devices)
{
    cai_order_pool_t *pool = new_pool();
    for (int current = 0; current < 2; current++) {
        for (int first = 0; first < 2; first++) {
            cai_stream_t of[2][N_KINDS];
            cai_error_t  error;
            int         *target = new_int(), *copy = new_int();
            make_streams(of[0], 0);
            make_streams(of[1], 1);
            UNIT_CUDA(cudaSetDevice(first));
            unit_write_late(of[first][FREE], target);
            UNIT_CUDA(cudaSetDevice(current));
            cr_expect_eq(cai_order_streams(pool, of[first][FREE], of[1 - first][FREE], first, &error), CAI_OK);
            cr_expect_eq(unit_current_device(), current);
            UNIT_CUDA(cudaSetDevice(1 - first));
            UNIT_CUDA(cudaMemcpyAsync(copy, target, sizeof(int), cudaMemcpyDefault, of[1 - first][FREE]));
            UNIT_CUDA(cudaStreamSynchronize(of[1 - first][FREE]));
            cr_expect_eq(*copy, 1, "device %d current, from %d", current, first);
        }
    }
    cai_order_pool_release(pool);
    cr_expect_eq(emulator_count_events(), 0);
    UNIT_NO_VIOLATIONS();
}

Test(order_pool, equal_streams_call_nothing)
{
    cai_order_pool_t *pool = new_pool();
    cai_stream_t      streams[N_KINDS];
    make_streams(streams, 0);
    emulator_clear_calls();
    for (int i = 0; i < N_KINDS; i++) {
        for (int32_t device = -1; device < 3; device++)
            cr_expect_eq(cai_order_streams(pool, streams[i], streams[i], device, NULL), CAI_OK, "%s", kind_names[i]);
    }
    cr_expect_eq(emulator_count_calls(NULL), 0);
    cai_order_pool_release(pool);
}

/* ---- events ------------------------------------------------------------------------------------------------------ */

Test(order_pool, events_are_used_again_and_go_with_the_pool)
{
    cai_order_pool_t *pool = new_pool();
    cai_stream_t      of[2][N_KINDS];
    make_streams(of[0], 0);
    make_streams(of[1], 1);
    emulator_clear_calls();
    for (int round = 0; round < 20; round++) {
        for (int device = 0; device < 2; device++)
            cr_expect_eq(cai_order_streams(pool, of[device][FREE], of[device][ALSO_FREE], device, NULL), CAI_OK);
    }
    cr_expect_eq(emulator_count_calls("cudaEventCreateWithFlags"), 2, "one for each device");
    cr_expect_eq(emulator_count_calls("cudaEventRecord"), 40);
    cr_expect_eq(emulator_count_calls("cudaStreamWaitEvent"), 40);
    cr_expect_eq(emulator_count_events(), 2);
    (void)cai_order_pool_retain(pool);
    cai_order_pool_release(pool);
    cr_expect_eq(emulator_count_events(), 2, "somebody holds the pool");
    cai_order_pool_release(pool);
    cr_expect_eq(emulator_count_events(), 0);
    cr_expect_eq(emulator_cudaPeekAtLastError(), cudaSuccess);
    UNIT_NO_VIOLATIONS();
}

/* Events without timing: with it a record costs more. */
Test(order_pool, events_have_no_timing)
{
    const cai_stream_t before = unit_stream(cudaStreamNonBlocking), after = unit_stream(cudaStreamNonBlocking);
    size_t             found = 0;
    emulator_call_t    call;
    emulator_clear_calls();
    cr_expect_eq(cai_order_streams(NULL, before, after, 0, NULL), CAI_OK);
    for (size_t i = 0; emulator_get_call(i, &call) == 0; i++) {
        if (strcmp(call.name, "cudaEventCreateWithFlags") != 0)
            continue;
        cr_expect_eq(call.flags, cudaEventDisableTiming);
        found++;
    }
    cr_expect_eq(found, 1);
    cr_expect_eq(emulator_count_events(), 0, "no pool keeps it");
}

Test(order_pool, a_failure_of_somebody_else_stays)
{
    cai_order_pool_t  *pool = new_pool();
    const cai_stream_t before = unit_stream(cudaStreamNonBlocking), after = unit_stream(cudaStreamNonBlocking);
    cr_assert_eq(emulator_cudaSetDevice(99), cudaErrorInvalidDevice);
    cr_expect_eq(cai_order_streams(pool, before, after, 0, NULL), CAI_OK);
    cai_order_pool_release(pool);
    cai_order_pool_release(cai_order_pool_new(NULL));
    cr_expect_eq(emulator_cudaPeekAtLastError(), cudaErrorInvalidDevice);
}

typedef struct order_thread {
    pthread_t         thread;
    cai_order_pool_t *pool;
    int              *target, *copy;
    size_t            wrong;
} order_thread_t;

static void *order_in_rounds(void *argument)
{
    order_thread_t *self = (order_thread_t *)argument;
    cudaStream_t    before = NULL, after = NULL;
    self->wrong += emulator_cudaStreamCreateWithFlags(&before, cudaStreamNonBlocking) != cudaSuccess;
    self->wrong += emulator_cudaStreamCreateWithFlags(&after, cudaStreamNonBlocking) != cudaSuccess;
    for (int i = 0; i < 50; i++) {
        *self->target = *self->copy = 0;
        self->wrong += emulator_launch(before, unit_write_one, (void *)&self->target, sizeof(self->target)) !=
                       cudaSuccess;
        self->wrong += cai_order_streams(self->pool, before, after, 0, NULL) != CAI_OK;
        self->wrong += emulator_cudaMemcpyAsync(self->copy, self->target, sizeof(int), cudaMemcpyDefault, after) !=
                       cudaSuccess;
        self->wrong += emulator_cudaStreamSynchronize(after) != cudaSuccess;
        self->wrong += *self->copy != 1;
    }
    return NULL;
}

/* No two threads get one event at a time. */
Test(order_pool, threads_share_a_pool)
{
    cai_order_pool_t *pool = new_pool();
    order_thread_t    threads[N_THREADS];
    for (int i = 0; i < N_THREADS; i++) {
        threads[i].pool = pool;
        threads[i].target = new_int();
        threads[i].copy = new_int();
        threads[i].wrong = 0;
        cr_assert_eq(pthread_create(&threads[i].thread, NULL, order_in_rounds, &threads[i]), 0);
    }
    for (int i = 0; i < N_THREADS; i++) {
        cr_assert_eq(pthread_join(threads[i].thread, NULL), 0);
        cr_expect_eq(threads[i].wrong, 0, "thread %d: %zu wrong", i, threads[i].wrong);
    }
    cr_expect_leq(emulator_count_events(), N_THREADS);
    cai_order_pool_release(pool);
    cr_expect_eq(emulator_count_events(), 0);
    UNIT_NO_VIOLATIONS();
}

/* ---- captures ---------------------------------------------------------------------------------------------------- */

/* Let `stream` join the capture of `origin`. */
static void join_capture(cudaStream_t origin, cudaStream_t stream)
{
    cudaEvent_t event;
    UNIT_CUDA(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    UNIT_CUDA(cudaEventRecord(event, origin));
    UNIT_CUDA(cudaStreamWaitEvent(stream, event, 0));
    UNIT_CUDA(cudaEventDestroy(event));
}

Test(order_pool, pitfall_51_both_in_one_capture)
{
    cai_order_pool_t  *pool = new_pool();
    const cai_stream_t origin = unit_stream(cudaStreamNonBlocking), joined = unit_stream(cudaStreamNonBlocking);
    cudaGraph_t        graph = NULL;
    cudaGraphExec_t    executable = NULL;
    int               *target = new_int(), *copy = new_int();
    UNIT_CUDA(cudaStreamBeginCapture(origin, cudaStreamCaptureModeGlobal));
    join_capture(origin, joined);
    unit_write_late(joined, target);
    cr_expect_eq(cai_order_streams(pool, joined, origin, 0, NULL), CAI_OK);
    UNIT_CUDA(cudaMemcpyAsync(copy, target, sizeof(int), cudaMemcpyDefault, origin));
    UNIT_CUDA(cudaStreamEndCapture(origin, &graph));
    UNIT_CUDA(cudaGraphInstantiate(&executable, graph, 0));
    cr_expect_eq(*copy, 0);
    UNIT_CUDA(cudaGraphLaunch(executable, origin));
    UNIT_CUDA(cudaStreamSynchronize(origin));
    cr_expect_eq(*copy, 1, "the order is in the graph");
    UNIT_CUDA(cudaGraphExecDestroy(executable));
    UNIT_CUDA(cudaGraphDestroy(graph));
    /* The event was recorded in a capture, and is of use outside all the same. */
    cr_expect_eq(seen_behind(pool, origin, joined, 0, true, "after the capture"), 1);
    cr_expect_eq(emulator_count_events(), 1);
    cai_order_pool_release(pool);
    cr_expect_eq(emulator_count_events(), 0);
    UNIT_NO_VIOLATIONS();
}

/* Whichever of two captures: refused, and nothing was recorded. */
Test(order_pool, pitfall_51_one_alone_in_a_capture_is_refused)
{
    for (int which = 0; which < 3; which++) {
        cai_order_pool_t *pool = new_pool();
        cai_stream_t      streams[2];
        cai_error_t       error;
        char              name[64];
        snprintf(name, sizeof(name), "%s captures", which == 2 ? "each" : which == 1 ? "the second" : "the first");
        streams[0] = unit_stream(cudaStreamNonBlocking);
        streams[1] = unit_stream(cudaStreamNonBlocking);
        for (int i = 0; i < 2; i++) {
            if (which == i || which == 2)
                UNIT_CUDA(cudaStreamBeginCapture(streams[i], cudaStreamCaptureModeGlobal));
        }
        emulator_clear_calls();
        cr_expect_eq(cai_order_streams(pool, streams[0], streams[1], 0, &error), CAI_ERROR_STREAM_CAPTURE, "%s", name);
        cr_expect_eq(error.status, CAI_ERROR_STREAM_CAPTURE, "%s", name);
        cr_expect_not_null(strstr(error.message, "cai_order_none()"), "%s: %s", name, error.message);
        cr_expect_eq(emulator_count_calls("cudaEventRecord"), 0, "%s", name);
        cr_expect_eq(emulator_count_calls("cudaStreamWaitEvent"), 0, "%s", name);
        cr_expect_eq(cai_order_streams(pool, streams[0], streams[1], 0, NULL), CAI_ERROR_STREAM_CAPTURE, "%s", name);
        cr_expect_eq(emulator_cudaPeekAtLastError(), cudaSuccess, "%s", name);
        for (int i = 0; i < 2; i++) {
            if (which == i || which == 2)
                unit_end_capture(streams[i], name);
        }
        cai_order_pool_release(pool);
        cr_expect_eq(emulator_count_events(), 0, "%s", name);
    }
    UNIT_NO_VIOLATIONS();
}

/* The legacy stream must not be touched while a blocking stream captures, on whichever side it is. */
Test(order_pool, pitfall_51_legacy_beside_a_capture)
{
    cai_stream_t streams[N_KINDS];
    make_streams(streams, 0);
    UNIT_CUDA(cudaStreamBeginCapture(streams[BLOCKING], cudaStreamCaptureModeRelaxed));
    cr_expect_eq(cai_order_streams(NULL, CAI_STREAM_LEGACY, streams[FREE], 0, NULL), CAI_ERROR_STREAM_CAPTURE);
    cr_expect_eq(cai_order_streams(NULL, streams[FREE], CAI_STREAM_LEGACY, 0, NULL), CAI_ERROR_STREAM_CAPTURE);
    cr_expect_eq(cai_order_streams(NULL, streams[BLOCKING], CAI_STREAM_LEGACY, 0, NULL), CAI_ERROR_STREAM_CAPTURE);
    cr_expect_eq(cai_order_streams(NULL, streams[FREE], streams[ALSO_FREE], 0, NULL), CAI_OK);
    cr_expect_eq(emulator_cudaPeekAtLastError(), cudaSuccess);
    unit_end_capture(streams[BLOCKING], "blocking");
    UNIT_NO_VIOLATIONS();
}

/* Two other streams are ordered while somebody captures in the mode that minds everybody. */
Test(order_pool, pitfall_51_captures_elsewhere_stay_intact)
{
    for (int with_pool = 0; with_pool < 2; with_pool++) {
        cai_order_pool_t  *pool = with_pool ? new_pool() : NULL;
        const cai_stream_t capturing = unit_stream(cudaStreamNonBlocking);
        cai_stream_t       streams[2];
        int               *target = new_int();
        streams[0] = unit_stream(cudaStreamNonBlocking);
        streams[1] = unit_stream(cudaStreamNonBlocking);
        unit_write_late(streams[0], target);
        UNIT_CUDA(cudaStreamBeginCapture(capturing, cudaStreamCaptureModeGlobal));
        cr_expect_eq(cai_order_streams(pool, streams[0], streams[1], 0, NULL), CAI_OK);
        cai_order_pool_release(pool);
        unit_end_capture(capturing, with_pool ? "a pool" : "no pool");
        cr_expect_eq(*target, 0);
        UNIT_CUDA(cudaStreamSynchronize(streams[1]));
        cr_expect_eq(*target, 1);
    }
    UNIT_NO_VIOLATIONS();
}

/* ---- failures ---------------------------------------------------------------------------------------------------- */

/* Each call of an order fails in turn: the status is one of CUDA's, the device is as before, nothing is left. Where the
 * call that fails is the one that goes back to the device, only CUDA could; then the test does. */
Test(order_pool, pitfall_55_each_call_fails_in_turn)
{
    for (int with_pool = 0; with_pool < 2; with_pool++) {
        cai_stream_t streams[N_KINDS];
        int          nth = 0, n_failed = 0;
        bool         failed = true;
        make_streams(streams, 1);
        while (failed) {
            cai_order_pool_t *pool = with_pool ? new_pool() : NULL;
            cai_error_t       error;
            cai_status_t      status;
            emulator_call_t   call;
            bool              stuck = false, destroying = false, counting = false;
            emulator_clear_calls();
            cr_assert_eq(emulator_fail(NULL, ++nth, cudaErrorInitializationError), 0);
            status = cai_order_streams(pool, streams[FREE], streams[ALSO_FREE], 1, &error);
            failed = emulator_count_failures() == 0;
            for (size_t i = 0; emulator_get_call(i, &call) == 0; i++) {
                stuck |= call.result != cudaSuccess && strcmp(call.name, "cudaSetDevice") == 0 &&
                         call.current_device == 1;
                counting |= call.result != cudaSuccess && strcmp(call.name, "cudaGetDeviceCount") == 0;
                destroying |= call.result != cudaSuccess && strcmp(call.name, "cudaEventDestroy") == 0;
            }
            emulator_fail_clear();
            /* Where the devices cannot be counted there may be several. */
            cr_expect_eq(status, failed && !destroying && !counting ? CAI_ERROR_CUDA_CALL : CAI_OK, "call %d", nth);
            if (status != CAI_OK)
                cr_expect_eq(error.cuda_code, cudaErrorInitializationError, "call %d", nth);
            cr_expect_eq(emulator_cudaPeekAtLastError(), cudaSuccess, "call %d: the last error", nth);
            cr_expect_eq(unit_current_device(), stuck ? 1 : 0, "call %d: the current device", nth);
            UNIT_CUDA(cudaSetDevice(0));
            cai_order_pool_release(pool);
            cr_expect_eq(emulator_count_events(), (size_t)destroying, "call %d: events", nth);
            n_failed += failed;
            if (destroying)
                break;
        }
        cr_expect_geq(n_failed, 7, "%d", n_failed);
        emulator_reset();
    }
}

Test(order_pool, failing_destruction_leaves_no_error)
{
    cai_order_pool_t  *pool = new_pool();
    const cai_stream_t before = unit_stream(cudaStreamNonBlocking), after = unit_stream(cudaStreamNonBlocking);
    cr_expect_eq(cai_order_streams(pool, before, after, 0, NULL), CAI_OK);
    cr_assert_eq(emulator_fail("cudaEventDestroy", 1, cudaErrorInitializationError), 0);
    cai_order_pool_release(pool);
    cr_expect_eq(emulator_count_failures(), 0);
    cr_expect_eq(emulator_cudaPeekAtLastError(), cudaSuccess);
}

/* A device that does not exist: refused, and no stream was touched. */
Test(order_pool, pitfall_55_no_such_device)
{
    const cai_stream_t after = unit_stream(cudaStreamNonBlocking);
    cai_error_t        error;
    emulator_clear_calls();
    cr_expect_eq(cai_order_streams(NULL, CAI_STREAM_LEGACY, after, 7, &error), CAI_ERROR_CUDA_CALL);
    cr_expect_eq(error.cuda_code, cudaErrorInvalidDevice);
    cr_expect_eq(emulator_count_calls("cudaEventRecord"), 0);
    cr_expect_eq(unit_current_device(), 0);
    cr_expect_eq(emulator_cudaPeekAtLastError(), cudaSuccess);
}

/* The device that was passed is not the stream's: the event is then made on the stream's own. */
Test(order_pool, pitfall_55_the_stream_is_of_another_device)
{
    cai_order_pool_t *pool = new_pool();
    cai_stream_t      of[2][N_KINDS];
    int              *target = new_int(), *copy = new_int();
    cai_error_t       error;
    make_streams(of[0], 0);
    make_streams(of[1], 1);
    UNIT_CUDA(cudaSetDevice(1));
    unit_write_late(of[1][FREE], target);
    UNIT_CUDA(cudaSetDevice(0));
#if CAI_IMPL_HAS_STREAM_GET_DEVICE
    cr_expect_eq(cai_order_streams(pool, of[1][FREE], of[0][FREE], 0, &error), CAI_OK);
    UNIT_CUDA(cudaMemcpyAsync(copy, target, sizeof(int), cudaMemcpyDefault, of[0][FREE]));
    UNIT_CUDA(cudaStreamSynchronize(of[0][FREE]));
    cr_expect_eq(*copy, 1);
#else
    (void)copy;
    cr_expect_eq(cai_order_streams(pool, of[1][FREE], of[0][FREE], 0, &error), CAI_ERROR_CUDA_CALL);
#endif
    cr_expect_eq(unit_current_device(), 0);
    cr_expect_eq(emulator_cudaPeekAtLastError(), cudaSuccess);
    cai_order_pool_release(pool);
    cr_expect_eq(emulator_count_events(), 0);
    UNIT_NO_VIOLATIONS();
}

#endif
