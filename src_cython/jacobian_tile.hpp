// The Jacobian products with a row in each lane: few classes, or classes that do not lie close.
//
// Class k of row r of a tile is numbers[k * rows + r], in the compute type.
#pragma once

#include "jacobian_products.hpp"
#include "long_sum.hpp"
#include "parallel.hpp"
#include "tile.hpp"

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
        return narrowed(each_wide<T>([&](int i) {
            // as value_of: the rest of an infinite sum is NaN
            const lanes<double> total = all[i].total;
            return where_equal(total - total, splat(0.0), total + all[i].rest, total);
        }));
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

// How the rows of a tile lie in an array.
enum class way { positions, classes, any };

template <class S>
FASTXENT_INLINE way way_of(const fastxent_strided &array, const int64_t *offsets, int64_t count,
                           int64_t classes) {
    constexpr int64_t size = sizeof(S);
    if (!array.aligned) return way::any;
    if (array.class_stride == size && classes <= fastxent_tile_classes) return way::classes;
    bool close = count == lanes<typename compute_of<S>::type>::count;
    for (int64_t r = 1; close && r < count; ++r) close = offsets[r] == offsets[0] + r * size;
    return close ? way::positions : way::any;
}

// Rows that lie close, up to a whole tile of them; lanes without a row repeat the first.
template <class S, class T>
FASTXENT_ONCE void load_rows(const char *data, const int64_t *offsets, int64_t count,
                             int64_t classes, T *numbers) {
    constexpr int rows = lanes<T>::count;
    const T *from[rows];
    T widened[is_half<S> ? rows * fastxent_tile_classes : 1];
    for (int r = 0; r < rows; ++r) {
        const S *row = reinterpret_cast<const S *>(data + offsets[r < count ? r : 0]);
        if constexpr (is_half<S>) {
            T *own = widened + r * fastxent_tile_classes;
            for_lanes<T>(classes, [&](int64_t k, auto some, int) __attribute__((always_inline)) {
                store(own + k, read(row + k, some), some);
            });
            from[r] = own;
        } else {
            from[r] = row;
        }
    }
    gather(from, classes, numbers);
}

template <class S, class T>
FASTXENT_ONCE void load_tile(const fastxent_strided &array, int64_t row, int64_t count,
                             int64_t classes, T *numbers) {
    constexpr int rows = lanes<T>::count;
    int64_t offsets[rows];
    const char *data = static_cast<const char *>(array.data);
    offsets_of(array, row, count, offsets);
    const way here = way_of<S>(array, offsets, count, classes);
    if (here == way::classes) return load_rows<S>(data, offsets, count, classes, numbers);
    for (int64_t k = 0; k < classes; ++k, data += array.class_stride) {
        S stored[rows] = {};
        const S *from = stored;
        if (here == way::positions)
            from = reinterpret_cast<const S *>(data + offsets[0]);
        else
            for (int64_t r = 0; r < count; ++r)
                __builtin_memcpy(stored + r, data + offsets[r], sizeof(S));
        store(numbers + k * rows, read(from, whole{}));
    }
}

// `closed` gives the lanes of a class.
template <class S, class Closed>
FASTXENT_INLINE void store_rows(char *data, const int64_t *offsets, int64_t count, int64_t classes,
                                const Closed &closed) {
    using T = typename compute_of<S>::type;
    constexpr int rows = lanes<T>::count;
    T *to[rows], sink[fastxent_tile_classes];
    T narrow[is_half<S> ? rows * fastxent_tile_classes : 1];
    for (int r = 0; r < rows; ++r) {
        to[r] = sink;
        if constexpr (is_half<S>)
            to[r] = narrow + r * fastxent_tile_classes;
        else if (r < count)
            to[r] = reinterpret_cast<S *>(data + offsets[r]);
    }
    for_pieces<T>(classes, [&](int64_t k, auto n) __attribute__((always_inline)) {
        lanes<T> piece[n.value];
#pragma GCC unroll 4
        for (int j = 0; j < n.value; ++j) piece[j] = closed(k + j);
        store_classes<T, n.value>(to, k, piece);
    });
    if constexpr (is_half<S>)
        for (int64_t r = 0; r < count; ++r) {
            S *row = reinterpret_cast<S *>(data + offsets[r]);
            for_lanes<T>(classes, [&](int64_t k, auto some, int) __attribute__((always_inline)) {
                write(row + k, load<T>(to[r] + k, some, T(0)), some);
            });
        }
}

