/**
 * cai/status.h - what can go wrong: one list of statuses, their exceptions, and the error that carries a message.
 *
 * The core floor returns cai_status_t and, where the caller gave one, fills a cai_error_t; it never touches Python's
 * exception state. cai_raise() (state.h) is the one place where a status becomes an exception.
 */
#ifndef CAI_STATUS_H
#define CAI_STATUS_H

#include <cai/config.h>

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* X(status, exception, builtin that it also derives from, when it is raised). Statuses, exception classes, their bases
 * and their documentation all come from this list. New entries go to the end: the numbers are part of cai_array_t's
 * binary interface, which extensions built with different versions of cai share. */
#define CAI_STATUS_LIST(X)                                                                                             \
    X(INTERFACE_NOT_IMPLEMENTED, InterfaceNotImplementedError, TypeError,                                              \
      "The object speaks none of the allowed array protocols, or each of them failed.")                                \
    X(INCOMPLETE_INTERFACE, IncompleteInterfaceError, ValueError,                                                      \
      "A required field of an array interface is missing or has the wrong form.")                                      \
    X(INVALID_VERSION, InvalidVersionError, BufferError,                                                               \
      "The version of an interface cannot be read, or is not the one asked for.")                                      \
    X(INVALID_TYPESTR, InvalidTypestrError, ValueError, "A typestr or buffer format does not parse.")                  \
    X(UNKNOWN_DTYPE, UnknownDtypeError, BufferError, "A data type that has no name here.")                             \
    X(ENDIANNESS_DETECTION, EndiannessDetectionError, ValueError, "The elements are not in the machine's byte order.") \
    X(DTYPE_MISMATCH, DtypeMismatchError, TypeError, "A known data type, but not one that was asked for.")             \
    X(INVALID_SHAPE, InvalidShapeError, ValueError,                                                                    \
      "A negative or overflowing extent, or a shape that is not the one asked for.")                                   \
    X(INVALID_STRIDES, InvalidStridesError, ValueError,                                                                \
      "Strides that overflow, are no multiple of the item size, or are of the wrong number.")                          \
    X(LAYOUT_MISMATCH, LayoutMismatchError, ValueError,                                                                \
      "Contiguity, alignment or self-overlap that is not what was asked for.")                                         \
    X(READ_ONLY_ACCESS, ReadOnlyAccessError, BufferError,                                                              \
      "Writable memory was asked for, and the source is read-only or does not say.")                                   \
    X(DEVICE_MISMATCH, DeviceMismatchError, ValueError,                                                                \
      "The wrong kind of memory, the wrong device, or arrays of one call on several devices.")                         \
    X(MASKED_ARRAY, MaskedArrayError, ValueError, "A masked array, and a mask was not asked for.")                     \
    X(INVALID_STREAM, InvalidStreamError, ValueError, "A stream that is none.")                                        \
    X(STREAM_CAPTURE, StreamCaptureError, RuntimeError, "Something that cannot be ordered inside a graph capture.")    \
    X(INVALID_CAPSULE, InvalidCapsuleError, ValueError, "A capsule with the wrong name, or one that is used already.") \
    X(MISSING_DELETER, MissingDeleterError, ValueError,                                                                \
      "Ownership handed over without a deleter where one is required.")                                                \
    X(OBJECT_OWNERSHIP, ObjectOwnershipError, RuntimeError, "An attempt to give away what is only borrowed.")          \
    X(UNREG_CUDA_TYPE, UnRegCudaTypeError, TypeError, "A C++ type without a data type.")                               \
    X(CUDA_CALL, CudaCallError, RuntimeError, "A CUDA call that failed; see the attributes code and name.")            \
    X(MEMORY, MemoryError, MemoryError, "Out of memory.")

