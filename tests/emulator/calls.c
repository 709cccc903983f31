/* Beginning and end of every runtime call: recording, scripted failures, the thread's last error, violations, the
 * hook. */
#include "internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct failure {
    const char *name; /* NULL for any function */
    int         left; /* calls until it happens */
    cudaError_t error;
} failure_t;

#define NAME(name, parameters) #name,
static const char *const names[] = {EMULATOR_RUNTIME_CALLS(NAME) EMULATOR_RUNTIME_CALLS_12_8(NAME)
                                        EMULATOR_RUNTIME_CALLS_CAPTURE_INFO(NAME) "emulator_launch"};
static const char *const names_that_never_fail[] = {"cudaGetLastError", "cudaPeekAtLastError"};

static bool               recording = true;
static unsigned long long epoch = 1; /* counts how often the records were cleared */
static emulator_call_t   *records;
static size_t             n_records;
static size_t             records_capacity;
static list_t             failures;   /* of failure_t, owned */
static list_t             violations; /* of char, owned */
static void (*blocking_hook)(const char *name, void *context);
static void *blocking_context;

static const char *find_name(const char *const *list, size_t count, const char *name)
{
    for (size_t i = 0; i < count; i++) {
        if (strcmp(list[i], name) == 0) {
            return list[i];
        }
    }
    return NULL;
}

/* Counts the call for every scripted failure, and answers the error of the one that happens now. */
static cudaError_t scripted_error(const char *name)
{
    cudaError_t error = cudaSuccess;
    for (size_t i = failures.count; i > 0; i--) {
        failure_t *failure = failures.items[i - 1];
        bool       counts = failure->name == NULL || strcmp(failure->name, name) == 0;
        if (counts && --failure->left == 0) {
            error = failure->error;
            list_remove(&failures, failure);
            free(failure);
        }
    }
    return error;
}

static cudaError_t check_beginning(const char *name, call_needs_t needs, const host_thread_t *thread)
{
    if (needs == CALL_ALWAYS_ANSWERS) {
        return cudaSuccess;
    }
    if (thread->in_emulated_code) {
        violation("called from a kernel or a host function");
        return cudaErrorNotPermitted;
    }
    cudaError_t error = scripted_error(name);
    if (error == cudaSuccess && needs == CALL_CREATES_CONTEXT && !device_exists(thread->device)) {
        error = cudaErrorNoDevice;
    }
    return error;
}

static void record(call_t *call)
{
    if (!recording) {
        return;
    }
    if (n_records == records_capacity) {
        size_t           capacity = records_capacity > 0 ? 2 * records_capacity : 256;
        emulator_call_t *larger = allocate(capacity * sizeof(*larger));
        if (n_records > 0) {
            memcpy(larger, records, n_records * sizeof(*larger));
        }
        free(records);
        records = larger;
        records_capacity = capacity;
    }
    call->index = n_records++;
    call->epoch = epoch;
    records[call->index] = call->record;
}

bool call_begin(call_t *call, call_needs_t needs)
{
    lock();
    host_thread_t *thread = this_thread();
    call->outer = thread->call;
    thread->call = call->record.name;
    call->record.thread = thread->number;
    call->record.current_device = thread->device;
    record(call);
    call->result = check_beginning(call->record.name, needs, thread);
    if (call->result != cudaSuccess) {
        return false;
    }
    if (needs == CALL_CREATES_CONTEXT) {
        device_create_context(thread->device);
    }
    return true;
}

cudaError_t call_end(call_t *call)
{
    host_thread_t *thread = this_thread();
    thread->call = call->outer;
    call->record.result = call->result;
    if (call->epoch == epoch) {
        records[call->index] = call->record;
    }
    if (call->result != cudaSuccess) {
        thread->last_error = call->result;
    }
    unlock();
    return call->result;
}

