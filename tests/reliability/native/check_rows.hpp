// Results of a row_call held against those by hand, and one thread against three.
#pragma once

#include "rows.hpp"

class row_check {
    const row_call &call_;
    const fastxent_pass &pass_;
    naive_options options_;
    std::vector<double> x_;  // logits before the call

  public:
    row_check(const row_call &call, std::vector<double> logits)
        : call_(call), pass_(call.pass), x_(std::move(logits)) {
        options_ = {pass_.logit_scale, pass_.softcap, pass_.z_loss};
    }

    void all_rows() const {
        careful_sum total;
        double terms = 1.0;
        bool special = false;
        for (int64_t row = 0; row < call_.rows; ++row) {
            const naive_row truth = one_row(row);
            total += truth.loss, terms += truth.scale, special |= !std::isfinite(truth.loss);
        }
        if (pass_.total && !special)
            require_close(*pass_.total, total.value(), terms, pass_.size, fastxent_float64, "total");
    }

  private:
    double result(const void *data, int64_t row) const {
        const char *place = static_cast<const char *>(data) + row * pass_.size;
        return pass_.size == 8 ? stored<double>(place) : static_cast<double>(stored<float>(place));
    }
    void require_statistic(const void *data, int64_t row, double truth, double size,
                           const char *what) const {
        if (data) require_close(result(data, row), truth, size, pass_.size, fastxent_float64, what);
    }
    void require_class(const array &results, const fastxent_matrix &place, int64_t at, double truth,
                       double size, const char *what) const {
        if (!place.data) return;
        const array &from = place.data == pass_.logits.data ? call_.logits : results;
        require_close(from.number(at), truth, size, pass_.size, from.kind, what);
    }

    std::vector<double> masses(int64_t row, int64_t label) const {
        std::vector<double> t(call_.classes, 0.0);
        if (call_.is_softmax) return t;
        for (int64_t k = 0; k < call_.classes; ++k) {
            if (pass_.background)
                t[k] = row_call::factor(pass_.background, pass_.background_step, k, pass_.size);
            if (!pass_.soft.data) continue;
            const double share =
                pass_.gain ? row_call::factor(pass_.gain, pass_.gain_step, k, pass_.size) : 1.0;
            t[k] += share * call_.soft.number(row * call_.classes + k);
        }
        if (label >= 0) t[label] += pass_.spike[label * pass_.spike_step];
        return t;
    }

    // A row that is not computed is filled with 0, or with NaN where its label is no class.
    naive_row filled_row(int64_t row, double filling) const {
        naive_row truth = {};
        truth.loss = filling, truth.scale = 1.0;
        require_statistic(pass_.loss, row, filling, 0, "loss of a row that is left out");
        require_statistic(pass_.log_prob, row, filling, 0, "log_prob of a row that is left out");
        require_statistic(pass_.entropy, row, filling, 0, "entropy of a row that is left out");
        if (pass_.argmax) REQUIRE(pass_.argmax[row] == -1, "argmax of a row that is left out");
        for (int64_t at = row * call_.classes; at < (row + 1) * call_.classes; ++at) {
            require_class(call_.grad, pass_.grad, at, filling, 0, "gradient of a row that is left out");
            require_class(call_.proba, pass_.proba, at, filling, 0, "softmax of a row that is left out");
            require_class(call_.hess, pass_.hess, at, filling, 0, "Hessian of a row that is left out");
        }
        return truth;
    }

    naive_row one_row(int64_t row) const {
        int64_t label = -1;
        if (call_.has_labels) {
            if (call_.labels.skipped(row)) return filled_row(row, 0.0);
            if (!call_.labels.is_class(row)) return filled_row(row, nan_number);
            label = call_.labels.numbers[row];
        }
        std::vector<double> z(call_.classes);
        for (int64_t k = 0; k < call_.classes; ++k) z[k] = options_.transformed(x_[row * call_.classes + k]);
        const std::vector<double> t = masses(row, label);
        naive_row truth = row_by_hand(z, t, label, options_);
        if (call_.is_softmax) truth.mass = truth.special ? nan_number : 1.0;
        statistics_of(row, truth, z, label);
        const double scale = pass_.row_scale[row * pass_.row_scale_step];
        for (int64_t k = 0; k < call_.classes; ++k) class_of(row, k, truth, z, t[k], label, scale);
        return truth;
    }

