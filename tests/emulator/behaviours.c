/*
 * What the CUDA runtime does, as one suite that runs against the emulator and against a real GPU.
 *
 * The expectations were measured on NVIDIA H200s (CUDA 13.0, driver 580.159), or are what the runtime's headers and the
 * programming guide promise; none was made to suit the emulator. The open questions at the end are asked and the
 * answers printed as comments, so that two runs can be compared; nothing judges them. gpu-log.txt is what a GPU said.
 *
 * On a GPU: nvcc -o behaviours behaviours.c kernels_device.cu && ./behaviours An argument runs only the tests whose
 * name contains it. Prints TAP; the exit status is 0 if all passed.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* threads */
#endif

#include "kernels.h"
#include "tap.h"

#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define LEGACY     ((cudaStream_t)0x1)
#define PER_THREAD ((cudaStream_t)0x2)

static const char *wanted; /* part of the names of the tests to run, or NULL */
static int         n_devices;

/* ---- harness ----------------------------------------------------------------------------------------------------- */

#define ANSWERS(expected, call) check_answer((call), (expected), __LINE__, #call)
#define SUCCEEDS(call)          ANSWERS(cudaSuccess, call)

static bool check_answer(cudaError_t answer, cudaError_t expected, int line, const char *call)
{
    tap_check(answer == expected, __FILE__, line, "%s: %d (%s), expected %d", call, (int)answer,
              CUDA(cudaGetErrorName)(answer), (int)expected);
    return answer == expected;
}

/* Nothing of a test may be left for the next: neither work nor an error. */
static void settle(void)
{
    for (int device = n_devices; device > 0; device--) {
        CUDA(cudaSetDevice)(device - 1);
        CUDA(cudaDeviceSynchronize)();
    }
    CUDA(cudaGetLastError)();
}

typedef void test_t(const void *argument);

static void run_named(const char *name, int devices, test_t *test, const void *argument)
{
    if (wanted != NULL && strstr(name, wanted) == NULL) {
        return;
    }
    tap_begin("%s", name);
    if (n_devices < devices) {
        tap_skip("needs two devices");
    } else {
        test(argument);
        settle();
    }
    tap_end();
}

static void run(const char *name, test_t *test)
{
    run_named(name, 1, test, NULL);
}

static void run_on_two(const char *name, test_t *test)
{
    run_named(name, 2, test, NULL);
}

typedef void *thread_function_t(void *argument);

static void on_other_thread(thread_function_t *function, void *argument)
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, function, argument) == 0) {
        pthread_join(thread, NULL);
    }
}

static cudaStream_t new_stream(unsigned int flags)
{
    cudaStream_t stream = NULL;
    SUCCEEDS(CUDA(cudaStreamCreateWithFlags)(&stream, flags));
    return stream;
}

static cudaEvent_t new_event(void)
{
    cudaEvent_t event = NULL;
    SUCCEEDS(CUDA(cudaEventCreateWithFlags)(&event, cudaEventDisableTiming));
    return event;
}

/* Device and pinned memory for one int each, both 0, and nothing pending. */
typedef struct memory {
    int *device;
    int *pinned;
} memory_t;

static memory_t new_memory(void)
{
    memory_t memory = {NULL, NULL};
    void    *pointer = NULL;
    SUCCEEDS(CUDA(cudaMalloc)(&pointer, sizeof(int)));
    memory.device = pointer;
    SUCCEEDS(CUDA(cudaMallocHost)(&pointer, sizeof(int)));
    memory.pinned = pointer;
    SUCCEEDS(CUDA(cudaMemset)(memory.device, 0, sizeof(int)));
    SUCCEEDS(CUDA(cudaDeviceSynchronize)());
    *memory.pinned = 0;
    return memory;
}

static void free_memory(memory_t memory)
{
    SUCCEEDS(CUDA(cudaFree)(memory.device));
    SUCCEEDS(CUDA(cudaFreeHost)(memory.pinned));
}

static cudaError_t copy_out(const memory_t *memory, cudaStream_t stream)
{
    return CUDA(cudaMemcpyAsync)(memory->pinned, memory->device, sizeof(int), cudaMemcpyDeviceToHost, stream);
}

static enum cudaStreamCaptureStatus capture_status(cudaStream_t stream)
{
    enum cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    SUCCEEDS(CUDA(cudaStreamIsCapturing)(stream, &status));
    return status;
}

static cudaGraph_t end_capture(cudaStream_t stream)
{
    cudaGraph_t graph = NULL;
    SUCCEEDS(CUDA(cudaStreamEndCapture)(stream, &graph));
    return graph;
}

static cudaGraphExec_t instantiate(cudaGraph_t graph)
{
    cudaGraphExec_t executable = NULL;
    SUCCEEDS(CUDA(cudaGraphInstantiate)(&executable, graph, 0));
    SUCCEEDS(CUDA(cudaGraphDestroy)(graph));
    return executable;
}

/* ---- contexts ---------------------------------------------------------------------------------------------------- */

static void device_count_creates_no_context(const void *unused)
{
    (void)unused;
    int count;
    SUCCEEDS(CUDA(cudaGetDeviceCount)(&count));
    TAP_CHECK(!device_has_context(0), "device 0 has a context");
}

static void get_device_creates_no_context(const void *unused)
{
    (void)unused;
    int device;
    SUCCEEDS(CUDA(cudaGetDevice)(&device));
    TAP_CHECK(device == 0, "device %d", device);
    TAP_CHECK(!device_has_context(0), "device 0 has a context");
}

static void pointer_attributes_create_no_context(const void *unused)
{
    (void)unused;
    struct cudaPointerAttributes attributes;
    SUCCEEDS(CUDA(cudaPointerGetAttributes)(&attributes, &wanted));
    TAP_CHECK(!device_has_context(0), "device 0 has a context");
}

static void is_capturing_creates_a_context(const void *unused)
{
    (void)unused;
    TAP_CHECK(capture_status(LEGACY) == cudaStreamCaptureStatusNone, "the legacy stream captures");
    TAP_CHECK(device_has_context(0), "device 0 has no context");
}

/* They look at the first calls of the process, so they come first and do without settle(). */
static void test_contexts(void)
{
    static const struct {
        const char *name;
        test_t     *test;
    } rows[] = {
        {"cudaGetDeviceCount creates no context", device_count_creates_no_context},
        {"cudaGetDevice creates no context", get_device_creates_no_context},
        {"cudaPointerGetAttributes creates no context", pointer_attributes_create_no_context},
        {"cudaStreamIsCapturing(legacy) creates a context", is_capturing_creates_a_context},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        if (wanted == NULL || strstr(rows[i].name, wanted) != NULL) {
            tap_begin("%s", rows[i].name);
            rows[i].test(NULL);
            tap_end();
        }
    }
}

/* ---- implicit order ---------------------------------------------------------------------------------------------- */

typedef enum kind { KIND_NULL, KIND_LEGACY, KIND_PER_THREAD, KIND_BLOCKING, KIND_NON_BLOCKING, KINDS } stream_kind_t;

static const char *const kind_names[KINDS] = {"0", "legacy", "per-thread", "blocking", "non-blocking"};

static cudaStream_t open_kind(stream_kind_t kind)
{
    switch (kind) {
    case KIND_NULL: return NULL;
    case KIND_LEGACY: return LEGACY;
    case KIND_PER_THREAD: return PER_THREAD;
    case KIND_BLOCKING: return new_stream(cudaStreamDefault);
    default: return new_stream(cudaStreamNonBlocking);
    }
}

static void close_kind(stream_kind_t kind, cudaStream_t stream)
{
    if (kind == KIND_BLOCKING || kind == KIND_NON_BLOCKING) {
        SUCCEEDS(CUDA(cudaStreamDestroy)(stream));
    }
}

typedef struct order_row {
    stream_kind_t producer;
    stream_kind_t consumer;
    bool          itself;       /* one stream for both */
    bool          other_thread; /* the consumer works on another thread */
    bool          ordered;
} order_row_t;

typedef struct consumption {
    memory_t     memory;
    cudaStream_t stream;
    cudaError_t  error;
} consumption_t;

static void *consume(void *argument)
{
    consumption_t *consumption = argument;
    CUDA(cudaSetDevice)(0);
    consumption->error = copy_out(&consumption->memory, consumption->stream);
    if (consumption->error == cudaSuccess) {
        consumption->error = CUDA(cudaStreamSynchronize)(consumption->stream);
    }
    return NULL;
}

/* A late write on the producer's stream, a copy on the consumer's: ordered means that the copy saw the write. */
static void check_order(const void *argument)
{
    const order_row_t *row = argument;
    cudaStream_t       producer = open_kind(row->producer);
    cudaStream_t       consumer = row->itself ? producer : open_kind(row->consumer);
    consumption_t      consumption = {.memory = new_memory(), .stream = consumer};
    SUCCEEDS(kernel_write_late(producer, consumption.memory.device, 7));
    if (row->other_thread) {
        on_other_thread(consume, &consumption);
    } else {
        consume(&consumption);
    }
    SUCCEEDS(consumption.error);
    bool seen = *consumption.memory.pinned == 7;
    TAP_CHECK(seen == row->ordered, "the copy %s the write", seen ? "saw" : "did not see");
    SUCCEEDS(CUDA(cudaDeviceSynchronize)());
    free_memory(consumption.memory);
    close_kind(row->producer, producer);
    if (!row->itself) {
        close_kind(row->consumer, consumer);
    }
}

static void run_order(order_row_t row)
{
    char name[120];
    snprintf(name, sizeof(name), "order: %s then %s%s%s: %s", kind_names[row.producer],
             row.itself || row.producer != row.consumer ? "" : "another ",
             row.itself ? "itself" : kind_names[row.consumer], row.other_thread ? " on another thread" : "",
             row.ordered ? "ordered" : "not ordered");
    run_named(name, 1, check_order, &row);
}

static void test_implicit_order(void)
{
    static const bool ordered[KINDS][KINDS] = {
        /* clang-format off */
        /* consumer:            0      legacy per-thread blocking non-blocking */
        [KIND_NULL] =         {true,  true,  true,      true,    false},
        [KIND_LEGACY] =       {true,  true,  true,      true,    false},
        [KIND_PER_THREAD] =   {true,  true,  true,      false,   false},
        [KIND_BLOCKING] =     {true,  true,  false,     false,   false},
        [KIND_NON_BLOCKING] = {false, false, false,     false,   false},
        /* clang-format on */
    };
    for (int producer = 0; producer < KINDS; producer++) {
        for (int consumer = 0; consumer < KINDS; consumer++) {
            order_row_t row = {.producer = (stream_kind_t)producer,
                               .consumer = (stream_kind_t)consumer,
                               .itself = producer == consumer && producer < KIND_BLOCKING,
                               .ordered = ordered[producer][consumer]};
            run_order(row);
        }
    }
    run_order((order_row_t){KIND_BLOCKING, KIND_BLOCKING, .itself = true, .ordered = true});
    run_order((order_row_t){KIND_NON_BLOCKING, KIND_NON_BLOCKING, .itself = true, .ordered = true});
    run_order((order_row_t){KIND_PER_THREAD, KIND_PER_THREAD, .itself = true, .other_thread = true, .ordered = false});
}

static void special_handles_have_ids(const void *unused)
{
    (void)unused;
    unsigned long long ids[3] = {0, 0, 0};
    SUCCEEDS(CUDA(cudaStreamGetId)(NULL, &ids[0]));
    SUCCEEDS(CUDA(cudaStreamGetId)(LEGACY, &ids[1]));
    SUCCEEDS(CUDA(cudaStreamGetId)(PER_THREAD, &ids[2]));
    TAP_CHECK(ids[0] == ids[1], "0 has the id %llu, 1 has %llu", ids[0], ids[1]);
}

#if CUDART_VERSION >= 12080
static void special_handles_have_a_device(const void *unused)
{
    (void)unused;
    for (uintptr_t handle = 0; handle <= 2; handle++) {
        int device = -1;
        SUCCEEDS(CUDA(cudaStreamGetDevice)((cudaStream_t)handle, &device));
        TAP_CHECK(device == 0, "handle %d: device %d", (int)handle, device);
    }
}

static void special_handles_follow_the_device(const void *unused)
{
    (void)unused;
    SUCCEEDS(CUDA(cudaSetDevice)(1));
    for (uintptr_t handle = 0; handle <= 2; handle++) {
        int device = -1;
        SUCCEEDS(CUDA(cudaStreamGetDevice)((cudaStream_t)handle, &device));
        TAP_CHECK(device == 1, "handle %d: device %d", (int)handle, device);
    }
}
#endif

static void test_special_handles(void)
{
    run("cudaStreamGetId works on 0, 1 and 2; 0 and 1 have one id", special_handles_have_ids);
#if CUDART_VERSION >= 12080
    run("cudaStreamGetDevice works on 0, 1 and 2", special_handles_have_a_device);
    run_on_two("the handles 0, 1 and 2 are streams of the current device", special_handles_follow_the_device);
#endif
}

/* ---- pointer attributes ------------------------------------------------------------------------------------------ */

static struct cudaPointerAttributes attributes_of(const void *pointer)
{
    struct cudaPointerAttributes attributes;
    memset(&attributes, 0xFF, sizeof(attributes));
    SUCCEEDS(CUDA(cudaPointerGetAttributes)(&attributes, pointer));
    return attributes;
}

static void check_unregistered(const void *pointer)
{
    struct cudaPointerAttributes attributes = attributes_of(pointer);
    TAP_CHECK(attributes.type == cudaMemoryTypeUnregistered, "type %d", (int)attributes.type);
    TAP_CHECK(attributes.device == -2, "device %d", attributes.device);
    SUCCEEDS(CUDA(cudaPeekAtLastError)());
}

