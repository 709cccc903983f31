/*
 * What only the emulator has: the scheduler, the background thread, poison, recorded calls, scripted failures, the
 * hook, violations, leaks, and the reset. What it shares with a GPU is in behaviours.c. Prints TAP.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* threads and nanosleep */
#endif

#include "emulator.h"
#include "tap.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define CUDA(name) emulator_##name
#define LEGACY     ((cudaStream_t)0x1)
#define PER_THREAD ((cudaStream_t)0x2)

#define ANSWERS(expected, call) check_answer((call), (expected), __LINE__, #call)
#define SUCCEEDS(call)          ANSWERS(cudaSuccess, call)
#define EQUALS(expected, value) check_number((long long)(value), (long long)(expected), __LINE__, #value)

/* ---- harness ----------------------------------------------------------------------------------------------------- */

static void check_answer(cudaError_t answer, cudaError_t expected, int line, const char *call)
{
    tap_check(answer == expected, __FILE__, line, "%s: %d (%s), expected %d", call, (int)answer,
              CUDA(cudaGetErrorName)(answer), (int)expected);
}

static void check_number(long long value, long long expected, int line, const char *text)
{
    tap_check(value == expected, __FILE__, line, "%s is %lld, expected %lld", text, value, expected);
}

/* Every test starts from the start, and must not end with violations, unless it has looked at them and cleared them. */
static void run(const char *name, void (*test)(void))
{
    emulator_reset();
    tap_begin("%s", name);
    test();
    char text[256];
    for (size_t i = 0; emulator_get_violation(i, text, sizeof(text)) == 0; i++) {
        TAP_CHECK(false, "violation: %s", text);
    }
    tap_end();
}

static cudaStream_t new_stream(void)
{
    cudaStream_t stream = NULL;
    SUCCEEDS(CUDA(cudaStreamCreateWithFlags)(&stream, cudaStreamNonBlocking));
    return stream;
}

static cudaEvent_t new_event(void)
{
    cudaEvent_t event = NULL;
    SUCCEEDS(CUDA(cudaEventCreateWithFlags)(&event, cudaEventDisableTiming));
    return event;
}

static void expect_violation(const char *part)
{
    char text[256] = "none";
    emulator_get_violation(0, text, sizeof(text));
    EQUALS(1, emulator_count_violations());
    TAP_CHECK(strstr(text, part) != NULL, "violation '%s', expected '%s'", text, part);
    emulator_clear_violations();
}

static void sleep_ms(long milliseconds)
{
    struct timespec time = {.tv_sec = milliseconds / 1000, .tv_nsec = milliseconds % 1000 * 1000000};
    nanosleep(&time, NULL);
}

/* Waits until the emulator's threads have nothing left to do, for ten seconds at most. */
static void wait_until_idle(void)
{
    for (int i = 0; i < 10000 && emulator_count_pending() > 0; i++) {
        sleep_ms(1);
    }
}

typedef struct write {
    int *target;
    int  value;
} write_t;

static void write_value(void *arguments)
{
    const write_t *write = arguments;
    *write->target = write->value;
}

static void launch_write(cudaStream_t stream, int *target, int value)
{
    write_t write = {.target = target, .value = value};
    SUCCEEDS(emulator_launch(stream, write_value, &write, sizeof(write)));
}

static bool is_filled(const void *memory, size_t size, int byte)
{
    const unsigned char *bytes = memory;
    for (size_t i = 0; i < size; i++) {
        if (bytes[i] != byte) {
            return false;
        }
    }
    return true;
}

/* ---- pending work ------------------------------------------------------------------------------------------------ */

static void forcing_runs_what_is_needed(void)
{
    int          values[4] = {0};
    cudaStream_t streams[3] = {new_stream(), new_stream(), new_stream()};
    cudaEvent_t  event = new_event();
    launch_write(streams[0], &values[0], 1);
    SUCCEEDS(CUDA(cudaEventRecord)(event, streams[0]));
    launch_write(streams[0], &values[1], 1);
    SUCCEEDS(CUDA(cudaStreamWaitEvent)(streams[1], event, cudaEventWaitDefault));
    launch_write(streams[1], &values[2], 1);
    launch_write(streams[2], &values[3], 1);
    SUCCEEDS(CUDA(cudaStreamSynchronize)(streams[1]));
    EQUALS(1, values[0]);
    EQUALS(0, values[1]);
    EQUALS(1, values[2]);
    EQUALS(0, values[3]);
    TAP_CHECK(emulator_is_pending(streams[0]), "stream 0 is not pending");
    TAP_CHECK(!emulator_is_pending(streams[1]), "stream 1 is pending");
    EQUALS(2, emulator_count_pending());
    EQUALS(2, emulator_run_all());
    EQUALS(1, values[1]);
    EQUALS(1, values[3]);
    EQUALS(0, emulator_count_pending());
}

static void queries_have_patience(void)
{
    int          value = 0;
    cudaStream_t stream = new_stream();
    cudaEvent_t  event = new_event();
    launch_write(stream, &value, 1);
    SUCCEEDS(CUDA(cudaEventRecord)(event, stream));
    for (int i = 0; i < EMULATOR_QUERY_PATIENCE; i++) {
        ANSWERS(cudaErrorNotReady, CUDA(cudaEventQuery)(event));
        EQUALS(0, value);
    }
    SUCCEEDS(CUDA(cudaEventQuery)(event));
    EQUALS(1, value);
    emulator_set_query_patience(0);
    launch_write(stream, &value, 2);
    SUCCEEDS(CUDA(cudaStreamQuery)(stream));
    EQUALS(2, value);
}

static void CUDART_CB wait_for_flag(void *data)
{
    while (__atomic_load_n((int *)data, __ATOMIC_ACQUIRE) == 0) {
        sleep_ms(1);
    }
}

/* Somebody who asks holding what the host function needs must not be held up. */
static void queries_do_not_wait_for_host_functions(void)
{
    int          flag = 0;
    cudaStream_t stream = new_stream();
    emulator_set_query_patience(0);
    SUCCEEDS(CUDA(cudaLaunchHostFunc)(stream, wait_for_flag, &flag));
    ANSWERS(cudaErrorNotReady, CUDA(cudaStreamQuery)(stream));
    ANSWERS(cudaErrorNotReady, CUDA(cudaStreamQuery)(stream));
    __atomic_store_n(&flag, 1, __ATOMIC_RELEASE);
    wait_until_idle();
    SUCCEEDS(CUDA(cudaStreamQuery)(stream));
}

#define N_ORDERED 6

typedef struct order {
    int count;
    int ids[N_ORDERED];
} order_t;

typedef struct note {
    order_t *order;
    int      id;
} note_t;

static void note_order(void *arguments)
{
    const note_t *note = arguments;
    note->order->ids[note->order->count++] = note->id;
}

