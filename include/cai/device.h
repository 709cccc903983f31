/**
 * cai/device.h - where a pointer lies, and which device is current.
 *
 * Built with CAI_NO_CUDA, the same functions exist and never call CUDA: pointers of a CUDA interface are then on a
 * device whose number is not known (-1), and nothing is made current.
 *
 * Specification: CUDA Runtime API (unified addressing, device management); behaviour measured on H200s with CUDA 13.0.
 */
#ifndef CAI_DEVICE_H
#define CAI_DEVICE_H

#if !defined(CAI_NO_CUDA)
#include <cai/cuda_api.h>
#endif
#include <cai/tensor.h>

#include <stdlib.h>

struct CUstream_st;

/** Kinds of memory that cai allocates. */
typedef enum cai_memory {
    CAI_MEMORY_DEVICE = 1,     /**< of a CUDA device, from its default pool, in the order of a stream */
    CAI_MEMORY_DEVICE_NO_POOL, /**< of a CUDA device, by cudaMalloc */
    CAI_MEMORY_MANAGED,        /**< reachable from host and devices, by cudaMallocManaged */
    CAI_MEMORY_PINNED,         /**< page-locked host memory that devices reach, by cudaHostAlloc */
    CAI_MEMORY_HOST            /**< ordinary host memory */
} cai_memory_t;

/** A device made current for a while: remembers the one that was current before. */
typedef struct cai_device_guard {
    int32_t previous; /**< the device to go back to; -1: nothing to restore */
} cai_device_guard_t;

/**
 * Find what memory `pointer` (not NULL, interior addresses included) lies in: CAI_DEVICE_CUDA or _CUDA_MANAGED with the
 * number of its device, whatever device is current, CAI_DEVICE_CUDA_HOST, or CAI_DEVICE_CPU for memory that CUDA does
 * not know. Creates no context. CUDA_CALL if the query fails.
 */
CAI_API CAI_NODISCARD cai_status_t cai_pointer_device(const void *pointer, cai_device_t *device, cai_error_t *error);

/** The calling thread's current device; -1 with CAI_NO_CUDA. */
CAI_API CAI_NODISCARD cai_status_t cai_current_device(int32_t *device_id, cai_error_t *error);

/**
 * Make `device_id` the calling thread's current device until cai_device_guard_leave; nothing is called that changes
 * nothing. On failure (CUDA_CALL) the current device is as before and leaving is harmless.
 */
CAI_API CAI_NODISCARD cai_status_t cai_device_guard_enter(cai_device_guard_t *guard, int32_t device_id,
                                                          cai_error_t *error) CAI_IMPL_SELDOM;
/** Go back to the device that was current at the matching enter. Twice is harmless. */
CAI_API cai_status_t cai_device_guard_leave(cai_device_guard_t *guard, cai_error_t *error);

#if !defined(CAI_NO_CUDA)
/**
 * Turn the result of a CUDA call into a status: CAI_OK, or CUDA_CALL with code, name and "`call` failed: …" in `error`.
 * A failure is also taken out of the runtime's last error, so that it is not reported a second time.
 */
CAI_API CAI_NODISCARD cai_status_t cai_cuda_status(cudaError_t result, const char *call, cai_error_t *error);
#endif

/* ---------------------------------------------------------------------------------------------------- bodies ---- */

CAI_IMPL cai_device_t cai_impl_device(int32_t device_type, int32_t device_id)
{
    cai_device_t device;
    device.device_type = device_type;
    device.device_id = device_id;
    return device;
}

/* The alignment of host memory from cai: a cache line. CUDA's own allocations are aligned to 256 bytes. */
#define CAI_IMPL_HOST_ALIGNMENT 64

/* Where the block's own address is kept: right before the memory, since malloc's alignment leaves as much room. */
CAI_IMPL void **cai_impl_host_block(void *pointer)
{
    return CAI_IMPL_BITS(void **, CAI_IMPL_CAST(char *, pointer) - sizeof(void *));
}

/* Aligned within a block of malloc: aligned_alloc takes five times as long, since glibc keeps no free blocks at hand for
 * it. */
