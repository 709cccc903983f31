/* headers.c - every header in one file, for clang-tidy: it reads the bodies of functions whether or not they are used. */
#include <cai/cai.h>