/* Two streams of three kernels each, even and odd ids. */
static order_t scheduled_order(uint64_t seed)
{
    order_t      order = {.count = 0};
    cudaStream_t streams[2] = {new_stream(), new_stream()};
    for (int id = 0; id < N_ORDERED; id++) {
        note_t note = {.order = &order, .id = id};
        SUCCEEDS(emulator_launch(streams[id % 2], note_order, &note, sizeof(note)));
    }
    EQUALS(4, emulator_schedule(seed, 4));
    EQUALS(4, order.count);
    EQUALS(2, emulator_schedule(seed, 100));
    EQUALS(0, emulator_schedule(seed, 100));
    SUCCEEDS(CUDA(cudaStreamDestroy)(streams[0]));
    SUCCEEDS(CUDA(cudaStreamDestroy)(streams[1]));
    return order;
}

static void seeds_give_different_legal_orders(void)
{
    order_t first = scheduled_order(1);
    order_t again = scheduled_order(1);
    TAP_CHECK(memcmp(&first, &again, sizeof(first)) == 0, "one seed gives two orders");
    int different = 0;
    for (uint64_t seed = 2; seed < 40; seed++) {
        order_t order = scheduled_order(seed);
        int     next[2] = {0, 1};
        for (int i = 0; i < N_ORDERED; i++) {
            EQUALS(next[order.ids[i] % 2], order.ids[i]);
            next[order.ids[i] % 2] += 2;
        }
        different += memcmp(&first, &order, sizeof(first)) != 0;
    }
    TAP_CHECK(different > 10, "only %d of 38 orders differ from the first", different);
}

static void reset_drops_pending_work(void)
{
    int value = 0;
    launch_write(new_stream(), &value, 1);
    emulator_reset();
    EQUALS(0, emulator_run_all());
    EQUALS(0, value);
}

static void background_finishes_by_itself(void)
{
    int          value = 0;
    int          flag = 1;
    cudaStream_t stream = new_stream();
    EQUALS(0, emulator_set_background(50));
    launch_write(stream, &value, 1);
    SUCCEEDS(CUDA(cudaLaunchHostFunc)(stream, wait_for_flag, &flag));
    TAP_CHECK(emulator_is_pending(stream), "done before the delay");
    wait_until_idle();
    EQUALS(0, emulator_count_pending());
    EQUALS(1, value);
    EQUALS(0, emulator_set_background(-1));
    launch_write(stream, &value, 2);
    sleep_ms(100);
    EQUALS(1, emulator_count_pending());
}

static void note_thread(void *data)
{
    **(unsigned long long **)data = emulator_thread();
}

static void CUDART_CB note_thread_of_host_function(void *data)
{
    *(unsigned long long *)data = emulator_thread();
}

static void functions_run_on_the_promised_threads(void)
{
    unsigned long long  kernel = 0;
    unsigned long long  function = 0;
    unsigned long long *pointer = &kernel;
    cudaStream_t        stream = new_stream();
    SUCCEEDS(emulator_launch(stream, note_thread, &pointer, sizeof(pointer)));
    SUCCEEDS(CUDA(cudaLaunchHostFunc)(stream, note_thread_of_host_function, &function));
    SUCCEEDS(CUDA(cudaStreamSynchronize)(stream));
    EQUALS(emulator_thread(), kernel);
    TAP_CHECK(function != 0 && function != emulator_thread(), "the host function ran on thread %llu", function);
}

static void *synchronize(void *stream)
{
    CUDA(cudaStreamSynchronize)(stream);
    return NULL;
}

static void count_call(void *data)
{
    int *count = *(int **)data;
    sleep_ms(5);
    ++*count;
}

static void work_runs_once_for_all_who_wait(void)
{
    int          count = 0;
    int         *pointer = &count;
    cudaStream_t stream = new_stream();
    pthread_t    threads[4];
    for (int i = 0; i < 4; i++) {
        SUCCEEDS(emulator_launch(stream, count_call, &pointer, sizeof(pointer)));
    }
    for (int i = 0; i < 4; i++) {
        EQUALS(0, pthread_create(&threads[i], NULL, synchronize, stream));
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
    }
    EQUALS(4, count);
}

/* ---- random programs against a model ----------------------------------------------------------------------------- */

#define N_PROGRAM_STREAMS 6
#define N_PROGRAM_EVENTS  4
#define N_KERNELS         60

/*
 * The model: for each stream, and each event, the set of kernels that its end stands behind, as a bit mask. Streams 0
 * and 1 are legacy and per-thread, 2 and 3 blocking, 4 and 5 non-blocking.
 */
typedef struct program {
    uint64_t     random;
    cudaStream_t streams[N_PROGRAM_STREAMS];
    cudaEvent_t  events[N_PROGRAM_EVENTS];
    uint64_t     behind_stream[N_PROGRAM_STREAMS];
    uint64_t     behind_event[N_PROGRAM_EVENTS];
    bool         recorded[N_PROGRAM_EVENTS];
    uint64_t     before[N_KERNELS];
    int          n_kernels;
    uint64_t     done;
    bool         violated;
} program_t;

typedef struct step {
    program_t *program;
    int        id;
} step_t;

static uint64_t next_random(program_t *program, uint64_t limit)
{
    program->random = program->random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (program->random >> 33) % limit;
}

static void do_step(void *arguments)
{
    const step_t *step = arguments;
    program_t    *program = step->program;
    program->violated = program->violated || (program->before[step->id] & ~program->done) != 0;
    program->done |= UINT64_C(1) << step->id;
}

/* What any action on the stream adds to what its end stands behind. */
static void model_action(program_t *program, size_t stream)
{
    uint64_t *behind = program->behind_stream;
    if (stream == 0) {
        behind[0] |= behind[1] | behind[2] | behind[3];
    } else if (stream < 4) {
        behind[stream] |= behind[0];
    }
}

static void add_random_action(program_t *program)
{
    size_t    stream = next_random(program, N_PROGRAM_STREAMS);
    size_t    event = next_random(program, N_PROGRAM_EVENTS);
    uint64_t *behind = &program->behind_stream[stream];
    switch (next_random(program, 4)) {
    case 0:
        SUCCEEDS(CUDA(cudaEventRecord)(program->events[event], program->streams[stream]));
        model_action(program, stream);
        program->behind_event[event] = *behind;
        program->recorded[event] = true;
        break;
    case 1:
        SUCCEEDS(CUDA(cudaStreamWaitEvent)(program->streams[stream], program->events[event], cudaEventWaitDefault));
        if (program->recorded[event]) { /* otherwise it is no action at all */
            model_action(program, stream);
            *behind |= program->behind_event[event];
        }
        break;
    default: {
        step_t step = {.program = program, .id = program->n_kernels++};
        SUCCEEDS(emulator_launch(program->streams[stream], do_step, &step, sizeof(step)));
        model_action(program, stream);
        program->before[step.id] = *behind;
        *behind |= UINT64_C(1) << step.id;
        break;
    }
    }
}

