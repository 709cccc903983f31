/* Operations, and the graph that pending work is: every piece knows what must be done before it, and nothing is done
 * until something asks for it. */
#include "internal.h"

#include <stdlib.h>
#include <string.h>

typedef enum work_state { WORK_PENDING, WORK_RUNNING, WORK_DONE } work_state_t;

struct work {
    work_t      *previous; /* in the list of unfinished work, which is in the order of enqueuing: */
    work_t      *next;     /* whatever a piece depends on comes before it */
    unsigned int references;
    work_state_t state;
    bool         wanted;
    int          device;
    int64_t      due;
    operation_t  operation;
    list_t       dependencies; /* counted */
};

static work_t      *first;
static work_t      *last;
static size_t       n_unfinished;
static size_t       n_calling;
static unsigned int query_patience = EMULATOR_QUERY_PATIENCE;

/* ---- operations -------------------------------------------------------------------------------------------------- */

static void *copy_bytes(const void *bytes, size_t size)
{
    if (bytes == NULL) {
        return NULL;
    }
    return memcpy(allocate(size), bytes, size);
}

operation_t operation_copy(const operation_t *operation)
{
    operation_t copy = *operation;
    if (copy.kind == OPERATION_KERNEL) {
        copy.arguments = copy_bytes(operation->arguments, operation->arguments_size);
    }
    copy.staging = copy_bytes(operation->staging, operation->width * operation->height);
    if (copy.block != NULL) {
        block_retain(copy.block);
    }
    if (copy.event != NULL) {
        event_retain(copy.event);
    }
    if (copy.executable != NULL) {
        executable_retain(copy.executable);
    }
    return copy;
}

void operation_release(operation_t *operation)
{
    if (operation->kind == OPERATION_KERNEL) {
        free(operation->arguments);
    }
    free(operation->staging);
    block_release(operation->block);
    event_release(operation->event);
    executable_release(operation->executable);
    *operation = (operation_t){.kind = OPERATION_MARKER};
}

static void copy_rows(const operation_t *operation)
{
    const unsigned char *source = operation->staging != NULL ? operation->staging : operation->source;
    size_t               source_pitch = operation->staging != NULL ? operation->width : operation->source_pitch;
    memory_touch("a copy reads", source, operation->width);
    memory_touch("a copy writes", operation->destination, operation->width);
    for (size_t row = 0; row < operation->height; row++) {
        memmove(operation->destination + row * operation->destination_pitch, source + row * source_pitch,
                operation->width);
    }
}

/* Does what needs no call of foreign code. */
static void execute(const operation_t *operation)
{
    switch (operation->kind) {
    case OPERATION_COPY: copy_rows(operation); break;
    case OPERATION_FILL:
        memory_touch("a fill writes", operation->destination, operation->width);
        memset(operation->destination, operation->value, operation->width);
        break;
    case OPERATION_ALLOCATE: block_take_effect(operation->block, operation->life); break;
    case OPERATION_FREE: block_lose_effect(operation->block, operation->life); break;
    default: break;
    }
}

/* ---- life of a piece of work ------------------------------------------------------------------------------------- */

work_t *work_create(int device, const operation_t *operation)
{
    work_t *work = allocate(sizeof(*work));
    work->references = 1;
    work->device = device;
    work->operation = *operation;
    return work;
}

void work_retain(work_t *work)
{
    work->references++;
}

void work_release(work_t *work)
{
    if (work == NULL || --work->references > 0) {
        return;
    }
    operation_release(&work->operation);
    list_free(&work->dependencies);
    free(work);
}

bool work_is_done(const work_t *work)
{
    return work == NULL || work->state == WORK_DONE;
}

void work_depend(work_t *work, work_t *dependency)
{
    if (!work_is_done(dependency) && !list_contains(&work->dependencies, dependency)) {
        work_retain(dependency);
        list_add(&work->dependencies, dependency);
    }
}