CAI_IMPL cai_status_t cai_impl_host_allocate(void **pointer, size_t nbytes, cai_error_t *error)
{
    const size_t size = nbytes + CAI_IMPL_HOST_ALIGNMENT;
    char        *block = size < nbytes ? NULL : CAI_IMPL_CAST(char *, malloc(size));
    *pointer = NULL;
    if (CAI_IMPL_UNLIKELY(block == NULL))
        return cai_error_set(error, CAI_ERROR_MEMORY, "no host memory of %zu bytes", nbytes);
    *pointer = block + CAI_IMPL_HOST_ALIGNMENT - CAI_IMPL_BITS(uintptr_t, block) % CAI_IMPL_HOST_ALIGNMENT;
    *cai_impl_host_block(*pointer) = block;
    return CAI_OK;
}

CAI_IMPL void cai_impl_host_free(void *pointer)
{
    free(*cai_impl_host_block(pointer));
}

#if defined(CAI_NO_CUDA)

CAI_IMPL cai_status_t cai_impl_memory_allocate(void **pointer, size_t nbytes, cai_memory_t memory,
                                               struct CUstream_st *stream, cai_error_t *error)
{
    (void)stream;
    if (memory == CAI_MEMORY_HOST)
        return cai_impl_host_allocate(pointer, nbytes, error);
    return cai_error_set(error, CAI_ERROR_DEVICE_MISMATCH,
                         "code that was built with CAI_NO_CUDA can allocate host memory only");
}

CAI_IMPL cai_status_t cai_impl_memory_free(void *pointer, cai_memory_t memory, struct CUstream_st *stream,
                                           cai_error_t *error)
{
    (void)memory;
    (void)stream;
    (void)error;
    cai_impl_host_free(pointer);
    return CAI_OK;
}

CAI_API cai_status_t cai_pointer_device(const void *pointer, cai_device_t *device, cai_error_t *error)
{
    (void)pointer;
    (void)error;
    *device = cai_impl_device(CAI_DEVICE_CUDA, -1);
    return CAI_OK;
}

CAI_API cai_status_t cai_current_device(int32_t *device_id, cai_error_t *error)
{
    (void)error;
    *device_id = -1;
    return CAI_OK;
}

CAI_API cai_status_t cai_device_guard_enter(cai_device_guard_t *guard, int32_t device_id, cai_error_t *error)
{
    (void)device_id;
    (void)error;
    guard->previous = -1;
    return CAI_OK;
}

CAI_API cai_status_t cai_device_guard_leave(cai_device_guard_t *guard, cai_error_t *error)
{
    (void)guard;
    (void)error;
    return CAI_OK;
}

#else

CAI_IMPL_COLD cai_status_t cai_impl_cuda_failed(cudaError_t result, const char *call, cai_error_t *error)
{
    (void)CAI_CUDA(cudaGetLastError)();
    (void)cai_error_set(error, CAI_ERROR_CUDA_CALL, "%s failed: %s (%d): %s", call, CAI_CUDA(cudaGetErrorName)(result),
                        CAI_IMPL_CAST(int, result), CAI_CUDA(cudaGetErrorString)(result));
    if (error != NULL) {
        error->cuda_code = CAI_IMPL_CAST(int32_t, result);
        error->cuda_name = CAI_CUDA(cudaGetErrorName)(result);
    }
    return CAI_ERROR_CUDA_CALL;
}

CAI_API cai_status_t cai_cuda_status(cudaError_t result, const char *call, cai_error_t *error)
{
    return CAI_IMPL_LIKELY(result == cudaSuccess) ? CAI_OK : cai_impl_cuda_failed(result, call, error);
}

