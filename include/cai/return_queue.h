/**
 * cai/return_queue.h - Python references that are given up by a thread that must not wait for the GIL.
 *
 * A thread that is attached to the references' interpreter drops them at once; any other puts them here. The queue is
 * emptied by the next call of cai in that interpreter, by a pending call (main interpreter), and by an atexit callback,
 * which closes it: what comes later is leaked on purpose, because no Python is left to drop it. The queue is reference
 * counted and outlives the module.
 *
 * Private to cai. Behaviour of CPython's functions as checked on 3.10 to 3.13 (PyGILState_Check answers 1 everywhere once
 * a subinterpreter exists; Py_AddPendingCall after finalisation crashes up to 3.12).
 */
#ifndef CAI_RETURN_QUEUE_H
#define CAI_RETURN_QUEUE_H

#include <cai/python_compat.h>

/* Something to give up: the head of a struct from malloc. `give_back` runs attached, and frees the struct. */
typedef struct cai_impl_return {
    struct cai_impl_return *next;
    void (*give_back)(struct cai_impl_return *self);
} cai_impl_return_t;

typedef struct cai_impl_queue {
    int32_t             references;
    uint8_t             lock;
    bool                open;
    bool                is_main; /* of the main interpreter, the only one that can be asked for a pending call */
    bool                asked;   /* a pending call is under way; it holds a reference to the queue */
    PyInterpreterState *interpreter;
    int64_t             interpreter_id; /* another interpreter may come to lie where this one did */
    cai_impl_return_t  *first;
    void               *spare; /* from malloc, or NULL: the struct of an array that was kept, for the next one */
} cai_impl_queue_t;

