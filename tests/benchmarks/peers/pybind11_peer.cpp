// pybind11_peer.cpp - what consumer.c does with host arrays, in pybind11, which knows no others.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <array>
#include <cstdint>

namespace py = pybind11;

namespace
{

using Checked = py::array_t<float, py::array::c_style>;

template <std::size_t N> void check(const Checked &array, const std::array<py::ssize_t, N> &shape)
{
    if (array.ndim() != py::ssize_t(N) || !std::equal(shape.begin(), shape.end(), array.shape()))
        throw py::value_error("the shape is another");
}

template <std::size_t N>
void define(py::module_ &module, const char *one, const char *three, const std::array<py::ssize_t, N> &shape)
{
    const auto x = py::arg("x").noconvert(), y = py::arg("y").noconvert(), z = py::arg("z").noconvert();
    module.def(one, [shape](const Checked &a) { check(a, shape); }, x);
    module.def(
        three,
        [shape](const Checked &a, const Checked &b, const Checked &c) {
            check(a, shape), check(b, shape), check(c, shape);
        },
        x, y, z);
}

float zeros[64];

} // namespace

PYBIND11_MODULE(pybind11_peer, module)
{
    module.def("noop", [] {});
    module.def("host_plain_1", [](const py::array &) {});
    module.def("host_plain_3", [](const py::array &, const py::array &, const py::array &) {});
    define<1>(module, "host_1d_1", "host_1d_3", {64});
    define<2>(module, "host_2d_1", "host_2d_3", {8, 8});
    define<8>(module, "host_8d_1", "host_8d_3", {2, 2, 2, 2, 2, 2, 1, 1});
    module.def("same_numpy", [](const py::array &array) { return array; });
    module.def("like_numpy",
               [](std::uintptr_t) { return py::array_t<float>({8, 8}, zeros, py::capsule(zeros, [](void *) {})); });
}