static void check_memory_type(const void *pointer, enum cudaMemoryType type, int device)
{
    struct cudaPointerAttributes attributes = attributes_of(pointer);
    TAP_CHECK(attributes.type == type, "type %d, expected %d", (int)attributes.type, (int)type);
    TAP_CHECK(attributes.device == device, "device %d, expected %d", attributes.device, device);
}

static void null_is_unregistered(const void *unused)
{
    (void)unused;
    check_unregistered(NULL);
}

static void host_memory_is_unregistered(const void *unused)
{
    (void)unused;
    void *memory = calloc(1, 64);
    check_unregistered(memory);
    free(memory);
}

static void wild_address_is_unregistered(const void *unused)
{
    (void)unused;
    check_unregistered((const void *)(uintptr_t)0x123456789000);
}

static void device_memory_has_type_2(const void *unused)
{
    (void)unused;
    void *memory = NULL;
    SUCCEEDS(CUDA(cudaMalloc)(&memory, 1024));
    check_memory_type(memory, cudaMemoryTypeDevice, 0);
    check_memory_type((char *)memory + 513, cudaMemoryTypeDevice, 0);
    TAP_CHECK(attributes_of((char *)memory + 513).devicePointer == (char *)memory + 513, "another device pointer");
    SUCCEEDS(CUDA(cudaFree)(memory));
}

static void pool_memory_has_type_2(const void *unused)
{
    (void)unused;
    void *memory = NULL;
    SUCCEEDS(CUDA(cudaMallocAsync)(&memory, 1024, LEGACY));
    check_memory_type(memory, cudaMemoryTypeDevice, 0);
    check_memory_type((char *)memory + 1023, cudaMemoryTypeDevice, 0);
    SUCCEEDS(CUDA(cudaFreeAsync)(memory, LEGACY));
}

static void pinned_memory_has_type_1(const void *unused)
{
    (void)unused;
    void *memory = NULL;
    SUCCEEDS(CUDA(cudaMallocHost)(&memory, 64));
    check_memory_type(memory, cudaMemoryTypeHost, 0);
    struct cudaPointerAttributes attributes = attributes_of(memory);
    TAP_CHECK(attributes.devicePointer != NULL, "no device pointer");
    TAP_CHECK(attributes.hostPointer == memory, "host pointer %p", attributes.hostPointer);
    SUCCEEDS(CUDA(cudaFreeHost)(memory));
}

static void managed_memory_has_type_3(const void *unused)
{
    (void)unused;
    void *memory = NULL;
    SUCCEEDS(CUDA(cudaMallocManaged)(&memory, 64, cudaMemAttachGlobal));
    TAP_CHECK(attributes_of(memory).type == cudaMemoryTypeManaged, "type %d", (int)attributes_of(memory).type);
    SUCCEEDS(CUDA(cudaFree)(memory));
}

static void device_is_that_of_the_pointer(const void *unused)
{
    (void)unused;
    void *memory = NULL;
    SUCCEEDS(CUDA(cudaSetDevice)(1));
    SUCCEEDS(CUDA(cudaMalloc)(&memory, 64));
    SUCCEEDS(CUDA(cudaSetDevice)(0));
    check_memory_type(memory, cudaMemoryTypeDevice, 1);
    SUCCEEDS(CUDA(cudaFree)(memory));
}

static void pool_memory_has_the_device_of_its_stream(const void *unused)
{
    (void)unused;
    SUCCEEDS(CUDA(cudaSetDevice)(1));
    cudaStream_t stream = new_stream(cudaStreamNonBlocking);
    SUCCEEDS(CUDA(cudaSetDevice)(0));
    void *memory = NULL;
    SUCCEEDS(CUDA(cudaMallocAsync)(&memory, 64, stream));
    check_memory_type(memory, cudaMemoryTypeDevice, 1);
    SUCCEEDS(CUDA(cudaFreeAsync)(memory, stream));
    SUCCEEDS(CUDA(cudaStreamDestroy)(stream));
}

static void test_pointer_attributes(void)
{
    run("attributes: NULL is unregistered", null_is_unregistered);
    run("attributes: malloc'ed memory is unregistered", host_memory_is_unregistered);
    run("attributes: a wild address is unregistered", wild_address_is_unregistered);
    run("attributes: cudaMalloc memory, inside too", device_memory_has_type_2);
    run("attributes: pool memory, inside too", pool_memory_has_type_2);
    run("attributes: pinned memory has both addresses", pinned_memory_has_type_1);
    run("attributes: managed memory", managed_memory_has_type_3);
    run_on_two("attributes: the device is the pointer's, not the current one", device_is_that_of_the_pointer);
    run_on_two("attributes: pool memory has its stream's device", pool_memory_has_the_device_of_its_stream);
}

/* ---- calls beside a capture -------------------------------------------------------------------------------------- */

/* What a call beside a capture can be about; everything was made, and is idle, before the capture begins. */
typedef struct scene {
    cudaStream_t capturing;
    cudaStream_t other;
    cudaStream_t third;
    cudaEvent_t  outside; /* recorded on the other stream before the capture, and done */
    cudaEvent_t  spare;
    void        *memory;
    void        *pool_memory;
    void        *pinned;
    void        *allocated; /* by the call */
} scene_t;

typedef cudaError_t capture_call_t(scene_t *scene);

static scene_t open_scene(unsigned int flags)
{
    scene_t scene = {.capturing = new_stream(flags), .other = new_stream(cudaStreamNonBlocking)};
    scene.third = new_stream(cudaStreamNonBlocking);
    scene.outside = new_event();
    scene.spare = new_event();
    SUCCEEDS(CUDA(cudaEventRecord)(scene.outside, scene.other));
    SUCCEEDS(CUDA(cudaMalloc)(&scene.memory, 1024));
    SUCCEEDS(CUDA(cudaMallocAsync)(&scene.pool_memory, 1024, scene.other));
    SUCCEEDS(CUDA(cudaMallocHost)(&scene.pinned, 1024));
    SUCCEEDS(CUDA(cudaDeviceSynchronize)());
    return scene;
}

static void close_scene(scene_t *scene)
{
    SUCCEEDS(CUDA(cudaDeviceSynchronize)());
    SUCCEEDS(CUDA(cudaFree)(scene->memory));
    SUCCEEDS(CUDA(cudaFree)(scene->pool_memory));
    SUCCEEDS(CUDA(cudaFree)(scene->allocated));
    SUCCEEDS(CUDA(cudaFreeHost)(scene->pinned));
    SUCCEEDS(CUDA(cudaEventDestroy)(scene->outside));
    SUCCEEDS(CUDA(cudaEventDestroy)(scene->spare));
    SUCCEEDS(CUDA(cudaStreamDestroy)(scene->capturing));
    SUCCEEDS(CUDA(cudaStreamDestroy)(scene->other));
    SUCCEEDS(CUDA(cudaStreamDestroy)(scene->third));
}

/* Ends the capture, whatever has become of it. */
static cudaError_t abandon_capture(cudaStream_t stream)
{
    cudaGraph_t graph = NULL;
    cudaError_t error = CUDA(cudaStreamEndCapture)(stream, &graph);
    if (graph != NULL) {
        CUDA(cudaGraphDestroy)(graph);
    }
    return error;
}

static cudaError_t create_and_destroy_event(scene_t *scene)
{
    (void)scene;
    cudaEvent_t event;
    cudaError_t error = CUDA(cudaEventCreateWithFlags)(&event, cudaEventDisableTiming);
    return error == cudaSuccess ? CUDA(cudaEventDestroy)(event) : error;
}

#if CUDART_VERSION >= 12080
static cudaError_t get_device_of_capturing(scene_t *scene)
{
    int device;
    return CUDA(cudaStreamGetDevice)(scene->capturing, &device);
}
#endif

static cudaError_t get_id_of_capturing(scene_t *scene)
{
    unsigned long long id;
    return CUDA(cudaStreamGetId)(scene->capturing, &id);
}

static cudaError_t get_flags_of_capturing(scene_t *scene)
{
    unsigned int flags;
    return CUDA(cudaStreamGetFlags)(scene->capturing, &flags);
}

static cudaError_t get_attributes(scene_t *scene)
{
    struct cudaPointerAttributes attributes;
    return CUDA(cudaPointerGetAttributes)(&attributes, scene->memory);
}

static cudaError_t get_device(scene_t *scene)
{
    (void)scene;
    int device;
    return CUDA(cudaGetDevice)(&device);
}

static cudaError_t set_device(scene_t *scene)
{
    (void)scene;
    return CUDA(cudaSetDevice)(0);
}

static cudaError_t is_legacy_capturing(scene_t *scene)
{
    (void)scene;
    enum cudaStreamCaptureStatus status;
    return CUDA(cudaStreamIsCapturing)(LEGACY, &status);
}

static cudaError_t record_on_other(scene_t *scene)
{
    return CUDA(cudaEventRecord)(scene->spare, scene->other);
}

static cudaError_t record_on_legacy(scene_t *scene)
{
    return CUDA(cudaEventRecord)(scene->spare, LEGACY);
}

static cudaError_t synchronize_capturing(scene_t *scene)
{
    return CUDA(cudaStreamSynchronize)(scene->capturing);
}

static cudaError_t query_capturing(scene_t *scene)
{
    return CUDA(cudaStreamQuery)(scene->capturing);
}

static cudaError_t synchronize_other(scene_t *scene)
{
    return CUDA(cudaStreamSynchronize)(scene->other);
}

static cudaError_t query_other(scene_t *scene)
{
    return CUDA(cudaStreamQuery)(scene->other);
}

static cudaError_t wait_for_outside(scene_t *scene)
{
    return CUDA(cudaStreamWaitEvent)(scene->capturing, scene->outside, cudaEventWaitDefault);
}

static cudaError_t wait_externally(scene_t *scene)
{
    return CUDA(cudaStreamWaitEvent)(scene->capturing, scene->outside, cudaEventWaitExternal);
}

static cudaError_t legacy_waits_for_captured(scene_t *scene)
{
    cudaError_t error = CUDA(cudaEventRecord)(scene->spare, scene->capturing);
    return error == cudaSuccess ? CUDA(cudaStreamWaitEvent)(LEGACY, scene->spare, cudaEventWaitDefault) : error;
}

static cudaError_t fork_work_and_join(scene_t *scene)
{
    cudaError_t error = CUDA(cudaEventRecord)(scene->spare, scene->capturing);
    if (error == cudaSuccess) {
        error = CUDA(cudaStreamWaitEvent)(scene->other, scene->spare, cudaEventWaitDefault);
    }
    if (error == cudaSuccess) {
        error = CUDA(cudaMemsetAsync)(scene->memory, 0, 16, scene->other);
    }
    if (error == cudaSuccess) {
        error = CUDA(cudaEventRecord)(scene->spare, scene->other);
    }
    return error == cudaSuccess ? CUDA(cudaStreamWaitEvent)(scene->capturing, scene->spare, cudaEventWaitDefault)
                                : error;
}

static cudaError_t allocate(scene_t *scene)
{
    return CUDA(cudaMalloc)(&scene->allocated, 64);
}

static cudaError_t allocate_on_other(scene_t *scene)
{
    return CUDA(cudaMallocAsync)(&scene->allocated, 64, scene->other);
}

/* A call that frees something has nothing left to free afterwards. */
static cudaError_t if_freed(cudaError_t error, void **pointer)
{
    if (error == cudaSuccess) {
        *pointer = NULL;
    }
    return error;
}

static cudaError_t free_memory_of_malloc(scene_t *scene)
{
    return if_freed(CUDA(cudaFree)(scene->memory), &scene->memory);
}

static cudaError_t free_memory_of_pool(scene_t *scene)
{
    return if_freed(CUDA(cudaFree)(scene->pool_memory), &scene->pool_memory);
}

static cudaError_t free_on_other(scene_t *scene)
{
    return if_freed(CUDA(cudaFreeAsync)(scene->pool_memory, scene->other), &scene->pool_memory);
}

static cudaError_t free_on_capturing(scene_t *scene)
{
    return if_freed(CUDA(cudaFreeAsync)(scene->pool_memory, scene->capturing), &scene->pool_memory);
}

static cudaError_t free_pinned(scene_t *scene)
{
    return if_freed(CUDA(cudaFreeHost)(scene->pinned), &scene->pinned);
}

static cudaError_t allocate_and_free_on_capturing(scene_t *scene)
{
    void       *memory;
    cudaError_t error = CUDA(cudaMallocAsync)(&memory, 64, scene->capturing);
    return error == cudaSuccess ? CUDA(cudaFreeAsync)(memory, scene->capturing) : error;
}

static cudaError_t query_outside_event(scene_t *scene)
{
    return CUDA(cudaEventQuery)(scene->outside);
}

static cudaError_t synchronize_outside_event(scene_t *scene)
{
    return CUDA(cudaEventSynchronize)(scene->outside);
}

static cudaError_t synchronize_device(scene_t *scene)
{
    (void)scene;
    return CUDA(cudaDeviceSynchronize)();
}

/* What is noted, and compared between machines, without being right or wrong. */
static void tell(const char *question, cudaError_t answer)
{
    printf("# answer: %s: %d (%s)\n", question, (int)answer, CUDA(cudaGetErrorName)(answer));
}

typedef struct expectation {
    cudaError_t code;
    bool        intact;
} expectation_t;

/* Some error: drivers differ in which (901 or 1), and in whether the capture survives it. */
#define REFUSED ((cudaError_t) - 1)

static const expectation_t fine = {cudaSuccess, true};
static const expectation_t unsupported = {cudaErrorStreamCaptureUnsupported, false};

