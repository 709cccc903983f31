/*
 * The CUDA runtime calls that the emulator answers, under the prefix `emulator_`: emulator_cudaMalloc and so on.
 *
 * Include it wherever code is compiled with CAI_CUDA_PREFIX=emulator_. The types are those of <cuda_runtime_api.h>, the
 * signatures those of the CUDA version compiled against (signatures.c compares them), and the meaning is the runtime's
 * own: its reference is the documentation. emulator.h says where the emulator is stricter, and how it is controlled.
 *
 * Stream handle 0 is always the legacy stream: code compiled with CUDA_API_PER_THREAD_DEFAULT_STREAM is not supported.
 */
#ifndef EMULATOR_RUNTIME_H
#define EMULATOR_RUNTIME_H

#include <cuda_runtime_api.h>

#ifdef __cplusplus
#define EMULATOR_DEFAULT(value) = value
#else
#define EMULATOR_DEFAULT(value)
#endif

/* The library hides everything else, because real CUDA libraries may be in the same process. */
#define EMULATOR_API __attribute__((visibility("default")))

/* Every call that answers a cudaError_t, as CALL(name, (parameters)). The formatter takes the asterisks in a macro's
 * parameters for products. */
/* clang-format off */
#define EMULATOR_RUNTIME_CALLS(CALL)                                                                                   \
    CALL(cudaGetDeviceCount, (int *count))                                                                             \
    CALL(cudaGetDevice, (int *device))                                                                                 \
    CALL(cudaSetDevice, (int device))                                                                                  \
    CALL(cudaDeviceGetAttribute, (int *value, enum cudaDeviceAttr attribute, int device))                              \
    CALL(cudaDeviceCanAccessPeer, (int *can_access, int device, int peer))                                             \
    CALL(cudaRuntimeGetVersion, (int *version))                                                                        \
    CALL(cudaDriverGetVersion, (int *version))                                                                         \
    CALL(cudaDeviceSynchronize, (void))                                                                                \
    CALL(cudaGetLastError, (void))                                                                                     \
    CALL(cudaPeekAtLastError, (void))                                                                                  \
    CALL(cudaStreamCreate, (cudaStream_t *stream))                                                                     \
    CALL(cudaStreamCreateWithFlags, (cudaStream_t *stream, unsigned int flags))                                        \
    CALL(cudaStreamDestroy, (cudaStream_t stream))                                                                     \
    CALL(cudaStreamSynchronize, (cudaStream_t stream))                                                                 \
    CALL(cudaStreamQuery, (cudaStream_t stream))                                                                       \
    CALL(cudaStreamWaitEvent, (cudaStream_t stream, cudaEvent_t event, unsigned int flags EMULATOR_DEFAULT(0)))        \
    CALL(cudaStreamGetId, (cudaStream_t stream, unsigned long long *id))                                               \
    CALL(cudaStreamGetFlags, (cudaStream_t stream, unsigned int *flags))                                               \
    CALL(cudaStreamIsCapturing, (cudaStream_t stream, enum cudaStreamCaptureStatus *status))                           \
    CALL(cudaStreamBeginCapture, (cudaStream_t stream, enum cudaStreamCaptureMode mode))                               \
    CALL(cudaStreamEndCapture, (cudaStream_t stream, cudaGraph_t *graph))                                              \
    CALL(cudaThreadExchangeStreamCaptureMode, (enum cudaStreamCaptureMode *mode))                                      \
    CALL(cudaGraphInstantiate,                                                                                         \
         (cudaGraphExec_t *executable, cudaGraph_t graph, unsigned long long flags EMULATOR_DEFAULT(0)))               \
    CALL(cudaGraphLaunch, (cudaGraphExec_t executable, cudaStream_t stream))                                           \
    CALL(cudaGraphExecDestroy, (cudaGraphExec_t executable))                                                           \
    CALL(cudaGraphDestroy, (cudaGraph_t graph))                                                                        \
    CALL(cudaEventCreate, (cudaEvent_t *event))                                                                        \
    CALL(cudaEventCreateWithFlags, (cudaEvent_t *event, unsigned int flags))                                           \
    CALL(cudaEventDestroy, (cudaEvent_t event))                                                                        \
    CALL(cudaEventRecord, (cudaEvent_t event, cudaStream_t stream EMULATOR_DEFAULT(0)))                                \
    CALL(cudaEventRecordWithFlags,                                                                                     \
         (cudaEvent_t event, cudaStream_t stream EMULATOR_DEFAULT(0), unsigned int flags EMULATOR_DEFAULT(0)))         \
    CALL(cudaEventQuery, (cudaEvent_t event))                                                                          \
    CALL(cudaEventSynchronize, (cudaEvent_t event))                                                                    \
    CALL(cudaPointerGetAttributes, (struct cudaPointerAttributes *attributes, const void *pointer))                    \
    CALL(cudaMalloc, (void **pointer, size_t size))                                                                    \
    CALL(cudaFree, (void *pointer))                                                                                    \
    CALL(cudaMallocAsync, (void **pointer, size_t size, cudaStream_t stream))                                          \
    CALL(cudaFreeAsync, (void *pointer, cudaStream_t stream))                                                          \
    CALL(cudaMallocManaged,                                                                                            \
         (void **pointer, size_t size, unsigned int flags EMULATOR_DEFAULT(cudaMemAttachGlobal)))                      \
    CALL(cudaMallocHost, (void **pointer, size_t size))                                                                \
    CALL(cudaHostAlloc, (void **pointer, size_t size, unsigned int flags))                                             \
    CALL(cudaFreeHost, (void *pointer))                                                                                \
    CALL(cudaDeviceGetDefaultMemPool, (cudaMemPool_t *pool, int device))                                               \
    CALL(cudaMemPoolGetAttribute, (cudaMemPool_t pool, enum cudaMemPoolAttr attribute, void *value))                   \
    CALL(cudaMemPoolSetAttribute, (cudaMemPool_t pool, enum cudaMemPoolAttr attribute, void *value))                   \
    CALL(cudaMemcpy, (void *destination, const void *source, size_t size, enum cudaMemcpyKind kind))                   \
    CALL(cudaMemcpyAsync, (void *destination, const void *source, size_t size, enum cudaMemcpyKind kind,               \
                           cudaStream_t stream EMULATOR_DEFAULT(0)))                                                   \
    CALL(cudaMemcpy2DAsync,                                                                                            \
         (void *destination, size_t destination_pitch, const void *source, size_t source_pitch, size_t width,          \
          size_t height, enum cudaMemcpyKind kind, cudaStream_t stream EMULATOR_DEFAULT(0)))                           \
    CALL(cudaMemcpyPeerAsync, (void *destination, int destination_device, const void *source, int source_device,       \
                               size_t size, cudaStream_t stream EMULATOR_DEFAULT(0)))                                  \
    CALL(cudaMemset, (void *pointer, int value, size_t size))                                                          \
    CALL(cudaMemsetAsync, (void *pointer, int value, size_t size, cudaStream_t stream EMULATOR_DEFAULT(0)))            \
    CALL(cudaLaunchHostFunc, (cudaStream_t stream, cudaHostFn_t function, void *data))

