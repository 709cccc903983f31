/*
 * Checks array.h: what an array is when it is made, who counts it, and that its memory goes once, after the work on it.
 */
#define _POSIX_C_SOURCE 200809L /* threads */

#include <cai/array.h>

#include "unit.h"

#include <pthread.h>

TestSuite(array, .timeout = UNIT_TIMEOUT);

static cai_order_pool_t *new_pool(void)
{
    cai_order_pool_t *pool = cai_order_pool_new(NULL);
    cr_assert_not_null(pool);
    return pool;
}

/* An owner that counts what its deleter was called for. */
typedef struct owner {
    int  deletions;
    int *seen_at; /* what is looked at when the deleter runs */
    int  seen;
} owner_t;

static void delete_owner(void *argument)
{
    owner_t *owner = (owner_t *)argument;
    owner->deletions++;
    if (owner->seen_at != NULL)
        owner->seen = *owner->seen_at;
}

static void make_owner(owner_t *owner, int *seen_at)
{
    owner->deletions = 0;
    owner->seen_at = seen_at;
    owner->seen = -1;
}

/* A 1-d tensor of int32 over any memory. */
static void fill_tensor(cai_tensor_t *tensor, void *data, int32_t device_type, int32_t device_id, int64_t *shape)
{
    memset(tensor, 0, sizeof(*tensor));
    tensor->data = data;
    tensor->device.device_type = device_type;
    tensor->device.device_id = device_id;
    tensor->ndim = 1;
    tensor->dtype = cai_int32();
    tensor->shape = shape;
}

/* ---- making an array --------------------------------------------------------------------------------------------- */

typedef struct shape_case {
    const char *name;
    int32_t     ndim;
    int64_t     shape[4], strides[4];
    size_t      elements;
} shape_case_t;

static const shape_case_t shapes[] = {
    {"0-d", 0, {0}, {0}, 1},
    {"one", 1, {1}, {1}, 1},
    {"a vector", 1, {7}, {1}, 7},
    {"a matrix", 2, {3, 5}, {5, 1}, 15},
    {"extents of 1", 3, {1, 4, 1}, {4, 1, 1}, 4},
    {"four dimensions", 4, {2, 3, 4, 5}, {60, 20, 5, 1}, 120},
    {"no elements", 1, {0}, {1}, 0},
    {"no elements inside", 3, {2, 0, 4}, {0, 4, 1}, 0},
    {"no elements of many", 3, {INT64_MAX, INT64_MAX, 0}, {0, 0, 1}, 0},
};

static void expect_array(const cai_array_t *array, const shape_case_t *row, cai_dtype_t dtype, const char *name)
{
    cr_expect_eq(array->abi, 1, "%s", name);
    cr_expect_geq(array->size, sizeof(cai_array_t), "%s", name);
    cr_expect_null(array->object((cai_array_t *)(uintptr_t)array), "%s", name);
    cr_expect_eq(array->flags, 0, "%s", name);
    cr_expect_eq(array->tensor.ndim, row->ndim, "%s", name);
    cr_expect_eq(array->tensor.byte_offset, 0, "%s", name);
    cr_expect(cai_dtype_equal(array->tensor.dtype, dtype), "%s", name);
    cr_expect_not_null(array->tensor.strides, "%s", name);
    for (int32_t i = 0; i < row->ndim; i++)
        cr_expect_eq(array->tensor.shape[i], row->shape[i], "%s: extent %d", name, i);
    for (int32_t i = 0; i < row->ndim && row->elements > 0; i++)
        cr_expect_eq(array->tensor.strides[i], row->strides[i], "%s: stride %d", name, i);
    cr_expect(cai_tensor_is_c_contiguous(&array->tensor), "%s", name);
    cr_expect_eq(cai_tensor_validate(&array->tensor, NULL), CAI_OK, "%s", name);
    cr_expect_eq(array->tensor.data == NULL, row->elements == 0, "%s: the address", name);
}

Test(array, new_in_host_memory)
{
    cai_order_pool_t *pool = new_pool();
    for (size_t i = 0; i < UNIT_COUNT(shapes); i++) {
        const shape_case_t *row = &shapes[i];
        for (int with_pool = 0; with_pool < 2; with_pool++) {
            cai_error_t  error;
            cai_array_t *array = cai_array_new(with_pool ? pool : NULL, cai_float64(), row->ndim, row->shape, -1,
                                               CAI_MEMORY_HOST, NULL, &error);
            cr_assert_not_null(array, "%s", row->name);
            expect_array(array, row, cai_float64(), row->name);
            cr_expect_eq(array->tensor.device.device_type, CAI_DEVICE_CPU, "%s", row->name);
            cr_expect_eq(array->tensor.device.device_id, 0, "%s", row->name);
            cr_expect_null(array->stream, "%s", row->name);
            cr_expect_eq((uintptr_t)array->tensor.data % 64, 0, "%s: alignment", row->name);
            if (row->elements > 0)
                memset(array->tensor.data, 0x11, row->elements * sizeof(double));
            cr_expect_eq(pool->references, with_pool ? 2 : 1, "%s", row->name);
            cai_array_release(array);
            cr_expect_eq(pool->references, 1, "%s", row->name);
        }
    }
    cai_order_pool_release(pool);
}

Test(array, shape_is_copied)
{
    int64_t      shape[2] = {2, 3};
    cai_array_t *array = cai_array_new(NULL, cai_int8(), 2, shape, -1, CAI_MEMORY_HOST, NULL, NULL);
    cr_assert_not_null(array);
    shape[0] = shape[1] = 99;
    cr_expect_neq(array->tensor.shape, shape);
    cr_expect_eq(array->tensor.shape[0], 2);
    cr_expect_eq(array->tensor.shape[1], 3);
    cai_array_release(array);
}

typedef struct bad_case {
    const char  *name;
    int32_t      ndim;
    int64_t      shape[3];
    cai_dtype_t  dtype;
    cai_status_t status;
} bad_case_t;

static const bad_case_t bad_arrays[] = {
    {"ndim -1", -1, {1}, CAI_FLOAT32, CAI_ERROR_INVALID_SHAPE},
    {"ndim 65", 65, {1}, CAI_FLOAT32, CAI_ERROR_INVALID_SHAPE},
    {"ndim INT32_MIN", INT32_MIN, {1}, CAI_FLOAT32, CAI_ERROR_INVALID_SHAPE},
    {"ndim INT32_MAX", INT32_MAX, {1}, CAI_FLOAT32, CAI_ERROR_INVALID_SHAPE},
    {"a negative extent", 1, {-1}, CAI_FLOAT32, CAI_ERROR_INVALID_SHAPE},
    {"two negative extents", 2, {-2, -3}, CAI_FLOAT32, CAI_ERROR_INVALID_SHAPE},
    {"a negative extent beside none", 2, {-1, 0}, CAI_FLOAT32, CAI_ERROR_INVALID_SHAPE},
    {"elements overflow", 2, {INT64_MAX, 2}, CAI_INT8, CAI_ERROR_INVALID_SHAPE},
    {"elements overflow to 0", 2, {INT64_C(1) << 32, INT64_C(1) << 32}, CAI_INT8, CAI_ERROR_INVALID_SHAPE},
    {"bytes overflow", 1, {INT64_MAX / 2}, CAI_FLOAT32, CAI_ERROR_INVALID_SHAPE},
    {"no dtype", 1, {3}, {0, 0, 0}, CAI_ERROR_UNKNOWN_DTYPE},
    {"an unknown dtype", 1, {3}, {200, 32, 1}, CAI_ERROR_UNKNOWN_DTYPE},
    {"more than there is", 1, {INT64_C(1) << 60}, CAI_FLOAT32, CAI_ERROR_MEMORY},
};

static void expect_no_array(const bad_case_t *row, cai_order_pool_t *pool, cai_memory_t memory)
{
    /* As many extents as any ndim could have that is nearly right. */
    int64_t     shape[CAI_MAX_NDIM + 1];
    cai_error_t error;
    for (int i = 0; i <= CAI_MAX_NDIM; i++)
        shape[i] = i < 3 ? row->shape[i] : 1;
    memset(&error, 0x5A, sizeof(error));
    cr_expect_null(cai_array_new(pool, row->dtype, row->ndim, shape, -1, memory, NULL, &error), "%s", row->name);
    cr_expect_eq(error.status, row->status, "%s: %s", row->name, cai_status_name(error.status));
    cr_expect_eq(error.cuda_code, 0, "%s", row->name);
    cr_expect_null(cai_array_new(pool, row->dtype, row->ndim, shape, -1, memory, NULL, NULL), "%s", row->name);
    cr_expect_eq(pool->references, 1, "%s", row->name);
}

Test(array, pitfall_16_bad_input)
{
    cai_order_pool_t *pool = new_pool();
    for (size_t i = 0; i < UNIT_COUNT(bad_arrays); i++)
        expect_no_array(&bad_arrays[i], pool, CAI_MEMORY_HOST);
    cai_order_pool_release(pool);
}

Test(array, as_many_dimensions_as_there_may_be)
{
    int64_t      shape[CAI_MAX_NDIM];
    cai_array_t *array;
    for (int i = 0; i < CAI_MAX_NDIM; i++)
        shape[i] = i < 10 ? 2 : 1;
    array = cai_array_new(NULL, cai_int16(), CAI_MAX_NDIM, shape, -1, CAI_MEMORY_HOST, NULL, NULL);
    cr_assert_not_null(array);
    cr_expect_eq(cai_tensor_nbytes(&array->tensor), 2048);
    cr_expect_eq(array->tensor.strides[0], 512);
    cr_expect_eq(array->tensor.strides[9], 1);
    cr_expect_eq(array->tensor.strides[63], 1);
    cai_array_release(array);
}

/* ---- wrapping ---------------------------------------------------------------------------------------------------- */

