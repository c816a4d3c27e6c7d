// One pass of the verb binary: loss and gradient of elements that are each a choice of two.
#pragma once

#include "kernels.hpp"

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
    fastxent_elements loss, grad, proba, hess;  // data is null where they are not wanted
    // proba = sigma(x)      hess = max(hess_factor * factor * upstream * proba * (1 - proba), hess_floor),
    // or the size of the gradient without its factors for proba * (1 - proba): |proba - target|
    bool hess_is_distance;
    double hess_factor, hess_floor;
    double *total;  // null where it is not wanted
    int threads;
    fastxent_watch *watch;
    // of each chunk of fastxent_chunk_elements: the sum of its losses, and whether an integer target is neither 0 nor 1
    double *totals;
    int64_t *bad;
};