/* A call, made by a thread, maybe bracketed by the relaxed mode. */
typedef struct guest {
    scene_t         scene;
    capture_call_t *call;
    bool            bracketed;
    cudaError_t     answer;
    cudaError_t     bracket_answer;
} guest_t;

static void *visit(void *argument)
{
    guest_t                   *guest = argument;
    enum cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
    if (guest->bracketed) {
        guest->bracket_answer = CUDA(cudaThreadExchangeStreamCaptureMode)(&mode);
    }
    guest->answer = guest->call(&guest->scene);
    if (guest->bracketed && guest->bracket_answer == cudaSuccess) {
        guest->bracket_answer = CUDA(cudaThreadExchangeStreamCaptureMode)(&mode);
    }
    return NULL;
}

typedef struct capture_row {
    capture_call_t            *call;
    unsigned int               flags; /* of the stream that captures */
    enum cudaStreamCaptureMode mode;
    bool                       bracketed;
    bool                       other_thread;
    expectation_t              expected;
} capture_row_t;

static void check_capture(const void *argument)
{
    const capture_row_t *row = argument;
    guest_t              guest = {.scene = open_scene(row->flags), .call = row->call, .bracketed = row->bracketed};
    SUCCEEDS(CUDA(cudaStreamBeginCapture)(guest.scene.capturing, row->mode));
    if (row->other_thread) {
        on_other_thread(visit, &guest);
    } else {
        visit(&guest);
    }
    SUCCEEDS(guest.bracket_answer);
    enum cudaStreamCaptureStatus status = capture_status(guest.scene.capturing);
    if (row->expected.code == REFUSED) {
        TAP_CHECK(guest.answer != cudaSuccess, "it succeeds");
        printf("# answer: it is %d, status %d\n", (int)guest.answer, (int)status);
        (void)abandon_capture(guest.scene.capturing);
        close_scene(&guest.scene);
        return;
    }
    ANSWERS(row->expected.code, guest.answer);
    TAP_CHECK(status == (row->expected.intact ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusInvalidated),
              "capture status %d", (int)status);
    ANSWERS(row->expected.intact ? cudaSuccess : cudaErrorStreamCaptureInvalidated,
            abandon_capture(guest.scene.capturing));
    TAP_CHECK(capture_status(guest.scene.capturing) == cudaStreamCaptureStatusNone, "still capturing");
    close_scene(&guest.scene);
}

static const char *const mode_names[] = {"global", "thread-local", "relaxed"};

static void run_capture(const char *what, const capture_row_t *row)
{
    char name[200], code[12];
    snprintf(code, sizeof(code), "%d", (int)row->expected.code);
    snprintf(name, sizeof(name), "%s%s capture%s%s: %s: %s, %s", mode_names[row->mode],
             row->flags == cudaStreamNonBlocking ? "" : " blocking", row->other_thread ? ", other thread" : "",
             row->bracketed ? ", bracketed" : "", what, row->expected.code == REFUSED ? "an error" : code,
             row->expected.code == REFUSED ? "whatever becomes of it"
             : row->expected.intact        ? "intact"
                                           : "invalidated");
    run_named(name, 1, check_capture, row);
}

/* The table of calls beside a capture on a non-blocking stream: [0] for global and thread-local mode, [1] for
 * relaxed. */
static void test_calls_beside_a_capture(void)
{
    static const expectation_t isolated = {cudaErrorStreamCaptureIsolation, false};
    const struct {
        const char     *what;
        capture_call_t *call;
        expectation_t   expected[2];
    } rows[] = {
        {"create and destroy an event", create_and_destroy_event, {fine, fine}},
        {"pointer attributes", get_attributes, {fine, fine}},
        {"cudaGetDevice", get_device, {fine, fine}},
        {"cudaSetDevice", set_device, {fine, fine}},
        {"is legacy capturing", is_legacy_capturing, {fine, fine}},
        {"record on another stream", record_on_other, {fine, fine}},
        {"record on legacy", record_on_legacy, {fine, fine}},
        {"synchronise the capturing stream", synchronize_capturing, {unsupported, unsupported}},
        {"query the capturing stream", query_capturing, {unsupported, unsupported}},
#if CUDART_VERSION >= 12080
        {"ask the capturing stream for its device", get_device_of_capturing, {unsupported, unsupported}},
#endif
        {"ask the capturing stream for its id", get_id_of_capturing, {unsupported, unsupported}},
        {"ask the capturing stream for its flags", get_flags_of_capturing, {unsupported, unsupported}},
        {"synchronise an idle stream", synchronize_other, {unsupported, fine}},
        {"query an idle stream", query_other, {unsupported, fine}},
        {"wait for an event from outside", wait_for_outside, {isolated, isolated}},
        {"the same externally", wait_externally, {fine, fine}},
        {"fork, work, join", fork_work_and_join, {fine, fine}},
        {"cudaMalloc", allocate, {unsupported, fine}},
        {"cudaFree", free_memory_of_malloc, {unsupported, fine}},
        {"pool allocation on another stream", allocate_on_other, {unsupported, fine}},
        {"pool allocation and free on the stream", allocate_and_free_on_capturing, {fine, fine}},
        {"free outside pool memory on the stream",
         free_on_capturing,
         {{REFUSED, false}, {cudaErrorInvalidValue, true}}},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        for (int mode = cudaStreamCaptureModeGlobal; mode <= cudaStreamCaptureModeRelaxed; mode++) {
            capture_row_t row = {.call = rows[i].call,
                                 .flags = cudaStreamNonBlocking,
                                 .mode = (enum cudaStreamCaptureMode)mode,
                                 .expected = rows[i].expected[mode == cudaStreamCaptureModeRelaxed]};
            run_capture(rows[i].what, &row);
        }
    }
}

static void test_legacy_beside_a_capture(void)
{
    capture_row_t row = {.call = legacy_waits_for_captured,
                         .flags = cudaStreamNonBlocking,
                         .mode = cudaStreamCaptureModeGlobal,
                         .expected = {cudaErrorStreamCaptureImplicit, false}};
    run_capture("legacy waits for the capturing stream", &row);
    row.flags = cudaStreamDefault;
    run_capture("legacy waits for the capturing stream", &row);
    row.mode = cudaStreamCaptureModeRelaxed;
    row.call = record_on_legacy;
    run_capture("record on legacy", &row);
    row.call = is_legacy_capturing;
    row.expected.intact = true;
    run_capture("is legacy capturing", &row);
}

/* Relaxed mode for a moment: the same thread or another, in a global or a thread-local capture. */
static void test_brackets(void)
{
    const struct {
        const char     *what;
        capture_call_t *call;
    } rows[] = {
        {"cudaFree", free_memory_of_malloc},
        {"cudaFree of pool memory", free_memory_of_pool},
        {"cudaFreeAsync on another stream", free_on_other},
        {"cudaMallocAsync on another stream", allocate_on_other},
        {"cudaFreeHost", free_pinned},
        {"cudaStreamSynchronize of another stream", synchronize_other},
        {"cudaEventQuery of an outside event", query_outside_event},
        {"cudaEventSynchronize of an outside event", synchronize_outside_event},
        {"cudaDeviceSynchronize", synchronize_device},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        for (unsigned int variant = 0; variant < 8; variant++) {
            capture_row_t row = {.call = rows[i].call,
                                 .flags = cudaStreamNonBlocking,
                                 .mode = (variant & 1) != 0 ? cudaStreamCaptureModeThreadLocal
                                                            : cudaStreamCaptureModeGlobal,
                                 .other_thread = (variant & 2) != 0,
                                 .bracketed = (variant & 4) != 0};
            bool          spared = row.bracketed || (row.other_thread && row.mode == cudaStreamCaptureModeThreadLocal);
            row.expected = spared && rows[i].call != synchronize_device ? fine : unsupported;
            run_capture(rows[i].what, &row);
        }
    }
}

/* What the bracket makes of a free that cannot be part of the capture. */
static void test_bracketed_free_on_the_capturing_stream(void)
{
    for (int mode = cudaStreamCaptureModeGlobal; mode <= cudaStreamCaptureModeRelaxed; mode++) {
        for (int other_thread = 0; other_thread < 2; other_thread++) {
            capture_row_t row = {.call = free_on_capturing,
                                 .flags = cudaStreamNonBlocking,
                                 .mode = (enum cudaStreamCaptureMode)mode,
                                 .other_thread = other_thread != 0,
                                 .bracketed = true,
                                 .expected = {REFUSED, false}};
            run_capture("freeing outside pool memory on the capturing stream", &row);
        }
    }
}

/* ---- captures and graphs ----------------------------------------------------------------------------------------- */

static void capture_cannot_begin_on_legacy(const void *unused)
{
    (void)unused;
    ANSWERS(cudaErrorStreamCaptureUnsupported, CUDA(cudaStreamBeginCapture)(LEGACY, cudaStreamCaptureModeRelaxed));
    ANSWERS(cudaErrorStreamCaptureUnsupported, CUDA(cudaStreamBeginCapture)(NULL, cudaStreamCaptureModeRelaxed));
}

static void capture_can_begin_on_per_thread(const void *unused)
{
    (void)unused;
    SUCCEEDS(CUDA(cudaStreamBeginCapture)(PER_THREAD, cudaStreamCaptureModeRelaxed));
    TAP_CHECK(capture_status(PER_THREAD) == cudaStreamCaptureStatusActive, "not capturing");
    SUCCEEDS(abandon_capture(PER_THREAD));
}

static void captured_event_is_never_done(const void *unused)
{
    (void)unused;
    cudaStream_t stream = new_stream(cudaStreamNonBlocking);
    cudaEvent_t  event = new_event();
    SUCCEEDS(CUDA(cudaStreamBeginCapture)(stream, cudaStreamCaptureModeRelaxed));
    SUCCEEDS(CUDA(cudaEventRecord)(event, stream));
    SUCCEEDS(abandon_capture(stream));
    ANSWERS(cudaErrorInvalidValue, CUDA(cudaEventQuery)(event));
    SUCCEEDS(CUDA(cudaEventDestroy)(event));
    SUCCEEDS(CUDA(cudaStreamDestroy)(stream));
}

static void graph_memory_is_unregistered_before_a_launch(const void *unused)
{
    (void)unused;
    cudaStream_t stream = new_stream(cudaStreamNonBlocking);
    void        *memory = NULL;
    SUCCEEDS(CUDA(cudaStreamBeginCapture)(stream, cudaStreamCaptureModeRelaxed));
    SUCCEEDS(CUDA(cudaMallocAsync)(&memory, 64, stream));
    TAP_CHECK(memory != NULL, "no address");
    TAP_CHECK(attributes_of(memory).type == cudaMemoryTypeUnregistered, "type %d", (int)attributes_of(memory).type);
    SUCCEEDS(CUDA(cudaFreeAsync)(memory, stream));
    SUCCEEDS(abandon_capture(stream));
    SUCCEEDS(CUDA(cudaStreamDestroy)(stream));
}

static void captured_work_runs_at_each_launch(const void *unused)
{
    (void)unused;
    cudaStream_t stream = new_stream(cudaStreamNonBlocking);
    memory_t     memory = new_memory();
    SUCCEEDS(CUDA(cudaStreamBeginCapture)(stream, cudaStreamCaptureModeGlobal));
    SUCCEEDS(kernel_add(stream, memory.device, 5));
    SUCCEEDS(copy_out(&memory, stream));
    cudaGraphExec_t executable = instantiate(end_capture(stream));
    SUCCEEDS(CUDA(cudaStreamSynchronize)(stream));
    TAP_CHECK(*memory.pinned == 0, "%d before a launch", *memory.pinned);
    for (int launch = 1; launch <= 3; launch++) {
        SUCCEEDS(CUDA(cudaGraphLaunch)(executable, stream));
        SUCCEEDS(CUDA(cudaStreamSynchronize)(stream));
        TAP_CHECK(*memory.pinned == 5 * launch, "%d after launch %d", *memory.pinned, launch);
    }
    SUCCEEDS(CUDA(cudaGraphExecDestroy)(executable));
    free_memory(memory);
    SUCCEEDS(CUDA(cudaStreamDestroy)(stream));
}

/* The late write is captured on a forked stream; the copy is captured after the join, or on the origin beside it. */
static void check_fork(const void *argument)
{
    bool         joined = *(const bool *)argument;
    cudaStream_t origin = new_stream(cudaStreamNonBlocking);
    cudaStream_t fork = new_stream(cudaStreamNonBlocking);
    cudaEvent_t  event = new_event();
    memory_t     memory = new_memory();
    SUCCEEDS(CUDA(cudaStreamBeginCapture)(origin, cudaStreamCaptureModeGlobal));
    SUCCEEDS(CUDA(cudaEventRecord)(event, origin));
    SUCCEEDS(CUDA(cudaStreamWaitEvent)(fork, event, cudaEventWaitDefault));
    TAP_CHECK(capture_status(fork) == cudaStreamCaptureStatusActive, "the fork does not capture");
    SUCCEEDS(kernel_write_late(fork, memory.device, 9));
    SUCCEEDS(CUDA(cudaEventRecord)(event, fork));
    SUCCEEDS(joined ? CUDA(cudaStreamWaitEvent)(origin, event, cudaEventWaitDefault) : copy_out(&memory, origin));
    SUCCEEDS(joined ? copy_out(&memory, origin) : CUDA(cudaStreamWaitEvent)(origin, event, cudaEventWaitDefault));
    cudaGraphExec_t executable = instantiate(end_capture(origin));
    TAP_CHECK(capture_status(fork) == cudaStreamCaptureStatusNone, "the fork still captures");
    SUCCEEDS(CUDA(cudaGraphLaunch)(executable, origin));
    SUCCEEDS(CUDA(cudaStreamSynchronize)(origin));
    if (joined) {
        TAP_CHECK(*memory.pinned == 9, "the copy saw %d", *memory.pinned);
    }
    SUCCEEDS(CUDA(cudaMemcpy)(memory.pinned, memory.device, sizeof(int), cudaMemcpyDeviceToHost));
    TAP_CHECK(*memory.pinned == 9, "%d after the launch", *memory.pinned);
    SUCCEEDS(CUDA(cudaGraphExecDestroy)(executable));
    SUCCEEDS(CUDA(cudaEventDestroy)(event));
    free_memory(memory);
    SUCCEEDS(CUDA(cudaStreamDestroy)(origin));
    SUCCEEDS(CUDA(cudaStreamDestroy)(fork));
}

