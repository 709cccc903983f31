/**
 * cai/call.h - several arguments as one call: one launch stream, one device, shared extents, one end.
 *
 *   cai_view_t views[3];
 *   cai_call_t call;
 *   if (cai_call_begin(&call, cai_module_state(module), cai_order_adopt(), wants, args, nargs, 3, views) < 0) return NULL;
 *   launch(&views[0].tensor, …, call.stream);                              the right device is current
 *   return cai_call_end(&call, Py_NewRef(Py_None));
 *
 * The launch stream is that of cai_order_wait; otherwise the one stream of the arguments that captures a graph, if they
 * have several; otherwise the first known one; otherwise legacy. All arguments are ordered onto it, and back at the end.
 */
#ifndef CAI_CALL_H
#define CAI_CALL_H

#include <cai/object.h>

/** A call under way, between cai_call_begin and cai_call_end; needs no initialisation. */
typedef struct cai_call {
    /** Where to launch. NULL when every argument is in host memory: then no CUDA call is made at all. */
    cai_stream_t stream;
    /** Where the arguments live: CAI_DEVICE_CUDA and the device that is current now, or CAI_DEVICE_CPU and 0. */
    cai_device_t device;

    cai_state_t       *impl_state;
    cai_view_t        *impl_views;
    int32_t            impl_n;
    cai_device_guard_t impl_guard;
} cai_call_t;

/**
 * Acquire `n` arguments into `views`, one request each. `nargs` other than n is a TypeError; n = 0 is legal. Checks what
 * the arguments have in common (CAI_EXTENT, CAI_SAME_SHAPE, CAI_SAME_DTYPE, CAI_SAME_DEVICE; the same CUDA device for all
 * that have elements there), makes that device current, and orders everything onto `call->stream`.
 *
 * Errors: -1 with an exception; everything has been given back, the device is as before, and cai_call_end must not be
 * called. Threads: needs an attached thread state (the GIL), which is released while the host waits. `requests` and
 * `args` are read only during this call.
 */
CAI_API CAI_NODISCARD int cai_call_begin(cai_call_t *call, cai_state_t *state, cai_order_t order,
                                         const cai_request_t *requests, PyObject *const *args, Py_ssize_t nargs,
                                         int32_t n, cai_view_t *views);

/**
 * Give everything back, restore the device that was current, and return `result` (a stolen reference that is handed on).
 * `result` NULL means that an exception is set: it is left alone and NULL is returned. A CUDA error that is met on the way
 * drops `result` and is raised. The author checks his own launch. Needs an attached thread state (the GIL).
 */
CAI_API PyObject *cai_call_end(cai_call_t *call, PyObject *result);

/* ---------------------------------------------------------------------------------------------------- bodies ---- */

/* What cai_call_begin works with. */
typedef struct cai_impl_beginning {
    cai_call_t            *call;
    cai_order_t            order;
    const cai_request_t   *requests;
    PyObject *const       *args;
    cai_impl_work_stream_t work_stream;
    cai_shared_t           shared; /* of the arguments that have been read and checked */
    bool                   on_gpu; /* one of the arguments is, or there is none */
    bool                   again;  /* the arguments have to be walked again */
    bool                   news;   /* a view may have something to tell of its type, at the end */
} cai_impl_beginning_t;

CAI_IMPL cai_impl_reader_t cai_impl_reader_of(cai_impl_beginning_t *begin, int32_t i)
{
    cai_impl_reader_t reader = cai_impl_reader_for(begin->call->impl_state, begin->args[i], &begin->requests[i],
                                                   begin->order, &begin->call->impl_views[i]);
    reader.work_stream = &begin->work_stream;
    return reader;
}

/* Whether a view's memory can have work of a stream in flight. */
CAI_IMPL bool cai_impl_is_on_gpu(const cai_view_t *view)
{
    return view->protocol != 0 && view->tensor.device.device_type != CAI_DEVICE_CPU;
}

/* ------------------------------------------------------------------------------------------ the launch stream --- */

