/*
 * What the files of the emulator are to each other. Each file owns its state; all of it is guarded by the one lock.
 *
 *   base.c         lists, allocation that cannot fail, handles
 *   threads.c      the lock, and what is remembered for each host thread
 *   calls.c        beginning and end of every runtime call: recording, scripted failures, the last error, violations
 *   memory.c       blocks of memory: when they take effect and lose it, what they are filled with
 *   allocations.c  the runtime calls that allocate, free, and ask what an address is
 *   pools.c        the default pool of each device
 *   work.c         operations, and the graph of pending work that streams and events make of them
 *   helpers.c      the threads that call host functions and finish work in the background
 *   devices.c      devices and their contexts
 *   streams.c      streams, and the order that the runtime gives them implicitly
 *   events.c       events
 *   captures.c     captures: what is permitted beside one, and what invalidates it
 *   graphs.c       graphs and their replay
 *   copies.c       copies, fills, kernels and host functions: how calls become operations
 *   errors.c       names of error codes
 *   signatures.c   the proof that every call has the runtime's type
 *   control.c      emulator_reset, which is the business of all the others
 *
 * Unless said otherwise, functions expect the lock to be held, and those that answer a cudaError_t have had no effect
 * if it is not cudaSuccess, except for invalidating captures.
 */
#ifndef EMULATOR_INTERNAL_H
#define EMULATOR_INTERNAL_H

#define _POSIX_C_SOURCE 200809L /* clocks and threads: every file includes this header first */

#include "emulator.h"

typedef struct work       work_t;
typedef struct block      block_t;
typedef struct stream     stream_t;
typedef struct event      event_t;
typedef struct capture    capture_t;
typedef struct graph      graph_t;
typedef struct executable executable_t;

/* ---- base.c ------------------------------------------------------------------------------------------------------ */

/* Zeroed memory from malloc; ends the process if there is none, because no test could go on. No lock needed. */
void *allocate(size_t size);

/* A growing list of pointers, none of them owned. All zero is the empty list. */
typedef struct list {
    void **items;
    size_t count;
    size_t capacity;
} list_t;

void list_add(list_t *list, void *item);
void list_add_new(list_t *list, void *item); /* unless it is in the list */
void list_insert(list_t *list, size_t index, void *item);
bool list_contains(const list_t *list, const void *item);
void list_remove(list_t *list, const void *item); /* keeps the order; an item that is not there is passed over */
void list_clear(list_t *list);                    /* keeps the capacity */
void list_free(list_t *list);                     /* leaves the empty list */

/* Handles are numbers that are never used twice, so that a destroyed one is known as such, also after a reset. */
typedef enum handle_kind {
    HANDLE_STREAM,
    HANDLE_EVENT,
    HANDLE_GRAPH,
    HANDLE_EXECUTABLE_GRAPH,
    HANDLE_KINDS
} handle_kind_t;

void  *handle_create(handle_kind_t kind, void *object);
void  *handle_find(handle_kind_t kind, const void *handle); /* NULL, and a violation, if destroyed or never created */
void   handle_destroy(handle_kind_t kind, const void *handle);
size_t handle_count(handle_kind_t kind); /* of those not destroyed */
void  *handle_any(handle_kind_t kind);   /* some object not destroyed, or NULL */

/* ---- threads.c --------------------------------------------------------------------------------------------------- */

typedef struct host_thread {
    unsigned long long         number;
    unsigned long long         generation;
    int                        device;
    cudaError_t                last_error;
    enum cudaStreamCaptureMode capture_mode;
    const char                *call;             /* the runtime call that it is in, or NULL */
    bool                       in_emulated_code; /* inside a kernel or a host function */
} host_thread_t;

void           lock(void); /* without the lock held */
void           unlock(void);
void           wait_for_change(void);                      /* releases the lock while waiting; returns early, too */
void           wait_for_change_until(int64_t nanoseconds); /* likewise, on the clock of now() */
void           announce_change(void);                      /* wakes every waiter */
int64_t        now(void);                                  /* nanoseconds; no lock needed */
host_thread_t *this_thread(void);
void           threads_reset(void);

/* ---- calls.c ----------------------------------------------------------------------------------------------------- */

typedef enum call_needs {
    CALL_ALWAYS_ANSWERS, /* never fails by script, permitted everywhere */
    CALL_PLAIN,
    CALL_CREATES_CONTEXT /* on the current device */
} call_needs_t;

typedef struct call {
    emulator_call_t    record;
    cudaError_t        result;
    size_t             index;
    unsigned long long epoch; /* of the records, 0 while not recorded */
    const char        *outer; /* the call of this thread around it, from within a hook */
} call_t;

/* Takes the lock. False if the call fails before it has begun; call_end must follow in either case. */
bool        call_begin(call_t *call, call_needs_t needs);
cudaError_t call_end(call_t *call); /* releases the lock, returns the result */

