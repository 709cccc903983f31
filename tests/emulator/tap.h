/*
 * Tests that print TAP: one test after the other, each with any number of checks. For one file per program.
 *
 *     tap_begin("name %d", 1);  TAP_CHECK(a == b, "a is %d", a);  tap_end();  ...  return tap_finish();
 */
#ifndef EMULATOR_TAP_H
#define EMULATOR_TAP_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>

static struct {
    int  count;
    int  failed;
    bool current_failed;
    char name[200];
    char skipped[100];
} tap;

/* Begins the next test. Main thread only, like everything here. */
static void __attribute__((format(printf, 1, 2))) tap_begin(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(tap.name, sizeof(tap.name), format, arguments);
    va_end(arguments);
    tap.current_failed = false;
    tap.skipped[0] = '\0';
}

/* Notes a failed check of the test, with the reason, and goes on. */
static void __attribute__((format(printf, 4, 5))) tap_check(bool passed, const char *file, int line, const char *format,
                                                            ...)
{
    if (passed) {
        return;
    }
    tap.current_failed = true;
    printf("# %s:%d: ", file, line);
    va_list arguments;
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    printf("\n");
}

#define TAP_CHECK(condition, ...) tap_check((condition), __FILE__, __LINE__, __VA_ARGS__)

/* Marks the test as skipped; checks that failed before count nonetheless. */
static inline void tap_skip(const char *reason)
{
    snprintf(tap.skipped, sizeof(tap.skipped), "%s", reason);
}

/* Prints the test's line. */
static void tap_end(void)
{
    tap.count++;
    tap.failed += tap.current_failed;
    bool skipped = !tap.current_failed && tap.skipped[0] != '\0';
    printf("%s %d - %s%s%s\n", tap.current_failed ? "not ok" : "ok", tap.count, tap.name, skipped ? " # SKIP " : "",
           skipped ? tap.skipped : "");
    fflush(stdout);
}

/* Prints the plan and returns the exit status of the program. */
static int tap_finish(void)
{
    printf("1..%d\n", tap.count);
    return tap.failed == 0 && tap.count > 0 ? 0 : 1;
}

#endif
