// One call of the verbs forward and softmax, and its results by hand.
#pragma once

#include <memory>

#include "naive.hpp"

inline int64_t draw_classes(source &from, int64_t most) {
    const int64_t classes =
        from.chance(3) ? from.one_of<int64_t>({1, 2, 16, 17, 32, 33, 64, 99, 100, 101, 1023, 1024, 1025, 2049,
                                               4097, 17000, 40000})
                       : 1 + from.below(130);
    return classes < most ? classes : most;
}

inline std::vector<int64_t> draw_rows(source &from, int64_t most) {
    if (from.chance(16)) return {0};
    int64_t rows = 1 + from.below(most < 1 ? 1 : most > 90 && !from.chance(8) ? 90 : most);
    const int dims = from.chance(3) ? 2 + static_cast<int>(from.below(3)) : 1;
    std::vector<int64_t> shape;
    for (int d = 1; d < dims; ++d) {
        const int64_t size = rows % 3 == 0 ? 3 : rows % 2 == 0 ? 2 : 1;
        shape.push_back(size);
        rows /= size;
    }
    shape.push_back(rows);
    return shape;
}

// Class indices of any type: some skipped, and a few that are no class.
struct drawn_labels {
    column<char> bytes;
    fastxent_labels labels = {};
    std::vector<int64_t> numbers;  // 64-bit patterns
    void make(source &from, int64_t rows, int64_t classes, bool with_bad) {
        constexpr int kinds[] = {fastxent_uint8,  fastxent_int8,  fastxent_uint16, fastxent_int16,
                                 fastxent_uint32, fastxent_int32, fastxent_uint64, fastxent_int64};
        const int number = static_cast<int>(from.below(8)), size = item_sizes[kinds[number]];
        bytes.make(rows * size);
        labels = {bytes.data(), rows, classes, size, number % 2, from.chance(2), 0};
        if (labels.has_skip) labels.skip = from.one_of<int64_t>({-100, -1, 0, 3, 255});
        for (int64_t row = 0; row < rows; ++row) {
            // what the type has room for
            const int bits = 8 * size - number % 2;
            const int64_t most = bits < 40 ? (int64_t(1) << bits) - 1 : INT64_MAX;
            int64_t label = from.below(classes <= most ? classes : most + 1);
            const bool fits = labels.skip <= most && (labels.skip >= 0 || number % 2);
            if (labels.has_skip && fits && from.chance(4)) label = labels.skip;
            if (with_bad && from.chance(8)) label = from.one_of<int64_t>({-1, classes, -7, 1 << 20, INT64_MIN});
            std::memcpy(bytes.data() + row * size, &label, size);
            numbers.push_back(read(row, kinds[number]));
        }
    }
    bool skipped(int64_t row) const { return labels.has_skip && numbers[row] == labels.skip; }
    bool is_class(int64_t row) const { return numbers[row] >= 0 && numbers[row] < labels.classes; }

  private:
    int64_t read(int64_t row, int kind) const {
        const char *from = bytes.data() + row * item_sizes[kind];
        if (kind == fastxent_uint64 || kind == fastxent_int64) return stored<int64_t>(from);
        return static_cast<int64_t>(number_at(kind, from));
    }
};

struct row_call {
    const fastxent_level &level;
    bool is_softmax, wild, soft_targets, has_labels, in_place;
    int64_t rows, classes;
    fastxent_pass pass = {};
    array logits, soft, grad, proba, hess, log_proba, target_grad;
    drawn_labels labels;
    column<char> spike, row_scale, background, gain, loss, row_max, log_prob, entropy;
    column<double> row_sum, total;
    column<int64_t> argmax;
    scratch memory;
    double one = 1.0;

    row_call(source &from, const fastxent_level &level_in_use, int64_t most) : level(level_in_use) {
        classes = draw_classes(from, most);
        std::vector<int64_t> shape = draw_rows(from, most / classes);
        rows = 1;
        for (int64_t n : shape) rows *= n;
        shape.push_back(classes);
        is_softmax = from.chance(5);
        wild = from.chance(4);
        in_place = from.chance(4);
        const int kind = static_cast<int>(from.below(4));
        pass.rows = rows, pass.classes = classes, pass.size = kind == fastxent_float64 ? 8 : 4;
        pass.logit_scale = 1.0;
        logits.make(from, kind, shape, in_place);
        draw_logits(from);
        pass.logits = logits.matrix();
        soft_targets = has_labels = false;
        if (is_softmax)
            draw_softmax(from, shape);
        else
            draw_forward(from, shape);
    }

    void run(int threads) {
        pass.threads = threads;
        pass.schedule = fastxent_schedule_of(pass);
        pass.scratch = memory.make(fastxent_scratch_bytes(pass));
        level.forward(pass);
    }