static void external_wait_happens_at_each_launch(const void *unused)
{
    (void)unused;
    cudaStream_t stream = new_stream(cudaStreamNonBlocking);
    cudaStream_t other = new_stream(cudaStreamNonBlocking);
    cudaEvent_t  event = new_event();
    memory_t     memory = new_memory();
    SUCCEEDS(CUDA(cudaEventRecord)(event, other));
    SUCCEEDS(CUDA(cudaStreamBeginCapture)(stream, cudaStreamCaptureModeRelaxed));
    SUCCEEDS(CUDA(cudaStreamWaitEvent)(stream, event, cudaEventWaitExternal));
    SUCCEEDS(copy_out(&memory, stream));
    cudaGraphExec_t executable = instantiate(end_capture(stream));
    for (int launch = 1; launch <= 2; launch++) {
        SUCCEEDS(kernel_write_late(other, memory.device, launch));
        SUCCEEDS(CUDA(cudaEventRecord)(event, other));
        SUCCEEDS(CUDA(cudaGraphLaunch)(executable, stream));
        SUCCEEDS(CUDA(cudaStreamSynchronize)(stream));
        TAP_CHECK(*memory.pinned == launch, "%d after launch %d", *memory.pinned, launch);
    }
    SUCCEEDS(CUDA(cudaGraphExecDestroy)(executable));
    SUCCEEDS(CUDA(cudaEventDestroy)(event));
    free_memory(memory);
    SUCCEEDS(CUDA(cudaStreamDestroy)(stream));
    SUCCEEDS(CUDA(cudaStreamDestroy)(other));
}

static void external_record_happens_at_each_launch(const void *unused)
{
    (void)unused;
    cudaStream_t stream = new_stream(cudaStreamNonBlocking);
    cudaStream_t other = new_stream(cudaStreamNonBlocking);
    cudaEvent_t  event = new_event();
    memory_t     memory = new_memory();
    SUCCEEDS(CUDA(cudaStreamBeginCapture)(stream, cudaStreamCaptureModeGlobal));
    SUCCEEDS(kernel_write_late(stream, memory.device, 3));
    SUCCEEDS(CUDA(cudaEventRecordWithFlags)(event, stream, cudaEventRecordExternal));
    cudaGraphExec_t executable = instantiate(end_capture(stream));
    SUCCEEDS(CUDA(cudaGraphLaunch)(executable, stream));
    SUCCEEDS(CUDA(cudaStreamWaitEvent)(other, event, cudaEventWaitDefault));
    SUCCEEDS(copy_out(&memory, other));
    SUCCEEDS(CUDA(cudaStreamSynchronize)(other));
    TAP_CHECK(*memory.pinned == 3, "the copy saw %d", *memory.pinned);
    SUCCEEDS(CUDA(cudaStreamSynchronize)(stream));
    SUCCEEDS(CUDA(cudaGraphExecDestroy)(executable));
    SUCCEEDS(CUDA(cudaEventDestroy)(event));
    free_memory(memory);
    SUCCEEDS(CUDA(cudaStreamDestroy)(stream));
    SUCCEEDS(CUDA(cudaStreamDestroy)(other));
}

static void graph_memory_is_allocated_by_a_launch(const void *unused)
{
    (void)unused;
    cudaStream_t stream = new_stream(cudaStreamNonBlocking);
    memory_t     memory = new_memory();
    void        *inner = NULL;
    SUCCEEDS(CUDA(cudaStreamBeginCapture)(stream, cudaStreamCaptureModeGlobal));
    SUCCEEDS(CUDA(cudaMallocAsync)(&inner, sizeof(int), stream));
    SUCCEEDS(CUDA(cudaMemsetAsync)(inner, 0, sizeof(int), stream));
    SUCCEEDS(kernel_add(stream, inner, 11));
    SUCCEEDS(CUDA(cudaMemcpyAsync)(memory.pinned, inner, sizeof(int), cudaMemcpyDeviceToHost, stream));
    SUCCEEDS(CUDA(cudaFreeAsync)(inner, stream));
    cudaGraphExec_t executable = instantiate(end_capture(stream));
    for (int launch = 1; launch <= 2; launch++) {
        *memory.pinned = 0;
        SUCCEEDS(CUDA(cudaGraphLaunch)(executable, stream));
        SUCCEEDS(CUDA(cudaStreamSynchronize)(stream));
        TAP_CHECK(*memory.pinned == 11, "%d after launch %d", *memory.pinned, launch);
    }
    SUCCEEDS(CUDA(cudaGraphExecDestroy)(executable));
    free_memory(memory);
    SUCCEEDS(CUDA(cudaStreamDestroy)(stream));
}

static void launches_of_one_graph_follow_each_other(const void *unused)
{
    (void)unused;
    cudaStream_t first = new_stream(cudaStreamNonBlocking);
    cudaStream_t second = new_stream(cudaStreamNonBlocking);
    memory_t     memory = new_memory();
    SUCCEEDS(CUDA(cudaStreamBeginCapture)(first, cudaStreamCaptureModeGlobal));
    SUCCEEDS(copy_out(&memory, first));
    SUCCEEDS(kernel_write_late(first, memory.device, 4));
    cudaGraphExec_t executable = instantiate(end_capture(first));
    SUCCEEDS(CUDA(cudaGraphLaunch)(executable, first));
    SUCCEEDS(CUDA(cudaGraphLaunch)(executable, second));
    SUCCEEDS(CUDA(cudaStreamSynchronize)(second));
    TAP_CHECK(*memory.pinned == 4, "the second launch saw %d", *memory.pinned);
    SUCCEEDS(CUDA(cudaStreamSynchronize)(first));
    SUCCEEDS(CUDA(cudaGraphExecDestroy)(executable));
    free_memory(memory);
    SUCCEEDS(CUDA(cudaStreamDestroy)(first));
    SUCCEEDS(CUDA(cudaStreamDestroy)(second));
}

static void unjoined_fork_is_refused(const void *unused)
{
    (void)unused;
    cudaStream_t origin = new_stream(cudaStreamNonBlocking);
    cudaStream_t fork = new_stream(cudaStreamNonBlocking);
    cudaEvent_t  event = new_event();
    memory_t     memory = new_memory();
    SUCCEEDS(CUDA(cudaStreamBeginCapture)(origin, cudaStreamCaptureModeGlobal));
    SUCCEEDS(CUDA(cudaEventRecord)(event, origin));
    SUCCEEDS(CUDA(cudaStreamWaitEvent)(fork, event, cudaEventWaitDefault));
    SUCCEEDS(kernel_add(fork, memory.device, 1));
    ANSWERS(cudaErrorStreamCaptureUnjoined, abandon_capture(origin));
    TAP_CHECK(capture_status(fork) == cudaStreamCaptureStatusNone, "the fork still captures");
    SUCCEEDS(CUDA(cudaEventDestroy)(event));
    free_memory(memory);
    SUCCEEDS(CUDA(cudaStreamDestroy)(origin));
    SUCCEEDS(CUDA(cudaStreamDestroy)(fork));
}

static void two_captures_do_not_merge(const void *unused)
{
    (void)unused;
    cudaStream_t first = new_stream(cudaStreamNonBlocking);
    cudaStream_t second = new_stream(cudaStreamNonBlocking);
    cudaEvent_t  event = new_event();
    SUCCEEDS(CUDA(cudaStreamBeginCapture)(first, cudaStreamCaptureModeRelaxed));
    SUCCEEDS(CUDA(cudaStreamBeginCapture)(second, cudaStreamCaptureModeRelaxed));
    SUCCEEDS(CUDA(cudaEventRecord)(event, first));
    ANSWERS(cudaErrorStreamCaptureMerge, CUDA(cudaStreamWaitEvent)(second, event, cudaEventWaitDefault));
    abandon_capture(first);
    abandon_capture(second);
    SUCCEEDS(CUDA(cudaEventDestroy)(event));
    SUCCEEDS(CUDA(cudaStreamDestroy)(first));
    SUCCEEDS(CUDA(cudaStreamDestroy)(second));
}

static void capture_ends_where_it_began(const void *unused)
{
    (void)unused;
    cudaStream_t origin = new_stream(cudaStreamNonBlocking);
    cudaStream_t fork = new_stream(cudaStreamNonBlocking);
    cudaEvent_t  event = new_event();
    SUCCEEDS(CUDA(cudaStreamBeginCapture)(origin, cudaStreamCaptureModeRelaxed));
    SUCCEEDS(CUDA(cudaEventRecord)(event, origin));
    SUCCEEDS(CUDA(cudaStreamWaitEvent)(fork, event, cudaEventWaitDefault));
    ANSWERS(cudaErrorStreamCaptureUnmatched, abandon_capture(fork));
    abandon_capture(origin);
    SUCCEEDS(CUDA(cudaEventDestroy)(event));
    SUCCEEDS(CUDA(cudaStreamDestroy)(origin));
    SUCCEEDS(CUDA(cudaStreamDestroy)(fork));
}

typedef struct end_request {
    cudaStream_t stream;
    cudaError_t  answer;
} end_request_t;

static void *end_on_this_thread(void *argument)
{
    end_request_t *request = argument;
    request->answer = abandon_capture(request->stream);
    return NULL;
}

static void check_end_on_other_thread(const void *argument)
{
    enum cudaStreamCaptureMode mode = *(const enum cudaStreamCaptureMode *)argument;
    end_request_t              request = {.stream = new_stream(cudaStreamNonBlocking)};
    SUCCEEDS(CUDA(cudaStreamBeginCapture)(request.stream, mode));
    on_other_thread(end_on_this_thread, &request);
    if (mode == cudaStreamCaptureModeRelaxed) {
        SUCCEEDS(request.answer);
    } else {
        ANSWERS(cudaErrorStreamCaptureWrongThread, request.answer);
        abandon_capture(request.stream);
    }
    SUCCEEDS(CUDA(cudaStreamDestroy)(request.stream));
}

static void capture_info_tells_the_capture(const void *unused)
{
    (void)unused;
    cudaStream_t       stream = new_stream(cudaStreamNonBlocking);
    unsigned long long ids[2] = {0, 0};
    for (int i = 0; i < 2; i++) {
        enum cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
        SUCCEEDS(CUDA(cudaStreamBeginCapture)(stream, cudaStreamCaptureModeRelaxed));
#if CUDART_VERSION >= 13000
        SUCCEEDS(CUDA(cudaStreamGetCaptureInfo)(stream, &status, &ids[i], NULL, NULL, NULL, NULL));
#else
        SUCCEEDS(CUDA(cudaStreamGetCaptureInfo)(stream, &status, &ids[i], NULL, NULL, NULL));
#endif
        TAP_CHECK(status == cudaStreamCaptureStatusActive, "status %d", (int)status);
        SUCCEEDS(abandon_capture(stream));
    }
    TAP_CHECK(ids[0] != ids[1], "both captures have the id %llu", ids[0]);
    SUCCEEDS(CUDA(cudaStreamDestroy)(stream));
}

static void exchange_swaps_the_mode(const void *unused)
{
    (void)unused;
    enum cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
    SUCCEEDS(CUDA(cudaThreadExchangeStreamCaptureMode)(&mode));
    TAP_CHECK(mode == cudaStreamCaptureModeGlobal, "mode %d at first", (int)mode);
    SUCCEEDS(CUDA(cudaThreadExchangeStreamCaptureMode)(&mode));
    TAP_CHECK(mode == cudaStreamCaptureModeRelaxed, "mode %d after the exchange", (int)mode);
}

static void test_captures_and_graphs(void)
{
    static const bool                       joined = true;
    static const bool                       beside = false;
    static const enum cudaStreamCaptureMode thread_local_mode = cudaStreamCaptureModeThreadLocal;
    static const enum cudaStreamCaptureMode relaxed = cudaStreamCaptureModeRelaxed;
    run("capture cannot begin on legacy: 900", capture_cannot_begin_on_legacy);
    run("capture can begin on per-thread", capture_can_begin_on_per_thread);
    run("an event recorded in a capture answers a later query with 1", captured_event_is_never_done);
    run("graph memory is unregistered before a launch", graph_memory_is_unregistered_before_a_launch);
    run("captured work runs at each launch, not before", captured_work_runs_at_each_launch);
    run_named("a fork and join order a launch", 1, check_fork, &joined);
    run_named("a fork works beside its origin", 1, check_fork, &beside);
    run("an external wait happens at each launch", external_wait_happens_at_each_launch);
    run("an external record happens at each launch", external_record_happens_at_each_launch);
    run("graph memory is allocated by a launch", graph_memory_is_allocated_by_a_launch);
    run("launches of one executable graph follow each other", launches_of_one_graph_follow_each_other);
    run("an unjoined fork is refused at the end: 904", unjoined_fork_is_refused);
    run("two captures do not merge: 902", two_captures_do_not_merge);
    run("a capture ends on the stream where it began: 903", capture_ends_where_it_began);
    run_named("a thread-local capture ends on its thread: 908", 1, check_end_on_other_thread, &thread_local_mode);
    run_named("a relaxed capture ends on any thread", 1, check_end_on_other_thread, &relaxed);
    run("cudaStreamGetCaptureInfo tells status and id", capture_info_tells_the_capture);
    run("cudaThreadExchangeStreamCaptureMode swaps the mode", exchange_swaps_the_mode);
}

