/**
 * cai/dlpack.h - arrays by DLPack capsules, legacy and versioned: in, from __dlpack__ or passed as the argument
 * itself, and out, as the body of __dlpack__.
 *
 * On the way in, the producer is told the consumer's stream and orders its own work before it; it does not learn when
 * the consumer has finished, so the memory is given back only when the consumer's work is done (order.h). A capsule
 * is taken first and looked at afterwards; whatever is wrong with it, its deleter runs once.
 *
 * Private to cai, but for the export; object.h is the way in. Specification: the array API standard (__dlpack__,
 * __dlpack_device__), DLPack 1.3. JAX returns legacy capsules whatever version is asked for, and torch's pinned
 * tensors are host memory in the capsule: what came decides, not what was asked for or announced.
 */
#ifndef CAI_DLPACK_H
#define CAI_DLPACK_H

#include <cai/managed_tensor.h>
#include <cai/reader.h>

/**
 * The body of `__dlpack__(*, stream=None, max_version=None, dl_device=None, copy=None)`, METH_FASTCALL | METH_KEYWORDS: a
 * capsule, or NULL with an exception. All four keywords are honoured:
 *
 *   stream       the consumer's: what is pending on the array is ordered before it. None and 1: legacy; 2: per-thread; -1:
 *                nothing is ordered; a handle. 0 is refused (InvalidStreamError), and for host memory all but None and -1.
 *   max_version  of major 1 or newer: a versioned capsule; otherwise a legacy one, which has no read-only flag, so that a
 *                read-only array is refused (ReadOnlyAccessError).
 *   dl_device    the array's own, or (kDLCPU, 0): a copy to the host, finished on return. BufferError for others.
 *   copy         True: a copy, on the consumer's stream; False: BufferError where one would be needed.
 *
 * Ownership: the capsule holds a reference to the array, given up by its deleter on whatever thread. Its consumer may use
 * the memory on streams that nobody tells; see cai_cuda_array_interface_export. Needs an attached thread state (the GIL).
 */
CAI_API PyObject *cai_dlpack_export(cai_state_t *state, cai_array_t *array, PyObject *const *args, Py_ssize_t nargs,
                                    PyObject *kwnames);
/** The body of `__dlpack_device__()`: (device type, device id), or NULL with an exception. */
CAI_API PyObject *cai_dlpack_device_export(const cai_array_t *array);

/* ---------------------------------------------------------------------------------------------------- bodies ---- */

/* -------------------------------------------------------------------------------------------- taking a capsule -- */

/* The struct in a capsule whose name is `name`, which becomes `used`: from here on the caller owns it. NULL without an
 * exception if the name is another one. */
CAI_IMPL void *cai_impl_capsule_take(PyObject *capsule, const char *name, const char *used)
{
    void *managed = NULL;
    CAI_IMPL_BEGIN_CRITICAL_SECTION(capsule);
    if (PyCapsule_IsValid(capsule, name) != 0) {
        managed = PyCapsule_GetPointer(capsule, name);
        if (managed != NULL && PyCapsule_SetName(capsule, used) != 0)
            managed = NULL;
        /* Some producers' destructors do not look at the name. */
        if (managed != NULL)
            (void)PyCapsule_SetDestructor(capsule, NULL);
    }
    CAI_IMPL_END_CRITICAL_SECTION();
    return managed;
}

CAI_IMPL_COLD cai_impl_result_t cai_impl_capsule_refuse(const cai_impl_reader_t *reader, PyObject *capsule)
{
    const char *name = NULL;
    char        type[192];
    if (!PyCapsule_CheckExact(capsule)) {
        cai_impl_type_words(reader->state, capsule, type, sizeof(type));
        return cai_impl_refuse_with(reader, CAI_VIA_DLPACK, CAI_IMPL_UNREADABLE, CAI_ERROR_INVALID_CAPSULE,
                                    "expected a DLPack capsule; got %s", type);
    }
    name = PyCapsule_GetName(capsule);
    PyErr_Clear();
    return cai_impl_refuse_with(
        reader, CAI_VIA_DLPACK, CAI_IMPL_UNREADABLE, CAI_ERROR_INVALID_CAPSULE,
        "expected a capsule named \"dltensor\" or \"dltensor_versioned\"; got \"%.64s\"%s", name == NULL ? "" : name,
        name != NULL && strncmp(name, "used_", 5) == 0 ? ", which has been consumed already" : "");
}

/* A legacy struct does not say whether its memory may be written: it counts as read-only, unless the producer is known
 * to have no read-only arrays or the author trusts it. */
CAI_IMPL cai_impl_result_t cai_impl_dlpack_check_legacy(const cai_impl_reader_t *reader)
{
    cai_view_t *view = reader->view;
    if ((reader->request->require & CAI_TRUST_LEGACY) != 0 || (view->impl_facts & CAI_IMPL_TYPE_TORCH) != 0)
        return CAI_IMPL_READ;
    view->flags |= CAI_READONLY;
    if ((reader->request->require & CAI_WRITABLE) == 0)
        return CAI_IMPL_READ;
    return cai_impl_refuse_with(
        reader, CAI_VIA_DLPACK, CAI_IMPL_UNREADABLE, CAI_ERROR_READ_ONLY_ACCESS,
        "expected writable memory; got a legacy DLPack capsule, which does not say whether it is");
}