/* Of several streams the one that captures; `chosen` stays if none does. Two captures are refused when they are ordered.
 * READ, or REFUSED with an exception. */
CAI_IMPL_COLD cai_impl_result_t cai_impl_call_prefer_capturing(cai_impl_beginning_t *begin, cai_stream_t *chosen)
{
    for (int32_t i = 0; i < begin->call->impl_n; i++) {
        const cai_impl_reader_t        reader = cai_impl_reader_of(begin, i);
        const cai_impl_order_record_t *record = &reader.view->impl_order;
        bool                           capturing = false;
        cai_error_t                    error;
        if (record->source != CAI_IMPL_SOURCE_STREAM || record->producer == CAI_STREAM_LEGACY)
            continue;
        if (cai_impl_stream_is_capturing_on(record->producer, record->device_id, &capturing, &error) != CAI_OK)
            return cai_impl_refuse(&reader, reader.view->protocol, CAI_IMPL_REFUSED, &error);
        if (!capturing)
            continue;
        *chosen = record->producer;
        break;
    }
    return CAI_IMPL_READ;
}

/* The first stream that the views tell, those without elements last; NULL if none does. */
CAI_IMPL cai_stream_t cai_impl_call_first_stream(const cai_call_t *call, bool *several)
{
    cai_stream_t first = NULL, empty = NULL;
    *several = false;
    for (int32_t i = 0; i < call->impl_n; i++) {
        const cai_view_t *view = &call->impl_views[i];
        if (!cai_impl_is_on_gpu(view) || (view->flags & CAI_HAS_STREAM) == 0)
            continue;
        if (view->size == 0)
            empty = empty == NULL ? view->impl_order.producer : empty;
        else if (first == NULL)
            first = view->impl_order.producer;
        else
            *several |= view->impl_order.producer != first;
    }
    return first != NULL ? first : empty;
}

/* The launch stream, from the arguments that have been read so far. READ, or REFUSED with an exception. */
CAI_IMPL cai_impl_result_t cai_impl_call_choose_stream(cai_impl_beginning_t *begin, cai_stream_t *chosen)
{
    bool several;
    if (begin->order.mode == CAI_ORDER_WAIT) {
        *chosen = begin->order.stream;
        return CAI_IMPL_READ;
    }
    *chosen = cai_impl_call_first_stream(begin->call, &several);
    if (*chosen == NULL)
        *chosen = CAI_STREAM_LEGACY;
    if (CAI_IMPL_LIKELY(!several) || begin->order.mode != CAI_ORDER_ADOPT)
        return CAI_IMPL_READ;
    return cai_impl_call_prefer_capturing(begin, chosen);
}

/* --------------------------------------------------------------------------------------- reading the arguments -- */

CAI_IMPL bool cai_impl_call_is_lent(cai_impl_beginning_t *begin, int32_t i)
{
    return (begin->call->impl_views[i].impl_progress & CAI_IMPL_LENT) != 0;
}

/* One argument by the general way. What is lent is left for the end, after everything that may run Python code. READ:
 * checked too, unless everything will be. */
CAI_IMPL cai_impl_result_t cai_impl_call_read_first(cai_impl_beginning_t *begin, int32_t i)
{
    const cai_impl_reader_t reader = cai_impl_reader_of(begin, i);
    cai_impl_result_t       result = CAI_IMPL_ABSENT;
    if (CAI_IMPL_UNLIKELY(cai_impl_view_open(&reader) < 0))
        return CAI_IMPL_REFUSED;
    if (cai_impl_exchange_lends(reader.view))
        reader.view->impl_progress |= CAI_IMPL_LENT;
    else
        result = cai_impl_read_first(&reader);
    begin->again |= result == CAI_IMPL_ABSENT;
    begin->news |= cai_impl_view_has_news(reader.view);
    if (CAI_IMPL_LIKELY(result == CAI_IMPL_READ))
        cai_impl_view_drop_way(reader.view); /* before a tensor behind it is looked at */
    return result == CAI_IMPL_READ && !begin->again ? cai_impl_check_view(&reader, &begin->shared) : result;
}

