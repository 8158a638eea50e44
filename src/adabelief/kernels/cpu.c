/* One AdaBelief step of a whole list of tensors, at the speed of memory.
 *
 * Knows addresses and numbers, nothing of frameworks. The element-wise rule is that of adabelief/rule.py:
 *
 *     p <- shrink p;  g <- gain g + l2 p
 *     d = g - m;  m <- m + mean_gain d;  s <- beta2 s + belief_gain d d + eps
 *     p <- p - step_size cut(m / (sqrt(max s) root_scale + offset))                     (to [-bound, bound])
 *     slow <- slow + alpha (p - slow), p <- slow                                        (where Lookahead is due)
 *
 * where from g, or else from what is cut, the mean of its row is taken, of steps that of the cut ones (if it is centralized).
 * Half-precision parameters are computed in float, with float state, and rounded once, to nearest even: by the tile, as what is
 * in codes is (tiles.h).
 * Every loop below is written so that the compiler vectorises it, for each of several instruction sets; which of them
 * runs is chosen when the library is loaded.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(_WIN32)
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && defined(__GLIBC__) /* musl does not choose */
/* x86-64-v4 is AVX-512, v3 is AVX2 with fused multiply-add; the default is what every such processor has */
#define CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#define CHOOSES 1
#else
#define CLONES
#define CHOOSES 0
#endif

#if defined(__GNUC__)
#define INLINE static inline __attribute__((always_inline))
#else
#define INLINE static inline
#endif

#define ALIGNED _Alignas(64) /* as a register and a cache line are */

/* Before a loop over arrays that do not overlap: it does without the compiler's own look at their addresses. */
#if defined(__clang__)
#define APART _Pragma("clang loop vectorize(assume_safety)")
#elif defined(__GNUC__)
#define APART _Pragma("GCC ivdep")
#else
#define APART
#endif

/* The lists of kernels/layout.py, which compares them when the library is loaded. */
#define COLUMNS(X)                                                                                                     \
    X(p) X(g) X(m) X(s) X(s_max) X(slow) X(rest) X(m_exponents) X(s_exponents) X(s_max_exponents)                              \
    X(elements) X(rows) X(row_length) X(first)
#define SCALARS(X)                                                                                                     \
    X(gain) X(shrink) X(l2) X(mean_gain) X(beta2) X(belief_gain) X(eps) X(step_size) X(root_scale) X(offset)           \
    X(bound) X(alpha) X(synchronize) X(skip) X(t)

#define ADDRESS_OR_COUNT(name) int64_t name;
#define NUMBER(name) double name;
#define WORD(name) #name " "

/* One tensor: addresses, 0 where unused, then how many elements there are; rows > 0 where it is centralized; and where its
 * state is in codes, the length of a row, and the index of its first element in the whole that it is a part of. */
typedef struct {
    COLUMNS(ADDRESS_OR_COUNT)
} Tensor;

typedef struct {
    SCALARS(NUMBER)
} Scalars;

enum { AMSGRAD = 1, LOOKAHEAD = 2, CENTRALIZED_STEPS = 4 }; /* the last: of rows, instead of gradients */
enum { M_HALF = 8, M_CODES = 16, S_HALF = 32, S_CODES = 64, P_DITHERED = 128, P_24 = 256, P_32 = 512 };
enum { CODED = M_HALF | M_CODES | S_HALF | S_CODES | P_DITHERED | P_24 | P_32 };
enum { BLOCK = 256 };
static const uint32_t DITHER_A = 0x9E3779B1u, DITHER_B = 0x61C88647u;

EXPORT const char *adabelief_layout(void) {
    return COLUMNS(WORD) SCALARS(WORD) "float32 float64 bfloat16 float16";
}

#include "types.h"

#define MAX_OF(x, y) ((x) > (y) || (x) != (x) ? (x) : (y)) /* nan wins, as in torch.maximum */

