/*
 * Checks order.h: the table of who waits for whom, what captures forbid, how streams are ordered there and back, and that a
 * wait of the host leaves everything as it was.
 */
#define _POSIX_C_SOURCE 200809L /* barriers */

#include <cai/order.h>

#include "unit.h"

TestSuite(order, .timeout = UNIT_TIMEOUT);

/* ---- the table --------------------------------------------------------------------------------------------------- */

typedef struct order_case {
    const char       *name;
    cai_impl_source_t source;
    cai_order_mode_t  mode;
    bool              equal; /* whether both use one stream */
    cai_impl_before_t before;
    uint32_t          after;
} order_case_t;

/* Short names for the columns. */
#define NOTHING CAI_IMPL_BEFORE_NOTHING
#define EVENT   CAI_IMPL_BEFORE_EVENT
#define HOST    CAI_IMPL_BEFORE_HOST
#define BACK    CAI_IMPL_AFTER_EVENT
#define LATE    CAI_IMPL_AFTER_LATE
#define WAIT    CAI_IMPL_AFTER_HOST

/* A source in pinned memory. */
#define PINNED_BIT     16u
#define PINNED(source) ((cai_impl_source_t)(PINNED_BIT | (source)))

/* The table of the design: what is done before the consumer's work, and before the memory is given back. Who says nothing
 * (NONE) gets nothing; who blocks uses the memory from the host, and has nothing in flight afterwards. */
static const order_case_t table[] = {
    /* nothing is in flight */
    {"ready, wait", CAI_IMPL_SOURCE_READY, CAI_ORDER_WAIT, false, NOTHING, 0},
    {"ready, wait, equal", CAI_IMPL_SOURCE_READY, CAI_ORDER_WAIT, true, NOTHING, 0},
    {"ready, adopt", CAI_IMPL_SOURCE_READY, CAI_ORDER_ADOPT, false, NOTHING, 0},
    {"ready, adopt, equal", CAI_IMPL_SOURCE_READY, CAI_ORDER_ADOPT, true, NOTHING, 0},
    {"ready, block", CAI_IMPL_SOURCE_READY, CAI_ORDER_BLOCK, false, NOTHING, 0},
    {"ready, block, equal", CAI_IMPL_SOURCE_READY, CAI_ORDER_BLOCK, true, NOTHING, 0},
    {"ready, none", CAI_IMPL_SOURCE_READY, CAI_ORDER_NONE, false, NOTHING, 0},
    {"ready, none, equal", CAI_IMPL_SOURCE_READY, CAI_ORDER_NONE, true, NOTHING, 0},
    /* the producer told its stream: both directions, and nothing if the streams are equal */
    {"stream, wait", CAI_IMPL_SOURCE_STREAM, CAI_ORDER_WAIT, false, EVENT, BACK},
    {"stream, wait, equal", CAI_IMPL_SOURCE_STREAM, CAI_ORDER_WAIT, true, NOTHING, 0},
    {"stream, adopt of another argument's", CAI_IMPL_SOURCE_STREAM, CAI_ORDER_ADOPT, false, EVENT, BACK},
    {"stream, adopt", CAI_IMPL_SOURCE_STREAM, CAI_ORDER_ADOPT, true, NOTHING, 0},
    {"stream, block", CAI_IMPL_SOURCE_STREAM, CAI_ORDER_BLOCK, false, HOST, 0},
    {"stream, block, equal", CAI_IMPL_SOURCE_STREAM, CAI_ORDER_BLOCK, true, HOST, 0},
    {"stream, none", CAI_IMPL_SOURCE_STREAM, CAI_ORDER_NONE, false, NOTHING, 0},
    {"stream, none, equal", CAI_IMPL_SOURCE_STREAM, CAI_ORDER_NONE, true, NOTHING, 0},
    /* the producer's stream is not known: as if it were legacy, and given back when the consumer's work is done */
    {"silent, wait", CAI_IMPL_SOURCE_SILENT, CAI_ORDER_WAIT, false, EVENT, BACK | LATE},
    {"silent, wait, equal", CAI_IMPL_SOURCE_SILENT, CAI_ORDER_WAIT, true, NOTHING, LATE},
    {"silent, adopt of another argument's", CAI_IMPL_SOURCE_SILENT, CAI_ORDER_ADOPT, false, EVENT, BACK | LATE},
    {"silent, adopt", CAI_IMPL_SOURCE_SILENT, CAI_ORDER_ADOPT, true, NOTHING, LATE},
    {"silent, block", CAI_IMPL_SOURCE_SILENT, CAI_ORDER_BLOCK, false, HOST, 0},
    {"silent, block, equal", CAI_IMPL_SOURCE_SILENT, CAI_ORDER_BLOCK, true, HOST, 0},
    {"silent, none", CAI_IMPL_SOURCE_SILENT, CAI_ORDER_NONE, false, NOTHING, 0},
    {"silent, none, equal", CAI_IMPL_SOURCE_SILENT, CAI_ORDER_NONE, true, NOTHING, 0},
    /* the producer has ordered its work before the stream that it was passed; that of a host is legacy */
    {"ordered, wait", CAI_IMPL_SOURCE_ORDERED, CAI_ORDER_WAIT, false, NOTHING, LATE},
    {"ordered, wait, equal", CAI_IMPL_SOURCE_ORDERED, CAI_ORDER_WAIT, true, NOTHING, LATE},
    {"ordered, adopt", CAI_IMPL_SOURCE_ORDERED, CAI_ORDER_ADOPT, false, NOTHING, LATE},
    {"ordered, adopt, equal", CAI_IMPL_SOURCE_ORDERED, CAI_ORDER_ADOPT, true, NOTHING, LATE},
    {"ordered, block", CAI_IMPL_SOURCE_ORDERED, CAI_ORDER_BLOCK, false, HOST, 0},
    {"ordered, block, equal", CAI_IMPL_SOURCE_ORDERED, CAI_ORDER_BLOCK, true, HOST, 0},
    {"ordered, none", CAI_IMPL_SOURCE_ORDERED, CAI_ORDER_NONE, false, NOTHING, 0},
    {"ordered, none, equal", CAI_IMPL_SOURCE_ORDERED, CAI_ORDER_NONE, true, NOTHING, 0},
    /* host code sees pinned memory as soon as it is given back */
    {"pinned, wait", PINNED(CAI_IMPL_SOURCE_STREAM), CAI_ORDER_WAIT, false, EVENT, BACK | WAIT},
    {"pinned, wait, equal", PINNED(CAI_IMPL_SOURCE_STREAM), CAI_ORDER_WAIT, true, NOTHING, WAIT},
    {"pinned, adopt of another argument's", PINNED(CAI_IMPL_SOURCE_STREAM), CAI_ORDER_ADOPT, false, EVENT, BACK | WAIT},
    {"pinned, adopt", PINNED(CAI_IMPL_SOURCE_STREAM), CAI_ORDER_ADOPT, true, NOTHING, WAIT},
    {"pinned, block", PINNED(CAI_IMPL_SOURCE_STREAM), CAI_ORDER_BLOCK, false, HOST, 0},
    {"pinned, block, equal", PINNED(CAI_IMPL_SOURCE_STREAM), CAI_ORDER_BLOCK, true, HOST, 0},
    {"pinned, none", PINNED(CAI_IMPL_SOURCE_STREAM), CAI_ORDER_NONE, false, NOTHING, 0},
    {"pinned, none, equal", PINNED(CAI_IMPL_SOURCE_STREAM), CAI_ORDER_NONE, true, NOTHING, 0},
    {"pinned and ready, wait", PINNED(CAI_IMPL_SOURCE_READY), CAI_ORDER_WAIT, false, NOTHING, WAIT},
    {"pinned and ready, adopt", PINNED(CAI_IMPL_SOURCE_READY), CAI_ORDER_ADOPT, true, NOTHING, WAIT},
    {"pinned and ready, block", PINNED(CAI_IMPL_SOURCE_READY), CAI_ORDER_BLOCK, false, NOTHING, 0},
    {"pinned and ready, none", PINNED(CAI_IMPL_SOURCE_READY), CAI_ORDER_NONE, false, NOTHING, 0},
    {"pinned and silent, wait", PINNED(CAI_IMPL_SOURCE_SILENT), CAI_ORDER_WAIT, false, EVENT, BACK | WAIT},
    {"pinned and ordered, wait", PINNED(CAI_IMPL_SOURCE_ORDERED), CAI_ORDER_WAIT, false, NOTHING, WAIT},
};

static cai_stream_t handle(uint64_t number)
{
    return (cai_stream_t)(uintptr_t)number;
}

