"""Arrays at the end of an interpreter: the process ends well, whatever is still alive, and on whatever thread."""

import sys

import pytest

import children
import test_state

# What is at hand in every child.
BEGIN = """
import atexit, gc, sys, threading, time, weakref
import numpy as np
import checks, emulated, producers
import arrays, arrays_second

def device(shape=(4,)):
    return arrays.new(shape, "float32", arrays.DEVICE, 0, emulated.create_stream())

def wrapped(owner):
    handle = arrays.wrap(np.zeros(4, "f4").ctypes.data, (4,), None, "float32", (1, 0), 0, owner)
    array = arrays.give(handle)
    arrays.release(handle)
    return array

class Owner:
    def __init__(self):
        self.memory = np.zeros(4, "f4")

    def own(self):
        handle = arrays.wrap(self.memory.ctypes.data, (4,), None, "float32", (1, 0), 0, self)
        return arrays.give(handle)
"""

ALIVE = {
    "a global": "kept = device()",
    "a global that went out": "kept = device(); kept.__cuda_array_interface__",
    "all kinds": "kept = [arrays.new((4,), 'float32', kind) for kind in (arrays.DEVICE, arrays.NO_POOL, arrays.MANAGED,"
                 " arrays.PINNED, arrays.HOST)]",
    "a handle": "kept = arrays.new_handle((4,), 'float32', arrays.DEVICE)",
    "a kept object": "source = producers.Interface(np.zeros(4, 'f4'), stream=1); kept = arrays.keep(source)",
    "a kept object alone": "kept = arrays.keep(producers.Interface(np.zeros(4, 'f4'), stream=1))",
    "a kept host array": "kept = arrays.keep(np.zeros(4, 'f4'))",
    "a kept bytearray": "kept = arrays.keep(bytearray(16))",
    "capsules": "array = device(); kept = [array.__dlpack__(), array.__dlpack__(max_version=(1, 0)), array._capsule]",
    "a buffer": "kept = memoryview(arrays.new((4,), 'float32', arrays.HOST))",
    "a NumPy array": "kept = np.from_dlpack(arrays.new((4,), 'float32', arrays.HOST))",
    "a stream": "kept = device().stream",
    "an owner": "kept = Owner().own()",
    "a cycle": "owner = Owner(); owner.array = owner.own(); del owner",
    "a cycle that is alive": "owner = Owner(); owner.array = owner.own()",
    "a cycle without the collector": "gc.disable(); owner = Owner(); owner.array = owner.own(); del owner",
    "an attribute of a module": "sys.kept = np.kept = device()",
    "an attribute of its own type": "arrays.kept = wrapped(1)",
    "another extension's": "kept = arrays_second.keep(device())",
    "another extension's module": "arrays_second.kept = arrays.keep(arrays_second.new((4,), 'float32', arrays.DEVICE))",
    "a finalizer": "class Late:\n    def __del__(self, device=device):\n        device().__dlpack__()\nkept = Late()",
    "work that is pending": "kept = device(); emulated.launch(kept.stream.handle, lambda: None)",
    "a capture": "kept = device(); emulated.begin_capture(kept.stream.handle); del kept",
    "a state without a module": "kept = arrays.stateless((4,))",
    "a module object that was dropped": "kept = checks.load('arrays').new((4,), 'float32', arrays.HOST)",
    "a thread local": "kept = threading.local(); kept.array = device()",
}


@pytest.mark.parametrize("name", ALIVE)
def test_pitfall_45_alive_at_the_end(name):
    children.run(BEGIN + ALIVE[name] + "\nprint('end')")


@pytest.mark.parametrize("name", ["a global that went out", "a kept object", "a cycle that is alive", "capsules"])
@pytest.mark.parametrize("end", ["sys.exit(0)", "raise SystemExit"])
def test_pitfall_45_other_ways_to_end(name, end):
    children.run(BEGIN + ALIVE[name] + "\n" + end)


def test_pitfall_45_memory_of_cs_own_is_freed_once():
    """At the end too: a global that the interpreter clears."""
    assert children.run(BEGIN + """
class Last:  # cleared after what was made before it
    def __del__(self, print=print, deleted=arrays.deleted):
        print(deleted())

arrays.forget_deleted()
zz = Last()
array = wrapped(5)
del array
""").strip() == "[5]"