    void statistics_of(int64_t row, const naive_row &truth, const std::vector<double> &z,
                       int64_t label) const {
        require_statistic(pass_.loss, row, truth.loss, truth.scale, "loss");
        const double size = 4 + std::fabs(truth.max);
        if (label >= 0) {
            const double terms = size + std::fabs(std::isfinite(z[label]) ? z[label] : 0.0);
            require_statistic(pass_.log_prob, row, truth.log_prob, terms, "log_prob");
        }
        if (!truth.special) {
            require_statistic(pass_.row_max, row, truth.max, size, "row_max");
            if (pass_.row_sum)
                require_close(pass_.row_sum[row], truth.sum, truth.sum * size, pass_.size,
                              fastxent_float64, "row_sum");
        }
        require_statistic(pass_.entropy, row, truth.entropy, 8 * size, "entropy");
        if (!pass_.argmax || truth.special) {
            if (pass_.argmax) REQUIRE(pass_.argmax[row] == -1, "argmax where there is no softmax");
            return;
        }
        const int64_t found = pass_.argmax[row];
        REQUIRE(found >= 0 && found < call_.classes, "argmax %lld", static_cast<long long>(found));
        if (options_.softcap == 0.0 && options_.logit_scale == 1.0)
            REQUIRE(found == truth.argmax, "argmax %lld, not %lld", static_cast<long long>(found),
                    static_cast<long long>(truth.argmax));
    }

    void class_of(int64_t row, int64_t k, const naive_row &truth, const std::vector<double> &z, double t,
                  int64_t label, double scale) const {
        const int64_t at = row * call_.classes + k;
        const double size = 8 + std::fabs(truth.max) + std::fabs(std::isfinite(z[k]) ? z[k] : 0.0);
        const double p = truth.special ? nan_number : std::exp(z[k] - truth.max) / truth.sum;
        const double grad = scale * grad_by_hand(truth, z[k], t, options_);
        const double share = truth.special ? 0.0 : std::fabs(truth.mass) * p + 0.1 * p * std::fabs(truth.max);
        const double terms = scale * (share + std::fabs(t)) * size * 2 + 1e-30;
        require_class(call_.grad, pass_.grad, at, grad, terms, "gradient");
        require_class(call_.proba, pass_.proba, at, p, p * size + 1e-30, "softmax");
        const double log_p = truth.special ? nan_number : z[k] - truth.max - truth.log_sum;
        require_class(call_.log_proba, pass_.log_proba, at, log_p, 2 * size, "log_softmax");
        if (pass_.hess.data) {
            const double rest = pass_.hess_is_distance && k != label ? p : 1 - p;
            const double value = (pass_.hess_is_distance ? rest : p * rest) * scale * pass_.hess_factor;
            const double truth_there = std::isnan(value) ? value : std::fmax(value, pass_.hess_floor);
            require_class(call_.hess, pass_.hess, at, truth_there, size * scale * 4, "Hessian");
        }
        if (pass_.target_grad.data) {
            const double gain = pass_.gain ? row_call::factor(pass_.gain, pass_.gain_step, k, pass_.size) : 1.0;
            require_class(call_.target_grad, pass_.target_grad, at, -scale * gain * log_p,
                          2 * size * scale * gain, "gradient of the target");
        }
    }
};

inline void check_rows(source &from, const fastxent_level &level, int64_t most) {
    row_call call(from, level, most);
    array *const arrays[] = {&call.logits,    &call.soft,        &call.grad, &call.proba,
                             &call.hess,      &call.log_proba,   &call.target_grad};
    const std::vector<double> logits = call.logits.numbers();
    std::vector<std::vector<char>> before, after;
    for (const array *one : arrays) before.push_back(one->image());
    call.run(1);
    for (int i = 0; i < 7; ++i) {
        arrays[i]->require_gaps_untouched(before[i]);
        after.push_back(arrays[i]->image());
    }
    if (!call.in_place) REQUIRE(after[0] == before[0], "logits were written to");
    REQUIRE(after[1] == before[1], "the target was written to");
    if (!call.wild) row_check(call, logits).all_rows();
    std::vector<char> loss(call.loss.data(), call.loss.data() + (call.loss ? call.loss.count() : 0));
    const double total = call.pass.total ? call.total[0] : 0.0;
    for (int i = 0; i < 7; ++i) arrays[i]->restore(before[i]);
    call.run(3);
    for (int i = 0; i < 7; ++i) require_same_bits(*arrays[i], after[i], "an output");
    const int kind = call.pass.size == 8 ? fastxent_float64 : fastxent_float32;
    for (size_t at = 0; at < loss.size(); at += call.pass.size)
        REQUIRE(same_number(loss.data() + at, call.loss.data() + at, kind),
                "a loss has other bits on three threads");
    if (call.pass.total)
        REQUIRE(same_number(reinterpret_cast<const char *>(&total), reinterpret_cast<char *>(call.pass.total),
                            fastxent_float64),
                "the total has other bits on three threads");
}
