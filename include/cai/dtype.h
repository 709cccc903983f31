/**
 * cai/dtype.h - data types: one table, and the four spellings of it.
 *
 * A cai_dtype_t is DLPack's (code, bits, lanes). It is spelled as a NumPy typestr ("<f4", CUDA Array Interface), as a
 * buffer format ("f", PEP 3118), as a name ("float32") and as numbers; this header translates between them.
 *
 *   static const cai_dtype_t wanted[] = {CAI_FLOAT32, CAI_BFLOAT16};      initialisers
 *   cai_dtype_t dtype = cai_float32();                                     values
 *
 * Specification: NumPy's array interface (typestr), PEP 3118 and the struct module (formats), DLPack 1.3 (codes).
 */
#ifndef CAI_DTYPE_H
#define CAI_DTYPE_H

#include <cai/dlpack_abi.h>
#include <cai/status.h>

/* X(NAME, name, code, bits, typestr without byte order, buffer format). NULL where there is no honest spelling: NumPy
 * has no letters for these types, and what is seen in the wild ("<V2", "<f1") means something else as well. */
#define CAI_DTYPE_LIST(X)                                                                                               \
    X(BOOL, bool, CAI_CODE_BOOL, 8, "b1", "?")                                                                          \
    X(INT8, int8, CAI_CODE_INT, 8, "i1", "b")                                                                           \
    X(INT16, int16, CAI_CODE_INT, 16, "i2", "h")                                                                        \
    X(INT32, int32, CAI_CODE_INT, 32, "i4", "i")                                                                        \
    X(INT64, int64, CAI_CODE_INT, 64, "i8", "q")                                                                        \
    X(UINT8, uint8, CAI_CODE_UINT, 8, "u1", "B")                                                                        \
    X(UINT16, uint16, CAI_CODE_UINT, 16, "u2", "H")                                                                     \
    X(UINT32, uint32, CAI_CODE_UINT, 32, "u4", "I")                                                                     \
    X(UINT64, uint64, CAI_CODE_UINT, 64, "u8", "Q")                                                                     \
    X(FLOAT16, float16, CAI_CODE_FLOAT, 16, "f2", "e")                                                                  \
    X(FLOAT32, float32, CAI_CODE_FLOAT, 32, "f4", "f")                                                                  \
    X(FLOAT64, float64, CAI_CODE_FLOAT, 64, "f8", "d")                                                                  \
    X(COMPLEX64, complex64, CAI_CODE_COMPLEX, 64, "c8", "Zf")                                                           \
    X(COMPLEX128, complex128, CAI_CODE_COMPLEX, 128, "c16", "Zd")                                                       \
    X(COMPLEX32, complex32, CAI_CODE_COMPLEX, 32, NULL, NULL)                                                           \
    X(BFLOAT16, bfloat16, CAI_CODE_BFLOAT, 16, NULL, NULL)                                                              \
    X(BCOMPLEX32, bcomplex32, CAI_CODE_BCOMPLEX, 32, NULL, NULL)                                                        \
    X(FLOAT8_E3M4, float8_e3m4, CAI_CODE_FLOAT8_E3M4, 8, NULL, NULL)                                                    \
    X(FLOAT8_E4M3, float8_e4m3, CAI_CODE_FLOAT8_E4M3, 8, NULL, NULL)                                                    \
    X(FLOAT8_E4M3B11FNUZ, float8_e4m3b11fnuz, CAI_CODE_FLOAT8_E4M3B11FNUZ, 8, NULL, NULL)                               \
    X(FLOAT8_E4M3FN, float8_e4m3fn, CAI_CODE_FLOAT8_E4M3FN, 8, NULL, NULL)                                              \
    X(FLOAT8_E4M3FNUZ, float8_e4m3fnuz, CAI_CODE_FLOAT8_E4M3FNUZ, 8, NULL, NULL)                                        \
    X(FLOAT8_E5M2, float8_e5m2, CAI_CODE_FLOAT8_E5M2, 8, NULL, NULL)                                                    \
    X(FLOAT8_E5M2FNUZ, float8_e5m2fnuz, CAI_CODE_FLOAT8_E5M2FNUZ, 8, NULL, NULL)                                        \
    X(FLOAT8_E8M0FNU, float8_e8m0fnu, CAI_CODE_FLOAT8_E8M0FNU, 8, NULL, NULL)                                           \
    X(FLOAT6_E2M3FN, float6_e2m3fn, CAI_CODE_FLOAT6_E2M3FN, 6, NULL, NULL)                                              \
    X(FLOAT6_E3M2FN, float6_e3m2fn, CAI_CODE_FLOAT6_E3M2FN, 6, NULL, NULL)                                              \
    X(FLOAT4_E2M1FN, float4_e2m1fn, CAI_CODE_FLOAT4_E2M1FN, 4, NULL, NULL)                                              \
    X(INT4, int4, CAI_CODE_INT, 4, NULL, NULL)                                                                          \
    X(UINT4, uint4, CAI_CODE_UINT, 4, NULL, NULL)                                                                       \
    X(INT2, int2, CAI_CODE_INT, 2, NULL, NULL)                                                                          \
    X(UINT2, uint2, CAI_CODE_UINT, 2, NULL, NULL)

