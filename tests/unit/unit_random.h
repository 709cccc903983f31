/*
 * Reproducible random numbers for the tests that compare with a brute-force answer.
 */
#ifndef UNIT_RANDOM_H
#define UNIT_RANDOM_H

#include <stdint.h>

typedef struct unit_random {
    uint64_t state; /* the seed, not 0 */
} unit_random_t;

/* The next 64 bits (xorshift64*). */
static inline uint64_t unit_random_bits(unit_random_t *random)
{
    random->state ^= random->state >> 12;
    random->state ^= random->state << 25;
    random->state ^= random->state >> 27;
    return random->state * UINT64_C(2685821657736338717);
}

/* A number from low to high, both included. */
static inline int64_t unit_random_between(unit_random_t *random, int64_t low, int64_t high)
{
    return low + (int64_t)(unit_random_bits(random) >> 33) % (high - low + 1);
}

#endif
