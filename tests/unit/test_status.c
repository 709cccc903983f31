/*
 * Checks status.h: the list of statuses with their exceptions, and how a message is written and cut.
 */
#include <cai/status.h>

#include "unit.h"

#include <limits.h>
#include <pthread.h>
#include <stdlib.h>

TestSuite(status, .timeout = UNIT_TIMEOUT);

/* The numbers are part of the binary interface between extensions; names and bases are what Python code catches. */
typedef struct status_case {
    int         number;
    const char *name, *exception, *base;
} status_case_t;

static const status_case_t statuses[] = {
    {1, "INTERFACE_NOT_IMPLEMENTED", "InterfaceNotImplementedError", "TypeError"},
    {2, "INCOMPLETE_INTERFACE", "IncompleteInterfaceError", "ValueError"},
    {3, "INVALID_VERSION", "InvalidVersionError", "BufferError"},
    {4, "INVALID_TYPESTR", "InvalidTypestrError", "ValueError"},
    {5, "UNKNOWN_DTYPE", "UnknownDtypeError", "BufferError"},
    {6, "ENDIANNESS_DETECTION", "EndiannessDetectionError", "ValueError"},
    {7, "DTYPE_MISMATCH", "DtypeMismatchError", "TypeError"},
    {8, "INVALID_SHAPE", "InvalidShapeError", "ValueError"},
    {9, "INVALID_STRIDES", "InvalidStridesError", "ValueError"},
    {10, "LAYOUT_MISMATCH", "LayoutMismatchError", "ValueError"},
    {11, "READ_ONLY_ACCESS", "ReadOnlyAccessError", "BufferError"},
    {12, "DEVICE_MISMATCH", "DeviceMismatchError", "ValueError"},
    {13, "MASKED_ARRAY", "MaskedArrayError", "ValueError"},
    {14, "INVALID_STREAM", "InvalidStreamError", "ValueError"},
    {15, "STREAM_CAPTURE", "StreamCaptureError", "RuntimeError"},
    {16, "INVALID_CAPSULE", "InvalidCapsuleError", "ValueError"},
    {17, "MISSING_DELETER", "MissingDeleterError", "ValueError"},
    {18, "OBJECT_OWNERSHIP", "ObjectOwnershipError", "RuntimeError"},
    {19, "UNREG_CUDA_TYPE", "UnRegCudaTypeError", "TypeError"},
    {20, "CUDA_CALL", "CudaCallError", "RuntimeError"},
    {21, "MEMORY", "MemoryError", "MemoryError"},
};

Test(status, pitfall_42_list_of_names_and_bases)
{
    cr_expect_eq((size_t)CAI_STATUS_COUNT, UNIT_COUNT(statuses) + 1, "the list has grown: %d", (int)CAI_STATUS_COUNT);
    for (size_t i = 0; i < UNIT_COUNT(statuses); i++) {
        const status_case_t *row = &statuses[i];
        const cai_status_t   status = (cai_status_t)row->number;
        cr_expect_str_eq(cai_status_name(status), row->name, "%s: name", row->name);
        cr_expect_str_eq(cai_status_exception(status), row->exception, "%s: exception", row->name);
        cr_expect_str_eq(cai_status_base(status), row->base, "%s: base", row->name);
    }
}