static void release_dependencies(work_t *work)
{
    for (size_t i = 0; i < work->dependencies.count; i++) {
        work_release(work->dependencies.items[i]);
    }
    list_free(&work->dependencies);
}

void work_enqueue(work_t *work)
{
    if (work->operation.kind == OPERATION_MARKER && work->dependencies.count == 0) {
        work->state = WORK_DONE; /* nobody could tell the difference */
        return;
    }
    work_retain(work);
    work->due = helpers_due_time();
    work->previous = last;
    if (last != NULL) {
        last->next = work;
    } else {
        first = work;
    }
    last = work;
    n_unfinished++;
    announce_change();
}

/* Takes it off the list of unfinished work, which may have held the last reference. */
static void finish(work_t *work)
{
    if (work->previous != NULL) {
        work->previous->next = work->next;
    } else {
        first = work->next;
    }
    if (work->next != NULL) {
        work->next->previous = work->previous;
    } else {
        last = work->previous;
    }
    n_unfinished--;
    work->state = WORK_DONE;
    operation_release(&work->operation);
    release_dependencies(work);
    work_release(work);
    announce_change();
}

void work_call(work_t *work)
{
    void (*function)(void *) = work->operation.function;
    void          *arguments = work->operation.arguments;
    host_thread_t *thread = this_thread();
    thread->in_emulated_code = true;
    n_calling++;
    unlock();
    function(arguments);
    lock();
    n_calling--;
    thread->in_emulated_code = false;
    finish(work);
}

bool work_is_calling(void)
{
    return n_calling > 0;
}

/* Runs a piece that nothing stands before; a host function is only handed on, and is running afterwards. */
static void start(work_t *work)
{
    work->state = WORK_RUNNING;
    switch (work->operation.kind) {
    case OPERATION_KERNEL: work_call(work); break;
    case OPERATION_HOST_FUNCTION: helpers_call(work); break;
    default:
        execute(&work->operation);
        finish(work);
        break;
    }
}

static bool is_ready(const work_t *work)
{
    for (size_t i = 0; i < work->dependencies.count; i++) {
        if (!work_is_done(work->dependencies.items[i])) {
            return false;
        }
    }
    return work->state == WORK_PENDING;
}

/* ---- forcing ----------------------------------------------------------------------------------------------------- */

static void reverse(list_t *list)
{
    for (size_t i = 0; i < list->count / 2; i++) {
        void *item = list->items[i];
        list->items[i] = list->items[list->count - 1 - i];
        list->items[list->count - 1 - i] = item;
    }
}

/* Collects the targets and all that they depend on, oldest first, counting a reference of each. One pass from the
 * newest to the oldest finds everything, because what a piece depends on is older. */
static void collect(const list_t *targets, list_t *needed)
{
    for (size_t i = 0; i < targets->count; i++) {
        work_t *target = targets->items[i];
        target->wanted = true;
    }
    for (work_t *work = last; work != NULL; work = work->previous) {
        if (!work->wanted) {
            continue;
        }
        work->wanted = false;
        work_retain(work);
        list_add(needed, work);
        for (size_t i = 0; i < work->dependencies.count; i++) {
            work_t *dependency = work->dependencies.items[i];
            dependency->wanted = true;
        }
    }
    reverse(needed);
}

static void release_all(list_t *works)
{
    for (size_t i = 0; i < works->count; i++) {
        work_release(works->items[i]);
    }
    list_free(works);
}

/* Whoever comes first runs a piece; everybody else waits for it. */
static void complete(work_t *work)
{
    while (work->state != WORK_DONE) {
        if (work->state == WORK_PENDING) {
            start(work);
        } else {
            wait_for_change();
        }
    }
}

void work_force(const list_t *targets)
{
    list_t needed = {0};
    collect(targets, &needed);
    for (size_t i = 0; i < needed.count; i++) {
        complete(needed.items[i]);
    }
    release_all(&needed);
}

void work_force_one(work_t *work)
{
    list_t targets = {0};
    list_add(&targets, work);
    work_force(&targets);
    list_free(&targets);
}

