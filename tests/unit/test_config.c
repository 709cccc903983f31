/*
 * Checks config.h: the version in its spellings, the limits, and the macros that hide the differences of compilers.
 */
#define CAI_API custom linkage
#include <cai/config.h>

#include "unit.h"

#include <stdio.h>

#define TEXT_OF(macro) TEXT(macro)
#define TEXT(macro)    #macro

TestSuite(config, .timeout = UNIT_TIMEOUT);

Test(config, version_has_one_value)
{
    char text[32];
    snprintf(text, sizeof(text), "%d.%d.%d", CAI_VERSION_MAJOR, CAI_VERSION_MINOR, CAI_VERSION_PATCH);
    cr_expect_str_eq(CAI_VERSION_STRING, text);
    cr_expect_eq(CAI_VERSION, 100 * (100 * CAI_VERSION_MAJOR + CAI_VERSION_MINOR) + CAI_VERSION_PATCH);
    cr_expect_lt(CAI_VERSION_MINOR, 100, "the numbers must compare");
    cr_expect_lt(CAI_VERSION_PATCH, 100, "the numbers must compare");
}

/* A version that the preprocessor can compare. */
#if CAI_VERSION < 100
#error "CAI_VERSION is no number for #if"
#endif

Test(config, limits)
{
    cr_expect_eq(CAI_MAX_NDIM, 64);
    cr_expect_eq(sizeof(void *), 8);
}

Test(config, linkage_can_be_overridden)
{
    cr_expect_str_eq(TEXT_OF(CAI_API), "custom linkage");
}

Test(config, likely_and_unlikely_keep_the_truth)
{
    static const long values[] = {0, 1, 2, -1, 256, 1L << 40};
    for (size_t i = 0; i < UNIT_COUNT(values); i++) {
        cr_expect_eq(CAI_IMPL_LIKELY(values[i]), values[i] != 0, "%ld", values[i]);
        cr_expect_eq(CAI_IMPL_UNLIKELY(values[i]), values[i] != 0, "%ld", values[i]);
    }
}

Test(config, casts_convert_values_and_pointers)
{
    int   number = 3;
    void *pointer = &number;
    cr_expect_eq(CAI_IMPL_CAST(uint8_t, 0x1FF), 0xFF);
    cr_expect_eq(*CAI_IMPL_CAST(int *, pointer), 3);
    cr_expect_eq(CAI_IMPL_BITS(uint64_t, pointer), (uint64_t)(uintptr_t)&number);
    cr_expect_eq(CAI_IMPL_BITS(void *, CAI_IMPL_BITS(uint64_t, pointer)), pointer);
}