/* ---- freeing while a kernel works -------------------------------------------------------------------------------- */

static void free_of_malloc_waits(const void *unused)
{
    (void)unused;
    cudaStream_t stream = new_stream(cudaStreamNonBlocking);
    memory_t     memory = new_memory();
    SUCCEEDS(kernel_write_late(stream, memory.device, 1));
    ANSWERS(cudaErrorNotReady, CUDA(cudaStreamQuery)(stream));
    SUCCEEDS(CUDA(cudaFree)(memory.device));
    SUCCEEDS(CUDA(cudaStreamQuery)(stream));
    SUCCEEDS(CUDA(cudaFreeHost)(memory.pinned));
    SUCCEEDS(CUDA(cudaStreamDestroy)(stream));
}

/* Memory of any size that no work uses: freeing it waits for streams that wait for nobody. */
static void check_free_waits(const void *is_pinned)
{
    const bool   pinned = *(const bool *)is_pinned;
    cudaStream_t stream = new_stream(cudaStreamNonBlocking);
    memory_t     memory = new_memory();
    void        *other = NULL;
    if (pinned) {
        SUCCEEDS(CUDA(cudaHostAlloc)(&other, 1, cudaHostAllocPortable));
    } else {
        SUCCEEDS(CUDA(cudaMallocManaged)(&other, 1, cudaMemAttachGlobal));
    }
    SUCCEEDS(kernel_write_late(stream, memory.device, 1));
    ANSWERS(cudaErrorNotReady, CUDA(cudaStreamQuery)(stream));
    SUCCEEDS(pinned ? CUDA(cudaFreeHost)(other) : CUDA(cudaFree)(other));
    SUCCEEDS(CUDA(cudaStreamQuery)(stream));
    SUCCEEDS(CUDA(cudaFree)(memory.device));
    SUCCEEDS(CUDA(cudaFreeHost)(memory.pinned));
    SUCCEEDS(CUDA(cudaStreamDestroy)(stream));
}

static void free_of_pool_memory_does_not_wait(const void *unused)
{
    (void)unused;
    cudaStream_t stream = new_stream(cudaStreamNonBlocking);
    void        *memory = NULL;
    void        *again = NULL;
    SUCCEEDS(CUDA(cudaMallocAsync)(&memory, 4096, stream));
    SUCCEEDS(CUDA(cudaStreamSynchronize)(stream));
    SUCCEEDS(kernel_write_late(stream, memory, 1));
    SUCCEEDS(CUDA(cudaFree)(memory));
    ANSWERS(cudaErrorNotReady, CUDA(cudaStreamQuery)(stream));
    SUCCEEDS(CUDA(cudaMallocAsync)(&again, 4096, stream));
    TAP_CHECK(again == memory, "%p was freed, %p came next", memory, again);
    SUCCEEDS(CUDA(cudaStreamSynchronize)(stream));
    SUCCEEDS(CUDA(cudaFree)(again));
    SUCCEEDS(CUDA(cudaStreamDestroy)(stream));
}

static void free_of_a_dummy_is_a_barrier(const void *unused)
{
    (void)unused;
    cudaStream_t               busy = new_stream(cudaStreamNonBlocking);
    cudaStream_t               capturing = new_stream(cudaStreamNonBlocking);
    memory_t                   memory = new_memory();
    void                      *dummy = NULL;
    enum cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
    SUCCEEDS(kernel_write_late(busy, memory.device, 1));
    SUCCEEDS(CUDA(cudaStreamBeginCapture)(capturing, cudaStreamCaptureModeGlobal));
    SUCCEEDS(CUDA(cudaThreadExchangeStreamCaptureMode)(&mode));
    SUCCEEDS(CUDA(cudaMalloc)(&dummy, 1));
    SUCCEEDS(CUDA(cudaFree)(dummy));
    SUCCEEDS(CUDA(cudaStreamQuery)(busy));
    SUCCEEDS(CUDA(cudaThreadExchangeStreamCaptureMode)(&mode));
    TAP_CHECK(capture_status(capturing) == cudaStreamCaptureStatusActive, "the capture is broken");
    SUCCEEDS(abandon_capture(capturing));
    free_memory(memory);
    SUCCEEDS(CUDA(cudaStreamDestroy)(busy));
    SUCCEEDS(CUDA(cudaStreamDestroy)(capturing));
}

static void check_legacy_event(const void *argument)
{
    bool         waits = *(const bool *)argument;
    cudaStream_t stream = new_stream(waits ? cudaStreamDefault : cudaStreamNonBlocking);
    cudaEvent_t  event = new_event();
    memory_t     memory = new_memory();
    SUCCEEDS(kernel_write_late(stream, memory.device, 1));
    SUCCEEDS(CUDA(cudaEventRecord)(event, LEGACY));
    SUCCEEDS(CUDA(cudaEventSynchronize)(event));
    ANSWERS(waits ? cudaSuccess : cudaErrorNotReady, CUDA(cudaStreamQuery)(stream));
    SUCCEEDS(CUDA(cudaStreamSynchronize)(stream));
    SUCCEEDS(CUDA(cudaEventDestroy)(event));
    free_memory(memory);
    SUCCEEDS(CUDA(cudaStreamDestroy)(stream));
}

static void free_in_order_does_not_wait_for_others(const void *unused)
{
    (void)unused;
    cudaStream_t busy = new_stream(cudaStreamNonBlocking);
    cudaStream_t own = new_stream(cudaStreamNonBlocking);
    void        *memory = NULL, *neighbour = NULL; /* which keeps the pool from unmapping what is written to */
    SUCCEEDS(CUDA(cudaMallocAsync)(&neighbour, 64, own));
    SUCCEEDS(CUDA(cudaMallocAsync)(&memory, 64, own));
    SUCCEEDS(CUDA(cudaStreamSynchronize)(own));
    SUCCEEDS(kernel_write_late(busy, memory, 1));
    SUCCEEDS(CUDA(cudaFreeAsync)(memory, own));
    SUCCEEDS(CUDA(cudaStreamSynchronize)(own));
    ANSWERS(cudaErrorNotReady, CUDA(cudaStreamQuery)(busy));
    SUCCEEDS(CUDA(cudaStreamSynchronize)(busy));
    SUCCEEDS(CUDA(cudaFreeAsync)(neighbour, own));
    SUCCEEDS(CUDA(cudaStreamSynchronize)(own));
    SUCCEEDS(CUDA(cudaStreamDestroy)(busy));
    SUCCEEDS(CUDA(cudaStreamDestroy)(own));
}

static void free_in_order_takes_malloc_memory(const void *unused)
{
    (void)unused;
    cudaStream_t stream = new_stream(cudaStreamNonBlocking);
    void        *memory = NULL;
    SUCCEEDS(CUDA(cudaMalloc)(&memory, 64));
    SUCCEEDS(CUDA(cudaFreeAsync)(memory, stream));
    SUCCEEDS(CUDA(cudaStreamSynchronize)(stream));
    SUCCEEDS(CUDA(cudaStreamDestroy)(stream));
}

static void free_takes_pool_memory(const void *unused)
{
    (void)unused;
    cudaStream_t stream = new_stream(cudaStreamNonBlocking);
    void        *memory = NULL;
    SUCCEEDS(CUDA(cudaMallocAsync)(&memory, 64, stream));
    SUCCEEDS(CUDA(cudaStreamSynchronize)(stream));
    SUCCEEDS(CUDA(cudaFree)(memory));
    SUCCEEDS(CUDA(cudaStreamDestroy)(stream));
}

static void free_of_nothing_is_fine(const void *unused)
{
    (void)unused;
    SUCCEEDS(CUDA(cudaFree)(NULL));
    SUCCEEDS(CUDA(cudaFreeHost)(NULL));
}

static void pool_counts_what_is_used(const void *unused)
{
    (void)unused;
    cudaMemPool_t pool = NULL;
    uint64_t      before = 0;
    uint64_t      during = 0;
    uint64_t      after = 0;
    uint64_t      reserved = 0;
    void         *memory = NULL;
    SUCCEEDS(CUDA(cudaDeviceGetDefaultMemPool)(&pool, 0));
    SUCCEEDS(CUDA(cudaMemPoolGetAttribute)(pool, cudaMemPoolAttrUsedMemCurrent, &before));
    SUCCEEDS(CUDA(cudaMallocAsync)(&memory, 4096, LEGACY));
    SUCCEEDS(CUDA(cudaStreamSynchronize)(LEGACY));
    SUCCEEDS(CUDA(cudaMemPoolGetAttribute)(pool, cudaMemPoolAttrUsedMemCurrent, &during));
    SUCCEEDS(CUDA(cudaMemPoolGetAttribute)(pool, cudaMemPoolAttrReservedMemCurrent, &reserved));
    SUCCEEDS(CUDA(cudaFreeAsync)(memory, LEGACY));
    SUCCEEDS(CUDA(cudaStreamSynchronize)(LEGACY));
    SUCCEEDS(CUDA(cudaMemPoolGetAttribute)(pool, cudaMemPoolAttrUsedMemCurrent, &after));
    TAP_CHECK(during >= before + 4096, "used %d more", (int)(during - before));
    TAP_CHECK(reserved >= during, "less is reserved than used");
    TAP_CHECK(after == before, "used %d more at the end", (int)(after - before));
}

static void test_freeing(void)
{
    static const bool waits = true;
    static const bool does_not = false;
    static const bool pinned = true;
    static const bool managed = false;
    run("cudaFree of cudaMalloc memory waits for the device", free_of_malloc_waits);
    run_named("cudaFreeHost of pinned memory waits for the device", 1, check_free_waits, &pinned);
    run_named("cudaFree of managed memory waits for the device", 1, check_free_waits, &managed);
    run("cudaFree of pool memory does not, and the address comes back", free_of_pool_memory_does_not_wait);
    run("cudaFree of a dummy waits for other streams and breaks no capture", free_of_a_dummy_is_a_barrier);
    run_named("an event on legacy waits for blocking streams", 1, check_legacy_event, &waits);
    run_named("an event on legacy does not wait for non-blocking streams", 1, check_legacy_event, &does_not);
    run("cudaFreeAsync does not wait for other streams", free_in_order_does_not_wait_for_others);
    run("cudaFreeAsync takes cudaMalloc memory", free_in_order_takes_malloc_memory);
    run("cudaFree takes pool memory", free_takes_pool_memory);
    run("freeing NULL is fine", free_of_nothing_is_fine);
    run("the pool counts what is used", pool_counts_what_is_used);
}

/* ---- two devices ------------------------------------------------------------------------------------------------- */

/* A stream and an event on each device, with device 0 current. */
typedef struct pair {
    cudaStream_t streams[2];
    cudaEvent_t  events[2];
} pair_t;

static pair_t open_pair(void)
{
    pair_t pair;
    for (int device = 1; device >= 0; device--) {
        SUCCEEDS(CUDA(cudaSetDevice)(device));
        pair.streams[device] = new_stream(cudaStreamNonBlocking);
        pair.events[device] = new_event();
    }
    return pair;
}

static void close_pair(pair_t pair)
{
    for (int device = 0; device < 2; device++) {
        SUCCEEDS(CUDA(cudaEventDestroy)(pair.events[device]));
        SUCCEEDS(CUDA(cudaStreamDestroy)(pair.streams[device]));
    }
}

static void record_needs_one_device(const void *unused)
{
    (void)unused;
    pair_t pair = open_pair();
    ANSWERS(cudaErrorInvalidResourceHandle, CUDA(cudaEventRecord)(pair.events[0], pair.streams[1]));
    ANSWERS(cudaErrorInvalidResourceHandle, CUDA(cudaEventRecord)(pair.events[1], pair.streams[0]));
    close_pair(pair);
}

static void record_needs_no_current_device(const void *unused)
{
    (void)unused;
    pair_t pair = open_pair();
    SUCCEEDS(CUDA(cudaEventRecord)(pair.events[1], pair.streams[1]));
    close_pair(pair);
}

static void wait_crosses_devices(const void *unused)
{
    (void)unused;
    pair_t   pair = open_pair();
    memory_t memory = new_memory();
    SUCCEEDS(kernel_write_late(pair.streams[0], memory.device, 6));
    SUCCEEDS(CUDA(cudaEventRecord)(pair.events[0], pair.streams[0]));
    for (int current = 0; current < 2; current++) {
        SUCCEEDS(CUDA(cudaSetDevice)(current));
        SUCCEEDS(CUDA(cudaStreamWaitEvent)(pair.streams[1], pair.events[0], cudaEventWaitDefault));
    }
    SUCCEEDS(copy_out(&memory, pair.streams[1]));
    SUCCEEDS(CUDA(cudaStreamSynchronize)(pair.streams[1]));
    TAP_CHECK(*memory.pinned == 6, "the copy saw %d", *memory.pinned);
    free_memory(memory);
    close_pair(pair);
}

static void free_crosses_devices(const void *unused)
{
    (void)unused;
    pair_t pair = open_pair();
    void  *memory = NULL;
    SUCCEEDS(CUDA(cudaMallocAsync)(&memory, 64, pair.streams[1]));
    SUCCEEDS(CUDA(cudaStreamSynchronize)(pair.streams[1]));
    SUCCEEDS(CUDA(cudaFreeAsync)(memory, pair.streams[0]));
    SUCCEEDS(CUDA(cudaStreamSynchronize)(pair.streams[0]));
    close_pair(pair);
}