/* Move what a capsule holds into the view. */
CAI_IMPL cai_impl_result_t cai_impl_dlpack_take(const cai_impl_reader_t *reader, PyObject *capsule)
{
    cai_view_t  *view = reader->view;
    cai_error_t  error;
    cai_status_t status;
    void *managed = cai_impl_capsule_take(capsule, CAI_DLPACK_CAPSULE_VERSIONED, CAI_DLPACK_CAPSULE_VERSIONED_USED);
    if (managed != NULL) {
        status = cai_impl_view_take_versioned(view, CAI_IMPL_CAST(cai_dlpack_managed_versioned_t *, managed), &error);
        return status == CAI_OK ? CAI_IMPL_READ : cai_impl_refuse(reader, CAI_VIA_DLPACK, CAI_IMPL_UNREADABLE, &error);
    }
    managed = cai_impl_capsule_take(capsule, CAI_DLPACK_CAPSULE, CAI_DLPACK_CAPSULE_USED);
    if (managed == NULL)
        return cai_impl_capsule_refuse(reader, capsule);
    status = cai_impl_view_take_legacy(view, CAI_IMPL_CAST(cai_dlpack_managed_t *, managed), &error);
    if (status != CAI_OK)
        return cai_impl_refuse(reader, CAI_VIA_DLPACK, CAI_IMPL_UNREADABLE, &error);
    return cai_impl_dlpack_check_legacy(reader);
}

/* Fill the view from a capsule, whose producer has ordered its work before `stream` (ORDERED) or nowhere known. */
CAI_IMPL_COLD cai_impl_result_t cai_impl_dlpack_fill(const cai_impl_reader_t *reader, PyObject *capsule,
                                                     cai_impl_source_t source, cai_stream_t stream)
{
    cai_impl_result_t result = cai_impl_dlpack_take(reader, capsule);
    if (CAI_IMPL_LIKELY(result == CAI_IMPL_READ))
        result = cai_impl_settle(reader, CAI_VIA_DLPACK);
    if (CAI_IMPL_UNLIKELY(result != CAI_IMPL_READ))
        return cai_impl_abandon(reader->view, result);
    cai_impl_set_source(reader->view, source, stream);
    return CAI_IMPL_READ;
}

/* A DLPack capsule passed as the argument. Nobody could tell its producer a stream: legacy is what its maker orders
 * before when he is not told otherwise. */
CAI_IMPL_COLD cai_impl_result_t cai_impl_dlpack_read_capsule(const cai_impl_reader_t *reader)
{
    if (!cai_impl_allows(reader->request, CAI_VIA_DLPACK))
        return CAI_IMPL_ABSENT;
    return cai_impl_dlpack_fill(reader, reader->object, CAI_IMPL_SOURCE_SILENT, CAI_STREAM_LEGACY);
}

/* ------------------------------------------------------------------------------------------- asking a producer -- */

/* Call `__dlpack__` with the keywords that `names` lists. */
CAI_IMPL PyObject *cai_impl_dlpack_call(const cai_impl_reader_t *reader, PyObject *method, PyObject *stream,
                                        PyObject *max_version)
{
    const cai_state_t *state = reader->state;
    PyObject          *arguments[2];
    Py_ssize_t         n = 0;
    PyObject          *names = NULL;
    if (stream != NULL)
        arguments[n++] = stream;
    if (max_version != NULL)
        arguments[n++] = max_version;
    if (stream != NULL)
        names = max_version != NULL ? state->impl_keywords_stream_version : state->impl_keywords_stream;
    else if (max_version != NULL)
        names = state->impl_keywords_version;
    return cai_impl_call_object(method, arguments, 0, names);
}

/* Whether an exception is another one or among its contexts, of which so many are looked at. */
CAI_IMPL_COLD bool cai_impl_is_in_context(PyObject *exception, PyObject *other)
{
    PyObject *at = Py_NewRef(other);
    for (int i = 0; i < 100 && at != NULL && at != exception; i++) {
        PyObject *next = PyException_GetContext(at);
        Py_DECREF(at);
        at = next;
    }
    Py_XDECREF(at);
    return at != NULL;
}

/* An exception that was set aside becomes the context of the one that is set now, so that neither is lost, unless that would
 * close a ring: a producer may raise the same one twice. Steals. */
CAI_IMPL_COLD void cai_impl_chain(PyObject *first)
{
    PyObject *second = cai_impl_take_exception();
    if (cai_impl_is_in_context(second, first))
        Py_DECREF(first);
    else
        PyException_SetContext(second, first);
    cai_impl_set_exception(second);
}

/* Ask for a versioned capsule. A producer from before version 1.0 does not know `max_version` and raises TypeError: it is
 * asked again without, and never without the stream, which would lose the order silently. */
CAI_IMPL PyObject *cai_impl_dlpack_ask(const cai_impl_reader_t *reader, PyObject *method, PyObject *stream)
{
    PyObject *capsule = cai_impl_dlpack_call(reader, method, stream, reader->state->impl_max_version), *first;
    if (CAI_IMPL_LIKELY(capsule != NULL) || !PyErr_ExceptionMatches(PyExc_TypeError))
        return capsule;
    first = cai_impl_take_exception();
    capsule = cai_impl_dlpack_call(reader, method, stream, NULL);
    if (capsule == NULL)
        cai_impl_chain(first);
    else
        Py_DECREF(first);
    return capsule;
}

