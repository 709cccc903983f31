// nanobind_peer.cpp - what consumer.c does, in nanobind.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>

namespace nb = nanobind;

namespace
{

using Plain = nb::ndarray<nb::ro>;
template <typename Device> using Checked1 = nb::ndarray<const float, nb::shape<64>, nb::c_contig, Device>;
template <typename Device> using Checked2 = nb::ndarray<const float, nb::shape<8, 8>, nb::c_contig, Device>;
template <typename Device>
using Checked8 = nb::ndarray<const float, nb::shape<2, 2, 2, 2, 2, 2, 1, 1>, nb::c_contig, Device>;

template <typename Array> void define(nb::module_ &module, const char *one, const char *three)
{
    module.def(one, [](const Array &) {});
    module.def(three, [](const Array &, const Array &, const Array &) {});
}

float zeros[64];

// The address of memory on the GPU is passed where the library needs that.
template <typename Library> void define_out(nb::module_ &module, const char *same, const char *like)
{
    module.def(same, [](nb::ndarray<Library> array) { return array; });
    module.def(like, [](std::uintptr_t address) {
        float    *data = address != 0 ? reinterpret_cast<float *>(address) : zeros;
        const int device = address != 0 ? nb::device::cuda::value : nb::device::cpu::value;
        return nb::ndarray<Library, float, nb::shape<8, 8>>(data, {8, 8}, nb::capsule(zeros, [](void *) noexcept {}),
                                                            {}, nb::dtype<float>(), device);
    });
}

} // namespace

NB_MODULE(nanobind_peer, module)
{
    module.def("noop", [] {});
    define<Plain>(module, "host_plain_1", "host_plain_3");
    define<Checked1<nb::device::cpu>>(module, "host_1d_1", "host_1d_3");
    define<Checked2<nb::device::cpu>>(module, "host_2d_1", "host_2d_3");
    define<Checked8<nb::device::cpu>>(module, "host_8d_1", "host_8d_3");
    define<Plain>(module, "cuda_plain_1", "cuda_plain_3");
    define<Checked1<nb::device::cuda>>(module, "cuda_1d_1", "cuda_1d_3");
    define<Checked2<nb::device::cuda>>(module, "cuda_2d_1", "cuda_2d_3");
    define<Checked8<nb::device::cuda>>(module, "cuda_8d_1", "cuda_8d_3");
    define_out<nb::numpy>(module, "same_numpy", "like_numpy");
    define_out<nb::pytorch>(module, "same_torch", "like_torch");
    define_out<nb::cupy>(module, "same_cupy", "like_cupy");
}
