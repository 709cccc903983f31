/*
 * Checks stream.h: the values of streams, what becomes of 0, and the orders. Also compiled for per-thread default
 * streams.
 */
#include <cai/stream.h>

#include "unit.h"

TestSuite(stream, .timeout = UNIT_TIMEOUT);

#if defined(CUDA_API_PER_THREAD_DEFAULT_STREAM) || defined(__CUDA_API_PER_THREAD_DEFAULT_STREAM)
#define OWN_NULL_STREAM 2
#else
#define OWN_NULL_STREAM 1
#endif

/* Constants work in static initialisers. */
static const cai_stream_t constants[] = {CAI_STREAM_LEGACY, CAI_STREAM_PER_THREAD};

static uint64_t number(cai_stream_t stream)
{
    return (uint64_t)(uintptr_t)stream;
}

static cai_stream_t handle(uint64_t value)
{
    return (cai_stream_t)(uintptr_t)value;
}

static const uint64_t handles[] = {1, 2, 3, 4, 255, 256, 0x7F0000001000, UINT64_C(1) << 63, UINT64_MAX};

Test(stream, constants_are_1_and_2)
{
    cr_expect_eq(number(constants[0]), 1);
    cr_expect_eq(number(constants[1]), 2);
    cr_expect_neq(constants[0], constants[1]);
}

/* 0 of a producer is legacy, however this code is compiled; every other number is itself. */
Test(stream, pitfall_12_handles_of_producers)
{
    cr_expect_eq(number(cai_stream_from_handle(0)), 1);
    for (size_t i = 0; i < UNIT_COUNT(handles); i++)
        cr_expect_eq(number(cai_stream_from_handle(handles[i])), handles[i], "%llu", (unsigned long long)handles[i]);
}

/* 0 is never handed out. */
Test(stream, pitfall_18_handles_for_others)
{
    cr_expect_eq(cai_stream_to_handle(NULL), 1);
    cr_expect_eq(cai_stream_to_handle(CAI_STREAM_LEGACY), 1);
    cr_expect_eq(cai_stream_to_handle(CAI_STREAM_PER_THREAD), 2);
    for (size_t i = 0; i < UNIT_COUNT(handles); i++)
        cr_expect_eq(cai_stream_to_handle(handle(handles[i])), handles[i], "%llu", (unsigned long long)handles[i]);
}

Test(stream, handles_there_and_back)
{
    for (size_t i = 0; i < UNIT_COUNT(handles); i++)
        cr_expect_eq(cai_stream_to_handle(cai_stream_from_handle(handles[i])), handles[i]);
    cr_expect_eq(cai_stream_to_handle(cai_stream_from_handle(0)), 1);
}

/* 0 of the author is what his code means by it: legacy, or per-thread where it is compiled so. */
Test(stream, pitfall_52_null_stream_of_the_author)
{
    const cai_order_t order = cai_order_wait(NULL);
    cr_expect_eq(order.mode, CAI_ORDER_WAIT);
    cr_expect_eq(number(order.stream), OWN_NULL_STREAM);
}

Test(stream, orders)
{
    for (size_t i = 0; i < UNIT_COUNT(handles); i++) {
        const cai_order_t order = cai_order_wait(handle(handles[i]));
        cr_expect_eq(order.mode, CAI_ORDER_WAIT, "%llu", (unsigned long long)handles[i]);
        cr_expect_eq(number(order.stream), handles[i], "%llu", (unsigned long long)handles[i]);
    }
    cr_expect_eq(cai_order_adopt().mode, CAI_ORDER_ADOPT);
    cr_expect_eq(cai_order_block().mode, CAI_ORDER_BLOCK);
    cr_expect_eq(cai_order_none().mode, CAI_ORDER_NONE);
    cr_expect_null(cai_order_adopt().stream);
    cr_expect_null(cai_order_block().stream);
    cr_expect_null(cai_order_none().stream);
}

/* A struct of zeros is no order: whoever forgot to choose has not chosen. */
Test(stream, modes_are_distinct_and_not_zero)
{
    static const cai_order_mode_t modes[] = {CAI_ORDER_WAIT, CAI_ORDER_ADOPT, CAI_ORDER_BLOCK, CAI_ORDER_NONE};
    for (size_t i = 0; i < UNIT_COUNT(modes); i++) {
        cr_expect_neq((int)modes[i], 0, "%zu", i);
        for (size_t j = i + 1; j < UNIT_COUNT(modes); j++)
            cr_expect_neq(modes[i], modes[j], "%zu and %zu", i, j);
    }
}

/* Beside the bits of tensor.h: 1, 2 and 4. */
Test(stream, flags_have_bits_of_their_own)
{
    cr_expect_eq(CAI_HAS_STREAM, 8);
    cr_expect_eq(CAI_STREAM_UNKNOWN, 16);
}
