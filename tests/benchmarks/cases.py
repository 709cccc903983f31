"""What is timed, as data: the cases, and the goals that cai has in them."""

from dataclasses import dataclass, replace
from fnmatch import fnmatchcase


@dataclass(frozen=True)
class Producer:
    """Where arrays come from, and the floor module's way of reading them."""

    name: str
    memory: str  # host or cuda
    floor: str  # the protocol that costs least
    dimensions: tuple = (2, 1, 8)  # the first one is the usual one
    orders: tuple = ()  # besides adopt


# How work is ordered, beside adopt: cai's modes; streams is wait with another stream than the producer's.
ORDERS = ("none", "wait", "streams", "block")

PRODUCERS = {
    producer.name: producer
    for producer in [
        Producer("numpy", "host", "buffer"),
        Producer("numpy-derived", "host", "buffer"),  # of a subclass
        Producer("memoryview", "host", "buffer"),  # a buffer of any number of dimensions, with no layout that is known
        Producer("array.array", "host", "buffer", (1,)),
        Producer("torch-cpu", "host", "exchange"),
        Producer("jax-cpu", "host", "buffer"),
        Producer("array-host", "host", "array", (2,)),
        Producer("torch-cuda", "cuda", "exchange", orders=ORDERS),
        Producer("cupy", "cuda", "interface", orders=ORDERS),
        Producer("numba", "cuda", "interface", orders=ORDERS),
        Producer("jax-cuda", "cuda", "dlpack_legacy", orders=("none", "wait")),
        Producer("dict", "cuda", "interface", orders=ORDERS),
        Producer("array-cuda", "cuda", "array", (2,)),
    ]
}


@dataclass(frozen=True)
class Case:
    """One thing to time. kind: noop, take, view, mix, same, like, export, allocate or minimal."""

    name: str
    kind: str
    producer: str = ""
    memory: str = "host"
    count: int = 1
    request: str = "2d"  # plain, or the dimensions that the request checks, with dtype, extents and contiguity
    order: str = "adopt"
    ndim: int = 2
    protocol: str = ""  # of an export


def _take(producer, count, **different):
    ndim = different.pop("ndim", producer.dimensions[0])
    words = [f"{ndim}d"] * (ndim != producer.dimensions[0]) + list(different.values())
    case = Case(
        "-".join([producer.name, str(count), *words]),
        "take",
        producer.name,
        producer.memory,
        count,
        request=f"{ndim}d",
        ndim=ndim,
    )
    return replace(case, **different)


def _takes(producer):
    yield from (_take(producer, count) for count in (1, 3))
    yield from (_take(producer, count, request="plain") for count in (1, 3))
    yield from (_take(producer, 1, ndim=ndim) for ndim in producer.dimensions[1:])
    yield from (_take(producer, 1, order=order) for order in producer.orders)


def _outs(memory, libraries):
    for name in libraries:
        yield Case(f"same-{name}", "same", name, memory)
        yield Case(f"like-{name}", "like", name, memory)


def _exports(memory, protocols):
    for protocol in protocols:
        yield Case(f"export-{memory}-{protocol}", "export", "", memory, protocol=protocol)


CASES = [
    Case("noop", "noop"),
    *(case for producer in PRODUCERS.values() for case in _takes(producer)),
    *(
        Case(f"{name}-1-view", "view", name, PRODUCERS[name].memory)
        for name in ("numpy", "torch-cpu", "torch-cuda", "cupy", "dict")
    ),
    Case("mix", "mix", "", "cuda", 3),
    *_outs("host", ("numpy", "torch-cpu")),
    *_outs("cuda", ("torch-cuda", "cupy")),
    *_exports("host", ("dlpack", "exchange", "buffer", "array_interface")),
    *_exports("cuda", ("dlpack", "exchange", "cuda_array_interface")),
    Case("allocate-host", "allocate", "", "host"),
    Case("allocate", "allocate", "", "cuda"),
    Case("minimal-compile", "minimal"),
    Case("minimal-size", "minimal"),
]


def matching(patterns):
    """The cases that the patterns name, in their own order; none means all. A pattern that names nothing is an error."""
    for pattern in patterns:
        if not any(fnmatchcase(case.name, pattern) for case in CASES):
            raise ValueError(f"no such case: {pattern}; --list shows them")
    return [case for case in CASES if not patterns or any(fnmatchcase(case.name, pattern) for pattern in patterns)]


@dataclass(frozen=True)
class Goal:
    """At most `limit` times the floor, or, with a unit, at most that much."""

    case: str
    limit: float
    unit: str = ""


GOALS = [
    Goal("numpy-1", 0.55),
    Goal("numpy-1-view", 0.55),
    Goal("numpy-3", 0.5),
    Goal("numpy-derived-1", 1.1),
    Goal("numpy-derived-3", 1.2),
    Goal("memoryview-1", 1.1),
    Goal("memoryview-3", 1.2),
    Goal("jax-cpu-1", 1.1),
    Goal("jax-cpu-3", 1.2),
    Goal("array.array-1", 1.1),
    Goal("array.array-3", 1.2),
    Goal("torch-cpu-1", 1.1),
    Goal("torch-cpu-1-view", 1.1),
    Goal("torch-cpu-3", 1.1),
    Goal("torch-cuda-1", 1.1),
    Goal("torch-cuda-1-view", 1.1),
    Goal("torch-cuda-3", 1.1),
    Goal("dict-1", 0.95),
    Goal("cupy-1", 1.0),
    Goal("cupy-1-none", 1.1),
    Goal("numba-1", 1.0),
    Goal("cupy-1-streams", 1.25),
    Goal("torch-cuda-1-streams", 1.25),
    Goal("allocate", 1.5),
    Goal("minimal-compile", 0.5, "s"),
    Goal("minimal-size", 45, "kB"),
]
