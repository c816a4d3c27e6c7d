// Which instruction levels were built and which of them this CPU runs; how a pass is cut up.
#include "jacobian_pass.hpp"
#include "kernels.hpp"
#include "shard_pass.hpp"

#ifdef FASTXENT_HAVE_V3
#include <cpuid.h>
#endif
#include <ctime>

#ifdef _OPENMP
#include <omp.h>
#endif

extern const fastxent_level fastxent_level_baseline;
#ifdef FASTXENT_HAVE_V3
extern const fastxent_level fastxent_level_v3;
#endif
#ifdef FASTXENT_HAVE_V4
extern const fastxent_level fastxent_level_v4;
#endif

const fastxent_level *const fastxent_levels[] = {
    &fastxent_level_baseline,
#ifdef FASTXENT_HAVE_V3
    &fastxent_level_v3,
#endif
#ifdef FASTXENT_HAVE_V4
    &fastxent_level_v4,
#endif
};

const int fastxent_level_count = sizeof fastxent_levels / sizeof *fastxent_levels;

#ifdef FASTXENT_HAVE_V3
// What clang 14's __builtin_cpu_supports does not know: bits of the second-last register of cpuid.
static bool has_small_extensions() {
    const unsigned movbe = 1u << 22, f16c = 1u << 29, lzcnt = 1u << 5;
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & movbe) || !(c & f16c)) return false;
    return __get_cpuid(0x80000001, &a, &b, &c, &d) && (c & lzcnt);
}
#endif

// __builtin_cpu_supports also asks whether the operating system saves the wide registers.
int fastxent_supported_levels() {
    int supported = 1;
#if defined(FASTXENT_HAVE_V3) || defined(FASTXENT_HAVE_V4)
    __builtin_cpu_init();
#endif
#ifdef FASTXENT_HAVE_V3
    if (!(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
          __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") &&
          has_small_extensions()))
        return supported;
    ++supported;
#endif
#ifdef FASTXENT_HAVE_V4
    if (!(__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
          __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
          __builtin_cpu_supports("avx512vl")))
        return supported;
    ++supported;
#endif
    return supported;
}

int fastxent_openmp_version() {
#ifdef _OPENMP
    return _OPENMP;
#else
    return 0;
#endif
}

int fastxent_openmp_limit() {
#ifdef _OPENMP
    return omp_get_max_threads();
#else
    return 1;
#endif
}

