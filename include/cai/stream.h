/**
 * cai/stream.h - stream values, and who runs after whom.
 *
 * A cai_stream_t is a cudaStream_t, so it is passed to a launch as it is; the type is declared without CUDA's header.
 * Three values are no handles: 0 (the "null stream"), 1 (legacy default) and 2 (default stream of the calling thread).
 * 0 is ambiguous, because its meaning depends on how the code that says it was compiled; cai reads a producer's 0 as 1
 * and never hands 0 out.
 *
 * Specification: CUDA Array Interface v3 (Synchronization), the array API standard (__dlpack__, stream).
 */
#ifndef CAI_STREAM_H
#define CAI_STREAM_H

#include <cai/status.h>

/** The same type as cudaStream_t and CUstream. */
typedef struct CUstream_st *cai_stream_t;

/** The legacy default stream and the per-thread default stream of the device that an array lies on. */
#define CAI_STREAM_LEGACY     CAI_IMPL_BITS(cai_stream_t, 1)
#define CAI_STREAM_PER_THREAD CAI_IMPL_BITS(cai_stream_t, 2)

/** Flags of a view about its stream, beside those of tensor.h. */
enum {
    CAI_HAS_STREAM = 8,     /**< the producer told its stream: `stream` of the view */
    CAI_STREAM_UNKNOWN = 16 /**< the producer has work somewhere, and did not tell where; legacy is assumed */
};

/** Who waits for whom; see cai_order_wait and the others. */
typedef enum cai_order_mode { CAI_ORDER_WAIT = 1, CAI_ORDER_ADOPT, CAI_ORDER_BLOCK, CAI_ORDER_NONE } cai_order_mode_t;

/** How an acquire is ordered with the producer's work: a required argument, so that it is never a hidden default. */
typedef struct cai_order {
    cai_order_mode_t mode;
    cai_stream_t     stream; /**< of CAI_ORDER_WAIT */
} cai_order_t;

/**
 * "I will use `stream`": work enqueued there after the acquire runs after the producer's, and the producer's later work
 * runs after what is there at the release. A stream of 0 is what the calling code means by it: legacy, or per-thread
 * where it is compiled so (CUDA_API_PER_THREAD_DEFAULT_STREAM, nvcc --default-stream per-thread).
 */
CAI_API cai_order_t cai_order_wait(cai_stream_t stream);
/** "I will use the producer's stream", which the view or the call then names: nothing has to wait for anything. */
CAI_API cai_order_t cai_order_adopt(void);
/** "I will use the memory at once, from the host": the acquire returns when the producer's work is done. */
CAI_API cai_order_t cai_order_block(void);
/** "I order the work myself": no call of CUDA is made for it. Do not count on the producer's stream: an array is read by
 * the protocol that costs least, which may not tell it (flags: CAI_STREAM_UNKNOWN). Whoever wants the stream adopts it. */
CAI_API cai_order_t cai_order_none(void);

/** A producer's stream number as a stream: 0 becomes CAI_STREAM_LEGACY. */
CAI_API cai_stream_t cai_stream_from_handle(uint64_t handle);
/** The stream as a number, as `stream=` of __dlpack__ and the CUDA Array Interface take it; never 0. */
CAI_API uint64_t cai_stream_to_handle(cai_stream_t stream);

/* ---------------------------------------------------------------------------------------------------- bodies ---- */

CAI_IMPL cai_order_t cai_impl_order(cai_order_mode_t mode, cai_stream_t stream)
{
    cai_order_t order;
    order.mode = mode;
    order.stream = stream;
    return order;
}

CAI_API cai_order_t cai_order_wait(cai_stream_t stream)
{
#if defined(CUDA_API_PER_THREAD_DEFAULT_STREAM) || defined(__CUDA_API_PER_THREAD_DEFAULT_STREAM)
    return cai_impl_order(CAI_ORDER_WAIT, stream == NULL ? CAI_STREAM_PER_THREAD : stream);
#else
    return cai_impl_order(CAI_ORDER_WAIT, stream == NULL ? CAI_STREAM_LEGACY : stream);
#endif
}

CAI_API cai_order_t cai_order_adopt(void)
{
    return cai_impl_order(CAI_ORDER_ADOPT, NULL);
}

CAI_API cai_order_t cai_order_block(void)
{
    return cai_impl_order(CAI_ORDER_BLOCK, NULL);
}

CAI_API cai_order_t cai_order_none(void)
{
    return cai_impl_order(CAI_ORDER_NONE, NULL);
}

CAI_API cai_stream_t cai_stream_from_handle(uint64_t handle)
{
    return handle == 0 ? CAI_STREAM_LEGACY : CAI_IMPL_BITS(cai_stream_t, handle);
}

CAI_API uint64_t cai_stream_to_handle(cai_stream_t stream)
{
    return stream == NULL ? 1 : CAI_IMPL_BITS(uint64_t, stream);
}

#endif /* CAI_STREAM_H */