/* The same with a stream number. */
CAI_IMPL PyObject *cai_impl_dlpack_ask_with(const cai_impl_reader_t *reader, PyObject *method, long long number)
{
    PyObject *stream = PyLong_FromLongLong(number), *capsule;
    if (stream == NULL)
        return NULL;
    capsule = cai_impl_dlpack_ask(reader, method, stream);
    Py_DECREF(stream);
    return capsule;
}

/* What the producer is told, and what follows for the order. */
typedef struct cai_impl_dlpack_question {
    long long         number;  /* -1: no order is wanted */
    bool              instead; /* 1 in place of -1, since the type is known to refuse that */
    cai_impl_source_t source;
    cai_stream_t      stream;
} cai_impl_dlpack_question_t;

CAI_IMPL cai_impl_dlpack_question_t cai_impl_dlpack_prepare(cai_order_mode_t mode, cai_stream_t consumer)
{
    cai_impl_dlpack_question_t question;
    question.source = CAI_IMPL_SOURCE_ORDERED;
    question.stream = mode == CAI_ORDER_WAIT || mode == CAI_ORDER_ADOPT ? consumer : CAI_STREAM_LEGACY;
    question.instead = false;
    question.number = mode == CAI_ORDER_NONE ? -1 : CAI_IMPL_CAST(long long, cai_stream_to_handle(question.stream));
    return question;
}

/* A producer's order on a stream that captures would break the capture: refused before it is asked. */
CAI_IMPL_COLD cai_impl_result_t cai_impl_dlpack_check_capture(const cai_impl_reader_t *reader, cai_device_t device,
                                                              const cai_impl_dlpack_question_t *question)
{
    bool               capturing = false;
    cai_error_t        error;
    const cai_status_t status = question->number == -1 ? CAI_OK
                                                       : cai_impl_stream_is_capturing_on(
                                                             question->stream, device.device_id, &capturing, &error);
    if (status != CAI_OK)
        return cai_impl_refuse(reader, CAI_VIA_DLPACK, CAI_IMPL_REFUSED, &error);
    if (!capturing)
        return CAI_IMPL_READ;
    return cai_impl_refuse_with(
        reader, CAI_VIA_DLPACK, CAI_IMPL_REFUSED, CAI_ERROR_STREAM_CAPTURE,
        "stream %p captures a graph, and this producer does not tell its stream, so that ordering "
        "it would break the capture: use cai_order_none() if the data is complete",
        CAI_IMPL_CAST(void *, question->stream));
}

/* Whether the producer's type has refused -1 before, and can be told legacy in its place, as it was then. */
CAI_IMPL bool cai_impl_dlpack_takes_legacy_for_none(const cai_impl_reader_t *reader, cai_device_t device)
{
    bool capturing = false;
    return (reader->view->impl_facts & CAI_IMPL_TYPE_REFUSES_NONE) != 0 &&
           cai_impl_stream_is_capturing_on(CAI_STREAM_LEGACY, device.device_id, &capturing, NULL) == CAI_OK &&
           !capturing;
}

/* Remember whether -1 was refused: a type that does so twice running will go on. */
CAI_IMPL void cai_impl_dlpack_note_refusal(cai_view_t *view, bool refused)
{
    const uint32_t once = CAI_IMPL_TYPE_REFUSED_NONE, twice = CAI_IMPL_TYPE_REFUSES_NONE, before = view->impl_facts;
    if (!refused)
        view->impl_facts &= ~(once | twice);
    else
        view->impl_facts |= (before & once) != 0 ? twice : once;
    if (view->impl_facts != before)
        view->impl_progress |= CAI_IMPL_NEWS_OF_TYPE;
}

/* Some producers refuse -1 (JAX) or 2 (torch). Ordering before the legacy stream is more than -1 asks for; in the place of
 * 2 it leaves the rest of the way to be ordered by cai. The producer's refusal is set, and becomes the cause of ours. */
CAI_IMPL_COLD cai_impl_result_t cai_impl_dlpack_ask_again(const cai_impl_reader_t *reader, PyObject *method,
                                                          cai_device_t device, cai_impl_dlpack_question_t *question,
                                                          PyObject **capsule)
{
    const bool        none = question->number == -1;
    cai_impl_result_t result;
    PyObject         *first;
    if (question->number == 2)
        question->source = CAI_IMPL_SOURCE_SILENT;
    question->stream = CAI_STREAM_LEGACY;
    question->number = 1;
    result = cai_impl_dlpack_check_capture(reader, device, question);
    if (result != CAI_IMPL_READ)
        return result;
    first = cai_impl_take_exception();
    *capsule = cai_impl_dlpack_ask_with(reader, method, question->number);
    if (*capsule == NULL) {
        cai_impl_chain(first);
        return CAI_IMPL_PRODUCER_RAISED;
    }
    Py_DECREF(first);
    if (none)
        cai_impl_dlpack_note_refusal(reader->view, true);
    return CAI_IMPL_READ;
}

/* The object refuses legacy, which its type took in place of -1 before: -1 after all. Where that fails too, as it is known
 * to, the first refusal is the one that tells. */