/* An argument that was not read at once, and why. READ: it has been now, or will be in another walk. Python code may run
 * from here on: it may move the tensors before, and switch on the gradient of those behind that are to be written to. */
CAI_IMPL_ASIDE cai_impl_result_t cai_impl_call_read_otherwise(cai_impl_beginning_t *begin, int32_t i, int32_t n,
                                                              cai_impl_result_t result)
{
    begin->call->impl_n = i;
    if (CAI_IMPL_UNLIKELY(result == CAI_IMPL_REFUSED))
        return CAI_IMPL_REFUSED;
    for (int32_t before = 0; before < i; before++)
        begin->again |= cai_impl_call_is_lent(begin, before);
    for (int32_t behind = i + 1; behind < n; behind++)
        begin->again |= (begin->requests[behind].require & CAI_WRITABLE) != 0 &&
                        cai_impl_at_once_may_be_tensor(begin->call->impl_state, begin->args[behind]);
    begin->call->impl_n = i + 1;
    return cai_impl_call_read_first(begin, i) == CAI_IMPL_REFUSED ? CAI_IMPL_REFUSED : CAI_IMPL_READ;
}

/* Whether an argument has to be told the launch stream before it can be read. */
CAI_IMPL bool cai_impl_call_is_asking(cai_impl_beginning_t *begin, int32_t i)
{
    return begin->call->impl_views[i].protocol == 0 && !cai_impl_call_is_lent(begin, i);
}

CAI_IMPL bool cai_impl_call_any_asking(cai_impl_beginning_t *begin)
{
    for (int32_t i = 0; i < begin->call->impl_n; i++) {
        if (cai_impl_call_is_asking(begin, i))
            return true;
    }
    return false;
}

/* Read what is lent. A tensor that the table does not give is an argument like any other from then on. */
CAI_IMPL cai_impl_result_t cai_impl_call_read_lent(cai_impl_beginning_t *begin)
{
    for (int32_t i = 0; i < begin->call->impl_n; i++) {
        const cai_impl_reader_t reader = cai_impl_reader_of(begin, i);
        cai_impl_result_t       result;
        if (!cai_impl_call_is_lent(begin, i))
            continue;
        result = cai_impl_note(&reader, cai_impl_exchange_read(&reader));
        if (CAI_IMPL_LIKELY(result == CAI_IMPL_READ))
            continue;
        reader.view->impl_progress &= ~CAI_IMPL_CAST(uint32_t, CAI_IMPL_LENT);
        if (result == CAI_IMPL_ABSENT)
            result = cai_impl_read_told(&reader);
        if (result == CAI_IMPL_REFUSED)
            return result;
    }
    return CAI_IMPL_READ;
}

/* Choose the launch stream from what is known, and read the arguments that have to be told it. */
CAI_IMPL cai_impl_result_t cai_impl_call_read_last(cai_impl_beginning_t *begin)
{
    cai_stream_t stream = NULL;
    if (CAI_IMPL_LIKELY(!cai_impl_call_any_asking(begin)))
        return CAI_IMPL_READ;
    if (cai_impl_call_choose_stream(begin, &stream) != CAI_IMPL_READ)
        return CAI_IMPL_REFUSED;
    for (int32_t i = 0; i < begin->call->impl_n; i++) {
        const cai_impl_reader_t reader = cai_impl_reader_of(begin, i);
        if (cai_impl_call_is_asking(begin, i) && cai_impl_read_last(&reader, stream) != CAI_IMPL_READ)
            return CAI_IMPL_REFUSED;
    }
    return CAI_IMPL_READ;
}

