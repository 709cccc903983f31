"""Several files in one program, and several extensions in one process."""

import subprocess
import sys
import textwrap

import pytest
from toolchain import INCLUDE, check, compile_to, dialects, oldest, own_python

PART = """
#include <cai/core.h>
#ifdef __cplusplus
extern "C"
#endif
int part_{n}(void);
int part_{n}(void)
{{
    int64_t      shape[2] = {{2, 3}}, strides[2] = {{3, 1}};
    cai_tensor_t tensor;
    cai_error_t  error;
    memset(&tensor, 0, sizeof(tensor));
    tensor.data = shape;
    tensor.device.device_type = CAI_DEVICE_CPU;
    tensor.ndim = 2;
    tensor.dtype = cai_float32();
    tensor.shape = shape;
    tensor.strides = strides;
    return cai_tensor_validate(&tensor, &error) == CAI_OK && cai_tensor_size(&tensor) == 6
               ? CAI_IMPL_CAST(int, sizeof(cai_view_t)) : -1;
}}
"""

MAIN = """
#ifdef __cplusplus
extern "C" {
#endif
int part_0(void);
int part_1(void);
#ifdef __cplusplus
}
#endif
int main(void)
{
    return part_0() > 0 && part_0() == part_1() ? 0 : 1;
}
"""


def pairs():
    c = [dialect for dialect in oldest(dialects()) if not dialect.is_cpp]
    cpp = [dialect for dialect in oldest(dialects()) if dialect.is_cpp]
    return [
        pytest.param(a, b, id=f"{a}-{b}") for a, b in [*zip(c, c), *zip(cpp, cpp), *zip(c, cpp), *zip(cpp, reversed(c))]
    ]


@pytest.mark.parametrize("first, second", pairs())
def test_two_files_in_one_program(first, second, tmp_path):
    arguments = [f"-I{INCLUDE}", "-DCAI_NO_CUDA"]
    parts = [
        compile_to(tmp_path, f"part_{n}", dialect, PART.format(n=n), *arguments)
        for n, dialect in enumerate((first, second))
    ]
    parts.append(compile_to(tmp_path, "main", first, MAIN))
    program = tmp_path / "program"
    check(second.compiler if second.is_cpp else first.compiler, *parts, "-o", program)
    check(program)


MAKER = """
#include <cai/core.h>
#ifdef __cplusplus
extern "C"
#endif
cai_array_t *make(void);
cai_array_t *make(void)
{
    int64_t shape[1] = {4};
    return cai_array_new(NULL, cai_float32(), 1, shape, -1, CAI_MEMORY_HOST, NULL, NULL);
}
"""

KEEPER = """
#include <cai/core.h>
#ifdef __cplusplus
extern "C"
#endif
cai_array_t *make(void);
int main(void)
{
    cai_array_t       *array = make();
    const cai_status_t status = cai_array_set_stream(array, CAI_STREAM_LEGACY, NULL, NULL);
    cai_array_release(array);
    return status == CAI_OK ? 0 : 1;
}
"""


@pytest.mark.parametrize("first, second", pairs())
def test_an_array_of_one_file_is_the_extensions_own_in_another(first, second, tmp_path):
    arguments = [f"-I{INCLUDE}", "-DCAI_NO_CUDA"]
    parts = [
        compile_to(tmp_path, "maker", first, MAKER, *arguments),
        compile_to(tmp_path, "keeper", second, KEEPER, *arguments),
    ]
    program = tmp_path / "program"
    check((first if first.is_cpp else second).compiler, *parts, "-o", program)
    check(program)


MODULE = """
#include <cai/cai.h>

static PyObject *total(PyObject *module, PyObject *array)
{
    cai_request_t want = cai_request("array");
    cai_view_t    view;
    double        sum = 0;
    want.dtype = cai_float64();
    want.ndim = 1;
    want.memory = CAI_ON_HOST;
    if (cai_view_acquire(cai_module_state(module), array, &want, cai_order_adopt(), &view) < 0)
        return NULL;
    for (int64_t i = 0; i < view.size; i++)
        sum += CAI_IMPL_CAST(const double *, view.tensor.data)[i * view.tensor.strides[0]];
    (void)cai_view_release(&view);
    return PyFloat_FromDouble(sum);
}

static int module_exec(PyObject *module)
{
    cai_state_t *state = cai_module_state(module);
    return cai_state_init(state, module) < 0 ? -1 : cai_register_exceptions(state, module, NULL);
}

static PyMethodDef methods[] = {{"total", total, METH_O, NULL}, {NULL, NULL, 0, NULL}};
static PyModuleDef_Slot slots[] = {{Py_mod_exec, CAI_IMPL_BITS(void *, module_exec)}, {0, NULL}};
static PyModuleDef definition = {PyModuleDef_HEAD_INIT, "NAME", NULL, sizeof(cai_state_t), methods, slots,
                                 cai_state_traverse, cai_state_clear, cai_state_free};

PyMODINIT_FUNC PyInit_NAME(void);
PyMODINIT_FUNC PyInit_NAME(void)
{
    return PyModuleDef_Init(&definition);
}
"""

USE = """
import array, gc, sys
import first, second

numbers = array.array("d", [1, 2, 3])
assert first.total(numbers) == second.total(numbers) == 6
for module in (first, second):
    try:
        module.total(array.array("f", [1]))
        raise SystemExit("not refused")
    except module.DtypeMismatchError as error:
        assert isinstance(error, TypeError) and "argument 'array'" in str(error), error
assert first.CAIError is not second.CAIError
del sys.modules["first"], first, module
gc.collect()
assert second.total(numbers) == 6
import first
assert first.total(numbers) == 6
"""


@pytest.mark.parametrize("flags", [[], ["-O2"]], ids=["O0", "O2"])
def test_two_extensions_in_one_process(flags, tmp_path):
    """One in C and one in C++, where there is a C++ compiler: each with its own state, types and exceptions."""
    c, cpp = oldest(dialects())[0], oldest(dialects())[-1]
    for name, dialect in (("first", c), ("second", cpp)):
        output = compile_to(
            tmp_path,
            name,
            dialect,
            MODULE.replace("NAME", name),
            f"-I{INCLUDE}",
            "-DCAI_NO_CUDA",
            "-fPIC",
            "-fvisibility=hidden",
            "-Wno-pedantic",
            *own_python().arguments,
            *flags,
        )
        check(dialect.compiler, "-shared", output, "-o", tmp_path / f"{name}.so")
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(USE)], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