Test(array, wrap_copies_the_tensor)
{
    int64_t      shape[2] = {2, 3}, strides[2] = {-1, 4};
    int32_t      memory[16];
    owner_t      owner;
    cai_tensor_t tensor;
    cai_array_t *array;
    make_owner(&owner, NULL);
    fill_tensor(&tensor, memory, CAI_DEVICE_CPU, 0, shape);
    tensor.ndim = 2;
    tensor.strides = strides;
    tensor.byte_offset = 8;
    array = cai_array_wrap(NULL, &tensor, 0, &owner, delete_owner, NULL);
    cr_assert_not_null(array);
    memset(shape, 0x5A, sizeof(shape));
    memset(strides, 0x5A, sizeof(strides));
    memset(&tensor, 0x5A, sizeof(tensor));
    cr_expect_eq(array->abi, 1);
    cr_expect_eq(array->tensor.data, (void *)(memory + 2));
    cr_expect_eq(array->tensor.byte_offset, 0);
    cr_expect_eq(array->tensor.ndim, 2);
    cr_expect_eq(array->tensor.shape[0], 2);
    cr_expect_eq(array->tensor.shape[1], 3);
    cr_expect_eq(array->tensor.strides[0], -1);
    cr_expect_eq(array->tensor.strides[1], 4);
    cr_expect_eq(array->tensor.device.device_type, CAI_DEVICE_CPU);
    cr_expect(cai_dtype_equal(array->tensor.dtype, cai_int32()));
    cr_expect_null(array->stream);
    cr_expect_null(array->object(array));
    cr_expect_eq(owner.deletions, 0);
    cai_array_release(array);
    cr_expect_eq(owner.deletions, 1);
}

Test(array, wrap_without_strides)
{
    int64_t      shape[3] = {2, 3, 4};
    int32_t      memory[24];
    cai_tensor_t tensor;
    cai_array_t *array;
    fill_tensor(&tensor, memory, CAI_DEVICE_CPU, 0, shape);
    tensor.ndim = 3;
    array = cai_array_wrap(NULL, &tensor, 0, NULL, NULL, NULL);
    cr_assert_not_null(array);
    cr_assert_not_null(array->tensor.strides);
    cr_expect_eq(array->tensor.strides[0], 12);
    cr_expect_eq(array->tensor.strides[1], 4);
    cr_expect_eq(array->tensor.strides[2], 1);
    cai_array_release(array); /* nobody to tell */
}

/* Empty arrays have no address, whatever they came with; those of 0 dimensions have no shape. */
Test(array, wrap_of_nothing_and_of_one)
{
    int64_t      shape[1] = {0};
    int32_t      memory[1];
    owner_t      owner;
    cai_tensor_t tensor;
    cai_array_t *array;
    make_owner(&owner, NULL);
    fill_tensor(&tensor, memory, CAI_DEVICE_CPU, 0, shape);
    array = cai_array_wrap(NULL, &tensor, 0, &owner, delete_owner, NULL);
    cr_assert_not_null(array);
    cr_expect_null(array->tensor.data);
    cai_array_release(array);
    cr_expect_eq(owner.deletions, 1);
    tensor.ndim = 0;
    tensor.shape = NULL;
    array = cai_array_wrap(NULL, &tensor, 0, &owner, delete_owner, NULL);
    cr_assert_not_null(array);
    cr_expect_eq(array->tensor.data, (void *)memory);
    cai_array_release(array);
    cr_expect_eq(owner.deletions, 2);
}

Test(array, pitfall_35_wrap_keeps_flags)
{
    static const uint64_t flags[] = {0, CAI_READONLY, CAI_FREE_IN_ORDER, CAI_SUBBYTE_PADDED,
                                     CAI_READONLY | CAI_FREE_IN_ORDER | CAI_SUBBYTE_PADDED};
    for (size_t i = 0; i < UNIT_COUNT(flags); i++) {
        int64_t      shape[1] = {1};
        int32_t      memory[1];
        cai_tensor_t tensor;
        cai_array_t *array;
        fill_tensor(&tensor, memory, CAI_DEVICE_CPU, 0, shape);
        array = cai_array_wrap(NULL, &tensor, flags[i], NULL, NULL, NULL);
        cr_assert_not_null(array);
        cr_expect_eq(array->flags, flags[i], "%zu", i);
        cai_array_release(array);
    }
}

/* On failure the caller still owns: the deleter has not run. */
Test(array, wrap_refuses)
{
    cai_order_pool_t *pool = new_pool();
    for (int which = 0; which < 7; which++) {
        static const cai_status_t statuses[] = {CAI_ERROR_INCOMPLETE_INTERFACE, CAI_ERROR_INVALID_SHAPE,
                                                CAI_ERROR_INVALID_SHAPE,        CAI_ERROR_UNKNOWN_DTYPE,
                                                CAI_ERROR_INVALID_SHAPE,        CAI_ERROR_INVALID_STRIDES,
                                                CAI_ERROR_MISSING_DELETER};
        int64_t                   shape[1] = {4}, strides[1] = {1};
        int32_t                   memory[4];
        owner_t                   owner;
        cai_tensor_t              tensor;
        cai_error_t               error;
        make_owner(&owner, NULL);
        fill_tensor(&tensor, memory, CAI_DEVICE_CPU, 0, shape);
        tensor.strides = strides;
        tensor.data = which == 0 ? NULL : memory;
        tensor.ndim = which == 1 ? -1 : which == 2 ? CAI_MAX_NDIM + 1 : 1;
        tensor.dtype.code = which == 3 ? 200 : tensor.dtype.code;
        shape[0] = which == 4 ? -4 : 4;
        strides[0] = which == 5 ? INT64_MAX / 2 : 1;
        memset(&error, 0x5A, sizeof(error));
        cr_expect_null(cai_array_wrap(pool, &tensor, 0, &owner, which == 6 ? NULL : delete_owner, &error), "%d", which);
        cr_expect_eq(error.status, statuses[which], "%d: %s", which, cai_status_name(error.status));
        cr_expect_null(cai_array_wrap(pool, &tensor, 0, &owner, which == 6 ? NULL : delete_owner, NULL), "%d", which);
        cr_expect_eq(owner.deletions, 0, "%d", which);
        cr_expect_eq(pool->references, 1, "%d", which);
    }
    cai_order_pool_release(pool);
}

/* ---- counting ---------------------------------------------------------------------------------------------------- */

static cai_array_t *wrap_host(cai_order_pool_t *pool, owner_t *owner)
{
    static int32_t memory[1];
    static int64_t shape[1] = {1};
    cai_tensor_t   tensor;
    cai_array_t   *array;
    make_owner(owner, NULL);
    fill_tensor(&tensor, memory, CAI_DEVICE_CPU, 0, shape);
    array = cai_array_wrap(pool, &tensor, 0, owner, delete_owner, NULL);
    cr_assert_not_null(array);
    return array;
}

Test(array, references)
{
    owner_t      owner;
    cai_array_t *array = wrap_host(NULL, &owner);
    cr_expect_eq(cai_array_retain(array), array);
    cr_expect_eq(cai_array_retain(array), array);
    cai_array_release(array);
    cai_array_release(array);
    cr_expect_eq(owner.deletions, 0);
    cai_array_release(array);
    cr_expect_eq(owner.deletions, 1);
    cai_array_release(NULL);
}

/* The pool outlives whoever made it, as long as an array needs it. */
Test(array, the_pool_is_kept)
{
    owner_t           owner;
    cai_order_pool_t *pool = new_pool();
    cai_array_t      *array = wrap_host(pool, &owner);
    cai_order_pool_release(pool);
    cr_expect_eq(pool->references, 1);
    cai_array_release(array);
    cr_expect_eq(owner.deletions, 1);
}

enum { N_THREADS = 4, N_ROUNDS = 2000 };

static void *retain_and_release(void *argument)
{
    cai_array_t *array = (cai_array_t *)argument;
    for (int i = 0; i < N_ROUNDS; i++) {
        (void)cai_array_retain(array);
        (void)cai_array_retain(array);
        cai_array_release(array);
        cai_array_release(array);
    }
    cai_array_release(array); /* the thread's own */
    return NULL;
}

Test(array, references_of_many_threads)
{
    for (int round = 0; round < 20; round++) {
        owner_t      owner;
        cai_array_t *array = wrap_host(NULL, &owner);
        pthread_t    threads[N_THREADS];
        for (int i = 0; i < N_THREADS; i++)
            cr_assert_eq(pthread_create(&threads[i], NULL, retain_and_release, cai_array_retain(array)), 0);
        if (round % 2 == 0)
            cai_array_release(array); /* whoever is last has it freed */
        for (int i = 0; i < N_THREADS; i++)
            cr_assert_eq(pthread_join(threads[i], NULL), 0);
        cr_expect_eq(owner.deletions, round % 2 == 0, "round %d", round);
        if (round % 2 != 0)
            cai_array_release(array);
        cr_expect_eq(owner.deletions, 1, "round %d", round);
    }
}

/* Functions of another maker, who counts in his own way. */
static int n_foreign_calls;

static void foreign_count(cai_array_t *array)
{
    (void)array;
    n_foreign_calls++;
}

static cai_status_t foreign_used_on(cai_array_t *array, cai_stream_t stream)
{
    n_foreign_calls++;
    return array->stream == NULL && stream != NULL ? CAI_OK : CAI_ERROR_STREAM_CAPTURE;
}

static void *foreign_object(cai_array_t *array)
{
    return array;
}

