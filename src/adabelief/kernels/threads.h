/* Threads are those of the framework whose arrays are stepped: its OpenMP runtime, which counts what torch.set_num_threads
 * says. One that were linked here would be a second one, with as many threads again, and a wheel would have to bring it.
 * So cpu.py looks it up when it loads the library. GCC's runtime and LLVM's have GOMP_parallel, which is what GCC makes of
 * `omp parallel`; those of Windows have not, and there it is the compiler's own.
 */
#ifdef _OPENMP
#include <omp.h>
#else
static void (*GOMP_parallel)(void (*part)(void *), void *work, unsigned threads, unsigned flags);
static int (*omp_in_parallel)(void), (*omp_get_max_threads)(void), (*omp_get_num_threads)(void);
static int (*omp_get_thread_num)(void);

/* Takes the addresses in the order of cpu.py. */
EXPORT void adabelief_share_threads(void *const *found) {
    memcpy(&GOMP_parallel, &found[0], sizeof(void *)); /* ISO C casts no object's address to a function's */
    memcpy(&omp_in_parallel, &found[1], sizeof(void *));
    memcpy(&omp_get_max_threads, &found[2], sizeof(void *));
    memcpy(&omp_get_num_threads, &found[3], sizeof(void *));
    memcpy(&omp_get_thread_num, &found[4], sizeof(void *));
}
#endif

/* How many a step may take. */
EXPORT int adabelief_threads(void) {
#ifndef _OPENMP
    if (!GOMP_parallel) return 1;
#endif
    return omp_in_parallel() ? 1 : omp_get_max_threads(); /* the caller's are busy already */
}

/* Calls `part` in each of them. */
static void in_parallel(void (*part)(void *), void *work, int threads) {
#ifdef _OPENMP
#pragma omp parallel num_threads(threads)
    part(work);
#else
    GOMP_parallel(part, work, (unsigned)threads, 0);
#endif
}
