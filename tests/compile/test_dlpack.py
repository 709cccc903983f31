"""cai's DLPack structs and numbers against every official header that is to be found, and the casts between the two."""

import re
import subprocess

import pytest
from toolchain import INCLUDE, check, compilation, compile_to, dialects, dlpack_headers, oldest

HEADERS = dlpack_headers()

# The official name's stem as cai writes it, where the two differ by more than case.
RENAMED = {
    "EXT_DEV": "EXTENSION",
    "CUDAHOST": "CUDA_HOST",
    "CUDAMANAGED": "CUDA_MANAGED",
    "ROCMHOST": "ROCM_HOST",
    "EXTDEV": "EXTENSION",
    "TRN": "TRAINIUM",
    "GPU": "CUDA",
    "CPUPINNED": "CUDA_HOST",
    "OPAQUEHANDLE": "OPAQUE",
    "ONEAPI": "ONEAPI",
}


def test_there_is_a_header_to_compare_with():
    assert [header for header in HEADERS if header.version >= 103], (
        "no header of DLPack 1.3 is installed (apache-tvm-ffi has one)"
    )


def refused_alone(header, dialect):
    """Why a header does not compile by itself in a language, or None: some are C++ only, or lie in a namespace."""
    result = subprocess.run(
        [
            dialect.compiler,
            f"-std={dialect.standard}",
            "-fsyntax-only",
            "-x",
            "c++" if dialect.is_cpp else "c",
            header.path,
        ],
        capture_output=True,
        text=True,
    )
    return None if result.returncode == 0 else result.stderr.splitlines()[0]


@pytest.fixture
def folder(header, dialect, tmp_path):
    """An include folder with the header as <dlpack/dlpack.h>."""
    why = refused_alone(header, dialect)
    if why is not None:
        pytest.skip(f"{header} does not compile by itself as {'C++' if dialect.is_cpp else 'C'}: {why}")
    if re.search(r"^namespace \w+", header.path.read_text(), re.MULTILINE):
        pytest.skip(f"{header} is in a namespace")
    return header.folder(tmp_path)


def flags(folder):
    return [f"-I{INCLUDE}", "-DCAI_NO_CUDA", "-isystem", str(folder)]


with_headers = pytest.mark.parametrize("header", HEADERS, ids=str)
in_dialects = pytest.mark.parametrize("dialect", oldest(dialects()), ids=str)

ORDERS = {
    "before": "#include <dlpack/dlpack.h>\n#include <cai/core.h>\n",
    "after": "#include <cai/core.h>\n#include <dlpack/dlpack.h>\n",
    "around": "#include <cai/dlpack_abi.h>\n#include <dlpack/dlpack.h>\n#include <cai/core.h>\n",
    "compat first": "#include <cai/dlpack_compat.h>\n#include <dlpack/dlpack.h>\n#include <cai/core.h>\n",
    "compat last": "#include <dlpack/dlpack.h>\n#include <cai/core.h>\n#include <cai/dlpack_compat.h>\n",
}


@in_dialects
@with_headers
@pytest.mark.parametrize("order", ORDERS)
def test_pitfall_70_official_header_before_and_after(order, header, dialect, folder):
    result = compilation(dialect, ORDERS[order], *flags(folder)).run()
    assert result.returncode == 0, result.stderr


def numbers(header):
    """Enumerators of the official header: devices and type codes."""
    text = re.sub(r"/\*.*?\*/", "", header.path.read_text(), flags=re.DOTALL)
    for end in ("DLDeviceType", "DLDataTypeCode"):
        body = re.search(r"\{([^{}]*)\}\s*" + end + r"\b", text).group(1)
        for name, number in re.findall(r"kDL(\w+)\s*=\s*(\d+)", body):
            yield end, name, int(number)


def own_name(kind, name):
    stem = RENAMED.get(name.upper(), name.upper())
    return ("CAI_DEVICE_" if kind == "DLDeviceType" else "CAI_CODE_") + stem


@with_headers
def test_numbers_are_the_official_ones(header, tmp_path):
    """Every device and type code of the header has the same number here; a new one has to be added to dlpack_abi.h."""
    lines = [
        f'CAI_IMPL_STATIC_ASSERT({own_name(kind, name)} == {number}, "{name}");'
        for kind, name, number in numbers(header)
    ]
    assert len(lines) > 15
    compile_to(
        tmp_path, "numbers", oldest(dialects())[0], "#include <cai/dlpack_abi.h>\n" + "\n".join(lines), f"-I{INCLUDE}"
    )


@with_headers
def test_flags_are_the_official_ones(header, tmp_path):
    if header.version < 100:
        pytest.skip(f"{header} has no flags")
    names = re.findall(r"#define DLPACK_FLAG_BITMASK_(\w+)", header.path.read_text())
    own = {"READ_ONLY": "READ_ONLY", "IS_COPIED": "IS_COPIED", "IS_SUBBYTE_TYPE_PADDED": "SUBBYTE_PADDED"}
    lines = [
        f'CAI_IMPL_STATIC_ASSERT(CAI_DLPACK_FLAG_{own[name]} == DLPACK_FLAG_BITMASK_{name}, "{name}");'
        for name in names
    ]
    assert lines
    dialect = oldest(dialects())[0]
    source = "#include <cai/dlpack_compat.h>\n" + "\n".join(lines)
    compile_to(tmp_path, "flags", dialect, source, *flags(header.folder(tmp_path)))


def test_version_is_the_newest_official_one(tmp_path):
    newest = max(header.version for header in HEADERS)
    line = f'CAI_IMPL_STATIC_ASSERT(CAI_DLPACK_MAJOR * 100 + CAI_DLPACK_MINOR >= {newest}, "version");'
    compile_to(tmp_path, "version", oldest(dialects())[0], "#include <cai/dlpack_abi.h>\n" + line, f"-I{INCLUDE}")


