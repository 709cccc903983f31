/*
 * Checks dtype.h: the table of data types in its four spellings, both ways, and everything that must not be read as
 * one.
 */
#include <cai/dtype.h>

#include "unit.h"

#include <pthread.h>
#include <stdlib.h>

TestSuite(dtype, .timeout = UNIT_TIMEOUT);

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define NATIVE  "<"
#define FOREIGN ">"
#else
#define NATIVE  ">"
#define FOREIGN "<"
#endif

/* Every dtype that has a name: DLPack's numbers, NumPy's typestr and the struct module's format (NULL: there is
 * none). */
typedef struct dtype_case {
    const char *name;
    cai_dtype_t dtype;          /* by its initialiser */
    cai_dtype_t (*value)(void); /* by its function */
    uint8_t     code, bits;
    const char *typestr, *format;
    int         itemsize, alignment;
    bool        plain;
} dtype_case_t;

static const dtype_case_t dtypes[] = {
    {"bool", CAI_BOOL, cai_bool, 6, 8, "|b1", "?", 1, 1, true},
    {"int8", CAI_INT8, cai_int8, 0, 8, "|i1", "b", 1, 1, true},
    {"int16", CAI_INT16, cai_int16, 0, 16, NATIVE "i2", "h", 2, 2, true},
    {"int32", CAI_INT32, cai_int32, 0, 32, NATIVE "i4", "i", 4, 4, true},
    {"int64", CAI_INT64, cai_int64, 0, 64, NATIVE "i8", "q", 8, 8, true},
    {"uint8", CAI_UINT8, cai_uint8, 1, 8, "|u1", "B", 1, 1, true},
    {"uint16", CAI_UINT16, cai_uint16, 1, 16, NATIVE "u2", "H", 2, 2, true},
    {"uint32", CAI_UINT32, cai_uint32, 1, 32, NATIVE "u4", "I", 4, 4, true},
    {"uint64", CAI_UINT64, cai_uint64, 1, 64, NATIVE "u8", "Q", 8, 8, true},
    {"float16", CAI_FLOAT16, cai_float16, 2, 16, NATIVE "f2", "e", 2, 2, true},
    {"float32", CAI_FLOAT32, cai_float32, 2, 32, NATIVE "f4", "f", 4, 4, true},
    {"float64", CAI_FLOAT64, cai_float64, 2, 64, NATIVE "f8", "d", 8, 8, true},
    {"complex64", CAI_COMPLEX64, cai_complex64, 5, 64, NATIVE "c8", "Zf", 8, 8, true},
    {"complex128", CAI_COMPLEX128, cai_complex128, 5, 128, NATIVE "c16", "Zd", 16, 16, true},
    {"complex32", CAI_COMPLEX32, cai_complex32, 5, 32, NULL, NULL, 4, 4, true},
    {"bfloat16", CAI_BFLOAT16, cai_bfloat16, 4, 16, NULL, NULL, 2, 2, true},
    {"bcomplex32", CAI_BCOMPLEX32, cai_bcomplex32, 18, 32, NULL, NULL, 4, 4, true},
    {"float8_e3m4", CAI_FLOAT8_E3M4, cai_float8_e3m4, 7, 8, NULL, NULL, 1, 1, true},
    {"float8_e4m3", CAI_FLOAT8_E4M3, cai_float8_e4m3, 8, 8, NULL, NULL, 1, 1, true},
    {"float8_e4m3b11fnuz", CAI_FLOAT8_E4M3B11FNUZ, cai_float8_e4m3b11fnuz, 9, 8, NULL, NULL, 1, 1, true},
    {"float8_e4m3fn", CAI_FLOAT8_E4M3FN, cai_float8_e4m3fn, 10, 8, NULL, NULL, 1, 1, true},
    {"float8_e4m3fnuz", CAI_FLOAT8_E4M3FNUZ, cai_float8_e4m3fnuz, 11, 8, NULL, NULL, 1, 1, true},
    {"float8_e5m2", CAI_FLOAT8_E5M2, cai_float8_e5m2, 12, 8, NULL, NULL, 1, 1, true},
    {"float8_e5m2fnuz", CAI_FLOAT8_E5M2FNUZ, cai_float8_e5m2fnuz, 13, 8, NULL, NULL, 1, 1, true},
    {"float8_e8m0fnu", CAI_FLOAT8_E8M0FNU, cai_float8_e8m0fnu, 14, 8, NULL, NULL, 1, 1, true},
    {"float6_e2m3fn", CAI_FLOAT6_E2M3FN, cai_float6_e2m3fn, 15, 6, NULL, NULL, 1, 1, false},
    {"float6_e3m2fn", CAI_FLOAT6_E3M2FN, cai_float6_e3m2fn, 16, 6, NULL, NULL, 1, 1, false},
    {"float4_e2m1fn", CAI_FLOAT4_E2M1FN, cai_float4_e2m1fn, 17, 4, NULL, NULL, 1, 1, false},
    {"int4", CAI_INT4, cai_int4, 0, 4, NULL, NULL, 1, 1, false},
    {"uint4", CAI_UINT4, cai_uint4, 1, 4, NULL, NULL, 1, 1, false},
    {"int2", CAI_INT2, cai_int2, 0, 2, NULL, NULL, 1, 1, false},
    {"uint2", CAI_UINT2, cai_uint2, 1, 2, NULL, NULL, 1, 1, false},
};

static cai_dtype_t make(int code, int bits, int lanes)
{
    cai_dtype_t dtype;
    dtype.code = (uint8_t)code;
    dtype.bits = (uint8_t)bits;
    dtype.lanes = (uint16_t)lanes;
    return dtype;
}

static bool same(cai_dtype_t a, cai_dtype_t b)
{
    return a.code == b.code && a.bits == b.bits && a.lanes == b.lanes;
}

/* The row of a code and a width; NULL for what has no name. */
static const dtype_case_t *find_row(int code, int bits)
{
    for (size_t i = 0; i < UNIT_COUNT(dtypes); i++) {
        if (dtypes[i].code == code && dtypes[i].bits == bits)
            return &dtypes[i];
    }
    return NULL;
}

/* ---- the table --------------------------------------------------------------------------------------------------- */

Test(dtype, list_is_complete)
{
    size_t count = 0;
#define COUNT(NAME, name, code, bits, typestr, format) count++;
    CAI_DTYPE_LIST(COUNT)
#undef COUNT
    cr_expect_eq(count, UNIT_COUNT(dtypes), "the list has grown: %zu", count);
}

Test(dtype, pitfall_33_initialisers_and_values_are_dlpacks_numbers)
{
    for (size_t i = 0; i < UNIT_COUNT(dtypes); i++) {
        const dtype_case_t *row = &dtypes[i];
        const cai_dtype_t   expected = make(row->code, row->bits, 1);
        cr_expect(same(row->dtype, expected), "%s: initialiser", row->name);
        cr_expect(same(row->value(), expected), "%s: value", row->name);
    }
}

Test(dtype, opaque_initialiser_and_value)
{
    static const cai_dtype_t dtype = CAI_OPAQUE(16);
    static const uint16_t    sizes[] = {1, 2, 16, 255, 256, 65535};
    cr_expect(same(dtype, make(3, 8, 16)));
    for (size_t i = 0; i < UNIT_COUNT(sizes); i++) {
        cr_expect(same(cai_opaque(sizes[i]), make(3, 8, sizes[i])), "%u", sizes[i]);
        cr_expect_eq(cai_dtype_itemsize(cai_opaque(sizes[i])), sizes[i], "%u", sizes[i]);
        cr_expect_eq(cai_dtype_alignment(cai_opaque(sizes[i])), 1, "%u", sizes[i]);
    }
}

