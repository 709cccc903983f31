"""Programs over several arrays, streams and devices, and what they may expect: their own order, where cai promises it.

A program enqueues reads and fills, and does only what a correct program may do: an access is made where everything that
it conflicts with comes before it, by an order that cai promises, by one that the program makes itself (an event, a wait
of the host), or on one stream. What comes before what is kept as vector clocks; what the hardware orders beyond that is
not relied on. Every read must then have seen the last fill in the program's own order.
"""

import concurrent.futures
import gc
import threading
from ctypes import byref, c_uint, c_void_p
from typing import NamedTuple

import checks
import emulated
import loans
import pending
import tables
from loans import ASKED, KNOWN, READY, SILENT
from outward import Capsule

DEVICES = (0, 1)
KINDS = ("legacy", "per-thread", "blocking", "non-blocking", "another non-blocking", "another thread's per-thread")
TABLES = ("torch", "table", "table-null-stream")  # what they tell is one answer for all of them
ONCE = (*loans.sources(ASKED), "capsule")  # given back when what was handed out ends, so that they are taken once
ENDS = ITS_THREAD, MAIN_THREAD, NEW_THREAD = "its own thread", "the main thread", "a new thread"
OWN = ("DEVICE", "NO_POOL", "WRAPPED")

MAX_PROGRAMS = 200  # on one machine
FIRST_VALUE, N_VALUES = 0x23, 0x50  # of fills: none that has a meaning of its own


class Stream(NamedTuple):
    index: int
    kind: str
    device: int
    number: int

    def __str__(self):
        return f"{self.kind} of device {self.device}"

    @property
    def has_handle(self):
        return self.number > 2

    @property
    def is_per_thread(self):
        return self.number == emulated.PER_THREAD

    @property
    def is_elsewhere(self):
        """Only the other thread can name it."""
        return self.kind.startswith("another thread's")


class Access(NamedTuple):
    stream: Stream
    tick: int
    by_owner: bool


class Memory:
    """One array: what its memory holds in the program's order, and who has accessed it since the last fill."""

    def __init__(self, name, source, tells, stream, device, pointer, value):
        self.name, self.source, self.tells = name, source, tells
        self.stream, self.device, self.pointer, self.value = stream, device, pointer, value
        self.filled, self.reads = None, []
        self.object = self.loan = self.module = self.handle = None
        self.was_taken = False

    def __str__(self):
        return self.name

    def conflicts(self, fill):
        """The accesses that a further one has to come after."""
        return [access for access in (self.filled, *(self.reads if fill else ())) if access is not None]


class Hold:
    """A use of an array between its acquire and its end: a view, an array that C keeps, or an export."""

    def __init__(self, name, memory, stream, how, end, handle=None, module=None):
        self.name, self.memory, self.stream, self.how, self.end = name, memory, stream, how, end
        self.handle, self.module = handle, module
        self.is_used = False  # since the last time that anybody was told

    def __str__(self):
        return self.name


class Machine:
    """What programs run on, one after the other: the modules, and streams of every kind on every device."""

    def __init__(self):
        self.probe, self.arrays, self.second = (checks.load(name) for name in ("probe", "arrays", "arrays_second"))
        self.other_thread = concurrent.futures.ThreadPoolExecutor(1)
        self.streams = []
        for device in DEVICES:
            for kind in KINDS:
                number = loans.make_stream(kind.removeprefix("another ").removeprefix("thread's "), device)
                self.streams.append(Stream(len(self.streams), kind, device, number))

        self.n_programs = 0

    def program(self):
        """A new one. Nobody frees what the reads of programs were copied to."""
        if self.n_programs == MAX_PROGRAMS:
            self.begin_again()
        self.n_programs += 1
        return Program(self)

    def begin_again(self):
        """Also after a program that did not end well. Nothing of the modules may outlive what the emulator has."""
        self.end()
        self.__dict__.clear()
        gc.collect()
        emulated.reset()
        self.__init__()

    def end(self):
        self.other_thread.shutdown()