/* Every argument, in their order. */
CAI_IMPL cai_impl_result_t cai_impl_call_check_views(cai_impl_beginning_t *begin)
{
    cai_impl_shared_begin(&begin->shared);
    for (int32_t i = 0; i < begin->call->impl_n; i++) {
        const cai_impl_reader_t reader = cai_impl_reader_of(begin, i);
        if (CAI_IMPL_UNLIKELY(cai_impl_check_view(&reader, &begin->shared) != CAI_IMPL_READ))
            return CAI_IMPL_REFUSED;
    }
    return CAI_IMPL_READ;
}

/* Whether everything is in host memory, so that CUDA has no part in the call. */
CAI_IMPL bool cai_impl_call_is_host(const cai_call_t *call)
{
    for (int32_t i = 0; i < call->impl_n; i++) {
        if (cai_impl_is_on_gpu(&call->impl_views[i]))
            return false;
    }
    return call->impl_n > 0;
}

/* The last look at what is lent: from here on no Python code runs until the author's own. */
CAI_IMPL cai_impl_result_t cai_impl_call_look_at_lent(cai_impl_beginning_t *begin)
{
    for (int32_t i = 0; i < begin->call->impl_n; i++)
        cai_impl_view_drop_way(&begin->call->impl_views[i]);
    for (int32_t i = 0; i < begin->call->impl_n; i++) {
        const cai_impl_reader_t reader = cai_impl_reader_of(begin, i);
        cai_impl_result_t       result = CAI_IMPL_READ;
        if (cai_impl_call_is_lent(begin, i))
            result = cai_impl_note(&reader, cai_impl_exchange_look(&reader));
        if (CAI_IMPL_UNLIKELY(result != CAI_IMPL_READ))
            return result == CAI_IMPL_ABSENT ? cai_impl_raise_failure(&reader) : result;
    }
    return CAI_IMPL_READ;
}

/* What the first walk left. Lent tensors are valid only until Python code runs, and asking one of them for its gradient may
 * run some: they are asked after everything else that may, and before that once more if somebody has to be told their
 * stream, and looked at when all have been asked. */
CAI_IMPL_ASIDE cai_impl_result_t cai_impl_call_read_again(cai_impl_beginning_t *begin)
{
    cai_impl_result_t result = CAI_IMPL_READ;
    if (cai_impl_call_any_asking(begin))
        result = cai_impl_call_read_lent(begin);
    if (result == CAI_IMPL_READ)
        result = cai_impl_call_read_last(begin);
    if (result == CAI_IMPL_READ)
        result = cai_impl_call_read_lent(begin);
    if (result == CAI_IMPL_READ)
        result = cai_impl_call_read_last(begin);
    if (result == CAI_IMPL_READ)
        result = cai_impl_call_look_at_lent(begin);
    begin->news = true;
    begin->on_gpu = !cai_impl_call_is_host(begin->call);
    return result == CAI_IMPL_READ ? cai_impl_call_check_views(begin) : result;
}

/* Before anything is read: ask the tensors of torch's that are to be written to for their gradients. */
CAI_IMPL_ASIDE cai_impl_result_t cai_impl_call_ask_at_once(const cai_impl_beginning_t *begin, int32_t n)
{
    const cai_state_t *state = begin->call->impl_state;
    cai_impl_result_t  result = CAI_IMPL_READ;
    for (int32_t i = 0; i < n && result == CAI_IMPL_READ; i++) {
        if ((begin->requests[i].require & CAI_WRITABLE) != 0 && cai_impl_at_once_is_tensor(state, begin->args[i]))
            result = cai_impl_at_once_ask(state, begin->args[i]);
    }
    return result;
}

CAI_IMPL_HOT cai_impl_result_t cai_impl_call_prepare(const cai_impl_beginning_t *begin, int32_t n)
{
    uint32_t require = 0;
    for (int32_t i = 0; i < n; i++)
        require |= begin->requests[i].require;
    return CAI_IMPL_LIKELY((require & CAI_WRITABLE) == 0) ? CAI_IMPL_READ : cai_impl_call_ask_at_once(begin, n);
}