static void free_needs_no_current_device(const void *unused)
{
    (void)unused;
    pair_t pair = open_pair();
    void  *memory = NULL;
    SUCCEEDS(CUDA(cudaMallocAsync)(&memory, 64, pair.streams[1]));
    SUCCEEDS(CUDA(cudaFreeAsync)(memory, pair.streams[1]));
    SUCCEEDS(CUDA(cudaStreamSynchronize)(pair.streams[1]));
    close_pair(pair);
}

static void launch_beside_the_current_device(const void *unused)
{
    (void)unused;
    pair_t   pair = open_pair();
    memory_t memory;
    SUCCEEDS(CUDA(cudaSetDevice)(1));
    memory = new_memory();
    SUCCEEDS(CUDA(cudaSetDevice)(0));
    tell("a kernel on a stream of another device", kernel_add(pair.streams[1], memory.device, 1));
    (void)CUDA(cudaGetLastError)();
    SUCCEEDS(CUDA(cudaStreamSynchronize)(pair.streams[1]));
    free_memory(memory);
    close_pair(pair);
}

static void copy_needs_no_current_device(const void *unused)
{
    (void)unused;
    pair_t   pair = open_pair();
    memory_t memory = new_memory();
    SUCCEEDS(copy_out(&memory, pair.streams[1]));
    SUCCEEDS(CUDA(cudaStreamSynchronize)(pair.streams[1]));
    free_memory(memory);
    close_pair(pair);
}

static void device_synchronise_waits_for_one_device(const void *unused)
{
    (void)unused;
    pair_t   pair = open_pair();
    memory_t memory = new_memory();
    SUCCEEDS(kernel_write_late(pair.streams[0], memory.device, 1));
    SUCCEEDS(CUDA(cudaSetDevice)(1));
    SUCCEEDS(CUDA(cudaDeviceSynchronize)());
    ANSWERS(cudaErrorNotReady, CUDA(cudaStreamQuery)(pair.streams[0]));
    SUCCEEDS(CUDA(cudaStreamSynchronize)(pair.streams[0]));
    SUCCEEDS(CUDA(cudaSetDevice)(0));
    free_memory(memory);
    close_pair(pair);
}

static void test_two_devices(void)
{
    run_on_two("an event is recorded on streams of its device only: 400", record_needs_one_device);
    run_on_two("an event is recorded whichever device is current", record_needs_no_current_device);
    run_on_two("a wait crosses devices, whichever is current", wait_crosses_devices);
    run_on_two("pool memory is freed on a stream of another device", free_crosses_devices);
    run_on_two("pool memory is made and freed by a handle, whichever device is current", free_needs_no_current_device);
    run_on_two("a kernel on a stream of another device", launch_beside_the_current_device);
    run_on_two("a copy does not", copy_needs_no_current_device);
    run_on_two("cudaDeviceSynchronize waits for the current device alone", device_synchronise_waits_for_one_device);
}

/* ---- streams, events and errors, as documented ------------------------------------------------------------------- */

static void query_tells_whether_work_is_done(const void *unused)
{
    (void)unused;
    cudaStream_t stream = new_stream(cudaStreamNonBlocking);
    memory_t     memory = new_memory();
    SUCCEEDS(CUDA(cudaStreamQuery)(stream));
    SUCCEEDS(kernel_write_late(stream, memory.device, 1));
    ANSWERS(cudaErrorNotReady, CUDA(cudaStreamQuery)(stream));
    SUCCEEDS(CUDA(cudaStreamSynchronize)(stream));
    SUCCEEDS(CUDA(cudaStreamQuery)(stream));
    free_memory(memory);
    SUCCEEDS(CUDA(cudaStreamDestroy)(stream));
}

static void loop_of_queries_ends(const void *unused)
{
    (void)unused;
    cudaStream_t stream = new_stream(cudaStreamNonBlocking);
    cudaEvent_t  event = new_event();
    memory_t     memory = new_memory();
    SUCCEEDS(kernel_write_late(stream, memory.device, 1));
    SUCCEEDS(copy_out(&memory, stream));
    SUCCEEDS(CUDA(cudaEventRecord)(event, stream));
    cudaError_t answer;
    while ((answer = CUDA(cudaEventQuery)(event)) == cudaErrorNotReady) {
    }
    SUCCEEDS(answer);
    TAP_CHECK(*memory.pinned == 1, "the copy is not done");
    SUCCEEDS(CUDA(cudaEventDestroy)(event));
    free_memory(memory);
    SUCCEEDS(CUDA(cudaStreamDestroy)(stream));
}

static void unrecorded_event_is_done(const void *unused)
{
    (void)unused;
    cudaStream_t stream = new_stream(cudaStreamNonBlocking);
    cudaEvent_t  event = new_event();
    SUCCEEDS(CUDA(cudaEventQuery)(event));
    SUCCEEDS(CUDA(cudaEventSynchronize)(event));
    SUCCEEDS(CUDA(cudaStreamWaitEvent)(stream, event, cudaEventWaitDefault));
    SUCCEEDS(CUDA(cudaEventDestroy)(event));
    SUCCEEDS(CUDA(cudaStreamDestroy)(stream));
}

/* The event is recorded again, and destroyed, after the wait: the wait is for the record that it saw. */
static void wait_is_for_the_record_it_saw(const void *unused)
{
    (void)unused;
    cudaStream_t producer = new_stream(cudaStreamNonBlocking);
    cudaStream_t consumer = new_stream(cudaStreamNonBlocking);
    cudaEvent_t  event = new_event();
    memory_t     memory = new_memory();
    SUCCEEDS(kernel_write_late(producer, memory.device, 8));
    SUCCEEDS(CUDA(cudaEventRecord)(event, producer));
    SUCCEEDS(CUDA(cudaStreamWaitEvent)(consumer, event, cudaEventWaitDefault));
    SUCCEEDS(kernel_write_late(producer, memory.device, 9));
    SUCCEEDS(CUDA(cudaEventRecord)(event, producer));
    SUCCEEDS(CUDA(cudaEventDestroy)(event));
    SUCCEEDS(copy_out(&memory, consumer));
    SUCCEEDS(CUDA(cudaStreamSynchronize)(consumer));
    TAP_CHECK(*memory.pinned == 8, "the copy saw %d", *memory.pinned);
    SUCCEEDS(CUDA(cudaStreamSynchronize)(producer));
    free_memory(memory);
    SUCCEEDS(CUDA(cudaStreamDestroy)(producer));
    SUCCEEDS(CUDA(cudaStreamDestroy)(consumer));
}

static void destroying_a_stream_does_not_wait(const void *unused)
{
    (void)unused;
    cudaStream_t stream = new_stream(cudaStreamNonBlocking);
    cudaEvent_t  event = new_event();
    memory_t     memory = new_memory();
    SUCCEEDS(kernel_write_late(stream, memory.device, 1));
    SUCCEEDS(CUDA(cudaEventRecord)(event, stream));
    SUCCEEDS(CUDA(cudaStreamDestroy)(stream));
    ANSWERS(cudaErrorNotReady, CUDA(cudaEventQuery)(event));
    SUCCEEDS(CUDA(cudaEventSynchronize)(event));
    SUCCEEDS(copy_out(&memory, LEGACY));
    SUCCEEDS(CUDA(cudaStreamSynchronize)(LEGACY));
    TAP_CHECK(*memory.pinned == 1, "the work of the destroyed stream is lost");
    SUCCEEDS(CUDA(cudaEventDestroy)(event));
    free_memory(memory);
}

static void destroying_an_event_does_not_wait(const void *unused)
{
    (void)unused;
    cudaStream_t producer = new_stream(cudaStreamNonBlocking);
    cudaStream_t consumer = new_stream(cudaStreamNonBlocking);
    cudaEvent_t  event = new_event();
    memory_t     memory = new_memory();
    SUCCEEDS(kernel_write_late(producer, memory.device, 1));
    SUCCEEDS(CUDA(cudaEventRecord)(event, producer));
    SUCCEEDS(CUDA(cudaStreamWaitEvent)(consumer, event, cudaEventWaitDefault));
    SUCCEEDS(CUDA(cudaEventDestroy)(event));
    ANSWERS(cudaErrorNotReady, CUDA(cudaStreamQuery)(producer));
    SUCCEEDS(copy_out(&memory, consumer));
    SUCCEEDS(CUDA(cudaStreamSynchronize)(consumer));
    TAP_CHECK(*memory.pinned == 1, "the copy saw %d", *memory.pinned);
    free_memory(memory);
    SUCCEEDS(CUDA(cudaStreamDestroy)(producer));
    SUCCEEDS(CUDA(cudaStreamDestroy)(consumer));
}

static void legacy_copy_waits_for_blocking_streams(const void *unused)
{
    (void)unused;
    cudaStream_t stream = new_stream(cudaStreamDefault);
    memory_t     memory = new_memory();
    int          value = 0;
    SUCCEEDS(kernel_write_late(stream, memory.device, 5));
    SUCCEEDS(CUDA(cudaMemcpy)(&value, memory.device, sizeof(value), cudaMemcpyDeviceToHost));
    TAP_CHECK(value == 5, "the copy saw %d", value);
    free_memory(memory);
    SUCCEEDS(CUDA(cudaStreamDestroy)(stream));
}

static void pageable_source_is_staged(const void *unused)
{
    (void)unused;
    cudaStream_t stream = new_stream(cudaStreamNonBlocking);
    memory_t     memory = new_memory();
    int          value = 21;
    SUCCEEDS(kernel_write_late(stream, memory.device, 1));
    SUCCEEDS(CUDA(cudaMemcpyAsync)(memory.device, &value, sizeof(value), cudaMemcpyHostToDevice, stream));
    value = 22;
    SUCCEEDS(copy_out(&memory, stream));
    SUCCEEDS(CUDA(cudaStreamSynchronize)(stream));
    TAP_CHECK(*memory.pinned == 21, "the copy took %d", *memory.pinned);
    free_memory(memory);
    SUCCEEDS(CUDA(cudaStreamDestroy)(stream));
}

static void copy_to_pageable_memory_is_done(const void *unused)
{
    (void)unused;
    cudaStream_t stream = new_stream(cudaStreamNonBlocking);
    memory_t     memory = new_memory();
    int          value = 0;
    SUCCEEDS(kernel_write_late(stream, memory.device, 13));
    SUCCEEDS(CUDA(cudaMemcpyAsync)(&value, memory.device, sizeof(value), cudaMemcpyDeviceToHost, stream));
    TAP_CHECK(value == 13, "the copy saw %d", value);
    free_memory(memory);
    SUCCEEDS(CUDA(cudaStreamDestroy)(stream));
}

static void copy_in_two_dimensions(const void *unused)
{
    (void)unused;
    void         *memory = NULL;
    unsigned char source[3][4] = {{1, 2, 3, 4}, {5, 6, 7, 8}, {9, 10, 11, 12}};
    unsigned char target[3][2] = {{0}};
    SUCCEEDS(CUDA(cudaMalloc)(&memory, 24));
    SUCCEEDS(CUDA(cudaMemcpy2DAsync)(memory, 8, source, 4, 2, 3, cudaMemcpyHostToDevice, LEGACY));
    SUCCEEDS(CUDA(cudaMemcpy2DAsync)(target, 2, memory, 8, 2, 3, cudaMemcpyDeviceToHost, LEGACY));
    SUCCEEDS(CUDA(cudaStreamSynchronize)(LEGACY));
    TAP_CHECK(memcmp(target, (unsigned char[]){1, 2, 5, 6, 9, 10}, 6) == 0, "wrong bytes");
    ANSWERS(cudaErrorInvalidPitchValue,
            CUDA(cudaMemcpy2DAsync)(memory, 1, source, 4, 2, 3, cudaMemcpyHostToDevice, LEGACY));
    SUCCEEDS(CUDA(cudaFree)(memory));
}

/* A host function notes what it sees and where it runs. */
typedef struct visitor {
    const int *seen_at;
    int        seen;
    pthread_t  thread;
    int        calls;
} visitor_t;

static void CUDART_CB note_visit(void *data)
{
    visitor_t *visitor = data;
    visitor->seen = *visitor->seen_at;
    visitor->thread = pthread_self();
    visitor->calls++;
}

static void host_function_runs_in_order(const void *unused)
{
    (void)unused;
    cudaStream_t stream = new_stream(cudaStreamNonBlocking);
    memory_t     memory = new_memory();
    visitor_t    visitor = {.seen_at = memory.pinned};
    SUCCEEDS(kernel_write_late(stream, memory.device, 17));
    SUCCEEDS(copy_out(&memory, stream));
    SUCCEEDS(CUDA(cudaLaunchHostFunc)(stream, note_visit, &visitor));
    SUCCEEDS(CUDA(cudaStreamSynchronize)(stream));
    TAP_CHECK(visitor.calls == 1, "called %d times", visitor.calls);
    TAP_CHECK(visitor.seen == 17, "saw %d", visitor.seen);
    TAP_CHECK(!pthread_equal(visitor.thread, pthread_self()), "called on the thread that waits");
    free_memory(memory);
    SUCCEEDS(CUDA(cudaStreamDestroy)(stream));
}