static cai_impl_order_record_t make_record(cai_impl_source_t source, cai_order_mode_t mode, cai_stream_t producer,
                                           cai_stream_t consumer, int32_t device_id)
{
    cai_impl_order_record_t record;
    memset(&record, 0, sizeof(record));
    record.source = (cai_impl_source_t)(source & ~PINNED_BIT);
    record.pinned = (source & PINNED_BIT) != 0;
    record.mode = mode;
    record.producer = producer;
    record.consumer = consumer;
    record.device_id = device_id;
    return record;
}

/* Streams of either kind, and of any device. */
static const uint64_t pairs[][2] = {{1, 2}, {2, 1}, {1, 0x5000}, {0x5000, 1}, {0x5000, 0x6000}, {2, 0x5000}};

Test(order, pitfall_53_table_of_both_directions)
{
    for (size_t i = 0; i < UNIT_COUNT(table); i++) {
        const order_case_t *row = &table[i];
        for (size_t j = 0; j < UNIT_COUNT(pairs); j++) {
            const cai_stream_t            producer = handle(pairs[j][0]);
            const cai_stream_t            consumer = row->equal ? producer : handle(pairs[j][1]);
            const cai_impl_order_record_t record = make_record(row->source, row->mode, producer, consumer, 0);
            cr_expect_eq(cai_impl_order_before(&record), row->before, "%s, before", row->name);
            cr_expect_eq(cai_impl_order_after(&record), row->after, "%s, after", row->name);
        }
    }
}

Test(order, table_is_complete)
{
    bool seen[PINNED_BIT + 4][5][2];
    memset(seen, 0, sizeof(seen));
    cr_assert_eq(UNIT_COUNT(table), 5 * 4 * 2 + 6);
    for (size_t i = 0; i < UNIT_COUNT(table); i++) {
        bool *cell = &seen[table[i].source][table[i].mode][table[i].equal];
        cr_expect_not(*cell, "%s is there twice", table[i].name);
        *cell = true;
    }
}

#if defined(CAI_NO_CUDA)

/* ---- without CUDA: described, not ordered ------------------------------------------------------------------------ */

Test(order, nothing_captures_without_cuda)
{
    static const uint64_t streams[] = {1, 2, 0x5000};
    for (size_t i = 0; i < UNIT_COUNT(streams); i++) {
        bool capturing = true;
        cr_expect_eq(cai_stream_is_capturing(handle(streams[i]), &capturing, NULL), CAI_OK);
        cr_expect_not(capturing);
        capturing = true;
        cr_expect_eq(cai_impl_stream_is_capturing_on(handle(streams[i]), 1, &capturing, NULL), CAI_OK);
        cr_expect_not(capturing);
    }
}

Test(order, waiting_without_cuda_does_nothing)
{
    cr_expect_eq(cai_impl_wait_for_stream(handle(0x5000), 0, NULL), CAI_OK);
    cr_expect_eq(cai_impl_wait_for_device(0, NULL), CAI_OK);
}

static void do_nothing(void *data)
{
    (void)data;
}

/* What would have to be ordered at the release is refused at the acquire, so that nothing is left to do then. */
Test(order, ordering_without_cuda_is_refused)
{
    for (size_t i = 0; i < UNIT_COUNT(table); i++) {
        cai_impl_order_record_t record =
            make_record(table[i].source, table[i].mode, handle(1), table[i].equal ? handle(1) : handle(0x5000), -1);
        const bool   refused = table[i].before != NOTHING || table[i].after != 0;
        cai_status_t status;
        cai_error_t  error;
        error.message[0] = '\0';
        cr_expect_eq(cai_impl_order_check(NULL, &record, &error), refused ? CAI_ERROR_DEVICE_MISMATCH : CAI_OK, "%s",
                     table[i].name);
        cr_expect_eq(strstr(error.message, "CAI_NO_CUDA") != NULL, refused, "%s: %s", table[i].name, error.message);
        cr_expect_eq(strstr(error.message, "cai_order_none()") != NULL, refused, "%s: %s", table[i].name,
                     error.message);
        cr_expect_eq(cai_impl_order_make(NULL, &record, NULL), CAI_OK, "%s", table[i].name);
        cr_expect_eq(cai_impl_order_back(NULL, &record, &status, NULL), CAI_IMPL_REST_NOTHING, "%s", table[i].name);
        cr_expect_eq(status, CAI_OK, "%s", table[i].name);
    }
    cr_expect_not(cai_impl_call_late(NULL, handle(1), 0, do_nothing, NULL));
}

#else

#include "unit_cuda.h"

#include <pthread.h>
#include <stdlib.h>

/* ---- what captures ----------------------------------------------------------------------------------------------- */

static bool captures(cai_stream_t stream, const char *name)
{
    bool         capturing = false;
    cai_error_t  error;
    cai_status_t status;
    error.message[0] = '\0';
    status = cai_stream_is_capturing(stream, &capturing, &error);
    cr_expect_eq(status, CAI_OK, "%s: %s", name, error.message);
    cr_expect_eq(emulator_cudaPeekAtLastError(), cudaSuccess, "%s: last error", name);
    return capturing;
}

Test(order, idle_streams_do_not_capture)
{
    const cudaStream_t blocking = unit_stream(cudaStreamDefault), free_running = unit_stream(cudaStreamNonBlocking);
    cr_expect_not(captures(CAI_STREAM_LEGACY, "legacy"));
    cr_expect_not(captures(CAI_STREAM_PER_THREAD, "per-thread"));
    cr_expect_not(captures(blocking, "blocking"));
    cr_expect_not(captures(free_running, "non-blocking"));
    UNIT_NO_VIOLATIONS();
}

static const struct {
    const char                *name;
    enum cudaStreamCaptureMode mode;
} capture_modes[] = {
    {"global", cudaStreamCaptureModeGlobal},
    {"thread-local", cudaStreamCaptureModeThreadLocal},
    {"relaxed", cudaStreamCaptureModeRelaxed},
};

Test(order, pitfall_51_non_blocking_stream_captures)
{
    for (size_t i = 0; i < UNIT_COUNT(capture_modes); i++) {
        const char        *name = capture_modes[i].name;
        const cudaStream_t stream = unit_stream(cudaStreamNonBlocking), other = unit_stream(cudaStreamNonBlocking);
        UNIT_CUDA(cudaStreamBeginCapture(stream, capture_modes[i].mode));
        cr_expect(captures(stream, name), "%s", name);
        cr_expect_not(captures(other, name), "%s: another stream", name);
        cr_expect_not(captures(CAI_STREAM_LEGACY, name), "%s: legacy is not touched by it", name);
        cr_expect_not(captures(CAI_STREAM_PER_THREAD, name), "%s: per-thread", name);
        unit_end_capture(stream, name);
        cr_expect_not(captures(stream, name), "%s: afterwards", name);
    }
    UNIT_NO_VIOLATIONS();
}

/* While a blocking stream of the device captures, the legacy stream answers 906: it must not be used. */
Test(order, pitfall_51_legacy_beside_a_blocking_stream_that_captures)
{
    for (size_t i = 0; i < UNIT_COUNT(capture_modes); i++) {
        const char                  *name = capture_modes[i].name;
        const cudaStream_t           stream = unit_stream(cudaStreamDefault);
        enum cudaStreamCaptureStatus status;
        UNIT_CUDA(cudaStreamBeginCapture(stream, capture_modes[i].mode));
        cr_assert_eq(emulator_cudaStreamIsCapturing(cudaStreamLegacy, &status), cudaErrorStreamCaptureImplicit);
        (void)emulator_cudaGetLastError();
        cr_expect(captures(CAI_STREAM_LEGACY, name), "%s: legacy", name);
        cr_expect(captures(stream, name), "%s: itself", name);
        unit_end_capture(stream, name);
        cr_expect_not(captures(CAI_STREAM_LEGACY, name), "%s: afterwards", name);
    }
    UNIT_NO_VIOLATIONS();
}

Test(order, pitfall_52_streams_1_and_2_are_the_current_devices)
{
    cudaStream_t blocking;
    UNIT_CUDA(cudaSetDevice(1));
    blocking = unit_stream(cudaStreamDefault);
    UNIT_CUDA(cudaStreamBeginCapture(blocking, cudaStreamCaptureModeRelaxed));
    UNIT_CUDA(cudaStreamBeginCapture(cudaStreamPerThread, cudaStreamCaptureModeRelaxed));
    cr_expect(captures(CAI_STREAM_LEGACY, "legacy of device 1"));
    cr_expect(captures(CAI_STREAM_PER_THREAD, "per-thread of device 1"));
    UNIT_CUDA(cudaSetDevice(0));
    cr_expect_not(captures(CAI_STREAM_LEGACY, "legacy of device 0"));
    cr_expect_not(captures(CAI_STREAM_PER_THREAD, "per-thread of device 0"));
    cr_expect(captures(blocking, "a handle, whatever device is current"));
    UNIT_CUDA(cudaSetDevice(1));
    unit_end_capture(blocking, "blocking");
    unit_end_capture(cudaStreamPerThread, "per-thread");
    UNIT_NO_VIOLATIONS();
}