static void open_program(program_t *program, uint64_t seed)
{
    memset(program, 0, sizeof(*program));
    program->random = seed;
    program->streams[0] = LEGACY;
    program->streams[1] = PER_THREAD;
    for (size_t i = 2; i < N_PROGRAM_STREAMS; i++) {
        unsigned int flags = i < 4 ? cudaStreamDefault : cudaStreamNonBlocking;
        SUCCEEDS(CUDA(cudaStreamCreateWithFlags)(&program->streams[i], flags));
    }
    for (size_t i = 0; i < N_PROGRAM_EVENTS; i++) {
        program->events[i] = new_event();
    }
    while (program->n_kernels < N_KERNELS) {
        add_random_action(program);
    }
}

static void random_programs_run_in_legal_orders(void)
{
    for (uint64_t seed = 1; seed <= 200; seed++) {
        program_t program;
        emulator_reset();
        open_program(&program, seed);
        while (emulator_schedule(seed, 1000) > 0) {
        }
        TAP_CHECK(!program.violated, "program %d: an order that is not permitted", (int)seed);
        TAP_CHECK(program.done == (UINT64_C(1) << N_KERNELS) - 1, "program %d: not everything was done", (int)seed);
    }
}

static void forcing_a_random_program_runs_exactly_what_is_needed(void)
{
    for (uint64_t seed = 1; seed <= 200; seed++) {
        program_t program;
        emulator_reset();
        open_program(&program, seed);
        size_t   stream = seed % N_PROGRAM_STREAMS;
        uint64_t needed = program.behind_stream[stream];
        if (stream == 0) {
            needed |= program.behind_stream[1] | program.behind_stream[2] | program.behind_stream[3];
        }
        SUCCEEDS(CUDA(cudaStreamSynchronize)(program.streams[stream]));
        TAP_CHECK(program.done == needed, "program %d, stream %d: %llx was done, %llx was needed", (int)seed,
                  (int)stream, (unsigned long long)program.done, (unsigned long long)needed);
        size_t event = seed % N_PROGRAM_EVENTS;
        needed |= program.behind_event[event];
        SUCCEEDS(CUDA(cudaEventSynchronize)(program.events[event]));
        TAP_CHECK(program.done == needed, "program %d, event %d: %llx was done, %llx was needed", (int)seed, (int)event,
                  (unsigned long long)program.done, (unsigned long long)needed);
        TAP_CHECK(!program.violated, "program %d: an order that is not permitted", (int)seed);
    }
}

/* ---- memory ------------------------------------------------------------------------------------------------------ */

static void fresh_and_freed_memory_is_filled(void)
{
    void *memory = NULL;
    void *again = NULL;
    SUCCEEDS(CUDA(cudaMalloc)(&memory, 100));
    TAP_CHECK(is_filled(memory, 100, EMULATOR_FRESH), "not fresh");
    SUCCEEDS(CUDA(cudaFree)(memory));
    TAP_CHECK(is_filled(memory, 100, EMULATOR_FREED), "not marked as freed");
    SUCCEEDS(CUDA(cudaMalloc)(&again, 80));
    TAP_CHECK(again == memory, "not handed out again");
    TAP_CHECK(is_filled(again, 80, EMULATOR_FRESH), "not fresh again");
    SUCCEEDS(CUDA(cudaFree)(again));
}

static void pool_memory_changes_in_stream_order(void)
{
    int         *memory = NULL;
    void        *pointer = NULL;
    cudaStream_t stream = new_stream();
    SUCCEEDS(CUDA(cudaMallocAsync)(&pointer, sizeof(int), stream));
    memory = pointer;
    launch_write(stream, memory, 3);
    SUCCEEDS(CUDA(cudaStreamSynchronize)(stream));
    SUCCEEDS(CUDA(cudaFreeAsync)(pointer, stream));
    EQUALS(3, *memory);
    EQUALS(0, emulator_count_allocations());
    EQUALS(sizeof(int), emulator_pool_bytes(0));
    SUCCEEDS(CUDA(cudaStreamSynchronize)(stream));
    TAP_CHECK(is_filled(memory, sizeof(int), EMULATOR_FREED), "not marked as freed");
    EQUALS(0, emulator_pool_bytes(0));
}

static void freed_pool_memory_is_reused_in_order(void)
{
    void        *memory = NULL;
    void        *same = NULL;
    void        *other = NULL;
    cudaStream_t streams[2] = {new_stream(), new_stream()};
    SUCCEEDS(CUDA(cudaMallocAsync)(&memory, 1000, streams[0]));
    SUCCEEDS(CUDA(cudaStreamSynchronize)(streams[0]));
    SUCCEEDS(CUDA(cudaFreeAsync)(memory, streams[0]));
    SUCCEEDS(CUDA(cudaMallocAsync)(&other, 1000, streams[1]));
    TAP_CHECK(other != memory, "another stream got it before it was freed");
    SUCCEEDS(CUDA(cudaMallocAsync)(&same, 1000, streams[0]));
    TAP_CHECK(same == memory, "the stream did not get it back");
    SUCCEEDS(CUDA(cudaFreeAsync)(same, streams[0]));
    SUCCEEDS(CUDA(cudaStreamSynchronize)(streams[0]));
    SUCCEEDS(CUDA(cudaMallocAsync)(&same, 1000, streams[1]));
    TAP_CHECK(same == memory, "another stream did not get it after it was freed");
}

static void read_int(void *arguments)
{
    int *const *pointers = arguments;
    *pointers[0] = *pointers[1];
}

static void use_after_free_reads_poison(void)
{
    int          seen = 0;
    void        *pointer = NULL;
    cudaStream_t stream = new_stream();
    SUCCEEDS(CUDA(cudaMallocAsync)(&pointer, sizeof(int), stream));
    launch_write(stream, pointer, 3);
    int *pointers[2] = {&seen, pointer};
    SUCCEEDS(CUDA(cudaFree)(pointer));
    SUCCEEDS(emulator_launch(stream, read_int, pointers, sizeof(pointers)));
    *(int *)pointer = 1234; /* whoever gets the block next */
    SUCCEEDS(CUDA(cudaStreamSynchronize)(stream));
    EQUALS(3, seen); /* the write that was under way hits the next owner */
    EQUALS(3, *(int *)pointer);
}

