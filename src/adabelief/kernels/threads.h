/* Threads are those of the framework whose arrays are stepped: its OpenMP runtime, which counts what torch.set_num_threads
 * says. One that were linked here would be a second one, with as many threads again, and a wheel would have to bring it.
 * So cpu.py looks it up when it loads the library. A region is begun as GCC's compilers do, whose call LLVM's runtime knows
 * too, but for that of Windows, or as LLVM's do.
 */
typedef struct {
    int32_t reserved[4]; /* in the second a flag: written by a compiler of today */
    const char *place;
} Source;

static Source here = {{0, 2, 0, 0}, ";adabelief;update;0;0;;"};

static struct { /* in the order of cpu.py */
    int (*in_parallel)(void), (*max_threads)(void), (*num_threads)(void), (*thread_num)(void);
    void (*gomp_parallel)(void (*part)(void *), void *work, unsigned threads, unsigned flags);
    int32_t (*kmpc_thread_num)(Source *);
    void (*kmpc_push_num_threads)(Source *, int32_t thread, int32_t threads);
    void (*kmpc_fork_call)(Source *, int32_t arguments, void (*part)(int32_t *, int32_t *, ...), ...);
} openmp;

EXPORT void adabelief_share_threads(const void *found) { memcpy(&openmp, found, sizeof openmp); }

/* How many a step may take. */
EXPORT int adabelief_threads(void) {
    return !openmp.in_parallel || openmp.in_parallel() ? 1 : openmp.max_threads(); /* the caller's are busy already */
}

static void update_share(void *work);

static void update_share_of_llvm(int32_t *thread, int32_t *team, void *work) {
    (void)thread, (void)team;
    update_share(work);
}

/* Calls update_share in each of some threads. */
static void update_in_parallel(void *work, int threads) {
    if (openmp.gomp_parallel) {
        openmp.gomp_parallel(update_share, work, (unsigned)threads, 0);
    } else {
        openmp.kmpc_push_num_threads(&here, openmp.kmpc_thread_num(&here), threads);
        openmp.kmpc_fork_call(&here, 1, (void (*)(int32_t *, int32_t *, ...))update_share_of_llvm, work);
    }
}
