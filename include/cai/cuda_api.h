/**
 * cai/cuda_api.h - the only includer of CUDA: every runtime call that cai makes goes through CAI_CUDA(name).
 *
 * Option CAI_CUDA_PREFIX: CAI_CUDA(cudaGetDevice)(…) is then PREFIXcudaGetDevice(…), and no CUDA library is linked by
 * cai's own calls. Whoever sets it provides the functions declared at the end, with the signatures of the runtime.
 *
 * CUDA 12.0 is the floor. Headers and libcudart come from a toolkit or from the PyPI package nvidia-cuda-runtime.
 * Specification: CUDA Runtime API 12.0 to 13.x.
 */
#ifndef CAI_CUDA_API_H
#define CAI_CUDA_API_H

#include <cai/config.h>

#if defined(CAI_NO_CUDA)
#error "cai/cuda_api.h was included although CAI_NO_CUDA is defined"
#endif
#if defined(__has_include)
#if !__has_include(<cuda_runtime_api.h>)
#error "cuda_runtime_api.h is not found: add its folder (CUDA toolkit, PyPI nvidia-cuda-runtime) or define CAI_NO_CUDA"
#endif
#endif
#include <cuda_runtime_api.h>

#if CUDART_VERSION < 12000
#error "cai needs CUDA 12.0 or newer"
#endif

/** Whether cudaStreamGetDevice exists. */
#define CAI_IMPL_HAS_STREAM_GET_DEVICE (CUDART_VERSION >= 12080)

#if !defined(CAI_CUDA_PREFIX)

#define CAI_CUDA(name) name

#else

#define CAI_IMPL_PREFIX_JOIN(prefix, name) prefix##name
#define CAI_IMPL_PREFIX(prefix, name)      CAI_IMPL_PREFIX_JOIN(prefix, name)
#define CAI_CUDA(name)                     CAI_IMPL_PREFIX(CAI_CUDA_PREFIX, name)

/* Every runtime function that cai calls, and no other. */
#if defined(__cplusplus)
extern "C" {
#endif
cudaError_t CAI_CUDA(cudaGetDevice)(int *device);
cudaError_t CAI_CUDA(cudaSetDevice)(int device);
cudaError_t CAI_CUDA(cudaPointerGetAttributes)(struct cudaPointerAttributes *attributes, const void *pointer);
cudaError_t CAI_CUDA(cudaStreamIsCapturing)(cudaStream_t stream, enum cudaStreamCaptureStatus *status);
cudaError_t CAI_CUDA(cudaStreamSynchronize)(cudaStream_t stream);
cudaError_t CAI_CUDA(cudaStreamCreateWithFlags)(cudaStream_t *stream, unsigned int flags);
cudaError_t CAI_CUDA(cudaStreamDestroy)(cudaStream_t stream);
cudaError_t CAI_CUDA(cudaStreamWaitEvent)(cudaStream_t stream, cudaEvent_t event, unsigned int flags);
cudaError_t CAI_CUDA(cudaEventCreateWithFlags)(cudaEvent_t *event, unsigned int flags);
cudaError_t CAI_CUDA(cudaEventDestroy)(cudaEvent_t event);
cudaError_t CAI_CUDA(cudaEventRecord)(cudaEvent_t event, cudaStream_t stream);
cudaError_t CAI_CUDA(cudaLaunchHostFunc)(cudaStream_t stream, cudaHostFn_t function, void *data);
cudaError_t CAI_CUDA(cudaMalloc)(void **pointer, size_t size);
cudaError_t CAI_CUDA(cudaFree)(void *pointer);
cudaError_t CAI_CUDA(cudaMallocAsync)(void **pointer, size_t size, cudaStream_t stream);
cudaError_t CAI_CUDA(cudaFreeAsync)(void *pointer, cudaStream_t stream);
cudaError_t CAI_CUDA(cudaMallocManaged)(void **pointer, size_t size, unsigned int flags);
cudaError_t CAI_CUDA(cudaHostAlloc)(void **pointer, size_t size, unsigned int flags);
cudaError_t CAI_CUDA(cudaFreeHost)(void *pointer);
cudaError_t CAI_CUDA(cudaMemcpyAsync)(void *to, const void *from, size_t size, enum cudaMemcpyKind kind,
                                      cudaStream_t stream);
#if CUDART_VERSION >= 13000
cudaError_t CAI_CUDA(cudaStreamGetCaptureInfo)(cudaStream_t stream, enum cudaStreamCaptureStatus *status,
                                               unsigned long long *id, cudaGraph_t *graph,
                                               const cudaGraphNode_t **dependencies, const cudaGraphEdgeData **edges,
                                               size_t *n_dependencies);
#else
cudaError_t CAI_CUDA(cudaStreamGetCaptureInfo)(cudaStream_t stream, enum cudaStreamCaptureStatus *status,
                                               unsigned long long *id, cudaGraph_t *graph,
                                               const cudaGraphNode_t **dependencies, size_t *n_dependencies);
#endif
#if CAI_IMPL_HAS_STREAM_GET_DEVICE
cudaError_t CAI_CUDA(cudaStreamGetDevice)(cudaStream_t stream, int *device);
#endif
cudaError_t CAI_CUDA(cudaThreadExchangeStreamCaptureMode)(enum cudaStreamCaptureMode *mode);
cudaError_t CAI_CUDA(cudaGetLastError)(void);
const char *CAI_CUDA(cudaGetErrorName)(cudaError_t error);
const char *CAI_CUDA(cudaGetErrorString)(cudaError_t error);
#if defined(__cplusplus)
}
#endif

#endif

#endif /* CAI_CUDA_API_H */
