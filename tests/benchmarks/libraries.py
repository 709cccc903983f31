"""How each library does each kind of case: a Plan, or a Cannot that says why not."""

import contextlib
import functools
import time

from cases import PRODUCERS
from measure import Cannot, Plan

# A GPU's queue holds about a thousand operations; a call makes up to six.
MOST_ON_GPU = 100

NAMES = "abc"


def plan(world, case, statement, names, context=contextlib.nullcontext):
    if case.memory == "host":
        return Plan(statement, names, context)
    return Plan(statement, names, context, world.settle, MOST_ON_GPU, time.perf_counter_ns)


def of_arrays(case, arrays):
    """Names for the arrays of a case, and the arguments as they stand in a call."""
    return dict(zip(NAMES, arrays)), ", ".join(NAMES[: len(arrays)])


def call(world, case, function, arrays, context=contextlib.nullcontext):
    """One call with all arrays."""
    names, arguments = of_arrays(case, arrays)
    return plan(world, case, f"f({arguments})", {"f": function, **names}, context)


def call_each(world, case, function, arrays, context=contextlib.nullcontext):
    """One call for each array, of functions that take one."""
    names, _ = of_arrays(case, arrays)
    return plan(world, case, "; ".join(f"f({name})" for name in names), {"f": function, **names}, context)


def no_arrays(world, case, module):
    """A call of a module's function that takes none."""
    name = "noop" if case.kind == "noop" else f"allocate_{case.memory}"
    return plan(world, case, "f()", {"f": getattr(module, name)})


def library_of(producer):
    """The package that a producer's arrays are of."""
    return producer.split("-")[0]


def producer_stream(world, case):
    return world.producer if case.order == "streams" else world.legacy


def producer_context(world, case):
    """Where the producer's current stream is its own, apart from the consumer's."""
    if case.order != "streams":
        return contextlib.nullcontext
    return world.on_stream(library_of(case.producer), world.producer)


def arrays_of(world, case):
    if case.kind == "mix":
        return [world.arrays(name, 2, 1)[0] for name in ("torch-cuda", "cupy", "numba")]
    with producer_context(world, case)():
        return world.arrays(case.producer, case.ndim, case.count, producer_stream(world, case))


def from_dlpack_of(world, case):
    return world.library(library_of(case.producer)).from_dlpack


# ------------------------------------------------------------------------------------------------------ floor and cai


def floor_reader(case):
    """The floor's function for a producer and an order."""
    reader = PRODUCERS[case.producer].floor
    if case.producer == "cupy" and case.order == "none":
        return "dlpack"
    if case.memory == "cuda" and case.order in ("streams", "block"):
        return f"{reader}_{case.order}"
    if reader == "exchange" and case.memory == "cuda" and case.order != "none":
        return "exchange_stream"
    return reader


def floor(world, case):
    module = world.built("floor")
    if case.kind in ("noop", "allocate"):
        return no_arrays(world, case, module)
    if case.kind == "export":
        array = getattr(module, f"array_{case.memory}")()
        return export(world, case, array, module.exchange_table())
    if case.kind == "like":
        return floor_like(world, case, module)
    arrays = arrays_of(world, case)
    if case.kind == "mix":
        return call(world, case, module.mix, arrays)
    if PRODUCERS[case.producer].floor == "array":
        arrays = [getattr(module, f"array_{case.memory}")() for _ in range(case.count)]
    name = floor_reader(case)
    return call(
        world,
        case,
        getattr(module, f"return_{name}" if case.kind == "same" else name),
        arrays,
        producer_context(world, case),
    )


def floor_like(world, case, module):
    if library_of(case.producer) == "torch":
        world.library("torch")
        return plan(world, case, "f()", {"f": getattr(module, f"like_torch_{case.memory}")})
    function = getattr(module, f"like_{case.memory}")
    return plan(world, case, "f(g)", {"f": function, "g": from_dlpack_of(world, case)})