namespace {

// Two milliseconds and more leave nothing of the 5 us that a team takes; what is slow (elements that
// lie far apart: 20 ns each) must still end within a second.
constexpr int64_t slice_nanoseconds = 10'000'000, most_slice_elements = int64_t{1} << 25;

// Where other threads run Python, its lock is to be had after 5 ms.
constexpr int64_t ask_nanoseconds = 100'000'000;

int64_t clock_nanoseconds() {
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * int64_t{1'000'000'000} + now.tv_nsec;
}

}  // namespace

void fastxent_begin_watch(fastxent_watch &watch, bool (*interrupted)()) {
    const int64_t now = clock_nanoseconds();
    watch = {interrupted, fastxent_slice_elements, fastxent_slice_elements, now, now + ask_nanoseconds};
}

bool fastxent_interrupted(fastxent_watch &watch) {
    const int64_t now = clock_nanoseconds();
    if (now - watch.looked < slice_nanoseconds && watch.slice < most_slice_elements) watch.slice *= 2;
    watch.left = watch.slice;
    watch.looked = now;
    if (now < watch.ask) return false;
    const bool raised = watch.interrupted();
    watch.looked = clock_nanoseconds();
    watch.ask = watch.looked + ask_nanoseconds;
    return raised;
}

namespace {

// Rows of a chunk of tiles are whole tiles of 16 rows.
constexpr int64_t tile_rows = 16;

// Until rows are closed their exponentials are to stay in L1: so many classes at a time.
constexpr int64_t group_classes = 4096;

int64_t within(int64_t number, int64_t least, int64_t most) {
    return number < least ? least : number > most ? most : number;
}

int64_t over(int64_t number, int64_t by) { return (number + by - 1) / by; }

// Rows of a chunk, as far as they are whole.
int64_t rows_of_chunk(int64_t classes) { return within(fastxent_chunk_elements / classes, 1, INT64_MAX); }

// Longer rows are cut up even for a single thread, so that a call of one row can be interrupted: a
// piece takes a third of a second where each of its elements takes 20 ns.
constexpr int64_t piece_classes = 1 << 24;

// Pieces into which rows are cut: more than one where threads would have nothing to do, or where they
// are very long.
int64_t pieces_of(int64_t classes, int64_t chunks, int64_t threads) {
    const int64_t least = over(classes, piece_classes);
    if (least == 1 && (threads == 1 || chunks >= 2 * threads)) return 1;
    return within(over(classes, fastxent_chunk_elements), least, least < 8 * threads ? 8 * threads : least);
}

int64_t item_size(int kind) {
    constexpr int64_t sizes[] = {4, 8, 2, 2, 1};
    return sizes[kind];
}

// Classes side by side, stored as what is computed with.
bool computed_in_place(const fastxent_matrix &matrix, int size) {
    return item_size(matrix.kind) == size && matrix.class_stride == size;
}

// Fewer rows side by side than this would leave lanes empty; a tile of more classes would leave the
// caches. Their numbers are exact in float32.
constexpr int64_t least_run = 16;
constexpr int64_t most_column_classes = 1 << 20;

bool lies_in_columns(const fastxent_pass &pass) {
    const fastxent_matrix &logits = pass.logits;
    const int64_t size = item_size(logits.kind);
    return logits.stride[0] == size && logits.class_stride != size &&
           logits.size[0] >= least_run && pass.classes <= most_column_classes;
}

}  // namespace

fastxent_schedule fastxent_schedule_of(const fastxent_pass &pass) {
    const int64_t rows = pass.rows, classes = pass.classes;
    fastxent_schedule schedule = {};
    schedule.columns = !pass.in_blocks && lies_in_columns(pass);
    schedule.tiles = schedule.columns || (!pass.in_blocks && classes <= fastxent_tile_classes);
    schedule.reads_directly = computed_in_place(pass.logits, pass.size) && pass.softcap == 0.0 &&
                              pass.logit_scale == 1.0 && !schedule.columns;
    const fastxent_matrix &out = pass.grad.data ? pass.grad : pass.log_proba;
    schedule.writes_directly = !out.data || computed_in_place(out, pass.size);
    schedule.soft_directly = pass.soft.data && computed_in_place(pass.soft, pass.size) && !pass.gain;
    schedule.keeps_logits = (pass.softcap != 0.0 && pass.grad.data) || pass.target_grad.data ||
                            pass.entropy;
    if (schedule.tiles)
        schedule.keeps_logits |= pass.log_proba.data || pass.argmax;
    else
        schedule.keeps_logits |= pass.log_proba.data && !schedule.reads_directly;

    const int64_t lanes = 64 / pass.size;
    schedule.run = schedule.columns ? pass.logits.size[0] : rows > 0 ? rows : 1;
    schedule.chunk_rows = rows_of_chunk(classes);
    schedule.pieces = 1;
    if (schedule.tiles) {
        schedule.tiles_of_run = over(schedule.run, lanes);
        schedule.chunk_rows = over(schedule.chunk_rows, tile_rows) * tile_rows;
        schedule.chunk_tiles = schedule.chunk_rows / lanes;
        schedule.chunks = over(rows / schedule.run * schedule.tiles_of_run, schedule.chunk_tiles);
        schedule.tiles_at_a_time = classes <= fastxent_tile_classes ? 2 : 1;
        schedule.buffer = classes * lanes;
        schedule.buffers = 2 + schedule.keeps_logits + (pass.soft.data != nullptr);
        schedule.thread_bytes =
            schedule.tiles_at_a_time * schedule.buffers * schedule.buffer * pass.size;
        return schedule;
    }
    schedule.chunks = over(rows, schedule.chunk_rows);
    schedule.blocks = over(classes, fastxent_block);
    schedule.group_rows = within(group_classes / classes, 1, 8);
    schedule.pieces = pieces_of(classes, schedule.chunks, pass.threads);
    if (!schedule.reads_directly || !schedule.writes_directly || schedule.keeps_logits ||
        (pass.soft.data && !schedule.soft_directly) || pass.proba.data || pass.hess.data) {
        // memory that nobody touches costs nothing: every buffer has room for all
        schedule.buffer = over(within(schedule.group_rows * classes, fastxent_block, INT64_MAX), lanes) * lanes;
        schedule.buffers = 4;
    }
    const int64_t sums = schedule.group_rows * schedule.blocks * sizeof(fastxent_block_sums);
    schedule.thread_bytes = schedule.buffers * schedule.buffer * pass.size;
    // of a row that threads share there is one set of sums
    (schedule.pieces > 1 ? schedule.shared_bytes : schedule.thread_bytes) += over(sums, 64) * 64;
    return schedule;
}

int64_t fastxent_scratch_bytes(const fastxent_pass &pass) {
    return pass.schedule.thread_bytes * pass.threads + pass.schedule.shared_bytes +
           pass.schedule.chunks * static_cast<int64_t>(sizeof(double));
}

void fastxent_plan_shard(fastxent_shard &shard) {
    fastxent_schedule &schedule = shard.pass.schedule;
    shard.pass.in_blocks = true;
    schedule = {};
    shard.pieces = 1;
    if (shard.pass.classes == 0) return;  // no chunks
    schedule = fastxent_schedule_of(shard.pass);
    shard.pieces = schedule.pieces;
    // pieces of rows are tasks of their own: each thread has sums of its own
    schedule.pieces = 1;
    schedule.thread_bytes += schedule.shared_bytes;
    schedule.shared_bytes = 0;
}

void fastxent_plan_merge(fastxent_shard &shard) {
    fastxent_schedule &schedule = shard.pass.schedule;
    schedule = {};
    schedule.chunk_rows = rows_of_chunk(shard.pass.classes);
    schedule.chunks = over(shard.pass.rows, schedule.chunk_rows);
    const int64_t sums = within(shard.sums.parts, 1, INT64_MAX) * sizeof(fastxent_block_sums);
    schedule.thread_bytes = over(sums, 64) * 64;
    // rows that have lines of memory in common, several of them
    shard.task_chunks = over(64, schedule.chunk_rows);
}

fastxent_jacobian_schedule fastxent_jacobian_schedule_of(const fastxent_jacobian &pass) {
    const int64_t size = item_size(pass.out.kind), lanes = size == 8 ? 8 : 16;
    fastxent_jacobian_schedule plan = {};
    plan.chunk_rows = rows_of_chunk(pass.classes);
    plan.pieces = 1;
    if (pass.classes > fastxent_jacobian_tile_classes && pass.first.class_stride == size &&
        pass.grad.class_stride == size && pass.out.class_stride == size) {
        plan.blocks = over(pass.classes, fastxent_block);
        plan.chunks = over(pass.rows, plan.chunk_rows);
        plan.pieces = pieces_of(pass.classes, plan.chunks, pass.threads);
        plan.scratch_bytes = 8 * plan.blocks * (plan.pieces > 1 ? pass.rows : pass.threads);
        return plan;
    }
    plan.tiles = true;
    // whole strips of tiles, unless some threads would have nothing to do
    const int64_t strip = fastxent_jacobian_tiles * lanes;
    const int64_t step = pass.rows < 2 * pass.threads * strip ? lanes : strip;
    plan.chunk_rows = over(plan.chunk_rows, step) * step;
    plan.chunks = over(pass.rows, plan.chunk_rows);
    plan.scratch_bytes = 2 * 64 * fastxent_jacobian_tiles * pass.classes * pass.threads;
    return plan;
}
