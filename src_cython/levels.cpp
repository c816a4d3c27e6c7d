// Which instruction levels were built, and which of them this CPU runs.
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