CAI_API cai_status_t cai_pointer_device(const void *pointer, cai_device_t *device, cai_error_t *error)
{
    struct cudaPointerAttributes attributes;
    const cai_status_t           status =
        cai_cuda_status(CAI_CUDA(cudaPointerGetAttributes)(&attributes, pointer), "cudaPointerGetAttributes", error);
    if (status != CAI_OK)
        return status;
    switch (attributes.type) {
    case cudaMemoryTypeDevice: *device = cai_impl_device(CAI_DEVICE_CUDA, attributes.device); return CAI_OK;
    case cudaMemoryTypeManaged: *device = cai_impl_device(CAI_DEVICE_CUDA_MANAGED, attributes.device); return CAI_OK;
    case cudaMemoryTypeHost: *device = cai_impl_device(CAI_DEVICE_CUDA_HOST, 0); return CAI_OK;
    default: *device = cai_impl_device(CAI_DEVICE_CPU, 0); return CAI_OK;
    }
}

CAI_API cai_status_t cai_current_device(int32_t *device_id, cai_error_t *error)
{
    int                current = -1;
    const cai_status_t status = cai_cuda_status(CAI_CUDA(cudaGetDevice)(&current), "cudaGetDevice", error);
    *device_id = current;
    return status;
}

CAI_API cai_status_t cai_device_guard_enter(cai_device_guard_t *guard, int32_t device_id, cai_error_t *error)
{
    int32_t      current;
    cai_status_t status;
    guard->previous = -1;
    status = cai_current_device(&current, error);
    if (status != CAI_OK || current == device_id)
        return status;
    status = cai_cuda_status(CAI_CUDA(cudaSetDevice)(device_id), "cudaSetDevice", error);
    if (status != CAI_OK)
        return status;
    guard->previous = current;
    return CAI_OK;
}

CAI_API cai_status_t cai_device_guard_leave(cai_device_guard_t *guard, cai_error_t *error)
{
    const int32_t previous = guard->previous;
    guard->previous = -1;
    return previous < 0 ? CAI_OK : cai_cuda_status(CAI_CUDA(cudaSetDevice)(previous), "cudaSetDevice", error);
}

/* Exchange the calling thread's capture mode: relaxed, and back again, around calls that would otherwise break a capture
 * that is under way elsewhere in the process (measured: the pair costs 61 ns). */
CAI_IMPL cai_status_t cai_impl_capture_mode_exchange(enum cudaStreamCaptureMode *mode, cai_error_t *error)
{
    return cai_cuda_status(CAI_CUDA(cudaThreadExchangeStreamCaptureMode)(mode), "cudaThreadExchangeStreamCaptureMode",
                           error);
}

/* Allocate and free in no pool: what waits for the device is the free. A device without memory left has to be waited for
 * all the same, with pinned memory instead. */
CAI_IMPL_COLD cai_status_t cai_impl_free_a_dummy(cai_error_t *error)
{
    void             *dummy = NULL;
    const cudaError_t result = CAI_CUDA(cudaMalloc)(&dummy, 1);
    cai_status_t      status;
    if (result == cudaSuccess)
        return cai_cuda_status(CAI_CUDA(cudaFree)(dummy), "cudaFree", error);
    if (result != cudaErrorMemoryAllocation)
        return cai_cuda_status(result, "cudaMalloc", error);
    (void)CAI_CUDA(cudaGetLastError)();
    status = cai_cuda_status(CAI_CUDA(cudaHostAlloc)(&dummy, 1, cudaHostAllocPortable), "cudaHostAlloc", error);
    return status != CAI_OK ? status : cai_cuda_status(CAI_CUDA(cudaFreeHost)(dummy), "cudaFreeHost", error);
}

/* Wait on the host until the stream's work is done; blocks, and breaks no other stream's capture. */
CAI_IMPL_COLD cai_status_t cai_impl_stream_barrier(cudaStream_t stream, cai_error_t *error)
{
    enum cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
    cai_status_t               status = cai_impl_capture_mode_exchange(&mode, error), left;
    if (status != CAI_OK)
        return status;
    status = cai_cuda_status(CAI_CUDA(cudaStreamSynchronize)(stream), "cudaStreamSynchronize", error);
    left = cai_impl_capture_mode_exchange(&mode, status == CAI_OK ? error : NULL);
    return status != CAI_OK ? status : left;
}

