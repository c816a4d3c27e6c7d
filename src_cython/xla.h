/* What XLA's foreign function interface (FFI) passes to a handler, declared for ourselves: no JAX is
 * needed at build time. tests/frameworks/test_jax_abi.py compares it with jaxlib's own header.
 *
 * Every struct begins with its size as the caller knows it; newer versions append members. */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* The oldest version that has all of this: XLA accepts handlers of older versions than its own. */
#define FASTXENT_XLA_MAJOR 0
#define FASTXENT_XLA_MINOR 1

enum {
    fastxent_xla_extension_metadata = 1,
    fastxent_xla_stage_execute = 3,
    fastxent_xla_argument_buffer = 1,
    fastxent_xla_result_buffer = 1,
    fastxent_xla_attribute_array = 1,
    fastxent_xla_invalid_argument = 3,
    fastxent_xla_resource_exhausted = 8,
};

/* Element types, those that kernels know. */
enum {
    fastxent_xla_pred = 1,
    fastxent_xla_s8 = 2,
    fastxent_xla_s16 = 3,
    fastxent_xla_s32 = 4,
    fastxent_xla_s64 = 5,
    fastxent_xla_u8 = 6,
    fastxent_xla_u16 = 7,
    fastxent_xla_u32 = 8,
    fastxent_xla_u64 = 9,
    fastxent_xla_f16 = 10,
    fastxent_xla_f32 = 11,
    fastxent_xla_f64 = 12,
    fastxent_xla_bf16 = 16,
};

struct fastxent_xla_extension {
    size_t struct_size;
    int type;
    struct fastxent_xla_extension *next;
};

struct fastxent_xla_version {
    size_t struct_size;
    struct fastxent_xla_extension *extension;
    int major, minor;
};

/* Up to the last member that every supported version has. */
struct fastxent_xla_metadata {
    size_t struct_size;
    struct fastxent_xla_version version;
    uint32_t traits;
};

struct fastxent_xla_metadata_extension {
    struct fastxent_xla_extension base;
    struct fastxent_xla_metadata *metadata;
};

struct fastxent_xla_error;

struct fastxent_xla_error_create {
    size_t struct_size;
    struct fastxent_xla_extension *extension;
    const char *message;
    int code;
};

/* Up to the one function that is called. */
struct fastxent_xla_api {
    size_t struct_size;
    struct fastxent_xla_extension *extension;
    struct fastxent_xla_version version;
    const void *internal;
    struct fastxent_xla_error *(*create_error)(struct fastxent_xla_error_create *);
};

struct fastxent_xla_buffer {
    size_t struct_size;
    struct fastxent_xla_extension *extension;
    int type;
    void *data;
    int64_t rank;
    int64_t *dims;
};

struct fastxent_xla_array {
    int type;
    size_t size;
    void *data;
};

/* Arguments and results alike. */
struct fastxent_xla_list {
    size_t struct_size;
    struct fastxent_xla_extension *extension;
    int64_t size;
    int *types;
    void **items;
};

struct fastxent_xla_text {
    const char *data;
    size_t size;
};

/* Sorted by name. */
struct fastxent_xla_attributes {
    size_t struct_size;
    struct fastxent_xla_extension *extension;
    int64_t size;
    int *types;
    struct fastxent_xla_text **names;
    void **items;
};

/* Up to the last member that is read. */
struct fastxent_xla_frame {
    size_t struct_size;
    struct fastxent_xla_extension *extension;
    const struct fastxent_xla_api *api;
    void *context;
    int stage;
    struct fastxent_xla_list arguments, results;
    struct fastxent_xla_attributes attributes;
};