/* Initialisers, for `.dtype = CAI_FLOAT32` and for tables. */
#define CAI_BOOL               {CAI_CODE_BOOL, 8, 1}
#define CAI_INT8               {CAI_CODE_INT, 8, 1}
#define CAI_INT16              {CAI_CODE_INT, 16, 1}
#define CAI_INT32              {CAI_CODE_INT, 32, 1}
#define CAI_INT64              {CAI_CODE_INT, 64, 1}
#define CAI_UINT8              {CAI_CODE_UINT, 8, 1}
#define CAI_UINT16             {CAI_CODE_UINT, 16, 1}
#define CAI_UINT32             {CAI_CODE_UINT, 32, 1}
#define CAI_UINT64             {CAI_CODE_UINT, 64, 1}
#define CAI_FLOAT16            {CAI_CODE_FLOAT, 16, 1}
#define CAI_FLOAT32            {CAI_CODE_FLOAT, 32, 1}
#define CAI_FLOAT64            {CAI_CODE_FLOAT, 64, 1}
#define CAI_COMPLEX64          {CAI_CODE_COMPLEX, 64, 1}
#define CAI_COMPLEX128         {CAI_CODE_COMPLEX, 128, 1}
#define CAI_COMPLEX32          {CAI_CODE_COMPLEX, 32, 1}
#define CAI_BFLOAT16           {CAI_CODE_BFLOAT, 16, 1}
#define CAI_BCOMPLEX32         {CAI_CODE_BCOMPLEX, 32, 1}
#define CAI_FLOAT8_E3M4        {CAI_CODE_FLOAT8_E3M4, 8, 1}
#define CAI_FLOAT8_E4M3        {CAI_CODE_FLOAT8_E4M3, 8, 1}
#define CAI_FLOAT8_E4M3B11FNUZ {CAI_CODE_FLOAT8_E4M3B11FNUZ, 8, 1}
#define CAI_FLOAT8_E4M3FN      {CAI_CODE_FLOAT8_E4M3FN, 8, 1}
#define CAI_FLOAT8_E4M3FNUZ    {CAI_CODE_FLOAT8_E4M3FNUZ, 8, 1}
#define CAI_FLOAT8_E5M2        {CAI_CODE_FLOAT8_E5M2, 8, 1}
#define CAI_FLOAT8_E5M2FNUZ    {CAI_CODE_FLOAT8_E5M2FNUZ, 8, 1}
#define CAI_FLOAT8_E8M0FNU     {CAI_CODE_FLOAT8_E8M0FNU, 8, 1}
#define CAI_FLOAT6_E2M3FN      {CAI_CODE_FLOAT6_E2M3FN, 6, 1}
#define CAI_FLOAT6_E3M2FN      {CAI_CODE_FLOAT6_E3M2FN, 6, 1}
#define CAI_FLOAT4_E2M1FN      {CAI_CODE_FLOAT4_E2M1FN, 4, 1}
#define CAI_INT4               {CAI_CODE_INT, 4, 1}
#define CAI_UINT4              {CAI_CODE_UINT, 4, 1}
#define CAI_INT2               {CAI_CODE_INT, 2, 1}
#define CAI_UINT2              {CAI_CODE_UINT, 2, 1}
/** Items of `bytes` bytes (1 to 65535) without a meaning here: records, typestr "|V<bytes>". */
#define CAI_OPAQUE(bytes) {CAI_CODE_OPAQUE, 8, (bytes)}