CAI_IMPL cai_impl_result_t cai_impl_dlpack_ask_for_none(const cai_impl_reader_t *reader, PyObject *method,
                                                        PyObject **capsule)
{
    PyObject *first = cai_impl_take_exception();
    *capsule = cai_impl_dlpack_ask_with(reader, method, -1);
    if (*capsule == NULL && cai_impl_exception_is_final()) {
        cai_impl_chain(first);
        return CAI_IMPL_PRODUCER_RAISED;
    }
    if (*capsule == NULL) {
        PyErr_Clear();
        cai_impl_set_exception(first);
        return CAI_IMPL_PRODUCER_RAISED;
    }
    Py_DECREF(first);
    cai_impl_dlpack_note_refusal(reader->view, false);
    return CAI_IMPL_READ;
}

CAI_IMPL cai_impl_result_t cai_impl_dlpack_ask_producer(const cai_impl_reader_t *reader, PyObject *method,
                                                        cai_device_t device, cai_impl_dlpack_question_t *question,
                                                        PyObject **capsule)
{
    *capsule = cai_impl_dlpack_ask_with(reader, method, question->number);
    if (CAI_IMPL_LIKELY(*capsule != NULL)) {
        if (question->number == -1)
            cai_impl_dlpack_note_refusal(reader->view, false);
        return CAI_IMPL_READ;
    }
    if (cai_impl_exception_is_final())
        return CAI_IMPL_PRODUCER_RAISED;
    if (question->instead)
        return cai_impl_dlpack_ask_for_none(reader, method, capsule);
    if (question->number != -1 && question->number != 2)
        return CAI_IMPL_PRODUCER_RAISED;
    return cai_impl_dlpack_ask_again(reader, method, device, question, capsule);
}

/* The capsule, whatever became of it, is not needed any more. */
CAI_IMPL void cai_impl_dlpack_drop(PyObject *capsule)
{
    PyObject *pending = cai_impl_put_aside();
    Py_DECREF(capsule);
    cai_impl_put_back(pending);
}

/* CUDA memory: with a stream, and with the array's device current, which torch demands. */
CAI_IMPL cai_impl_result_t cai_impl_dlpack_read_device(const cai_impl_reader_t *reader, PyObject *method,
                                                       cai_device_t device, cai_stream_t consumer)
{
    cai_impl_dlpack_question_t question = cai_impl_dlpack_prepare(reader->order.mode, consumer);
    cai_device_guard_t         guard = {-1};
    PyObject                  *capsule = NULL;
    cai_error_t                error;
    cai_impl_result_t          result = cai_impl_dlpack_check_capture(reader, device, &question);
    if (result != CAI_IMPL_READ)
        return result;
    question.instead = question.number == -1 && cai_impl_dlpack_takes_legacy_for_none(reader, device);
    if (question.instead)
        question.number = 1;
    if (device.device_type == CAI_DEVICE_CUDA && cai_device_guard_enter(&guard, device.device_id, &error) != CAI_OK)
        return cai_impl_refuse(reader, CAI_VIA_DLPACK, CAI_IMPL_REFUSED, &error);
    result = cai_impl_dlpack_ask_producer(reader, method, device, &question, &capsule);
    (void)cai_device_guard_leave(&guard, NULL);
    if (CAI_IMPL_UNLIKELY(result != CAI_IMPL_READ))
        return result;
    result = cai_impl_dlpack_fill(reader, capsule, question.source, question.stream);
    cai_impl_dlpack_drop(capsule);
    return result;
}

/* Host memory, pinned included: the only stream that producers take for it is none. */
CAI_IMPL cai_impl_result_t cai_impl_dlpack_read_host(const cai_impl_reader_t *reader, PyObject *method)
{
    PyObject         *capsule = cai_impl_dlpack_ask(reader, method, NULL);
    cai_impl_result_t result;
    if (capsule == NULL)
        return CAI_IMPL_PRODUCER_RAISED;
    result = cai_impl_dlpack_fill(reader, capsule, CAI_IMPL_SOURCE_SILENT, CAI_STREAM_LEGACY);
    cai_impl_dlpack_drop(capsule);
    return result;
}

/* Read the answer of __dlpack_device__: a pair of integers, the first of which may be an enum. */
CAI_IMPL cai_impl_result_t cai_impl_dlpack_parse_device(const cai_impl_reader_t *reader, PyObject *pair,
                                                        cai_device_t *device)
{
    int64_t type, id;
    if (!PyTuple_Check(pair) || cai_impl_tuple_size(pair) != 2 ||
        !cai_impl_read_int64(cai_impl_tuple_item(pair, 0), &type) ||
        !cai_impl_read_int64(cai_impl_tuple_item(pair, 1), &id) || type < 0 || type > INT32_MAX || id < 0 ||
        id > INT32_MAX)
        return cai_impl_refuse_with(reader, CAI_VIA_DLPACK, CAI_IMPL_UNREADABLE, CAI_ERROR_INCOMPLETE_INTERFACE,
                                    "__dlpack_device__() must return a pair (device type, device id) of integers");
    *device = cai_impl_device(CAI_IMPL_CAST(int32_t, type), CAI_IMPL_CAST(int32_t, id));
    return CAI_IMPL_READ;
}

/* Where the producer says that its array is. */
CAI_IMPL cai_impl_result_t cai_impl_dlpack_ask_device(const cai_impl_reader_t *reader, cai_device_t *device)
{
    PyObject         *method, *pair;
    cai_impl_result_t result;
    const int         found =
        cai_impl_get_attribute(reader->object, cai_impl_name(reader->state, CAI_IMPL_NAME_DLPACK_DEVICE), &method);
    if (found <= 0)
        return found < 0 ? CAI_IMPL_PRODUCER_RAISED : CAI_IMPL_ABSENT;
    pair = PyObject_CallNoArgs(method);
    Py_DECREF(method);
    if (pair == NULL)
        return CAI_IMPL_PRODUCER_RAISED;
    result = cai_impl_dlpack_parse_device(reader, pair, device);
    Py_DECREF(pair);
    return result;
}