void call_blocks(void)
{
    void (*hook)(const char *, void *) = blocking_hook;
    void       *context = blocking_context;
    const char *name = this_thread()->call;
    if (hook != NULL) {
        unlock();
        hook(name, context);
        lock();
    }
}

void violation(const char *format, ...)
{
    char        text[256];
    const char *call = this_thread()->call;
    int         length = call != NULL ? snprintf(text, sizeof(text), "%s: ", call) : 0;
    va_list     arguments;
    va_start(arguments, format);
    vsnprintf(text + length, sizeof(text) - (size_t)length, format, arguments);
    va_end(arguments);
    char *copy = allocate(strlen(text) + 1);
    list_add(&violations, strcpy(copy, text));
}

static void free_items(list_t *list)
{
    for (size_t i = 0; i < list->count; i++) {
        free(list->items[i]);
    }
    list_clear(list);
}

static void clear_records(void)
{
    n_records = 0;
    epoch++;
}

void calls_reset(void)
{
    recording = true;
    clear_records();
    free_items(&failures);
    free_items(&violations);
    blocking_hook = NULL;
    blocking_context = NULL;
}

cudaError_t emulator_cudaGetLastError(void)
{
    call_t call = {.record.name = "cudaGetLastError"};
    call_begin(&call, CALL_ALWAYS_ANSWERS);
    call.result = this_thread()->last_error;
    cudaError_t error = call_end(&call);
    lock();
    this_thread()->last_error = cudaSuccess;
    unlock();
    return error;
}

cudaError_t emulator_cudaPeekAtLastError(void)
{
    call_t call = {.record.name = "cudaPeekAtLastError"};
    call_begin(&call, CALL_ALWAYS_ANSWERS);
    call.result = this_thread()->last_error;
    return call_end(&call);
}

void emulator_record_calls(bool on)
{
    lock();
    recording = on;
    unlock();
}

size_t emulator_count_calls(const char *name)
{
    lock();
    size_t count = 0;
    for (size_t i = 0; i < n_records; i++) {
        count += name == NULL || strcmp(records[i].name, name) == 0;
    }
    unlock();
    return count;
}

int emulator_get_call(size_t index, emulator_call_t *call)
{
    lock();
    bool found = index < n_records;
    if (found) {
        *call = records[index];
    }
    unlock();
    return found ? 0 : -1;
}

void emulator_clear_calls(void)
{
    lock();
    clear_records();
    unlock();
}

int emulator_fail(const char *name, int nth, cudaError_t error)
{
    size_t      n_names = sizeof(names) / sizeof(*names);
    size_t      n_never = sizeof(names_that_never_fail) / sizeof(*names_that_never_fail);
    const char *known = name != NULL ? find_name(names, n_names, name) : NULL;
    bool is_function = name == NULL || (known != NULL && find_name(names_that_never_fail, n_never, name) == NULL);
    if (!is_function || nth < 1 || error == cudaSuccess) {
        return -1;
    }
    failure_t *failure = allocate(sizeof(*failure));
    *failure = (failure_t){.name = known, .left = nth, .error = error};
    lock();
    list_add(&failures, failure);
    unlock();
    return 0;
}

void emulator_fail_clear(void)
{
    lock();
    free_items(&failures);
    unlock();
}

size_t emulator_count_failures(void)
{
    lock();
    size_t count = failures.count;
    unlock();
    return count;
}

void emulator_set_blocking_hook(void (*hook)(const char *name, void *context), void *context)
{
    lock();
    blocking_hook = hook;
    blocking_context = context;
    unlock();
}

size_t emulator_count_violations(void)
{
    lock();
    size_t count = violations.count;
    unlock();
    return count;
}

int emulator_get_violation(size_t index, char *text, size_t size)
{
    lock();
    bool found = index < violations.count;
    if (found) {
        snprintf(text, size, "%s", (const char *)violations.items[index]);
    }
    unlock();
    return found ? 0 : -1;
}

void emulator_clear_violations(void)
{
    lock();
    free_items(&violations);
    unlock();
}
