/**
 * cai/view_order.h - how a view is ordered with its producer, and given back: at once, late, or after a wait.
 *
 * The decisions, and what streams do, are in order.h; here is what needs Python: waits without the GIL, references, and
 * the queue for what is given back late. Private throughout.
 */
#ifndef CAI_VIEW_ORDER_H
#define CAI_VIEW_ORDER_H

#include <cai/reader.h>

/* ------------------------------------------------------------------------------------- giving back, without order --- */

/* Give back a view of host memory that holds its object alone, where somebody else holds that too, so that no destructor
 * runs. False if it is not so. */
CAI_IMPL_HOT bool cai_impl_view_close_lightly(cai_view_t *view)
{
    if ((view->impl_progress & CAI_IMPL_HOLDS_OBJECT_ALONE) == 0 || !cai_impl_drop_shared(view->impl_object))
        return false;
    view->impl_object = NULL;
    view->impl_progress = 0;
    view->protocol = 0;
    return true;
}

/* Drop what a view holds beside its object. */
CAI_IMPL_COLD void cai_impl_view_drop_rest(cai_view_t *view)
{
    cai_impl_drop(&view->impl_mask);
    cai_impl_drop(&view->impl_descr);
    cai_impl_drop(&view->impl_interface);
    cai_impl_drop(&view->impl_failure);
}

/* Give back everything that a view holds, as it is, without any order. Leaves a pending exception alone. */
CAI_IMPL_ASIDE void cai_impl_view_close(cai_view_t *view)
{
    PyObject *pending;
    if (view->impl_object == NULL)
        return;
    view->impl_progress = 0; /* before any destructor runs, which may release the view again */
    pending = cai_impl_put_aside();
    cai_impl_give_back(view);
    if (CAI_IMPL_UNLIKELY(!cai_impl_view_holds_object_alone(view)))
        cai_impl_view_drop_rest(view);
    cai_impl_drop(&view->impl_object);
    view->protocol = 0;
    cai_impl_put_back(pending);
}

/* --------------------------------------------------------------------------------------------- before the work --- */

/* The host waits for a stream, with the GIL released: the producer may need it to finish. */
CAI_IMPL_COLD cai_status_t cai_impl_wait_without_gil(cai_stream_t stream, int32_t device_id, cai_error_t *error)
{
    PyThreadState     *thread = PyEval_SaveThread();
    const cai_status_t status = cai_impl_wait_for_stream(stream, device_id, error);
    PyEval_RestoreThread(thread);
    return status;
}

CAI_IMPL_COLD cai_status_t cai_impl_wait_for_device_without_gil(int32_t device_id, cai_error_t *error)
{
    PyThreadState     *thread = PyEval_SaveThread();
    const cai_status_t status = cai_impl_wait_for_device(device_id, error);
    PyEval_RestoreThread(thread);
    return status;
}

/* Settle who the consumer is, and whether that can be ordered at all. Touches no stream. */
CAI_IMPL cai_status_t cai_impl_order_prepare(cai_view_t *view, cai_order_t order, cai_stream_t consumer,
                                             cai_error_t *error)
{
    cai_impl_order_record_t *record = &view->impl_order;
    record->mode = order.mode;
    record->consumer = consumer;
    if (CAI_IMPL_UNLIKELY(consumer == CAI_STREAM_PER_THREAD || record->producer == CAI_STREAM_PER_THREAD))
        record->thread = pthread_self();
    if (order.mode == CAI_ORDER_WAIT && view->stream != NULL)
        view->stream = consumer;
    return cai_impl_order_check(view->impl_state->impl_pool, record, error);
}

/* Order the consumer's work behind the producer's: 1 after a wait of the host, during which other threads ran; 0 without
 * one; -1 with an exception. */
CAI_IMPL int cai_impl_order_perform(const cai_impl_reader_t *reader)
{
    const cai_impl_order_record_t *record = &reader->view->impl_order;
    const cai_impl_before_t        before = cai_impl_order_before(record);
    cai_error_t                    error;
    cai_status_t                   status;
    if (CAI_IMPL_LIKELY(before == CAI_IMPL_BEFORE_NOTHING))
        return 0;
    status = before == CAI_IMPL_BEFORE_EVENT ? cai_impl_order_make(reader->state->impl_pool, record, &error)
                                             : cai_impl_wait_without_gil(record->producer, record->device_id, &error);
    if (CAI_IMPL_LIKELY(status == CAI_OK))
        return before == CAI_IMPL_BEFORE_HOST;
    (void)cai_impl_refuse(reader, reader->view->protocol, CAI_IMPL_REFUSED, &error);
    return -1;
}

/* ---------------------------------------------------------------------------------------------- given back late --- */

/* What a view gives back late: the object, and what its protocol handed out. */
typedef struct cai_impl_late_view {
    cai_impl_return_t item;
    cai_impl_queue_t *queue;
    PyObject         *object;
    void (*give_back)(void *managed);
    void *managed;
} cai_impl_late_view_t;

/* No exception is set: the queue has put it aside. What a deleter leaves behind must not meet whoever comes after it. */
CAI_IMPL_COLD void cai_impl_late_view_give_back(cai_impl_return_t *item)
{
    cai_impl_late_view_t *late = CAI_IMPL_BITS(cai_impl_late_view_t *, item);
    cai_impl_queue_t     *queue = late->queue;
    if (late->give_back != NULL)
        late->give_back(late->managed);
    cai_impl_put_back(NULL);
    Py_DECREF(late->object);
    cai_impl_put_back(NULL);
    free(late);
    cai_impl_queue_release(queue);
}