Test(dtype, equal_compares_code_bits_and_lanes)
{
    const cai_dtype_t dtype = make(2, 32, 4);
    cr_expect(cai_dtype_equal(dtype, make(2, 32, 4)));
    cr_expect_not(cai_dtype_equal(dtype, make(0, 32, 4)));
    cr_expect_not(cai_dtype_equal(dtype, make(2, 16, 4)));
    cr_expect_not(cai_dtype_equal(dtype, make(2, 32, 1)));
    cr_expect_not(cai_dtype_equal(dtype, make(2, 32, 4 + 256)));
    for (size_t i = 0; i < UNIT_COUNT(dtypes); i++) {
        for (size_t j = 0; j < UNIT_COUNT(dtypes); j++)
            cr_expect_eq(cai_dtype_equal(dtypes[i].dtype, dtypes[j].dtype), i == j, "%s, %s", dtypes[i].name,
                         dtypes[j].name);
    }
}

/* ---- questions about every value --------------------------------------------------------------------------------- */

static const int lanes_of_interest[] = {0, 1, 2, 3, 4, 8, 16, 255, 256, 65535};

Test(dtype, pitfall_33_known_and_plain_of_every_value)
{
    for (int code = 0; code < 256; code++) {
        for (int bits = 0; bits < 256; bits++) {
            const dtype_case_t *row = find_row(code, bits);
            for (size_t i = 0; i < UNIT_COUNT(lanes_of_interest); i++) {
                const int         lanes = lanes_of_interest[i];
                const cai_dtype_t dtype = make(code, bits, lanes);
                const bool        known = lanes > 0 && (row != NULL || (code == 3 && bits == 8));
                const bool        plain = lanes == 1 && row != NULL && row->plain;
                if (cai_dtype_is_known(dtype) != known)
                    cr_expect_fail("code %d, %d bits, %d lanes: known must be %d", code, bits, lanes, known);
                if (cai_dtype_is_plain(dtype) != plain)
                    cr_expect_fail("code %d, %d bits, %d lanes: plain must be %d", code, bits, lanes, plain);
            }
        }
    }
}

Test(dtype, itemsize_of_every_value)
{
    for (int code = 0; code < 256; code++) {
        for (int bits = 0; bits < 256; bits++) {
            for (size_t i = 0; i < UNIT_COUNT(lanes_of_interest); i++) {
                const int     lanes = lanes_of_interest[i];
                const int64_t expected = ((int64_t)bits * lanes + 7) / 8;
                if (cai_dtype_itemsize(make(code, bits, lanes)) != expected)
                    cr_expect_fail("code %d, %d bits, %d lanes: %lld bytes", code, bits, lanes, (long long)expected);
            }
        }
    }
}

Test(dtype, pitfall_33_itemsize_of_packed_lanes)
{
    static const struct {
        int code, bits, lanes, itemsize;
    } rows[] = {
        {17, 4, 1, 1}, {17, 4, 2, 1}, {17, 4, 3, 2}, {15, 6, 1, 1},
        {15, 6, 4, 3}, {0, 2, 4, 1},  {0, 2, 5, 2},  {2, 32, 4, 16},
    };
    for (size_t i = 0; i < UNIT_COUNT(rows); i++)
        cr_expect_eq(cai_dtype_itemsize(make(rows[i].code, rows[i].bits, rows[i].lanes)), rows[i].itemsize, "row %zu",
                     i);
}

Test(dtype, itemsize_and_alignment_of_the_table)
{
    for (size_t i = 0; i < UNIT_COUNT(dtypes); i++) {
        const dtype_case_t *row = &dtypes[i];
        cr_expect_eq(cai_dtype_itemsize(row->dtype), row->itemsize, "%s", row->name);
        cr_expect_eq(cai_dtype_alignment(row->dtype), row->alignment, "%s", row->name);
        cr_expect(cai_dtype_is_known(row->dtype), "%s", row->name);
        cr_expect_eq(cai_dtype_is_plain(row->dtype), row->plain, "%s", row->name);
        for (int lanes = 2; lanes <= 16; lanes++)
            cr_expect_eq(cai_dtype_alignment(make(row->code, row->bits, lanes)), row->alignment, "%sx%d", row->name,
                         lanes);
    }
}

/* Somebody divides by it. */
Test(dtype, alignment_is_never_zero)
{
    for (int code = 0; code < 256; code++) {
        for (int bits = 0; bits < 256; bits++) {
            if (cai_dtype_alignment(make(code, bits, 1)) < 1 || cai_dtype_alignment(make(code, bits, 0)) < 1)
                cr_expect_fail("code %d, %d bits", code, bits);
        }
    }
}

/* ---- names ------------------------------------------------------------------------------------------------------- */

Test(dtype, names_of_the_table)
{
    char name[CAI_DTYPE_NAME_SIZE], expected[CAI_DTYPE_NAME_SIZE];
    for (size_t i = 0; i < UNIT_COUNT(dtypes); i++) {
        const dtype_case_t *row = &dtypes[i];
        cr_expect_eq(cai_dtype_name(row->dtype, name), name, "%s: returns its buffer", row->name);
        cr_expect_str_eq(name, row->name, "%s: name", row->name);
        snprintf(expected, sizeof(expected), "%sx4", row->name);
        cr_expect_str_eq(cai_dtype_name(make(row->code, row->bits, 4), name), expected, "%s: vector", row->name);
        snprintf(expected, sizeof(expected), "%sx65535", row->name);
        cr_expect_str_eq(cai_dtype_name(make(row->code, row->bits, 65535), name), expected, "%s: vector", row->name);
    }
}

typedef struct number_name_case {
    int         code, bits, lanes;
    const char *name;
} number_name_case_t;

static const number_name_case_t numbers_with_names[] = {
    {3, 8, 1, "V1"},
    {3, 8, 16, "V16"},
    {3, 8, 65535, "V65535"},
    {99, 8, 1, "code 99, 8 bits, 1 lanes"},
    {255, 255, 65535, "code 255, 255 bits, 65535 lanes"},
    {2, 8, 1, "code 2, 8 bits, 1 lanes"},
    {2, 128, 1, "code 2, 128 bits, 1 lanes"},
    {2, 32, 0, "code 2, 32 bits, 0 lanes"},
    {3, 64, 1, "code 3, 64 bits, 1 lanes"},
    {19, 32, 2, "code 19, 32 bits, 2 lanes"},
    {0, 0, 0, "code 0, 0 bits, 0 lanes"},
};

Test(dtype, pitfall_33_names_of_numbers)
{
    char name[CAI_DTYPE_NAME_SIZE];
    for (size_t i = 0; i < UNIT_COUNT(numbers_with_names); i++) {
        const number_name_case_t *row = &numbers_with_names[i];
        cr_expect_str_eq(cai_dtype_name(make(row->code, row->bits, row->lanes), name), row->name, "%s", row->name);
    }
}

Test(dtype, opaque_items_of_no_bytes_are_unknown)
{
    char name[CAI_DTYPE_NAME_SIZE];
    cr_expect_not(cai_dtype_is_known(make(3, 8, 0)));
    cr_expect_str_eq(cai_dtype_name(make(3, 8, 0), name), "code 3, 8 bits, 0 lanes");
}

/* No value makes a name that does not fit. */
Test(dtype, names_of_every_value_fit)
{
    for (int code = 0; code < 256; code++) {
        for (int bits = 0; bits < 256; bits++) {
            char name[CAI_DTYPE_NAME_SIZE + 1];
            memset(name, 0x5A, sizeof(name));
            (void)cai_dtype_name(make(code, bits, 65535), name);
            if (strlen(name) >= CAI_DTYPE_NAME_SIZE - 1 || name[CAI_DTYPE_NAME_SIZE] != 0x5A)
                cr_expect_fail("code %d, %d bits: '%s'", code, bits, name);
        }
    }
}