/* A capture that somebody has broken is still under way until it is ended. */
Test(order, a_broken_capture_is_one)
{
    const cudaStream_t stream = unit_stream(cudaStreamNonBlocking);
    cudaGraph_t        graph = NULL;
    UNIT_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    cr_assert_neq(emulator_cudaStreamSynchronize(stream), cudaSuccess);
    (void)emulator_cudaGetLastError();
    cr_expect(captures(stream, "broken"));
    cr_expect_neq(emulator_cudaStreamEndCapture(stream, &graph), cudaSuccess);
    (void)emulator_cudaGetLastError();
    cr_expect_not(captures(stream, "ended"));
}

Test(order, failing_capture_query)
{
    static const cudaError_t errors[] = {cudaErrorInvalidResourceHandle, cudaErrorStreamCaptureInvalidated,
                                         cudaErrorUnknown};
    for (size_t i = 0; i < UNIT_COUNT(errors); i++) {
        bool        capturing;
        cai_error_t error;
        cr_assert_eq(emulator_fail("cudaStreamIsCapturing", 1, errors[i]), 0);
        cr_expect_eq(cai_stream_is_capturing(CAI_STREAM_LEGACY, &capturing, &error), CAI_ERROR_CUDA_CALL, "%zu", i);
        cr_expect_eq(error.cuda_code, (int32_t)errors[i], "%zu", i);
        cr_expect_eq(strncmp(error.message, "cudaStreamIsCapturing failed: ", 30), 0, "%zu: %s", i, error.message);
        cr_expect_eq(emulator_cudaPeekAtLastError(), cudaSuccess, "%zu", i);
        cr_assert_eq(emulator_fail("cudaStreamIsCapturing", 1, errors[i]), 0);
        cr_expect_eq(cai_stream_is_capturing(CAI_STREAM_LEGACY, &capturing, NULL), CAI_ERROR_CUDA_CALL, "%zu", i);
    }
}

/* ---- the query on a named device --------------------------------------------------------------------------------- */

Test(order, pitfall_55_query_on_a_device)
{
    cudaStream_t blocking;
    UNIT_CUDA(cudaSetDevice(1));
    blocking = unit_stream(cudaStreamDefault);
    UNIT_CUDA(cudaStreamBeginCapture(blocking, cudaStreamCaptureModeRelaxed));
    for (int current = 0; current < 2; current++) {
        bool capturing = false;
        UNIT_CUDA(cudaSetDevice(current));
        cr_expect_eq(cai_impl_stream_is_capturing_on(CAI_STREAM_LEGACY, 1, &capturing, NULL), CAI_OK);
        cr_expect(capturing, "legacy of device 1, %d is current", current);
        cr_expect_eq(cai_impl_stream_is_capturing_on(CAI_STREAM_LEGACY, 0, &capturing, NULL), CAI_OK);
        cr_expect_not(capturing, "legacy of device 0, %d is current", current);
        cr_expect_eq(cai_impl_stream_is_capturing_on(CAI_STREAM_LEGACY, -1, &capturing, NULL), CAI_OK);
        cr_expect_eq(capturing, current == 1, "legacy of the current device, %d", current);
        cr_expect_eq(cai_impl_stream_is_capturing_on(blocking, 0, &capturing, NULL), CAI_OK);
        cr_expect(capturing, "a handle, whatever device is told");
        cr_expect_eq(unit_current_device(), current);
    }
    unit_end_capture(blocking, "blocking");
    UNIT_NO_VIOLATIONS();
}

/* No device is made current for a handle, nor for one that is current. */
Test(order, query_calls_what_it_must)
{
    const cudaStream_t stream = unit_stream(cudaStreamNonBlocking);
    bool               capturing;
    emulator_clear_calls();
    cr_expect_eq(cai_impl_stream_is_capturing_on(stream, 1, &capturing, NULL), CAI_OK);
    cr_expect_eq(emulator_count_calls(NULL), 1, "a handle");
    emulator_clear_calls();
    cr_expect_eq(cai_impl_stream_is_capturing_on(CAI_STREAM_LEGACY, -1, &capturing, NULL), CAI_OK);
    cr_expect_eq(emulator_count_calls(NULL), 1, "legacy of the current device");
    emulator_clear_calls();
    cr_expect_eq(cai_impl_stream_is_capturing_on(CAI_STREAM_LEGACY, 0, &capturing, NULL), CAI_OK);
    cr_expect_eq(emulator_count_calls("cudaSetDevice"), 0, "legacy of a device that is current");
    emulator_clear_calls();
    cr_expect_eq(cai_impl_stream_is_capturing_on(CAI_STREAM_PER_THREAD, 1, &capturing, NULL), CAI_OK);
    cr_expect_eq(emulator_count_calls("cudaSetDevice"), 2, "per-thread of another device");
}

Test(order, every_call_of_the_query_may_fail)
{
    /* cudaGetDevice, cudaSetDevice, cudaStreamIsCapturing, cudaSetDevice */
    int n_calls = 0;
    for (int nth = 1; nth <= 10; nth++) {
        bool         capturing;
        cai_error_t  error;
        cai_status_t status;
        memset(&error, 0, sizeof(error));
        cr_assert_eq(emulator_fail(NULL, nth, cudaErrorDevicesUnavailable), 0);
        status = cai_impl_stream_is_capturing_on(CAI_STREAM_LEGACY, 1, &capturing, &error);
        if (emulator_count_failures() > 0) {
            cr_expect_eq(status, CAI_OK, "call %d", nth);
            break;
        }
        n_calls = nth;
        cr_expect_eq(status, CAI_ERROR_CUDA_CALL, "call %d", nth);
        cr_expect_eq(error.cuda_code, cudaErrorDevicesUnavailable, "call %d", nth);
        cr_expect_eq(emulator_cudaPeekAtLastError(), cudaSuccess, "call %d", nth);
        if (nth < 4)
            cr_expect_eq(unit_current_device(), 0, "call %d", nth);
        UNIT_CUDA(cudaSetDevice(0));
    }
    cr_expect_eq(n_calls, 4);
}

/* ---- whether captures allow an order ----------------------------------------------------------------------------- */

typedef enum stream_kind { LEGACY, PER_THREAD, BLOCKING, FREE, ALSO_FREE, N_KINDS } stream_kind_t;

static const char *const kind_names[N_KINDS] = {"legacy", "per-thread", "blocking", "non-blocking", "another"};

static void make_streams(cudaStream_t *streams)
{
    streams[LEGACY] = cudaStreamLegacy;
    streams[PER_THREAD] = cudaStreamPerThread;
    streams[BLOCKING] = unit_stream(cudaStreamDefault);
    streams[FREE] = unit_stream(cudaStreamNonBlocking);
    streams[ALSO_FREE] = unit_stream(cudaStreamNonBlocking);
}

/* Each stream as producer and as consumer, while each that can, and none, captures. Whatever is refused is refused
 * before a stream is touched: the capture ends well. */