/* Tells the hook that this call blocks the host. Releases the lock meanwhile: look everything up again afterwards. */
void call_blocks(void);

void violation(const char *format, ...) __attribute__((format(printf, 1, 2)));
void calls_reset(void);

/* ---- memory.c ---------------------------------------------------------------------------------------------------- */

typedef enum memory_kind { MEMORY_DEVICE, MEMORY_POOL, MEMORY_MANAGED, MEMORY_PINNED, MEMORY_GRAPH } memory_kind_t;

struct block {
    unsigned char     *base;
    size_t             size; /* as asked for */
    size_t             capacity;
    memory_kind_t      kind;
    int                device;
    unsigned int       references;    /* the registry, operations, and for memory of a graph its being allocated */
    bool               allocated;     /* as the host sees it */
    bool               present;       /* as the device sees it, in stream order */
    bool               free_captured; /* memory of a graph: its free is a node already */
    unsigned long long life; /* counts frees that do not wait for stream order: older operations must leave it alone */
    unsigned long long freed_at;
    unsigned long long freed_on;  /* the id of the stream whose order the pending free follows, 0 for none */
    work_t            *free_work; /* the pending free */
    unsigned long long capture;   /* memory of a graph: the id of the capture that made it */
};

block_t *block_find(const void *pointer); /* the block around an address, allocated or not; NULL if there is none */
void     block_retain(block_t *block);
void     block_release(block_t *block);
void     block_take_effect(block_t *block, unsigned long long life); /* an allocation, executed */
void     block_lose_effect(block_t *block, unsigned long long life); /* a free, executed */

/* A violation if the bytes lie in memory that is not there, in stream order; name says what uses it. */
void memory_touch(const char *name, const void *pointer, size_t size);

void block_freed_on(block_t *block, const stream_t *stream); /* a free, enqueued on the stream */
void block_free_now(block_t *block);                         /* a free that waits for no stream */

/* Allocates, on the device's stream with that id or (0) on none; NULL if there is not enough memory. */
block_t *memory_take(memory_kind_t kind, int device, size_t size, unsigned long long stream);

/* Memory of a graph under capture, not allocated before a launch; NULL if there is not enough. */
block_t *memory_for_graph(int device, size_t size, unsigned long long capture);

uint64_t memory_in_pool(int device, bool in_use); /* bytes in use as asked for, or else all that the pool holds */
void     memory_reset(void);

/* ---- pools.c ----------------------------------------------------------------------------------------------------- */

void pool_note_use(int device); /* for the high-water marks, after an allocation */

/* ---- work.c ------------------------------------------------------------------------------------------------------ */

typedef enum operation_kind {
    OPERATION_MARKER, /* orders other work and does nothing */
    OPERATION_KERNEL,
    OPERATION_HOST_FUNCTION,
    OPERATION_COPY,
    OPERATION_FILL,
    OPERATION_ALLOCATE,
    OPERATION_FREE,
    OPERATION_RECORD_EVENT, /* the last three are nodes of graphs only */
    OPERATION_WAIT_EVENT,
    OPERATION_LAUNCH_GRAPH
} operation_kind_t;

typedef struct operation {
    operation_kind_t kind;
    void (*function)(void *arguments);
    void                *arguments; /* owned for kernels, the caller's data for host functions */
    size_t               arguments_size;
    unsigned char       *destination;
    const unsigned char *source;
    size_t               destination_pitch;
    size_t               source_pitch;
    size_t               width;
    size_t               height;
    int                  value;
    void                *staging; /* owned: the source's bytes at the time of the call, or NULL */
    block_t             *block;   /* counted */
    unsigned long long   life;
    event_t             *event;      /* counted */
    executable_t        *executable; /* counted */
} operation_t;

operation_t operation_copy(const operation_t *operation);
void        operation_release(operation_t *operation); /* what it owns and counts */

/*
 * Work is created with the operation, of which it takes what is owned and counted, then gets its dependencies, then is
 * enqueued. The caller of work_create owns one reference.
 */
work_t *work_create(int device, const operation_t *operation);
void    work_depend(work_t *work, work_t *dependency); /* NULL and what is done are passed over */
void    work_enqueue(work_t *work);
void    work_retain(work_t *work);
void    work_release(work_t *work);       /* NULL is fine */
bool    work_is_done(const work_t *work); /* so is NULL */

bool work_are_done(const list_t *targets);
void work_force(const list_t *targets); /* finishes them and what they depend on; releases the lock meanwhile */
void work_force_device(int device);
void work_force_one(work_t *work);

/* Whether they are done, cudaErrorNotReady if not. queries counts how often that was the answer: when the patience
 * is at its end, they are advanced as far as possible without waiting. Uses queries before it releases the lock. */
cudaError_t work_query(const list_t *targets, unsigned int *queries);