Test(dtype, names_are_read_as_they_are_written)
{
    static const int lanes[] = {1, 2, 3, 4, 9, 10, 16, 255, 256, 65535};
    char             name[CAI_DTYPE_NAME_SIZE];
    cai_error_t      error;
    for (size_t i = 0; i < UNIT_COUNT(dtypes); i++) {
        for (size_t j = 0; j < UNIT_COUNT(lanes); j++) {
            const cai_dtype_t dtype = make(dtypes[i].code, dtypes[i].bits, lanes[j]);
            cai_dtype_t       read = make(99, 99, 99);
            (void)cai_dtype_name(dtype, name);
            cr_expect_eq(cai_dtype_from_name(name, &read, &error), CAI_OK, "%s", name);
            cr_expect(same(read, dtype), "%s", name);
        }
    }
    for (size_t j = 0; j < UNIT_COUNT(lanes); j++) {
        const cai_dtype_t dtype = make(3, 8, lanes[j]);
        cai_dtype_t       read = make(99, 99, 99);
        (void)cai_dtype_name(dtype, name);
        cr_expect_eq(cai_dtype_from_name(name, &read, NULL), CAI_OK, "%s", name);
        cr_expect(same(read, dtype), "%s", name);
    }
}

Test(dtype, names_that_are_none)
{
    static const char *const names[] = {
        "",
        " ",
        "float",
        "float3",
        "float33",
        "float32 ",
        " float32",
        "Float32",
        "FLOAT32",
        "int",
        "int88",
        "int8x",
        "int8x0",
        "int8x1",
        "int8x-2",
        "int8x+2",
        "int8x2x",
        "int8x2x2",
        "int8 x2",
        "int8x65536",
        "x4",
        "V",
        "V0",
        "V-1",
        "V1x",
        "V 1",
        "V65536",
        "V4294967297",
        "v16",
        "float8",
        "float8_",
        "float8_e4m3f",
        "uint",
        "complex",
        "complex256",
        "complex64x",
        "<f4",
        "f4",
        "f",
        "bool_",
        "bfloat",
        "bfloat16x1",
        "code 99, 8 bits, 1 lanes",
        "float128",
        "int8x99999999999999999999",
        "V1V",
        "int8y4",
        "int8_4",
        "int8 4",
        "float32-2",
        "int84",
    };
    for (size_t i = 0; i < UNIT_COUNT(names); i++) {
        cai_dtype_t dtype;
        cai_error_t error;
        cr_expect_eq(cai_dtype_from_name(names[i], &dtype, &error), CAI_ERROR_UNKNOWN_DTYPE, "'%s'", names[i]);
        cr_expect_eq(error.status, CAI_ERROR_UNKNOWN_DTYPE, "'%s'", names[i]);
        cr_expect_not_null(strstr(error.message, names[i]), "'%s': %s", names[i], error.message);
        cr_expect_eq(cai_dtype_from_name(names[i], &dtype, NULL), CAI_ERROR_UNKNOWN_DTYPE, "'%s'", names[i]);
    }
}

Test(dtype, a_name_of_any_length_is_refused)
{
    char       *name = (char *)malloc(100001);
    cai_dtype_t dtype;
    cai_error_t error;
    cr_assert_not_null(name);
    memset(name, '9', 100000);
    name[100000] = '\0';
    name[0] = 'V';
    cr_expect_eq(cai_dtype_from_name(name, &dtype, &error), CAI_ERROR_UNKNOWN_DTYPE);
    cr_expect_str_eq(error.message + strlen(error.message) - 3, "...");
    free(name);
}

/* ---- typestrs ---------------------------------------------------------------------------------------------------- */

/* Reads `length` bytes that have nothing behind them, so that a sanitizer sees a byte too many. */
static cai_status_t read_typestr(const char *text, size_t length, cai_dtype_t *dtype, cai_error_t *error)
{
    cai_status_t status;
    char        *copy = (char *)malloc(length == 0 ? 1 : length);
    cr_assert_not_null(copy);
    memcpy(copy, text, length);
    status = cai_dtype_from_typestr(copy, length, dtype, error);
    free(copy);
    return status;
}

static cai_status_t typestr_status(const char *text, cai_dtype_t *dtype)
{
    cai_error_t        error;
    const cai_status_t status = read_typestr(text, strlen(text), dtype, &error);
    if (status != CAI_OK)
        cr_expect_eq(error.status, status, "'%s': the error has another status", text);
    cr_expect_eq(cai_dtype_from_typestr(text, strlen(text), dtype, NULL), status, "'%s': without an error", text);
    return status;
}

Test(dtype, typestrs_of_the_table)
{
    char        typestr[CAI_TYPESTR_SIZE], name[CAI_DTYPE_NAME_SIZE];
    cai_error_t error;
    for (size_t i = 0; i < UNIT_COUNT(dtypes); i++) {
        const dtype_case_t *row = &dtypes[i];
        cai_dtype_t         read;
        if (row->typestr != NULL) {
            cr_expect_eq(cai_dtype_to_typestr(row->dtype, typestr, &error), CAI_OK, "%s", row->name);
            cr_expect_str_eq(typestr, row->typestr, "%s", row->name);
            cr_expect_eq(typestr_status(row->typestr, &read), CAI_OK, "%s", row->name);
            cr_expect(same(read, row->dtype), "%s: read as %s", row->name, cai_dtype_name(read, name));
        } else {
            cr_expect_eq(cai_dtype_to_typestr(row->dtype, typestr, &error), CAI_ERROR_UNKNOWN_DTYPE, "%s", row->name);
            cr_expect_not_null(strstr(error.message, row->name), "%s: %s", row->name, error.message);
            cr_expect_not_null(strstr(error.message, "DLPack"), "%s: %s", row->name, error.message);
            cr_expect_eq(cai_dtype_to_typestr(row->dtype, typestr, NULL), CAI_ERROR_UNKNOWN_DTYPE, "%s", row->name);
        }
        cr_expect_eq(cai_dtype_to_typestr(make(row->code, row->bits, 2), typestr, &error), CAI_ERROR_UNKNOWN_DTYPE,
                     "%s: vectors have no typestr", row->name);
        cr_expect_eq(cai_dtype_to_typestr(make(row->code, row->bits, 0), typestr, &error), CAI_ERROR_UNKNOWN_DTYPE,
                     "%s: no lanes", row->name);
    }
}

Test(dtype, typestrs_of_numbers_without_a_name)
{
    static const cai_dtype_t unknown[] = {{99, 8, 1}, {2, 8, 1},   {2, 128, 1}, {3, 8, 0},
                                          {3, 64, 1}, {0, 128, 1}, {6, 16, 1}};
    char                     typestr[CAI_TYPESTR_SIZE];
    cai_error_t              error;
    for (size_t i = 0; i < UNIT_COUNT(unknown); i++) {
        cr_expect_eq(cai_dtype_to_typestr(unknown[i], typestr, &error), CAI_ERROR_UNKNOWN_DTYPE, "row %zu", i);
        cr_expect_eq(error.status, CAI_ERROR_UNKNOWN_DTYPE, "row %zu", i);
    }
}

Test(dtype, pitfall_09_opaque_typestrs)
{
    static const struct {
        const char *typestr;
        int         bytes;
    } rows[] = {{"|V1", 1}, {"|V2", 2}, {"|V16", 16}, {"|V255", 255}, {"|V256", 256}, {"|V65535", 65535}};
    for (size_t i = 0; i < UNIT_COUNT(rows); i++) {
        char        typestr[CAI_TYPESTR_SIZE];
        cai_dtype_t read;
        cr_expect_eq(cai_dtype_to_typestr(make(3, 8, rows[i].bytes), typestr, NULL), CAI_OK, "%s", rows[i].typestr);
        cr_expect_str_eq(typestr, rows[i].typestr);
        cr_expect_eq(typestr_status(rows[i].typestr, &read), CAI_OK, "%s", rows[i].typestr);
        cr_expect(same(read, make(3, 8, rows[i].bytes)), "%s", rows[i].typestr);
    }
}