Test(array, arrays_of_another_maker)
{
    cai_array_t array;
    owner_t     owner;
    memset(&array, 0, sizeof(array));
    array.abi = CAI_ARRAY_ABI;
    array.size = sizeof(array);
    array.retain = array.release = foreign_count;
    array.used_on = foreign_used_on;
    array.object = foreign_object;
    make_owner(&owner, NULL);
    cr_expect_eq(cai_array_retain(&array), &array);
    cai_array_release(&array);
    cr_expect_eq(cai_array_used_on(&array, NULL), CAI_OK, "0 is legacy");
    cr_expect_eq(n_foreign_calls, 3);
    cr_expect_eq(cai_array_set_stream(&array, CAI_STREAM_LEGACY, &owner, delete_owner), CAI_ERROR_OBJECT_OWNERSHIP);
    cr_expect_null(array.stream);
    cr_expect_eq(owner.deletions, 0);
    cr_expect_eq(n_foreign_calls, 3);
}

#if defined(CAI_NO_CUDA)

/* ---- without CUDA ------------------------------------------------------------------------------------------------ */

Test(array, only_host_memory_without_cuda)
{
    static const cai_memory_t memories[] = {CAI_MEMORY_DEVICE, CAI_MEMORY_DEVICE_NO_POOL, CAI_MEMORY_MANAGED,
                                            CAI_MEMORY_PINNED};
    static const int64_t      shape[1] = {3};
    for (size_t i = 0; i < UNIT_COUNT(memories); i++) {
        cai_error_t error;
        cr_expect_null(cai_array_new(NULL, cai_float32(), 1, shape, 0, memories[i], NULL, &error), "%zu", i);
        cr_expect_eq(error.status, CAI_ERROR_DEVICE_MISMATCH, "%zu", i);
    }
}

/* Device memory of others can be described, and goes back to its owner. */
Test(array, wrapped_device_memory_without_cuda)
{
    int64_t      shape[1] = {3};
    owner_t      owner;
    cai_tensor_t tensor;
    cai_array_t *array;
    make_owner(&owner, NULL);
    fill_tensor(&tensor, (void *)(uintptr_t)0x7F0000001000, CAI_DEVICE_CUDA, 1, shape);
    array = cai_array_wrap(NULL, &tensor, 0, &owner, delete_owner, NULL);
    cr_assert_not_null(array);
    cr_expect_eq(array->tensor.device.device_id, 1);
    cr_expect_eq(cai_array_set_stream(array, CAI_STREAM_LEGACY, NULL, NULL), CAI_OK);
    cr_expect_eq(cai_array_used_on(array, CAI_STREAM_LEGACY), CAI_OK);
    cr_expect_eq(cai_array_used_on(array, CAI_STREAM_PER_THREAD), CAI_ERROR_DEVICE_MISMATCH);
    cai_array_release(array);
    cr_expect_eq(owner.deletions, 1);
}

#else

#include "unit_cuda.h"

static const struct {
    const char  *name;
    cai_memory_t memory;
    int32_t      device_type;
    bool         numbered; /* whether its device has a number */
    const char  *kind;     /* as the emulator calls it */
} memories[] = {
    {"device", CAI_MEMORY_DEVICE, CAI_DEVICE_CUDA, true, "pool"},
    {"device without the pool", CAI_MEMORY_DEVICE_NO_POOL, CAI_DEVICE_CUDA, true, "device"},
    {"managed", CAI_MEMORY_MANAGED, CAI_DEVICE_CUDA_MANAGED, true, "managed"},
    {"pinned", CAI_MEMORY_PINNED, CAI_DEVICE_CUDA_HOST, false, "pinned"},
};

static const int64_t four[1] = {4};

static cai_array_t *new_array(cai_order_pool_t *pool, cai_memory_t memory, int32_t device_id, cai_stream_t stream)
{
    cai_error_t  error;
    cai_array_t *array = cai_array_new(pool, cai_int32(), 1, four, device_id, memory, stream, &error);
    cr_assert_not_null(array);
    return array;
}

/* Managed, so that the test may look at it while work is pending. */
static int *new_int(void)
{
    int *memory = NULL;
    UNIT_CUDA(cudaMallocManaged((void **)&memory, sizeof(int), cudaMemAttachGlobal));
    *memory = 0;
    return memory;
}

/* How often the host was blocked. */
static void count_block(const char *name, void *context)
{
    (void)name;
    ++*(int *)context;
}

/* What is in the array when the work on `stream` so far is done: 0x01010101 if it is not freed before. */
enum { ALIVE = 0x01010101 };

static void use_late(const cai_array_t *array, cai_stream_t stream, int *seen)
{
    UNIT_CUDA(cudaMemsetAsync(array->tensor.data, 1, 4 * sizeof(int32_t), stream));
    UNIT_CUDA(cudaMemcpyAsync(seen, array->tensor.data, sizeof(int), cudaMemcpyDefault, stream));
}

/* ---- making, with CUDA ------------------------------------------------------------------------------------------- */

Test(array, pitfall_55_new_in_every_memory)
{
    for (size_t i = 0; i < UNIT_COUNT(memories); i++) {
        for (size_t j = 0; j < UNIT_COUNT(shapes); j++) {
            for (int current = 0; current < 2; current++) {
                for (int32_t device = -1; device < 2; device++) {
                    const shape_case_t   *row = &shapes[j];
                    const int32_t         expected = device < 0 ? current : device;
                    emulator_allocation_t allocation;
                    cai_array_t          *array;
                    char                  name[128];
                    snprintf(name, sizeof(name), "%s, %s, device %d current, device %d", memories[i].name, row->name,
                             current, device);
                    UNIT_CUDA(cudaSetDevice(current));
                    array = cai_array_new(NULL, cai_float64(), row->ndim, row->shape, device, memories[i].memory, NULL,
                                          NULL);
                    cr_assert_not_null(array, "%s", name);
                    cr_expect_eq(unit_current_device(), current, "%s", name);
                    expect_array(array, row, cai_float64(), name);
                    cr_expect_eq(array->stream, CAI_STREAM_LEGACY, "%s", name);
                    cr_expect_eq(array->tensor.device.device_type, memories[i].device_type, "%s", name);
                    cr_expect_eq(array->tensor.device.device_id, memories[i].numbered ? expected : 0, "%s", name);
                    cr_expect_eq((uintptr_t)array->tensor.data % 256, 0, "%s: alignment", name);
                    cr_expect_eq(emulator_count_allocations(), row->elements > 0, "%s", name);
                    if (row->elements > 0) {
                        cr_assert_eq(emulator_get_allocation(0, &allocation), 0);
                        cr_expect_str_eq(allocation.kind, memories[i].kind, "%s", name);
                        cr_expect_eq(allocation.pointer, array->tensor.data, "%s", name);
                        cr_expect_eq(allocation.size, row->elements * sizeof(double), "%s", name);
                        if (memories[i].numbered)
                            cr_expect_eq(allocation.device, expected, "%s", name);
                    }
                    cai_array_release(array);
                    cr_expect_eq(emulator_count_allocations(), 0, "%s", name);
                    cr_expect_eq(unit_current_device(), current, "%s", name);
                }
            }
        }
    }
    cr_expect_eq(emulator_cudaPeekAtLastError(), cudaSuccess);
    UNIT_NO_VIOLATIONS();
}

Test(array, new_with_a_stream)
{
    const cai_stream_t streams[] = {CAI_STREAM_LEGACY, CAI_STREAM_PER_THREAD, unit_stream(cudaStreamNonBlocking)};
    for (size_t i = 0; i < UNIT_COUNT(memories); i++) {
        for (size_t j = 0; j < UNIT_COUNT(streams); j++) {
            cai_array_t *array = new_array(NULL, memories[i].memory, 0, streams[j]);
            cr_expect_eq(array->stream, streams[j], "%s", memories[i].name);
            cai_array_release(array);
        }
    }
    cr_expect_eq(emulator_count_allocations(), 0);
    UNIT_NO_VIOLATIONS();
}

/* A host array makes no call of CUDA, from its making to its end, whatever stream and device are said. */
Test(array, host_memory_calls_no_cuda)
{
    cai_array_t *array;
    emulator_clear_calls();
    array = cai_array_new(NULL, cai_int8(), 1, four, 7, CAI_MEMORY_HOST, CAI_STREAM_LEGACY, NULL);
    cr_assert_not_null(array);
    cr_expect_null(array->stream);
    cai_array_release(array);
    cr_expect_eq(emulator_count_calls(NULL), 0);
}

Test(array, pitfall_16_bad_input_of_every_memory)
{
    cai_order_pool_t *pool = new_pool();
    for (size_t i = 0; i < UNIT_COUNT(memories); i++) {
        for (size_t j = 0; j < UNIT_COUNT(bad_arrays); j++)
            expect_no_array(&bad_arrays[j], pool, memories[i].memory);
    }
    cr_expect_eq(emulator_count_allocations(), 0);
    cr_expect_eq(emulator_cudaPeekAtLastError(), cudaSuccess);
    cai_order_pool_release(pool);
    UNIT_NO_VIOLATIONS();
}

Test(array, no_memory)
{
    static const char *const calls[] = {"cudaMallocAsync", "cudaMalloc", "cudaMallocManaged", "cudaHostAlloc"};
    for (size_t i = 0; i < UNIT_COUNT(memories); i++) {
        cai_error_t error;
        cr_assert_eq(emulator_fail(calls[i], 1, cudaErrorMemoryAllocation), 0);
        cr_expect_null(cai_array_new(NULL, cai_int32(), 1, four, 1, memories[i].memory, NULL, &error));
        cr_expect_eq(emulator_count_failures(), 0, "%s", memories[i].name);
        cr_expect_eq(error.status, CAI_ERROR_MEMORY, "%s", memories[i].name);
        cr_expect_eq(emulator_cudaPeekAtLastError(), cudaSuccess, "%s", memories[i].name);
        cr_expect_eq(unit_current_device(), 0, "%s", memories[i].name);
        cr_expect_eq(unit_capture_mode(), cudaStreamCaptureModeGlobal, "%s", memories[i].name);
        cr_assert_eq(emulator_fail(calls[i], 1, cudaErrorIllegalAddress), 0);
        cr_expect_null(cai_array_new(NULL, cai_int32(), 1, four, 1, memories[i].memory, NULL, &error));
        cr_expect_eq(error.status, CAI_ERROR_CUDA_CALL, "%s", memories[i].name);
        cr_expect_eq(error.cuda_code, cudaErrorIllegalAddress, "%s", memories[i].name);
    }
}

