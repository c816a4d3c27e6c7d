// Arrays that take no byte more than they need, so that a sanitizer sees every access beyond them, and
// notice when something is written between their elements.
#pragma once

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "kernels.hpp"
#include "source.hpp"

constexpr double nan_number = std::numeric_limits<double>::quiet_NaN();
constexpr double infinite = std::numeric_limits<double>::infinity();

constexpr int item_sizes[] = {4, 8, 2, 2, 1, 1, 2, 2, 4, 4, 8, 8};

template <class S> S stored(const char *from) {
    S number;
    std::memcpy(&number, from, sizeof number);
    return number;
}

// One number of any kind of storage, by the formats' definitions.
inline double number_at(int kind, const char *from) {
    switch (kind) {
    case fastxent_float32: return stored<float>(from);
    case fastxent_float64: return stored<double>(from);
    case fastxent_float16: {
        const uint16_t bits = stored<uint16_t>(from);
        const int exponent = bits >> 10 & 31, mantissa = bits & 1023;
        const double size = exponent == 0    ? std::ldexp(mantissa, -24)
                            : exponent == 31 ? (mantissa ? nan_number : infinite)
                                             : std::ldexp(1024 + mantissa, exponent - 25);
        return bits & 0x8000 ? -size : size;
    }
    case fastxent_bfloat16: {
        const uint32_t bits = static_cast<uint32_t>(stored<uint16_t>(from)) << 16;
        return stored<float>(reinterpret_cast<const char *>(&bits));
    }
    case fastxent_uint8: return stored<uint8_t>(from);
    case fastxent_int8: return stored<int8_t>(from);
    case fastxent_uint16: return stored<uint16_t>(from);
    case fastxent_int16: return stored<int16_t>(from);
    case fastxent_uint32: return stored<uint32_t>(from);
    case fastxent_int32: return stored<int32_t>(from);
    case fastxent_uint64: return static_cast<double>(stored<uint64_t>(from));
    default: return static_cast<double>(stored<int64_t>(from));
    }
}

// Relative error of rounding to a kind, and the largest where it becomes subnormal.
inline double rounding_of(int kind) {
    constexpr double roundings[] = {0x1p-24, 0x1p-53, 0x1p-11, 0x1p-8};
    return roundings[kind];
}

// A number of a kind: any bits at all, or an ordinary one.
inline void draw_number(source &from, int kind, char *to, bool wild, double spread) {
    const int size = item_sizes[kind];
    if (wild || kind > fastxent_uint8) {
        for (int i = 0; i < size; ++i) to[i] = static_cast<char>(from.byte());
        return;
    }
    const double number = from.chance(9) ? 20 * spread * from.between(-1, 1) : spread * from.between(-1, 1);
    const float narrow = static_cast<float>(number);
    switch (kind) {
    case fastxent_float32: std::memcpy(to, &narrow, 4); return;
    case fastxent_float64: std::memcpy(to, &number, 8); return;
    case fastxent_bfloat16: std::memcpy(to, reinterpret_cast<const char *>(&narrow) + 2, 2); return;
    case fastxent_float16: {  // truncated, below 2^-14 to 0
        uint32_t bits;
        std::memcpy(&bits, &narrow, 4);
        const int exponent = static_cast<int>(bits >> 23 & 255) - 112;
        const uint16_t half = static_cast<uint16_t>(
            (bits >> 16 & 0x8000) | (exponent <= 0 ? 0 : exponent << 10 | (bits >> 13 & 1023)));
        std::memcpy(to, &half, 2);
        return;
    }
    default: *to = static_cast<char>(from.byte() & 1);
    }
}

// -inf, +inf or NaN in place of a number.
inline void put_special(int kind, char *to, double special) {
    const float narrow = static_cast<float>(special);
    const uint16_t half = std::isnan(special) ? 0x7e00 : special < 0 ? 0xfc00 : 0x7c00;
    switch (kind) {
    case fastxent_float32: std::memcpy(to, &narrow, 4); return;
    case fastxent_float64: std::memcpy(to, &special, 8); return;
    case fastxent_bfloat16: std::memcpy(to, reinterpret_cast<const char *>(&narrow) + 2, 2); return;
    case fastxent_float16: std::memcpy(to, &half, 2); return;
    default: return;
    }
}

// Elements of some dimensions, laid out in any way: order of the dimensions, gaps, steps of any number of
// bytes, backwards, all of a dimension in one place, at odd addresses.
class array {
  public:
    int kind = 0;
    std::vector<int64_t> shape, strides;
    char *first = nullptr;  // element 0, ..., 0

    array() = default;
    array(const array &) = delete;
    array &operator=(const array &) = delete;
    ~array() { std::free(memory_); }