/* <f2 is float16 and <V2 two bytes that may be a bfloat16: neither is guessed. */
Test(dtype, pitfall_07_bfloat16_has_no_typestr)
{
    char        typestr[CAI_TYPESTR_SIZE];
    cai_dtype_t read;
    cr_expect_eq(cai_dtype_to_typestr(cai_bfloat16(), typestr, NULL), CAI_ERROR_UNKNOWN_DTYPE);
    cr_expect_eq(typestr_status(NATIVE "f2", &read), CAI_OK);
    cr_expect(same(read, cai_float16()));
    cr_expect_eq(typestr_status(NATIVE "V2", &read), CAI_OK);
    cr_expect(same(read, cai_opaque(2)));
    cr_expect_eq(typestr_status(NATIVE "V1", &read), CAI_OK);
    cr_expect(same(read, cai_opaque(1)));
    cr_expect_eq(typestr_status(NATIVE "f1", &read), CAI_ERROR_UNKNOWN_DTYPE);
    cr_expect_eq(typestr_status(NATIVE "c4", &read), CAI_ERROR_UNKNOWN_DTYPE);
}

/* Every byte order with every kind and every size up to 40 bytes. */
Test(dtype, pitfall_08_typestr_grammar)
{
    static const char orders[] = "<>|=", kinds[] = "biufcVmMOSUt";
    for (const char *order = orders; *order != '\0'; order++) {
        for (const char *kind = kinds; *kind != '\0'; kind++) {
            for (int bytes = 1; bytes <= 40; bytes++) {
                char         typestr[16];
                cai_dtype_t  read = make(99, 99, 99), expected = make(0, 0, 0);
                cai_status_t status;
                for (size_t i = 0; i < UNIT_COUNT(dtypes); i++) {
                    if (dtypes[i].typestr != NULL && dtypes[i].typestr[1] == *kind && dtypes[i].itemsize == bytes)
                        expected = dtypes[i].dtype;
                }
                if (*kind == 'V')
                    expected = make(3, 8, bytes);
                snprintf(typestr, sizeof(typestr), "%c%c%d", *order, *kind, bytes);
                status = typestr_status(typestr, &read);
                if (expected.lanes == 0) {
                    /* Of a type that is unknown and foreign, either may be said. */
                    cr_expect(status == CAI_ERROR_UNKNOWN_DTYPE ||
                                  (status == CAI_ERROR_ENDIANNESS_DETECTION && *order == FOREIGN[0] && bytes > 1),
                              "'%s': %s", typestr, cai_status_name(status));
                } else if (*order == FOREIGN[0] && bytes > 1 && *kind != 'V') {
                    cr_expect_eq(status, CAI_ERROR_ENDIANNESS_DETECTION, "'%s': %s", typestr, cai_status_name(status));
                } else {
                    cr_expect_eq(status, CAI_OK, "'%s': %s", typestr, cai_status_name(status));
                    cr_expect(same(read, expected), "'%s'", typestr);
                }
            }
        }
    }
}

/* Bytes without a meaning have no order, so that each is accepted. */
Test(dtype, opaque_typestrs_have_no_order)
{
    static const char *const typestrs[] = {"|V8", "<V8", ">V8", "=V8"};
    for (size_t i = 0; i < UNIT_COUNT(typestrs); i++) {
        cai_dtype_t read;
        cr_expect_eq(typestr_status(typestrs[i], &read), CAI_OK, "'%s'", typestrs[i]);
        cr_expect(same(read, cai_opaque(8)), "'%s'", typestrs[i]);
    }
}

typedef struct refused_case {
    const char  *text;
    cai_status_t status;
} refused_case_t;

static const refused_case_t refused_typestrs[] = {
    /* no order, kind or size */
    {"", CAI_ERROR_INVALID_TYPESTR},
    {"<", CAI_ERROR_INVALID_TYPESTR},
    {"|", CAI_ERROR_INVALID_TYPESTR},
    {"f", CAI_ERROR_INVALID_TYPESTR},
    {"f4", CAI_ERROR_INVALID_TYPESTR},
    {"i8", CAI_ERROR_INVALID_TYPESTR},
    {"44", CAI_ERROR_INVALID_TYPESTR},
    {"<4", CAI_ERROR_INVALID_TYPESTR},
    {"|i", CAI_ERROR_INVALID_TYPESTR},
    {"<f", CAI_ERROR_INVALID_TYPESTR},
    {"<c", CAI_ERROR_INVALID_TYPESTR},
    {"|V", CAI_ERROR_INVALID_TYPESTR},
    {"|b", CAI_ERROR_INVALID_TYPESTR},
    {"<u", CAI_ERROR_INVALID_TYPESTR},
    {"float32", CAI_ERROR_INVALID_TYPESTR},
    {"|S", CAI_ERROR_INVALID_TYPESTR},
    {"<U", CAI_ERROR_INVALID_TYPESTR},
    {"|t", CAI_ERROR_INVALID_TYPESTR},
    {"<M", CAI_ERROR_INVALID_TYPESTR},
    {"<m[ns]", CAI_ERROR_INVALID_TYPESTR},
    /* another order */
    {"@f4", CAI_ERROR_INVALID_TYPESTR},
    {"!f4", CAI_ERROR_INVALID_TYPESTR},
    {"^f4", CAI_ERROR_INVALID_TYPESTR},
    {" f4", CAI_ERROR_INVALID_TYPESTR},
    {"<<f4", CAI_ERROR_INVALID_TYPESTR},
    /* letters of the buffer format, which NumPy does not parse */
    {"<d8", CAI_ERROR_INVALID_TYPESTR},
    {"<l8", CAI_ERROR_INVALID_TYPESTR},
    {"<q8", CAI_ERROR_INVALID_TYPESTR},
    {"<e2", CAI_ERROR_INVALID_TYPESTR},
    {"|?1", CAI_ERROR_INVALID_TYPESTR},
    {"|B1", CAI_ERROR_INVALID_TYPESTR},
    {"<F4", CAI_ERROR_INVALID_TYPESTR},
    {"<I4", CAI_ERROR_INVALID_TYPESTR},
    {"<v4", CAI_ERROR_INVALID_TYPESTR},
    /* sizes that are none */
    {"<f4 ", CAI_ERROR_INVALID_TYPESTR},
    {"<f 4", CAI_ERROR_INVALID_TYPESTR},
    {"<f+4", CAI_ERROR_INVALID_TYPESTR},
    {"<f-4", CAI_ERROR_INVALID_TYPESTR},
    {"<f4x", CAI_ERROR_INVALID_TYPESTR},
    {"<f4.0", CAI_ERROR_INVALID_TYPESTR},
    {"<f4,", CAI_ERROR_INVALID_TYPESTR},
    {"<f0x4", CAI_ERROR_INVALID_TYPESTR},
    {"<f4<f4", CAI_ERROR_INVALID_TYPESTR},
    {"<i4\n", CAI_ERROR_INVALID_TYPESTR},
    {"<f\xD9\xA4", CAI_ERROR_INVALID_TYPESTR},
    {"\xE2\x89\xA4"
     "f4",
     CAI_ERROR_INVALID_TYPESTR},
    {"|V16[ns]", CAI_ERROR_INVALID_TYPESTR},
    /* kinds of NumPy's without a dtype */
    {"|O", CAI_ERROR_UNKNOWN_DTYPE},
    {"<O", CAI_ERROR_UNKNOWN_DTYPE},
    {"|O8", CAI_ERROR_UNKNOWN_DTYPE},
    {"<U1", CAI_ERROR_UNKNOWN_DTYPE},
    {"<U32", CAI_ERROR_UNKNOWN_DTYPE},
    {"|S1", CAI_ERROR_UNKNOWN_DTYPE},
    {"|S16", CAI_ERROR_UNKNOWN_DTYPE},
    {"|t1", CAI_ERROR_UNKNOWN_DTYPE},
    {"<M8", CAI_ERROR_UNKNOWN_DTYPE},
    {"<M8[ns]", CAI_ERROR_UNKNOWN_DTYPE},
    {"<M8[25s]", CAI_ERROR_UNKNOWN_DTYPE},
    {"<m8[us]", CAI_ERROR_UNKNOWN_DTYPE},
    /* sizes without a dtype */
    {"<f16", CAI_ERROR_UNKNOWN_DTYPE},
    {"<f1", CAI_ERROR_UNKNOWN_DTYPE},
    {"<f3", CAI_ERROR_UNKNOWN_DTYPE},
    {"<c32", CAI_ERROR_UNKNOWN_DTYPE},
    {"<c4", CAI_ERROR_UNKNOWN_DTYPE},
    {"<c2", CAI_ERROR_UNKNOWN_DTYPE},
    {"<i3", CAI_ERROR_UNKNOWN_DTYPE},
    {"<i16", CAI_ERROR_UNKNOWN_DTYPE},
    {"<u32", CAI_ERROR_UNKNOWN_DTYPE},
    {"|b2", CAI_ERROR_UNKNOWN_DTYPE},
    {"<b8", CAI_ERROR_UNKNOWN_DTYPE},
    /* foreign order of every kind that has one */
    {FOREIGN "i2", CAI_ERROR_ENDIANNESS_DETECTION},
    {FOREIGN "i4", CAI_ERROR_ENDIANNESS_DETECTION},
    {FOREIGN "i8", CAI_ERROR_ENDIANNESS_DETECTION},
    {FOREIGN "u2", CAI_ERROR_ENDIANNESS_DETECTION},
    {FOREIGN "u4", CAI_ERROR_ENDIANNESS_DETECTION},
    {FOREIGN "u8", CAI_ERROR_ENDIANNESS_DETECTION},
    {FOREIGN "f2", CAI_ERROR_ENDIANNESS_DETECTION},
    {FOREIGN "f4", CAI_ERROR_ENDIANNESS_DETECTION},
    {FOREIGN "f8", CAI_ERROR_ENDIANNESS_DETECTION},
    {FOREIGN "c8", CAI_ERROR_ENDIANNESS_DETECTION},
    {FOREIGN "c16", CAI_ERROR_ENDIANNESS_DETECTION},
};