Test(array, pitfall_55_no_such_device)
{
    for (size_t i = 0; i < UNIT_COUNT(memories); i++) {
        cai_error_t error;
        cr_expect_null(cai_array_new(NULL, cai_int32(), 1, four, 7, memories[i].memory, NULL, &error));
        cr_expect_eq(error.status, CAI_ERROR_CUDA_CALL, "%s", memories[i].name);
        cr_expect_eq(error.cuda_code, cudaErrorInvalidDevice, "%s", memories[i].name);
        cr_expect_eq(unit_current_device(), 0, "%s", memories[i].name);
        cr_expect_eq(emulator_cudaPeekAtLastError(), cudaSuccess, "%s", memories[i].name);
    }
}

/* Memory that is allocated on a capturing stream would be the graph's. */
Test(array, pitfall_51_new_on_a_capturing_stream)
{
    cai_order_pool_t  *pool = new_pool();
    const cai_stream_t stream = unit_stream(cudaStreamNonBlocking), blocking = unit_stream(cudaStreamDefault);
    cai_error_t        error;
    UNIT_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    UNIT_CUDA(cudaStreamBeginCapture(blocking, cudaStreamCaptureModeGlobal));
    for (int with_pool = 0; with_pool < 2; with_pool++) {
        const cai_stream_t streams[] = {stream, blocking, CAI_STREAM_LEGACY};
        for (size_t i = 0; i < UNIT_COUNT(streams); i++) {
            cr_expect_null(
                cai_array_new(with_pool ? pool : NULL, cai_int32(), 1, four, 0, CAI_MEMORY_DEVICE, streams[i], &error));
            cr_expect_eq(error.status, CAI_ERROR_STREAM_CAPTURE, "%zu", i);
        }
    }
    cr_expect_eq(pool->references, 1, "what was refused is gone");
    cr_expect_null(pool->deferred, "what was refused is gone");
    cr_expect_eq(emulator_count_calls("cudaMallocAsync"), 0);
    unit_end_capture(stream, "non-blocking");
    unit_end_capture(blocking, "blocking");
    cai_order_pool_release(pool);
    cr_expect_eq(emulator_cudaPeekAtLastError(), cudaSuccess);
    UNIT_NO_VIOLATIONS();
}

/* Making and freeing beside a capture that minds everybody. */
Test(array, pitfall_51_captures_elsewhere_stay_intact)
{
    static const enum cudaStreamCaptureMode modes[] = {cudaStreamCaptureModeGlobal, cudaStreamCaptureModeThreadLocal,
                                                       cudaStreamCaptureModeRelaxed};
    const cai_stream_t                      capturing = unit_stream(cudaStreamNonBlocking);
    const cai_stream_t                      stream = unit_stream(cudaStreamNonBlocking);
    for (size_t i = 0; i < UNIT_COUNT(memories); i++) {
        for (size_t j = 0; j < UNIT_COUNT(modes); j++) {
            for (int foreign = 0; foreign < 2; foreign++) {
                cai_array_t *array;
                UNIT_CUDA(cudaStreamBeginCapture(capturing, modes[j]));
                array = new_array(NULL, memories[i].memory, 0, stream);
                if (foreign)
                    cr_expect_eq(array->used_on(array, NULL), CAI_OK);
                cr_expect_eq(emulator_count_allocations(), 1, "%s", memories[i].name);
                cai_array_release(array);
                cr_expect_eq(emulator_count_allocations(), 0, "%s: freed at once", memories[i].name);
                unit_end_capture(capturing, memories[i].name);
                cr_expect_eq(unit_capture_mode(), cudaStreamCaptureModeGlobal, "%s", memories[i].name);
            }
        }
    }
    UNIT_NO_VIOLATIONS();
}

/* ---- freeing ----------------------------------------------------------------------------------------------------- */

static size_t count_calls_on(const char *name, cai_stream_t stream)
{
    emulator_call_t call;
    size_t          count = 0;
    for (size_t i = 0; emulator_get_call(i, &call) == 0; i++)
        count += strcmp(call.name, name) == 0 && call.stream == stream;
    return count;
}

Test(array, pitfall_56_freed_in_stream_order_without_waiting)
{
    const cai_stream_t streams[] = {unit_stream(cudaStreamNonBlocking), unit_stream(cudaStreamDefault),
                                    CAI_STREAM_LEGACY, CAI_STREAM_PER_THREAD};
    for (size_t i = 0; i < UNIT_COUNT(streams); i++) {
        int          blocks = 0, *seen = new_int();
        cai_array_t *array = new_array(NULL, CAI_MEMORY_DEVICE, 0, streams[i]);
        UNIT_CUDA(cudaStreamSynchronize(streams[i]));
        use_late(array, streams[i], seen);
        emulator_clear_calls();
        emulator_set_blocking_hook(count_block, &blocks);
        cai_array_release(cai_array_retain(array));
        cr_expect_eq(emulator_count_calls(NULL), 0, "%zu: somebody has it", i);
        cai_array_release(array);
        cr_expect_eq(count_calls_on("cudaFreeAsync", streams[i]), 1, "%zu", i);
        cr_expect_eq(emulator_count_calls("cudaFree"), 0, "%zu: no barrier", i);
        cr_expect_eq(emulator_count_calls("cudaMalloc"), 0, "%zu: no barrier", i);
        cr_expect_eq(blocks, 0, "%zu: the host waited", i);
        cr_expect_eq(*seen, 0, "%zu: the work is pending", i);
        cr_expect_eq(emulator_pool_bytes(0), 16, "%zu: the free is pending", i);
        emulator_set_blocking_hook(NULL, NULL);
        UNIT_CUDA(cudaStreamSynchronize(streams[i]));
        cr_expect_eq(*seen, ALIVE, "%zu", i);
        cr_expect_eq(emulator_pool_bytes(0), 0, "%zu", i);
        UNIT_CUDA(cudaFree(seen));
    }
    cr_expect_eq(emulator_count_allocations(), 0);
    UNIT_NO_VIOLATIONS();
}

/* The calls since they were cleared, by name. */
static void expect_calls(const char *const *names, size_t count, const char *what)
{
    emulator_call_t call;
    for (size_t i = 0; i < count; i++) {
        cr_assert_eq(emulator_get_call(i, &call), 0, "%s: call %zu is missing, %s", what, i, names[i]);
        cr_expect_str_eq(call.name, names[i], "%s: call %zu", what, i);
    }
    cr_expect_eq(emulator_count_calls(NULL), count, "%s", what);
    emulator_clear_calls();
}

#define EXCHANGE "cudaThreadExchangeStreamCaptureMode"

/* Nothing is asked of CUDA that is known: where there is one device, it is current; a handle tells its device. */
Test(array, calls_of_making_and_freeing)
{
    static const char *const made[] = {"cudaGetDevice", "cudaStreamIsCapturing", EXCHANGE, "cudaMallocAsync", EXCHANGE};
    static const char *const freed[] = {"cudaGetDevice", "cudaStreamIsCapturing", "cudaGetDevice",
                                        EXCHANGE,        "cudaFreeAsync",         EXCHANGE};
    static const char *const freed_alone[] = {"cudaStreamIsCapturing", EXCHANGE, "cudaFreeAsync", EXCHANGE};
    for (int devices = 1; devices <= 2; devices++) {
        cai_order_pool_t *pool;
        cr_assert_eq(emulator_set_device_count(devices), 0);
        pool = new_pool();
        cai_array_release(new_array(pool, CAI_MEMORY_DEVICE, 0, NULL)); /* the devices are counted once */
        for (int32_t device = -1; device < 1; device++) {
            const cai_stream_t streams[] = {unit_stream(cudaStreamNonBlocking), CAI_STREAM_LEGACY};
            for (size_t i = 0; i < UNIT_COUNT(streams); i++) {
                const bool   asks = devices > 1 && streams[i] == CAI_STREAM_LEGACY;
                cai_array_t *array;
                char         what[64];
                snprintf(what, sizeof(what), "%d devices, device %d, stream %zu", devices, device, i);
                emulator_clear_calls();
                array = new_array(pool, CAI_MEMORY_DEVICE, device, streams[i]);
                expect_calls(devices > 1 ? made : made + 1, UNIT_COUNT(made) - (devices > 1 ? 0 : 1), what);
                cai_array_release(array);
                expect_calls(asks ? freed : freed_alone, asks ? UNIT_COUNT(freed) : UNIT_COUNT(freed_alone), what);
            }
        }
        cai_order_pool_release(pool);
    }
    cr_expect_eq(emulator_count_allocations(), 0);
    UNIT_NO_VIOLATIONS();
}

/* A free by a handle of the device that is not current: its pool counts the memory as free. */
Test(array, freed_by_a_handle_of_another_device)
{
    cai_order_pool_t *pool = new_pool();
    for (int32_t current = 0; current < 2; current++) {
        cai_stream_t stream;
        cai_array_t *array;
        UNIT_CUDA(cudaSetDevice(1));
        stream = unit_stream(cudaStreamNonBlocking);
        array = new_array(pool, CAI_MEMORY_DEVICE, 1, stream);
        UNIT_CUDA(cudaSetDevice(current));
        cai_array_release(array);
        cr_expect_eq(count_calls_on("cudaFreeAsync", stream), 1, "%d", current);
        UNIT_CUDA(cudaStreamSynchronize(stream));
        cr_expect_eq(emulator_pool_bytes(1), 0, "%d", current);
        cr_expect_eq(unit_current_device(), current, "%d", current);
    }
    cai_order_pool_release(pool);
    UNIT_NO_VIOLATIONS();
}

