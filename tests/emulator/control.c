/* emulator_reset: everything back to the start. */
#include "internal.h"

void emulator_reset(void)
{
    lock();
    if (this_thread()->in_emulated_code) {
        violation("emulator_reset is called from a kernel or a host function");
    } else {
        work_reset();
        helpers_reset();
        captures_reset();
        graphs_reset();
        events_reset();
        streams_reset();
        devices_reset();
        memory_reset();
        threads_reset();
        calls_reset();
    }
    unlock();
}