/* The stream of the host function has no work of its own: it waits for somebody else's. */
static void host_function_runs_after_the_event(const void *unused)
{
    (void)unused;
    cudaStream_t worker = new_stream(cudaStreamNonBlocking);
    cudaStream_t helper = new_stream(cudaStreamNonBlocking);
    cudaEvent_t  event = new_event();
    memory_t     memory = new_memory();
    visitor_t    visitor = {.seen_at = memory.pinned};
    SUCCEEDS(kernel_write_late(worker, memory.device, 19));
    SUCCEEDS(copy_out(&memory, worker));
    SUCCEEDS(CUDA(cudaEventRecord)(event, worker));
    SUCCEEDS(CUDA(cudaStreamWaitEvent)(helper, event, cudaEventWaitDefault));
    SUCCEEDS(CUDA(cudaLaunchHostFunc)(helper, note_visit, &visitor));
    ANSWERS(cudaErrorNotReady, CUDA(cudaStreamQuery)(worker));
    SUCCEEDS(CUDA(cudaStreamSynchronize)(helper));
    TAP_CHECK(visitor.calls == 1, "called %d times", visitor.calls);
    TAP_CHECK(visitor.seen == 19, "saw %d", visitor.seen);
    SUCCEEDS(CUDA(cudaStreamSynchronize)(worker));
    SUCCEEDS(CUDA(cudaEventDestroy)(event));
    free_memory(memory);
    SUCCEEDS(CUDA(cudaStreamDestroy)(worker));
    SUCCEEDS(CUDA(cudaStreamDestroy)(helper));
}

static void host_function_outlives_its_stream(const void *unused)
{
    (void)unused;
    cudaStream_t stream = new_stream(cudaStreamNonBlocking);
    cudaEvent_t  event = new_event();
    memory_t     memory = new_memory();
    visitor_t    visitor = {.seen_at = memory.pinned};
    SUCCEEDS(kernel_write_late(stream, memory.device, 23));
    SUCCEEDS(copy_out(&memory, stream));
    SUCCEEDS(CUDA(cudaLaunchHostFunc)(stream, note_visit, &visitor));
    SUCCEEDS(CUDA(cudaEventRecord)(event, stream));
    SUCCEEDS(CUDA(cudaStreamDestroy)(stream));
    ANSWERS(cudaErrorNotReady, CUDA(cudaEventQuery)(event));
    SUCCEEDS(CUDA(cudaEventSynchronize)(event));
    TAP_CHECK(visitor.calls == 1, "called %d times", visitor.calls);
    TAP_CHECK(visitor.seen == 23, "saw %d", visitor.seen);
    SUCCEEDS(CUDA(cudaEventDestroy)(event));
    free_memory(memory);
}

static void last_error_is_kept_until_asked_for(const void *unused)
{
    (void)unused;
    ANSWERS(cudaErrorInvalidDevice, CUDA(cudaSetDevice)(n_devices));
    SUCCEEDS(CUDA(cudaSetDevice)(0));
    ANSWERS(cudaErrorInvalidDevice, CUDA(cudaPeekAtLastError)());
    ANSWERS(cudaErrorInvalidDevice, CUDA(cudaGetLastError)());
    SUCCEEDS(CUDA(cudaGetLastError)());
}

static void *get_last_error(void *answer)
{
    *(cudaError_t *)answer = CUDA(cudaGetLastError)();
    return NULL;
}

static void last_error_belongs_to_the_thread(const void *unused)
{
    (void)unused;
    cudaError_t answer = cudaErrorUnknown;
    ANSWERS(cudaErrorInvalidDevice, CUDA(cudaSetDevice)(-1));
    on_other_thread(get_last_error, &answer);
    SUCCEEDS(answer);
    ANSWERS(cudaErrorInvalidDevice, CUDA(cudaGetLastError)());
}

static void *get_current_device(void *answer)
{
    CUDA(cudaGetDevice)(answer);
    return NULL;
}

static void current_device_belongs_to_the_thread(const void *unused)
{
    (void)unused;
    int device = -1;
    SUCCEEDS(CUDA(cudaSetDevice)(1));
    on_other_thread(get_current_device, &device);
    TAP_CHECK(device == 0, "device %d on another thread", device);
}

static void errors_have_names(const void *unused)
{
    (void)unused;
    const struct {
        cudaError_t code;
        const char *name;
    } rows[] = {{cudaSuccess, "cudaSuccess"},
                {cudaErrorInvalidValue, "cudaErrorInvalidValue"},
                {cudaErrorNotReady, "cudaErrorNotReady"},
                {cudaErrorStreamCaptureImplicit, "cudaErrorStreamCaptureImplicit"},
                {(cudaError_t)12345, "unrecognized error code"}};
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        const char *name = CUDA(cudaGetErrorName)(rows[i].code);
        TAP_CHECK(strcmp(name, rows[i].name) == 0, "%d is %s", (int)rows[i].code, name);
    }
    const char *text = CUDA(cudaGetErrorString)(cudaErrorInvalidValue);
    TAP_CHECK(strcmp(text, "invalid argument") == 0, "%s", text);
}

static void freeing_twice_is_an_error(const void *unused)
{
    (void)unused;
    void *memory = NULL;
    SUCCEEDS(CUDA(cudaMalloc)(&memory, 64));
    SUCCEEDS(CUDA(cudaFree)(memory));
    ANSWERS(cudaErrorInvalidValue, CUDA(cudaFree)(memory));
}

static void test_documented(void)
{
    run("a query tells whether work is done", query_tells_whether_work_is_done);
    run("a loop of queries ends", loop_of_queries_ends);
    run("an event that was never recorded is done", unrecorded_event_is_done);
    run("a wait is for the record that it saw", wait_is_for_the_record_it_saw);
    run("destroying a stream does not wait, and loses no work", destroying_a_stream_does_not_wait);
    run("destroying an event does not wait, and the waits for it hold", destroying_an_event_does_not_wait);
    run("cudaMemcpy waits for blocking streams and for itself", legacy_copy_waits_for_blocking_streams);
    run("a copy from pageable memory takes it at the call", pageable_source_is_staged);
    run("a copy to pageable memory is done when the call returns", copy_to_pageable_memory_is_done);
    run("copies in two dimensions", copy_in_two_dimensions);
    run("a host function runs in stream order, on another thread", host_function_runs_in_order);
    run("a host function waits for the event that its stream waits for", host_function_runs_after_the_event);
    run("a host function runs though its stream is destroyed", host_function_outlives_its_stream);
    run("the last error is kept until it is asked for", last_error_is_kept_until_asked_for);
    run("the last error belongs to the thread", last_error_belongs_to_the_thread);
    run_on_two("the current device belongs to the thread", current_device_belongs_to_the_thread);
    run("error codes have names", errors_have_names);
    run("freeing twice is an error: 1", freeing_twice_is_an_error);
}

/* ---- open questions ---------------------------------------------------------------------------------------------- */

static cudaError_t query_captured_event(scene_t *scene)
{
    cudaError_t error = CUDA(cudaEventRecord)(scene->spare, scene->capturing);
    return error == cudaSuccess ? CUDA(cudaEventQuery)(scene->spare) : error;
}

static cudaError_t wait_for_unrecorded(scene_t *scene)
{
    return CUDA(cudaStreamWaitEvent)(scene->capturing, scene->spare, cudaEventWaitDefault);
}

static cudaError_t copy_synchronously(scene_t *scene)
{
    return CUDA(cudaMemcpy)(scene->pinned, scene->memory, 16, cudaMemcpyDeviceToHost);
}

static cudaError_t fill_on_legacy(scene_t *scene)
{
    return CUDA(cudaMemset)(scene->memory, 0, 16);
}

static cudaError_t launch_on_legacy(scene_t *scene)
{
    return kernel_add(LEGACY, scene->memory, 0);
}

static cudaError_t synchronize_legacy(scene_t *scene)
{
    (void)scene;
    return CUDA(cudaStreamSynchronize)(LEGACY);
}

static cudaError_t create_and_destroy_stream(scene_t *scene)
{
    (void)scene;
    cudaStream_t stream;
    cudaError_t  error = CUDA(cudaStreamCreateWithFlags)(&stream, cudaStreamNonBlocking);
    return error == cudaSuccess ? CUDA(cudaStreamDestroy)(stream) : error;
}

static cudaError_t allocate_managed(scene_t *scene)
{
    return CUDA(cudaMallocManaged)(&scene->allocated, 64, cudaMemAttachGlobal);
}

static cudaError_t allocate_pinned(scene_t *scene)
{
    (void)scene;
    void       *memory;
    cudaError_t error = CUDA(cudaMallocHost)(&memory, 64);
    return error == cudaSuccess ? CUDA(cudaFreeHost)(memory) : error;
}

static cudaError_t free_null(scene_t *scene)
{
    (void)scene;
    return CUDA(cudaFree)(NULL);
}

static cudaError_t begin_again(scene_t *scene)
{
    return CUDA(cudaStreamBeginCapture)(scene->capturing, cudaStreamCaptureModeRelaxed);
}

static cudaError_t synchronize_when_invalidated(scene_t *scene)
{
    wait_for_outside(scene);
    return synchronize_capturing(scene);
}

static cudaError_t fill_when_invalidated(scene_t *scene)
{
    wait_for_outside(scene);
    return CUDA(cudaMemsetAsync)(scene->memory, 0, 16, scene->capturing);
}

static cudaError_t record_when_invalidated(scene_t *scene)
{
    wait_for_outside(scene);
    return CUDA(cudaEventRecord)(scene->spare, scene->capturing);
}

static cudaError_t build_and_launch_another_graph(scene_t *scene)
{
    cudaGraph_t     graph = NULL;
    cudaGraphExec_t executable = NULL;
    cudaError_t     error = CUDA(cudaStreamBeginCapture)(scene->other, cudaStreamCaptureModeRelaxed);
    if (error == cudaSuccess) {
        error = CUDA(cudaStreamEndCapture)(scene->other, &graph);
    }
    if (error == cudaSuccess) {
        error = CUDA(cudaGraphInstantiate)(&executable, graph, 0);
    }
    if (error == cudaSuccess) {
        error = CUDA(cudaGraphLaunch)(executable, scene->other);
        CUDA(cudaGraphExecDestroy)(executable);
    }
    if (graph != NULL) {
        CUDA(cudaGraphDestroy)(graph);
    }
    return error;
}

static cudaError_t end_on_fork(scene_t *scene)
{
    CUDA(cudaEventRecord)(scene->spare, scene->capturing);
    CUDA(cudaStreamWaitEvent)(scene->other, scene->spare, cudaEventWaitDefault);
    return abandon_capture(scene->other);
}

static void CUDART_CB do_nothing(void *unused)
{
    (void)unused;
}

static cudaError_t launch_on_the_host(scene_t *scene)
{
    return CUDA(cudaLaunchHostFunc)(scene->other, do_nothing, NULL);
}

static cudaError_t order_two_others(scene_t *scene)
{
    cudaError_t error = CUDA(cudaEventRecord)(scene->spare, scene->other);
    return error == cudaSuccess ? CUDA(cudaStreamWaitEvent)(scene->third, scene->spare, cudaEventWaitDefault) : error;
}

static cudaError_t order_legacy_after_another(scene_t *scene)
{
    cudaError_t error = CUDA(cudaEventRecord)(scene->spare, scene->other);
    return error == cudaSuccess ? CUDA(cudaStreamWaitEvent)(LEGACY, scene->spare, cudaEventWaitDefault) : error;
}

/* What gives something back once the work of another stream is done: a helper stream that waits and calls the host. */
static cudaError_t call_the_host_after_another(scene_t *scene)
{
    cudaStream_t helper = NULL;
    cudaError_t  error = CUDA(cudaStreamCreateWithFlags)(&helper, cudaStreamNonBlocking);
    if (error != cudaSuccess) {
        return error;
    }
    error = CUDA(cudaEventRecord)(scene->spare, scene->other);
    if (error == cudaSuccess) {
        error = CUDA(cudaStreamWaitEvent)(helper, scene->spare, cudaEventWaitDefault);
    }
    if (error == cudaSuccess) {
        error = CUDA(cudaLaunchHostFunc)(helper, do_nothing, NULL);
    }
    cudaError_t destroyed = CUDA(cudaStreamDestroy)(helper);
    return error == cudaSuccess ? destroyed : error;
}

static cudaError_t destroy_recorded_event(scene_t *scene)
{
    cudaEvent_t event;
    cudaError_t error = CUDA(cudaEventCreateWithFlags)(&event, cudaEventDisableTiming);
    if (error != cudaSuccess) {
        return error;
    }
    error = CUDA(cudaEventRecord)(event, scene->other);
    cudaError_t destroyed = CUDA(cudaEventDestroy)(event);
    return error == cudaSuccess ? destroyed : error;
}

static void ask_row(const char *question, const capture_row_t *row)
{
    guest_t guest = {.scene = open_scene(row->flags), .call = row->call, .bracketed = row->bracketed};
    CUDA(cudaStreamBeginCapture)(guest.scene.capturing, row->mode);
    if (row->other_thread) {
        on_other_thread(visit, &guest);
    } else {
        visit(&guest);
    }
    enum cudaStreamCaptureStatus status = capture_status(guest.scene.capturing);
    cudaError_t                  end = abandon_capture(guest.scene.capturing);
    printf("# answer: %s capture, %s%s%s: %s: %d, status %d, ended with %d\n", mode_names[row->mode],
           row->flags == cudaStreamDefault ? "blocking" : "non-blocking", row->other_thread ? ", other thread" : "",
           row->bracketed ? ", bracketed" : "", question, (int)guest.answer, (int)status, (int)end);
    close_scene(&guest.scene);
    settle();
}

static void ask_beside_a_capture(const char *question, capture_call_t *call, unsigned int flags,
                                 enum cudaStreamCaptureMode mode)
{
    ask_row(question, &(capture_row_t){.call = call, .flags = flags, .mode = mode});
}

/* Streams that have no part in the capture, from its thread and from another, as they are and in relaxed mode. */
static void ask_about_uninvolved_streams(void)
{
    static const struct {
        const char     *question;
        capture_call_t *call;
    } rows[] = {
        {"create and destroy a stream", create_and_destroy_stream},
        {"a host function on another stream", launch_on_the_host},
        {"order two other streams", order_two_others},
        {"order legacy after another stream", order_legacy_after_another},
        {"a new stream waits for another and calls the host", call_the_host_after_another},
        {"destroy an event that was recorded on another stream", destroy_recorded_event},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        for (unsigned int variant = 0; variant < 8; variant++) {
            ask_row(rows[i].question, &(capture_row_t){.call = rows[i].call,
                                                       .flags = cudaStreamNonBlocking,
                                                       .mode = (variant & 1) != 0 ? cudaStreamCaptureModeThreadLocal
                                                                                  : cudaStreamCaptureModeGlobal,
                                                       .other_thread = (variant & 2) != 0,
                                                       .bracketed = (variant & 4) != 0});
        }
    }
}