/* Memory that is in no pool: the freeing call waits for the device by itself, once. */
Test(array, pitfall_56_other_memory_is_freed_after_the_device)
{
    for (size_t i = 1; i < UNIT_COUNT(memories); i++) {
        const cai_stream_t elsewhere = unit_stream(cudaStreamNonBlocking);
        int                blocks = 0, *seen = new_int();
        cai_array_t       *array = new_array(NULL, memories[i].memory, 0, NULL);
        use_late(array, elsewhere, seen);
        emulator_set_blocking_hook(count_block, &blocks);
        cai_array_release(array);
        emulator_set_blocking_hook(NULL, NULL);
        cr_expect_eq(blocks, 1, "%s: %d", memories[i].name, blocks);
        cr_expect_eq(*seen, ALIVE, "%s", memories[i].name);
        UNIT_CUDA(cudaFree(seen));
    }
    cr_expect_eq(emulator_count_allocations(), 0);
    UNIT_NO_VIOLATIONS();
}

/* Somebody uses the memory on a stream that nobody told: the free waits for him, in the one way that reaches streams that
 * wait for nobody; unless the author knows that nobody does. */
Test(array, pitfall_56_unknown_use_is_waited_for)
{
    for (int32_t device = 0; device < 2; device++) {
        for (int in_order = 0; in_order < 2; in_order++) {
            cai_stream_t stream, unrelated;
            int          blocks = 0, *seen = new_int();
            cai_array_t *array;
            UNIT_CUDA(cudaSetDevice(device));
            stream = unit_stream(cudaStreamNonBlocking);
            unrelated = unit_stream(cudaStreamNonBlocking);
            array = new_array(NULL, CAI_MEMORY_DEVICE, device, stream);
            UNIT_CUDA(cudaStreamSynchronize(stream));
            use_late(array, unrelated, seen);
            UNIT_CUDA(cudaSetDevice(0));
            cr_expect_eq(array->used_on(array, NULL), CAI_OK);
            if (in_order)
                array->flags |= CAI_FREE_IN_ORDER;
            emulator_clear_calls();
            emulator_set_blocking_hook(count_block, &blocks);
            cai_array_release(array);
            emulator_set_blocking_hook(NULL, NULL);
            cr_expect_eq(blocks > 0, !in_order, "device %d, in order %d", device, in_order);
            cr_expect_eq(*seen, in_order ? 0 : ALIVE, "device %d, in order %d: %x", device, in_order, (unsigned)*seen);
            cr_expect_eq(emulator_count_calls("cudaDeviceSynchronize"), 0, "it breaks captures");
            cr_expect_eq(emulator_count_allocations(), 1, "device %d, in order %d", device, in_order);
            cr_expect_eq(unit_current_device(), 0);
            (void)emulator_run_all();
            cr_expect_eq(emulator_pool_bytes(device), 0);
            if (!in_order)
                UNIT_NO_VIOLATIONS();
            emulator_clear_violations();
            UNIT_CUDA(cudaFree(seen));
        }
    }
}

/* The barrier of a full device: there may be no memory for it, and it has to wait all the same. */
Test(array, pitfall_56_unknown_use_on_a_full_device)
{
    const cai_stream_t stream = unit_stream(cudaStreamNonBlocking), unrelated = unit_stream(cudaStreamNonBlocking);
    int               *seen = new_int();
    cai_array_t       *array = new_array(NULL, CAI_MEMORY_DEVICE, 0, stream);
    UNIT_CUDA(cudaStreamSynchronize(stream));
    use_late(array, unrelated, seen);
    cr_expect_eq(array->used_on(array, NULL), CAI_OK);
    cr_assert_eq(emulator_fail("cudaMalloc", 1, cudaErrorMemoryAllocation), 0);
    cai_array_release(array);
    (void)emulator_run_all();
    cr_expect_eq(emulator_count_failures(), 0);
    cr_expect_eq(*seen, ALIVE, "%x", (unsigned)*seen);
    cr_expect_eq(emulator_count_allocations(), 1, "freed");
    cr_expect_eq(emulator_cudaPeekAtLastError(), cudaSuccess);
    UNIT_NO_VIOLATIONS();
}

/* "I enqueued work on it there": the free is after that work, and the host does not wait. */
Test(array, pitfall_56_freed_after_told_use)
{
    cai_order_pool_t *pool = new_pool();
    for (int told = 0; told < 2; told++) {
        const cai_stream_t stream = unit_stream(cudaStreamNonBlocking), other = unit_stream(cudaStreamNonBlocking);
        int                blocks = 0, *seen = new_int();
        cai_array_t       *array = new_array(pool, CAI_MEMORY_DEVICE, 0, stream);
        UNIT_CUDA(cudaStreamSynchronize(stream));
        use_late(array, other, seen);
        emulator_set_blocking_hook(count_block, &blocks);
        if (told)
            cr_expect_eq(cai_array_used_on(array, other), CAI_OK);
        cai_array_release(array);
        emulator_set_blocking_hook(NULL, NULL);
        cr_expect_eq(blocks, 0);
        cr_expect_eq(*seen, 0);
        UNIT_CUDA(cudaStreamSynchronize(stream));
        cr_expect_eq(emulator_pool_bytes(0), 0);
        cr_expect_eq(*seen, told ? ALIVE : 0, "told %d", told);
        UNIT_CUDA(cudaStreamSynchronize(other));
        if (told)
            UNIT_NO_VIOLATIONS();
        else
            cr_expect_neq(emulator_count_violations(), 0, "the test cannot fail");
        emulator_clear_violations();
        UNIT_CUDA(cudaFree(seen));
    }
    cai_order_pool_release(pool);
    cr_expect_eq(emulator_count_events(), 0);
}

/* Where the array's stream already is there is nothing to order; 0 is what legacy is called. */
Test(array, used_on_its_own_stream)
{
    cai_array_t *array = new_array(NULL, CAI_MEMORY_DEVICE, 0, NULL);
    emulator_clear_calls();
    cr_expect_eq(cai_array_used_on(array, CAI_STREAM_LEGACY), CAI_OK);
    cr_expect_eq(cai_array_used_on(array, NULL), CAI_OK);
    cr_expect_eq(emulator_count_calls(NULL), 0);
    cai_array_release(array);
    cr_expect_eq(emulator_count_calls("cudaFree"), 0, "a known use is no unknown one");
}

static cai_array_t *wrap_int(cai_order_pool_t *pool, int *memory, uint64_t flags, owner_t *owner, int *seen_at)
{
    int64_t      shape[1] = {1};
    cai_tensor_t tensor;
    cai_array_t *array;
    make_owner(owner, seen_at);
    fill_tensor(&tensor, memory, CAI_DEVICE_CUDA_MANAGED, 0, shape);
    array = cai_array_wrap(pool, &tensor, flags, owner, delete_owner, NULL);
    cr_assert_not_null(array);
    return array;
}

/* An owner's memory goes back when the work that cai was told of is done. */
Test(array, pitfall_56_deleter_after_told_use)
{
    const cai_stream_t streams[] = {unit_stream(cudaStreamNonBlocking), CAI_STREAM_LEGACY, CAI_STREAM_PER_THREAD};
    for (size_t i = 0; i < UNIT_COUNT(streams); i++) {
        int         *memory = new_int();
        owner_t      owner;
        cai_array_t *array = wrap_int(NULL, memory, 0, &owner, memory);
        unit_write_late(streams[i], memory);
        cr_expect_eq(cai_array_used_on(array, streams[i]), CAI_OK);
        cr_expect_not_null(array->stream, "an array without a stream gets this one");
        cr_expect_eq(*memory, 0);
        cai_array_release(array);
        cr_expect_eq(owner.deletions, 1, "%zu", i);
        cr_expect_eq(owner.seen, 1, "%zu: the deleter ran before the work", i);
    }
    UNIT_NO_VIOLATIONS();
}

Test(array, pitfall_56_deleter_after_unknown_use)
{
    for (int in_order = 0; in_order < 2; in_order++) {
        const cai_stream_t unrelated = unit_stream(cudaStreamNonBlocking);
        int               *memory = new_int();
        owner_t            owner;
        cai_array_t       *array = wrap_int(NULL, memory, in_order ? CAI_FREE_IN_ORDER : 0, &owner, memory);
        unit_write_late(unrelated, memory);
        cr_expect_eq(array->used_on(array, NULL), CAI_OK);
        cai_array_release(array);
        cr_expect_eq(owner.deletions, 1, "in order %d", in_order);
        cr_expect_eq(owner.seen, !in_order, "in order %d", in_order);
    }
    UNIT_NO_VIOLATIONS();
}

/* Host memory that the GPU still writes. */
Test(array, pitfall_56_deleter_of_host_memory_after_told_use)
{
    const cai_stream_t stream = unit_stream(cudaStreamNonBlocking);
    int               *memory = new_int();
    owner_t            owner;
    cai_array_t       *array = wrap_int(NULL, memory, 0, &owner, memory);
    array->tensor.device.device_type = CAI_DEVICE_CPU;
    unit_write_late(stream, memory);
    cr_expect_eq(cai_array_used_on(array, stream), CAI_OK);
    cai_array_release(array);
    cr_expect_eq(owner.deletions, 1);
    cr_expect_eq(owner.seen, 1);
}

Test(array, nothing_is_waited_for_where_nothing_is_pending)
{
    int          blocks = 0, *memory = new_int();
    owner_t      owner;
    cai_array_t *array = wrap_int(NULL, memory, 0, &owner, memory);
    unit_write_late(unit_stream(cudaStreamNonBlocking), memory);
    emulator_set_blocking_hook(count_block, &blocks);
    cai_array_release(array);
    emulator_set_blocking_hook(NULL, NULL);
    cr_expect_eq(blocks, 0);
    cr_expect_eq(owner.deletions, 1);
    cr_expect_eq(owner.seen, 0);
}