/* One tensor's arrays, and the scalars, in R, the type of all arithmetic; `usual` ones leave g as it is and cut nothing. */
#define OPERANDS(R, usual)                                                                                             \
    R *restrict p = (R *)(intptr_t)tensor->p;                                                                          \
    const R *restrict g = (const R *)(intptr_t)tensor->g;                                                              \
    R *restrict m = (R *)(intptr_t)tensor->m, *restrict s = (R *)(intptr_t)tensor->s;                                  \
    R *restrict s_max = (R *)(intptr_t)tensor->s_max, *restrict slow = (R *)(intptr_t)tensor->slow;                    \
    const R gain = usual ? 1 : (R)c->gain, l2 = usual ? 0 : (R)c->l2, bound = (R)c->bound;                             \
    const R shrink = (R)c->shrink, mean_gain = (R)c->mean_gain, beta2 = (R)c->beta2, eps = (R)c->eps;                  \
    const R belief_gain = (R)c->belief_gain, step_size = (R)c->step_size, root_scale = (R)c->root_scale;               \
    const R offset = (R)c->offset, alpha = (R)c->alpha;                                                                \
    (void)m, (void)s, (void)s_max, (void)slow, (void)mean_gain, (void)beta2, (void)belief_gain, (void)eps;             \
    (void)step_size, (void)root_scale, (void)offset, (void)bound, (void)alpha;

/* The rule for element i, in three parts. Without coupled decay p takes no part in the gradient: 0 times an infinite one
 * would be nan. */
#define GRADIENT(R)                                                                                                    \
    R p_i = p[i] * shrink;                                                                                             \
    R g_i = g[i] * gain;                                                                                               \
    if (l2 != 0) g_i += l2 * p_i;
#define MOMENTS(R)                                                                                                     \
    R d = g_i - m[i];                                                                                                  \
    R m_i = m[i] + mean_gain * d;                                                                                      \
    R s_i = beta2 * s[i] + belief_gain * (d * d) + eps;
#define CUT(x) x = x > bound ? bound : x, x = x < -bound ? -bound : x; /* nan stays nan */
#define STEP(SQRT) (m_i / (SQRT(s_i) * root_scale + offset))

/* The elements [from, to) of one tensor. */
#define DEFINE_UPDATE(NAME, R, SQRT, amsgrad, lookahead, usual)                                                        \
    CLONES static void NAME(const Tensor *tensor, const Scalars *c, double mean_of_g, double mean_of_steps,            \
                            int64_t from, int64_t to) {                                                                \
        OPERANDS(R, usual)                                                                                             \
        const R g_mean = usual ? 0 : (R)mean_of_g, step_mean = usual ? 0 : (R)mean_of_steps;                           \
        APART                                                                                                          \
        for (int64_t i = from; i < to; i++) {                                                                          \
            GRADIENT(R)                                                                                                \
            g_i -= g_mean;                                                                                             \
            MOMENTS(R)                                                                                                 \
            m[i] = m_i, s[i] = s_i;                                                                                    \
            if (amsgrad) s_i = s_max[i] = MAX_OF(s_max[i], s_i);                                                       \
            R step = STEP(SQRT) - step_mean;                                                                           \
            if (!usual) {                                                                                              \
                CUT(step)                                                                                              \
            }                                                                                                          \
            p_i -= step_size * step;                                                                                   \
            if (lookahead) p_i = slow[i] = slow[i] + alpha * (p_i - slow[i]);                                          \
            p[i] = p_i;                                                                                                \
        }                                                                                                              \
    }

/* The sum of TERM, which sets x, over [from, to); in double, in lanes: it vectorises without reordering. */
#define DEFINE_SUM(NAME, R, SQRT, TERM)                                                                                \
    CLONES static double NAME(const Tensor *tensor, const Scalars *c, int64_t from, int64_t to) {                      \
        OPERANDS(R, 0)                                                                                                 \
        double lanes[16] = {0}, sum = 0;                                                                               \
        int64_t whole = from + (to - from) / 16 * 16;                                                                  \
        for (int64_t begin = from; begin < whole; begin += 16)                                                         \
            for (int64_t i = begin; i < begin + 16; i++) {                                                             \
                GRADIENT(R)                                                                                            \
                TERM(R, SQRT)                                                                                          \
                lanes[i - begin] += x;                                                                                 \
            }                                                                                                          \
        for (int64_t i = whole; i < to; i++) {                                                                         \
            GRADIENT(R)                                                                                                \
            TERM(R, SQRT)                                                                                              \
            sum += x;                                                                                                  \
        }                                                                                                              \
        for (int k = 0; k < 16; k++) sum += lanes[k];                                                                  \
        return sum;                                                                                                    \
    }
#define GRADIENT_TERM(R, SQRT) R x = g_i;
#define STEP_TERM(R, SQRT)                                                                                             \
    MOMENTS(R)                                                                                                         \
    if (s_max) s_i = MAX_OF(s_max[i], s_i);                                                                            \
    R x = STEP(SQRT);                                                                                                  \
    CUT(x)