Test(dtype, pitfall_08_refused_typestrs)
{
    for (size_t i = 0; i < UNIT_COUNT(refused_typestrs); i++) {
        const refused_case_t *row = &refused_typestrs[i];
        cai_dtype_t           read;
        const cai_status_t    status = typestr_status(row->text, &read);
        cr_expect_eq(status, row->status, "'%s': %s", row->text, cai_status_name(status));
    }
}

Test(dtype, refused_typestrs_are_quoted)
{
    for (size_t i = 0; i < UNIT_COUNT(refused_typestrs); i++) {
        const char *text = refused_typestrs[i].text;
        cai_dtype_t read;
        cai_error_t error;
        if (strchr(text, '\n') != NULL) /* a message is one line */
            continue;
        error.message[0] = '\0';
        (void)!read_typestr(text, strlen(text), &read, &error);
        cr_expect_not_null(strstr(error.message, text), "'%s': %s", text, error.message);
    }
}

/* One byte has no order: NumPy prints '|' and parses every other. */
Test(dtype, pitfall_08_one_byte_types_have_no_order)
{
    static const char *const typestrs[] = {"<b1", ">b1", "=b1", "|b1", "<i1", ">i1", "=i1", "<u1", ">u1", "=u1"};
    for (size_t i = 0; i < UNIT_COUNT(typestrs); i++) {
        cai_dtype_t read = make(99, 99, 99);
        const char  kind = typestrs[i][1];
        cr_expect_eq(typestr_status(typestrs[i], &read), CAI_OK, "'%s'", typestrs[i]);
        cr_expect(same(read, kind == 'b' ? cai_bool() : kind == 'i' ? cai_int8() : cai_uint8()), "'%s'", typestrs[i]);
    }
}

Test(dtype, pitfall_34_bool_is_one_byte)
{
    cai_dtype_t read;
    char        typestr[CAI_TYPESTR_SIZE];
    cr_expect_eq(typestr_status("|b1", &read), CAI_OK);
    cr_expect(same(read, make(6, 8, 1)));
    cr_expect_eq(cai_dtype_to_typestr(cai_bool(), typestr, NULL), CAI_OK);
    cr_expect_str_eq(typestr, "|b1");
    cr_expect_str_eq(cai_dtype_to_format(cai_bool(), NULL), "?");
    cr_expect_not(cai_dtype_is_known(make(6, 1, 1)), "a bool of one bit");
}

/* The length is the caller's: what lies behind it is not looked at, and no NUL is needed. */
Test(dtype, typestrs_end_at_their_length)
{
    cai_dtype_t read = make(99, 99, 99);
    cr_expect_eq(read_typestr("<c16", 3, &read, NULL), CAI_ERROR_UNKNOWN_DTYPE, "<c1");
    cr_expect_eq(read_typestr("|V123", 3, &read, NULL), CAI_OK);
    cr_expect(same(read, cai_opaque(1)));
    cr_expect_eq(read_typestr("|V123", 4, &read, NULL), CAI_OK);
    cr_expect(same(read, cai_opaque(12)));
    cr_expect_eq(read_typestr("|u1garbage", 3, &read, NULL), CAI_OK);
    cr_expect(same(read, cai_uint8()));
    cr_expect_eq(read_typestr("|u1", 2, &read, NULL), CAI_ERROR_INVALID_TYPESTR, "|u");
    cr_expect_eq(read_typestr("|u1", 1, &read, NULL), CAI_ERROR_INVALID_TYPESTR, "|");
    cr_expect_eq(read_typestr("|u1", 0, &read, NULL), CAI_ERROR_INVALID_TYPESTR, "nothing");
    cr_expect_eq(cai_dtype_from_typestr("|V123", 3, &read, NULL), CAI_OK, "in the middle of a text");
    cr_expect(same(read, cai_opaque(1)));
    cr_expect_eq(cai_dtype_from_typestr("<f4", 2, &read, NULL), CAI_ERROR_INVALID_TYPESTR, "in the middle of a text");
}

Test(dtype, typestrs_with_a_nul_inside)
{
    cai_dtype_t read;
    cr_expect_eq(read_typestr("|u1\0", 4, &read, NULL), CAI_ERROR_INVALID_TYPESTR);
    cr_expect_eq(read_typestr("\0u1", 3, &read, NULL), CAI_ERROR_INVALID_TYPESTR);
    cr_expect_eq(read_typestr("|\0001", 3, &read, NULL), CAI_ERROR_INVALID_TYPESTR);
}

/* Sizes that wrap to a good one in 8, 16, 32 or 64 bits, and sizes of no bytes. */
Test(dtype, pitfall_08_sizes_do_not_wrap)
{
    static const char *const typestrs[] = {
        "<f260",
        "<f65540",
        "<i65544",
        "<f4294967300",
        "<f18446744073709551620",
        "<c65552",
        "|V4294967298",
        "|b65537",
        "|V18446744073709551617",
        "<f34",
        "<i99999999999999999999999999999999999999999999",
        "<f0",
        "|i0",
        "|b00",
        "<f-65532",
    };
    for (size_t i = 0; i < UNIT_COUNT(typestrs); i++) {
        cai_dtype_t        read;
        const cai_status_t status = typestr_status(typestrs[i], &read);
        cr_expect(status == CAI_ERROR_INVALID_TYPESTR || status == CAI_ERROR_UNKNOWN_DTYPE, "'%s': %s", typestrs[i],
                  cai_status_name(status));
    }
}

