/**
 * cai/order.h - the table of who runs after whom, as decisions, and the host wait that makes them true.
 *
 * Where producer and consumer use one stream, which is what cai_order_adopt() is for, nothing is called at all. Where
 * they use two, the host waits: for the producer's stream before the work, for the consumer's before memory is given
 * back. A graph capture cannot be waited for, so that what would need it is refused before any stream is touched.
 *
 * No function here knows Python: whoever calls one that may block releases the GIL around it.
 * Specification: CUDA Array Interface v3, the array API standard; what captures forbid was measured (CUDA 13.0, H200).
 */
#ifndef CAI_ORDER_H
#define CAI_ORDER_H

#include <cai/device.h>
#include <cai/stream.h>

/**
 * Whether work enqueued on the stream now becomes part of a graph. For CAI_STREAM_LEGACY: whether some blocking stream of
 * the current device captures, so that the legacy stream must not be used. 1 and 2 mean the current device's.
 */
CAI_API CAI_NODISCARD cai_status_t cai_stream_is_capturing(cai_stream_t stream, bool *capturing, cai_error_t *error);

/* ---------------------------------------------------------------------------------------------------- bodies ---- */

/* What is known of the work that a producer may still have in flight on an array. */
typedef enum cai_impl_source {
    CAI_IMPL_SOURCE_READY,  /* none: host memory, no elements, or the producer says that no order is needed */
    CAI_IMPL_SOURCE_STREAM, /* the producer told its stream */
    CAI_IMPL_SOURCE_SILENT, /* the producer tells no stream: legacy is assumed */
    CAI_IMPL_SOURCE_ORDERED /* the producer was passed the consumer's stream, and has ordered its work before it */
} cai_impl_source_t;

/* The order of one view: filled by the reader of its protocol, then by the choice of the consumer's stream. */
typedef struct cai_impl_order_record {
    cai_impl_source_t source;
    cai_order_mode_t  mode;
    bool              pinned;    /* memory that host code sees as soon as it is given back */
    int32_t           device_id; /* whose 1 and 2 are meant; -1: the current device's */
    unsigned long     thread;    /* whose 2 is meant */
    cai_stream_t      producer, consumer;
} cai_impl_order_record_t;

/* What to wait for: nothing (needed is false), or one stream. */
typedef struct cai_impl_wait {
    bool         needed;
    cai_stream_t stream;
    int32_t      device_id;
} cai_impl_wait_t;

CAI_IMPL cai_impl_wait_t cai_impl_wait_for(bool needed, cai_stream_t stream, int32_t device_id)
{
    cai_impl_wait_t wait;
    wait.needed = needed;
    wait.stream = stream;
    wait.device_id = device_id;
    return wait;
}

/* The left side of the table: what has to be done before the consumer's work. */
CAI_IMPL cai_impl_wait_t cai_impl_wait_before(const cai_impl_order_record_t *record)
{
    const bool pending = record->source != CAI_IMPL_SOURCE_READY && record->mode != CAI_ORDER_NONE;
    if (record->mode == CAI_ORDER_BLOCK)
        return cai_impl_wait_for(pending, record->producer, record->device_id);
    return cai_impl_wait_for(pending && record->source != CAI_IMPL_SOURCE_ORDERED &&
                                 record->producer != record->consumer,
                             record->producer, record->device_id);
}

/* The right side: what has to be done before the memory is given back. A producer whose stream is not known may hand the
 * memory out again at once, and so may host code with pinned memory; both then must find the consumer's work done. */
CAI_IMPL cai_impl_wait_t cai_impl_wait_after(const cai_impl_order_record_t *record)
{
    const bool used = record->mode == CAI_ORDER_WAIT || record->mode == CAI_ORDER_ADOPT;
    const bool known = record->source == CAI_IMPL_SOURCE_STREAM && record->producer == record->consumer;
    const bool pending = record->source != CAI_IMPL_SOURCE_READY && !known;
    return cai_impl_wait_for(used && (pending || record->pinned), record->consumer, record->device_id);
}

/* Stream numbers below 3 mean the current device's streams, so that their device has to be current. */
CAI_IMPL cai_status_t cai_impl_stream_guard_enter(cai_device_guard_t *guard, cai_stream_t stream, int32_t device_id,
                                                  cai_error_t *error)
{
    guard->previous = -1;
    if (CAI_IMPL_BITS(uint64_t, stream) > 2 || device_id < 0)
        return CAI_OK;
    return cai_device_guard_enter(guard, device_id, error);
}

CAI_IMPL cai_status_t cai_impl_stream_is_capturing_on(cai_stream_t stream, int32_t device_id, bool *capturing,
                                                      cai_error_t *error)
{
    cai_device_guard_t guard;
    cai_status_t       status = cai_impl_stream_guard_enter(&guard, stream, device_id, error), left;
    if (status != CAI_OK)
        return status;
    status = cai_stream_is_capturing(stream, capturing, error);
    left = cai_device_guard_leave(&guard, status == CAI_OK ? error : NULL);
    return status != CAI_OK ? status : left;
}