#define DEFINE_UPDATES(R, SQRT, usual, name)                                                                           \
    DEFINE_UPDATE(name##_##R, R, SQRT, 0, 0, usual)                                                                    \
    DEFINE_UPDATE(name##_amsgrad_##R, R, SQRT, 1, 0, usual)                                                            \
    DEFINE_UPDATE(name##_lookahead_##R, R, SQRT, 0, 1, usual)                                                          \
    DEFINE_UPDATE(name##_amsgrad_lookahead_##R, R, SQRT, 1, 1, usual)
#define DEFINE_TYPE(R, SQRT)                                                                                           \
    DEFINE_UPDATES(R, SQRT, 0, update)                                                                                 \
    DEFINE_UPDATES(R, SQRT, 1, usual)                                                                                  \
    DEFINE_SUM(gradient_sum_##R, R, SQRT, GRADIENT_TERM)                                                               \
    DEFINE_SUM(step_sum_##R, R, SQRT, STEP_TERM)

DEFINE_TYPE(float, sqrtf)
DEFINE_TYPE(double, sqrt)

/* What a step cannot be faster than: reads g, p, m, s and writes p, m, s, with no arithmetic to speak of. */
CLONES static void traffic(const Tensor *tensor, const Scalars *c, double mean_of_g, double mean_of_steps, int64_t from,
                           int64_t to) {
    float *restrict p = (float *)(intptr_t)tensor->p, *restrict m = (float *)(intptr_t)tensor->m;
    float *restrict s = (float *)(intptr_t)tensor->s;
    const float *restrict g = (const float *)(intptr_t)tensor->g;
    (void)c, (void)mean_of_g, (void)mean_of_steps;
    for (int64_t i = from; i < to; i++) {
        float x = g[i];
        p[i] += x, m[i] += x, s[i] += x;
    }
}

typedef void Update(const Tensor *, const Scalars *, double, double, int64_t, int64_t);
typedef double Sum(const Tensor *, const Scalars *, int64_t, int64_t);

/* What there is for a type of arithmetic: updates by the flags AMSGRAD and LOOKAHEAD, of any scalars and of usual ones. */
typedef struct {
    Update *updates[4], *usual[4];
    Sum *gradient_sum, *step_sum;
} Kernel;

#define NAMED(name, R) {name##_##R, name##_amsgrad_##R, name##_lookahead_##R, name##_amsgrad_lookahead_##R}
#define KERNEL(R) {NAMED(update, R), NAMED(usual, R), gradient_sum_##R, step_sum_##R}

enum { FLOAT, DOUBLE, BFLOAT16, FLOAT16, TRAFFIC }; /* types of p and g; narrow ones are stepped as float */
#define MOVES {traffic, traffic, traffic, traffic}
static const Kernel kernels[] = {
    KERNEL(float), KERNEL(double), KERNEL(float), KERNEL(float), {MOVES, MOVES, NULL, NULL}};

enum { NO_SUM, GRADIENT_SUM, STEP_SUM };

/* The elements [from, to) of a tensor whose numbers are in place; only their sum, where one is asked for. */
static double plain(int type, int flags, const Tensor *tensor, const Scalars *c, double g_mean, double step_mean,
                    int64_t from, int64_t to, int sum) {
    const Kernel *kernel = &kernels[type];
    if (sum) return (sum == STEP_SUM ? kernel->step_sum : kernel->gradient_sum)(tensor, c, from, to);
    const int usual = c->gain == 1 && c->l2 == 0 && g_mean == 0 && step_mean == 0 && c->bound == HUGE_VAL;
    (usual ? kernel->usual : kernel->updates)[flags & (AMSGRAD | LOOKAHEAD)](tensor, c, g_mean, step_mean, from, to);
    return 0;
}

#include "codes.h"
#include "tiles.h"

/* The elements [from, to) of a tensor; of one that is centralized the rows that begin there, of tiles the blocks. */
static void run(int type, int flags, const Tensor *tensor, const Scalars *c, int64_t from, int64_t to) {
    double (*const span)(int, int, const Tensor *, const Scalars *, double, double, int64_t, int64_t, int) =
        flags & CODED || type == BFLOAT16 || type == FLOAT16 ? tiled : plain;
    if (!tensor->rows) {
        span(type, flags, tensor, c, 0, 0, from, to, NO_SUM);
        return;
    }
    int64_t length = tensor->elements / tensor->rows;
    for (int64_t row = (from + length - 1) / length; row * length < to; row++) {
        int64_t begin = row * length, end = begin + length;
        int steps = flags & CENTRALIZED_STEPS;
        double sum = span(type, flags, tensor, c, 0, 0, begin, end, steps ? STEP_SUM : GRADIENT_SUM);
        double mean = sum / (double)length;
        span(type, flags, tensor, c, steps ? 0 : mean, steps ? mean : 0, begin, end, NO_SUM);
    }
}

/* Step numbers, float each: those of list i are at the addresses steps[begins[i]] to steps[begins[i + 1] - 1]. Where all
 * of every list are the same, counts one more step each, notes the number of each list, and returns 1; else does nothing
 * and returns 0. */
EXPORT int adabelief_count(const int64_t *steps, const int64_t *begins, int64_t lists, double *numbers) {
    for (int64_t i = 0; i < lists; i++)
        for (int64_t j = begins[i] + 1; j < begins[i + 1]; j++)
            if (*(const float *)(intptr_t)steps[j] != *(const float *)(intptr_t)steps[begins[i]]) return 0;
    for (int64_t i = 0; i < lists; i++) {
        for (int64_t j = begins[i]; j < begins[i + 1]; j++) *(float *)(intptr_t)steps[j] += 1;
        if (begins[i] < begins[i + 1]) numbers[i] = *(const float *)(intptr_t)steps[begins[i]];
    }
    return 1;
}

/* The tensor that holds element `at` of the list: the last one that begins at or before it. */
static int64_t holder(const int64_t *begins, int64_t n, int64_t at) {
    int64_t low = 0, high = n;
    while (high - low > 1) {
        int64_t middle = (low + high) / 2;
        if (begins[middle] <= at)
            low = middle;
        else
            high = middle;
    }
    return low;
}

/* Where the list is cut near element `at`: whole cache lines after the beginning of a tensor, where it is aligned. */
static int64_t cut(const int64_t *begins, int64_t n, int64_t at) {
    if (at >= begins[n]) return begins[n];
    int64_t begin = begins[holder(begins, n, at)];
    return begin + (at - begin) / 64 * 64;
}

#include "threads.h"

typedef struct {
    const Tensor *tensors;
    const int64_t *begins, n;
    const int type, flags;
    const Scalars *c;
} Work;

/* The elements [from, to) of the list. */
static void update(const Work *w, int64_t from, int64_t to) {
    const int64_t *begins = w->begins;
    for (int64_t i = holder(begins, w->n, from); i < w->n && begins[i] < to; i++) {
        int64_t begin = begins[i] > from ? begins[i] : from;
        int64_t end = begins[i + 1] < to ? begins[i + 1] : to;
        if (begin < end) run(w->type, w->flags, &w->tensors[i], w->c, begin - begins[i], end - begins[i]);
    }
}

/* A thread's share, of those that came, which may be fewer than were asked for. */
static void update_share(void *work) {
    const Work *w = work;
    const int64_t share = (w->begins[w->n] + openmp.num_threads() - 1) / openmp.num_threads();
    const int64_t from = cut(w->begins, w->n, share * openmp.thread_num());
    update(w, from, cut(w->begins, w->n, share * (openmp.thread_num() + 1)));
}

/* Updates n tensors of one type, an index into `kernels`. begins[i] counts the elements before tensor i, begins[n] all. The
 * elements of the list as a whole are split evenly between the threads, whatever tensor they are in; a centralized row
 * stays with one, and so does a block. */
EXPORT void adabelief_update(const Tensor *tensors, const int64_t *begins, int64_t n, int type, int flags,
                             const Scalars *c) {
    const int64_t elements = begins[n], least = 16384; /* elements that are worth a thread */
    if (c->skip != 0) return;
    if (c->synchronize == 0) flags &= ~LOOKAHEAD; /* slow weights are not even read in the steps between */
    Work work = {tensors, begins, n, type, flags, c};
    int threads = adabelief_threads();
    if (threads > 1 + elements / least) threads = 1 + (int)(elements / least);
    if (threads > 1)
        update_in_parallel(&work, threads);
    else
        update(&work, 0, elements); /* a region of one thread would put the others to sleep */
}

EXPORT const char *adabelief_instruction_set(void) {
#if CHOOSES
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw"))
        return "AVX-512";
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? "AVX2" : "baseline";
#elif defined(__aarch64__)
    return "NEON";
#else
    return "baseline";
#endif
}