def cai(world, case):
    module = world.built("cai")
    if case.kind in ("noop", "allocate"):
        return no_arrays(world, case, module)
    if case.kind == "export":
        array = getattr(module, f"array_{case.memory}")()
        return export(world, case, array, getattr(type(array), "__dlpack_c_exchange_api__", None))
    if case.kind in ("take", "mix"):
        name = f"{case.memory}_{case.request}_{case.order}_{case.count}"
    else:
        name = {"view": "{}_view", "same": "same_{}", "like": "like_{}"}[case.kind].format(case.memory)
    return call(world, case, getattr(module, name), arrays_of(world, case), producer_context(world, case))


# -------------------------------------------------------------------------------------------- modules of other makers


def no_orders(case, orders=("adopt", "none")):
    if case.order not in orders:
        raise Cannot(f"it has no order like '{case.order}'")


def binding(name, world, case):
    """nanobind and pybind11."""
    module = world.built(name)
    no_orders(case)
    if case.kind == "noop":
        return no_arrays(world, case, module)
    if name == "pybind11" and case.memory == "cuda":
        raise Cannot("it takes host arrays only")
    if case.kind in ("same", "like"):
        function = getattr(module, f"{case.kind}_{library_of(case.producer)}", None)
        if function is None:
            raise Cannot(f"it makes no arrays of {library_of(case.producer)}")
        if case.kind == "like":
            memory = world.device_memory if case.memory == "cuda" else 0
            return plan(world, case, "f(p)", {"f": function, "p": memory})
        return call(world, case, function, arrays_of(world, case))
    return call(world, case, getattr(module, f"{case.memory}_{case.request}_{case.count}"), arrays_of(world, case))


def tvm_ffi(world, case):
    module = world.built("tvm-ffi")
    no_orders(case)
    if case.kind == "noop":
        return no_arrays(world, case, module)
    if case.kind == "like":
        raise Cannot("it takes the memory of new tensors from the caller's library")
    if case.kind == "same":
        return call(world, case, module.same, arrays_of(world, case))
    name = "plain" if case.request == "plain" else f"checked_{case.request}"
    return call(world, case, module[f"{name}_{case.count}"], arrays_of(world, case))


# --------------------------------------------------------------------------------------------------- Python functions


def cuda_core(world, case):
    no_orders(case, ("adopt", "none", "wait", "streams"))
    arrays = arrays_of(world, case)
    from_any = world.library("cuda.core.utils").StridedMemoryView.from_any_interface
    stream = -1
    if case.memory == "cuda" and case.order != "none":
        stream = world.consumer if case.order == "streams" else world.legacy
    names, _ = of_arrays(case, arrays)
    statement = "; ".join(f"f({name}, stream_ptr=s)" for name in names)
    return plan(world, case, statement, {"f": from_any, "s": stream, **names}, producer_context(world, case))


def function_of(library, path, world, case, memory=("host", "cuda"), orders=("adopt",), takes_own=True, **keywords):
    """A function that makes an array of its library from any other."""
    if case.memory not in memory:
        raise Cannot(f"it takes no arrays in {'GPU' if case.memory == 'cuda' else 'host'} memory")
    module = world.library(library)
    if case.memory == "cuda":
        no_orders(case, orders)
    if not takes_own and library_of(case.producer) == library.split(".")[0]:
        raise Cannot("it returns what it is passed")
    arrays = arrays_of(world, case)
    function = getattr(module, path)
    if keywords:
        function = functools.partial(function, **keywords)
    return call_each(world, case, function, arrays, contexts(world, case, library))


def contexts(world, case, consumer):
    """The producer's stream current in its library, and the consumer's in the other."""
    if case.order != "streams":
        return contextlib.nullcontext
    if library_of(case.producer) == consumer:
        raise Cannot("it has one current stream, which is the producer's")
    ours, theirs = producer_context(world, case), world.on_stream(consumer, world.consumer)

    @contextlib.contextmanager
    def both():
        with ours(), theirs():
            yield

    return both


def as_cuda_array(world, case):
    orders = ("adopt", "none", "block")
    waits = case.order == "block"
    return function_of(
        "numba.cuda", "as_cuda_array", world, case, memory=("cuda",), orders=orders, takes_own=False, sync=waits
    )


