// The Jacobian products with a row in each lane: few classes, or classes that do not lie close.
//
// Class k of row r of a tile is numbers[k * rows + r], in the compute type.
#pragma once

#include "jacobian_products.hpp"
#include "long_sum.hpp"
#include "parallel.hpp"
#include "tile_memory.hpp"

namespace {
namespace jacobian {

// Classes that are added up in one go: as many additions as a chain of row.hpp has in float64.
constexpr int64_t run_classes = 32;

// A tile's sums, class by class, in double.
template <class T> struct tile_sum {
    long_sum<lanes<double>> all[wide<T>::parts];
    wide<T> run;
    FASTXENT_INLINE void begin() {
        for (auto &one : all) one = {splat(0.0), splat(0.0)};
    }
    FASTXENT_INLINE void end_run() {
#pragma GCC unroll 2
        for (int i = 0; i < wide<T>::parts; ++i) all[i].add(run.of[i]);
    }
    FASTXENT_INLINE lanes<T> value() const {
        return narrowed(each_wide<T>([&](int i) { return value_of_lanes(all[i]); }));
    }
};

// A line a class of what a later tile reads and writes is fetched: see tile_forward.
template <class T, class Product>
FASTXENT_ONCE lanes<T> tile_sums(const T *first, const T *grad, int64_t classes,
                                 const char *const *ahead) {
    constexpr int rows = lanes<T>::count;
    tile_sum<T> sums;
    sums.begin();
    for (int64_t begin = 0; begin < classes; begin += run_classes) {
        const int64_t end = begin + run_classes < classes ? begin + run_classes : classes;
        sums.run = splat_wide<T>(0.0);
        for (int64_t k = begin; k < end; ++k) {
            __builtin_prefetch(ahead[0] + 64 * k, 0, 2);
            __builtin_prefetch(ahead[1] + 64 * k, 0, 2);
            __builtin_prefetch(ahead[2] + 64 * k, 1, 2);
            add(sums.run, Product::summed(load(first + k * rows), load(grad + k * rows)));
        }
        sums.end_run();
    }
    return sums.value();
}

// How many of a tile's rows follow one another in memory without a gap: all of them, or each stands alone.
template <class S>
FASTXENT_INLINE int64_t rows_together(const fastxent_matrix &matrix, int64_t count, int64_t classes) {
    constexpr int64_t size = sizeof(S);
    const bool dense = matrix.class_stride == size && matrix.levels == 1 &&
                       matrix.stride[0] == classes * size;
    return dense ? count : 1;
}

// Rows of an array, up to a whole tile of them; lanes without a row hold anything.
template <class S, class T>
FASTXENT_ONCE void load_tile(const fastxent_matrix &matrix, int64_t row, int64_t count, int64_t classes,
                             T *numbers, T *staged) {
    constexpr int rows = lanes<T>::count;
    const int64_t stride = matrix.class_stride;
    if (lie_in_lanes(matrix, row, count)) {
        const char *from = row_of(matrix, row);
        for (int64_t k = 0; k < classes; ++k, from += stride) {
            const S *place = reinterpret_cast<const S *>(from);
            store(numbers + k * rows, count == rows ? read_lanes(place, whole{}, T(0))
                                                    : read_lanes(place, first{count}, T(0)));
        }
        return;
    }
    const T *from[rows];
    if (std::is_same_v<S, T> && stride == sizeof(S)) {
        for (int r = 0; r < rows; ++r)
            from[r] = reinterpret_cast<const T *>(row_of(matrix, row + (r < count ? r : 0)));
        return gather(from, classes, numbers);
    }
    const int64_t together = rows_together<S>(matrix, count, classes);
    for (int64_t r = 0; r < count; r += together) {
        const char *place = row_of(matrix, row + r);
        T *own = staged + r * classes;
        if (stride == sizeof(S))
            for_lanes<T>(together * classes,
                         [&](int64_t k, auto some, int) __attribute__((always_inline)) {
                             const S *stored = reinterpret_cast<const S *>(place);
                             store(own + k, read_lanes(stored + k, some, T(0)), some);
                         });
        else
            for_lanes<T>(classes, [&](int64_t k, auto some, int) __attribute__((always_inline)) {
                store(own + k, gathered<T, S>(place + k * stride, stride, some, T(0)), some);
            });
    }
    for (int r = 0; r < rows; ++r) from[r] = staged + (r < count ? r : 0) * classes;
    gather(from, classes, numbers);
}

template <class S, class Product, class T>
FASTXENT_ONCE void close_tile(const fastxent_matrix &matrix, int64_t row, int64_t count,
                              int64_t classes, const T *first_numbers, const T *grad,
                              const lanes<T> &sums, T *staged) {
    constexpr int rows = lanes<T>::count;
    const lanes<T> total = sums;
    const auto closed = [&](int64_t k) __attribute__((always_inline)) {
        return Product::closed(load(first_numbers + k * rows), load(grad + k * rows), total);
    };
    if (lie_in_lanes(matrix, row, count)) {
        char *to = row_of(matrix, row);
        for (int64_t k = 0; k < classes; ++k, to += matrix.class_stride) {
            S *place = reinterpret_cast<S *>(to);
            if (count == rows)
                write_lanes(place, closed(k), whole{});
            else
                write_lanes(place, closed(k), first{count});
        }
        return;
    }
    const bool directly = std::is_same_v<S, T> && matrix.class_stride == sizeof(S);
    T *to[rows];
    for (int r = 0; r < rows; ++r)
        to[r] = directly && r < count ? reinterpret_cast<T *>(row_of(matrix, row + r))
                                      : staged + r * classes;
    for_pieces<T>(classes, [&](int64_t k, auto n) __attribute__((always_inline)) {
        lanes<T> piece[n.value];
#pragma GCC unroll 4
        for (int j = 0; j < n.value; ++j) piece[j] = closed(k + j);
        store_classes<T, n.value>(to, k, piece);
    });
    if (directly) return;
    const int64_t together = rows_together<S>(matrix, count, classes);
    for (int64_t r = 0; r < count; r += together)
        deliver(to[r], splat(T(1)), together * classes, matrix, row_of(matrix, row + r), 0);
}

// Rows that lie side by side in all arrays, `tiles` of them at a time: from each class more than a line.
// They are kept, since classes that lie a power of two apart drive one another from the cache.
constexpr int tiles = fastxent_jacobian_tiles;

template <class S, class Product, class T>
FASTXENT_ONCE void product_of_strip(const fastxent_jacobian &pass, int64_t row, T *kept) {
    constexpr int rows = lanes<T>::count, strip = tiles * rows;
    constexpr int64_t bytes = strip * static_cast<int64_t>(sizeof(S));
    const char *first = row_of(pass.first, row), *grad = row_of(pass.grad, row);
    char *out = row_of(pass.out, row);
    tile_sum<T> sums[tiles];
    for (auto &one : sums) one.begin();
    for (int64_t begin = 0; begin < pass.classes; begin += run_classes) {
        const int64_t to = begin + run_classes, end = to < pass.classes ? to : pass.classes;
        for (auto &one : sums) one.run = splat_wide<T>(0.0);
        for (int64_t k = begin; k < end; ++k) {
            const char *of_first = first + k * pass.first.class_stride;
            const char *of_grad = grad + k * pass.grad.class_stride;
            T *numbers = kept + 2 * k * strip;
            for (int64_t line = 0; line < bytes; line += 64) {
                __builtin_prefetch(of_first + bytes + line, 0, 2);
                __builtin_prefetch(of_grad + bytes + line, 0, 2);
            }
#pragma GCC unroll 4
            for (int i = 0; i < tiles; ++i) {
                const auto p = read_lanes(reinterpret_cast<const S *>(of_first) + i * rows, whole{}, T(0));
                const auto g = read_lanes(reinterpret_cast<const S *>(of_grad) + i * rows, whole{}, T(0));
                store(numbers + i * rows, p);
                store(numbers + strip + i * rows, g);
                add(sums[i].run, Product::summed(p, g));
            }
        }
        for (auto &one : sums) one.end_run();
    }
    lanes<T> values[tiles];
    for (int i = 0; i < tiles; ++i) values[i] = sums[i].value();
    for (int64_t k = 0; k < pass.classes; ++k) {
        const T *numbers = kept + 2 * k * strip;
        S *to = reinterpret_cast<S *>(out + k * pass.out.class_stride);
#pragma GCC unroll 4
        for (int i = 0; i < tiles; ++i)
            write_lanes(to + i * rows,
                        Product::closed(load(numbers + i * rows),
                                        load(numbers + strip + i * rows), values[i]),
                        whole{});
    }
}

template <class S, class Product> bool by_tile_of(const fastxent_jacobian &pass) {
    using T = compute_of<S>;
    constexpr int64_t rows = lanes<T>::count, strip = tiles * rows;
    const fastxent_jacobian_schedule &plan = pass.schedule;
    const chunk_loop loop = {plan.chunks, plan.chunk_rows * pass.classes, pass.threads, pass.watch};
    return for_chunks(loop, [&](int64_t chunk, int thread) {
        T *kept = static_cast<T *>(pass.scratch) + 2 * thread * strip * pass.classes;
        const int64_t begin = chunk * plan.chunk_rows, to = begin + plan.chunk_rows;
        const int64_t end = to < pass.rows ? to : pass.rows;
        for (int64_t row = begin; row < end;) {
            if (strip <= end - row && lie_in_lanes(pass.first, row, strip) &&
                lie_in_lanes(pass.grad, row, strip) && lie_in_lanes(pass.out, row, strip)) {
                product_of_strip<S, Product>(pass, row, kept);
                row += strip;
                continue;
            }
            const int64_t count = rows < end - row ? rows : end - row;
            T *first = kept, *grad = first + rows * pass.classes, *staged = grad + rows * pass.classes;
            load_tile<S>(pass.first, row, count, pass.classes, first, staged);
            load_tile<S>(pass.grad, row, count, pass.classes, grad, staged);
            const int64_t next = row + 2 * rows < end ? row + 2 * rows : row;
            const char *ahead[] = {row_of(pass.first, next), row_of(pass.grad, next),
                                   row_of(pass.out, next)};
            const lanes<T> sums = tile_sums<T, Product>(first, grad, pass.classes, ahead);
            close_tile<S, Product>(pass.out, row, count, pass.classes, first, grad, sums, staged);
            row += count;
        }
    });
}

}  // namespace jacobian
}  // namespace