/** Sizes of the buffers that the functions below write to, the terminating NUL included. */
#define CAI_TYPESTR_SIZE    8
#define CAI_DTYPE_NAME_SIZE 48

/** cai_bool(), cai_float32(), cai_bfloat16() …: the same as values. */
#define CAI_IMPL_DTYPE_DECLARE(NAME, name, code, bits, typestr, format) CAI_API cai_dtype_t cai_##name(void);
CAI_DTYPE_LIST(CAI_IMPL_DTYPE_DECLARE)
#undef CAI_IMPL_DTYPE_DECLARE
/** CAI_OPAQUE as a value. */
CAI_API cai_dtype_t cai_opaque(uint16_t bytes);

/** The same code, bits and lanes. */
CAI_API bool cai_dtype_equal(cai_dtype_t a, cai_dtype_t b);
/** Whether the dtype is of CAI_DTYPE_LIST with any number of lanes from 1, or opaque. */
CAI_API bool cai_dtype_is_known(cai_dtype_t dtype);
/** Whether an item is a plain number of whole bytes: known, one lane, not opaque, no sub-byte type. */
CAI_API bool cai_dtype_is_plain(cai_dtype_t dtype);
/** Bytes of one item, lanes included, rounded up: ceil(bits * lanes / 8). */
CAI_API int64_t cai_dtype_itemsize(cai_dtype_t dtype);
/** The alignment in bytes that an item asks for: its size, a lane's size for vectors, 1 for opaque and sub-byte. */
CAI_API int64_t cai_dtype_alignment(cai_dtype_t dtype);

/**
 * Write the dtype's name ("float32", "float32x4", "V16" for opaque items, "code 99, 8 bits, 1 lanes" for unknown ones)
 * into `name`, CAI_DTYPE_NAME_SIZE bytes. Returns `name`.
 */
CAI_API const char *cai_dtype_name(cai_dtype_t dtype, char *name);
/** Read a name as cai_dtype_name writes it. UNKNOWN_DTYPE with the name otherwise. */
CAI_API CAI_NODISCARD cai_status_t cai_dtype_from_name(const char *name, cai_dtype_t *dtype, cai_error_t *error);

/** Write the typestr, CAI_TYPESTR_SIZE bytes. UNKNOWN_DTYPE where NumPy has none (bfloat16, float8, vectors …). */
CAI_API CAI_NODISCARD cai_status_t cai_dtype_to_typestr(cai_dtype_t dtype, char *typestr, cai_error_t *error);
/**
 * Read a typestr of `length` bytes: byte order (< > | =), kind, decimal size. INVALID_TYPESTR for what does not parse,
 * ENDIANNESS_DETECTION for foreign order, UNKNOWN_DTYPE for a kind or size that has no dtype here (O, S, U, M8, f16 …).
 * "|V<n>" becomes CAI_OPAQUE(n): it may be a record as well as a bfloat16, and does not say which.
 */
CAI_API CAI_NODISCARD cai_status_t cai_dtype_from_typestr(const char *typestr, size_t length, cai_dtype_t *dtype,
                                                          cai_error_t *error);

/** The buffer format, static storage, or NULL with UNKNOWN_DTYPE where the struct module has none. */
CAI_API const char *cai_dtype_to_format(cai_dtype_t dtype, cai_error_t *error);
/**
 * Read a buffer format (NULL means "B") for items of `itemsize` bytes; errors as for typestrs, and INVALID_TYPESTR when
 * the two sizes differ. Records and repeated items become CAI_OPAQUE(itemsize).
 */
CAI_API CAI_NODISCARD cai_status_t cai_dtype_from_format(const char *format, int64_t itemsize, cai_dtype_t *dtype,
                                                         cai_error_t *error);

/* ---------------------------------------------------------------------------------------------------- bodies ---- */

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define CAI_IMPL_NATIVE_ORDER  '<'
#define CAI_IMPL_FOREIGN_ORDER '>'
#else
#define CAI_IMPL_NATIVE_ORDER  '>'
#define CAI_IMPL_FOREIGN_ORDER '<'
#endif

