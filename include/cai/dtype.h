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

/* X(NAME, name, code, bits, typestr without byte order, buffer format). Empty where there is no honest spelling: NumPy
 * has no letters for these types, and what is seen in the wild ("<V2", "<f1") means something else as well. */
#define CAI_DTYPE_LIST(X)                                                                                              \
    X(BOOL, bool, CAI_CODE_BOOL, 8, "b1", "?")                                                                         \
    X(INT8, int8, CAI_CODE_INT, 8, "i1", "b")                                                                          \
    X(INT16, int16, CAI_CODE_INT, 16, "i2", "h")                                                                       \
    X(INT32, int32, CAI_CODE_INT, 32, "i4", "i")                                                                       \
    X(INT64, int64, CAI_CODE_INT, 64, "i8", "q")                                                                       \
    X(UINT8, uint8, CAI_CODE_UINT, 8, "u1", "B")                                                                       \
    X(UINT16, uint16, CAI_CODE_UINT, 16, "u2", "H")                                                                    \
    X(UINT32, uint32, CAI_CODE_UINT, 32, "u4", "I")                                                                    \
    X(UINT64, uint64, CAI_CODE_UINT, 64, "u8", "Q")                                                                    \
    X(FLOAT16, float16, CAI_CODE_FLOAT, 16, "f2", "e")                                                                 \
    X(FLOAT32, float32, CAI_CODE_FLOAT, 32, "f4", "f")                                                                 \
    X(FLOAT64, float64, CAI_CODE_FLOAT, 64, "f8", "d")                                                                 \
    X(COMPLEX64, complex64, CAI_CODE_COMPLEX, 64, "c8", "Zf")                                                          \
    X(COMPLEX128, complex128, CAI_CODE_COMPLEX, 128, "c16", "Zd")                                                      \
    X(COMPLEX32, complex32, CAI_CODE_COMPLEX, 32, "", "")                                                              \
    X(BFLOAT16, bfloat16, CAI_CODE_BFLOAT, 16, "", "")                                                                 \
    X(BCOMPLEX32, bcomplex32, CAI_CODE_BCOMPLEX, 32, "", "")                                                           \
    X(FLOAT8_E3M4, float8_e3m4, CAI_CODE_FLOAT8_E3M4, 8, "", "")                                                       \
    X(FLOAT8_E4M3, float8_e4m3, CAI_CODE_FLOAT8_E4M3, 8, "", "")                                                       \
    X(FLOAT8_E4M3B11FNUZ, float8_e4m3b11fnuz, CAI_CODE_FLOAT8_E4M3B11FNUZ, 8, "", "")                                  \
    X(FLOAT8_E4M3FN, float8_e4m3fn, CAI_CODE_FLOAT8_E4M3FN, 8, "", "")                                                 \
    X(FLOAT8_E4M3FNUZ, float8_e4m3fnuz, CAI_CODE_FLOAT8_E4M3FNUZ, 8, "", "")                                           \
    X(FLOAT8_E5M2, float8_e5m2, CAI_CODE_FLOAT8_E5M2, 8, "", "")                                                       \
    X(FLOAT8_E5M2FNUZ, float8_e5m2fnuz, CAI_CODE_FLOAT8_E5M2FNUZ, 8, "", "")                                           \
    X(FLOAT8_E8M0FNU, float8_e8m0fnu, CAI_CODE_FLOAT8_E8M0FNU, 8, "", "")                                              \
    X(FLOAT6_E2M3FN, float6_e2m3fn, CAI_CODE_FLOAT6_E2M3FN, 6, "", "")                                                 \
    X(FLOAT6_E3M2FN, float6_e3m2fn, CAI_CODE_FLOAT6_E3M2FN, 6, "", "")                                                 \
    X(FLOAT4_E2M1FN, float4_e2m1fn, CAI_CODE_FLOAT4_E2M1FN, 4, "", "")                                                 \
    X(INT4, int4, CAI_CODE_INT, 4, "", "")                                                                             \
    X(UINT4, uint4, CAI_CODE_UINT, 4, "", "")                                                                          \
    X(INT2, int2, CAI_CODE_INT, 2, "", "")                                                                             \
    X(UINT2, uint2, CAI_CODE_UINT, 2, "", "")

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
CAI_API const char *cai_dtype_name(cai_dtype_t dtype, char *name) CAI_IMPL_SELDOM;
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