/* No argument at once: a tensor that is to be written to requires a gradient, or raised when it was asked for it. */
CAI_IMPL_COLD cai_impl_result_t cai_impl_call_read_carefully(cai_impl_beginning_t *begin, int32_t n,
                                                             cai_impl_result_t result)
{
    for (int32_t i = 0; i < n && result != CAI_IMPL_REFUSED; i++)
        result = cai_impl_call_read_otherwise(begin, i, n, CAI_IMPL_ABSENT);
    return result == CAI_IMPL_REFUSED ? CAI_IMPL_REFUSED : cai_impl_call_read_again(begin);
}

/* Read and check every argument. The views of `impl_n` of them are open then, whatever is returned: READ, or REFUSED with
 * an exception. */
CAI_IMPL_HOT cai_impl_result_t cai_impl_call_read(cai_impl_beginning_t *begin, int32_t n)
{
    cai_state_t         *state = begin->call->impl_state;
    cai_view_t          *views = begin->call->impl_views;
    const cai_request_t *requests = begin->requests;
    PyObject *const     *args = begin->args;
    cai_impl_result_t    result = cai_impl_call_prepare(begin, n);
    bool                 on_gpu = n == 0;
    if (CAI_IMPL_UNLIKELY(result != CAI_IMPL_READ))
        return cai_impl_call_read_carefully(begin, n, result);
    for (int32_t i = 0; i < n; i++) {
        result = cai_impl_read_at_once(state, args[i], &requests[i], &views[i], &begin->work_stream, &begin->shared);
        if (CAI_IMPL_UNLIKELY(result != CAI_IMPL_READ) &&
            cai_impl_call_read_otherwise(begin, i, n, result) == CAI_IMPL_REFUSED)
            return CAI_IMPL_REFUSED;
        on_gpu |= views[i].stream != NULL;
    }
    begin->call->impl_n = n;
    begin->on_gpu = on_gpu;
    return CAI_IMPL_LIKELY(!begin->again) ? CAI_IMPL_READ : cai_impl_call_read_again(begin);
}

/* ------------------------------------------------------------------------------------------------- the device -- */

/* The view that says which device the call is for: the first CUDA array with elements, else a managed one; -1 if none. */
CAI_IMPL int32_t cai_impl_call_leader(const cai_call_t *call)
{
    int32_t managed = -1;
    for (int32_t i = 0; i < call->impl_n; i++) {
        const cai_view_t *view = &call->impl_views[i];
        if (view->size == 0)
            continue;
        if (view->tensor.device.device_type == CAI_DEVICE_CUDA)
            return i;
        if (view->tensor.device.device_type == CAI_DEVICE_CUDA_MANAGED && managed < 0)
            managed = i;
    }
    return managed;
}

/* CUDA arrays with elements have to lie on one device. Empty, managed and pinned ones never conflict. */
CAI_IMPL cai_impl_result_t cai_impl_call_check_device(cai_impl_beginning_t *begin, int32_t leader)
{
    const cai_view_t *views = begin->call->impl_views;
    const int32_t     device_id = views[leader].tensor.device.device_id;
    for (int32_t i = leader + 1; i < begin->call->impl_n; i++) {
        const cai_impl_reader_t reader = cai_impl_reader_of(begin, i);
        const char             *name = begin->requests[leader].name;
        if (CAI_IMPL_LIKELY(views[i].tensor.device.device_type != CAI_DEVICE_CUDA || views[i].size == 0 ||
                            views[i].tensor.device.device_id == device_id))
            continue;
        return cai_impl_refuse_with(&reader, views[i].protocol, CAI_IMPL_REFUSED, CAI_ERROR_DEVICE_MISMATCH,
                                    "expected an array on CUDA device %d, where argument '%s' is; got one on device %d",
                                    device_id, name == NULL ? "" : name, views[i].tensor.device.device_id);
    }
    return CAI_IMPL_READ;
}

/* The device that a stream belongs to; the current one where the stream does not say, or captures: then it must not be
 * asked (measured). */