/* The deleter is called, and nothing is left behind, also where the device cannot be used. */
Test(array, pitfall_55_deleter_where_the_device_is_gone)
{
    int64_t      shape[1] = {1};
    owner_t      owner;
    cai_tensor_t tensor;
    cai_array_t *array;
    make_owner(&owner, NULL);
    fill_tensor(&tensor, (void *)(uintptr_t)0x7F0000001000, CAI_DEVICE_CUDA, 7, shape);
    array = cai_array_wrap(NULL, &tensor, 0, &owner, delete_owner, NULL);
    cr_assert_not_null(array);
    cai_array_release(array);
    cr_expect_eq(owner.deletions, 1);
    cr_expect_eq(unit_current_device(), 0);
    cr_expect_eq(emulator_cudaPeekAtLastError(), cudaSuccess);
}

/* ---- a stream made elsewhere ------------------------------------------------------------------------------------- */

Test(array, pitfall_56_set_stream)
{
    const cai_stream_t first = unit_stream(cudaStreamNonBlocking), second = unit_stream(cudaStreamNonBlocking);
    owner_t            of_first, of_second;
    int               *seen = new_int(), *after = new_int();
    cai_array_t       *array = new_array(NULL, CAI_MEMORY_DEVICE, 0, NULL);
    make_owner(&of_first, NULL);
    make_owner(&of_second, NULL);
    cr_expect_eq(cai_array_set_stream(array, first, &of_first, delete_owner), CAI_OK);
    cr_expect_eq(array->stream, first);
    cr_expect_eq(of_first.deletions, 0);
    use_late(array, first, seen);
    cr_expect_eq(cai_array_set_stream(array, second, &of_second, delete_owner), CAI_OK);
    cr_expect_eq(array->stream, second);
    cr_expect_eq(of_first.deletions, 1, "the array no longer needs it");
    cr_expect_eq(of_second.deletions, 0);
    UNIT_CUDA(cudaMemcpyAsync(after, seen, sizeof(int), cudaMemcpyDefault, second));
    emulator_clear_calls();
    cai_array_release(array);
    cr_expect_eq(count_calls_on("cudaFreeAsync", second), 1);
    cr_expect_eq(of_first.deletions, 1);
    cr_expect_eq(of_second.deletions, 1);
    UNIT_CUDA(cudaStreamSynchronize(second));
    cr_expect_eq(*after, ALIVE, "the work on the old stream is before the new one");
    cr_expect_eq(emulator_count_allocations(), 2);
    UNIT_NO_VIOLATIONS();
}

Test(array, set_stream_of_an_array_without_one)
{
    const cai_stream_t stream = unit_stream(cudaStreamNonBlocking);
    int               *memory = new_int();
    owner_t            owner, of_stream;
    cai_array_t       *array = wrap_int(NULL, memory, 0, &owner, memory);
    make_owner(&of_stream, NULL);
    emulator_clear_calls();
    cr_expect_eq(cai_array_set_stream(array, stream, &of_stream, delete_owner), CAI_OK);
    cr_expect_eq(emulator_count_calls(NULL), 0, "no work was pending");
    cr_expect_eq(cai_array_set_stream(array, NULL, NULL, NULL), CAI_OK);
    cr_expect_eq(array->stream, CAI_STREAM_LEGACY, "0 is legacy");
    cr_expect_eq(of_stream.deletions, 1);
    unit_write_late(CAI_STREAM_LEGACY, memory);
    cai_array_release(array);
    cr_expect_eq(owner.seen, 1);
    cr_expect_eq(of_stream.deletions, 1);
    cr_expect_eq(owner.deletions, 1);
}

Test(array, pitfall_51_set_stream_that_cannot_be_ordered)
{
    const cai_stream_t first = unit_stream(cudaStreamNonBlocking), second = unit_stream(cudaStreamNonBlocking);
    owner_t            of_first, of_second;
    cai_array_t       *array = new_array(NULL, CAI_MEMORY_DEVICE, 0, NULL);
    make_owner(&of_first, NULL);
    make_owner(&of_second, NULL);
    cr_expect_eq(cai_array_set_stream(array, first, &of_first, delete_owner), CAI_OK);
    UNIT_CUDA(cudaStreamBeginCapture(second, cudaStreamCaptureModeGlobal));
    cr_expect_eq(cai_array_set_stream(array, second, &of_second, delete_owner), CAI_ERROR_STREAM_CAPTURE);
    cr_expect_eq(cai_array_used_on(array, second), CAI_ERROR_STREAM_CAPTURE);
    cr_expect_eq(array->stream, first, "as before");
    cr_expect_eq(of_first.deletions, 0);
    cr_expect_eq(of_second.deletions, 0);
    unit_end_capture(second, "second");
    cai_array_release(array);
    cr_expect_eq(of_first.deletions, 1);
    cr_expect_eq(of_second.deletions, 0);
    cr_expect_eq(emulator_cudaPeekAtLastError(), cudaSuccess);
    UNIT_NO_VIOLATIONS();
}

/* Once it has another stream than its owner's, what is there is not in the owner's order. */
Test(array, pitfall_56_set_stream_of_what_is_ordered_back)
{
    const cai_stream_t stream = unit_stream(cudaStreamNonBlocking), owners = unit_stream(cudaStreamNonBlocking);
    int               *memory = new_int();
    owner_t            owner;
    cai_array_t       *array = wrap_int(NULL, memory, 0, &owner, memory);
    array->stream = owners;
    cai_impl_own(array)->ordered_back = true;
    cr_expect_eq(cai_array_set_stream(array, stream, NULL, NULL), CAI_OK);
    unit_write_late(stream, memory);
    cai_array_release(array);
    cr_expect_eq(owner.deletions, 1);
    cr_expect_eq(owner.seen, 1);
}

/* ---- captures ---------------------------------------------------------------------------------------------------- */

/* While the array's own stream captures, nothing of it can be freed: at the next occasion. */
Test(array, pitfall_51_released_while_its_stream_captures)
{
    for (size_t i = 0; i < UNIT_COUNT(memories); i++) {
        for (int foreign = 0; foreign < 2; foreign++) {
            cai_order_pool_t  *pool = new_pool();
            const cai_stream_t stream = unit_stream(cudaStreamNonBlocking);
            cai_array_t       *array = new_array(pool, memories[i].memory, 0, stream), *next;
            const void        *data = array->tensor.data;
            if (foreign)
                cr_expect_eq(array->used_on(array, NULL), CAI_OK);
            UNIT_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
            UNIT_CUDA(cudaMemsetAsync(array->tensor.data, 1, 16, stream));
            cai_array_release(array);
            cr_expect_eq(emulator_count_allocations(), 1, "%s: deferred", memories[i].name);
            /* An occasion that comes too early. */
            cai_array_release(cai_array_new(pool, cai_int8(), 1, four, -1, CAI_MEMORY_HOST, NULL, NULL));
            cr_expect_eq(emulator_count_allocations(), 1, "%s: deferred again", memories[i].name);
            unit_end_capture(stream, memories[i].name);
            next = cai_array_new(pool, cai_int8(), 1, four, -1, CAI_MEMORY_HOST, NULL, NULL);
            cr_assert_not_null(next);
            cr_expect_eq(emulator_count_allocations(), 0, "%s: %p is there", memories[i].name, data);
            cr_expect_eq(pool->references, 2, "%s", memories[i].name);
            cai_array_release(next);
            cai_order_pool_release(pool);
        }
    }
    cr_expect_eq(emulator_cudaPeekAtLastError(), cudaSuccess);
    UNIT_NO_VIOLATIONS();
}

/* The release of another array is an occasion too; the pool is kept by what waits in it. */
Test(array, pitfall_51_deleter_while_its_stream_captures)
{
    for (int host = 0; host < 2; host++) {
        cai_order_pool_t  *pool = new_pool();
        const cai_stream_t stream = unit_stream(cudaStreamNonBlocking);
        int               *memory = new_int();
        owner_t            owner, of_stream;
        cai_array_t       *array = wrap_int(pool, memory, 0, &owner, memory);
        cai_array_t       *other = cai_array_new(pool, cai_int8(), 1, four, -1, CAI_MEMORY_HOST, NULL, NULL);
        cr_assert_not_null(other);
        if (host)
            array->tensor.device.device_type = CAI_DEVICE_CPU;
        make_owner(&of_stream, NULL);
        UNIT_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
        unit_write_late(stream, memory);
        cr_expect_eq(cai_array_set_stream(array, stream, &of_stream, delete_owner), CAI_OK);
        cr_expect_eq(cai_array_used_on(array, stream), CAI_OK);
        cai_array_release(array);
        cai_order_pool_release(pool);
        cr_expect_eq(owner.deletions, 0, "host %d", host);
        cr_expect_eq(of_stream.deletions, 0, "host %d", host);
        unit_end_capture(stream, host ? "host" : "managed");
        cai_array_release(other);
        cr_expect_eq(owner.deletions, 1, "host %d", host);
        cr_expect_eq(of_stream.deletions, 1, "host %d", host);
    }
    cr_expect_eq(emulator_cudaPeekAtLastError(), cudaSuccess);
    UNIT_NO_VIOLATIONS();
}

/* ---- threads ----------------------------------------------------------------------------------------------------- */

/* Whatever the free put on this thread's own stream is done, too. */
static void *release_there(void *array)
{
    cai_array_release((cai_array_t *)array);
    UNIT_CUDA(cudaStreamSynchronize(CAI_STREAM_PER_THREAD));
    return NULL;
}

static void on_another_thread(void *(*function)(void *), void *argument)
{
    pthread_t thread;
    cr_assert_eq(pthread_create(&thread, NULL, function, argument), 0);
    cr_assert_eq(pthread_join(thread, NULL), 0);
}