Test(order, pitfall_51_check_of_every_pair)
{
    cudaStream_t streams[N_KINDS];
    make_streams(streams);
    for (int capturing = LEGACY; capturing < N_KINDS; capturing++) { /* LEGACY: none, since it cannot */
        for (int producer = 0; producer < N_KINDS; producer++) {
            for (int consumer = 0; consumer < N_KINDS; consumer++) {
                for (int mode = CAI_ORDER_WAIT; mode <= CAI_ORDER_BLOCK; mode++) {
                    cai_impl_order_record_t record = make_record(CAI_IMPL_SOURCE_STREAM, (cai_order_mode_t)mode,
                                                                 streams[producer], streams[consumer], 0);
                    /* What a blocking or the per-thread stream captures stops the legacy stream. */
                    const bool   legacy_too = capturing == BLOCKING || capturing == PER_THREAD;
                    const bool   of_producer = producer == LEGACY ? legacy_too : producer == capturing;
                    const bool   of_consumer = mode != CAI_ORDER_BLOCK &&
                                               (consumer == LEGACY ? legacy_too : consumer == capturing);
                    const bool   is_ordered = mode == CAI_ORDER_BLOCK || producer != consumer;
                    const bool   refused = is_ordered && (of_producer || of_consumer);
                    char         name[128];
                    cai_error_t  error;
                    cai_status_t status;
                    snprintf(name, sizeof(name), "%s captures, producer %s, consumer %s, mode %d",
                             capturing == LEGACY ? "nothing" : kind_names[capturing], kind_names[producer],
                             kind_names[consumer], mode);
                    if (capturing != LEGACY)
                        UNIT_CUDA(cudaStreamBeginCapture(streams[capturing], cudaStreamCaptureModeGlobal));
                    emulator_clear_calls();
                    error.message[0] = '\0';
                    status = cai_impl_order_check(NULL, &record, &error);
                    cr_expect_eq(status, refused ? CAI_ERROR_STREAM_CAPTURE : CAI_OK, "%s: %s", name,
                                 cai_status_name(status));
                    cr_expect_eq(cai_impl_order_check(NULL, &record, NULL), status, "%s: without an error", name);
                    cr_expect_eq(emulator_count_calls("cudaStreamSynchronize"), 0, "%s", name);
                    cr_expect_eq(emulator_count_calls("cudaEventRecord"), 0, "%s", name);
                    cr_expect_eq(emulator_count_calls("cudaStreamIsCapturing") > 0, is_ordered, "%s", name);
                    if (refused) {
                        cr_expect_eq(error.status, CAI_ERROR_STREAM_CAPTURE, "%s", name);
                        cr_expect_not_null(strstr(error.message, "cai_order_none()"), "%s: %s", name, error.message);
                    }
                    cr_expect_eq(emulator_cudaPeekAtLastError(), cudaSuccess, "%s", name);
                    if (capturing != LEGACY)
                        unit_end_capture(streams[capturing], name);
                }
            }
        }
    }
    UNIT_NO_VIOLATIONS();
}

/* The message says which of the two captures. */
Test(order, check_names_the_side_that_captures)
{
    cudaStream_t streams[N_KINDS];
    char         producer[32], consumer[32];
    make_streams(streams);
    snprintf(producer, sizeof(producer), "%p", (void *)streams[FREE]);
    snprintf(consumer, sizeof(consumer), "%p", (void *)streams[ALSO_FREE]);
    for (int which = 1; which <= 3; which++) {
        static const char *const words[] = {"", "the first captures", "the second captures", "each captures"};
        cai_impl_order_record_t  record =
            make_record(CAI_IMPL_SOURCE_STREAM, CAI_ORDER_WAIT, streams[FREE], streams[ALSO_FREE], 0);
        cai_error_t error;
        if ((which & 1) != 0)
            UNIT_CUDA(cudaStreamBeginCapture(streams[FREE], cudaStreamCaptureModeRelaxed));
        if ((which & 2) != 0)
            UNIT_CUDA(cudaStreamBeginCapture(streams[ALSO_FREE], cudaStreamCaptureModeRelaxed));
        cr_expect_eq(cai_impl_order_check(NULL, &record, &error), CAI_ERROR_STREAM_CAPTURE, "%d", which);
        cr_expect_not_null(strstr(error.message, words[which]), "%d: %s", which, error.message);
        cr_expect_not_null(strstr(error.message, producer), "%d: %s", which, error.message);
        cr_expect_not_null(strstr(error.message, consumer), "%d: %s", which, error.message);
        if ((which & 1) != 0)
            unit_end_capture(streams[FREE], "producer");
        if ((which & 2) != 0)
            unit_end_capture(streams[ALSO_FREE], "consumer");
    }
}

/* A host that waits has no stream, and the message speaks of none. */
Test(order, check_of_a_host_that_waits)
{
    const cudaStream_t      stream = unit_stream(cudaStreamNonBlocking);
    cai_impl_order_record_t record = make_record(CAI_IMPL_SOURCE_STREAM, CAI_ORDER_BLOCK, stream, NULL, 0);
    cai_error_t             error;
    UNIT_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed));
    cr_expect_eq(cai_impl_order_check(NULL, &record, &error), CAI_ERROR_STREAM_CAPTURE);
    cr_expect_null(strstr(error.message, "nil"), "%s", error.message);
    cr_expect_null(strstr(error.message, "consumer"), "%s", error.message);
    unit_end_capture(stream, "producer");
}

/* Legacy means the stream of the record's device, whatever is current. */
Test(order, pitfall_55_check_on_the_devices_of_the_record)
{
    cudaStream_t blocking;
    UNIT_CUDA(cudaSetDevice(1));
    blocking = unit_stream(cudaStreamDefault);
    UNIT_CUDA(cudaStreamBeginCapture(blocking, cudaStreamCaptureModeRelaxed));
    for (int current = 0; current < 2; current++) {
        for (int32_t device = -1; device < 2; device++) {
            const bool              refused = (device < 0 ? current : device) == 1;
            cai_impl_order_record_t producer =
                make_record(CAI_IMPL_SOURCE_STREAM, CAI_ORDER_WAIT, CAI_STREAM_LEGACY, CAI_STREAM_PER_THREAD, device);
            cai_impl_order_record_t consumer =
                make_record(CAI_IMPL_SOURCE_STREAM, CAI_ORDER_WAIT, CAI_STREAM_PER_THREAD, CAI_STREAM_LEGACY, device);
            UNIT_CUDA(cudaSetDevice(current));
            cr_expect_eq(cai_impl_order_check(NULL, &producer, NULL), refused ? CAI_ERROR_STREAM_CAPTURE : CAI_OK,
                         "producer on device %d, %d is current", device, current);
            cr_expect_eq(cai_impl_order_check(NULL, &consumer, NULL), refused ? CAI_ERROR_STREAM_CAPTURE : CAI_OK,
                         "consumer on device %d, %d is current", device, current);
            cr_expect_eq(unit_current_device(), current, "device %d", device);
        }
    }
    UNIT_CUDA(cudaSetDevice(1));
    unit_end_capture(blocking, "blocking");
    UNIT_NO_VIOLATIONS();
}

Test(order, every_call_of_the_check_may_fail)
{
    /* cudaGetDevice, cudaSetDevice, cudaStreamIsCapturing twice, cudaSetDevice */
    cai_impl_order_record_t record =
        make_record(CAI_IMPL_SOURCE_STREAM, CAI_ORDER_WAIT, CAI_STREAM_LEGACY, CAI_STREAM_PER_THREAD, 1);
    int n_calls = 0;
    for (int nth = 1; nth <= 20; nth++) {
        cai_error_t  error;
        cai_status_t status;
        memset(&error, 0, sizeof(error));
        cr_assert_eq(emulator_fail(NULL, nth, cudaErrorDevicesUnavailable), 0);
        status = cai_impl_order_check(NULL, &record, &error);
        if (emulator_count_failures() > 0) {
            cr_expect_eq(status, CAI_OK, "call %d", nth);
            break;
        }
        n_calls = nth;
        cr_expect_eq(status, CAI_ERROR_CUDA_CALL, "call %d", nth);
        cr_expect_eq(error.status, CAI_ERROR_CUDA_CALL, "call %d", nth);
        cr_expect_eq(error.cuda_code, cudaErrorDevicesUnavailable, "call %d", nth);
        cr_expect_eq(emulator_cudaPeekAtLastError(), cudaSuccess, "call %d", nth);
        if (nth < 5)
            cr_expect_eq(unit_current_device(), 0, "call %d", nth);
        UNIT_CUDA(cudaSetDevice(0));
    }
    cr_expect_eq(n_calls, 5);
}

/* ---- there and back ---------------------------------------------------------------------------------------------- */

/* Managed, so that the test may look at it while work is pending. */
static int *new_int(void)
{
    int *memory = NULL;
    UNIT_CUDA(cudaMallocManaged((void **)&memory, sizeof(int), cudaMemAttachGlobal));
    *memory = 0;
    return memory;
}

/* What a copy on `stream` sees, when that is all that is waited for. */
static int seen_on(cudaStream_t stream, const int *target)
{
    int *copy = new_int(), value;
    UNIT_CUDA(cudaMemcpyAsync(copy, target, sizeof(int), cudaMemcpyDefault, stream));
    UNIT_CUDA(cudaStreamSynchronize(stream));
    value = *copy;
    UNIT_CUDA(cudaFree(copy));
    return value;
}