static void late_allocation_spares_the_next_owner(void)
{
    void        *first = NULL;
    void        *second = NULL;
    cudaStream_t streams[2] = {new_stream(), new_stream()};
    SUCCEEDS(CUDA(cudaMallocAsync)(&first, sizeof(int), streams[0]));
    SUCCEEDS(CUDA(cudaFree)(first));
    SUCCEEDS(CUDA(cudaMallocAsync)(&second, sizeof(int), streams[1]));
    TAP_CHECK(second == first, "not handed out again at once");
    launch_write(streams[1], second, 5);
    SUCCEEDS(CUDA(cudaStreamSynchronize)(streams[1]));
    SUCCEEDS(CUDA(cudaStreamSynchronize)(streams[0]));
    EQUALS(5, *(int *)second);
}

static void copies_of_missing_memory_are_violations(void)
{
    void        *memory = NULL;
    int          value;
    cudaStream_t stream = new_stream();
    SUCCEEDS(CUDA(cudaMallocAsync)(&memory, sizeof(int), stream));
    SUCCEEDS(CUDA(cudaMemcpy)(&value, memory, sizeof(int), cudaMemcpyDeviceToHost));
    expect_violation("a copy reads 4 bytes");
    SUCCEEDS(CUDA(cudaFreeAsync)(memory, stream));
    SUCCEEDS(CUDA(cudaStreamSynchronize)(stream));
    SUCCEEDS(CUDA(cudaMemsetAsync)(memory, 0, sizeof(int), stream));
    SUCCEEDS(CUDA(cudaStreamSynchronize)(stream));
    expect_violation("a fill writes 4 bytes");
}

static void copies_stay_inside_allocations(void)
{
    void *memory = NULL;
    char  host[64] = {0};
    SUCCEEDS(CUDA(cudaMalloc)(&memory, 32));
    ANSWERS(cudaErrorInvalidValue, CUDA(cudaMemcpy)(memory, host, 33, cudaMemcpyHostToDevice));
    expect_violation("beyond the end");
    ANSWERS(cudaErrorInvalidValue, CUDA(cudaMemset)((char *)memory + 30, 0, 3));
    expect_violation("beyond the end");
    ANSWERS(cudaErrorInvalidValue, CUDA(cudaMemcpy)(host, host + 32, 8, cudaMemcpyHostToDevice));
    ANSWERS(cudaErrorInvalidMemcpyDirection, CUDA(cudaMemcpy)(memory, host, 8, (enum cudaMemcpyKind)9));
    SUCCEEDS(CUDA(cudaMemcpy)(memory, host, 32, cudaMemcpyDefault));
    SUCCEEDS(CUDA(cudaMemcpyAsync)(memory, NULL, 0, cudaMemcpyDefault, LEGACY));
    TAP_CHECK(is_filled(memory, 32, 0), "not copied");
}

static void memory_has_an_end(void)
{
    void *memory = NULL;
    ANSWERS(cudaErrorMemoryAllocation, CUDA(cudaMalloc)(&memory, EMULATOR_DEVICE_MEMORY + 1));
    ANSWERS(cudaErrorMemoryAllocation, CUDA(cudaMallocAsync)(&memory, SIZE_MAX, LEGACY));
    EQUALS(0, emulator_count_allocations());
}

static void leaks_are_listed(void)
{
    void                 *pointers[3] = {NULL};
    emulator_allocation_t allocation;
    SUCCEEDS(CUDA(cudaMalloc)(&pointers[0], 10));
    SUCCEEDS(CUDA(cudaSetDevice)(1));
    SUCCEEDS(CUDA(cudaMallocAsync)(&pointers[1], 20, LEGACY));
    SUCCEEDS(CUDA(cudaMallocHost)(&pointers[2], 30));
    EQUALS(3, emulator_count_allocations());
    EQUALS(20, emulator_pool_bytes(1));
    size_t      sizes = 0;
    const void *previous = NULL;
    for (size_t i = 0; emulator_get_allocation(i, &allocation) == 0; i++) {
        sizes += allocation.size;
        TAP_CHECK((uintptr_t)allocation.pointer > (uintptr_t)previous, "not in the order of addresses");
        TAP_CHECK(strcmp(allocation.kind, "pool") != 0 || (allocation.device == 1 && allocation.size == 20),
                  "the pool memory is on device %d", allocation.device);
        previous = allocation.pointer;
    }
    EQUALS(60, sizes);
    cudaStream_t stream = new_stream();
    cudaEvent_t  event = new_event();
    EQUALS(1, emulator_count_streams());
    EQUALS(1, emulator_count_events());
    SUCCEEDS(CUDA(cudaStreamDestroy)(stream));
    SUCCEEDS(CUDA(cudaEventDestroy)(event));
    EQUALS(0, emulator_count_streams());
    EQUALS(0, emulator_count_events());
}

/* ---- recorded calls ---------------------------------------------------------------------------------------------- */

static void calls_are_recorded(void)
{
    cudaStream_t    stream = new_stream();
    cudaEvent_t     event = new_event();
    emulator_call_t call;
    void           *memory = NULL;
    SUCCEEDS(CUDA(cudaEventRecord)(event, stream));
    SUCCEEDS(CUDA(cudaMalloc)(&memory, 12));
    ANSWERS(cudaErrorInvalidDevice, CUDA(cudaSetDevice)(5));
    EQUALS(5, emulator_count_calls(NULL));
    EQUALS(1, emulator_count_calls("cudaEventRecord"));
    EQUALS(0, emulator_count_calls("cudaFree"));
    EQUALS(0, emulator_get_call(0, &call));
    TAP_CHECK(strcmp(call.name, "cudaStreamCreateWithFlags") == 0 && call.stream == stream, "the first is %s",
              call.name);
    EQUALS(0, emulator_get_call(2, &call));
    TAP_CHECK(strcmp(call.name, "cudaEventRecord") == 0, "the third is %s", call.name);
    TAP_CHECK(call.event == event && call.stream == stream && call.result == cudaSuccess, "wrong arguments");
    EQUALS(emulator_thread(), call.thread);
    EQUALS(0, call.current_device);
    EQUALS(0, emulator_get_call(3, &call));
    TAP_CHECK(call.pointer == memory && call.size == 12, "wrong memory");
    EQUALS(0, emulator_get_call(4, &call));
    EQUALS(5, call.device);
    EQUALS(cudaErrorInvalidDevice, call.result);
    EQUALS(-1, emulator_get_call(5, &call));
}

static void recording_can_be_switched_off(void)
{
    emulator_record_calls(false);
    cudaStream_t stream = new_stream();
    EQUALS(0, emulator_count_calls(NULL));
    emulator_record_calls(true);
    SUCCEEDS(CUDA(cudaStreamDestroy)(stream));
    EQUALS(1, emulator_count_calls(NULL));
    emulator_clear_calls();
    EQUALS(0, emulator_count_calls(NULL));
}

static void *make_a_call(void *thread)
{
    int device;
    CUDA(cudaGetDevice)(&device);
    *(unsigned long long *)thread = emulator_thread();
    return NULL;
}