/** CAI_OK (0), or CAI_ERROR_<name> of CAI_STATUS_LIST. */
typedef enum cai_status {
    CAI_OK = 0,
#define CAI_IMPL_STATUS_VALUE(status, exception, base, text) CAI_ERROR_##status,
    CAI_STATUS_LIST(CAI_IMPL_STATUS_VALUE)
#undef CAI_IMPL_STATUS_VALUE
        CAI_STATUS_COUNT /* one more than the last status */
} cai_status_t;
CAI_IMPL_STATIC_ASSERT(sizeof(cai_status_t) == sizeof(int), "cai_status_t is returned across extensions as an int");

/** Bytes of a message, the terminating NUL included; a longer one is cut and ends in "...". */
#define CAI_ERROR_MESSAGE_SIZE 1024

/** An error on its way up. The caller owns it and need not initialise it; only a failing function writes to it. */
typedef struct cai_error {
    cai_status_t status;
    int32_t      cuda_code;                       /**< the cudaError_t, or 0 where no CUDA call failed */
    const char  *cuda_name;                       /**< "cudaErrorInvalidValue" …: static storage, or NULL */
    char         message[CAI_ERROR_MESSAGE_SIZE]; /**< UTF-8, one line */
} cai_error_t;

/** The status' own name, "INVALID_SHAPE" …; "OK" for CAI_OK, "UNKNOWN" for what is no status. Static storage. */
CAI_API const char *cai_status_name(cai_status_t status) CAI_IMPL_SELDOM;
/** The name of the status' exception class, "InvalidShapeError" …; NULL for CAI_OK and for what is no status. */
CAI_API const char *cai_status_exception(cai_status_t status) CAI_IMPL_SELDOM;
/** The name of the builtin class that the exception also derives from, "ValueError" …; NULL as above. */
CAI_API const char *cai_status_base(cai_status_t status) CAI_IMPL_SELDOM;
/** One sentence, the documentation of the exception class; NULL as above. */
CAI_API const char *cai_status_doc(cai_status_t status) CAI_IMPL_SELDOM;

/**
 * Fill `error` (NULL: nothing is filled) with a status and a message, without CUDA code, and return that status, so that
 * a failing function ends in `return cai_error_set(error, …);`. `format` is printf's.
 */
CAI_API cai_status_t cai_error_set(cai_error_t *error, cai_status_t status, const char *format, ...) CAI_IMPL_SELDOM
    CAI_IMPL_PRINTF(3, 4);

/* ---------------------------------------------------------------------------------------------------- bodies ---- */

/* A message under construction in somebody else's buffer: appending past the end cuts, and the cut is marked. */
typedef struct cai_impl_text {
    char  *buffer;
    size_t size, length;
} cai_impl_text_t;

CAI_IMPL_COLD cai_impl_text_t cai_impl_text_begin(char *buffer, size_t size)
{
    cai_impl_text_t text;
    text.buffer = buffer;
    text.size = size;
    text.length = 0;
    buffer[0] = '\0';
    return text;
}

/* The bytes of the UTF-8 sequence that begins at `at`; 0 if none does, as at a cut. */
CAI_IMPL size_t cai_impl_utf8_length(const char *at)
{
    const unsigned char first = CAI_IMPL_CAST(unsigned char, at[0]);
    const size_t        length = first < 0x80   ? 1
                                 : first < 0xC2 ? 0
                                 : first < 0xE0 ? 2
                                 : first < 0xF0 ? 3
                                 : first < 0xF5 ? 4
                                                : 0;
    for (size_t i = 1; i < length; i++) {
        if ((CAI_IMPL_CAST(unsigned char, at[i]) & 0xC0u) != 0x80u)
            return 0;
    }
    return length;
}

/* Make what was quoted from elsewhere one line of UTF-8: control characters become spaces, other bytes question marks. */
CAI_IMPL void cai_impl_text_clean(char *at)
{
    while (*at != '\0') {
        const size_t length = cai_impl_utf8_length(at);
        if (length == 0)
            *at = '?';
        else if (length == 1 && (CAI_IMPL_CAST(unsigned char, *at) < 0x20 || *at == 0x7F))
            *at = ' ';
        at += length == 0 ? 1 : length;
    }
}

