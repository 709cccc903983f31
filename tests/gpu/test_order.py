"""Who runs after whom, on a GPU: delayed kernels on one side, an immediate use on the other.

Each test enqueues a kernel that takes DELAY milliseconds and lets the other side work at once, so that a missing order is
a wrong value. Kernels and streams are the tests' own (`cuda` and `delays`); the libraries lend arrays and tell streams.
"""

import concurrent.futures
import contextlib
import gc
import time
import weakref

import arrays
import numpy as np
import probe_cuda as probe
import pytest

N = 1024
DELAY = 30.0
LEGACY, PER_THREAD = 1, 2

KINDS = ["legacy", "per-thread", "blocking", "non-blocking"]
OWN_KINDS = ["blocking", "non-blocking"]
LIBRARIES = ["cupy", "torch", "numba", "cai"]

# What a refusal under a capture says: what is the matter, and the way out.
WAY_OUT = r"(?s)captur.*cai_order_"


@pytest.fixture(autouse=True)
def alone(cuda, delays):
    """No work, capture or current device of another test is left, and no garbage collection outlasts a kernel."""
    gc.disable()
    yield
    cuda.abandon_captures()
    cuda.synchronize_devices()
    cuda.set_device(0)
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def warm(cuda, delays):
    """Something has been given back late behind every kind of stream: what that takes is made at the first time."""
    for kind in KINDS:
        array = OnlyDLPack(arrays.new((N,), "float32", arrays.NO_POOL, 0, LEGACY))
        probe.acquire(array, cuda.stream(kind, 1), {}).release()
        cuda.synchronize_devices()


@pytest.fixture
def memory(cuda):
    """A function that makes device memory of N floats with a value, which is freed afterwards."""
    pointers = []

    def make(value=0.0, device=0):
        current = cuda.device()
        cuda.set_device(device)
        pointers.append(cuda.allocate(4 * N))
        cuda.write(pointers[-1], N, value)
        cuda.set_device(current)
        return pointers[-1]

    yield make
    cuda.abandon_captures()
    cuda.synchronize_devices()
    for pointer in pointers:
        cuda.free(pointer)


def values(cuda, pointer):
    """The distinct values in N floats."""
    return sorted(set(cuda.read(pointer, N).tolist()))


# --------------------------------------------------------------------------------------------------- who lends an array


class Source:
    """An array on device `device`, whose library tells `stream` while `telling()` is entered."""

    def __init__(self, array, pointer, telling=contextlib.nullcontext):
        self.array, self.pointer, self.telling = array, pointer, telling

    def acquire(self, order, request=None):
        with self.telling():
            return probe.acquire(self.array, order, request or {})


class Told:
    """An array of nobody's that tells a stream: version 3 of the CUDA Array Interface in its plainest form."""

    def __init__(self, pointer, stream):
        self.__cuda_array_interface__ = {"shape": (N,), "typestr": "<f4", "data": (pointer, False), "version": 3,
                                         "strides": None, "stream": stream}  # fmt: skip


class OnlyDLPack:
    """An array that has DLPack's Python methods and nothing else: it is asked with a stream, and tells none."""

    def __init__(self, array):
        self.array, self.asked = array, []

    def __dlpack__(self, **keywords):
        self.asked.append(keywords.get("stream"))
        return self.array.__dlpack__(**keywords)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


def cupy_stream(cupy, stream):
    named = {LEGACY: cupy.cuda.Stream.null, PER_THREAD: cupy.cuda.Stream.ptds}
    return named[stream] if stream in named else cupy.cuda.Stream.from_external(arrays.make_stream(stream))


def by_cupy(request, stream, device):
    """Not for a stream of another device than the current one: CuPy tells what is current on that."""
    cupy = request.getfixturevalue("cupy")
    array, own = cupy.zeros(N, "float32"), cupy_stream(cupy, stream)
    return Source(array, array.data.ptr, lambda: own)


def by_torch(request, stream, device):
    torch = request.getfixturevalue("torch")
    if stream == PER_THREAD:
        pytest.skip("PyTorch has no per-thread stream")
    array = torch.zeros(N, device=f"cuda:{device}")
    own = torch.cuda.default_stream(device) if stream == LEGACY else torch.cuda.ExternalStream(stream, device=device)
    return Source(array, array.data_ptr(), lambda: torch.cuda.stream(own))


def by_numba(request, stream, device):
    cuda = request.getfixturevalue("numba_cuda")
    named = {LEGACY: cuda.legacy_default_stream, PER_THREAD: cuda.per_thread_default_stream}
    with cuda.gpus[device]:
        array = cuda.to_device(np.zeros(N, "float32"))
        array = array.bind(named[stream]() if stream in named else cuda.external_stream(stream))
    return Source(array, array.__cuda_array_interface__["data"][0])


def by_cai(request, stream, device):
    """Not from the pool, whose memory the other device does not reach."""
    array = arrays.new((N,), "float32", arrays.NO_POOL, device, stream)
    return Source(array, array.ptr)


@pytest.fixture
def lend(request, cuda):
    """A function that makes a Source of a library, with a value and no work pending."""
    makers = {"cupy": by_cupy, "torch": by_torch, "numba": by_numba, "cai": by_cai}

    def make(library, stream, value=0.0, device=0):
        current = cuda.device()
        source = makers[library](request, stream, device)
        cuda.set_device(device)
        cuda.synchronize_devices()
        cuda.write(source.pointer, N, value)
        cuda.set_device(current)
        return source

    return make


def streams(cuda, producer, consumer):
    """A stream of each kind; two streams where both have one kind of their own."""
    return cuda.stream(producer, 0), cuda.stream(consumer, 1)


# ------------------------------------------------------------------------------------------------ producer and consumer