CAI_IMPL_COLD cai_status_t cai_impl_call_stream_device(cai_stream_t stream, int32_t *device_id, cai_error_t *error)
{
#if !defined(CAI_NO_CUDA) && CAI_IMPL_HAS_STREAM_GET_DEVICE
    int          found = -1;
    bool         capturing = false;
    cai_status_t status;
    if (!cai_impl_is_number(stream)) {
        status = cai_stream_is_capturing(stream, &capturing, error);
        if (status != CAI_OK || capturing)
            return status != CAI_OK ? status : cai_current_device(device_id, error);
        status = cai_cuda_status(CAI_CUDA(cudaStreamGetDevice)(stream, &found), "cudaStreamGetDevice", error);
        *device_id = found;
        return status;
    }
#endif
    (void)stream;
    return cai_current_device(device_id, error);
}

/* Find the device of the call and make it current. */
CAI_IMPL cai_impl_result_t cai_impl_call_enter_device(cai_impl_beginning_t *begin)
{
    cai_call_t   *call = begin->call;
    const int32_t leader = cai_impl_call_leader(call);
    int32_t       device_id = -1;
    cai_error_t   error;
    cai_status_t  status = CAI_OK;
    if (leader >= 0 && cai_impl_call_check_device(begin, leader) != CAI_IMPL_READ)
        return CAI_IMPL_REFUSED;
    if (leader >= 0)
        device_id = call->impl_views[leader].tensor.device.device_id;
    else
        status = cai_impl_call_stream_device(call->stream, &device_id, &error);
    if (status == CAI_OK)
        status = cai_impl_pool_guard_enter(call->impl_state->impl_pool, &call->impl_guard, device_id, &error);
    call->device = cai_impl_device(CAI_DEVICE_CUDA, device_id);
    if (CAI_IMPL_LIKELY(status == CAI_OK))
        return CAI_IMPL_READ;
    (void)cai_raise(call->impl_state, &error);
    return CAI_IMPL_REFUSED;
}

/* --------------------------------------------------------------------------------------------- begin and end --- */

CAI_IMPL_COLD cai_impl_result_t cai_impl_call_look_again_at(cai_impl_beginning_t *begin, bool asks)
{
    for (int32_t i = 0; i < begin->call->impl_n; i++) {
        const cai_impl_reader_t reader = cai_impl_reader_of(begin, i);
        if (cai_impl_read_again(&reader, asks) != CAI_IMPL_READ)
            return CAI_IMPL_REFUSED;
    }
    return CAI_IMPL_READ;
}

/* After a wait, during which other threads may have changed what is lent: read it again, once more when all have been asked
 * for their gradients, check everything again, and make the device current on which it is now. */
CAI_IMPL_COLD cai_impl_result_t cai_impl_call_look_again(cai_impl_beginning_t *begin)
{
    if (cai_impl_call_look_again_at(begin, true) != CAI_IMPL_READ ||
        cai_impl_call_look_again_at(begin, false) != CAI_IMPL_READ || cai_impl_call_check_views(begin) != CAI_IMPL_READ)
        return CAI_IMPL_REFUSED;
    (void)cai_device_guard_leave(&begin->call->impl_guard, NULL);
    return cai_impl_call_enter_device(begin);
}

/* Whether an array in memory that belongs to no device, or to another one than the call's, is to be ordered with a stream
 * that a number names: it would mean one of the array's device. */
CAI_IMPL bool cai_impl_call_is_apart(const cai_impl_beginning_t *begin, const cai_view_t *view)
{
    const cai_impl_order_record_t *record = &view->impl_order;
    return (begin->order.mode == CAI_ORDER_ADOPT || begin->order.mode == CAI_ORDER_WAIT) && view->stream != NULL &&
           (record->pinned || record->source != CAI_IMPL_SOURCE_READY || view->protocol == CAI_VIA_ARRAY) &&
           cai_impl_is_number(begin->call->stream) && record->device_id >= 0 &&
           record->device_id != begin->call->device.device_id;
}