class Program:
    """One run: its operations take numbers, which choose among what is possible at that moment."""

    def __init__(self, machine):
        self.probe, self.arrays, self.second = machine.probe, machine.arrays, machine.second
        self.streams, self.other_thread = machine.streams, machine.other_thread
        self.clocks = [[0] * len(self.streams) for _ in self.streams]
        self.host = [0] * len(self.streams)  # what the host knows to be done
        self.memories, self.holds, self.reads, self.loans = [], [], [], []
        self.said = []  # what the program did, as lines
        self.n_fills = self.n_memories = self.n_holds = 0
        self.main = threading.current_thread()
        emulated.clear_calls()

    def say(self, line):
        self.said.append(line)

    def on(self, stream, function, *arguments):
        """Call on the thread that can name the stream."""
        if not stream.is_elsewhere or threading.current_thread() is not self.main:
            return function(*arguments)
        return self.other_thread.submit(function, *arguments).result()

    # --------------------------------------------------------------------------------------------------- the clocks

    def stream_of(self, number, device):
        number = loans.normal(number)
        return next(stream for stream in self.streams
                    if stream.number == number and (stream.has_handle or stream.device == device))

    def covers(self, clock, access):
        return clock[access.stream.index] >= access.tick

    def put_before(self, before, after):
        """What is on `before` now comes before what will be on `after`."""
        self.merge(self.clocks[after.index], self.clocks[before.index])

    @staticmethod
    def merge(clock, other):
        clock[:] = map(max, clock, other)

    def wait(self, stream):
        self.say(f"the host waits for {stream}")
        self.on(stream, pending.synchronize, stream.number, stream.device)
        self.merge(self.host, self.clocks[stream.index])

    def wait_for(self, accesses):
        for access in accesses:
            if not self.covers(self.host, access):
                self.wait(access.stream)

    # -------------------------------------------------------------------------------------------------- accesses

    def may_access(self, memory, stream, fill):
        self.merge(self.clocks[stream.index], self.host)
        return all(self.covers(self.clocks[stream.index], access) for access in memory.conflicts(fill))

    def access(self, memory, stream, fill, hold=None):
        """Enqueue a fill or a read, if a correct program may do so now; else nothing."""
        if not self.may_access(memory, stream, fill):
            return
        clock = self.clocks[stream.index]
        clock[stream.index] += 1
        access = Access(stream, clock[stream.index], hold is None)
        who = f"the owner of {memory}" if hold is None else f"{hold}"
        if fill:
            memory.value = FIRST_VALUE + self.n_fills % N_VALUES
            self.n_fills += 1
            self.say(f"{who} fills {memory} with {memory.value:#x} on {stream}")
            self.on(stream, pending.fill_later, stream.number, memory.pointer, memory.value, stream.device)
            memory.filled, memory.reads = access, []
        else:
            self.say(f"{who} reads {memory} on {stream}: {memory.value:#x}")
            seen = self.on(stream, pending.read_later, stream.number, memory.pointer, stream.device)
            self.reads.append((f"{who} on {stream}, reading {memory}", seen, memory.value))
            memory.reads.append(access)
        if hold is not None:
            hold.is_used = True

    def is_over(self, memory):
        """Of the accesses that count, whether the host knows all to be done."""
        return all(self.covers(self.host, access) for access in memory.conflicts(True))

    # ------------------------------------------------------------------------------------------- arrays that are lent

    @staticmethod
    def choose(among, number):
        return among[number % len(among)]

    def choose_memory(self, number):
        """An array that the program has; a first one is made where it has none."""
        if not self.memories:
            self.lend(number, number // 2, number)
        return self.choose(self.memories, number)

    def choose_own(self, number):
        """An array that C has a reference to."""
        if all(memory.handle is None for memory in self.memories):
            self.make(number, number // 2, number)
        return self.choose([memory for memory in self.memories if memory.handle is not None], number)

    def choose_hold(self, number):
        """Somebody who has an array at the moment."""
        if not self.holds:
            self.acquire(number, number // 2, number)
        return self.choose(self.holds, number)

    def streams_for(self, device, of_any_device=True):
        """1 and 2 mean the streams of the array's device; a handle may be of another one."""
        return [stream for stream in self.streams
                if stream.device == device or (of_any_device and stream.has_handle)]

    @staticmethod
    def may_be_taken_elsewhere(memory):
        """What another library says of its per-thread stream can be used on that thread alone; and whoever has to be
        waited for, by the program, on the thread that waits."""
        return memory.handle is not None or not (memory.stream.is_per_thread or memory.tells == READY)

    def streams_of_consumers(self, memory):
        return [stream for stream in self.streams_for(memory.device)
                if not stream.is_elsewhere or self.may_be_taken_elsewhere(memory)]

    def lend(self, source, device, stream):
        """Another library makes an array and fills it."""
        source, device = self.choose(loans.ALL, source), self.choose(DEVICES, device)
        tells = next(told for told in (KNOWN, READY, SILENT, ASKED) if source in loans.sources(told))
        if tells == SILENT:
            stream = self.stream_of(emulated.LEGACY, device)
        else:
            among = self.streams_for(device, source == "interface-v3")
            among = [one for one in among if not one.is_elsewhere and (source != "table" or one.kind != "legacy")]
            stream = self.choose(among, stream)
        loan = loans.Loan(source, stream.number, device=device, pending=False)
        memory = Memory(f"array {self.n_memories}", source, tells, stream, device, loan.pointer, loans.NEW[0])
        memory.loan, memory.object = loan, loan.give()
        self.say(f"{memory}: {source} on device {device}, whose owner works on {stream}")
        self.n_memories += 1
        self.loans.append(memory)
        self.memories.append(memory)
        self.own_access(memory, True)

    def make(self, kind, device, stream):
        """C makes an array of cai's own, or wraps memory with an owner that uses it again at once."""
        kind, device = self.choose(OWN, kind), self.choose(DEVICES, device)
        stream = self.choose(self.streams_for(device, False), stream)
        name, loan = f"array {self.n_memories}", None
        if kind == "WRAPPED":
            loan = loans.Loan("interface-v3-no-stream", device=device, pending=False)
            handle = self.arrays.wrap(loan.pointer, (4,), None, "float32", (2, device), 0, loan.give())
            assert self.on(stream, self.arrays.set_stream, handle, stream.number, -1) == "OK"
        else:
            handle = self.on(stream, self.arrays.new_handle, (4,), "float32", getattr(self.arrays, kind), device,
                             stream.number)
        memory = Memory(name, kind, KNOWN, stream, device, self.arrays.describe(handle)["pointer"], None)
        memory.module, memory.handle, memory.object = self.arrays, handle, self.arrays.give(handle)
        memory.loan = loan
        self.say(f"{memory}: {kind} of cai's own on device {device}, with {stream}")
        self.n_memories += 1
        self.memories.append(memory)
        if loan is not None:
            self.loans.append(memory)
        self.own_access(memory, True)

    def own_access(self, memory, fill):
        self.access(memory, memory.stream, fill)
        if memory.tells == READY:
            self.wait(memory.stream)  # before it says that no order is needed

    def work(self, memory, fill):
        """The owner reads or fills on its own stream."""
        self.own_access(self.choose_memory(memory), fill % 2)

    def tell_tables(self, memory):
        if memory.source in TABLES:
            tables.set_stream(0 if memory.source == "table-null-stream" else memory.stream.number)

    def take(self, memory):
        """What the program passes on: an object that can be taken once is gone."""
        taken = memory.object
        memory.was_taken = True
        if memory.source in ONCE:
            memory.object = None
            self.memories.remove(memory)
        return taken

    # ------------------------------------------------------------------------------------------- borrowing and keeping

    def told(self, memory, module, consumer=None):
        """The stream that a module finds to be the owner's, on the consumer's thread. Of a per-thread stream, only the
        module that made the array knows whose it is; legacy waits for all of them."""
        is_elsewhere = consumer is not None and consumer.is_elsewhere
        is_hidden = memory.module is not None and memory.stream.is_per_thread and (
            memory.module is not module or memory.stream.is_elsewhere != is_elsewhere)
        return self.stream_of(emulated.LEGACY, memory.device) if is_hidden or memory.tells == ASKED else memory.stream

    def order_in(self, memory, how, stream, module):
        """The left side of the table; the stream to work on."""
        owners = memory.stream
        if how == "adopt" and memory.tells != READY:
            stream = self.told(memory, module)
        if how in ("wait", "adopt") and memory.tells != READY:
            self.put_before(owners, stream)
        elif how == "block" and memory.tells != READY:
            self.merge(self.host, self.clocks[owners.index])
        return stream

    def acquire(self, memory, how, stream):
        memory = self.choose_memory(memory)
        how = self.choose(("wait", "adopt", "wait", "block", "none"), how)
        stream = self.choose(self.streams_of_consumers(memory), stream)
        self.tell_tables(memory)
        name = f"view {self.n_holds}"
        self.n_holds += 1
        self.say(f"{name} = acquire({memory}, {stream if how == 'wait' else how})")
        if how == "wait":
            view = self.on(stream, self.probe.acquire, self.take(memory), stream.number, {})
        else:
            view = self.probe.acquire(self.take(memory), how, {})
        stream = self.order_in(memory, how, stream, self.probe)
        if memory.tells != READY and how in ("wait", "adopt"):
            assert view.describe()["stream"] == stream.number
        if how == "block" and self.is_over(memory):
            assert emulated.read(memory.pointer, 1)[0] == memory.value
        self.holds.append(Hold(name, memory, stream, how, view.release))

    def keep(self, memory, how, stream, second):
        memory = self.choose_memory(memory)
        how = self.choose(("wait", "adopt", "wait", "block", "none"), how)
        stream = self.choose(self.streams_of_consumers(memory), stream)
        module = self.choose((self.arrays, self.second), second)
        self.tell_tables(memory)
        name = f"kept {self.n_holds}"
        self.n_holds += 1
        self.say(f"{name} = keep({memory}, {stream if how == 'wait' else how}) in {module.__name__}")
        if how == "wait":
            handle = self.on(stream, module.keep, self.take(memory), stream.number)
        else:
            handle = module.keep(self.take(memory), how)
        stream = self.order_in(memory, how, stream, module)
        self.holds.append(Hold(name, memory, stream, how, None, handle, module))

    def use(self, hold, fill):
        """A holder reads or fills on its stream."""
        hold = self.choose_hold(hold)
        self.access(hold.memory, hold.stream, fill % 2, hold)

    def tell(self, hold):
        """C says where it has used what it keeps."""
        kept = [one for one in self.holds if one.handle is not None]
        if kept:
            self.tell_of(self.choose(kept, hold))

    def tell_of(self, hold):
        self.say(f"used_on({hold}, {hold.stream})")
        assert self.on(hold.stream, hold.module.used_on, hold.handle, hold.stream.number) == "OK"
        if hold.memory.tells == KNOWN:
            self.put_before(hold.stream, hold.memory.stream)
        hold.is_used = False

    def end(self, hold, thread):
        """The holder gives the array back, on its own thread or any other."""
        self.end_of(self.choose_hold(hold), self.choose(ENDS, thread))

    def end_of(self, hold, where=ITS_THREAD):
        self.holds.remove(hold)
        if hold.handle is not None and hold.is_used:
            self.tell_of(hold)
        if hold.how not in ("wait", "adopt", "export") or hold.memory.tells == READY:
            self.give_up_order(hold)
        self.say(f"{hold} ends on {where}")
        if hold.handle is not None:
            self.release(hold.module, hold.handle, where == NEW_THREAD)
        else:
            assert self.run_on(where, hold.stream, hold.end) in ("OK", None)
        if hold.how in ("wait", "adopt") and hold.handle is None and hold.memory.tells in (KNOWN, SILENT):
            self.put_before(hold.stream, hold.memory.stream)

    def give_up_order(self, hold):
        """Nothing is ordered back: a correct program sees to it itself that its work is done. What C keeps goes back
        behind whatever C told, all the same."""
        for access in hold.memory.conflicts(True):
            if hold.memory.source in ONCE if access.by_owner else hold.handle is None:
                self.wait_for([access])

    @staticmethod
    def release(module, handle, on_new_thread):
        if on_new_thread:
            module.release_on_thread(handle, False)
        else:
            module.release(handle)

    def run_on(self, where, stream, function):
        if where == NEW_THREAD:
            with concurrent.futures.ThreadPoolExecutor(1) as executor:
                return executor.submit(function).result()
        return self.on(stream, function) if where == ITS_THREAD else function()

    def call(self, first, second, how, stream, fill):
        """Several arguments as one call, whose body accesses each of them on the launch stream."""
        one = self.choose_memory(first)
        others = [other for other in self.memories if other is not one and other.device == one.device and
                  not (one.source in TABLES and other.source in TABLES)]
        arguments = [one] + ([self.choose(others, second)] if others else [])
        waits = how % 2
        among = [consumers for consumers in self.streams_of_consumers(one)
                 if not consumers.is_elsewhere or all(map(self.may_be_taken_elsewhere, arguments))]
        stream = self.choose(among, stream)
        if not waits:
            told = [self.told(argument, self.probe) for argument in arguments if argument.tells == KNOWN]
            stream = told[0] if told else self.stream_of(emulated.LEGACY, one.device)
        for argument in arguments:
            self.tell_tables(argument)
        hold = Hold(f"call {self.n_holds}", None, stream, "wait", None)
        self.n_holds += 1
        self.say(f"{hold}: call({', '.join(map(str, arguments))}, {stream if waits else 'adopt'})")

        def body(description):
            assert description["stream"] == stream.number
            for argument in arguments:
                if argument.tells != READY:
                    self.put_before(argument.stream, stream)
            for number, argument in enumerate(arguments):
                self.access(argument, stream, (fill >> number) % 2, hold)
                if argument.tells == READY:
                    self.wait_for(argument.conflicts(True))

        objects = tuple(self.take(argument) for argument in arguments)
        self.on(stream, self.probe.call, objects, ({},) * len(objects),
                stream.number if waits else "adopt", body)
        for argument in arguments:
            if argument.tells in (KNOWN, SILENT):
                self.put_before(stream, argument.stream)

    # ------------------------------------------------------------------------------------------- arrays of cai's own

    def export(self, memory, how, stream):
        """A consumer in Python takes an array of cai's own. It is not told when that has ended."""
        memory = self.choose_own(memory)
        how = self.choose(("interface", "dlpack", "table"), how)
        stream = self.choose(self.streams_for(memory.device, False), stream)
        name, shown, end = f"export {self.n_holds}", memory.object, None
        self.n_holds += 1
        if how == "interface":
            self.say(f"{name} = {memory}.__cuda_array_interface__")
            assert shown.__cuda_array_interface__["stream"] == self.told(memory, self.arrays).number
            self.join(memory.stream, stream)
            end = [shown].clear  # the consumer keeps the object alive
        elif how == "dlpack":
            self.say(f"{name} = {memory}.__dlpack__({stream})")
            capsule = self.on(stream, lambda: shown.__dlpack__(stream=stream.number, max_version=(1, 3)))
            end = Capsule(capsule).consume()
            self.put_before(memory.stream, stream)
        else:
            self.say(f"{name} = {memory} by the exchange table")
            stream = self.stream_of(emulated.LEGACY, memory.device)
            with emulated.current_device(memory.device):
                end = Capsule(self.arrays.table_give(shown)).consume()
            self.put_before(memory.stream, stream)
        self.holds.append(Hold(name, memory, stream, "export", end))

    def use_elsewhere(self, memory, stream, fill):
        """C uses its own array on another stream, and tells."""
        memory = self.choose_own(memory)
        stream = self.choose(self.streams_for(memory.device), stream)
        self.join(memory.stream, stream)
        self.access(memory, stream, fill % 2)
        self.say(f"used_on({memory}, {stream})")
        assert self.on(stream, self.arrays.used_on, memory.handle, stream.number) == "OK"
        self.put_before(stream, memory.stream)

    def tell_owner(self, memory, stream):
        """C says that its array was used on a stream, whoever did so."""
        memory = self.choose_own(memory)
        stream = self.choose(self.streams_for(memory.device), stream)
        self.say(f"used_on({memory}, {stream})")
        assert self.on(stream, self.arrays.used_on, memory.handle, stream.number) == "OK"
        self.put_before(stream, memory.stream)

    def set_stream(self, memory, stream):
        memory = self.choose_own(memory)
        stream = self.choose(self.streams_for(memory.device, False), stream)
        self.say(f"set_stream({memory}, {stream})")
        assert self.on(stream, self.arrays.set_stream, memory.handle, stream.number, -1) == "OK"
        self.put_before(memory.stream, stream)
        memory.stream = stream

    # ------------------------------------------------------------------------------------------------------- the end

    def drop(self, memory, thread):
        """The program lets go of an array. It goes back when nobody holds it any more."""
        self.drop_it(self.choose_memory(memory), thread % 4 == 1)

    def drop_it(self, memory, on_new_thread=False):
        self.memories.remove(memory)
        if memory.tells != KNOWN:  # its memory is used again without regard to its own stream
            self.wait_for(access for access in memory.conflicts(True) if access.by_owner)
        self.say(f"{memory} is dropped{' on a new thread' if on_new_thread and memory.handle is not None else ''}")
        memory.object = None
        if memory.handle is not None:
            handle, memory.handle = memory.handle, None
            self.release(memory.module, handle, on_new_thread)

    def join(self, before, after):
        """The program's own order between two streams."""
        if before == after:
            return
        self.say(f"the program orders {after} behind {before}")
        event = self.on(before, self.record, before)
        self.on(after, self.wait_for_event, after, event)
        self.put_before(before, after)

    @staticmethod
    def record(stream):
        event = c_void_p()
        with emulated.current_device(stream.device):
            emulated.cuda("cudaEventCreateWithFlags", byref(event), c_uint(2))
            emulated.cuda("cudaEventRecord", event, c_void_p(stream.number))
        return event

    @staticmethod
    def wait_for_event(stream, event):
        with emulated.current_device(stream.device):
            emulated.cuda("cudaStreamWaitEvent", c_void_p(stream.number), event, c_uint(0))
        emulated.cuda("cudaEventDestroy", event)

    def order(self, before, after):
        self.join(self.choose(self.streams, before), self.choose(self.streams, after))

    def synchronize(self, stream):
        self.wait(self.choose(self.streams, stream))

    def step(self, seed, steps):
        """Some of the pending work is done, in an order that the hardware might choose."""
        self.say(f"{steps % 8 + 1} pieces of work, by seed {seed}")
        emulated.schedule(seed, steps % 8 + 1)

    def check(self):
        for who, seen, expected in self.reads:
            assert seen.value in (None, expected), f"{who}: saw {seen.value:#x}, not {expected:#x}"

    def finish(self, seed):
        """Everything ends, all work is done in some order, and every read has seen what it had to."""
        for hold in list(self.holds):
            self.end_of(hold)
        for memory in list(self.memories):
            self.drop_it(memory)
        self.check()
        self.say(f"all pending work, by seed {seed}")
        while emulated.schedule(seed, 1000):
            pass
        assert checks.Checks(self.probe).settle(lambda: all(map(self.came_back, self.loans)))
        emulated.run_all()
        self.check()
        assert [who for who, seen, _ in self.reads if seen.value is None] == []
        assert emulated.violations() == []
        assert emulated.get_device() == 0

    @staticmethod
    def came_back(memory):
        """What was never asked for a capsule has nothing to give back."""
        return memory.loan.given_back == (1 if memory.tells != ASKED or memory.was_taken else 0)

    def abandon(self):
        """Let go of everything, although frames of a traceback may have the program."""
        self.__dict__.clear()