CAI_IMPL cai_dtype_t cai_impl_dtype(int code, int bits, int lanes)
{
    cai_dtype_t dtype;
    dtype.code = CAI_IMPL_CAST(uint8_t, code);
    dtype.bits = CAI_IMPL_CAST(uint8_t, bits);
    dtype.lanes = CAI_IMPL_CAST(uint16_t, lanes);
    return dtype;
}

#define CAI_IMPL_DTYPE_DEFINE(NAME, name, code, bits, typestr, format)                                                  \
    CAI_API cai_dtype_t cai_##name(void)                                                                                \
    {                                                                                                                   \
        return cai_impl_dtype(code, bits, 1);                                                                           \
    }
CAI_DTYPE_LIST(CAI_IMPL_DTYPE_DEFINE)
#undef CAI_IMPL_DTYPE_DEFINE

CAI_API cai_dtype_t cai_opaque(uint16_t bytes)
{
    return cai_impl_dtype(CAI_CODE_OPAQUE, 8, bytes);
}

typedef struct cai_impl_dtype_row {
    const char *name, *typestr, *format;
    cai_dtype_t dtype;
} cai_impl_dtype_row_t;

CAI_IMPL_COLD const cai_impl_dtype_row_t *cai_impl_dtype_rows(size_t *count)
{
    static const cai_impl_dtype_row_t rows[] = {
#define CAI_IMPL_DTYPE_ROW(NAME, name, code, bits, typestr, format) {#name, typestr, format, {code, bits, 1}},
        CAI_DTYPE_LIST(CAI_IMPL_DTYPE_ROW)
#undef CAI_IMPL_DTYPE_ROW
    };
    *count = sizeof(rows) / sizeof(rows[0]);
    return rows;
}

/* The row of a code and a width, whatever the lanes; NULL if there is none. */
CAI_IMPL_COLD const cai_impl_dtype_row_t *cai_impl_dtype_find(cai_dtype_t dtype)
{
    size_t                      count;
    const cai_impl_dtype_row_t *rows = cai_impl_dtype_rows(&count);
    for (size_t i = 0; i < count; i++) {
        if (rows[i].dtype.code == dtype.code && rows[i].dtype.bits == dtype.bits)
            return &rows[i];
    }
    return NULL;
}

CAI_API bool cai_dtype_equal(cai_dtype_t a, cai_dtype_t b)
{
    return a.code == b.code && a.bits == b.bits && a.lanes == b.lanes;
}

/* A set of widths is a bit mask over bits / 8 (1, 2, 4, 8, 16 bytes), so that the common question needs no table. */
CAI_IMPL uint32_t cai_impl_dtype_widths(uint8_t code)
{
    switch (code) {
    case CAI_CODE_INT:
    case CAI_CODE_UINT: return 1u << 1 | 1u << 2 | 1u << 4 | 1u << 8;
    case CAI_CODE_FLOAT: return 1u << 2 | 1u << 4 | 1u << 8;
    case CAI_CODE_COMPLEX: return 1u << 4 | 1u << 8 | 1u << 16;
    case CAI_CODE_BFLOAT: return 1u << 2;
    case CAI_CODE_BCOMPLEX: return 1u << 4;
    case CAI_CODE_BOOL: return 1u << 1;
    default: return code >= CAI_CODE_FLOAT8_E3M4 && code <= CAI_CODE_FLOAT8_E8M0FNU ? 1u << 1 : 0;
    }
}

CAI_API bool cai_dtype_is_plain(cai_dtype_t dtype)
{
    return dtype.lanes == 1 && dtype.bits % 8 == 0 && (cai_impl_dtype_widths(dtype.code) >> (dtype.bits / 8) & 1u) != 0;
}

CAI_API bool cai_dtype_is_known(cai_dtype_t dtype)
{
    if (CAI_IMPL_LIKELY(cai_dtype_is_plain(dtype)))
        return true;
    if (dtype.lanes == 0)
        return false;
    return (dtype.code == CAI_CODE_OPAQUE && dtype.bits == 8) || cai_impl_dtype_find(dtype) != NULL;
}

CAI_API int64_t cai_dtype_itemsize(cai_dtype_t dtype)
{
    return (CAI_IMPL_CAST(int64_t, dtype.bits) * dtype.lanes + 7) / 8;
}

