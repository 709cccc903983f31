/* The emulator's own threads: one calls host functions, as the runtime does, one finishes work in the background. */
#include "internal.h"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

typedef struct helper {
    pthread_t thread;
    bool      started;
    bool      stopping;
} helper_t;

static helper_t caller;
static helper_t background;
static list_t   calls; /* host functions to call, as work */
static int      background_delay = -1;
static pid_t    process; /* that the threads were started in; one made by fork has not got them */

static void *call_host_functions(void *unused)
{
    (void)unused;
    lock();
    while (!caller.stopping) {
        if (calls.count > 0) {
            work_t *work = calls.items[0];
            list_remove(&calls, work);
            work_call(work);
        } else {
            wait_for_change();
        }
    }
    unlock();
    return NULL;
}

static void *work_in_background(void *unused)
{
    (void)unused;
    lock();
    while (!background.stopping) {
        int64_t next;
        if (background_delay >= 0 && work_start_due(now(), &next)) {
            continue;
        }
        if (background_delay >= 0 && next >= 0) {
            wait_for_change_until(next);
        } else {
            wait_for_change();
        }
    }
    unlock();
    return NULL;
}

/* A helper takes no signals: they are the application's. */
static bool start_helper(helper_t *helper, void *(*function)(void *))
{
    if (!helper->started) {
        sigset_t all;
        sigset_t before;
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        helper->started = pthread_create(&helper->thread, NULL, function, NULL) == 0;
        pthread_sigmask(SIG_SETMASK, &before, NULL);
        process = getpid();
    }
    return helper->started;
}

static void stop_helper(helper_t *helper)
{
    if (helper->started) {
        helper->stopping = true;
        announce_change();
        unlock();
        pthread_join(helper->thread, NULL);
        lock();
        *helper = (helper_t){0};
    }
}

void helpers_call(work_t *work)
{
    if (!start_helper(&caller, call_host_functions)) {
        violation("the thread for host functions cannot be started: called on this one");
        work_call(work);
        return;
    }
    list_add(&calls, work);
    announce_change();
}

int64_t helpers_due_time(void)
{
    return background_delay >= 0 ? now() + (int64_t)background_delay * 1000000 : 0;
}

void helpers_reset(void)
{
    background_delay = -1;
    stop_helper(&background);
    stop_helper(&caller);
    list_free(&calls);
}

/* Leak checkers complain of threads that outlive main. One that is inside a function might never come back. */
__attribute__((destructor)) static void stop_at_exit(void)
{
    if (process != getpid()) {
        return;
    }
    lock();
    if (!work_is_calling()) {
        background_delay = -1;
        stop_helper(&background);
        stop_helper(&caller);
    }
    unlock();
}

int emulator_set_background(int delay_ms)
{
    lock();
    bool ready = delay_ms < 0 || start_helper(&background, work_in_background);
    if (ready) {
        background_delay = delay_ms;
        announce_change();
    }
    unlock();
    return ready ? 0 : -1;
}