static void threads_have_numbers(void)
{
    unsigned long long number = 0;
    emulator_call_t    call = {.thread = 0};
    pthread_t          thread;
    EQUALS(0, pthread_create(&thread, NULL, make_a_call, &number));
    pthread_join(thread, NULL);
    EQUALS(0, emulator_get_call(0, &call));
    EQUALS(number, call.thread);
    TAP_CHECK(number != emulator_thread(), "both threads have the number %llu", number);
}

/* ---- scripted failures ------------------------------------------------------------------------------------------- */

static void nth_call_fails(void)
{
    void *memory[3] = {NULL};
    EQUALS(0, emulator_fail("cudaMalloc", 2, cudaErrorMemoryAllocation));
    EQUALS(1, emulator_count_failures());
    SUCCEEDS(CUDA(cudaMalloc)(&memory[0], 1));
    SUCCEEDS(CUDA(cudaSetDevice)(0));
    ANSWERS(cudaErrorMemoryAllocation, CUDA(cudaMalloc)(&memory[1], 1));
    TAP_CHECK(memory[1] == NULL, "the failed call had an effect");
    ANSWERS(cudaErrorMemoryAllocation, CUDA(cudaGetLastError)());
    EQUALS(0, emulator_count_failures());
    SUCCEEDS(CUDA(cudaMalloc)(&memory[2], 1));
    EQUALS(2, emulator_count_allocations());
}

static void failed_free_has_no_effect(void)
{
    void *memory = NULL;
    SUCCEEDS(CUDA(cudaMalloc)(&memory, 1));
    EQUALS(0, emulator_fail("cudaFree", 1, cudaErrorLaunchFailure));
    ANSWERS(cudaErrorLaunchFailure, CUDA(cudaFree)(memory));
    EQUALS(1, emulator_count_allocations());
    SUCCEEDS(CUDA(cudaFree)(memory));
}

static void any_function_can_fail(void)
{
    cudaStream_t stream = new_stream();
    int          device;
    EQUALS(0, emulator_fail(NULL, 3, cudaErrorUnknown));
    SUCCEEDS(CUDA(cudaGetDevice)(&device));
    SUCCEEDS(CUDA(cudaGetLastError)());
    SUCCEEDS(CUDA(cudaStreamQuery)(stream));
    ANSWERS(cudaErrorUnknown, emulator_launch(stream, write_value, NULL, 0));
    EQUALS(0, emulator_count_pending());
    SUCCEEDS(CUDA(cudaGetDevice)(&device));
}

static void failures_are_checked(void)
{
    EQUALS(-1, emulator_fail("cudaNoSuchFunction", 1, cudaErrorUnknown));
    EQUALS(-1, emulator_fail("cudaGetLastError", 1, cudaErrorUnknown));
    EQUALS(-1, emulator_fail("cudaMalloc", 0, cudaErrorUnknown));
    EQUALS(-1, emulator_fail("cudaMalloc", 1, cudaSuccess));
    EQUALS(0, emulator_fail("emulator_launch", 1, cudaErrorLaunchFailure));
    EQUALS(0, emulator_fail(NULL, 1, cudaErrorUnknown));
    EQUALS(2, emulator_count_failures());
    emulator_fail_clear();
    EQUALS(0, emulator_count_failures());
    int device;
    SUCCEEDS(CUDA(cudaGetDevice)(&device));
}

static void failed_call_creates_no_context(void)
{
    cudaStream_t stream;
    EQUALS(0, emulator_fail("cudaStreamCreate", 1, cudaErrorUnknown));
    ANSWERS(cudaErrorUnknown, CUDA(cudaStreamCreate)(&stream));
    TAP_CHECK(!emulator_has_context(0), "device 0 has a context");
    SUCCEEDS(CUDA(cudaStreamCreate)(&stream));
    TAP_CHECK(emulator_has_context(0) && !emulator_has_context(1), "the wrong devices have contexts");
    SUCCEEDS(CUDA(cudaSetDevice)(1));
    TAP_CHECK(emulator_has_context(1), "device 1 has no context");
}

/* ---- the hook ---------------------------------------------------------------------------------------------------- */

typedef struct hooked {
    int  count;
    char last[64];
} hooked_t;

static void note_blocking(const char *name, void *context)
{
    hooked_t *hooked = context;
    int       device;
    hooked->count++;
    snprintf(hooked->last, sizeof(hooked->last), "%s", name);
    CUDA(cudaGetDevice)(&device); /* would never return if a lock were held */
}

/* The call that has blocked since the last look, and once; an empty name for none. */
static void expect_blocking(hooked_t *hooked, const char *name)
{
    EQUALS(name[0] != '\0', hooked->count);
    TAP_CHECK(strcmp(hooked->last, name) == 0, "'%s' blocked, expected '%s'", hooked->last, name);
    *hooked = (hooked_t){.count = 0};
}

static void hook_sees_what_blocks(void)
{
    hooked_t     hooked = {.count = 0};
    cudaStream_t stream = new_stream();
    cudaEvent_t  event = new_event();
    void        *memory[4] = {NULL};
    int          host = 0;
    SUCCEEDS(CUDA(cudaMalloc)(&memory[0], 16));
    SUCCEEDS(CUDA(cudaMalloc)(&memory[1], 16));
    SUCCEEDS(CUDA(cudaMallocAsync)(&memory[2], 16, LEGACY));
    emulator_set_blocking_hook(note_blocking, &hooked);
    SUCCEEDS(CUDA(cudaStreamSynchronize)(stream));
    expect_blocking(&hooked, "cudaStreamSynchronize");
    SUCCEEDS(CUDA(cudaEventSynchronize)(event));
    expect_blocking(&hooked, "cudaEventSynchronize");
    SUCCEEDS(CUDA(cudaDeviceSynchronize)());
    expect_blocking(&hooked, "cudaDeviceSynchronize");
    SUCCEEDS(CUDA(cudaMallocHost)(&memory[3], 16));
    expect_blocking(&hooked, "cudaMallocHost");
    SUCCEEDS(CUDA(cudaFreeHost)(memory[3]));
    expect_blocking(&hooked, "cudaFreeHost");
    SUCCEEDS(CUDA(cudaMemcpy)(memory[0], &host, sizeof(host), cudaMemcpyHostToDevice));
    expect_blocking(&hooked, "cudaMemcpy");
    SUCCEEDS(CUDA(cudaMemcpyAsync)(&host, memory[0], sizeof(host), cudaMemcpyDeviceToHost, stream));
    expect_blocking(&hooked, "cudaMemcpyAsync");
    SUCCEEDS(CUDA(cudaMemcpy)(memory[0], memory[1], 16, cudaMemcpyDeviceToDevice));
    SUCCEEDS(CUDA(cudaMemcpyAsync)(memory[0], &host, sizeof(host), cudaMemcpyHostToDevice, stream));
    SUCCEEDS(CUDA(cudaMemset)(memory[0], 0, 16));
    SUCCEEDS(CUDA(cudaStreamQuery)(LEGACY) == cudaErrorNotReady ? cudaSuccess : cudaErrorUnknown);
    SUCCEEDS(CUDA(cudaFree)(memory[2]));
    SUCCEEDS(CUDA(cudaFreeAsync)(memory[1], stream));
    SUCCEEDS(CUDA(cudaEventRecord)(event, stream));
    expect_blocking(&hooked, "");
    EQUALS(0, emulator_fail("cudaStreamSynchronize", 1, cudaErrorUnknown));
    ANSWERS(cudaErrorUnknown, CUDA(cudaStreamSynchronize)(stream));
    expect_blocking(&hooked, "");
    SUCCEEDS(CUDA(cudaFree)(memory[0]));
    expect_blocking(&hooked, "cudaFree");
    emulator_set_blocking_hook(NULL, NULL);
    SUCCEEDS(CUDA(cudaStreamSynchronize)(stream));
    expect_blocking(&hooked, "");
}