/* The runtime got this call in 12.8. */
#if CUDART_VERSION >= 12080
#define EMULATOR_RUNTIME_CALLS_12_8(CALL) CALL(cudaStreamGetDevice, (cudaStream_t stream, int *device))
#else
#define EMULATOR_RUNTIME_CALLS_12_8(CALL)
#endif

/*
 * The runtime's 12.x headers rename cudaStreamGetCaptureInfo to its second version by a macro, so that the prefixed
 * name depends on how the prefix is pasted: both spellings exist. 12.3 brought a third version, which 13 made the only
 * one.
 */
#define EMULATOR_CAPTURE_INFO_2                                                                                        \
    (cudaStream_t stream, enum cudaStreamCaptureStatus *status, unsigned long long *id EMULATOR_DEFAULT(0),            \
     cudaGraph_t *graph EMULATOR_DEFAULT(0), const cudaGraphNode_t **dependencies EMULATOR_DEFAULT(0),                 \
     size_t *n_dependencies EMULATOR_DEFAULT(0))
#define EMULATOR_CAPTURE_INFO_3                                                                                        \
    (cudaStream_t stream, enum cudaStreamCaptureStatus *status, unsigned long long *id EMULATOR_DEFAULT(0),            \
     cudaGraph_t *graph EMULATOR_DEFAULT(0), const cudaGraphNode_t **dependencies EMULATOR_DEFAULT(0),                 \
     const cudaGraphEdgeData **edges EMULATOR_DEFAULT(0), size_t *n_dependencies EMULATOR_DEFAULT(0))

#if CUDART_VERSION >= 13000
#define EMULATOR_RUNTIME_CALLS_CAPTURE_INFO(CALL) CALL(cudaStreamGetCaptureInfo, EMULATOR_CAPTURE_INFO_3)
#elif CUDART_VERSION >= 12030
#define EMULATOR_RUNTIME_CALLS_CAPTURE_INFO(CALL)                                                                      \
    CALL(cudaStreamGetCaptureInfo, EMULATOR_CAPTURE_INFO_2)                                                            \
    CALL(cudaStreamGetCaptureInfo_v2, EMULATOR_CAPTURE_INFO_2)                                                         \
    CALL(cudaStreamGetCaptureInfo_v3, EMULATOR_CAPTURE_INFO_3)
#else
#define EMULATOR_RUNTIME_CALLS_CAPTURE_INFO(CALL)                                                                      \
    CALL(cudaStreamGetCaptureInfo, EMULATOR_CAPTURE_INFO_2)                                                            \
    CALL(cudaStreamGetCaptureInfo_v2, EMULATOR_CAPTURE_INFO_2)
#endif

/* clang-format on */

#ifdef __cplusplus
extern "C" {
#endif

#define EMULATOR_DECLARE(name, parameters) EMULATOR_API cudaError_t emulator_##name parameters;
EMULATOR_RUNTIME_CALLS(EMULATOR_DECLARE)
EMULATOR_RUNTIME_CALLS_12_8(EMULATOR_DECLARE)
EMULATOR_RUNTIME_CALLS_CAPTURE_INFO(EMULATOR_DECLARE)
#undef EMULATOR_DECLARE

EMULATOR_API const char *emulator_cudaGetErrorName(cudaError_t error);
EMULATOR_API const char *emulator_cudaGetErrorString(cudaError_t error);

#ifdef __cplusplus
}
#endif

#endif