/* The host waits for the producer of such an array: as an order that blocks. */
CAI_IMPL_COLD cai_status_t cai_impl_call_prepare_apart(const cai_impl_beginning_t *begin, cai_view_t *view,
                                                       cai_error_t *error)
{
    if (begin->order.mode == CAI_ORDER_WAIT)
        view->stream = begin->call->stream;
    return cai_impl_order_prepare(view, cai_order_block(), begin->call->stream, error);
}

/* And at the end for the launch stream, of the call's device. */
CAI_IMPL_COLD void cai_impl_call_set_apart(const cai_impl_beginning_t *begin, cai_view_t *view)
{
    view->impl_order.mode = begin->order.mode;
    view->impl_order.producer = begin->call->stream;
    view->impl_order.device_id = begin->call->device.device_id;
    view->impl_order.pinned = view->impl_order.is_current = true;
}

/* Order all views onto the launch stream: first see that each can be, then make the order. */
CAI_IMPL cai_impl_result_t cai_impl_call_order(cai_impl_beginning_t *begin)
{
    cai_call_t *call = begin->call;
    cai_error_t error;
    int         waited = 0;
    for (int32_t i = 0; i < call->impl_n; i++) {
        const cai_impl_reader_t reader = cai_impl_reader_of(begin, i);
        const bool              apart = cai_impl_call_is_apart(begin, reader.view);
        cai_status_t            status;
        /* The call's device stays current until its end. */
        reader.view->impl_order.is_current = reader.view->impl_order.device_id == call->device.device_id;
        status = CAI_IMPL_UNLIKELY(apart) ? cai_impl_call_prepare_apart(begin, reader.view, &error)
                                          : cai_impl_order_prepare(reader.view, begin->order, call->stream, &error);
        if (CAI_IMPL_UNLIKELY(status != CAI_OK))
            return cai_impl_refuse(&reader, reader.view->protocol, CAI_IMPL_REFUSED, &error);
    }
    for (int32_t i = 0; i < call->impl_n; i++) {
        const cai_impl_reader_t reader = cai_impl_reader_of(begin, i);
        const int               result = cai_impl_order_perform(&reader);
        if (result < 0)
            return CAI_IMPL_REFUSED;
        if (CAI_IMPL_UNLIKELY(reader.view->impl_order.mode != begin->order.mode))
            cai_impl_call_set_apart(begin, reader.view);
        waited |= result;
    }
    return CAI_IMPL_LIKELY(waited == 0) ? CAI_IMPL_READ : cai_impl_call_look_again(begin);
}

/* Whether everything that is on a GPU is on device 0 and on one stream, with elements: `leader` is the first of it. The
 * stream has to be told, unless nothing is to be ordered. Arrays of cai's own have to be told who used them. */
CAI_IMPL_HOT bool cai_impl_call_is_on_one_stream(const cai_impl_beginning_t *begin, const cai_view_t **leader)
{
    const cai_view_t *first = NULL;
    for (int32_t i = 0; i < begin->call->impl_n; i++) {
        const cai_view_t *view = &begin->call->impl_views[i];
        if (view->stream == NULL)
            continue;
        first = first == NULL ? view : first;
        if ((view->impl_order.source != CAI_IMPL_SOURCE_STREAM &&
             (begin->order.mode != CAI_ORDER_NONE || view->size == 0)) ||
            view->stream != first->stream || view->tensor.device.device_type != CAI_DEVICE_CUDA ||
            view->tensor.device.device_id != 0 || view->protocol == CAI_VIA_ARRAY)
            return false;
    }
    *leader = first;
    return first != NULL;
}

CAI_IMPL_ASIDE cai_impl_result_t cai_impl_call_enter_any(cai_impl_beginning_t *begin)
{
    if (cai_impl_call_choose_stream(begin, &begin->call->stream) != CAI_IMPL_READ ||
        cai_impl_call_enter_device(begin) != CAI_IMPL_READ)
        return CAI_IMPL_REFUSED;
    return cai_impl_call_order(begin);
}