template <class S, class Product, class T>
FASTXENT_ONCE void close_tile(const fastxent_strided &array, int64_t row, int64_t count,
                              int64_t classes, const T *first, const T *grad,
                              const lanes<T> &sums) {
    constexpr int rows = lanes<T>::count;
    int64_t offsets[rows];
    char *data = static_cast<char *>(array.data);
    offsets_of(array, row, count, offsets);
    const auto closed = [&](int64_t k) __attribute__((always_inline)) {
        return Product::closed(load(first + k * rows), load(grad + k * rows), sums);
    };
    const way here = way_of<S>(array, offsets, count, classes);
    if (here == way::classes) return store_rows<S>(data, offsets, count, classes, closed);
    for (int64_t k = 0; k < classes; ++k, data += array.class_stride) {
        if (here == way::positions) {
            write(reinterpret_cast<S *>(data + offsets[0]), closed(k), whole{});
            continue;
        }
        S stored[rows];
        write(stored, closed(k), whole{});
        for (int64_t r = 0; r < count; ++r)
            __builtin_memcpy(data + offsets[r], stored + r, sizeof(S));
    }
}

// Positions that lie close in all arrays, `tiles` of them at a time: from each class more than a line.
// They are kept, since classes that lie a power of two apart drive one another from the cache.
constexpr int tiles = fastxent_jacobian_tiles;

template <class S, class Product, class T>
FASTXENT_ONCE void product_of_strip(const fastxent_jacobian &pass, int64_t row, T *kept) {
    constexpr int rows = lanes<T>::count, strip = tiles * rows;
    constexpr int64_t bytes = strip * static_cast<int64_t>(sizeof(S));
    const char *first = row_at(pass.first, row), *grad = row_at(pass.grad, row);
    char *out = row_at(pass.out, row);
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
                const auto p = read(reinterpret_cast<const S *>(of_first) + i * rows, whole{});
                const auto g = read(reinterpret_cast<const S *>(of_grad) + i * rows, whole{});
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
            write(to + i * rows,
                  Product::closed(load(numbers + i * rows), load(numbers + strip + i * rows), values[i]),
                  whole{});
    }
}

// Whether so many rows from `row` on lie close, class by class.
template <class S>
FASTXENT_INLINE bool are_close(const fastxent_strided &array, int64_t row, int64_t count) {
    const int last = array.dims - 1;
    const int64_t place = last == 0 ? row : row % array.sizes[last];
    return array.aligned && array.strides[last] == sizeof(S) && place + count <= array.sizes[last];
}

template <class S, class Product> void by_tile_of(const fastxent_jacobian &pass) {
    using T = typename compute_of<S>::type;
    constexpr int64_t rows = lanes<T>::count, strip = tiles * rows;
    const fastxent_jacobian_schedule &plan = pass.schedule;
    for_chunks(plan.chunks, pass.threads, [&](int64_t chunk, int thread) {
        T *kept = static_cast<T *>(pass.scratch) + 2 * thread * strip * pass.classes;
        const int64_t begin = chunk * plan.chunk_rows, to = begin + plan.chunk_rows;
        const int64_t end = to < pass.rows ? to : pass.rows;
        for (int64_t row = begin; row < end;) {
            if (strip <= end - row && are_close<S>(pass.first, row, strip) &&
                are_close<S>(pass.grad, row, strip) && are_close<S>(pass.out, row, strip)) {
                product_of_strip<S, Product>(pass, row, kept);
                row += strip;
                continue;
            }
            const int64_t count = rows < end - row ? rows : end - row;
            T *first = kept, *grad = kept + rows * pass.classes;
            load_tile<S>(pass.first, row, count, pass.classes, first);
            load_tile<S>(pass.grad, row, count, pass.classes, grad);
            const int64_t next = row + 2 * rows < end ? row + 2 * rows : row;
            const char *ahead[] = {row_at(pass.first, next), row_at(pass.grad, next),
                                   row_at(pass.out, next)};
            const lanes<T> sums = tile_sums<T, Product>(first, grad, pass.classes, ahead);
            close_tile<S, Product>(pass.out, row, count, pass.classes, first, grad, sums);
            row += count;
        }
    });
}

}  // namespace jacobian
}  // namespace
