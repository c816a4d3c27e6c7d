// Arrays of a call from JAX as the rows that kernels see; scratch memory and messages.
#pragma once

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>

#include "jax_calls.h"
#include "kernels.hpp"

namespace {

__attribute__((format(printf, 3, 4))) int refuse(char *message, size_t size, const char *format, ...) {
    va_list values;
    va_start(values, format);
    std::vsnprintf(message, size, format, values);
    va_end(values);
    return fastxent_bad_argument;
}

// Scratch memory that goes with its scope; small ones are on the stack.
class scratch {
public:
    scratch() = default;
    scratch(const scratch &) = delete;
    scratch &operator=(const scratch &) = delete;
    ~scratch() { std::free(large); }
    // On a boundary of 64 bytes, or null.
    char *get(int64_t bytes) {
        if (bytes <= small_bytes) return small;
        if (bytes > capacity) {
            std::free(large);
            capacity = 0;
            large = std::malloc(static_cast<size_t>(bytes) + 64);
            if (!large) return nullptr;
            capacity = bytes;
        }
        char *place = static_cast<char *>(large);
        return place + (64 - reinterpret_cast<uintptr_t>(place) % 64);
    }

private:
    static constexpr int64_t small_bytes = 4096;
    alignas(64) char small[small_bytes];
    void *large = nullptr;
    int64_t capacity = 0;
};

int64_t size_of(int kind) {
    constexpr int64_t sizes[] = {4, 8, 2, 2, 1, 1, 2, 2, 4, 4, 8, 8};
    return sizes[kind];
}

int64_t product(const int64_t *dims, int64_t from, int64_t to) {
    int64_t size = 1;
    for (; from < to; ++from) size *= dims[from];
    return size;
}

struct shape_of_rows {
    int64_t lead, classes, trail;
    int64_t rows() const { return lead * trail; }
};

shape_of_rows shape_of(const fastxent_array &array, int64_t trailing) {
    const int64_t at = array.rank - 1 - trailing;
    return {product(array.dims, 0, at), array.dims[at], product(array.dims, at + 1, array.rank)};
}

// Rows of an array of this shape, C-ordered, from row `first` on: whole groups of them.
fastxent_matrix matrix_of(const fastxent_array &array, const shape_of_rows &shape, int64_t first_lead,
                          int64_t leads) {
    fastxent_matrix matrix = {};
    const int64_t size = size_of(array.kind), step = shape.classes * shape.trail * size;
    matrix.data = static_cast<char *>(array.data) + first_lead * step;
    matrix.kind = array.kind;
    matrix.class_stride = shape.classes == 1 ? size : shape.trail * size;
    if (shape.trail == 1 || leads == 1) {
        matrix.levels = 1;
        matrix.size[0] = leads * shape.trail;
        matrix.stride[0] = shape.trail == 1 ? step : size;
        return matrix;
    }
    matrix.levels = 2;
    matrix.size[0] = shape.trail, matrix.stride[0] = size;
    matrix.size[1] = leads, matrix.stride[1] = step;
    return matrix;
}

bool has_nan(const fastxent_matrix &matrix, const shape_of_rows &shape, int64_t row) {
    const int64_t size = size_of(matrix.kind), across = row % shape.trail;
    const char *place = matrix.data + (row / shape.trail * shape.classes * shape.trail + across) * size;
    for (int64_t k = 0; k < shape.classes; ++k, place += matrix.class_stride) {
        uint64_t bits = 0;
        std::memcpy(&bits, place, static_cast<size_t>(size));
        constexpr uint64_t infinities[] = {0x7f800000, 0x7ff0000000000000, 0x7c00, 0x7f80};
        const uint64_t sign = uint64_t(1) << (8 * size - 1);
        if ((bits & ~sign) > infinities[matrix.kind]) return true;
    }
    return false;
}

// Element of an array of the compute type.
double value_of(const fastxent_array &array, int64_t at) {
    return array.kind == fastxent_float64 ? static_cast<const double *>(array.data)[at]
                                          : static_cast<double>(static_cast<const float *>(array.data)[at]);
}

void put_value(const fastxent_array &array, int64_t at, double value) {
    if (array.kind == fastxent_float64)
        static_cast<double *>(array.data)[at] = value;
    else
        static_cast<float *>(array.data)[at] = static_cast<float>(value);
}

// A factor of classes, rounded to the compute type: an array, or one number for a whole set of lanes.
struct class_factor {
    alignas(64) char constant[64];
    scratch memory;
    const void *data = constant;
    int64_t step = 0;
    bool fill(int size, double factor, const fastxent_array *weights, int64_t group, int64_t classes,
              double *total) {
        *total = 0.0;
        int64_t count = 64 / size;
        char *to = constant;
        if (weights) {
            data = to = memory.get(classes * size);
            if (!to) return false;
            step = 1, count = classes;
        }
        for (int64_t k = 0; k < count; ++k) {
            const double value = weights ? factor * value_of(*weights, group * classes + k) : factor;
            if (size == 8)
                reinterpret_cast<double *>(to)[k] = value;
            else
                reinterpret_cast<float *>(to)[k] = static_cast<float>(value);
            const double kept = size == 8 ? value : static_cast<double>(static_cast<float>(value));
            *total = weights ? *total + kept : kept * static_cast<double>(classes);
        }
        return true;
    }
};

// The masses of classes of a pass whose target is set: what is spread over all `num_classes` classes,
// and what becomes of probabilities. Of the weights of many calls those of one are taken.
struct class_masses {
    class_factor background, gain;
    bool fill(fastxent_pass &pass, double on_target, double spread, int64_t num_classes,
              const fastxent_array *weights, int64_t call) {
        const double on_all = spread != 0.0 ? spread / static_cast<double>(num_classes) : 0.0;
        const bool has_gain = pass.soft.data && (weights || on_target != 1.0);
        double unused;
        if (has_gain) {
            if (!gain.fill(pass.size, on_target, weights, call, pass.classes, &unused)) return false;
            pass.gain = gain.data, pass.gain_step = gain.step;
        }
        if (on_all == 0.0 && !has_gain) return true;
        if (!background.fill(pass.size, on_all, on_all != 0.0 ? weights : nullptr, call, pass.classes,
                             &pass.background_total))
            return false;
        pass.background = background.data, pass.background_step = background.step;
        return true;
    }
};

// Weights are the caller's arrays, whose numbers nobody has seen before.
int check_weights(const fastxent_array *weights, const char *name, char *message, size_t message_size) {
    if (!weights) return fastxent_done;
    const int64_t count = product(weights->dims, 0, weights->rank);
    for (int64_t i = 0; i < count; ++i) {
        const double value = value_of(*weights, i);
        if (!(value >= 0.0 && value <= std::numeric_limits<double>::max()))
            return refuse(message, message_size,
                          "fastxent: %s holds %g at place %lld: weights must be finite and not negative",
                          name, value, static_cast<long long>(i));
    }
    return fastxent_done;
}

}  // namespace