    // `count` factors of float64 or of the compute type: an array, or one that fills 64 bytes.
    const void *factors(source &from, column<char> &place, int64_t count, int64_t *step, int size,
                        double high) {
        *step = !from.chance(2);
        const int64_t length = *step ? count : size == 8 ? 8 : 16;
        char *data = place.make(length * size);
        const double constant = from.between(0, high);
        for (int64_t i = 0; i < length; ++i) {
            const double number = !*step ? constant : from.chance(6) ? 0.0 : from.between(0, high);
            const float narrow = static_cast<float>(number);
            std::memcpy(data + i * size, size == 8 ? static_cast<const void *>(&number) : &narrow, size);
        }
        return data;
    }
    static double factor(const void *data, int64_t step, int64_t i, int size) {
        const char *place = static_cast<const char *>(data) + i * step * size;
        return size == 8 ? stored<double>(place) : static_cast<double>(stored<float>(place));
    }

    void draw_logits(source &from) {
        logits.draw(from, wild, from.one_of({0.01, 1.0, 3.0}));
        if (!from.chance(3) || logits.count() == 0) return;
        const double special = from.one_of({-infinite, -infinite, infinite, nan_number});
        for (int64_t i = 1 + from.below(8); i > 0; --i)
            put_special(logits.kind, logits.at(from.below(logits.count())), special);
        if (from.chance(3))  // all of a row
            for (int64_t k = 0, row = from.below(rows); k < classes; ++k)
                put_special(logits.kind, logits.at(row * classes + k), -infinite);
    }

    void make_output(source &from, array &out, fastxent_matrix &place, int kind,
                     const std::vector<int64_t> &shape) {
        out.make(from, kind, shape, true);
        place = out.matrix();
    }

    void draw_softmax(source &from, const std::vector<int64_t> &shape) {
        pass.row_scale = &one, pass.background_total = 1.0;
        if (from.chance(2)) pass.row_max = row_max.make(rows * pass.size);
        if (from.chance(2)) pass.row_sum = row_sum.make(rows);
        const int64_t which = from.below(3);
        if (which == 0 && !in_place) make_output(from, grad, pass.grad, logits.kind, shape);
        if (which == 1 && !in_place) make_output(from, log_proba, pass.log_proba, logits.kind, shape);
        if (in_place) (which == 1 ? pass.log_proba : pass.grad) = pass.logits;
    }

    void draw_forward(source &from, const std::vector<int64_t> &shape) {
        const int size = pass.size, kind = logits.kind;
        soft_targets = from.chance(3);
        has_labels = !soft_targets;
        if (from.chance(3)) pass.softcap = from.one_of({5.0, 30.0});
        if (from.chance(3)) pass.logit_scale = from.one_of({0.7, 1.3});
        if (from.chance(3)) pass.z_loss = 1e-3;
        pass.row_scale =
            static_cast<const double *>(factors(from, row_scale, rows, &pass.row_scale_step, 8, 2));
        pass.spike = static_cast<const double *>(factors(from, spike, classes, &pass.spike_step, 8, 2));
        const bool smoothed = from.chance(2);
        if (smoothed) pass.background = factors(from, background, classes, &pass.background_step, size, 0.1);
        if (soft_targets) {
            soft.make(from, static_cast<int>(from.below(5)), shape, false);
            soft.draw(from, wild, 0.01);
            make_positive();
            pass.soft = soft.matrix();
            if (smoothed) pass.gain = factors(from, gain, classes, &pass.gain_step, size, 2);
            if (from.chance(3)) make_output(from, target_grad, pass.target_grad, draw_storage(from), shape);
        } else {
            labels.make(from, rows, classes, from.chance(4));
            pass.labels = labels.labels;
            for (int64_t k = 0; smoothed && k < classes; ++k)
                pass.background_total += factor(pass.background, pass.background_step, k, size);
        }
        if (in_place)
            pass.grad = pass.logits;
        else if (!from.chance(4))
            make_output(from, grad, pass.grad, kind, shape);
        if (from.chance(5)) make_output(from, proba, pass.proba, kind, shape);
        if (from.chance(5)) {
            make_output(from, hess, pass.hess, kind, shape);
            pass.hess_is_distance = from.chance(2);
            pass.hess_factor = from.one_of({1.0, 2.0}), pass.hess_floor = from.one_of({0.0, 1e-16, 0.05});
        }
        if (!from.chance(3)) pass.loss = loss.make(rows * size);
        if (from.chance(2)) pass.total = total.make(1);
        if (from.chance(3)) pass.row_max = row_max.make(rows * size);
        if (from.chance(3)) pass.row_sum = row_sum.make(rows);
        if (from.chance(3)) pass.log_prob = log_prob.make(rows * size);
        if (from.chance(3)) pass.entropy = entropy.make(rows * size);
        if (from.chance(3)) pass.argmax = argmax.make(rows);
    }

    int draw_storage(source &from) const {
        return pass.size == 8 ? static_cast<int>(from.below(2)) : static_cast<int>(from.one_of({0, 2, 3}));
    }

    // Probabilities are not negative; a repeated element is met more than once.
    void make_positive() {
        for (int64_t i = 0; !wild && i < soft.count(); ++i) {
            char *place = soft.at(i);
            if (soft.kind != fastxent_uint8) place[item_sizes[soft.kind] - 1] &= 0x7f;
        }
    }
};