/* The per-thread stream of the maker cannot be named where the array is released. */
Test(array, pitfall_56_per_thread_stream_released_on_another_thread)
{
    int         *seen = new_int(), *memory = new_int();
    owner_t      owner;
    cai_array_t *array = new_array(NULL, CAI_MEMORY_DEVICE, 0, CAI_STREAM_PER_THREAD);
    use_late(array, CAI_STREAM_PER_THREAD, seen);
    on_another_thread(release_there, array);
    (void)emulator_run_all();
    cr_expect_eq(*seen, ALIVE, "%x", (unsigned)*seen);
    array = wrap_int(NULL, memory, 0, &owner, memory);
    cr_expect_eq(cai_array_set_stream(array, CAI_STREAM_PER_THREAD, NULL, NULL), CAI_OK);
    unit_write_late(CAI_STREAM_PER_THREAD, memory);
    on_another_thread(release_there, array);
    cr_expect_eq(owner.deletions, 1);
    cr_expect_eq(owner.seen, 1);
    cr_expect_eq(emulator_count_allocations(), 2);
    UNIT_NO_VIOLATIONS();
}

/* Another thread's use of an array whose stream is the maker's own. */
typedef struct use {
    cai_array_t *array;
    cai_stream_t stream;
    int         *seen;
} use_t;

static void *use_there(void *argument)
{
    const use_t *use = (const use_t *)argument;
    use_late(use->array, use->stream, use->seen);
    cr_expect_eq(cai_array_used_on(use->array, use->stream), CAI_OK);
    return NULL;
}

Test(array, pitfall_56_per_thread_stream_used_on_another_thread)
{
    const cai_stream_t streams[] = {CAI_STREAM_PER_THREAD, unit_stream(cudaStreamNonBlocking),
                                    unit_stream(cudaStreamDefault), CAI_STREAM_LEGACY};
    for (size_t i = 0; i < UNIT_COUNT(streams); i++) {
        use_t use;
        use.seen = new_int();
        use.stream = streams[i];
        use.array = new_array(NULL, CAI_MEMORY_DEVICE, 0, CAI_STREAM_PER_THREAD);
        UNIT_CUDA(cudaStreamSynchronize(CAI_STREAM_PER_THREAD));
        on_another_thread(use_there, &use);
        cai_array_release(use.array);
        UNIT_CUDA(cudaStreamSynchronize(CAI_STREAM_PER_THREAD));
        cr_expect_eq(emulator_pool_bytes(0), 0, "%zu: freed", i);
        (void)emulator_run_all();
        cr_expect_eq(*use.seen, ALIVE, "%zu: %x", i, (unsigned)*use.seen);
        UNIT_CUDA(cudaFree(use.seen));
    }
    UNIT_NO_VIOLATIONS();
}

static void *write_there(void *argument)
{
    const use_t *use = (const use_t *)argument;
    unit_write_late(use->stream, use->seen);
    cr_expect_eq(cai_array_used_on(use->array, use->stream), CAI_OK);
    return NULL;
}

/* The array had no stream, and the one that it gets cannot be named on the thread that frees. */
Test(array, pitfall_56_per_thread_stream_told_on_another_thread)
{
    owner_t owner;
    use_t   use;
    use.seen = new_int();
    use.stream = CAI_STREAM_PER_THREAD;
    use.array = wrap_int(NULL, use.seen, 0, &owner, use.seen);
    on_another_thread(write_there, &use);
    cai_array_release(use.array);
    cr_expect_eq(owner.deletions, 1);
    cr_expect_eq(owner.seen, 1);
    UNIT_NO_VIOLATIONS();
}

static void *set_stream_there(void *argument)
{
    const use_t *use = (const use_t *)argument;
    cr_expect_eq(cai_array_set_stream(use->array, use->stream, NULL, NULL), CAI_OK);
    use_late(use->array, use->stream, use->seen);
    return NULL;
}

/* The stream that another thread sets is after the maker's own, and 2 means that thread's from then on. */
Test(array, pitfall_56_per_thread_stream_set_on_another_thread)
{
    use_t use;
    int  *before = new_int(), *copy = new_int();
    use.seen = new_int();
    use.stream = unit_stream(cudaStreamNonBlocking);
    use.array = new_array(NULL, CAI_MEMORY_DEVICE, 0, CAI_STREAM_PER_THREAD);
    use_late(use.array, CAI_STREAM_PER_THREAD, before);
    on_another_thread(set_stream_there, &use);
    UNIT_CUDA(cudaMemcpyAsync(copy, before, sizeof(int), cudaMemcpyDefault, use.stream));
    UNIT_CUDA(cudaStreamSynchronize(use.stream));
    cr_expect_eq(*copy, ALIVE, "the maker's work is first");
    cai_array_release(use.array);
    use.stream = CAI_STREAM_PER_THREAD;
    use.array = new_array(NULL, CAI_MEMORY_DEVICE, 0, CAI_STREAM_LEGACY);
    *use.seen = 0;
    on_another_thread(set_stream_there, &use);
    cai_array_release(use.array);
    UNIT_CUDA(cudaStreamSynchronize(CAI_STREAM_PER_THREAD));
    (void)emulator_run_all();
    cr_expect_eq(*use.seen, ALIVE, "%x", (unsigned)*use.seen);
    cr_expect_eq(emulator_count_allocations(), 3);
    UNIT_NO_VIOLATIONS();
}

static void *make_and_release(void *argument)
{
    cai_order_pool_t *pool = (cai_order_pool_t *)argument;
    cudaStream_t      stream = NULL;
    size_t            wrong = emulator_cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) != cudaSuccess;
    for (int i = 0; i < 200; i++) {
        cai_array_t *array = cai_array_new(pool, cai_int32(), 1, four, i % 2,
                                           i % 3 ? CAI_MEMORY_DEVICE : CAI_MEMORY_PINNED, CAI_STREAM_LEGACY, NULL);
        wrong += array == NULL || cai_array_used_on(array, i % 2 ? CAI_STREAM_PER_THREAD : stream) != CAI_OK;
        cai_array_release(array);
    }
    return wrong == 0 ? argument : NULL;
}

Test(array, many_threads)
{
    cai_order_pool_t *pool = new_pool();
    pthread_t         threads[N_THREADS];
    for (int i = 0; i < N_THREADS; i++)
        cr_assert_eq(pthread_create(&threads[i], NULL, make_and_release, pool), 0);
    for (int i = 0; i < N_THREADS; i++) {
        void *result = NULL;
        cr_assert_eq(pthread_join(threads[i], &result), 0);
        cr_expect_eq(result, pool, "thread %d", i);
    }
    cr_expect_eq(pool->references, 1);
    cai_order_pool_release(pool);
    cr_expect_eq(emulator_count_events(), 0);
    cr_expect_eq(emulator_count_allocations(), 0);
    UNIT_NO_VIOLATIONS();
}

/* ---- waiting without holding what Python needs ------------------------------------------------------------------- */

static int  n_detached, n_attached;
static bool may_wait;

static bool detach(void **detached)
{
    n_detached += may_wait;
    *detached = &n_detached;
    return may_wait;
}

static void attach(void *detached)
{
    n_attached += detached == &n_detached;
}

Test(array, a_wait_is_announced_and_may_be_refused)
{
    for (int allowed = 1; allowed >= 0; allowed--) {
        cai_order_pool_t *pool = new_pool();
        int              *memory = new_int();
        owner_t           owner;
        cai_array_t      *array = new_array(pool, CAI_MEMORY_DEVICE, 0, NULL);
        pool->hooks.detach = detach;
        pool->hooks.attach = attach;
        may_wait = allowed != 0;
        n_detached = n_attached = 0;
        cai_array_release(array);
        cr_expect_eq(n_detached, 0, "no wait");
        array = new_array(pool, CAI_MEMORY_DEVICE, 0, NULL);
        (void)array->used_on(array, NULL);
        cai_array_release(array);
        cr_expect_eq(emulator_count_allocations(), allowed ? 1 : 2, "what must not be waited for is leaked");
        array = wrap_int(pool, memory, 0, &owner, memory);
        unit_write_late(CAI_STREAM_LEGACY, memory);
        cr_expect_eq(cai_array_used_on(array, CAI_STREAM_LEGACY), CAI_OK);
        cai_array_release(array);
        cr_expect_eq(owner.deletions, allowed);
        cr_expect_eq(n_detached, 2 * allowed);
        cr_expect_eq(n_attached, 2 * allowed);
        cai_order_pool_release(pool);
        emulator_reset();
    }
}

/* ---- failures ---------------------------------------------------------------------------------------------------- */

/* Whether the call that failed was the one that goes back to the device, after which only CUDA could. */
static bool is_stuck(void)
{
    emulator_call_t call;
    bool            stuck = false;
    for (size_t i = 0; emulator_get_call(i, &call) == 0; i++)
        stuck |= call.result != cudaSuccess && strcmp(call.name, "cudaSetDevice") == 0 && call.current_device == 1;
    return stuck;
}

