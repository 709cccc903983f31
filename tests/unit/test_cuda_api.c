/*
 * Checks cuda_api.h: that CAI_CUDA puts the prefix before every call, and that each has the runtime's own signature.
 */
#include <cai/cuda_api.h>

#include "unit_cuda.h"

TestSuite(cuda_api, .timeout = UNIT_TIMEOUT);

#define TEXT_OF(macro) TEXT(macro)
#define TEXT(macro)    #macro

/* Every call that cai makes. */
#define CALLS(X)                                                                                                       \
    X(cudaGetDevice)                                                                                                   \
    X(cudaSetDevice)                                                                                                   \
    X(cudaPointerGetAttributes)                                                                                        \
    X(cudaStreamIsCapturing)                                                                                           \
    X(cudaStreamSynchronize)                                                                                           \
    X(cudaThreadExchangeStreamCaptureMode)                                                                             \
    X(cudaGetLastError)                                                                                                \
    X(cudaGetErrorName)                                                                                                \
    X(cudaGetErrorString)

#define SAME_TYPE(name)                                                                                                \
    _Static_assert(__builtin_types_compatible_p(__typeof__(CAI_CUDA(name)), __typeof__(name)), "signature of " #name);
CALLS(SAME_TYPE)
#if CAI_IMPL_HAS_STREAM_GET_DEVICE
SAME_TYPE(cudaStreamGetDevice)
#endif

Test(cuda_api, calls_have_the_prefix)
{
#define SPELLING(name) cr_expect_str_eq(TEXT_OF(CAI_CUDA(name)), "emulator_" #name);
    CALLS(SPELLING)
#undef SPELLING
    cr_expect_str_eq(TEXT_OF(CAI_CUDA(cudaAnything)), "emulator_cudaAnything");
}

Test(cuda_api, calls_reach_whom_the_prefix_names)
{
#define TARGET(name) cr_expect(CAI_CUDA(name) == emulator_##name, "%s", #name);
    CALLS(TARGET)
#undef TARGET
    emulator_clear_calls();
    cr_expect_eq(CAI_CUDA(cudaSetDevice)(1), cudaSuccess);
    cr_expect_eq(emulator_count_calls("cudaSetDevice"), 1);
}

Test(cuda_api, newer_calls_are_behind_their_version)
{
    cr_expect_eq(CAI_IMPL_HAS_STREAM_GET_DEVICE, CUDART_VERSION >= 12080);
#if CUDART_VERSION >= 12080
    cr_expect(CAI_CUDA(cudaStreamGetDevice) == emulator_cudaStreamGetDevice);
#endif
}
