// One pass of the verb binary: loss and gradient of elements that are each a choice of two.
#pragma once

#include <cstdint>

// Elements a chunk: CHUNK_ELEMENTS of backends/contract.py. Each chunk has one sum.
constexpr int64_t fastxent_binary_chunk = 1 << 14;

// How elements are stored: KINDS of backends/contract.py, in this order.
enum fastxent_element_kind {
    fastxent_element_float32,
    fastxent_element_float64,
    fastxent_element_float16,
    fastxent_element_bfloat16,
    fastxent_element_uint8,
    fastxent_element_int8,
    fastxent_element_uint16,
    fastxent_element_int16,
    fastxent_element_uint32,
    fastxent_element_int32,
    fastxent_element_uint64,
    fastxent_element_int64,
};

// An array of the pass's shape, its strides in bytes; or the same number everywhere, where data is null.
struct fastxent_elements {
    char *data;
    int kind;
    const int64_t *strides;
    double constant;
};

//     positive = ones * (gain * target + background)      negative = gain * (1 - target) + background
//     loss = factor * (positive * log(1 + exp(-x)) + negative * log(1 + exp(x)))
//     grad = factor * upstream * (negative * sigma(x) - positive * sigma(-x))
struct fastxent_binary_pass {
    int dims, size;  // bytes of a number that is computed with: 4 or 8
    const int64_t *shape;
    int64_t count;  // of elements
    fastxent_elements logits, target, ones, factor, upstream;
    double gain, background;
    fastxent_elements loss, grad;  // data is null where they are not wanted
    double *total;  // null where it is not wanted
    int threads;
    // of each chunk: the sum of its losses, and whether an integer target is neither 0 nor 1
    double *totals;
    int64_t *bad;
};
