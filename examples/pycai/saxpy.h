/* saxpy.h - what the module, the host loop and the kernel agree on: one description of three strided arrays. */
#ifndef PYCAI_SAXPY_H
#define PYCAI_SAXPY_H

#include <cai/core.h>

/* The index space that s, x and y share, in as few dimensions as possible. Small enough to be a kernel's argument. */
typedef struct saxpy_layout {
    int32_t ndim;
    int64_t size;
    int64_t shape[CAI_MAX_NDIM];
    int64_t strides[3][CAI_MAX_NDIM]; /* of s, x and y, in elements */
} saxpy_layout_t;

/* s = a x + y for `size` indices; data types are those of the pointers. */
typedef struct saxpy_arguments {
    void       *s;
    const void *x, *y;
    double      a;
} saxpy_arguments_t;

#if defined(__cplusplus)
extern "C" {
#endif

/* In C, on the calling thread. */
void saxpy_host_float32(const saxpy_layout_t *layout, const saxpy_arguments_t *arguments);
void saxpy_host_float64(const saxpy_layout_t *layout, const saxpy_arguments_t *arguments);

/* As a kernel on `stream` of the current device. Returns a cudaError_t as a number, 0 for success. */
int saxpy_launch_float32(const saxpy_layout_t *layout, const saxpy_arguments_t *arguments, cai_stream_t stream);
int saxpy_launch_float64(const saxpy_layout_t *layout, const saxpy_arguments_t *arguments, cai_stream_t stream);

#if defined(__cplusplus)
}
#endif

#endif