/* ---- violations -------------------------------------------------------------------------------------------------- */

static void freeing_twice_is_a_violation(void)
{
    void *memory = NULL;
    int   host;
    SUCCEEDS(CUDA(cudaMalloc)(&memory, 8));
    SUCCEEDS(CUDA(cudaFree)(memory));
    ANSWERS(cudaErrorInvalidValue, CUDA(cudaFree)(memory));
    expect_violation("is freed already");
    SUCCEEDS(CUDA(cudaMallocAsync)(&memory, 8, LEGACY));
    SUCCEEDS(CUDA(cudaFreeAsync)(memory, LEGACY));
    ANSWERS(cudaErrorInvalidValue, CUDA(cudaFreeAsync)(memory, LEGACY));
    expect_violation("cudaFreeAsync: ");
    ANSWERS(cudaErrorInvalidValue, CUDA(cudaFree)(&host));
    expect_violation("was never allocated");
    SUCCEEDS(CUDA(cudaMallocHost)(&memory, 8));
    ANSWERS(cudaErrorInvalidValue, CUDA(cudaFree)(memory));
    expect_violation("another kind");
    ANSWERS(cudaErrorInvalidValue, CUDA(cudaFreeHost)((char *)memory + 1));
    expect_violation("was never allocated");
    SUCCEEDS(CUDA(cudaFreeHost)(memory));
}

static void using_destroyed_handles_is_a_violation(void)
{
    cudaStream_t stream = new_stream();
    cudaEvent_t  event = new_event();
    SUCCEEDS(CUDA(cudaStreamDestroy)(stream));
    SUCCEEDS(CUDA(cudaEventDestroy)(event));
    ANSWERS(cudaErrorInvalidResourceHandle, CUDA(cudaStreamDestroy)(stream));
    expect_violation("cudaStreamDestroy: handle");
    ANSWERS(cudaErrorInvalidResourceHandle, CUDA(cudaEventDestroy)(event));
    expect_violation("used after it was destroyed");
    ANSWERS(cudaErrorInvalidResourceHandle, CUDA(cudaEventRecord)(event, LEGACY));
    expect_violation("used after it was destroyed");
    ANSWERS(cudaErrorInvalidResourceHandle, CUDA(cudaStreamSynchronize)((cudaStream_t)(uintptr_t)12345));
    expect_violation("is no handle");
    ANSWERS(cudaErrorInvalidResourceHandle, CUDA(cudaEventQuery)((cudaEvent_t)(void *)new_stream()));
    expect_violation("is no handle");
    ANSWERS(cudaErrorInvalidResourceHandle, CUDA(cudaEventQuery)(NULL));
}

static void CUDART_CB call_the_runtime(void *answer)
{
    int device;
    *(cudaError_t *)answer = CUDA(cudaGetDevice)(&device);
}

static void call_the_runtime_from_a_kernel(void *arguments)
{
    call_the_runtime(*(cudaError_t **)arguments);
}

static void emulated_code_may_not_call_the_runtime(void)
{
    cudaError_t  answer = cudaSuccess;
    cudaError_t *pointer = &answer;
    SUCCEEDS(CUDA(cudaLaunchHostFunc)(LEGACY, call_the_runtime, &answer));
    SUCCEEDS(CUDA(cudaStreamSynchronize)(LEGACY));
    EQUALS(cudaErrorNotPermitted, answer);
    expect_violation("cudaGetDevice: called from a kernel or a host function");
    answer = cudaSuccess;
    SUCCEEDS(emulator_launch(LEGACY, call_the_runtime_from_a_kernel, &pointer, sizeof(pointer)));
    SUCCEEDS(CUDA(cudaStreamSynchronize)(LEGACY));
    EQUALS(cudaErrorNotPermitted, answer);
    expect_violation("cudaGetDevice: called from a kernel or a host function");
}

static void destroying_a_capturing_stream_is_a_violation(void)
{
    cudaStream_t stream = new_stream();
    int          value = 0;
    SUCCEEDS(CUDA(cudaStreamBeginCapture)(stream, cudaStreamCaptureModeGlobal));
    launch_write(stream, &value, 1);
    SUCCEEDS(CUDA(cudaStreamDestroy)(stream));
    expect_violation("is capturing");
    SUCCEEDS(CUDA(cudaDeviceSynchronize)());
    EQUALS(0, emulator_count_graphs());
}

/* ---- graphs ------------------------------------------------------------------------------------------------------ */

static void count_down(void *arguments)
{
    write_t *write = arguments;
    write->value--; /* its own copy */
    *write->target += write->value;
}

static void each_replay_has_its_own_arguments(void)
{
    int             sum = 0;
    write_t         arguments = {.target = &sum, .value = 10};
    cudaStream_t    stream = new_stream();
    cudaGraph_t     graph = NULL;
    cudaGraphExec_t executable = NULL;
    SUCCEEDS(CUDA(cudaStreamBeginCapture)(stream, cudaStreamCaptureModeGlobal));
    SUCCEEDS(emulator_launch(stream, count_down, &arguments, sizeof(arguments)));
    SUCCEEDS(CUDA(cudaStreamEndCapture)(stream, &graph));
    SUCCEEDS(CUDA(cudaGraphInstantiate)(&executable, graph, 0));
    SUCCEEDS(CUDA(cudaGraphDestroy)(graph));
    EQUALS(0, emulator_count_graphs());
    EQUALS(1, emulator_count_executable_graphs());
    SUCCEEDS(CUDA(cudaGraphLaunch)(executable, stream));
    SUCCEEDS(CUDA(cudaGraphLaunch)(executable, stream));
    SUCCEEDS(CUDA(cudaGraphExecDestroy)(executable));
    SUCCEEDS(CUDA(cudaStreamSynchronize)(stream));
    EQUALS(18, sum);
}