CASTS = """
#include <cai/dlpack_compat.h>
#include <stdlib.h>

#define EXPECT(condition) do { if (!(condition)) return __LINE__; } while (0)

static int deleted;
static void delete_it(struct DLManagedTensor *self)
{
    deleted += self->manager_ctx == &deleted;
}

/* What is written through one type is read through the other, under optimisation too. */
static int test_tensor(void)
{
    int64_t      shape[1] = {5}, strides[1] = {-1};
    cai_tensor_t ours;
    DLTensor    *theirs;
    memset(&ours, 0, sizeof(ours));
    ours.data = shape;
    ours.device.device_type = CAI_DEVICE_CUDA_MANAGED;
    ours.device.device_id = 3;
    ours.ndim = 1;
    ours.dtype = cai_complex64();
    ours.shape = shape;
    ours.strides = strides;
    ours.byte_offset = 16;
    theirs = cai_tensor_to_dl(&ours);
    EXPECT(theirs->data == shape && theirs->device.device_type == kDLCUDAManaged && theirs->device.device_id == 3);
    EXPECT(theirs->ndim == 1 && theirs->dtype.code == kDLComplex && theirs->dtype.bits == 64 && theirs->dtype.lanes == 1);
    EXPECT(theirs->shape[0] == 5 && theirs->strides[0] == -1 && theirs->byte_offset == 16);
    theirs->ndim = 0;
    theirs->byte_offset = 8;
    EXPECT(cai_tensor_from_dl(theirs)->ndim == 0 && cai_tensor_from_dl(theirs)->byte_offset == 8);
    EXPECT(cai_tensor_from_dl(theirs) == &ours);
    EXPECT(cai_tensor_to_dl(NULL) == NULL && cai_tensor_from_dl(NULL) == NULL);
    return 0;
}

static int test_values(void)
{
    EXPECT(cai_dtype_equal(cai_dtype_from_dl(cai_dtype_to_dl(cai_bfloat16())), cai_bfloat16()));
    EXPECT(cai_dtype_to_dl(cai_bfloat16()).code == kDLBfloat);
    EXPECT(cai_device_from_dl(cai_device_to_dl(cai_impl_device(CAI_DEVICE_CUDA, 7))).device_id == 7);
    EXPECT(cai_device_to_dl(cai_impl_device(CAI_DEVICE_CUDA_HOST, 0)).device_type == kDLCUDAHost);
    return 0;
}

static int test_managed(void)
{
    DLManagedTensor       theirs;
    cai_dlpack_managed_t *ours;
    memset(&theirs, 0, sizeof(theirs));
    theirs.deleter = delete_it;
    theirs.manager_ctx = &deleted;
    theirs.dl_tensor.ndim = 4;
    ours = cai_managed_from_dl(&theirs);
    EXPECT(ours->tensor.ndim == 4);
    ours->deleter(ours);
    EXPECT(deleted == 1 && cai_managed_to_dl(ours) == &theirs);
    return 0;
}

#if CAI_IMPL_DL_VERSION >= 100
static int test_versioned(void)
{
    cai_dlpack_managed_versioned_t  ours;
    struct DLManagedTensorVersioned *theirs;
    memset(&ours, 0, sizeof(ours));
    ours.version.major = 1;
    ours.version.minor = 3;
    ours.flags = CAI_DLPACK_FLAG_READ_ONLY;
    ours.tensor.ndim = 2;
    theirs = cai_managed_versioned_to_dl(&ours);
    EXPECT(theirs->version.major == 1 && theirs->version.minor == 3 && theirs->flags == DLPACK_FLAG_BITMASK_READ_ONLY);
    EXPECT(theirs->dl_tensor.ndim == 2 && theirs->deleter == NULL);
    EXPECT(cai_managed_versioned_from_dl(theirs) == &ours);
    return 0;
}
#endif

#if CAI_IMPL_DL_VERSION >= 103
static int current_stream(DLDeviceType device_type, int32_t device_id, void **out)
{
    (void)device_type;
    *out = NULL;
    return device_id;
}

static int test_exchange(void)
{
    DLPackExchangeAPI            theirs;
    const cai_dlpack_exchange_t *ours;
    void                        *stream = &theirs;
    memset(&theirs, 0, sizeof(theirs));
    theirs.header.version.major = 1;
    theirs.current_work_stream = current_stream;
    ours = cai_exchange_from_dl(&theirs);
    EXPECT(ours->header.version.major == 1 && ours->header.prev_api == NULL && ours->managed_tensor_allocator == NULL);
    EXPECT(ours->current_work_stream(CAI_DEVICE_CUDA, 6, &stream) == 6 && stream == NULL);
    EXPECT(cai_exchange_to_dl(ours) == &theirs);
    return 0;
}
#endif

int main(void)
{
    int line = test_tensor();
    line = line != 0 ? line : test_values();
    line = line != 0 ? line : test_managed();
#if CAI_IMPL_DL_VERSION >= 100
    line = line != 0 ? line : test_versioned();
#endif
#if CAI_IMPL_DL_VERSION >= 103
    line = line != 0 ? line : test_exchange();
#endif
    return line == 0 ? 0 : (printf("line %d\\n", line), 1);
}
"""


@in_dialects
@with_headers
@pytest.mark.parametrize("level", ["-O0", "-O3"])
def test_casts(level, header, dialect, folder, tmp_path):
    output = compile_to(tmp_path, "casts", dialect, CASTS, *flags(folder), level)
    check(dialect.compiler, output, "-o", tmp_path / "casts")
    check(tmp_path / "casts")