static void ask_about_captures(void)
{
    static const struct {
        const char     *question;
        capture_call_t *call;
    } rows[] = {
        {"query an event of the capture", query_captured_event},
        {"wait for an event that was never recorded", wait_for_unrecorded},
        {"cudaMemcpy to pinned memory", copy_synchronously},
        {"cudaMemset", fill_on_legacy},
        {"launch on legacy", launch_on_legacy},
        {"synchronise legacy", synchronize_legacy},
        {"create and destroy a stream", create_and_destroy_stream},
        {"cudaMallocManaged", allocate_managed},
        {"cudaMallocHost and cudaFreeHost", allocate_pinned},
        {"cudaFree(NULL)", free_null},
        {"begin again", begin_again},
        {"synchronise when invalidated", synchronize_when_invalidated},
        {"fill when invalidated", fill_when_invalidated},
        {"record when invalidated", record_when_invalidated},
        {"build and launch another graph", build_and_launch_another_graph},
        {"end on a forked stream", end_on_fork},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        ask_beside_a_capture(rows[i].question, rows[i].call, cudaStreamNonBlocking, cudaStreamCaptureModeGlobal);
        ask_beside_a_capture(rows[i].question, rows[i].call, cudaStreamNonBlocking, cudaStreamCaptureModeRelaxed);
        ask_beside_a_capture(rows[i].question, rows[i].call, cudaStreamDefault, cudaStreamCaptureModeGlobal);
        ask_beside_a_capture(rows[i].question, rows[i].call, cudaStreamDefault, cudaStreamCaptureModeRelaxed);
    }
}

static void ask_about_streams(void)
{
    cudaStream_t blocking = new_stream(cudaStreamDefault);
    cudaStream_t other = new_stream(cudaStreamNonBlocking);
    cudaEvent_t  event = new_event();
    memory_t     memory = new_memory();
    unsigned int flags = 99;
    kernel_write_late(other, memory.device, 1);
    CUDA(cudaStreamQuery)(other);
    tell("the last error after a query that answered 600", CUDA(cudaGetLastError)());
    settle();
    kernel_write_late(blocking, memory.device, 1);
    CUDA(cudaStreamSynchronize)(LEGACY);
    tell("query of a busy blocking stream after synchronising legacy", CUDA(cudaStreamQuery)(blocking));
    settle();
    kernel_write_late(LEGACY, memory.device, 1);
    CUDA(cudaStreamSynchronize)(blocking);
    tell("query of busy legacy after synchronising an idle blocking stream", CUDA(cudaStreamQuery)(LEGACY));
    settle();
    tell("cudaEventWaitExternal outside a capture", CUDA(cudaStreamWaitEvent)(other, event, cudaEventWaitExternal));
    tell("cudaEventRecordExternal outside a capture",
         CUDA(cudaEventRecordWithFlags)(event, other, cudaEventRecordExternal));
    tell("ending a capture that was not begun", abandon_capture(other));
    tell("cudaStreamGetFlags(per-thread)", CUDA(cudaStreamGetFlags)(PER_THREAD, &flags));
    printf("# answer: the flags of per-thread: %u\n", flags);
    tell("cudaStreamDestroy(legacy)", CUDA(cudaStreamDestroy)(LEGACY));
    settle();
    free_memory(memory);
    CUDA(cudaEventDestroy)(event);
    CUDA(cudaStreamDestroy)(blocking);
    CUDA(cudaStreamDestroy)(other);
}

/* What a thread leaves on its per-thread stream. */
typedef struct legacy_of_a_thread {
    memory_t    memory;
    cudaEvent_t event;
    cudaError_t answer;
} legacy_of_a_thread_t;

static void *leave_work_behind(void *argument)
{
    legacy_of_a_thread_t *left = argument;
    CUDA(cudaSetDevice)(0);
    left->answer = kernel_write_late(PER_THREAD, left->memory.device, 31);
    if (left->answer == cudaSuccess) {
        left->answer = CUDA(cudaEventRecord)(left->event, PER_THREAD);
    }
    return NULL;
}

static void ask_about_threads_that_end(void)
{
    cudaStream_t         other = new_stream(cudaStreamNonBlocking);
    legacy_of_a_thread_t left = {.memory = new_memory(), .event = new_event()};
    on_other_thread(leave_work_behind, &left);
    tell("leaving work on the per-thread stream of a thread that ends", left.answer);
    tell("query of its event when the thread has ended", CUDA(cudaEventQuery)(left.event));
    tell("another stream waits for that event", CUDA(cudaStreamWaitEvent)(other, left.event, cudaEventWaitDefault));
    CUDA(cudaMemcpyAsync)(left.memory.pinned, left.memory.device, sizeof(int), cudaMemcpyDeviceToHost, other);
    tell("synchronising that stream", CUDA(cudaStreamSynchronize)(other));
    printf("# answer: the work of the ended thread was done by then: %s\n", *left.memory.pinned == 31 ? "yes" : "no");
    settle();
    CUDA(cudaEventDestroy)(left.event);
    free_memory(left.memory);
    CUDA(cudaStreamDestroy)(other);
}

static void ask_about_ended_captures(void)
{
    cudaStream_t                 stream = new_stream(cudaStreamNonBlocking);
    cudaStream_t                 other = new_stream(cudaStreamNonBlocking);
    cudaEvent_t                  event = new_event();
    enum cudaStreamCaptureStatus status;
    CUDA(cudaStreamBeginCapture)(stream, cudaStreamCaptureModeRelaxed);
    CUDA(cudaEventRecord)(event, stream);
    abandon_capture(stream);
    tell("waiting for an event of an ended capture", CUDA(cudaStreamWaitEvent)(other, event, cudaEventWaitDefault));
    tell("synchronising with an event of an ended capture", CUDA(cudaEventSynchronize)(event));
    CUDA(cudaStreamBeginCapture)(PER_THREAD, cudaStreamCaptureModeRelaxed);
    tell("cudaStreamIsCapturing(legacy) while per-thread captures", CUDA(cudaStreamIsCapturing)(LEGACY, &status));
    abandon_capture(PER_THREAD);
    settle();
    CUDA(cudaStreamBeginCapture)(stream, cudaStreamCaptureModeRelaxed);
    CUDA(cudaStreamBeginCapture)(other, cudaStreamCaptureModeRelaxed);
    CUDA(cudaEventRecord)(event, stream);
    CUDA(cudaStreamWaitEvent)(other, event, cudaEventWaitDefault);
    tell("ending the first of two captures that were to merge", abandon_capture(stream));
    tell("ending the second", abandon_capture(other));
    settle();
    CUDA(cudaEventDestroy)(event);
    CUDA(cudaStreamDestroy)(stream);
    CUDA(cudaStreamDestroy)(other);
}

static void ask_about_memory(void)
{
    cudaStream_t stream = new_stream(cudaStreamNonBlocking);
    void        *memory = NULL;
    void        *again = NULL;
    tell("cudaMalloc of 0 bytes", CUDA(cudaMalloc)(&memory, 0));
    printf("# answer: cudaMalloc of 0 bytes gives %s\n", memory == NULL ? "NULL" : "an address");
    CUDA(cudaFree)(memory);
    memory = NULL;
    tell("cudaMallocAsync of 0 bytes", CUDA(cudaMallocAsync)(&memory, 0, stream));
    printf("# answer: cudaMallocAsync of 0 bytes gives %s\n", memory == NULL ? "NULL" : "an address");
    tell("cudaFreeAsync(NULL)", CUDA(cudaFreeAsync)(NULL, stream));
    CUDA(cudaMallocAsync)(&memory, 4096, stream);
    CUDA(cudaFreeAsync)(memory, stream);
    CUDA(cudaMallocAsync)(&again, 4096, stream);
    printf("# answer: a stream gets back at once what it freed: %s\n", memory == again ? "yes" : "no");
    tell("cudaFreeAsync twice",
         CUDA(cudaFreeAsync)(again, stream) == cudaSuccess ? CUDA(cudaFreeAsync)(again, stream) : cudaErrorUnknown);
    CUDA(cudaStreamSynchronize)(stream);
    struct cudaPointerAttributes attributes = attributes_of(&wanted);
    printf("# answer: unregistered memory has a host pointer: %s, a device pointer: %s\n",
           attributes.hostPointer != NULL ? "yes" : "no", attributes.devicePointer != NULL ? "yes" : "no");
    settle();
    CUDA(cudaStreamDestroy)(stream);
}

static void ask_about_graph_memory(void)
{
    cudaStream_t stream = new_stream(cudaStreamNonBlocking);
    void        *memory = NULL;
    CUDA(cudaStreamBeginCapture)(stream, cudaStreamCaptureModeRelaxed);
    CUDA(cudaMallocAsync)(&memory, 64, stream);
    cudaGraphExec_t executable = instantiate(end_capture(stream));
    CUDA(cudaGraphLaunch)(executable, stream);
    printf("# answer: type of graph memory after a launch: %d\n", (int)attributes_of(memory).type);
    tell("a second launch of a graph that allocates and does not free", CUDA(cudaGraphLaunch)(executable, stream));
    tell("cudaFree of graph memory", CUDA(cudaFree)(memory));
    settle();
    CUDA(cudaGraphExecDestroy)(executable);
    CUDA(cudaStreamDestroy)(stream);
}

/* A stream of device 1 beside a capture on device 0, and forked from it; an event of each stream's own device. */
static void ask_about_events_of_another_device(enum cudaStreamCaptureMode mode)
{
    pair_t pair = open_pair();
    CUDA(cudaStreamBeginCapture)(pair.streams[0], mode);
    cudaError_t beside = CUDA(cudaEventRecord)(pair.events[1], pair.streams[1]);
    CUDA(cudaEventRecord)(pair.events[0], pair.streams[0]);
    cudaError_t fork = CUDA(cudaStreamWaitEvent)(pair.streams[1], pair.events[0], cudaEventWaitDefault);
    cudaError_t inside = CUDA(cudaEventRecord)(pair.events[1], pair.streams[1]);
    cudaError_t join = CUDA(cudaStreamWaitEvent)(pair.streams[0], pair.events[1], cudaEventWaitDefault);
    cudaError_t end = abandon_capture(pair.streams[0]);
    printf("# answer: %s capture on device 0: record on a stream of device 1: %d, fork it: %d, record on the fork: %d, "
           "join: %d, ended with %d\n",
           mode_names[mode], (int)beside, (int)fork, (int)inside, (int)join, (int)end);
    close_pair(pair);
    settle();
}

static void ask_about_two_devices(void)
{
    ask_about_events_of_another_device(cudaStreamCaptureModeGlobal);
    ask_about_events_of_another_device(cudaStreamCaptureModeRelaxed);
    pair_t pair = open_pair();
    CUDA(cudaStreamBeginCapture)(pair.streams[0], cudaStreamCaptureModeRelaxed);
    CUDA(cudaSetDevice)(1);
    tell("cudaDeviceSynchronize beside a capture on another device", CUDA(cudaDeviceSynchronize)());
    CUDA(cudaSetDevice)(0);
    tell("ending that capture", abandon_capture(pair.streams[0]));
    close_pair(pair);
    settle();
}

/* What nobody has measured, and no header says. */
static void ask_open_questions(void)
{
    tap_begin("open questions can be asked");
    ask_about_captures();
    ask_about_uninvolved_streams();
    ask_about_streams();
    ask_about_threads_that_end();
    ask_about_ended_captures();
    ask_about_memory();
    ask_about_graph_memory();
    if (n_devices > 1) {
        ask_about_two_devices();
    }
    tap_end();
}

static void leaves_nothing_behind(const void *unused)
{
    (void)unused;
    const char *leaks = kernels_find_leaks();
    TAP_CHECK(leaks == NULL, "%s", leaks);
}

/* ---- main -------------------------------------------------------------------------------------------------------- */

static bool warm_up(void)
{
    for (int device = n_devices; device > 0; device--) {
        if (CUDA(cudaSetDevice)(device - 1) != cudaSuccess || kernels_warm_up() != cudaSuccess) {
            return false;
        }
    }
    return true;
}

int main(int argc, char **argv)
{
    wanted = argc > 1 ? argv[1] : NULL;
    (void)setvbuf(stdout, NULL, _IOLBF, BUFSIZ); /* whatever crashes, what came before it is told */
    kernels_prepare();
    test_contexts();
    if (CUDA(cudaGetDeviceCount)(&n_devices) != cudaSuccess || n_devices < 1) {
        printf("Bail out! no device: %s\n", CUDA(cudaGetErrorName)(CUDA(cudaGetLastError)()));
        return 1;
    }
    if (!warm_up()) {
        printf("Bail out! the kernels do not run: %s\n", CUDA(cudaGetErrorName)(CUDA(cudaGetLastError)()));
        return 1;
    }
    test_implicit_order();
    test_special_handles();
    test_pointer_attributes();
    test_calls_beside_a_capture();
    test_legacy_beside_a_capture();
    test_brackets();
    test_bracketed_free_on_the_capturing_stream();
    test_captures_and_graphs();
    test_freeing();
    test_two_devices();
    test_documented();
    if (wanted == NULL) {
        ask_open_questions();
    }
    run("everything is given back", leaves_nothing_behind);
    return tap_finish();
}