void work_force_device(int device)
{
    list_t targets = {0};
    for (work_t *work = first; work != NULL; work = work->next) {
        if (work->device == device) {
            list_add(&targets, work);
        }
    }
    work_force(&targets);
    list_free(&targets);
}

/* Runs what can be run without waiting for anybody. */
static void advance(const list_t *targets)
{
    list_t needed = {0};
    collect(targets, &needed);
    for (size_t i = 0; i < needed.count; i++) {
        if (is_ready(needed.items[i])) {
            start(needed.items[i]);
        }
    }
    release_all(&needed);
}

bool work_are_done(const list_t *targets)
{
    for (size_t i = 0; i < targets->count; i++) {
        if (!work_is_done(targets->items[i])) {
            return false;
        }
    }
    return true;
}

cudaError_t work_query(const list_t *targets, unsigned int *queries)
{
    bool is_done = work_are_done(targets);
    if (!is_done && (*queries)++ >= query_patience) {
        list_t kept = {0};
        for (size_t i = 0; i < targets->count; i++) {
            work_retain(targets->items[i]);
            list_add(&kept, targets->items[i]);
        }
        advance(&kept);
        is_done = work_are_done(&kept);
        release_all(&kept);
    }
    return is_done ? cudaSuccess : cudaErrorNotReady;
}

bool work_start_due(int64_t time, int64_t *next)
{
    *next = -1;
    for (work_t *work = first; work != NULL; work = work->next) {
        if (!is_ready(work)) {
            continue;
        }
        if (work->due <= time) {
            start(work);
            return true;
        }
        *next = *next < 0 || work->due < *next ? work->due : *next;
    }
    return false;
}

/* Drops what is pending, after what is running has come to its end. */
void work_reset(void)
{
    query_patience = EMULATOR_QUERY_PATIENCE;
    while (first != NULL) {
        if (first->state == WORK_RUNNING) {
            wait_for_change();
        } else {
            finish(first);
        }
    }
}

/* ---- control ----------------------------------------------------------------------------------------------------- */

/* A well-mixed sequence from any seed, zero included (the splitmix64 generator). */
static uint64_t next_random(uint64_t *state)
{
    *state += UINT64_C(0x9E3779B97F4A7C15);
    uint64_t value = *state;
    value = (value ^ (value >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    value = (value ^ (value >> 27)) * UINT64_C(0x94D049BB133111EB);
    return value ^ (value >> 31);
}

static work_t *choose_ready(uint64_t *random)
{
    list_t ready = {0};
    for (work_t *work = first; work != NULL; work = work->next) {
        if (is_ready(work)) {
            list_add(&ready, work);
        }
    }
    work_t *chosen = ready.count > 0 ? ready.items[next_random(random) % ready.count] : NULL;
    list_free(&ready);
    return chosen;
}

static bool may_force(const char *name)
{
    if (this_thread()->in_emulated_code) {
        violation("%s is called from a kernel or a host function", name);
        return false;
    }
    return true;
}

static void complete_counted(work_t *work)
{
    work_retain(work);
    complete(work);
    work_release(work);
}

size_t emulator_schedule(uint64_t seed, size_t steps)
{
    lock();
    size_t count = 0;
    bool   permitted = may_force("emulator_schedule");
    for (work_t *work; permitted && count < steps && (work = choose_ready(&seed)) != NULL; count++) {
        complete_counted(work);
    }
    unlock();
    return count;
}

size_t emulator_run_all(void)
{
    lock();
    size_t count = n_unfinished;
    bool   permitted = may_force("emulator_run_all");
    while (permitted && first != NULL) {
        complete_counted(first);
    }
    unlock();
    return count;
}

void emulator_set_query_patience(unsigned int queries)
{
    lock();
    query_patience = queries;
    unlock();
}

size_t emulator_count_pending(void)
{
    lock();
    size_t count = n_unfinished;
    unlock();
    return count;
}