#define CAI_IMPL_DTYPE_DEFINE(NAME, name, code, bits, typestr, format)                                                 \
    CAI_API cai_dtype_t cai_##name(void)                                                                               \
    {                                                                                                                  \
        return cai_impl_dtype(code, bits, 1);                                                                          \
    }
CAI_DTYPE_LIST(CAI_IMPL_DTYPE_DEFINE)
#undef CAI_IMPL_DTYPE_DEFINE

CAI_API cai_dtype_t cai_opaque(uint16_t bytes)
{
    return cai_impl_dtype(CAI_CODE_OPAQUE, 8, bytes);
}

/* The texts lie in the row itself: each pointer would cost the loader a relocation. */
typedef struct cai_impl_dtype_row {
    char        name[20], typestr[4], format[4];
    cai_dtype_t dtype;
} cai_impl_dtype_row_t;

CAI_IMPL const cai_impl_dtype_row_t *cai_impl_dtype_rows(size_t *count)
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
    return memcmp(&a, &b, sizeof(a)) == 0; /* one comparison of 32 bits; the struct has no padding */
}

/* The widths in whole bytes that a code has, as a bit mask over bits / 8 (1, 2, 4, 8, 16 bytes). */
CAI_IMPL uint32_t cai_impl_dtype_widths(uint8_t code)
{
    enum { W1 = 1 << 1, W2 = 1 << 2, W4 = 1 << 4, W8 = 1 << 8, W16 = 1 << 16 };
    static const uint32_t widths[] = {
        W1 | W2 | W4 | W8, /* CAI_CODE_INT */
        W1 | W2 | W4 | W8, /* CAI_CODE_UINT */
        W2 | W4 | W8,      /* CAI_CODE_FLOAT */
        0,                 /* CAI_CODE_OPAQUE */
        W2,                /* CAI_CODE_BFLOAT */
        W4 | W8 | W16,     /* CAI_CODE_COMPLEX */
        W1,                /* CAI_CODE_BOOL */
        W1,
        W1,
        W1,
        W1,
        W1,
        W1,
        W1,
        W1, /* CAI_CODE_FLOAT8_E3M4 to CAI_CODE_FLOAT8_E8M0FNU */
        0,
        0,
        0, /* CAI_CODE_FLOAT6_E2M3FN to CAI_CODE_FLOAT4_E2M1FN */
        W4 /* CAI_CODE_BCOMPLEX */
    };
    return code < sizeof(widths) / sizeof(widths[0]) ? widths[code] : 0;
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
    return CAI_IMPL_CAST(int64_t, (CAI_IMPL_CAST(uint32_t, dtype.bits) * dtype.lanes + 7) / 8);
}

CAI_API int64_t cai_dtype_alignment(cai_dtype_t dtype)
{
    return dtype.code == CAI_CODE_OPAQUE || dtype.bits % 8 != 0 || dtype.bits == 0 ? 1 : dtype.bits / 8;
}

CAI_API const char *cai_dtype_name(cai_dtype_t dtype, char *name)
{
    const cai_impl_dtype_row_t *row = cai_impl_dtype_find(dtype);
    if (dtype.code == CAI_CODE_OPAQUE && dtype.bits == 8 && dtype.lanes > 0)
        snprintf(name, CAI_DTYPE_NAME_SIZE, "V%u", dtype.lanes);
    else if (row == NULL || dtype.lanes == 0)
        snprintf(name, CAI_DTYPE_NAME_SIZE, "code %u, %u bits, %u lanes", dtype.code, dtype.bits, dtype.lanes);
    else if (dtype.lanes == 1)
        snprintf(name, CAI_DTYPE_NAME_SIZE, "%s", row->name);
    else
        snprintf(name, CAI_DTYPE_NAME_SIZE, "%sx%u", row->name, dtype.lanes);
    return name;
}