/* Every pair of streams: the consumer sees the producer's work, the producer the consumer's, and nobody waited. */
Test(order, pitfall_53_there_and_back_without_a_wait)
{
    cai_order_pool_t *pool = cai_order_pool_new(NULL);
    cudaStream_t      streams[N_KINDS];
    make_streams(streams);
    for (int i = 0; i < N_KINDS; i++) {
        for (int j = 0; j < N_KINDS; j++) {
            cai_impl_order_record_t record =
                make_record(CAI_IMPL_SOURCE_STREAM, CAI_ORDER_WAIT, streams[i], streams[j], 0);
            int         *there = new_int(), *back = new_int();
            char         name[64];
            cai_status_t status;
            snprintf(name, sizeof(name), "%s and %s", kind_names[i], kind_names[j]);
            unit_write_late(streams[i], there);
            emulator_clear_calls();
            cr_expect_eq(cai_impl_order_check(pool, &record, NULL), CAI_OK, "%s", name);
            cr_expect_eq(cai_impl_order_make(pool, &record, NULL), CAI_OK, "%s", name);
            cr_expect_eq(*there, 0, "%s: the host waited", name);
            cr_expect_eq(seen_on(streams[j], there), 1, "%s: there", name);
            unit_write_late(streams[j], back);
            cr_expect_eq(cai_impl_order_back(pool, &record, &status, NULL), CAI_IMPL_REST_NOTHING, "%s", name);
            cr_expect_eq(status, CAI_OK, "%s", name);
            cr_expect_eq(*back, 0, "%s: the host waited", name);
            cr_expect_eq(seen_on(streams[i], back), 1, "%s: back", name);
            cr_expect_eq(emulator_count_calls("cudaEventRecord"), i == j ? 0u : 2u, "%s", name);
            (void)emulator_run_all();
        }
    }
    cai_order_pool_release(pool);
    cr_expect_eq(emulator_count_events(), 0);
    UNIT_NO_VIOLATIONS();
}

/* What two handles cost once there is an event, and what a number does; a call's device is current already. Where there
 * are several devices, a handle is asked for its own. */
Test(order, pitfall_50_there_and_back_calls_what_it_must)
{
    static const struct {
        const char *name;
        int         devices;
        bool        legacy, is_current;
        size_t      others; /* calls beside two records, two waits and the queries of both streams each way */
    } rows[] = {
        {"handles", 1, false, false, 0},
        {"legacy", 1, true, false, 0},
        {"legacy, two devices", 2, true, false, 3 + CAI_IMPL_HAS_STREAM_GET_DEVICE},
        {"legacy of a call", 1, true, true, 0},
        {"handles, two devices", 2, false, false, 2 * CAI_IMPL_HAS_STREAM_GET_DEVICE},
        {"legacy of a call, two devices", 2, true, true, CAI_IMPL_HAS_STREAM_GET_DEVICE},
    };
    for (size_t i = 0; i < UNIT_COUNT(rows); i++) {
        cai_order_pool_t       *pool = cai_order_pool_new(NULL);
        const cudaStream_t      producer = rows[i].legacy ? cudaStreamLegacy : unit_stream(cudaStreamNonBlocking);
        cai_impl_order_record_t record =
            make_record(CAI_IMPL_SOURCE_STREAM, CAI_ORDER_WAIT, producer, unit_stream(cudaStreamNonBlocking), 0);
        cai_status_t status;
        record.is_current = rows[i].is_current;
        cr_assert_eq(emulator_set_device_count(rows[i].devices), 0);
        for (int round = 0; round < 2; round++) {
            emulator_clear_calls();
            cr_expect_eq(cai_impl_order_check(pool, &record, NULL), CAI_OK);
            cr_expect_eq(cai_impl_order_make(pool, &record, NULL), CAI_OK);
            cr_expect_eq(cai_impl_order_back(pool, &record, &status, NULL), CAI_IMPL_REST_NOTHING);
        }
        cr_expect_eq(emulator_count_calls("cudaEventRecord"), 2, "%s", rows[i].name);
        cr_expect_eq(emulator_count_calls("cudaStreamWaitEvent"), 2, "%s", rows[i].name);
        cr_expect_eq(emulator_count_calls("cudaStreamIsCapturing"), 4, "%s", rows[i].name);
        cr_expect_eq(emulator_count_calls(NULL), 8 + rows[i].others, "%s", rows[i].name);
        cai_order_pool_release(pool);
    }
}

/* Producer and consumer on two devices, whichever is current, and whichever the array is on. */
Test(order, pitfall_55_there_and_back_between_devices)
{
#if CAI_IMPL_HAS_STREAM_GET_DEVICE
    cai_order_pool_t *pool = cai_order_pool_new(NULL);
    cudaStream_t      streams[2];
    for (int device = 0; device < 2; device++) {
        UNIT_CUDA(cudaSetDevice(device));
        streams[device] = unit_stream(cudaStreamNonBlocking);
    }
    for (int current = 0; current < 2; current++) {
        for (int first = 0; first < 2; first++) {
            for (int32_t device = -1; device < 2; device++) {
                cai_impl_order_record_t record =
                    make_record(CAI_IMPL_SOURCE_STREAM, CAI_ORDER_WAIT, streams[first], streams[1 - first], device);
                int         *there = new_int(), *back = new_int();
                cai_status_t status;
                UNIT_CUDA(cudaSetDevice(first));
                unit_write_late(streams[first], there);
                UNIT_CUDA(cudaSetDevice(current));
                cr_expect_eq(cai_impl_order_check(pool, &record, NULL), CAI_OK);
                cr_expect_eq(cai_impl_order_make(pool, &record, NULL), CAI_OK);
                cr_expect_eq(unit_current_device(), current);
                cr_expect_eq(seen_on(streams[1 - first], there), 1, "there from %d", first);
                UNIT_CUDA(cudaSetDevice(1 - first));
                unit_write_late(streams[1 - first], back);
                UNIT_CUDA(cudaSetDevice(current));
                cr_expect_eq(cai_impl_order_back(pool, &record, &status, NULL), CAI_IMPL_REST_NOTHING);
                cr_expect_eq(status, CAI_OK);
                cr_expect_eq(seen_on(streams[first], back), 1, "back to %d", first);
                cr_expect_eq(unit_current_device(), current);
                cr_expect_eq(emulator_cudaPeekAtLastError(), cudaSuccess);
            }
        }
    }
    cai_order_pool_release(pool);
    cr_expect_eq(emulator_count_events(), 0);
    UNIT_NO_VIOLATIONS();
#endif
}

/* What is left to the caller, without captures. */
Test(order, pitfall_56_what_a_release_leaves_to_do)
{
    const cudaStream_t producer = unit_stream(cudaStreamNonBlocking), consumer = unit_stream(cudaStreamNonBlocking);
    cai_order_pool_t  *pool = cai_order_pool_new(NULL);
    for (size_t i = 0; i < UNIT_COUNT(table); i++) {
        const order_case_t           *row = &table[i];
        const cai_impl_order_record_t record =
            make_record(row->source, row->mode, row->equal ? consumer : producer, consumer, 0);
        const cai_impl_rest_t expected = (row->after & WAIT) != 0   ? CAI_IMPL_REST_STREAM
                                         : (row->after & LATE) != 0 ? CAI_IMPL_REST_LATE
                                                                    : CAI_IMPL_REST_NOTHING;
        int                  *target = new_int();
        cai_status_t          status = CAI_ERROR_MEMORY;
        unit_write_late(consumer, target);
        cr_expect_eq(cai_impl_order_back(pool, &record, &status, NULL), expected, "%s", row->name);
        cr_expect_eq(status, CAI_OK, "%s", row->name);
        cr_expect_eq(*target, 0, "%s: the host waited", row->name);
        cr_expect_eq(seen_on(producer, target), (row->after & BACK) != 0, "%s: the producer's later work", row->name);
        (void)emulator_run_all();
        /* The producer has waited, and must not go on doing so in the next row. */
        UNIT_CUDA(cudaStreamSynchronize(producer));
    }
    cai_order_pool_release(pool);
    UNIT_NO_VIOLATIONS();
}