/* Where to cut before the end of a buffer, so that no sequence is cut in two. */
CAI_IMPL size_t cai_impl_text_cut(const char *buffer, size_t end)
{
    while (end > 0 && (CAI_IMPL_CAST(unsigned char, buffer[end]) & 0xC0u) == 0x80u)
        end--;
    return end;
}

CAI_IMPL_COLD CAI_IMPL_PRINTF(2, 0) void cai_impl_text_add_list(cai_impl_text_t *text, const char *format,
                                                                va_list arguments)
{
    char        *added = text->buffer + text->length;
    const size_t room = text->size - text->length;
    const int    wanted = vsnprintf(added, room, format, arguments);
    if (wanted < 0)
        return;
    if (CAI_IMPL_CAST(size_t, wanted) < room) {
        text->length += CAI_IMPL_CAST(size_t, wanted);
    } else if (text->size > 3) {
        memcpy(text->buffer + cai_impl_text_cut(text->buffer, text->size - 4), "...", 4);
        text->length = text->size - 1; /* nothing is added behind the mark */
        text->buffer[text->length] = '\0';
    }
    cai_impl_text_clean(added);
}

CAI_IMPL_COLD CAI_IMPL_PRINTF(2, 3) void cai_impl_text_add(cai_impl_text_t *text, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    cai_impl_text_add_list(text, format, arguments);
    va_end(arguments);
}

/* A column of CAI_STATUS_LIST each: a module that never asks for the documentation does not carry it. */
CAI_API const char *cai_status_name(cai_status_t status)
{
    switch (status) {
    case CAI_OK: return "OK";
#define CAI_IMPL_STATUS_CASE(status, exception, base, text)                                                            \
    case CAI_ERROR_##status: return #status;
        CAI_STATUS_LIST(CAI_IMPL_STATUS_CASE)
#undef CAI_IMPL_STATUS_CASE
    default: return "UNKNOWN";
    }
}

CAI_API const char *cai_status_exception(cai_status_t status)
{
    switch (status) {
#define CAI_IMPL_STATUS_CASE(status, exception, base, text)                                                            \
    case CAI_ERROR_##status: return #exception;
        CAI_STATUS_LIST(CAI_IMPL_STATUS_CASE)
#undef CAI_IMPL_STATUS_CASE
    default: return NULL;
    }
}

CAI_API const char *cai_status_base(cai_status_t status)
{
    switch (status) {
#define CAI_IMPL_STATUS_CASE(status, exception, base, text)                                                            \
    case CAI_ERROR_##status: return #base;
        CAI_STATUS_LIST(CAI_IMPL_STATUS_CASE)
#undef CAI_IMPL_STATUS_CASE
    default: return NULL;
    }
}

CAI_API const char *cai_status_doc(cai_status_t status)
{
    switch (status) {
#define CAI_IMPL_STATUS_CASE(status, exception, base, text)                                                            \
    case CAI_ERROR_##status: return text;
        CAI_STATUS_LIST(CAI_IMPL_STATUS_CASE)
#undef CAI_IMPL_STATUS_CASE
    default: return NULL;
    }
}

/* Out of line although it is CAI_API: a variadic function cannot be inlined, and every caller is on a failure path. */
CAI_API cai_status_t cai_error_set(cai_error_t *error, cai_status_t status, const char *format, ...)
{
    if (error != NULL) {
        cai_impl_text_t text = cai_impl_text_begin(error->message, sizeof(error->message));
        va_list         arguments;
        error->status = status;
        error->cuda_code = 0;
        error->cuda_name = NULL;
        va_start(arguments, format);
        cai_impl_text_add_list(&text, format, arguments);
        va_end(arguments);
    }
    return status;
}

#endif /* CAI_STATUS_H */
