// tvm_ffi_peer.cpp - what consumer.c does, in apache-tvm-ffi.
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/error.h>
#include <tvm/ffi/function.h>

namespace ffi = tvm::ffi;
using ffi::TensorView;

namespace
{

template <int N> void check(TensorView tensor, const int64_t (&shape)[N])
{
    const DLDataType dtype = tensor.dtype();
    bool             is_wanted = dtype.code == kDLFloat && dtype.bits == 32 && dtype.lanes == 1 && tensor.ndim() == N;
    for (int i = 0; is_wanted && i < N; i++)
        is_wanted = tensor.size(i) == shape[i];
    if (!is_wanted || !tensor.IsContiguous())
        TVM_FFI_THROW(ValueError) << "the array is another";
}

constexpr int64_t shape_1d[] = {64}, shape_2d[] = {8, 8}, shape_8d[] = {2, 2, 2, 2, 2, 2, 1, 1};

#define DEFINE(name, shape)                                                                                            \
    void name##_1(TensorView x)                                                                                        \
    {                                                                                                                  \
        check(x, shape);                                                                                               \
    }                                                                                                                  \
    void name##_3(TensorView x, TensorView y, TensorView z)                                                            \
    {                                                                                                                  \
        check(x, shape), check(y, shape), check(z, shape);                                                             \
    }

DEFINE(checked_1d, shape_1d)
DEFINE(checked_2d, shape_2d)
DEFINE(checked_8d, shape_8d)

void noop()
{
}

void plain_1(TensorView)
{
}

void plain_3(TensorView, TensorView, TensorView)
{
}

ffi::Tensor same(ffi::Tensor tensor)
{
    return tensor;
}

} // namespace

TVM_FFI_DLL_EXPORT_TYPED_FUNC(noop, noop);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(plain_1, plain_1);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(plain_3, plain_3);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(checked_1d_1, checked_1d_1);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(checked_1d_3, checked_1d_3);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(checked_2d_1, checked_2d_1);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(checked_2d_3, checked_2d_3);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(checked_8d_1, checked_8d_1);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(checked_8d_3, checked_8d_3);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(same, same);