/* A queue for the calling thread's interpreter, with one reference; NULL with MemoryError. */
CAI_IMPL cai_impl_queue_t *cai_impl_queue_new(void)
{
    cai_impl_queue_t *queue = CAI_IMPL_CAST(cai_impl_queue_t *, calloc(1, sizeof(cai_impl_queue_t)));
    if (queue == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    queue->references = 1;
    queue->open = true;
    queue->interpreter = PyInterpreterState_Get();
    queue->interpreter_id = PyInterpreterState_GetID(queue->interpreter);
    queue->is_main = queue->interpreter_id == 0;
    return queue;
}

CAI_IMPL cai_impl_queue_t *cai_impl_queue_retain(cai_impl_queue_t *queue)
{
    (void)__atomic_add_fetch(&queue->references, 1, __ATOMIC_RELAXED);
    return queue;
}

/* What is still in a queue that nobody can empty any more is leaked on purpose. */
CAI_IMPL void cai_impl_queue_release(cai_impl_queue_t *queue)
{
    if (queue == NULL || __atomic_sub_fetch(&queue->references, 1, __ATOMIC_ACQ_REL) != 0)
        return;
    free(queue->spare);
    free(queue);
}

/* The first thing in the queue, which the caller gives back; NULL when it is empty. */
CAI_IMPL_COLD cai_impl_return_t *cai_impl_queue_take(cai_impl_queue_t *queue)
{
    cai_impl_return_t *item;
    cai_impl_lock(&queue->lock);
    item = queue->first;
    if (item != NULL)
        queue->first = item->next;
    cai_impl_unlock(&queue->lock);
    return item;
}

/* Whether a live interpreter is the queue's. */
CAI_IMPL bool cai_impl_queue_is_of(const cai_impl_queue_t *queue, PyInterpreterState *interpreter)
{
    return interpreter == queue->interpreter && PyInterpreterState_GetID(interpreter) == queue->interpreter_id;
}

/* Give back everything that is in the queue: the thread is attached to the queue's interpreter. What is given back may run
 * Python code, which may put more into the queue; the exception that is set is not touched. */
CAI_IMPL_COLD void cai_impl_queue_empty(cai_impl_queue_t *queue)
{
    PyObject          *pending = PyErr_Occurred() != NULL ? cai_impl_take_exception() : NULL;
    cai_impl_return_t *item;
    while ((item = cai_impl_queue_take(queue)) != NULL)
        item->give_back(item);
    cai_impl_set_exception(pending);
}

/* At the start of every call of cai. */
CAI_IMPL void cai_impl_queue_check(cai_impl_queue_t *queue)
{
    if (CAI_IMPL_UNLIKELY(__atomic_load_n(&queue->first, __ATOMIC_RELAXED) != NULL))
        cai_impl_queue_empty(queue);
}

CAI_IMPL_COLD int cai_impl_queue_pending_call(void *argument)
{
    cai_impl_queue_t *queue = CAI_IMPL_CAST(cai_impl_queue_t *, argument);
    bool              open;
    cai_impl_lock(&queue->lock);
    queue->asked = false;
    open = queue->open;
    cai_impl_unlock(&queue->lock);
    /* Before 3.12 it may be another interpreter's thread that makes the call: then the next call of cai will do. */
    if (open && cai_impl_queue_is_of(queue, PyInterpreterState_Get()))
        cai_impl_queue_empty(queue);
    cai_impl_queue_release(queue);
    return 0;
}

/* Put something into the queue, from any thread. False when the queue is closed: the caller leaks the references. */
CAI_IMPL_COLD bool cai_impl_queue_put(cai_impl_queue_t *queue, cai_impl_return_t *item)
{
    bool open;
    cai_impl_lock(&queue->lock);
    open = queue->open;
    if (open) {
        item->next = queue->first;
        queue->first = item;
        /* Under the lock, so that the interpreter cannot be gone: closing takes the lock before it goes. The call takes
         * locks of its own, none of which is held by anybody who calls into cai. */
        if (queue->is_main && !queue->asked) {
            (void)cai_impl_queue_retain(queue);
            queue->asked = Py_AddPendingCall(cai_impl_queue_pending_call, queue) == 0;
            if (!queue->asked) /* Python's own queue is full: the next call of cai will do */
                cai_impl_queue_release(queue);
        }
    }
    cai_impl_unlock(&queue->lock);
    return open;
}

/* The interpreter is about to go. */
CAI_IMPL_COLD void cai_impl_queue_close(cai_impl_queue_t *queue)
{
    cai_impl_queue_empty(queue);
    cai_impl_lock(&queue->lock);
    queue->open = false;
    cai_impl_unlock(&queue->lock);
    cai_impl_queue_empty(queue); /* what came between the two */
}

/* The thread state by which the calling thread is attached to an interpreter, or NULL if it is not. Answered for every
 * thread, Python's or not, with and without the GIL; in the limited API never. */
CAI_IMPL PyThreadState *cai_impl_attached_thread(void)
{
#if defined(Py_LIMITED_API)
    return NULL;
#elif CAI_IMPL_PYTHON >= 0x030D0000
    return PyThreadState_GetUnchecked();
#else
    PyThreadState *thread = _PyThreadState_UncheckedGet();
#if CAI_IMPL_PYTHON < 0x030C0000
    /* Before 3.12 the answer is the state that holds the GIL, on whatever thread. */
    if (thread != PyGILState_GetThisThreadState())
        return NULL;
#endif
    return thread;
#endif
}

/* Whether the calling thread may drop references of the objects of the queue's interpreter: it is attached to it. */
CAI_IMPL bool cai_impl_is_attached(const cai_impl_queue_t *queue)
{
#if defined(Py_LIMITED_API)
    (void)queue;
    return false;
#else
    PyThreadState *thread = cai_impl_attached_thread();
    return thread != NULL && cai_impl_queue_is_of(queue, PyThreadState_GetInterpreter(thread));
#endif
}

/* Around a wait of the host that code without Python makes (order.h): an attached thread lets the interpreter go, since
 * host functions that are waited for may need it. False: the interpreter is going down, and there must be no wait. */
CAI_IMPL_COLD bool cai_impl_detach(void **detached)
{
    *detached = NULL;
    if (cai_impl_attached_thread() == NULL)
        return true;
    if (cai_impl_is_finalizing())
        return false;
    *detached = PyEval_SaveThread();
    return true;
}

CAI_IMPL_COLD void cai_impl_attach(void *detached)
{
    PyEval_RestoreThread(CAI_IMPL_CAST(PyThreadState *, detached));
}

/* -------------------------------------------------------------------------------------------- objects to be kept -- */

/* A Python object that C keeps, given up on any thread. */
typedef struct cai_impl_kept {
    cai_impl_return_t item;
    cai_impl_queue_t *queue;
    PyObject         *object;
} cai_impl_kept_t;

CAI_IMPL void cai_impl_kept_give_back(cai_impl_return_t *item)
{
    cai_impl_kept_t  *kept = CAI_IMPL_BITS(cai_impl_kept_t *, item);
    cai_impl_queue_t *queue = kept->queue;
    Py_DECREF(kept->object);
    free(kept);
    cai_impl_queue_release(queue);
}

/* Give `item` up: at once on an attached thread, else by the queue. What nobody can give back any more is leaked. */
CAI_IMPL void cai_impl_queue_give_up(cai_impl_queue_t *queue, cai_impl_return_t *item)
{
    PyObject *pending;
    if (!cai_impl_is_attached(queue)) {
        (void)cai_impl_queue_put(queue, item);
        return;
    }
    pending = PyErr_Occurred() != NULL ? cai_impl_take_exception() : NULL;
    item->give_back(item);
    cai_impl_set_exception(pending);
}

/* For cai_array_wrap and cai_array_set_stream: the deleter of a kept object. */
CAI_IMPL void cai_impl_kept_delete(void *owner)
{
    cai_impl_kept_t *kept = CAI_IMPL_CAST(cai_impl_kept_t *, owner);
    cai_impl_queue_give_up(kept->queue, &kept->item);
}

/* Keep an object: a new reference to it, and a struct that cai_impl_kept_delete frees. NULL with MemoryError. */
CAI_IMPL cai_impl_kept_t *cai_impl_kept_new(cai_impl_queue_t *queue, PyObject *object)
{
    cai_impl_kept_t *kept = CAI_IMPL_CAST(cai_impl_kept_t *, malloc(sizeof(cai_impl_kept_t)));
    if (kept == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    kept->item.next = NULL;
    kept->item.give_back = cai_impl_kept_give_back;
    kept->queue = cai_impl_queue_retain(queue);
    kept->object = Py_NewRef(object);
    return kept;
}

#endif /* CAI_RETURN_QUEUE_H */