CAI_API int64_t cai_dtype_alignment(cai_dtype_t dtype)
{
    return dtype.code == CAI_CODE_OPAQUE || dtype.bits % 8 != 0 || dtype.bits == 0 ? 1 : dtype.bits / 8;
}

CAI_API const char *cai_dtype_name(cai_dtype_t dtype, char *name)
{
    const cai_impl_dtype_row_t *row = cai_impl_dtype_find(dtype);
    if (dtype.code == CAI_CODE_OPAQUE && dtype.bits == 8)
        snprintf(name, CAI_DTYPE_NAME_SIZE, "V%u", dtype.lanes);
    else if (row == NULL || dtype.lanes == 0)
        snprintf(name, CAI_DTYPE_NAME_SIZE, "code %u, %u bits, %u lanes", dtype.code, dtype.bits, dtype.lanes);
    else if (dtype.lanes == 1)
        snprintf(name, CAI_DTYPE_NAME_SIZE, "%s", row->name);
    else
        snprintf(name, CAI_DTYPE_NAME_SIZE, "%sx%u", row->name, dtype.lanes);
    return name;
}

/* Digits from text[*at] to the first that is none, as a number from 1 to 65535; 0 where there is no such number. */
CAI_IMPL int cai_impl_read_count(const char *text, size_t length, size_t *at)
{
    int count = 0;
    for (; *at < length && text[*at] >= '0' && text[*at] <= '9'; ++*at) {
        count = count * 10 + (text[*at] - '0');
        if (count > UINT16_MAX)
            return 0;
    }
    return count;
}

CAI_API cai_status_t cai_dtype_from_name(const char *name, cai_dtype_t *dtype, cai_error_t *error)
{
    size_t                      count;
    const cai_impl_dtype_row_t *rows = cai_impl_dtype_rows(&count);
    const size_t                length = strlen(name);
    size_t                      at = 1;
    if (name[0] == 'V') {
        const int bytes = cai_impl_read_count(name, length, &at);
        if (bytes > 0 && at == length) {
            *dtype = cai_opaque(CAI_IMPL_CAST(uint16_t, bytes));
            return CAI_OK;
        }
    }
    for (size_t i = 0; i < count; i++) {
        at = strlen(rows[i].name);
        if (length < at || memcmp(name, rows[i].name, at) != 0)
            continue;
        *dtype = rows[i].dtype;
        if (length == at)
            return CAI_OK;
        if (name[at++] == 'x') {
            dtype->lanes = CAI_IMPL_CAST(uint16_t, cai_impl_read_count(name, length, &at));
            if (dtype->lanes > 1 && at == length)
                return CAI_OK;
        }
    }
    return cai_error_set(error, CAI_ERROR_UNKNOWN_DTYPE, "no data type is named '%s'", name);
}

CAI_IMPL_COLD cai_status_t cai_impl_dtype_has_no(cai_dtype_t dtype, const char *spelling, cai_error_t *error)
{
    char name[CAI_DTYPE_NAME_SIZE];
    return cai_error_set(error, CAI_ERROR_UNKNOWN_DTYPE, "the data type %s has no %s; DLPack can carry it",
                         cai_dtype_name(dtype, name), spelling);
}

CAI_API cai_status_t cai_dtype_to_typestr(cai_dtype_t dtype, char *typestr, cai_error_t *error)
{
    const cai_impl_dtype_row_t *row = cai_impl_dtype_find(dtype);
    if (dtype.code == CAI_CODE_OPAQUE && dtype.bits == 8 && dtype.lanes > 0) {
        snprintf(typestr, CAI_TYPESTR_SIZE, "|V%u", dtype.lanes);
        return CAI_OK;
    }
    if (row == NULL || row->typestr == NULL || dtype.lanes != 1)
        return cai_impl_dtype_has_no(dtype, "typestr", error);
    snprintf(typestr, CAI_TYPESTR_SIZE, "%c%s", dtype.bits == 8 ? '|' : CAI_IMPL_NATIVE_ORDER, row->typestr);
    return CAI_OK;
}