def test_pitfall_45_in_atexit():
    """Before and after cai's own callback, which closes the queue."""
    children.run(BEGIN + """
kept = [arrays.keep(producers.Interface(np.zeros(4, "f4"), stream=1)) for _ in range(6)]
array = device()

def late():
    for handle in kept[::2]:
        arrays.release(handle)
    arrays.release_on_thread(kept[1], True)
    array.__cuda_array_interface__, array.__dlpack__(), device()
    del kept[:]

atexit.register(late)
""")
    children.run("import atexit, sys\nearly = []\natexit.register(lambda: early[0]())\n" + BEGIN + """
kept = [arrays.keep(producers.Interface(np.zeros(4, "f4"), stream=1)) for _ in range(6)]
array = device()

def late():
    for handle in kept[::2]:
        arrays.release(handle)
    arrays.release_on_thread(kept[1], True)
    array.__cuda_array_interface__, array.__dlpack__(), device()
    del kept[:]

early.append(late)
""")


def test_pitfall_45_daemon_threads():
    """They make, keep and release arrays until Python ends under them."""
    children.run(BEGIN + """
def work():
    while True:
        array = device()
        array.__cuda_array_interface__
        handle = arrays.keep(array)
        array.__dlpack__(max_version=(1, 0))
        del array
        arrays.release_on_thread(handle, False)
        np.from_dlpack(arrays.new((4,), "float32", arrays.HOST))

for _ in range(4):
    threading.Thread(target=work, daemon=True).start()
time.sleep(0.3)
""")


def test_pitfall_45_a_daemon_thread_holds_the_last_reference():
    children.run(BEGIN + """
def hold(array, handle):
    begun.set()
    time.sleep(1000)

begun = threading.Event()
threading.Thread(target=hold, args=(device(), arrays.keep(producers.Interface(np.zeros(4, "f4"), stream=1))),
                 daemon=True).start()
begun.wait()
""")


def test_pitfall_45_threads_of_python_that_end_first():
    children.run(BEGIN + """
def work():
    kept.append(device())
    kept.append(arrays.new((4,), "float32", arrays.DEVICE, 0, emulated.PER_THREAD))

kept = []
threads = [threading.Thread(target=work) for _ in range(3)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
kept[1].__cuda_array_interface__
""")


def test_pitfall_45_what_the_queue_still_holds():
    """Given up on a foreign thread as the last thing: nobody calls cai any more."""
    assert children.run(BEGIN + """
class Said(producers.Interface):
    def __del__(self, print=print):
        print("given back")

handle = arrays.keep(Said(np.zeros(4, "f4"), stream=1))
arrays.release_on_thread(handle, True)
""").strip() == "given back"


LATE = """
import atexit
early = []
atexit.register(lambda: [function() for function in early])  # runs after cai's own callback, which closes the queue
""" + BEGIN + """
import probe

class Said(producers.Interface):
    def __del__(self, print=print):
        print("given back")

def borrow():
    probe.acquire(Said(np.zeros(4, "f4"), version=2), "adopt", {}).release()
    assert emulated.count_pending() > 0
"""


@pytest.mark.parametrize("work, printed", [
    pytest.param("borrow()", "", id="the work is never done"),
    pytest.param("borrow(); emulated.run_all()", "given back", id="done as the last thing"),
    pytest.param("borrow(); atexit.register(emulated.run_all)", "given back", id="done in atexit"),
    pytest.param("borrow(); early.append(emulated.run_all)", "", id="done too late"),
    pytest.param("atexit.register(lambda: (borrow(), emulated.run_all()))", "given back", id="all in atexit"),
    pytest.param("early.append(lambda: (borrow(), emulated.run_all()))", "", id="all too late"),
])
@pytest.mark.parametrize("thread", [False, True])
def test_pitfall_45_what_is_given_back_late(work, printed, thread):
    """As long as there is a Python to give it back to. Afterwards it is leaked, and nobody is harmed."""
    if thread:
        work = f"thread = threading.Thread(target=lambda: exec({work!r})); thread.start(); thread.join()"
    assert children.run(LATE + work).strip() == printed


@pytest.mark.parametrize("delay", [0, 1, 30])  # milliseconds
def test_pitfall_45_work_that_is_done_while_python_ends(delay):
    """On a thread of CUDA's, at whatever moment that is."""
    children.run(LATE + f"""
emulated.set_background({delay})
for _ in range(50):
    probe.acquire(Said(np.zeros(4, "f4"), version=2), "adopt", {{}}).release()
""")


def test_pitfall_45_no_modules():
    """The modules are gone from sys.modules, and their arrays live on."""
    children.run(BEGIN + """
array, handle = device(), arrays.keep(np.zeros(4, "f4"))
del sys.modules["arrays"], arrays
gc.collect()
array.__cuda_array_interface__, array.shape, repr(array)
del array
gc.collect()
""")


def test_pitfall_45_without_cuda():
    children.run("""
        import numpy as np
        import arrays_host as arrays
        kept = [arrays.new((4,), "float32", arrays.HOST), arrays.keep(np.zeros(3)), arrays.stateless((2,))]
        view = np.from_dlpack(kept[0])
        other = arrays.keep(bytearray(4))
        arrays.release_on_thread(other, True)
    """)