#if defined(CAI_NO_CUDA)

CAI_API cai_status_t cai_stream_is_capturing(cai_stream_t stream, bool *capturing, cai_error_t *error)
{
    (void)stream;
    (void)error;
    *capturing = false;
    return CAI_OK;
}

/* Without CUDA, memory that has to be waited for at release must not be taken in the first place. */
CAI_IMPL bool cai_impl_cannot_wait_after(const cai_impl_order_record_t *record)
{
    return cai_impl_wait_after(record).needed;
}

CAI_IMPL_COLD cai_status_t cai_impl_wait_check(const cai_impl_order_record_t *record, cai_error_t *error)
{
    (void)record;
    return cai_error_set(error, CAI_ERROR_DEVICE_MISMATCH,
                         "CUDA memory can be described, not ordered, by code that was built with CAI_NO_CUDA: use "
                         "cai_order_none()");
}

CAI_IMPL_COLD cai_status_t cai_impl_wait_perform(const cai_impl_wait_t *wait, cai_error_t *error)
{
    (void)wait;
    (void)error;
    return CAI_OK;
}

CAI_IMPL_COLD cai_status_t cai_impl_wait_for_device(int32_t device_id, cai_error_t *error)
{
    (void)device_id;
    (void)error;
    return CAI_OK;
}

#else

CAI_API cai_status_t cai_stream_is_capturing(cai_stream_t stream, bool *capturing, cai_error_t *error)
{
    enum cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    const cudaError_t            result = CAI_CUDA(cudaStreamIsCapturing)(stream, &status);
    if (result == cudaErrorStreamCaptureImplicit) {
        (void)CAI_CUDA(cudaGetLastError)();
        *capturing = true;
        return CAI_OK;
    }
    *capturing = status != cudaStreamCaptureStatusNone;
    return cai_cuda_status(result, "cudaStreamIsCapturing", error);
}

CAI_IMPL bool cai_impl_cannot_wait_after(const cai_impl_order_record_t *record)
{
    (void)record;
    return false;
}

CAI_IMPL_COLD cai_status_t cai_impl_wait_refused(const cai_impl_order_record_t *record, const char *who,
                                                 cai_error_t *error)
{
    if (record->mode == CAI_ORDER_BLOCK)
        return cai_error_set(
            error, CAI_ERROR_STREAM_CAPTURE,
            "its producer uses stream %p, which captures a graph, so that the host cannot wait for it: use "
            "cai_order_adopt(), or cai_order_none() if the data is complete",
            CAI_IMPL_CAST(void *, record->producer));
    return cai_error_set(
        error, CAI_ERROR_STREAM_CAPTURE,
        "its producer uses stream %p, the consumer stream %p, and %s captures a graph: let both use the "
        "capturing stream, or use cai_order_none() if the data is complete",
        CAI_IMPL_CAST(void *, record->producer), CAI_IMPL_CAST(void *, record->consumer), who);
}

/* Whether the host may wait for the record's producer: refused while a graph capture is involved on either side. */
CAI_IMPL cai_status_t cai_impl_wait_check(const cai_impl_order_record_t *record, cai_error_t *error)
{
    bool         producer = false, consumer = false;
    cai_status_t status = cai_impl_stream_is_capturing_on(record->producer, record->device_id, &producer, error);
    if (status == CAI_OK && record->mode != CAI_ORDER_BLOCK)
        status = cai_impl_stream_is_capturing_on(record->consumer, record->device_id, &consumer, error);
    if (status != CAI_OK || (!producer && !consumer))
        return status;
    return cai_impl_wait_refused(record, producer && consumer ? "each" : producer ? "the first" : "the second", error);
}

/* Wait on the host until the stream's work is done; blocks. */
CAI_IMPL_COLD cai_status_t cai_impl_wait_perform(const cai_impl_wait_t *wait, cai_error_t *error)
{
    cai_device_guard_t guard;
    cai_status_t       status = cai_impl_stream_guard_enter(&guard, wait->stream, wait->device_id, error), left;
    if (status != CAI_OK)
        return status;
    status = cai_impl_stream_barrier(wait->stream, error);
    left = cai_device_guard_leave(&guard, status == CAI_OK ? error : NULL);
    return status != CAI_OK ? status : left;
}

/* The same for everything that is on the device, where the stream cannot be named; -1: the current one. */
CAI_IMPL_COLD cai_status_t cai_impl_wait_for_device(int32_t device_id, cai_error_t *error)
{
    cai_device_guard_t guard;
    cai_status_t       status, left;
    guard.previous = -1;
    status = device_id < 0 ? CAI_OK : cai_device_guard_enter(&guard, device_id, error);
    if (status != CAI_OK)
        return status;
    status = cai_impl_device_barrier(error);
    left = cai_device_guard_leave(&guard, status == CAI_OK ? error : NULL);
    return status != CAI_OK ? status : left;
}

#endif

#endif /* CAI_ORDER_H */
