/**
 * cai/config.h - version, linkage, options, and what differs between compilers.
 *
 * Included by every other header; an author includes <cai/cai.h> (Python extensions) or <cai/core.h> (no Python).
 *
 * Options, each a macro that must be set alike in every translation unit of one extension (best on the command line):
 *
 *   CAI_NO_CUDA       build without the CUDA runtime: host arrays alone. Device arrays can be described, not ordered.
 *   CAI_CUDA_PREFIX   every runtime call becomes PREFIXcudaXxx (an emulator, a run-time loader). Not with CAI_NO_CUDA.
 *   CAI_API           linkage of the public functions; default: static inline, silent when unused.
 *
 * Specification: none; this file is about compilers only.
 */
#ifndef CAI_CONFIG_H
#define CAI_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The one place where the version is written down; meson.build and the documentation are compared with it. */
#define CAI_VERSION_MAJOR  0
#define CAI_VERSION_MINOR  1
#define CAI_VERSION_PATCH  0
#define CAI_VERSION_STRING "0.1.0"
/** One integer to compare: 100 * (100 * major + minor) + patch. */
#define CAI_VERSION ((CAI_VERSION_MAJOR * 100 + CAI_VERSION_MINOR) * 100 + CAI_VERSION_PATCH)

#if !defined(__GNUC__)
#error "cai needs gcc or clang (or nvcc with one of them as its host compiler): it uses their __atomic built-ins"
#endif
#if UINTPTR_MAX != 0xFFFFFFFFFFFFFFFFu
#error "cai supports 64-bit platforms only, as the CUDA runtime does"
#endif
#if defined(__cplusplus) && __cplusplus < 201703L
#error "cai needs C++17 or newer when it is included from C++"
#endif
#if !defined(__cplusplus) && (!defined(__STDC_VERSION__) || __STDC_VERSION__ < 201112L)
#error "cai needs C11 or newer"
#endif
#if defined(CAI_NO_CUDA) && defined(CAI_CUDA_PREFIX)
#error "CAI_NO_CUDA and CAI_CUDA_PREFIX contradict each other: define at most one of them"
#endif

#ifndef CAI_API
#define CAI_API static inline __attribute__((unused))
#endif

/** The result of the function tells of a failure and must be looked at. */
#define CAI_NODISCARD __attribute__((warn_unused_result))

/* Private functions: the ordinary ones, and those that are made for size and kept out of line, so that the hot path stays
 * small (measured: up to 9 % of an acquire). Those are the failure path, and what costs nothing beside what it calls. */
#define CAI_IMPL      static inline __attribute__((unused))
#define CAI_IMPL_COLD static __attribute__((cold, noinline, unused))

/* On the declaration of a public function: the same for its body and for the branches that call it. */
#define CAI_IMPL_SELDOM __attribute__((cold))

/* The few that every acquire of an ordinary array runs through, made one piece (measured: a call costs as much as what it
 * does); and what is beside them, which would make that piece large. */
#define CAI_IMPL_HOT   static inline __attribute__((always_inline, unused))
#define CAI_IMPL_ASIDE static __attribute__((noinline, unused))

/* A function by whose address one extension knows what it has made: one in all its translation units, of either language,
 * and another one in every other shared object. */
#if defined(__cplusplus)
#define CAI_IMPL_ONE extern "C" inline __attribute__((visibility("hidden"), unused))
#else
#define CAI_IMPL_ONE __attribute__((weak, visibility("hidden"), unused))
#endif

#define CAI_IMPL_PRINTF(format_index, first_argument) __attribute__((format(printf, format_index, first_argument)))

#define CAI_IMPL_LIKELY(condition)   __builtin_expect(!!(condition), 1)
#define CAI_IMPL_UNLIKELY(condition) __builtin_expect(!!(condition), 0)

/* One spelling of casts for both languages, so that -Wold-style-cast stays silent in C++. CAI_IMPL_CAST converts values
 * and void pointers, CAI_IMPL_BITS reads pointers as integers, integers as pointers, and one pointer as another. */
#if defined(__cplusplus)
#define CAI_IMPL_CAST(type, value)             static_cast<type>(value)
#define CAI_IMPL_BITS(type, value)             reinterpret_cast<type>(value)
#define CAI_IMPL_STATIC_ASSERT(condition, why) static_assert(condition, why)
#define CAI_IMPL_ALIGNAS(bytes)                alignas(bytes)
#else
#define CAI_IMPL_CAST(type, value)             ((type)(value))
#define CAI_IMPL_BITS(type, value)             ((type)(value))
#define CAI_IMPL_STATIC_ASSERT(condition, why) _Static_assert(condition, why)
#define CAI_IMPL_ALIGNAS(bytes)                _Alignas(bytes)
#endif

/** Most dimensions of an array; NumPy's own limit since 2.0. */
#define CAI_MAX_NDIM 64

#endif /* CAI_CONFIG_H */