static cudaGraphExec_t capture_launch_of(cudaGraphExec_t inner, cudaStream_t stream)
{
    cudaGraph_t     graph = NULL;
    cudaGraphExec_t outer = NULL;
    SUCCEEDS(CUDA(cudaStreamBeginCapture)(stream, cudaStreamCaptureModeGlobal));
    SUCCEEDS(CUDA(cudaGraphLaunch)(inner, stream));
    SUCCEEDS(CUDA(cudaGraphLaunch)(inner, stream));
    SUCCEEDS(CUDA(cudaStreamEndCapture)(stream, &graph));
    SUCCEEDS(CUDA(cudaGraphInstantiate)(&outer, graph, 0));
    SUCCEEDS(CUDA(cudaGraphDestroy)(graph));
    return outer;
}

static void graphs_launch_graphs(void)
{
    int             sum = 0;
    write_t         arguments = {.target = &sum, .value = 2};
    cudaStream_t    stream = new_stream();
    cudaGraph_t     graph = NULL;
    cudaGraphExec_t inner = NULL;
    SUCCEEDS(CUDA(cudaStreamBeginCapture)(stream, cudaStreamCaptureModeGlobal));
    SUCCEEDS(emulator_launch(stream, count_down, &arguments, sizeof(arguments)));
    SUCCEEDS(CUDA(cudaStreamEndCapture)(stream, &graph));
    SUCCEEDS(CUDA(cudaGraphInstantiate)(&inner, graph, 0));
    SUCCEEDS(CUDA(cudaGraphDestroy)(graph));
    cudaGraphExec_t outer = capture_launch_of(inner, stream);
    SUCCEEDS(CUDA(cudaGraphExecDestroy)(inner));
    SUCCEEDS(CUDA(cudaGraphLaunch)(outer, stream));
    EQUALS(0, sum);
    SUCCEEDS(CUDA(cudaStreamSynchronize)(stream));
    EQUALS(2, sum);
    SUCCEEDS(CUDA(cudaGraphExecDestroy)(outer));
}

static void graph_memory_is_freed_and_allocated_again_in_order(void)
{
    void           *memory = NULL;
    cudaStream_t    stream = new_stream();
    cudaGraph_t     graph = NULL;
    cudaGraphExec_t executable = NULL;
    SUCCEEDS(CUDA(cudaStreamBeginCapture)(stream, cudaStreamCaptureModeGlobal));
    SUCCEEDS(CUDA(cudaMallocAsync)(&memory, sizeof(int), stream));
    launch_write(stream, memory, 6);
    SUCCEEDS(CUDA(cudaStreamEndCapture)(stream, &graph));
    SUCCEEDS(CUDA(cudaGraphInstantiate)(&executable, graph, 0));
    SUCCEEDS(CUDA(cudaGraphDestroy)(graph));
    SUCCEEDS(CUDA(cudaGraphLaunch)(executable, stream));
    SUCCEEDS(CUDA(cudaFreeAsync)(memory, stream));
    SUCCEEDS(CUDA(cudaGraphLaunch)(executable, stream));
    SUCCEEDS(CUDA(cudaStreamSynchronize)(stream));
    EQUALS(6, *(int *)memory);
    EQUALS(1, emulator_count_allocations());
    SUCCEEDS(CUDA(cudaFree)(memory));
    EQUALS(0, emulator_count_allocations());
    TAP_CHECK(is_filled(memory, sizeof(int), EMULATOR_FREED), "not marked as freed");
    SUCCEEDS(CUDA(cudaGraphExecDestroy)(executable));
}

static void graph_memory_outlives_its_graph_until_freed(void)
{
    void           *memory = NULL;
    cudaStream_t    stream = new_stream();
    cudaGraph_t     graph = NULL;
    cudaGraphExec_t executable = NULL;
    SUCCEEDS(CUDA(cudaStreamBeginCapture)(stream, cudaStreamCaptureModeGlobal));
    SUCCEEDS(CUDA(cudaMallocAsync)(&memory, sizeof(int), stream));
    launch_write(stream, memory, 6);
    SUCCEEDS(CUDA(cudaStreamEndCapture)(stream, &graph));
    SUCCEEDS(CUDA(cudaGraphInstantiate)(&executable, graph, 0));
    EQUALS(0, emulator_count_allocations());
    SUCCEEDS(CUDA(cudaGraphLaunch)(executable, stream));
    EQUALS(1, emulator_count_allocations());
    SUCCEEDS(CUDA(cudaGraphDestroy)(graph));
    SUCCEEDS(CUDA(cudaGraphExecDestroy)(executable));
    SUCCEEDS(CUDA(cudaStreamSynchronize)(stream));
    EQUALS(6, *(int *)memory);
    SUCCEEDS(CUDA(cudaFreeAsync)(memory, stream));
    EQUALS(0, emulator_count_allocations());
    SUCCEEDS(CUDA(cudaStreamSynchronize)(stream));
}

/* ---- devices, threads, reset ------------------------------------------------------------------------------------- */

static void number_of_devices_can_be_set(void)
{
    int   count = -1;
    void *memory;
    EQUALS(0, emulator_set_device_count(EMULATOR_MAX_DEVICES));
    SUCCEEDS(CUDA(cudaGetDeviceCount)(&count));
    EQUALS(EMULATOR_MAX_DEVICES, count);
    SUCCEEDS(CUDA(cudaSetDevice)(EMULATOR_MAX_DEVICES - 1));
    EQUALS(-1, emulator_set_device_count(1));
    EQUALS(-1, emulator_set_device_count(EMULATOR_MAX_DEVICES + 1));
    emulator_reset();
    EQUALS(0, emulator_set_device_count(0));
    ANSWERS(cudaErrorNoDevice, CUDA(cudaGetDeviceCount)(&count));
    EQUALS(0, count);
    ANSWERS(cudaErrorNoDevice, CUDA(cudaMalloc)(&memory, 1));
    ANSWERS(cudaErrorNoDevice, CUDA(cudaSetDevice)(0));
    TAP_CHECK(!emulator_is_pending(LEGACY), "something is pending");
}