/* The part of a call that concerns CUDA. Arguments on one stream that is adopted, or without order, have nothing to be
 * ordered, neither now nor at the end, and the only device is always current. */
CAI_IMPL_HOT cai_impl_result_t cai_impl_call_enter(cai_impl_beginning_t *begin)
{
    cai_call_t       *call = begin->call;
    const cai_view_t *leader;
    if ((begin->order.mode != CAI_ORDER_ADOPT && begin->order.mode != CAI_ORDER_NONE) ||
        !cai_impl_call_is_on_one_stream(begin, &leader) || cai_impl_pool_has_devices(call->impl_state->impl_pool))
        return cai_impl_call_enter_any(begin);
    call->stream = leader->stream;
    call->device = leader->tensor.device;
    for (int32_t i = 0; i < call->impl_n; i++)
        cai_impl_mark_object_alone(&call->impl_views[i]);
    return CAI_IMPL_READ;
}

/* What is learned about types comes last, when nothing can fail any more. */
CAI_IMPL_ASIDE void cai_impl_call_tell_news(cai_impl_beginning_t *begin)
{
    for (int32_t i = 0; i < begin->call->impl_n; i++) {
        const cai_impl_reader_t reader = cai_impl_reader_of(begin, i);
        cai_impl_view_tell_news(&reader);
    }
}

/* Everything has been given back, or is now. */
CAI_IMPL_COLD int cai_impl_call_refused(cai_call_t *call)
{
    for (int32_t i = 0; i < call->impl_n; i++)
        cai_impl_view_close(&call->impl_views[i]);
    (void)cai_device_guard_leave(&call->impl_guard, NULL);
    return -1;
}

CAI_API int cai_call_begin(cai_call_t *call, cai_state_t *state, cai_order_t order, const cai_request_t *requests,
                           PyObject *const *args, Py_ssize_t nargs, int32_t n, cai_view_t *views)
{
    cai_impl_beginning_t begin;
    cai_impl_result_t    result;
    if (CAI_IMPL_UNLIKELY(nargs != n)) {
        PyErr_Format(PyExc_TypeError, "expected %d array arguments; got %zd", CAI_IMPL_CAST(int, n), nargs);
        return -1;
    }
    call->stream = NULL;
    call->device = cai_impl_device(CAI_DEVICE_CPU, 0);
    call->impl_state = state;
    call->impl_views = views;
    call->impl_n = 0;
    call->impl_guard.previous = -1;
    begin.call = call;
    begin.order = order;
    begin.requests = requests;
    begin.args = args;
    begin.work_stream.exchange = NULL;
    begin.again = begin.news = false;
    cai_impl_shared_begin(&begin.shared);
    cai_impl_catch_up(state);
    result = cai_impl_call_read(&begin, n);
    if (CAI_IMPL_LIKELY(result == CAI_IMPL_READ) && begin.on_gpu)
        result = cai_impl_call_enter(&begin);
    if (CAI_IMPL_UNLIKELY(result != CAI_IMPL_READ))
        return cai_impl_call_refused(call);
    if (CAI_IMPL_UNLIKELY(begin.news))
        cai_impl_call_tell_news(&begin);
    return 0;
}

CAI_API PyObject *cai_call_end(cai_call_t *call, PyObject *result)
{
    cai_error_t  first, ignored;
    cai_status_t status = CAI_OK, one;
    for (int32_t i = 0; i < call->impl_n; i++) {
        one = cai_impl_view_release(&call->impl_views[i], status == CAI_OK ? &first : &ignored);
        status = status == CAI_OK ? one : status;
    }
    one = cai_device_guard_leave(&call->impl_guard, status == CAI_OK ? &first : &ignored);
    status = status == CAI_OK ? one : status;
    if (CAI_IMPL_LIKELY(status == CAI_OK) || result == NULL)
        return result;
    Py_DECREF(result);
    (void)cai_raise(call->impl_state, &first);
    return NULL;
}

#endif /* CAI_CALL_H */