/* Digits from text[*at] to the first that is none, as a number; -1 where there are none, and numbers that do not fit the
 * lanes of a dtype become UINT16_MAX + 1. */
CAI_IMPL int cai_impl_read_count(const char *text, size_t length, size_t *at)
{
    const size_t start = *at;
    int          count = 0;
    for (; *at < length && text[*at] >= '0' && text[*at] <= '9'; ++*at) {
        count = count * 10 + (text[*at] - '0');
        count = count > UINT16_MAX ? UINT16_MAX + 1 : count;
    }
    return *at == start ? -1 : count;
}

/* The same where only the lanes of a dtype will do, up to the end of the text; 0 otherwise. */
CAI_IMPL uint16_t cai_impl_read_lanes(const char *text, size_t length, size_t at)
{
    const int count = cai_impl_read_count(text, length, &at);
    return at == length && count > 0 && count <= UINT16_MAX ? CAI_IMPL_CAST(uint16_t, count) : 0;
}

CAI_API cai_status_t cai_dtype_from_name(const char *name, cai_dtype_t *dtype, cai_error_t *error)
{
    size_t                      count;
    const cai_impl_dtype_row_t *rows = cai_impl_dtype_rows(&count);
    const size_t                length = strlen(name);
    if (name[0] == 'V' && cai_impl_read_lanes(name, length, 1) > 0) {
        *dtype = cai_opaque(cai_impl_read_lanes(name, length, 1));
        return CAI_OK;
    }
    for (size_t i = 0; i < count; i++) {
        const size_t at = strlen(rows[i].name);
        if (length < at || memcmp(name, rows[i].name, at) != 0)
            continue;
        *dtype = rows[i].dtype;
        if (length == at)
            return CAI_OK;
        dtype->lanes = name[at] == 'x' ? cai_impl_read_lanes(name, length, at + 1) : 0;
        if (dtype->lanes > 1)
            return CAI_OK;
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
    if (row == NULL || row->typestr[0] == '\0' || dtype.lanes != 1)
        return cai_impl_dtype_has_no(dtype, "typestr", error);
    typestr[0] = dtype.bits == 8 ? '|' : CAI_IMPL_NATIVE_ORDER;
    memcpy(typestr + 1, row->typestr, strlen(row->typestr) + 1); /* printing it takes ten times as long */
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

/* Whether a typestr ends at `at`, but for the unit of a date or a span of time: "[ns]". */
CAI_IMPL bool cai_impl_typestr_ends(const char *typestr, size_t length, size_t at)
{
    if (at == length)
        return true;
    return (typestr[1] == 'M' || typestr[1] == 'm') && typestr[at] == '[' && typestr[length - 1] == ']';
}

/* What most typestrs are: native order, the kind of a number, one digit. Lanes of 0 for all others. */
CAI_IMPL cai_dtype_t cai_impl_typestr_usual(const char *typestr, size_t length)
{
    int bytes, code;
    if (length != 3 || (typestr[0] != CAI_IMPL_NATIVE_ORDER && typestr[0] != '|'))
        return cai_impl_dtype(0, 0, 0);
    code = cai_impl_typestr_code(typestr[1]);
    bytes = typestr[2] - '0';
    if (code < 0 || bytes < 1 || !cai_impl_typestr_has_width(code, bytes))
        return cai_impl_dtype(0, 0, 0);
    return cai_impl_dtype(code, bytes * 8, 1);
}

CAI_IMPL_COLD cai_status_t cai_impl_typestr_read(const char *typestr, size_t length, cai_dtype_t *dtype,
                                                 cai_error_t *error)
{
    size_t at = 2;
    int    bytes, code;
    if (length < 2 || memchr("<>|=", typestr[0], 4) == NULL || memchr("biufcmMOSUVt", typestr[1], 12) == NULL)
        return cai_impl_typestr_malformed(typestr, length, error);
    bytes = cai_impl_read_count(typestr, length, &at);
    code = cai_impl_typestr_code(typestr[1]);
    if ((bytes < 0 && typestr[1] != 'O') || !cai_impl_typestr_ends(typestr, length, at))
        return cai_impl_typestr_malformed(typestr, length, error);
    if (code < 0 || bytes == 0 || bytes > UINT16_MAX)
        return cai_impl_typestr_unknown(typestr, length, error);
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

CAI_API cai_status_t cai_dtype_from_typestr(const char *typestr, size_t length, cai_dtype_t *dtype, cai_error_t *error)
{
    const cai_dtype_t usual = cai_impl_typestr_usual(typestr, length);
    if (CAI_IMPL_UNLIKELY(usual.lanes == 0))
        return cai_impl_typestr_read(typestr, length, dtype, error);
    *dtype = usual;
    return CAI_OK;
}

CAI_API const char *cai_dtype_to_format(cai_dtype_t dtype, cai_error_t *error)
{
    const cai_impl_dtype_row_t *row = cai_impl_dtype_find(dtype);
    if (row != NULL && row->format[0] != '\0' && dtype.lanes == 1)
        return row->format;
    (void)cai_impl_dtype_has_no(dtype, "buffer format", error);
    return NULL;
}

/* The dtype of one struct letter in native size. Lanes of 0 mean that the letter has no dtype here. */
CAI_IMPL cai_dtype_t cai_impl_format_native(char letter)
{
    static const cai_dtype_t native['q' - '?' + 1] = {
        CAI_BOOL,  {0, 0, 0},  {0, 0, 0},  CAI_UINT8, {0, 0, 0}, CAI_COMPLEX128, {0, 0, 0},   CAI_COMPLEX64, /* ? - F */
        {0, 0, 0}, CAI_UINT16, CAI_UINT32, {0, 0, 0}, {0, 0, 0}, CAI_UINT64,     {0, 0, 0},   CAI_UINT64,    /* G - N */
        {0, 0, 0}, {0, 0, 0},  CAI_UINT64, {0, 0, 0}, {0, 0, 0}, {0, 0, 0},      {0, 0, 0},   {0, 0, 0},     /* O - V */
        {0, 0, 0}, {0, 0, 0},  {0, 0, 0},  {0, 0, 0}, {0, 0, 0}, {0, 0, 0},      {0, 0, 0},   {0, 0, 0},     /* W - ^ */
        {0, 0, 0}, {0, 0, 0},  {0, 0, 0},  CAI_INT8,  {0, 0, 0}, CAI_FLOAT64,    CAI_FLOAT16, CAI_FLOAT32,   /* _ - f */
        {0, 0, 0}, CAI_INT16,  CAI_INT32,  {0, 0, 0}, {0, 0, 0}, CAI_INT64,      {0, 0, 0},   CAI_INT64,     /* g - n */
        {0, 0, 0}, {0, 0, 0},  CAI_INT64                                                                     /* o - q */
    };
    const unsigned index = CAI_IMPL_CAST(unsigned char, letter) - CAI_IMPL_CAST(unsigned, '?');
    return index < sizeof(native) / sizeof(native[0]) ? native[index] : cai_impl_dtype(0, 0, 0);
}

/* The same; `standard` sizes follow the byte orders < > = !, native ones @ and none. */
CAI_IMPL_COLD cai_dtype_t cai_impl_format_letter(char letter, bool standard)
{
    if (standard && (letter == 'n' || letter == 'N'))
        return cai_impl_dtype(0, 0, 0);
    if (standard && (letter == 'l' || letter == 'L'))
        return letter == 'l' ? cai_int32() : cai_uint32();
    return cai_impl_format_native(letter);
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

/* A format that is being read: the rest of it, and the byte order that was met last. */
typedef struct cai_impl_format {
    const char *at;
    bool        standard, foreign;
    int         depth; /* of records in records */
} cai_impl_format_t;

/* One item of it. */
typedef struct cai_impl_format_item {
    int64_t     count; /* how often it is repeated, -1 beyond 63 bits */
    cai_dtype_t dtype; /* lanes of 0: it has none here */
    bool        record, padding, foreign;
} cai_impl_format_item_t;

/* How deep records may lie in each other. */
#define CAI_IMPL_FORMAT_DEPTH 32

/* At most one byte order. */
CAI_IMPL void cai_impl_format_read_order(cai_impl_format_t *format)
{
    const char order = *format->at == '!' ? '>' : *format->at;
    if (order == '\0' || strchr("@^=<>", order) == NULL)
        return;
    format->standard = order != '@' && order != '^';
    format->foreign = order == CAI_IMPL_FOREIGN_ORDER;
    format->at++;
}

/* Digits, multiplied into the item's count; none count as 1. */
CAI_IMPL_COLD void cai_impl_format_read_count(cai_impl_format_t *format, cai_impl_format_item_t *item)
{
    int64_t number = *format->at >= '0' && *format->at <= '9' ? 0 : 1;
    for (; *format->at >= '0' && *format->at <= '9'; format->at++) {
        if (number >= 0 &&
            (__builtin_mul_overflow(number, 10, &number) || __builtin_add_overflow(number, *format->at - '0', &number)))
            number = -1;
    }
    if (number < 0 || item->count < 0 || __builtin_mul_overflow(item->count, number, &item->count))
        item->count = -1;
}

/* "(2,3)<": the shape of an item that is an array, and a byte order behind it. False if it does not parse. */
CAI_IMPL bool cai_impl_format_read_shape(cai_impl_format_t *format, cai_impl_format_item_t *item)
{
    if (*format->at != '(')
        return true;
    do {
        format->at++;
        cai_impl_format_read_count(format, item);
    } while (*format->at == ',');
    if (*format->at++ != ')')
        return false;
    cai_impl_format_read_order(format);
    return true;
}

CAI_IMPL_COLD bool cai_impl_format_read_item(cai_impl_format_t *format, cai_impl_format_item_t *item);

/* What is between the braces of a record. */
CAI_IMPL_COLD bool cai_impl_format_read_record(cai_impl_format_t *format, cai_impl_format_item_t *item)
{
    cai_impl_format_item_t field;
    item->record = true;
    if (*format->at++ != '{' || ++format->depth > CAI_IMPL_FORMAT_DEPTH)
        return false;
    while (*format->at != '}') {
        if (!cai_impl_format_read_item(format, &field))
            return false;
    }
    format->at++;
    format->depth--;
    return true;
}

/* A pointer to an item, or to a function whose signature is between braces: neither has a dtype. */
CAI_IMPL_COLD bool cai_impl_format_read_pointer(cai_impl_format_t *format, bool function)
{
    cai_impl_format_item_t target;
    if (function)
        return cai_impl_format_read_record(format, &target);
    if (++format->depth > CAI_IMPL_FORMAT_DEPTH || !cai_impl_format_read_item(format, &target))
        return false;
    format->depth--;
    return true;
}

/* A complex number: 'Z' and the letter of its parts. */
CAI_IMPL bool cai_impl_format_read_complex(cai_impl_format_t *format, cai_impl_format_item_t *item)
{
    const char part = *format->at;
    if (part != 'f' && part != 'd' && part != 'g')
        return false;
    format->at++;
    if (part != 'g')
        item->dtype = part == 'f' ? cai_complex64() : cai_complex128();
    return true;
}

/* A letter, or what follows one of those that need more. */
CAI_IMPL bool cai_impl_format_read_type(cai_impl_format_t *format, cai_impl_format_item_t *item)
{
    const char letter = *format->at;
    if (letter == '\0')
        return false;
    format->at++;
    if (letter == 'T')
        return cai_impl_format_read_record(format, item);
    if (letter == '&')
        return cai_impl_format_read_pointer(format, false);
    if (letter == 'Z')
        return cai_impl_format_read_complex(format, item);
    if (letter == 'X')
        return cai_impl_format_read_pointer(format, true);
    item->padding = letter == 'x';
    item->dtype = item->padding ? cai_uint8() : cai_impl_format_letter(letter, format->standard);
    return item->dtype.lanes > 0 || strchr("cspPOwugGt", letter) != NULL;
}

/* ":position:". */
CAI_IMPL bool cai_impl_format_skip_name(cai_impl_format_t *format)
{
    const char *end = strchr(format->at + 1, ':');
    if (end != NULL)
        format->at = end + 1;
    return end != NULL;
}

/* An item with its name: "(2,3)f:position:". False if it does not parse. */
CAI_IMPL_COLD bool cai_impl_format_read_item(cai_impl_format_t *format, cai_impl_format_item_t *item)
{
    item->count = 1;
    item->dtype = cai_impl_dtype(0, 0, 0);
    item->record = item->padding = false;
    cai_impl_format_read_order(format);
    if (!cai_impl_format_read_shape(format, item))
        return false;
    item->foreign = format->foreign;
    cai_impl_format_read_count(format, item);
    if (!cai_impl_format_read_type(format, item))
        return false;
    if (*format->at != ':')
        return true;
    return cai_impl_format_skip_name(format);
}

/* What is no single letter with a dtype. */
CAI_IMPL_COLD cai_status_t cai_impl_format_unusual(const char *text, int64_t itemsize, cai_dtype_t *dtype,
                                                   cai_error_t *error)
{
    cai_impl_format_t      format = {text, false, false, 0};
    cai_impl_format_item_t item;
    int                    items = 0;
    int64_t                bytes;
    do {
        if (!cai_impl_format_read_item(&format, &item))
            return cai_impl_format_refused(text, itemsize, CAI_ERROR_INVALID_TYPESTR, error);
        items++;
    } while (*format.at != '\0');
    if (items > 1 || item.record)
        return cai_impl_format_opaque(text, itemsize, dtype, error);
    if (item.dtype.lanes == 0)
        return cai_impl_format_refused(text, itemsize, CAI_ERROR_UNKNOWN_DTYPE, error);
    if (item.foreign && item.dtype.bits > 8)
        return cai_impl_foreign_order("buffer format", text, strlen(text), error);
    if (item.count < 0 || __builtin_mul_overflow(item.count, cai_dtype_itemsize(item.dtype), &bytes) ||
        bytes != itemsize)
        return cai_impl_format_refused(text, itemsize, CAI_ERROR_INVALID_TYPESTR, error);
    return cai_impl_format_opaque(text, itemsize, dtype, error);
}

CAI_IMPL_COLD cai_status_t cai_impl_format_read(const char *format, int64_t itemsize, cai_dtype_t *dtype,
                                                cai_error_t *error)
{
    cai_impl_format_t rest = {format == NULL ? "B" : format, false, false, 0};
    cai_dtype_t       read = cai_impl_dtype(0, 0, 0);
    cai_impl_format_read_order(&rest);
    if (rest.at[0] == 'Z' && (rest.at[1] == 'f' || rest.at[1] == 'd') && rest.at[2] == '\0')
        read = rest.at[1] == 'f' ? cai_complex64() : cai_complex128();
    else if (rest.at[0] != '\0' && rest.at[1] == '\0')
        read = cai_impl_format_letter(rest.at[0], rest.standard);
    if (CAI_IMPL_UNLIKELY(read.lanes == 0))
        return cai_impl_format_unusual(format, itemsize, dtype, error);
    if (CAI_IMPL_UNLIKELY(rest.foreign && read.bits > 8))
        return cai_impl_foreign_order("buffer format", format, strlen(format), error);
    if (CAI_IMPL_UNLIKELY(cai_dtype_itemsize(read) != itemsize))
        return cai_impl_format_refused(format == NULL ? "B" : format, itemsize, CAI_ERROR_INVALID_TYPESTR, error);
    *dtype = read;
    return CAI_OK;
}

/* Most formats are one letter, of native size and order. */
CAI_API cai_status_t cai_dtype_from_format(const char *format, int64_t itemsize, cai_dtype_t *dtype, cai_error_t *error)
{
    if (CAI_IMPL_LIKELY(format != NULL && format[0] != '\0' && format[1] == '\0')) {
        *dtype = cai_impl_format_native(format[0]);
        if (CAI_IMPL_LIKELY(dtype->lanes != 0 && cai_dtype_itemsize(*dtype) == itemsize))
            return CAI_OK;
    }
    return cai_impl_format_read(format, itemsize, dtype, error);
}

#endif /* CAI_DTYPE_H */