@pytest.mark.parametrize("consumer", KINDS)
@pytest.mark.parametrize("producer", KINDS)
@pytest.mark.parametrize("library", LIBRARIES)
def test_the_consumer_sees_what_the_producer_has_enqueued(cuda, delays, lend, memory, library, producer, consumer):
    mine, theirs = streams(cuda, producer, consumer)
    source, seen = lend(library, mine, 1), memory()
    delays.fill(mine, source.pointer, N, 5.0, DELAY)
    view = source.acquire(theirs)
    assert cuda.busy(mine), "acquiring waited on the host"
    assert view.describe()["stream"] == theirs
    delays.copy(theirs, seen, source.pointer, N, 0.0)
    assert view.release() == "OK"
    assert cuda.busy(theirs), "releasing waited on the host, or the consumer did not wait at all"
    cuda.synchronize(theirs)
    assert values(cuda, seen) == [5.0]


@pytest.mark.parametrize("consumer", KINDS)
@pytest.mark.parametrize("producer", KINDS)
@pytest.mark.parametrize("library", LIBRARIES)
def test_what_the_producer_enqueues_next_comes_after_the_consumer(
    cuda, delays, lend, memory, library, producer, consumer
):
    mine, theirs = streams(cuda, producer, consumer)
    source, seen = lend(library, mine, 1), memory()
    view = source.acquire(theirs)
    delays.copy(theirs, seen, source.pointer, N, DELAY)
    assert view.release() == "OK"
    assert cuda.busy(theirs), "releasing waited on the host"
    delays.fill(mine, source.pointer, N, 9.0, 0.0)
    cuda.synchronize(mine)
    cuda.synchronize(theirs)
    assert values(cuda, seen) == [1.0]
    assert values(cuda, source.pointer) == [9.0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("library", LIBRARIES)
def test_adopting_works_where_the_producer_works(cuda, delays, lend, memory, library, kind):
    stream = cuda.stream(kind)
    source, seen = lend(library, stream), memory()
    delays.fill(stream, source.pointer, N, 5.0, DELAY)
    view = source.acquire("adopt")
    adopted = view.describe()["stream"]
    # An array of another extension does not say of which thread its per-thread stream is: legacy stands in for all.
    assert adopted == (LEGACY if (library, kind) == ("cai", "per-thread") else stream)
    delays.copy(adopted, seen, source.pointer, N, 0.0)
    assert view.release() == "OK"
    assert cuda.busy(stream), "adopting waited on the host"
    cuda.synchronize(stream)
    assert values(cuda, seen) == [5.0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("library", LIBRARIES)
def test_blocking_returns_when_the_producers_work_is_done(cuda, delays, lend, library, kind):
    stream = cuda.stream(kind)
    source = lend(library, stream)
    delays.fill(stream, source.pointer, N, 5.0, DELAY)
    view = source.acquire("block")
    assert not cuda.busy(stream)
    assert view.release() == "OK"
    assert values(cuda, source.pointer) == [5.0]


def test_several_arguments_are_ordered_onto_the_launch_stream_and_back(cuda, delays, lend, memory):
    """All four libraries, each on a stream of its own, the first of which is the launch stream."""
    kinds = ["non-blocking", "blocking", "non-blocking", "legacy"]
    own = [cuda.stream(kind, which) for which, kind in enumerate(kinds)]
    sources = [lend(library, stream, 1) for library, stream in zip(LIBRARIES, own, strict=True)]
    seen = [memory() for _ in sources]
    for value, (source, stream) in enumerate(zip(sources, own, strict=True)):
        delays.fill(stream, source.pointer, N, 5.0 + value, DELAY)

    def use(call):
        assert call["stream"] == own[0]
        for target, source in zip(seen, sources, strict=True):
            delays.copy(call["stream"], target, source.pointer, N, 2.0)

    with contextlib.ExitStack() as telling:
        for source in sources:
            telling.enter_context(source.telling())
        requests = tuple({"name": library} for library in LIBRARIES)
        probe.call(tuple(source.array for source in sources), requests, "adopt", use)
    assert cuda.busy(own[0]), "the call waited on the host"
    for source, stream in zip(sources, own, strict=True):
        delays.fill(stream, source.pointer, N, -1.0, 0.0)
    cuda.synchronize_devices()
    assert [values(cuda, pointer) for pointer in seen] == [[5.0], [6.0], [7.0], [8.0]]
    assert [values(cuda, source.pointer) for source in sources] == [[-1.0]] * 4


# ------------------------------------------------------------------------------------------- producers that tell nothing


@pytest.mark.parametrize("consumer", KINDS)
@pytest.mark.parametrize("producer", KINDS)
@pytest.mark.parametrize("library", ["cupy", "cai"])
def test_an_array_with_dlpack_alone_is_asked_with_the_consumers_stream(
    cuda, delays, lend, memory, library, producer, consumer
):
    mine, theirs = streams(cuda, producer, consumer)
    source, seen = lend(library, mine), memory()
    source.array = OnlyDLPack(source.array)
    delays.fill(mine, source.pointer, N, 5.0, DELAY)
    view = source.acquire(theirs)
    assert source.array.asked == [theirs]
    assert cuda.busy(mine), "acquiring waited on the host"
    delays.copy(theirs, seen, source.pointer, N, 0.0)
    assert view.release() == "OK"
    assert cuda.busy(theirs), "releasing waited on the host"
    cuda.synchronize(theirs)
    assert values(cuda, seen) == [5.0]


@pytest.fixture(scope="module")
def slow_jax(jax):
    """A function that makes a JAX array whose work takes some time; its values are all 2."""
    import jax.numpy as jnp

    n = 4096

    @jax.jit
    def multiply(matrix):
        product = matrix
        for _ in range(40):
            product = product @ matrix
        return product * (2 * n)

    start = jnp.full((n, n), 1 / n, "float32")
    multiply(start).block_until_ready()
    return lambda: multiply(start)


@pytest.mark.parametrize("consumer", KINDS)
def test_jax_orders_its_own_work_before_the_consumers_stream(cuda, delays, memory, slow_jax, consumer):
    theirs, seen = cuda.stream(consumer, 1), memory()
    x = slow_jax()
    pending = not x.is_ready()
    view = probe.acquire(x, theirs, {})
    delays.copy(theirs, seen, view.describe()["pointer"], N, 0.0)
    assert view.release() == "OK"
    cuda.synchronize(theirs)
    assert values(cuda, seen) == [2.0]
    if not pending:
        pytest.skip("JAX's work was done before there was anything to order")


def dies(reference, seconds=5.0):
    """Whether an object dies while this thread does nothing but sleep."""
    end = time.monotonic() + seconds
    while reference() is not None and time.monotonic() < end:
        time.sleep(0.001)
    return reference() is None


def test_an_array_with_dlpack_alone_is_given_back_when_the_work_is_done(cuda, delays, cupy, memory):
    class Owner:
        """Of the memory: lives as long as anybody has the array, or a capsule of it."""

    owner, consumer, pointer, seen = Owner(), cuda.stream("non-blocking"), memory(3), memory()
    block = cupy.cuda.UnownedMemory(pointer, 4 * N, owner)
    array = OnlyDLPack(cupy.ndarray((N,), "float32", memptr=cupy.cuda.MemoryPointer(block, 0)))
    given_back = weakref.ref(owner)
    view = probe.acquire(array, consumer, {})
    delays.copy(consumer, seen, pointer, N, DELAY)
    del owner, block, array
    assert view.release() == "OK"
    del view
    alive, busy = given_back() is not None, cuda.busy(consumer)
    assert busy, "releasing waited on the host"
    assert alive, "the array was given back while the consumer's work was pending"
    assert dies(given_back), "the array was not given back by itself"
    assert not cuda.busy(consumer), "the array was given back too early"
    assert values(cuda, seen) == [3.0]


def test_an_array_of_jax_is_given_back_when_the_work_is_done(cuda, delays, jax, memory):
    """JAX hands the memory out again the moment that it gets it back; until then it must not."""
    import jax.numpy as jnp

    def fresh(n):
        return [jnp.full(N, 7.0, "float32").block_until_ready() for _ in range(n)]

    consumer, seen = cuda.stream("non-blocking"), memory()
    fresh(4)
    x = jnp.full(N, 3.0, "float32").block_until_ready()
    pointer, given_back = x.unsafe_buffer_pointer(), weakref.ref(x)
    view = probe.acquire(x, consumer, {})
    delays.copy(consumer, seen, pointer, N, 2 * DELAY)
    del x
    assert view.release() == "OK"
    del view
    during = [array.unsafe_buffer_pointer() for array in fresh(4)]
    alive, busy = given_back() is not None, cuda.busy(consumer)
    assert busy, "releasing waited on the host, or making four arrays took longer than the kernel"
    assert pointer not in during, "the memory was handed out again while the consumer's work was pending"
    assert alive, "the array died while the consumer's work was pending, though its memory did not"
    assert dies(given_back), "the array was not given back by itself"
    assert not cuda.busy(consumer), "the array was given back too early"
    assert pointer in [array.unsafe_buffer_pointer() for array in fresh(16)], "the memory did not come back"
    assert values(cuda, seen) == [3.0]


@pytest.mark.parametrize("order", ["adopt", "none", "non-blocking"])
@pytest.mark.parametrize("first", ["cpu", "gpu"])
def test_arrays_of_jax_on_the_host_and_on_the_gpu_in_turns(cuda, delays, jax, memory, order, first):
    """What is remembered of a type on one of them serves on the other too."""
    import jax.numpy as jnp

    request = {"memory": probe.ON_HOST | probe.ON_CUDA}
    seen, stream = memory(), cuda.stream("non-blocking", 1)
    consumer = stream if order == "non-blocking" else order
    places = {place: jax.devices(place)[0] for place in ("cpu", "gpu")}
    for turn, place in enumerate([first, first, "gpu", "gpu", "cpu", "gpu", "cpu", "cpu", "gpu"]):
        x = jax.device_put(jnp.full(N, turn, "float32"), places[place]).block_until_ready()
        view = probe.acquire(x, consumer, request)
        described = view.describe()
        assert described["pointer"] == x.unsafe_buffer_pointer()
        if place == "cpu":
            assert (described["protocol"], described["device"]) == (probe.VIA_BUFFER, (1, 0))
            assert described["flags"] & probe.READONLY
        else:
            assert (described["protocol"], described["device"]) == (probe.VIA_DLPACK, (2, 0))
            delays.copy(stream if order == "non-blocking" else LEGACY, seen, described["pointer"], N, 0.0)
        assert view.release() == "OK"
        cuda.synchronize_devices()
        if place == "gpu":
            assert values(cuda, seen) == [float(turn)]


def test_a_tensor_by_version_2_of_the_interface_is_ordered_after_legacy_and_given_back_late(
    cuda, delays, torch, memory
):
    """PyTorch's CUDA Array Interface tells no stream."""
    consumer, seen = cuda.stream("non-blocking"), memory()
    x = torch.zeros(N, device="cuda")
    torch.cuda.synchronize()
    pointer, given_back = x.data_ptr(), weakref.ref(x)
    delays.fill(LEGACY, pointer, N, 3.0, DELAY)
    view = probe.acquire(x, consumer, {"protocols": probe.VIA_CUDA_ARRAY_INTERFACE})
    assert view.describe()["flags"] & probe.STREAM_UNKNOWN
    assert cuda.busy(LEGACY), "acquiring waited on the host"
    delays.copy(consumer, seen, pointer, N, DELAY)
    del x
    assert view.release() == "OK"
    del view
    again = torch.empty(N, device="cuda")
    alive, busy = given_back() is not None, cuda.busy(consumer)
    assert busy, "releasing waited on the host"
    assert alive and again.data_ptr() != pointer, "the tensor was given back while the consumer's work was pending"
    assert dies(given_back), "the tensor was not given back by itself"
    assert not cuda.busy(consumer), "the tensor was given back too early"
    assert values(cuda, seen) == [3.0]


# ----------------------------------------------------------------------------------------------------------- two devices


@pytest.fixture
def across(two_gpus, cuda, delays, lend, memory):
    """A function that makes an array on one device and a stream there, a stream on the other, and what is to be seen."""

    def make(library, device):
        mine = cuda.stream("non-blocking", 0, device)
        theirs = cuda.stream("non-blocking", 0, 1 - device)
        if library == "told":
            pointer = memory(1, device)
            return Source(Told(pointer, mine), pointer), mine, theirs
        return lend(library, mine, 1, device), mine, theirs

    yield make
    cuda.set_device(0)


@contextlib.contextmanager
def current(cuda, device):
    """Make a device current, and demand that it still is at the end."""
    cuda.set_device(device)
    yield
    assert cuda.device() == device, "another device is current afterwards"


def acquire_from(cuda, source, order, device):
    """Acquire while a device is current; entering a stream of PyTorch makes another one current."""
    with source.telling(), current(cuda, device):
        return probe.acquire(source.array, order, {})


ACROSS = [pytest.mark.parametrize("now", [0, 1], ids=["on-0", "on-1"]),
          pytest.mark.parametrize("device", [0, 1], ids=["0-before-1", "1-before-0"]),
          pytest.mark.parametrize("library", ["told", "torch", "numba", "cai"])]  # fmt: skip


def for_each_pair_of_devices(test):
    for mark in ACROSS:
        test = mark(test)
    return test


@for_each_pair_of_devices
def test_a_consumer_on_another_device_sees_what_the_producer_has_enqueued(
    cuda, delays, across, library, device, now
):
    source, mine, theirs = across(library, device)
    seen = cuda.pinned(N)
    cuda.set_device(device)
    delays.fill(mine, source.pointer, N, 5.0, DELAY)
    view = acquire_from(cuda, source, theirs, now)
    assert cuda.busy(mine), "acquiring waited on the host"
    cuda.copy_out(seen, source.pointer, theirs)
    with current(cuda, now):
        assert view.release() == "OK"
    assert cuda.busy(theirs), "releasing waited on the host, or the consumer did not wait at all"
    cuda.synchronize(theirs)
    assert set(seen.tolist()) == {5.0}


@for_each_pair_of_devices
def test_what_a_producer_enqueues_next_comes_after_a_consumer_on_another_device(
    cuda, delays, memory, across, library, device, now
):
    source, mine, theirs = across(library, device)
    seen, busy = cuda.pinned(N), memory(0, 1 - device)
    view = acquire_from(cuda, source, theirs, now)
    cuda.set_device(1 - device)
    delays.fill(theirs, busy, N, 0.0, DELAY)
    cuda.copy_out(seen, source.pointer, theirs)
    with current(cuda, now):
        assert view.release() == "OK"
    assert cuda.busy(theirs), "releasing waited on the host"
    cuda.set_device(device)
    delays.fill(mine, source.pointer, N, 9.0, 0.0)
    cuda.synchronize(mine)
    cuda.synchronize(theirs)
    assert set(seen.tolist()) == {1.0}
    assert values(cuda, source.pointer) == [9.0]


@pytest.mark.parametrize("number", [1, 2], ids=["legacy", "per-thread"])
def test_pinned_memory_beside_an_array_of_another_device(two_gpus, cuda, delays, memory, number):
    """Legacy and the per-thread stream are one of each device: the host waits for those of both."""
    pinned, pointer, seen = cuda.pinned(N), memory(0, 1), []
    requests = {"name": "pinned", "memory": probe.ANYWHERE}, {"name": "other"}

    def body(call):
        assert (cuda.device(), call["stream"]) == (1, number)
        seen.extend(pinned.tolist())
        delays.fill(number, pinned.ctypes.data, N, 9.0, DELAY)

    cuda.set_device(0)
    delays.fill(number, pinned.ctypes.data, N, 5.0, DELAY)
    with current(cuda, 0):
        probe.call((Told(pinned.ctypes.data, number), Told(pointer, number)), requests, "adopt", body)
    assert set(seen) == {5.0}
    assert set(pinned.tolist()) == {9.0}


@pytest.mark.parametrize("now", [0, 1], ids=["on-0", "on-1"])
def test_an_array_of_device_1_is_exported_whichever_device_is_current(two_gpus, cuda, delays, memory, now):
    mine, theirs, seen = cuda.stream("non-blocking", 0, 1), cuda.stream("non-blocking", 1, 1), cuda.pinned(N)
    cuda.set_device(1)
    array = arrays.new((N,), "float32", arrays.DEVICE, 1, mine)
    delays.fill(mine, array.ptr, N, 5.0, DELAY)
    with current(cuda, now):
        capsule = array.__dlpack__(stream=theirs, max_version=(1, 3))
    assert cuda.busy(mine), "exporting waited on the host"
    cuda.set_device(1)
    cuda.copy_out(seen, array.ptr, theirs)
    cuda.synchronize(theirs)
    assert set(seen.tolist()) == {5.0}
    with current(cuda, now):
        del capsule, array
    cuda.set_device(0)


# ------------------------------------------------------------------------------------------------------------- captures


@pytest.mark.parametrize("order", ["wait", "adopt"])
@pytest.mark.parametrize("kind", OWN_KINDS)
@pytest.mark.parametrize("library", LIBRARIES)
def test_a_capture_on_the_producers_own_stream(cuda, delays, lend, memory, library, kind, order):
    stream = cuda.stream(kind)
    source, seen = lend(library, stream, 1), memory()
    cuda.begin_capture(stream)
    view = source.acquire(stream if order == "wait" else "adopt")
    assert view.describe()["stream"] == stream
    delays.copy(stream, seen, source.pointer, N, 0.0)
    assert view.release() == "OK"
    assert cuda.is_intact(stream)
    graph = cuda.end_capture(stream)
    for value in (3.0, 4.0):
        cuda.write(source.pointer, N, value)
        graph.run(stream)
        assert values(cuda, seen) == [value]
    graph.destroy()


@pytest.mark.parametrize("forked", ["producer", "consumer"])
@pytest.mark.parametrize("kind", OWN_KINDS)
@pytest.mark.parametrize("library", LIBRARIES)
def test_two_streams_of_one_capture_are_ordered_in_the_graph(cuda, delays, lend, memory, library, kind, forked):
    """The producer writes late, and overwrites as soon as it may; the consumer reads late in between. What the consumer
    has forked, giving back joins."""
    origin, fork = cuda.stream(kind, 0), cuda.stream(kind, 1)
    mine, theirs = (fork, origin) if forked == "producer" else (origin, fork)
    source, given, seen = lend(library, mine), memory(), memory()
    cuda.begin_capture(origin)
    cuda.order(origin, fork)
    delays.copy(mine, source.pointer, given, N, 5.0)
    view = source.acquire(theirs)
    delays.copy(theirs, seen, source.pointer, N, 5.0)
    assert view.release() == "OK"
    delays.fill(mine, source.pointer, N, -1.0, 0.0)
    if forked == "producer":
        cuda.order(fork, origin)
    assert cuda.is_intact(origin)
    graph = cuda.end_capture(origin)
    for value in (3.0, 4.0):
        cuda.write(given, N, value)
        graph.run(origin)
        assert values(cuda, seen) == [value]
        assert values(cuda, source.pointer) == [-1.0]
    graph.destroy()


# producer's stream, consumer's stream, which of them capture
REFUSED = {
    "legacy outside": ("legacy", "non-blocking", ["consumer"]),
    "per-thread outside": ("per-thread", "non-blocking", ["consumer"]),
    "blocking outside": ("blocking", "non-blocking", ["consumer"]),
    "non-blocking outside": ("non-blocking", "non-blocking", ["consumer"]),
    "consumer outside": ("non-blocking", "non-blocking", ["producer"]),
    "consumer on per-thread": ("non-blocking", "per-thread", ["producer"]),
    "consumer on legacy": ("non-blocking", "legacy", ["producer"]),
    "two captures": ("non-blocking", "non-blocking", ["producer", "consumer"]),
    "legacy beside a blocking capture": ("legacy", "blocking", ["consumer"]),
    "consumer on legacy beside a blocking capture": ("blocking", "legacy", ["producer"]),
    "the host": ("non-blocking", "block", ["producer"]),
}


class Captured:
    """A capture that copies `given` to `between` when it begins and that to `seen` when it ends, to be replayed."""

    def __init__(self, cuda, delays, memory, stream):
        self.cuda, self.delays, self.stream = cuda, delays, stream
        self.given, self.between, self.seen = memory(), memory(), memory()

    def begin(self, mode):
        self.cuda.begin_capture(self.stream, mode)
        self.delays.copy(self.stream, self.between, self.given, N, 0.0)

    def end(self):
        assert self.cuda.is_intact(self.stream), "the capture was broken"
        self.delays.copy(self.stream, self.seen, self.between, N, 0.0)
        return self.cuda.end_capture(self.stream)

    def check(self, graph):
        for value in (3.0, 4.0):
            self.cuda.write(self.given, N, value)
            graph.run(self.stream)
            assert values(self.cuda, self.seen) == [value]
        graph.destroy()


def finish(captures):
    """End all captures, and only then look: reading memory is not for the time of a capture."""
    graphs = [capture.end() for capture in captures]
    for capture, graph in zip(captures, graphs, strict=True):
        capture.check(graph)


@pytest.mark.parametrize("row", REFUSED)
@pytest.mark.parametrize("library", LIBRARIES)
def test_what_a_capture_cannot_order_is_refused_and_leaves_it_right(cuda, delays, lend, memory, library, row):
    producer, consumer, capturing = REFUSED[row]
    mine = cuda.stream(producer, 0)
    theirs = "block" if consumer == "block" else cuda.stream(consumer, 1)
    source = lend(library, mine, 1)
    mode = cuda.RELAXED if len(capturing) == 2 else cuda.GLOBAL
    named = {"producer": mine, "consumer": theirs}
    captures = [Captured(cuda, delays, memory, named[who]) for who in capturing]
    for capture in captures:
        capture.begin(mode)
    with pytest.raises(probe.StreamCaptureError, match=WAY_OUT):
        source.acquire(theirs)
    finish(captures)


@pytest.mark.parametrize("order, kind", [("wait", "non-blocking"), ("wait", "blocking"), ("adopt", "blocking"),
                                         ("block", "blocking")])  # fmt: skip
@pytest.mark.parametrize("library", ["cupy", "cai"])
def test_an_array_with_dlpack_alone_is_refused_by_a_capture_and_not_even_asked(
    cuda, delays, lend, memory, library, order, kind
):
    """Beside a blocking stream that captures, the legacy stream cannot be passed either."""
    source = lend(library, cuda.stream("non-blocking", 0), 1)
    source.array = OnlyDLPack(source.array)
    capture = Captured(cuda, delays, memory, cuda.stream(kind, 1))
    capture.begin(cuda.GLOBAL)
    with pytest.raises(probe.StreamCaptureError, match=WAY_OUT):
        source.acquire(capture.stream if order == "wait" else order)
    assert source.array.asked == []
    finish([capture])


def test_a_producer_that_tells_no_stream_is_refused_by_a_capture(cuda, delays, memory, torch):
    """Version 2 of the CUDA Array Interface, which is ordered as if its work were on legacy."""
    x = torch.ones(N, device="cuda")
    capture = Captured(cuda, delays, memory, cuda.stream("non-blocking"))
    capture.begin(cuda.GLOBAL)
    with pytest.raises(probe.StreamCaptureError, match=WAY_OUT):
        probe.acquire(x, capture.stream, {"protocols": probe.VIA_CUDA_ARRAY_INTERFACE})
    finish([capture])


def test_a_producer_that_needs_no_order_is_taken_under_a_capture(cuda, delays, memory):
    stream, pointer, seen = cuda.stream("non-blocking"), memory(1), memory()
    cuda.begin_capture(stream)
    view = probe.acquire(Told(pointer, None), stream, {})
    delays.copy(stream, seen, pointer, N, 0.0)
    assert view.release() == "OK"
    assert cuda.is_intact(stream)
    graph = cuda.end_capture(stream)
    cuda.write(pointer, N, 3.0)
    graph.run(stream)
    assert values(cuda, seen) == [3.0]
    graph.destroy()


@pytest.mark.parametrize("library", ["cupy", "cai"])
def test_an_array_with_dlpack_alone_is_taken_under_a_capture_without_order(cuda, delays, lend, memory, library):
    stream = cuda.stream("non-blocking")
    source, seen = lend(library, stream, 1), memory()
    array = OnlyDLPack(source.array)
    cuda.begin_capture(stream)
    view = probe.acquire(array, "none", {})
    assert array.asked == [-1]
    delays.copy(stream, seen, source.pointer, N, 0.0)
    assert view.release() == "OK"
    assert cuda.is_intact(stream)
    graph = cuda.end_capture(stream)
    cuda.write(source.pointer, N, 3.0)
    graph.run(stream)
    assert values(cuda, seen) == [3.0]
    graph.destroy()


def test_new_arrays_are_refused_on_a_stream_that_captures(cuda, delays, memory):
    capture = Captured(cuda, delays, memory, cuda.stream("non-blocking"))
    capture.begin(cuda.GLOBAL)
    with pytest.raises(arrays.StreamCaptureError):
        arrays.new((N,), "float32", arrays.DEVICE, -1, capture.stream)
    finish([capture])


class Scene:
    """What a call beside somebody's capture is about; made before the capture, with work pending on `mine`."""

    def __init__(self, cuda, delays, memory):
        self.mine, self.theirs = cuda.stream("non-blocking", 1), cuda.stream("non-blocking", 2)
        pointer = memory()
        self.told = Told(pointer, self.mine)
        self.objects = [arrays.new((N,), "float32", arrays.DEVICE, -1, self.mine) for _ in range(2)]
        self.handle = arrays.new_handle((N,), "float32", arrays.DEVICE, -1, self.mine)
        self.pinned = arrays.new((N,), "float32", arrays.PINNED, -1, self.mine)
        cuda.synchronize(self.mine)
        delays.fill(self.mine, pointer, N, 5.0, 5.0)
        delays.fill(self.theirs, memory(), N, 5.0, 5.0)


def wait(scene):
    assert probe.acquire(scene.told, scene.theirs, {}).release() == "OK"


def block(scene):
    assert probe.acquire(scene.told, "block", {}).release() == "OK"


def give_back_late(scene):
    assert probe.acquire(OnlyDLPack(scene.objects[0]), scene.theirs, {}).release() == "OK"
    gone = scene.objects.pop(0)
    del gone


def make_new(scene):
    for kind in (arrays.DEVICE, arrays.NO_POOL, arrays.MANAGED, arrays.PINNED):
        arrays.new((N,), "float32", kind, -1, scene.mine)


def free(scene):
    scene.objects.clear()


def free_what_a_consumer_had(scene):
    capsule = scene.objects[0].__dlpack__(stream=-1, max_version=(1, 3))
    scene.objects.clear()
    del capsule


def export(scene):
    for stream in (scene.theirs, -1, PER_THREAD, LEGACY, None):
        scene.objects[0].__dlpack__(stream=stream, max_version=(1, 3))
    assert scene.objects[1].__cuda_array_interface__["stream"] == scene.mine


def export_a_copy(scene):
    scene.objects[0].__dlpack__(stream=scene.theirs, max_version=(1, 3), copy=True)


def export_to_the_host(scene):
    scene.objects[0].__dlpack__(stream=None, max_version=(1, 3), dl_device=(1, 0))


def use_elsewhere_and_free(scene):
    assert arrays.used_on(scene.handle, scene.theirs) == "OK"
    arrays.release(scene.handle)


def keep_and_give_back(scene):
    handle = arrays.keep(scene.told, scene.theirs)
    assert arrays.used_on(handle, scene.theirs) == "OK"
    arrays.release(handle)


def read_on_the_host(scene):
    memoryview(scene.pinned)


CALLS = [wait, block, give_back_late, make_new, free, free_what_a_consumer_had, export, export_a_copy, export_to_the_host,
         use_elsewhere_and_free, keep_and_give_back, read_on_the_host]  # fmt: skip


@pytest.mark.parametrize("thread", ["same thread", "other thread"])
@pytest.mark.parametrize("mode", ["GLOBAL", "THREAD_LOCAL", "RELAXED"])
@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
def test_no_call_breaks_somebody_elses_capture(cuda, delays, memory, call, mode, thread):
    capture = Captured(cuda, delays, memory, cuda.stream("non-blocking", 0))
    scene = Scene(cuda, delays, memory)
    capture.begin(getattr(cuda, mode))
    if thread == "same thread":
        call(scene)
    else:
        with concurrent.futures.ThreadPoolExecutor(1) as other:
            other.submit(call, scene).result()
    finish([capture])
    time.sleep(0.02)  # for what is given back late


# -------------------------------------------------------------------------------------------------------------- exports

EXPORTED_TO = {"none": None, "legacy": LEGACY, "per-thread": PER_THREAD, "blocking": "blocking",
               "non-blocking": "non-blocking"}  # fmt: skip


@pytest.mark.parametrize("to", EXPORTED_TO)
@pytest.mark.parametrize("kind", KINDS)
def test_an_export_orders_pending_work_before_the_consumers_stream(cuda, delays, memory, kind, to):
    mine, theirs = cuda.stream(kind, 0), EXPORTED_TO[to]
    theirs = cuda.stream(theirs, 1) if isinstance(theirs, str) else theirs
    array, seen = arrays.new((N,), "float32", arrays.DEVICE, -1, mine), memory()
    cuda.synchronize_devices()
    delays.fill(mine, array.ptr, N, 5.0, DELAY)
    capsule = array.__dlpack__(stream=theirs, max_version=(1, 3))
    assert cuda.busy(mine), "exporting waited on the host"
    delays.copy(theirs or LEGACY, seen, array.ptr, N, 0.0)
    cuda.synchronize(theirs or LEGACY)
    assert values(cuda, seen) == [5.0]
    del capsule


def test_an_export_to_stream_minus_1_orders_nothing(cuda, delays, memory):
    mine, theirs = cuda.stream("non-blocking", 0), cuda.stream("non-blocking", 1)
    array, seen = arrays.new((N,), "float32", arrays.DEVICE, -1, mine), memory()
    cuda.synchronize(mine)
    cuda.write(array.ptr, N, 1.0)
    delays.fill(mine, array.ptr, N, 5.0, DELAY)
    capsule = array.__dlpack__(stream=-1, max_version=(1, 3))
    delays.copy(theirs, seen, array.ptr, N, 0.0)
    cuda.synchronize(theirs)
    assert cuda.busy(mine), "the consumer waited, or the host"
    cuda.synchronize(mine)
    assert values(cuda, seen) == [1.0]
    del capsule


@pytest.mark.parametrize("stream", [0, -2, True, "1"])
def test_an_export_to_what_is_no_stream_is_refused(cuda, stream):
    array = arrays.new((N,), "float32", arrays.DEVICE)
    with pytest.raises(arrays.InvalidStreamError, match="stream"):
        array.__dlpack__(stream=stream, max_version=(1, 3))


@pytest.mark.parametrize("kind", KINDS)
def test_the_interface_tells_the_stream_of_the_work(cuda, kind):
    stream = cuda.stream(kind)
    array = arrays.new((N,), "float32", arrays.DEVICE, -1, stream)
    interface = array.__cuda_array_interface__
    assert (interface["version"], interface["stream"]) == (3, stream)
    assert int(array.stream) == stream


@pytest.mark.parametrize("consumer", KINDS)
def test_cupy_takes_an_array_whose_work_is_pending(cuda, delays, cupy, memory, consumer):
    mine, theirs = cuda.stream("non-blocking", 0), cuda.stream(consumer, 1)
    array, seen = arrays.new((N,), "float32", arrays.DEVICE, -1, mine), memory()
    cuda.synchronize(mine)
    delays.fill(mine, array.ptr, N, 5.0, DELAY)
    with cupy_stream(cupy, theirs):
        taken = cupy.from_dlpack(array)
    assert cuda.busy(mine), "exporting waited on the host"
    delays.copy(theirs, seen, taken.data.ptr, N, 0.0)
    cuda.synchronize(theirs)
    assert values(cuda, seen) == [5.0]


@pytest.mark.parametrize("consumer", ["legacy", "blocking", "non-blocking"])
def test_torch_takes_an_array_whose_work_is_pending(cuda, delays, torch, memory, consumer):
    mine, theirs = cuda.stream("non-blocking", 0), cuda.stream(consumer, 1)
    array, seen = arrays.new((N,), "float32", arrays.DEVICE, -1, mine), memory()
    own = torch.cuda.default_stream() if theirs == LEGACY else torch.cuda.ExternalStream(theirs)
    cuda.synchronize(mine)
    delays.fill(mine, array.ptr, N, 5.0, DELAY)
    with torch.cuda.stream(own):
        taken = torch.from_dlpack(array)
    assert cuda.busy(mine), "exporting waited on the host"
    delays.copy(theirs, seen, taken.data_ptr(), N, 0.0)
    cuda.synchronize(theirs)
    assert values(cuda, seen) == [5.0]


def test_numba_takes_an_array_whose_work_is_pending(cuda, delays, numba_cuda):
    mine = cuda.stream("non-blocking", 0)
    array = arrays.new((N,), "float32", arrays.DEVICE, -1, mine)
    cuda.synchronize(mine)
    delays.fill(mine, array.ptr, N, 5.0, DELAY)
    taken = numba_cuda.as_cuda_array(array)
    assert set(taken.copy_to_host().tolist()) == {5.0}


def test_jax_takes_an_array_whose_work_is_pending(cuda, delays, jax):
    mine = cuda.stream("non-blocking", 0)
    array = arrays.new((N,), "float32", arrays.DEVICE, -1, mine)
    cuda.synchronize(mine)
    delays.fill(mine, array.ptr, N, 5.0, DELAY)
    taken = jax.dlpack.from_dlpack(array)
    assert set(np.asarray(taken).tolist()) == {5.0}


@pytest.mark.parametrize("consumer", KINDS)
def test_cuda_core_takes_an_array_whose_work_is_pending(cuda, delays, cuda_core, memory, consumer):
    from cuda.core.utils import StridedMemoryView

    mine, theirs = cuda.stream("non-blocking", 0), cuda.stream(consumer, 1)
    array, seen = arrays.new((N,), "float32", arrays.DEVICE, -1, mine), memory()
    cuda.synchronize(mine)
    delays.fill(mine, array.ptr, N, 5.0, DELAY)
    taken = StridedMemoryView.from_any_interface(array, stream_ptr=theirs)
    assert cuda.busy(mine), "exporting waited on the host"
    delays.copy(theirs, seen, taken.ptr, N, 0.0)
    cuda.synchronize(theirs)
    assert values(cuda, seen) == [5.0]


# ------------------------------------------------------------------------------------------------ used on other streams


def three_streams(cuda):
    return cuda.stream("non-blocking", 0), cuda.stream("non-blocking", 1), cuda.stream("blocking", 0)


def test_an_export_covers_every_stream_that_an_array_was_used_on(cuda, delays, memory):
    own, *others = three_streams(cuda)
    consumer, seen = cuda.stream("non-blocking", 2), memory()
    handle = arrays.new_handle((N,), "float32", arrays.DEVICE, -1, own)
    pointer, half = arrays.describe(handle)["pointer"], N // 2
    cuda.synchronize(own)
    for part, stream in enumerate(others):
        delays.fill(stream, pointer + 4 * half * part, half, 5.0 + part, DELAY)
        assert arrays.used_on(handle, stream) == "OK"
    array = arrays.give(handle)
    capsule = array.__dlpack__(stream=consumer, max_version=(1, 3))
    assert cuda.busy(others[0]), "telling or exporting waited on the host"
    delays.copy(consumer, seen, pointer, N, 0.0)
    cuda.synchronize(consumer)
    assert cuda.read(seen, N).tolist() == [5.0] * half + [6.0] * half
    del capsule, array
    arrays.release(handle)


def test_memory_is_freed_after_the_work_on_every_stream_that_it_was_used_on(cuda, delays, memory):
    own, *others = three_streams(cuda)
    seen = [memory() for _ in others]
    handle = arrays.new_handle((N,), "float32", arrays.DEVICE, -1, own)
    pointer = arrays.describe(handle)["pointer"]
    cuda.synchronize(own)
    cuda.write(pointer, N, 3.0)
    for target, stream in zip(seen, others, strict=True):
        delays.copy(stream, target, pointer, N, DELAY)
        assert arrays.used_on(handle, stream) == "OK"
    arrays.release(handle)
    assert cuda.busy(others[0]), "freeing waited on the host"
    again = [arrays.new((N,), "float32", arrays.DEVICE, -1, own) for _ in range(8)]
    for array in again:
        delays.fill(own, array.ptr, N, 9.0, 0.0)
    cuda.synchronize(own)
    cuda.synchronize_devices()
    assert [values(cuda, target) for target in seen] == [[3.0], [3.0]]
    assert pointer in [array.ptr for array in again], "the memory was not reused: there was nothing to see"


def test_a_deleter_is_called_after_the_work_on_every_stream_that_it_was_told_of(cuda, delays, memory):
    streams, pointer, seen, owner = three_streams(cuda), memory(3), memory(), 77
    handle = arrays.wrap(pointer, (N,), None, "float32", (2, 0), 0, owner)
    for stream in streams:
        delays.copy(stream, seen, pointer, N, DELAY)
        assert arrays.used_on(handle, stream) == "OK"
    arrays.forget_deleted()
    arrays.release(handle)
    end = time.monotonic() + 5
    while owner not in arrays.deleted() and time.monotonic() < end:
        time.sleep(0.001)
    assert arrays.deleted() == [owner]
    assert [cuda.busy(stream) for stream in streams] == [False] * 3, "the deleter was called too early"


def test_what_is_kept_is_given_back_after_the_work_on_every_stream_that_it_was_used_on(cuda, delays, memory):
    own, *others = three_streams(cuda)
    pointer, seen = memory(3), [memory() for _ in others]
    handle = arrays.keep(Told(pointer, own), "adopt")
    for target, stream in zip(seen, others, strict=True):
        delays.copy(stream, target, pointer, N, DELAY)
        assert arrays.used_on(handle, stream) == "OK"
    arrays.release(handle)
    delays.fill(own, pointer, N, 9.0, 0.0)
    cuda.synchronize(own)
    cuda.synchronize_devices()
    assert [values(cuda, target) for target in seen] == [[3.0], [3.0]]
    assert values(cuda, pointer) == [9.0]


# ------------------------------------------------------------------------------------------------------- stream objects


def test_streams_of_cupy(cuda, cupy):
    own = [cupy.cuda.Stream(non_blocking=True), cupy.cuda.Stream()]
    assert [arrays.read_stream(stream) for stream in own] == [stream.ptr for stream in own]
    assert arrays.read_stream(cupy.cuda.Stream.null) == LEGACY
    assert arrays.read_stream(cupy.cuda.Stream.ptds) == PER_THREAD
    number = cuda.stream("non-blocking")
    assert cupy.cuda.Stream.from_external(arrays.make_stream(number)).ptr == number


def test_streams_of_torch(cuda, torch):
    own = torch.cuda.Stream()
    assert arrays.read_stream(own) == own.cuda_stream
    assert arrays.read_stream(torch.cuda.default_stream()) == LEGACY
    number = cuda.stream("non-blocking")
    taken = torch.cuda.ExternalStream(int(arrays.make_stream(number)))
    assert taken.cuda_stream == number == arrays.read_stream(taken)


def test_streams_of_numba(cuda, numba_cuda):
    own = numba_cuda.stream()
    assert arrays.read_stream(own) == int(own)
    assert arrays.read_stream(numba_cuda.default_stream()) == LEGACY
    assert arrays.read_stream(numba_cuda.legacy_default_stream()) == LEGACY
    assert arrays.read_stream(numba_cuda.per_thread_default_stream()) == PER_THREAD
    number = cuda.stream("non-blocking")
    taken = numba_cuda.external_stream(int(arrays.make_stream(number)))
    assert int(taken) == number == arrays.read_stream(taken)


def current_device_of(cuda_core):
    """Device 0 as cuda.core wants it, which is made current for that."""
    device = cuda_core.Device(0)
    device.set_current()
    return device


def test_streams_of_cuda_core(cuda, cuda_core):
    device = current_device_of(cuda_core)
    own = device.create_stream()
    assert arrays.read_stream(own) == int(own.handle)
    number = cuda.stream("non-blocking")
    taken = device.create_stream(arrays.make_stream(number))
    assert int(taken.handle) == number == arrays.read_stream(taken)
    assert arrays.read_stream(cuda_core.LEGACY_DEFAULT_STREAM) == LEGACY
    assert arrays.read_stream(cuda_core.PER_THREAD_DEFAULT_STREAM) == PER_THREAD


@pytest.mark.parametrize("library", ["cupy", "torch", "numba", "cuda_core"])
def test_an_array_lives_on_a_stream_of_another_library(cuda, delays, memory, request, library):
    """Made there, used there, and handed out with it."""
    own = {
        "cupy": lambda cupy: cupy.cuda.Stream(non_blocking=True),
        "torch": lambda torch: torch.cuda.Stream(),
        "numba": lambda numba_cuda: numba_cuda.stream(),
        "cuda_core": lambda cuda_core: current_device_of(cuda_core).create_stream(),
    }[library](request.getfixturevalue("numba_cuda" if library == "numba" else library))
    number, seen = arrays.read_stream(own), memory()
    array = arrays.new((N,), "float32", arrays.DEVICE, -1, number)
    delays.fill(number, array.ptr, N, 5.0, DELAY)
    view = probe.acquire(array, cuda.stream("non-blocking"), {})
    delays.copy(cuda.stream("non-blocking"), seen, array.ptr, N, 0.0)
    assert view.release() == "OK"
    cuda.synchronize(cuda.stream("non-blocking"))
    assert values(cuda, seen) == [5.0]
    assert array.stream == arrays.make_stream(number)
    del view, array  # a bare handle: the stream has to live as long as the array
    cuda.synchronize(number)
