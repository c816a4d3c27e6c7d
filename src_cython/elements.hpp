// Arrays of any layout and type, a block of elements at a time: contiguous numbers to compute with.
#pragma once

#include <type_traits>

#include "binary_pass.hpp"
#include "storage.hpp"

namespace {

constexpr int64_t element_block = 512;
constexpr int most_dims = 64;  // NumPy's limit

template <class T> constexpr int kind_of_number = 0;
template <> constexpr int kind_of_number<float> = fastxent_float32;
template <> constexpr int kind_of_number<double> = fastxent_float64;

// Some elements of the shape, from number `begin` on, in C order.
struct element_range {
    const fastxent_binary_pass &pass;
    int64_t begin, count;
};

// Calls body(byte offset, how many are done, how many follow with the innermost stride).
template <class Body>
FASTXENT_INLINE void for_runs(const element_range &range, const int64_t *strides, const Body &body) {
    const int last = range.pass.dims - 1;
    const int64_t *shape = range.pass.shape;
    if (last == 0) return body(range.begin * strides[0], 0, range.count);
    int64_t at[most_dims], offset = 0, rest = range.begin, done = 0;
    for (int d = last; d >= 0; --d) {
        at[d] = rest % shape[d];
        rest /= shape[d];
        offset += at[d] * strides[d];
    }
    while (done < range.count) {
        int64_t run = shape[last] - at[last];
        if (run > range.count - done) run = range.count - done;
        body(offset, done, run);
        done += run;
        at[last] += run;
        offset += run * strides[last];
        for (int d = last; d > 0 && at[d] == shape[d]; --d) {
            offset += strides[d - 1] - shape[d] * strides[d];
            at[d] = 0;
            ++at[d - 1];
        }
    }
}

// The address of a range that lies in memory as contiguous numbers of type T; null where it does not.
template <class T> char *direct(const fastxent_elements &array, const element_range &range) {
    const int last = range.pass.dims - 1;
    const int64_t size = range.pass.shape[last];
    const bool contiguous = array.strides[last] == sizeof(T) || size == 1;
    if (array.kind != kind_of_number<T> || !contiguous) return nullptr;
    if (last > 0 && range.begin % size + range.count > size) return nullptr;
    char *place = nullptr;
    for_runs(range, array.strides, [&](int64_t offset, int64_t, int64_t) {
        place = array.data + offset;
    });
    return place;
}

// Which bits of integers are set, the lowest left out: 0 where all of them are 0 or 1.
template <class S> FASTXENT_INLINE uint64_t high_bits(S number) {
    return static_cast<uint64_t>(number) & ~static_cast<uint64_t>(1);
}

template <class T, class S>
FASTXENT_INLINE uint64_t read_run(const char *from, int64_t stride, int64_t count, T *to) {
    uint64_t seen = 0;
    for (int64_t i = 0; i < count; ++i) {
        const S *place = reinterpret_cast<const S *>(from + i * stride);
        if constexpr (std::is_integral_v<S>) {
            S number;
            __builtin_memcpy(&number, place, sizeof number);
            seen |= high_bits(number);
            to[i] = static_cast<T>(number);
        } else {
            to[i] = static_cast<T>(get_number(place));
        }
    }
    return seen;
}

template <class T, class S>
FASTXENT_ONCE uint64_t read_as(const fastxent_elements &array, const element_range &range, T *to) {
    uint64_t seen = 0;
    const int64_t stride = array.strides[range.pass.dims - 1];
    for_runs(range, array.strides, [&](int64_t offset, int64_t done, int64_t run) {
        const char *from = array.data + offset;
        if (stride == sizeof(S)) {
            int64_t i = 0;
            if constexpr (std::is_same_v<T, float> && !std::is_integral_v<S>)
                for (; i + lanes<T>::count <= run; i += lanes<T>::count)
                    store(to + done + i,
                          read_lanes(reinterpret_cast<const S *>(from) + i, whole{}, T(0)),
                          whole{});
            seen |= read_run<T, S>(from + i * sizeof(S), sizeof(S), run - i, to + done + i);
        } else {
            seen |= read_run<T, S>(from, stride, run, to + done);
        }
    });
    return seen;
}

// The numbers of a range where they lie, or converted into the buffer.
template <class T>
const T *fetch(const fastxent_elements &array, const element_range &range, T *buffer,
               uint64_t *seen) {
    if (char *place = direct<T>(array, range)) return reinterpret_cast<const T *>(place);
    switch (array.kind) {
        case fastxent_float32: read_as<T, float>(array, range, buffer); break;
        case fastxent_float64: read_as<T, double>(array, range, buffer); break;
        case fastxent_float16: read_as<T, half>(array, range, buffer); break;
        case fastxent_bfloat16: read_as<T, brain>(array, range, buffer); break;
        case fastxent_uint8: *seen |= read_as<T, uint8_t>(array, range, buffer); break;
        case fastxent_int8: *seen |= read_as<T, int8_t>(array, range, buffer); break;
        case fastxent_uint16: *seen |= read_as<T, uint16_t>(array, range, buffer); break;
        case fastxent_int16: *seen |= read_as<T, int16_t>(array, range, buffer); break;
        case fastxent_uint32: *seen |= read_as<T, uint32_t>(array, range, buffer); break;
        case fastxent_int32: *seen |= read_as<T, int32_t>(array, range, buffer); break;
        case fastxent_uint64: *seen |= read_as<T, uint64_t>(array, range, buffer); break;
        default: *seen |= read_as<T, int64_t>(array, range, buffer);
    }
    return buffer;
}

template <class T, class S>
FASTXENT_ONCE void write_as(const fastxent_elements &array, const element_range &range,
                            const T *from) {
    const int64_t stride = array.strides[range.pass.dims - 1];
    for_runs(range, array.strides, [&](int64_t offset, int64_t done, int64_t run) {
        char *to = array.data + offset;
        int64_t i = 0;
        if (stride == sizeof(S))
            for (; i + lanes<T>::count <= run; i += lanes<T>::count)
                write_lanes(reinterpret_cast<S *>(to) + i, load<T>(from + done + i, whole{}, T(0)),
                            whole{});
        for (; i < run; ++i) set_number(reinterpret_cast<S *>(to + i * stride), from[done + i]);
    });
}

// Where the numbers of a range go, if they go there as they are; else a buffer, to be written later.
template <class T>
T *destination(const fastxent_elements &array, const element_range &range, T *buffer) {
    char *place = direct<T>(array, range);
    return place ? reinterpret_cast<T *>(place) : buffer;
}

template <class T>
void write_back(const fastxent_elements &array, const element_range &range, const T *buffer) {
    if (array.kind == kind_of_number<T>) return write_as<T, T>(array, range, buffer);
    if constexpr (std::is_same_v<T, float>) {
        if (array.kind == fastxent_float16)
            return write_as<T, half>(array, range, buffer);
        write_as<T, brain>(array, range, buffer);
    }
}

}  // namespace
