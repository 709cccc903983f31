/* Proves at compile time that every call of the emulator has the very type of the runtime's. */
#include "emulator_runtime.h"

#define SAME_TYPE(name, parameters)                                                                                    \
    _Static_assert(__builtin_types_compatible_p(__typeof__(name), __typeof__(emulator_##name)), #name);

EMULATOR_RUNTIME_CALLS(SAME_TYPE)
EMULATOR_RUNTIME_CALLS_12_8(SAME_TYPE)
EMULATOR_RUNTIME_CALLS_CAPTURE_INFO(SAME_TYPE)
SAME_TYPE(cudaGetErrorName, )
SAME_TYPE(cudaGetErrorString, )