/* Typestrs that NumPy writes, of sizes that have no dtype here: they do parse. */
Test(dtype, sizes_without_a_dtype_are_unknown_dtypes)
{
    static const char *const typestrs[] = {"|V65536", "|V100000", "|S65536", "<U70000", "|V0", "|S0", "<U0"};
    for (size_t i = 0; i < UNIT_COUNT(typestrs); i++) {
        cai_dtype_t        read;
        const cai_status_t status = typestr_status(typestrs[i], &read);
        cr_expect_eq(status, CAI_ERROR_UNKNOWN_DTYPE, "'%s': %s", typestrs[i], cai_status_name(status));
    }
}

Test(dtype, datetime_units_are_in_brackets)
{
    static const char *const typestrs[] = {"<M8[ns", "<M8ns]", "<M8garbage", "<U4[ns]", "|S4x", "|Oops"};
    for (size_t i = 0; i < UNIT_COUNT(typestrs); i++) {
        cai_dtype_t        read;
        const cai_status_t status = typestr_status(typestrs[i], &read);
        cr_expect_eq(status, CAI_ERROR_INVALID_TYPESTR, "'%s': %s", typestrs[i], cai_status_name(status));
    }
}

/* Neither the typestr nor the message about it has a limit that can be overrun. */
Test(dtype, a_typestr_of_any_length_is_refused)
{
    const size_t length = 100000;
    char        *text = (char *)malloc(length);
    cai_dtype_t  read;
    cai_error_t  error;
    cr_assert_not_null(text);
    memset(text, '1', length);
    text[0] = '<';
    text[1] = 'f';
    cr_expect_neq(cai_dtype_from_typestr(text, length, &read, &error), CAI_OK);
    cr_expect_lt(strlen(error.message), 200);
    free(text);
}

/* Messages are one line of UTF-8, whatever was read. */
Test(dtype, messages_about_typestrs_are_one_line_of_utf_8)
{
    char        text[129];
    cai_dtype_t read;
    cai_error_t error;
    (void)!cai_dtype_from_typestr("<i4\n", 4, &read, &error);
    cr_expect_null(strchr(error.message, '\n'), "%s", error.message);
    text[0] = '<';
    for (size_t i = 1; i + 1 < sizeof(text); i += 2)
        memcpy(text + i, "\xC3\xA9", 2);
    (void)!cai_dtype_from_typestr(text, sizeof(text), &read, &error);
    for (const char *at = strchr(error.message, '\xC3'); at != NULL; at = strchr(at + 1, '\xC3'))
        cr_expect_eq(at[1], '\xA9', "%s", error.message);
}

/* ---- buffer formats ---------------------------------------------------------------------------------------------- */

static cai_status_t format_status(const char *format, int64_t itemsize, cai_dtype_t *dtype)
{
    cai_error_t        error;
    const cai_status_t status = cai_dtype_from_format(format, itemsize, dtype, &error);
    if (status != CAI_OK)
        cr_expect_eq(error.status, status, "'%s': the error has another status", format == NULL ? "NULL" : format);
    cr_expect_eq(cai_dtype_from_format(format, itemsize, dtype, NULL), status, "'%s': without an error",
                 format == NULL ? "NULL" : format);
    return status;
}

Test(dtype, formats_of_the_table)
{
    for (size_t i = 0; i < UNIT_COUNT(dtypes); i++) {
        const dtype_case_t *row = &dtypes[i];
        const char         *format;
        cai_error_t         error;
        cai_dtype_t         read;
        error.status = CAI_OK;
        format = cai_dtype_to_format(row->dtype, &error);
        if (row->format != NULL) {
            cr_assert_not_null(format, "%s", row->name);
            cr_expect_str_eq(format, row->format, "%s", row->name);
            cr_expect_eq(format_status(format, row->itemsize, &read), CAI_OK, "%s", row->name);
            cr_expect(same(read, row->dtype), "%s", row->name);
        } else {
            cr_expect_null(format, "%s", row->name);
            cr_expect_eq(error.status, CAI_ERROR_UNKNOWN_DTYPE, "%s", row->name);
            cr_expect_not_null(strstr(error.message, row->name), "%s: %s", row->name, error.message);
            cr_expect_null(cai_dtype_to_format(row->dtype, NULL), "%s", row->name);
        }
        cr_expect_null(cai_dtype_to_format(make(row->code, row->bits, 2), &error), "%s: vectors", row->name);
        cr_expect_null(cai_dtype_to_format(make(row->code, row->bits, 0), &error), "%s: no lanes", row->name);
    }
}

Test(dtype, formats_of_numbers_without_one)
{
    static const cai_dtype_t none[] = {{99, 8, 1}, {2, 8, 1}, {3, 8, 0}, {3, 64, 1}};
    cai_error_t              error;
    for (size_t i = 0; i < UNIT_COUNT(none); i++) {
        error.status = CAI_OK;
        cr_expect_null(cai_dtype_to_format(none[i], &error), "row %zu", i);
        cr_expect_eq(error.status, CAI_ERROR_UNKNOWN_DTYPE, "row %zu", i);
    }
}

/* The struct module's letters, and NumPy's for complex numbers: sizes in the native and the standard mode (0: the
 * letter does not exist there). */
typedef struct letter_case {
    const char *letter;
    int         native, standard;
    cai_dtype_t native_dtype, standard_dtype;
} letter_case_t;

static const letter_case_t letters[] = {
    {"?", 1, 1, CAI_BOOL, CAI_BOOL},
    {"b", 1, 1, CAI_INT8, CAI_INT8},
    {"B", 1, 1, CAI_UINT8, CAI_UINT8},
    {"h", 2, 2, CAI_INT16, CAI_INT16},
    {"H", 2, 2, CAI_UINT16, CAI_UINT16},
    {"i", 4, 4, CAI_INT32, CAI_INT32},
    {"I", 4, 4, CAI_UINT32, CAI_UINT32},
    {"l", 8, 4, CAI_INT64, CAI_INT32},
    {"L", 8, 4, CAI_UINT64, CAI_UINT32},
    {"q", 8, 8, CAI_INT64, CAI_INT64},
    {"Q", 8, 8, CAI_UINT64, CAI_UINT64},
    {"n", 8, 0, CAI_INT64, CAI_INT64},
    {"N", 8, 0, CAI_UINT64, CAI_UINT64},
    {"e", 2, 2, CAI_FLOAT16, CAI_FLOAT16},
    {"f", 4, 4, CAI_FLOAT32, CAI_FLOAT32},
    {"d", 8, 8, CAI_FLOAT64, CAI_FLOAT64},
    {"F", 8, 8, CAI_COMPLEX64, CAI_COMPLEX64},
    {"D", 16, 16, CAI_COMPLEX128, CAI_COMPLEX128},
    {"Zf", 8, 8, CAI_COMPLEX64, CAI_COMPLEX64},
    {"Zd", 16, 16, CAI_COMPLEX128, CAI_COMPLEX128},
};

typedef struct mode_case {
    const char *prefix;
    bool        standard, foreign;
} mode_case_t;

static const mode_case_t modes[] = {
    {"", false, false},    {"@", false, false},   {"=", true, false},
    {NATIVE, true, false}, {FOREIGN, true, true}, {"!", true, __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__},
};