/* The same until everything is done that any stream of the current device has enqueued, in the one way that breaks
 * nobody's capture: a free of memory that is in no pool waits for the device, non-blocking streams included. Measured;
 * cudaDeviceSynchronize breaks captures in every mode, and events on the legacy stream miss non-blocking streams. */
CAI_IMPL_COLD cai_status_t cai_impl_device_barrier(cai_error_t *error)
{
    enum cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
    cai_status_t               status = cai_impl_capture_mode_exchange(&mode, error), left;
    if (status != CAI_OK)
        return status;
    status = cai_impl_free_a_dummy(error);
    left = cai_impl_capture_mode_exchange(&mode, status == CAI_OK ? error : NULL);
    return status != CAI_OK ? status : left;
}

CAI_IMPL cudaError_t cai_impl_cuda_allocate(void **pointer, size_t nbytes, cai_memory_t memory, cudaStream_t stream)
{
    switch (memory) {
    case CAI_MEMORY_DEVICE: return CAI_CUDA(cudaMallocAsync)(pointer, nbytes, stream);
    case CAI_MEMORY_DEVICE_NO_POOL: return CAI_CUDA(cudaMalloc)(pointer, nbytes);
    case CAI_MEMORY_MANAGED: return CAI_CUDA(cudaMallocManaged)(pointer, nbytes, cudaMemAttachGlobal);
    default: return CAI_CUDA(cudaHostAlloc)(pointer, nbytes, cudaHostAllocPortable);
    }
}

/* Memory of the current device, or of the host. */
CAI_IMPL cai_status_t cai_impl_memory_allocate(void **pointer, size_t nbytes, cai_memory_t memory, cudaStream_t stream,
                                               cai_error_t *error)
{
    enum cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
    cudaError_t                result;
    cai_status_t               status;
    if (memory == CAI_MEMORY_HOST)
        return cai_impl_host_allocate(pointer, nbytes, error);
    status = cai_impl_capture_mode_exchange(&mode, error);
    if (status != CAI_OK)
        return status;
    result = cai_impl_cuda_allocate(pointer, nbytes, memory, stream);
    if (CAI_IMPL_UNLIKELY(result == cudaErrorMemoryAllocation)) {
        (void)CAI_CUDA(cudaGetLastError)();
        status = cai_error_set(error, CAI_ERROR_MEMORY, "no CUDA memory of %zu bytes", nbytes);
    } else {
        status = cai_cuda_status(result, "the allocation of CUDA memory", error);
    }
    (void)cai_impl_capture_mode_exchange(&mode, NULL); /* it worked before, and there is memory to hand over */
    return status;
}

CAI_IMPL cai_status_t cai_impl_cuda_free(void *pointer, cai_memory_t memory, cudaStream_t stream, cai_error_t *error)
{
    switch (memory) {
    case CAI_MEMORY_DEVICE: return cai_cuda_status(CAI_CUDA(cudaFreeAsync)(pointer, stream), "cudaFreeAsync", error);
    case CAI_MEMORY_PINNED: return cai_cuda_status(CAI_CUDA(cudaFreeHost)(pointer), "cudaFreeHost", error);
    default: return cai_cuda_status(CAI_CUDA(cudaFree)(pointer), "cudaFree", error);
    }
}

/* Pool memory in the order of `stream`; everything else from CUDA waits for the device by itself. */
CAI_IMPL cai_status_t cai_impl_memory_free(void *pointer, cai_memory_t memory, cudaStream_t stream, cai_error_t *error)
{
    enum cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
    cai_status_t               status, left;
    if (memory == CAI_MEMORY_HOST) {
        cai_impl_host_free(pointer);
        return CAI_OK;
    }
    status = cai_impl_capture_mode_exchange(&mode, error);
    if (status != CAI_OK)
        return status;
    status = cai_impl_cuda_free(pointer, memory, stream, error);
    left = cai_impl_capture_mode_exchange(&mode, status == CAI_OK ? error : NULL);
    return status != CAI_OK ? status : left;
}

#endif

#endif /* CAI_DEVICE_H */