static void reset_forgets_everything(void)
{
    cudaStream_t               stream = new_stream();
    cudaEvent_t                event = new_event();
    void                      *memory = NULL;
    int                        device = -1;
    enum cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
    SUCCEEDS(CUDA(cudaMalloc)(&memory, 8));
    SUCCEEDS(CUDA(cudaSetDevice)(1));
    SUCCEEDS(CUDA(cudaThreadExchangeStreamCaptureMode)(&mode));
    SUCCEEDS(CUDA(cudaStreamBeginCapture)(stream, cudaStreamCaptureModeGlobal));
    ANSWERS(cudaErrorInvalidValue, CUDA(cudaMalloc)(NULL, 8));
    emulator_fail(NULL, 1, cudaErrorUnknown);
    emulator_reset();
    EQUALS(0, emulator_count_allocations() + emulator_count_streams() + emulator_count_events());
    EQUALS(0, emulator_count_calls(NULL) + emulator_count_failures());
    TAP_CHECK(!emulator_has_context(0) && !emulator_has_context(1), "a device has a context");
    SUCCEEDS(CUDA(cudaGetLastError)());
    SUCCEEDS(CUDA(cudaGetDevice)(&device));
    EQUALS(0, device);
    mode = cudaStreamCaptureModeRelaxed;
    SUCCEEDS(CUDA(cudaThreadExchangeStreamCaptureMode)(&mode));
    EQUALS(cudaStreamCaptureModeGlobal, mode);
    ANSWERS(cudaErrorInvalidResourceHandle, CUDA(cudaStreamDestroy)(stream));
    expect_violation("used after it was destroyed");
    ANSWERS(cudaErrorInvalidResourceHandle, CUDA(cudaEventDestroy)(event));
    expect_violation("used after it was destroyed");
    ANSWERS(cudaErrorInvalidValue, CUDA(cudaFree)(memory));
    expect_violation("was never allocated");
}

static void add_one(void *arguments)
{
    int *target = *(int **)arguments;
    ++*target;
}

typedef struct worker {
    pthread_t        thread;
    int             *counter; /* device memory that all workers increment, one after the other */
    cudaEvent_t     *turn;    /* recorded by whoever had the last turn */
    pthread_mutex_t *mutex;
    bool             failed;
} worker_t;

/* One worker's turns: its stream waits for the last turn's event, increments, and records the event anew. */
static void *take_turns(void *argument)
{
    worker_t    *worker = argument;
    cudaStream_t stream;
    worker->failed = CUDA(cudaStreamCreateWithFlags)(&stream, cudaStreamNonBlocking) != cudaSuccess;
    for (int i = 0; i < 50 && !worker->failed; i++) {
        void *memory = NULL;
        pthread_mutex_lock(worker->mutex);
        bool ordered = CUDA(cudaStreamWaitEvent)(stream, *worker->turn, cudaEventWaitDefault) == cudaSuccess &&
                       emulator_launch(stream, add_one, &worker->counter, sizeof(worker->counter)) == cudaSuccess &&
                       CUDA(cudaEventRecord)(*worker->turn, stream) == cudaSuccess;
        pthread_mutex_unlock(worker->mutex);
        bool used = CUDA(cudaMallocAsync)(&memory, 256, stream) == cudaSuccess &&
                    CUDA(cudaMemsetAsync)(memory, 1, 256, stream) == cudaSuccess &&
                    CUDA(cudaFreeAsync)(memory, stream) == cudaSuccess;
        bool waited = i % 3 != 0 || CUDA(cudaStreamSynchronize)(stream) == cudaSuccess;
        worker->failed = !(ordered && used && waited);
    }
    worker->failed = worker->failed || CUDA(cudaStreamDestroy)(stream) != cudaSuccess;
    return NULL;
}

#define N_WORKERS 4

static void threads_take_turns(void)
{
    int             counter = 0;
    pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    cudaEvent_t     turn = new_event();
    worker_t        workers[N_WORKERS];
    EQUALS(0, emulator_set_background(0));
    for (int i = 0; i < N_WORKERS; i++) {
        workers[i] = (worker_t){.counter = &counter, .turn = &turn, .mutex = &mutex};
        EQUALS(0, pthread_create(&workers[i].thread, NULL, take_turns, &workers[i]));
    }
    for (int i = 0; i < N_WORKERS; i++) {
        pthread_join(workers[i].thread, NULL);
        TAP_CHECK(!workers[i].failed, "worker %d failed", i);
    }
    SUCCEEDS(CUDA(cudaDeviceSynchronize)());
    EQUALS(N_WORKERS * 50, counter);
    EQUALS(0, emulator_count_allocations());
}

int main(void)
{
    run("forcing runs what is needed and nothing else", forcing_runs_what_is_needed);
    run("queries make progress when patience ends", queries_have_patience);
    run("queries do not wait for host functions", queries_do_not_wait_for_host_functions);
    run("seeds give different orders, all of them legal", seeds_give_different_legal_orders);
    run("reset drops pending work", reset_drops_pending_work);
    run("the background thread finishes work by itself", background_finishes_by_itself);
    run("kernels and host functions run on the promised threads", functions_run_on_the_promised_threads);
    run("work runs once for all who wait for it", work_runs_once_for_all_who_wait);
    run("random programs run in legal orders", random_programs_run_in_legal_orders);
    run("forcing a random program runs exactly what is needed", forcing_a_random_program_runs_exactly_what_is_needed);
    run("fresh and freed memory is filled", fresh_and_freed_memory_is_filled);
    run("pool memory changes in stream order", pool_memory_changes_in_stream_order);
    run("freed pool memory is reused in order", freed_pool_memory_is_reused_in_order);
    run("pending work hits the next owner of freed memory", use_after_free_reads_poison);
    run("a late allocation spares the next owner", late_allocation_spares_the_next_owner);
    run("copies of missing memory are violations", copies_of_missing_memory_are_violations);
    run("copies stay inside allocations", copies_stay_inside_allocations);
    run("memory has an end", memory_has_an_end);
    run("leaks are listed", leaks_are_listed);
    run("calls are recorded", calls_are_recorded);
    run("recording can be switched off", recording_can_be_switched_off);
    run("threads have numbers", threads_have_numbers);
    run("the nth call fails", nth_call_fails);
    run("a failed free has no effect", failed_free_has_no_effect);
    run("any function can fail", any_function_can_fail);
    run("scripted failures are checked", failures_are_checked);
    run("a failed call creates no context", failed_call_creates_no_context);
    run("the hook sees what blocks", hook_sees_what_blocks);
    run("freeing twice is a violation", freeing_twice_is_a_violation);
    run("using destroyed handles is a violation", using_destroyed_handles_is_a_violation);
    run("emulated code may not call the runtime", emulated_code_may_not_call_the_runtime);
    run("destroying a capturing stream is a violation", destroying_a_capturing_stream_is_a_violation);
    run("each replay has its own arguments", each_replay_has_its_own_arguments);
    run("graphs launch graphs", graphs_launch_graphs);
    run("graph memory is freed and allocated again in order", graph_memory_is_freed_and_allocated_again_in_order);
    run("graph memory outlives its graph until it is freed", graph_memory_outlives_its_graph_until_freed);
    run("the number of devices can be set", number_of_devices_can_be_set);
    run("reset forgets everything", reset_forgets_everything);
    run("threads take turns in the background", threads_take_turns);
    emulator_reset();
    return tap_finish();
}