Test(array, pitfall_55_each_call_of_new_fails_in_turn)
{
    for (size_t i = 0; i < UNIT_COUNT(memories); i++) {
        bool failed = true;
        for (int nth = 1; failed; nth++) {
            cai_order_pool_t *pool = new_pool();
            cai_error_t       error;
            cai_array_t      *array;
            emulator_clear_calls();
            cr_assert_eq(emulator_fail(NULL, nth, cudaErrorInitializationError), 0);
            array = cai_array_new(pool, cai_int32(), 1, four, 1, memories[i].memory, NULL, &error);
            failed = emulator_count_failures() == 0;
            emulator_fail_clear();
            cr_expect(array != NULL || failed, "%s, call %d", memories[i].name, nth);
            if (array == NULL)
                cr_expect_eq(error.cuda_code, cudaErrorInitializationError, "%s, call %d", memories[i].name, nth);
            cr_expect_eq(emulator_cudaPeekAtLastError(), cudaSuccess, "%s, call %d", memories[i].name, nth);
            cr_expect_eq(unit_current_device(), is_stuck() ? 1 : 0, "%s, call %d", memories[i].name, nth);
            UNIT_CUDA(cudaSetDevice(0));
            cai_array_release(array);
            cr_expect_eq(emulator_count_allocations(), 0, "%s, call %d: leaked", memories[i].name, nth);
            cr_expect_eq(pool->references, 1, "%s, call %d", memories[i].name, nth);
            cai_order_pool_release(pool);
            if (!failed)
                cr_expect_geq(nth, 6, "%s: %d", memories[i].name, nth);
        }
        emulator_reset();
    }
    UNIT_NO_VIOLATIONS();
}

/* A release never fails. What CUDA does not free is lost, and nothing else: not the struct, not the pool, not the stream's
 * owner, not the device. */
Test(array, pitfall_55_each_call_of_release_fails_in_turn)
{
    for (size_t i = 0; i < 2 * UNIT_COUNT(memories); i++) {
        const size_t which = i / 2;
        bool         failed = true;
        for (int nth = 1; failed; nth++) {
            cai_order_pool_t *pool = new_pool();
            owner_t           of_stream;
            cai_array_t      *array = new_array(pool, memories[which].memory, 1, NULL);
            make_owner(&of_stream, NULL);
            cr_expect_eq(cai_array_set_stream(array, NULL, &of_stream, delete_owner), CAI_OK);
            if (i % 2 != 0)
                cr_expect_eq(array->used_on(array, NULL), CAI_OK);
            emulator_clear_calls();
            cr_assert_eq(emulator_fail(NULL, nth, cudaErrorInitializationError), 0);
            cai_array_release(array);
            failed = emulator_count_failures() == 0;
            emulator_fail_clear();
            cr_expect_eq(emulator_cudaPeekAtLastError(), cudaSuccess, "%s, call %d", memories[which].name, nth);
            cr_expect_eq(unit_current_device(), is_stuck() ? 1 : 0, "%s, call %d", memories[which].name, nth);
            cr_expect_eq(of_stream.deletions, 1, "%s, call %d", memories[which].name, nth);
            cr_expect_eq(pool->references, 1, "%s, call %d", memories[which].name, nth);
            if (!failed)
                cr_expect_eq(emulator_count_allocations(), 0, "%s, call %d", memories[which].name, nth);
            cai_order_pool_release(pool);
            emulator_reset();
        }
    }
}

/* ---- copies ------------------------------------------------------------------------------------------------------ */

/* Six of eight values, backwards and with gaps: the copy has the same strides, and memory of its own. */
static cai_array_t *wrap_backwards(int32_t *memory, int64_t *shape, int64_t *strides)
{
    cai_tensor_t tensor;
    cai_array_t *array;
    shape[0] = 2;
    shape[1] = 3;
    strides[0] = -4;
    strides[1] = 1;
    for (int i = 0; i < 8; i++)
        memory[i] = 10 + i;
    fill_tensor(&tensor, memory + 4, CAI_DEVICE_CUDA_MANAGED, 0, shape);
    tensor.ndim = 2;
    tensor.strides = strides;
    array = cai_array_wrap(NULL, &tensor, CAI_READONLY, NULL, NULL, NULL);
    cr_assert_not_null(array);
    return array;
}

Test(array, copies_have_the_values_and_the_strides)
{
    int64_t            shape[2], strides[2];
    int32_t           *memory = NULL;
    const cai_stream_t stream = unit_stream(cudaStreamNonBlocking);
    cai_array_t       *source, *copy;
    cai_error_t        error;
    UNIT_CUDA(cudaMallocManaged((void **)&memory, 8 * sizeof(int32_t), cudaMemAttachGlobal));
    source = wrap_backwards(memory, shape, strides);
    copy = cai_impl_array_copy(NULL, source, CAI_MEMORY_MANAGED, stream, &error);
    cr_assert_not_null(copy);
    cr_expect_eq(copy->flags, CAI_COPIED, "a copy may be written");
    cr_expect_eq(copy->stream, stream);
    cr_expect_eq(copy->tensor.strides[0], -4);
    cr_expect_eq(copy->tensor.strides[1], 1);
    UNIT_CUDA(cudaStreamSynchronize(stream));
    for (int64_t i = 0; i < 2; i++) {
        for (int64_t j = 0; j < 3; j++)
            cr_expect_eq(((int32_t *)copy->tensor.data)[j - 4 * i], 14 + j - 4 * i, "%d, %d", (int)i, (int)j);
    }
    cr_expect_eq(emulator_count_allocations(), 2);
    cai_array_release(copy);
    cr_expect_eq(emulator_count_allocations(), 1);
    cai_array_release(source);
    UNIT_NO_VIOLATIONS();
}

static size_t count_calls_on_device(const char *name, int device)
{
    emulator_call_t call;
    size_t          count = 0;
    for (size_t i = 0; emulator_get_call(i, &call) == 0; i++)
        count += strcmp(call.name, name) == 0 && call.current_device == device;
    return count;
}

/* Pinned memory names no device, but its streams 1 and 2 are those of the one that it was made on. */
Test(array, copies_of_pinned_memory_are_made_on_its_device)
{
    static const int64_t shape[1] = {4};
    cai_array_t         *source, *copy;
    cai_error_t          error;
    source = cai_array_new(NULL, cai_int32(), 1, shape, 1, CAI_MEMORY_PINNED, CAI_STREAM_LEGACY, &error);
    cr_assert_not_null(source);
    memset(source->tensor.data, 7, 16);
    emulator_clear_calls();
    copy = cai_impl_array_copy(NULL, source, CAI_MEMORY_PINNED, CAI_STREAM_LEGACY, &error);
    cr_assert_not_null(copy);
    cr_expect_eq(count_calls_on_device("cudaMemcpyAsync", 1), 1);
    cr_expect_eq(cai_impl_array_device(copy), 1);
    UNIT_CUDA(cudaSetDevice(1));
    UNIT_CUDA(cudaStreamSynchronize(cudaStreamLegacy));
    UNIT_CUDA(cudaSetDevice(0));
    cr_expect_arr_eq(copy->tensor.data, source->tensor.data, 16);
    cai_array_release(copy);
    cai_array_release(source);
    cr_expect_eq(emulator_count_allocations(), 0);
    UNIT_NO_VIOLATIONS();
}

Test(array, pitfall_51_copies_on_a_capturing_stream)
{
    cai_order_pool_t  *pool = new_pool();
    int64_t            shape[2], strides[2];
    int32_t            memory[8];
    const cai_stream_t stream = unit_stream(cudaStreamNonBlocking);
    cai_array_t       *source = wrap_backwards(memory, shape, strides);
    cai_error_t        error;
    UNIT_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    cr_expect_null(cai_impl_array_copy(pool, source, CAI_MEMORY_DEVICE, stream, &error));
    cr_expect_eq(error.status, CAI_ERROR_STREAM_CAPTURE);
    cr_expect_eq(pool->references, 1, "what was refused is gone");
    unit_end_capture(stream, "copy");
    cai_array_release(source);
    cai_order_pool_release(pool);
    UNIT_NO_VIOLATIONS();
}

Test(array, pitfall_55_each_call_of_a_copy_fails_in_turn)
{
    bool failed = true;
    for (int nth = 1; failed; nth++) {
        int64_t      shape[2], strides[2];
        int32_t     *memory = NULL;
        cai_array_t *source, *copy;
        cai_error_t  error;
        UNIT_CUDA(cudaMallocManaged((void **)&memory, 8 * sizeof(int32_t), cudaMemAttachGlobal));
        source = wrap_backwards(memory, shape, strides);
        source->tensor.device.device_id = 1;
        cr_assert_eq(emulator_fail(NULL, nth, cudaErrorInitializationError), 0);
        copy = cai_impl_array_copy(NULL, source, CAI_MEMORY_DEVICE, CAI_STREAM_LEGACY, &error);
        failed = emulator_count_failures() == 0;
        emulator_fail_clear();
        cr_expect(copy != NULL || failed, "call %d", nth);
        cr_expect_eq(emulator_cudaPeekAtLastError(), cudaSuccess, "call %d", nth);
        cai_array_release(copy);
        cr_expect_eq(emulator_count_allocations(), 1, "call %d: leaked", nth);
        cai_array_release(source);
        emulator_reset();
    }
}

/* ---- deleters and failures --------------------------------------------------------------------------------------- */

/* A wait that fails is over: the deleter runs, once, whatever fails. */
Test(array, pitfall_55_each_call_before_a_deleter_fails_in_turn)
{
    for (int foreign = 0; foreign < 2; foreign++) {
        bool failed = true;
        for (int nth = 1; failed; nth++) {
            owner_t      owner;
            cai_array_t *array;
            UNIT_CUDA(cudaSetDevice(0));
            array = wrap_int(NULL, new_int(), 0, &owner, NULL);
            array->tensor.device.device_id = 1;
            cr_expect_eq(cai_array_set_stream(array, NULL, NULL, NULL), CAI_OK);
            if (foreign)
                cr_expect_eq(array->used_on(array, NULL), CAI_OK);
            emulator_clear_calls();
            cr_assert_eq(emulator_fail(NULL, nth, cudaErrorInitializationError), 0);
            cai_array_release(array);
            failed = emulator_count_failures() == 0;
            emulator_fail_clear();
            cr_expect_eq(owner.deletions, 1, "call %d", nth);
            cr_expect_eq(emulator_cudaPeekAtLastError(), cudaSuccess, "call %d", nth);
            cr_expect_eq(unit_current_device(), is_stuck() ? 1 : 0, "call %d", nth);
            emulator_reset();
        }
    }
}

#endif