TAKING = {
    "floor": floor,
    "cai": cai,
    "nanobind": functools.partial(binding, "nanobind"),
    "pybind11": functools.partial(binding, "pybind11"),
    "tvm-ffi": tvm_ffi,
    "cuda.core StridedMemoryView": cuda_core,
    # It waits for the producer's stream if that is told.
    "cupy.asarray": functools.partial(
        function_of, "cupy", "asarray", memory=("cuda",), orders=("adopt", "block"), takes_own=False
    ),
    "cupy.from_dlpack": functools.partial(
        function_of, "cupy", "from_dlpack", memory=("cuda",), orders=("adopt", "wait", "streams")
    ),
    "numba.cuda.as_cuda_array": as_cuda_array,
    "torch.from_dlpack": functools.partial(function_of, "torch", "from_dlpack", orders=("adopt", "wait", "streams")),
    "torch.as_tensor": functools.partial(function_of, "torch", "as_tensor", orders=("adopt", "none"), takes_own=False),
    "numpy.from_dlpack": functools.partial(function_of, "numpy", "from_dlpack", memory=("host",)),
    "numpy.asarray": functools.partial(function_of, "numpy", "asarray", memory=("host",), takes_own=False),
}
MODULES = {name: TAKING[name] for name in ("floor", "cai", "nanobind", "pybind11", "tvm-ffi")}

# ---------------------------------------------------------------------------------------------- exports, new arrays


def export(world, case, array, table=None):
    """An object hands itself out by a protocol, and what it gave is dropped."""
    if case.protocol == "dlpack":
        return plan(world, case, "a.__dlpack__(max_version=v)", {"a": array, "v": (1, 3)})
    if case.protocol == "buffer":
        return plan(world, case, "m(a)", {"a": array, "m": memoryview})
    if case.protocol == "exchange":
        if table is None:
            raise Cannot("it has no exchange table")
        function = world.built("floor").exchange_export
        return plan(world, case, "f(t, a)", {"f": function, "t": table, "a": array})
    attribute = f"__{case.protocol}__"
    if not hasattr(array, attribute):
        raise Cannot(f"it has no {attribute}")
    return plan(world, case, f"a.{attribute}", {"a": array})


def export_of(producers, world, case):
    """The export of another library's array."""
    if case.memory not in producers:
        raise Cannot(f"it has no arrays in {'GPU' if case.memory == 'cuda' else 'host'} memory")
    array = world.arrays(producers[case.memory], 2, 1)[0]
    return export(world, case, array, getattr(type(array), "__dlpack_c_exchange_api__", None))


def empty(library, memory, world, case, **keywords):
    """A new array of another library, dropped at once."""
    if case.memory not in memory:
        raise Cannot(f"it has no arrays in {'GPU' if case.memory == 'cuda' else 'host'} memory")
    module = world.library(library)
    names = {"f": module.empty, "s": (8, 8), "t": module.float32, "d": case.memory.replace("host", "cpu")}
    return plan(world, case, "f(s, dtype=t, device=d)" if library == "torch" else "f(s, t)", names)


LIBRARIES = {
    "noop": MODULES,
    "take": TAKING,
    "view": TAKING,
    "mix": TAKING,
    "same": MODULES,
    "like": MODULES,
    "export": {
        "floor": floor,
        "cai": cai,
        "numpy": functools.partial(export_of, {"host": "numpy"}),
        "torch": functools.partial(export_of, {"host": "torch-cpu", "cuda": "torch-cuda"}),
        "cupy": functools.partial(export_of, {"cuda": "cupy"}),
        "numba.cuda": functools.partial(export_of, {"cuda": "numba"}),
    },
    "allocate": {
        "floor": floor,
        "cai": cai,
        "numpy.empty": functools.partial(empty, "numpy", ("host",)),
        "torch.empty": functools.partial(empty, "torch", ("host", "cuda")),
        "cupy.empty": functools.partial(empty, "cupy", ("cuda",)),
    },
}


def plans_of(world, case, wanted=None):
    """For each library of a kind of case its Plan, or the exception that says why there is none."""
    plans = {}
    for library, make in LIBRARIES[case.kind].items():
        if wanted is not None and library not in wanted:
            continue
        try:
            if case.memory == "cuda":
                world.need_gpu()
            plans[library] = make(world, case)
        except Exception as error:
            plans[library] = error
    return plans
