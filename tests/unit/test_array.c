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

/* CUDA_PART */

#endif