/* Starts one piece of work that was due; else says when the next will be, or -1. */
bool work_start_due(int64_t time, int64_t *next);

void work_call(work_t *work); /* calls its function, without the lock, and finishes it */
bool work_is_calling(void);   /* whether a function is being called on some thread */
void work_reset(void);

/* ---- helpers.c --------------------------------------------------------------------------------------------------- */

void    helpers_call(work_t *work); /* has a host function called on the thread for them */
int64_t helpers_due_time(void);     /* when work enqueued now is due in the background */
void    helpers_reset(void);        /* releases the lock while the threads end */

/* ---- devices.c --------------------------------------------------------------------------------------------------- */

typedef struct device {
    bool      has_context;
    stream_t *legacy;
    list_t    streams; /* all others: owned; destroyed ones until their work is done */
    uint64_t  release_threshold;
    uint64_t  used_high;
    uint64_t  reserved_high;
    bool      reuse_disabled[3]; /* the pool's reuse attributes */
} device_t;

bool      device_exists(int device);
device_t *device_get(int device);
void      device_create_context(int device);
void      devices_reset(void);

/* ---- streams.c --------------------------------------------------------------------------------------------------- */

typedef enum stream_kind { STREAM_LEGACY, STREAM_PER_THREAD, STREAM_BLOCKING, STREAM_NON_BLOCKING } stream_kind_t;

struct stream {
    cudaStream_t       handle;
    stream_kind_t      kind;
    int                device;
    unsigned int       flags;
    unsigned long long id;
    unsigned long long thread; /* of a per-thread stream */
    work_t            *last;
    unsigned int       queries;
    bool               destroyed;
    capture_t         *capture;
    list_t             capture_nodes; /* those that the next captured node depends on */
};

cudaError_t stream_find(cudaStream_t handle, stream_t **stream);
stream_t   *stream_legacy(int device);
void        stream_targets(const stream_t *stream, list_t *targets); /* the work whose end is the stream's */

/* Puts the work behind everything that the stream orders it after, as the stream's last. */
void stream_append(stream_t *stream, work_t *work);

/* Puts an operation into the stream's capture or else its queue, whatever happens taking what it owns and counts. With
 * work not NULL the caller gets a reference, or NULL if it was captured. */
cudaError_t stream_submit(stream_t *stream, operation_t *operation, work_t **work);

void stream_free(stream_t *stream);
void streams_reset(void);

/* ---- events.c ---------------------------------------------------------------------------------------------------- */

struct event {
    cudaEvent_t  handle;
    int          device;
    unsigned int references; /* the handle and nodes of graphs */
    unsigned int queries;
    bool         recorded;
    work_t      *work;    /* of the last record, outside captures */
    capture_t   *capture; /* of the last record, in a capture; counted */
    list_t       capture_nodes;
};

void event_retain(event_t *event);
void event_release(event_t *event);
void event_recorded(event_t *event, work_t *work); /* the event now stands for that work */
void events_reset(void);

/* ---- captures.c -------------------------------------------------------------------------------------------------- */

struct capture {
    unsigned int               references; /* its being under way, and events recorded in it */
    unsigned long long         id;
    enum cudaStreamCaptureMode mode;
    unsigned long long         thread;
    stream_t                  *origin;
    list_t                     streams;
    graph_t                   *graph;
    bool                       invalidated;
    bool                       ended;
};

void capture_release(capture_t *capture);
void capture_invalidate(capture_t *capture);
void capture_join(capture_t *capture, stream_t *stream);
void capture_abandon(stream_t *stream); /* the stream is being destroyed */

/* Whether this thread may make a call that is unsafe beside a capture. */
cudaError_t capture_check_unsafe(void);

/* Whether work may be put on the stream: refuses invalidated captures, and the legacy stream beside a capture on a
 * blocking one. */
cudaError_t capture_check_submit(stream_t *stream);

/* Whether the host may ask for, or wait for, the stream's work. */
cudaError_t capture_check_synchronize(stream_t *stream);

/* Whether the device may be waited for: never while one of its streams captures. */
cudaError_t capture_check_device(int device);

void captures_reset(void);

/* ---- graphs.c ---------------------------------------------------------------------------------------------------- */

graph_t    *graph_create(void); /* for a capture */
void        graph_free(graph_t *graph);
cudaGraph_t graph_publish(graph_t *graph); /* at the end of the capture */
cudaGraph_t graph_handle(const graph_t *graph);
bool graph_is_joined(const graph_t *graph, const list_t *ends); /* whether every node comes before or among the ends */

/* Adds a node, which it returns, and which takes what the operation owns and counts. */
void *graph_add(graph_t *graph, int device, const operation_t *operation, const list_t *dependencies);

void executable_retain(executable_t *executable);
void executable_release(executable_t *executable);
void graphs_reset(void);

#endif