# -------------------------------------------------------------------------------------------------------- interpreters

USES = """
import gc
import {module} as module

class Owner:
    def __init__(self):
        self.memory = bytearray(16)

owner = Owner()
kept = []
for turn in range(3):
    array = module.new((4,), "float32", module.HOST)
    view = memoryview(array)
    assert view.shape == (4,) and array.shape == (4,)
    kept += [array, module.keep(owner.memory), array.__dlpack__(max_version=(1, 0)), array._capsule, view]
    assert module.give(kept[1]) is owner.memory
    other = module.keep(bytearray(4))
    module.release_on_thread(other, True)
    assert module.stateless((3,)).shape == (3,)
    again = module.table_make(module.Array, module.table_give(array))
    assert again.ptr == array.ptr and type(again) is module.Array
cycle = Owner()
cycle.array = array
cycle.cycle = cycle
del cycle
gc.collect()
"""
# 3.12 added interpreters that do not share the lock.
OWN = pytest.param("own", marks=pytest.mark.skipif(sys.version_info < (3, 12), reason="one GIL for all before 3.12"))


@pytest.mark.parametrize("module", ["arrays_host", "arrays", "arrays_limited"])
@pytest.mark.parametrize("gil", ["shared", OWN])
def test_pitfall_61_subinterpreters(module, gil):
    """Each has types, a queue and a table's state of its own; arrays that are alive at its end harm nobody."""
    if gil == "own" and sys.version_info < (3, 13):
        pytest.importorskip("_testcapi", reason="Python 3.12 makes such interpreters in its test module alone")
    if gil == "own" and module == "arrays_limited":
        pytest.skip("the limited API of 3.11 cannot say that a module takes part")
    if module == "arrays_limited" and sys.version_info < (3, 11):
        pytest.skip("the limited API has the buffer protocol since 3.11")
    use = USES.replace("{module}", module)
    if gil == "shared":
        use = use.replace("    other = module.keep(bytearray(4))\n    module.release_on_thread(other, True)\n", "")
    children.run(test_state.INTERPRETERS, gil, use)


def test_pitfall_61_interpreters_side_by_side():
    """Two live at once, and release what they keep each in its own; one that is left gives nothing to the other."""
    children.run("""
        import children
        import arrays_host

        first = chr(10).join([
            'import arrays_host',
            'data = bytearray(8)',
            'handle = arrays_host.keep(data)',
            'array = arrays_host.new((4,), "float32", arrays_host.HOST)'])
        second = chr(10).join([
            'assert arrays_host.give(handle) is data',
            'arrays_host.release_on_thread(handle, True)',
            'arrays_host.new((), "int8", arrays_host.HOST)',
            'data.append(1)',
            'made = arrays_host.table_make(arrays_host.Array, arrays_host.table_give(array))',
            'assert type(made) is arrays_host.Array and made.ptr == array.ptr'])
        one, two = children.Interpreter(), children.Interpreter()
        one.run(first)
        two.run(first)
        array = arrays_host.new((4,), "float32", arrays_host.HOST)
        one.run(second)
        one.destroy()
        made = arrays_host.table_make(arrays_host.Array, arrays_host.table_give(array))
        assert type(made) is arrays_host.Array
        two.run(second)
        two.destroy()
    """)


@pytest.mark.parametrize("end, printed", [
    pytest.param("emulated.run_all(); one.run(call); say('called'); one.destroy()", "given back called", id="a call"),
    pytest.param("emulated.run_all(); say('nothing'); one.destroy()", "nothing given back", id="its end"),
    pytest.param("one.destroy(); emulated.run_all(); say('gone')", "gone", id="too late"),
])
def test_pitfall_61_what_is_given_back_late_to_an_interpreter(end, printed):
    """Only the main one can be asked for a pending call; to another one it goes by its next call of cai, or its end."""
    assert children.run("""
        import functools
        import sys
        import children
        import emulated

        say = functools.partial(print, flush=True)
        borrow = '''if True:
            import probe

            class Silent:
                __cuda_array_interface__ = {"shape": (4,), "typestr": "<f4", "data": (POINTER, False), "version": 2}

                def __del__(self, print=print):
                    print("given back", flush=True)

            probe.acquire(Silent(), "adopt", {}).release()
        '''.replace("POINTER", str(emulated.allocate(16)))
        call = 'probe.acquire(bytearray(4), "adopt", {"memory": probe.ON_HOST}).release()'
        one = children.Interpreter()
        one.run(borrow)
        assert emulated.count_pending() > 0
        exec(sys.argv[1])
    """, end).split() == printed.split()
