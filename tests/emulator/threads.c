/* The lock that guards the whole emulator, and what the runtime remembers for each host thread. */
#include "internal.h"

#include <pthread.h>
#include <time.h>

static pthread_mutex_t             mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t              changed;
static pthread_once_t              once = PTHREAD_ONCE_INIT;
static unsigned long long          generation = 1; /* counts resets, so that no thread keeps what it had before one */
static unsigned long long          n_threads;
static _Thread_local host_thread_t current;

/* Waiting until a time needs a clock that nobody sets. */
static void create_condition(void)
{
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&changed, &attributes);
    pthread_condattr_destroy(&attributes);
}

void lock(void)
{
    pthread_once(&once, create_condition);
    pthread_mutex_lock(&mutex);
}

void unlock(void)
{
    pthread_mutex_unlock(&mutex);
}

void wait_for_change(void)
{
    pthread_cond_wait(&changed, &mutex);
}

void wait_for_change_until(int64_t nanoseconds)
{
    struct timespec time = {.tv_sec = (time_t)(nanoseconds / 1000000000), .tv_nsec = (long)(nanoseconds % 1000000000)};
    pthread_cond_timedwait(&changed, &mutex, &time);
}

void announce_change(void)
{
    pthread_cond_broadcast(&changed);
}

int64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

host_thread_t *this_thread(void)
{
    if (current.number == 0) {
        current.number = ++n_threads;
    }
    if (current.generation != generation) {
        current.generation = generation;
        current.device = 0;
        current.last_error = cudaSuccess;
        current.capture_mode = cudaStreamCaptureModeGlobal;
    }
    return &current;
}

void threads_reset(void)
{
    generation++;
}

unsigned long long emulator_thread(void)
{
    lock();
    unsigned long long number = this_thread()->number;
    unlock();
    return number;
}