Test(dtype, formats_of_every_letter_and_order)
{
    for (size_t i = 0; i < UNIT_COUNT(letters); i++) {
        for (size_t j = 0; j < UNIT_COUNT(modes); j++) {
            const int         itemsize = modes[j].standard ? letters[i].standard : letters[i].native;
            const cai_dtype_t expected = modes[j].standard ? letters[i].standard_dtype : letters[i].native_dtype;
            cai_dtype_t       read = make(99, 99, 99);
            char              format[8];
            cai_status_t      status;
            if (itemsize == 0)
                continue;
            snprintf(format, sizeof(format), "%s%s", modes[j].prefix, letters[i].letter);
            status = format_status(format, itemsize, &read);
            if (modes[j].foreign && itemsize > 1) {
                cr_expect_eq(status, CAI_ERROR_ENDIANNESS_DETECTION, "'%s': %s", format, cai_status_name(status));
            } else {
                cr_expect_eq(status, CAI_OK, "'%s': %s", format, cai_status_name(status));
                cr_expect(same(read, expected), "'%s'", format);
            }
        }
    }
}

Test(dtype, formats_of_another_size)
{
    static const int64_t others[] = {-1, 0, 1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 32, INT64_MAX, INT64_MIN};
    for (size_t i = 0; i < UNIT_COUNT(letters); i++) {
        for (size_t j = 0; j < UNIT_COUNT(modes); j++) {
            const int itemsize = modes[j].standard ? letters[i].standard : letters[i].native;
            char      format[8];
            snprintf(format, sizeof(format), "%s%s", modes[j].prefix, letters[i].letter);
            for (size_t k = 0; k < UNIT_COUNT(others); k++) {
                cai_dtype_t  read;
                cai_status_t status;
                if (others[k] == itemsize || itemsize == 0)
                    continue;
                status = format_status(format, others[k], &read);
                cr_expect(status == CAI_ERROR_INVALID_TYPESTR ||
                              (modes[j].foreign && itemsize > 1 && status == CAI_ERROR_ENDIANNESS_DETECTION),
                          "'%s' of %lld bytes: %s", format, (long long)others[k], cai_status_name(status));
            }
        }
    }
}

Test(dtype, native_long_is_not_standard_long)
{
    cai_dtype_t read;
    cr_expect_eq(format_status("l", 4, &read), CAI_ERROR_INVALID_TYPESTR);
    cr_expect_eq(format_status("<l", 8, &read), CAI_ERROR_INVALID_TYPESTR);
    cr_expect_eq(format_status("@L", 8, &read), CAI_OK);
    cr_expect(same(read, cai_uint64()));
    cr_expect_eq(format_status("=L", 4, &read), CAI_OK);
    cr_expect(same(read, cai_uint32()));
}

Test(dtype, no_format_means_bytes)
{
    cai_dtype_t read = make(99, 99, 99);
    cai_error_t error;
    cr_expect_eq(format_status(NULL, 1, &read), CAI_OK);
    cr_expect(same(read, cai_uint8()));
    cr_expect_eq(format_status(NULL, 4, &read), CAI_ERROR_INVALID_TYPESTR);
    cr_expect_eq(format_status(NULL, 0, &read), CAI_ERROR_INVALID_TYPESTR);
    cr_expect_eq(format_status(NULL, -1, &read), CAI_ERROR_INVALID_TYPESTR);
    cr_expect_eq(cai_dtype_from_format(NULL, 4, &read, &error), CAI_ERROR_INVALID_TYPESTR);
    cr_expect_not_null(strstr(error.message, "'B'"), "%s", error.message);
}

/* A letter with anything behind it is not the letter alone. */
Test(dtype, formats_end_with_their_letter)
{
    static const char *const behind[] = {"f", "d", "x", " ", "1", "B", "@", "}", ":x:"};
    for (size_t i = 0; i < UNIT_COUNT(letters); i++) {
        for (size_t j = 0; j < UNIT_COUNT(behind); j++) {
            cai_dtype_t read = make(99, 99, 99);
            char        format[16];
            snprintf(format, sizeof(format), "%s%s", letters[i].letter, behind[j]);
            if (format_status(format, letters[i].native, &read) == CAI_OK)
                cr_expect_eq(read.code, CAI_CODE_OPAQUE, "'%s'", format);
        }
    }
}

typedef struct format_case {
    const char  *format;
    int64_t      itemsize;
    cai_status_t status;
    int          bytes; /* of CAI_OPAQUE, when the status is CAI_OK */
} format_case_t;

static const format_case_t formats[] = {
    /* records, repeated items, padding: bytes */
    {"T{f:x:f:y:}", 8, CAI_OK, 8},
    {"T{=f:x:=i:n:}", 8, CAI_OK, 8},
    {"T{T{d:a:}:b:4x}", 12, CAI_OK, 12},
    {"3f", 12, CAI_OK, 12},
    {"@3f", 12, CAI_OK, 12},
    {"<2i", 8, CAI_OK, 8},
    {"16B", 16, CAI_OK, 16},
    {"(2,3)f", 24, CAI_OK, 24},
    {"<(4)d", 32, CAI_OK, 32},
    {"4x", 4, CAI_OK, 4},
    {"x", 1, CAI_OK, 1},
    {"65535x", 65535, CAI_OK, 65535},
    {"T{f:x:}", 65535, CAI_OK, 65535},
    /* too many bytes for an item */
    {"65536x", 65536, CAI_ERROR_UNKNOWN_DTYPE, 0},
    {"65540B", 65540, CAI_ERROR_UNKNOWN_DTYPE, 0},
    {"T{f:x:}", 65536, CAI_ERROR_UNKNOWN_DTYPE, 0},
    {"T{f:x:}", INT64_MAX, CAI_ERROR_UNKNOWN_DTYPE, 0},
    {"T{f:x:}", INT64_C(4294967300), CAI_ERROR_UNKNOWN_DTYPE, 0},
    /* letters without a dtype */
    {"c", 1, CAI_ERROR_UNKNOWN_DTYPE, 0},
    {"s", 1, CAI_ERROR_UNKNOWN_DTYPE, 0},
    {"16s", 16, CAI_ERROR_UNKNOWN_DTYPE, 0},
    {"8p", 8, CAI_ERROR_UNKNOWN_DTYPE, 0},
    {"P", 8, CAI_ERROR_UNKNOWN_DTYPE, 0},
    {"O", 8, CAI_ERROR_UNKNOWN_DTYPE, 0},
    {"w", 4, CAI_ERROR_UNKNOWN_DTYPE, 0},
    {"10w", 40, CAI_ERROR_UNKNOWN_DTYPE, 0},
    {"u", 2, CAI_ERROR_UNKNOWN_DTYPE, 0},
    {"g", 16, CAI_ERROR_UNKNOWN_DTYPE, 0},
    {"Zg", 32, CAI_ERROR_UNKNOWN_DTYPE, 0},
    {"t", 1, CAI_ERROR_UNKNOWN_DTYPE, 0},
    {"&f", 8, CAI_ERROR_UNKNOWN_DTYPE, 0},
    {"X{}", 8, CAI_ERROR_UNKNOWN_DTYPE, 0},
    /* no format */
    {"", 1, CAI_ERROR_INVALID_TYPESTR, 0},
    {"", 0, CAI_ERROR_INVALID_TYPESTR, 0},
    {"@", 1, CAI_ERROR_INVALID_TYPESTR, 0},
    {"<", 4, CAI_ERROR_INVALID_TYPESTR, 0},
    {"!", 4, CAI_ERROR_INVALID_TYPESTR, 0},
    {"<<f", 4, CAI_ERROR_INVALID_TYPESTR, 0},
    {"@<f", 4, CAI_ERROR_INVALID_TYPESTR, 0},
    {"4", 4, CAI_ERROR_INVALID_TYPESTR, 0},
    {"<4", 4, CAI_ERROR_INVALID_TYPESTR, 0},
    {"k", 1, CAI_ERROR_INVALID_TYPESTR, 0},
    {"v", 1, CAI_ERROR_INVALID_TYPESTR, 0},
    {"3k", 3, CAI_ERROR_INVALID_TYPESTR, 0},
    {"}", 1, CAI_ERROR_INVALID_TYPESTR, 0},
    {":x:", 1, CAI_ERROR_INVALID_TYPESTR, 0},
    {"-3f", 12, CAI_ERROR_INVALID_TYPESTR, 0},
    {"\xC3\xA9", 1, CAI_ERROR_INVALID_TYPESTR, 0},
};