CAI_IMPL_COLD cai_status_t cai_impl_typestr_malformed(const char *typestr, size_t length, cai_error_t *error)
{
    return cai_error_set(error, CAI_ERROR_INVALID_TYPESTR,
                         "typestr '%.*s' does not parse: expected a byte order (< > | =), a kind and a size in bytes",
                         CAI_IMPL_CAST(int, length < 64 ? length : 64), typestr);
}

CAI_IMPL_COLD cai_status_t cai_impl_typestr_unknown(const char *typestr, size_t length, cai_error_t *error)
{
    return cai_error_set(error, CAI_ERROR_UNKNOWN_DTYPE, "typestr '%.*s': kind '%c' of this size has no data type here",
                         CAI_IMPL_CAST(int, length < 64 ? length : 64), typestr, typestr[1]);
}

CAI_IMPL_COLD cai_status_t cai_impl_foreign_order(const char *what, const char *text, size_t length, cai_error_t *error)
{
    return cai_error_set(error, CAI_ERROR_ENDIANNESS_DETECTION,
                         "%s '%.*s' is in the other byte order than this machine ('%c')", what,
                         CAI_IMPL_CAST(int, length < 64 ? length : 64), text, CAI_IMPL_NATIVE_ORDER);
}

/* The DLPack code of a typestr's kind, or -1 for a kind of NumPy's that has none. */
CAI_IMPL int cai_impl_typestr_code(char kind)
{
    switch (kind) {
    case 'f': return CAI_CODE_FLOAT;
    case 'i': return CAI_CODE_INT;
    case 'u': return CAI_CODE_UINT;
    case 'c': return CAI_CODE_COMPLEX;
    case 'b': return CAI_CODE_BOOL;
    case 'V': return CAI_CODE_OPAQUE;
    default: return -1;
    }
}

/* Types without a typestr (complex32) are not read from one either, so that both ways agree. */
CAI_IMPL bool cai_impl_typestr_has_width(int code, int bytes)
{
    const uint32_t widths = cai_impl_dtype_widths(CAI_IMPL_CAST(uint8_t, code));
    return bytes <= 16 && (widths >> bytes & 1u) != 0 && !(code == CAI_CODE_COMPLEX && bytes == 4);
}

CAI_API cai_status_t cai_dtype_from_typestr(const char *typestr, size_t length, cai_dtype_t *dtype, cai_error_t *error)
{
    size_t at = 2;
    int    bytes, code;
    if (length < 2 || memchr("<>|=", typestr[0], 4) == NULL || memchr("biufcmMOSUVt", typestr[1], 12) == NULL)
        return cai_impl_typestr_malformed(typestr, length, error);
    bytes = cai_impl_read_count(typestr, length, &at);
    code = cai_impl_typestr_code(typestr[1]);
    if (code < 0 && (bytes > 0 || typestr[1] == 'O'))
        return cai_impl_typestr_unknown(typestr, length, error);
    if (bytes == 0 || at != length)
        return cai_impl_typestr_malformed(typestr, length, error);
    if (code == CAI_CODE_OPAQUE) {
        *dtype = cai_opaque(CAI_IMPL_CAST(uint16_t, bytes));
        return CAI_OK;
    }
    if (typestr[0] == CAI_IMPL_FOREIGN_ORDER && bytes > 1)
        return cai_impl_foreign_order("typestr", typestr, length, error);
    if (!cai_impl_typestr_has_width(code, bytes))
        return cai_impl_typestr_unknown(typestr, length, error);
    *dtype = cai_impl_dtype(code, bytes * 8, 1);
    return CAI_OK;
}

CAI_API const char *cai_dtype_to_format(cai_dtype_t dtype, cai_error_t *error)
{
    const cai_impl_dtype_row_t *row = cai_impl_dtype_find(dtype);
    if (row != NULL && row->format != NULL && dtype.lanes == 1)
        return row->format;
    (void)cai_impl_dtype_has_no(dtype, "buffer format", error);
    return NULL;
}

/* The dtype of one struct letter; `standard` sizes follow the byte orders < > = !, native ones @ and none. Lanes of 0
 * mean that the letter has no dtype here. */