/* The kinds of memory that a capsule may turn out to hold when the producer announces a device type. */
CAI_IMPL uint32_t cai_impl_dlpack_possible_memory(int32_t device_type)
{
    const uint32_t memory = cai_device_memory(device_type);
    return (memory & (CAI_ON_HOST | CAI_ON_PINNED)) != 0 ? CAI_ON_HOST | CAI_ON_PINNED : memory;
}

/* An object that has __dlpack__. */
typedef struct cai_impl_dlpack_producer {
    PyObject    *method; /* owned, NULL if there is none */
    cai_device_t device; /* where it says that its array is; type 0 where it does not say */
} cai_impl_dlpack_producer_t;

/* Ask whether the object has __dlpack__, and where its array is. The caller drops the method, whatever is returned. */
CAI_IMPL cai_impl_result_t cai_impl_dlpack_meet(const cai_impl_reader_t *reader, cai_impl_dlpack_producer_t *producer)
{
    int found;
    producer->method = NULL;
    producer->device = cai_impl_device(0, -1);
    if (!cai_impl_allows(reader->request, CAI_VIA_DLPACK))
        return CAI_IMPL_ABSENT;
    found =
        cai_impl_get_attribute(reader->object, cai_impl_name(reader->state, CAI_IMPL_NAME_DLPACK), &producer->method);
    if (found <= 0)
        return found < 0 ? CAI_IMPL_PRODUCER_RAISED : CAI_IMPL_ABSENT;
    return cai_impl_dlpack_ask_device(reader, &producer->device);
}

/* Read the array, for work on stream `consumer` (of cai_order_wait and cai_order_adopt). */
CAI_IMPL cai_impl_result_t cai_impl_dlpack_read(const cai_impl_reader_t          *reader,
                                                const cai_impl_dlpack_producer_t *producer, cai_stream_t consumer)
{
    const uint32_t possible = cai_impl_dlpack_possible_memory(producer->device.device_type);
    cai_device_t   device = producer->device;
    char           words[32];
    if (!cai_impl_wants_memory(reader->request, possible))
        return cai_impl_refuse_memory(reader, CAI_VIA_DLPACK, cai_device_words(device.device_type, words));
    if ((possible & CAI_ON_HOST) != 0)
        return cai_impl_dlpack_read_host(reader, producer->method);
    if (device.device_type == CAI_DEVICE_CUDA_MANAGED)
        device.device_id = -1; /* 0 by rule, which says nothing: whatever device is current */
    return cai_impl_dlpack_read_device(reader, producer->method, device, consumer);
}

/* With cai_order_none(), read an object whose type has CAI_IMPL_TYPE_CUDA_DLPACK: nothing has to be known for -1 but that
 * it is on a CUDA device, which the capsule confirms. A producer that minds another device's being current refuses, and is
 * asked in the usual way when the other protocols have been tried. */
CAI_IMPL cai_impl_result_t cai_impl_dlpack_read_unordered(const cai_impl_reader_t *reader)
{
    PyObject         *arguments[3], *minus_one = PyLong_FromLong(-1), *capsule;
    cai_impl_result_t result;
    arguments[0] = reader->object;
    arguments[1] = minus_one;
    arguments[2] = reader->state->impl_max_version;
    capsule = minus_one == NULL ? NULL
                                : cai_impl_call_method(cai_impl_name(reader->state, CAI_IMPL_NAME_DLPACK), arguments, 1,
                                                       reader->state->impl_keywords_stream_version);
    Py_XDECREF(minus_one);
    if (CAI_IMPL_UNLIKELY(capsule == NULL))
        return CAI_IMPL_PRODUCER_RAISED;
    result = cai_impl_dlpack_fill(reader, capsule, CAI_IMPL_SOURCE_ORDERED, CAI_STREAM_LEGACY);
    cai_impl_dlpack_drop(capsule);
    return result;
}

/* ------------------------------------------------------------------------------------------------------- outward --- */

/* What a consumer asks for. */
typedef struct cai_impl_dlpack_wish {
    cai_device_t device; /* where the data is to be */
    bool         versioned;
    bool         knows_padding; /* of version 1.1 */
    bool         ordered;       /* false: by -1, which asks for no order */
    bool         by_host;       /* read there as soon as it is handed out: nobody has a stream to wait on */
    cai_stream_t stream;        /* of the consumer; legacy, where it asks for no order */
    int          copy;          /* 1 always, 0 never, -1 if it is needed */
} cai_impl_dlpack_wish_t;

/* The arguments as they came: borrowed, NULL where None or nothing was passed. */
typedef struct cai_impl_dlpack_arguments {
    PyObject *stream, *max_version, *dl_device, *copy;
} cai_impl_dlpack_arguments_t;

CAI_IMPL_COLD PyObject *cai_impl_dlpack_deny(cai_state_t *state, cai_status_t status, const char *why)
{
    cai_error_t error;
    (void)cai_error_set(&error, status, "%s", why);
    (void)cai_raise(state, &error);
    return NULL;
}