Test(dtype, formats_of_records_and_of_what_is_none)
{
    for (size_t i = 0; i < UNIT_COUNT(formats); i++) {
        const format_case_t *row = &formats[i];
        cai_dtype_t          read = make(99, 99, 99);
        const cai_status_t   status = format_status(row->format, row->itemsize, &read);
        cr_expect_eq(status, row->status, "'%s' of %lld bytes: %s", row->format, (long long)row->itemsize,
                     cai_status_name(status));
        if (row->status == CAI_OK)
            cr_expect(same(read, make(3, 8, row->bytes)), "'%s'", row->format);
    }
}

Test(dtype, refused_formats_are_quoted)
{
    for (size_t i = 0; i < UNIT_COUNT(formats); i++) {
        cai_dtype_t read;
        cai_error_t error;
        if (formats[i].status == CAI_OK || formats[i].format[0] == '\0')
            continue;
        error.message[0] = '\0';
        (void)!cai_dtype_from_format(formats[i].format, formats[i].itemsize, &read, &error);
        cr_expect_not_null(strstr(error.message, formats[i].format), "'%s': %s", formats[i].format, error.message);
        cr_expect_eq(strstr(error.message, "has no data type here") != NULL,
                     formats[i].status == CAI_ERROR_UNKNOWN_DTYPE, "'%s': %s", formats[i].format, error.message);
    }
}

Test(dtype, records_need_bytes)
{
    static const int64_t sizes[] = {0, -1, -8, INT64_MIN};
    for (size_t i = 0; i < UNIT_COUNT(sizes); i++) {
        cai_dtype_t read;
        cr_expect_neq(format_status("T{f:x:}", sizes[i], &read), CAI_OK, "%lld", (long long)sizes[i]);
    }
}

/* The size of repeated items is their number times the size of one. */
Test(dtype, repeated_items_of_another_size)
{
    static const format_case_t rows[] = {
        {"3f", 8, CAI_ERROR_INVALID_TYPESTR, 0},
        {"3f", 4, CAI_ERROR_INVALID_TYPESTR, 0},
        {"4x", 5, CAI_ERROR_INVALID_TYPESTR, 0},
        {"<2l", 16, CAI_ERROR_INVALID_TYPESTR, 0},
    };
    for (size_t i = 0; i < UNIT_COUNT(rows); i++) {
        cai_dtype_t        read;
        const cai_status_t status = format_status(rows[i].format, rows[i].itemsize, &read);
        cr_expect_eq(status, rows[i].status, "'%s' of %lld bytes: %s", rows[i].format, (long long)rows[i].itemsize,
                     cai_status_name(status));
    }
}

Test(dtype, repeated_items_in_foreign_order)
{
    cai_dtype_t read;
    cr_expect_eq(format_status(FOREIGN "3f", 12, &read), CAI_ERROR_ENDIANNESS_DETECTION);
    cr_expect_eq(format_status(FOREIGN "3B", 3, &read), CAI_OK);
    cr_expect(same(read, cai_opaque(3)));
}

/* A record may also be written as its items in a row. */
Test(dtype, items_in_a_row_are_a_record)
{
    cai_dtype_t read = make(99, 99, 99);
    cr_expect_eq(format_status("fi", 8, &read), CAI_OK);
    cr_expect(same(read, cai_opaque(8)));
    cr_expect_eq(format_status("f4x", 8, &read), CAI_OK);
    cr_expect(same(read, cai_opaque(8)));
}

/* PEP 3118: native size and order, without alignment. NumPy writes it for long double at odd addresses. */
Test(dtype, native_order_without_alignment)
{
    cai_dtype_t read = make(99, 99, 99);
    cr_expect_eq(format_status("^f", 4, &read), CAI_OK);
    cr_expect(same(read, cai_float32()));
    cr_expect_eq(format_status("^g", 16, &read), CAI_ERROR_UNKNOWN_DTYPE);
}

/* n and N exist in the native mode only. P does as well, but ctypes writes "<P". */
Test(dtype, letters_of_the_native_mode)
{
    static const char *const texts[] = {"<n", "=n", "=N", "<N"};
    for (size_t i = 0; i < UNIT_COUNT(texts); i++) {
        cai_dtype_t        read;
        const cai_status_t status = format_status(texts[i], 8, &read);
        cr_expect_eq(status, CAI_ERROR_INVALID_TYPESTR, "'%s': %s", texts[i], cai_status_name(status));
    }
}

Test(dtype, unfinished_formats)
{
    static const char *const texts[] = {"T", "T{", "T{f:x:", "(2,3", "(", "Z", "Zq", "X", "&", "f}"};
    for (size_t i = 0; i < UNIT_COUNT(texts); i++) {
        cai_dtype_t        read;
        const cai_status_t status = format_status(texts[i], 8, &read);
        cr_expect_eq(status, CAI_ERROR_INVALID_TYPESTR, "'%s': %s", texts[i], cai_status_name(status));
    }
}

Test(dtype, a_format_of_any_length_is_refused)
{
    char       *text = (char *)malloc(100001);
    cai_dtype_t read;
    cai_error_t error;
    cr_assert_not_null(text);
    memset(text, 'k', 100000);
    text[100000] = '\0';
    cr_expect_eq(cai_dtype_from_format(text, 4, &read, &error), CAI_ERROR_INVALID_TYPESTR);
    cr_expect_lt(strlen(error.message), 200);
    memset(text, '1', 100000);
    cr_expect_eq(cai_dtype_from_format(text, 4, &read, &error), CAI_ERROR_INVALID_TYPESTR);
    free(text);
}

/* ---- threads ----------------------------------------------------------------------------------------------------- */

enum { N_THREADS = 4, N_ROUNDS = 200 };

static void *spell(void *argument)
{
    size_t *wrong = (size_t *)argument;
    for (int i = 0; i < N_ROUNDS; i++) {
        for (size_t j = 0; j < UNIT_COUNT(dtypes); j++) {
            const dtype_case_t *row = &dtypes[j];
            char                name[CAI_DTYPE_NAME_SIZE], typestr[CAI_TYPESTR_SIZE];
            cai_dtype_t         read;
            if (strcmp(cai_dtype_name(row->dtype, name), row->name) != 0 ||
                cai_dtype_from_name(name, &read, NULL) != CAI_OK || !same(read, row->dtype))
                ++*wrong;
            if (row->typestr != NULL &&
                (cai_dtype_to_typestr(row->dtype, typestr, NULL) != CAI_OK || strcmp(typestr, row->typestr) != 0 ||
                 cai_dtype_from_format(cai_dtype_to_format(row->dtype, NULL), row->itemsize, &read, NULL) != CAI_OK ||
                 !same(read, row->dtype)))
                ++*wrong;
        }
    }
    return NULL;
}

Test(dtype, threads_share_the_table)
{
    pthread_t threads[N_THREADS];
    size_t    wrong[N_THREADS] = {0};
    for (size_t i = 0; i < N_THREADS; i++)
        cr_assert_eq(pthread_create(&threads[i], NULL, spell, &wrong[i]), 0);
    for (size_t i = 0; i < N_THREADS; i++) {
        cr_assert_eq(pthread_join(threads[i], NULL), 0);
        cr_expect_eq(wrong[i], 0, "thread %zu: %zu wrong", i, wrong[i]);
    }
}
