/* Names and texts of the error codes that the emulator answers or that tests are likely to script. */
#include "internal.h"

#define ERRORS(ERROR)                                                                                                  \
    ERROR(cudaSuccess, "no error")                                                                                     \
    ERROR(cudaErrorInvalidValue, "invalid argument")                                                                   \
    ERROR(cudaErrorMemoryAllocation, "out of memory")                                                                  \
    ERROR(cudaErrorInitializationError, "initialization error")                                                        \
    ERROR(cudaErrorCudartUnloading, "driver shutting down")                                                            \
    ERROR(cudaErrorInvalidConfiguration, "invalid configuration argument")                                             \
    ERROR(cudaErrorInvalidPitchValue, "invalid pitch argument")                                                        \
    ERROR(cudaErrorInvalidHostPointer, "invalid host pointer")                                                         \
    ERROR(cudaErrorInvalidDevicePointer, "invalid device pointer")                                                     \
    ERROR(cudaErrorInvalidMemcpyDirection, "invalid copy direction for memcpy")                                        \
    ERROR(cudaErrorInsufficientDriver, "CUDA driver version is insufficient for CUDA runtime version")                 \
    ERROR(cudaErrorDevicesUnavailable, "CUDA-capable device(s) is/are busy or unavailable")                            \
    ERROR(cudaErrorInvalidDeviceFunction, "invalid device function")                                                   \
    ERROR(cudaErrorNoDevice, "no CUDA-capable device is detected")                                                     \
    ERROR(cudaErrorInvalidDevice, "invalid device ordinal")                                                            \
    ERROR(cudaErrorDeviceUninitialized, "invalid device context")                                                      \
    ERROR(cudaErrorNoKernelImageForDevice, "no kernel image is available for execution on the device")                 \
    ERROR(cudaErrorECCUncorrectable, "uncorrectable ECC error encountered")                                            \
    ERROR(cudaErrorPeerAccessUnsupported, "peer access is not supported between these two devices")                    \
    ERROR(cudaErrorOperatingSystem, "OS call failed or operation not supported on this OS")                            \
    ERROR(cudaErrorInvalidResourceHandle, "invalid resource handle")                                                   \
    ERROR(cudaErrorIllegalState, "the operation cannot be performed in the present state")                             \
    ERROR(cudaErrorSymbolNotFound, "named symbol not found")                                                           \
    ERROR(cudaErrorNotReady, "device not ready")                                                                       \
    ERROR(cudaErrorIllegalAddress, "an illegal memory access was encountered")                                         \
    ERROR(cudaErrorLaunchOutOfResources, "too many resources requested for launch")                                    \
    ERROR(cudaErrorLaunchTimeout, "the launch timed out and was terminated")                                           \
    ERROR(cudaErrorPeerAccessAlreadyEnabled, "peer access is already enabled")                                         \
    ERROR(cudaErrorPeerAccessNotEnabled, "peer access has not been enabled")                                           \
    ERROR(cudaErrorContextIsDestroyed, "context is destroyed")                                                         \
    ERROR(cudaErrorAssert, "device-side assert triggered")                                                             \
    ERROR(cudaErrorHostMemoryAlreadyRegistered, "part or all of the requested memory range is already mapped")         \
    ERROR(cudaErrorHostMemoryNotRegistered, "pointer does not correspond to a registered memory region")               \
    ERROR(cudaErrorMisalignedAddress, "misaligned address")                                                            \
    ERROR(cudaErrorLaunchFailure, "unspecified launch failure")                                                        \
    ERROR(cudaErrorNotPermitted, "operation not permitted")                                                            \
    ERROR(cudaErrorNotSupported, "operation not supported")                                                            \
    ERROR(cudaErrorSystemNotReady, "system not yet initialized")                                                       \
    ERROR(cudaErrorStreamCaptureUnsupported, "operation not permitted when stream is capturing")                       \
    ERROR(cudaErrorStreamCaptureInvalidated, "operation failed due to a previous error during capture")                \
    ERROR(cudaErrorStreamCaptureMerge, "operation would result in a merge of separate capture sequences")              \
    ERROR(cudaErrorStreamCaptureUnmatched, "capture was not ended in the same stream as it began")                     \
    ERROR(cudaErrorStreamCaptureUnjoined, "capturing stream has unjoined work")                                        \
    ERROR(cudaErrorStreamCaptureIsolation, "dependency created on uncaptured work in another stream")                  \
    ERROR(cudaErrorStreamCaptureImplicit,                                                                              \
          "operation would make the legacy stream depend on a capturing blocking stream")                              \
    ERROR(cudaErrorCapturedEvent, "operation not permitted on an event last recorded in a capturing stream")           \
    ERROR(cudaErrorStreamCaptureWrongThread,                                                                           \
          "attempt to terminate a thread-local capture sequence from another thread")                                  \
    ERROR(cudaErrorUnknown, "unknown error")

static const struct {
    cudaError_t code;
    const char *name;
    const char *text;
} errors[] = {
#define ENTRY(code, text) {code, #code, text},
    ERRORS(ENTRY)
#undef ENTRY
};

static const char unrecognized[] = "unrecognized error code";

const char *emulator_cudaGetErrorName(cudaError_t error)
{
    for (size_t i = 0; i < sizeof(errors) / sizeof(*errors); i++) {
        if (errors[i].code == error) {
            return errors[i].name;
        }
    }
    return unrecognized;
}

const char *emulator_cudaGetErrorString(cudaError_t error)
{
    for (size_t i = 0; i < sizeof(errors) / sizeof(*errors); i++) {
        if (errors[i].code == error) {
            return errors[i].text;
        }
    }
    return unrecognized;
}