/* Find the place of a keyword; NULL with TypeError. */
CAI_IMPL PyObject **cai_impl_dlpack_keyword(const cai_state_t *state, cai_impl_dlpack_arguments_t *arguments,
                                            PyObject *name)
{
    const cai_impl_name_t names[] = {CAI_IMPL_NAME_STREAM, CAI_IMPL_NAME_MAX_VERSION, CAI_IMPL_NAME_DL_DEVICE,
                                     CAI_IMPL_NAME_COPY};
    PyObject            **places[4];
    places[0] = &arguments->stream;
    places[1] = &arguments->max_version;
    places[2] = &arguments->dl_device;
    places[3] = &arguments->copy;
    for (size_t i = 0; i < 4; i++) {
        if (name == cai_impl_name(state, names[i]))
            return places[i];
    }
    for (size_t i = 0; i < 4; i++) { /* a name that nobody has interned */
        const int equal = PyObject_RichCompareBool(name, cai_impl_name(state, names[i]), Py_EQ);
        if (equal != 0)
            return equal < 0 ? NULL : places[i];
    }
    PyErr_Format(PyExc_TypeError, "__dlpack__() got an unexpected keyword argument %R", name);
    return NULL;
}

/* `stream` may be positional, as it was before the standard made it a keyword. */
CAI_IMPL int cai_impl_dlpack_read_arguments(const cai_state_t *state, PyObject *const *args, Py_ssize_t nargs,
                                            PyObject *kwnames, cai_impl_dlpack_arguments_t *arguments)
{
    const Py_ssize_t n = kwnames == NULL ? 0 : cai_impl_tuple_size(kwnames);
    memset(arguments, 0, sizeof(*arguments));
    if (nargs > 1) {
        PyErr_Format(PyExc_TypeError, "__dlpack__() takes at most 1 positional argument; got %zd", nargs);
        return -1;
    }
    if (nargs == 1 && args[0] != Py_None)
        arguments->stream = args[0];
    for (Py_ssize_t i = 0; i < n; i++) {
        PyObject **place = cai_impl_dlpack_keyword(state, arguments, cai_impl_tuple_item(kwnames, i));
        if (place == NULL)
            return -1;
        *place = args[nargs + i] == Py_None ? NULL : args[nargs + i];
    }
    return 0;
}

/* A pair of integers, as max_version and dl_device are. */
CAI_IMPL int cai_impl_dlpack_read_pair(PyObject *pair, const char *name, int64_t *first, int64_t *second)
{
    if (PyTuple_Check(pair) && cai_impl_tuple_size(pair) == 2 &&
        cai_impl_read_int64(cai_impl_tuple_item(pair, 0), first) &&
        cai_impl_read_int64(cai_impl_tuple_item(pair, 1), second))
        return 0;
    if (PyErr_Occurred() == NULL || !cai_impl_exception_is_final()) {
        PyErr_Clear();
        PyErr_Format(PyExc_TypeError, "__dlpack__(): %s must be None or a tuple of two integers; got %R", name, pair);
    }
    return -1;
}

/* The device as DLPack numbers it: 0 for host, pinned and managed memory. */
CAI_IMPL cai_device_t cai_impl_dlpack_device_of(const cai_array_t *array)
{
    cai_device_t device = array->tensor.device;
    if (device.device_type != CAI_DEVICE_CUDA)
        device.device_id = 0;
    return device;
}

CAI_IMPL int cai_impl_dlpack_wish_device(const cai_array_t *array, PyObject *pair, cai_impl_dlpack_wish_t *wish)
{
    const cai_device_t own = cai_impl_dlpack_device_of(array);
    int64_t            type, id;
    wish->device = own;
    if (pair == NULL)
        return 0;
    if (cai_impl_dlpack_read_pair(pair, "dl_device", &type, &id) < 0)
        return -1;
    if (type == own.device_type && id == own.device_id)
        return 0;
    wish->device = cai_impl_device(CAI_DEVICE_CPU, 0);
    if (type == CAI_DEVICE_CPU && id == 0)
        return 0;
    PyErr_Format(PyExc_BufferError,
                 "__dlpack__(): the array is on device (%d, %d) and can be exported there or to the host, "
                 "(1, 0); dl_device is %R",
                 own.device_type, own.device_id, pair);
    return -1;
}

/* The consumer's stream. Host memory has none, and -1 says so too (torch). Who asks for pinned or managed memory without a
 * stream may be on the host as well (NumPy). */
CAI_IMPL int cai_impl_dlpack_wish_stream(cai_state_t *state, PyObject *number, cai_impl_dlpack_wish_t *wish)
{
    int64_t handle = 1;
    wish->stream = CAI_STREAM_LEGACY;
    wish->ordered = true;
    wish->by_host = wish->device.device_type == CAI_DEVICE_CPU ||
                    (number == NULL && wish->device.device_type != CAI_DEVICE_CUDA);
    if (number == NULL)
        return 0;
    if (!cai_impl_read_int64(number, &handle)) {
        (void)cai_impl_dlpack_deny(state, CAI_ERROR_INVALID_STREAM, "__dlpack__(): stream must be None or an integer");
        return -1;
    }
    wish->ordered = handle != -1;
    if (wish->ordered && (handle <= 0 || wish->device.device_type == CAI_DEVICE_CPU)) {
        (void)cai_impl_dlpack_deny(state, CAI_ERROR_INVALID_STREAM,
                                   handle <= 0
                                       ? "__dlpack__(): stream must be None, -1, 1, 2 or a handle; 0 is ambiguous"
                                       : "__dlpack__(): stream must be None for an array in host memory");
        return -1;
    }
    if (wish->ordered)
        wish->stream = cai_stream_from_handle(CAI_IMPL_CAST(uint64_t, handle));
    return 0;
}

