// Which instruction levels were built and which of them this CPU runs; how a pass is cut up.
#include "kernels.hpp"

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

// __builtin_cpu_supports also asks whether the operating system saves the wide registers.
int fastxent_supported_levels() {
    int supported = 1;
#if defined(FASTXENT_HAVE_V3) || defined(FASTXENT_HAVE_V4)
    __builtin_cpu_init();
#endif
#ifdef FASTXENT_HAVE_V3
    if (!(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
          __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") &&
          __builtin_cpu_supports("f16c") && __builtin_cpu_supports("lzcnt") &&
          __builtin_cpu_supports("movbe")))
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

// Elements a chunk: a few microseconds of work, so that a core that is busy elsewhere delays the call
// by one chunk only.
constexpr int64_t chunk_elements = 1 << 14;
// Rows of a chunk of tiles are whole tiles of 16 rows.
constexpr int64_t tile_rows = 16;

// Until rows are closed their exponentials are to stay in L1: so many classes at a time.
constexpr int64_t group_classes = 4096;

int64_t within(int64_t number, int64_t least, int64_t most) {
    return number < least ? least : number > most ? most : number;
}

int64_t over(int64_t number, int64_t by) { return (number + by - 1) / by; }

}  // namespace

fastxent_schedule fastxent_schedule_of(int64_t rows, int64_t classes, int threads) {
    fastxent_schedule schedule;
    schedule.tiles = classes <= fastxent_tile_classes;
    schedule.chunk_rows = classes < chunk_elements ? chunk_elements / classes : 1;
    if (schedule.tiles) schedule.chunk_rows = over(schedule.chunk_rows, tile_rows) * tile_rows;
    schedule.chunks = over(rows, schedule.chunk_rows);
    schedule.blocks = over(classes, fastxent_block);
    schedule.group_rows = within(group_classes / classes, 1, 8);
    schedule.pieces = 1;
    if (!schedule.tiles && threads > 1 && schedule.chunks < 2 * threads) {
        const int64_t most = over(classes, chunk_elements);
        schedule.pieces = most < 8 * threads ? most : 8 * threads;
    }
    return schedule;
}

int64_t fastxent_scratch_bytes(const fastxent_pass &pass) {
    const fastxent_schedule &schedule = pass.schedule;
    const int64_t rows = schedule.tiles        ? 0
                         : schedule.pieces > 1 ? 1
                                               : schedule.group_rows * pass.threads;
    return schedule.chunks * static_cast<int64_t>(sizeof(double)) +
           rows * schedule.blocks * static_cast<int64_t>(sizeof(fastxent_block_sums));
}