/* Let `stream` join the capture of `origin`. */
static void join_capture(cudaStream_t origin, cudaStream_t stream)
{
    cudaEvent_t event;
    UNIT_CUDA(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    UNIT_CUDA(cudaEventRecord(event, origin));
    UNIT_CUDA(cudaStreamWaitEvent(stream, event, 0));
    UNIT_CUDA(cudaEventDestroy(event));
}

/* Two streams of one capture: both orders are edges of the graph, which no replay goes without. */
Test(order, pitfall_51_there_and_back_within_one_capture)
{
    for (int source = CAI_IMPL_SOURCE_STREAM; source <= CAI_IMPL_SOURCE_SILENT; source++) {
        for (int pinned = 0; pinned < 2; pinned++) {
            cai_order_pool_t       *pool = cai_order_pool_new(NULL);
            const cudaStream_t      origin = unit_stream(cudaStreamNonBlocking);
            const cudaStream_t      joined = unit_stream(cudaStreamNonBlocking);
            cai_impl_order_record_t record = make_record((cai_impl_source_t)source, CAI_ORDER_WAIT, origin, joined, 0);
            int            *there = new_int(), *seen_there = new_int(), *back = new_int(), *seen_back = new_int();
            cudaGraph_t     graph = NULL;
            cudaGraphExec_t executable = NULL;
            cai_status_t    status;
            record.pinned = pinned != 0;
            UNIT_CUDA(cudaStreamBeginCapture(origin, cudaStreamCaptureModeGlobal));
            join_capture(origin, joined);
            unit_write_late(origin, there);
            cr_expect_eq(cai_impl_order_check(pool, &record, NULL), CAI_OK);
            cr_expect_eq(cai_impl_order_make(pool, &record, NULL), CAI_OK);
            UNIT_CUDA(cudaMemcpyAsync(seen_there, there, sizeof(int), cudaMemcpyDefault, joined));
            unit_write_late(joined, back);
            cr_expect_eq(cai_impl_order_back(pool, &record, &status, NULL), CAI_IMPL_REST_NOTHING);
            cr_expect_eq(status, CAI_OK);
            UNIT_CUDA(cudaMemcpyAsync(seen_back, back, sizeof(int), cudaMemcpyDefault, origin));
            UNIT_CUDA(cudaStreamEndCapture(origin, &graph));
            UNIT_CUDA(cudaGraphInstantiate(&executable, graph, 0));
            UNIT_CUDA(cudaGraphLaunch(executable, origin));
            cr_expect_eq(*there + *seen_there + *back + *seen_back, 0, "the graph was run before");
            UNIT_CUDA(cudaStreamSynchronize(origin));
            cr_expect_eq(*seen_there, 1);
            cr_expect_eq(*seen_back, 1);
            UNIT_CUDA(cudaGraphExecDestroy(executable));
            UNIT_CUDA(cudaGraphDestroy(graph));
            cai_order_pool_release(pool);
        }
    }
    UNIT_NO_VIOLATIONS();
}

/* A release while somebody captures who did not at the acquire. Nothing breaks a capture, and what cannot be ordered by
 * streams is left to the host. */
Test(order, pitfall_51_release_beside_a_capture)
{
    static const struct {
        const char       *name;
        cai_impl_source_t source;
        stream_kind_t     producer, consumer, capturing;
        cai_impl_rest_t   rest;
    } rows[] = {
        {"the consumer", CAI_IMPL_SOURCE_STREAM, FREE, ALSO_FREE, ALSO_FREE, CAI_IMPL_REST_NOTHING},
        {"the consumer of a silent one", CAI_IMPL_SOURCE_SILENT, LEGACY, FREE, FREE, CAI_IMPL_REST_NOTHING},
        {"the consumer that was told", CAI_IMPL_SOURCE_ORDERED, FREE, FREE, FREE, CAI_IMPL_REST_NOTHING},
        {"the consumer of pinned memory", PINNED(CAI_IMPL_SOURCE_STREAM), FREE, FREE, FREE, CAI_IMPL_REST_NOTHING},
        {"the producer", CAI_IMPL_SOURCE_STREAM, FREE, ALSO_FREE, FREE, CAI_IMPL_REST_STREAM},
        {"the producer of pinned memory", PINNED(CAI_IMPL_SOURCE_STREAM), FREE, ALSO_FREE, FREE, CAI_IMPL_REST_STREAM},
        {"a blocking stream, producer on legacy", CAI_IMPL_SOURCE_STREAM, LEGACY, FREE, BLOCKING, CAI_IMPL_REST_STREAM},
        {"a blocking stream, silent", CAI_IMPL_SOURCE_SILENT, LEGACY, FREE, BLOCKING, CAI_IMPL_REST_LATE},
        {"a blocking stream, consumer on legacy", CAI_IMPL_SOURCE_STREAM, FREE, LEGACY, BLOCKING, CAI_IMPL_REST_DEVICE},
        {"a blocking stream, silent on legacy", CAI_IMPL_SOURCE_SILENT, LEGACY, LEGACY, BLOCKING, CAI_IMPL_REST_DEVICE},
        {"a blocking producer, consumer on legacy", CAI_IMPL_SOURCE_STREAM, BLOCKING, LEGACY, BLOCKING,
         CAI_IMPL_REST_DEVICE},
        {"somebody else", CAI_IMPL_SOURCE_STREAM, ALSO_FREE, PER_THREAD, FREE, CAI_IMPL_REST_NOTHING},
        {"somebody else, told", CAI_IMPL_SOURCE_ORDERED, ALSO_FREE, ALSO_FREE, FREE, CAI_IMPL_REST_LATE},
    };
    for (size_t i = 0; i < UNIT_COUNT(rows); i++) {
        for (size_t mode = 0; mode < UNIT_COUNT(capture_modes); mode++) {
            cai_order_pool_t       *pool = cai_order_pool_new(NULL);
            cudaStream_t            streams[N_KINDS];
            cai_impl_order_record_t record;
            cai_status_t            status = CAI_ERROR_MEMORY;
            char                    name[96];
            make_streams(streams);
            record =
                make_record(rows[i].source, CAI_ORDER_WAIT, streams[rows[i].producer], streams[rows[i].consumer], 0);
            snprintf(name, sizeof(name), "%s captures, %s", rows[i].name, capture_modes[mode].name);
            UNIT_CUDA(cudaStreamBeginCapture(streams[rows[i].capturing], capture_modes[mode].mode));
            cr_expect_eq(cai_impl_order_back(pool, &record, &status, NULL), rows[i].rest, "%s", name);
            cr_expect_eq(status, CAI_OK, "%s", name);
            cr_expect_eq(emulator_cudaPeekAtLastError(), cudaSuccess, "%s", name);
            unit_end_capture(streams[rows[i].capturing], name);
            cai_order_pool_release(pool);
        }
    }
    UNIT_NO_VIOLATIONS();
}

/* Each call fails in turn: the status is told, the device is as before, and what could not be ordered is the host's. */
Test(order, every_call_of_the_way_back_may_fail)
{
    int n_failed = 0;
    for (int nth = 1; nth <= 20; nth++) {
        cai_order_pool_t             *pool = cai_order_pool_new(NULL);
        const cai_impl_order_record_t record =
            make_record(CAI_IMPL_SOURCE_STREAM, CAI_ORDER_WAIT, CAI_STREAM_LEGACY, CAI_STREAM_PER_THREAD, 1);
        cai_error_t     error;
        cai_status_t    status;
        cai_impl_rest_t rest;
        bool            failed, ordered;
        cr_assert_eq(emulator_fail(NULL, nth, cudaErrorDevicesUnavailable), 0);
        rest = cai_impl_order_back(pool, &record, &status, &error);
        failed = emulator_count_failures() == 0;
        emulator_fail_clear();
        cr_expect_eq(status, failed ? CAI_ERROR_CUDA_CALL : CAI_OK, "call %d", nth);
        if (failed)
            cr_expect_eq(error.cuda_code, cudaErrorDevicesUnavailable, "call %d", nth);
        /* cudaGetDevice, cudaSetDevice, two queries; then what makes the order; then cudaSetDevice */
        ordered = !failed || nth <= 4 || strncmp(error.message, "cudaSetDevice ", 14) == 0;
        cr_expect_eq(rest, ordered ? CAI_IMPL_REST_NOTHING : CAI_IMPL_REST_STREAM, "call %d: %s", nth,
                     failed ? error.message : "");
        cr_expect_eq(emulator_cudaPeekAtLastError(), cudaSuccess, "call %d", nth);
        UNIT_CUDA(cudaSetDevice(0));
        cai_order_pool_release(pool);
        n_failed += failed;
        if (!failed)
            break;
    }
    cr_expect_geq(n_failed, 8);
    cr_expect_eq(emulator_count_events(), 0);
}

/* ---- the names of streams ---------------------------------------------------------------------------------------- */

typedef struct naming {
    cai_impl_order_record_t record;
    bool                    renamed;
} naming_t;

static void *name_streams(void *argument)
{
    naming_t *naming = (naming_t *)argument;
    naming->renamed = cai_impl_order_name_streams(&naming->record);
    return NULL;
}

/* 2 is used only on the thread that said it; elsewhere legacy stands in. */
Test(order, pitfall_52_per_thread_streams_are_named_for_the_thread)
{
    static const struct {
        uint64_t producer, consumer, named_producer, named_consumer;
        bool     renamed;
    } rows[] = {
        {1, 0x5000, 1, 0x5000, false},
        {2, 0x5000, 1, 0x5000, false},
        {0x5000, 2, 0x5000, 1, true},
        {2, 2, 1, 1, true},
        {1, 2, 1, 1, true},
    };
    for (size_t i = 0; i < UNIT_COUNT(rows); i++) {
        naming_t  here, there;
        pthread_t thread;
        here.record =
            make_record(CAI_IMPL_SOURCE_STREAM, CAI_ORDER_WAIT, handle(rows[i].producer), handle(rows[i].consumer), 0);
        here.record.thread = pthread_self();
        there = here;
        (void)name_streams(&here);
        cr_expect_eq(here.record.producer, handle(rows[i].producer), "%zu", i);
        cr_expect_eq(here.record.consumer, handle(rows[i].consumer), "%zu", i);
        cr_expect_not(here.renamed, "%zu", i);
        cr_assert_eq(pthread_create(&thread, NULL, name_streams, &there), 0);
        cr_assert_eq(pthread_join(thread, NULL), 0);
        cr_expect_eq(there.record.producer, handle(rows[i].named_producer), "%zu", i);
        cr_expect_eq(there.record.consumer, handle(rows[i].named_consumer), "%zu", i);
        cr_expect_eq(there.renamed, rows[i].renamed, "%zu", i);
    }
}

/* ---- waits of the host -------------------------------------------------------------------------------------------- */

static cai_status_t perform(cai_stream_t stream, int32_t device_id, const char *name)
{
    cai_error_t  error;
    cai_status_t status;
    error.message[0] = '\0';
    status = cai_impl_wait_for_stream(stream, device_id, &error);
    cr_expect_eq(status == CAI_OK, error.message[0] == '\0', "%s: %s", name, error.message);
    return status;
}

/* The work of the stream is done afterwards, and no other stream's. */
Test(order, pitfall_53_wait_of_every_stream)
{
    cudaStream_t streams[N_KINDS];
    int         *target = NULL, *unrelated = NULL;
    make_streams(streams);
    UNIT_CUDA(cudaMalloc((void **)&target, sizeof(*target)));
    UNIT_CUDA(cudaMalloc((void **)&unrelated, sizeof(*unrelated)));
    for (int kind = 0; kind < N_KINDS; kind++) {
        const int other = kind == FREE ? ALSO_FREE : FREE;
        unit_write_late(streams[other], unrelated);
        unit_write_late(streams[kind], target);
        cr_assert_eq(*target, 0, "%s: done already", kind_names[kind]);
        cr_expect_eq(perform(streams[kind], 0, kind_names[kind]), CAI_OK, "%s", kind_names[kind]);
        cr_expect_eq(*target, 1, "%s: not done", kind_names[kind]);
        cr_expect_eq(*unrelated, 0, "%s: more than the stream was waited for", kind_names[kind]);
        UNIT_CUDA(cudaStreamSynchronize(streams[other]));
    }
    UNIT_NO_VIOLATIONS();
}

/* 1 and 2 are those of the device that is told, handles are of their own. */
Test(order, pitfall_55_wait_on_another_device)
{
    static const struct {
        const char   *name;
        stream_kind_t kind;
        int32_t       device_id; /* as told */
        int           device;    /* whose work is waited for, with device 0 current */
    } rows[] = {
        {"legacy of device 0", LEGACY, 0, 0},
        {"legacy of device 1", LEGACY, 1, 1},
        {"legacy of the current device", LEGACY, -1, 0},
        {"per-thread of device 0", PER_THREAD, 0, 0},
        {"per-thread of device 1", PER_THREAD, 1, 1},
        {"per-thread of the current device", PER_THREAD, -1, 0},
    };
    int *targets[2] = {NULL, NULL};
    for (int device = 0; device < 2; device++) {
        UNIT_CUDA(cudaSetDevice(device));
        UNIT_CUDA(cudaMalloc((void **)&targets[device], sizeof(int)));
    }
    for (size_t i = 0; i < UNIT_COUNT(rows); i++) {
        const cudaStream_t stream = rows[i].kind == LEGACY ? cudaStreamLegacy : cudaStreamPerThread;
        for (int device = 0; device < 2; device++) {
            UNIT_CUDA(cudaSetDevice(device));
            unit_write_late(stream, targets[device]);
        }
        UNIT_CUDA(cudaSetDevice(0));
        cr_expect_eq(perform(stream, rows[i].device_id, rows[i].name), CAI_OK, "%s", rows[i].name);
        cr_expect_eq(unit_current_device(), 0, "%s: the current device", rows[i].name);
        for (int device = 0; device < 2; device++)
            cr_expect_eq(*targets[device], device == rows[i].device, "%s: work of device %d", rows[i].name, device);
        (void)emulator_run_all();
    }
    UNIT_NO_VIOLATIONS();
}

Test(order, pitfall_55_wait_for_a_handle_of_another_device)
{
    int         *target = NULL;
    cudaStream_t stream;
    UNIT_CUDA(cudaSetDevice(1));
    stream = unit_stream(cudaStreamNonBlocking);
    UNIT_CUDA(cudaMalloc((void **)&target, sizeof(int)));
    for (int32_t device = -1; device < 2; device++) {
        UNIT_CUDA(cudaSetDevice(1));
        unit_write_late(stream, target);
        UNIT_CUDA(cudaSetDevice(0));
        emulator_clear_calls();
        cr_expect_eq(perform(stream, device, "handle"), CAI_OK);
        cr_expect_eq(*target, 1);
        cr_expect_eq(emulator_count_calls("cudaSetDevice"), 0, "a handle needs no device, %d", device);
        cr_expect_eq(emulator_count_calls("cudaGetDevice"), 0, "a handle needs no device, %d", device);
    }
    UNIT_NO_VIOLATIONS();
}

/* A wait while somebody captures: in every mode, on this thread and on another, the capture stays intact. */
Test(order, pitfall_51_captures_elsewhere_stay_intact)
{
    static const stream_kind_t waited[] = {PER_THREAD, ALSO_FREE};
    for (size_t i = 0; i < UNIT_COUNT(capture_modes); i++) {
        for (size_t j = 0; j < UNIT_COUNT(waited); j++) {
            cudaStream_t streams[N_KINDS];
            int         *target = NULL, *captured = NULL;
            char         name[64];
            make_streams(streams);
            snprintf(name, sizeof(name), "%s, %s", capture_modes[i].name, kind_names[waited[j]]);
            UNIT_CUDA(cudaMalloc((void **)&target, sizeof(int)));
            UNIT_CUDA(cudaMalloc((void **)&captured, sizeof(int)));
            unit_write_late(streams[waited[j]], target);
            UNIT_CUDA(cudaStreamBeginCapture(streams[FREE], capture_modes[i].mode));
            unit_write_late(streams[FREE], captured);
            cr_expect_eq(perform(streams[waited[j]], 0, name), CAI_OK, "%s", name);
            cr_expect_eq(*target, 1, "%s", name);
            cr_expect_eq(*captured, 0, "%s: the graph was run", name);
            unit_end_capture(streams[FREE], name);
        }
    }
    UNIT_NO_VIOLATIONS();
}

Test(order, capture_mode_of_the_thread_is_restored)
{
    const cudaStream_t stream = unit_stream(cudaStreamNonBlocking);
    for (size_t i = 0; i < UNIT_COUNT(capture_modes); i++) {
        enum cudaStreamCaptureMode mode = capture_modes[i].mode;
        UNIT_CUDA(cudaThreadExchangeStreamCaptureMode(&mode));
        cr_assert_eq(unit_capture_mode(), capture_modes[i].mode, "%s", capture_modes[i].name);
        cr_expect_eq(perform(stream, 0, capture_modes[i].name), CAI_OK, "%s", capture_modes[i].name);
        cr_expect_eq(unit_capture_mode(), capture_modes[i].mode, "%s: restored", capture_modes[i].name);
        cr_expect_eq(perform(CAI_STREAM_LEGACY, 1, capture_modes[i].name), CAI_OK, "%s", capture_modes[i].name);
        cr_expect_eq(unit_capture_mode(), capture_modes[i].mode, "%s: restored, device 1", capture_modes[i].name);
    }
}

/* The relaxed mode is on while the host waits. */
static void note_mode(const char *name, void *context)
{
    enum cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
    (void)name;
    (void)emulator_cudaThreadExchangeStreamCaptureMode(&mode);
    *(int *)context = (int)mode;
    (void)emulator_cudaThreadExchangeStreamCaptureMode(&mode);
}

Test(order, pitfall_51_the_wait_is_relaxed)
{
    const cudaStream_t stream = unit_stream(cudaStreamNonBlocking);
    int                mode = -1;
    emulator_set_blocking_hook(note_mode, &mode);
    cr_expect_eq(perform(stream, 0, "hook"), CAI_OK);
    emulator_set_blocking_hook(NULL, NULL);
    cr_expect_eq(mode, (int)cudaStreamCaptureModeRelaxed);
}

/* Waiting for a stream that captures is an error of CUDA's; the mode and the device are put back. */
Test(order, wait_for_a_stream_that_captures)
{
    const cudaStream_t stream = unit_stream(cudaStreamNonBlocking);
    cudaGraph_t        graph = NULL;
    cai_error_t        error;
    UNIT_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    cr_expect_eq(cai_impl_wait_for_stream(stream, 0, &error), CAI_ERROR_CUDA_CALL);
    cr_expect_eq(error.cuda_code, cudaErrorStreamCaptureUnsupported);
    cr_expect_eq(strncmp(error.message, "cudaStreamSynchronize failed: ", 30), 0, "%s", error.message);
    cr_expect_eq(emulator_cudaPeekAtLastError(), cudaSuccess);
    cr_expect_eq(unit_capture_mode(), cudaStreamCaptureModeGlobal);
    (void)emulator_cudaStreamEndCapture(stream, &graph);
}

Test(order, wait_calls_what_it_must)
{
    const cudaStream_t stream = unit_stream(cudaStreamNonBlocking);
    emulator_clear_calls();
    cr_expect_eq(perform(stream, 0, "handle"), CAI_OK);
    cr_expect_eq(emulator_count_calls(NULL), 3);
    cr_expect_eq(emulator_count_calls("cudaStreamSynchronize"), 1);
    cr_expect_eq(emulator_count_calls("cudaThreadExchangeStreamCaptureMode"), 2);
    emulator_clear_calls();
    cr_expect_eq(perform(CAI_STREAM_LEGACY, 0, "legacy, current"), CAI_OK);
    cr_expect_eq(emulator_count_calls("cudaSetDevice"), 0);
    emulator_clear_calls();
    cr_expect_eq(perform(CAI_STREAM_LEGACY, 1, "legacy of device 1"), CAI_OK);
    cr_expect_eq(emulator_count_calls("cudaSetDevice"), 2);
    cr_expect_eq(emulator_count_calls("cudaDeviceSynchronize"), 0, "it breaks every capture");
}

/* cudaGetDevice, cudaSetDevice, the mode, cudaStreamSynchronize, the mode, cudaSetDevice: whichever fails is told, the
 * device and the mode are as before, unless putting them back is what failed. */
static void expect_failure_of_wait(int nth, bool restores_mode, bool restores_device)
{
    cai_error_t error;
    memset(&error, 0, sizeof(error));
    cr_assert_eq(emulator_fail(NULL, nth, cudaErrorDevicesUnavailable), 0);
    cr_expect_eq(cai_impl_wait_for_stream(CAI_STREAM_LEGACY, 1, &error), CAI_ERROR_CUDA_CALL, "call %d", nth);
    cr_expect_eq(emulator_count_failures(), 0, "call %d", nth);
    cr_expect_eq(error.status, CAI_ERROR_CUDA_CALL, "call %d", nth);
    cr_expect_eq(error.cuda_code, cudaErrorDevicesUnavailable, "call %d", nth);
    cr_expect_eq(emulator_cudaPeekAtLastError(), cudaSuccess, "call %d", nth);
    if (restores_mode)
        cr_expect_eq(unit_capture_mode(), cudaStreamCaptureModeGlobal, "call %d", nth);
    if (restores_device)
        cr_expect_eq(unit_current_device(), 0, "call %d", nth);
}

Test(order, calls_of_the_wait_may_fail)
{
    static const struct {
        int  nth;
        bool restores_mode, restores_device;
    } rows[] = {{1, true, true}, {2, true, true}, {3, true, true}, {4, true, true}, {6, true, false}};
    for (size_t i = 0; i < UNIT_COUNT(rows); i++) {
        expect_failure_of_wait(rows[i].nth, rows[i].restores_mode, rows[i].restores_device);
        UNIT_CUDA(cudaSetDevice(0));
    }
    emulator_clear_calls();
    cr_expect_eq(perform(CAI_STREAM_LEGACY, 1, "all"), CAI_OK);
    cr_expect_eq(emulator_count_calls(NULL), 6);
}

Test(order, going_back_to_the_capture_mode_may_fail)
{
    expect_failure_of_wait(5, false, true);
}

/* The first failure is the one that is told. */
Test(order, two_failures_of_a_wait)
{
    cai_error_t error;
    cr_assert_eq(emulator_fail(NULL, 4, cudaErrorIllegalAddress), 0);
    cr_assert_eq(emulator_fail(NULL, 6, cudaErrorDevicesUnavailable), 0);
    cr_expect_eq(cai_impl_wait_for_stream(CAI_STREAM_LEGACY, 1, &error), CAI_ERROR_CUDA_CALL);
    cr_expect_eq(error.cuda_code, cudaErrorIllegalAddress);
    cr_expect_eq(emulator_cudaPeekAtLastError(), cudaSuccess);
    cr_assert_eq(emulator_count_failures(), 0);
    UNIT_CUDA(cudaSetDevice(0));
    for (int nth = 1; nth <= 6; nth++) {
        cr_assert_eq(emulator_fail(NULL, nth, cudaErrorIllegalAddress), 0);
        (void)cai_impl_wait_for_stream(CAI_STREAM_LEGACY, 1, NULL);
        UNIT_CUDA(cudaSetDevice(0));
    }
}

/* ---- threads ----------------------------------------------------------------------------------------------------- */

/* Threads that wait while another captures in the mode that minds everybody. */
enum { N_THREADS = 3, N_ROUNDS = 50 };

typedef struct waiting_thread {
    pthread_t    thread;
    cudaStream_t stream;
    int         *target;
    size_t       wrong;
} waiting_thread_t;

static void *wait_in_rounds(void *argument)
{
    waiting_thread_t *self = (waiting_thread_t *)argument;
    for (int i = 0; i < N_ROUNDS; i++) {
        const cudaStream_t         stream = i % 2 == 0 ? self->stream : CAI_STREAM_PER_THREAD;
        enum cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;
        *self->target = 0;
        self->wrong += emulator_launch(stream, unit_write_one, &self->target, sizeof(self->target)) != cudaSuccess;
        self->wrong += cai_impl_wait_for_stream(stream, 0, NULL) != CAI_OK;
        self->wrong += *self->target != 1;
        self->wrong += emulator_cudaThreadExchangeStreamCaptureMode(&mode) != cudaSuccess;
        self->wrong += mode != cudaStreamCaptureModeGlobal;
    }
    return NULL;
}

Test(order, pitfall_51_threads_wait_while_another_captures)
{
    const cudaStream_t stream = unit_stream(cudaStreamNonBlocking);
    waiting_thread_t   threads[N_THREADS];
    for (int i = 0; i < N_THREADS; i++) {
        threads[i].stream = unit_stream(cudaStreamNonBlocking);
        threads[i].target = NULL;
        threads[i].wrong = 0;
        UNIT_CUDA(cudaMalloc((void **)&threads[i].target, sizeof(int)));
    }
    UNIT_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    for (int i = 0; i < N_THREADS; i++)
        cr_assert_eq(pthread_create(&threads[i].thread, NULL, wait_in_rounds, &threads[i]), 0);
    for (int i = 0; i < N_THREADS; i++) {
        cr_assert_eq(pthread_join(threads[i].thread, NULL), 0);
        cr_expect_eq(threads[i].wrong, 0, "thread %d: %zu wrong", i, threads[i].wrong);
    }
    unit_end_capture(stream, "the capture of the main thread");
    UNIT_NO_VIOLATIONS();
}

/* 2 is the calling thread's own stream: another thread's work on its 2 is not waited for. */
typedef struct foreign_wait {
    cai_status_t status;
} foreign_wait_t;

static void *wait_for_own_stream(void *argument)
{
    ((foreign_wait_t *)argument)->status = cai_impl_wait_for_stream(CAI_STREAM_PER_THREAD, 0, NULL);
    return NULL;
}

Test(order, pitfall_52_per_thread_is_the_calling_threads)
{
    int           *target = NULL;
    foreign_wait_t other = {CAI_ERROR_MEMORY};
    pthread_t      thread;
    UNIT_CUDA(cudaMalloc((void **)&target, sizeof(int)));
    unit_write_late(cudaStreamPerThread, target);
    cr_assert_eq(pthread_create(&thread, NULL, wait_for_own_stream, &other), 0);
    cr_assert_eq(pthread_join(thread, NULL), 0);
    cr_expect_eq(other.status, CAI_OK);
    cr_expect_eq(*target, 0);
    cr_expect_eq(perform(CAI_STREAM_PER_THREAD, 0, "own"), CAI_OK);
    cr_expect_eq(*target, 1);
    UNIT_NO_VIOLATIONS();
}

#endif