CAI_IMPL int cai_impl_dlpack_wish_read(cai_state_t *state, const cai_array_t *array,
                                       const cai_impl_dlpack_arguments_t *arguments, cai_impl_dlpack_wish_t *wish)
{
    int64_t major = 0, minor = 0;
    if (arguments->max_version != NULL &&
        cai_impl_dlpack_read_pair(arguments->max_version, "max_version", &major, &minor) < 0)
        return -1;
    wish->versioned = major >= CAI_DLPACK_MAJOR;
    wish->knows_padding = major > 1 || (major == 1 && minor >= 1);
    wish->copy = arguments->copy == NULL ? -1 : PyObject_IsTrue(arguments->copy);
    if (arguments->copy != NULL && wish->copy < 0)
        return -1;
    if (cai_impl_dlpack_wish_device(array, arguments->dl_device, wish) < 0)
        return -1;
    return cai_impl_dlpack_wish_stream(state, arguments->stream, wish);
}

/* Order what is pending on the array before the consumer. 0, or -1 with an exception. */
CAI_IMPL int cai_impl_dlpack_order(cai_state_t *state, const cai_array_t *array, const cai_impl_dlpack_wish_t *wish)
{
    cai_error_t error;
    if (wish->by_host)
        return cai_impl_array_wait(state, array);
    if (!wish->ordered || array->stream == NULL || array->tensor.data == NULL ||
        cai_order_streams(state->impl_pool, cai_impl_array_stream(array), wish->stream, cai_impl_array_device(array),
                          &error) == CAI_OK)
        return 0;
    return cai_raise(state, &error);
}

/* Wait for a copy that the host will read, without the GIL. */
CAI_IMPL_COLD int cai_impl_dlpack_finish_copy(cai_state_t *state, const cai_array_t *array, cai_stream_t stream)
{
    PyThreadState *thread;
    cai_error_t    error;
    cai_status_t   status;
    if (stream == NULL)
        return 0;
    thread = PyEval_SaveThread();
    status = cai_impl_wait_for_stream(stream, cai_impl_array_device(array), &error);
    PyEval_RestoreThread(thread);
    return status == CAI_OK ? 0 : cai_raise(state, &error);
}

CAI_IMPL cai_memory_t cai_impl_dlpack_memory(int32_t device_type)
{
    switch (device_type) {
    case CAI_DEVICE_CPU: return CAI_MEMORY_HOST;
    case CAI_DEVICE_CUDA_HOST: return CAI_MEMORY_PINNED;
    case CAI_DEVICE_CUDA_MANAGED: return CAI_MEMORY_MANAGED;
    default: return CAI_MEMORY_DEVICE;
    }
}

/* Where a copy is enqueued: on the wish's stream, or for the host, whose copy is complete on return, on legacy. That must
 * not be done while legacy breaks somebody's capture. */
CAI_IMPL_COLD cai_status_t cai_impl_dlpack_copy_stream(const cai_array_t *array, const cai_impl_dlpack_wish_t *wish,
                                                       cai_stream_t *stream, cai_error_t *error)
{
    bool         capturing = false;
    cai_status_t status;
    *stream = array->tensor.device.device_type == CAI_DEVICE_CPU ? NULL : wish->stream;
    if (!wish->by_host || *stream == NULL)
        return CAI_OK;
    status = cai_impl_stream_is_capturing_on(*stream, cai_impl_array_device(array), &capturing, error);
    if (status != CAI_OK || !capturing)
        return status;
    return cai_error_set(error, CAI_ERROR_STREAM_CAPTURE,
                         "__dlpack__(): a blocking stream captures a graph, which a copy to the host would break");
}

/* A copy of the array where the consumer wants it: a new reference, or NULL with an exception. */
CAI_IMPL_COLD cai_array_t *cai_impl_dlpack_copy(cai_state_t *state, const cai_array_t *array,
                                                const cai_impl_dlpack_wish_t *wish)
{
    cai_array_t *copy = NULL;
    cai_stream_t stream;
    cai_error_t  error;
    if (cai_impl_dlpack_copy_stream(array, wish, &stream, &error) == CAI_OK)
        copy = cai_impl_array_copy(state->impl_pool, array, cai_impl_dlpack_memory(wish->device.device_type), stream,
                                   &error);
    if (copy == NULL) {
        (void)cai_raise(state, &error);
        return NULL;
    }
    if (!wish->by_host || cai_impl_dlpack_finish_copy(state, array, stream) == 0)
        return copy;
    cai_array_release(copy);
    return NULL;
}

CAI_IMPL_COLD void cai_impl_capsule_end(PyObject *capsule)
{
    PyObject *pending = cai_impl_put_aside();
    if (PyCapsule_IsValid(capsule, CAI_DLPACK_CAPSULE_VERSIONED) != 0) {
        void *managed = PyCapsule_GetPointer(capsule, CAI_DLPACK_CAPSULE_VERSIONED);
        cai_impl_managed_delete_versioned(CAI_IMPL_CAST(cai_dlpack_managed_versioned_t *, managed));
    } else if (PyCapsule_IsValid(capsule, CAI_DLPACK_CAPSULE) != 0) {
        void *managed = PyCapsule_GetPointer(capsule, CAI_DLPACK_CAPSULE);
        cai_impl_managed_delete_legacy(CAI_IMPL_CAST(cai_dlpack_managed_t *, managed));
    }
    cai_impl_put_back(pending);
}