    void make(source &from, int kind_of_it, std::vector<int64_t> shape_of_it, bool is_output) {
        kind = kind_of_it;
        shape = std::move(shape_of_it);
        const int dims = static_cast<int>(shape.size());
        const int64_t size = item_sizes[kind];
        strides.assign(dims, 0);
        std::vector<int> order(dims);
        for (int d = 0; d < dims; ++d) order[d] = dims - 1 - d;
        const bool plain = !from.chance(3);
        if (!plain)
            for (int d = dims - 1; d > 0; --d) std::swap(order[d], order[from.below(d + 1)]);
        int64_t step = plain ? size : from.one_of({size, size, 2 * size, size + 1});
        int64_t low = 0, high = 0;
        for (int d : order) {
            const bool repeated = !plain && !is_output && from.chance(8);
            strides[d] = repeated ? 0 : !plain && from.chance(5) ? -step : step;
            const int64_t reach = strides[d] * (shape[d] > 0 ? shape[d] - 1 : 0);
            (reach < 0 ? low : high) += reach;
            if (!repeated) step *= shape[d] > 0 ? shape[d] : 1;
            if (!plain) step += from.one_of<int64_t>({0, 0, size, 3 * size, 1});
        }
        const int64_t odd = !plain && from.chance(6);
        bytes_ = count() ? high - low + size + odd : 0;
        memory_ = static_cast<char *>(std::malloc(bytes_ ? bytes_ : 1));
        std::memset(memory_, 0xa5, bytes_ ? bytes_ : 1);
        first = memory_ + odd - low;
    }

    int64_t count() const {
        int64_t all = 1;
        for (int64_t n : shape) all *= n;
        return all;
    }
    // Element number `index` in C order.
    char *at(int64_t index) const {
        char *place = first;
        for (int d = static_cast<int>(shape.size()) - 1; d >= 0; --d) {
            place += index % shape[d] * strides[d];
            index /= shape[d];
        }
        return place;
    }
    double number(int64_t index) const { return number_at(kind, at(index)); }

    void draw(source &from, bool wild, double spread) {
        for (int64_t i = 0; i < count(); ++i) draw_number(from, kind, at(i), wild, spread);
    }
    std::vector<double> numbers() const {
        std::vector<double> all(count());
        for (int64_t i = 0; i < count(); ++i) all[i] = number(i);
        return all;
    }
    const char *start() const { return memory_; }
    // All bytes, to be put back or compared.
    std::vector<char> image() const { return {memory_, memory_ + bytes_}; }
    void restore(const std::vector<char> &image) {
        if (bytes_) std::memcpy(memory_, image.data(), bytes_);
    }
    void require_gaps_untouched(const std::vector<char> &before) const {
        if (!first) return;
        std::vector<bool> owned(bytes_, false);
        for (int64_t i = 0; i < count(); ++i)
            for (int b = 0; b < item_sizes[kind]; ++b) owned[at(i) - memory_ + b] = true;
        for (int64_t b = 0; b < bytes_; ++b)
            REQUIRE(owned[b] || memory_[b] == before[b], "byte %lld lies between elements",
                    static_cast<long long>(b));
    }
    // The rows, numbered through all dimensions but the last, whose first varies fastest.
    fastxent_matrix matrix() const {
        fastxent_matrix rows = {};
        rows.data = first;
        rows.kind = kind;
        rows.levels = static_cast<int>(shape.size()) - 1;
        rows.class_stride = shape.back() > 1 ? strides.back() : item_sizes[kind];
        for (int level = 0; level < rows.levels; ++level) {
            rows.size[level] = shape[rows.levels - 1 - level];
            rows.stride[level] = strides[rows.levels - 1 - level];
        }
        return rows;
    }

  private:
    char *memory_ = nullptr;
    int64_t bytes_ = 0;
};

// Contiguous numbers: one a row, a class or a part.
template <class T> class column {
  public:
    column() = default;
    column(const column &) = delete;
    column &operator=(const column &) = delete;
    ~column() { std::free(data_); }
    T *make(int64_t count) {
        std::free(data_);
        count_ = count;
        data_ = static_cast<T *>(std::malloc(count ? count * sizeof(T) : 1));
        return data_;
    }
    T *data() const { return data_; }
    int64_t count() const { return count_; }
    T &operator[](int64_t i) const { return data_[i]; }
    explicit operator bool() const { return data_; }

  private:
    T *data_ = nullptr;
    int64_t count_ = 0;
};

// Scratch memory on a boundary of 64 bytes.
class scratch {
    char *data_ = nullptr;

  public:
    scratch() = default;
    scratch(const scratch &) = delete;
    scratch &operator=(const scratch &) = delete;
    ~scratch() { std::free(data_); }
    char *make(int64_t bytes) {
        std::free(data_);
        void *place = nullptr;
        REQUIRE(posix_memalign(&place, 64, bytes > 0 ? bytes : 1) == 0, "no memory");
        return data_ = static_cast<char *>(place);
    }
};