Test(status, enumerators_have_the_numbers)
{
#define COMPARE(status, exception, base, text)                                                                         \
    cr_expect_str_eq(cai_status_name(CAI_ERROR_##status), #status, "enumerator %s", #status);
    CAI_STATUS_LIST(COMPARE)
#undef COMPARE
    cr_expect_eq(CAI_ERROR_INTERFACE_NOT_IMPLEMENTED, 1);
    cr_expect_eq(CAI_ERROR_INVALID_SHAPE, 8);
    cr_expect_eq(CAI_ERROR_MEMORY, 21);
}

Test(status, names_and_exceptions_are_unique)
{
    for (int i = 1; i < CAI_STATUS_COUNT; i++) {
        for (int j = i + 1; j < CAI_STATUS_COUNT; j++) {
            const cai_status_t a = (cai_status_t)i, b = (cai_status_t)j;
            cr_expect_str_neq(cai_status_name(a), cai_status_name(b), "names %d and %d", i, j);
            cr_expect_str_neq(cai_status_exception(a), cai_status_exception(b), "exceptions %d and %d", i, j);
            cr_expect_str_neq(cai_status_doc(a), cai_status_doc(b), "documentation %d and %d", i, j);
        }
    }
}

Test(status, documentation_is_a_sentence)
{
    for (int i = 1; i < CAI_STATUS_COUNT; i++) {
        const char  *text = cai_status_doc((cai_status_t)i);
        const size_t length = strlen(text);
        cr_assert_gt(length, 10, "%d", i);
        cr_expect(text[0] >= 'A' && text[0] <= 'Z', "%d: %s", i, text);
        cr_expect_eq(text[length - 1], '.', "%d: %s", i, text);
        cr_expect_null(strchr(text, '\n'), "%d: %s", i, text);
    }
}

Test(status, ok_has_a_name_alone)
{
    cr_expect_eq(CAI_OK, 0);
    cr_expect_str_eq(cai_status_name(CAI_OK), "OK");
    cr_expect_null(cai_status_exception(CAI_OK));
    cr_expect_null(cai_status_base(CAI_OK));
    cr_expect_null(cai_status_doc(CAI_OK));
}

Test(status, numbers_that_are_no_status)
{
    static const int numbers[] = {-1, -2, CAI_STATUS_COUNT, CAI_STATUS_COUNT + 1, 255, INT_MAX, INT_MIN};
    for (size_t i = 0; i < UNIT_COUNT(numbers); i++) {
        cai_status_t status;
        memcpy(&status, &numbers[i], sizeof(status));
        cr_expect_str_eq(cai_status_name(status), "UNKNOWN", "%d", numbers[i]);
        cr_expect_null(cai_status_exception(status), "%d", numbers[i]);
        cr_expect_null(cai_status_base(status), "%d", numbers[i]);
        cr_expect_null(cai_status_doc(status), "%d", numbers[i]);
    }
}

Test(status, error_set_fills_everything)
{
    cai_error_t error;
    memset(&error, 0x5A, sizeof(error));
    cr_expect_eq(cai_error_set(&error, CAI_ERROR_INVALID_SHAPE, "extent %d of '%s'", -3, "x"), CAI_ERROR_INVALID_SHAPE);
    cr_expect_eq(error.status, CAI_ERROR_INVALID_SHAPE);
    cr_expect_eq(error.cuda_code, 0);
    cr_expect_null(error.cuda_name);
    cr_expect_str_eq(error.message, "extent -3 of 'x'");
}

Test(status, error_set_with_an_empty_message)
{
    cai_error_t error;
    memset(&error, 0x5A, sizeof(error));
    cr_expect_eq(cai_error_set(&error, CAI_ERROR_MEMORY, "%s", ""), CAI_ERROR_MEMORY);
    cr_expect_str_empty(error.message);
}

Test(status, error_set_without_an_error)
{
    for (int i = 1; i < CAI_STATUS_COUNT; i++)
        cr_expect_eq(cai_error_set(NULL, (cai_status_t)i, "%d", i), (cai_status_t)i, "%d", i);
}

/* A longer message than fits is cut and ends in "...", and the memory behind it is not touched. */
Test(status, long_messages_are_cut)
{
    static const size_t lengths[] = {0, 1, 3, 1000, 1019, 1020, 1021, 1022, 1023, 1024, 1025, 1026, 2000, 5000};
    char                text[5001];
    cr_assert_eq(CAI_ERROR_MESSAGE_SIZE, 1024);
    for (size_t i = 0; i < sizeof(text); i++)
        text[i] = (char)('a' + i % 26);
    for (size_t i = 0; i < UNIT_COUNT(lengths); i++) {
        const size_t length = lengths[i];
        struct {
            cai_error_t error;
            char        behind[16];
        } guarded;
        memset(&guarded, 0x5A, sizeof(guarded));
        (void)cai_error_set(&guarded.error, CAI_ERROR_MEMORY, "%.*s", (int)length, text);
        if (length < CAI_ERROR_MESSAGE_SIZE) {
            cr_expect_eq(strlen(guarded.error.message), length, "length %zu", length);
            cr_expect_eq(memcmp(guarded.error.message, text, length), 0, "length %zu", length);
        } else {
            cr_expect_eq(strlen(guarded.error.message), CAI_ERROR_MESSAGE_SIZE - 1, "length %zu", length);
            cr_expect_eq(memcmp(guarded.error.message, text, CAI_ERROR_MESSAGE_SIZE - 4), 0, "length %zu", length);
            cr_expect_str_eq(guarded.error.message + CAI_ERROR_MESSAGE_SIZE - 4, "...", "length %zu", length);
        }
        for (size_t j = 0; j < sizeof(guarded.behind); j++)
            cr_expect_eq(guarded.behind[j], 0x5A, "length %zu, %zu bytes behind", length, j);
    }
}

/* The message is UTF-8, also when it is cut. A code point of two bytes lies across each possible place of the cut. */
Test(status, a_cut_message_is_utf_8)
{
    for (int offset = 0; offset < 2; offset++) {
        char        text[2001];
        cai_error_t error;
        size_t      at = 0;
        if (offset == 1)
            text[at++] = 'a';
        for (; at + 2 < sizeof(text); at += 2)
            memcpy(text + at, "\xC3\xA9", 2);
        text[at] = '\0';
        (void)cai_error_set(&error, CAI_ERROR_MEMORY, "%s", text);
        at = strlen(error.message);
        cr_assert_geq(at, 4, "offset %d", offset);
        cr_expect_str_eq(error.message + at - 3, "...", "offset %d", offset);
        for (size_t i = (size_t)offset; i < at - 3; i += 2)
            cr_expect(error.message[i] == '\xC3' && error.message[i + 1] == '\xA9', "offset %d, byte %zu", offset, i);
    }
}

/* The text in pieces, as messages of requests are built, into buffers of every small size. */
Test(status, text_in_pieces)
{
    static const char *const pieces[] = {"one", "", ", two", ", three"};
    static const char        whole[] = "one, two, three";
    for (size_t size = 1; size < sizeof(whole) + 4; size++) {
        char           *buffer = (char *)malloc(size);
        cai_impl_text_t text;
        cr_assert_not_null(buffer);
        memset(buffer, 0x5A, size);
        text = cai_impl_text_begin(buffer, size);
        cr_expect_str_empty(buffer, "size %zu", size);
        for (size_t i = 0; i < UNIT_COUNT(pieces); i++)
            cai_impl_text_add(&text, "%s", pieces[i]);
        if (size >= sizeof(whole)) {
            cr_expect_str_eq(buffer, whole, "size %zu", size);
        } else {
            cr_expect_eq(strlen(buffer), size - 1, "size %zu: '%s'", size, buffer);
            if (size > 3)
                cr_expect_str_eq(buffer + size - 4, "...", "size %zu: '%s'", size, buffer);
            if (size > 4)
                cr_expect_eq(memcmp(buffer, whole, size - 4), 0, "size %zu: '%s'", size, buffer);
        }
        free(buffer);
    }
}

/* What is added behind the cut is lost, however short it is. */
Test(status, text_behind_the_cut_is_lost)
{
    char            buffer[12];
    cai_impl_text_t text = cai_impl_text_begin(buffer, sizeof(buffer));
    cai_impl_text_add(&text, "%s", "one");
    cai_impl_text_add(&text, "%s", ", two and more");
    cr_expect_str_eq(buffer, "one, two...");
    cai_impl_text_add(&text, "%s", "");
    cr_expect_str_eq(buffer, "one, two...");
    cai_impl_text_add(&text, "%s", "x");
    cr_expect_str_eq(buffer, "one, two...");
}

Test(status, text_that_fits_exactly_is_not_cut)
{
    char            buffer[8];
    cai_impl_text_t text = cai_impl_text_begin(buffer, sizeof(buffer));
    cai_impl_text_add(&text, "%s", "abcd");
    cai_impl_text_add(&text, "%d", 567);
    cr_expect_str_eq(buffer, "abcd567");
    cai_impl_text_add(&text, "%s", "");
    cr_expect_str_eq(buffer, "abcd567");
    cai_impl_text_add(&text, "%s", "8");
    cr_expect_str_eq(buffer, "abcd...");
}

/* Names are shared by all threads, errors belong to their callers. */
enum { N_THREADS = 4, N_ROUNDS = 2000 };

static void *set_errors(void *argument)
{
    size_t *wrong = (size_t *)argument;
    for (int i = 0; i < N_ROUNDS; i++) {
        const status_case_t *row = &statuses[(size_t)i % UNIT_COUNT(statuses)];
        char                 expected[64];
        cai_error_t          error;
        snprintf(expected, sizeof(expected), "%s %d %p", row->name, i, argument);
        if (cai_error_set(&error, (cai_status_t)row->number, "%s %d %p", row->name, i, argument) != error.status ||
            strcmp(error.message, expected) != 0 || strcmp(cai_status_name(error.status), row->name) != 0 ||
            strcmp(cai_status_exception(error.status), row->exception) != 0)
            ++*wrong;
    }
    return NULL;
}

Test(status, threads_share_the_list)
{
    pthread_t threads[N_THREADS];
    size_t    wrong[N_THREADS] = {0};
    for (size_t i = 0; i < N_THREADS; i++)
        cr_assert_eq(pthread_create(&threads[i], NULL, set_errors, &wrong[i]), 0);
    for (size_t i = 0; i < N_THREADS; i++) {
        cr_assert_eq(pthread_join(threads[i], NULL), 0);
        cr_expect_eq(wrong[i], 0, "thread %zu: %zu wrong", i, wrong[i]);
    }
}