/* The consumer's stream reads the array until a copy there is done: work on the array from now on, and its end, come
 * after that. Where that cannot be ordered, the memory is freed behind everything on its device. */
CAI_IMPL_COLD void cai_impl_dlpack_copied_on(cai_array_t *array, const cai_impl_dlpack_wish_t *wish)
{
    if (wish->by_host || array->tensor.data == NULL)
        return;
    if (array->stream == NULL || cai_array_used_on(array, wish->stream) != CAI_OK)
        cai_impl_array_went_out(array);
}

/* A capsule of the array as it is. */
CAI_IMPL PyObject *cai_impl_dlpack_capsule(cai_array_t *array, cai_device_t device, bool versioned)
{
    void *managed = versioned ? CAI_IMPL_CAST(void *, cai_impl_managed_new_versioned(array, device, CAI_DLPACK_MINOR))
                              : CAI_IMPL_CAST(void *, cai_impl_managed_new_legacy(array, device));
    PyObject *capsule;
    if (managed == NULL)
        return PyErr_NoMemory();
    capsule =
        PyCapsule_New(managed, versioned ? CAI_DLPACK_CAPSULE_VERSIONED : CAI_DLPACK_CAPSULE, cai_impl_capsule_end);
    if (capsule != NULL)
        return capsule;
    if (versioned)
        cai_impl_managed_delete_versioned(CAI_IMPL_CAST(cai_dlpack_managed_versioned_t *, managed));
    else
        cai_impl_managed_delete_legacy(CAI_IMPL_CAST(cai_dlpack_managed_t *, managed));
    return NULL;
}

/* Whether a copy has to be made: always when it is asked for, and to get from a device to the host. */
CAI_IMPL bool cai_impl_dlpack_needs_copy(const cai_array_t *array, const cai_impl_dlpack_wish_t *wish)
{
    return wish->copy == 1 || (wish->device.device_type == CAI_DEVICE_CPU &&
                               array->tensor.device.device_type == CAI_DEVICE_CUDA && array->tensor.data != NULL);
}

CAI_IMPL PyObject *cai_impl_dlpack_export_copy(cai_state_t *state, cai_array_t *array, cai_impl_dlpack_wish_t *wish)
{
    PyObject    *capsule;
    cai_array_t *copy;
    wish->ordered = true; /* who asks for no order does not ask for a copy of what is not there yet */
    if (wish->copy == 0) {
        PyErr_SetString(PyExc_BufferError,
                        "__dlpack__(): copy=False, and the array is in the memory of a CUDA device, which "
                        "the host reaches by a copy only");
        return NULL;
    }
    if (cai_impl_dlpack_order(state, array, wish) < 0)
        return NULL;
    copy = cai_impl_dlpack_copy(state, array, wish);
    if (copy == NULL)
        return NULL;
    cai_impl_dlpack_copied_on(array, wish);
    if (copy->stream != NULL)
        copy->stream = CAI_STREAM_LEGACY; /* the consumer's may be gone when the copy is freed, behind everything */
    cai_impl_array_went_out(copy);
    capsule = cai_impl_dlpack_capsule(copy, wish->device, wish->versioned);
    cai_array_release(copy);
    return capsule;
}

CAI_API PyObject *cai_dlpack_export(cai_state_t *state, cai_array_t *array, PyObject *const *args, Py_ssize_t nargs,
                                    PyObject *kwnames)
{
    cai_impl_dlpack_arguments_t arguments;
    cai_impl_dlpack_wish_t      wish;
    PyObject                   *capsule;
    if (cai_impl_dlpack_read_arguments(state, args, nargs, kwnames, &arguments) < 0 ||
        cai_impl_dlpack_wish_read(state, array, &arguments, &wish) < 0)
        return NULL;
    if (!wish.knows_padding && (array->flags & CAI_SUBBYTE_PADDED) != 0)
        return cai_impl_dlpack_deny(
            state, CAI_ERROR_UNKNOWN_DTYPE,
            "__dlpack__(): an array of padded items of less than a byte needs max_version=(1, 1) or "
            "newer: a legacy capsule does not say that they are padded");
    if (cai_impl_dlpack_needs_copy(array, &wish))
        return cai_impl_dlpack_export_copy(state, array, &wish);
    if (!wish.versioned && (array->flags & CAI_READONLY) != 0)
        return cai_impl_dlpack_deny(
            state, CAI_ERROR_READ_ONLY_ACCESS,
            "__dlpack__(): a read-only array needs max_version=(1, 0) or newer: a legacy capsule "
            "does not say that it must not be written");
    if (cai_impl_dlpack_order(state, array, &wish) < 0)
        return NULL;
    capsule = cai_impl_dlpack_capsule(array, wish.device, wish.versioned);
    if (capsule != NULL)
        cai_impl_array_went_out(array);
    return capsule;
}

CAI_API PyObject *cai_dlpack_device_export(const cai_array_t *array)
{
    const cai_device_t device = cai_impl_dlpack_device_of(array);
    return Py_BuildValue("(ii)", device.device_type, device.device_id);
}

#endif /* CAI_DLPACK_H */