/* On a thread of CUDA's, when the consumer's work is done. */
CAI_IMPL_COLD void cai_impl_late_view_run(void *data)
{
    cai_impl_late_view_t *late = CAI_IMPL_CAST(cai_impl_late_view_t *, data);
    cai_impl_queue_give_up(late->queue, &late->item);
}

/* What the view holds, to be kept beyond it; NULL without memory. */
CAI_IMPL cai_impl_late_view_t *cai_impl_late_view_new(const cai_view_t *view)
{
    cai_impl_late_view_t *late = CAI_IMPL_CAST(cai_impl_late_view_t *, malloc(sizeof(cai_impl_late_view_t)));
    if (late == NULL)
        return NULL;
    late->item.next = NULL;
    late->item.give_back = cai_impl_late_view_give_back;
    late->queue = view->impl_state->impl_queue;
    late->object = CAI_IMPL_CAST(PyObject *, view->impl_object);
    late->give_back = view->impl_give_back;
    late->managed = view->impl_managed;
    return late;
}

/* Arrange that what the view holds is given back when the work on the consumer's stream is done. False: it is not, and
 * the view holds it as before. */
CAI_IMPL_COLD bool cai_impl_view_give_back_late(cai_view_t *view, const cai_impl_order_record_t *record)
{
    cai_impl_late_view_t *late = cai_impl_late_view_new(view);
    cai_order_pool_t     *pool = view->impl_state->impl_pool;
    cai_device_guard_t    guard = {-1};
    bool                  arranged;
    if (late == NULL)
        return false;
    /* It may be given back before the next line: what it needs is its own by now. */
    (void)cai_impl_queue_retain(late->queue);
    Py_INCREF(late->object);
    arranged = cai_impl_record_guard_enter(pool, &guard, record, NULL) == CAI_OK &&
               cai_impl_call_late(pool, record->consumer, record->device_id, cai_impl_late_view_run, late);
    (void)cai_device_guard_leave(&guard, NULL);
    if (CAI_IMPL_LIKELY(arranged)) {
        view->impl_give_back = NULL;
        return true;
    }
    cai_impl_queue_release(late->queue);
    Py_DECREF(late->object);
    free(late);
    return false;
}

/* ------------------------------------------------------------------------------------------------- the release ---- */

/* Tell an array of cai's that the consumer has work on it, so that nobody has to wait: false where that cannot be told, and
 * the host has to. Pinned memory is seen by host code at once. */
CAI_IMPL bool cai_impl_array_was_used(const cai_view_t *view, const cai_impl_order_record_t *record)
{
    const bool   used = record->mode == CAI_ORDER_WAIT || record->mode == CAI_ORDER_ADOPT;
    cai_array_t *array = CAI_IMPL_CAST(cai_array_t *, view->impl_managed);
    if (!used || view->size == 0)
        return true;
    if (record->pinned)
        return false;
    /* Two that are CAI_STREAM_PER_THREAD may be streams of two threads: the array knows. */
    if (record->consumer == array->stream && record->consumer != CAI_STREAM_PER_THREAD)
        return true;
    return cai_array_used_on(array, record->consumer) == CAI_OK;
}

/* Order the producer's later work behind the consumer's, and do what has to be over before the memory goes back. */
CAI_IMPL_ASIDE cai_status_t cai_impl_order_release(cai_view_t *view, cai_error_t *error)
{
    cai_impl_order_record_t record = view->impl_order;
    const bool              renamed = cai_impl_order_name_streams(&record);
    cai_impl_rest_t         rest;
    cai_status_t            status, waited;
    if (CAI_IMPL_UNLIKELY(view->protocol == CAI_VIA_ARRAY) && cai_impl_array_was_used(view, &record))
        return CAI_OK;
    rest = cai_impl_order_back(view->impl_state->impl_pool, &record, &status, error);
    if (CAI_IMPL_LIKELY(rest == CAI_IMPL_REST_NOTHING) ||
        (rest == CAI_IMPL_REST_LATE && cai_impl_view_give_back_late(view, &record)))
        return status;
    waited = rest == CAI_IMPL_REST_DEVICE || renamed
                 ? cai_impl_wait_for_device_without_gil(record.device_id, status == CAI_OK ? error : NULL)
                 : cai_impl_wait_without_gil(record.consumer, record.device_id, status == CAI_OK ? error : NULL);
    return status != CAI_OK ? status : waited;
}

/* Whether nothing is to be ordered at the end. An array of cai's is told who used it, unless it is on the host. */
CAI_IMPL bool cai_impl_view_has_no_order(const cai_view_t *view)
{
    return view->protocol == CAI_VIA_ARRAY ? view->tensor.device.device_type == CAI_DEVICE_CPU
                                           : CAI_IMPL_LIKELY(cai_impl_order_after(&view->impl_order) == 0);
}

CAI_IMPL cai_status_t cai_impl_view_release(cai_view_t *view, cai_error_t *error)
{
    cai_status_t status;
    if (CAI_IMPL_LIKELY(cai_impl_view_close_lightly(view)) || view->impl_object == NULL)
        return CAI_OK;
    status = cai_impl_view_has_no_order(view) ? CAI_OK : cai_impl_order_release(view, error);
    cai_impl_view_close(view);
    return status;
}

#endif /* CAI_VIEW_ORDER_H */