CAI_IMPL cai_dtype_t cai_impl_format_letter(char letter, bool standard)
{
    switch (letter) {
    case 'f': return cai_float32();
    case 'd': return cai_float64();
    case 'i': return cai_int32();
    case 'l': return standard ? cai_int32() : cai_int64();
    case 'q': return cai_int64();
    case 'n': return cai_int64();
    case 'B': return cai_uint8();
    case 'b': return cai_int8();
    case '?': return cai_bool();
    case 'h': return cai_int16();
    case 'H': return cai_uint16();
    case 'I': return cai_uint32();
    case 'L': return standard ? cai_uint32() : cai_uint64();
    case 'Q': return cai_uint64();
    case 'N': return cai_uint64();
    case 'e': return cai_float16();
    case 'F': return cai_complex64();
    case 'D': return cai_complex128();
    default: return cai_impl_dtype(0, 0, 0);
    }
}

CAI_IMPL_COLD cai_status_t cai_impl_format_refused(const char *format, int64_t itemsize, cai_status_t status,
                                                   cai_error_t *error)
{
    return cai_error_set(error, status,
                         status == CAI_ERROR_UNKNOWN_DTYPE
                             ? "buffer format '%.64s' with items of %lld bytes has no data type here"
                             : "buffer format '%.64s' does not parse, or does not describe items of %lld bytes",
                         format, CAI_IMPL_CAST(long long, itemsize));
}

/* Records, repeated items and padding: their bytes, or UNKNOWN_DTYPE if there are too many for an opaque item. */
CAI_IMPL_COLD cai_status_t cai_impl_format_opaque(const char *format, int64_t itemsize, cai_dtype_t *dtype,
                                                  cai_error_t *error)
{
    if (itemsize < 1 || itemsize > UINT16_MAX)
        return cai_impl_format_refused(format, itemsize, CAI_ERROR_UNKNOWN_DTYPE, error);
    *dtype = cai_opaque(CAI_IMPL_CAST(uint16_t, itemsize));
    return CAI_OK;
}

/* What is no single letter with a dtype: `item` is `format` behind its byte order. */
CAI_IMPL_COLD cai_status_t cai_impl_format_unusual(const char *format, const char *item, int64_t itemsize,
                                                   cai_dtype_t *dtype, cai_error_t *error)
{
    const char *letter = item + strspn(item, "0123456789");
    if (letter[0] == 'T' || letter[0] == '(' || letter[0] == 'x' ||
        (letter != item && cai_impl_format_letter(letter[0], true).lanes > 0))
        return cai_impl_format_opaque(format, itemsize, dtype, error);
    if (letter[0] != '\0' && strchr("cspPOwugGtZX&", letter[0]) != NULL)
        return cai_impl_format_refused(format, itemsize, CAI_ERROR_UNKNOWN_DTYPE, error);
    return cai_impl_format_refused(format, itemsize, CAI_ERROR_INVALID_TYPESTR, error);
}

CAI_API cai_status_t cai_dtype_from_format(const char *format, int64_t itemsize, cai_dtype_t *dtype, cai_error_t *error)
{
    const char *item = format == NULL ? "B" : format;
    bool        standard = false, foreign = false;
    cai_dtype_t read;
    if (item[0] == '@' || item[0] == '=' || item[0] == '<' || item[0] == '>' || item[0] == '!') {
        standard = item[0] != '@';
        foreign = item[0] == CAI_IMPL_FOREIGN_ORDER || (item[0] == '!' && CAI_IMPL_FOREIGN_ORDER == '>');
        item++;
    }
    if (item[0] == 'Z' && (item[1] == 'f' || item[1] == 'd') && item[2] == '\0')
        read = item[1] == 'f' ? cai_complex64() : cai_complex128();
    else if (item[0] != '\0' && item[1] == '\0')
        read = cai_impl_format_letter(item[0], standard);
    else
        read = cai_impl_dtype(0, 0, 0);
    if (CAI_IMPL_UNLIKELY(read.lanes == 0))
        return cai_impl_format_unusual(format, item, itemsize, dtype, error);
    if (CAI_IMPL_UNLIKELY(foreign && read.bits > 8))
        return cai_impl_foreign_order("buffer format", format, strlen(format), error);
    if (CAI_IMPL_UNLIKELY(cai_dtype_itemsize(read) != itemsize))
        return cai_impl_format_refused(format == NULL ? "B" : format, itemsize, CAI_ERROR_INVALID_TYPESTR, error);
    *dtype = read;
    return CAI_OK;
}

#endif /* CAI_DTYPE_H */
