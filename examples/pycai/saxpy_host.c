/* saxpy_host.c - saxpy for host arrays: the kernel's loop, in C. */
#include "saxpy.h"

/* The offset of the index-th element of one array. */
static int64_t offset_of(const saxpy_layout_t *layout, int array, int64_t index)
{
    int64_t offset = 0;
    for (int32_t i = layout->ndim - 1; i >= 0; i--) {
        offset += index % layout->shape[i] * layout->strides[array][i];
        index /= layout->shape[i];
    }
    return offset;
}

/* The innermost dimension is a plain loop; only the dimensions around it are counted by division. */
#define DEFINE_SAXPY(name, type)                                                                                       \
    void name(const saxpy_layout_t *layout, const saxpy_arguments_t *arguments)                                        \
    {                                                                                                                  \
        const int32_t last = layout->ndim - 1;                                                                         \
        const int64_t inner = layout->ndim == 0 ? 1 : layout->shape[last];                                             \
        const type    a = (type)arguments->a;                                                                          \
        for (int64_t start = 0; start < layout->size; start += inner) {                                                \
            type       *s = (type *)arguments->s + offset_of(layout, 0, start);                                        \
            const type *x = (const type *)arguments->x + offset_of(layout, 1, start);                                  \
            const type *y = (const type *)arguments->y + offset_of(layout, 2, start);                                  \
            for (int64_t i = 0; i < inner; i++) {                                                                      \
                *s = a * *x + *y;                                                                                      \
                if (i + 1 < inner) {                                                                                   \
                    s += layout->strides[0][last];                                                                     \
                    x += layout->strides[1][last];                                                                     \
                    y += layout->strides[2][last];                                                                     \
                }                                                                                                      \
            }                                                                                                          \
        }                                                                                                              \
    }

DEFINE_SAXPY(saxpy_host_float32, float)
DEFINE_SAXPY(saxpy_host_float64, double)
